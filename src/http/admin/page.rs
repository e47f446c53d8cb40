//! What every page has: where the pages lie, its name, its place in the navigation, what was done.

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    super::health,
    App, assets,
    texts::{ENGLISH, Texts},
    trouble::Trouble,
};

/// A place in the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Overview,
    Keys,
    TryIt,
    History,
    Gallery,
    Logins,
    Cleanup,
    Settings,
    /// A page that is none of these.
    Elsewhere,
}

/// The frame of a page.
pub(super) struct Page {
    pub(super) t: &'static Texts,
    /// `<prefix>/admin`: what every link begins with.
    pub(super) base: String,
    /// The external prefix of the whole service.
    pub(super) prefix: String,
    pub(super) title: String,
    pub(super) place: Place,
    /// What was done just now.
    pub(super) notice: Option<&'static str>,
    /// It changes by itself: without a script the browser loads it again.
    pub(super) refresh: bool,
    /// Nobody draws, or carries out what is asked for here.
    pub(super) no_worker: bool,
    pub(super) signed_in: bool,
    pub(super) style: &'static str,
    pub(super) script: &'static str,
    pub(super) icon: &'static str,
}

/// What a page is told of the deed that led to it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Done {
    pub(super) done: String,
}

/// A link of the navigation.
pub(super) struct Link {
    pub(super) path: &'static str,
    pub(super) text: &'static str,
    pub(super) current: bool,
}

impl Page {
    pub(super) fn new(app: &App, place: Place) -> Self {
        let t = &ENGLISH;
        let title = match place {
            Place::Overview => t.overview,
            Place::Keys => t.keys,
            Place::TryIt => t.try_it,
            Place::History => t.history,
            Place::Gallery => t.gallery,
            Place::Logins => t.logins,
            Place::Cleanup => t.cleanup,
            Place::Settings | Place::Elsewhere => t.settings,
        };
        let (style, script, icon) = assets::names();
        Self {
            t,
            base: format!("{}/admin", app.admin_url_prefix),
            prefix: app.admin_url_prefix.clone(),
            title: title.to_owned(),
            place,
            notice: None,
            refresh: false,
            no_worker: false,
            signed_in: true,
            style,
            script,
            icon,
        }
    }

    /// Another title than that of its place.
    pub(super) fn titled(mut self, title: &str) -> Self {
        title.clone_into(&mut self.title);
        self
    }

    /// Says what was done.
    pub(super) fn after(mut self, done: &Done) -> Self {
        self.notice = self.t.done(&done.done);
        self
    }

    /// Loads itself again while this holds, if somebody works on it.
    pub(super) fn refreshing(mut self, refresh: bool) -> Self {
        self.refresh = refresh && !self.no_worker;
        self
    }

    /// Says so when no worker is there.
    pub(super) async fn of_worker(mut self, app: &App) -> Self {
        self.no_worker = !health::has_worker(app).await;
        self
    }

    /// The navigation; the overview's path is empty.
    pub(super) fn links(&self) -> Vec<Link> {
        let t = self.t;
        [
            (Place::Overview, "", t.overview),
            (Place::Keys, "/keys", t.keys),
            (Place::TryIt, "/test", t.try_it),
            (Place::History, "/requests", t.history),
            (Place::Gallery, "/gallery", t.gallery),
            (Place::Logins, "/logins", t.logins),
            (Place::Cleanup, "/cleanup", t.cleanup),
            (Place::Settings, "/settings", t.settings),
        ]
        .into_iter()
        .map(|(place, path, text)| Link { path, text, current: place == self.place })
        .collect()
    }
}

/// A page as an answer.
pub(super) fn html(status: StatusCode, template: &impl Template) -> Result<Response, Trouble> {
    let mut response = template.render()?.into_response();
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// To another page, after something was done.
pub(super) fn see_other(app: &App, path: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let target = format!("{}/admin{path}", app.admin_url_prefix);
    super::super::respond::set(response.headers_mut(), header::LOCATION, &target);
    response
}

/// The page of a trouble.
#[derive(Template)]
#[template(path = "trouble.html")]
pub(super) struct TroublePage {
    pub(super) page: Page,
    pub(super) words: String,
}
