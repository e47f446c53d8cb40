//! What systemd gives and wants: sockets in, readiness, watchdog and stop out, credentials, the
//! journal. Everything here is harmless where there is no systemd.

use std::{
    io,
    net::TcpListener,
    os::{fd::AsFd, unix::net::UnixListener},
    path::PathBuf,
    time::Duration,
};

use libsystemd::credentials::CredentialsLoader;
use listenfd::ListenFd;
use sd_notify::NotifyState;

/// The number of the first socket that is passed.
const FIRST_SOCKET: usize = 3;

/// A listening socket, non-blocking.
#[derive(Debug)]
pub enum Listener {
    /// IPv4 or IPv6.
    Tcp(TcpListener),
    /// A Unix stream socket.
    Unix(UnixListener),
}

/// The sockets that the service manager passed; none when it passed none.
///
/// To be called once, before any thread is started: it takes `LISTEN_FDS` and `LISTEN_PID` out of
/// the environment, so that no child believes the sockets to be its own.
pub fn passed_sockets() -> io::Result<Vec<Listener>> {
    let mut passed = ListenFd::from_env();
    (0..passed.len()).map(|index| take(&mut passed, index)).collect()
}

fn take(passed: &mut ListenFd, index: usize) -> io::Result<Listener> {
    let refused = |why: &str| {
        io::Error::other(format!("the socket that was passed as {}: {why}", index + FIRST_SOCKET))
    };
    // A socket of another kind is an error of the first and may be right for the second.
    if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
        must_listen(&listener).map_err(refused)?;
        listener.set_nonblocking(true)?;
        return Ok(Listener::Tcp(listener));
    }
    if let Ok(Some(listener)) = passed.take_unix_listener(index) {
        must_listen(&listener).map_err(refused)?;
        listener.set_nonblocking(true)?;
        return Ok(Listener::Unix(listener));
    }
    Err(refused("neither a TCP nor a Unix stream socket; the unit needs ListenStream="))
}

/// With `Accept=yes` systemd passes connections, which would look like sockets that never answer.
fn must_listen(socket: impl AsFd) -> Result<(), &'static str> {
    match rustix::net::sockopt::socket_acceptconn(socket) {
        Ok(true) => Ok(()),
        Ok(false) => Err("it does not listen; the socket unit needs Accept=no"),
        Err(_) => Err("it cannot be asked whether it listens"),
    }
}

/// Start-up is over, callers are served.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The stop has begun.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// A line for `systemctl status`.
pub fn status(line: &str) {
    // A newline would start another message.
    notify(&[NotifyState::Status(&line.replace(['\r', '\n'], " "))]);
}

/// The stop needs this much longer than the unit allows.
pub fn extend_timeout(by: Duration) {
    notify(&[NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))]);
}

/// The service is alive; due at least every [`watchdog_interval`].
pub fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// How often to say [`alive`]: half of the unit's `WatchdogSec=`, as systemd advises. `None` when
/// the unit has none.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|interval| !interval.is_zero())
}

/// Says it to the service manager, if there is one that listens (`NOTIFY_SOCKET`).
fn notify(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told about the service's state");
    }
}

/// The folder of the unit's credentials (`LoadCredential=`, `SetCredential=`).
#[must_use]
pub fn credentials_dir() -> Option<PathBuf> {
    let dir = CredentialsLoader::path_from_env()?;
    if let Err(error) = CredentialsLoader::open() {
        // Left over in an environment that was inherited; the settings say so if one is missing.
        tracing::debug!(%error, "the credentials cannot be opened");
        return None;
    }
    Some(dir)
}

/// Whether standard error goes to the journal, which adds the time by itself.
#[must_use]
pub fn connected_to_journal() -> bool {
    libsystemd::logging::connected_to_journal()
}

/// Whether this machine was started by systemd.
#[must_use]
pub fn booted() -> bool {
    libsystemd::daemon::booted()
}
