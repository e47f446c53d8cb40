//! A job with everything that is known of it, and what may be done with it.

use askama::Template;
use axum::{
    Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::{get, post},
};

use super::{
    super::events,
    App,
    history::class,
    keys::Confirm,
    page::{Done, Page, Place, html, see_other},
    session::Operator,
    show::{self, When},
    texts::Texts,
    trouble::Trouble,
};
use crate::{
    names::is_job_id,
    store::{
        details::{JobDetails, PictureDetails, TurnDetails},
        jobs::JobState,
    },
};

/// `/admin/requests/{id}` and the deeds under the original's `/admin/image-requests`.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/admin/requests/{id}", get(show_job))
        .route("/admin/image-requests/{id}/events", get(follow))
        .route("/admin/image-requests/{id}/cancel", post(cancel))
        .route("/admin/image-requests/{id}/delete", get(ask).post(delete))
}

/// How a job stands, where it is followed.
pub(super) struct Progress {
    pub(super) id: String,
    pub(super) state: &'static str,
    pub(super) class: &'static str,
    pub(super) is_open: bool,
    /// What it is doing now; empty when it has ended.
    pub(super) words: &'static str,
    pub(super) waits_until: Option<When>,
    pub(super) error: Option<String>,
    pub(super) error_code: Option<String>,
    pub(super) pictures: Vec<Picture>,
    /// What the pictures show, for those who can't see them: the beginning of the prompt; hostile.
    pub(super) alt: String,
}

/// Characters of it.
const ALT: usize = 200;

/// A picture.
pub(super) struct Picture {
    pub(super) number: u32,
    pub(super) file: String,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) kind: String,
    pub(super) bytes: String,
    pub(super) is_mask: bool,
}

impl From<PictureDetails> for Picture {
    fn from(picture: PictureDetails) -> Self {
        Self {
            number: picture.position + 1,
            file: picture.file,
            width: picture.width,
            height: picture.height,
            kind: picture.media_type.trim_start_matches("image/").to_uppercase(),
            bytes: show::bytes(picture.bytes),
            is_mask: picture.is_mask,
        }
    }
}

impl Progress {
    pub(super) fn of(t: &Texts, job: &JobDetails, pictures: Vec<PictureDetails>) -> Self {
        let is_open = !job.state.is_final();
        let words = match job.state {
            JobState::Queued => t.now_queued,
            JobState::Running if job.saving_at.is_some() => t.now_saving,
            JobState::Running if job.drawing_at.is_some() => t.now_drawing,
            JobState::Running => t.now_starting,
            _ => "",
        };
        Self {
            id: job.id.clone(),
            state: t.job_state(job.state),
            class: class(job.state),
            is_open,
            words,
            waits_until: job.not_before.filter(|_| is_open).map(When),
            error: job.error.clone(),
            error_code: job.error_code.clone(),
            pictures: pictures.into_iter().map(Picture::from).collect(),
            alt: job.prompt.chars().take(ALT).collect(),
        }
    }
}

/// A phase: its name, when it began, and how long it took.
struct Phase {
    name: &'static str,
    began: When,
    took: Option<String>,
}

/// What Codex did about one picture.
struct Turn {
    number: u32,
    state: String,
    details: TurnDetails,
    began: Option<When>,
    took: Option<String>,
}

#[derive(Template)]
#[template(path = "job.html")]
struct JobView {
    page: Page,
    job: JobDetails,
    progress: Progress,
    created: When,
    expires: When,
    finished: Option<When>,
    is_purged: bool,
    references: Vec<Picture>,
    phases: Vec<Phase>,
    turns: Vec<Turn>,
}

