//! What a clean-up did, told to whoever asked and kept for the operator.

use std::{fmt, path::Path};

use super::Cleaner;
use crate::store::{StoreError, cleanups::CleanupRun, now};

/// Why a clean-up runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its time has come.
    Schedule,
    /// The operator asks for it on the admin pages.
    Operator,
    /// Somebody, or a timer, runs the command.
    Command,
}

impl Cause {
    /// The word of the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Operator => "operator",
            Self::Command => "command",
        }
    }
}

/// What a clean-up removed, or would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Jobs whose time was over.
    pub expired_jobs: u64,
    /// Pictures of these jobs.
    pub images: u64,
    /// Files and folders that no row names.
    pub orphan_files: u64,
    /// Rows whose file was gone.
    pub orphan_rows: u64,
    /// Folders of Codex threads of finished jobs.
    pub codex_threads: u64,
    /// Bytes of all of these files but Codex's own.
    pub bytes: u64,
    /// Folders that were not searched for orphans.
    #[serde(skip)]
    pub skipped: Vec<Skipped>,
}

/// A folder that cannot be told to be this database's, or not be read.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Skipped {
    /// The folder.
    pub folder: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to do about it.
    pub advice: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Skipped {}: {}. {}", self.folder, self.reason, self.advice)
    }
}

impl Report {
    /// Notes a folder that is left alone, here and in the log.
    pub(super) fn skip(&mut self, folder: &Path, reason: String, advice: String) {
        let folder = folder.display().to_string();
        tracing::error!(folder, reason, "the clean-up skips a folder. {advice}");
        self.skipped.push(Skipped { folder, reason, advice });
    }

    /// Adds the size of what is removed. A file can look as large as its maker likes.
    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// A sentence of it.
    #[must_use]
    pub fn in_words(&self, dry_run: bool) -> String {
        format!(
            "{} {} expired jobs with {} pictures, {} orphan files, {} orphan rows and {} Codex \
             threads: {} bytes.",
            if dry_run { "Would remove" } else { "Removed" },
            self.expired_jobs,
            self.images,
            self.orphan_files,
            self.orphan_rows,
            self.codex_threads,
            self.bytes,
        )
    }
}

impl Cleaner {
    /// Removes everything whose time is over, or with `dry_run` only counts it, and keeps what came
    /// of that. Only the store stops it. A row that cannot be written is said in the log: what was removed is removed.
    pub async fn run_and_note(&self, cause: Cause, dry_run: bool) -> Result<Report, StoreError> {
        let started_at = now();
        let mut report = Report::default();
        let done = self.run_into(dry_run, &mut report).await;
        // What the command only counts is shown where it was asked for.
        if !dry_run || cause == Cause::Operator {
            let run = noted(cause, dry_run, started_at, &report, done.as_ref().err());
            if let Err(error) = self.store.note_cleanup(&run).await {
                tracing::warn!(%error, "what the clean-up did could not be kept");
            }
        }
        done.map(|()| report)
    }
}

fn noted(
    cause: Cause,
    dry_run: bool,
    started_at: i64,
    report: &Report,
    error: Option<&StoreError>,
) -> CleanupRun {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let skipped = report.skipped.iter().map(|skipped| one_line(&skipped.to_string()));
    CleanupRun {
        started_at,
        finished_at: now(),
        cause: cause.as_str().to_owned(),
        dry_run,
        expired_jobs: number(report.expired_jobs),
        images: number(report.images),
        orphan_files: number(report.orphan_files),
        orphan_rows: number(report.orphan_rows),
        codex_threads: number(report.codex_threads),
        bytes: number(report.bytes),
        skipped: skipped.collect::<Vec<_>>().join("\n"),
        error: error.map(ToString::to_string),
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}
