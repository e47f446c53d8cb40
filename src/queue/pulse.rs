//! Whether the worker's loop still turns. Each turn is a beat; a loop that hangs (a disk that does not
//! answer, a fault of ours) misses them, and whoever keeps a watchdog quiet sees it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The life of a loop.
#[derive(Debug)]
pub struct Pulse {
    /// None: no loop is at work, so none can hang.
    last: Mutex<Option<Instant>>,
    longest: Duration,
}

impl Pulse {
    /// Of a loop that is not at work yet, and whose turns take `longest` when all is well.
    #[must_use]
    pub fn new(longest: Duration) -> Self {
        Self { last: Mutex::new(None), longest }
    }

    /// The loop has turned.
    pub fn beat(&self) {
        self.set(Some(Instant::now()));
    }

    /// The loop is over.
    pub fn stop(&self) {
        self.set(None);
    }

    /// False when the loop is at work and has not turned for too long.
    #[must_use]
    pub fn is_well(&self) -> bool {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_none_or(|last| last.elapsed() <= self.longest)
    }

    fn set(&self, last: Option<Instant>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_is_well_while_it_turns_and_when_it_is_over() {
        let pulse = Pulse::new(Duration::from_secs(30));
        let pass = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        pass(1000).await;
        assert!(pulse.is_well(), "it has not begun");
        for _ in 0..3 {
            pulse.beat();
            pass(30).await;
            assert!(pulse.is_well());
        }
        pass(1).await;
        assert!(!pulse.is_well(), "it hangs");
        pulse.beat();
        assert!(pulse.is_well(), "it goes on");
        pass(31).await;
        pulse.stop();
        assert!(pulse.is_well(), "it is over");
    }
}
