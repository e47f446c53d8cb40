//! The overview: how the service, its queue and its logins stand.

use std::{path::Path, sync::Arc};

use askama::Template;
use axum::{
    Form, Router,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use serde::Deserialize;

use super::{
    super::health,
    App,
    chart::{Hourly, Rolling},
    history::Row,
    login_card::{LoginCard, cards},
    page::{Done, Page, Place, html, see_other},
    session::Operator,
    show::{self, Away},
    texts::filled,
    trouble::Trouble,
};
use crate::{
    codex::status::Dispatch,
    store::{
        self,
        history::HistoryFilter,
        overview::{QueueNow, Totals, WorkerFacts},
    },
};

/// Jobs on the overview.
const LAST: u32 = 10;

/// `/admin` and the order of the logins.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/admin", get(overview))
        // Who types an address often ends it so.
        .route("/admin/", get(overview))
        .route("/admin/dispatch-mode", post(set_dispatch))
}

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    page: Page,
    totals: Totals,
    queue: QueueNow,
    oldest: Option<Away>,
    stored: String,
    logins: Vec<LoginCard>,
    /// Where the deeds on a card lead back to.
    hourly: Hourly,
    hourly_words: String,
    rolling: Rolling,
    rolling_words: String,
    primary_first: bool,
    service: Service,
    jobs: Vec<Row>,
}

/// What the service says of itself.
struct Service {
    version: &'static str,
    codex_version: Option<String>,
    codex_problem: Option<String>,
    uptime: String,
    worker_uptime: Option<String>,
    /// Free, and all.
    disk: Option<(String, String)>,
    next_cleanup: Option<Away>,
    cleanup_by_timer: bool,
    address: String,
}

async fn overview(
    State(app): State<App>,
    _: Operator,
    Query(done): Query<Done>,
) -> Result<Response, Trouble> {
    let page = Page::new(&app, Place::Overview).after(&done).of_worker(&app).await;
    let t = page.t;
    let now = store::now();
    let (logins, hours) = cards(&app, t).await?;
    let is_waited_for = logins.iter().any(|login| login.asked.as_ref().is_some_and(|a| a.is_open));
    let hourly = hours.hourly();
    let labels: Vec<String> = logins.iter().map(|login| login.label.clone()).collect();
    let rolling = hours.rolling(&labels, app.admin.wall);
    let each: Vec<_> = rolling.lines.iter().map(|line| (line.login.clone(), line.now)).collect();
    let totals = app.store.totals().await?;
    let queue = app.store.queue_now().await?;
    let rows = app.store.history(&HistoryFilter::default(), None, LAST).await?.rows;
    let shown = OverviewPage {
        oldest: queue.oldest_at.map(|at| Away { at, now }),
        queue,
        stored: show::bytes(totals.stored_bytes),
        totals,
        hourly_words: filled(t.hourly_chart, &[&hourly.images, &hourly.most]),
        hourly,
        rolling_words: t.rolling_chart(&each, rolling.wall),
        rolling,
        logins,
        primary_first: app.store.dispatch().await? == Dispatch::PrimaryFirst,
        service: service(&app, !page.no_worker, now).await?,
        jobs: rows.into_iter().map(|row| Row::of(t, row, now)).collect(),
        page: page.refreshing(is_waited_for),
    };
    html(StatusCode::OK, &shown)
}

async fn service(app: &App, has_worker: bool, now: i64) -> Result<Service, Trouble> {
    // What one told that is gone holds no more.
    let mut facts =
        if has_worker { app.store.worker_facts().await? } else { WorkerFacts::default() };
    if !health::is_worker_awake(app).await {
        // One that comes when it is needed is up for no time.
        facts.started_at = None;
    }
    let folder: Arc<Path> = app.generated_dir.as_path().into();
    // A network's disk may take its time.
    let disk = tokio::task::spawn_blocking(move || health::disk_bytes(&folder)).await;
    let bytes = |bytes: u64| show::bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
    let up = i64::try_from(app.admin.started.elapsed().as_millis()).unwrap_or(i64::MAX);
    Ok(Service {
        version: env!("CARGO_PKG_VERSION"),
        codex_version: facts.codex_version,
        codex_problem: facts.problem,
        uptime: show::span(up),
        worker_uptime: facts.started_at.map(|at| show::span(now.saturating_sub(at))),
        disk: disk.ok().flatten().map(|(free, all)| (bytes(free), bytes(all))),
        next_cleanup: facts.next_cleanup_at.map(|at| Away { at, now }),
        cleanup_by_timer: app.admin.cleanup_by_timer,
        address: format!("{}/v1", app.public_base_url),
    })
}

#[derive(Deserialize)]
struct Order {
    mode: String,
}

async fn set_dispatch(
    State(app): State<App>,
    _: Operator,
    Form(form): Form<Order>,
) -> Result<Response, Trouble> {
    let Some(mode) = Dispatch::of(&form.mode) else {
        return Err(Trouble::Bad("'mode' must be round-robin or primary-first.".to_owned()));
    };
    app.store.set_dispatch(mode).await?;
    Ok(see_other(&app, "?done=order"))
}
