//! The admin pages: the same jobs, keys and logins in a dress for one operator. Nothing here knows
//! SQL or Codex: what only the worker can do is asked of it by an order.

mod assets;
mod chart;
mod cleanup;
mod export;
mod filter;
mod fresh_keys;
mod gallery;
mod history;
mod job;
mod keys;
mod login_card;
mod logins;
mod overview;
mod page;
mod pictures;
mod secret;
mod session;
mod settings;
mod show;
mod sign_in;
mod texts;
mod throttle;
mod trouble;
mod try_out;

use std::{path::PathBuf, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::State,
    http::{HeaderName, HeaderValue, header},
    middleware::map_response_with_state,
    response::{IntoResponse, Response},
};
use tokio::sync::Semaphore;

use self::{
    fresh_keys::FreshKeys,
    page::{Page, Place, TroublePage},
    session::Operator,
    sign_in::SignIn,
    trouble::Trouble,
};
use super::App;
use crate::{config::Config, store::Store};

/// Thumbnails that are made at once: each holds a whole picture in memory.
const THUMBNAILS_AT_ONCE: usize = 1;

/// What browsers are told to allow a page: its own style, script, pictures and forms.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);
/// Pages are of this moment, and for one person.
const NOT_KEPT: HeaderValue = HeaderValue::from_static("no-store");

/// What the pages have beside the API's world.
pub(super) struct Admin {
    /// See `ADMIN`.
    pub(super) is_on: bool,
    pub(super) sign_in: SignIn,
    fresh_keys: FreshKeys,
    thumbnails: Arc<Semaphore>,
    thumbnails_dir: PathBuf,
    /// See `IMAGE_WALL_48H`.
    wall: Option<i64>,
    /// A timer cleans up, not the worker.
    cleanup_by_timer: bool,
    started: Instant,
}

impl Admin {
    /// Nothing is hashed and nobody is asked yet.
    pub(super) fn new(config: &Config, store: &Store) -> Self {
        Self {
            is_on: config.admin,
            sign_in: SignIn::new(config, store.clone()),
            fresh_keys: FreshKeys::default(),
            thumbnails: Arc::new(Semaphore::new(THUMBNAILS_AT_ONCE)),
            thumbnails_dir: config.thumbnails_dir(),
            wall: config.image_wall_48h.map(i64::from),
            cleanup_by_timer: config.cleanup_interval.is_none(),
            started: Instant::now(),
        }
    }
}

/// Every page, in its middleware.
pub(super) fn router(app: &App, config: &Config) -> Router<App> {
    Router::new()
        .merge(assets::router())
        .merge(sign_in::router())
        .merge(overview::router())
        .merge(keys::router())
        .merge(try_out::router())
        .merge(history::router())
        .merge(export::router())
        .merge(job::router())
        .merge(pictures::router())
        .merge(gallery::router())
        .merge(logins::router())
        .merge(cleanup::router())
        .merge(settings::router())
        .route("/admin/{*other}", axum::routing::any(no_page))
        .layer(sign_in::csrf(config))
        .layer(map_response_with_state(app.clone(), finish))
}

/// What a handler could not do, or what was refused before there was one (a method, a form).
fn trouble_of(response: &mut Response) -> Option<Trouble> {
    let trouble = response.extensions_mut().remove::<Trouble>();
    let is_bare = response.status().is_client_error()
        && response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_none_or(|kind| kind == "text/plain; charset=utf-8");
    trouble.or_else(|| is_bare.then(|| Trouble::Refused(response.status())))
}

async fn no_page(_: Operator) -> Trouble {
    Trouble::NotFound
}

/// Makes a page of a trouble, and tells the browser what any page may do.
async fn finish(State(app): State<App>, mut response: Response) -> Response {
    if let Some(trouble) = trouble_of(&mut response) {
        let kept = std::mem::take(response.headers_mut());
        let mut page = Page::new(&app, Place::Elsewhere);
        let (status, title, words) = trouble.words(page.t);
        // Nobody knows who asks.
        page.signed_in = !matches!(trouble, Trouble::CrossSite | Trouble::NoAsset);
        page = page.titled(title);
        response = page::html(status, &TroublePage { page, words })
            .unwrap_or_else(|_| status.into_response());
        if let Some(after) = kept.get(header::RETRY_AFTER) {
            response.headers_mut().insert(header::RETRY_AFTER, after.clone());
        }
    }
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, NOT_KEPT),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        // Ids in addresses are nobody else's business; forms need their origin.
        (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            HeaderValue::from_static("same-origin"),
        ),
    ] {
        headers.entry(name).or_insert(value);
    }
    response
}
