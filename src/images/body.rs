//! A file as the body of an answer: exact length, one small buffer a connection however large the
//! file and however slow the client, and no waiting for a disk on the async threads.
//!
//! What the page cache holds is read on the spot (`preadv2` with `RWF_NOWAIT`: a copy of at most
//! [`PORTION`] bytes, as short as the write to the socket that follows); only what the disk must
//! be asked for goes to a blocking thread. Measured over loopback with files of 1.5 MB this answers
//! more requests than reads ahead on blocking threads, and than sendfile(2) behind hyper's back.
//!
//! hyper takes portions until its `max_buf_size` is reached: at 64 KiB a connection holds one of
//! them, at hyper's own 408 KiB two, which is slightly faster.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::unix::fs::FileExt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use rustix::io::{ReadWriteFlags, preadv2};
use tokio::task::{JoinHandle, spawn_blocking};

/// Bytes read and written at a time.
pub const PORTION: usize = 256 * 1024;

/// A part of a file, or the whole.
#[derive(Debug)]
pub struct FileBody {
    file: Arc<File>,
    position: u64,
    left: u64,
    /// The portion that was given out last; its buffer returns when the connection is done with it.
    lent: Bytes,
    reading: Option<JoinHandle<io::Result<BytesMut>>>,
}

impl FileBody {
    /// `length` bytes of the file from `start` on. Should the file be shorter when it comes to
    /// that, the body ends in an error and hyper closes the connection.
    #[must_use]
    pub fn new(file: File, start: u64, length: u64) -> Self {
        let (file, lent) = (Arc::new(file), Bytes::new());
        Self { file, position: start, left: length, lent, reading: None }
    }

    /// A buffer of the length of the next portion.
    fn buffer(&mut self) -> BytesMut {
        let length = usize::try_from(self.left).map_or(PORTION, |left| left.min(PORTION));
        let mut buffer = std::mem::take(&mut self.lent).try_into_mut().unwrap_or_default();
        buffer.resize(length, 0);
        buffer
    }

    /// The next portion if it is in the cache, else the thread that reads it.
    fn read(&mut self) -> Result<BytesMut, JoinHandle<io::Result<BytesMut>>> {
        let mut buffer = self.buffer();
        let mut parts = [IoSliceMut::new(&mut buffer)];
        match preadv2(&self.file, &mut parts, self.position, ReadWriteFlags::NOWAIT) {
            Ok(length) if length > 0 => {
                buffer.truncate(length);
                Ok(buffer)
            }
            // Not in the cache, a file system that cannot tell, the end, an error: a blocking
            // thread finds out which.
            _ => {
                let (file, position) = (Arc::clone(&self.file), self.position);
                Err(spawn_blocking(move || {
                    file.read_exact_at(&mut buffer, position).map(|()| buffer)
                }))
            }
        }
    }

    fn give(&mut self, portion: BytesMut) -> Frame<Bytes> {
        let portion = portion.freeze();
        self.position += portion.len() as u64;
        // Portions are never longer than what is left.
        self.left -= portion.len() as u64;
        self.lent = portion.clone();
        Frame::data(portion)
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let mut reading = match this.reading.take() {
            Some(reading) => reading,
            None => match this.read() {
                Ok(portion) => return Poll::Ready(Some(Ok(this.give(portion)))),
                Err(reading) => reading,
            },
        };
        let Poll::Ready(read) = Pin::new(&mut reading).poll(context) else {
            this.reading = Some(reading);
            return Poll::Pending;
        };
        let read = read.map_err(io::Error::other).flatten();
        Poll::Ready(Some(read.map(|portion| this.give(portion)).inspect_err(|_| this.left = 0)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use http_body_util::BodyExt;
    use rustix::fs::{Advice, fadvise};

    use super::*;

    fn file(length: usize) -> (File, Vec<u8>) {
        let bytes: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[at % 2] ^ 0x5a).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        (file, bytes)
    }

    async fn collect(body: FileBody) -> io::Result<Vec<u8>> {
        Ok(body.collect().await?.to_bytes().to_vec())
    }

    #[tokio::test]
    async fn the_whole_and_every_part() {
        let length = PORTION * 2 + 77;
        for (start, end) in [(0, length), (0, 1), (5, PORTION), (PORTION - 1, length), (9, 9)] {
            let (file, bytes) = file(length);
            let body = FileBody::new(file, start as u64, (end - start) as u64);
            assert_eq!(body.size_hint().exact(), Some((end - start) as u64));
            assert_eq!(body.is_end_stream(), start == end);
            assert_eq!(collect(body).await.unwrap(), bytes[start..end]);
        }
    }

    #[tokio::test]
    async fn what_the_cache_lost_comes_from_the_disk() {
        let (file, bytes) = file(PORTION * 2 + 77);
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        let body = FileBody::new(file, 3, bytes.len() as u64 - 3);
        assert_eq!(collect(body).await.unwrap(), bytes[3..]);
    }

    #[tokio::test]
    async fn a_file_that_shrank_is_an_error_and_not_a_short_answer() {
        let (file, _) = file(1000);
        let mut body = FileBody::new(file, 0, 1001);
        let mut next = body.frame().await.unwrap();
        // Where it comes from the cache, what is there comes first; not every file system has one.
        if let Ok(frame) = next {
            assert_eq!(frame.into_data().unwrap().len(), 1000);
            next = body.frame().await.unwrap();
        }
        assert!(next.is_err());
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn one_buffer_serves_for_all_when_given_back() {
        let (file, _) = file(PORTION * 3);
        let mut body = FileBody::new(file, 0, PORTION as u64 * 3);
        let mut places = Vec::new();
        while let Some(frame) = body.frame().await {
            places.push(frame.unwrap().into_data().unwrap().as_ptr());
        }
        assert!(places.len() >= 3);
        assert!(places.iter().all(|place| *place == places[0]));
    }
}
