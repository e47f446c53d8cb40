//! The logins: which of them are in use and how they stand, and what may be done with them. One is
//! chosen by its fitness, handed out to one Codex at a time, and judged by what came of it; nothing
//! here starts Codex, and what may rest or wake is told to an observer.

mod choose;
mod fitness;
mod judge;
mod lease;
#[cfg(test)]
mod samples;
mod seed;
mod statuses;

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{self, Path},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use self::{fitness::Fitness, lease::Held};
pub(super) use self::{
    judge::Verdict,
    lease::{Lease, Refused, Taken, lock_home},
    seed::{seed_all, seed_outlook},
};
use super::{LoginObserver, auth, status::Dispatch};
use crate::config::{Live, LoginHome};

/// The logins of the settings, which of them are in use, and how they stand.
pub(super) struct Logins {
    homes: Vec<LoginHome>,
    observer: LoginObserver,
    /// A login with less of its quota left than this says rests; 0 = never.
    live: Live,
    slots: Mutex<Slots>,
    freed: Notify,
}

struct Slots {
    dispatch: Dispatch,
    each: Vec<Slot>,
    fitness: Vec<Fitness>,
}

#[derive(Clone, Default)]
struct Slot {
    held: Held,
    /// At the last look it was not logged in.
    absent: bool,
    /// That it is held elsewhere was said.
    said_contended: bool,
    /// Whose it was at the last look, and the refresh token's fingerprint.
    user: Option<String>,
    fingerprint: Option<String>,
    /// The login file when its session turned out to have expired.
    expired: Option<auth::Stamp>,
}

impl Logins {
    pub(super) fn new(homes: &[LoginHome], observer: LoginObserver, live: Live) -> Arc<Self> {
        Arc::new(Self {
            observer,
            // Codex has another working directory than we.
            homes: homes
                .iter()
                .map(|home| LoginHome {
                    label: home.label.clone(),
                    path: path::absolute(&home.path).unwrap_or_else(|_| home.path.clone()),
                })
                .collect(),
            live,
            slots: Mutex::new(Slots {
                dispatch: Dispatch::default(),
                each: vec![Slot::default(); homes.len()],
                fitness: vec![Fitness::default(); homes.len()],
            }),
            freed: Notify::new(),
        })
    }

    pub(super) fn homes(&self) -> &[LoginHome] {
        &self.homes
    }

    pub(super) fn index(&self, label: &str) -> Option<usize> {
        self.homes.iter().position(|home| home.label == label)
    }

    pub(super) fn set_dispatch(&self, dispatch: Dispatch) {
        self.slots().dispatch = dispatch;
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a login's home, for its user alone, when there is none.
pub(super) fn make_home(home: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(home)
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
