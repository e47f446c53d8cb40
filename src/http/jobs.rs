//! The native API's jobs: generate and wait, submit, poll, list, cancel.

use std::{path::PathBuf, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{
        DefaultBodyLimit, Path, Query, Request, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    App,
    auth::{self, Authorized},
    body,
    error::{ApiError, JOB_ID},
    intake::{self, Draft},
    respond,
    trace::RequestNotes,
};
use crate::{
    queue::{self, Waited},
    store::{
        self,
        jobs::{Job, JobState, Phase},
        submissions::{NewJob, NewReference},
    },
};

/// Bodies that declare themselves at most this long and hold no picture are read in memory: a
/// thread of their own would cost more than they do.
const SMALL_BODY: u64 = 16 * 1024;

/// Seconds until a submitted job is worth asking for.
const POLL_AFTER: &str = "3";

/// Jobs on a page of the list.
const PAGE: u32 = 20;
const MAX_PAGE: u32 = 100;

/// Everything under `/v1/images` that is not OpenAI's.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/v1/images/generate", post(generate))
        .route("/v1/images/jobs", post(submit).get(list))
        .route("/v1/images/jobs/{id}", get(poll).delete(cancel))
        // Ours counts while it streams, and comes after the key.
        .layer(DefaultBodyLimit::disable())
}

async fn generate(
    State(app): State<App>,
    Authorized(caller): Authorized,
    request: Request,
) -> Result<Response, ApiError> {
    let job = accept(&app, &caller.id, request).await?;
    let (id, folder) = (job.id.clone(), app.references_dir.join(&job.id));
    let ticket = match app.queue.submit_to_wait(job).await {
        Ok(ticket) => ticket,
        Err(refused) => return Err(refuse(refused, folder).await),
    };
    app.metrics.job_accepted();
    let waited = app.queue.wait(&ticket, app.patience).await.unwrap_or_else(|error| {
        // The job is accepted and goes on; a 500 would make clients ask, and pay, again.
        tracing::error!(job = id, %error, "the store failed while a caller waited");
        Waited::Patience
    });
    match waited {
        Waited::Final(job) if job.state == JobState::Succeeded => Ok(generated(&app, &job)),
        Waited::Final(job) => Err(ended_without_picture(job)),
        Waited::Patience => Err(ApiError::StillRunning { job: id }),
        Waited::ShuttingDown => Err(ApiError::ShuttingDown { job: Some(id) }),
    }
}

fn ended_without_picture(mut job: Box<Job>) -> ApiError {
    if job.error.is_none() {
        job.error = Some(format!("The job is {}.", job.state.as_str()));
        job.error_code = Some(job.state.as_str().to_owned());
    }
    ApiError::JobFailed(job)
}

async fn submit(
    State(app): State<App>,
    Authorized(caller): Authorized,
    request: Request,
) -> Result<Response, ApiError> {
    let job = accept(&app, &caller.id, request).await?;
    let (id, folder) = (job.id.clone(), app.references_dir.join(&job.id));
    if let Err(refused) = app.queue.submit(job).await {
        return Err(refuse(refused, folder).await);
    }
    app.metrics.job_accepted();
    let mut response = respond::json(StatusCode::ACCEPTED, &json!({"id": id, "status": "queued"}));
    let headers = response.headers_mut();
    respond::set(headers, header::LOCATION, &respond::job_path(&id));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static(POLL_AFTER));
    respond::set(headers, JOB_ID, &id);
    Ok(response)
}

