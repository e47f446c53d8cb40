//! The settings that may change while a service runs, and who follows them. All else is final until
//! the next start.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::watch;
use tracing::Level;

use super::{Config, Resolved, SETTINGS};

/// What may change, as it is at one moment. The table marks the same settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Changeable {
    pub codex_min_quota_percent: u8,
    pub codex_timeout: Duration,
    pub codex_worker_concurrency: usize,
    pub generation_queue_max_size: u32,
    pub request_wait_timeout: Duration,
    pub image_retention: Duration,
    pub log_level: Level,
    /// `SHUTDOWN_GRACE_SECONDS`, default 90.
    pub shutdown_grace: Duration,
    /// `MAX_REQUEST_BODY_BYTES`, default base64 of 5 × 10 MiB + 1 MiB.
    pub max_request_body_bytes: u64,
    /// `MAX_IMAGES_PER_REQUEST`, default 4.
    pub max_images_per_request: u32,
    /// `JSON_KEEPALIVE_SECONDS`, default off.
    pub json_keepalive: Option<Duration>,
}

impl Default for Changeable {
    fn default() -> Self {
        Self {
            codex_min_quota_percent: 5,
            codex_timeout: Duration::from_mins(6),
            codex_worker_concurrency: 2,
            generation_queue_max_size: 50,
            request_wait_timeout: Duration::from_mins(10),
            image_retention: Duration::from_hours(7 * 24),
            log_level: Level::INFO,
            shutdown_grace: Duration::from_secs(90),
            max_request_body_bytes: 70_953_644,
            max_images_per_request: 4,
            json_keepalive: None,
        }
    }
}

/// What holds now. Clones share it, so that everybody who asks follows a change.
#[derive(Clone, Default)]
pub struct Live(Arc<Inner>);

#[derive(Default)]
struct Inner {
    values: watch::Sender<Changeable>,
    rows: RwLock<Vec<Resolved>>,
}

/// The names of settings whose values are others than before.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// They hold from now on.
    pub changed: Vec<&'static str>,
    /// They hold from the next start on.
    pub need_restart: Vec<&'static str>,
}

impl Live {
    pub(crate) fn new(values: Changeable, rows: Vec<Resolved>) -> Self {
        Self(Arc::new(Inner { values: watch::Sender::new(values), rows: RwLock::new(rows) }))
    }

    /// What holds at this moment.
    #[must_use]
    pub fn now(&self) -> Changeable {
        *self.0.values.borrow()
    }

    /// Changes what holds.
    pub(crate) fn set(&self, values: Changeable) {
        self.0.values.send_replace(values);
    }

    /// Sees each change.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Changeable> {
        self.0.values.subscribe()
    }

    /// Every setting with the value that holds now, as [`Config::resolved`] has it for the start.
    #[must_use]
    pub fn resolved(&self) -> Vec<Resolved> {
        self.0.rows.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets hold what of newly read settings may change.
    pub fn take_over(&self, new: &Config) -> Differences {
        let mut differences = Differences::default();
        {
            let mut rows = self.0.rows.write().unwrap_or_else(PoisonError::into_inner);
            for (row, read) in rows.iter_mut().zip(new.resolved()) {
                let is_live =
                    SETTINGS.iter().any(|setting| setting.name == row.name && setting.live);
                if row.value != read.value {
                    let names = if is_live {
                        &mut differences.changed
                    } else {
                        &mut differences.need_restart
                    };
                    names.push(row.name);
                }
                if is_live || row.value == read.value {
                    row.clone_from(read);
                }
            }
        }
        self.set(new.live.now());
        differences
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, path::PathBuf};

    use super::*;
    use crate::config::Sources;

    fn read(set: &[(&str, &str)]) -> Config {
        let set = set.iter().copied();
        let fixed = [("STATE_DIR", "/tmp/x"), ("CODEX_ENGINE", "demo")];
        Config::load(&Sources {
            environment: fixed
                .into_iter()
                .chain(set)
                .map(|(name, value)| (name.to_owned(), OsString::from(value)))
                .collect(),
            working_dir: PathBuf::from("/nonexistent"),
            ..Sources::default()
        })
        .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Each marked setting with a value that is not its default.
    const OTHERS: [(&str, &str); 11] = [
        ("CODEX_MIN_QUOTA_PERCENT", "7"),
        ("CODEX_TIMEOUT_SECONDS", "7"),
        ("CODEX_WORKER_CONCURRENCY", "7"),
        ("GENERATION_QUEUE_MAX_SIZE", "7"),
        ("REQUEST_WAIT_TIMEOUT_SECONDS", "7"),
        ("IMAGE_RETENTION_DAYS", "8"),
        ("LOG_LEVEL", "debug"),
        ("SHUTDOWN_GRACE_SECONDS", "7"),
        ("MAX_REQUEST_BODY_BYTES", "7000"),
        ("MAX_IMAGES_PER_REQUEST", "7"),
        ("JSON_KEEPALIVE_SECONDS", "7"),
    ];

    #[test]
    fn what_the_table_marks_changes_and_nothing_else() {
        let marked: Vec<_> =
            SETTINGS.iter().filter(|setting| setting.live).map(|setting| setting.name).collect();
        assert_eq!(marked, OTHERS.map(|(name, _)| name));
        for other in OTHERS {
            let live = read(&[]).live;
            let new = read(&[other]);
            let differences = live.take_over(&new);
            assert_eq!(differences.changed, [other.0]);
            assert_eq!(differences.need_restart, [""; 0]);
            assert_ne!(live.now(), Changeable::default(), "{other:?}");
            assert_eq!(live.now(), new.live.now());
            let rows = live.resolved();
            let row = rows.iter().find(|row| row.name == other.0).unwrap();
            assert_eq!((row.value.as_str(), row.origin.as_str()), (other.1, "environment"));
        }
    }

    #[test]
    fn what_needs_a_restart_is_named_until_then() {
        let live = read(&[]).live;
        let new = read(&[("METRICS", "on"), ("LISTEN", "127.0.0.1:9")]);
        for _ in 0..2 {
            let differences = live.take_over(&new);
            assert_eq!(differences.changed, [""; 0]);
            assert_eq!(differences.need_restart, ["LISTEN", "METRICS"]);
        }
        assert_eq!(live.now(), Changeable::default());
        assert!(live.resolved().iter().all(|row| row.value != "127.0.0.1:9"));
    }
}
