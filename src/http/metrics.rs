//! `/metrics` in Prometheus' form, when the setting is on: for loopback, or with a key.

use axum::{
    Extension, Router,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{App, auth, docs, error::ApiError, server::Peer};
use crate::telemetry::Metrics;

/// `/metrics`; the router knows it only when the setting is on.
pub(super) fn router() -> Router<App> {
    Router::new().route("/metrics", get(metrics))
}

/// Counts and times in Prometheus' form; only with `METRICS=on`.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    tag = "Service",
    security((), ("key" = [])),
    responses(
        (status = 200, description = "From loopback without a key.", body = String, content_type = "application/openmetrics-text"),
        docs::Caller,
    ),
)]
pub(super) async fn metrics(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    // Behind a proxy every caller comes from loopback, and usually brings one of these headers.
    let forwarded = ["x-forwarded-for", "forwarded", "x-real-ip", "via"]
        .iter()
        .any(|name| headers.contains_key(*name));
    if !peer.is_local() || forwarded {
        let hash = auth::key_hash(&headers)?;
        auth::admit(&app, None, app.store.caller(&hash).await?)?;
    }
    let (queued, running) = app.store.queue_depth().await?;
    app.metrics.set_queue(queued.unsigned_abs(), running.unsigned_abs());
    let text = app.metrics.encode();
    let kind = HeaderValue::from_static(Metrics::CONTENT_TYPE);
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
