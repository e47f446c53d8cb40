//! Who calls: the bearer key, checked before anything of the body is read.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, header, request::Parts},
};

use super::{App, error::ApiError, trace::RequestNotes};
use crate::{api_key, store::api_keys::Caller};

/// Where OpenAI's clients put the key when they speak to Azure.
const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// A caller whose key verified and is enabled.
pub(super) struct Authorized(pub(super) Caller);

impl FromRequestParts<App> for Authorized {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let hash = key_hash(&parts.headers)?;
        let caller = app.store.caller(&hash).await?;
        admit(app, parts.extensions.get::<RequestNotes>(), caller).map(Self)
    }
}

/// The hash of the key that the request carries.
pub(super) fn key_hash(headers: &HeaderMap) -> Result<String, ApiError> {
    let key = if let Some(value) = headers.get(header::AUTHORIZATION) {
        let text = value.to_str().map_err(|_| ApiError::InvalidKey)?.trim();
        let (scheme, key) = text.split_once([' ', '\t']).ok_or(ApiError::MissingKey)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(ApiError::MissingKey);
        }
        key.trim()
    } else {
        let value = headers.get(API_KEY).ok_or(ApiError::MissingKey)?;
        value.to_str().map_err(|_| ApiError::InvalidKey)?.trim()
    };
    if key.is_empty() {
        return Err(ApiError::MissingKey);
    }
    if !api_key::is_well_formed(key) {
        return Err(ApiError::InvalidKey);
    }
    Ok(api_key::hash(key))
}

/// Lets a known caller in, notes it for the log, and that its key was used.
pub(super) fn admit(
    app: &App,
    notes: Option<&RequestNotes>,
    caller: Option<Caller>,
) -> Result<Caller, ApiError> {
    let caller = caller.ok_or(ApiError::InvalidKey)?;
    if let Some(notes) = notes {
        notes.set_key(&caller.handle);
    }
    if !caller.enabled {
        return Err(ApiError::DisabledKey);
    }
    app.key_uses.note(&app.store, &caller.id);
    Ok(caller)
}
