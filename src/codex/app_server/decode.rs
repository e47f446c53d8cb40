//! Decodes a picture that Codex wrote into the stream and did not save. What it makes is bounded,
//! and no part of a picture is left when the rest cannot be decoded.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use base64::{engine::general_purpose::STANDARD, read::DecoderReader};

use super::scan::Taken;

/// The largest picture that is decoded here.
const LARGEST_PICTURE: u64 = 96 * 1024 * 1024;
/// Its name in the turn's folder.
const DECODED: &str = "picture";

/// Decodes a picture that Codex did not save, as it stands in the line or was taken out of it.
pub(super) fn decoded(text: &str, taken: &mut Taken, dir: &Path) -> Option<PathBuf> {
    let path = dir.join(DECODED);
    let mut decode = || -> io::Result<()> {
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let copied = match taken.open(text)? {
            Some(long) => copy(&mut DecoderReader::new(BufReader::new(long), &STANDARD), &mut file),
            None => copy(&mut DecoderReader::new(text.as_bytes(), &STANDARD), &mut file),
        };
        copied.and_then(|()| file.flush())
    };
    match decode() {
        Ok(()) => Some(path),
        Err(error) => {
            tracing::warn!(%error, "a picture in Codex's output cannot be decoded");
            // What is there of it is no picture; the verification would say the same.
            let _ = std::fs::remove_file(&path);
            None
        }
    }
}

fn copy(from: &mut impl Read, to: &mut File) -> io::Result<()> {
    let copied = io::copy(&mut from.take(LARGEST_PICTURE + 1), to)?;
    if copied > LARGEST_PICTURE {
        return Err(io::Error::other("larger than any picture"));
    }
    Ok(())
}
