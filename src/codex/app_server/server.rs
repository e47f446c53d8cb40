//! One `codex app-server`: its start, its end, and the watch over it. It holds the login's lock
//! for as long as it lives, in this process and in its own hands.

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

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{net::unix::pipe, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    events,
    wire::{CallError, Told, Wire},
};
use crate::codex::{
    Failure, FailureCode, auth,
    login::Lease,
    shadow,
    spawn::{Launch, Running, Spawner},
    status::QuotaWindow,
};

/// For an answer that needs no network but may wait behind a refresh of the login.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);
/// How often an app-server at work is asked whether it still answers, and how long it may take.
const HEARTBEAT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(20);
/// After its standard input was closed. It ends in milliseconds, or when a refresh is over.
const GENTLE_END: Duration = Duration::from_secs(15);
/// Between SIGTERM and SIGKILL, and for the kernel after that.
const GRACE: Duration = Duration::from_secs(5);
/// How often the quota is asked for, at most.
const QUOTA_INTERVAL: Duration = Duration::from_mins(2);

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
    pid: i32,
    active: AtomicUsize,
    images: AtomicU32,
    pub(super) most_images: u32,
    used: Mutex<Instant>,
    /// No turn may begin any more.
    retiring: AtomicBool,
    /// Its end could not be waited for: it may still be writing.
    pub(super) lingers: AtomicBool,
    /// One asks for a refresh at a time.
    refreshing: tokio::sync::Mutex<()>,
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
    ) -> Result<Arc<Self>, StartError> {
        let Start { command, dir, largest_file, most_images, renew_before } = start;
        let home = lease.home().path.clone();
        let begun = Instant::now();
        let launched = launch(spawner, command, &lease, largest_file).await;
        let (running, stdin, stdout, stderr) =
            launched.map_err(|error| StartError::Failed(broken(&error)))?;
        let (told, heeded) = mpsc::unbounded_channel();
        let wire = Wire::start(stdin, stdout, stderr, &dir, told.clone())
            .map_err(|error| StartError::Failed(broken(&error)))?;
        let server = Arc::new(Self {
            wire,
            pid: running.pid().as_raw_nonzero().get(),
            active: AtomicUsize::new(0),
            images: AtomicU32::new(0),
            most_images,
            used: Mutex::new(Instant::now()),
            retiring: AtomicBool::new(false),
            lingers: AtomicBool::new(false),
            refreshing: tokio::sync::Mutex::default(),
            orders: told,
            closing: CancellationToken::new(),
            gone: CancellationToken::new(),
        });
        tokio::spawn(watch(Arc::clone(&server), running, dir, lease, heeded, heard));
        let info = json!({"clientInfo": {
            "name": "codex-image-service",
            "title": "codex-image-service",
            "version": env!("CARGO_PKG_VERSION"),
        }});
        let introduced = server.wire.call("initialize", info, PATIENCE).await;
        if let Err(error) = introduced {
            server.kill("did not start");
            server.gone().await;
            let words = server.wire.last_errors_since(begun).await;
            tracing::error!(?error, stderr = words, "Codex's app-server does not start");
            return Err(StartError::Unusable(words));
        }
        let _ = server.wire.notify("initialized").await;
        // Before anything that would make Codex renew it in passing.
        server.renew(&home, renew_before).await;
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
    pub(super) async fn renew(&self, home: &Path, seconds: i64) {
        let is_due = || {
            let home = home.to_owned();
            tokio::task::spawn_blocking(move || auth::expires_within(&home, seconds))
        };
        if !is_due().await.unwrap_or(false) {
            return;
        }
        let _one = self.refreshing.lock().await;
        // Somebody else may just have had it renewed.
        if is_due().await.unwrap_or(false) {
            let renew = json!({"refreshToken": true});
            let renewed = self.wire.call("account/read", renew, PATIENCE).await;
            if let Err(error) = renewed {
                // A turn that needs it says what is wrong.
                tracing::warn!(?error, "the login could not be renewed");
            }
        }
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

    /// Asks it to end: it does so by itself, after a refresh that is under way.
    pub(super) fn close(&self) {
        self.closing.cancel();
    }

    /// Ends it whatever it does.
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

/// Sees an app-server to its end, whatever the end is.
async fn watch(
    server: Arc<Server>,
    mut running: Running,
    dir: PathBuf,
    lease: Lease,
    mut told: mpsc::UnboundedReceiver<Told>,
    heard: Heard,
) {
    let mut windows: Vec<QuotaWindow> = Vec::new();
    let mut asked = Instant::now();
    let mut beat = tokio::time::interval(HEARTBEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    beat.tick().await;
    let why = loop {
        tokio::select! {
            () = running.ended() => break Some("ended by itself"),
            () = server.closing.cancelled() => break None,
            news = told.recv() => match news {
                Some(Told::Quota(news)) => {
                    merge(&mut windows, news);
                    heard(Heed::Quota(windows.clone()));
                }
                Some(Told::Broken(why)) => break Some(why),
                None => break None,
            },
            _ = beat.tick() => {
                if server.active() > 0 {
                    listen_for_life(&server);
                    if asked.elapsed() >= QUOTA_INTERVAL {
                        asked = Instant::now();
                        server.ask_quota();
                    }
                }
            }
        }
    };
    server.retire();
    if why.is_none() {
        // The writer lets go of the pipe, and Codex ends by itself.
        server.wire.close();
        let _ = tokio::time::timeout(GENTLE_END, running.ended()).await;
    }
    let ended = has_ended(&running).await;
    if let Some(why) = why.filter(|_| !ended) {
        tracing::error!(login = lease.home().label, why, "Codex's app-server is killed");
    }
    if !ended {
        // Stopped, it would take no signal but SIGKILL.
        running.signal(Signal::TERM);
        let _ = tokio::time::timeout(GRACE, running.ended()).await;
    }
    let killed = !has_ended(&running).await;
    let reaped = tokio::time::timeout(GRACE, running.reap()).await;
    if matches!(reaped, Ok(Ok(_))) {
        // Nobody else begins there before the lease is let go.
        let _ = tokio::task::spawn_blocking(move || shadow::sweep(&dir)).await;
    } else {
        tracing::error!(
            ?reaped,
            login = lease.home().label,
            "the end of Codex cannot be waited for"
        );
        server.lingers.store(true, Ordering::Release);
    }
    server.wire.close();
    match why {
        Some(why) if ended => {
            tracing::warn!(login = lease.home().label, status = ?reaped, why, "Codex's app-server ended");
            heard(Heed::Killed("ended without being asked"));
        }
        Some(why) => heard(Heed::Killed(why)),
        None if killed => heard(Heed::Killed("did not end when asked")),
        None => {}
    }
    drop(lease);
    server.gone.cancel();
}

/// True when it has, now.
async fn has_ended(running: &Running) -> bool {
    tokio::time::timeout(Duration::from_millis(1), running.ended()).await.is_ok()
}

/// One that works and does not answer is as good as dead.
fn listen_for_life(server: &Arc<Server>) {
    let server = Arc::clone(server);
    tokio::spawn(async move {
        let asked = server.wire.call("thread/loaded/list", json!({}), SILENCE).await;
        if asked == Err(CallError::Late) {
            server.kill("does not answer");
        }
    });
}

/// News of one limit do not take away what is known of the others.
fn merge(windows: &mut Vec<QuotaWindow>, news: Vec<QuotaWindow>) {
    windows.retain(|old| news.iter().all(|new| new.limit != old.limit));
    windows.extend(news);
    windows.sort_by(|a, b| (&a.limit, a.minutes).cmp(&(&b.limit, b.minutes)));
}

fn broken(error: &io::Error) -> Failure {
    tracing::error!(%error, "Codex's app-server cannot be started");
    Failure::new(FailureCode::CodexError, "The service could not start Codex.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_of_a_limit_leave_the_others() {
        let window = |limit: &str, minutes, used_percent| QuotaWindow {
            limit: limit.into(),
            minutes,
            used_percent,
            resets_at: None,
        };
        let mut known = vec![window("codex", 300, 1), window("image_gen", 300, 2)];
        merge(&mut known, vec![window("codex", 300, 50), window("codex", 10_080, 3)]);
        let expected =
            [window("codex", 300, 50), window("codex", 10_080, 3), window("image_gen", 300, 2)];
        assert_eq!(known, expected);
    }
}
