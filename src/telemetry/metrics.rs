//! What the service counts. Labels come from small closed sets (matched routes, methods, statuses,
//! outcomes), never from what a caller sent, so that nobody can make the set grow.

use std::{sync::atomic::AtomicU64, time::Duration};

use axum::http::{Method, StatusCode};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
        info::Info,
    },
    registry::{Registry, Unit},
};

/// From a page at once to a synchronous caller's whole patience.
const REQUEST_BUCKETS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 2.5, 30.0, 120.0, 600.0];
/// A picture takes one to three minutes; the ends are a refusal and the deadline.
const CODEX_BUCKETS: [f64; 9] = [5.0, 15.0, 30.0, 60.0, 90.0, 120.0, 180.0, 240.0, 360.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: String,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    state: &'static str,
    code: &'static str,
}

/// Makes the histogram of a route when it is first asked for.
#[derive(Clone)]
struct RequestSeconds;

impl MetricConstructor<Histogram> for RequestSeconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(REQUEST_BUCKETS)
    }
}

/// Counters in memory, shared by reference.
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    request_seconds: Family<Route, Histogram, RequestSeconds>,
    body_bytes: Counter,
    jobs_accepted: Counter,
    jobs_finished: Family<Outcome, Counter>,
    queued: Gauge<u64, AtomicU64>,
    running: Gauge<u64, AtomicU64>,
    codex_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// The `Content-Type` of [`Self::encode`].
    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("codex_image_service"),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(RequestSeconds),
            body_bytes: Counter::default(),
            jobs_accepted: Counter::default(),
            jobs_finished: Family::default(),
            queued: Gauge::default(),
            running: Gauge::default(),
            codex_seconds: Histogram::new(CODEX_BUCKETS),
        };
        metrics.register();
        metrics
    }

    /// Names and helps; the library adds the prefix, the unit, `_total` and the full stop.
    fn register(&mut self) {
        let Self { registry: to, .. } = self;
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        to.register("build", "The version that runs", build);
        to.register("http_requests", "Requests answered", self.requests.clone());
        to.register_with_unit(
            "http_request",
            "Time from a request's head to its answer's",
            Unit::Seconds,
            self.request_seconds.clone(),
        );
        to.register_with_unit(
            "http_request_body",
            "Bodies read from callers",
            Unit::Bytes,
            self.body_bytes.clone(),
        );
        to.register("jobs_accepted", "Jobs accepted", self.jobs_accepted.clone());
        to.register("jobs_finished", "Jobs finished, by outcome", self.jobs_finished.clone());
        to.register("jobs_queued", "Jobs that wait", self.queued.clone());
        to.register("jobs_running", "Jobs that are drawn", self.running.clone());
        to.register_with_unit(
            "codex_run",
            "Time Codex took for one picture",
            Unit::Seconds,
            self.codex_seconds.clone(),
        );
    }

    /// A request was answered. `route` is the matched path with its placeholders, `None` when no
    /// route matched: never the path itself, which the caller chooses.
    pub fn request(
        &self,
        route: Option<&str>,
        method: &Method,
        status: StatusCode,
        took: Duration,
    ) {
        let labels = Route { route: route.unwrap_or("(none)").to_owned() };
        self.request_seconds.get_or_create(&labels).observe(took.as_secs_f64());
        let Route { route } = labels;
        let labels = Request { route, method: known(method), status: status.as_u16() };
        self.requests.get_or_create(&labels).inc();
    }

    /// Bytes of a body arrived.
    pub fn body_read(&self, bytes: u64) {
        self.body_bytes.inc_by(bytes);
    }

    /// A job is durable.
    pub fn job_accepted(&self) {
        self.jobs_accepted.inc();
    }

    /// A job reached its last state; `code` says why it failed.
    pub fn job_finished(&self, state: &'static str, code: Option<&'static str>) {
        let outcome = Outcome { state, code: code.unwrap_or("") };
        self.jobs_finished.get_or_create(&outcome).inc();
    }

    /// What the store says about the queue, asked for when somebody scrapes.
    pub fn set_queue(&self, queued: u64, running: u64) {
        self.queued.set(queued);
        self.running.set(running);
    }

    /// One run of Codex ended, with or without a picture.
    pub fn codex_ran(&self, took: Duration) {
        self.codex_seconds.observe(took.as_secs_f64());
    }

    /// Everything in the text form of `OpenMetrics`, of [`Self::CONTENT_TYPE`].
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail; a metric that could not be encoded is left out.
        if text::encode(&mut text, &self.registry).is_err() {
            text.push_str("# EOF\n");
        }
        text
    }
}

/// A method's name, if it is one of HTTP's; a caller can send any word.
#[must_use]
pub fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_tells_what_happened() {
        let metrics = Metrics::new();
        let took = Duration::from_millis(20);
        let route = Some("/v1/images/jobs/{id}");
        metrics.request(route, &Method::GET, StatusCode::OK, took);
        metrics.request(route, &Method::GET, StatusCode::OK, took);
        let strange = Method::from_bytes(b"BREW").unwrap();
        metrics.request(None, &strange, StatusCode::NOT_FOUND, took);
        metrics.body_read(5);
        metrics.job_accepted();
        metrics.job_finished("succeeded", None);
        metrics.job_finished("failed", Some("no_image"));
        metrics.set_queue(3, 2);
        metrics.codex_ran(Duration::from_secs(100));

        let text = metrics.encode();
        for line in [
            r#"codex_image_service_http_requests_total{route="/v1/images/jobs/{id}",method="GET",status="200"} 2"#,
            r#"codex_image_service_http_requests_total{route="(none)",method="other",status="404"} 1"#,
            r#"codex_image_service_http_request_seconds_bucket{le="0.025",route="/v1/images/jobs/{id}"} 2"#,
            "codex_image_service_http_request_body_bytes_total 5",
            "codex_image_service_jobs_accepted_total 1",
            r#"codex_image_service_jobs_finished_total{state="succeeded",code=""} 1"#,
            r#"codex_image_service_jobs_finished_total{state="failed",code="no_image"} 1"#,
            "codex_image_service_jobs_queued 3",
            "codex_image_service_jobs_running 2",
            r#"codex_image_service_codex_run_seconds_bucket{le="120.0"} 1"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\nis not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
