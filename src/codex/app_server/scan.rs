//! Cuts what an app-server writes into lines, with long strings taken out while they pass by: a
//! picture crosses as base64 of several megabytes, which is not to be held, let alone parsed. What
//! was taken out lies in a nameless file until the next line.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use memchr::{memchr2, memchr3};

/// A longer line is no message.
const LONGEST_LINE: u64 = 128 * 1024 * 1024;
/// So much of a line may be left when long strings are out.
const MOST_KEPT: usize = 4 * 1024 * 1024;
/// A string that is longer is taken out.
const LONG: usize = 64 * 1024;

/// Why the stream cannot be read on.
#[derive(Debug)]
pub(super) enum Broken {
    /// A line without end.
    TooLong,
    /// Long strings cannot be put anywhere.
    Storage(io::Error),
}

/// A line without its long strings.
pub(super) struct Line<'a> {
    /// Where a long string was there is a word that nobody can guess.
    pub(super) text: &'a [u8],
    pub(super) taken: &'a mut Taken,
}

/// The long strings of the current line.
pub(super) struct Taken {
    file: File,
    /// What stands for them, followed by their number.
    word: String,
    places: Vec<(u64, u64)>,
    end: u64,
}

/// The stream so far.
pub(super) struct Scanner {
    kept: Vec<u8>,
    length: u64,
    /// The rest of the line is passed over: too much of it is left.
    skipping: bool,
    string: Option<Open>,
    taken: Taken,
}

/// A string that has begun and not ended.
struct Open {
    /// Where its content begins in `kept`.
    begin: usize,
    escaped: bool,
    /// Where it goes in the file, once it is long.
    moved: Option<u64>,
}

impl Scanner {
    /// Long strings go to a file in `dir` that has no name.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let word = format!("taken-{:032x}-", u128::from_le_bytes(random));
        let path = dir.join(&word);
        let file =
            File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(Self {
            kept: Vec::new(),
            length: 0,
            skipping: false,
            string: None,
            taken: Taken { file, word, places: Vec::new(), end: 0 },
        })
    }

    /// Takes the next bytes, wherever they were cut; `each` is called for each line, empty when
    /// too much of it is left.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Line<'_>),
    ) -> Result<(), Broken> {
        while !bytes.is_empty() {
            let (used, ended) = if self.string.is_some() {
                (self.within(bytes).map_err(Broken::Storage)?, false)
            } else {
                self.between(bytes)
            };
            self.length += used as u64;
            if self.length > LONGEST_LINE {
                return Err(Broken::TooLong);
            }
            if ended {
                each(Line { text: &self.kept, taken: &mut self.taken });
                self.next_line();
            }
            bytes = &bytes[used..];
        }
        Ok(())
    }

    /// Outside of strings, to the next quote or the line's end.
    fn between(&mut self, bytes: &[u8]) -> (usize, bool) {
        let Some(end) = memchr2(b'"', b'\n', bytes) else {
            self.keep(bytes);
            return (bytes.len(), false);
        };
        if bytes[end] == b'\n' {
            self.keep(&bytes[..end]);
            return (end + 1, true);
        }
        self.keep(&bytes[..=end]);
        self.string = Some(Open { begin: self.kept.len(), escaped: false, moved: None });
        (end + 1, false)
    }

    /// Within a string, to its end. A raw line feed ends it too: no JSON has one, and a line that
    /// is none must not swallow those that follow.
    fn within(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(open) = &mut self.string else { return Ok(0) };
        let mut end = None;
        let mut at = 0;
        while end.is_none() && at < bytes.len() {
            if std::mem::take(&mut open.escaped) && bytes[at] != b'\n' {
                at += 1;
                continue;
            }
            let Some(next) = memchr3(b'\\', b'"', b'\n', &bytes[at..]) else { break };
            at += next;
            if bytes[at] == b'\\' {
                open.escaped = true;
                at += 1;
            } else {
                end = Some(at);
            }
        }
        let part = &bytes[..end.unwrap_or(bytes.len())];
        if open.moved.is_some() {
            self.taken.file.write_all(part)?;
            self.taken.end += part.len() as u64;
        } else {
            self.keep(part);
            self.move_if_long()?;
        }
        let Some(end) = end else { return Ok(bytes.len()) };
        self.close();
        if bytes[end] == b'\n' {
            return Ok(end);
        }
        self.keep(b"\"");
        Ok(end + 1)
    }

    fn move_if_long(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.string else { return Ok(()) };
        if self.skipping || self.kept.len() - open.begin <= LONG {
            return Ok(());
        }
        if self.taken.places.is_empty() {
            self.taken.file.seek(SeekFrom::Start(0))?;
            self.taken.end = 0;
        }
        open.moved = Some(self.taken.end);
        let part = &self.kept[open.begin..];
        self.taken.file.write_all(part)?;
        self.taken.end += part.len() as u64;
        self.kept.truncate(open.begin);
        Ok(())
    }

    fn close(&mut self) {
        if let Some(Open { moved: Some(begin), .. }) = self.string.take() {
            let word = format!("{}{}", self.taken.word, self.taken.places.len());
            self.taken.places.push((begin, self.taken.end - begin));
            self.keep(word.as_bytes());
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.skipping || self.kept.len() + bytes.len() > MOST_KEPT {
            self.skipping = true;
            self.kept.clear();
            if let Some(open) = &mut self.string {
                open.begin = 0;
            }
        } else {
            self.kept.extend_from_slice(bytes);
        }
    }

    fn next_line(&mut self) {
        self.kept.clear();
        // Not the memory of the longest line for ever.
        self.kept.shrink_to(LONG);
        self.length = 0;
        self.skipping = false;
        self.taken.places.clear();
    }
}

