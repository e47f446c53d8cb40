//! `restore`: a backup becomes the database, while the service is stopped.

use std::{path::PathBuf, process::ExitCode};

use super::{block_on, config_or_exit, fail};
use crate::backup;

/// Make a backup the database again, while the service is stopped.
///
/// The backup is read from end to end, and a copy of it takes the place of the database in one step.
/// The database that was there stays beside it, as NAME.replaced-YYYYMMDDTHHMMSSZ. One of a former
/// version is brought up to date at the next start.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What was drawn after the backup is not in it: the clean-up removes those pictures as nobody's. What
waited when it was made, waits again, and is drawn again.

Example:
  codex-image-service restore ./before-the-upgrade.db

Exit codes: 0 done, 1 failed (the service runs, the file is no backup), 2 wrong usage.")]
pub(super) struct Args {
    /// The backup.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(args: &Args, file: Option<PathBuf>) -> ExitCode {
    let config = match config_or_exit(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match block_on(backup::restore(&config, &args.file)) {
        Ok(Ok(restored)) => {
            let kept = restored.replaced.map(|path| format!("; kept: {}", path.display()));
            println!(
                "{} jobs: {} is the database now{}",
                restored.contents.jobs,
                args.file.display(),
                kept.unwrap_or_default()
            );
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => fail(&error),
        Err(error) => fail(&error),
    }
}
