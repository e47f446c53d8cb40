//! How a service comes to its end: by a signal, or because the worker failed. A first signal lets
//! running jobs end, a second one does not wait for them; the service manager is told how long it
//! may take.

use std::{io, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{CLOSING, Error, Role};
use crate::{codex, config::Live, systemd};

/// What a stop may take after the grace: ending Codex, open connections, and the books (what was
/// drawn is stored, the store closed).
const TIDYING: Duration =
    codex::LONGEST_STOP.saturating_add(CLOSING).saturating_add(Duration::from_secs(30));

/// The service manager is asked for so much time, again and again: should the process hang, it is not
/// waited for much longer.
const EXTENSION: Duration = Duration::from_secs(30);
const EXTENDED_EVERY: Duration = Duration::from_secs(10);

/// SIGTERM and SIGINT.
pub(super) struct StopSignals {
    term: Signal,
    int: Signal,
}

impl StopSignals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// Until a signal, until it is `idle`, or until the worker fails; then until the worker has drained.
pub(super) async fn wait_for_the_end(
    worker: Option<tokio::task::JoinHandle<io::Result<()>>>,
    signals: &mut StopSignals,
    idle: impl Future<Output = ()>,
    (draining, hurry): (&CancellationToken, &CancellationToken),
    role: Role,
    live: &Live,
) -> Result<(), Error> {
    let mut worker = worker;
    let early = tokio::select! {
        () = signals.next() => None,
        () = idle => None,
        ended = async {
            match worker.as_mut() {
                Some(worker) => worker.await,
                None => std::future::pending().await,
            }
        } => Some(ended),
    };
    tracing::info!(?role, "stopping");
    systemd::stopping();
    tokio::spawn(ask_for_time(live.now().shutdown_grace + TIDYING));
    draining.cancel();
    let ended = match (early, worker) {
        (Some(ended), _) => ended,
        (None, Some(worker)) => {
            let mut worker = worker;
            tokio::select! {
                ended = &mut worker => ended,
                () = signals.next() => {
                    tracing::warn!("a second signal: not waiting for running jobs");
                    hurry.cancel();
                    worker.await
                }
            }
        }
        (None, None) => return Ok(()),
    };
    ended?.map_err(Into::into)
}

/// Keeps the service manager from ending the stop before its time: `most`, which is longer than the
/// grace, for Codex is stopped and the books are closed after it.
async fn ask_for_time(most: Duration) {
    let until = Instant::now() + most;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        systemd::extend_timeout(EXTENSION.min(left));
        tokio::time::sleep(EXTENDED_EVERY).await;
    }
}
