//! How times, sizes and spans are written on the pages.

use std::fmt;

use askama::filters::HtmlSafe;
use jiff::Timestamp;

/// A time in milliseconds, as an element that a script makes local to the browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct When(pub(super) i64);

/// The same, shown as how far away it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Away {
    pub(super) at: i64,
    pub(super) now: i64,
}

/// A time of which only the day matters, on a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Day(pub(super) i64);

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(time) = Timestamp::from_millisecond(self.0) else { return Ok(()) };
        write!(
            f,
            "<time datetime=\"{}\" title=\"{}\">{}</time>",
            time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            time.strftime("%Y-%m-%d %H:%M:%S UTC"),
            time.strftime("%Y-%m-%d %H:%M UTC"),
        )
    }
}

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(time) = Timestamp::from_millisecond(self.at) else { return Ok(()) };
        write!(
            f,
            "<time datetime=\"{}\" title=\"{}\" data-away>{}</time>",
            time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            time.strftime("%Y-%m-%d %H:%M:%S UTC"),
            away(self.at.saturating_sub(self.now)),
        )
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(time) = Timestamp::from_millisecond(self.0) else { return Ok(()) };
        write!(
            f,
            "<time datetime=\"{}\" data-day>{}</time>",
            time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            time.strftime("%a %-d"),
        )
    }
}

// Digits, letters and our own elements.
impl HtmlSafe for When {}
impl HtmlSafe for Away {}
impl HtmlSafe for Day {}

fn away(ms: i64) -> String {
    if ms < 0 { format!("{} ago", span(-ms)) } else { format!("in {}", span(ms)) }
}

/// Such as `3 d 4 h`, `12 min`, `1.4 s`.
pub(super) fn span(ms: i64) -> String {
    // A clock that was put back in between makes no time run backwards.
    let ms = ms.max(0);
    let seconds = ms / 1000;
    match seconds {
        ..10 => format!("{}.{} s", seconds, ms % 1000 / 100),
        10..60 => format!("{seconds} s"),
        60..600 => format!("{} min {} s", seconds / 60, seconds % 60),
        600..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Such as `3.4 MB`: powers of a thousand, as disks are sold.
pub(super) fn bytes(bytes: i64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut whole, mut rest, mut unit) = (bytes / 1000, bytes % 1000, 0);
    while whole >= 1000 && unit + 1 < UNITS.len() {
        (whole, rest, unit) = (whole / 1000, whole % 1000, unit + 1);
    }
    if whole < 10 {
        format!("{whole}.{} {}", rest / 100, UNITS[unit])
    } else {
        format!("{whole} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_read_well() {
        for (size, words) in [
            (0, "0 B"),
            (999, "999 B"),
            (1234, "1.2 kB"),
            (34_567_890, "34 MB"),
            (9_960_000_000, "9.9 GB"),
        ] {
            assert_eq!(bytes(size), words);
        }
        for (ms, words) in [
            (1490, "1.4 s"),
            (12_345, "12 s"),
            (83_000, "1 min 23 s"),
            (3_599_000, "59 min"),
            (3_660_000, "1 h 1 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(span(ms), words);
            // The clock was put back.
            assert_eq!(span(-ms), "0.0 s");
        }
        assert_eq!(
            When(0).to_string(),
            "<time datetime=\"1970-01-01T00:00:00Z\" title=\"1970-01-01 00:00:00 UTC\">1970-01-01 00:00 UTC</time>"
        );
    }
}
