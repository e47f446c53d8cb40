//! One event a request: id, key handle, route, status, time. Never a prompt, a query or a key.

use std::{
    convert::Infallible,
    fmt::Write,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderName, HeaderValue, Method, StatusCode},
    response::{IntoResponse, Response},
    routing::Route,
};
use futures_util::FutureExt as _;
use tower::{
    Service,
    layer::{LayerFn, layer_fn},
};

use super::{
    App,
    error::{ApiError, JOB_ID},
};
use crate::telemetry::known;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is known of a request and belongs in its events; a handler adds to it.
#[derive(Clone)]
pub(super) struct RequestNotes(Arc<Notes>);

struct Notes {
    id: HeaderValue,
    /// The handle of the caller's key.
    key: OnceLock<String>,
}

impl RequestNotes {
    fn new(id: HeaderValue) -> Self {
        Self(Arc::new(Notes { id, key: OnceLock::new() }))
    }

    /// Names the caller's key by its handle.
    pub(super) fn set_key(&self, handle: &str) {
        let _ = self.0.key.set(handle.to_owned());
    }

    fn id(&self) -> &str {
        // One that was sent is made of plain characters, too.
        self.0.id.to_str().unwrap_or_default()
    }

    fn key(&self) -> Option<&str> {
        self.0.key.get().map(String::as_str)
    }
}

tokio::task_local! {
    /// The request that a task answers.
    static ANSWERED: RequestNotes;
}

/// Writes an event about the request that this task answers, by its id and the handle of its
/// caller's key.
pub(super) fn tell_of_this_request(tell: impl FnOnce(Option<&str>, Option<&str>)) {
    match ANSWERED.try_get() {
        Ok(notes) => tell(Some(notes.id()), notes.key()),
        Err(_) => tell(None, None),
    }
}

/// The middleware around every route: a service of its own, for `middleware::from_fn` would add
/// more allocations to a small request than everything else here.
#[derive(Clone)]
pub(super) struct Trace<S> {
    inner: S,
    app: App,
}

impl Trace<Route> {
    /// Puts it around the routes.
    pub(super) fn layer(app: App) -> LayerFn<impl Fn(Route) -> Self + Clone> {
        layer_fn(move |inner| Self { inner, app: app.clone() })
    }
}

impl<S> Service<Request> for Trace<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let mut asked = Asked::note(self.app.clone(), &mut request);
        let answer = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        let answer = ANSWERED.scope(asked.notes.clone(), answer);
        Box::pin(async move {
            // A panic in one request is that request's 500; its text may hold anything, so it is
            // not logged.
            let mut response = answer.await.unwrap_or_else(|_| {
                let request_id = asked.notes.id();
                tracing::error!(request_id, "a handler panicked");
                Ok(ApiError::Internal.into_response())
            })?;
            let id = asked.answered(&response);
            response.headers_mut().insert(REQUEST_ID, id);
            Ok(response)
        })
    }
}

/// What is known of a request before it is answered. It leaves an event in any case: a caller
/// that goes away before its answer drops it.
struct Asked {
    app: App,
    begun: Instant,
    notes: RequestNotes,
    method: Method,
    route: Option<MatchedPath>,
    told: bool,
}

impl Asked {
    fn note(app: App, request: &mut Request) -> Self {
        let notes = RequestNotes::new(request_id(request));
        request.extensions_mut().insert(notes.clone());
        Self {
            app,
            begun: Instant::now(),
            notes,
            method: request.method().clone(),
            route: request.extensions().get::<MatchedPath>().cloned(),
            told: false,
        }
    }

    /// Tells of the answer; gives the request's id.
    fn answered(&mut self, response: &Response) -> HeaderValue {
        self.tell(response.status(), response.headers().get(JOB_ID));
        self.notes.0.id.clone()
    }

    /// Counts the answer and writes its event.
    fn tell(&mut self, status: StatusCode, job: Option<&HeaderValue>) {
        self.told = true;
        // Any word may be a method, of any length: only HTTP's own are told.
        let (method, route) = (known(&self.method), self.route.as_ref().map(MatchedPath::as_str));
        let elapsed = self.begun.elapsed();
        self.app.metrics.request(route, &self.method, status, elapsed);
        let (route, status) = (route.unwrap_or("(none)"), status.as_u16());
        let (request_id, key_handle) = (self.notes.id(), self.notes.key());
        let job_id = job.and_then(|job| job.to_str().ok());
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        if matches!(route, "/health" | "/ready" | "/metrics") {
            tracing::debug!(request_id, method, route, status, ms, "request");
        } else {
            tracing::info!(request_id, key_handle, method, route, status, job_id, ms, "request");
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.told {
            // What nginx logs for a caller that closed its connection; nobody ever receives it.
            let gone = StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT);
            self.tell(gone, None);
        }
    }
}

/// The caller's own id when it is harmless, else a new one.
fn request_id(request: &Request) -> HeaderValue {
    let given = request.headers().get(REQUEST_ID).filter(|id| {
        (1..=64).contains(&id.len())
            && id
                .as_bytes()
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    });
    given.cloned().unwrap_or_else(new_request_id)
}

/// Unique, not secret: the process's start and a count.
fn new_request_id() -> HeaderValue {
    static PROCESS: OnceLock<u32> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let process = PROCESS.get_or_init(|| uuid::Uuid::new_v4().as_fields().0);
    let mut text = String::with_capacity(24);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let _ = write!(text, "req_{process:08x}{count:012x}");
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("req_unknown"))
}
