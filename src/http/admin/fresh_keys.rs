//! Keys that were made just now: each is shown once, to the session that made it, by the page that
//! follows. They are kept in memory and nowhere else, for a short while.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::store::admin::SessionId;

/// A browser follows a redirect at once.
const KEPT: Duration = Duration::from_mins(2);

/// The keys that nobody has seen yet.
#[derive(Default)]
pub(super) struct FreshKeys(Mutex<HashMap<SessionId, Vec<(Instant, String)>>>);

impl FreshKeys {
    /// Keeps a key for its session.
    pub(super) fn put(&self, session: SessionId, key: String) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|_, made| made.iter().any(|(at, _)| at.elapsed() < KEPT));
        keys.entry(session).or_default().push((Instant::now(), key));
    }

    /// Hands out those of a session, once: there are several where several pages are open.
    pub(super) fn take(&self, session: &SessionId) -> Vec<String> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let made = keys.remove(session).unwrap_or_default();
        made.into_iter().filter(|(at, _)| at.elapsed() < KEPT).map(|(_, key)| key).collect()
    }
}
