//! The history as a file: comma-separated values or a JSON object a line, written as it is read, a
//! page of jobs at a time.

use std::collections::VecDeque;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{HeaderValue, header},
    response::Response,
    routing::get,
};
use futures_util::stream;
use serde::Serialize;

use super::{super::respond, App, filter::FilterQuery, session::Operator, trouble::Trouble};
use crate::store::{
    StoreError,
    history::{HistoryFilter, HistoryRow},
};

/// Jobs that are held at a time; their prompts have up to 128 kB.
const PAGE: u32 = 100;

/// `/admin/requests/export`.
pub(super) fn router() -> Router<App> {
    Router::new().route("/admin/requests/export", get(export))
}

#[derive(Clone, Copy)]
enum Format {
    Csv,
    JsonLines,
}

/// The first line of a CSV: the names of a [`Line`].
const HEAD: [&str; 15] = [
    "id",
    "state",
    "created_at",
    "started_at",
    "finished_at",
    "key_id",
    "key",
    "logins",
    "size",
    "quality",
    "count",
    "pictures",
    "error_code",
    "error",
    "prompt",
];

/// A job as it is written.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    state: &'static str,
    created_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    key_id: &'a str,
    key: Text<'a>,
    logins: Text<'a>,
    size: &'a str,
    quality: &'a str,
    count: u32,
    pictures: String,
    error_code: Option<&'a str>,
    error: Option<Text<'a>>,
    prompt: Text<'a>,
}

/// Something that a caller, the operator or Codex wrote.
struct Text<'a> {
    text: &'a str,
    /// For a spreadsheet.
    guarded: bool,
}

/// A spreadsheet takes what begins so for a formula and runs it.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// The text with an apostrophe before whatever could begin a cell and a formula: at its start, and
/// behind what another country's spreadsheet takes for the end of a cell.
fn guarded(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut may_begin = true;
    for character in text.chars() {
        if may_begin && FORMULA.contains(&character) {
            safe.push('\'');
        }
        may_begin = matches!(character, ';' | ',' | '\t' | '\n' | '\r')
            || (may_begin && matches!(character, '"' | ' '));
        safe.push(character);
    }
    safe
}

impl Serialize for Text<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.guarded {
            to.serialize_str(&guarded(self.text))
        } else {
            to.serialize_str(self.text)
        }
    }
}

impl<'a> Line<'a> {
    fn of(row: &'a HistoryRow, base: &str, guarded: bool) -> Self {
        let text = |text| Text { text, guarded };
        let urls: Vec<_> = row.files().map(|file| format!("{base}/generated/{file}")).collect();
        Self {
            id: &row.id,
            state: row.state.as_str(),
            created_at: respond::time(row.created_at),
            started_at: row.started_at.map(respond::time),
            finished_at: row.finished_at.map(respond::time),
            key_id: &row.api_key_id,
            key: text(&row.key_name),
            logins: text(row.logins.as_deref().unwrap_or_default()),
            size: &row.size,
            quality: &row.quality,
            count: row.count,
            pictures: urls.join(" "),
            error_code: row.error_code.as_deref(),
            error: row.error.as_deref().map(text),
            prompt: text(&row.prompt),
        }
    }
}

async fn export(
    State(app): State<App>,
    _: Operator,
    Query(query): Query<FilterQuery>,
) -> Result<Response, Trouble> {
    let (format, kind, name) = match query.format.as_str() {
        "csv" => (Format::Csv, "text/csv; charset=utf-8", "history.csv"),
        "jsonl" => (Format::JsonLines, "application/jsonl; charset=utf-8", "history.jsonl"),
        _ => return Err(Trouble::Bad("'format' must be csv or jsonl.".to_owned())),
    };
    let (filter, before) = query.read()?;
    let writer = Writer { app, filter, format, pages: VecDeque::from([before]), is_first: true };
    let body = stream::try_unfold(writer, async |mut writer| {
        Ok::<_, StoreError>(writer.next().await?.map(|bytes| (bytes, writer)))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    let disposition = format!("attachment; filename=\"codex-image-service-{name}\"");
    respond::set(headers, header::CONTENT_DISPOSITION, &disposition);
    Ok(response)
}

struct Writer {
    app: App,
    filter: HistoryFilter,
    format: Format,
    /// Where the next page begins; empty at the end.
    pages: VecDeque<Option<i64>>,
    is_first: bool,
}

impl Writer {
    /// The next page in bytes; None at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Some(before) = self.pages.pop_front() else { return Ok(None) };
        let store = &self.app.store;
        let page =
            store.history_in_full(&self.filter, before, PAGE).await.inspect_err(|error| {
                // The download breaks off: a file that seems whole would be worse.
                tracing::error!(%error, "an export breaks off");
            })?;
        self.pages.extend(page.next.map(Some));
        let is_first = std::mem::take(&mut self.is_first);
        let base = &self.app.public_base_url;
        let bytes = match self.format {
            Format::Csv => {
                let mut csv = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
                // Into memory, and every value is text or a number: it cannot fail.
                if is_first {
                    let _ = csv.write_record(HEAD);
                }
                for row in &page.rows {
                    let _ = csv.serialize(Line::of(row, base, true));
                }
                csv.into_inner().unwrap_or_default()
            }
            Format::JsonLines => {
                let mut lines = Vec::new();
                for row in &page.rows {
                    let _ = serde_json::to_writer(&mut lines, &Line::of(row, base, false));
                    lines.push(b'\n');
                }
                lines
            }
        };
        Ok(Some(bytes.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_begins_a_formula_wherever_cells_end() {
        for (text, safe) in [
            ("a kite - red", "a kite - red"),
            ("=1+1", "'=1+1"),
            ("x;=1", "x;'=1"),
            ("x\n\"=1\"", "x\n\"'=1\""),
            ("x, @SUM(1)", "x, '@SUM(1)"),
            ("1-2", "1-2"),
        ] {
            assert_eq!(guarded(text), safe);
        }
    }

    #[test]
    fn the_head_names_every_column() {
        let row = HistoryRow { id: "i".into(), prompt: "p".into(), ..HistoryRow::default() };
        let line = serde_json::to_value(Line::of(&row, "", false)).unwrap();
        let mut names: Vec<_> = line.as_object().unwrap().keys().cloned().collect();
        let mut head = HEAD.map(str::to_owned).to_vec();
        names.sort();
        head.sort();
        assert_eq!(names, head);
    }
}
