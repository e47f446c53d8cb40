//! The settings as they hold, with where each comes from, and the end of every session.

use askama::Template;
use axum::{Router, extract::State, http::StatusCode, response::Response, routing::get};

use super::{
    App,
    page::{Page, Place, html},
    session::Operator,
    trouble::Trouble,
};
use crate::config::Resolved;

/// `/admin/settings`.
pub(super) fn router() -> Router<App> {
    Router::new().route("/admin/settings", get(show_settings))
}

#[derive(Template)]
#[template(path = "settings.html")]
struct SettingsView {
    page: Page,
    settings: Vec<Resolved>,
}

async fn show_settings(State(app): State<App>, _: Operator) -> Result<Response, Trouble> {
    let page = Page::new(&app, Place::Settings);
    html(StatusCode::OK, &SettingsView { page, settings: app.live.resolved() })
}
