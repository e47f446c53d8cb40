//! What the service manager is told while the service runs: how it stands, and that it is alive. The
//! second only when the store and the worker's loop really answer; where nobody listens, nothing is
//! looked at.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    codex::status::UNTIL_WOKEN,
    queue::pulse::Pulse,
    store::{Store, StoreError},
    systemd,
};

/// How often it is looked how the service stands.
const LOOK: Duration = Duration::from_secs(5);

const SILENT_STORE: &str = "the database does not answer";

/// Those who tell.
pub(super) struct Tellers {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Tellers {
    /// Begins to tell; `pulse` is the worker's, where there is one.
    pub(super) fn start(
        store: &Store,
        pulse: Option<Arc<Pulse>>,
        draining: &CancellationToken,
    ) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        if systemd::is_listening() {
            let telling = tell_status(store.clone(), draining.clone());
            tasks.spawn(stop.clone().run_until_cancelled_owned(telling));
        }
        if let Some(interval) = systemd::watchdog_interval() {
            let keeping = keep_watchdog_quiet(store.clone(), pulse, interval);
            tasks.spawn(stop.clone().run_until_cancelled_owned(keeping));
        }
        Self { tasks, stop }
    }

    /// Tells no more; the store may be closed.
    pub(super) async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Says that all is well for as long as it is. Why it is not said goes to the log.
async fn keep_watchdog_quiet(store: Store, pulse: Option<Arc<Pulse>>, every: Duration) {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent = false;
    let mut complain = |why: Option<&str>| {
        if let Some(why) = why.filter(|_| !silent) {
            tracing::error!("{why}; the watchdog is not told that all is well");
        }
        silent = why.is_some();
    };
    loop {
        tick.tick().await;
        // Not to be cut short, which a transaction takes badly.
        let asked = store.clone();
        let mut answer = tokio::spawn(async move { asked.takes_writes().await });
        let answered = loop {
            tokio::select! {
                answered = &mut answer => break matches!(answered, Ok(true)),
                _ = tick.tick() => complain(Some(SILENT_STORE)),
            }
        };
        let fault = fault(answered, pulse.as_deref());
        complain(fault);
        if fault.is_none() {
            systemd::alive();
        }
    }
}

/// What is wrong, so that a new start may help.
fn fault(answered: bool, pulse: Option<&Pulse>) -> Option<&'static str> {
    if !answered {
        Some(SILENT_STORE)
    } else if pulse.is_some_and(|pulse| !pulse.is_well()) {
        Some("the worker's loop stands still")
    } else {
        None
    }
}

/// Tells each change of the status.
async fn tell_status(store: Store, draining: CancellationToken) {
    let mut told = None;
    loop {
        // A store that does not answer is the watchdog's business.
        if let Ok(standing) = Standing::of(&store).await {
            let mut line = standing.in_words();
            if draining.is_cancelled() {
                line.insert_str(0, "stopping: ");
            }
            if told.as_ref() != Some(&line) {
                systemd::status(&line);
                told = Some(line);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = draining.cancelled(), if told.as_ref().is_some_and(|l| !l.starts_with("stop")) => {}
        }
    }
}

/// How a service stands, as far as it fits in a line.
#[derive(Debug, Default)]
struct Standing {
    queued: i64,
    running: i64,
    logins: usize,
    /// Those that cannot be used.
    broken: usize,
    /// Until when those that rest do, in Unix seconds.
    rests: Vec<i64>,
}

impl Standing {
    async fn of(store: &Store) -> Result<Self, StoreError> {
        let (queued, running) = store.queue_depth().await?;
        let told = store.told_logins().await?;
        let mut rests = store.login_rests().await?;
        rests.extend(store.rests_by_hand().await?);
        // The longest of a login's rests counts.
        let until = told.iter().filter_map(|login| {
            let own = rests.iter().filter(|(label, _)| *label == login.login);
            own.map(|(_, rest)| rest.until).max()
        });
        let broken = told.iter().filter(|login| login.problem_code.is_some()).count();
        Ok(Self { queued, running, logins: told.len(), broken, rests: until.collect() })
    }

    /// Such as `2 running, 5 queued; 3 logins, 1 rests until 2026-11-26T15:00:00Z`.
    fn in_words(&self) -> String {
        let Self { queued, running, logins, broken, rests } = self;
        let work = match (running, queued) {
            (0, 0) => "idle".to_owned(),
            _ => format!("{running} running, {queued} queued"),
        };
        let mut words = vec![match logins {
            0 => work,
            1 => format!("{work}; 1 login"),
            more => format!("{work}; {more} logins"),
        }];
        if let Some(&first) = rests.iter().min() {
            let until = match jiff::Timestamp::from_second(first) {
                Ok(time) if first < UNTIL_WOKEN => time.to_string(),
                _ => "woken".to_owned(),
            };
            words.push(match rests.len() {
                1 => format!("1 rests until {until}"),
                more => format!("{more} rest, the first until {until}"),
            });
        }
        if *broken > 0 {
            words.push(format!("{broken} cannot be used"));
        }
        words.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_hangs_is_a_fault_and_none_is_not() {
        assert_eq!(fault(true, None), None);
        assert_eq!(fault(false, None), Some(SILENT_STORE));
        let pulse = Pulse::new(Duration::from_secs(30));
        assert_eq!(fault(true, Some(&pulse)), None);
        pulse.beat();
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(fault(true, Some(&pulse)), Some("the worker's loop stands still"));
        pulse.beat();
        assert_eq!(fault(true, Some(&pulse)), None);
    }

    #[test]
    fn a_line_tells_of_queue_and_logins() {
        let line = |standing: Standing| standing.in_words();
        assert_eq!(line(Standing::default()), "idle");
        assert_eq!(line(Standing { logins: 1, ..Standing::default() }), "idle; 1 login");
        let standing = Standing { running: 2, queued: 5, logins: 3, ..Standing::default() };
        assert_eq!(line(standing), "2 running, 5 queued; 3 logins");
        let rests = vec![1_764_169_200];
        let standing = Standing { logins: 2, broken: 1, rests, ..Standing::default() };
        let expected = "idle; 2 logins, 1 rests until 2025-11-26T15:00:00Z, 1 cannot be used";
        assert_eq!(line(standing), expected);
        let rests = vec![UNTIL_WOKEN, UNTIL_WOKEN];
        let standing = Standing { logins: 2, rests, ..Standing::default() };
        assert_eq!(line(standing), "idle; 2 logins, 2 rest, the first until woken");
    }
}
