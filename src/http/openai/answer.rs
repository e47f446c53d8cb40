//! What OpenAI's clients are answered: what is true of the pictures, and what was not honoured. The
//! pictures go out as they are read, none is held.

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use futures_util::stream;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    super::{
        App, accept,
        error::{ApiError, Dress, JOB_ID},
        jobs::Missing,
        respond,
    },
    fields::{ResponseFormat, Wish},
};
use crate::{
    images::{self, Base64Body, FileBody, Format, Segment},
    queue::{Ticket, Waited},
    store::{
        jobs::{Job, JobState},
        outcomes::JobImage,
    },
};

/// Always zeros: a ChatGPT plan counts no tokens for pictures. Clients stumble where it is missing.
#[derive(Clone, Copy, Default, Serialize, ToSchema)]
pub(in crate::http) struct Usage {
    input_tokens: u32,
    input_tokens_details: TokenDetails,
    output_tokens: u32,
    total_tokens: u32,
}

/// See [`Usage`].
#[derive(Clone, Copy, Default, Serialize, ToSchema)]
pub(in crate::http) struct TokenDetails {
    image_tokens: u32,
    text_tokens: u32,
}

/// One picture.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct Image {
    /// The picture as base64; with `response_format: url` it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    b64_json: Option<String>,
    /// Where it can be fetched until it expires; only with `response_format: url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

/// The pictures and what is true of them.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documents what is written piece by piece")]
pub(in crate::http) struct ImagesResponse<'a> {
    /// When the job was accepted, in Unix seconds.
    created: i64,
    data: Vec<Image>,
    #[schema(inline)]
    #[serde(flatten)]
    about: About<'a>,
    #[schema(value_type = Missing)]
    #[serde(flatten)]
    missing: Option<Missing<'a>>,
}

/// What is true of the pictures.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::http) struct About<'a> {
    /// `transparent` when something shines through a picture, else `opaque`.
    #[schema(example = "opaque")]
    background: &'static str,
    /// `png`, `jpeg` or `webp`.
    #[schema(example = "png")]
    output_format: &'static str,
    /// What was asked for: it travels to the model in words, and nobody says what became of it.
    #[schema(example = "high")]
    quality: &'a str,
    /// Of the (first) picture, in pixels.
    #[schema(example = "1536x1024")]
    size: String,
    usage: Usage,
    /// The fields of the request that were not honoured.
    #[schema(example = json!(["style", "size"]))]
    x_ignored: Vec<&'static str>,
}

/// One picture of a streamed answer.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documents what is written piece by piece")]
pub(in crate::http) struct StreamEvent<'a> {
    /// `image_generation.completed` or `image_edit.completed`.
    #[serde(rename = "type")]
    kind: &'static str,
    b64_json: String,
    /// Unix seconds.
    created_at: i64,
    #[schema(inline)]
    #[serde(flatten)]
    about: About<'a>,
}

/// A job's pictures, open.
struct Pictures {
    job: Box<Job>,
    files: Vec<(JobImage, images::Stored)>,
}

/// Waits for a job and opens its pictures.
async fn pictures(app: &App, ticket: &Ticket) -> Result<Pictures, ApiError> {
    let job = match accept::wait(app, ticket).await {
        Waited::Final(job) if job.state == JobState::Succeeded => job,
        Waited::Final(job) => return Err(accept::ended_without_picture(job)),
        Waited::Patience => return Err(ApiError::StillRunning { job: ticket.job().to_owned() }),
        Waited::ShuttingDown => {
            return Err(ApiError::ShuttingDown { job: Some(ticket.job().to_owned()) });
        }
    };
    let files = open(app, app.store.job_images(&job.id).await?).await?;
    if files.is_empty() {
        // It expired between the two looks.
        return Err(accept::ended_without_picture(job));
    }
    Ok(Pictures { job, files })
}

/// Opens pictures of a job.
pub(super) async fn open(
    app: &App,
    known: Vec<JobImage>,
) -> Result<Vec<(JobImage, images::Stored)>, ApiError> {
    let folder = app.generated_dir.clone();
    accept::on_blocking_thread(move || {
        let open = |image: JobImage| match images::open(&folder, &image.file) {
            Ok(stored) => Ok((image, stored)),
            Err(error) => {
                tracing::error!(file = image.file, %error, "a picture cannot be read");
                Err(ApiError::Internal)
            }
        };
        known.into_iter().map(open).collect()
    })
    .await
}

