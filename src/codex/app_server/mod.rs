//! The engine that keeps one warm `codex app-server` for each login and runs many turns at once on
//! it: it refreshes the login once for all of them, names pictures and failures as such, tells the
//! quota and can be interrupted. It promises that a turn's thread is told before its picture is
//! asked for, that no child is ended in the middle of a turn without need, and that a child which
//! does not answer is replaced.

mod decode;
mod events;
mod pool;
mod scan;
mod server;
mod stderr;
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

use self::{pool::NotStarted, server::Server, wire::CallError};
pub(super) use self::{
    server::{LONGEST_END, PATIENCE},
    turn::INTERRUPT,
};
use super::{
    Failure, FailureCode, Finished, LoginObserver, Step, StepSink, ThreadRef, Turn, auth, clip,
    command,
    exec::without_login,
    failures,
    login::{Logins, Verdict},
    spawn::Spawner,
    status::Account,
};
use crate::config::{Config, Live};

/// The app-servers of all logins.
pub(super) struct Servers {
    bin: PathBuf,
    model: Option<String>,
    environment: Vec<(&'static str, OsString)>,
    live: Live,
    /// Where the shadows of the logins' homes are.
    pub(super) shadows: PathBuf,
    logins: Arc<Logins>,
    spawner: Arc<Spawner>,
    observer: LoginObserver,
    limits: Limits,
    slots: Vec<Arc<Mutex<Option<Arc<Server>>>>>,
    /// No app-server is started any more.
    closing: CancellationToken,
}

/// When an app-server is ended although nothing is wrong with it.
#[derive(Clone, Copy)]
struct Limits {
    idle: Duration,
    images: u32,
    resident: u64,
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
            live: config.live.clone(),
            shadows: config.codex_state_dir.clone(),
            slots: logins.homes().iter().map(|_| Arc::default()).collect(),
            closing: CancellationToken::new(),
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
        let mut left = self.live.now().codex_timeout;
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
            let login = &self.logins.homes()[index].label;
            let (job_id, position) = (&turn.job_id, turn.position);
            tracing::info!(job_id, position, login, "turn is given to a login");
            let begun = Instant::now();
            let renewal = server.renew(self.renew_before());
            let _ = stop.run_until_cancelled(renewal).await;
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
                tracing::warn!(job_id, login, "Codex ended in the middle of a turn; once more");
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
        let begun = Instant::now();
        let found = loop {
            match self.on(index).await {
                Err(NotStarted::Busy(_)) if begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                found => break found,
            }
        };
        let (server, _turn) = found.map_err(|error| match error {
            NotStarted::Elsewhere => Failure::new(
                FailureCode::CodexError,
                format!("The login {label} is in use by another process, the service perhaps."),
            ),
            NotStarted::Busy(_) => Failure::new(
                FailureCode::CodexError,
                format!("The login {label} is in use; try again later."),
            ),
            NotStarted::Unusable(failure) | NotStarted::Failed(failure) => failure,
        })?;
        let account = server.account(refresh).await.map_err(|error| match error {
            CallError::Refused(words) => failures::turn(&words),
            CallError::Late | CallError::Gone => {
                Failure::new(FailureCode::CodexError, "Codex does not answer.")
            }
        })?;
        let quota = server.wire.call("account/rateLimits/read", Value::Null, PATIENCE).await;
        let quota = match quota {
            Ok(said) => Some(events::quota(&said)),
            // The session is asked for here, and only here.
            Err(CallError::Refused(words)) => return Err(failures::turn(&words)),
            // What is known stays known.
            Err(CallError::Late | CallError::Gone) => None,
        };
        if let Some(windows) = quota {
            self.logins.note_quota(index, windows);
        }
        let logins = Arc::clone(&self.logins);
        let _ = tokio::task::spawn_blocking(move || logins.look(index)).await;
        let plan = account["account"]["planType"].as_str();
        let quota = self.logins.quota(index);
        Ok(Account { plan: plan.map(|plan| clip::words(plan, 64)), quota })
    }
}

fn broken(error: &io::Error, what: &'static str) -> Failure {
    tracing::error!(%error, "{what}");
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
