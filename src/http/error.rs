//! Every error that a caller can meet, and the one mapping from error to answer.

mod response;

use axum::http::StatusCode;

pub(super) use self::response::{ErrorBody, JOB_ID, OpenAiError};
use crate::{codex::FailureCode, queue::Refused, store::StoreError, store::jobs::Job};

/// What went wrong with a request.
#[derive(Debug)]
pub enum ApiError {
    /// No `Authorization: Bearer …`, or nothing behind it.
    MissingKey,
    /// A key that nobody has.
    InvalidKey,
    /// A key that its operator disabled.
    DisabledKey,
    /// No such route.
    NoRoute,
    /// A route of OpenAI's that Codex cannot serve.
    NoVariations,
    /// No such model.
    NoModel,
    /// No such job, or another caller's.
    NoJob,
    /// No such file, or an expired one.
    NoFile,
    /// The route is there, the method is not.
    MethodNotAllowed,
    /// The declared or actual length of the body is over the limit.
    BodyTooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The body stopped coming.
    BodyTimeout,
    /// The body broke off.
    BodyBroken,
    /// Not JSON, or text that no JSON may hold.
    Malformed(String),
    /// Not a form.
    BadForm(String),
    /// A field whose value can't be accepted on any route (NUL, lone surrogates).
    BadText(&'static str),
    /// A text that is no UTF-8.
    NotUtf8(&'static str),
    /// A reference picture that is none.
    BadReference {
        /// The field.
        param: &'static str,
        /// The same with what tells it from its neighbours.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An idempotency key that is empty, too long or no ASCII text.
    BadIdempotencyKey,
    /// An idempotency key that was sent with another request.
    IdempotencyMismatch,
    /// A field out of its bounds.
    Invalid {
        /// The field.
        param: &'static str,
        /// What is allowed.
        message: String,
    },
    /// As many jobs as the setting allows are queued.
    QueueFull,
    /// Every login's quota is used up, for longer than the caller would wait.
    QuotaExhausted {
        /// When the first starts anew, in milliseconds.
        retry_at: i64,
    },
    /// Every login is left alone by hand, for longer than the caller would wait.
    LoginsRest {
        /// When the first is back, in milliseconds, if that is known.
        retry_at: Option<i64>,
    },
    /// Too many uploads at once.
    Busy,
    /// The process is stopping; the job, if there is one, goes on later.
    ShuttingDown {
        /// The job that was accepted.
        job: Option<String>,
    },
    /// The job failed.
    JobFailed(Box<Job>),
    /// The caller's patience ended before the job did.
    StillRunning {
        /// The job, which goes on.
        job: String,
    },
    /// The job is final and can't be cancelled.
    AlreadyFinal {
        /// The job.
        job: String,
        /// Its state.
        state: &'static str,
    },
    /// Nothing more fits on the service's disk.
    StorageFull,
    /// Our fault. The text is in the log, under the request's id.
    Internal,
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        if error.is_full() { Self::StorageFull } else { Self::Internal }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::QueueFull => Self::QueueFull,
            Refused::ShuttingDown => Self::ShuttingDown { job: None },
            Refused::KeyGone => Self::InvalidKey,
            Refused::Mismatch => Self::IdempotencyMismatch,
            Refused::Store(error) => error.into(),
        }
    }
}

/// In which API's manner an error is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dress {
    /// The native routes.
    Native,
    /// OpenAI's.
    OpenAi,
}

