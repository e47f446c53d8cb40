//! The journal as a place for log lines: each event is one entry with its level, its place in the
//! source and, where it has them, the fields by which `journalctl JOB_ID=…` finds it. A thread of
//! the log's own talks to the journal; an event only leaves its words in a bounded queue.

use std::{
    fmt::{self, Write as _},
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    callsite::{Callsite, Identifier},
    field::{Field, FieldSet, Value, Visit},
    metadata::Kind,
    subscriber::Interest,
};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use super::WAITING_LINES;

/// What `journalctl -t` finds the service by.
const IDENTIFIER: &str = "codex-image-service";

/// The fields that are entries' own, in capital letters. Everything else is a part of the message,
/// where a reader of `journalctl -u` sees it: beside the message nobody does.
const INDEXED: [&str; 6] = ["request_id", "job_id", "key_handle", "login", "phase", "codex_thread"];

/// How long the end of a process may be held up by a journal that does not take its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// An event, to be written by another thread.
#[derive(Debug)]
struct Entry {
    metadata: &'static Metadata<'static>,
    message: String,
    indexed: [Option<String>; INDEXED.len()],
}

enum Line {
    Entry(Box<Entry>),
    /// All that was sent before is written when this is answered.
    End(SyncSender<()>),
}

/// Where events go.
pub(super) struct Journal {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicUsize>,
}

/// Keeps entries flowing; dropped, it waits for those that are under way.
pub(super) struct Guard {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicUsize>,
}

impl Guard {
    /// Entries that were lost because the journal could not take them in time.
    pub(super) fn dropped(&self) -> usize {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (written, wait) = sync_channel(1);
        let mut end = Line::End(written);
        let step = Duration::from_millis(20);
        for _ in 0..LAST_LINES.as_millis() / step.as_millis() {
            match self.lines.try_send(end) {
                Ok(()) => {
                    let _ = wait.recv_timeout(LAST_LINES);
                    return;
                }
                Err(TrySendError::Full(again)) => end = again,
                Err(TrySendError::Disconnected(_)) => return,
            }
            thread::sleep(step);
        }
    }
}