/// Reads and checks a body; its references lie on the disk when this returns.
async fn accept(app: &App, caller: &str, request: Request) -> Result<NewJob, ApiError> {
    if app.queue.is_draining() {
        return Err(ApiError::ShuttingDown { job: None });
    }
    let (parts, body) = request.into_parts();
    let length = body::declared_length(&parts.headers, app.max_body)?;
    // Nobody should send 50 MB to learn that the queue is full.
    if length.is_none_or(|length| length > SMALL_BODY) && !app.queue.has_room().await? {
        return Err(ApiError::QueueFull);
    }
    if let Some(back) = app.engine.as_ref().and_then(|engine| engine.all_rest_until()) {
        let retry_at = back.saturating_mul(1000);
        let patience = i64::try_from(app.patience.as_millis()).unwrap_or(i64::MAX);
        if retry_at > store::now().saturating_add(patience) {
            return Err(ApiError::QuotaExhausted { retry_at });
        }
    }
    let id = queue::new_job_id();
    let folder = app.references_dir.join(&id);
    let draft = read_draft(app, length, body, folder).await?;
    let references = draft
        .references
        .into_iter()
        .map(|reference| NewReference {
            file: reference.file_name,
            media_type: reference.picture.format.media_type().to_owned(),
            bytes: reference.picture.bytes,
            width: reference.picture.width,
            height: reference.picture.height,
            sha256: reference.picture.sha256_hex(),
        })
        .collect();
    Ok(NewJob {
        id,
        api_key_id: caller.to_owned(),
        prompt: draft.prompt,
        size: draft.size,
        quality: draft.quality,
        count: draft.count,
        expires_at: store::now().saturating_add(app.retention_ms),
        references,
    })
}

async fn read_draft(
    app: &App,
    length: Option<u64>,
    body: Body,
    folder: PathBuf,
) -> Result<Draft, ApiError> {
    let metrics = Arc::clone(&app.metrics);
    let counted = move |bytes| metrics.body_read(bytes);
    if length.is_some_and(|length| length <= SMALL_BODY) {
        let bytes = body::collect(body, SMALL_BODY, counted).await?;
        // A picture, however small, is written to the disk: not on this thread. Its field's name
        // may be written with escapes.
        let may_refer = bytes.windows(9).any(|window| window == b"reference")
            || bytes.windows(2).any(|window| window == b"\\u");
        if !may_refer {
            return intake::read(bytes.as_slice(), &folder);
        }
        return on_blocking_thread(move || intake::read(bytes.as_slice(), &folder)).await;
    }
    let Ok(_upload) = app.uploads.try_acquire() else { return Err(ApiError::Busy) };
    let reader = body::blocking_reader(body, length.unwrap_or(app.max_body), counted);
    on_blocking_thread(move || intake::read(reader, &folder)).await
}

async fn on_blocking_thread(
    read: impl FnOnce() -> Result<Draft, ApiError> + Send + 'static,
) -> Result<Draft, ApiError> {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|_| {
        tracing::error!("reading a body panicked");
        Err(ApiError::Internal)
    })
}

/// A job that was not accepted leaves nothing behind.
async fn refuse(refused: queue::Refused, folder: PathBuf) -> ApiError {
    let _ = tokio::fs::remove_dir_all(folder).await;
    refused.into()
}

async fn poll(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    // Key and job in one look at the store.
    let hash = auth::key_hash(request.headers())?;
    let Path(id) = id.map_err(|_| ApiError::NoJob)?;
    let (caller, job) = app.store.callers_job(&hash, &id).await?.ok_or(ApiError::InvalidKey)?;
    auth::admit(&app, request.extensions().get::<RequestNotes>(), Some(caller))?;
    Ok(job_answer(&app, &job.ok_or(ApiError::NoJob)?))
}

async fn cancel(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    Authorized(caller): Authorized,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let hash = auth::key_hash(&headers)?;
    let Path(id) = id.map_err(|_| ApiError::NoJob)?;
    let cancelled = queue::is_job_id(&id) && app.queue.cancel(&caller.id, &id).await?;
    if cancelled {
        app.metrics.job_finished(JobState::Cancelled.as_str(), None);
    }
    let (_, job) = app.store.callers_job(&hash, &id).await?.ok_or(ApiError::InvalidKey)?;
    let job = job.ok_or(ApiError::NoJob)?;
    // Cancelling twice is no error: the second of two callers finds what it asked for.
    if cancelled || job.state == JobState::Cancelled {
        Ok(job_answer(&app, &job))
    } else {
        Err(ApiError::AlreadyFinal { job: job.id, state: job.state.as_str() })
    }
}

#[derive(Deserialize)]
struct ListQuery {
    limit: Option<String>,
    cursor: Option<String>,
}

