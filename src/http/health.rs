//! Is it alive, is it ready, and where are the pages.

use std::{
    fs::File,
    io,
    os::unix::net::UnixDatagram,
    path::Path,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use super::{
    App,
    error::{ApiError, ErrorBody},
    respond,
};
use crate::{
    codex::status::{RestReason, UNTIL_WOKEN},
    images,
};

/// How long what was found holds for `/ready`. It is asked without a key, and each look costs a
/// walk over the logins and takes the worker's lock for a moment.
const LOOK_HOLDS: Duration = Duration::from_secs(1);

/// With less space left than the largest picture takes, the next one may be lost.
const LITTLE_SPACE: u64 = images::MAX_IMPORT_BYTES;

/// The last look, and when it was.
pub(super) type LastLook = Mutex<Option<(Instant, Vec<Problem>)>>;

/// Something that stands in the way of pictures.
#[derive(Clone, Serialize, ToSchema)]
pub(super) struct Problem {
    #[schema(example = "not_logged_in")]
    code: String,
    message: String,
}

/// Whether a job sent now would be drawn.
#[derive(Serialize, ToSchema)]
pub(super) struct Readiness<'a> {
    /// `ready` or `not ready`.
    #[schema(example = "ready")]
    status: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    problems: &'a [Problem],
}

/// That the process is alive.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documents what is written as it stands")]
pub(super) struct Health {
    /// Always `ok`.
    #[schema(example = "ok")]
    status: String,
}

/// `/health`, `/ready` and `/`.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/", get(to_the_pages))
}

/// Is the process alive?
#[utoipa::path(
    get,
    path = "/health",
    operation_id = "health",
    tag = "Service",
    security(()),
    responses((status = 200, description = "It is.", body = Health)),
)]
pub(super) async fn health() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], r#"{"status":"ok"}"#).into_response()
}

/// Would a job sent now be drawn?
#[utoipa::path(
    get,
    path = "/ready",
    operation_id = "ready",
    tag = "Service",
    security(()),
    responses(
        (status = 200, description = "It would.", body = Readiness),
        (status = 503, description = "It would not: what is wrong.", body = Readiness),
    ),
)]
pub(super) async fn ready(State(app): State<App>) -> Response {
    let mut problems = Vec::new();
    if app.queue.is_draining() {
        problems.push(problem("shutting_down", "The service is shutting down."));
    }
    // Those who ask meanwhile wait for this look instead of taking their own.
    let mut last = app.last_look.lock().await;
    let found = match last.take().filter(|(at, _)| at.elapsed() < LOOK_HOLDS) {
        Some(look) => last.insert(look),
        None => last.insert((Instant::now(), look(&app).await)),
    };
    problems.extend_from_slice(&found.1);
    drop(last);
    if problems.is_empty() {
        respond::json(StatusCode::OK, &Readiness { status: "ready", problems: &[] })
    } else {
        let body = Readiness { status: "not ready", problems: &problems };
        respond::json(StatusCode::SERVICE_UNAVAILABLE, &body)
    }
}

fn problem(code: &str, message: &str) -> Problem {
    Problem { code: code.to_owned(), message: message.to_owned() }
}

async fn look(app: &App) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !app.store.answers().await {
        problems.push(problem("store", "The database does not answer."));
    } else if app.store.check_writable().await.is_err() {
        problems.push(problem("store", "The database cannot be written."));
    }
    match app.engine.clone() {
        Some(engine) => {
            let found = tokio::task::spawn_blocking(move || engine.problems()).await;
            for failure in found.unwrap_or_default() {
                problems.push(problem(failure.code.as_str(), &failure.message));
            }
        }
        None if !has_worker(app).await => {
            problems.push(problem("no_worker", "No worker is running (serve --role worker)."));
        }
        // What it told the last time it looked.
        None => {
            problems.extend(told_of_itself(app).await);
            problems.extend(no_usable_login(app).await);
        }
    }
    problems.extend(no_place(app).await);
    if let Ok(Some(back)) = app.all_rest_until().await {
        let reasons = app.store.rest_reasons().await.unwrap_or_default();
        problems.push(problem("logins_rest", &all_rest(back, &reasons)));
    }
    problems
}

/// What is wrong with the places where pictures are made and kept.
async fn no_place(app: &App) -> Option<Problem> {
    let (folder, workdir) = (app.generated_dir.clone(), app.workdir.clone());
    // What a worker of another user may write is not for this one to know.
    let draws_here = app.engine.is_some();
    let check = move |folder: &Path| match folder.metadata()?.is_dir() {
        true if draws_here => images::check_folder(folder),
        true => Ok(()),
        false => Err(io::ErrorKind::NotADirectory.into()),
    };
    let look = move || match check(&folder).map(|()| free_bytes(&folder)) {
        Ok(free) if free < LITTLE_SPACE => Some("The disk of the finished pictures is full."),
        Ok(_) if check(&workdir).is_ok() => None,
        Ok(_) => Some("The folder in which Codex works is missing or can't be written."),
        Err(_) => Some("The folder of the finished pictures is missing or can't be written."),
    };
    let words = tokio::task::spawn_blocking(look).await.ok().flatten()?;
    Some(problem("storage", words))
}

