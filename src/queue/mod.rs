//! A job's life: submit, claim, finish, wait, cancel, recover. The only place that changes a
//! job's state.
//!
//! The front half ([`Queue`]) accepts jobs and waits for them; the working half ([`worker`])
//! draws. They share the store and two doorbells and nothing else, so that they may live in one
//! process or in two.

pub mod bell;
mod finish;
pub mod pause;
pub mod pulse;
mod recover;
mod run;
mod slots;
mod waiters;
pub mod worker;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    config::Live,
    store::{
        Store, StoreError,
        jobs::{Job, JobState},
        orders::OrderKind,
        submissions::{NewJob, Submissions, Submitted},
    },
};
use bell::{Doorbell, Listener, Ring};
use waiters::{Waiter, Waiters};

/// How often waiting callers look at the store by themselves: a bell may be lost, the store never
/// is.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// How often a front rings again for as long as a job waits: a worker that sleeps looks at no store,
/// and the bell may have been lost.
const RING_AGAIN: Duration = Duration::from_secs(10);

/// The front's half. Clones share everything.
#[derive(Clone)]
pub struct Queue {
    store: Store,
    submissions: Submissions,
    live: Live,
    waiters: Arc<Waiters>,
    worker_bell: Doorbell,
    /// Cancelled when the process begins to stop: nothing is accepted any more.
    draining: CancellationToken,
    /// Cancelled when nobody may wait any longer.
    closing: CancellationToken,
}

/// Why a job was not accepted.
#[derive(Debug)]
pub enum Refused {
    /// As many jobs as the setting allows are queued.
    QueueFull,
    /// The process is stopping.
    ShuttingDown,
    /// The key was deleted or disabled in this moment.
    KeyGone,
    /// The idempotency key belongs to another request.
    Mismatch,
    /// The store failed.
    Store(StoreError),
}

/// The right to wait for a job that was accepted.
pub struct Ticket {
    waiter: Waiter,
    job: String,
    /// It was there before, and may be final.
    joined: bool,
}

impl Ticket {
    /// The id of the job.
    #[must_use]
    pub fn job(&self) -> &str {
        &self.job
    }

    /// Whether the job was there before: the request repeats another.
    #[must_use]
    pub fn is_joined(&self) -> bool {
        self.joined
    }
}

/// What became of a job that was handed in.
enum Entered {
    /// It is a new one.
    New,
    /// The request repeats another, whose job this is.
    Joined(String),
}

/// Sees when there may be news of a job.
pub struct Watch {
    waiter: Waiter,
    closing: CancellationToken,
}

impl Watch {
    /// Resolves when it is time to look at the job; false when nobody may wait any longer.
    pub async fn news(&self) -> bool {
        tokio::select! {
            () = self.waiter.woken() => true,
            // A bell may be lost.
            () = tokio::time::sleep(LOOK_AGAIN) => true,
            () = self.closing.cancelled() => false,
        }
    }
}

/// How waiting for a job ended.
#[derive(Debug)]
pub enum Waited {
    /// The job is final.
    Final(Box<Job>),
    /// The caller's patience is over; the job goes on.
    Patience,
    /// The process is stopping; the job goes on when it is back.
    ShuttingDown,
}

impl Queue {
    /// Starts the front's half: `finished` tells of jobs that became final.
    #[must_use]
    pub fn start(
        store: Store,
        live: Live,
        worker_bell: Doorbell,
        mut finished: Listener,
        draining: CancellationToken,
        closing: CancellationToken,
    ) -> Self {
        let waiters = Arc::new(Waiters::default());
        let awake = Arc::clone(&waiters);
        tokio::spawn(async move {
            while let Some(ring) = finished.recv().await {
                match ring {
                    Ring::Job(id) => awake.wake(&id, true),
                    Ring::Phase(id) => awake.wake(&id, false),
                    Ring::Any => awake.wake_all(),
                    // For a worker.
                    Ring::Order => {}
                }
            }
        });
        if worker_bell.is_remote() {
            tokio::spawn(ring_again(store.clone(), worker_bell.clone(), draining.clone()));
        }
        let bell = worker_bell.clone();
        let limit = live.clone();
        let queue_max = move || limit.now().generation_queue_max_size;
        let submissions =
            Submissions::start(store.clone(), queue_max, move || bell.ring(&Ring::Any));
        Self { store, submissions, live, waiters, worker_bell, draining, closing }
    }

    /// Is there room for another job? A look, not a promise.
    pub async fn has_room(&self) -> Result<bool, StoreError> {
        let (queued, _) = self.store.queue_depth().await?;
        let most = i64::from(self.live.now().generation_queue_max_size);
        Ok(queued < most || queued < most.saturating_add(self.store.queued_strangers().await?))
    }

