//! What goes wrong on a page. It travels as an extension of an empty answer: only the layer around
//! the pages knows where they lie, and makes a page of it.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::texts::Texts;
use crate::{http::error::ApiError, queue::Refused, store::StoreError};

/// Why there is no page, or nothing was done.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    NotFound,
    /// Style or script of another version.
    NoAsset,
    /// With this status, before anything was looked at.
    Refused(StatusCode),
    NoJob,
    NoKey,
    NoLogin,
    NoPicture,
    /// The form or the address makes no sense; in words for the operator.
    Bad(String),
    /// The same with another status.
    Told(StatusCode, String),
    /// Another site sent it.
    CrossSite,
    /// Not now: in words, and in how many seconds.
    Later(String, u64),
    Broken,
}

impl Trouble {
    /// Status, title and sentence.
    pub(super) fn words(&self, t: &Texts) -> (StatusCode, &'static str, String) {
        let missing = |words: &str| (StatusCode::NOT_FOUND, t.not_found, words.to_owned());
        match self {
            Self::NotFound | Self::NoAsset => missing(t.not_found_words),
            Self::Refused(status) => (*status, t.bad_request, t.bad_request_words.to_owned()),
            Self::NoJob => missing(t.no_such_job),
            Self::NoKey => missing(t.no_such_key),
            Self::NoLogin => missing(t.no_such_login),
            Self::NoPicture => missing(t.no_such_picture),
            Self::Bad(words) => (StatusCode::BAD_REQUEST, t.bad_request, words.clone()),
            Self::Told(status, words) => (*status, t.refused, words.clone()),
            Self::CrossSite => (StatusCode::FORBIDDEN, t.refused, t.cross_site.to_owned()),
            Self::Later(words, _) => (StatusCode::SERVICE_UNAVAILABLE, t.refused, words.clone()),
            Self::Broken => {
                (StatusCode::INTERNAL_SERVER_ERROR, t.broken, t.broken_words.to_owned())
            }
        }
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        if let Self::Later(_, seconds) = &self {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed under an admin page");
        if error.is_full() { ApiError::StorageFull.into() } else { Self::Broken }
    }
}

impl From<askama::Error> for Trouble {
    fn from(error: askama::Error) -> Self {
        tracing::error!(%error, "a page could not be written");
        Self::Broken
    }
}

impl From<ApiError> for Trouble {
    fn from(error: ApiError) -> Self {
        let status = error.status();
        let words = error.message();
        match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Self::Later(words, 5)
            }
            status if status.is_server_error() => Self::Broken,
            StatusCode::BAD_REQUEST => Self::Bad(words),
            status => Self::Told(status, words),
        }
    }
}

impl From<Refused> for Trouble {
    fn from(refused: Refused) -> Self {
        ApiError::from(refused).into()
    }
}