impl Taken {
    /// The content behind the word that stands in a line, as it was written (JSON's escapes
    /// included); None when `text` is no such word.
    pub(super) fn open(&mut self, text: &str) -> io::Result<Option<impl Read>> {
        let number: Option<usize> =
            text.strip_prefix(&self.word).and_then(|number| number.parse().ok());
        let Some(&(begin, length)) = number.and_then(|number| self.places.get(number)) else {
            return Ok(None);
        };
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(begin))?;
        Ok(Some(file.take(length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8], portion: usize) -> Vec<(String, Vec<String>)> {
        let dir = tempfile::tempdir().unwrap();
        let mut scanner = Scanner::new(dir.path()).unwrap();
        let mut found = Vec::new();
        for part in input.chunks(portion) {
            scanner
                .feed(part, |line| {
                    let text = String::from_utf8(line.text.to_vec()).unwrap();
                    let places = line.taken.places.len();
                    let taken = (0..places).map(|number| {
                        let word = format!("{}{number}", line.taken.word);
                        let mut content = String::new();
                        let opened = line.taken.open(&word).unwrap();
                        opened.unwrap().read_to_string(&mut content).unwrap();
                        content
                    });
                    let taken: Vec<_> = taken.collect();
                    let word = line.taken.word.clone();
                    found.push((text.replace(&word, "#"), taken));
                })
                .unwrap();
        }
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
        found
    }

    #[test]
    fn long_strings_are_taken_out_however_the_stream_is_cut() {
        let long = "x\\\"y".repeat(30_000);
        let other = "z".repeat(LONG + 1);
        let short = "s\\\"".repeat(10);
        let input = format!(
            "{{\"a\":\"{short}\",\"b\":\"{long}\",\"c\":\"{other}\",\"d\":1}}\n{{\"e\":\"\"}}\nno json \"\n[]\n"
        );
        for portion in [1, 7, 4096, 65_536, input.len()] {
            let found = lines(input.as_bytes(), portion);
            let expected = format!("{{\"a\":\"{short}\",\"b\":\"#0\",\"c\":\"#1\",\"d\":1}}");
            assert_eq!(found[0], (expected, vec![long.clone(), other.clone()]), "{portion}");
            let rest: Vec<_> = found[1..].iter().map(|(text, _)| text.as_str()).collect();
            assert_eq!(rest, ["{\"e\":\"\"}", "no json \"", "[]"]);
        }
    }

    #[test]
    fn a_line_of_which_too_much_is_left_is_passed_over() {
        let mut input = vec![b'['; MOST_KEPT + 10];
        input.extend(b"\"abc\"\n[1]\n");
        let found = lines(&input, 65_536);
        assert_eq!(found.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>(), ["", "[1]"]);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut scanner = Scanner::new(dir.path()).unwrap();
        let part = vec![b'1'; 1024 * 1024];
        let refused = (0..200).find_map(|_| scanner.feed(&part, |_| {}).err());
        assert!(matches!(refused, Some(Broken::TooLong)));
    }

    #[test]
    fn a_word_cannot_be_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let mut scanner = Scanner::new(dir.path()).unwrap();
        assert!(scanner.taken.open("taken-0-0").unwrap().is_none());
        scanner.feed(b"\"taken-00-0\"\n", |line| assert!(line.taken.places.is_empty())).unwrap();
    }
}