/// Status, OpenAI's `type`, `code` and `param`, and the message.
struct Answer {
    status: StatusCode,
    kind: &'static str,
    code: String,
    param: Option<&'static str>,
    message: String,
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

impl ApiError {
    #[allow(clippy::too_many_lines, reason = "one mapping, to be read from top to bottom")]
    fn answer(&self, dress: Dress) -> Answer {
        let answer = |status, kind, code: &str, message: &str| Answer {
            status,
            kind,
            code: code.to_owned(),
            param: None,
            message: message.to_owned(),
        };
        match self {
            // The texts of 401, 403 and the job's 404 are the original's.
            Self::MissingKey => answer(
                StatusCode::UNAUTHORIZED,
                INVALID,
                "missing_api_key",
                "Missing bearer API key",
            ),
            Self::InvalidKey => {
                answer(StatusCode::UNAUTHORIZED, INVALID, "invalid_api_key", "Invalid API key")
            }
            Self::DisabledKey => answer(
                StatusCode::FORBIDDEN,
                "permission_error",
                "api_key_disabled",
                "API key is disabled",
            ),
            Self::NoRoute => answer(StatusCode::NOT_FOUND, INVALID, "not_found", "Not Found"),
            Self::NoVariations => answer(
                StatusCode::NOT_FOUND,
                INVALID,
                "not_supported",
                "Variations are not supported; send the image to /v1/images/edits with a prompt \
                 such as \"make a variation of this image\".",
            ),
            Self::NoModel => Answer {
                param: Some("model"),
                ..answer(
                    StatusCode::NOT_FOUND,
                    INVALID,
                    "model_not_found",
                    "There is no such model; GET /v1/models lists them.",
                )
            },
            // Another caller's job is not even known to be there.
            Self::NoJob => answer(StatusCode::NOT_FOUND, INVALID, "job_not_found", "Job not found"),
            Self::NoFile => answer(
                StatusCode::NOT_FOUND,
                INVALID,
                "file_not_found",
                "File not found or expired",
            ),
            Self::MethodNotAllowed => answer(
                StatusCode::METHOD_NOT_ALLOWED,
                INVALID,
                "method_not_allowed",
                "Method Not Allowed",
            ),
            Self::BodyTooLarge { limit } => answer(
                StatusCode::PAYLOAD_TOO_LARGE,
                INVALID,
                "request_too_large",
                &format!("The request body is larger than the {limit} bytes that are allowed."),
            ),
            Self::BodyTimeout => answer(
                StatusCode::REQUEST_TIMEOUT,
                INVALID,
                "request_timeout",
                "The request body stopped coming.",
            ),
            Self::BodyBroken => answer(
                StatusCode::BAD_REQUEST,
                INVALID,
                "request_incomplete",
                "The request body broke off.",
            ),
            Self::Malformed(what) => answer(
                StatusCode::BAD_REQUEST,
                INVALID,
                "invalid_json",
                &format!("The request body is not valid JSON: {what}."),
            ),
            Self::BadForm(what) => answer(
                StatusCode::BAD_REQUEST,
                INVALID,
                "invalid_form",
                &format!("The request body is not a valid multipart form: {what}."),
            ),
            Self::BadText(param) => Answer {
                param: Some(param),
                ..answer(
                    StatusCode::BAD_REQUEST,
                    INVALID,
                    "invalid_value",
                    &format!("'{param}' must not contain NUL characters."),
                )
            },
            Self::NotUtf8(param) => Answer {
                param: Some(param),
                ..answer(
                    StatusCode::BAD_REQUEST,
                    INVALID,
                    "invalid_value",
                    &format!("'{param}' is not UTF-8 text."),
                )
            },
            Self::BadReference { param, place, reason } => Answer {
                param: Some(param),
                ..answer(
                    StatusCode::BAD_REQUEST,
                    INVALID,
                    "invalid_image",
                    &format!("{place}: {reason}"),
                )
            },
            Self::BadIdempotencyKey => answer(
                StatusCode::BAD_REQUEST,
                INVALID,
                "invalid_idempotency_key",
                "The header Idempotency-Key must have 1 to 255 printable ASCII characters.",
            ),
            Self::IdempotencyMismatch => answer(
                StatusCode::UNPROCESSABLE_ENTITY,
                INVALID,
                "idempotency_mismatch",
                "This Idempotency-Key was sent with another request within the last 24 hours; take \
                 a new key for a new request.",
            ),
            Self::Invalid { param, message } => {
                let status = match dress {
                    // What the original's callers know for a field out of bounds.
                    Dress::Native => StatusCode::UNPROCESSABLE_ENTITY,
                    Dress::OpenAi => StatusCode::BAD_REQUEST,
                };
                Answer { param: Some(param), ..answer(status, INVALID, "invalid_value", message) }
            }
            Self::QueueFull => answer(
                StatusCode::SERVICE_UNAVAILABLE,
                SERVER,
                "queue_full",
                "Image generation queue is full",
            ),
            Self::QuotaExhausted { .. } => answer(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_error",
                "quota_exceeded",
                "The ChatGPT plan's usage limit is reached.",
            ),
            Self::LoginsRest { .. } => answer(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_error",
                "logins_rest",
                "The service's owner lets every ChatGPT login rest.",
            ),
            Self::Busy => answer(
                StatusCode::SERVICE_UNAVAILABLE,
                SERVER,
                "too_many_uploads",
                "Too many uploads at once",
            ),
            Self::ShuttingDown { job: None } => answer(
                StatusCode::SERVICE_UNAVAILABLE,
                SERVER,
                "shutting_down",
                "The service is shutting down",
            ),
            Self::ShuttingDown { job: Some(_) } => answer(
                StatusCode::SERVICE_UNAVAILABLE,
                SERVER,
                "shutting_down",
                "The service is shutting down; the job is kept and goes on when it is back",
            ),
            Self::JobFailed(job) => failed(job, dress),
            Self::StillRunning { .. } => answer(
                StatusCode::GATEWAY_TIMEOUT,
                SERVER,
                "still_running",
                "Image generation is still running or waiting in queue",
            ),
            Self::AlreadyFinal { state, .. } => answer(
                StatusCode::CONFLICT,
                INVALID,
                "job_is_final",
                &format!("The job is {state} and can't be cancelled."),
            ),
            Self::StorageFull => answer(
                StatusCode::SERVICE_UNAVAILABLE,
                SERVER,
                "storage_full",
                "The service's disk is full; its owner has to make room",
            ),
            Self::Internal => answer(
                StatusCode::INTERNAL_SERVER_ERROR,
                SERVER,
                "internal_error",
                "Something went wrong on this server; its log has the details under X-Request-Id.",
            ),
        }
    }

