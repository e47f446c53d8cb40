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
/// A refresh that may be under way is waited for before any signal; longer than its answer may take.
const REFRESH: Duration = Duration::from_secs(65);
const LOOK: Duration = Duration::from_millis(100);
/// Between SIGTERM and SIGKILL, and for the kernel after that.
const GRACE: Duration = Duration::from_secs(5);
/// The longest time from the wish that one ends to its end.
pub(in crate::codex) const LONGEST_END: Duration =
    GENTLE_END.saturating_add(REFRESH).saturating_add(GRACE).saturating_add(GRACE);
/// How often it is looked whether the login of an idle one is to be renewed, in heartbeats.
const RENEWALS: u32 = 6;
/// How often the quota is asked for, at most.
const QUOTA_INTERVAL: Duration = Duration::from_mins(2);

/// What goes with a server.
pub(super) struct Watched {
    pub(super) running: Running,
    pub(super) dir: PathBuf,
    pub(super) lease: Lease,
    /// So many seconds before its token expires the login is renewed.
    pub(super) renew_before: i64,
}

/// Sees an app-server to its end, whatever the end is.
pub(super) async fn watch(
    server: Arc<Server>,
    Watched { mut running, dir, lease, renew_before }: Watched,
    mut told: mpsc::UnboundedReceiver<Told>,
    heard: Heard,
) {
    let mut beats: u32 = 0;
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
                beats = beats.wrapping_add(1);
                if beats.is_multiple_of(RENEWALS) {
                    keep_fresh(&server, renew_before);
                }
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
    wait_for_refresh(&server, &running, &lease).await;
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

/// Renews the login of one that idles long before Codex would do it in passing: for a refresh that
/// it was not asked for it does not wait when the service dies.
fn keep_fresh(server: &Arc<Server>, renew_before: i64) {
    if server.unrenewable.load(Ordering::Relaxed) {
        return;
    }
    let server = Arc::clone(server);
    tokio::spawn(async move { server.renew(renew_before).await });
}

/// Cut off in a refresh the login would be lost: the old token is spent, the new one not stored.
async fn wait_for_refresh(server: &Server, running: &Running, lease: &Lease) {
    let over = async {
        while server.may_refresh().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = running.ended() => {}
        waited = tokio::time::timeout(REFRESH, over) => if waited.is_err() {
            tracing::warn!(login = lease.home().label, "a refresh of the login may be cut off");
        },
    }
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
