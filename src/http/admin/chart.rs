//! Charts, drawn here: pictures an hour over a week, and what each login has drawn in the 48 hours
//! before, against the wall at which OpenAI is known to refuse more. Coordinates are those of an SVG
//! whose width is the number of hours; the style sheet stretches it.

use std::collections::BTreeMap;

use super::show::Day;
use crate::store::overview::HourOfTurns;

/// Hours on the charts.
pub(super) const WEEK: i64 = 7 * 24;
/// Hours of the rolling sum.
pub(super) const ROLLING: i64 = 48;
/// The height of a chart in its own coordinates.
const HEIGHT: i64 = 100;
const HOUR_MS: i64 = 3_600_000;
/// Hours that tell at which pace a login draws now.
const PACE_HOURS: i64 = 6;
/// Lines that can be told apart.
const SERIES: usize = 6;

/// An hour's bar: pictures from the ground up, failed turns on top of them.
pub(super) struct Bar {
    pub(super) x: i64,
    pub(super) y: String,
    pub(super) height: String,
    pub(super) failed_y: String,
    pub(super) failed_height: String,
    pub(super) has_failed: bool,
    pub(super) title: String,
}

/// Pictures an hour.
pub(super) struct Hourly {
    pub(super) bars: Vec<Bar>,
    pub(super) images: i64,
    /// The top of the scale.
    pub(super) most: i64,
    pub(super) days: Vec<Day>,
}

/// A login's line.
pub(super) struct Line {
    pub(super) login: String,
    pub(super) points: String,
    pub(super) now: i64,
    pub(super) class: usize,
}

/// Pictures in the 48 hours before.
pub(super) struct Rolling {
    pub(super) lines: Vec<Line>,
    pub(super) top: i64,
    pub(super) wall: Option<i64>,
    /// Where the wall stands.
    pub(super) wall_y: String,
}

/// What ended in each hour of a login, as far back as was asked for.
#[derive(Default)]
pub(super) struct Hours {
    /// The hour that is not over yet.
    now: i64,
    by_login: BTreeMap<String, BTreeMap<i64, (i64, i64)>>,
}

impl Hours {
    /// From the store's rows; `now` in milliseconds.
    pub(super) fn of(rows: Vec<HourOfTurns>, now: i64) -> Self {
        let mut by_login: BTreeMap<String, BTreeMap<i64, (i64, i64)>> = BTreeMap::new();
        for row in rows {
            by_login.entry(row.login).or_default().insert(row.hour, (row.images, row.failures));
        }
        Self { now: now / HOUR_MS, by_login }
    }

    /// Pictures and failed turns of a login since an hour that is so many hours ago.
    pub(super) fn sums(&self, login: &str, hours: i64) -> (i64, i64) {
        let since = self.now - hours;
        let hours = self.by_login.get(login).into_iter().flatten();
        hours
            .filter(|(hour, _)| **hour > since)
            .fold((0, 0), |(images, failures), (_, of)| (images + of.0, failures + of.1))
    }

