//! What is under way in this process, counted, and since when nothing is: by this a process that
//! is started again when somebody needs it knows when it may end.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

/// Clones share the count.
#[derive(Clone)]
pub struct Activity(Arc<watch::Sender<State>>);

struct State {
    under_way: usize,
    /// When something ended last.
    since: Instant,
}

impl Activity {
    /// Something begins, and is under way until the value is dropped.
    #[must_use]
    pub fn begin(&self) -> UnderWay {
        self.0.send_modify(|state| state.under_way += 1);
        UnderWay(self.clone())
    }

    /// Something was there just now: the time of quiet begins anew.
    pub fn stir(&self) {
        drop(self.begin());
    }

    /// Is nothing under way?
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.0.borrow().under_way == 0
    }

    /// Waits until nothing has been under way for so long.
    pub async fn quiet_for(&self, time: Duration) {
        let mut seen = self.0.subscribe();
        loop {
            // The sender lives for as long as this value.
            let Ok(since) = seen.wait_for(|state| state.under_way == 0).await.map(|s| s.since)
            else {
                return;
            };
            let stirred = seen.wait_for(|state| state.under_way > 0 || state.since != since);
            if tokio::time::timeout_at(since + time, stirred).await.is_err() {
                return;
            }
        }
    }

    /// Waits until something is under way.
    pub async fn stirred(&self) {
        let _ = self.0.subscribe().wait_for(|state| state.under_way > 0).await;
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(State { under_way: 0, since: Instant::now() })))
    }
}

/// Something that is under way.
pub struct UnderWay(Activity);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.send_modify(|state| {
            state.under_way -= 1;
            state.since = Instant::now();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn quiet_begins_when_the_last_has_ended() {
        let activity = Activity::default();
        let begin = Instant::now();
        let one = activity.begin();
        assert!(!activity.is_quiet());
        let ends = activity.clone();
        tokio::spawn(async move {
            let other = ends.begin();
            tokio::time::sleep(TIME * 2).await;
            drop(one);
            tokio::time::sleep(TIME / 2).await;
            drop(other);
            tokio::time::sleep(TIME / 2).await;
            ends.stir();
        });
        activity.quiet_for(TIME).await;
        assert_eq!(begin.elapsed().as_secs(), (TIME * 4).as_secs());
        assert!(activity.is_quiet());
    }

    #[tokio::test(start_paused = true)]
    async fn what_begins_is_heard_of() {
        let activity = Activity::default();
        let stirred = activity.clone();
        let heard = tokio::spawn(async move { stirred.stirred().await });
        tokio::time::sleep(TIME).await;
        assert!(!heard.is_finished());
        let _busy = activity.begin();
        heard.await.unwrap();
    }
}
