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
/// Its name in the turn's folder, with a number behind it when there are more.
const DECODED: &str = "picture";
/// No turn makes so many.
const MOST_PICTURES: usize = 64;

/// Decodes a picture that Codex did not save, as it stands in the line or was taken out of it.
pub(super) fn decoded(text: &str, taken: &mut Taken, dir: &Path) -> Option<PathBuf> {
    let (path, mut file) = match create(dir) {
        Ok(created) => created,
        Err(error) => {
            tracing::error!(%error, "a picture in Codex's output cannot be stored");
            return None;
        }
    };
    let mut decode = || -> io::Result<()> {
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

/// A file of this picture's own: another one is neither written over nor removed.
fn create(dir: &Path) -> io::Result<(PathBuf, File)> {
    for number in 0..MOST_PICTURES {
        let path = match number {
            0 => dir.join(DECODED),
            number => dir.join(format!("{DECODED}-{number}")),
        };
        match File::options().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("more pictures than any turn makes"))
}

fn copy(from: &mut impl Read, to: &mut File) -> io::Result<()> {
    let copied = io::copy(&mut from.take(LARGEST_PICTURE + 1), to)?;
    if copied > LARGEST_PICTURE {
        return Err(io::Error::other("larger than any picture"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codex::app_server::scan::{Line, Scanner};

    #[test]
    fn each_picture_has_a_file_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let mut scanner = Scanner::new(dir.path()).unwrap();
        let mut found = Vec::new();
        for text in ["Zmlyc3Q=", "c2Vjb25k", "not base64!"] {
            let each = |Line { taken, .. }: Line<'_>| found.push(decoded(text, taken, dir.path()));
            scanner.feed(b"x\n", each).unwrap();
        }
        let read = |at: usize| std::fs::read(found[at].as_ref().unwrap()).unwrap();
        assert_eq!((read(0), read(1)), (b"first".to_vec(), b"second".to_vec()));
        assert_eq!(found[2], None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
