//! A streamed answer: server-sent events, one for each picture as soon as it is there, or one that
//! says what went wrong. There are no partial images: Codex makes none.

use std::collections::VecDeque;

use axum::{
    http::{HeaderValue, header},
    response::Response,
};
use futures_util::{Stream, stream};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    super::{
        App, accept,
        error::{ApiError, Dress},
        respond,
    },
    answer::{About, join, open, respond_with, text},
    fields::{Route, Wish},
    stream::{KEEP_ALIVE, body},
};
use crate::{
    images::{FileBody, Segment, Stored},
    queue::{Ticket, Watch},
    store::{
        jobs::{Job, JobState},
        outcomes::JobImage,
    },
};

/// Answers with events.
pub(super) fn answer(app: App, ticket: &Ticket, wish: Wish, route: Route) -> Response {
    let id = ticket.job().to_owned();
    let follower = Follower {
        watch: app.queue.watch(&id),
        until: Instant::now() + app.live.now().request_wait_timeout,
        kind: match route {
            Route::Generations => "image_generation.completed",
            Route::Edits => "image_edit.completed",
        },
        job: id.clone(),
        created: 0,
        told: Vec::new(),
        waiting: VecDeque::new(),
        over: false,
        app,
        wish,
    };
    let mut response = respond_with(
        body(": keep-alive\n\n", KEEP_ALIVE, false, events(follower)),
        "text/event-stream",
        &id,
    );
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    respond::unbuffered(headers);
    response
}

fn events(follower: Follower) -> impl Stream<Item = Vec<Segment>> + Send {
    stream::unfold(follower, async |mut follower| {
        let event = match follower.next().await {
            Ok(event) => event?,
            Err(error) => {
                follower.over = true;
                let mut data = serde_json::json!({"type": "error"});
                let envelope = serde_json::to_value(error.envelope(Dress::OpenAi));
                if let (Some(data), Ok(Value::Object(envelope))) = (data.as_object_mut(), envelope)
                {
                    data.extend(envelope);
                }
                vec![text(format!("event: error\ndata: {data}\n\n"))]
            }
        };
        Some((event, follower))
    })
}

/// One who follows a job picture by picture.
struct Follower {
    app: App,
    job: String,
    wish: Wish,
    kind: &'static str,
    watch: Watch,
    until: Instant,
    /// When the job was accepted, in Unix seconds.
    created: i64,
    /// Files of the pictures that were told.
    told: Vec<String>,
    /// Pictures that are to be told next.
    waiting: VecDeque<(JobImage, Stored)>,
    /// Nothing more comes.
    over: bool,
}

impl Follower {
    /// The next event; None at the end.
    async fn next(&mut self) -> Result<Option<Vec<Segment>>, ApiError> {
        loop {
            if let Some(picture) = self.waiting.pop_front() {
                return Ok(Some(self.event(picture)));
            }
            if self.over {
                return Ok(None);
            }
            let Some(job) = self.app.store.job(&self.job).await? else {
                return Err(ApiError::NoJob);
            };
            self.over = job.state.is_final();
            self.created = job.created_at / 1000;
            self.look().await?;
            if self.over && self.told.is_empty() && self.waiting.is_empty() {
                return Err(accept::ended_without_picture(Box::new(job)));
            }
            if !self.over && self.waiting.is_empty() {
                self.wait(&job).await?;
            }
        }
    }

    /// Opens the pictures that were not told yet.
    async fn look(&mut self) -> Result<(), ApiError> {
        let mut known = self.app.store.job_images(&self.job).await?;
        known.retain(|image| !self.told.contains(&image.file));
        self.waiting.extend(open(&self.app, known).await?);
        Ok(())
    }

    async fn wait(&self, job: &Job) -> Result<(), ApiError> {
        let id = || self.job.clone();
        if self.app.queue.is_draining() && job.state == JobState::Queued {
            // It does not begin before the next start.
            return Err(ApiError::ShuttingDown { job: Some(id()) });
        }
        match tokio::time::timeout_at(self.until, self.watch.news()).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(ApiError::ShuttingDown { job: Some(id()) }),
            Err(_) => Err(ApiError::StillRunning { job: id() }),
        }
    }

    fn event(&mut self, picture: (JobImage, Stored)) -> Vec<Segment> {
        self.told.push(picture.0.file.clone());
        let (kind, created) = (self.kind, self.created);
        let picture = [picture];
        let about = serde_json::to_string(&About::of(&self.wish, &picture)).unwrap_or_default();
        let [(_, stored)] = picture;
        let head = format!(
            "event: {kind}\ndata: {{\"type\":\"{kind}\",\"created_at\":{created},{},\"b64_json\":\"",
            join(&[about])
        );
        vec![
            text(head),
            Segment::Base64(FileBody::new(stored.file, 0, stored.bytes)),
            text("\"}\n\n".to_owned()),
        ]
    }
}
