//! `cleanup`: removes what is past its retention, once, beside the running service or for a timer.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use super::{block_on, config_or_exit, fail};
use crate::{
    codex,
    config::Config,
    retention::{Cause, Cleaner, Report},
    store::Store,
    telemetry,
};

/// Remove pictures, references and work folders that are past their retention time, and orphans.
///
/// The service does this by itself every `CLEANUP_INTERVAL_HOURS`; with 0 a timer calls this.
/// A folder whose marker does not name this database is not searched for orphans, and is named.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  codex-image-service cleanup --dry-run

Exit codes: 0 done, 1 failed (there is no database, say), 2 wrong usage.")]
pub(super) struct Args {
    /// Only count what would go.
    #[arg(long)]
    dry_run: bool,
    /// Print the counts as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, file: Option<PathBuf>) -> ExitCode {
    let config = match config_or_exit(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    // What is left alone, and why, is nobody's answer: a timer's clean-up says it in the log.
    let _guard = telemetry::init(tracing::Level::WARN, config.log_format);
    match block_on(execute(&config, args.dry_run)) {
        Ok(Ok(report)) => {
            print(&report, args);
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => fail(error.as_ref()),
        Err(error) => fail(&error),
    }
}

async fn execute(config: &Config, dry_run: bool) -> Result<Report, Box<dyn std::error::Error>> {
    let store = Store::open_existing(&config.database).await?;
    let engine = codex::engine(config, Arc::new(|_| {}))?;
    let cleaner = Cleaner::new(config, store.clone(), engine);
    let report = cleaner.run_and_note(Cause::Command, dry_run).await?;
    store.close().await;
    Ok(report)
}

fn print(report: &Report, args: &Args) {
    if args.json {
        let skipped = &report.skipped;
        let report =
            serde_json::json!({"dry_run": args.dry_run, "removed": report, "skipped": skipped});
        println!("{report}");
        return;
    }
    println!("{}", report.in_words(args.dry_run));
    for skipped in &report.skipped {
        println!("{skipped}");
    }
}
