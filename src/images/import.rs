//! Takes a picture over from Codex, which is not trusted: neither with what the file is nor with
//! leaving it alone meanwhile. So it is copied first, within limits, and the copy is verified and
//! decoded; only a copy that a browser can show gets a name.

use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
};

use rustix::io::Errno;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    Format, Output, Picture,
    convert::{ConvertError, convert},
    files::{TEMPORARY_PREFIX, Unfinished, is_stem, open_regular},
    pixels,
    walk::{Flaw, Walk},
};

/// Larger files are refused. A noisy 4096 x 4096 RGB picture is 50 MB as PNG.
pub const MAX_IMPORT_BYTES: u64 = 64 * 1024 * 1024;

/// The most pixels of a JPEG or WebP, whose decoders hold the whole frame (4096 x 4096). Codex
/// writes PNG, for which only [`MAX_PIXELS`](super::MAX_PIXELS) counts.
pub const MAX_FRAME_PIXELS: u64 = 4096 * 4096;

/// How many imports a process should run at once, so that the worst files cannot take all memory:
/// one import needs 5 MiB for a PNG of any size, and some 220 MiB for the worst JPEG or WebP.
pub const DECODES_AT_ONCE: usize = 2;

/// Bytes copied at a time.
const PORTION: usize = 256 * 1024;

/// A picture that has its name now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// What it is.
    pub picture: Picture,
    /// `<stem>.<extension>`, in the folder of generated pictures.
    pub file_name: String,
    /// Whether every pixel is opaque.
    pub opaque: bool,
    /// Hex SHA-256 of the candidate's picture; another one than that of `picture` where it was
    /// converted.
    pub source_sha256: String,
}

/// Why a candidate did not become a picture; for the log, never for a caller.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Rejected {
    #[error("cannot read the candidate: {0}")]
    Unreadable(#[source] io::Error),
    #[error("the candidate is a link")]
    Link,
    #[error("the candidate is not a regular file")]
    NotAFile,
    #[error("the candidate is empty")]
    Empty,
    #[error("the candidate is larger than {MAX_IMPORT_BYTES} bytes")]
    TooLarge,
    #[error("the candidate is neither PNG nor JPEG nor WebP")]
    UnknownType,
    #[error("the candidate is truncated")]
    Truncated,
    #[error("the candidate is damaged: {0}")]
    Damaged(&'static str),
    #[error("the candidate has {width} x {height} pixels, which is outside the limits")]
    Dimensions { width: u32, height: u32 },
    #[error("the candidate is animated")]
    Animated,
    #[error("the candidate does not decode: {0}")]
    Undecodable(String),
    /// Not the candidate's fault: a full disk and the like. It may be imported later.
    #[error("cannot store the picture: {0}")]
    Storage(#[source] io::Error),
}

impl From<Flaw> for Rejected {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Truncated => Self::Truncated,
            Flaw::Damaged(what) => Self::Damaged(what),
            Flaw::Dimensions(width, height) => Self::Dimensions { width, height },
        }
    }
}

