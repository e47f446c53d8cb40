//! The form of the edits: parts in any order.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::Stream;

use super::{
    super::{
        accept,
        error::ApiError,
        intake::{Draft, form::Parts, json::Scalar, tidy},
    },
    fields::{Fields, Route, Wish, picture_field, word},
};

/// Reads a whole body; pictures are written to `folder`, which is made for the first of them. On an
/// error the folder is removed.
pub(super) async fn read(
    route: Route,
    max_n: u32,
    boundary: String,
    body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    folder: PathBuf,
) -> Result<(Draft, Wish), ApiError> {
    let runtime = tokio::runtime::Handle::current();
    // The whole of it on a thread that may wait for the disk.
    accept::on_blocking_thread(move || {
        runtime.block_on(read_here(route, max_n, boundary, body, &folder))
    })
    .await
}

async fn read_here(
    route: Route,
    max_n: u32,
    boundary: String,
    body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    folder: &Path,
) -> Result<(Draft, Wish), ApiError> {
    let mut fields = Fields::new(route, max_n, folder);
    let read = read_parts(&mut fields, boundary, body).await;
    tidy(folder, read.and_then(|()| fields.check()))
}

async fn read_parts(
    fields: &mut Fields,
    boundary: String,
    body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Result<(), ApiError> {
    let mut parts = Parts::of(boundary, body);
    while let Some(mut part) = parts.next().await? {
        if let Some((name, limit)) = word(part.name()) {
            let text = part.text(name, limit).await?;
            fields.set(name, Scalar { text, is_string: true })?;
            continue;
        }
        match picture_field(part.name()) {
            Some(field) if fields.route() == Route::Edits => {
                let place = fields.place(field);
                if let Some(picture) = part.picture(place, fields.folder()).await? {
                    fields.add(field, picture);
                }
            }
            field => {
                field.inspect(|field| fields.pass_over(*field));
                part.skip().await?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
