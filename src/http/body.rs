//! The body of a request as a blocking reader: declared length first, then at most the limit,
//! never waiting for ever for a caller that stopped sending.

use std::{
    io::{self, Read},
    time::Duration,
};

use axum::{body::Body, http::HeaderMap, http::header};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::time::Instant;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::error::ApiError;

/// A caller that sends nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// A whole body may take so long, and a second more for each so many bytes of it: a caller that
/// drips keeps a thread and a place among the uploads.
const BODY_PATIENCE: Duration = Duration::from_mins(1);
const SLOWEST_BYTES_PER_SECOND: u64 = 32 * 1024;

/// Refuses what declares itself too long; the length, when it is declared.
pub(super) fn declared_length(headers: &HeaderMap, limit: u64) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(header::CONTENT_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    match length {
        Some(length) if length <= limit => Ok(Some(length)),
        // hyper lets only numbers through; one that doesn't fit is too long as well.
        _ => Err(ApiError::BodyTooLarge { limit }),
    }
}

/// Why a body could not be read to its end.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("too large")]
    TooLarge { limit: u64 },
    #[error("stopped coming")]
    Timeout,
    #[error("broke off")]
    Broken,
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge { limit } => Self::BodyTooLarge { limit },
            BodyError::Timeout => Self::BodyTimeout,
            BodyError::Broken => Self::BodyBroken,
        }
    }
}

impl BodyError {
    /// Finds the body's own failure in an error that travelled through a parser.
    pub(super) fn within(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

/// The body for a blocking thread: at most `limit` bytes. `counted` is told of every byte.
pub(super) fn blocking_reader(
    body: Body,
    limit: u64,
    counted: impl Fn(u64) + Send + Sync + 'static,
) -> impl Read + Send {
    SyncIoBridge::new(StreamReader::new(Box::pin(limited(body, limit, counted))))
}

/// The body in memory, for one that declared itself small.
pub(super) async fn collect(
    body: Body,
    limit: u64,
    counted: impl Fn(u64) + Send + Sync + 'static,
) -> Result<Vec<u8>, ApiError> {
    let mut whole = Vec::new();
    let mut chunks = Box::pin(limited(body, limit, counted));
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => whole.extend_from_slice(&chunk),
            Err(error) => {
                return Err(BodyError::within(&error).unwrap_or(BodyError::Broken).into());
            }
        }
    }
    Ok(whole)
}

/// Chunks until the end, the limit or the end of patience; nothing after an error.
pub(super) fn limited(
    body: Body,
    limit: u64,
    counted: impl Fn(u64) + Send + Sync + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let mut read = 0_u64;
    let whole = BODY_PATIENCE + Duration::from_secs(limit / SLOWEST_BYTES_PER_SECOND);
    let deadline = Instant::now() + whole;
    let chunks = Box::pin(stream::unfold(body.into_data_stream(), move |mut chunks| async move {
        let patience = deadline.min(Instant::now() + PATIENCE);
        match tokio::time::timeout_at(patience, chunks.next()).await {
            Ok(None) => None,
            Ok(Some(chunk)) => Some((chunk.map_err(|_| BodyError::Broken), chunks)),
            Err(_) => Some((Err(BodyError::Timeout), chunks)),
        }
    }));
    let mut failed = false;
    chunks
        .map(move |chunk| {
            let chunk = chunk?;
            read += chunk.len() as u64;
            counted(chunk.len() as u64);
            if read > limit { Err(BodyError::TooLarge { limit }) } else { Ok(chunk) }
        })
        .take_while(move |chunk| {
            let go_on = !failed;
            failed |= chunk.is_err();
            std::future::ready(go_on)
        })
        .map(|chunk| chunk.map_err(io::Error::other))
}