    /// The sentence for whoever asked.
    pub(super) fn message(&self) -> String {
        self.answer(Dress::Native).message
    }

    /// The status for whoever asked.
    pub(super) fn status(&self) -> StatusCode {
        self.answer(Dress::Native).status
    }

    fn job(&self) -> Option<&str> {
        match self {
            Self::ShuttingDown { job } => job.as_deref(),
            Self::JobFailed(job) => Some(&job.id),
            Self::StillRunning { job } | Self::AlreadyFinal { job, .. } => Some(job),
            _ => None,
        }
    }
}

/// 502 for what Codex did, 429 when it is only a matter of time.
fn failed(job: &Job, dress: Dress) -> Answer {
    let code = job.error_code.clone().unwrap_or_else(|| "codex_error".to_owned());
    let declined = match dress {
        Dress::Native => StatusCode::BAD_GATEWAY,
        // OpenAI's own clients repeat a 5xx by themselves.
        Dress::OpenAi => StatusCode::BAD_REQUEST,
    };
    let (status, kind) = match code.parse() {
        Ok(FailureCode::QuotaExceeded | FailureCode::LoginsRest) => {
            (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error")
        }
        Ok(FailureCode::ModerationBlocked) => (declined, "image_generation_user_error"),
        Ok(FailureCode::ModelRefused) => {
            (declined, if dress == Dress::OpenAi { "image_generation_user_error" } else { SERVER })
        }
        _ => (StatusCode::BAD_GATEWAY, SERVER),
    };
    let message = job.error.clone().unwrap_or_else(|| "Image generation failed".to_owned());
    Answer { status, kind, code, param: None, message }
}
