//! Logs and metrics. Neither ever makes a request wait: log lines go through a bounded queue to a
//! thread of their own, metrics are counters in memory that a scrape reads.

mod metrics;

use std::{
    io::{self, BufWriter, IsTerminal as _, Write},
    thread,
    time::Duration,
};

use tracing::{Level, level_filters::LevelFilter};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{filter::Targets, layer::SubscriberExt as _};

pub use self::metrics::{Metrics, known};

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
    dropped: ErrorCounter,
    _worker: WorkerGuard,
}

impl Guard {
    /// Log lines that were lost because standard error could not take them in time.
    #[must_use]
    pub fn dropped_lines(&self) -> usize {
        self.dropped.dropped_lines()
    }
}

/// Sends the service's own events of `level` and above to standard error, and warnings of the
/// libraries. Lines carry the time (RFC 3339, UTC) unless the journal adds it, and colours on a
/// terminal. A second call changes nothing.
pub fn init(level: Level) -> Guard {
    let (writer, worker) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LINES)
        .lossy(true)
        .thread_name("log")
        .finish(Lines(BufWriter::with_capacity(WRITTEN_AT_ONCE, io::stderr())));
    let dropped = writer.error_counter();
    let lines = tracing_subscriber::fmt::layer()
        .compact()
        .with_writer(writer)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let filter = filter(level);
    std::panic::set_hook(Box::new(|panic| {
        // Only where: the text may quote whatever was being worked on, a prompt for one.
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, "panicked; this is a fault of the program, please report it");
    }));
    // An error means that a subscriber is in place already, as in tests of one process.
    let _ = if crate::systemd::connected_to_journal() {
        let lines = tracing_subscriber::registry().with(filter).with(lines.without_time());
        tracing::subscriber::set_global_default(lines)
    } else {
        let lines = tracing_subscriber::registry().with(filter).with(lines);
        tracing::subscriber::set_global_default(lines)
    };
    Guard { dropped, _worker: worker }
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
