//! The API's description, made from the very routes that are served: `/openapi.json`, and the
//! `openapi` command. Nothing of it is kept in memory; it is made when somebody asks.

use axum::{body::Bytes, http::StatusCode, response::Response};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, error::ErrorBody, openai, respond};

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
    components(schemas(ErrorBody, openai::StreamEvent)),
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

/// A router that collects what its routes say of themselves.
pub(super) fn documented() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
}

/// The document, in JSON.
#[must_use]
pub fn document() -> Vec<u8> {
    let (_, document) = super::routes(true).split_for_parts();
    let mut json = serde_json::to_vec_pretty(&document).unwrap_or_default();
    json.push(b'\n');
    json
}

/// `/openapi.json`.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(openapi_json))
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "Service",
    security(()),
    responses((status = 200, description = "OpenAPI 3.1.", body = Object)),
)]
async fn openapi_json() -> Response {
    respond::bytes(StatusCode::OK, Bytes::from(document()))
}
