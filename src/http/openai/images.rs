//! The two routes that make pictures, and the one that does not.

use axum::{
    extract::{Request, State},
    response::Response,
};

use super::{
    super::{
        App,
        accept::{self, Admission, SMALL_BODY},
        auth::Authorized,
        body, docs,
        error::{ApiError, ErrorBody, OpenAiError},
        intake::form,
    },
    answer::{self, ImagesResponse},
    events,
    fields::{Route, Wish},
    json, multipart,
};
use crate::{names::JobId, store::submissions::NewJob};

/// Make pictures from words.
///
/// Waits for the pictures, `REQUEST_WAIT_TIMEOUT_SECONDS` at most. With `stream: true` the answer is
/// a stream of server-sent events, one `image_generation.completed` for each picture.
#[utoipa::path(
    post,
    path = "/v1/images/generations",
    operation_id = "createImage",
    tag = "OpenAI",
    params(docs::RepeatHeaders),
    request_body = docs::GenerationRequest,
    responses(
        (status = 200, description = "The pictures.", content(
            (ImagesResponse = "application/json"),
            (docs::ServerSentEvent = "text/event-stream"),
        )),
        (status = 400, description = "A field is wrong (`param` names it); or the model declined: `moderation_blocked`, `model_refused`.", body = ErrorBody),
        (status = 422, response = docs::Mismatch),
        docs::Caller,
        docs::Sending,
        docs::Waiting,
    ),
)]
pub(in crate::http) async fn generations(
    State(app): State<App>,
    Authorized(caller): Authorized,
    request: Request,
) -> Result<Response, OpenAiError> {
    make(app, &caller.id, Route::Generations, request).await
}

/// Change pictures, or make one from others.
///
/// A form with `image` or `image[]`, or JSON with `images`. A `mask` goes along as a further picture
/// with words that say what it is: Codex has no parameter for it.
#[utoipa::path(
    post,
    path = "/v1/images/edits",
    operation_id = "createImageEdit",
    tag = "OpenAI",
    params(docs::RepeatHeaders),
    request_body(content(
        (docs::EditForm = "multipart/form-data"),
        (docs::EditRequest = "application/json"),
    )),
    responses(
        (status = 200, description = "The pictures.", content(
            (ImagesResponse = "application/json"),
            (docs::ServerSentEvent = "text/event-stream"),
        )),
        (status = 400, description = "A field or a picture is wrong (`param` names it); or the model declined: `moderation_blocked`, `model_refused`.", body = ErrorBody),
        (status = 422, response = docs::Mismatch),
        docs::Caller,
        docs::Sending,
        docs::Waiting,
    ),
)]
pub(in crate::http) async fn edits(
    State(app): State<App>,
    Authorized(caller): Authorized,
    request: Request,
) -> Result<Response, OpenAiError> {
    make(app, &caller.id, Route::Edits, request).await
}

/// Not supported: send the picture to `/v1/images/edits` with a prompt that asks for a variation.
#[utoipa::path(
    post,
    path = "/v1/images/variations",
    operation_id = "createImageVariation",
    tag = "OpenAI",
    responses(
        (status = 404, description = "`not_supported`, always.", body = ErrorBody),
        docs::Caller,
    ),
)]
pub(in crate::http) async fn variations(_: Authorized) -> OpenAiError {
    ApiError::NoVariations.into()
}

async fn make(
    app: App,
    caller: &str,
    route: Route,
    request: Request,
) -> Result<Response, OpenAiError> {
    let (job, wish) = accept(&app, caller, route, request).await?;
    let ticket = accept::enter_to_wait(&app, job).await?;
    if wish.stream {
        return Ok(events::answer(app, &ticket, wish, route));
    }
    Ok(answer::when_final(app, ticket, wish).await?)
}

async fn accept(
    app: &App,
    caller: &str,
    route: Route,
    request: Request,
) -> Result<(NewJob, Wish), ApiError> {
    let (parts, body) = request.into_parts();
    let admission = Admission::of(app, &parts.headers).await?;
    let id = JobId::fresh().to_string();
    let (folder, max_n) = (app.references_dir.join(&id), app.live.now().max_images_per_request);
    let (draft, wish) = if let Some(boundary) = form::boundary(&parts.headers) {
        let _upload = accept::upload(app)?;
        let body = body::limited(body, admission.most(), app.counted());
        multipart::read(route, max_n, boundary?, body, folder).await?
    } else if admission.length.is_some_and(|length| length <= SMALL_BODY) {
        let bytes = body::collect(body, SMALL_BODY, app.counted()).await?;
        let read = move || json::read(route, max_n, bytes.as_slice(), &folder);
        match route {
            Route::Generations => read()?,
            // A picture, however small, is written to the disk: not on this thread.
            Route::Edits => accept::on_blocking_thread(read).await?,
        }
    } else {
        let (_upload, reader) = admission.reader(app, body)?;
        accept::on_blocking_thread(move || json::read(route, max_n, reader, &folder)).await?
    };
    let travels = format!("{:?} {}", wish.response_format, wish.stream);
    let hash = draft.hash(route.as_str(), &[&travels]);
    Ok((accept::new_job(app, caller, id, draft, admission.joining(hash)), wish))
}