impl<'a> About<'a> {
    pub(super) fn of(wish: &'a Wish, files: &[(JobImage, images::Stored)]) -> Self {
        let opaque = files.iter().all(|(image, _)| image.opaque);
        let (width, height, format) =
            files.first().map_or((0, 0, Format::Png), |(image, stored)| {
                (image.width, image.height, stored.format)
            });
        let size = format!("{width}x{height}");
        let mut x_ignored = wish.ignored.clone();
        if wish.size != "auto" && wish.size != size {
            x_ignored.push("size");
        }
        if (wish.background == "transparent" && opaque) || (wish.background == "opaque" && !opaque)
        {
            x_ignored.push("background");
        }
        if wish.format != format {
            x_ignored.push("output_format");
        }
        Self {
            background: if opaque { "opaque" } else { "transparent" },
            output_format: format.as_str(),
            quality: &wish.quality,
            size,
            usage: Usage::default(),
            x_ignored,
        }
    }
}

/// The answer to a caller who waits: the pieces of its body.
async fn plain(app: &App, ticket: &Ticket, wish: &Wish) -> Result<Vec<Segment>, ApiError> {
    let pictures = pictures(app, ticket).await?;
    let about = About::of(wish, &pictures.files);
    let mut segments =
        vec![text(format!(r#"{{"created":{},"data":["#, pictures.job.created_at / 1000))];
    let missing = Missing::of(&pictures.job);
    let tail = join(&[
        serde_json::to_string(&about).unwrap_or_default(),
        missing
            .map(|missing| serde_json::to_string(&missing).unwrap_or_default())
            .unwrap_or_default(),
    ]);
    for (position, (image, stored)) in pictures.files.into_iter().enumerate() {
        let comma = if position == 0 { "" } else { "," };
        match wish.response_format {
            ResponseFormat::Url => {
                let url = Some(format!("{}/generated/{}", app.public_base_url, image.file));
                let image = serde_json::to_string(&Image { b64_json: None, url });
                segments.push(text(format!("{comma}{}", image.unwrap_or_default())));
            }
            ResponseFormat::B64Json => {
                segments.push(text(format!(r#"{comma}{{"b64_json":""#)));
                segments.push(Segment::Base64(FileBody::new(stored.file, 0, stored.bytes)));
                segments.push(text(r#""}"#.to_owned()));
            }
        }
    }
    segments.push(text(format!("],{tail}}}")));
    Ok(segments)
}

/// Members of several objects, without the braces.
pub(super) fn join(objects: &[String]) -> String {
    let members = objects.iter().filter_map(|object| object.strip_prefix('{')?.strip_suffix('}'));
    members.filter(|members| !members.is_empty()).collect::<Vec<_>>().join(",")
}

pub(super) fn text(text: String) -> Segment {
    Segment::Text(Bytes::from(text))
}

/// Answers when the job has ended. With `JSON_KEEPALIVE_SECONDS` what takes longer begins with blank
/// lines, so that proxies hold the connection; an error then comes with status 200.
pub(super) async fn when_final(app: App, ticket: Ticket, wish: Wish) -> Result<Response, ApiError> {
    let (id, keepalive) = (ticket.job().to_owned(), app.live.now().json_keepalive);
    let mut answer = Box::pin(async move { plain(&app, &ticket, &wish).await });
    let early = match keepalive {
        None => Ok(answer.as_mut().await),
        Some(interval) => tokio::time::timeout(interval, answer.as_mut()).await,
    };
    let is_late = early.is_err();
    let body = match (early, keepalive) {
        (Ok(segments), _) => Body::new(Base64Body::new(segments?)),
        (Err(_), interval) => {
            let interval = interval.unwrap_or(super::stream::KEEP_ALIVE);
            let answer = stream::once(async move {
                answer.await.unwrap_or_else(|error| {
                    let envelope = error.envelope(Dress::OpenAi);
                    vec![text(serde_json::to_string(&envelope).unwrap_or_default())]
                })
            });
            super::stream::body("\n", interval, true, answer)
        }
    };
    let mut response = respond_with(body, "application/json", &id);
    if is_late {
        respond::unbuffered(response.headers_mut());
    }
    Ok(response)
}

pub(super) fn respond_with(body: Body, kind: &'static str, job: &str) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    respond::set(response.headers_mut(), JOB_ID, job);
    response
}
