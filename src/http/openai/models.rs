//! The models that clients may name. There is one behind all names.

use axum::{
    extract::{Path, rejection::PathRejection},
    http::StatusCode,
    response::Response,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::{
    auth::Authorized,
    docs,
    error::{ApiError, ErrorBody},
    respond,
};

/// What Codex draws with.
pub(super) const REAL: &str = "gpt-image-2";

/// What is listed: the real one first, then names that clients look for before they offer pictures.
const LISTED: [&str; 7] = [
    REAL,
    "gpt-image-1.5",
    "gpt-image-1",
    "gpt-image-1-mini",
    "chatgpt-image-latest",
    "dall-e-3",
    "dall-e-2",
];

/// When gpt-image-2 came into Codex, in Unix seconds; clients want some number.
const CREATED: i64 = 1_776_729_600;

/// A name without its provider, which routers put in front.
pub(super) fn plain(model: &str) -> &str {
    model.strip_prefix("openai/").unwrap_or(model)
}

/// Whether pictures are made for this name.
pub(super) fn is_known(model: &str) -> bool {
    ["gpt-image-", "chatgpt-image-", "dall-e-"]
        .iter()
        .any(|family| plain(model).strip_prefix(family).is_some_and(|rest| !rest.is_empty()))
}

/// A model.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct Model {
    #[schema(example = "gpt-image-2")]
    id: String,
    /// Always `model`.
    #[schema(example = "model")]
    object: &'static str,
    /// Unix seconds.
    created: i64,
    owned_by: &'static str,
}

impl Model {
    fn of(id: &str) -> Self {
        let owned_by = "codex-image-service";
        Self { id: id.to_owned(), object: "model", created: CREATED, owned_by }
    }
}

/// The models.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct Models {
    /// Always `list`.
    #[schema(example = "list")]
    object: &'static str,
    data: Vec<Model>,
}

/// List the names of models that may be asked for. All of them are drawn by gpt-image-2.
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "listModels",
    tag = "OpenAI",
    responses(
        (status = 200, description = "The models.", body = Models),
        docs::Caller,
    ),
)]
pub(in crate::http) async fn list(_: Authorized) -> Response {
    let data = LISTED.into_iter().map(Model::of).collect();
    respond::json(StatusCode::OK, &Models { object: "list", data })
}

/// Look a model up by its name.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    operation_id = "retrieveModel",
    tag = "OpenAI",
    params(("id" = String, Path, description = "A model's name.", example = "gpt-image-2")),
    responses(
        (status = 200, description = "The model.", body = Model),
        (status = 404, description = "`model_not_found`.", body = ErrorBody),
        docs::Caller,
    ),
)]
pub(in crate::http) async fn one(
    _: Authorized,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::NoModel)?;
    if !is_known(&id) {
        return Err(ApiError::NoModel);
    }
    Ok(respond::json(StatusCode::OK, &Model::of(&id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_model_is_known_and_others_are_not() {
        assert!(LISTED.into_iter().all(is_known));
        assert!(is_known("openai/gpt-image-2") && is_known("gpt-image-9-flare"));
        for other in ["", "gpt-image-", "gpt-4o", "flux", "openai/", "my-gpt-image-1"] {
            assert!(!is_known(other), "{other}");
        }
    }
}
