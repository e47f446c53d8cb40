//! One job with everything that is known of it, as the operator sees it, and deleting it.

use sqlx::{Connection, FromRow, SqliteConnection};

use super::{Store, StoreError, jobs::JobState, keep_if_well, now};
use crate::names::ReferenceName;

/// Everything of a job.
#[derive(Clone, Debug, FromRow)]
#[allow(missing_docs, reason = "columns of the tables, which say what they are")]
pub struct JobDetails {
    pub id: String,
    pub state: JobState,
    /// Hostile.
    pub prompt: String,
    pub api_key_id: String,
    pub key_name: String,
    pub key_handle: String,
    pub size: String,
    pub quality: String,
    pub background: String,
    pub output_format: Option<String>,
    pub output_compression: Option<u8>,
    /// The caller's own word; hostile.
    pub end_user: Option<String>,
    pub count: u32,
    pub attempts: i64,
    pub error_code: Option<String>,
    pub error: Option<String>,
    pub retry_at: Option<i64>,
    pub not_before: Option<i64>,
    pub created_at: i64,
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
    pub waiting_at: Option<i64>,
    pub starting_at: Option<i64>,
    pub drawing_at: Option<i64>,
    pub saving_at: Option<i64>,
    pub expires_at: i64,
    pub purged_at: Option<i64>,
}

/// A picture of a job that was asked for, and what Codex did about it.
#[derive(Clone, Debug, FromRow)]
#[allow(missing_docs, reason = "columns of the tables, which say what they are")]
pub struct TurnDetails {
    /// From 0.
    pub position: u32,
    /// pending, running, succeeded or failed.
    pub state: String,
    pub login: Option<String>,
    pub thread_id: Option<String>,
    /// Hostile, as the next two.
    pub stdout: Option<String>,
    pub stderr: Option<String>,
    pub note: Option<String>,
    pub error_code: Option<String>,
    pub error: Option<String>,
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
}

/// A picture that lies on the disk.
#[derive(Clone, Debug, FromRow)]
#[allow(missing_docs, reason = "columns of the tables, which say what they are")]
pub struct PictureDetails {
    /// From 0.
    pub position: u32,
    pub file: String,
    #[sqlx(rename = "type")]
    pub media_type: String,
    pub bytes: i64,
    pub width: u32,
    pub height: u32,
    /// Whether it is a mask: of references only.
    pub is_mask: bool,
}

impl Store {
    /// Everything of a job that is not deleted.
    pub async fn job_details(&self, id: &str) -> Result<Option<JobDetails>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT j.*, k.name AS key_name, k.handle AS key_handle FROM jobs j \
             JOIN api_keys k ON k.id = j.api_key_id WHERE j.id = ? AND j.deleted_at IS NULL",
        )
        .bind(id)
        .fetch_optional(&self.read)
        .await?)
    }

    /// The pictures that were asked for, by position.
    pub async fn turns_of(&self, id: &str) -> Result<Vec<TurnDetails>, StoreError> {
        Ok(sqlx::query_as("SELECT * FROM turns WHERE job_id = ? ORDER BY position")
            .bind(id)
            .fetch_all(&self.read)
            .await?)
    }

    /// The pictures of a job that are shown, by position.
    pub async fn pictures_of(&self, id: &str) -> Result<Vec<PictureDetails>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT i.position, i.file, i.type, i.bytes, i.width, i.height, 0 AS is_mask \
             FROM images i JOIN jobs j ON j.id = i.job_id AND j.state = 'succeeded' \
             WHERE i.job_id = ? ORDER BY i.position",
        )
        .bind(id)
        .fetch_all(&self.read)
        .await?)
    }

    /// The references of a job that is not deleted and whose files are still there, by position.
    pub async fn references_of(&self, id: &str) -> Result<Vec<PictureDetails>, StoreError> {
        let rows = sqlx::query(
            "SELECT j.seq, r.position, r.file, r.type, r.bytes, r.width, r.height, r.role = 'mask' AS is_mask \
             FROM job_references r JOIN jobs j ON j.id = r.job_id AND j.deleted_at IS NULL \
             AND j.purged_at IS NULL WHERE r.job_id = ? ORDER BY r.position",
        )
        .bind(id)
        .fetch_all(&self.read)
        .await?;
        let pictures: Vec<PictureDetails> = self.all_of_ours("job_references", &rows);
        let is_one = |picture: &PictureDetails| ReferenceName::parse(&picture.file).is_some();
        Ok(pictures.into_iter().filter(is_one).collect())
    }

    /// Deletes a job from what is shown: one that is open is cancelled, its words and Codex's are
    /// forgotten, and its files are due. What the figures count stays, and so does what makes a
    /// repetition of its request find it: that is not drawn after all. False when there is none.
    pub async fn delete_job(&self, id: &str) -> Result<bool, StoreError> {
        let mut writer = self.write.acquire().await?;
        let outcome = delete(&mut writer, id).await;
        Ok(keep_if_well(writer, outcome).await?)
    }
}

async fn delete(writer: &mut SqliteConnection, id: &str) -> sqlx::Result<bool> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    let done = sqlx::query(
        "UPDATE jobs SET deleted_at = ?2, expires_at = min(expires_at, ?2), prompt = '', \
         error = NULL, end_user = NULL, \
         finished_at = coalesce(finished_at, ?2), lease_owner = NULL, lease_until = NULL, \
         generation = generation + (state IN ('queued', 'running')), \
         state = CASE WHEN state IN ('queued', 'running') THEN 'cancelled' \
           WHEN state = 'succeeded' THEN 'expired' ELSE state END \
         WHERE id = ?1 AND deleted_at IS NULL",
    )
    .bind(id)
    .bind(now())
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "UPDATE turns SET stdout = NULL, stderr = NULL, note = NULL, error = NULL WHERE job_id = ?",
    )
    .bind(id)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(done.rows_affected() > 0)
}
