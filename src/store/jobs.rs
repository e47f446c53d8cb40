//! Table `jobs` as callers see it: one job, a page of jobs, cancelling.

use sqlx::{FromRow, Row, sqlite::SqliteRow};

use super::{Store, StoreError, api_keys::Caller, now, strangers::checked};
use crate::names::is_job_id;

/// Where a job stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(rename_all = "lowercase")]
pub enum JobState {
    /// Accepted and durable, not yet begun.
    #[default]
    Queued,
    /// A worker holds its lease.
    Running,
    /// At least one picture is there.
    Succeeded,
    /// No picture; the error says why.
    Failed,
    /// Ended by its caller.
    Cancelled,
    /// Its pictures were removed after the retention time.
    Expired,
}

impl JobState {
    /// Each of them, in the order of a job's life.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
    ];

    /// Will nothing change any more but expiry?
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    /// The word of the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// In the queue, also for a quota to come back.
    Waiting,
    /// A worker has it; a login and Codex are got ready.
    Starting,
    /// The picture was asked for.
    Drawing,
    /// The picture is there and is verified and stored.
    Saving,
}

impl Phase {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Drawing => "drawing",
            Self::Saving => "saving",
        }
    }
}

/// A failed turn of a job that asked for several pictures.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct TurnError {
    /// Which of the pictures, from 0.
    pub position: u32,
    /// The failure's code.
    pub code: String,
    /// What to tell the caller.
    pub message: String,
}

/// A job as its caller sees it.
#[derive(Clone, Debug)]
pub struct Job {
    /// The public id.
    pub id: String,
    /// Where it stands.
    pub state: JobState,
    /// How many pictures were asked for.
    pub count: u32,
    /// The code of its failure.
    pub error_code: Option<String>,
    /// The sentence of its failure.
    pub error: Option<String>,
    /// When trying again makes sense.
    pub retry_at: Option<i64>,
    /// When it was accepted.
    pub created_at: i64,
    /// The phases of its latest attempt that it has come to, in their order, with their times.
    pub phases: Vec<(Phase, i64)>,
    /// The model's last words about the (first) picture; hostile.
    pub note: Option<String>,
    /// When its files go.
    pub expires_at: i64,
    /// File names of its pictures, by position; empty unless it succeeded.
    pub files: Vec<String>,
    /// The turns that failed, by position; empty unless it is final, and when it was deleted.
    pub errors: Vec<TurnError>,
}

/// Columns of [`Job`]; `jobs` is named `j`. A macro, for only literals are joined at compile time:
/// every text here is one that the connections know already.
macro_rules! job_columns {
    () => {
        "j.seq, j.id, j.state, j.count, j.error_code, j.error, j.retry_at, \
         j.created_at, j.expires_at, j.waiting_at, j.starting_at, j.drawing_at, j.saving_at, \
         CASE WHEN j.state IN ('succeeded', 'failed') THEN (SELECT note FROM turns \
           WHERE job_id = j.id AND note IS NOT NULL ORDER BY position LIMIT 1) END AS note, \
         CASE WHEN j.state = 'succeeded' THEN (SELECT json_group_array(file) FROM \
           (SELECT file FROM images WHERE job_id = j.id ORDER BY position)) END AS files, \
         CASE WHEN j.count > 1 AND j.state IN ('succeeded', 'failed') AND j.deleted_at IS NULL THEN \
           (SELECT json_group_array(json_object('position', position, 'code', error_code, \
            'message', error)) FROM (SELECT position, error_code, error FROM turns \
            WHERE job_id = j.id AND state = 'failed' ORDER BY position)) END AS errors"
    };
}

const CALLERS_JOB: &str = concat!(
    "SELECT k.id AS caller_id, k.handle, k.enabled, ",
    job_columns!(),
    " FROM api_keys k LEFT JOIN jobs j ON j.id = ?2 AND j.api_key_id = k.id AND j.deleted_at IS NULL \
     WHERE k.hash = ?1"
);
const JOB: &str = concat!("SELECT ", job_columns!(), " FROM jobs j WHERE j.id = ?");
const CALLERS_JOBS: &str = concat!(
    "SELECT ",
    job_columns!(),
    " FROM jobs j WHERE j.api_key_id = ?1 AND j.seq < ?2 AND j.deleted_at IS NULL \
     ORDER BY j.seq DESC LIMIT ?3"
);

