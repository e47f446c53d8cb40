//! The history: every job, looked for and paged by cursor.

use askama::Template;
use axum::{
    Router,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
    routing::get,
};

use super::{
    App,
    filter::{FilterForm, FilterQuery},
    page::{Done, Page, Place, html},
    session::Operator,
    show::{self, When},
    texts::{Texts, filled},
    trouble::Trouble,
};
use crate::store::{
    self,
    history::{HistoryPage, HistoryRow},
    jobs::JobState,
};

/// Jobs on a page.
const PAGE: u32 = 30;
/// Pictures of a job in a list.
const SHOWN: usize = 4;

/// `/admin/requests`.
pub(super) fn router() -> Router<App> {
    Router::new().route("/admin/requests", get(list))
}

/// A job in a list, ready to be shown.
pub(super) struct Row {
    pub(super) id: String,
    pub(super) state: &'static str,
    pub(super) class: &'static str,
    pub(super) is_open: bool,
    /// Hostile.
    pub(super) prompt: String,
    pub(super) key_name: String,
    pub(super) logins: String,
    pub(super) created: When,
    /// How long it took, or has taken until now.
    pub(super) took: Option<String>,
    pub(super) files: Vec<String>,
    /// Pictures that are not among those.
    pub(super) more: usize,
    pub(super) error_code: Option<String>,
}

impl Row {
    pub(super) fn of(t: &Texts, row: HistoryRow, now: i64) -> Self {
        let files: Vec<String> = row.files().map(str::to_owned).collect();
        let until = if row.state.is_final() { row.finished_at } else { Some(now) };
        Self {
            state: t.job_state(row.state),
            class: class(row.state),
            is_open: !row.state.is_final(),
            created: When(row.created_at),
            took: row
                .started_at
                .zip(until)
                .map(|(from, until)| show::span(until.saturating_sub(from))),
            more: files.len().saturating_sub(SHOWN),
            files: files.into_iter().take(SHOWN).collect(),
            logins: row.logins.unwrap_or_default().replace(',', ", "),
            id: row.id,
            prompt: if row.is_cut { row.prompt + "…" } else { row.prompt },
            key_name: row.key_name,
            error_code: row.error_code,
        }
    }
}

/// How a state looks.
pub(super) fn class(state: JobState) -> &'static str {
    match state {
        JobState::Succeeded => "good",
        JobState::Queued | JobState::Running => "wait",
        JobState::Failed => "bad",
        JobState::Cancelled | JobState::Expired => "off",
    }
}

#[derive(Template)]
#[template(path = "history.html")]
struct HistoryView {
    page: Page,
    filter: FilterForm,
    rows: Vec<Row>,
    paging: Paging,
}

/// Where a list goes on.
pub(super) struct Paging {
    /// The page is not the first.
    pub(super) is_later: bool,
    pub(super) next: Option<i64>,
    /// The page is not full although there are older ones.
    pub(super) looked_at: Option<String>,
    /// The address of the list.
    pub(super) path: &'static str,
}

impl Paging {
    pub(super) fn of(
        t: &Texts,
        page: &HistoryPage,
        before: Option<i64>,
        path: &'static str,
    ) -> Self {
        Self {
            is_later: before.is_some(),
            next: page.next,
            looked_at: page.looked_at.map(|jobs| filled(t.looked_at, &[&jobs])),
            path,
        }
    }
}

/// The form of a list, with what can be chosen.
pub(super) async fn form(app: &App, query: &FilterQuery) -> Result<FilterForm, Trouble> {
    Ok(query.form(app.store.list_keys().await?, app.store.told_logins().await?))
}

async fn list(
    State(app): State<App>,
    _: Operator,
    Query(query): Query<FilterQuery>,
) -> Result<Response, Trouble> {
    let (filter, before) = query.read()?;
    let found = app.store.history(&filter, before, PAGE).await?;
    let page = Page::new(&app, Place::History).after(&Done { done: query.done.clone() });
    let (t, now) = (page.t, store::now());
    let view = HistoryView {
        filter: form(&app, &query).await?,
        paging: Paging::of(t, &found, before, "requests"),
        rows: found.rows.into_iter().map(|row| Row::of(t, row, now)).collect(),
        page,
    };
    html(StatusCode::OK, &view)
}