    /// Pictures an hour at which a login draws now.
    pub(super) fn pace(&self, login: &str) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "some hundreds")]
        let images = self.sums(login, PACE_HOURS).0 as f64;
        #[allow(clippy::cast_precision_loss, reason = "6")]
        let hours = PACE_HOURS as f64;
        images / hours
    }

    /// In how many hours a login reaches the wall at its pace; 0: it is reached. What is older than
    /// 48 hours by then counts no more.
    pub(super) fn hours_to_wall(&self, login: &str, wall: i64) -> Option<i64> {
        let pace = self.pace(login);
        let empty = BTreeMap::new();
        let drawn = self.by_login.get(login).unwrap_or(&empty);
        for ahead in 0..=ROLLING {
            let still: i64 =
                drawn.range(self.now + ahead - ROLLING + 1..).map(|(_, (images, _))| *images).sum();
            #[allow(clippy::cast_precision_loss, reason = "some thousands")]
            let reached = still as f64 + pace * ahead as f64 >= wall as f64;
            if reached {
                return Some(ahead);
            }
        }
        None
    }

    /// The bars of the last week, of all logins together.
    pub(super) fn hourly(&self) -> Hourly {
        let first = self.now - WEEK + 1;
        let hours: Vec<(i64, i64)> = (first..=self.now)
            .map(|hour| {
                let all = self.by_login.values().filter_map(|of| of.get(&hour));
                all.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
            })
            .collect();
        let most = hours.iter().map(|(images, failed)| images + failed).max().unwrap_or(0).max(1);
        let bars = (first..=self.now)
            .zip(&hours)
            .filter(|(_, (images, failed))| images + failed > 0)
            .map(|(hour, &(images, failed))| {
                let (height, failed_height) = (scaled(images, most), scaled(failed, most));
                Bar {
                    x: hour - first,
                    y: decimal(HEIGHT * 100 - height),
                    height: decimal(height),
                    failed_y: decimal(HEIGHT * 100 - height - failed_height),
                    failed_height: decimal(failed_height),
                    has_failed: failed > 0,
                    title: bar_title(hour, images, failed),
                }
            })
            .collect();
        Hourly { bars, images: hours.iter().map(|of| of.0).sum(), most, days: Self::days(first) }
    }

    /// A name for each 24 hours of the chart: the day to which most of them belong.
    fn days(first: i64) -> Vec<Day> {
        (0..7).map(|day| Day((first + day * 24 + 12) * HOUR_MS)).collect()
    }

    /// The lines of the last week.
    pub(super) fn rolling(&self, logins: &[String], wall: Option<i64>) -> Rolling {
        let first = self.now - WEEK + 1;
        let sums: Vec<(&String, Vec<i64>)> = logins
            .iter()
            .take(SERIES)
            .map(|login| {
                let empty = BTreeMap::new();
                let drawn = self.by_login.get(login).unwrap_or(&empty);
                let sum = |hour: i64| {
                    let images = drawn.range(hour - ROLLING + 1..=hour);
                    images.map(|(_, (images, _))| *images).sum()
                };
                (login, (first..=self.now).map(sum).collect())
            })
            .collect();
        let most = sums.iter().flat_map(|(_, sums)| sums).copied().max().unwrap_or(0);
        let top = most.max(wall.unwrap_or(0)).max(1);
        // A little room above the highest.
        let scale = top + top / 12 + 1;
        let lines = sums
            .into_iter()
            .enumerate()
            .map(|(class, (login, sums))| {
                let point = |(x, sum): (usize, &i64)| {
                    format!("{x},{}", decimal(HEIGHT * 100 - scaled(*sum, scale)))
                };
                let points: Vec<_> = sums.iter().enumerate().map(point).collect();
                let now = sums.last().copied().unwrap_or(0);
                Line { login: login.clone(), points: points.join(" "), now, class }
            })
            .collect();
        let wall_y = decimal(HEIGHT * 100 - scaled(wall.unwrap_or(0), scale));
        Rolling { lines, top, wall, wall_y }
    }
}

/// A value as hundredths of the chart's height.
fn scaled(value: i64, most: i64) -> i64 {
    value.saturating_mul(HEIGHT * 100) / most.max(1)
}

fn decimal(hundredths: i64) -> String {
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn bar_title(hour: i64, images: i64, failed: i64) -> String {
    let at = jiff::Timestamp::from_second(hour * 3600)
        .map(|time| time.strftime("%Y-%m-%d %H:00 UTC").to_string())
        .unwrap_or_default();
    let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    format!("{at}: {images}{failed}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(rows: &[(i64, &str, i64, i64)], now: i64) -> Hours {
        let row = |&(ago, login, images, failures): &(i64, &str, i64, i64)| HourOfTurns {
            hour: now - ago,
            login: login.to_owned(),
            images,
            failures,
        };
        Hours::of(rows.iter().map(row).collect(), now * HOUR_MS)
    }

    #[test]
    fn the_wall_is_reached_at_the_pace_of_now() {
        let steady: Vec<_> = (0..6).map(|ago| (ago, "a", 10, 0)).collect();
        let steady = hours(&steady, 1000);
        assert_eq!(steady.hours_to_wall("a", 60), Some(0));
        assert_eq!(steady.hours_to_wall("a", 100), Some(4));
        // What was drawn two days ago leaves the window before that.
        assert_eq!(hours(&[(47, "a", 90, 0), (0, "a", 6, 0)], 1000).hours_to_wall("a", 97), None);
        assert_eq!(hours(&[], 1000).hours_to_wall("a", 1), None);
    }

    #[test]
    fn a_chart_holds_the_week_and_nothing_else() {
        let some = hours(&[(0, "a", 4, 4), (167, "b", 2, 0), (168, "b", 99, 0)], 1000);
        let chart = some.hourly();
        assert_eq!((chart.images, chart.most, chart.bars.len()), (6, 8, 2));
        assert_eq!((chart.bars[0].x, chart.bars[0].height.as_str()), (0, "25.00"));
        let last = &chart.bars[1];
        assert_eq!((last.x, last.y.as_str(), last.failed_y.as_str()), (167, "50.00", "0.00"));
        let rolling = some.rolling(&["a".into(), "b".into()], Some(320));
        assert_eq!(rolling.lines.iter().map(|line| line.now).collect::<Vec<_>>(), [4, 0]);
        assert!(rolling.lines[1].points.starts_with("0,"), "{}", rolling.lines[1].points);
    }
}
