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
    by_job: Mutex<HashMap<String, Arc<Notify>>>,
}

/// One who waits; dropping it ends the waiting.
pub(super) struct Waiter {
    waiters: Arc<Waiters>,
    job: String,
    notify: Arc<Notify>,
}

impl Waiters {
    /// Begins to listen for a job. Each job has one waiter: ids are chosen by the submission.
    pub(super) fn listen(self: &Arc<Self>, job: &str) -> Waiter {
        let notify = Arc::new(Notify::new());
        self.lock().insert(job.to_owned(), Arc::clone(&notify));
        Waiter { waiters: Arc::clone(self), job: job.to_owned(), notify }
    }

    /// Wakes who waits for this job.
    pub(super) fn wake(&self, job: &str) {
        if let Some(notify) = self.lock().get(job) {
            notify.notify_one();
        }
    }

    /// Wakes everybody.
    pub(super) fn wake_all(&self) {
        for notify in self.lock().values() {
            notify.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Notify>>> {
        // The map is whole at every point where a panic could happen.
        self.by_job.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// Resolves when the job may have become final since the last call.
    pub(super) async fn woken(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waiters.lock().remove(&self.job);
    }
}