/// Opens the journal.
///
/// # Errors
/// When it cannot be reached, or the system gives no thread.
pub(super) fn open() -> io::Result<(Journal, Guard)> {
    let layer = tracing_journald::layer()?
        .with_field_prefix(None)
        .with_syslog_identifier(IDENTIFIER.to_owned())
        .with_priority_mappings(PriorityMappings {
            error: Priority::Error,
            warn: Priority::Warning,
            info: Priority::Informational,
            debug: Priority::Debug,
            trace: Priority::Debug,
        });
    // Called by hand and never made anybody's default: as one it would be asked about every event of
    // the process, and those that nobody wants would no longer cost next to nothing.
    let writer = tracing_subscriber::registry().with(layer);
    let (lines, entries) = sync_channel(WAITING_LINES);
    thread::Builder::new().name("log".to_owned()).spawn(move || write(&writer, &entries))?;
    let dropped = Arc::<AtomicUsize>::default();
    let journal = Journal { lines: lines.clone(), dropped: Arc::clone(&dropped) };
    Ok((journal, Guard { lines, dropped }))
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let entry = Box::new(Entry::of(event));
        if let Err(TrySendError::Full(_)) = self.lines.try_send(Line::Entry(entry)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Entry {
    fn of(event: &Event<'_>) -> Self {
        let mut entry = Self {
            metadata: event.metadata(),
            message: String::with_capacity(128),
            indexed: Default::default(),
        };
        event.record(&mut entry);
        entry.message = harmless(entry.message);
        entry
    }

    fn put(&mut self, field: &Field, value: fmt::Arguments<'_>, shown: fmt::Arguments<'_>) {
        if let Some(at) = INDEXED.iter().position(|name| *name == field.name()) {
            self.indexed[at] = Some(harmless(value.to_string()));
        }
        let separator = if self.message.is_empty() { "" } else { " " };
        let _ = match field.name() {
            "message" => write!(self.message, "{separator}{value}"),
            name => write!(self.message, "{separator}{name}={shown}"),
        };
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, format_args!("{value}"), format_args!("{value:?}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format_args!("{value:?}"), format_args!("{value:?}"));
    }
}

/// `journalctl` shows an entry with a control character as a "blob"; a line's end is none to it.
fn harmless(text: String) -> String {
    let harmful = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(harmful) {
        return text;
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmful(c) { plain.extend(c.escape_default()) } else { plain.push(c) }
    }
    plain
}

fn write(writer: &impl Subscriber, lines: &Receiver<Line>) {
    while let Ok(line) = lines.recv() {
        match line {
            Line::Entry(entry) => hand_over(writer, &entry),
            Line::End(written) => {
                let _ = written.send(());
            }
        }
    }
}

/// Makes an event of the entry again: of the same place in the source, but with the message as it
/// was put together and without what that holds already.
fn hand_over(writer: &impl Subscriber, entry: &Entry) {
    let own = entry.metadata;
    // An event of a library may have no message, and its metadata no place for one.
    let metadata = if own.fields().field("message").is_some() { own } else { plain(*own.level()) };
    let fields = metadata.fields();
    let Some(message) = fields.field("message") else { return };
    let indexed = INDEXED.map(|name| fields.field(name));
    // One that the event does not have has no value either; any field stands in its place.
    let values: [(&Field, Option<&dyn Value>); INDEXED.len() + 1] =
        std::array::from_fn(|at| match at.checked_sub(1) {
            None => (&message, Some(&entry.message as &dyn Value)),
            Some(at) => {
                let value = entry.indexed[at].as_ref().map(|value| value as &dyn Value);
                (indexed[at].as_ref().unwrap_or(&message), value)
            }
        });
    writer.event(&Event::new(metadata, &fields.value_set(&values)));
}

/// A place for an event of this level that has a message and nothing else.
fn plain(level: Level) -> &'static Metadata<'static> {
    macro_rules! place {
        ($level:ident) => {{
            struct Place;
            static PLACE: Place = Place;
            static METADATA: Metadata<'static> = Metadata::new(
                "event",
                env!("CARGO_CRATE_NAME"),
                Level::$level,
                None,
                None,
                None,
                FieldSet::new(&["message"], Identifier(&PLACE)),
                Kind::EVENT,
            );
            impl Callsite for Place {
                fn set_interest(&self, _: Interest) {}
                fn metadata(&self) -> &Metadata<'_> {
                    &METADATA
                }
            }
            &METADATA
        }};
    }
    match level {
        Level::ERROR => place!(ERROR),
        Level::WARN => place!(WARN),
        Level::INFO => place!(INFO),
        Level::DEBUG => place!(DEBUG),
        Level::TRACE => place!(TRACE),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Mutex};

    use super::*;

    /// Level, module and fields.
    type Sent = (Level, String, BTreeMap<&'static str, String>);

    /// What would be sent to the journal for each event of `what`.
    fn sent(what: impl FnOnce()) -> Vec<Sent> {
        #[derive(Clone, Default)]
        struct Kept(Arc<Mutex<Vec<Sent>>>);
        #[derive(Default)]
        struct Fields(BTreeMap<&'static str, String>);
        impl Visit for Fields {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                self.0.insert(field.name(), format!("{value:?}"));
            }
            fn record_str(&mut self, field: &Field, value: &str) {
                let before = self.0.insert(field.name(), value.to_owned());
                assert_eq!(before, None, "twice");
            }
        }
        impl<S: Subscriber> Layer<S> for Kept {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                let mut fields = Fields::default();
                event.record(&mut fields);
                let module = event.metadata().target().to_owned();
                self.0.lock().unwrap().push((*event.metadata().level(), module, fields.0));
            }
        }
        let (lines, entries) = sync_channel(16);
        let journal = Journal { lines, dropped: Arc::default() };
        let ours = tracing_subscriber::registry().with(journal);
        tracing::subscriber::with_default(ours, what);
        let kept = Kept::default();
        write(&tracing_subscriber::registry().with(kept.clone()), &entries);
        Arc::into_inner(kept.0).unwrap().into_inner().unwrap()
    }

    #[test]
    fn a_message_holds_all_and_some_fields_stand_beside_it() {
        let error = io::Error::other("no luck");
        let [(level, module, fields)] = sent(|| {
            let (job_id, login) = ("img_1", Some("one"));
            let key_handle: Option<&str> = None;
            tracing::warn!(job_id, login, key_handle, n = 3, %error, "it {}", "failed");
        })
        .try_into()
        .unwrap();
        assert_eq!((level, module.as_str()), (Level::WARN, module_path!()));
        let message = "it failed job_id=\"img_1\" login=\"one\" n=3 error=no luck";
        let expected = [("job_id", "img_1"), ("login", "one"), ("message", message)];
        assert_eq!(fields, expected.map(|(name, value)| (name, value.to_owned())).into());
    }

    #[test]
    fn without_a_message_the_fields_are_one() {
        let seen = sent(|| {
            tracing::error!(target: "a_library", summary = "slow", n = 1);
            tracing::debug!(job_id = "img_1", "words");
        });
        assert_eq!(seen[0].0, Level::ERROR);
        assert_eq!(seen[0].2, [("message", "summary=\"slow\" n=1".to_owned())].into());
        assert_eq!(seen[1].0, Level::DEBUG);
        assert_eq!(seen[1].2["job_id"], "img_1");
    }

    #[test]
    fn lines_stay_lines_and_control_characters_are_shown() {
        let seen = sent(|| tracing::info!(login = "a\u{1b}b", "one\ntwo\u{1b}[31m\u{0}"));
        let fields = &seen[0].2;
        assert_eq!(fields["message"], "one\ntwo\\u{1b}[31m\\u{0} login=\"a\\u{1b}b\"");
        assert_eq!(fields["login"], "a\\u{1b}b");
    }

    #[test]
    fn what_the_journal_does_not_take_is_counted_and_nobody_waits() {
        let (lines, entries) = sync_channel(2);
        let dropped = Arc::<AtomicUsize>::default();
        let journal = Journal { lines: lines.clone(), dropped: Arc::clone(&dropped) };
        let ours = tracing_subscriber::registry().with(journal);
        tracing::subscriber::with_default(ours, || {
            for n in 0..5 {
                tracing::info!(n, "line");
            }
        });
        assert_eq!(dropped.load(Ordering::Relaxed), 3);
        drop(entries);
        // The end does not wait for a journal that is gone.
        drop(Guard { lines, dropped });
    }
}
