//! The body of an answer that carries pictures as base64 among text: one portion of one file at a
//! time, whatever the size and the number of the pictures, and a length that is known beforehand.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::FileBody;

/// A part of the body.
#[derive(Debug)]
pub enum Segment {
    /// As it is.
    Text(Bytes),
    /// A file as base64, with padding and without line ends.
    Base64(FileBody),
}

/// Its segments, one after the other.
#[derive(Debug)]
pub struct Base64Body {
    segments: VecDeque<Segment>,
    /// Bytes of the current file that wait for a third one.
    carry: Vec<u8>,
    left: u64,
}

impl Base64Body {
    /// A body of these segments.
    #[must_use]
    pub fn new(segments: impl IntoIterator<Item = Segment>) -> Self {
        let segments: VecDeque<_> = segments.into_iter().collect();
        let left = segments.iter().map(Segment::length).sum();
        Self { segments, carry: Vec::with_capacity(3), left }
    }

    fn give(&mut self, bytes: Bytes) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.left = self.left.saturating_sub(bytes.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    /// What can be encoded of the file by now; at its end all of it.
    fn encode(&mut self, portion: &[u8], last: bool) -> Bytes {
        let missing = (3 - self.carry.len()) % 3;
        let (head, rest) = portion.split_at(missing.min(portion.len()));
        self.carry.extend_from_slice(head);
        let whole = if last { rest.len() } else { rest.len() / 3 * 3 };
        let mut text = String::with_capacity((portion.len() / 3 + 2) * 4);
        if self.carry.len() == 3 || (last && !self.carry.is_empty()) {
            STANDARD.encode_string(&self.carry, &mut text);
            self.carry.clear();
        }
        if self.carry.is_empty() {
            STANDARD.encode_string(&rest[..whole], &mut text);
            self.carry.extend_from_slice(&rest[whole..]);
        }
        text.into()
    }
}

impl Segment {
    fn length(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Base64(file) => {
                file.size_hint().exact().unwrap_or_default().div_ceil(3).saturating_mul(4)
            }
        }
    }
}

impl Body for Base64Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        loop {
            let file = match this.segments.front_mut() {
                None => return Poll::Ready(None),
                Some(Segment::Text(text)) => {
                    let text = std::mem::take(text);
                    this.segments.pop_front();
                    if text.is_empty() {
                        continue;
                    }
                    return this.give(text);
                }
                Some(Segment::Base64(file)) => file,
            };
            let portion = match Pin::new(&mut *file).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => Bytes::new(),
                Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                Poll::Ready(Some(Err(error))) => {
                    this.segments.clear();
                    return Poll::Ready(Some(Err(error)));
                }
            };
            let last = file.is_end_stream();
            let text = this.encode(&portion, last);
            // Its buffer is given back for the next portion.
            drop(portion);
            if last {
                this.segments.pop_front();
            }
            if !text.is_empty() {
                return this.give(text);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.segments.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use http_body_util::BodyExt as _;
    use proptest::prelude::*;

    use super::*;
    use crate::images::body::PORTION;

    fn file(bytes: &[u8], declared: u64) -> Segment {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Segment::Base64(FileBody::new(file, 0, declared))
    }

    fn whole(bytes: &[u8]) -> Segment {
        file(bytes, bytes.len() as u64)
    }

    fn collect(body: Base64Body) -> io::Result<Vec<u8>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { Ok(body.collect().await?.to_bytes().to_vec()) })
    }

    #[test]
    fn every_remainder_at_every_edge_of_a_portion() {
        for length in [0, 1, 2, 3, PORTION - 1, PORTION, PORTION + 1, PORTION * 2 + 2, PORTION * 3]
        {
            let bytes: Vec<u8> =
                (0..length).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
            let text = |text: &'static str| Segment::Text(Bytes::from_static(text.as_bytes()));
            let body =
                Base64Body::new([text("a"), whole(&bytes), text(""), whole(&bytes), text("b")]);
            let declared = body.size_hint().exact().unwrap();
            let got = collect(body).unwrap();
            let encoded = STANDARD.encode(&bytes);
            assert_eq!(got.len() as u64, declared);
            assert_eq!(got, format!("a{encoded}{encoded}b").into_bytes(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_files(files in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..5)) {
            let body = Base64Body::new(files.iter().map(|bytes| whole(bytes)));
            let expected: String = files.iter().map(|bytes| STANDARD.encode(bytes)).collect();
            prop_assert_eq!(collect(body).unwrap(), expected.into_bytes());
        }
    }

    #[test]
    fn a_file_that_shrank_ends_the_body_with_an_error() {
        assert!(collect(Base64Body::new([file(b"1234", 5), whole(b"x")])).is_err());
    }
}
