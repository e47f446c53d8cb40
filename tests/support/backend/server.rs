//! The stand-in's HTTP side: which path answers what.

use std::{convert::Infallible, fmt, net::TcpListener, sync::Arc, time::SystemTime};

use axum::{
    Json,
    body::{Body, Bytes},
    http::{HeaderMap, Method, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::{
    Recorded, Shared, answers,
    images::{charge, image, note_picture, references},
    model::{self, Turn},
    options::{Mode, Options},
};
use crate::support::{home, pictures};

/// Ends the connection without an answer.
#[derive(Debug)]
pub struct HangUp;

impl fmt::Display for HangUp {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("the connection is dropped on purpose")
    }
}

impl std::error::Error for HangUp {}

/// An answer, or none.
pub type Answer = Result<Response, HangUp>;

/// Accepts until the runtime ends.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener of this process");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&shared), request));
            // An error here is the client's going away, or a HangUp.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// What every handler wants to know of a request.
pub struct Call {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub account: String,
    pub body: Value,
    pub options: Options,
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let raw = body.collect().await.map_err(|_| HangUp)?.to_bytes();
    let body = match serde_json::from_slice(&raw) {
        Ok(body) => body,
        Err(_) if raw.is_empty() => Value::Null,
        Err(why) => return Ok(bad_request(&format!("the body is not JSON: {why}"))),
    };
    let header = head.headers.get("chatgpt-account-id").and_then(|value| value.to_str().ok());
    let account = header.unwrap_or("acct-test").to_owned();
    let path = head.uri.path().trim_end_matches('/').to_owned();
    let options = match options_for(&shared, &path, &account, &body) {
        Ok(options) => options,
        Err(why) => return Ok(bad_request(&format!("bad stub marker: {why}"))),
    };
    record(&shared, &head.method, &head.uri.to_string(), &account, &body);
    let call = Call { method: head.method, path, headers: head.headers, account, body, options };
    route(&shared, call).await
}

async fn route(shared: &Shared, call: Call) -> Answer {
    let ends = |end: &str| call.path.ends_with(end);
    if ends("/oauth/token") {
        return Ok(refresh(shared, &call).await);
    }
    if ends("/oauth/revoke") || ends("/analytics-events/events") {
        return Ok(Json(json!({})).into_response());
    }
    if is_refused(shared, &call) {
        let words = "Your authentication token has been invalidated. Please try signing in again.";
        let body = answers::error(words, "invalid_request_error", "token_invalidated");
        return Ok((StatusCode::UNAUTHORIZED, Json(body)).into_response());
    }
    if ends("/accounts/check") {
        Ok(Json(answers::accounts(&call.account)).into_response())
    } else if ends("/wham/usage") || ends("/codex/usage") {
        Ok(Json(answers::usage(&call.options, &call.account)).into_response())
    } else if ends("/models") {
        // No entries: Codex keeps its built-in catalogue.
        Ok(([(header::ETAG, "\"test\"")], Json(json!({"models": []}))).into_response())
    } else if ends("/images/generations") || ends("/images/edits") {
        image(shared, call).await
    } else if ends("/responses") && call.method == Method::POST {
        Ok(turn(shared, call).await)
    } else if ends("/responses") {
        // Codex tries a WebSocket first and falls back to HTTP at once.
        let status = StatusCode::UPGRADE_REQUIRED;
        Ok((status, Json(json!({"detail": "use HTTP"}))).into_response())
    } else {
        let body = json!({"detail": "not part of the stand-in"});
        Ok((StatusCode::NOT_FOUND, Json(body)).into_response())
    }
}

/// Everyone's options, the account's above them, the marker's above those.
fn options_for(
    shared: &Shared,
    path: &str,
    account: &str,
    body: &Value,
) -> Result<Options, String> {
    let state = shared.lock();
    let mut options = state.options.clone();
    let of_account = if path.ends_with("/oauth/token") {
        body["refresh_token"].as_str().and_then(home::account_of_refresh_token).unwrap_or(account)
    } else {
        account
    };
    if let Some(words) = state.account_words.get(of_account) {
        options.apply(words)?;
    }
    if path.ends_with("/responses") {
        let turn = Turn::of(body);
        options.apply_marker(&turn.prompt)?;
        if options.late && !turn.has_outcome() {
            options.mode = Mode::Ok;
        }
    } else if path.contains("/images/") {
        options.apply_marker(body["prompt"].as_str().unwrap_or_default())?;
        if options.late {
            options.mode = Mode::Ok;
        }
    }
    Ok(options)
}

/// A test's own mistake.
pub fn bad_request(why: &str) -> Response {
    let body = answers::error(why, "invalid_request_error", "stand_in");
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}

fn record(shared: &Shared, method: &Method, path: &str, account: &str, body: &Value) {
    let mut body = body.clone();
    shorten(&mut body);
    let mut state = shared.lock();
    if state.requests.len() == 1000 {
        state.requests.remove(0);
    }
    state.requests.push(Recorded {
        at: SystemTime::now(),
        method: method.to_string(),
        path: path.to_owned(),
        account: account.to_owned(),
        body,
    });
}

/// Replaces pictures and tokens by their hashes.
fn shorten(value: &mut Value) {
    match value {
        Value::String(text) if text.starts_with("data:") || text.starts_with("rt.") => {
            *text =
                format!("sha256:{} ({} characters)", pictures::sha256(text.as_bytes()), text.len());
        }
        Value::Array(values) => values.iter_mut().for_each(shorten),
        Value::Object(values) => values.values_mut().for_each(shorten),
        _ => {}
    }
}

fn bearer(headers: &HeaderMap) -> &str {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default()
}

fn is_refused(shared: &Shared, call: &Call) -> bool {
    let token = bearer(&call.headers);
    if call.options.mode == Mode::Unauthorized {
        true
    } else if token.is_empty() {
        // Codex asks even without a login; only the turn needs one.
        call.path.ends_with("/responses")
    } else if home::is_expired(token) {
        true
    } else {
        call.options.mode == Mode::UnauthorizedOnce && !shared.lock().fresh_tokens.contains(token)
    }
}

/// A refresh token works once and is replaced, as the real ones.
async fn refresh(shared: &Shared, call: &Call) -> Response {
    let refuse = |code: &str, words: &str| {
        shared.lock().refused_refreshes += 1;
        let body = answers::error(words, "invalid_request_error", code);
        (StatusCode::UNAUTHORIZED, Json(body)).into_response()
    };
    let Some(token) = call.body["refresh_token"].as_str() else {
        return bad_request("no refresh token");
    };
    if call.options.mode == Mode::Unauthorized {
        let words = "Your refresh token has been invalidated. Please try signing in again.";
        return refuse("refresh_token_invalidated", words);
    }
    if !shared.lock().spent_tokens.insert(token.to_owned()) {
        let words = "Your refresh token has already been used to generate a new access token. \
                     Please try signing in again.";
        return refuse("refresh_token_reused", words);
    }
    let account = home::account_of_refresh_token(token).unwrap_or(&call.account);
    let tokens = home::tokens(account, call.options.lifetime);
    {
        let mut state = shared.lock();
        state.refreshes += 1;
        state.refreshes_open += 1;
        let fresh = tokens["access_token"].as_str().unwrap_or_default().to_owned();
        state.fresh_tokens.insert(fresh);
    }
    let _under_way = UnderWay(shared);
    tokio::time::sleep(call.options.oauth_latency).await; // spent, and not yet replaced
    Json(tokens).into_response()
}

/// A refresh that is counted as open; also one whose client went away ends.
struct UnderWay<'a>(&'a Shared);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.lock().refreshes_open -= 1;
    }
}

