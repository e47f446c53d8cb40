//! Who waits for which job. A waiter is woken when its job may have become final; it then asks
//! the store.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Everybody who waits in this process.
#[derive(Default)]
pub(super) struct Waiters {
    by_job: Mutex<HashMap<String, Vec<Listening>>>,
}

struct Listening {
    notify: Arc<Notify>,
    /// Whether phases are of interest, or only the end.
    phases: bool,
}

/// One who waits; dropping it ends the waiting.
pub(super) struct Waiter {
    waiters: Arc<Waiters>,
    job: String,
    notify: Arc<Notify>,
}

impl Waiters {
    /// Begins to listen for a job's end and, if wanted, for its phases.
    pub(super) fn listen(self: &Arc<Self>, job: &str, phases: bool) -> Waiter {
        let notify = Arc::new(Notify::new());
        let listening = Listening { notify: Arc::clone(&notify), phases };
        self.lock().entry(job.to_owned()).or_default().push(listening);
        Waiter { waiters: Arc::clone(self), job: job.to_owned(), notify }
    }

    /// Wakes who waits for this job, at its end or at a phase.
    pub(super) fn wake(&self, job: &str, ended: bool) {
        for waiter in self.lock().get(job).into_iter().flatten() {
            if ended || waiter.phases {
                waiter.notify.notify_one();
            }
        }
    }

    /// Wakes everybody.
    pub(super) fn wake_all(&self) {
        for waiter in self.lock().values().flatten() {
            waiter.notify.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Listening>>> {
        // The map is whole at every point where a panic could happen.
        self.by_job.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// Resolves when there may be news of the job since the last call.
    pub(super) async fn woken(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut jobs = self.waiters.lock();
        if let Some(waiters) = jobs.get_mut(&self.job) {
            waiters.retain(|waiter| !Arc::ptr_eq(&waiter.notify, &self.notify));
            if waiters.is_empty() {
                jobs.remove(&self.job);
            }
        }
    }
}
