//! The doorbells between front and worker. The store is the truth; a bell only wakes, may be
//! lost, and may ring for nothing.
//!
//! In one process a bell is a channel. Between two it is a datagram socket in a folder that both
//! can reach: the payload is empty or a job's id.

use std::{
    io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle};

use crate::names::is_job_id;

/// Rings that wait to be heard. More are dropped; the listener looks at the store by itself.
const WAITING: usize = 1024;

/// What is rung.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ring {
    /// Look at the store.
    Any,
    /// Look at this job: it may have ended.
    Job(String),
    /// This job has come to another phase.
    Phase(String),
    /// The operator asks something of the worker.
    Order,
}

/// What is sent for it.
const ORDER: &str = "!";

/// What stands before the id of a job that came to another phase.
const PHASE: &str = "+";

/// The end that rings.
#[derive(Clone)]
pub enum Doorbell {
    /// Within this process.
    Local(mpsc::Sender<Ring>),
    /// At a socket of another process.
    Remote(Arc<UnixDatagram>, PathBuf),
}

impl Doorbell {
    /// A bell at the socket of another process, which need not be there yet.
    pub fn remote(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self::Remote(Arc::new(socket), path.to_owned()))
    }

    /// Is whoever is woken another process?
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Remote(..))
    }

    /// Rings, and does not wait for anybody.
    pub fn ring(&self, ring: &Ring) {
        match self {
            Self::Local(sender) => {
                let _ = sender.try_send(ring.clone());
            }
            Self::Remote(socket, path) => {
                let payload = match ring {
                    Ring::Any => String::new(),
                    Ring::Job(id) => id.clone(),
                    Ring::Phase(id) => format!("{PHASE}{id}"),
                    Ring::Order => ORDER.to_owned(),
                };
                // Nobody at home or a full socket: the listener looks at the store by itself.
                if let Err(error) = socket.send_to(payload.as_bytes(), path) {
                    tracing::debug!(%error, "the doorbell was not heard");
                }
            }
        }
    }
}

/// The end that listens.
pub struct Listener {
    receiver: mpsc::Receiver<Ring>,
    ears: Option<Ears>,
}

impl Listener {
    /// The next ring; None when no bell is left.
    pub async fn recv(&mut self) -> Option<Ring> {
        self.receiver.recv().await
    }

    /// What reads the socket, where this is one.
    pub(super) fn take_ears(&mut self) -> Option<Ears> {
        self.ears.take()
    }
}

/// What reads a socket, also for who waits at the [`Listener`]. Closed, it leaves what is rung in
/// the socket.
pub(super) struct Ears {
    socket: Arc<tokio::net::UnixDatagram>,
    sender: mpsc::Sender<Ring>,
    reading: Option<JoinHandle<()>>,
}

impl Ears {
    /// When this resolves, nothing is read any more.
    pub(super) async fn close(&mut self) {
        let Some(reading) = self.reading.take() else { return };
        // What it has read it has handed on: it waits for nothing in between.
        reading.abort();
        let _ = reading.await;
    }

    pub(super) fn open(&mut self) {
        let (socket, sender) = (Arc::clone(&self.socket), self.sender.clone());
        self.reading.get_or_insert_with(|| tokio::spawn(read(socket, sender)));
    }
}

/// A bell within this process.
#[must_use]
pub fn local() -> (Doorbell, Listener) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Doorbell::Local(sender), Listener { receiver, ears: None })
}

/// Listens at a socket; one that a dead process left there is replaced.
pub fn listen(path: &Path) -> io::Result<Listener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(hear(tokio::net::UnixDatagram::bind(path)?))
}

/// Listens at a socket that somebody else has bound, non-blocking. What was rung before this
/// process was there waits in it, and what nobody hears stays in it.
pub fn listen_at(socket: UnixDatagram) -> io::Result<Listener> {
    Ok(hear(tokio::net::UnixDatagram::from_std(socket)?))
}

fn hear(socket: tokio::net::UnixDatagram) -> Listener {
    let (sender, receiver) = mpsc::channel(WAITING);
    let mut ears = Ears { socket: Arc::new(socket), sender, reading: None };
    ears.open();
    Listener { receiver, ears: Some(ears) }
}

async fn read(socket: Arc<tokio::net::UnixDatagram>, sender: mpsc::Sender<Ring>) {
    let mut payload = [0; 64];
    loop {
        let length = match socket.recv(&mut payload).await {
            Ok(length) => length,
            Err(error) => {
                tracing::error!(%error, "the doorbell can't be heard");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let ring = match std::str::from_utf8(&payload[..length]) {
            Ok(id) if is_job_id(id) => Ring::Job(id.to_owned()),
            Ok(ORDER) => Ring::Order,
            Ok(text) => match text.strip_prefix(PHASE).filter(|id| is_job_id(id)) {
                Some(id) => Ring::Phase(id.to_owned()),
                None => Ring::Any,
            },
            Err(_) => Ring::Any,
        };
        if let Err(mpsc::error::TrySendError::Closed(_)) = sender.try_send(ring) {
            return;
        }
    }
}
