//! Pictures that only the pages show: small copies, made when they are first asked for, and
//! references. Names come from rows, never from an address.

use std::{io, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderValue, header},
    response::Response,
    routing::get,
};

use super::{App, session::Operator, trouble::Trouble};
use crate::{
    images::{self, FileBody, Stored},
    names::is_job_id,
};

/// `/admin/thumbnails/{file}` and `/admin/image-requests/{id}/references/{n}`.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/admin/thumbnails/{file}", get(thumbnail))
        .route("/admin/image-requests/{id}/references/{n}", get(reference))
}

async fn thumbnail(
    State(app): State<App>,
    _: Operator,
    Path(file): Path<String>,
) -> Result<Response, Trouble> {
    let picture = app.store.served_image(&file).await?.ok_or(Trouble::NoPicture)?;
    let (folder, name) = (app.admin.thumbnails_dir.clone(), picture.file.clone());
    let look = move || images::open_thumbnail(&folder, &name);
    if let Some(made) = open(look.clone()).await? {
        return Ok(answer(made));
    }
    // Others wait: each holds a whole picture, also for one who has gone away since it was begun.
    let turn = Arc::clone(&app.admin.thumbnails).acquire_owned();
    let turn = turn.await.map_err(|_| Trouble::Broken)?;
    if let Some(made) = open(look.clone()).await? {
        return Ok(answer(made));
    }
    let (pictures, name) = (app.generated_dir.clone(), picture.file.clone());
    let from = open(move || images::open(&pictures, &name)).await?.ok_or(Trouble::NoPicture)?;
    let (folder, name) = (app.admin.thumbnails_dir.clone(), images::thumbnail_name(&picture.file));
    let make = move || {
        let _turn = turn;
        images::make_thumbnail(&from, &folder, &name)
    };
    match tokio::task::spawn_blocking(make).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(file = picture.file, error, "no small copy of a picture could be made");
            return Err(Trouble::NoPicture);
        }
        Err(_) => return Err(Trouble::Broken),
    }
    Ok(answer(open(look).await?.ok_or(Trouble::NoPicture)?))
}

async fn reference(
    State(app): State<App>,
    _: Operator,
    Path((id, number)): Path<(String, u32)>,
) -> Result<Response, Trouble> {
    if !is_job_id(&id) {
        return Err(Trouble::NoJob);
    }
    let references = app.store.references_of(&id).await?;
    let wanted = references.into_iter().find(|of| Some(of.position) == number.checked_sub(1));
    let file = wanted.ok_or(Trouble::NoPicture)?.file;
    let folder = app.references_dir.join(id);
    let found = open(move || images::open(&folder, &file)).await?;
    Ok(answer(found.ok_or(Trouble::NoPicture)?))
}

/// A picture, on a thread that may wait for the disk; None when there is none.
async fn open(
    look: impl FnOnce() -> io::Result<Stored> + Send + 'static,
) -> Result<Option<Stored>, Trouble> {
    match tokio::task::spawn_blocking(look).await {
        Ok(Ok(stored)) => Ok(Some(stored)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Ok(Err(error)) => {
            tracing::error!(%error, "a picture could not be opened");
            Ok(None)
        }
        Err(_) => Err(Trouble::Broken),
    }
}

fn answer(stored: Stored) -> Response {
    let bytes = stored.bytes;
    let mut response = Response::new(Body::new(FileBody::new(stored.file, 0, bytes)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, bytes.into());
    let kind = HeaderValue::from_static(stored.format.media_type());
    headers.insert(header::CONTENT_TYPE, kind);
    // Its name is its alone. For one person, and only as long as that one is signed in anyway.
    let kept = HeaderValue::from_static("private, max-age=86400, immutable");
    headers.insert(header::CACHE_CONTROL, kept);
    // Whatever a picture may hold, a browser runs nothing of it.
    let nothing = HeaderValue::from_static("default-src 'none'; sandbox");
    headers.insert(header::CONTENT_SECURITY_POLICY, nothing);
    response
}
