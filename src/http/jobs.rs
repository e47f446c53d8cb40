//! The native API's jobs: generate and wait, submit, poll, list, cancel.

use std::path::PathBuf;

use axum::{
    Router,
    extract::{
        DefaultBodyLimit, Path, Query, Request, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::{
    App,
    accept::{self, Admission, SMALL_BODY},
    auth::{self, Authorized},
    body, docs,
    error::{ApiError, ErrorBody, JOB_ID},
    intake::{Draft, native},
    respond,
    trace::RequestNotes,
};
use crate::{
    names::{JobId, is_job_id},
    queue::Waited,
    store::{
        jobs::{Job, JobState, Phase},
        submissions::NewJob,
    },
};

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

/// Make pictures and wait for them.
#[utoipa::path(
    post,
    path = "/v1/images/generate",
    operation_id = "generate",
    tag = "Native",
    params(docs::RepeatHeaders),
    request_body = docs::NativeRequest,
    responses(
        (status = 200, description = "The pictures.", body = Generated),
        (status = 400, description = "No JSON, or a reference that is no picture.", body = ErrorBody),
        (status = 422, description = "`invalid_value`: a field is out of its bounds; or `idempotency_mismatch`.", body = ErrorBody),
        docs::Caller,
        docs::Sending,
        docs::Waiting,
    ),
)]
pub(super) async fn generate(
    State(app): State<App>,
    Authorized(caller): Authorized,
    request: Request,
) -> Result<Response, ApiError> {
    let job = accept_native(&app, &caller.id, "generate", request).await?;
    let ticket = accept::enter_to_wait(&app, job).await?;
    match accept::wait(&app, &ticket).await {
        Waited::Final(job) if job.state == JobState::Succeeded => Ok(generated(&app, &job)),
        Waited::Final(job) => Err(accept::ended_without_picture(job)),
        Waited::Patience => Err(ApiError::StillRunning { job: ticket.job().to_owned() }),
        Waited::ShuttingDown => Err(ApiError::ShuttingDown { job: Some(ticket.job().to_owned()) }),
    }
}

/// Submit a job and come back for its pictures.
#[utoipa::path(
    post,
    path = "/v1/images/jobs",
    operation_id = "submitJob",
    tag = "Native",
    params(docs::RepeatHeaders),
    request_body = docs::NativeRequest,
    responses(
        (status = 202, description = "It is accepted, and durable. `Location` is where to poll.", body = Submitted, headers(("Location" = String, description = "Where to poll."), ("Retry-After" = u32, description = "Seconds until it is worth it."), ("X-Job-Id" = String, description = "The job."))),
        (status = 400, description = "No JSON, or a reference that is no picture.", body = ErrorBody),
        (status = 422, description = "`invalid_value`: a field is out of its bounds; or `idempotency_mismatch`.", body = ErrorBody),
        docs::Caller,
        docs::Sending,
    ),
)]
pub(super) async fn submit(
    State(app): State<App>,
    Authorized(caller): Authorized,
    request: Request,
) -> Result<Response, ApiError> {
    let job = accept_native(&app, &caller.id, "jobs", request).await?;
    let id = accept::enter(&app, job).await?;
    let mut response =
        respond::json(StatusCode::ACCEPTED, &Submitted { id: &id, status: "queued" });
    let headers = response.headers_mut();
    respond::set(headers, header::LOCATION, &respond::job_path(&id));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static(POLL_AFTER));
    respond::set(headers, JOB_ID, &id);
    Ok(response)
}

async fn accept_native(
    app: &App,
    caller: &str,
    route: &str,
    request: Request,
) -> Result<NewJob, ApiError> {
    let admission = Admission::of(app, request.headers()).await?;
    let id = JobId::fresh().to_string();
    let folder = app.references_dir.join(&id);
    let draft = read_native(app, request, &admission, folder).await?;
    let hash = draft.hash(route, &[]);
    Ok(accept::new_job(app, caller, id, draft, admission.joining(hash)))
}

async fn read_native(
    app: &App,
    request: Request,
    admission: &Admission,
    folder: PathBuf,
) -> Result<Draft, ApiError> {
    let body = request.into_body();
    if let Some(length) = admission.length.filter(|length| *length <= SMALL_BODY) {
        let bytes = body::collect(body, length, app.counted()).await?;
        // A picture, however small, is written to the disk: not on this thread. Its field's name
        // may be written with escapes.
        let may_refer = bytes.windows(9).any(|window| window == b"reference")
            || bytes.windows(2).any(|window| window == b"\\u");
        if !may_refer {
            return native::read(bytes.as_slice(), &folder);
        }
        return accept::on_blocking_thread(move || native::read(bytes.as_slice(), &folder)).await;
    }
    let (_upload, reader) = admission.reader(app, body)?;
    accept::on_blocking_thread(move || native::read(reader, &folder)).await
}