/// Copies `candidate` into `generated_dir` as `<stem>.<extension>` if it is a picture, and
/// replaces an older picture of that stem. The candidate stays. What may follow the end of the
/// picture in the candidate is not copied. When this returns, file and name are durable.
///
/// With `output` the picture is converted, where it has another format. One that cannot be (it is
/// larger than [`MAX_FRAME_PIXELS`]) stays as it is: it is paid for.
///
/// Blocks for some milliseconds; no more than [`DECODES_AT_ONCE`] should run at once.
///
/// # Errors
/// Why the candidate is no picture; [`Rejected::Storage`] when it may be one but cannot be stored,
/// and for a stem that is not 1 to 100 ASCII letters, digits, `-` and `_`.
pub fn import(
    candidate: &Path,
    generated_dir: &Path,
    stem: &str,
    output: Option<Output>,
) -> Result<Imported, Rejected> {
    if !is_stem(stem) {
        return Err(Rejected::Storage(io::Error::other("not a name for a picture")));
    }
    let (source, metadata) = open_regular(candidate).map_err(|error| {
        match (Errno::from_io_error(&error), error.kind()) {
            (Some(Errno::LOOP), _) => Rejected::Link,
            (Some(Errno::NXIO), _) | (_, io::ErrorKind::InvalidInput) => Rejected::NotAFile,
            _ => Rejected::Unreadable(error),
        }
    })?;
    match metadata.len() {
        0 => return Err(Rejected::Empty),
        1..=MAX_IMPORT_BYTES => {}
        _ => return Err(Rejected::TooLarge),
    }

    let mut copy = temporary(generated_dir).map_err(Rejected::Storage)?;
    let mut picture = copy_picture(source, &mut copy)?;
    let mut opaque = pixels::decode(copy.file(), picture.format).map_err(Rejected::Undecodable)?;
    let source_sha256 = picture.sha256_hex();
    if let Some(output) = output.filter(|output| output.format != picture.format) {
        let mut converted = temporary(generated_dir).map_err(Rejected::Storage)?;
        match convert(copy.file(), &picture, output, &mut converted) {
            Ok(new) => {
                // JPEG knows no transparency.
                opaque |= output.format == Format::Jpeg;
                (picture, copy) = (new, converted);
            }
            Err(ConvertError::Storage(error)) => return Err(Rejected::Storage(error)),
            Err(why @ (ConvertError::TooLarge | ConvertError::Failed(_))) => {
                tracing::warn!(%why, "a picture is kept in the format that Codex gave it");
            }
        }
    }

    let file_name = format!("{stem}.{}", picture.format.extension());
    copy.keep(generated_dir, &file_name).map_err(Rejected::Storage)?;
    for other in Format::ALL.into_iter().filter(|format| *format != picture.format) {
        // Left by an earlier attempt that gave another format; hardly ever there.
        let _ = fs::remove_file(generated_dir.join(format!("{stem}.{}", other.extension())));
    }
    Ok(Imported { picture, file_name, opaque, source_sha256 })
}

fn temporary(dir: &Path) -> io::Result<Unfinished> {
    Unfinished::create(dir.join(format!("{TEMPORARY_PREFIX}{}", Uuid::new_v4().simple())))
}

/// Copies the picture at the start of `source`, walking over its structure and hashing it.
fn copy_picture(source: impl Read, copy: &mut Unfinished) -> Result<Picture, Rejected> {
    let mut source = source.take(MAX_IMPORT_BYTES + 1);
    let mut buffer = vec![0; PORTION];
    let mut hash = Sha256::new();
    let mut bytes = 0_u64;
    let mut walk = None;
    loop {
        let portion = fill(&mut source, &mut buffer).map_err(Rejected::Unreadable)?;
        let (format, walk) = match &mut walk {
            Some(known) => known,
            none => {
                let format = Format::sniff(portion).ok_or(Rejected::UnknownType)?;
                none.insert((format, Walk::new(format)))
            }
        };
        let belongs = walk.feed(portion)?;
        let portion_ended = belongs < portion.len() || portion.is_empty();
        let portion = portion.get(..belongs).unwrap_or_default();
        bytes += portion.len() as u64;
        if bytes > MAX_IMPORT_BYTES {
            return Err(Rejected::TooLarge);
        }
        hash.update(portion);
        copy.write_all(portion).map_err(Rejected::Storage)?;
        if portion_ended {
            let shape = walk.finish()?;
            let (width, height) = (shape.width, shape.height);
            if shape.animated {
                return Err(Rejected::Animated);
            }
            let pixels = u64::from(width) * u64::from(height);
            if *format != Format::Png && pixels > MAX_FRAME_PIXELS {
                return Err(Rejected::Dimensions { width, height });
            }
            let sha256 = hash.finalize().into();
            return Ok(Picture { format: *format, bytes, width, height, sha256 });
        }
    }
}

/// Reads until the buffer is full or the file over, so that the first portion tells the format.
fn fill<'a>(source: &mut impl Read, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut have = 0;
    while have < buffer.len() {
        match source.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(more) => have += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(&buffer[..have])
}

#[cfg(test)]
mod tests;
