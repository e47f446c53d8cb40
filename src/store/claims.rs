//! The worker's side of `jobs`: claiming by lease and generation, renewing, giving back.

use sqlx::Row as _;

use super::{
    Store, StoreError, now,
    sound::{ABANDONED, PAGE, Sound, WAITING},
};
use crate::{
    codex::ThreadRef,
    images::Output,
    names::{JobId, ReferenceName},
};

/// A job that a worker holds. Every write for it names its generation: when another took the
/// job over, or its caller cancelled it, the write changes nothing.
///
/// What a front wrote of it could be anything, so all of it was parsed before it was claimed.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The public id.
    pub id: JobId,
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
    /// What pictures are converted to.
    pub output: Option<Output>,
    /// How many pictures were asked for.
    pub count: u32,
    /// When it was accepted.
    pub created_at: i64,
    /// When its first attempt began.
    pub started_at: i64,
    /// Its references, in the caller's order; a mask is the last.
    pub references: Vec<ClaimedReference>,
    /// Its turns that lacked their picture when it was claimed, by position; at least one.
    pub open: Vec<OpenTurn>,
}

/// A reference of a job.
#[derive(Clone, Debug)]
pub struct ClaimedReference {
    /// Its name in the job's folder of references.
    pub file: ReferenceName,
    /// Whether it says where the others are to be changed.
    pub is_mask: bool,
}

/// A turn that is not finished.
#[derive(Clone, Debug)]
pub struct OpenTurn {
    /// Which of the job's pictures, from 0.
    pub position: u32,
    /// The login and the Codex thread of its last attempt.
    pub thread: Option<ThreadRef>,
}

/// Interrupted jobs that are taken over at once; the rest is at the next look.
const MOST_TAKEN_OVER: usize = 500;

impl Store {
    /// Takes the oldest queued job, if there is one.
    pub async fn claim(&self, owner: &str, lease_ms: i64) -> Result<Option<Claim>, StoreError> {
        let (mut after, mut limit) = (i64::MIN, 1);
        loop {
            // A look that costs no write: an idle worker must not keep the disk awake.
            let rows = sqlx::query(WAITING)
                .bind(now())
                .bind(after)
                .bind(limit)
                .fetch_all(&self.read)
                .await?;
            let Some(last) = rows.last() else { return Ok(None) };
            after = last.try_get("seq")?;
            for row in &rows {
                let Some(Sound { seq, claim }) = self.whole(row).await? else { continue };
                if let Some(claim) = self.begin(owner, lease_ms, seq, claim).await? {
                    return Ok(Some(claim));
                }
            }
            limit = PAGE;
        }
    }

    /// Begins a queued job, unless it changed since it was looked at: then it is no longer queued.
    async fn begin(
        &self,
        owner: &str,
        lease_ms: i64,
        seq: i64,
        claim: Claim,
    ) -> Result<Option<Claim>, StoreError> {
        let begun = sqlx::query(
            "UPDATE jobs SET state = 'running', lease_owner = ?1, lease_until = ?2, \
             generation = generation + 1, attempts = attempts + 1, not_before = NULL, \
             waiting_at = coalesce(waiting_at, created_at), starting_at = ?3, drawing_at = NULL, \
             saving_at = NULL, started_at = coalesce(started_at, ?3) \
             WHERE seq = ?4 AND state = 'queued' AND generation = ?5 AND attempts = ?6",
        )
        .bind(owner)
        .bind(now() + lease_ms)
        .bind(now())
        .bind(seq)
        .bind(claim.generation)
        .bind(claim.attempts)
        .execute(&self.write)
        .await?;
        let held =
            Claim { generation: claim.generation + 1, attempts: claim.attempts + 1, ..claim };
        Ok((begun.rows_affected() > 0).then_some(held))
    }

    /// Takes over running jobs whose lease has ended and, when `orphaned` (the caller knows that
    /// every other owner is dead), all that others hold. Attempts are not counted up.
    pub async fn take_over(
        &self,
        owner: &str,
        lease_ms: i64,
        orphaned: bool,
    ) -> Result<Vec<Claim>, StoreError> {
        let (mut after, mut taken) = (i64::MIN, Vec::new());
        while taken.len() < MOST_TAKEN_OVER {
            let rows = sqlx::query(ABANDONED)
                .bind(now())
                .bind(after)
                .bind(PAGE)
                .bind(orphaned)
                .bind(owner)
                .fetch_all(&self.read)
                .await?;
            let Some(last) = rows.last() else { break };
            after = last.try_get("seq")?;
            let mut found = Vec::new();
            for row in &rows {
                found.extend(self.whole(row).await?);
            }
            taken.extend(self.take(owner, lease_ms, orphaned, found).await?);
        }
        Ok(taken)
    }

    /// Those of the jobs that are still nobody's.
    async fn take(
        &self,
        owner: &str,
        lease_ms: i64,
        orphaned: bool,
        found: Vec<Sound>,
    ) -> Result<Vec<Claim>, StoreError> {
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let numbers: Vec<_> =
            found.iter().map(|Sound { seq, claim }| (seq, claim.generation)).collect();
        let taken: Vec<i64> = sqlx::query_scalar(
            "UPDATE jobs SET lease_owner = ?1, lease_until = ?2, generation = generation + 1 \
             WHERE state = 'running' AND (lease_until < ?4 OR (?3 AND lease_owner <> ?1)) \
             AND (seq, generation) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?5)) \
             RETURNING seq",
        )
        .bind(owner)
        .bind(now() + lease_ms)
        .bind(orphaned)
        .bind(now())
        .bind(serde_json::json!(numbers).to_string())
        .fetch_all(&self.write)
        .await?;
        let held = |Sound { seq, claim }: Sound| {
            let generation = claim.generation + 1;
            taken.contains(&seq).then_some(Claim { generation, ..claim })
        };
        Ok(found.into_iter().filter_map(held).collect())
    }

    /// Extends the leases of these jobs, as far as this owner holds them.
    pub async fn renew_leases(
        &self,
        owner: &str,
        jobs: &[JobId],
        lease_ms: i64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE jobs SET lease_until = ?2 WHERE state = 'running' AND lease_owner = ?1 \
             AND id IN (SELECT value FROM json_each(?3))",
        )
        .bind(owner)
        .bind(now() + lease_ms)
        .bind(serde_json::json!(jobs.iter().map(JobId::as_str).collect::<Vec<_>>()).to_string())
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
        .bind(claim.id.as_str())
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
        .bind(claim.id.as_str())
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
        .bind(claim.id.as_str())
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
        .bind(claim.id.as_str())
        .bind(claim.generation)
        .fetch_optional(&self.read)
        .await?;
        Ok(row.is_some())
    }
}
