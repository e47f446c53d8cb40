//! The worker's side of `jobs`: claiming by lease and generation, renewing, giving back.

use sqlx::FromRow;

use super::{Store, StoreError, now};

/// A job that a worker holds. Every write for it names its generation: when another took the
/// job over, or its caller cancelled it, the write changes nothing.
#[derive(Clone, Debug, FromRow)]
pub struct Claim {
    /// The public id.
    pub id: String,
    /// The generation of this claim.
    pub generation: i64,
    /// How often the job was begun, this time included.
    pub attempts: i64,
    /// The caller's words.
    pub prompt: String,
    /// `WIDTHxHEIGHT` or `auto`.
    pub size: String,
    /// low, medium, high or auto.
    pub quality: String,
    /// auto, opaque or transparent.
    pub background: String,
    /// The format that pictures are converted to, and how much JPEG is compressed: 0 to 100 (good).
    pub output_format: Option<String>,
    /// See there.
    pub output_compression: Option<u8>,
    /// How many pictures were asked for.
    pub count: u32,
    /// When it was accepted.
    pub created_at: i64,
    /// When its first attempt began.
    pub started_at: i64,
}

/// A reference of a job.
#[derive(Clone, Debug, FromRow)]
pub struct ClaimedReference {
    /// Its name in the job's folder of references.
    pub file: String,
    /// Whether it says where the others are to be changed.
    pub is_mask: bool,
}

/// A turn that is not finished.
#[derive(Clone, Debug, FromRow)]
pub struct OpenTurn {
    /// Which of the job's pictures, from 0.
    pub position: u32,
    /// The login of its last attempt.
    pub login: Option<String>,
    /// The Codex thread of its last attempt.
    pub thread_id: Option<String>,
}

macro_rules! claim_columns {
    () => {
        "id, generation, attempts, prompt, size, quality, background, output_format, \
         output_compression, count, created_at, started_at"
    };
}

const CLAIM: &str = concat!(
    "UPDATE jobs SET state = 'running', lease_owner = ?1, lease_until = ?2, \
     generation = generation + 1, attempts = attempts + 1, not_before = NULL, \
     waiting_at = coalesce(waiting_at, created_at), starting_at = ?3, drawing_at = NULL, \
     saving_at = NULL, \
     started_at = coalesce(started_at, ?3) \
     WHERE seq = (SELECT seq FROM jobs WHERE state = 'queued' \
     AND (not_before IS NULL OR not_before <= ?3) ORDER BY seq LIMIT 1) RETURNING ",
    claim_columns!()
);
const TAKE_OVER: &str = concat!(
    "UPDATE jobs SET lease_owner = ?1, lease_until = ?2, generation = generation + 1 \
     WHERE state = 'running' AND (lease_until < ?4 OR (?3 AND lease_owner <> ?1)) RETURNING ",
    claim_columns!()
);

impl Store {
    /// Takes the oldest queued job, if there is one.
    pub async fn claim(&self, owner: &str, lease_ms: i64) -> Result<Option<Claim>, StoreError> {
        // A look that costs no write: an idle worker must not keep the disk awake.
        let waiting: Option<i64> = sqlx::query_scalar(
            "SELECT seq FROM jobs WHERE state = 'queued' \
             AND (not_before IS NULL OR not_before <= ?) ORDER BY seq LIMIT 1",
        )
        .bind(now())
        .fetch_optional(&self.read)
        .await?;
        if waiting.is_none() {
            return Ok(None);
        }
        // All of its rows (there is one at most) are read: sqlx leaves a statement of which only the
        // first row is wanted before its end, and with it the error of the commit that follows.
        let claims = sqlx::query_as(CLAIM)
            .bind(owner)
            .bind(now() + lease_ms)
            .bind(now())
            .fetch_all(&self.write)
            .await?;
        Ok(claims.into_iter().next())
    }

    /// Takes over running jobs whose lease has ended and, when `orphaned` (the caller knows that
    /// every other owner is dead), all that others hold. Attempts are not counted up.
    pub async fn take_over(
        &self,
        owner: &str,
        lease_ms: i64,
        orphaned: bool,
    ) -> Result<Vec<Claim>, StoreError> {
        let abandoned: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM jobs WHERE state = 'running' \
             AND (lease_until < ?3 OR (?2 AND lease_owner <> ?1)) LIMIT 1",
        )
        .bind(owner)
        .bind(orphaned)
        .bind(now())
        .fetch_optional(&self.read)
        .await?;
        if abandoned.is_none() {
            return Ok(Vec::new());
        }
        Ok(sqlx::query_as(TAKE_OVER)
            .bind(owner)
            .bind(now() + lease_ms)
            .bind(orphaned)
            .bind(now())
            .fetch_all(&self.write)
            .await?)
    }

    /// Extends the leases of these jobs, as far as this owner holds them.
    pub async fn renew_leases(
        &self,
        owner: &str,
        jobs: &[String],
        lease_ms: i64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE jobs SET lease_until = ?2 WHERE state = 'running' AND lease_owner = ?1 \
             AND id IN (SELECT value FROM json_each(?3))",
        )
        .bind(owner)
        .bind(now() + lease_ms)
        .bind(serde_json::json!(jobs).to_string())
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Puts a claimed job back into the queue, in its old place. False when the claim is void.
    pub async fn give_back(&self, claim: &Claim) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE jobs SET state = 'queued', lease_owner = NULL, lease_until = NULL, \
             waiting_at = ?3, starting_at = NULL, drawing_at = NULL \
             WHERE id = ?1 AND generation = ?2 AND state = 'running'",
        )
        .bind(&claim.id)
        .bind(claim.generation)
        .bind(now())
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Puts a claimed job back into the queue, in its old place, where it waits until then (in
    /// milliseconds). What was done does not count as an attempt. False when the claim is void.
    pub async fn postpone(&self, claim: &Claim, until: i64) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE jobs SET state = 'queued', lease_owner = NULL, lease_until = NULL, \
             attempts = attempts - 1, not_before = ?3, \
             waiting_at = ?4, starting_at = NULL, drawing_at = NULL \
             WHERE id = ?1 AND generation = ?2 AND state = 'running'",
        )
        .bind(&claim.id)
        .bind(claim.generation)
        .bind(until)
        .bind(now())
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Notes that a picture of the job was asked for.
    pub async fn note_drawing(&self, claim: &Claim) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE jobs SET drawing_at = ?3 \
             WHERE id = ?1 AND generation = ?2 AND state = 'running' AND drawing_at IS NULL",
        )
        .bind(&claim.id)
        .bind(claim.generation)
        .bind(now())
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Is the claim still good?
    pub async fn holds(&self, claim: &Claim) -> Result<bool, StoreError> {
        let row: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM jobs WHERE id = ? AND generation = ? AND state = 'running'",
        )
        .bind(&claim.id)
        .bind(claim.generation)
        .fetch_optional(&self.read)
        .await?;
        Ok(row.is_some())
    }

    /// The turns of a job that still lack their picture.
    pub async fn open_turns(&self, job: &str) -> Result<Vec<OpenTurn>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT position, login, thread_id FROM turns \
             WHERE job_id = ? AND state IN ('pending', 'running') ORDER BY position",
        )
        .bind(job)
        .fetch_all(&self.read)
        .await?)
    }

    /// A job's references, in the caller's order; a mask is the last.
    pub async fn references(&self, job: &str) -> Result<Vec<ClaimedReference>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT file, role = 'mask' AS is_mask FROM job_references WHERE job_id = ? \
             ORDER BY position",
        )
        .bind(job)
        .fetch_all(&self.read)
        .await?)
    }
}