impl FromRow<'_, SqliteRow> for Job {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let files: Option<&str> = row.try_get("files")?;
        let errors: Option<&str> = row.try_get("errors")?;
        let created_at: i64 = row.try_get("created_at")?;
        let waiting_at: Option<i64> = row.try_get("waiting_at")?;
        let mut phases = vec![(Phase::Waiting, waiting_at.unwrap_or(created_at))];
        for (phase, column) in [
            (Phase::Starting, "starting_at"),
            (Phase::Drawing, "drawing_at"),
            (Phase::Saving, "saving_at"),
        ] {
            phases.extend(row.try_get::<Option<i64>, _>(column)?.map(|at| (phase, at)));
        }
        Ok(Self {
            phases,
            note: row.try_get("note")?,
            id: checked(row, "id", is_job_id)?,
            state: row.try_get("state")?,
            count: row.try_get("count")?,
            error_code: row.try_get("error_code")?,
            error: row.try_get("error")?,
            retry_at: row.try_get("retry_at")?,
            created_at,
            expires_at: row.try_get("expires_at")?,
            files: from_json(files)?,
            errors: from_json(errors)?,
        })
    }
}

fn from_json<T: serde::de::DeserializeOwned + Default>(text: Option<&str>) -> sqlx::Result<T> {
    text.map_or_else(
        || Ok(T::default()),
        |text| serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into())),
    )
}

impl Store {
    /// The caller of this key hash and, when it is the caller's own, the job: one look for both.
    pub async fn callers_job(
        &self,
        hash: &str,
        id: &str,
    ) -> Result<Option<(Caller, Option<Job>)>, StoreError> {
        let row = sqlx::query(CALLERS_JOB).bind(hash).bind(id).fetch_optional(&self.read).await?;
        let Some(row) = row else { return Ok(None) };
        let caller = Caller {
            id: row.try_get("caller_id")?,
            handle: row.try_get("handle")?,
            enabled: row.try_get("enabled")?,
        };
        let found = row.try_get::<Option<i64>, _>("seq")?.is_some();
        let job = if found { Some(Job::from_row(&row)?) } else { None };
        Ok(Some((caller, job)))
    }

    /// A job by its id, whoever owns it; one that was deleted, too, for those who draw it or wait for
    /// it must learn of its end.
    pub async fn job(&self, id: &str) -> Result<Option<Job>, StoreError> {
        Ok(sqlx::query_as(JOB).bind(id).fetch_optional(&self.read).await?)
    }

    /// A page of a caller's jobs, newest first, with the cursor of the next page.
    pub async fn callers_jobs(
        &self,
        caller: &str,
        before: Option<i64>,
        limit: u32,
    ) -> Result<(Vec<Job>, Option<i64>), StoreError> {
        let rows = sqlx::query(CALLERS_JOBS)
            .bind(caller)
            .bind(before.unwrap_or(i64::MAX))
            .bind(i64::from(limit) + 1)
            .fetch_all(&self.read)
            .await?;
        let page = rows.iter().take(limit as usize);
        let more = rows.len() > limit as usize;
        let next = match page.clone().next_back() {
            Some(last) if more => Some(last.try_get("seq")?),
            _ => None,
        };
        let shown = rows.len().min(limit as usize);
        Ok((self.all_of_ours("jobs", &rows[..shown]), next))
    }

    /// Cancels a queued or running job of this caller, or of whomever: it is cancelled when this
    /// returns, and its worker's lease is void. False when it is already final (or there is none).
    pub async fn cancel_job(&self, caller: Option<&str>, id: &str) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE jobs SET state = 'cancelled', finished_at = ?3, generation = generation + 1, \
             lease_owner = NULL, lease_until = NULL \
             WHERE id = ?1 AND api_key_id = coalesce(?2, api_key_id) AND state IN ('queued', 'running')",
        )
        .bind(id)
        .bind(caller)
        .bind(now())
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// How many jobs are queued and running.
    pub async fn queue_depth(&self) -> Result<(i64, i64), StoreError> {
        Ok(sqlx::query_as(
            "SELECT (SELECT count(*) FROM jobs WHERE state = 'queued'), \
             (SELECT count(*) FROM jobs WHERE state = 'running')",
        )
        .fetch_one(&self.read)
        .await?)
    }
}
