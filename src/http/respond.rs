//! Small parts of answers: JSON, times, paths.

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use jiff::{fmt::temporal::DateTimePrinter, tz::Offset};
use serde::Serialize;

use crate::store;

/// A JSON answer.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    // The values are our own, and all of them can be written.
    bytes(status, serde_json::to_vec(value).unwrap_or_default().into())
}

/// The same, written already.
pub(super) fn bytes(status: StatusCode, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Sets a header whose value is made of our own text.
pub(super) fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// For what is sent bit by bit: else nginx collects it until it has a page.
pub(super) fn unbuffered(headers: &mut HeaderMap) {
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
}

/// Where a job is asked for.
pub(super) fn job_path(id: &str) -> String {
    format!("/v1/images/jobs/{id}")
}

/// ISO 8601 with milliseconds and `+00:00`, the form that the original sends: older Pythons do
/// not read a `Z`.
pub(super) fn time(milliseconds: i64) -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
    jiff::Timestamp::from_millisecond(milliseconds)
        .map(|time| PRINTER.timestamp_with_offset_to_string(&time, Offset::UTC))
        .unwrap_or_default()
}

/// Whole seconds until then, at least 1.
pub(super) fn seconds_until(milliseconds: i64) -> u64 {
    let left = milliseconds.saturating_sub(store::now());
    u64::try_from(left.saturating_add(999) / 1000).unwrap_or(0).max(1)
}
