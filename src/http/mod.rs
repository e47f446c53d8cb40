//! The wire: one file a resource, each with its own `router()`. The key comes before any body;
//! every error passes the one mapping in `error.rs`.

mod accept;
mod admin;
mod auth;
mod body;
#[allow(unused_qualifications, reason = "in what the macros of utoipa write")]
mod docs;
mod error;
mod events;
mod generated;
mod health;
mod intake;
#[allow(unused_qualifications, reason = "in what the macros of utoipa write")]
mod jobs;
mod key_uses;
mod metrics;
mod openai;
pub mod openapi;
mod prefix;
mod respond;
pub mod server;
mod trace;
mod usage;

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Router,
    http::{HeaderName, HeaderValue, Method},
};
use tokio::sync::Semaphore;
use tower_http::cors::{AllowHeaders, Any, CorsLayer};

use crate::{
    admin_password::PasswordError,
    codex::Engine,
    config::{Config, Live, Secret},
    queue::Queue,
    store::{Store, StoreError},
    telemetry::Metrics,
};
use error::ApiError;
use key_uses::KeyUses;

/// Uploads that are read at once: each keeps a thread busy while it comes.
const UPLOADS: usize = 32;

/// What the handlers work with. Clones share everything.
#[derive(Clone)]
pub struct App(Arc<Inner>);

impl std::ops::Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// The inside of [`App`].
pub struct Inner {
    store: Store,
    queue: Queue,
    /// When the worker lives in this process.
    engine: Option<Arc<dyn Engine>>,
    metrics: Arc<Metrics>,
    key_uses: KeyUses,
    uploads: Semaphore,
    generated_dir: PathBuf,
    workdir: PathBuf,
    references_dir: PathBuf,
    worker_lock: PathBuf,
    worker_bell: PathBuf,
    public_base_url: String,
    admin_url_prefix: String,
    /// What may change meanwhile.
    live: Live,
    last_look: health::LastLook,
    admin: admin::Admin,
}

impl App {
    /// Puts the handlers' world together.
    #[must_use]
    pub fn new(
        config: &Config,
        store: Store,
        queue: Queue,
        engine: Option<Arc<dyn Engine>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self(Arc::new(Inner {
            admin: admin::Admin::new(config, &store),
            store,
            queue,
            engine,
            metrics,
            key_uses: KeyUses::default(),
            uploads: Semaphore::new(UPLOADS),
            generated_dir: config.generated_dir.clone(),
            workdir: config.codex_workdir.clone(),
            references_dir: config.references_dir(),
            worker_lock: config.worker_lock(),
            worker_bell: config.worker_bell(),
            public_base_url: config.public_base_url.clone(),
            admin_url_prefix: config.admin_url_prefix.clone(),
            live: config.live.clone(),
            last_look: health::LastLook::default(),
        }))
    }

    /// Makes ready what signing in to the admin pages needs, before the first request. Gives a
    /// password that was made just now, to be shown to whoever sits `on_terminal`.
    pub async fn open_admin(&self, on_terminal: bool) -> Result<Option<Secret>, PasswordError> {
        self.admin.sign_in.open(on_terminal).await
    }
}

impl Inner {
    /// When every login rests: until when the first does, in Unix seconds.
    async fn all_rest_until(&self) -> Result<Option<i64>, StoreError> {
        match &self.engine {
            Some(engine) => Ok(engine.all_rest_until()),
            // The worker of another process tells it through the store.
            None => self.store.all_rest_until().await,
        }
    }

    /// Counts what is read of bodies.
    fn counted(&self) -> impl Fn(u64) + Send + Sync + use<> {
        let metrics = Arc::clone(&self.metrics);
        move |bytes| metrics.body_read(bytes)
    }
}

/// A request by the API's own rules, for those who draw without HTTP.
pub(crate) struct Asked {
    pub(crate) prompt: String,
    pub(crate) size: String,
    pub(crate) quality: String,
    pub(crate) count: u32,
    /// Names of the verified references in their folder.
    pub(crate) references: Vec<String>,
}

/// Reads and checks a body; its references are written to `folder`. The error is a sentence.
pub(crate) fn read_request(body: impl Read, folder: &Path) -> Result<Asked, String> {
    let draft = intake::native::read(body, folder).map_err(|error| error.message())?;
    let references = draft.references.into_iter().map(|reference| reference.file_name);
    Ok(Asked {
        prompt: draft.prompt,
        size: draft.size,
        quality: draft.quality,
        count: draft.count,
        references: references.collect(),
    })
}

/// Every route; `openapi.rs` lists what they say of themselves.
fn routes(metrics: bool) -> Router<App> {
    let mut router = Router::new()
        .merge(health::router())
        .merge(jobs::router())
        .merge(events::router())
        .merge(generated::router())
        .merge(usage::router())
        .merge(openapi::router())
        .nest("/v1", openai::router())
        // For clients whose base URL lacks the `/v1`.
        .merge(openai::router());
    if metrics {
        router = router.merge(metrics::router());
    }
    router
}

/// Every route, in its middleware.
pub fn router(app: App, config: &Config) -> Router {
    let mut router = routes(config.metrics)
        .fallback(async || ApiError::NoRoute)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed);
    if !config.cors_allow_origins.is_empty() {
        router = router.layer(cors(&config.cors_allow_origins));
    }
    if config.admin {
        // Beside CORS: the pages are for no other site.
        router = router.merge(admin::router(&app, config));
    }
    // Outermost: a browser's preflight is a request, too.
    let router = router.layer(trace::Trace::layer(app.clone())).with_state(app);
    prefix::both_forms(router, &config.admin_url_prefix)
}

/// Keys travel in a header that no browser adds by itself, so no credentials are allowed.
fn cors(origins: &[String]) -> CorsLayer {
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        // Whatever is asked for: OpenAI's clients send a dozen of their own, and for browsers a `*`
        // does not cover the one with the key.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(
            ["x-request-id", "x-job-id", "location", "retry-after", "x-should-retry"]
                .map(HeaderName::from_static),
        );
    if origins.iter().any(|origin| origin == "*") {
        return layer.allow_origin(Any);
    }
    layer.allow_origin(
        origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect::<Vec<_>>(),
    )
}
