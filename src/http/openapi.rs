//! The API's description, made of what the handlers say of themselves: `/openapi.json`, and the
//! `openapi` command. It is made when somebody asks, and nothing of it is kept in memory.

use axum::{Router, body::Bytes, http::StatusCode, response::Response, routing::get};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::{
    App, docs, error::ErrorBody, events, generated, health, jobs, metrics, openai, respond, usage,
};

/// What the document says beside its routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "codex-image-service",
        description = "One ChatGPT subscription's image generation over HTTP. The routes of OpenAI's \
            Images API answer below `/v1` and without it.\n\nEvery answer carries `X-Request-Id`, \
            and `X-Job-Id` where there is a job. Errors have OpenAI's envelope.",
        license(name = "MIT", identifier = "MIT"),
    ),
    tags(
        (name = "OpenAI", description = "OpenAI's Images API."),
        (name = "Native", description = "Jobs: submit, poll, follow, list, cancel."),
        (name = "Service", description = "Is it alive, is it ready, what does it do."),
    ),
    paths(
        openai::images::generations,
        openai::images::edits,
        openai::images::variations,
        openai::models::list,
        openai::models::one,
        jobs::generate,
        jobs::submit,
        jobs::list,
        jobs::poll,
        jobs::cancel,
        events::events,
        generated::serve,
        usage::usage,
        health::health,
        health::ready,
        health::to_the_pages,
        metrics::metrics,
        openapi_json,
    ),
    components(schemas(ErrorBody, openai::StreamEvent), responses(docs::Mismatch)),
    modifiers(&Key),
    security(("key" = [])),
)]
struct Document;

/// The bearer key.
struct Key;

impl Modify for Key {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("cimg_…")
            .description(Some("A key made by `codex-image-service keys create NAME`."))
            .build();
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("key", SecurityScheme::Http(scheme));
    }
}

/// The document, in JSON.
#[must_use]
pub fn document() -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(&Document::openapi()).unwrap_or_default();
    json.push(b'\n');
    json
}

/// `/openapi.json`.
pub(super) fn router() -> Router<App> {
    Router::new().route("/openapi.json", get(openapi_json))
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    tag = "Service",
    security(()),
    responses((status = 200, description = "OpenAPI 3.1.", body = Object)),
)]
async fn openapi_json() -> Response {
    respond::bytes(StatusCode::OK, Bytes::from(document()))
}
