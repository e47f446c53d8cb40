//! The only place that knows Codex: starting it, talking to it, finding what it made and naming
//! what went wrong. Nothing here knows HTTP or SQL; `queue/` asks for one picture at a time.

mod app_server;
mod auth;
mod carry;
mod clip;
mod code;
mod command;
mod demo;
mod engine;
mod events;
mod exec;
mod failures;
mod follow;
mod harvest;
mod locate;
mod login;
mod own;
mod painter;
mod prompt;
mod quota;
mod run;
mod salvage;
mod shadow;
mod sign_in;
mod skills;
mod spawn;
pub mod status;
mod sys;
#[cfg(test)]
mod testing;
mod versions;

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, EngineChoice, LoginHome},
    names::is_label,
};

pub use code::UnknownFailureCode;
pub use demo::DemoEngine;
pub use sign_in::{SignInError, sign_in};
use status::{Account, Dispatch, LoginEvent, LoginStatus, QuotaWindow, Rest};

/// What one turn of Codex is asked for: exactly one picture.
#[derive(Clone)]
pub struct Turn {
    /// The job's public id, `img_` and 32 hex digits.
    pub job_id: String,
    /// Which of the job's pictures this is, from 0.
    pub position: u32,
    /// The caller's own words, 1 to 32,000 characters, hostile.
    pub prompt: String,
    /// `WIDTHxHEIGHT` or `auto`; Codex has no parameter for it, it travels as words.
    pub size: String,
    /// `low`, `medium`, `high` or `auto`; travels as words.
    pub quality: String,
    /// `auto`, `opaque` or `transparent`; travels as words.
    pub background: String,
    /// Absolute paths of verified reference pictures, at most 5.
    pub references: Vec<PathBuf>,
    /// The last reference is a mask for the first: Codex has no parameter for it, words say so.
    pub has_mask: bool,
    /// A folder of this attempt's own, made by the engine: Codex's output and working directory.
    pub dir: PathBuf,
}

/// A Codex thread and the login (its label) in whose home it lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ThreadRef {
    /// The label of the login, see [`crate::config::LoginHome`].
    pub login: String,
    /// The id that Codex gave the thread; a safe file name (checked where it is read).
    pub thread: String,
}

impl ThreadRef {
    /// What somebody says that a login and a thread are called; None when none could be.
    #[must_use]
    pub fn parse(login: &str, thread: &str) -> Option<Self> {
        let id = thread.strip_prefix(demo::THREAD_PREFIX).unwrap_or(thread);
        (is_label(login) && events::is_thread_id(id))
            .then(|| Self { login: login.to_owned(), thread: thread.to_owned() })
    }
}

/// What one run left behind. A picture exists only when one of `candidates` passes
/// [`crate::images::import`]; `failure` says what Codex reported when none does.
#[derive(Debug, Default)]
pub struct Finished {
    /// Files of the turn's own thread that might be the picture, oldest first; not verified.
    pub candidates: Vec<PathBuf>,
    /// The folder of the thread could not be looked into (out of descriptors, a failing disk), or
    /// it could not be waited for that nobody writes there any more: that there is no candidate
    /// says nothing.
    pub unsure: bool,
    /// What went wrong, as far as Codex said.
    pub failure: Option<Failure>,
    /// The thread, when Codex got as far as naming it.
    pub thread: Option<ThreadRef>,
    /// Head and tail of Codex's standard output, at most 64 KiB.
    pub stdout: String,
    /// Head and tail of its standard error, at most 64 KiB.
    pub stderr: String,
    /// The model's last words, at most 2,000 characters; hostile.
    pub note: Option<String>,
}

/// Why a turn gave no picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The machine's word for it.
    pub code: FailureCode,
    /// A sentence for the caller; holds no path, no secret.
    pub message: String,
    /// When it makes sense to try again (quota), in Unix seconds.
    pub retry_at: Option<i64>,
}

/// The codes of the contract's 502 and 429 answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum FailureCode {
    ModerationBlocked,
    ModelRefused,
    QuotaExceeded,
    /// The service's owner lets every login rest.
    LoginsRest,
    LoginExpired,
    NotLoggedIn,
    CodexMissing,
    NoImage,
    DuplicateImage,
    Timeout,
    Interrupted,
    CodexError,
}

/// How far a turn has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Codex named the thread: told at once, and before the picture is asked for where the engine
    /// can arrange that. Told again when the engine goes on with another login because the first
    /// has no quota or no valid session; the last thread counts.
    Thread(ThreadRef),
    /// The picture was asked for.
    Drawing,
}