/// Where does a job stand?
#[utoipa::path(
    get,
    path = "/v1/images/jobs/{id}",
    operation_id = "getJob",
    tag = "Native",
    params(("id" = String, Path, description = "The job's id.")),
    responses(
        (status = 200, description = "The job.", body = JobBody),
        (status = 404, description = "`job_not_found`: none of this key.", body = ErrorBody),
        docs::Caller,
    ),
)]
pub(super) async fn poll(
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

/// Cancel a job; the picture in the making is stopped.
#[utoipa::path(
    delete,
    path = "/v1/images/jobs/{id}",
    operation_id = "cancelJob",
    tag = "Native",
    params(("id" = String, Path, description = "The job's id.")),
    responses(
        (status = 200, description = "It is cancelled.", body = JobBody),
        (status = 404, description = "`job_not_found`: none of this key.", body = ErrorBody),
        (status = 409, description = "`job_is_final`: it ended before.", body = ErrorBody),
        docs::Caller,
    ),
)]
pub(super) async fn cancel(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    Authorized(caller): Authorized,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let hash = auth::key_hash(&headers)?;
    let Path(id) = id.map_err(|_| ApiError::NoJob)?;
    let cancelled = is_job_id(&id) && app.queue.cancel(Some(&caller.id), &id).await?;
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

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Jobs on a page.
    #[param(value_type = u32, minimum = 1, maximum = 100, default = 20, required = false, nullable = false)]
    limit: Option<String>,
    /// The `next_cursor` of the page before.
    #[param(pattern = "^c[0-7][0-9a-f]{0,15}$", nullable = false)]
    cursor: Option<String>,
}

/// The caller's own jobs, newest first.
#[utoipa::path(
    get,
    path = "/v1/images/jobs",
    operation_id = "listJobs",
    tag = "Native",
    params(ListQuery),
    responses(
        (status = 200, description = "A page of them.", body = JobList),
        (status = 422, description = "`invalid_value`.", body = ErrorBody),
        docs::Caller,
    ),
)]
pub(super) async fn list(
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
    let body = JobList {
        data,
        has_more: next.is_some(),
        next_cursor: next.map(|seq| format!("c{seq:x}")),
    };
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

/// A job that was accepted.
#[derive(Serialize, ToSchema)]
struct Submitted<'a> {
    #[schema(example = "img_0123456789abcdef0123456789abcdef")]
    id: &'a str,
    /// Always `queued`.
    #[schema(example = "queued")]
    status: &'static str,
}

/// A page of jobs.
#[derive(Serialize, ToSchema)]
struct JobList<'a> {
    data: Vec<JobBody<'a>>,
    has_more: bool,
    next_cursor: Option<String>,
}

/// A synchronous caller's answer.
#[derive(Serialize, ToSchema)]
struct Generated<'a> {
    id: &'a str,
    /// `queued`, `running`, `succeeded`, `failed`, `cancelled` or `expired`.
    #[schema(value_type = String, example = "succeeded")]
    status: JobState,
    images: Vec<Image>,
    created_at: String,
    #[schema(value_type = Missing)]
    #[serde(flatten)]
    missing: Option<Missing<'a>>,
}

/// A job: the members of the original, in its types, and what is new beside them.
#[derive(Serialize, ToSchema)]
pub(super) struct JobBody<'a> {
    id: &'a str,
    /// `queued`, `running`, `succeeded`, `failed`, `cancelled` or `expired`.
    #[schema(value_type = String, example = "succeeded")]
    status: JobState,
    images: Vec<Image>,
    error: Option<&'a str>,
    error_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_at: Option<String>,
    created_at: String,
    expires_at: String,
    /// `waiting`, `starting`, `drawing` or `saving`; null once the job is final.
    #[schema(value_type = Option<String>, example = "drawing")]
    phase: Option<Phase>,
    /// The time of each phase that was reached.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    phases: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
    #[schema(value_type = Missing)]
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

#[derive(Serialize, ToSchema)]
#[schema(as = JobImage)]
struct Image {
    url: String,
    expires_at: String,
}

/// What a job of several pictures lacks; not there when it lacks nothing.
#[derive(Serialize, ToSchema)]
pub(super) struct Missing<'a> {
    #[schema(required = false)]
    missing: usize,
    #[schema(required = false)]
    errors: Vec<MissingImage<'a>>,
}

#[derive(Serialize, ToSchema)]
struct MissingImage<'a> {
    index: u32,
    code: &'a str,
    message: &'a str,
}

impl<'a> Missing<'a> {
    pub(super) fn of(job: &'a Job) -> Option<Self> {
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
