//! The working half: claims jobs as slots become free, renews their leases, recovers what a dead
//! worker left, and drains when asked to stop.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    bell::{Doorbell, Listener, Ring},
    pause::Pause,
    pulse::Pulse,
    recover, run,
    slots::Slots,
};
use crate::{
    activity::{Activity, UnderWay},
    codex::Engine,
    config::Live,
    images,
    names::JobId,
    store::{Store, StoreError, claims::Claim, jobs::Phase},
};

/// How long a claim holds without being renewed.
const LEASE: Duration = Duration::from_mins(1);

/// How often leases are renewed, abandoned jobs looked for, and the queue looked at unasked.
const TICK: Duration = Duration::from_secs(10);

/// The longest time between two turns of the claiming loop when all is well.
pub const LONGEST_TURN: Duration = TICK.saturating_mul(3);

/// Told when a turn ends.
pub type TurnObserver = Arc<dyn Fn(Duration) + Send + Sync>;

/// Told when a job becomes final: its state and, when it failed, the code.
pub type JobObserver = Arc<dyn Fn(&'static str, Option<&'static str>) + Send + Sync>;

/// What a worker works with.
pub struct Workshop {
    /// Where jobs come from and results go.
    pub store: Store,
    /// What draws.
    pub engine: Arc<dyn Engine>,
    /// How many pictures at once, how long a job may wait for a quota to start anew, how long its
    /// files are kept when it is finished, and how long a stop waits for it.
    pub live: Live,
    /// Folder of verified pictures.
    pub generated_dir: PathBuf,
    /// Folder of the turns' own folders.
    pub workdir: PathBuf,
    /// Folder of the jobs' references.
    pub references_dir: PathBuf,
    /// Rung when a job becomes final.
    pub front_bell: Doorbell,
    /// Notified when the operator asks something.
    pub orders: Arc<Notify>,
    /// Every job that is worked on is under way.
    pub activity: Activity,
    /// By this it can be asked to keep still.
    pub pause: Pause,
    /// Seconds that Codex took.
    pub on_turn: TurnObserver,
    /// How jobs end.
    pub on_final: JobObserver,
    /// Of the loop that claims.
    pub pulse: Arc<Pulse>,
}

/// A worker at work.
pub(super) struct Worker {
    pub(super) shop: Workshop,
    /// Who holds this worker's leases: fresh for each start.
    pub(super) owner: String,
    /// A slot is a picture in the making.
    pub(super) slots: Arc<Slots>,
    /// Decoding a picture takes memory.
    pub(super) decoders: Semaphore,
    pub(super) tasks: TaskTracker,
    /// Set when the grace is over: running Codexes are stopped, their jobs given back.
    pub(super) stop: CancellationToken,
    running: Mutex<HashMap<JobId, CancellationToken>>,
    more: Notify,
}

/// Works until `drain` is cancelled; then lets what runs end, for the grace of the settings at most or
/// until `hurry` is cancelled, and stops it.
///
/// Waits first until no other worker works on the same state: the lock is freed by the system
/// when a process dies, so whatever is still marked as running then is abandoned. Only then it
/// begins to listen to `bell`: the other's must not be taken from it, and what it knew is now told.
/// `beginning` is under way until then, and until what was left is taken over.
pub async fn work(
    shop: Workshop,
    lock_file: &Path,
    bell: impl AsyncFnOnce() -> io::Result<Listener>,
    beginning: UnderWay,
    drain: CancellationToken,
    hurry: CancellationToken,
) -> io::Result<()> {
    let Some(_lock) = become_the_only_one(lock_file, &drain).await? else { return Ok(()) };
    let mut bell = bell().await?;
    let ears = bell.take_ears();
    let slots = Arc::new(Slots::new(&shop.live, shop.engine.capacity()));
    let worker = Arc::new(Worker {
        shop,
        owner: Uuid::new_v4().to_string(),
        slots: Arc::clone(&slots),
        decoders: Semaphore::new(images::DECODES_AT_ONCE),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
        running: Mutex::default(),
        more: Notify::new(),
    });

    let upkeep = tokio::spawn(Arc::clone(&worker).upkeep());
    let resizing = tokio::spawn(slots.follow(worker.shop.live.clone()));
    let listener = Arc::clone(&worker);
    let listening = tokio::spawn(async move {
        while let Some(ring) = bell.recv().await {
            match ring {
                Ring::Any => listener.more.notify_one(),
                Ring::Order => listener.shop.orders.notify_one(),
                Ring::Job(id) | Ring::Phase(id) => {
                    if let Some(id) = JobId::parse(&id) {
                        listener.recheck(&id).await;
                    }
                }
            }
        }
    });

    worker.shop.pulse.beat();
    worker.take_over(true).await;
    drop(beginning);
    worker.claim_with_pauses(ears, &drain).await;
    worker.shop.pulse.stop();
    let grace = worker.shop.live.now().shutdown_grace;

    worker.tasks.close();
    let running = worker.tasks.len();
    if running > 0 {
        tracing::info!(running, grace_seconds = grace.as_secs(), "letting running jobs end");
    }
    let drained = tokio::select! {
        () = worker.tasks.wait() => true,
        () = tokio::time::sleep(grace) => false,
        () = hurry.cancelled() => false,
    };
    if !drained {
        tracing::warn!(running = worker.tasks.len(), "the grace is over; stopping what still runs");
        worker.stop.cancel();
        worker.tasks.wait().await;
    }
    listening.abort();
    upkeep.abort();
    resizing.abort();
    // Only now: nothing is in the middle of a turn.
    worker.shop.engine.close().await;
    Ok(())
}

