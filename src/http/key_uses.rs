//! When each key was last used, written once a minute at most: a poll must not cost a write.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::store::Store;

const INTERVAL: Duration = Duration::from_mins(1);

/// Remembers when each key's use was last written.
#[derive(Default)]
pub(super) struct KeyUses {
    written: Mutex<HashMap<String, Instant>>,
}

impl KeyUses {
    /// Notes a use; writes it in the background when the last write is a minute old.
    pub(super) fn note(&self, store: &Store, key: &str) {
        {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            match written.get_mut(key) {
                Some(at) if at.elapsed() < INTERVAL => return,
                Some(at) => *at = Instant::now(),
                None => {
                    written.insert(key.to_owned(), Instant::now());
                }
            }
        }
        let (store, key) = (store.clone(), key.to_owned());
        tokio::spawn(async move {
            if let Err(error) = store.touch_key(&key).await {
                tracing::warn!(%error, "the use of a key could not be noted");
            }
        });
    }
}
