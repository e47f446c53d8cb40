//! Accepting jobs: one commit, shared by all that arrive while the last one was being written.
//!
//! A disk makes a few hundred to a few thousand commits a second; callers who arrive together
//! travel in one. Nobody is told "accepted" before the commit that holds their job returned.

use std::sync::Arc;

use sqlx::{Connection, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::{
    Store, StoreError,
    joining::{Found, Joining, find},
    keep_if_well, now,
};

/// Jobs that one commit holds at most: bounds how long the writer is kept from others.
const BATCH: usize = 64;

/// A picture that lies on the disk before its job is accepted.
#[derive(Clone, Debug)]
pub struct NewReference {
    /// The file's name in the job's folder of references.
    pub file: String,
    /// The media type.
    pub media_type: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Hex SHA-256 of the file.
    pub sha256: String,
    /// Whether it says where the others are to be changed.
    pub is_mask: bool,
}

/// A job to be accepted.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// The public id, already chosen: the references lie under it.
    pub id: String,
    /// The caller's key.
    pub api_key_id: String,
    /// The caller's words.
    pub prompt: String,
    /// `WIDTHxHEIGHT` or `auto`.
    pub size: String,
    /// low, medium, high or auto.
    pub quality: String,
    /// auto, opaque or transparent.
    pub background: &'static str,
    /// What pictures are converted to: png, jpeg or webp; None: they stay as they are made.
    pub output_format: Option<&'static str>,
    /// 0 to 100 (good), for JPEG.
    pub output_compression: Option<u8>,
    /// The caller's word for whom the picture is.
    pub end_user: Option<String>,
    /// How many pictures.
    pub count: u32,
    /// When its files go, should it never run.
    pub expires_at: i64,
    /// Its references.
    pub references: Vec<NewReference>,
    /// What tells that it is there already.
    pub joining: Joining,
}

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// Durable since this moment.
    Accepted {
        /// When it was accepted.
        created_at: i64,
    },
    /// The request was made before: this is its job, in flight or final.
    Joined {
        /// The job's id.
        id: String,
    },
    /// Its idempotency key belongs to another request.
    Mismatch,
    /// As many jobs as the setting allows are queued.
    QueueFull,
    /// The key was deleted or disabled since it was checked.
    KeyGone,
}

type Reply = oneshot::Sender<Result<Submitted, Arc<sqlx::Error>>>;

/// The way in for new jobs. Clones share one writer.
#[derive(Clone)]
pub struct Submissions {
    sender: mpsc::Sender<(NewJob, Reply)>,
}

impl Submissions {
    /// Starts the task that commits what arrives while fewer than `queue_max` jobs wait, and calls
    /// `committed` after each commit: a job is announced also when its caller went away in the
    /// meantime.
    #[must_use]
    pub fn start(
        store: Store,
        queue_max: impl Fn() -> u32 + Send + 'static,
        committed: impl Fn() + Send + 'static,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(BATCH);
        tokio::spawn(commit_batches(store, queue_max, receiver, committed));
        Self { sender }
    }

    /// Stores a job; durable when this returns `Accepted`.
    pub async fn submit(&self, job: NewJob) -> Result<Submitted, StoreError> {
        let (reply, answer) = oneshot::channel();
        let gone = || StoreError::Sql(sqlx::Error::WorkerCrashed);
        self.sender.send((job, reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(StoreError::Commit)
    }
}

async fn commit_batches(
    store: Store,
    queue_max: impl Fn() -> u32,
    mut receiver: mpsc::Receiver<(NewJob, Reply)>,
    committed: impl Fn(),
) {
    let mut batch = Vec::with_capacity(BATCH);
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        let (jobs, replies): (Vec<NewJob>, Vec<Reply>) = batch.drain(..).unzip();
        match commit(&store, queue_max(), &jobs).await {
            Ok(outcomes) => {
                committed();
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    // A caller that went away keeps its job; it can be had by its id.
                    let _ = reply.send(Ok(outcome));
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for reply in replies {
                    let _ = reply.send(Err(Arc::clone(&error)));
                }
            }
        }
    }
}

async fn commit(
    store: &Store,
    queue_max: u32,
    jobs: &[NewJob],
) -> Result<Vec<Submitted>, sqlx::Error> {
    let most = i64::from(queue_max);
    let commit_up_to = async |most, is_last| {
        let mut writer = store.write.acquire().await?;
        let outcome = commit_with(&mut writer, most, is_last, jobs).await;
        keep_if_well(writer, outcome).await
    };
    if let Some(outcomes) = commit_up_to(most, false).await? {
        return Ok(outcomes);
    }
    // What nobody is ever going to draw takes nobody's place. Nobody waits for the writer while it
    // is counted.
    let strangers = store.queued_strangers().await?;
    Ok(commit_up_to(most.saturating_add(strangers), true).await?.unwrap_or_default())
}

/// How many jobs are queued, as far as `limit`.
async fn count_queued(connection: &mut SqliteConnection, limit: i64) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT count(*) FROM (SELECT 1 FROM jobs WHERE state = 'queued' LIMIT ?)")
        .bind(limit)
        .fetch_one(connection)
        .await
}

