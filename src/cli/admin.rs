//! `admin`: what the operator needs when the admin pages can't help. Works on the state directory,
//! also while the service runs.

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::Subcommand;

use super::{block_on, config_or_exit, fail};
use crate::{
    admin_password::{self, PasswordError},
    config::{Config, table},
    password_hash, state_dir,
    store::{Store, StoreError},
};

/// Help with the admin pages.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  codex-image-service admin reset-password

Exit codes: 0 done, 1 failed (ADMIN_PASSWORD is set, say), 2 wrong usage.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make another password: the password alone on standard output, words on standard error.
    ///
    /// Whoever is signed in has to sign in again; the running service takes the new password at
    /// once. Refused when `ADMIN_PASSWORD` is set: then that is the password.
    #[command(after_help = "\
Example: password=$(codex-image-service admin reset-password)

Exit codes: 0 done, 1 failed (ADMIN_PASSWORD is set, say), 2 wrong usage.")]
    ResetPassword,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum AdminError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    StateDir(std::io::Error),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error("ADMIN_PASSWORD is set ({0}) and is the password: change it there, or take it away")]
    IsSet(String),
    #[error("standard output could not be written to, so the password stays: {0}")]
    Output(std::io::Error),
}

pub(super) fn run(args: &Args, file: Option<PathBuf>) -> ExitCode {
    let Command::ResetPassword = args.command;
    let config = match config_or_exit(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match block_on(reset_password(&config)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(&error),
        Err(error) => fail(&error),
    }
}

async fn reset_password(config: &Config) -> Result<(), AdminError> {
    if config.admin_password.is_some() {
        let row = config.resolved().iter().find(|row| row.name == table::ADMIN_PASSWORD.name);
        return Err(AdminError::IsSet(row.map(|row| row.origin.clone()).unwrap_or_default()));
    }
    state_dir::make(config, false).map_err(AdminError::StateDir)?;
    let store = Store::open(&config.database).await?;
    let result = reset(config, &store).await;
    store.close().await;
    result
}

async fn reset(config: &Config, store: &Store) -> Result<(), AdminError> {
    let password = admin_password::random().map_err(PasswordError::from)?;
    let hash = password_hash::make(password.expose()).map_err(PasswordError::from)?;
    // First: a password that nobody has seen would lock the operator out.
    let mut out = std::io::stdout();
    writeln!(out, "{}", password.expose())
        .and_then(|()| out.flush())
        .map_err(AdminError::Output)?;
    if let Err(error) = store.set_admin_password(&hash, true).await {
        eprintln!("The password was not changed.");
        return Err(error.into());
    }
    let sessions = store.end_all_sessions().await?;
    eprintln!(
        "This is the password of the admin pages now, for the user {:?}. It is shown this once. {}",
        config.admin_username,
        match sessions {
            0 => "Nobody was signed in.".to_owned(),
            1 => "One session was ended.".to_owned(),
            more => format!("{more} sessions were ended."),
        }
    );
    // What a unit is given as a credential, this process does not see.
    eprintln!("(A service that is given ADMIN_PASSWORD goes by that: then change it there.)");
    let file = admin_password::file_of(config);
    if file.exists() {
        eprintln!("The one in {} is void; the file can be deleted.", file.display());
    }
    Ok(())
}
