//! The pictures: by row, never by joining input to a path. Conditional requests and one range.

use std::{
    ops::Bound,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use axum_extra::headers::{
    ETag, HeaderMapExt, IfModifiedSince, IfNoneMatch, IfRange, LastModified, Range,
};

use super::{
    App, docs,
    error::{ApiError, ErrorBody},
    respond,
};
use crate::images::{self, FileBody};

/// `/generated/{file}`, for GET and HEAD.
pub(super) fn router() -> Router<App> {
    Router::new().route("/generated/{file}", get(serve))
}

/// A picture. No key: the name is unguessable.
#[utoipa::path(
    get,
    operation_id = "getPicture",
    path = "/generated/{file}",
    tag = "Native",
    security(()),
    params(("file" = String, Path, description = "As in an answer's `url`.")),
    responses(
        (status = 200, description = "The picture.", content(
            (docs::Binary = "image/png"), (docs::Binary = "image/jpeg"), (docs::Binary = "image/webp"),
        )),
        (status = 206, description = "The range of it that was asked for.", content(
            (docs::Binary = "image/png"), (docs::Binary = "image/jpeg"), (docs::Binary = "image/webp"),
        )),
        (status = 304, description = "It is as it was."),
        (status = 404, description = "`file_not_found`, also when it expired.", body = ErrorBody),
        (status = 416, description = "Not a range of it."),
        (status = 500, description = "`internal_error`.", body = ErrorBody),
    ),
)]
pub(super) async fn serve(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Path(name) = name.map_err(|_| ApiError::NoFile)?;
    let image = app.store.served_image(&name).await?.ok_or(ApiError::NoFile)?;
    let tag = format!("\"{}\"", image.sha256);
    let etag: ETag = tag.parse().map_err(|_| ApiError::Internal)?;
    // HTTP dates have whole seconds: a fraction would make every copy look old.
    let seconds = u64::try_from(image.created_at / 1000).unwrap_or(0);
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);

    if is_unchanged(&headers, &etag, modified) {
        return Ok(with_validators(StatusCode::NOT_MODIFIED.into_response(), etag, modified));
    }
    let folder = app.generated_dir.clone();
    let opened = tokio::task::spawn_blocking(move || images::open(&folder, &image.file)).await;
    let stored = match opened {
        Ok(Ok(stored)) => stored,
        Ok(Err(error)) => {
            tracing::error!(%error, "a picture that has a row could not be opened");
            return Err(ApiError::NoFile);
        }
        Err(_) => {
            tracing::error!("opening a picture panicked");
            return Err(ApiError::Internal);
        }
    };

    let whole = stored.bytes;
    let (status, start, length) = match wanted_range(&method, &headers, &etag, modified, whole) {
        Wanted::Whole => (StatusCode::OK, 0, whole),
        Wanted::Part(start, end) => (StatusCode::PARTIAL_CONTENT, start, end - start + 1),
        Wanted::Nothing => {
            let mut response = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
            respond::set(
                response.headers_mut(),
                header::CONTENT_RANGE,
                &format!("bytes */{whole}"),
            );
            return Ok(response);
        }
    };
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        Body::new(FileBody::new(stored.file, start, length))
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_LENGTH, length.into());
    answer.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    answer.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Whatever a picture may hold, a browser runs nothing of it.
    answer.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; sandbox"),
    );
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(stored.format.media_type()));
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {start}-{}/{whole}", start + length - 1);
        respond::set(answer, header::CONTENT_RANGE, &range);
    }
    Ok(with_validators(response, etag, modified))
}

/// What a cache keeps beside the picture, and is told again by a 304 (RFC 9110, 15.4.5).
fn with_validators(mut response: Response, etag: ETag, modified: SystemTime) -> Response {
    let kept = HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(header::CACHE_CONTROL, kept);
    response.headers_mut().typed_insert(etag);
    response.headers_mut().typed_insert(LastModified::from(modified));
    response
}

/// RFC 9110, 13.2.2: the tag decides when there is one, else the date.
fn is_unchanged(headers: &HeaderMap, etag: &ETag, modified: SystemTime) -> bool {
    if let Some(tags) = headers.typed_get::<IfNoneMatch>() {
        return !tags.precondition_passes(etag);
    }
    headers.typed_get::<IfModifiedSince>().is_some_and(|since| !since.is_modified(modified))
}

/// What of the file is asked for.
enum Wanted {
    Whole,
    /// First and last byte.
    Part(u64, u64),
    Nothing,
}

/// One range is honoured. Several at once get the whole file, as RFC 9110, 14.2 allows: no
/// picture viewer asks for that, and attackers like to.
fn wanted_range(
    method: &Method,
    headers: &HeaderMap,
    etag: &ETag,
    modified: SystemTime,
    whole: u64,
) -> Wanted {
    let Some(range) = headers.typed_get::<Range>() else { return Wanted::Whole };
    let stale = headers.typed_get::<IfRange>().is_some_and(|condition| {
        condition.is_modified(Some(etag), Some(&LastModified::from(modified)))
    });
    let several = headers.get(header::RANGE).is_some_and(|value| value.as_bytes().contains(&b','));
    if method != Method::GET || stale || several {
        return Wanted::Whole;
    }
    let last = whole.saturating_sub(1);
    // None: no range that can be understood, or a suffix longer than the file; both get all.
    match range.satisfiable_ranges(whole).next() {
        Some((Bound::Included(start), _)) if start > last => Wanted::Nothing,
        Some((Bound::Included(start), Bound::Included(end))) if start <= end => {
            Wanted::Part(start, end.min(last))
        }
        Some((Bound::Included(start), Bound::Unbounded)) => Wanted::Part(start, last),
        _ => Wanted::Whole,
    }
}
