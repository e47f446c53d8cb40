//! Who is signed in: the cookies, and the extractor that every page begins with. It looks at the
//! head alone, so nothing of a stranger's body is read.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use sha2::{Digest as _, Sha256};

use super::{
    App,
    page::see_other,
    secret::{Id, Purpose},
    sign_in::SignIn,
    trouble::Trouble,
};
use crate::store::{StoreError, admin::SessionId};

const SESSION: &str = "codex_image_session";
const DEVICE: &str = "codex_image_device";
/// How long a browser counts as known, in seconds: a year.
const DEVICE_AGE: u32 = 365 * 24 * 60 * 60;
/// Sessions of one request that are looked up. A neighbour on the same host may set cookies of the
/// same name, but none that is signed; what fits into a head is compared in a moment.
const LOOKED_AT: usize = 8;
/// In bytes; a longer address to come back to is dropped.
const LONGEST_NEXT: usize = 1024;

/// The operator, signed in.
pub(super) struct Operator {
    /// Whose session it is; a key for what is kept for it.
    pub(super) session: SessionId,
}

impl FromRequestParts<App> for Operator {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        match current(&app.admin.sign_in, &parts.headers).await {
            Ok(Some(session)) => Ok(Self { session }),
            Ok(None) => Err(to_sign_in(app, parts)),
            Err(error) => Err(Trouble::from(error).into_response()),
        }
    }
}

/// The session that a request belongs to.
pub(super) async fn current(
    sign_in: &SignIn,
    headers: &HeaderMap,
) -> Result<Option<SessionId>, StoreError> {
    for id in presented(sign_in, headers, Purpose::Session) {
        let session = session_of(&id);
        if sign_in.store.is_session(&session).await? {
            return Ok(Some(session));
        }
    }
    Ok(None)
}

/// The ids of the request's cookies of a kind that were signed here.
pub(super) fn presented(sign_in: &SignIn, headers: &HeaderMap, purpose: Purpose) -> Vec<Id> {
    let name = name(purpose);
    let Some(keys) = sign_in.keys.get() else { return Vec::new() };
    headers
        .get_all(header::COOKIE)
        .iter()
        // As bytes: another's cookie may be no text at all.
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
        .filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        .filter_map(|cookie| keys.verified(purpose, cookie))
        .take(LOOKED_AT)
        .collect()
}

/// What the store knows a session by.
pub(super) fn session_of(id: &Id) -> SessionId {
    Sha256::digest(id).into()
}

fn name(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Session => SESSION,
        Purpose::Device(_) => DEVICE,
    }
}

/// Gives the browser the cookie of a session; without an age it is gone with the browser.
pub(super) fn set_session(sign_in: &SignIn, response: &mut Response, id: &Id, age: Option<u32>) {
    set(sign_in, response, Purpose::Session, Some(id), age);
}

/// Gives the browser the cookie by which it is known for a year, or until the generation is over.
pub(super) fn set_device(sign_in: &SignIn, response: &mut Response, id: &Id, generation: i64) {
    set(sign_in, response, Purpose::Device(generation), Some(id), Some(DEVICE_AGE));
}

/// Takes the session's cookie away.
pub(super) fn clear_session(sign_in: &SignIn, response: &mut Response) {
    set(sign_in, response, Purpose::Session, None, Some(0));
}

fn set(
    sign_in: &SignIn,
    response: &mut Response,
    purpose: Purpose,
    id: Option<&Id>,
    age: Option<u32>,
) {
    let (name, path) = (name(purpose), &sign_in.cookie_path);
    let value = match (id, sign_in.keys.get()) {
        (Some(id), Some(keys)) => keys.sign(purpose, id),
        _ => String::new(),
    };
    // Lax, not Strict: a link on the homelab's dashboard must find the operator signed in. What
    // such a link can do is GET, and no GET changes anything; a form of another site comes without
    // the cookie, and the CSRF layer refuses it as well.
    let age = age.map_or_else(String::new, |age| format!("; Max-Age={age}"));
    let secure = if sign_in.is_secure { "; Secure" } else { "" };
    let cookie = format!("{name}={value}; Path={path}; HttpOnly; SameSite=Lax{age}{secure}");
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

/// What a stranger is answered: a page leads to the sign-in and back; what a page fetches by itself
/// (events, pictures, a script's requests) would only take the sign-in for what it asked for.
fn to_sign_in(app: &App, parts: &Parts) -> Response {
    let is_page = match parts.headers.get("sec-fetch-mode") {
        Some(mode) => mode == "navigate",
        None => parts.headers.get(header::ACCEPT).is_none_or(|accept| {
            // What an `EventSource` sends, and older browsers for an `img`.
            !accept.as_bytes().starts_with(b"text/event-stream")
                && !accept.as_bytes().starts_with(b"image/")
        }),
    };
    let reads = matches!(parts.method, Method::GET | Method::HEAD);
    if reads && !is_page {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if !reads {
        return see_other(app, "/login?ended=yes");
    }
    let below = below_base(app, parts);
    if below.is_empty() {
        return see_other(app, "/login");
    }
    let next: String = form_urlencoded::byte_serialize(below.as_bytes()).collect();
    see_other(app, &format!("/login?next={next}"))
}

/// Path and query after `<prefix>/admin`, whether or not the proxy has left the prefix there.
/// Empty when it is the overview, or nothing to come back to.
fn below_base(app: &App, parts: &Parts) -> String {
    let whole = parts.uri.path_and_query().map_or("", |whole| whole.as_str());
    let path = whole.strip_prefix(&*app.admin_url_prefix).unwrap_or(whole);
    harmless(path.strip_prefix("/admin").unwrap_or_default()).to_owned()
}

/// What may be appended to `<prefix>/admin`: a path of plain letters that does not climb out, and a
/// query. Anything else becomes nothing.
pub(super) fn harmless(next: &str) -> &str {
    let (path, query) = next.split_once('?').unwrap_or((next, ""));
    // No %: a browser takes `%2e%2e` for `..`.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    let asked = |byte: u8| plain(byte) || b"%+&=,:".contains(&byte);
    let is_harmless = next.len() <= LONGEST_NEXT
        && (path.is_empty() || path.starts_with('/'))
        && path.bytes().all(plain)
        && query.bytes().all(asked)
        && path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
    if is_harmless { next } else { "" }
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn only_what_lies_below_the_pages_is_come_back_to() {
        for kept in
            ["", "?q=a", "/keys", "/requests?q=red+kite%21&state=failed", "/requests/img_0a"]
        {
            assert_eq!(harmless(kept), kept);
        }
        let long = format!("/{}", "a".repeat(1024));
        for dropped in [
            "//evil.example",
            "/",
            "/keys/",
            "keys",
            "evil.example",
            "@evil.example",
            ".evil.example",
            "/..",
            "/../generated/x",
            "/keys/../..",
            "/.",
            "/%2e%2e/x",
            "/\\evil.example",
            "\\x",
            "/a:b",
            "/keys#x",
            "/keys?x=<script>",
            "/keys?\r\nSet-Cookie:a=b",
            "/ä",
            "?next=//x y",
            "https://evil.example/",
            "javascript:alert(1)",
            long.as_str(),
        ] {
            assert_eq!(harmless(dropped), "", "{dropped}");
        }
    }
}