/// None, and nothing is done, when so many are queued already, unless it is the last try.
async fn commit_with(
    writer: &mut SqliteConnection,
    queue_max: i64,
    is_last: bool,
    jobs: &[NewJob],
) -> Result<Option<Vec<Submitted>>, sqlx::Error> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    let mut queued = count_queued(&mut transaction, queue_max).await?;
    if queued >= queue_max && !is_last {
        transaction.rollback().await?;
        return Ok(None);
    }
    let mut outcomes = Vec::with_capacity(jobs.len());
    for job in jobs {
        if let Some(known) = find(&mut transaction, &job.api_key_id, &job.joining).await? {
            outcomes.push(match known {
                Found::Job(id) => Submitted::Joined { id },
                Found::Mismatch => Submitted::Mismatch,
            });
            continue;
        }
        if queued >= queue_max {
            outcomes.push(Submitted::QueueFull);
            continue;
        }
        let outcome = insert(&mut transaction, job).await?;
        if matches!(outcome, Submitted::Accepted { .. }) {
            queued += 1;
        }
        outcomes.push(outcome);
    }
    transaction.commit().await?;
    Ok(Some(outcomes))
}

async fn insert(connection: &mut SqliteConnection, job: &NewJob) -> Result<Submitted, sqlx::Error> {
    let created_at = now();
    let inserted = sqlx::query(
        "INSERT INTO jobs (id, api_key_id, prompt, size, quality, count, created_at, expires_at, \
         background, output_format, output_compression, end_user, request_hash, idempotency_key) \
         SELECT ?1, id, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14 \
         FROM api_keys WHERE id = ?2 AND enabled = 1",
    )
    .bind(&job.id)
    .bind(&job.api_key_id)
    .bind(&job.prompt)
    .bind(&job.size)
    .bind(&job.quality)
    .bind(job.count)
    .bind(created_at)
    .bind(job.expires_at)
    .bind(job.background)
    .bind(job.output_format)
    .bind(job.output_compression)
    .bind(&job.end_user)
    .bind(job.joining.request_hash.as_slice())
    .bind(&job.joining.idempotency_key)
    .execute(&mut *connection)
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(Submitted::KeyGone);
    }
    sqlx::query(
        "WITH RECURSIVE n (position) AS \
         (SELECT 0 UNION ALL SELECT position + 1 FROM n WHERE position + 1 < ?2) \
         INSERT INTO turns (job_id, position, job_seq) SELECT ?1, position, ?3 FROM n",
    )
    .bind(&job.id)
    .bind(job.count)
    .bind(inserted.last_insert_rowid())
    .execute(&mut *connection)
    .await?;
    for (position, reference) in (0_i64..).zip(&job.references) {
        sqlx::query(
            "INSERT INTO job_references (job_id, position, file, type, bytes, width, height, \
             sha256, role) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&job.id)
        .bind(position)
        .bind(&reference.file)
        .bind(&reference.media_type)
        .bind(i64::try_from(reference.bytes).unwrap_or(i64::MAX))
        .bind(reference.width)
        .bind(reference.height)
        .bind(&reference.sha256)
        .bind(if reference.is_mask { "mask" } else { "image" })
        .execute(&mut *connection)
        .await?;
    }
    Ok(Submitted::Accepted { created_at })
}
