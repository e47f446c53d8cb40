//! When a used-up quota comes back: from the words of Codex's message, which differ between
//! versions, or from the answer to the image request.

use jiff::{SignedDuration, Timestamp, Zoned, civil, tz::TimeZone};
use serde_json::Value;

/// The message cuts off the seconds, and the limit's clock is not ours.
const SLACK: i64 = 60;
/// A reset further away than this was misread.
const FURTHEST: i64 = 400 * 86400;

/// The time behind "try again", in Unix seconds, if there is one.
///
/// `at 3:05 PM` on the same day, `at Nov 24th, 2026 3:05 PM` later, both in the zone of Codex,
/// which is ours; older versions: `in 3 days 4 hours 5 minutes`.
pub(super) fn from_words(message: &str, now: &Zoned) -> Option<i64> {
    let lower = message.to_ascii_lowercase();
    let after = lower.rfind("try again ").map(|at| &lower[at + "try again ".len()..])?;
    let time = if let Some(moment) = after.strip_prefix("at ") {
        moment_of(moment, now)
    } else {
        now.timestamp().as_second().checked_add(span_of(after.strip_prefix("in ")?)?)
    };
    time.map(|time| time + SLACK).filter(|time| sane(*time, now.timestamp()))
}

fn moment_of(text: &str, now: &Zoned) -> Option<i64> {
    // Without the suffix of the day, "24th", that no format knows.
    let text = text.replace(['.', ','], " ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let clock = |time: &str, half: &str| {
        civil::Time::strptime("%I:%M %p", format!("{time:0>5} {half}")).ok()
    };
    if let [time, half, ..] = words[..]
        && let Some(time) = clock(time, half)
    {
        let today = now.date().to_datetime(time).to_zoned(now.time_zone().clone()).ok()?;
        // A minute ago is still this one: the seconds were cut off.
        let past = today.timestamp() + SignedDuration::from_secs(2 * SLACK) < now.timestamp();
        let moment =
            if past { today.tomorrow().ok()?.with().time(time).build().ok()? } else { today };
        return Some(moment.timestamp().as_second());
    }
    let [month, day, year, time, half, ..] = words[..] else { return None };
    let day = day.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let date = civil::Date::strptime("%b %d %Y", format!("{month} {day:0>2} {year}")).ok()?;
    let moment = date.to_datetime(clock(time, half)?).to_zoned(now.time_zone().clone()).ok()?;
    Some(moment.timestamp().as_second())
}

/// `3 days 4 hours 5 minutes` and shorter forms of it, in seconds.
fn span_of(text: &str) -> Option<i64> {
    let mut total: i64 = 0;
    let mut found = false;
    let mut words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|w| !w.is_empty());
    while let Some(word) = words.next() {
        let digits = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
        let Ok(count) = word[..digits].parse::<i64>() else {
            if word == "and" || word == "less" || word == "than" || word == "a" {
                continue;
            }
            break;
        };
        let unit = if digits == word.len() { words.next()? } else { &word[digits..] };
        let seconds = match unit.as_bytes().first()? {
            b'd' => 86400,
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            b'w' => 7 * 86400,
            _ => break,
        };
        total = total.checked_add(count.checked_mul(seconds)?)?;
        found = true;
    }
    if !found && text.starts_with("less than a minute") {
        return Some(SLACK);
    }
    found.then_some(total)
}

/// From the body of a 429 answer, `{"error":{"resets_at":..., "resets_in_seconds":...}}`.
pub(super) fn from_answer(body: &Value, now: Timestamp) -> Option<i64> {
    let error = body.get("error").unwrap_or(body);
    let whole = |key: &str| error.get(key)?.as_f64().filter(|n| n.is_finite());
    #[allow(clippy::cast_possible_truncation)] // a cast from float saturates; checked by `sane`
    let time = whole("resets_at")
        .map(|at| at as i64)
        .or_else(|| Some(now.as_second().saturating_add(whole("resets_in_seconds")? as i64)))?;
    sane(time, now).then_some(time)
}

