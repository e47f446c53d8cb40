//! One `codex app-server`: its start, the turns on it, and how it is told to end. It holds the
//! login's lock for as long as it lives, in this process and in its own hands, and its login is
//! renewed before Codex would do it in passing.

mod watch;

pub(in crate::codex) use self::watch::LONGEST_END;

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{net::unix::pipe, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    events,
    wire::{CallError, Told, Wire},
};
use crate::codex::{
    Failure, FailureCode, auth,
    login::{Lease, Refused},
    spawn::{Launch, Running, Spawner},
    status::QuotaWindow,
};

/// For an answer that needs no network but may wait behind a refresh of the login.
pub(in crate::codex) const PATIENCE: Duration = Duration::from_mins(1);

/// How one is started.
pub(super) struct Start {
    pub(super) command: std::process::Command,
    /// For what passes through; private.
    pub(super) dir: PathBuf,
    /// No file may be made larger than this.
    pub(super) largest_file: u64,
    /// So many seconds before its token expires the login is renewed.
    pub(super) renew_before: i64,
    /// After so many pictures another one is to take its place.
    pub(super) most_images: u32,
}

/// Why there is no app-server.
pub(super) enum StartError {
    /// This Codex has none that can be talked with; its last words.
    Unusable(String),
    /// It could not be tried.
    Failed(Failure),
}

/// Told what an app-server says beside its turns.
pub(super) type Heard = Arc<dyn Fn(Heed) + Send + Sync>;

/// See [`Heard`].
pub(super) enum Heed {
    /// All windows that are known by now.
    Quota(Vec<QuotaWindow>),
    /// It was killed, and why.
    Killed(&'static str),
}

/// A running app-server.
pub(super) struct Server {
    pub(super) wire: Wire,
    /// The login's.
    home: PathBuf,
    pid: i32,
    active: AtomicUsize,
    images: AtomicU32,
    pub(super) most_images: u32,
    used: Mutex<Instant>,
    /// No turn may begin any more.
    retiring: AtomicBool,
    /// Its end could not be waited for: it may still be writing.
    pub(super) lingers: AtomicBool,
    /// One asks for a refresh at a time; held until it is answered.
    refreshing: tokio::sync::Mutex<()>,
    /// The login file when a refresh was asked for that was not answered yet, if ever.
    unanswered: Mutex<Option<auth::Stamp>>,
    /// A refresh was refused: asking again and again would not help.
    unrenewable: AtomicBool,
    /// What is to become of it; the first word counts.
    orders: mpsc::UnboundedSender<Told>,
    closing: CancellationToken,
    gone: CancellationToken,
}

/// A turn on a server; nobody ends the server before it is dropped.
pub(super) struct Turn(Arc<Server>);

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.active.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Server {
    /// Starts one and introduces the service. `lease` is let go when it has ended.
    pub(super) async fn start(
        spawner: &Spawner,
        start: Start,
        lease: Lease,
        heard: Heard,
        closing: &CancellationToken,
    ) -> Result<Arc<Self>, StartError> {
        let Start { command, dir, largest_file, most_images, renew_before } = start;
        let begun = Instant::now();
        let launched = launch(spawner, command, &lease, largest_file).await;
        let (running, stdin, stdout, stderr) =
            launched.map_err(|error| StartError::Failed(broken(&error)))?;
        let (told, heeded) = mpsc::unbounded_channel();
        let wire = Wire::start(stdin, stdout, stderr, &dir, told.clone())
            .map_err(|error| StartError::Failed(broken(&error)))?;
        let server = Arc::new(Self {
            wire,
            home: lease.home().path.clone(),
            pid: running.pid().as_raw_nonzero().get(),
            active: AtomicUsize::new(0),
            images: AtomicU32::new(0),
            most_images,
            used: Mutex::new(Instant::now()),
            retiring: AtomicBool::new(false),
            lingers: AtomicBool::new(false),
            refreshing: tokio::sync::Mutex::default(),
            unanswered: Mutex::default(),
            unrenewable: AtomicBool::new(false),
            orders: told,
            closing: CancellationToken::new(),
            gone: CancellationToken::new(),
        });
        let watched = watch::Watched { running, dir, lease, renew_before };
        tokio::spawn(watch::watch(Arc::clone(&server), watched, heeded, heard));
        let info = json!({"clientInfo": {
            "name": "codex-image-service",
            "title": "codex-image-service",
            "version": env!("CARGO_PKG_VERSION"),
        }});
        let introduced =
            closing.run_until_cancelled(server.wire.call("initialize", info, PATIENCE)).await;
        let Some(introduced) = introduced else {
            server.close();
            server.gone().await;
            return Err(StartError::Failed(Refused::Stopped.into()));
        };
        if let Err(error) = introduced {
            server.kill("did not start");
            server.gone().await;
            let words = server.wire.errors().since_to_the_end(begun).await;
            tracing::error!(?error, stderr = words, "Codex's app-server does not start");
            return Err(StartError::Unusable(words));
        }
        let _ = server.wire.notify("initialized").await;
        // Before anything that would make Codex renew it in passing.
        let _ = closing.run_until_cancelled(server.renew(renew_before)).await;
        server.ask_quota();
        Ok(server)
    }

    /// Begins a turn; None when no turn may begin any more.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Turn> {
        self.active.fetch_add(1, Ordering::AcqRel);
        let turn = Turn(Arc::clone(self));
        (!self.retiring.load(Ordering::Acquire) && !self.closing.is_cancelled()).then_some(turn)
    }

