//! What systemd gives and wants: sockets in, readiness, watchdog and stop out, credentials, the
//! journal. Everything here is harmless where there is no systemd.

mod sockets;

use std::{path::PathBuf, time::Duration};

use libsystemd::credentials::CredentialsLoader;
use sd_notify::NotifyState;

pub use sockets::{Listener, Passed};

/// Start-up is over, callers are served.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The settings are being read again; [`ready`] says that it is done.
pub fn reloading() {
    // Both in one message: systemd compares the time with that of its signal.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager cannot be told of a reload"),
    }
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

/// Is there a service manager that wants to be told anything?
#[must_use]
pub fn is_listening() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
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
