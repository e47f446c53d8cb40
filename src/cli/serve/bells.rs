//! The two doorbells of a service: one wakes the worker, one the front. Within one process they are
//! channels, between two they are sockets in a folder of both, the worker's perhaps systemd's.

use std::{
    io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

use super::Role;
use crate::{
    config::Config,
    queue::bell::{self, Doorbell},
};

/// Where the worker listens, once it is the only one.
pub(super) enum WorkBell {
    Within(bell::Listener),
    /// At a socket of its own.
    At(PathBuf),
    /// At the one that was passed.
    Passed(UnixDatagram),
}

impl WorkBell {
    /// Begins to listen.
    pub(super) fn listen(self) -> io::Result<bell::Listener> {
        match self {
            Self::Within(listener) => Ok(listener),
            Self::At(path) => bell::listen(&path),
            Self::Passed(socket) => bell::listen_at(socket),
        }
    }
}

/// The bell that wakes the worker and what it hears; the bell that wakes the front and what it
/// hears. Within one process they are channels, between two they are sockets.
pub(super) type Bells = (Doorbell, Option<WorkBell>, Doorbell, Option<bell::Listener>);

pub(super) fn bells(
    config: &Config,
    role: Role,
    passed: Option<UnixDatagram>,
) -> io::Result<Bells> {
    let (worker, front) = (config.worker_bell(), config.run_dir.join("front.bell"));
    Ok(match role {
        Role::All => {
            let (worker_bell, work_to_do) = bell::local();
            let (front_bell, finished) = bell::local();
            (worker_bell, Some(WorkBell::Within(work_to_do)), front_bell, Some(finished))
        }
        Role::Front => {
            let (to_worker, to_front) = (Doorbell::remote(&worker)?, Doorbell::remote(&front)?);
            (to_worker, None, to_front, Some(bell::listen(&front)?))
        }
        Role::Worker => {
            let (to_worker, to_front) = (Doorbell::remote(&worker)?, Doorbell::remote(&front)?);
            let heard = match passed {
                Some(socket) => {
                    must_be_heard(&socket, &worker);
                    WorkBell::Passed(socket)
                }
                None => WorkBell::At(worker),
            };
            (to_worker, Some(heard), to_front, None)
        }
    })
}

/// Says so when the socket unit and the settings disagree about where the front rings: jobs would
/// wait until the worker looks by itself.
fn must_be_heard(socket: &UnixDatagram, rung: &Path) {
    let heard = socket.local_addr();
    let heard = heard.as_ref().ok().and_then(|address| address.as_pathname());
    if heard != Some(rung) {
        tracing::warn!(
            heard = %heard.unwrap_or(Path::new("(no path)")).display(),
            rung = %rung.display(),
            "the worker's doorbell is another than the one in RUN_DIR, which the front rings"
        );
    }
}
