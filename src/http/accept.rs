//! From a request with a key to a job, the same for every dress: what is refused before the body is
//! read, the job, its way into the queue, and the wait for its end.

use std::{io::Read, path::PathBuf};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName},
};
use tokio::sync::SemaphorePermit;

use super::{App, body, error::ApiError, intake::Draft, trace::tell_of_this_request};
use crate::{
    codex::status::{RestReason, UNTIL_WOKEN},
    queue::{Ticket, Waited},
    store::{
        self,
        jobs::{Job, JobState},
        joining::{Found, Joining},
        submissions::{NewJob, NewReference},
    },
};

/// Bodies that declare themselves at most this long cost no more to be read than to be refused, and
/// where they hold no picture, a thread of their own would cost more than they do.
pub(super) const SMALL_BODY: u64 = 16 * 1024;
/// Characters of an idempotency key.
const MAX_IDEMPOTENCY_KEY: usize = 255;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// What OpenAI's own clients say when they repeat a request by themselves.
const RETRY_COUNT: HeaderName = HeaderName::from_static("x-stainless-retry-count");

/// What a request's head tells, and that its body may come.
pub(super) struct Admission {
    /// The declared length of the body.
    pub(super) length: Option<u64>,
    limit: u64,
    idempotency_key: Option<String>,
    is_repeated: bool,
}

impl Admission {
    /// Refuses what would be refused whatever the body says. A request that may join a job that is
    /// there is let in: that needs neither room nor quota.
    pub(super) async fn of(app: &App, headers: &HeaderMap) -> Result<Self, ApiError> {
        if app.queue.is_draining() {
            return Err(ApiError::ShuttingDown { job: None });
        }
        let limit = app.live.now().max_request_body_bytes;
        let length = body::declared_length(headers, limit)?;
        let idempotency_key = idempotency_key(headers)?;
        let is_repeated = is_repeated(headers);
        let admission = Self { length, limit, idempotency_key, is_repeated };
        if !admission.may_join() {
            // Nobody should send 50 MB to learn that the queue is full.
            if length.is_none_or(|length| length > SMALL_BODY) && !app.queue.has_room().await? {
                return Err(ApiError::QueueFull);
            }
            check_quota(app).await?;
        }
        Ok(admission)
    }

    fn may_join(&self) -> bool {
        self.idempotency_key.is_some() || self.is_repeated
    }

    /// What makes a repetition of the request find its job.
    pub(super) fn joining(self, request_hash: [u8; 32]) -> Joining {
        let Self { idempotency_key, is_repeated, .. } = self;
        Joining { request_hash, idempotency_key, is_repeated }
    }

    /// What the body may have, in bytes.
    pub(super) fn most(&self) -> u64 {
        self.length.unwrap_or(self.limit)
    }

    /// A place among the uploads, and the body for a blocking thread.
    pub(super) fn reader<'a>(
        &self,
        app: &'a App,
        body: Body,
    ) -> Result<(SemaphorePermit<'a>, impl Read + Send + use<>), ApiError> {
        let upload = upload(app)?;
        Ok((upload, body::blocking_reader(body, self.most(), app.counted())))
    }
}

/// A place among the uploads.
pub(super) fn upload(app: &App) -> Result<SemaphorePermit<'_>, ApiError> {
    app.uploads.try_acquire().map_err(|_| ApiError::Busy)
}

/// 429 when every login rests for longer than a caller would wait.
async fn check_quota(app: &App) -> Result<(), ApiError> {
    let Some(back) = app.all_rest_until().await? else { return Ok(()) };
    let retry_at = back.saturating_mul(1000);
    let patience =
        i64::try_from(app.live.now().request_wait_timeout.as_millis()).unwrap_or(i64::MAX);
    if retry_at <= store::now().saturating_add(patience) {
        return Ok(());
    }
    let reasons = app.store.rest_reasons().await?;
    let is_quota = |reason| matches!(reason, RestReason::Quota | RestReason::LowQuota);
    if reasons.contains(&RestReason::ByHand) && !reasons.iter().copied().any(is_quota) {
        return Err(ApiError::LoginsRest { retry_at: (back < UNTIL_WOKEN).then_some(retry_at) });
    }
    Err(ApiError::QuotaExhausted { retry_at })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = value.to_str().map_err(|_| ApiError::BadIdempotencyKey)?;
    if key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY {
        return Err(ApiError::BadIdempotencyKey);
    }
    Ok(Some(key.to_owned()))
}

fn is_repeated(headers: &HeaderMap) -> bool {
    let count = headers.get(RETRY_COUNT).and_then(|count| count.to_str().ok());
    count.and_then(|count| count.trim().parse::<u32>().ok()).is_some_and(|count| count > 0)
}

