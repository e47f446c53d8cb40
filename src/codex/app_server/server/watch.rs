//! Sees an app-server to its end, whatever the end is: by itself, when it is asked to, or because it
//! cannot be talked with any more. When this is over no process of it is left, or it is said that
//! one may be, and the login's lease is let go.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;
use tokio::sync::mpsc;

use super::{Heard, Heed, Server};
use crate::codex::{
    app_server::wire::{CallError, Told},
    login::Lease,
    shadow,
    spawn::Running,
    status::QuotaWindow,
};

/// How often an app-server at work is asked whether it still answers, and how long it may take.
const HEARTBEAT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(20);
/// After its standard input was closed. It ends in milliseconds, or when a refresh is over.
const GENTLE_END: Duration = Duration::from_secs(15);
/// Between SIGTERM and SIGKILL, and for the kernel after that.
const GRACE: Duration = Duration::from_secs(5);
/// How often the quota is asked for, at most.
const QUOTA_INTERVAL: Duration = Duration::from_mins(2);

/// Sees an app-server to its end, whatever the end is.
pub(super) async fn watch(
    server: Arc<Server>,
    mut running: Running,
    dir: PathBuf,
    lease: Lease,
    mut told: mpsc::UnboundedReceiver<Told>,
    heard: Heard,
) {
    let mut windows: Vec<QuotaWindow> = Vec::new();
    let mut asked = Instant::now();
    let mut beat = tokio::time::interval(HEARTBEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    beat.tick().await;
    let why = loop {
        tokio::select! {
            () = running.ended() => break Some("ended by itself"),
            () = server.closing.cancelled() => break None,
            news = told.recv() => match news {
                Some(Told::Quota(news)) => {
                    merge(&mut windows, news);
                    heard(Heed::Quota(windows.clone()));
                }
                Some(Told::Broken(why)) => break Some(why),
                None => break None,
            },
            _ = beat.tick() => {
                if server.active() > 0 {
                    listen_for_life(&server);
                    if asked.elapsed() >= QUOTA_INTERVAL {
                        asked = Instant::now();
                        server.ask_quota();
                    }
                }
            }
        }
    };
    server.retire();
    if why.is_none() {
        // The writer lets go of the pipe, and Codex ends by itself.
        server.wire.close();
        let _ = tokio::time::timeout(GENTLE_END, running.ended()).await;
    }
    let ended = has_ended(&running).await;
    if let Some(why) = why.filter(|_| !ended) {
        tracing::error!(login = lease.home().label, why, "Codex's app-server is killed");
    }
    if !ended {
        // Stopped, it would take no signal but SIGKILL.
        running.signal(Signal::TERM);
        let _ = tokio::time::timeout(GRACE, running.ended()).await;
    }
    let killed = !has_ended(&running).await;
    let reaped = tokio::time::timeout(GRACE, running.reap()).await;
    if matches!(reaped, Ok(Ok(_))) {
        // Nobody else begins there before the lease is let go.
        let _ = tokio::task::spawn_blocking(move || shadow::sweep(&dir)).await;
    } else {
        tracing::error!(
            ?reaped,
            login = lease.home().label,
            "the end of Codex cannot be waited for"
        );
        server.lingers.store(true, Ordering::Release);
    }
    server.wire.close();
    match why {
        Some(why) if ended => {
            tracing::warn!(login = lease.home().label, status = ?reaped, why, "Codex's app-server ended");
            heard(Heed::Killed("ended without being asked"));
        }
        Some(why) => heard(Heed::Killed(why)),
        None if killed => heard(Heed::Killed("did not end when asked")),
        None => {}
    }
    drop(lease);
    server.gone.cancel();
}

/// True when it has, now.
async fn has_ended(running: &Running) -> bool {
    tokio::time::timeout(Duration::from_millis(1), running.ended()).await.is_ok()
}

/// One that works and does not answer is as good as dead.
fn listen_for_life(server: &Arc<Server>) {
    let server = Arc::clone(server);
    tokio::spawn(async move {
        let asked = server.wire.call("thread/loaded/list", json!({}), SILENCE).await;
        if asked == Err(CallError::Late) {
            server.kill("does not answer");
        }
    });
}

/// News of one limit do not take away what is known of the others.
fn merge(windows: &mut Vec<QuotaWindow>, news: Vec<QuotaWindow>) {
    windows.retain(|old| news.iter().all(|new| new.limit != old.limit));
    windows.extend(news);
    windows.sort_by(|a, b| (&a.limit, a.minutes).cmp(&(&b.limit, b.minutes)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_of_a_limit_leave_the_others() {
        let window = |limit: &str, minutes, used_percent| QuotaWindow {
            limit: limit.into(),
            minutes,
            used_percent,
            resets_at: None,
        };
        let mut known = vec![window("codex", 300, 1), window("image_gen", 300, 2)];
        merge(&mut known, vec![window("codex", 300, 50), window("codex", 10_080, 3)]);
        let expected =
            [window("codex", 300, 50), window("codex", 10_080, 3), window("image_gen", 300, 2)];
        assert_eq!(known, expected);
    }
}
