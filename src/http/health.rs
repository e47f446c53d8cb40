//! Is it alive, is it ready, and where are the pages.

use std::{
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{App, respond};
use crate::images;

/// How long what was found holds for `/ready`. It is asked without a key, and each look costs a
/// walk over the logins and takes the worker's lock for a moment.
const LOOK_HOLDS: Duration = Duration::from_secs(1);

/// The last look, and when it was.
type LastLook = Arc<Mutex<Option<(Instant, Vec<Value>)>>>;

/// `/health`, `/ready` and `/`.
pub(super) fn router() -> Router<App> {
    let last = LastLook::default();
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(async move |State(app): State<App>| ready(&app, &last).await))
        .route("/", get(to_the_pages))
}

async fn health() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], r#"{"status":"ok"}"#).into_response()
}

/// 200 when a job sent now would be drawn; else 503 with a list of what is wrong.
async fn ready(app: &App, last: &LastLook) -> Response {
    let mut problems = Vec::new();
    if app.queue.is_draining() {
        problems.push(problem("shutting_down", "The service is shutting down."));
    }
    // Those who ask meanwhile wait for this look instead of taking their own.
    let mut last = last.lock().await;
    let found = match last.take().filter(|(at, _)| at.elapsed() < LOOK_HOLDS) {
        Some(look) => last.insert(look),
        None => last.insert((Instant::now(), look(app).await)),
    };
    problems.extend_from_slice(&found.1);
    drop(last);
    if problems.is_empty() {
        respond::json(StatusCode::OK, &json!({"status": "ready"}))
    } else {
        let body = json!({"status": "not ready", "problems": problems});
        respond::json(StatusCode::SERVICE_UNAVAILABLE, &body)
    }
}

fn problem(code: &str, message: &str) -> Value {
    json!({"code": code, "message": message})
}

async fn look(app: &App) -> Vec<Value> {
    let mut problems = Vec::new();
    if !app.store.answers().await {
        problems.push(problem("store", "The database does not answer."));
    } else if !app.store.is_writable().await {
        problems.push(problem("store", "The database cannot be written."));
    }
    match app.engine.clone() {
        Some(engine) => {
            let found = tokio::task::spawn_blocking(move || engine.problems()).await;
            for failure in found.unwrap_or_default() {
                problems.push(problem(failure.code.as_str(), &failure.message));
            }
            let folder = app.generated_dir.clone();
            let checked = tokio::task::spawn_blocking(move || images::check_folder(&folder)).await;
            if !matches!(checked, Ok(Ok(()))) {
                let message = "The folder of the finished pictures is missing or can't be written.";
                problems.push(problem("storage", message));
            }
        }
        None if !worker_is_there(app).await => {
            problems.push(problem("no_worker", "No worker is running (serve --role worker)."));
        }
        None => {}
    }
    problems
}

/// A worker holds its lock for as long as it lives. It may be another user's file, so it is opened
/// to be read.
async fn worker_is_there(app: &App) -> bool {
    let path = app.worker_lock.clone();
    tokio::task::spawn_blocking(move || {
        Ok::<_, std::io::Error>(File::open(path)?.try_lock_shared().is_err())
    })
    .await
    .is_ok_and(|held| held.unwrap_or(false))
}

async fn to_the_pages(State(app): State<App>) -> Response {
    let target = format!("{}/admin", app.admin_url_prefix);
    let mut response = StatusCode::SEE_OTHER.into_response();
    respond::set(response.headers_mut(), header::LOCATION, &target);
    response
}
