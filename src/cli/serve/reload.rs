//! SIGHUP: the settings are read again from where they were read at the start, and what may change
//! does. What may not is named in the log, and so is what is wrong; then everything stays as it is.

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, ConfigError, Live, Sources, table},
    systemd,
    telemetry::LogLevel,
};

/// What reads the settings again.
pub(super) struct Reload {
    /// The environment among it is that of the start.
    sources: Sources,
    live: Live,
    level: LogLevel,
    secrets: Secrets,
}

/// What waits for the signal.
pub(super) struct Listening {
    reload: Reload,
    hangup: Signal,
}

/// Tells whether a secret has changed without keeping it.
struct Secrets {
    hasher: RandomState,
    known: [Option<u64>; 2],
}

impl Reload {
    /// Of these settings, which were read from there.
    pub(super) fn new(sources: Sources, config: &Config, level: LogLevel) -> Self {
        let hasher = RandomState::new();
        let known = marks(&hasher, config);
        Self { sources, live: config.live.clone(), level, secrets: Secrets { hasher, known } }
    }

    /// From now on the signal does not end the process.
    pub(super) fn listen(self) -> io::Result<Listening> {
        Ok(Listening { reload: self, hangup: signal(SignalKind::hangup())? })
    }

    async fn once(&mut self) {
        let sources = self.sources.clone();
        let read = tokio::task::spawn_blocking(move || Config::load(&sources)).await;
        match read {
            Ok(Ok(config)) => self.take_over(&config),
            Ok(Err(error)) => tell_of_problems(&error),
            Err(_) => tracing::error!("reading the settings panicked"),
        }
    }

    fn take_over(&mut self, config: &Config) {
        let mut differences = self.live.take_over(config);
        let now = self.live.now();
        self.level.set(now.log_level);
        let marks = marks(&self.secrets.hasher, config);
        let names = [table::ADMIN_PASSWORD.name, table::ADMIN_SESSION_SECRET.name];
        for ((name, mark), known) in names.into_iter().zip(marks).zip(self.secrets.known) {
            if mark != known && !differences.need_restart.contains(&name) {
                differences.need_restart.push(name);
            }
        }
        let rows = self.live.resolved();
        let changed = rows.iter().filter(|row| differences.changed.contains(&row.name));
        let changed: Vec<_> = changed.map(|row| format!("{} = {}", row.name, row.value)).collect();
        if changed.is_empty() {
            tracing::info!("the settings are read again; nothing changes");
        } else {
            tracing::info!("the settings are read again; now {}", changed.join(", "));
        }
        if !differences.need_restart.is_empty() {
            tracing::warn!("needs a restart: {}", differences.need_restart.join(", "));
        }
    }
}

impl Listening {
    /// Reads them again whenever it is asked to, until the service stops. To be called when the
    /// service manager knows that it is ready: each time it is told so anew.
    pub(super) fn whenever_asked(mut self, draining: CancellationToken) {
        tokio::spawn(async move {
            // A service that stops begins nothing new.
            while let Some(Some(())) = draining.run_until_cancelled(self.hangup.recv()).await {
                systemd::reloading();
                self.reload.once().await;
                systemd::ready();
            }
        });
    }
}

fn marks(hasher: &RandomState, config: &Config) -> [Option<u64>; 2] {
    let secrets = [&config.admin_password, &config.admin_session_secret];
    secrets.map(|secret| secret.as_ref().map(|secret| hasher.hash_one(secret.expose())))
}

fn tell_of_problems(error: &ConfigError) {
    for problem in &error.problems {
        tracing::error!("the settings stay as they are: {problem}");
    }
}
