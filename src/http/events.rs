//! A job's phases and its result as server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
    routing::get,
};
use futures_util::stream;
use serde_json::json;
use tokio::time::Instant;

use super::{
    App, auth, docs,
    error::{ApiError, ErrorBody, JOB_ID},
    jobs::JobBody,
    respond,
};
use crate::{
    queue::Watch,
    store::jobs::{Job, Phase},
};

/// Proxies give up connections on which nothing comes; most wait a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Name and id of the last event.
const RESULT: &str = "result";

/// `/v1/images/jobs/{id}/events`.
pub(super) fn router() -> Router<App> {
    Router::new().route("/v1/images/jobs/{id}/events", get(events))
}

/// Follow a job.
///
/// Server-sent events: `phase` as the job comes to one, and `result` at its end, with what polling
/// answers then.
#[utoipa::path(
    get,
    path = "/v1/images/jobs/{id}/events",
    operation_id = "followJob",
    tag = "Native",
    params(
        ("id" = String, Path, description = "The job's id."),
        ("Last-Event-ID" = Option<String>, Header, description = "The last event that was seen."),
    ),
    responses(
        (status = 200, description = "The events.", body = docs::ServerSentEvent, content_type = "text/event-stream"),
        (status = 204, description = "The result was seen."),
        (status = 404, description = "`job_not_found`.", body = ErrorBody),
        docs::Caller,
    ),
)]
pub(super) async fn events(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> Result<Response, ApiError> {
    let hash = auth::key_hash(&headers)?;
    let Path(id) = id.map_err(|_| ApiError::NoJob)?;
    let (caller, job) = app.store.callers_job(&hash, &id).await?.ok_or(ApiError::InvalidKey)?;
    auth::admit(&app, request.extensions().get(), Some(caller))?;
    let job = job.ok_or(ApiError::NoJob)?;
    Ok(follow(app, job, &headers))
}

/// The events of a job that may be seen, from where a client says that it has come.
pub(super) fn follow(app: App, job: Job, headers: &HeaderMap) -> Response {
    let id = job.id.clone();
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    if seen == RESULT && job.state.is_final() {
        // It has everything; on this a browser stops coming back.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        respond::set(response.headers_mut(), JOB_ID, &id);
        return response;
    }
    let follower = Follower {
        watch: app.queue.watch(&job.id),
        last: read_id(seen),
        heard: Instant::now(),
        id: job.id,
        app,
    };
    let mut response =
        Response::new(Body::from_stream(stream::unfold(Some(follower), async |follower| {
            let mut follower = follower?;
            let (text, more) = follower.next().await?;
            Some((Ok::<_, Infallible>(Bytes::from(text)), more.then_some(follower)))
        })));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    respond::unbuffered(headers);
    respond::set(headers, JOB_ID, &id);
    response
}

/// One who follows a job.
struct Follower {
    app: App,
    id: String,
    watch: Watch,
    /// The phase that was told last.
    last: Option<(i64, Phase)>,
    heard: Instant,
}

impl Follower {
    /// The next text to send, and whether more follows; None at the end.
    async fn next(&mut self) -> Option<(String, bool)> {
        loop {
            let job = match self.app.store.job(&self.id).await {
                Ok(job) => job?,
                Err(error) => {
                    tracing::error!(job_id = self.id, %error, "the events of a job break off");
                    return None;
                }
            };
            let text = self.news(&job);
            let is_final = job.state.is_final();
            if is_final || !text.is_empty() {
                self.heard = Instant::now();
                return Some((text, !is_final));
            }
            tokio::select! {
                goes_on = self.watch.news() => {
                    if !goes_on {
                        return None;
                    }
                }
                () = tokio::time::sleep_until(self.heard + KEEP_ALIVE) => {
                    self.heard = Instant::now();
                    return Some((": keep-alive\n\n".to_owned(), true));
                }
            }
        }
    }

    /// The phases that were not told yet and, when the job is final, the result.
    fn news(&mut self, job: &Job) -> String {
        let mut text = String::new();
        for &(phase, at) in &job.phases {
            if self.last.is_some_and(|last| (at, phase) <= last) {
                continue;
            }
            self.last = Some((at, phase));
            let data = json!({
                "id": job.id,
                "status": job.state,
                "phase": phase,
                "at": respond::time(at),
            });
            text += &event(&event_id(phase, at), "phase", &data.to_string());
        }
        if job.state.is_final() {
            let result = serde_json::to_string(&JobBody::of(&self.app, job)).unwrap_or_default();
            text += &event(RESULT, RESULT, &result);
        }
        text
    }
}

fn event(id: &str, name: &str, data: &str) -> String {
    // JSON has no raw line feed, so that one line holds it.
    format!("id: {id}\nevent: {name}\ndata: {data}\n\n")
}

fn event_id(phase: Phase, at: i64) -> String {
    format!("{at}-{}", phase as u8)
}

/// From the id of the last event that a client has seen before it came back.
fn read_id(text: &str) -> Option<(i64, Phase)> {
    let (at, phase) = text.rsplit_once('-')?;
    let phases = [Phase::Waiting, Phase::Starting, Phase::Drawing, Phase::Saving];
    let phase = phases.into_iter().find(|known| (*known as u8).to_string() == phase)?;
    Some((at.parse().ok()?, phase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_and_anything_else_is_none() {
        assert_eq!(read_id(&event_id(Phase::Drawing, 1234)), Some((1234, Phase::Drawing)));
        for bad in ["", "-", "x-1", "12-9", "result", "12-"] {
            assert_eq!(read_id(bad), None, "{bad}");
        }
    }
}
