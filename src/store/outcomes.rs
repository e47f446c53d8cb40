//! Tables `turns` and `images`: how a turn goes and ends, and what that makes of its job.

use sqlx::{Connection, FromRow, SqliteConnection};

use super::{Store, StoreError, claims::Claim, jobs::JobState, keep_if_well, now};

/// A verified picture that lies in the folder of generated files.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// Its name there.
    pub file: String,
    /// The media type.
    pub media_type: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Hex SHA-256.
    pub sha256: String,
    /// Hex SHA-256 of what Codex made, before it was converted.
    pub source_sha256: String,
    /// Whether every pixel is opaque.
    pub opaque: bool,
}

/// Why a turn gave no picture, as it is kept.
#[derive(Clone, Debug)]
pub struct TurnFailure {
    /// The code of the wire.
    pub code: &'static str,
    /// The sentence for the caller.
    pub message: String,
    /// When trying again makes sense, in milliseconds.
    pub retry_at: Option<i64>,
}

/// How a turn ended.
#[derive(Clone, Debug)]
pub struct TurnEnd {
    /// Which of the job's pictures, from 0.
    pub position: u32,
    /// The login and thread, when Codex came that far.
    pub thread: Option<(String, String)>,
    /// Codex's standard output, clipped.
    pub stdout: String,
    /// Codex's standard error, clipped.
    pub stderr: String,
    /// The model's last words.
    pub note: Option<String>,
    /// When its picture was there and began to be stored, in milliseconds.
    pub saving_at: i64,
    /// The picture or what went wrong.
    pub result: Result<NewImage, TurnFailure>,
}

/// What the store made of a turn's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Written; the job goes on with its other turns.
    Open,
    /// Written; it was the last one and the job is now final.
    Final(JobState),
    /// The picture's bytes are those of one of the job's references or of another picture:
    /// nothing was written.
    Duplicate,
    /// The claim is void (cancelled, or taken over): nothing was written.
    Void,
}

/// A picture as it is served.
#[derive(Clone, Debug, FromRow)]
pub struct ServedImage {
    /// Its name in the folder of generated files.
    pub file: String,
    /// The media type.
    #[sqlx(rename = "type")]
    pub media_type: String,
    /// Hex SHA-256.
    pub sha256: String,
    /// When it was stored.
    pub created_at: i64,
}

/// A picture of a job, as its caller is told of it.
#[derive(Clone, Debug, FromRow)]
pub struct JobImage {
    /// Its name in the folder of generated files.
    pub file: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Whether every pixel is opaque.
    pub opaque: bool,
}

impl Store {
    /// The pictures of a job, by position; none once they expired or were deleted, though their rows
    /// stay until the files are gone.
    pub async fn job_images(&self, job: &str) -> Result<Vec<JobImage>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT i.file, i.width, i.height, i.opaque FROM images i \
             JOIN jobs j ON j.id = i.job_id AND j.state <> 'expired' AND j.deleted_at IS NULL \
             WHERE i.job_id = ? ORDER BY i.position",
        )
        .bind(job)
        .fetch_all(&self.read)
        .await?)
    }

    /// Notes the thread of a turn. Not fenced by the job's generation: even the thread of a
    /// cancelled job must be known, so that the clean-up can remove what it left.
    pub async fn set_thread(
        &self,
        claim: &Claim,
        position: u32,
        login: &str,
        thread: &str,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE turns SET state = 'running', generation = ?3, login = ?4, thread_id = ?5, \
             started_at = coalesce(started_at, ?6) \
             WHERE job_id = ?1 AND position = ?2 AND generation <= ?3 \
             AND state IN ('pending', 'running')",
        )
        .bind(claim.id.as_str())
        .bind(position)
        .bind(claim.generation)
        .bind(login)
        .bind(thread)
        .bind(now())
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Writes how a turn ended and, when it was the job's last, how the job did; one commit.
    pub async fn finish_turn(
        &self,
        claim: &Claim,
        end: &TurnEnd,
        expires_at: i64,
    ) -> Result<Recorded, StoreError> {
        let mut writer = self.write.acquire().await?;
        let outcome = finish_turn_with(&mut writer, claim, end, expires_at).await;
        Ok(keep_if_well(writer, outcome).await?)
    }

    /// The picture of this file name, if its job still shows it.
    pub async fn served_image(&self, file: &str) -> Result<Option<ServedImage>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT i.file, i.type, i.sha256, i.created_at FROM images i \
             JOIN jobs j ON j.id = i.job_id AND j.state = 'succeeded' WHERE i.file = ?",
        )
        .bind(file)
        .fetch_optional(&self.read)
        .await?)
    }
}

