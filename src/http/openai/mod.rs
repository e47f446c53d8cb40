//! OpenAI's Images API: another dress for the same jobs. Whatever an OpenAI client sends is
//! understood, what Codex has no parameter for travels as words or is named as ignored, and
//! answers say what is true of the picture.

mod answer;
mod events;
mod fields;
mod images;
mod json;
mod models;
mod multipart;
mod stream;

use utoipa_axum::{router::OpenApiRouter, routes};

use super::App;

pub(super) use answer::StreamEvent;

/// The routes below `/v1`, and again without it for clients whose base URL lacks it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(images::generations))
        .routes(routes!(images::edits))
        .routes(routes!(images::variations))
        .routes(routes!(models::list))
        .routes(routes!(models::one))
}
