//! Walks over the structure of a picture as its bytes stream by, in any portions and in constant
//! memory, and knows where the picture ends. A walk promises that the file is complete, its parts
//! fit together, its dimensions are within limits and, for PNG, that every checksum is right; it
//! does not decode pixels.

mod jpeg;
mod png;
mod webp;

use super::Format;

/// The longest side accepted, in pixels: what WebP can express, and four times what models draw.
pub const MAX_SIDE: u32 = 16_384;

/// The most pixels accepted. Larger than the pictures of any telephone's usual setting; a file of
/// a few KiB can claim far more.
pub const MAX_PIXELS: u64 = 100_000_000;

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Flaw {
    #[error("it ends before the picture does")]
    Truncated,
    #[error("{0}")]
    Damaged(&'static str),
    #[error("its {0} x {1} pixels are outside 1 to {MAX_SIDE} on a side and {MAX_PIXELS} in all")]
    Dimensions(u32, u32),
}

/// What the structure says about the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub width: u32,
    pub height: u32,
    pub animated: bool,
}

impl Shape {
    fn still(width: u32, height: u32) -> Result<Self, Flaw> {
        let sides = 1..=MAX_SIDE;
        if sides.contains(&width)
            && sides.contains(&height)
            && u64::from(width) * u64::from(height) <= MAX_PIXELS
        {
            Ok(Self { width, height, animated: false })
        } else {
            Err(Flaw::Dimensions(width, height))
        }
    }
}

/// A walk over one file.
pub(super) enum Walk {
    Png(png::Walk),
    Jpeg(jpeg::Walk),
    Webp(webp::Walk),
}

impl Walk {
    pub(super) fn new(format: Format) -> Self {
        match format {
            Format::Png => Self::Png(png::Walk::default()),
            Format::Jpeg => Self::Jpeg(jpeg::Walk::default()),
            Format::Webp => Self::Webp(webp::Walk::default()),
        }
    }

    /// Takes the next bytes of the file. Returns how many of them belong to the picture: fewer
    /// than given only once it has ended, 0 ever after. After a flaw the walk is of no more use.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<usize, Flaw> {
        let mut rest = bytes;
        match self {
            Self::Png(walk) => walk.feed(&mut rest)?,
            Self::Jpeg(walk) => walk.feed(&mut rest)?,
            Self::Webp(walk) => walk.feed(&mut rest)?,
        }
        Ok(bytes.len() - rest.len())
    }

    /// The file is over: was the picture?
    pub(super) fn finish(&self) -> Result<Shape, Flaw> {
        match self {
            Self::Png(walk) => walk.finish(),
            Self::Jpeg(walk) => walk.finish(),
            Self::Webp(walk) => walk.finish(),
        }
        .ok_or(Flaw::Truncated)
    }
}

/// A field of at most 16 bytes, gathered over portions.
#[derive(Default)]
struct Field {
    bytes: [u8; 16],
    have: usize,
}

impl Field {
    /// Takes bytes until there are `want` (at most 16) and gives them out once there are.
    fn take<const WANT: usize>(&mut self, input: &mut &[u8]) -> Option<[u8; WANT]> {
        self.take_up_to(WANT, input)?.first_chunk().copied()
    }

    /// As [`Field::take`], for a length known only at run time.
    fn take_up_to(&mut self, want: usize, input: &mut &[u8]) -> Option<[u8; 16]> {
        let more = want.min(self.bytes.len()).saturating_sub(self.have).min(input.len());
        let (now, later) = input.split_at(more);
        self.bytes[self.have..self.have + more].copy_from_slice(now);
        *input = later;
        self.have += more;
        if self.have < want {
            return None;
        }
        self.have = 0;
        Some(self.bytes)
    }
}

/// Cuts at most `most` bytes off the input.
fn cut<'a>(most: &mut u32, input: &mut &'a [u8]) -> &'a [u8] {
    let length = usize::try_from(*most).unwrap_or(usize::MAX).min(input.len());
    let (now, later) = input.split_at(length);
    *input = later;
    // No more than `most`, so it fits.
    *most -= u32::try_from(length).unwrap_or(*most);
    now
}

#[cfg(test)]
mod tests;