async fn finish_turn_with(
    writer: &mut SqliteConnection,
    claim: &Claim,
    end: &TurnEnd,
    expires_at: i64,
) -> sqlx::Result<Recorded> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    let held: Option<i64> = sqlx::query_scalar(
        "SELECT 1 FROM jobs WHERE id = ? AND generation = ? AND state = 'running'",
    )
    .bind(claim.id.as_str())
    .bind(claim.generation)
    .fetch_optional(&mut *transaction)
    .await?;
    if held.is_none() {
        return Ok(Recorded::Void);
    }
    if let Ok(image) = &end.result {
        if is_duplicate(&mut transaction, claim, end.position, &image.source_sha256).await? {
            return Ok(Recorded::Duplicate);
        }
        insert_image(&mut transaction, claim, end.position, image).await?;
    }
    close_turn(&mut transaction, claim, end).await?;
    let state = close_job(&mut transaction, claim, end.saving_at, expires_at).await?;
    transaction.commit().await?;
    Ok(state.map_or(Recorded::Open, Recorded::Final))
}

/// Codex sometimes hands back a reference, or an older picture, as if it were new.
async fn is_duplicate(
    connection: &mut SqliteConnection,
    claim: &Claim,
    position: u32,
    source_sha256: &str,
) -> sqlx::Result<bool> {
    let seen: Option<i64> = sqlx::query_scalar(
        "SELECT 1 FROM images WHERE source_sha256 = ?1 AND NOT (job_id = ?2 AND position = ?3) \
         UNION ALL SELECT 1 FROM job_references WHERE job_id = ?2 AND sha256 = ?1 LIMIT 1",
    )
    .bind(source_sha256)
    .bind(claim.id.as_str())
    .bind(position)
    .fetch_optional(connection)
    .await?;
    Ok(seen.is_some())
}

async fn insert_image(
    connection: &mut SqliteConnection,
    claim: &Claim,
    position: u32,
    image: &NewImage,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO images (job_id, position, file, type, bytes, width, height, sha256, \
         created_at, source_sha256, opaque) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(claim.id.as_str())
    .bind(position)
    .bind(&image.file)
    .bind(&image.media_type)
    .bind(i64::try_from(image.bytes).unwrap_or(i64::MAX))
    .bind(image.width)
    .bind(image.height)
    .bind(&image.sha256)
    .bind(now())
    .bind(&image.source_sha256)
    .bind(image.opaque)
    .execute(connection)
    .await?;
    Ok(())
}

async fn close_turn(
    connection: &mut SqliteConnection,
    claim: &Claim,
    end: &TurnEnd,
) -> sqlx::Result<()> {
    let failure = end.result.as_ref().err();
    let (login, thread) = end.thread.as_ref().map(|(l, t)| (l.as_str(), t.as_str())).unzip();
    sqlx::query(
        "UPDATE turns SET state = ?3, generation = ?4, login = coalesce(?5, login), \
         thread_id = coalesce(?6, thread_id), stdout = ?7, stderr = ?8, error_code = ?9, \
         error = ?10, retry_at = ?11, started_at = coalesce(started_at, ?12), finished_at = ?12, \
         note = ?13 \
         WHERE job_id = ?1 AND position = ?2 AND state IN ('pending', 'running')",
    )
    .bind(claim.id.as_str())
    .bind(end.position)
    .bind(if failure.is_none() { "succeeded" } else { "failed" })
    .bind(claim.generation)
    .bind(login)
    .bind(thread)
    .bind(&end.stdout)
    .bind(&end.stderr)
    .bind(failure.map(|failure| failure.code))
    .bind(failure.map(|failure| failure.message.as_str()))
    .bind(failure.and_then(|failure| failure.retry_at))
    .bind(now())
    .bind(&end.note)
    .execute(connection)
    .await?;
    Ok(())
}

/// A job is final when none of its turns is open: succeeded with what there is, or failed with
/// the words of its first failure.
async fn close_job(
    connection: &mut SqliteConnection,
    claim: &Claim,
    saving_at: i64,
    expires_at: i64,
) -> sqlx::Result<Option<JobState>> {
    sqlx::query_scalar(
        "WITH failed AS (SELECT error_code, error, retry_at FROM turns \
           WHERE job_id = ?1 AND state = 'failed' ORDER BY position LIMIT 1), \
         paid AS (SELECT EXISTS (SELECT 1 FROM images WHERE job_id = ?1) AS yes) \
         UPDATE jobs SET \
           state = CASE WHEN (SELECT yes FROM paid) THEN 'succeeded' ELSE 'failed' END, \
           error_code = CASE WHEN (SELECT yes FROM paid) THEN NULL ELSE (SELECT error_code FROM failed) END, \
           error = CASE WHEN (SELECT yes FROM paid) THEN NULL ELSE (SELECT error FROM failed) END, \
           retry_at = CASE WHEN (SELECT yes FROM paid) THEN NULL ELSE (SELECT retry_at FROM failed) END, \
           saving_at = CASE WHEN (SELECT yes FROM paid) THEN ?5 END, \
           finished_at = ?3, expires_at = ?4, lease_owner = NULL, lease_until = NULL \
         WHERE id = ?1 AND generation = ?2 AND state = 'running' AND NOT EXISTS \
           (SELECT 1 FROM turns WHERE job_id = ?1 AND state IN ('pending', 'running')) \
         RETURNING state",
    )
    .bind(claim.id.as_str())
    .bind(claim.generation)
    .bind(now())
    .bind(expires_at)
    .bind(saving_at)
    .fetch_optional(connection)
    .await
}
