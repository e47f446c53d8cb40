//! OpenAI's Images API: another dress for the same jobs. Whatever an OpenAI client sends is
//! understood, what Codex has no parameter for travels as words or is named as ignored, and
//! answers say what is true of the picture.

mod answer;
mod events;
mod fields;
pub(super) mod images;
mod json;
pub(super) mod models;
mod multipart;
mod stream;

use axum::{
    Router,
    routing::{get, post},
};

use super::App;

pub(super) use answer::StreamEvent;

/// The routes below `/v1`, and again without it for clients whose base URL lacks it.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/images/generations", post(images::generations))
        .route("/images/edits", post(images::edits))
        .route("/images/variations", post(images::variations))
        .route("/models", get(models::list))
        .route("/models/{id}", get(models::one))
}
