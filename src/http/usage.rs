//! What a caller's own key has had. Never the quota of a login, which is the operator's matter.

use axum::{Router, extract::State, http::StatusCode, response::Response, routing::get};
use serde::Serialize;
use utoipa::ToSchema;

use super::{App, auth::Authorized, docs, error::ApiError, respond};
use crate::store;

/// `/v1/usage`.
pub(super) fn router() -> Router<App> {
    Router::new().route("/v1/usage", get(usage))
}

/// The use of one key.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyUsage {
    /// The key, as the operator sees it.
    #[schema(example = "cimg_x7Qp…")]
    key: String,
    /// Pictures made since midnight, UTC.
    images_today: i64,
    /// Pictures made in the last 30 days.
    images_30_days: i64,
    /// Jobs that wait.
    jobs_queued: i64,
    /// Jobs that are being drawn.
    jobs_running: i64,
    /// Null: no key has limits yet.
    #[schema(value_type = Option<Object>)]
    limits: Option<()>,
}

/// What this key has had.
#[utoipa::path(
    get,
    path = "/v1/usage",
    operation_id = "getUsage",
    tag = "Native",
    responses((status = 200, description = "Its use.", body = KeyUsage), docs::Caller),
)]
pub(super) async fn usage(
    State(app): State<App>,
    Authorized(caller): Authorized,
) -> Result<Response, ApiError> {
    const DAY: i64 = 24 * 60 * 60 * 1000;
    let now = store::now();
    let used = app.store.key_use(&caller.id, now - now.rem_euclid(DAY), now - 30 * DAY).await?;
    let usage = KeyUsage {
        key: caller.handle,
        images_today: used.recent_images,
        images_30_days: used.images,
        jobs_queued: used.queued,
        jobs_running: used.running,
        limits: None,
    };
    Ok(respond::json(StatusCode::OK, &usage))
}
