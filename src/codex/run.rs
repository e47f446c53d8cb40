//! One `codex exec` from its start to the end of its last process: tells the thread as soon as
//! Codex names it, keeps the deadline and the bounds, and leaves no process behind.

use std::{future::Future, path::Path, time::Duration};

use rustix::process::Signal;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    auth,
    events::Report,
    failures::Ending,
    follow::{Follower, Progress},
    spawn::Running,
};
use crate::config::LoginHome;

/// Between SIGTERM and SIGKILL, and for the kernel after that.
const GRACE: Duration = Duration::from_secs(5);
/// How long a token refresh that may be under way is waited for before SIGTERM.
const REFRESH: Duration = Duration::from_secs(5);
/// Codex ends 10 ms after its turn; one that does not is ended.
const AFTER_TURN: Duration = Duration::from_secs(10);

/// What a run has and must keep to.
pub(super) struct Limits<'a> {
    pub(super) timeout: Duration,
    pub(super) stop: &'a CancellationToken,
    /// For the log.
    pub(super) job_id: &'a str,
    /// The login, to see whether a refresh of it is under way.
    pub(super) home: &'a LoginHome,
}

/// How a run went.
pub(super) struct Followed {
    pub(super) report: Report,
    pub(super) ending: Ending,
    /// It may still be writing, or it has a thread that could not be read: that there is no
    /// picture says nothing.
    pub(super) unsure: bool,
}

/// Follows the run to its end. `tell` is called once with the thread's id, at once; its future
/// runs beside the run and is finished when this returns.
pub(super) async fn follow<F: Future<Output = ()>>(
    mut running: Running,
    mut follower: Follower,
    limits: &Limits<'_>,
    tell: impl FnOnce(String) -> F,
) -> Followed {
    let (job_id, login) = (limits.job_id, &limits.home.label);
    let mut report = Report::default();
    let mut tell = Some(tell);
    let mut telling = None;
    let mut until = Instant::now() + limits.timeout;
    let mut closing = false;

    let ending = loop {
        let more = match follower.drain(&mut report) {
            Ok(Progress::TooMuch) => break Some(Ending::TooMuch),
            Ok(progress) => progress == Progress::More,
            Err(error) => {
                tracing::warn!(job_id, login, %error, "Codex's output cannot be read");
                false
            }
        };
        if let Some(thread) = report.thread.clone()
            && let Some(tell) = tell.take()
        {
            telling = Some(Box::pin(tell(thread)));
        }
        if report.is_final() && !closing {
            closing = true;
            until = until.min(Instant::now() + AFTER_TURN);
        }
        tokio::select! {
            () = running.ended() => break None,
            () = finish(&mut telling) => {}
            () = tokio::task::yield_now(), if more => {}
            () = follower.grown(), if !more => {}
            () = tokio::time::sleep_until(until) => break Some(Ending::TimedOut),
            () = limits.stop.cancelled() => break Some(Ending::Stopped),
        }
    };

    if ending.is_some() {
        let ended = end(&running, &limits.home.path);
        tokio::pin!(ended);
        loop {
            tokio::select! {
                () = &mut ended => break,
                () = finish(&mut telling) => {}
            }
        }
    }
    let status = tokio::time::timeout(GRACE, running.reap()).await;
    let mut unsure = !matches!(status, Ok(Ok(_)));
    if unsure {
        tracing::error!(job_id, login, ?status, "the end of Codex cannot be waited for");
    }
    let ending = match (ending, status) {
        (Some(ending), _) => ending,
        (None, Ok(Ok(status))) => Ending::Exited(status),
        (None, _) => Ending::Unknown,
    };

    // What was written after the last look; a killed run may have named its thread only there.
    let ending = loop {
        match follower.drain(&mut report) {
            Ok(Progress::More) => tokio::task::yield_now().await,
            Ok(Progress::TooMuch) => break Ending::TooMuch,
            Ok(Progress::Caught) => break ending,
            Err(error) => {
                tracing::error!(job_id, login, %error, "Codex's output cannot be read");
                unsure |= report.thread.is_none();
                break ending;
            }
        }
    };
    report.finish();
    if let Some(thread) = report.thread.clone()
        && let Some(tell) = tell.take()
    {
        telling = Some(Box::pin(tell(thread)));
    }
    if let Some(telling) = telling {
        telling.await;
    }
    Followed { report, ending, unsure }
}

/// Resolves when a future that is under way is finished, and takes it away.
async fn finish<F: Future<Output = ()> + Unpin>(telling: &mut Option<F>) {
    match telling {
        Some(future) => {
            future.await;
            *telling = None;
        }
        None => std::future::pending().await,
    }
}

/// Ends a run from outside: SIGTERM, on which Codex dies at once, and SIGKILL for what does not.
async fn end(running: &Running, home: &Path) {
    let refreshed = async {
        while refresh_is_due(home).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(REFRESH, refreshed) => {}
        () = running.ended() => return,
    }
    running.signal(Signal::TERM);
    if tokio::time::timeout(GRACE, running.ended()).await.is_err() {
        running.signal(Signal::KILL);
    }
}

async fn refresh_is_due(home: &Path) -> bool {
    let home = home.to_owned();
    tokio::task::spawn_blocking(move || auth::refresh_is_due(&home)).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, process::Command, sync::Arc};

    use super::*;
    use crate::codex::spawn::{Launch, Spawner, text_input};

    /// Follows `sh -c script`, whose standard output is read from `events` in the folder.
    async fn followed(dir: &Path, script: &str, before: impl FnOnce(&Path)) -> Followed {
        let (events, stderr) = (dir.join("events"), dir.join("stderr"));
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        let null = || File::options().write(true).open("/dev/null").unwrap();
        let launch = Launch {
            command,
            stdin: text_input("").unwrap(),
            stdout: null(),
            stderr: File::create(&stderr).unwrap(),
            lock: Arc::new(null()),
            largest_file: 1024,
            death_signal: Some(Signal::KILL),
        };
        let follower = Follower::new(&events, &stderr).unwrap();
        let spawner = Spawner::new().unwrap();
        let running = spawner.spawn(launch).await.unwrap();
        before(&stderr);
        let timeout = Duration::from_secs(10);
        let home = LoginHome { label: "one".to_owned(), path: dir.to_owned() };
        let stop = &CancellationToken::new();
        let limits = Limits { timeout, stop, job_id: "img_1", home: &home };
        follow(running, follower, &limits, |_| std::future::ready(())).await
    }

    #[tokio::test]
    async fn output_that_cannot_be_read_leaves_it_open() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("events")).unwrap();
        assert!(!followed(dir.path(), "exit 0", |_| {}).await.unsure);
        std::fs::remove_file(dir.path().join("events")).unwrap();
        // A folder can be opened and not be read.
        std::fs::create_dir(dir.path().join("events")).unwrap();
        assert!(followed(dir.path(), "exit 0", |_| {}).await.unsure);
    }

    #[tokio::test]
    async fn an_end_that_cannot_be_waited_for_leaves_it_open() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("events")).unwrap();
        let taken = |stderr: &Path| {
            let pid = loop {
                let text = std::fs::read_to_string(stderr).unwrap();
                if let Some(pid) = text.strip_suffix('\n') {
                    break rustix::process::Pid::from_raw(pid.parse().unwrap());
                }
            };
            rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).unwrap();
        };
        assert!(followed(dir.path(), "echo $$ >&2", taken).await.unsure);
    }
}
