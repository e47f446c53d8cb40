//! Signing in and out. Whoever signs in gets a session that is new, whatever cookie came along, and
//! that ends by itself, by signing out, or for all at once. A wrong name and a wrong password get
//! the same answer after the same time.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use askama::Template;
use axum::{
    Form, Router,
    extract::{
        DefaultBodyLimit, FromRequest as _, Query, Request, State, rejection::QueryRejection,
    },
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;
use tower_http::csrf::{CsrfLayer, ProtectionError};

use super::{
    super::server::{Peer, ToStranger},
    App,
    page::{Page, Place, html, see_other},
    secret::{Id, Keys, Origin, Purpose, new_id},
    session::{
        Operator, clear_session, current, harmless, presented, session_of, set_device, set_session,
    },
    texts::{ENGLISH, filled},
    throttle::Throttle,
    trouble::Trouble,
};
use crate::{
    admin_password::{AdminPassword, PasswordError, Verified},
    config::{Config, Secret},
    store::{self, Store, StoreError},
};

/// In bytes; room for the longest name and password, every letter of them escaped.
const LARGEST_FORM: usize = 8 * 1024;
/// A form is there at once, or not at all.
const FORM_PATIENCE: Duration = Duration::from_secs(10);
/// Passwords that are compared at once: each takes 19 MiB, and a processor.
const AT_ONCE: usize = 2;
/// How long a try waits for its turn among those.
const TURN_PATIENCE: Duration = Duration::from_secs(3);
/// When one that had none is told to try again.
const TURN_RETRY: Duration = Duration::from_secs(2);
/// Seconds that a session lasts: a day, or a month where somebody asks for it.
const SHORT_AGE: u32 = 24 * 60 * 60;
const LONG_AGE: u32 = 30 * SHORT_AGE;

/// Everything that signing in needs.
pub(in crate::http) struct SignIn {
    pub(super) store: Store,
    origin: Origin,
    /// Since [`SignIn::open`].
    pub(super) keys: OnceLock<Keys>,
    /// Digest of the user name.
    name: [u8; 32],
    password: AdminPassword,
    throttle: Throttle,
    turns: Arc<Semaphore>,
    pub(super) cookie_path: String,
    /// Are the pages reached by https?
    pub(super) is_secure: bool,
    /// Of the pages, as the operator sees it.
    url: String,
}

impl SignIn {
    /// As the settings say; nothing is read, made or hashed yet.
    pub(in crate::http) fn new(config: &Config, store: Store) -> Self {
        let prefix = &config.admin_url_prefix;
        Self {
            store,
            origin: Origin::new(config),
            keys: OnceLock::new(),
            name: Sha256::digest(&config.admin_username).into(),
            password: AdminPassword::new(config),
            throttle: Throttle::default(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            cookie_path: if prefix.is_empty() { "/".to_owned() } else { prefix.clone() },
            is_secure: config.public_origin().starts_with("https:"),
            url: config.admin_url(),
        }
    }

    /// Reads or makes the secret that signs cookies, and sees to it that there is a password; before
    /// the first request. Gives a password that was made to be shown, see [`AdminPassword::prepare`].
    pub(in crate::http) async fn open(
        &self,
        on_terminal: bool,
    ) -> Result<Option<Secret>, PasswordError> {
        let keys = self.origin.keys()?;
        let _ = self.keys.set(keys);
        self.password.prepare(&self.store, on_terminal).await
    }
}

/// `/admin/login`, `/admin/logout` and `/admin/logout-everywhere`.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/admin/login", get(show).post(sign_in))
        .route("/admin/logout", post(sign_out))
        .route("/admin/logout-everywhere", post(sign_out_everywhere))
        .layer(DefaultBodyLimit::max(LARGEST_FORM))
}

impl From<PasswordError> for Trouble {
    fn from(error: PasswordError) -> Self {
        tracing::error!(%error, "the password could not be compared");
        Self::Broken
    }
}

impl From<getrandom::Error> for Trouble {
    fn from(error: getrandom::Error) -> Self {
        tracing::error!(%error, "there are no random numbers");
        Self::Broken
    }
}

/// The answer to what another site sent.
type CrossSite = fn(ProtectionError) -> Response;

/// Keeps forms of other sites out, before their bodies are read: by `Sec-Fetch-Site`, or else by
/// `Origin`, which must be that of `PUBLIC_BASE_URL` or name the `Host` that the request came to.
pub(super) fn csrf(config: &Config) -> CsrfLayer<CrossSite> {
    let mut layer = CsrfLayer::new();
    // Refused is only what no browser could send.
    if let Ok(trusting) = layer.clone().add_trusted_origin(config.public_origin()) {
        layer = trusting;
    }
    layer.with_rejection_response(|_| Trouble::CrossSite.into_response())
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    page: Page,
    /// Below the pages' base, or empty.
    next: String,
    username: String,
    remember: bool,
    /// Why nobody was signed in.
    refused: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    next: String,
    /// Something was sent without a session.
    ended: String,
}

#[derive(Default, Deserialize)]
struct Given {
    username: String,
    password: String,
    #[serde(default)]
    remember: String,
    #[serde(default)]
    next: String,
}

/// The form; whoever is signed in already goes where they wanted to.
async fn show(
    State(app): State<App>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Trouble> {
    let Asked { next, ended } = asked.map_or_else(|_| Asked::default(), |Query(asked)| asked);
    if current(&app.admin.sign_in, &headers).await?.is_some() {
        return Ok(see_other(&app, harmless(&next)));
    }
    let words = (!ended.is_empty()).then(|| ENGLISH.session_ended.to_owned());
    form(&app, StatusCode::OK, Given { next, ..Given::default() }, words)
}

fn form(
    app: &App,
    status: StatusCode,
    given: Given,
    refused: Option<String>,
) -> Result<Response, Trouble> {
    let mut page = Page::new(app, Place::Elsewhere).titled(ENGLISH.sign_in);
    page.signed_in = false;
    let mut response = html(
        status,
        &LoginPage {
            page,
            next: harmless(&given.next).to_owned(),
            username: given.username,
            remember: !given.remember.is_empty(),
            refused,
        },
    )?;
    // Nobody's key was looked at.
    response.extensions_mut().insert(ToStranger);
    Ok(response)
}

async fn sign_in(State(app): State<App>, request: Request) -> Result<Response, Trouble> {
    let (sign_in, headers) = (&app.admin.sign_in, request.headers().clone());
    let from = address_of(&request);
    let given = match read(&app, request).await {
        Ok(given) => given,
        Err((status, words)) => {
            return form(&app, status, Given::default(), Some(words.to_owned()));
        }
    };
    if sign_in.is_secure && came_unprotected(&headers) {
        let words = filled(ENGLISH.only_https, &[&sign_in.url]);
        return form(&app, StatusCode::BAD_REQUEST, given, Some(words));
    }
    let generation = sign_in.store.device_generation().await?;
    let device = presented(sign_in, &headers, Purpose::Device(generation)).first().copied();
    let begun = match sign_in.throttle.begin(device) {
        Ok(begun) => begun,
        Err(wait) => return too_many(&app, given, wait),
    };
    let turn = tokio::time::timeout(TURN_PATIENCE, Arc::clone(&sign_in.turns).acquire_owned());
    let Ok(Ok(turn)) = turn.await else {
        sign_in.throttle.give_back(&begun);
        return too_many(&app, given, TURN_RETRY);
    };
    let is_name = Sha256::digest(&given.username).ct_eq(&sign_in.name);
    let password = Secret::new(given.password.clone());
    let verified = sign_in.password.verify(&sign_in.store, password, turn).await?;
    if let Some(verified) = verified.filter(|_| is_name.into())
        && let Some(response) =
            sign_in.begin(&app, &headers, &given, verified, (device, generation)).await?
    {
        sign_in.throttle.give_back(&begun);
        tracing::info!(from, "the operator has signed in");
        return Ok(response);
    }
    tracing::warn!(from, known = device.is_some(), "a sign-in failed");
    form(&app, StatusCode::UNAUTHORIZED, given, Some(ENGLISH.wrong_sign_in.to_owned()))
}

impl SignIn {
    /// A new session in place of the one that was presented; none when the password was changed
    /// since it was verified.
    async fn begin(
        &self,
        app: &App,
        headers: &HeaderMap,
        given: &Given,
        verified: Verified,
        (device, generation): (Option<Id>, i64),
    ) -> Result<Option<Response>, Trouble> {
        let id = new_id()?;
        let age = if given.remember.is_empty() { SHORT_AGE } else { LONG_AGE };
        let ends = store::now() + i64::from(age) * 1000;
        self.store.begin_session(&session_of(&id), ends).await?;
        // Only now: `reset-password` changes the password and then ends all sessions, so it is
        // either seen here or ends this one.
        if !self.password.keep(&self.store, verified).await? {
            self.store.end_session(&session_of(&id)).await?;
            return Ok(None);
        }
        self.end_presented(headers).await?;
        let mut response = see_other(app, harmless(&given.next));
        let age = (age == LONG_AGE).then_some(age);
        set_session(self, &mut response, &id, age);
        set_device(self, &mut response, &device.map_or_else(new_id, Ok)?, generation);
        Ok(Some(response))
    }

    /// Ends the sessions that a request's cookies name.
    async fn end_presented(&self, headers: &HeaderMap) -> Result<(), StoreError> {
        for id in presented(self, headers, Purpose::Session) {
            self.store.end_session(&session_of(&id)).await?;
        }
        Ok(())
    }
}

/// Ends the session, if there is one; the cookie goes in any case.
async fn sign_out(State(app): State<App>, headers: HeaderMap) -> Result<Response, Trouble> {
    let sign_in = &app.admin.sign_in;
    sign_in.end_presented(&headers).await?;
    let mut response = see_other(&app, "/login");
    clear_session(sign_in, &mut response);
    Ok(response)
}

async fn sign_out_everywhere(_: Operator, State(app): State<App>) -> Result<Response, Trouble> {
    let sign_in = &app.admin.sign_in;
    let sessions = sign_in.store.end_all_sessions().await?;
    tracing::info!(sessions, "the operator has signed out everywhere");
    let mut response = see_other(&app, "/login");
    clear_session(sign_in, &mut response);
    Ok(response)
}

/// The form, or what is wrong with it: at most so long, and there within a while.
async fn read(app: &App, request: Request) -> Result<Given, (StatusCode, &'static str)> {
    match tokio::time::timeout(FORM_PATIENCE, Form::from_request(request, app)).await {
        Ok(Ok(Form(given))) => Ok(given),
        Ok(Err(refused)) => Err(match refused.status() {
            status @ StatusCode::PAYLOAD_TOO_LARGE => (status, ENGLISH.form_too_large),
            status @ StatusCode::UNSUPPORTED_MEDIA_TYPE => (status, ENGLISH.no_form),
            _ => (StatusCode::BAD_REQUEST, ENGLISH.form_broken),
        }),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, ENGLISH.form_broken)),
    }
}

