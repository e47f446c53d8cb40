//! The one warm app-server of each login: started when a turn needs it, shared by all turns on that
//! login, replaced when it has done enough, ended when it has idled. No turn begins on one that is
//! about to end, and none is ended under a turn.

use std::{sync::Arc, time::Duration};

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use super::{
    Servers, broken,
    server::{Heed, Server, Start, StartError, Turn},
};
use crate::codex::{
    Failure, FailureCode, ThreadRef, auth, command,
    locate::{self, Program},
    login::{Lease, Refused, Taken},
    shadow,
    status::{LoginEvent, LoginNews},
    versions::{self, Version},
};

/// For a first turn of nobody: how often it is looked whether an app-server has idled long enough.
const IDLE_LOOK: Duration = Duration::from_secs(1);
/// What Codex writes beside pictures (its databases) stays far below.
const LARGEST_FILE: u64 = 1024 * 1024 * 1024;
/// How often a login that is in other hands is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// The same of one whose app-server ends with its last turn, unless that ends before.
const LAST_TURN: Duration = Duration::from_secs(1);

/// Why a turn was not begun on a login.
pub(super) enum NotStarted {
    /// Another process holds it.
    Elsewhere,
    /// Something of this process has it: an app-server that ends with its last turn, if one.
    Busy(Option<Arc<Server>>),
    /// This Codex has no app-server that can be talked with.
    Unusable(Failure),
    Failed(Failure),
}

impl Servers {
    /// A server of the login that is next, with a turn begun on it.
    pub(super) async fn server(
        self: &Arc<Self>,
        tried: &[usize],
        stop: &CancellationToken,
    ) -> Result<(usize, Arc<Server>, Turn), NotStarted> {
        let (mut elsewhere, mut busy) = (Vec::new(), Vec::new());
        // One that is about to be free.
        let mut next: Option<Arc<Server>> = None;
        let mut said = false;
        loop {
            if stop.is_cancelled() {
                return Err(NotStarted::Failed(Refused::Stopped.into()));
            }
            let (logins, passed) = (Arc::clone(&self.logins), [tried, &elsewhere, &busy].concat());
            let chosen =
                tokio::task::spawn_blocking(move || logins.choose(&passed)).await.map_err(
                    |error| NotStarted::Failed(broken(&error.into(), "no login can be chosen")),
                )?;
            let index = match chosen {
                Ok(index) => index,
                Err(failure) if elsewhere.is_empty() && busy.is_empty() => {
                    return Err(NotStarted::Failed(failure));
                }
                Err(_) => {
                    // All that is left is in other hands.
                    if busy.is_empty() && !std::mem::replace(&mut said, true) {
                        tracing::warn!("every usable login is held by another process; waiting");
                    }
                    elsewhere.clear();
                    busy.clear();
                    let next = next.take();
                    let freed = async {
                        match &next {
                            Some(server) => {
                                let _ = tokio::time::timeout(LAST_TURN, server.gone()).await;
                            }
                            None => tokio::time::sleep(TRY_AGAIN).await,
                        }
                    };
                    let _ = stop.run_until_cancelled(freed).await;
                    continue;
                }
            };
            let Some(found) = stop.run_until_cancelled(self.on(index)).await else { continue };
            match found {
                Ok((server, turn)) => return Ok((index, server, turn)),
                Err(NotStarted::Elsewhere) => elsewhere.push(index),
                Err(NotStarted::Busy(server)) => {
                    next = next.or(server);
                    busy.push(index);
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// The server of this login, started when there is none. It does not wait for one that ends.
    /// Dropped, what it has begun is finished all the same, and in its place.
    pub(super) async fn on(
        self: &Arc<Self>,
        index: usize,
    ) -> Result<(Arc<Server>, Turn), NotStarted> {
        let mut slot = Arc::clone(&self.slots[index]).lock_owned().await;
        if let Some(server) = slot.as_ref() {
            if let Some(turn) = server.begin() {
                return Ok((Arc::clone(server), turn));
            }
            if !server.is_gone() {
                // It ends with its last turn; none begins on it any more.
                if server.active() == 0 {
                    server.close();
                }
                return Err(NotStarted::Busy(Some(Arc::clone(server))));
            }
            *slot = None;
        }
        let servers = Arc::clone(self);
        let started = tokio::spawn(async move { servers.start_in(slot, index).await });
        started.await.unwrap_or_else(|error| {
            Err(NotStarted::Failed(broken(&error.into(), "an app-server cannot be started")))
        })
    }

    async fn start_in(
        self: Arc<Self>,
        mut slot: OwnedMutexGuard<Option<Arc<Server>>>,
        index: usize,
    ) -> Result<(Arc<Server>, Turn), NotStarted> {
        if self.closing.is_cancelled() {
            return Err(NotStarted::Failed(Refused::Stopped.into()));
        }
        let lease = match self.logins.try_this(index).await {
            Ok(Taken::Lease(lease)) => lease,
            Ok(Taken::Here) => return Err(NotStarted::Busy(None)),
            Ok(Taken::Elsewhere) => return Err(NotStarted::Elsewhere),
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
        match Server::start(&self.spawner, start, lease, heard, &self.closing).await {
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
    pub(super) fn renew_before(&self) -> i64 {
        let turn = i64::try_from(self.live.now().codex_timeout.as_secs()).unwrap_or(i64::MAX / 2);
        auth::REFRESH_BEFORE + turn + 60
    }

    /// What a server says beside its turns.
    fn heed(self: &Arc<Self>, index: usize, heed: Heed) {
        match heed {
            Heed::Quota(windows) => self.logins.note_quota(index, windows),
            Heed::Killed(why) => {
                let servers = Arc::clone(self);
                // It reads the login's file.
                tokio::task::spawn_blocking(move || {
                    let home = &servers.logins.homes()[index];
                    let during_refresh = auth::refresh_is_due(&home.path);
                    let what = LoginNews::Killed { why, during_refresh };
                    (servers.observer)(LoginEvent { login: home.label.clone(), what });
                });
            }
        }
    }

    /// A server that has done enough takes no more turns.
    pub(super) fn after_turn(self: &Arc<Self>, index: usize, server: &Arc<Server>, drawn: bool) {
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

    /// Ends all of them, gently; resolves when they are gone. None is started any more.
    pub(in crate::codex) async fn close(&self) {
        self.closing.cancel();
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
    pub(in crate::codex) async fn is_drawing(&self, thread: &ThreadRef) -> bool {
        let Some(index) = self.logins.index(&thread.login) else { return false };
        let server = self.slots[index].lock().await.clone();
        server.is_some_and(|server| !server.is_gone() && server.wire.is_busy_with(&thread.thread))
    }
}