async fn list(
    State(app): State<App>,
    Authorized(caller): Authorized,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let invalid = |param, message: &str| ApiError::Invalid { param, message: message.to_owned() };
    let query = query.map_err(|_| invalid("query", "The query can't be understood."))?;
    let limit = match query.limit.as_deref().map(str::parse) {
        None => PAGE,
        Some(Ok(limit)) if (1..=MAX_PAGE).contains(&limit) => limit,
        Some(_) => return Err(invalid("limit", "'limit' must be an integer from 1 to 100.")),
    };
    let before = match query.cursor.as_deref().map(parse_cursor) {
        None => None,
        Some(Some(before)) => Some(before),
        Some(None) => {
            return Err(invalid("cursor", "'cursor' must be a 'next_cursor' of this list."));
        }
    };
    let (jobs, next) = app.store.callers_jobs(&caller.id, before, limit).await?;
    let data: Vec<JobBody> = jobs.iter().map(|job| JobBody::of(&app, job)).collect();
    let body = json!({
        "data": data,
        "has_more": next.is_some(),
        "next_cursor": next.map(|seq| format!("c{seq:x}")),
    });
    Ok(respond::json(StatusCode::OK, &body))
}

fn parse_cursor(text: &str) -> Option<i64> {
    i64::from_str_radix(text.strip_prefix('c')?, 16).ok().filter(|seq| *seq >= 0)
}

fn generated(app: &App, job: &Job) -> Response {
    let body = Generated {
        id: &job.id,
        status: job.state,
        images: images(app, job),
        created_at: respond::time(job.created_at),
        missing: Missing::of(job),
    };
    with_job(respond::json(StatusCode::OK, &body), &job.id)
}

fn job_answer(app: &App, job: &Job) -> Response {
    let mut response = with_job(respond::json(StatusCode::OK, &JobBody::of(app, job)), &job.id);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !job.state.is_final() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(POLL_AFTER));
    }
    response
}

/// A synchronous caller's answer.
#[derive(Serialize)]
struct Generated<'a> {
    id: &'a str,
    status: JobState,
    images: Vec<Image>,
    created_at: String,
    #[serde(flatten)]
    missing: Option<Missing<'a>>,
}

/// The members of the original, in its types, and what is new beside them.
#[derive(Serialize)]
pub(super) struct JobBody<'a> {
    id: &'a str,
    status: JobState,
    images: Vec<Image>,
    error: Option<&'a str>,
    error_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_at: Option<String>,
    created_at: String,
    expires_at: String,
    /// None once the job is final.
    phase: Option<Phase>,
    phases: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
    #[serde(flatten)]
    missing: Option<Missing<'a>>,
}

impl<'a> JobBody<'a> {
    pub(super) fn of(app: &App, job: &'a Job) -> Self {
        Self {
            id: &job.id,
            status: job.state,
            images: images(app, job),
            error: job.error.as_deref(),
            error_code: job.error_code.as_deref(),
            retry_at: job.retry_at.map(respond::time),
            created_at: respond::time(job.created_at),
            expires_at: respond::time(job.expires_at),
            phase: job.phases.last().filter(|_| !job.state.is_final()).map(|(phase, _)| *phase),
            phases: job
                .phases
                .iter()
                .filter_map(|(phase, at)| {
                    let name = serde_json::to_value(phase).ok()?.as_str()?.to_owned();
                    Some((name, respond::time(*at).into()))
                })
                .collect(),
            note: job.note.as_deref(),
            missing: Missing::of(job),
        }
    }
}

#[derive(Serialize)]
struct Image {
    url: String,
    expires_at: String,
}

/// What a job of several pictures lacks.
#[derive(Serialize)]
struct Missing<'a> {
    missing: usize,
    errors: Vec<MissingImage<'a>>,
}

#[derive(Serialize)]
struct MissingImage<'a> {
    index: u32,
    code: &'a str,
    message: &'a str,
}

impl<'a> Missing<'a> {
    fn of(job: &'a Job) -> Option<Self> {
        let errors: Vec<_> = job
            .errors
            .iter()
            .map(|error| MissingImage {
                index: error.position,
                code: &error.code,
                message: &error.message,
            })
            .collect();
        (!errors.is_empty()).then_some(Self { missing: errors.len(), errors })
    }
}

fn images(app: &App, job: &Job) -> Vec<Image> {
    let expires_at = respond::time(job.expires_at);
    job.files
        .iter()
        .map(|file| Image {
            url: format!("{}/generated/{file}", app.public_base_url),
            expires_at: expires_at.clone(),
        })
        .collect()
}

fn with_job(mut response: Response, id: &str) -> Response {
    respond::set(response.headers_mut(), JOB_ID, id);
    response
}
