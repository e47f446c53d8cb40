//! Table `cleanup_runs`: what the clean-ups removed, and what they would.

use sqlx::FromRow;

use super::{Store, StoreError};

/// Runs that are kept.
const KEPT: i64 = 200;

/// A clean-up, or a count of what one would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow)]
pub struct CleanupRun {
    /// When it began, in milliseconds.
    pub started_at: i64,
    /// When it ended, in milliseconds.
    pub finished_at: i64,
    /// `schedule`, `operator` or `command`.
    pub cause: String,
    /// Nothing was removed: it only counted.
    pub dry_run: bool,
    /// Jobs whose time was over.
    pub expired_jobs: i64,
    /// Their pictures.
    pub images: i64,
    /// Files and folders that no row names.
    pub orphan_files: i64,
    /// Rows whose file was gone.
    pub orphan_rows: i64,
    /// Folders of Codex threads.
    pub codex_threads: i64,
    /// Bytes of all of these files but Codex's own.
    pub bytes: i64,
    /// Folders that were not searched, one a line.
    pub skipped: String,
    /// What stopped it.
    pub error: Option<String>,
}

impl Store {
    /// Keeps what a clean-up did.
    pub async fn note_cleanup(&self, run: &CleanupRun) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO cleanup_runs (started_at, finished_at, cause, dry_run, expired_jobs, \
             images, orphan_files, orphan_rows, codex_threads, bytes, skipped, error) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(run.started_at)
        .bind(run.finished_at)
        .bind(&run.cause)
        .bind(run.dry_run)
        .bind(run.expired_jobs)
        .bind(run.images)
        .bind(run.orphan_files)
        .bind(run.orphan_rows)
        .bind(run.codex_threads)
        .bind(run.bytes)
        .bind(&run.skipped)
        .bind(&run.error)
        .execute(&self.write)
        .await?;
        sqlx::query(
            "DELETE FROM cleanup_runs WHERE seq <= (SELECT max(seq) FROM cleanup_runs) - ?",
        )
        .bind(KEPT)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// The latest clean-ups, newest first.
    pub async fn cleanup_runs(&self, limit: u32) -> Result<Vec<CleanupRun>, StoreError> {
        Ok(sqlx::query_as("SELECT * FROM cleanup_runs WHERE NOT dry_run ORDER BY seq DESC LIMIT ?")
            .bind(limit)
            .fetch_all(&self.read)
            .await?)
    }

    /// The latest count of what a clean-up would remove.
    pub async fn latest_count(&self) -> Result<Option<CleanupRun>, StoreError> {
        Ok(sqlx::query_as("SELECT * FROM cleanup_runs WHERE dry_run ORDER BY seq DESC LIMIT 1")
            .fetch_optional(&self.read)
            .await?)
    }
}
