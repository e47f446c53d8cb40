//! The engine that keeps one warm `codex app-server` for each login and runs many turns at once on
//! it: it refreshes the login once for all of them, names pictures and failures as such, tells the
//! quota and can be interrupted. It promises that a turn's thread is told before its picture is
//! asked for, that no child is ended in the middle of a turn without need, and that a child which
//! does not answer is replaced.

mod events;
mod scan;
mod server;
mod turn;
mod wire;

use std::{
    ffi::OsString,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use self::{
    server::{Heed, Server, Start, StartError},
    wire::CallError,
};
use super::{
    Failure, FailureCode, Finished, LoginObserver, Step, StepSink, ThreadRef, Turn, auth, clip,
    command,
    exec::without_login,
    failures, locate,
    locate::Program,
    login::{Lease, Logins, Refused, Verdict},
    shadow,
    spawn::Spawner,
    status::{Account, LoginEvent, LoginNews},
    versions::{self, Version},
};
use crate::config::Config;

/// For a first turn of nobody: how often it is looked whether an app-server has idled long enough.
const IDLE_LOOK: Duration = Duration::from_secs(1);
/// What Codex writes beside pictures (its databases) stays far below.
const LARGEST_FILE: u64 = 1024 * 1024 * 1024;
/// How often a home that another process holds is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// The app-servers of all logins.
pub(super) struct Servers {
    bin: PathBuf,
    model: Option<String>,
    environment: Vec<(&'static str, OsString)>,
    timeout: Duration,
    /// Where the shadows of the logins' homes are.
    pub(super) shadows: PathBuf,
    logins: Arc<Logins>,
    spawner: Arc<Spawner>,
    observer: LoginObserver,
    limits: Limits,
    slots: Vec<Mutex<Option<Arc<Server>>>>,
}

/// When an app-server is ended although nothing is wrong with it.
#[derive(Clone, Copy)]
struct Limits {
    idle: Duration,
    images: u32,
    resident: u64,
}

/// Why a turn was not begun on a login.
enum NotStarted {
    /// Another process holds it.
    Elsewhere,
    /// This Codex has no app-server that can be talked with.
    Unusable(Failure),
    Failed(Failure),
}

/// The Codex that is there has no app-server that can be talked with, and why; nothing was asked
/// of it.
pub(super) struct Unusable(pub(super) Failure);

impl Servers {
    pub(super) fn new(
        config: &Config,
        logins: Arc<Logins>,
        spawner: Arc<Spawner>,
        observer: LoginObserver,
    ) -> Arc<Self> {
        Arc::new(Self {
            bin: config.codex_bin.clone(),
            model: config.codex_model.clone().filter(|model| !model.is_empty()),
            environment: command::inherited(config),
            timeout: config.codex_timeout,
            shadows: config.shadows_dir(),
            slots: logins.homes().iter().map(|_| Mutex::default()).collect(),
            logins,
            spawner,
            observer,
            limits: Limits {
                idle: config.codex_idle,
                images: config.codex_recycle_images,
                resident: config.codex_max_rss_mb * 1024 * 1024,
            },
        })
    }

    /// One picture, with one login after the other for as long as the reason is the login's own.
    pub(super) async fn draw(
        self: &Arc<Self>,
        turn: &Turn,
        sink: StepSink<'_>,
        stop: &CancellationToken,
    ) -> Result<Finished, Unusable> {
        let mut tried = Vec::new();
        let mut left = self.timeout;
        let mut last: Option<Finished> = None;
        // A child may die of itself; what was lost with it is drawn again, once.
        let mut deaths = 0;
        loop {
            let (index, server, under_way) = match self.server(&tried, stop).await {
                Ok(found) => found,
                Err(NotStarted::Unusable(why)) if last.is_none() => return Err(Unusable(why)),
                Err(NotStarted::Failed(failure)) => return Ok(without_login(last, failure)),
                Err(_) => return Ok(last.unwrap_or_default()),
            };
            let begun = Instant::now();
            server.renew(&self.logins.homes()[index].path, self.renew_before()).await;
            let attempt = turn::Attempt {
                servers: self,
                server: &server,
                home: &self.logins.homes()[index],
                turn,
                sink,
                stop,
                timeout: left,
            };
            let (finished, ended) = attempt.run().await;
            drop(under_way);
            left = left.saturating_sub(begun.elapsed());
            self.after_turn(index, &server, !finished.candidates.is_empty());
            let broke_off = ended.died && finished.candidates.is_empty() && !finished.unsure;
            if broke_off && deaths == 0 && !left.is_zero() && !stop.is_cancelled() {
                deaths += 1;
                tracing::warn!(job = turn.job_id, "Codex ended in the middle of a turn; once more");
                continue;
            }
            let failure = finished.failure.clone().filter(|_| finished.candidates.is_empty());
            let logins = Arc::clone(&self.logins);
            let judged = tokio::task::spawn_blocking(move || {
                let limit = ended.limit.as_deref();
                logins.judge(index, failure.as_ref().map_or(Ok(()), Err), limit)
            });
            let verdict = judged.await.unwrap_or(Verdict::Final);
            // What may have been drawn already is not drawn again with another login.
            let next =
                verdict == Verdict::NextLogin && finished.candidates.is_empty() && !finished.unsure;
            if !next || left.is_zero() || stop.is_cancelled() {
                return Ok(finished);
            }
            tried.push(index);
            last = Some(finished);
        }
    }

    /// A server of the login that is next, with a turn begun on it.
    async fn server(
        self: &Arc<Self>,
        tried: &[usize],
        stop: &CancellationToken,
    ) -> Result<(usize, Arc<Server>, server::Turn), NotStarted> {
        let mut elsewhere = Vec::new();
        let mut said = false;
        loop {
            if stop.is_cancelled() {
                return Err(NotStarted::Failed(Refused::Stopped.into()));
            }
            let (logins, passed) = (Arc::clone(&self.logins), [tried, &elsewhere].concat());
            let chosen =
                tokio::task::spawn_blocking(move || logins.choose(&passed)).await.map_err(
                    |error| NotStarted::Failed(broken(&error.into(), "no login can be chosen")),
                )?;
            let index = match chosen {
                Ok(index) => index,
                Err(failure) if elsewhere.is_empty() => return Err(NotStarted::Failed(failure)),
                Err(_) => {
                    // All that is left is held by others.
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!("every usable login is held by another process; waiting");
                    }
                    elsewhere.clear();
                    let _ = stop.run_until_cancelled(tokio::time::sleep(TRY_AGAIN)).await;
                    continue;
                }
            };
            match self.on(index).await {
                Ok((server, turn)) => return Ok((index, server, turn)),
                Err(NotStarted::Elsewhere) => elsewhere.push(index),
                Err(other) => return Err(other),
            }
        }
    }

    /// The server of this login, started when there is none that takes turns.
    async fn on(self: &Arc<Self>, index: usize) -> Result<(Arc<Server>, server::Turn), NotStarted> {
        let mut slot = self.slots[index].lock().await;
        if let Some(server) = slot.as_ref() {
            if let Some(turn) = server.begin() {
                return Ok((Arc::clone(server), turn));
            }
            // It ends with its last turn, and others wait for that as we do.
            while !server.is_gone() {
                if server.active() == 0 {
                    server.close();
                }
                let gone = server.gone();
                let _ = tokio::time::timeout(Duration::from_millis(50), gone).await;
            }
            *slot = None;
        }
        let lease = match self.logins.try_this(index).await {
            Ok(Some(lease)) => lease,
            Ok(None) => return Err(NotStarted::Elsewhere),
            Err(refused) => return Err(NotStarted::Failed(refused.into())),
        };
        let server = self.start(index, lease).await?;
        *slot = Some(Arc::clone(&server));
        drop(slot);
        self.end_when_idle(index, Arc::clone(&server));
        match server.begin() {
            Some(turn) => Ok((server, turn)),
            None => Err(NotStarted::Failed(Failure::new(
                FailureCode::CodexError,
                "Codex's app-server ended as soon as it was started.",
            ))),
        }
    }

    async fn start(
        self: &Arc<Self>,
        index: usize,
        lease: Lease,
    ) -> Result<Arc<Server>, NotStarted> {
        lease.serve();
        let servers = Arc::clone(self);
        let prepared = tokio::task::spawn_blocking(move || servers.prepare(index)).await;
        let (start, version) = prepared
            .unwrap_or_else(|error| Err(broken(&error.into(), "an app-server")))
            .map_err(NotStarted::Failed)?;
        let servers = Arc::clone(self);
        let heard = Arc::new(move |heed| servers.heed(index, heed));
        tracing::info!(login = lease.home().label, "starting Codex's app-server");
        match Server::start(&self.spawner, start, lease, heard).await {
            Ok(server) => Ok(server),
            Err(StartError::Unusable(words)) => {
                Err(NotStarted::Unusable(versions::refusal(version, &words).unwrap_or_else(|| {
                    Failure::new(
                        FailureCode::CodexError,
                        "Codex's app-server does not start; the service's log says more.",
                    )
                })))
            }
            Err(StartError::Failed(failure)) => Err(NotStarted::Failed(failure)),
        }
    }

    /// All that touches the disk before a start.
    fn prepare(&self, index: usize) -> Result<(Start, Option<Version>), Failure> {
        let program = self.locate()?;
        let version = versions::usable(&program, &self.environment)?;
        let home = &self.logins.homes()[index].path;
        let shadow = shadow::prepare(&self.shadows, home)
            .map_err(|error| broken(&error, "the folder of an app-server cannot be made"))?;
        let command = command::app_server(&command::Serve {
            program: &program,
            version,
            home,
            shadow: &shadow,
            model: self.model.as_deref(),
            environment: &self.environment,
        });
        let most_images = self.limits.images.min(versions::most_images(version));
        let renew_before = self.renew_before();
        let start =
            Start { command, dir: shadow, largest_file: LARGEST_FILE, most_images, renew_before };
        Ok((start, version))
    }

    fn locate(&self) -> Result<Program, Failure> {
        locate::locate(&self.bin, command::value(&self.environment, "PATH"))
    }

    /// So early that no turn comes to where Codex renews a login by itself, in seconds.
    fn renew_before(&self) -> i64 {
        let turn = i64::try_from(self.timeout.as_secs()).unwrap_or(i64::MAX / 2);
        auth::REFRESH_BEFORE + turn + 60
    }

    /// What a server says beside its turns.
    fn heed(&self, index: usize, heed: Heed) {
        match heed {
            Heed::Quota(windows) => self.logins.note_quota(index, windows),
            Heed::Killed(why) => {
                let home = &self.logins.homes()[index];
                let during_refresh = auth::refresh_is_due(&home.path);
                let what = LoginNews::Killed { why, during_refresh };
                (self.observer)(LoginEvent { login: home.label.clone(), what });
            }
        }
    }

    /// A server that has done enough takes no more turns.
    fn after_turn(self: &Arc<Self>, index: usize, server: &Arc<Server>, drawn: bool) {
        let images = if drawn { server.count_image() } else { 0 };
        let logins = Arc::clone(&self.logins);
        let (server, limits) = (Arc::clone(server), self.limits);
        tokio::task::spawn_blocking(move || {
            logins.look(index);
            let resident = server.resident().unwrap_or(0);
            if images >= server.most_images || resident > limits.resident {
                tracing::info!(
                    images,
                    resident,
                    "Codex's app-server is replaced after its last turn"
                );
                server.retire();
            }
        });
    }

    fn end_when_idle(self: &Arc<Self>, index: usize, server: Arc<Server>) {
        let servers = Arc::clone(self);
        tokio::spawn(async move {
            let look = servers.limits.idle.min(IDLE_LOOK);
            loop {
                tokio::select! {
                    () = server.gone() => return,
                    () = tokio::time::sleep(look) => {}
                }
                let over = server.is_retiring() && server.active() == 0;
                if !over && server.idle() < servers.limits.idle {
                    continue;
                }
                // Turns begin under this lock: none begins between the look and the end.
                let Ok(mut slot) = servers.slots[index].try_lock() else { continue };
                if server.active() == 0 {
                    server.close();
                    server.gone().await;
                    slot.take_if(|current| Arc::ptr_eq(current, &server));
                    return;
                }
            }
        });
    }

    /// What OpenAI says of a login, without spending anything; with `refresh` its session is renewed.
    /// An app-server is started for it when there is none.
    pub(super) async fn account(
        self: &Arc<Self>,
        index: usize,
        refresh: bool,
    ) -> Result<Account, Failure> {
        let label = &self.logins.homes()[index].label;
        let home = self.logins.homes()[index].path.clone();
        tokio::task::spawn_blocking(move || auth::check(&home))
            .await
            .map_err(|error| broken(&error.into(), "a login cannot be looked at"))??;
        let (server, _turn) = self.on(index).await.map_err(|error| match error {
            NotStarted::Elsewhere => Failure::new(
                FailureCode::CodexError,
                format!("The login {label} is in use by another process, the service perhaps."),
            ),
            NotStarted::Unusable(failure) | NotStarted::Failed(failure) => failure,
        })?;
        let asked = serde_json::json!({"refreshToken": refresh});
        let said = server.wire.call("account/read", asked, server::PATIENCE).await;
        let account = said.map_err(|error| match error {
            CallError::Refused(words) => failures::turn(&words),
            CallError::Late | CallError::Gone => {
                Failure::new(FailureCode::CodexError, "Codex does not answer.")
            }
        })?;
        let quota =
            server.wire.call("account/rateLimits/read", Value::Null, server::PATIENCE).await;
        let quota = match quota {
            Ok(said) => events::quota(&said),
            // The session is asked for here, and only here.
            Err(CallError::Refused(words)) => return Err(failures::turn(&words)),
            Err(_) => Vec::new(),
        };
        self.logins.note_quota(index, quota.clone());
        let logins = Arc::clone(&self.logins);
        let _ = tokio::task::spawn_blocking(move || logins.look(index)).await;
        let plan = account["account"]["planType"].as_str();
        Ok(Account { plan: plan.map(|plan| clip::words(plan, 64)), quota })
    }

    /// Ends all of them, gently; resolves when they are gone.
    pub(super) async fn close(&self) {
        let mut ending = Vec::new();
        for slot in &self.slots {
            if let Some(server) = slot.lock().await.take() {
                server.close();
                ending.push(server);
            }
        }
        for server in ending {
            server.gone().await;
        }
    }

    /// Whether a turn of this thread may still be under way.
    pub(super) async fn is_drawing(&self, thread: &ThreadRef) -> bool {
        let Some(index) = self.logins.index(&thread.login) else { return false };
        let server = self.slots[index].lock().await.clone();
        server.is_some_and(|server| !server.is_gone() && server.wire.is_busy_with(&thread.thread))
    }
}

fn broken(error: &io::Error, what: &'static str) -> Failure {
    tracing::error!(%error, what);
    Failure::new(FailureCode::CodexError, "The service could not start Codex.")
}

/// Tells a step; a helper for [`turn`].
async fn tell(sink: StepSink<'_>, login: &str, thread: &str) {
    sink(Step::Thread(ThreadRef { login: login.to_owned(), thread: thread.to_owned() })).await;
}

/// The words for a turn that its own words explain; see [`failures`].
fn words_failure(message: &str) -> Failure {
    failures::turn(message)
}
