//! Signs a login in by Codex's own device login, in the login's home and under its lock.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, process::Command};

use super::{Failure, auth, command, locate, login};
use crate::config::Config;

/// Why nobody was signed in.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// The settings name no such login.
    #[error("there is no login {wanted:?} in CODEX_HOMES; known are: {known}")]
    Unknown {
        /// What was asked for.
        wanted: String,
        /// The labels that there are.
        known: String,
    },
    /// The home is somebody else's: files made in it now could not be used by its owner.
    #[error(
        "{home} belongs to the user with the id {owner}; run this command as that user, such as: \
         sudo -u '#{owner}' codex-image-service logins add {label}"
    )]
    Owner {
        /// The login's label.
        label: String,
        /// The home.
        home: String,
        /// Its owner.
        owner: u32,
    },
    /// Another process holds the login.
    #[error(
        "the login is in use by another process; stop the service, or wait until it has been idle \
         for CODEX_IDLE_SECONDS"
    )]
    InUse,
    /// Codex is not there, or the login is none afterwards.
    #[error("{}", .0.message)]
    Failed(Failure),
    /// Codex said no.
    #[error("`codex login` ended with {0}")]
    Codex(std::process::ExitStatus),
    /// A file or a process.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        error: std::io::Error,
    },
}

/// Runs Codex's device login for this login, on the terminal of this process. Blocks until it ends.
///
/// # Errors
/// See [`SignInError`].
pub fn sign_in(config: &Config, label: &str) -> Result<(), SignInError> {
    let io = |what: &str| {
        let what = format!("login {label}: {what}");
        move |error| SignInError::Io { what, error }
    };
    let home = config.codex_homes.iter().find(|home| home.label == label).ok_or_else(|| {
        let labels: Vec<_> = config.codex_homes.iter().map(|home| home.label.as_str()).collect();
        SignInError::Unknown { wanted: label.to_owned(), known: labels.join(", ") }
    })?;
    let path: PathBuf = std::path::absolute(&home.path).map_err(io("the home's path"))?;
    login::make_home(&path).map_err(io(&format!("making the home {}", path.display())))?;
    let owner = fs::metadata(&path).map_err(io("looking at the home"))?.uid();
    if owner != rustix::process::geteuid().as_raw() {
        let home = path.display().to_string();
        return Err(SignInError::Owner { label: label.to_owned(), home, owner });
    }
    let lock = login::lock_home(&path).map_err(io("the login's lock"))?;
    let _lock = lock.ok_or(SignInError::InUse)?;
    let environment = command::inherited(config);
    let program = locate::locate(&config.codex_bin, command::value(&environment, "PATH"))
        .map_err(SignInError::Failed)?;
    let mut codex = Command::new(&program.path);
    codex.args(["login", "--device-auth", "-c", "cli_auth_credentials_store=\"file\""]);
    codex.env_clear().envs(environment).env("CODEX_HOME", &path);
    if codex.get_envs().all(|(name, _)| name != "HOME") {
        codex.env("HOME", &path);
    }
    let status = codex.status().map_err(io("starting Codex"))?;
    if !status.success() {
        return Err(SignInError::Codex(status));
    }
    auth::check(&path).map_err(SignInError::Failed)
}
