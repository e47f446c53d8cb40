//! A form: parts in any order, pictures told by the name of their field and by their bytes, never by
//! a file name or a content type.

use std::{
    error::Error as _,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use multer::{Field, Multipart};

use super::{
    super::{
        accept,
        body::BodyError,
        error::ApiError,
        intake::{Draft, Text, json::Scalar, tidy},
    },
    fields::{Fields, PictureField, Route, Wish, picture_field, word},
};
use crate::images::BadReference;

/// Parts of one form; a request has about ten.
const MAX_PARTS: usize = 100;
/// What may be read before the head of the next part is complete: the parser holds it. Several times
/// what the connection hands over at once, the last of which is mostly the part's own content.
const MAX_HEAD_BYTES: usize = 256 * 1024;

/// The boundary, when the content type is that of a form.
pub(super) fn boundary(content_type: &str) -> Option<Result<String, ApiError>> {
    let kind = content_type.trim_start().get(.."multipart/".len())?;
    kind.eq_ignore_ascii_case("multipart/").then(|| {
        multer::parse_boundary(content_type).map_err(|error| ApiError::BadForm(error.to_string()))
    })
}

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
    let read = parts(&mut fields, boundary, body).await;
    tidy(folder, read.and_then(|()| fields.check()))
}

async fn parts(
    fields: &mut Fields,
    boundary: String,
    body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Result<(), ApiError> {
    let budget = Budget::default();
    let mut form = Multipart::new(budget.guard(body), boundary);
    for _ in 0..MAX_PARTS {
        budget.head();
        let Some(mut part) = form.next_field().await.map_err(|error| broken(&error))? else {
            return Ok(());
        };
        budget.stream();
        let name = part.name().unwrap_or_default().to_owned();
        if let Some((name, limit)) = word(&name) {
            let text = text(&mut part, name, limit).await?;
            fields.set(name, Scalar { text, is_string: true })?;
            continue;
        }
        match picture_field(&name) {
            Some(field) if fields.route() == Route::Edits => {
                picture(fields, &mut part, field).await?;
            }
            field => {
                field.inspect(|field| fields.pass_over(*field));
                while next(&mut part).await?.is_some() {}
            }
        }
    }
    Err(ApiError::BadForm(format!("it has more than {MAX_PARTS} parts")))
}

async fn text(part: &mut Field<'_>, name: &'static str, limit: u64) -> Result<Text, ApiError> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let (mut bytes, mut cut) = (Vec::new(), false);
    while let Some(portion) = next(part).await? {
        let room = limit - bytes.len();
        cut |= portion.len() > room;
        bytes.extend_from_slice(&portion[..portion.len().min(room)]);
    }
    Text::of(bytes, cut, name)
}

async fn picture(
    fields: &mut Fields,
    part: &mut Field<'_>,
    field: PictureField,
) -> Result<(), ApiError> {
    let no_file_chosen = part.file_name() == Some("");
    let mut writer = None;
    let place = fields.place(field);
    while let Some(portion) = next(part).await? {
        if portion.is_empty() {
            continue;
        }
        let Ok(place) = &place else { break };
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(fields.folder().raw(place)?),
        };
        writer.push(&portion).map_err(|reason| place.refuse(&reason))?;
    }
    match writer {
        Some(writer) => {
            let place = place?;
            let picture = writer.finish().map_err(|reason| place.refuse(&reason))?;
            fields.add(field, picture);
            Ok(())
        }
        // What a browser sends for a file that nobody chose.
        None if no_file_chosen => Ok(()),
        None => Err(place?.refuse(&BadReference::Empty)),
    }
}

async fn next(part: &mut Field<'_>) -> Result<Option<Bytes>, ApiError> {
    part.chunk().await.map_err(|error| broken(&error))
}

fn broken(error: &multer::Error) -> ApiError {
    if let multer::Error::StreamReadFailed(inner) = error
        && let Some(inner) = inner.downcast_ref::<io::Error>()
    {
        return match BodyError::within(inner) {
            Some(body) => body.into(),
            None => ApiError::BadForm(inner.to_string()),
        };
    }
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    ApiError::BadForm(format!("{error}{cause}"))
}

/// Keeps the parser from holding more than the head of a part, and from reading ahead: it would take
/// whatever there is, which on a fast network is the whole body.
#[derive(Clone, Default)]
struct Budget(Arc<AtomicUsize>);

impl Budget {
    fn head(&self) {
        self.0.store(MAX_HEAD_BYTES, Ordering::Relaxed);
    }

    fn stream(&self) {
        self.0.store(usize::MAX, Ordering::Relaxed);
    }

    /// The same body, one portion each time that the parser looks; it breaks off when the head of a
    /// part does not end.
    fn guard(
        &self,
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let budget = Arc::clone(&self.0);
        let mut body = Box::pin(body);
        let mut gave = false;
        stream::poll_fn(move |context| {
            if std::mem::take(&mut gave) {
                // The parser goes on with what it has, and comes back.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let portion = std::task::ready!(body.as_mut().poll_next(context));
            if let Some(Ok(portion)) = &portion {
                gave = true;
                match budget.load(Ordering::Relaxed) {
                    0 => {
                        let endless = io::Error::other("the head of a part is too long");
                        return Poll::Ready(Some(Err(endless)));
                    }
                    usize::MAX => {}
                    left => budget.store(left.saturating_sub(portion.len()), Ordering::Relaxed),
                }
            }
            Poll::Ready(portion)
        })
    }
}

#[cfg(test)]
mod tests;