async fn show_job(
    State(app): State<App>,
    _: Operator,
    Path(id): Path<String>,
    Query(done): Query<Done>,
) -> Result<Response, Trouble> {
    let job = details(&app, &id).await?;
    let mut page = Page::new(&app, Place::History).after(&done);
    if !job.state.is_final() {
        page = page.of_worker(&app).await;
    }
    let t = page.t;
    let pictures = app.store.pictures_of(&id).await?;
    let references = app.store.references_of(&id).await?;
    let turns = app.store.turns_of(&id).await?;
    let is_open = !job.state.is_final();
    let view = JobView {
        progress: Progress::of(t, &job, pictures),
        created: When(job.created_at),
        expires: When(job.expires_at),
        finished: job.finished_at.map(When),
        is_purged: job.purged_at.is_some() || job.state == JobState::Expired,
        references: references.into_iter().map(Picture::from).collect(),
        phases: phases(t, &job),
        turns: turns.into_iter().map(|details| turn(t, details, is_open)).collect(),
        page: page.titled(t.job).refreshing(is_open),
        job,
    };
    html(StatusCode::OK, &view)
}

/// The job, when there is one that is not deleted.
pub(super) async fn details(app: &App, id: &str) -> Result<JobDetails, Trouble> {
    if !is_job_id(id) {
        return Err(Trouble::NoJob);
    }
    app.store.job_details(id).await?.ok_or(Trouble::NoJob)
}

/// The phases of its latest attempt; each lasts until the next one that was come to.
fn phases(t: &Texts, job: &JobDetails) -> Vec<Phase> {
    let times = [
        (t.phase_waiting, Some(job.waiting_at.unwrap_or(job.created_at))),
        (t.phase_starting, job.starting_at),
        (t.phase_drawing, job.drawing_at),
        (t.phase_saving, job.saving_at),
    ];
    let begun: Vec<_> =
        times.into_iter().filter_map(|(name, at)| at.map(|at| (name, at))).collect();
    let ends = begun.iter().skip(1).map(|(_, at)| Some(*at)).chain([job.finished_at]);
    let phase = |(&(name, at), end): (&(&'static str, i64), Option<i64>)| Phase {
        name,
        began: When(at),
        took: end.map(|end| show::span(end.saturating_sub(at).max(0))),
    };
    begun.iter().zip(ends).map(phase).collect()
}

fn turn(t: &Texts, details: TurnDetails, is_open: bool) -> Turn {
    let has_ended = matches!(details.state.as_str(), "succeeded" | "failed");
    let state = if has_ended || is_open { details.state.clone() } else { t.not_drawn.to_owned() };
    let took = details.started_at.zip(details.finished_at);
    Turn {
        number: details.position + 1,
        state,
        began: details.started_at.map(When),
        took: took.map(|(from, until)| show::span(until.saturating_sub(from))),
        details,
    }
}

async fn follow(
    State(app): State<App>,
    _: Operator,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Trouble> {
    details(&app, &id).await?;
    let job = app.store.job(&id).await?.ok_or(Trouble::NoJob)?;
    Ok(events::follow(app, job, &headers))
}

async fn cancel(
    State(app): State<App>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<Response, Trouble> {
    let job = details(&app, &id).await?;
    let done = if app.queue.cancel(None, &id).await? {
        app.metrics.job_finished(JobState::Cancelled.as_str(), None);
        "cancelled"
    } else if job.state == JobState::Cancelled {
        // The second of two clicks.
        "cancelled"
    } else {
        "too-late"
    };
    tracing::info!(job_id = id, done, "a job was cancelled on the admin pages");
    Ok(see_other(&app, &format!("/requests/{id}?done={done}")))
}

async fn ask(
    State(app): State<App>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<Response, Trouble> {
    let job = details(&app, &id).await?;
    let page = Page::new(&app, Place::History);
    let t = page.t;
    let page = page.titled(t.delete_job_title);
    let confirm = Confirm {
        words: t.delete_job_words,
        subject: job.prompt,
        handle: None,
        action: format!("{}/image-requests/{id}/delete", page.base),
        deed: t.delete_job,
        back: format!("{}/requests/{id}", page.base),
        page,
    };
    html(StatusCode::OK, &confirm)
}

async fn delete(
    State(app): State<App>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<Response, Trouble> {
    let job = details(&app, &id).await?;
    if !app.queue.delete(&id).await? {
        return Err(Trouble::NoJob);
    }
    if !job.state.is_final() {
        app.metrics.job_finished(JobState::Cancelled.as_str(), None);
    }
    tracing::info!(job_id = id, "a job was deleted on the admin pages");
    Ok(see_other(&app, "/requests?done=deleted-job"))
}