/// Told the steps of a turn; resolves when they are stored.
pub type StepSink<'a> = &'a (dyn Fn(Step) -> BoxFuture<'a, ()> + Send + Sync);

/// The future of an engine's answer.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Something that draws.
pub trait Engine: Send + Sync {
    /// Draws one picture. Waits for a free login first; ends within the deadline of the settings
    /// plus the grace for stopping Codex. When `stop` is cancelled the run is stopped (its
    /// candidates, if any, are still reported).
    fn draw<'a>(
        &'a self,
        turn: &'a Turn,
        sink: StepSink<'a>,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Finished>;

    /// What an interrupted attempt left: waits until no Codex of it can still be writing, then
    /// reports its candidates. `turn.dir` is the folder of the interrupted attempt; `known` is
    /// what the store knows of its thread, which may lag behind what the folder says.
    fn recover<'a>(&'a self, turn: &'a Turn, known: Option<ThreadRef>) -> BoxFuture<'a, Finished>;

    /// How many pictures can be drawn at once, whatever the settings allow.
    fn capacity(&self) -> usize;

    /// What stands in the way of drawing: Codex missing, not logged in. Empty = ready.
    fn problems(&self) -> Vec<Failure>;

    /// Every thread, of ours or of others, of which pictures are kept in the logins' homes.
    fn kept_threads(&self) -> BoxFuture<'_, Vec<ThreadRef>>;

    /// Removes what Codex keeps of a thread of ours (`generated_images/<thread>`).
    fn forget<'a>(&'a self, thread: &'a ThreadRef) -> BoxFuture<'a, io::Result<()>>;

    /// The logins as they stand, in the order of the settings; reads their files.
    fn logins(&self) -> Vec<LoginStatus> {
        Vec::new()
    }

    /// What about the logins may go wrong later, in sentences for the log; reads their files.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Asks OpenAI about a login, without spending anything; with `refresh` its session is renewed.
    /// Fails when there is no such login, another process holds it, or its session is over.
    fn account<'a>(
        &'a self,
        login: &'a str,
        _refresh: bool,
    ) -> BoxFuture<'a, Result<Account, Failure>> {
        let unknown = format!("There is no login {login}.");
        Box::pin(std::future::ready(Err(Failure::new(FailureCode::NotLoggedIn, unknown))))
    }

    /// What is known of logins from before a restart: their rests and their quotas. Told once more,
    /// and without windows, it is added to what is known.
    fn restore(&self, _login: &str, _rest: Option<Rest>, _quota: Vec<QuotaWindow>) {}

    /// Leaves a login alone until then, in Unix seconds; only the time or [`Engine::wake`] ends it.
    fn rest(&self, _login: &str, _until: i64) {}

    /// Ends a login's rests, whatever they are for.
    fn wake(&self, _login: &str) {}

    /// From now on logins are used in this order.
    fn set_dispatch(&self, _dispatch: Dispatch) {}

    /// What stands in the way of every picture, whatever the logins, as far as that is known by now;
    /// starts nothing.
    fn known_problem(&self) -> Option<Failure> {
        None
    }

    /// Which Codex was found, as far as that is known by now; starts nothing.
    fn version(&self) -> Option<String> {
        None
    }

    /// When every login rests: until when the first does, in Unix seconds.
    fn all_rest_until(&self) -> Option<i64> {
        None
    }

    /// Ends every Codex that waits for work, gently; resolves when they are gone.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// How long it may take until every Codex is gone once turns are stopped: one that has just been
/// asked for something answers, is interrupted or ended, and then the rest is. A refresh of the
/// login that is under way is waited for at each end, since it cannot be repeated.
pub const LONGEST_STOP: Duration = app_server::PATIENCE
    .saturating_add(app_server::INTERRUPT)
    .saturating_add(app_server::LONGEST_END)
    .saturating_add(app_server::LONGEST_END);

/// Where news of logins go; they are few.
pub type LoginObserver = Arc<dyn Fn(LoginEvent) + Send + Sync>;

/// The engine of the settings. It never fails for a missing Codex or login: these may come later.
///
/// # Errors
/// When the system gives no thread.
pub fn engine(config: &Config, observer: LoginObserver) -> io::Result<Arc<dyn Engine>> {
    match config.codex_engine {
        EngineChoice::Demo => Ok(Arc::new(DemoEngine::new(Duration::ZERO))),
        choice => Ok(Arc::new(engine::CodexEngine::new(config, choice, observer)?)),
    }
}

/// What is wrong with the logins of the settings, in sentences for their owner, with labels and
/// paths; reads their files.
#[must_use]
pub fn login_troubles(config: &Config) -> Vec<String> {
    login_outlook(config, None)
}

/// The same of what will be wrong once logins have been seeded from the folder of credentials.
#[must_use]
pub fn login_outlook(config: &Config, credentials: Option<&Path>) -> Vec<String> {
    match config.codex_engine {
        EngineChoice::Demo => Vec::new(),
        _ => login::seed_outlook(&config.codex_homes, credentials),
    }
}

/// Seeds the logins of the settings from the credentials `auth-<label>` in this folder, and says in
/// the log what became of each. To be called at the start of a worker, before there is an engine.
pub fn seed_logins(config: &Config, credentials: Option<&Path>) {
    if let Some(credentials) = credentials
        && config.codex_engine != EngineChoice::Demo
    {
        login::seed_all(&config.codex_homes, &config.codex_state_dir, credentials);
    }
}

/// The same of one login; None when it can be used.
#[must_use]
pub fn login_trouble(home: &LoginHome) -> Option<String> {
    auth::trouble(home)
}

/// Whether this process may write where app-servers run. A command can say what is in the way; the
/// engine's failures are for callers and cannot.
///
/// # Errors
/// With the path.
pub fn check_folders(config: &Config) -> io::Result<()> {
    if config.codex_engine == EngineChoice::Demo {
        return Ok(());
    }
    let mut homes = config.codex_homes.iter();
    homes.try_for_each(|home| shadow::check(&config.codex_state_dir, &home.path))
}
