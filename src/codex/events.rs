//! Reads the JSON lines of `codex exec --json`. Lenient and bounded: unknown events, broken lines
//! and lines without end are passed over, and what is kept has a fixed size.

use serde_json::Value;

use super::clip;

/// A longer line is no event of use; agent messages are far smaller.
const LONGEST_LINE: usize = 1024 * 1024;
/// The last messages say why there is no picture.
const MOST_MESSAGES: usize = 4;
const MESSAGE_CHARS: usize = 2000;

/// What the events said so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The thread's id, checked to be a plain file name.
    pub(super) thread: Option<String>,
    /// The model's last words.
    pub(super) messages: Vec<String>,
    /// The message of `turn.failed`.
    pub(super) failed: Option<String>,
    /// `turn.completed` was seen.
    pub(super) completed: bool,
    line: Vec<u8>,
    skipping: bool,
}

impl Report {
    /// Whether the turn is over, well or not.
    pub(super) fn is_final(&self) -> bool {
        self.completed || self.failed.is_some()
    }

    /// Takes the next bytes of the stream, wherever they were cut.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.append(&bytes[..end]);
            self.end_line();
            bytes = &bytes[end + 1..];
        }
        self.append(bytes);
    }

    /// A process that was killed may leave a last line without its end.
    pub(super) fn finish(&mut self) {
        self.end_line();
        self.line = Vec::new();
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.skipping || self.line.len() + bytes.len() > LONGEST_LINE {
            self.skipping = true;
            self.line.clear();
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self) {
        if !std::mem::take(&mut self.skipping)
            && let Ok(event) = serde_json::from_slice(&self.line)
        {
            self.take(&event);
        }
        self.line.clear();
    }

    fn take(&mut self, event: &Value) {
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
        match text("/type") {
            Some("thread.started") => {
                if let Some(id) = text("/thread_id").filter(|id| is_thread_id(id)) {
                    self.thread.get_or_insert_with(|| id.to_owned());
                }
            }
            Some("item.completed") if text("/item/type") == Some("agent_message") => {
                if let Some(words) = text("/item/text").map(str::trim).filter(|t| !t.is_empty()) {
                    if self.messages.len() == MOST_MESSAGES {
                        self.messages.remove(0);
                    }
                    self.messages.push(clip::words(words, MESSAGE_CHARS));
                }
            }
            Some("turn.completed") => self.completed = true,
            Some("turn.failed") => {
                let message = text("/error/message").or_else(|| text("/message")).unwrap_or("");
                self.failed = Some(clip::words(message, MESSAGE_CHARS));
            }
            // Among them `error`, which is not final: a reconnect reports one, too.
            _ => {}
        }
    }
}

/// A thread's id is used as a file name and comes from outside: hexadecimal digits and dashes
/// (a UUID), nothing that leads elsewhere.
pub(super) fn is_thread_id(id: &str) -> bool {
    (8..=64).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        && !id.starts_with('-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RUN: &str = concat!(
        r#"{"type":"thread.started","thread_id":"01a202ac-589d-75c2-aeb3-17ff97d6019f"}"#,
        "\n",
        r#"{"type":"turn.started"}"#,
        "\nnot json\n",
        r#"{"type":"error","message":"Reconnecting... 1/5"}"#,
        "\n",
        r#"{"type":"item.completed","item":{"id":"item_0","type":"agent_message","text":"Done."}}"#,
        "\n",
        r#"{"type":"turn.completed","usage":{"input_tokens":2000}}"#,
        "\n"
    );

    #[test]
    fn a_run_is_read_however_it_is_cut() {
        for size in [1, 7, 64, 4096] {
            let mut report = Report::default();
            for part in RUN.as_bytes().chunks(size) {
                report.feed(part);
            }
            assert_eq!(report.thread.as_deref(), Some("01a202ac-589d-75c2-aeb3-17ff97d6019f"));
            assert_eq!(report.messages, ["Done."]);
            assert!(report.completed && report.failed.is_none());
        }
    }

    #[test]
    fn a_failed_turn_says_why() {
        let mut report = Report::default();
        report.feed(br#"{"type":"turn.failed","error":{"message":"no"}}"#);
        assert!(!report.is_final());
        report.finish();
        assert_eq!(report.failed.as_deref(), Some("no"));
    }

    #[test]
    fn a_thread_is_a_plain_name() {
        for bad in ["../../etc", "", "a/b", "..", "01a202ac.589d", "-1a202ac", &"a".repeat(65)] {
            assert!(!is_thread_id(bad), "{bad}");
            let mut report = Report::default();
            let event = serde_json::json!({"type": "thread.started", "thread_id": bad});
            report.feed(format!("{event}\n").as_bytes());
            assert_eq!(report.thread, None);
        }
    }

    #[test]
    fn the_first_thread_stays() {
        let mut report = Report::default();
        report.feed(b"{\"type\":\"thread.started\",\"thread_id\":\"aaaaaaaa\"}\n");
        report.feed(b"{\"type\":\"thread.started\",\"thread_id\":\"bbbbbbbb\"}\n");
        assert_eq!(report.thread.as_deref(), Some("aaaaaaaa"));
    }

    #[test]
    fn a_line_without_end_is_passed_over_in_bounded_memory() {
        let mut report = Report::default();
        let part = vec![b'x'; 64 * 1024];
        for _ in 0..100 {
            report.feed(&part);
            assert!(report.line.capacity() <= 2 * LONGEST_LINE);
        }
        report.feed(b"\n{\"type\":\"turn.completed\"}\n");
        assert!(report.completed);
    }

    #[test]
    fn messages_are_bounded() {
        let mut report = Report::default();
        for n in 0..50 {
            let text = format!("{n} {}", "w".repeat(5000));
            let event = serde_json::json!(
                {"type": "item.completed", "item": {"type": "agent_message", "text": text}});
            report.feed(format!("{event}\n").as_bytes());
        }
        assert_eq!(report.messages.len(), MOST_MESSAGES);
        assert!(report.messages[3].starts_with("49 ") && report.messages[3].len() < 2100);
    }

    proptest! {
        #[test]
        fn anything_is_survived(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20)) {
            let mut report = Report::default();
            for part in parts {
                report.feed(&part);
            }
            report.finish();
        }
    }
}
