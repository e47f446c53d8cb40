//! What an app-server says on standard error. Why a picture failed is told to its turn; of the rest
//! the last errors are kept, a few short lines, and all that is written at lower levels is passed
//! over.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::events;
use crate::codex::clip;

/// What is kept of standard error, in lines and their characters.
const STDERR_LINES: usize = 20;
const STDERR_CHARS: usize = 400;
/// A longer line of standard error is cut.
const STDERR_LINE: u64 = 256 * 1024;
/// For how long the end of standard error is waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The last errors, and whether there will be more.
#[derive(Default)]
pub(super) struct LastErrors {
    lines: Mutex<VecDeque<(Instant, String)>>,
    /// Cancelled at the end of standard error.
    silent: CancellationToken,
}

impl LastErrors {
    /// Reads to the end of standard error; `tell` is called with a thread and what is said of it.
    pub(super) fn read(&self, stderr: File, tell: impl Fn(&str, String)) {
        self.read_lines(stderr, tell);
        self.silent.cancel();
    }

    fn read_lines(&self, stderr: File, tell: impl Fn(&str, String)) {
        let mut stderr = BufReader::new(stderr);
        let mut line = Vec::new();
        // The rest of one that was cut says nothing by itself.
        let mut cut = false;
        loop {
            line.clear();
            match stderr.by_ref().take(STDERR_LINE).read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            }
            let rest = std::mem::replace(&mut cut, !line.ends_with(b"\n"));
            if rest {
                continue;
            }
            if let Some((thread, words)) = events::tool_error(&line) {
                tell(&thread, words);
            } else if let Some(words) = plain_error(&line) {
                let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() == STDERR_LINES {
                    lines.pop_front();
                }
                lines.push_back((Instant::now(), words));
            }
        }
    }

    /// What was said since then, without what is said of a known turn.
    pub(super) fn since(&self, begin: Instant) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let since = lines.iter().filter(|(at, _)| *at >= begin);
        since.map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
    }

    /// The same of one that has ended, to its very end.
    pub(super) async fn since_to_the_end(&self, begin: Instant) -> String {
        // A descendant may hold the pipe open.
        let _ = tokio::time::timeout(LAST_WORDS, self.silent.cancelled()).await;
        self.since(begin)
    }
}

/// A line as it may be kept: what is written at lower levels holds prompts and addresses.
fn plain_error(line: &[u8]) -> Option<String> {
    let words = match serde_json::from_slice::<Value>(line) {
        Ok(line) => {
            (line["level"] == "ERROR").then_some(())?;
            let fields = &line["fields"];
            fields["message"].as_str().or_else(|| fields["error"].as_str())?.to_owned()
        }
        // One in JSON that was cut could be of any level.
        Err(_) if line.starts_with(b"{") => return None,
        Err(_) => String::from_utf8_lossy(line).trim().to_owned(),
    };
    (!words.is_empty()).then(|| clip::words(&words, STDERR_CHARS))
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, thread};

    use super::*;

    #[test]
    fn a_line_that_is_cut_is_not_kept_and_nor_is_its_rest() {
        let (reader, mut writer) = io::pipe().unwrap();
        let length = usize::try_from(STDERR_LINE).unwrap();
        let writing = thread::spawn(move || {
            let long =
                format!("{{\"level\":\"INFO\",\"prompt\":\"{}\"}}\n", "x".repeat(2 * length));
            writer.write_all(long.as_bytes()).unwrap();
            writer
                .write_all(b"said plainly\n{\"level\":\"ERROR\",\"fields\":{\"message\":\"m\"}}\n")
                .unwrap();
        });
        let errors = LastErrors::default();
        let begin = Instant::now();
        errors.read(std::os::fd::OwnedFd::from(reader).into(), |_, _| {});
        writing.join().unwrap();
        assert_eq!(errors.since(begin), "said plainly\nm");
    }
}
