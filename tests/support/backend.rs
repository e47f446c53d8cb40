//! A stand-in for the services that Codex talks to: ChatGPT's backend, the Responses and Images
//! APIs and the token endpoint, on loopback, with made-up but well-formed answers and real
//! pictures. It counts what would have cost money, so that "paid once" can be asserted.
//!
//! Made from observation of the client; what it answers is what Codex reads, not all that the
//! real services say.

pub mod answers;
mod images;
pub mod model;
pub mod options;
mod server;

use std::{
    collections::{HashMap, HashSet},
    net::TcpListener,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::{Instant, SystemTime},
};

use serde_json::Value;
use tokio::{runtime::Runtime, sync::watch};

pub use options::{Mode, Options};

use super::wait_for;

/// One request for a picture: what the real service would charge for.
#[derive(Clone, Debug)]
pub struct ImageRequest {
    /// From 0, in order of arrival.
    pub number: usize,
    /// When it came.
    pub at: Instant,
    /// The `job=` of the caller's marker.
    pub job: Option<String>,
    /// The account it was charged to.
    pub account: String,
    /// The whole prompt, as Codex sent it.
    pub prompt: String,
    /// `opaque` or `transparent`.
    pub background: String,
    /// The pictures of an edit; empty for a generation.
    pub references: Vec<Reference>,
    /// SHA-256 of the picture's bytes, once one has been handed over for sending.
    pub picture: Option<String>,
}

/// A reference picture as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The type that its `data:` URL claims.
    pub mime: String,
    /// Lower-case hex.
    pub sha256: String,
    /// Length in bytes.
    pub len: usize,
}

/// Any request, pictures and tokens in it replaced by their hashes.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The wall clock, to compare with files.
    pub at: SystemTime,
    /// GET, POST.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The `chatgpt-account-id` header.
    pub account: String,
    /// The JSON body, null when there is none.
    pub body: Value,
}

#[derive(Default)]
struct State {
    options: Options,
    account_words: HashMap<String, String>,
    images: Vec<ImageRequest>,
    images_open: usize,
    images_peak: usize,
    requests: Vec<Recorded>,
    refreshes: usize,
    refreshes_open: usize,
    refused_refreshes: usize,
    spent_tokens: HashSet<String>,
    fresh_tokens: HashSet<String>,
    dropped_threads: HashSet<String>,
}

