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

/// What a handler adds to its request's event.
#[derive(Clone, Default)]
pub(super) struct RequestNotes(Arc<OnceLock<String>>);

impl RequestNotes {
    /// Names the caller's key by its handle.
    pub(super) fn set_key(&self, handle: &str) {
        let _ = self.0.set(handle.to_owned());
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
        Box::pin(async move {
            // A panic in one request is that request's 500; its text may hold anything, so it is
            // not logged.
            let mut response = answer.await.unwrap_or_else(|_| {
                tracing::error!("a handler panicked");
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
    id: HeaderValue,
    notes: RequestNotes,
    method: Method,
    route: Option<MatchedPath>,
    told: bool,
}

impl Asked {
    fn note(app: App, request: &mut Request) -> Self {
        let notes = RequestNotes::default();
        request.extensions_mut().insert(notes.clone());
        Self {
            app,
            begun: Instant::now(),
            id: request_id(request),
            notes,
            method: request.method().clone(),
            route: request.extensions().get::<MatchedPath>().cloned(),
            told: false,
        }
    }

    /// Tells of the answer; gives the request's id.
    fn answered(&mut self, response: &Response) -> HeaderValue {
        self.tell(response.status(), response.headers().get(JOB_ID));
        std::mem::replace(&mut self.id, HeaderValue::from_static(""))
    }

    /// Counts the answer and writes its event.
    fn tell(&mut self, status: StatusCode, job: Option<&HeaderValue>) {
        self.told = true;
        // Any word may be a method, of any length: only HTTP's own are told.
        let (method, route) = (known(&self.method), self.route.as_ref().map(MatchedPath::as_str));
        let elapsed = self.begun.elapsed();
        self.app.metrics.request(route, &self.method, status, elapsed);
        let (route, status) = (route.unwrap_or("(none)"), status.as_u16());
        let key = self.notes.0.get().map(String::as_str);
        let job = job.and_then(|job| job.to_str().ok());
        let request = self.id.to_str().unwrap_or_default();
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        if matches!(route, "/health" | "/ready" | "/metrics") {
            tracing::debug!(request, method, route, status, ms, "request");
        } else {
            tracing::info!(request, key, method, route, status, job, ms, "request");
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