/// What keeps the worker from drawing, whatever the logins. One that sleeps may find it mended.
async fn told_of_itself(app: &App) -> Option<Problem> {
    if !is_worker_awake(app).await {
        return None;
    }
    let told = app.store.worker_facts().await.unwrap_or_default();
    Some(problem(&told.problem_code?, &told.problem.unwrap_or_default()))
}

/// What is wrong with the logins when the worker could use none of them.
async fn no_usable_login(app: &App) -> Option<Problem> {
    let told = app.store.told_logins().await.unwrap_or_default();
    if told.iter().any(|login| login.problem_code.is_none()) {
        return None;
    }
    let first = told.into_iter().next()?;
    Some(problem(&first.problem_code?, &first.problem.unwrap_or_default()))
}

/// Until when every login rests, in Unix seconds, and why.
fn all_rest(back: i64, reasons: &[RestReason]) -> String {
    let until = if back < UNTIL_WOKEN {
        respond::time(back.saturating_mul(1000))
    } else {
        "somebody wakes it".to_owned()
    };
    let is_any = |known: &[RestReason]| reasons.iter().any(|reason| known.contains(reason));
    let mut why = Vec::new();
    for (known, words) in [
        (&[RestReason::Quota, RestReason::LowQuota][..], "no quota is left"),
        (&[RestReason::LoginExpired], "its session is over"),
        (&[RestReason::ByHand], "the service's owner wants it left alone"),
    ] {
        if is_any(known) {
            why.push(words);
        }
    }
    if why.is_empty() {
        why.push("no quota is left, or its session is over");
    }
    format!("Every login rests until {until}: {}.", why.join(", or "))
}

/// What this user may still write there; all there is where the system does not tell.
fn free_bytes(folder: &Path) -> u64 {
    disk_bytes(folder).map_or(u64::MAX, |(free, _)| free)
}

/// What this user may still write on the disk of a folder, and the size of that disk.
pub(super) fn disk_bytes(folder: &Path) -> Option<(u64, u64)> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some((disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize)))
}

/// Is somebody there who draws, in this process or in another, or comes when there is something to
/// draw?
pub(super) async fn has_worker(app: &App) -> bool {
    is_worker_awake(app).await || worker_hears(app).await
}

/// Is somebody there just now?
pub(super) async fn is_worker_awake(app: &App) -> bool {
    app.engine.is_some() || worker_holds_lock(app).await
}

/// Where systemd starts the worker, it holds the bell while none is there.
async fn worker_hears(app: &App) -> bool {
    let path = app.worker_bell.clone();
    tokio::task::spawn_blocking(move || UnixDatagram::unbound()?.connect(path))
        .await
        .is_ok_and(|heard| heard.is_ok())
}

/// A worker holds its lock for as long as it lives. It may be another user's file, so it is opened
/// to be read.
async fn worker_holds_lock(app: &App) -> bool {
    let path = app.worker_lock.clone();
    tokio::task::spawn_blocking(move || {
        Ok::<_, io::Error>(File::open(path)?.try_lock_shared().is_err())
    })
    .await
    .is_ok_and(|held| held.unwrap_or(false))
}

/// To the admin pages.
#[utoipa::path(
    get,
    path = "/",
    operation_id = "home",
    tag = "Service",
    security(()),
    responses(
        (status = 303, description = "`Location` is the admin pages."),
        (status = 404, description = "`not_found`: there are none (`ADMIN=off`).", body = ErrorBody),
    ),
)]
pub(super) async fn to_the_pages(State(app): State<App>) -> Result<Response, ApiError> {
    if !app.admin.is_on {
        return Err(ApiError::NoRoute);
    }
    let target = format!("{}/admin", app.admin_url_prefix);
    let mut response = StatusCode::SEE_OTHER.into_response();
    respond::set(response.headers_mut(), header::LOCATION, &target);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_all_rest_is_said_as_it_is() {
        let at = 1_800_000_000;
        for (back, reasons, words) in [
            (
                at,
                vec![RestReason::ByHand],
                "2027-01-15T08:00:00.000+00:00: the service's owner wants",
            ),
            (UNTIL_WOKEN, vec![RestReason::ByHand], "until somebody wakes it: the service's owner"),
            (at, vec![RestReason::LowQuota], "no quota is left."),
            (
                at,
                vec![RestReason::ByHand, RestReason::Quota, RestReason::LoginExpired],
                "no quota is left, or its session is over, or the service's owner",
            ),
            (at, vec![], "no quota is left, or its session is over."),
        ] {
            let said = all_rest(back, &reasons);
            assert!(said.contains(words), "{said}");
            assert_eq!(said.contains("quota"), reasons != [RestReason::ByHand], "{said}");
        }
    }
}
