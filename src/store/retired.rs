//! What the clean-up asks of the store: which files may go, and which must stay.

use sqlx::{Connection, FromRow, Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    Store, StoreError, keep_if_well, now,
    strangers::{none_of_ours, parsed, short},
};
use crate::{
    bounds::MAX_COUNT,
    names::{JobId, PictureName},
};

/// The longest name of a file that is looked at, in bytes; the longest of ours has 44.
const LONGEST_NAME: i64 = 64;

/// A page of finished jobs whose time has come.
#[derive(Clone, Debug)]
pub struct RetiredJobs {
    /// Those that are ours.
    pub ids: Vec<JobId>,
    /// After which time and place the next page begins; None behind the last.
    pub next: Option<(i64, i64)>,
}

/// A picture's file.
#[derive(Clone, Debug)]
pub struct StoredFile {
    /// The job it belongs to.
    pub job_id: JobId,
    /// Its name in the folder of generated files.
    pub file: PictureName,
    /// Its size.
    pub bytes: u64,
}

/// A page of pictures' files.
#[derive(Clone, Debug)]
pub struct ShownFiles {
    /// Those that are ours.
    pub files: Vec<StoredFile>,
    /// After which name the next page begins; None behind the last.
    pub next: Option<Vec<u8>>,
}

impl FromRow<'_, SqliteRow> for StoredFile {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let job_id = parsed(row, "job_id", JobId::parse)?;
        let file = parsed(row, "file", |file| PictureName::parse(file, &job_id))?;
        let bytes: i64 = row.try_get("bytes")?;
        let bytes = u64::try_from(bytes).map_err(|_| none_of_ours("bytes"))?;
        Ok(Self { job_id, file, bytes })
    }
}

impl Store {
    /// Final jobs whose files are still there and whose time ended before `at`: a page, beginning
    /// after the given time and place, so that one that can't be removed does not hold up the rest.
    pub async fn expired_jobs(
        &self,
        at: i64,
        after: (i64, i64),
        limit: u32,
    ) -> Result<RetiredJobs, StoreError> {
        const EXPIRED: &str = concat!(
            "SELECT seq, expires_at, ",
            short!("id", 64),
            " FROM jobs WHERE purged_at IS NULL AND state NOT IN ('queued', 'running') \
             AND expires_at <= ? AND (expires_at, seq) > (?, ?) ORDER BY expires_at, seq LIMIT ?"
        );
        let rows = sqlx::query(EXPIRED)
            .bind(at)
            .bind(after.0)
            .bind(after.1)
            .bind(limit)
            .fetch_all(&self.read)
            .await?;
        let mut page = RetiredJobs { ids: Vec::new(), next: None };
        for row in &rows {
            let seq = row.try_get("seq")?;
            page.next = Some((row.try_get("expires_at")?, seq));
            page.ids.extend(self.ours("jobs", seq, parsed(row, "id", JobId::parse)));
        }
        Ok(page)
    }

    /// Did the operator delete this job, and may files of it still be there?
    pub async fn is_deleted_with_files(&self, id: &JobId) -> Result<bool, StoreError> {
        let row: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM jobs WHERE id = ? AND deleted_at IS NOT NULL AND purged_at IS NULL \
             AND state NOT IN ('queued', 'running')",
        )
        .bind(id.as_str())
        .fetch_optional(&self.read)
        .await?;
        Ok(row.is_some())
    }

    /// First step of a removal: from now on the job shows no picture.
    pub async fn mark_expired(&self, id: &JobId) -> Result<(), StoreError> {
        sqlx::query("UPDATE jobs SET state = 'expired' WHERE id = ? AND state = 'succeeded'")
            .bind(id.as_str())
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Last step of a removal, when the files are gone: the rows that named them go, and what
    /// Codex said. The job and its turns stay, as history.
    pub async fn mark_purged(&self, id: &JobId) -> Result<(), StoreError> {
        let mut writer = self.write.acquire().await?;
        let outcome = purge(&mut writer, id.as_str()).await;
        Ok(keep_if_well(writer, outcome).await?)
    }

    /// The picture files of a job; None when one of its rows is none of ours.
    pub async fn files_of(&self, id: &JobId) -> Result<Option<Vec<StoredFile>>, StoreError> {
        const FILES: &str = concat!(
            "SELECT j.seq, ",
            short!("i.job_id", 64, "job_id"),
            ", ",
            short!("i.file", 64, "file"),
            ", i.bytes FROM images i JOIN jobs j ON j.id = i.job_id WHERE i.job_id = ? LIMIT ?"
        );
        let rows =
            sqlx::query(FILES).bind(id.as_str()).bind(MAX_COUNT + 1).fetch_all(&self.read).await?;
        let Some(first) = rows.first() else { return Ok(Some(Vec::new())) };
        let files = if rows.len() > MAX_COUNT as usize {
            Err(none_of_ours("position"))
        } else {
            rows.iter().map(StoredFile::from_row).collect()
        };
        Ok(self.ours("images", first.try_get("seq")?, files))
    }

    /// The files of pictures that are shown and stay so after `at`: a page in the order of their
    /// names, beginning after `after`.
    pub async fn shown_files(
        &self,
        at: i64,
        after: &[u8],
        limit: u32,
    ) -> Result<ShownFiles, StoreError> {
        const SHOWN: &str = concat!(
            "SELECT j.seq, ",
            short!("i.job_id", 64, "job_id"),
            ", i.file, CAST(i.file AS BLOB) AS name, i.bytes FROM images i \
             JOIN jobs j ON j.id = i.job_id \
             WHERE i.file > CAST(? AS TEXT) AND j.state = 'succeeded' AND j.expires_at > ? \
             AND octet_length(i.file) <= ? ORDER BY i.file LIMIT ?"
        );
        let rows = sqlx::query(SHOWN)
            .bind(after)
            .bind(at)
            .bind(LONGEST_NAME)
            .bind(limit)
            .fetch_all(&self.read)
            .await?;
        let next = rows.last().map(|last| last.try_get("name")).transpose()?;
        Ok(ShownFiles { files: self.all_of_ours("images", &rows), next })
    }

    /// Forgets a picture whose file is gone; a job without any left is expired.
    pub async fn forget_image(&self, picture: &StoredFile) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM images WHERE job_id = ? AND file = ?")
            .bind(picture.job_id.as_str())
            .bind(picture.file.as_str())
            .execute(&self.write)
            .await?;
        sqlx::query(
            "UPDATE jobs SET state = 'expired' WHERE id = ?1 AND state = 'succeeded' \
             AND NOT EXISTS (SELECT 1 FROM images WHERE job_id = ?1)",
        )
        .bind(picture.job_id.as_str())
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

    /// Is there such a job, and is it final?
    pub async fn is_final(&self, id: &JobId) -> Result<bool, StoreError> {
        let row: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM jobs WHERE id = ? AND state NOT IN ('queued', 'running')",
        )
        .bind(id.as_str())
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
