//! `backup`: the database as one file, made and verified beside the running service.

use std::{path::PathBuf, process::ExitCode};

use super::{block_on, config_or_exit, fail};
use crate::backup;

/// Back the database up into one file, also while the service runs.
///
/// The file is the database as it was at one moment: written under another name, read from end to
/// end, and then put in its place in one step, for this user alone (mode 0600). When that fails,
/// nothing is replaced or removed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It holds the keys (as hashes), the jobs with their prompts and the whole history, the hash of the
admin pages' password with their sessions, and what is known of the logins' quotas. It does not hold
pictures and references, the logins (auth.json), the settings, or what lies beside the database in
STATE_DIR: the secret of the session cookies and a password that was made and not used yet.

To restore it, stop the service and run 'codex-image-service restore FILE'.

Example:
  codex-image-service backup ./before-the-upgrade.db
  codex-image-service backup --keep 14 /var/backup/codex-image-service

Exit codes: 0 done, 1 failed (there is no room, say), 2 wrong usage.")]
pub(super) struct Args {
    /// The file to make; in a folder that is there, codex-image-service-YYYYMMDDTHHMMSSZ.db (UTC).
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace a file that is there.
    #[arg(long)]
    force: bool,
    /// Keep so many of the folder's dated backups, this one included; the oldest go.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
}

pub(super) fn run(args: &Args, file: Option<PathBuf>) -> ExitCode {
    let config = match config_or_exit(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match block_on(backup::make(&config.database, &args.file, args.force, args.keep)) {
        Ok(Ok(made)) => {
            let removed = match made.removed {
                0 => String::new(),
                removed => format!("; older ones removed: {removed}"),
            };
            let (bytes, jobs) = (made.bytes, made.contents.jobs);
            println!("{bytes} bytes, {jobs} jobs: {}{removed}", made.path.display());
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => fail(&error),
        Err(error) => fail(&error),
    }
}