    /// Accepts a job: it is durable when this returns. A request that repeats another finds the job
    /// of that one, also when both come in the same moment.
    async fn submit(&self, job: NewJob) -> Result<Entered, Refused> {
        if self.draining.is_cancelled() {
            return Err(Refused::ShuttingDown);
        }
        match self.submissions.submit(job).await {
            Ok(Submitted::Accepted { .. }) => Ok(Entered::New),
            Ok(Submitted::Joined { id }) => Ok(Entered::Joined(id)),
            Ok(Submitted::Mismatch) => Err(Refused::Mismatch),
            Ok(Submitted::QueueFull) => Err(Refused::QueueFull),
            Ok(Submitted::KeyGone) => Err(Refused::KeyGone),
            Err(error) => Err(Refused::Store(error)),
        }
    }

    /// Accepts a job that somebody is going to wait for.
    pub async fn submit_to_wait(&self, job: NewJob) -> Result<Ticket, Refused> {
        // Listening begins before the job exists: its end cannot be missed.
        let (waiter, id) = (self.waiters.listen(&job.id, false), job.id.clone());
        Ok(match self.submit(job).await? {
            Entered::New => Ticket { waiter, job: id, joined: false },
            Entered::Joined(id) => self.ticket(id),
        })
    }

    /// The right to wait for a job that is there.
    #[must_use]
    pub fn ticket(&self, job: String) -> Ticket {
        Ticket { waiter: self.waiters.listen(&job, false), job, joined: true }
    }

    /// Waits until the job is final, `patience` at most.
    pub async fn wait(&self, ticket: &Ticket, patience: Duration) -> Result<Waited, StoreError> {
        tokio::time::timeout(patience, self.wait_for_ever(ticket))
            .await
            .unwrap_or(Ok(Waited::Patience))
    }

    async fn wait_for_ever(&self, ticket: &Ticket) -> Result<Waited, StoreError> {
        let (mut draining, mut closing) = (false, false);
        let mut look_first = ticket.joined;
        loop {
            tokio::select! {
                () = ticket.waiter.woken() => {}
                () = std::future::ready(()), if std::mem::take(&mut look_first) => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = self.draining.cancelled(), if !draining => draining = true,
                () = self.closing.cancelled() => closing = true,
            }
            match self.store.job(&ticket.job).await? {
                Some(job) if job.state.is_final() => return Ok(Waited::Final(Box::new(job))),
                // A running job may still end within the grace; a queued one will not begin.
                Some(job) if draining && job.state == JobState::Queued => closing = true,
                _ => {}
            }
            if closing {
                return Ok(Waited::ShuttingDown);
            }
        }
    }

    /// Begins to watch a job's phases and its end.
    #[must_use]
    pub fn watch(&self, job: &str) -> Watch {
        Watch { waiter: self.waiters.listen(job, true), closing: self.closing.clone() }
    }

    /// Cancels a caller's job, or with None anybody's; false when it is final already or none of the
    /// caller's.
    pub async fn cancel(&self, caller: Option<&str>, id: &str) -> Result<bool, StoreError> {
        let cancelled = self.store.cancel_job(caller, id).await?;
        if cancelled {
            self.tell_of_end(id);
        }
        Ok(cancelled)
    }

    /// Deletes anybody's job, see [`Store::delete_job`]; its files go as soon as the worker comes to
    /// it. False when there is none.
    pub async fn delete(&self, id: &str) -> Result<bool, StoreError> {
        let deleted = self.store.delete_job(id).await?;
        if deleted {
            self.tell_of_end(id);
            if let Err(error) = self.order(OrderKind::RemoveJob, id, None).await {
                // It is deleted; the next clean-up finds what it left.
                tracing::error!(job_id = id, %error, "the files of a deleted job stay for now");
            }
        }
        Ok(deleted)
    }

    fn tell_of_end(&self, id: &str) {
        self.worker_bell.ring(&Ring::Job(id.to_owned()));
        self.waiters.wake(id, true);
    }

    /// Asks something of the worker, which carries it out when it comes to it.
    pub async fn order(
        &self,
        what: OrderKind,
        subject: &str,
        until: Option<i64>,
    ) -> Result<(), StoreError> {
        self.store.give_order(what, subject, until).await?;
        self.worker_bell.ring(&Ring::Order);
        Ok(())
    }

    /// Has the process begun to stop?
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }
}

/// Rings at the start and now and then while jobs are queued, until `draining`.
async fn ring_again(store: Store, bell: Doorbell, draining: CancellationToken) {
    let mut tick = tokio::time::interval(RING_AGAIN);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while draining.run_until_cancelled(tick.tick()).await.is_some() {
        match store.has_queued_job().await {
            Ok(false) => {}
            Ok(true) => bell.ring(&Ring::Any),
            Err(error) => tracing::error!(%error, "the queue cannot be looked at"),
        }
    }
}
