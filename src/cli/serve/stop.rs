//! How a service comes to its end: by a signal, or because the worker failed. A first signal lets
//! running jobs end, a second one does not wait for them; the service manager is told how long it
//! may take.

use std::{io, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{CLOSING, Error, Role};
use crate::{codex, systemd};

/// What a stop may take after the grace: ending Codex, open connections, and the books (what was
/// drawn is stored, the store closed).
const TIDYING: Duration =
    codex::LONGEST_STOP.saturating_add(CLOSING).saturating_add(Duration::from_secs(30));

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

/// Until a signal, or until the worker fails; then until the worker has drained.
pub(super) async fn wait_for_the_end(
    worker: Option<tokio::task::JoinHandle<io::Result<()>>>,
    signals: &mut StopSignals,
    draining: &CancellationToken,
    hurry: &CancellationToken,
    role: Role,
    grace: Duration,
) -> Result<(), Error> {
    let mut worker = worker;
    let early = tokio::select! {
        () = signals.next() => None,
        ended = async {
            match worker.as_mut() {
                Some(worker) => worker.await,
                None => std::future::pending().await,
            }
        } => Some(ended),
    };
    tracing::info!(?role, "stopping");
    systemd::stopping();
    // Longer than the grace: Codex is stopped and the books are closed after it.
    systemd::extend_timeout(grace + TIDYING);
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
