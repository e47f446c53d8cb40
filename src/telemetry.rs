//! Logs and metrics. Neither ever makes a request wait: log lines go through a bounded queue to a
//! thread of their own, metrics are counters in memory that a scrape reads.

mod journal;
mod metrics;

use std::{
    io::{self, BufWriter, IsTerminal as _, Write},
    thread,
    time::Duration,
};

use tracing::{Level, level_filters::LevelFilter};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Registry,
    filter::Targets,
    layer::{Layer, SubscriberExt as _},
    reload,
};

pub use self::metrics::{Metrics, known};
use crate::config::LogFormat;

/// Lines that may wait to be written. The queue is allocated at once, and the library's own
/// 128,000 would be several megabytes of it; when it is full, lines are dropped and counted.
const WAITING_LINES: usize = 4_096;

/// Bytes written at a time when many lines wait.
const WRITTEN_AT_ONCE: usize = 16 * 1024;

/// How long the thread rests when it has written all there was. The first line after a rest is
/// written at once; those of a busy service are written together, and the requests that they
/// tell of do not each wake the thread, which costs more than the line.
const REST: Duration = Duration::from_millis(2);

/// Keeps the logs flowing; dropped at the end of `main`, it writes what still waits.
#[must_use = "log lines are lost once this is dropped"]
pub struct Guard {
    place: Place,
    level: LogLevel,
}

/// The thread that writes, and who counts what it could not.
enum Place {
    Journal(journal::Guard),
    StandardError(ErrorCounter, #[allow(dead_code, reason = "for its end")] WorkerGuard),
}

impl Guard {
    /// Log lines that were lost because they could not be taken in time where they belong.
    #[must_use]
    pub fn dropped_lines(&self) -> usize {
        match &self.place {
            Place::Journal(journal) => journal.dropped(),
            Place::StandardError(dropped, _) => dropped.dropped_lines(),
        }
    }

    /// What changes the level from now on.
    #[must_use]
    pub fn level(&self) -> LogLevel {
        self.level.clone()
    }
}

/// How much is logged.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<Targets, Registry>);

impl LogLevel {
    /// From now on events of `level` and above.
    pub fn set(&self, level: Level) {
        // It fails when the log is gone, and then there is nothing to be told.
        let _ = self.0.reload(filter(level));
    }
}

/// Sends the service's own events of `level` and above, and warnings of the libraries, to the
/// journal or to standard error. There lines carry the time (RFC 3339, UTC) unless the journal reads
/// them, and colours on a terminal. A second call changes nothing.
pub fn init(level: Level, format: LogFormat) -> Guard {
    std::panic::set_hook(Box::new(|panic| {
        // Only where: the text may quote whatever was being worked on, a prompt for one.
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, "panicked; this is a fault of the program, please report it");
    }));
    let (filter, handle) = reload::Layer::new(filter(level));
    let level = LogLevel(handle);
    let connected = crate::systemd::connected_to_journal();
    let journal = match format {
        LogFormat::Journal => Some(journal::open()),
        LogFormat::Auto if connected => Some(journal::open()),
        LogFormat::Auto | LogFormat::Text | LogFormat::Json => None,
    };
    let unreachable = match journal {
        Some(Ok((lines, guard))) => {
            begin(filter, lines);
            return Guard { place: Place::Journal(guard), level };
        }
        Some(Err(error)) => Some(error),
        None => None,
    };
    let (writer, worker) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LINES)
        .lossy(true)
        .thread_name("log")
        .finish(Lines(BufWriter::with_capacity(WRITTEN_AT_ONCE, io::stderr())));
    let dropped = writer.error_counter();
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match format {
        LogFormat::Json => begin(
            filter,
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false),
        ),
        _ if connected => begin(filter, lines.compact().with_ansi(false).without_time()),
        _ => begin(filter, lines.compact().with_ansi(colours)),
    }
    if let Some(error) = unreachable {
        tracing::warn!(%error, "the journal cannot be reached; the log goes to standard error");
    }
    Guard { place: Place::StandardError(dropped, worker), level }
}

/// Everything that happens from now on goes there.
fn begin<L>(filter: reload::Layer<Targets, Registry>, lines: L)
where
    L: Layer<tracing_subscriber::layer::Layered<reload::Layer<Targets, Registry>, Registry>>
        + Send
        + Sync
        + 'static,
{
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    // An error means that a subscriber is in place already, as in tests of one process.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Standard error as the thread of the log writes to it: it flushes when no line waits.
struct Lines(BufWriter<io::Stderr>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.0.flush();
        thread::sleep(REST);
        flushed
    }
}

/// Ours at `level`, the libraries' at most as warnings.
fn filter(level: Level) -> Targets {
    Targets::new()
        .with_default(LevelFilter::WARN.min(LevelFilter::from_level(level)))
        .with_target(env!("CARGO_CRATE_NAME"), level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_events_are_detailed() {
        let debug = filter(Level::DEBUG);
        assert!(debug.would_enable("codex_image_service::queue", &Level::DEBUG));
        assert!(!debug.would_enable("codex_image_service::queue", &Level::TRACE));
        assert!(!debug.would_enable("hyper::proto", &Level::INFO));
        assert!(debug.would_enable("sqlx::query", &Level::WARN));
        let error = filter(Level::ERROR);
        assert!(!error.would_enable("sqlx::query", &Level::WARN));
    }
}