/// Work that touches the disk.
pub(super) async fn on_blocking_thread<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|_| {
        tracing::error!("reading a body panicked");
        Err(ApiError::Internal)
    })
}

/// The job of a draft, whose references lie in the folder of its id.
pub(super) fn new_job(
    app: &App,
    caller: &str,
    id: String,
    draft: Draft,
    joining: Joining,
) -> NewJob {
    let retention = app.live.now().image_retention.as_millis();
    let retention = i64::try_from(retention).unwrap_or(i64::MAX);
    let last = draft.references.len().saturating_sub(1);
    let has_mask = draft.has_mask;
    let references =
        draft.references.into_iter().enumerate().map(|(index, reference)| NewReference {
            sha256: reference.picture.sha256_hex(),
            file: reference.file_name,
            media_type: reference.picture.format.media_type().to_owned(),
            bytes: reference.picture.bytes,
            width: reference.picture.width,
            height: reference.picture.height,
            is_mask: has_mask && index == last,
        });
    NewJob {
        id,
        api_key_id: caller.to_owned(),
        prompt: draft.prompt,
        size: draft.size,
        quality: draft.quality,
        background: draft.background,
        output_format: draft.output.map(|output| output.format.as_str()),
        output_compression: draft.output.map(|output| output.compression),
        end_user: draft.end_user,
        count: draft.count,
        expires_at: store::now().saturating_add(retention),
        references: references.collect(),
        joining,
    }
}

/// Hands a job in; the id of the job that the request has now, its own or the one that it joined.
pub(super) async fn enter(app: &App, job: NewJob) -> Result<String, ApiError> {
    enter_to_wait(app, job).await.map(|ticket| ticket.job().to_owned())
}

/// The same for a caller who waits.
pub(super) async fn enter_to_wait(app: &App, job: NewJob) -> Result<Ticket, ApiError> {
    let folder = app.references_dir.join(&job.id);
    let (pictures, references) = (job.count, job.references.len());
    let entered = match enter_before(app, &job).await {
        Ok(Some(id)) => Ok(app.queue.ticket(id)),
        Ok(None) => app.queue.submit_to_wait(job).await.map_err(ApiError::from),
        Err(refused) => Err(refused),
    };
    match &entered {
        Ok(ticket) if !ticket.is_joined() => {
            let job_id = ticket.job();
            app.metrics.job_accepted();
            tell_of_this_request(|request_id, key_handle| {
                tracing::info!(
                    job_id,
                    request_id,
                    key_handle,
                    pictures,
                    references,
                    "job accepted"
                );
            });
        }
        Ok(ticket) => {
            let job_id = ticket.job();
            leave_nothing(folder).await;
            tell_of_this_request(|request_id, key_handle| {
                tracing::info!(job_id, request_id, key_handle, "job is asked for once more");
            });
        }
        Err(_) => leave_nothing(folder).await,
    }
    entered
}

/// The job that is there already for a request which may repeat one; what was let in for that only
/// is else refused here.
async fn enter_before(app: &App, job: &NewJob) -> Result<Option<String>, ApiError> {
    if job.joining.idempotency_key.is_none() && !job.joining.is_repeated {
        return Ok(None);
    }
    match app.store.joinable(&job.api_key_id, &job.joining).await? {
        Some(Found::Job(id)) => Ok(Some(id)),
        Some(Found::Mismatch) => Err(ApiError::IdempotencyMismatch),
        None => check_quota(app).await.map(|()| None),
    }
}

/// A request that has no job of its own keeps no files.
async fn leave_nothing(folder: PathBuf) {
    let _ = tokio::fs::remove_dir_all(folder).await;
}

/// Waits for the end of a job, as long as a synchronous caller does.
pub(super) async fn wait(app: &App, ticket: &Ticket) -> Waited {
    app.queue.wait(ticket, app.live.now().request_wait_timeout).await.unwrap_or_else(|error| {
        // The job is accepted and goes on; a 500 would make clients ask, and pay, again.
        tracing::error!(job_id = ticket.job(), %error, "the store failed while a caller waited");
        Waited::Patience
    })
}

/// The error of a job that is final and has no picture.
pub(super) fn ended_without_picture(mut job: Box<Job>) -> ApiError {
    let state = job.state.as_str();
    // Of a failure that was deleted the code is left, which says whether trying again makes sense.
    job.error.get_or_insert_with(|| match job.state {
        JobState::Failed => "The job failed.".to_owned(),
        _ => format!("The job is {state}."),
    });
    job.error_code.get_or_insert_with(|| state.to_owned());
    ApiError::JobFailed(job)
}