    /// Has the login renewed when its token would expire within so many seconds. Asked for like
    /// this, a refresh is finished before Codex ends, also when the service is killed meanwhile. One
    /// that a turn begins by itself is cut off with the turn, and the login would be lost.
    pub(super) async fn renew(self: &Arc<Self>, seconds: i64) {
        if !self.expires_within(seconds).await {
            return;
        }
        // A task of its own: whoever does not wait for it any more does not make it forgotten.
        let server = Arc::clone(self);
        let renewed = tokio::spawn(async move {
            let _one = server.refreshing.lock().await;
            // Somebody else may just have had it renewed.
            if server.expires_within(seconds).await
                && let Err(error) = server.ask_account(true).await
            {
                // A turn that needs it says what is wrong.
                tracing::warn!(?error, "the login could not be renewed");
            }
        });
        let _ = renewed.await;
    }

    /// What OpenAI says of the login; with `refresh` its session is renewed.
    pub(super) async fn account(self: &Arc<Self>, refresh: bool) -> Result<Value, CallError> {
        let server = Arc::clone(self);
        let asked = tokio::spawn(async move {
            let _one = if refresh { Some(server.refreshing.lock().await) } else { None };
            server.ask_account(refresh).await
        });
        asked.await.unwrap_or(Err(CallError::Gone))
    }

    async fn ask_account(&self, refresh: bool) -> Result<Value, CallError> {
        let asked = json!({"refreshToken": refresh});
        if refresh {
            let file = self.stamp().await;
            *self.unanswered.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        }
        let said = self.wire.call("account/read", asked, PATIENCE).await;
        let refused = matches!(said, Err(CallError::Refused(_)));
        if refresh && (said.is_ok() || refused) {
            *self.unanswered.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.unrenewable.store(refused, Ordering::Relaxed);
        }
        said
    }

    /// Whether the login's tokens may just now be exchanged: because that was asked for and neither
    /// an answer nor a new login file is there, or by Codex itself, with a token that is about to
    /// expire.
    async fn may_refresh(&self) -> bool {
        let unanswered = *self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        match unanswered {
            Some(file) if self.stamp().await == file => true,
            _ => self.expires_within(auth::REFRESH_BEFORE).await,
        }
    }

    async fn expires_within(&self, seconds: i64) -> bool {
        self.look(move |home| auth::expires_within(home, seconds)).await.unwrap_or(false)
    }

    async fn stamp(&self) -> auth::Stamp {
        self.look(auth::stamp).await.flatten().unwrap_or_default()
    }

    /// Looks at the login's file, off the async threads.
    async fn look<T: Send + 'static>(
        &self,
        how: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Option<T> {
        let home = self.home.clone();
        tokio::task::spawn_blocking(move || how(&home)).await.ok()
    }

    /// The number of turns under way.
    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::Acquire)
    }

    /// How long no turn has been under way.
    pub(super) fn idle(&self) -> Duration {
        if self.active() > 0 {
            return Duration::ZERO;
        }
        self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Counts a picture; gives how many there were.
    pub(super) fn count_image(&self) -> u32 {
        self.images.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Resident memory in bytes, without what its helper has.
    pub(super) fn resident(&self) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    }

    /// No turn begins any more; it ends with the last.
    pub(super) fn retire(&self) {
        self.retiring.store(true, Ordering::Release);
    }

    /// Whether it takes no turns any more.
    pub(super) fn is_retiring(&self) -> bool {
        self.retiring.load(Ordering::Acquire) || self.closing.is_cancelled()
    }

    /// Asks it to end: it does so by itself, after a refresh that it was asked for.
    pub(super) fn close(&self) {
        self.closing.cancel();
    }

    /// Ends it whatever it does, but for a refresh that may be under way.
    pub(super) fn kill(&self, why: &'static str) {
        let _ = self.orders.send(Told::Broken(why));
    }

    /// Resolves when its last process is gone, or was given up.
    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Whether it is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Asks for the quota; the answer is heard.
    fn ask_quota(self: &Arc<Self>) {
        let server = Arc::clone(self);
        tokio::spawn(async move {
            let asked = server.wire.call("account/rateLimits/read", Value::Null, PATIENCE).await;
            match asked {
                Ok(answer) => {
                    let _ = server.orders.send(Told::Quota(events::quota(&answer)));
                }
                // The login may have none to tell, or the network is down; a turn says more.
                Err(error) => tracing::debug!(?error, "the quota cannot be read"),
            }
        });
    }
}

async fn launch(
    spawner: &Spawner,
    command: std::process::Command,
    lease: &Lease,
    largest_file: u64,
) -> io::Result<(Running, pipe::Sender, File, File)> {
    let (stdin, our_in) = io::pipe()?;
    let (our_out, stdout) = io::pipe()?;
    let (our_err, stderr) = io::pipe()?;
    let running = spawner
        .spawn(Launch {
            command,
            stdin: stdin.into(),
            stdout: File::from(OwnedFd::from(stdout)),
            stderr: File::from(OwnedFd::from(stderr)),
            lock: Arc::clone(&lease.lock),
            largest_file,
            // It ends at the end of its standard input, when a refresh that is under way is over. A
            // signal would end it at once while it starts, where it refreshes, too. The lock in its
            // hands keeps others away until then.
            death_signal: None,
        })
        .await?;
    let our_in = pipe::Sender::from_owned_fd(our_in.into())?;
    Ok((running, our_in, File::from(OwnedFd::from(our_out)), File::from(OwnedFd::from(our_err))))
}

fn broken(error: &io::Error) -> Failure {
    tracing::error!(%error, "Codex's app-server cannot be started");
    Failure::new(FailureCode::CodexError, "The service could not start Codex.")
}
