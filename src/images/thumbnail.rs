//! Small copies of pictures, for lists: JPEG, made once and kept beside the pictures.

use std::{
    io::{BufWriter, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use image::codecs::jpeg::JpegEncoder;
use uuid::Uuid;

use super::{
    Stored,
    convert::{on_white, read_whole},
    files::{TEMPORARY_PREFIX, Unfinished},
};

/// The longer side, in pixels: sharp at 160 CSS pixels on a dense screen.
const SIDE: u32 = 320;
/// Of 100.
const QUALITY: u8 = 80;

/// Makes the small copy of a picture in a folder, under this name; whole or not at all. Where the
/// picture lets something shine through, it lies on white.
///
/// Holds the whole frame.
///
/// # Errors
/// In words for the log.
pub fn make_thumbnail(from: &Stored, folder: &Path, name: &str) -> Result<(), String> {
    let made = catch_unwind(AssertUnwindSafe(|| {
        let (picture, _) = read_whole(&from.file, from.format)?;
        let longer = picture.width().max(picture.height());
        let small = if longer > SIDE { picture.thumbnail(SIDE, SIDE) } else { picture };
        Ok(on_white(&small))
    }));
    let small = made.unwrap_or_else(|_| Err("the decoder panicked".to_owned()))?;
    let temporary = folder.join(format!("{TEMPORARY_PREFIX}{}", Uuid::new_v4().simple()));
    let mut file = Unfinished::create(temporary).map_err(|error| error.to_string())?;
    let mut buffered = BufWriter::new(&mut file);
    small
        .write_with_encoder(JpegEncoder::new_with_quality(&mut buffered, QUALITY))
        .map_err(|error| error.to_string())?;
    buffered.flush().map_err(|error| error.to_string())?;
    drop(buffered);
    // It can be made again: it need not reach the disk before somebody sees it.
    file.keep_unsynced(folder, name).map_err(|error| error.to_string())
}
