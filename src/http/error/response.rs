//! From an error's answer to the response: the body, and what the headers tell of trying again.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{super::respond, Answer, ApiError, Dress};
use crate::{codex::FailureCode, store::jobs::JobState};

/// The job that an answer is about.
pub(in crate::http) const JOB_ID: HeaderName = HeaderName::from_static("x-job-id");
/// Seconds after which a refused caller may try again.
const RETRY_SOON: &str = "5";
/// The same where somebody has to do something first.
const RETRY_LATER: &str = "60";
/// The same at the end of a process: the next one starts in that moment, or waits in the socket.
const RETRY_AT_ONCE: &str = "1";
/// Seconds for which OpenAI's clients wait before they repeat a request, at most.
const LONGEST_RETRY: u64 = 60;
/// `x-should-retry`: what OpenAI's clients ask before they repeat a request by themselves.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// OpenAI's envelope of an error, and what older callers look for.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(in crate::http) struct ErrorBody {
    /// OpenAI's.
    pub(in crate::http) error: ErrorObject,
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
pub(in crate::http) struct ErrorObject {
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
pub(in crate::http) struct OpenAiError(ApiError);

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
    pub(in crate::http) fn envelope(&self, dress: Dress) -> ErrorBody {
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
            Self::QueueFull | Self::Busy => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_SOON));
            }
            Self::StorageFull => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_LATER));
            }
            Self::ShuttingDown { job: None } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AT_ONCE));
            }
            Self::QuotaExhausted { retry_at } => add_retry_after(dress, headers, Some(*retry_at)),
            Self::LoginsRest { retry_at } => add_retry_after(dress, headers, *retry_at),
            Self::ShuttingDown { job: Some(job) } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AT_ONCE));
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
                let rests = code == FailureCode::LoginsRest.as_str();
                if job.retry_at.is_some() || rests {
                    add_retry_after(dress, headers, job.retry_at);
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

/// When trying again makes sense; None: nobody knows, not soon. OpenAI's clients repeat by
/// themselves within a minute, whatever a longer `Retry-After` says: a limit of that length is not
/// worth their while.
fn add_retry_after(dress: Dress, headers: &mut HeaderMap, retry_at: Option<i64>) {
    let seconds = retry_at.map(respond::seconds_until);
    if let Some(seconds) = seconds {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if dress == Dress::OpenAi && seconds.is_none_or(|seconds| seconds > LONGEST_RETRY) {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
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
            | FailureCode::LoginsRest
            | FailureCode::NoImage
            | FailureCode::DuplicateImage
            | FailureCode::Timeout
            | FailureCode::Interrupted
            | FailureCode::CodexError,
        )
        | Err(_) => false,
    }
}