fn too_many(app: &App, given: Given, wait: Duration) -> Result<Response, Trouble> {
    let seconds = wait.as_millis().div_ceil(1000).max(1);
    let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
    let words = filled(ENGLISH.too_many_tries, &[&seconds]);
    let mut response = form(app, StatusCode::TOO_MANY_REQUESTS, given, Some(words))?;
    response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    Ok(response)
}

/// Was the form on a page without TLS, from another machine? The browser would not keep a cookie
/// that is `Secure`, and ask for the password for ever.
fn came_unprotected(headers: &HeaderMap) -> bool {
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    let origin = origin.and_then(|origin| origin.parse::<Uri>().ok());
    origin.is_some_and(|origin| {
        origin.scheme_str() == Some("http")
            && origin
                .host()
                .is_some_and(|host| !["localhost", "127.0.0.1", "[::1]"].contains(&host))
    })
}

/// Where a try came from, for the log: the peer, or what a proxy on this machine says of it. Others
/// may write into that header what they like.
fn address_of(request: &Request) -> String {
    let peer = request.extensions().get::<Peer>().copied();
    let told = || {
        let told = request.headers().get_all("x-forwarded-for").iter().next_back()?;
        let last = told.to_str().ok()?.rsplit(',').next()?.trim();
        last.parse::<IpAddr>().ok()
    };
    match peer {
        Some(Peer::Tcp(address)) if !address.to_canonical().is_loopback() => Some(address),
        Some(_) => told(),
        None => None,
    }
    .map_or_else(|| "this machine".to_owned(), |address| address.to_canonical().to_string())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_proxy_on_this_machine_is_believed_and_nobody_else() {
        let from = |peer, told: &[&str]| {
            let mut request = Request::new(axum::body::Body::empty());
            request.extensions_mut().insert(peer);
            for told in told {
                let told = HeaderValue::from_str(told).unwrap();
                request.headers_mut().append("x-forwarded-for", told);
            }
            address_of(&request)
        };
        let far = Peer::Tcp([192, 0, 2, 1].into());
        let near = Peer::Tcp([127, 0, 0, 1].into());
        assert_eq!(from(far, &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(from(near, &["203.0.113.9, 198.51.100.7"]), "198.51.100.7");
        assert_eq!(from(Peer::Unix, &["203.0.113.9", "2001:db8::1"]), "2001:db8::1");
        assert_eq!(from(near, &["<script>"]), "this machine");
        assert_eq!(from(Peer::Unix, &[]), "this machine");
    }

    #[test]
    fn a_page_without_tls_keeps_no_secure_cookie() {
        let came = |origin: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            came_unprotected(&headers)
        };
        assert!(came("http://nas:8000") && came("http://192.0.2.1"));
        assert!(!came("https://nas:8000") && !came("http://localhost:8000") && !came("null"));
        assert!(!came("http://127.0.0.1") && !came("http://[::1]:8000"));
        assert!(!came_unprotected(&HeaderMap::new()));
    }
}
