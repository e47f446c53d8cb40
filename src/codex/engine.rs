//! The engine of real Codex: app-servers where they can be had, `codex exec` where not.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tokio_util::sync::CancellationToken;

use super::{
    BoxFuture, Engine, Failure, Finished, LoginObserver, StepSink, ThreadRef, Turn,
    app_server::{Servers, Unusable},
    exec::ExecEngine,
    status::{Account, Dispatch, LoginStatus, QuotaWindow, Rest},
};
use crate::config::{Config, EngineChoice};

/// Draws by whichever way the Codex that is there allows.
pub(super) struct CodexEngine {
    exec: ExecEngine,
    servers: Arc<Servers>,
    choice: EngineChoice,
    /// The program that turned out to have no app-server.
    without_server: Mutex<Option<Stamp>>,
}

/// Which program that is: an update makes another of it.
type Stamp = (PathBuf, u64, SystemTime);

impl CodexEngine {
    /// Sets the engine up; neither Codex nor a login need to be there yet.
    pub(super) fn new(
        config: &Config,
        choice: EngineChoice,
        observer: LoginObserver,
    ) -> io::Result<Self> {
        let exec = ExecEngine::new(config, Arc::clone(&observer))?;
        let servers =
            Servers::new(config, Arc::clone(&exec.logins), Arc::clone(&exec.spawner), observer);
        Ok(Self { exec, servers, choice, without_server: Mutex::default() })
    }

    async fn run(
        &self,
        turn: &Turn,
        sink: StepSink<'_>,
        stop: CancellationToken,
    ) -> Result<Finished, Failure> {
        let stamp = self.stamp()?;
        if self.choice == EngineChoice::Exec || self.is_known_without(&stamp) {
            return self.exec.run(turn, sink, stop).await;
        }
        match self.servers.draw(turn, sink, &stop).await {
            Ok(finished) => Ok(finished),
            Err(Unusable(why)) if self.choice == EngineChoice::AppServer => Err(why),
            Err(Unusable(_)) => {
                tracing::warn!("this Codex has no usable app-server; codex exec is used instead");
                *self.without_server.lock().unwrap_or_else(PoisonError::into_inner) = Some(stamp);
                self.exec.run(turn, sink, stop).await
            }
        }
    }

    fn stamp(&self) -> Result<Stamp, Failure> {
        let program = self.exec.locate()?;
        let meta = std::fs::metadata(&program.path);
        let about = meta.and_then(|meta| Ok((meta.len(), meta.modified()?)));
        let (size, changed) = about.unwrap_or((0, SystemTime::UNIX_EPOCH));
        Ok((program.path, size, changed))
    }

    fn is_known_without(&self, stamp: &Stamp) -> bool {
        let known = self.without_server.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref() == Some(stamp)
    }
}

impl Engine for CodexEngine {
    fn draw<'a>(
        &'a self,
        turn: &'a Turn,
        sink: StepSink<'a>,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Finished> {
        Box::pin(async move {
            self.run(turn, sink, stop).await.unwrap_or_else(|failure| Finished {
                failure: Some(failure),
                ..Finished::default()
            })
        })
    }

    fn recover<'a>(&'a self, turn: &'a Turn, known: Option<ThreadRef>) -> BoxFuture<'a, Finished> {
        Box::pin(async move {
            if let Some(thread) = &known
                && self.servers.is_drawing(thread).await
            {
                // It is being drawn by this very process; it is looked for again later.
                return Finished { unsure: true, thread: known, ..Finished::default() };
            }
            self.exec.recover(turn, known).await
        })
    }

    fn capacity(&self) -> usize {
        match self.choice {
            EngineChoice::Exec => self.exec.capacity(),
            _ => usize::MAX,
        }
    }

    fn problems(&self) -> Vec<Failure> {
        self.exec.problems()
    }

    fn kept_threads(&self) -> BoxFuture<'_, Vec<ThreadRef>> {
        self.exec.kept_threads()
    }

    fn forget<'a>(&'a self, thread: &'a ThreadRef) -> BoxFuture<'a, io::Result<()>> {
        self.exec.forget(thread)
    }

    fn logins(&self) -> Vec<LoginStatus> {
        self.exec.logins.statuses()
    }

    fn account<'a>(
        &'a self,
        login: &'a str,
        refresh: bool,
    ) -> BoxFuture<'a, Result<Account, Failure>> {
        Box::pin(async move {
            let index = self.exec.logins.index(login).ok_or_else(|| {
                Failure::new(super::FailureCode::NotLoggedIn, format!("There is no login {login}."))
            })?;
            self.servers.account(index, refresh).await
        })
    }

    fn warnings(&self) -> Vec<String> {
        self.exec.logins.warnings()
    }

    fn restore(&self, login: &str, rest: Option<Rest>, quota: Vec<QuotaWindow>) {
        self.exec.logins.restore(login, rest, quota);
    }

    fn rest(&self, login: &str, until: i64) {
        self.exec.logins.leave_alone(login, until);
    }

    fn wake(&self, login: &str) {
        self.exec.logins.wake(login);
    }

    fn set_dispatch(&self, dispatch: Dispatch) {
        self.exec.logins.set_dispatch(dispatch);
    }

    fn known_problem(&self) -> Option<Failure> {
        self.exec.known_problem()
    }

    fn version(&self) -> Option<String> {
        self.exec.known_version().map(|version| version.to_string())
    }

    fn all_rest_until(&self) -> Option<i64> {
        self.exec.logins.all_rest_until()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.servers.close())
    }
}