impl Worker {
    /// Claims a job whenever a slot is free and a job waits, until `drain` is cancelled.
    pub(super) async fn claim_jobs(self: Arc<Self>, drain: &CancellationToken) {
        loop {
            let slot = self.slots.acquire_alive(&self.shop.pulse, TICK);
            let slot = drain.run_until_cancelled(slot).await;
            let Some(Some(slot)) = slot else { return };
            if let Err(error) = self.can_store().await {
                drop(slot);
                // Each picture would be paid for and then wait.
                let folder = self.shop.generated_dir.display();
                tracing::error!(%error, %folder, "pictures can't be stored; no job is begun");
                let _ = drain.run_until_cancelled(tokio::time::sleep(TICK)).await;
                continue;
            }
            // Not to be cut short: a claim that nobody hears of would count as an attempt.
            match self.shop.store.claim(&self.owner, lease_ms()).await {
                Ok(Some(claim)) => self.start(claim, slot),
                Ok(None) => {
                    drop(slot);
                    // Bells may be lost between two processes; hence the look unasked.
                    let more = tokio::time::timeout(TICK, self.more.notified());
                    let _ = drain.run_until_cancelled(more).await;
                }
                Err(error) => {
                    drop(slot);
                    tracing::error!(%error, "no job could be claimed");
                    let pause = tokio::time::sleep(Duration::from_secs(1));
                    let _ = drain.run_until_cancelled(pause).await;
                }
            }
        }
    }

    async fn can_store(&self) -> io::Result<()> {
        let folder = self.shop.generated_dir.clone();
        tokio::task::spawn_blocking(move || images::check_folder(&folder)).await?
    }

    fn start(self: &Arc<Self>, claim: Claim, slot: OwnedSemaphorePermit) {
        let (worker, under_way) = (Arc::clone(self), self.shop.activity.begin());
        self.tasks.spawn(async move {
            let _under_way = under_way;
            let enlisted = Enlisted::new(&worker, &claim.id);
            run::job(&worker, &claim, slot, &enlisted.cancelled).await;
        });
    }

    /// Takes jobs over whose worker is gone, and looks what it left.
    async fn take_over(self: &Arc<Self>, all: bool) {
        match self.shop.store.take_over(&self.owner, lease_ms(), all).await {
            Ok(claims) => {
                for claim in claims {
                    let (worker, under_way) = (Arc::clone(self), self.shop.activity.begin());
                    self.tasks.spawn(async move {
                        let _under_way = under_way;
                        let enlisted = Enlisted::new(&worker, &claim.id);
                        // It may wait for a Codex that outlives its service, however long that
                        // takes. A stop does not: the next start looks again.
                        let stop = worker.stop.clone();
                        // Its former owner may have written until it was taken: what is open now
                        // is looked for.
                        let _ = stop.run_until_cancelled(recover::rest_of(&worker, &claim)).await;
                        drop(enlisted);
                        worker.more.notify_one();
                    });
                }
            }
            Err(error) => tracing::error!(%error, "abandoned jobs could not be taken over"),
        }
    }

    async fn upkeep(self: Arc<Self>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tick.tick().await;
        loop {
            tick.tick().await;
            let ids: Vec<JobId> = self.lock_running().keys().cloned().collect();
            if !ids.is_empty() {
                if let Err(error) =
                    self.shop.store.renew_leases(&self.owner, &ids, lease_ms()).await
                {
                    // Nor could be said whose time is over: ours might seem to be.
                    tracing::error!(%error, "leases could not be renewed");
                    continue;
                }
                for id in ids {
                    self.recheck(&id).await;
                }
            }
            if !self.tasks.is_closed() {
                self.take_over(false).await;
            }
        }
    }

