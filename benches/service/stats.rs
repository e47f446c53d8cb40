//! The middle of things.

use std::time::Duration;

/// The median of numbers that are all comparable.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 0 => f64::midpoint(values[half - 1], values[half]),
        _ => values[half],
    }
}

/// Milliseconds with fractions.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A rate as people read it.
pub fn rate(value: f64) -> String {
    if value >= 10_000.0 { format!("{:.1}k/s", value / 1000.0) } else { format!("{value:.0}/s") }
}
