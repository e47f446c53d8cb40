//! The two doorbells of a service: one wakes the worker, one the front. Within one process they are
//! channels, between two they are sockets in the state directory.

use std::{io, path::PathBuf};

use super::Role;
use crate::{
    config::Config,
    queue::bell::{self, Doorbell},
};

/// Where the worker listens, once it is the only one.
pub(super) enum WorkBell {
    Within(bell::Listener),
    At(PathBuf),
}

/// The bell that wakes the worker and what it hears; the bell that wakes the front and what it
/// hears. Within one process they are channels, between two they are sockets.
pub(super) type Bells = (Doorbell, Option<WorkBell>, Doorbell, Option<bell::Listener>);

pub(super) fn bells(config: &Config, role: Role) -> io::Result<Bells> {
    let (worker, front) = (config.run_dir.join("worker.bell"), config.run_dir.join("front.bell"));
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
            (to_worker, Some(WorkBell::At(worker)), to_front, None)
        }
    })
}
