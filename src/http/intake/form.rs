//! A form, part by part, as it comes: what every route that takes one shares. Pictures are told by
//! the name of their field and by their bytes, never by a file name or a content type.

use std::{
    error::Error as _,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use futures_util::{Stream, stream};
use multer::{Field, Multipart};

use super::{super::body::BodyError, ApiError, Place, ReferenceFolder, Text};
use crate::images::{BadReference, Reference};

/// Parts of one form; a request has about ten.
const MAX_PARTS: usize = 100;
/// What may be read before the head of the next part is complete: the parser holds it. Several times
/// what the connection hands over at once, the last of which is mostly the part's own content.
const MAX_HEAD_BYTES: usize = 256 * 1024;

/// The boundary, when the content type is that of a form.
pub(in crate::http) fn boundary(headers: &HeaderMap) -> Option<Result<String, ApiError>> {
    boundary_of(headers.get(header::CONTENT_TYPE)?.to_str().ok()?)
}

/// The same of a content type.
pub(in crate::http) fn boundary_of(content_type: &str) -> Option<Result<String, ApiError>> {
    let kind = content_type.trim_start().get(.."multipart/".len())?;
    kind.eq_ignore_ascii_case("multipart/").then(|| {
        multer::parse_boundary(content_type).map_err(|error| ApiError::BadForm(error.to_string()))
    })
}

/// The parts of a form, one after the other.
pub(in crate::http) struct Parts {
    form: Multipart<'static>,
    budget: Budget,
    seen: usize,
}

impl Parts {
    pub(in crate::http) fn of(
        boundary: String,
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Self {
        let budget = Budget::default();
        Self { form: Multipart::new(budget.guard(body), boundary), budget, seen: 0 }
    }

    /// The next part; None at the end. The one before must have been read or dropped.
    pub(in crate::http) async fn next(&mut self) -> Result<Option<Part>, ApiError> {
        self.budget.head();
        let Some(field) = self.form.next_field().await.map_err(|error| broken(&error))? else {
            return Ok(None);
        };
        if self.seen == MAX_PARTS {
            return Err(ApiError::BadForm(format!("it has more than {MAX_PARTS} parts")));
        }
        self.seen += 1;
        self.budget.stream();
        Ok(Some(Part(field)))
    }
}

/// A part of a form.
pub(in crate::http) struct Part(Field<'static>);

impl Part {
    /// The name of its field.
    pub(in crate::http) fn name(&self) -> &str {
        self.0.name().unwrap_or_default()
    }

    /// Its content as a text of at most `limit` bytes.
    pub(in crate::http) async fn text(
        &mut self,
        name: &'static str,
        limit: u64,
    ) -> Result<Text, ApiError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let (mut bytes, mut cut) = (Vec::new(), false);
        while let Some(portion) = self.chunk().await? {
            let room = limit - bytes.len();
            cut |= portion.len() > room;
            bytes.extend_from_slice(&portion[..portion.len().min(room)]);
        }
        Text::of(bytes, cut, name)
    }

    /// Its content as a picture in the folder; None for a file that nobody chose.
    pub(in crate::http) async fn picture(
        &mut self,
        place: Result<Place, ApiError>,
        folder: &mut ReferenceFolder,
    ) -> Result<Option<Reference>, ApiError> {
        // What a browser sends then.
        let no_file_chosen = self.0.file_name() == Some("");
        let mut writer = None;
        while let Some(portion) = self.chunk().await? {
            if portion.is_empty() {
                continue;
            }
            let Ok(place) = &place else { break };
            let writer = match &mut writer {
                Some(writer) => writer,
                none => none.insert(folder.raw(place)?),
            };
            writer.push(&portion).map_err(|reason| place.refuse(&reason))?;
        }
        match writer {
            Some(writer) => {
                let place = place?;
                writer.finish().map(Some).map_err(|reason| place.refuse(&reason))
            }
            None if no_file_chosen => Ok(None),
            None => Err(place?.refuse(&BadReference::Empty)),
        }
    }

    /// Reads its content and forgets it.
    pub(in crate::http) async fn skip(&mut self) -> Result<(), ApiError> {
        while self.chunk().await?.is_some() {}
        Ok(())
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, ApiError> {
        self.0.chunk().await.map_err(|error| broken(&error))
    }
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
