//! The clean-up: what would go, doing it, and what the last ones did. The worker counts and removes.

use askama::Template;
use axum::{
    Form, Router,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
    routing::get,
};
use serde::Deserialize;

use super::{
    App,
    page::{Done, Page, Place, html, see_other},
    session::Operator,
    show::{self, Away, When},
    texts::Texts,
    trouble::Trouble,
};
use crate::store::{
    self,
    cleanups::CleanupRun,
    orders::{Order, OrderKind},
};

/// Runs that are shown.
const RUNS: u32 = 20;

/// `/admin/cleanup`.
pub(super) fn router() -> Router<App> {
    Router::new().route("/admin/cleanup", get(show_runs).post(ask))
}

/// A clean-up, ready to be shown.
struct Run {
    at: When,
    took: String,
    cause: &'static str,
    bytes: String,
    orphans: i64,
    is_nothing: bool,
    of: CleanupRun,
}

impl Run {
    fn of(t: &Texts, run: CleanupRun) -> Self {
        let orphans = run.orphan_files + run.orphan_rows;
        Self {
            at: When(run.finished_at),
            took: show::span(run.finished_at.saturating_sub(run.started_at)),
            cause: t.cause_of(&run.cause),
            bytes: show::bytes(run.bytes),
            is_nothing: run.expired_jobs + run.images + orphans + run.codex_threads == 0,
            orphans,
            of: run,
        }
    }
}

/// An order that failed: in words, and when.
struct Failed {
    words: String,
    at: When,
}

#[derive(Template)]
#[template(path = "cleanup.html")]
struct CleanupView {
    page: Page,
    counting: bool,
    cleaning: bool,
    failed: Option<Failed>,
    counted: Option<Run>,
    next: Option<Away>,
    by_timer: bool,
    runs: Vec<Run>,
}

async fn show_runs(
    State(app): State<App>,
    _: Operator,
    Query(done): Query<Done>,
) -> Result<Response, Trouble> {
    let page = Page::new(&app, Place::Cleanup).after(&done).of_worker(&app).await;
    let t = page.t;
    let store = &app.store;
    let count = store.latest_order(OrderKind::Count).await?;
    let clean_up = store.latest_order(OrderKind::CleanUp).await?;
    let is_open = |order: &Option<Order>| order.as_ref().is_some_and(|o| o.done_at.is_none());
    let (counting, cleaning) = (is_open(&count), is_open(&clean_up));
    let newest = count.into_iter().chain(clean_up).max_by_key(|order| order.seq);
    let failed = newest.filter(|order| order.failed).map(|order| Failed {
        words: order.outcome.unwrap_or_default(),
        at: When(order.done_at.unwrap_or(order.at)),
    });
    let now = store::now();
    let next = store.worker_facts().await?.next_cleanup_at.filter(|_| !page.no_worker);
    let runs = store.cleanup_runs(RUNS).await?;
    // What a clean-up has removed since is not to go any more.
    let newest = runs.first().map_or(0, |run| run.finished_at);
    let counted = store.latest_count().await?.filter(|count| count.started_at >= newest);
    let view = CleanupView {
        counting,
        cleaning,
        failed,
        counted: counted.map(|run| Run::of(t, run)),
        next: next.map(|at| Away { at, now }),
        by_timer: app.admin.cleanup_by_timer,
        runs: runs.into_iter().map(|run| Run::of(t, run)).collect(),
        page: page.refreshing(counting || cleaning),
    };
    html(StatusCode::OK, &view)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wish {
    dry_run: String,
}

async fn ask(
    State(app): State<App>,
    _: Operator,
    Form(wish): Form<Wish>,
) -> Result<Response, Trouble> {
    let what = if wish.dry_run.is_empty() { OrderKind::CleanUp } else { OrderKind::Count };
    app.queue.order(what, "", None).await?;
    tracing::info!(?what, "the worker is asked on the admin pages");
    Ok(see_other(&app, "/cleanup?done=asked"))
}
