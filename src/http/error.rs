//! Every error that a caller can meet, and the one mapping from error to answer.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::respond;
use crate::{
    codex::FailureCode, queue::Refused, store::StoreError, store::jobs::Job, store::jobs::JobState,
};

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
    /// Our fault. The text is in the log, under the request's id.
    Internal,
}

/// `x-should-retry`: what OpenAI's clients ask before they repeat a request by themselves.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// The job that an answer is about.
pub(super) const JOB_ID: HeaderName = HeaderName::from_static("x-job-id");

/// Seconds for which OpenAI's clients wait before they repeat a request, at most.
const LONGEST_RETRY: u64 = 60;

/// Seconds after which a refused caller may try again.
const RETRY_SOON: &str = "5";

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        Self::Internal
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
        Ok(FailureCode::QuotaExceeded) => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error"),
        Ok(FailureCode::ModerationBlocked) => (declined, "image_generation_user_error"),
        Ok(FailureCode::ModelRefused) => {
            (declined, if dress == Dress::OpenAi { "image_generation_user_error" } else { SERVER })
        }
        _ => (StatusCode::BAD_GATEWAY, SERVER),
    };
    let message = job.error.clone().unwrap_or_else(|| "Image generation failed".to_owned());
    Answer { status, kind, code, param: None, message }
}

/// Would the same request, sent again, end the same way?
fn is_hopeless(code: &str) -> bool {
    match code.parse() {
        Ok(
            FailureCode::ModerationBlocked
            | FailureCode::ModelRefused
            | FailureCode::LoginExpired
            | FailureCode::NotLoggedIn
            | FailureCode::CodexMissing,
        ) => true,
        Ok(
            FailureCode::QuotaExceeded
            | FailureCode::NoImage
            | FailureCode::DuplicateImage
            | FailureCode::Timeout
            | FailureCode::Interrupted
            | FailureCode::CodexError,
        )
        | Err(_) => false,
    }
}

/// OpenAI's envelope of an error, and what older callers look for.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    /// OpenAI's.
    pub(super) error: ErrorObject,
    /// The message once more: where callers of the Python service look for it.
    detail: String,
    /// The job, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Where the job, which goes on, is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    status_url: Option<String>,
}

/// What went wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ErrorObject {
    message: String,
    /// `invalid_request_error`, `permission_error`, `rate_limit_error`, `image_generation_user_error`
    /// or `server_error`.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    kind: &'static str,
    /// The field that is wrong.
    param: Option<&'static str>,
    #[schema(example = "invalid_value")]
    code: String,
}

/// An error in OpenAI's dress: where its API answers otherwise than the native one.
pub(super) struct OpenAiError(ApiError);

impl From<ApiError> for OpenAiError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        self.0.respond(Dress::OpenAi)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.respond(Dress::Native)
    }
}

impl ApiError {
    /// The body of the answer.
    pub(super) fn envelope(&self, dress: Dress) -> ErrorBody {
        self.envelope_of(self.answer(dress))
    }

    fn envelope_of(&self, answer: Answer) -> ErrorBody {
        let Answer { message, kind, param, code, .. } = answer;
        let job = self.job();
        let goes_on = job.filter(|_| !matches!(self, Self::JobFailed(_)));
        ErrorBody {
            detail: message.clone(),
            id: job.map(str::to_owned),
            status_url: goes_on.map(respond::job_path),
            error: ErrorObject { message, kind, param, code },
        }
    }

    fn respond(&self, dress: Dress) -> Response {
        let answer = self.answer(dress);
        let status = answer.status;
        let mut response = respond::json(status, &self.envelope_of(answer));
        self.add_headers(dress, &mut response);
        response
    }

    fn add_headers(&self, dress: Dress, response: &mut Response<Body>) {
        let headers = response.headers_mut();
        match self {
            Self::MissingKey | Self::InvalidKey => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::QueueFull | Self::Busy | Self::ShuttingDown { job: None } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_SOON));
            }
            Self::QuotaExhausted { retry_at } => add_retry_after(headers, *retry_at),
            Self::ShuttingDown { job: Some(job) } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_SOON));
                add_status(headers, job);
                if dress == Dress::Native {
                    headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
                }
            }
            Self::JobFailed(job) => {
                // Somebody cancelled it on purpose: no client shall pay for it after all.
                let cancelled = job.state == JobState::Cancelled;
                let code = job.error_code.as_deref().unwrap_or_default();
                // OpenAI's clients would only join the job that failed.
                let joins =
                    dress == Dress::OpenAi && !code.parse().is_ok_and(FailureCode::is_unpaid);
                if cancelled || joins || is_hopeless(code) {
                    headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
                }
                if let Some(retry_at) = job.retry_at {
                    add_retry_after(headers, retry_at);
                }
            }
            Self::StillRunning { job } => {
                add_status(headers, job);
                if dress == Dress::Native {
                    // A client that does not say that it repeats would make, and pay, another.
                    headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
                }
            }
            _ => {}
        }
        if let Some(job) = self.job() {
            respond::set(response.headers_mut(), JOB_ID, job);
        }
    }
}

/// Where the job that goes on is asked for.
fn add_status(headers: &mut HeaderMap, job: &str) {
    respond::set(headers, header::LOCATION, &respond::job_path(job));
}

/// When trying again makes sense. Clients that repeat by themselves do so within a minute, whatever
/// a longer `Retry-After` says: a limit of that length is not worth their while.
fn add_retry_after(headers: &mut HeaderMap, retry_at: i64) {
    let seconds = respond::seconds_until(retry_at);
    headers.insert(header::RETRY_AFTER, seconds.into());
    if seconds > LONGEST_RETRY {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
}
