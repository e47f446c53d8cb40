//! Keys: made and shown once, disabled, renamed, deleted.

use askama::Template;
use axum::{
    Form, Router,
    extract::{Path, Query, State},
    http::{Method, StatusCode},
    response::Response,
    routing::{get, post},
};
use serde::Deserialize;

use super::{
    App,
    page::{Done, Page, Place, html, see_other},
    session::Operator,
    show::When,
    trouble::Trouble,
};
use crate::{api_key, store::api_keys::ApiKey};

/// `/admin/keys` and what it leads to.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/admin/keys", get(list))
        .route("/admin/api-keys", post(create))
        .route("/admin/api-keys/{id}/disable", post(disable))
        .route("/admin/api-keys/{id}/enable", post(enable))
        .route("/admin/api-keys/{id}/rename", post(rename))
        .route("/admin/api-keys/{id}/delete", get(ask).post(delete))
}

#[derive(Template)]
#[template(path = "keys.html")]
struct KeysPage {
    page: Page,
    /// Shown this once.
    fresh: Vec<String>,
    keys: Vec<ApiKey>,
    /// The name that was refused.
    refused: Option<RefusedName>,
}

impl KeysPage {
    /// The name that was refused for this key.
    fn refused_for(&self, id: &str) -> Option<&str> {
        let refused = self.refused.as_ref().filter(|refused| refused.id == id)?;
        Some(&refused.name)
    }
}

/// A name that is none.
struct RefusedName {
    /// Of the key that was to be called so; empty for a new one.
    id: String,
    name: String,
}

#[derive(Template)]
#[template(path = "confirm.html")]
pub(super) struct Confirm {
    pub(super) page: Page,
    pub(super) words: &'static str,
    /// What it is about; hostile.
    pub(super) subject: String,
    /// Of a key.
    pub(super) handle: Option<String>,
    pub(super) action: String,
    pub(super) deed: &'static str,
    pub(super) back: String,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

async fn list(
    State(app): State<App>,
    operator: Operator,
    Query(done): Query<Done>,
    method: Method,
) -> Result<Response, Trouble> {
    let page = Page::new(&app, Place::Keys).after(&done);
    let keys = app.store.list_keys().await?;
    // Last, and not for a HEAD: what was handed out is seen.
    let fresh = match method {
        Method::GET => app.admin.fresh_keys.take(&operator.session),
        _ => Vec::new(),
    };
    html(StatusCode::OK, &KeysPage { page, fresh, keys, refused: None })
}

async fn create(
    State(app): State<App>,
    operator: Operator,
    Form(form): Form<Name>,
) -> Result<Response, Trouble> {
    let Some(name) = api_key::checked_name(&form.name) else {
        return refuse(&app, String::new(), form.name).await;
    };
    let key = api_key::generate().map_err(|error| {
        tracing::error!(%error, "no key could be made");
        Trouble::Broken
    })?;
    let (handle, hash) = (api_key::handle(&key.text), api_key::hash(&key.text));
    app.store.insert_key(&key.id, name, &handle, &hash).await?;
    tracing::info!(key_handle = handle, id = key.id, "a key was made on the admin pages");
    app.admin.fresh_keys.put(operator.session, key.text);
    Ok(see_other(&app, "/keys?done=created"))
}

/// The page again, with the name that won't do and why.
async fn refuse(app: &App, id: String, name: String) -> Result<Response, Trouble> {
    let page = Page::new(app, Place::Keys);
    let refused = Some(RefusedName { id, name });
    let keys = app.store.list_keys().await?;
    html(StatusCode::UNPROCESSABLE_ENTITY, &KeysPage { page, fresh: Vec::new(), keys, refused })
}

async fn disable(
    State(app): State<App>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<Response, Trouble> {
    told(&app, app.store.enable_key(&id, false).await?, &id, "disabled")
}

async fn enable(
    State(app): State<App>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<Response, Trouble> {
    told(&app, app.store.enable_key(&id, true).await?, &id, "enabled")
}

async fn rename(
    State(app): State<App>,
    _: Operator,
    Path(id): Path<String>,
    Form(form): Form<Name>,
) -> Result<Response, Trouble> {
    let Some(name) = api_key::checked_name(&form.name) else {
        return refuse(&app, id, form.name).await;
    };
    told(&app, app.store.rename_key(&id, name).await?, &id, "renamed")
}

async fn ask(
    State(app): State<App>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<Response, Trouble> {
    let keys = app.store.list_keys().await?;
    let key = keys.into_iter().find(|key| key.id == id).ok_or(Trouble::NoKey)?;
    let page = Page::new(&app, Place::Keys);
    let t = page.t;
    let page = page.titled(t.delete_key_title);
    let confirm = Confirm {
        words: t.delete_key_words,
        subject: key.name,
        handle: Some(key.handle),
        action: format!("{}/api-keys/{}/delete", page.base, key.id),
        deed: t.delete_key,
        back: format!("{}/keys", page.base),
        page,
    };
    html(StatusCode::OK, &confirm)
}

async fn delete(
    State(app): State<App>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<Response, Trouble> {
    told(&app, app.store.delete_key(&id).await?, &id, "deleted-key")
}

fn told(app: &App, done: bool, id: &str, what: &str) -> Result<Response, Trouble> {
    if !done {
        return Err(Trouble::NoKey);
    }
    tracing::info!(id, what, "a key was changed on the admin pages");
    Ok(see_other(app, &format!("/keys?done={what}")))
}