/// Now, in the zone that Codex writes its times in.
pub(super) fn now() -> Zoned {
    Timestamp::now().to_zoned(TimeZone::system())
}

fn sane(time: i64, now: Timestamp) -> bool {
    let now = now.as_second();
    (now - 5 * SLACK..=now.saturating_add(FURTHEST)).contains(&time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Zoned {
        text.parse().unwrap()
    }

    fn said(message: &str, now: &str) -> Option<String> {
        let now = at(now);
        let time = Timestamp::from_second(from_words(message, &now)? - SLACK).unwrap();
        Some(time.to_zoned(now.time_zone().clone()).strftime("%F %H:%M").to_string())
    }

    const NOW: &str = "2026-11-22T10:30:20+01:00[Europe/Berlin]";

    #[test]
    fn a_time_of_today() {
        let text = "You’ve hit your usage limit. Upgrade to Pro (https://x/y), visit z to \
                    purchase more credits or try again at 11:00 AM.";
        assert_eq!(said(text, NOW).as_deref(), Some("2026-11-22 11:00"));
        assert_eq!(said("try again at 3:05 PM.", NOW).as_deref(), Some("2026-11-22 15:05"));
        assert_eq!(said("try again at 10:30 AM.", NOW).as_deref(), Some("2026-11-22 10:30"));
        assert_eq!(said("try again at 9:00 AM.", NOW).as_deref(), Some("2026-11-23 09:00"));
        assert_eq!(said("try again at 12:10 AM.", NOW).as_deref(), Some("2026-11-23 00:10"));
    }

    #[test]
    fn a_later_day() {
        for (text, day) in [
            ("try again at Nov 24th, 2026 3:05 PM.", "2026-11-24 15:05"),
            ("or try again at Dec 1st, 2026 12:00 AM.", "2026-12-01 00:00"),
            ("try again at Mar 3rd, 2027 11:59 PM", "2027-03-03 23:59"),
            ("try again at Jan 22nd, 2027 1:00 AM.", "2027-01-22 01:00"),
        ] {
            assert_eq!(said(text, NOW).as_deref(), Some(day), "{text}");
        }
    }

    #[test]
    fn a_span_of_older_versions() {
        for (text, day) in [
            ("Try again in 3 days 4 hours 5 minutes.", "2026-11-25 14:35"),
            ("try again in 5 days 9 hours.", "2026-11-27 19:30"),
            ("try again in 1 hour.", "2026-11-22 11:30"),
            ("Please try again in 2m.", "2026-11-22 10:32"),
            ("Try again in 1 day, 2 hours and 3 minutes.", "2026-11-23 12:33"),
        ] {
            assert_eq!(said(text, NOW).as_deref(), Some(day), "{text}");
        }
    }

    #[test]
    fn what_says_no_time_gives_none() {
        for text in [
            "",
            "try again later.",
            "try again at noon",
            "try again in a while",
            "try again at 99:99 AM.",
            "try again in 99999999999999999999 days",
            "try again in 9223372036854775807 days",
            "try again at Nov 24th, 1999 3:05 PM.",
            "try again at Foo 99th, 2026 3:05 PM.",
        ] {
            assert_eq!(said(text, NOW), None, "{text}");
        }
    }

    #[test]
    fn an_answer_names_the_second() {
        let now = Timestamp::from_second(1_795_000_000).unwrap();
        let answer = |text: &str| from_answer(&serde_json::from_str(text).unwrap(), now);
        assert_eq!(answer(r#"{"error":{"resets_at":1795003600}}"#), Some(1_795_003_600));
        assert_eq!(answer(r#"{"error":{"resets_in_seconds":60}}"#), Some(1_795_000_060));
        assert_eq!(answer(r#"{"error":{"resets_at":1e300}}"#), None);
        assert_eq!(answer(r#"{"error":{"resets_at":"soon"}}"#), None);
        assert_eq!(answer("[]"), None);
    }
}