struct Shared {
    state: Mutex<State>,
    /// True while image requests are held back.
    held: watch::Sender<bool>,
    /// True while those with `kept=1` are.
    kept: watch::Sender<bool>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The running stand-in; it ends with this value.
pub struct Backend {
    port: u16,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl Backend {
    /// Starts one on a free port of 127.0.0.1.
    pub fn start() -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// Starts one on a socket that listens on 127.0.0.1, perhaps in another network namespace.
    pub fn at(listener: TcpListener) -> Self {
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (held, kept) = (watch::Sender::new(false), watch::Sender::new(true));
        let shared = Arc::new(Shared { state: Mutex::default(), held, kept });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("backend")
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(server::serve(listener, Arc::clone(&shared)));
        Self { port, shared, runtime: Some(runtime) }
    }

    /// The port, on 127.0.0.1 and `localhost`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The environment that a Codex (or a service that passes it on) needs beside `CODEX_HOME`.
    pub fn env(&self) -> [(String, String); 2] {
        let url = |path: &str| format!("http://127.0.0.1:{}/oauth/{path}", self.port);
        [
            ("CODEX_REFRESH_TOKEN_URL_OVERRIDE".to_owned(), url("token")),
            ("CODEX_REVOKE_TOKEN_URL_OVERRIDE".to_owned(), url("revoke")),
        ]
    }

    /// Changes options for everyone, in the marker's words: `backend.set("mode=401")`.
    pub fn set(&self, words: &str) {
        self.shared.lock().options.apply(words).unwrap();
    }

    /// Changes options for one account; these win over [`Self::set`] and replace earlier ones.
    pub fn set_for(&self, account: &str, words: &str) {
        Options::default().apply(words).unwrap();
        self.shared.lock().account_words.insert(account.to_owned(), words.to_owned());
    }

    /// What mode `shell` tries to run; may hold blanks, unlike the marker's values.
    pub fn set_shell_command(&self, command: &str) {
        command.clone_into(&mut self.shared.lock().options.shell_command);
    }

    /// Image requests are counted but not answered from now on, until [`Self::release_images`].
    pub fn hold_images(&self) {
        self.shared.held.send_replace(true);
    }

    /// Answers what was held back.
    pub fn release_images(&self) {
        self.shared.held.send_replace(false);
    }

    /// Answers the image requests with `kept=1`, and all later ones.
    pub fn release_kept(&self) {
        self.shared.kept.send_replace(false);
    }

    /// Waits until `count` image requests have arrived in all.
    pub fn wait_for_images(&self, count: usize) -> Vec<ImageRequest> {
        wait_for(&format!("{count} image requests"), || {
            Some(self.image_requests()).filter(|images| images.len() >= count)
        })
    }

    /// Every image request, edits and those that were refused included. Codex itself repeats one
    /// that failed with a 5xx or without an answer, for about three seconds.
    pub fn image_requests(&self) -> Vec<ImageRequest> {
        self.shared.lock().images.clone()
    }

    /// How many image requests carried `job=<tag>` in the caller's marker.
    pub fn image_requests_for(&self, tag: &str) -> usize {
        let state = self.shared.lock();
        state.images.iter().filter(|image| image.job.as_deref() == Some(tag)).count()
    }

    /// How many pictures were handed over for sending to requests with `job=<tag>`.
    pub fn pictures_for(&self, tag: &str) -> usize {
        let images = self.image_requests().into_iter();
        images.filter(|image| image.job.as_deref() == Some(tag) && image.picture.is_some()).count()
    }

    /// The image requests with references.
    pub fn edits(&self) -> Vec<ImageRequest> {
        self.image_requests().into_iter().filter(|image| !image.references.is_empty()).collect()
    }

    /// The most image requests that were open at one moment.
    pub fn peak_images(&self) -> usize {
        self.shared.lock().images_peak
    }

    /// The image requests that are open now: not answered and not dropped.
    pub fn open_images(&self) -> usize {
        self.shared.lock().images_open
    }

    /// How often a login was refreshed.
    pub fn refreshes(&self) -> usize {
        self.shared.lock().refreshes
    }

    /// The refreshes that are under way: the token is spent, and the answer was not handed over.
    pub fn open_refreshes(&self) -> usize {
        self.shared.lock().refreshes_open
    }

    /// Whether the refresh token of the login in `home` has been used: the login is lost.
    pub fn is_spent(&self, home: &Path) -> bool {
        let login = std::fs::read(home.join("auth.json")).unwrap();
        let login: Value = serde_json::from_slice(&login).unwrap();
        let token = login["tokens"]["refresh_token"].as_str().unwrap();
        self.shared.lock().spent_tokens.contains(token)
    }

    /// How often a refresh was refused, above all because its token had been used before.
    pub fn refused_refreshes(&self) -> usize {
        self.shared.lock().refused_refreshes
    }

    /// The latest requests of every kind, oldest first; at most a thousand are kept.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.lock().requests.clone()
    }

    /// The bodies of the latest turns' requests.
    pub fn turns(&self) -> Vec<Value> {
        let turns = self.requests().into_iter();
        turns
            .filter(|request| request.method == "POST" && request.path.ends_with("/responses"))
            .map(|request| request.body)
            .collect()
    }

    /// Forgets what was counted and recorded; spent refresh tokens stay spent.
    pub fn reset_counts(&self) {
        let mut state = self.shared.lock();
        state.images.clear();
        state.images_peak = state.images_open;
        state.requests.clear();
        (state.refreshes, state.refused_refreshes) = (0, 0);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background(); // allowed inside an async test as well
        }
    }
}