async fn turn(shared: &Shared, call: Call) -> Response {
    let Call { headers, account, body, options, .. } = call;
    tokio::time::sleep(options.latency).await;
    match options.mode {
        Mode::UsageLimit => {
            let body = Json(answers::limit_reached(&options));
            let headers = answers::turn_headers(&options, 100);
            return (StatusCode::TOO_MANY_REQUESTS, headers, body).into_response();
        }
        Mode::RateLimit => {
            let words = "Rate limit reached; try again in 2s.";
            let body = answers::error(words, "rate_limit_exceeded", "rate_limit_exceeded");
            return (StatusCode::TOO_MANY_REQUESTS, Json(body)).into_response();
        }
        Mode::Status500 | Mode::Status503 => {
            let status = if options.mode == Mode::Status500 { 500 } else { 503 };
            let status = StatusCode::from_u16(status).expect("a status");
            let body = answers::error("the stand-in fails on purpose", "server_error", "error");
            return (status, Json(body)).into_response();
        }
        Mode::GarbageSse => {
            let kind = [(header::CONTENT_TYPE, "text/event-stream")];
            return (kind, "<html>this is no stream of events</html>").into_response();
        }
        _ => {}
    }
    let response = answers::response_id();
    let mut events = answers::opening(&response, &options);
    match options.mode {
        Mode::Policy => events.push(answers::policy_failure(&response)),
        Mode::Hang | Mode::Drop => {}
        Mode::DropOnce if drops_now(shared, &headers) => {}
        _ => {
            // The hosted dialect alone carries its pictures in the answer.
            let items = model::plan(&body, &options, || {
                let Turn { prompt, attached, .. } = Turn::of(&body);
                let references = references(attached.into_iter()).unwrap_or_default();
                let asked = json!({"prompt": prompt});
                let number = charge(shared, &options, &account, &asked, references);
                let picture = pictures::unique(&options.picture, &prompt);
                note_picture(shared, number, &picture);
                STANDARD.encode(picture)
            });
            events.extend(answers::items_and_end(&response, &items));
        }
    }
    let text = events.into_iter().map(|event| {
        let kind = event["type"].as_str().unwrap_or_default();
        Ok::<_, Infallible>(Bytes::from(format!("event: {kind}\ndata: {event}\n\n")))
    });
    let text = stream::iter(text.collect::<Vec<_>>());
    let body = if options.mode == Mode::Hang {
        Body::from_stream(text.chain(stream::pending())) // until the client goes
    } else {
        Body::from_stream(text)
    };
    let mut all = answers::turn_headers(&options, options.used_percent);
    all.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
    (all, body).into_response()
}

/// True the first time for each thread.
fn drops_now(shared: &Shared, headers: &HeaderMap) -> bool {
    let thread = ["session-id", "session_id"]
        .iter()
        .find_map(|name| headers.get(*name))
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    shared.lock().dropped_threads.insert(thread.unwrap_or_default())
}