    /// Stops the run of a job that is no longer this worker's: its caller cancelled it.
    async fn recheck(&self, id: &JobId) {
        let Some(token) = self.lock_running().get(id).cloned() else { return };
        match self.shop.store.is_open(id.as_str()).await {
            Ok(true) => {}
            Ok(false) => token.cancel(),
            Err(error) => {
                tracing::error!(%error, job_id = id.as_str(), "a running job could not be looked up");
            }
        }
    }

    fn lock_running(&self) -> MutexGuard<'_, HashMap<JobId, CancellationToken>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the files of a job that ends now stop being kept.
    pub(super) fn expires_at(&self) -> i64 {
        let retention =
            i64::try_from(self.shop.live.now().image_retention.as_millis()).unwrap_or(i64::MAX);
        crate::store::now().saturating_add(retention)
    }

    /// Tells the log, the metrics and whoever waits that a job is final.
    pub(super) fn announce(&self, claim: &Claim, state: &'static str, code: Option<&'static str>) {
        tracing::info!(
            job_id = claim.id.as_str(),
            state,
            code,
            attempts = claim.attempts,
            "job ended"
        );
        (self.shop.on_final)(state, code);
        self.shop.front_bell.ring(&Ring::Job(claim.id.to_string()));
    }

    /// Removes the folders of a job's attempts: what mattered of them is in the store.
    pub(super) async fn clear_workdir(&self, claim: &Claim) {
        match tokio::fs::remove_dir_all(self.shop.workdir.join(&claim.id)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(job_id = claim.id.as_str(), %error, "the job's work folder stays for now");
            }
            _ => {}
        }
    }

    /// Gives a job back to the queue, where it waits until then (in milliseconds).
    /// False when the claim is void.
    pub(super) async fn postpone(self: &Arc<Self>, claim: &Claim, until: i64) -> bool {
        match self.shop.store.postpone(claim, until).await {
            Ok(true) => {
                let phase = Phase::Waiting.as_str();
                tracing::info!(job_id = claim.id.as_str(), phase, until, "job waits for the quota");
                self.shop.front_bell.ring(&Ring::Phase(claim.id.to_string()));
            }
            Ok(false) => return false,
            Err(error) => log_store_error(claim, &error),
        }
        let worker = Arc::clone(self);
        let wait = u64::try_from(until.saturating_sub(crate::store::now())).unwrap_or(0);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            worker.more.notify_one();
        });
        true
    }

    /// Gives a job back to the queue, for another attempt.
    /// False when the claim is void.
    pub(super) async fn give_back(&self, claim: &Claim) -> bool {
        match self.shop.store.give_back(claim).await {
            Ok(true) => tracing::info!(job_id = claim.id.as_str(), "job goes back into the queue"),
            Ok(false) => return false,
            Err(error) => log_store_error(claim, &error),
        }
        true
    }
}

/// A job that this worker works on: its lease is renewed until this is dropped, also by a panic.
/// After that, unless the job is final by then, the lease ends and the job is taken up again.
struct Enlisted<'a> {
    worker: &'a Worker,
    id: JobId,
    /// Cancelled when the job is no longer this worker's, or the worker must stop.
    cancelled: CancellationToken,
}

impl<'a> Enlisted<'a> {
    fn new(worker: &'a Worker, id: &JobId) -> Self {
        let cancelled = worker.stop.child_token();
        worker.lock_running().insert(id.clone(), cancelled.clone());
        Self { worker, id: id.clone(), cancelled }
    }
}

impl Drop for Enlisted<'_> {
    fn drop(&mut self) {
        self.worker.lock_running().remove(&self.id);
    }
}

/// A store that fails leaves the job as it is: its lease ends, and it is taken up again.
pub(super) fn log_store_error(claim: &Claim, error: &StoreError) {
    tracing::error!(job_id = claim.id.as_str(), %error, "the store failed; the job is taken up again later");
}

fn lease_ms() -> i64 {
    i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX)
}

/// Waits for the lock that one worker holds at a time; None when asked to stop before.
async fn become_the_only_one(path: &Path, drain: &CancellationToken) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    let mut tries = 0;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(std::fs::TryLockError::Error(error)) => return Err(error),
            Err(std::fs::TryLockError::WouldBlock) => {}
        }
        tries += 1;
        // /ready of a front may hold the lock for a moment.
        if tries == 5 {
            tracing::warn!("another worker works on this state directory; waiting for its end");
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
            () = drain.cancelled() => return Ok(None),
        }
    }
}
