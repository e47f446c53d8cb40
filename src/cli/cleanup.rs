//! `cleanup`: removes what is past its retention, once, beside the running service or for a timer.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use super::{block_on, config_or_exit, fail};
use crate::{
    codex,
    config::Config,
    retention::{Cleaner, Report},
    store::Store,
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
    let report = Cleaner {
        store: store.clone(),
        engine,
        generated_dir: config.generated_dir.clone(),
        references_dir: config.references_dir(),
        workdir: config.codex_workdir.clone(),
    }
    .run(dry_run)
    .await?;
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
    let verb = if args.dry_run { "Would remove" } else { "Removed" };
    println!(
        "{verb} {} expired jobs with {} pictures, {} orphan files, {} orphan rows and {} Codex \
         threads: {} bytes.",
        report.expired_jobs,
        report.images,
        report.orphan_files,
        report.orphan_rows,
        report.codex_threads,
        report.bytes,
    );
    for skipped in &report.skipped {
        println!("{skipped}");
    }
}
