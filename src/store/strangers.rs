//! Rows that none of ours could be: a front that somebody took over writes what it likes, and a CHECK
//! of the schema is its own to change. Each is said in the log once and left as it is; the others
//! are read as if it were not there.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{FromRow, Row as _, sqlite::SqliteRow};

use super::Store;

/// How long it is believed how many are in the queue.
const COUNT_HOLDS: Duration = Duration::from_secs(5);
/// So many are said; whoever writes more wants to fill the log.
const MOST_SAID: usize = 256;
/// What is said of one, in characters: an error may hold what the row does.
const LONGEST_REASON: usize = 200;

/// The rows that were said to be none of ours, each by its table and number.
#[derive(Default)]
pub(super) struct Strangers {
    said: Mutex<HashSet<(&'static str, i64)>>,
    /// Held by whoever counts those in the queue.
    pub(super) counting: tokio::sync::Mutex<()>,
    /// Those in the queue, and when they were counted.
    queued: Mutex<Option<(Instant, i64)>>,
}

/// Why a row is none of ours.
pub(super) fn none_of_ours(why: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(why.into())
}

/// A column's text, made to what it has to be. sqlx reads NULL as an empty one.
pub(super) fn parsed<T>(
    row: &SqliteRow,
    column: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> sqlx::Result<T> {
    parse(row.try_get(column)?).ok_or_else(|| none_of_ours(column))
}

/// The same of a text that only has to be one of those which may stand there.
pub(super) fn checked(
    row: &SqliteRow,
    column: &'static str,
    is_one: impl FnOnce(&str) -> bool,
) -> sqlx::Result<String> {
    parsed(row, column, |text| is_one(text).then(|| text.to_owned()))
}

/// A column's number, which has to lie between these.
pub(super) fn within(
    row: &SqliteRow,
    column: &'static str,
    bounds: std::ops::RangeInclusive<i64>,
) -> sqlx::Result<i64> {
    let number = row.try_get(column)?;
    if bounds.contains(&number) { Ok(number) } else { Err(none_of_ours(column)) }
}

/// An SQL expression: a text column, or NULL where it is longer than any of ours, so that nothing of
/// it is read. SQLite knows the length without the text.
macro_rules! short {
    ($column:literal, $bytes:literal, $name:literal) => {
        concat!("iif(octet_length(", $column, ") <= ", $bytes, ", ", $column, ", NULL) AS ", $name)
    };
    ($column:literal, $bytes:literal) => {
        $crate::store::strangers::short!($column, $bytes, $column)
    };
}
pub(super) use short;

impl Store {
    /// The row that a result stands for; None, and said in the log, for one that is none of ours.
    pub(super) fn ours<T>(&self, table: &'static str, seq: i64, row: sqlx::Result<T>) -> Option<T> {
        row.map_err(|error| self.strangers.meet(table, seq, &error)).ok()
    }

    /// Those of the rows that are ours; each has its number in `seq`.
    pub(super) fn all_of_ours<T>(&self, table: &'static str, rows: &[SqliteRow]) -> Vec<T>
    where
        T: for<'row> FromRow<'row, SqliteRow>,
    {
        let ours = |row: &SqliteRow| {
            let seq = row.try_get("seq").unwrap_or_default();
            self.ours(table, seq, T::from_row(row))
        };
        rows.iter().filter_map(ours).collect()
    }
}

impl Strangers {
    /// How many there are in the queue, when they were counted just now.
    pub(super) fn counted(&self) -> Option<i64> {
        let queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        queued.filter(|(at, _)| at.elapsed() < COUNT_HOLDS).map(|(_, count)| count)
    }

    pub(super) fn count(&self, count: i64) {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        *queued = Some((Instant::now(), count));
    }

    fn meet(&self, table: &'static str, seq: i64, error: &sqlx::Error) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() > MOST_SAID || !said.insert((table, seq)) {
            return;
        }
        if said.len() > MOST_SAID {
            tracing::error!("more rows are none of ours; they are left alone, and not listed");
            return;
        }
        drop(said);
        let why: String = error.to_string().chars().take(LONGEST_REASON).collect();
        tracing::error!(table, seq, why, "a row is none of ours and is left alone");
    }
}
