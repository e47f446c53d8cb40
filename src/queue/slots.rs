//! The slots of a worker, each a picture in the making. Their number may change while it works: more
//! are there at once, fewer as the pictures that have them are finished.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

use super::pulse::Pulse;
use crate::config::Live;

/// The slots that there are.
pub(super) struct Slots {
    free: Arc<Semaphore>,
    plan: Mutex<Plan>,
    /// The engine draws no more at once.
    capacity: usize,
}

struct Plan {
    wanted: usize,
    /// So many of those that are taken are not given out again.
    excess: usize,
}

impl Slots {
    /// As many as the settings and the engine's `capacity` allow.
    pub(super) fn new(live: &Live, capacity: usize) -> Self {
        let wanted = number(live, capacity);
        let plan = Mutex::new(Plan { wanted, excess: 0 });
        Self { free: Arc::new(Semaphore::new(wanted)), plan, capacity }
    }

    /// Waits for a free slot. None when there will be none.
    pub(super) async fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            let slot = Arc::clone(&self.free).acquire_owned().await.ok()?;
            let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
            if plan.excess == 0 {
                return Some(slot);
            }
            plan.excess -= 1;
            slot.forget();
        }
    }

    /// The same for a loop that shows meanwhile that it is alive.
    pub(super) async fn acquire_alive(
        &self,
        pulse: &Pulse,
        beat: Duration,
    ) -> Option<OwnedSemaphorePermit> {
        let slot = self.acquire();
        // Pinned: it keeps its place among those who wait.
        tokio::pin!(slot);
        loop {
            pulse.beat();
            tokio::select! {
                slot = &mut slot => return slot,
                () = sleep(beat) => {}
            }
        }
    }

    /// Follows the settings for ever.
    pub(super) async fn follow(self: Arc<Self>, live: Live) {
        let mut changes = live.follow();
        while changes.changed().await.is_ok() {
            self.resize(number(&live, self.capacity));
        }
    }

    fn resize(&self, wanted: usize) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(more) = wanted.checked_sub(plan.wanted) {
            let kept = more.min(plan.excess);
            plan.excess -= kept;
            self.free.add_permits(more - kept);
        } else {
            plan.excess += plan.wanted - wanted;
            plan.excess -= self.free.forget_permits(plan.excess);
        }
        plan.wanted = wanted;
    }
}

fn number(live: &Live, capacity: usize) -> usize {
    live.now().codex_worker_concurrency.min(capacity).max(1)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::config::Changeable;

    fn live(codex_worker_concurrency: usize) -> Live {
        Live::new(Changeable { codex_worker_concurrency, ..Changeable::default() }, Vec::new())
    }

    /// Takes all that are free.
    fn take(slots: &Slots) -> Vec<OwnedSemaphorePermit> {
        std::iter::from_fn(|| slots.acquire().now_or_never().flatten()).collect()
    }

    #[test]
    fn more_are_there_at_once_and_fewer_when_they_are_given_back() {
        let slots = Slots::new(&live(2), 8);
        let mut taken = take(&slots);
        assert_eq!(taken.len(), 2);
        slots.resize(5);
        taken.extend(take(&slots));
        assert_eq!(taken.len(), 5);
        slots.resize(2);
        for free in [0, 0, 0, 1, 2] {
            drop(taken.pop());
            assert_eq!(take(&slots).len(), free, "{} are taken", taken.len());
        }
        // Those that are free go at once; those that were to go may stay.
        let one = take(&slots).pop();
        slots.resize(1);
        assert_eq!(take(&slots).len(), 0);
        slots.resize(3);
        assert_eq!(take(&slots).len(), 2);
        drop(one);
        assert_eq!(take(&slots).len(), 3);
    }

    #[tokio::test]
    async fn the_settings_and_the_engine_say_how_many() {
        let live = live(100);
        let slots = Arc::new(Slots::new(&live, 8));
        assert_eq!(take(&slots).len(), 8);
        let following = tokio::spawn(Arc::clone(&slots).follow(live.clone()));
        tokio::task::yield_now().await;
        for (set, number) in [(3, 3), (100, 8)] {
            live.set(Changeable { codex_worker_concurrency: set, ..live.now() });
            while take(&slots).len() != number {
                tokio::task::yield_now().await;
            }
        }
        following.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_a_slot_is_alive() {
        let pulse = Pulse::new(Duration::from_secs(30));
        let slots = Slots::new(&live(1), 1);
        let taken = take(&slots);
        let waiting = slots.acquire_alive(&pulse, Duration::from_secs(10));
        tokio::pin!(waiting);
        let hours = tokio::time::timeout(Duration::from_hours(5), &mut waiting);
        assert!(hours.await.is_err());
        assert!(pulse.is_well());
        drop(taken);
        assert!(waiting.await.is_some());
    }
}
