//! What the clean-up asks of the store: which files may go, and which must stay.

use sqlx::{Connection, FromRow, SqliteConnection};

use super::{Store, StoreError, keep_if_well, now};

/// A finished job whose time has come.
#[derive(Clone, Debug, FromRow)]
pub struct RetiredJob {
    /// The public id.
    pub id: String,
    /// When its time ended.
    pub expires_at: i64,
}

/// A picture's file.
#[derive(Clone, Debug, FromRow)]
pub struct StoredFile {
    /// The job it belongs to.
    pub job_id: String,
    /// Its name in the folder of generated files.
    pub file: String,
    /// Its size.
    pub bytes: i64,
}

impl Store {
    /// Final jobs whose files are still there and whose time ended before `at`: a page, beginning
    /// after the given time and id, so that one that can't be removed does not hold up the rest.
    pub async fn expired_jobs(
        &self,
        at: i64,
        after: &(i64, String),
        limit: u32,
    ) -> Result<Vec<RetiredJob>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT id, expires_at FROM jobs \
             WHERE purged_at IS NULL AND state NOT IN ('queued', 'running') \
             AND expires_at <= ? AND (expires_at, id) > (?, ?) ORDER BY expires_at, id LIMIT ?",
        )
        .bind(at)
        .bind(after.0)
        .bind(&after.1)
        .bind(limit)
        .fetch_all(&self.read)
        .await?)
    }

    /// Did the operator delete this job, and may files of it still be there?
    pub async fn is_deleted_with_files(&self, id: &str) -> Result<bool, StoreError> {
        let row: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM jobs WHERE id = ? AND deleted_at IS NOT NULL AND purged_at IS NULL \
             AND state NOT IN ('queued', 'running')",
        )
        .bind(id)
        .fetch_optional(&self.read)
        .await?;
        Ok(row.is_some())
    }

    /// First step of a removal: from now on the job shows no picture.
    pub async fn mark_expired(&self, id: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE jobs SET state = 'expired' WHERE id = ? AND state = 'succeeded'")
            .bind(id)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Last step of a removal, when the files are gone: the rows that named them go, and what
    /// Codex said. The job and its turns stay, as history.
    pub async fn mark_purged(&self, id: &str) -> Result<(), StoreError> {
        let mut writer = self.write.acquire().await?;
        let outcome = purge(&mut writer, id).await;
        Ok(keep_if_well(writer, outcome).await?)
    }

    /// The picture files of a job.
    pub async fn files_of(&self, id: &str) -> Result<Vec<StoredFile>, StoreError> {
        Ok(sqlx::query_as("SELECT job_id, file, bytes FROM images WHERE job_id = ?")
            .bind(id)
            .fetch_all(&self.read)
            .await?)
    }

    /// The files of pictures that are shown and stay so after `at`: a page in the order of their
    /// names, beginning after `after`.
    pub async fn shown_files(
        &self,
        at: i64,
        after: &str,
        limit: u32,
    ) -> Result<Vec<StoredFile>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT i.job_id, i.file, i.bytes FROM images i JOIN jobs j ON j.id = i.job_id \
             WHERE i.file > ? AND j.state = 'succeeded' AND j.expires_at > ? \
             ORDER BY i.file LIMIT ?",
        )
        .bind(after)
        .bind(at)
        .bind(limit)
        .fetch_all(&self.read)
        .await?)
    }

    /// Forgets a picture whose file is gone; a job without any left is expired.
    pub async fn forget_image(&self, job: &str, file: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM images WHERE job_id = ? AND file = ?")
            .bind(job)
            .bind(file)
            .execute(&self.write)
            .await?;
        sqlx::query(
            "UPDATE jobs SET state = 'expired' WHERE id = ?1 AND state = 'succeeded' \
             AND NOT EXISTS (SELECT 1 FROM images WHERE job_id = ?1)",
        )
        .bind(job)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Must this file stay: has it a row, or will its job, which is not final, still give it one?
    pub async fn needs_file(&self, file: &str, job: &str) -> Result<bool, StoreError> {
        let row: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM images WHERE file = ? \
             UNION ALL SELECT 1 FROM jobs WHERE id = ? AND state IN ('queued', 'running') LIMIT 1",
        )
        .bind(file)
        .bind(job)
        .fetch_optional(&self.read)
        .await?;
        Ok(row.is_some())
    }

    /// Must the references of this job stay? Not when there is no such job, or its files are gone.
    pub async fn is_live(&self, id: &str) -> Result<bool, StoreError> {
        let row: Option<i64> =
            sqlx::query_scalar("SELECT 1 FROM jobs WHERE id = ? AND purged_at IS NULL")
                .bind(id)
                .fetch_optional(&self.read)
                .await?;
        Ok(row.is_some())
    }

    /// Is there such a job, and is it not final yet?
    pub async fn is_open(&self, id: &str) -> Result<bool, StoreError> {
        let row: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM jobs WHERE id = ? AND state IN ('queued', 'running')",
        )
        .bind(id)
        .fetch_optional(&self.read)
        .await?;
        Ok(row.is_some())
    }

    /// Is this the thread of a final job? What Codex keeps of it is then of no more use. Its id
    /// alone tells: a login may have got another name since.
    pub async fn is_finished_thread(&self, thread: &str) -> Result<bool, StoreError> {
        let row: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM turns t JOIN jobs j ON j.id = t.job_id \
             WHERE t.thread_id = ? AND j.state NOT IN ('queued', 'running') LIMIT 1",
        )
        .bind(thread)
        .fetch_optional(&self.read)
        .await?;
        Ok(row.is_some())
    }
}

async fn purge(writer: &mut SqliteConnection, id: &str) -> sqlx::Result<()> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    for sql in [
        "DELETE FROM images WHERE job_id = ?",
        "DELETE FROM job_references WHERE job_id = ?",
        "UPDATE turns SET stdout = NULL, stderr = NULL WHERE job_id = ?",
    ] {
        sqlx::query(sql).bind(id).execute(&mut *transaction).await?;
    }
    sqlx::query("UPDATE jobs SET purged_at = ? WHERE id = ?")
        .bind(now())
        .bind(id)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}
