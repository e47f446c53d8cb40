//! How often a sign-in may be tried: 8 failures in a minute, of all strangers together, so that no
//! number of addresses helps, and none can be made to look like another. A try counts before it is
//! judged and is given back when it was right, so that many at once do not pass either.
//!
//! Strangers could keep the operator out that way. So a browser that has signed in before has a
//! budget of its own, by a signed cookie.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::secret::Id;

/// Failures within [`WINDOW`].
const MOST: usize = 8;
const WINDOW: Duration = Duration::from_mins(1);
/// Known browsers whose tries are counted at once. Each has signed in before, so there are few; the
/// others share the strangers' budget.
const DEVICES: usize = 64;

/// The tries of the last minute.
#[derive(Default)]
pub(super) struct Throttle(Mutex<Tries>);

#[derive(Default)]
struct Tries {
    strangers: Window,
    devices: Vec<(Id, Window)>,
}

/// When the last tries were, at most [`MOST`] of them, oldest first.
#[derive(Default)]
struct Window(VecDeque<Instant>);

/// A try that counts as a failure unless it is given back.
pub(super) struct Try {
    device: Option<Id>,
    at: Instant,
}

impl Throttle {
    /// Counts a try; when there were too many, how long until there may be one.
    pub(super) fn begin(&self, device: Option<Id>) -> Result<Try, Duration> {
        self.begin_at(device, Instant::now())
    }

    fn begin_at(&self, device: Option<Id>, at: Instant) -> Result<Try, Duration> {
        let mut tries = self.tries();
        let device = device.filter(|device| tries.has_room_for(device, at));
        tries.window(device.as_ref()).take(at)?;
        Ok(Try { device, at })
    }

    /// It was no failure.
    pub(super) fn give_back(&self, given: &Try) {
        let mut tries = self.tries();
        let window = &mut tries.window(given.device.as_ref()).0;
        if let Some(place) = window.iter().position(|at| *at == given.at) {
            window.remove(place);
        }
    }

    fn tries(&self) -> MutexGuard<'_, Tries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tries {
    /// Is this device among those that are counted, or can it be?
    fn has_room_for(&mut self, device: &Id, now: Instant) -> bool {
        if self.devices.iter().any(|(known, _)| known == device) {
            return true;
        }
        self.devices.retain_mut(|(_, window)| !window.is_empty(now));
        self.devices.len() < DEVICES
    }

    fn window(&mut self, device: Option<&Id>) -> &mut Window {
        let Some(device) = device else { return &mut self.strangers };
        let known = self.devices.iter().position(|(known, _)| known == device);
        let at = known.unwrap_or_else(|| {
            self.devices.push((*device, Window::default()));
            self.devices.len() - 1
        });
        &mut self.devices[at].1
    }
}

impl Window {
    fn forget(&mut self, now: Instant) {
        while self.0.front().is_some_and(|at| now.duration_since(*at) >= WINDOW) {
            self.0.pop_front();
        }
    }

    fn is_empty(&mut self, now: Instant) -> bool {
        self.forget(now);
        self.0.is_empty()
    }

    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.forget(now);
        match self.0.front() {
            Some(oldest) if self.0.len() >= MOST => Err(*oldest + WINDOW - now),
            _ => {
                self.0.push_back(now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_ninth_failure_waits_until_the_first_is_a_minute_old() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        for second in 0..8 {
            assert!(throttle.begin_at(None, start + second * SECOND).is_ok());
        }
        let refused = throttle.begin_at(None, start + 8 * SECOND);
        assert_eq!(refused.err(), Some(52 * SECOND));
        assert!(throttle.begin_at(None, start + 60 * SECOND).is_ok());
        assert_eq!(throttle.begin_at(None, start + 60 * SECOND).err(), Some(SECOND));
    }

    #[test]
    fn who_was_right_has_not_failed() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..100 {
            let begun = throttle.begin_at(None, now).unwrap_or_else(|_| panic!("refused"));
            throttle.give_back(&begun);
        }
        let all: Vec<_> = (0..9).map(|_| throttle.begin_at(None, now)).collect();
        assert_eq!(all.iter().filter(|begun| begun.is_ok()).count(), 8, "before they are judged");
    }

    #[test]
    fn strangers_do_not_lock_out_a_known_browser() {
        let (throttle, now, known) = (Throttle::default(), Instant::now(), Some([1; 32]));
        while throttle.begin_at(None, now).is_ok() {}
        for _ in 0..8 {
            assert!(throttle.begin_at(known, now).is_ok());
        }
        assert_eq!(throttle.begin_at(known, now).err(), Some(60 * SECOND));
        assert!(throttle.begin_at(Some([2; 32]), now).is_ok());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for device in 0..10_000_u16 {
            let mut id = Id::default();
            id[..2].copy_from_slice(&device.to_be_bytes());
            let _ = throttle.begin_at(Some(id), now);
            let _ = throttle.begin_at(None, now);
        }
        assert_eq!(throttle.tries().devices.len(), DEVICES);
        assert_eq!(throttle.tries().strangers.0.len(), MOST);
        assert!(throttle.begin_at(Some([9; 32]), now).is_err(), "one more is a stranger");
        assert!(throttle.begin_at(Some([9; 32]), now + WINDOW).is_ok());
        assert_eq!(throttle.tries().devices.len(), 1);
    }
}
