//! Keeps the head and the tail of what Codex wrote, and never more: the files may be large and
//! hold anything.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// What is kept of a file, in bytes of the resulting text.
const KEPT: u64 = 64 * 1024;
/// Room for the line that says how much was left out.
const MARKER: u64 = 64;
const HALF: u64 = (KEPT - MARKER) / 2;

/// Head and tail of a file as text, at most 64 KiB; empty when it cannot be read.
pub(super) fn head_and_tail(path: &Path) -> String {
    read_ends(path).unwrap_or_default()
}

/// The last `most` bytes of a file as text; empty when it cannot be read.
pub(super) fn tail(path: &Path, most: u64) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(most);
        part(&mut file, start, most)
    };
    read().unwrap_or_default()
}

fn read_ends(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    if size <= 2 * HALF {
        // Replacement characters can treble what was not UTF-8.
        return Ok(shortened(&part(&mut file, 0, 2 * HALF)?, 2 * HALF));
    }
    let head = shortened(&part(&mut file, 0, HALF)?, HALF);
    let tail = part(&mut file, size - HALF, HALF)?;
    let mut from = tail.len().saturating_sub(usize::try_from(HALF).unwrap_or(0));
    while !tail.is_char_boundary(from) {
        from += 1;
    }
    Ok(format!("{head}\n[... {} bytes left out ...]\n{}", size - 2 * HALF, &tail[from..]))
}

fn part(file: &mut File, start: u64, most: u64) -> std::io::Result<String> {
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    // NUL ends a text in too many places.
    Ok(String::from_utf8_lossy(&bytes).replace('\0', "\u{fffd}"))
}

fn shortened(text: &str, most: u64) -> String {
    let mut end = text.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// The first `most` characters, with an ellipsis when there are more.
pub(super) fn words(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(bytes: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        head_and_tail(file.path())
    }

    #[test]
    fn a_short_file_is_kept_whole() {
        assert_eq!(kept("zażółć".as_bytes()), "zażółć");
        assert_eq!(kept(b"a\0b"), "a\u{fffd}b");
        assert_eq!(head_and_tail(Path::new("/nonexistent/x")), "");
    }

    #[test]
    fn a_long_file_keeps_both_ends_and_says_so() {
        let mut bytes = vec![b'a'; 100_000];
        bytes.extend(vec![b'z'; 100_000]);
        let text = kept(&bytes);
        assert!(text.starts_with("aaa") && text.ends_with("zzz"));
        assert!(text.contains("\n[... 134528 bytes left out ...]\n"), "{}", text.len());
        assert!(text.len() <= 64 * 1024);
    }

    #[test]
    fn garbage_stays_within_the_bound() {
        assert!(kept(&vec![0xff; 300_000]).len() <= 64 * 1024);
        assert!(kept(&vec![0xff; 60_000]).len() <= 64 * 1024);
        assert!(kept("ż".repeat(100_001).as_bytes()).len() <= 64 * 1024);
    }

    #[test]
    fn words_are_cut_between_characters() {
        assert_eq!(words("żółw", 2), "żó…");
        assert_eq!(words("żółw", 4), "żółw");
    }

    #[test]
    fn a_tail_is_the_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789").unwrap();
        assert_eq!(tail(file.path(), 3), "789");
        assert_eq!(tail(file.path(), 30), "0123456789");
    }
}
