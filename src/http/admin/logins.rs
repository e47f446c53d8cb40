//! The logins: how each stands, what may be asked of the worker about it, and what has happened.

use askama::Template;
use axum::{
    Form, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use serde::Deserialize;

use super::{
    App,
    filter::Choice,
    login_card::{LoginCard, cards},
    page::{Done, Page, Place, html, see_other},
    session::Operator,
    show::When,
    trouble::Trouble,
};
use crate::{
    codex::status::UNTIL_WOKEN,
    store::{self, logins::LoginRecord, orders::OrderKind},
};

/// Lines of the audit trail.
const LINES: u32 = 200;
const HOUR_MS: i64 = 3_600_000;
/// The longest rest by hand that has an end, in hours: a year.
const LONGEST: i64 = 365 * 24;

/// `/admin/logins` and what may be asked there.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/admin/logins", get(list))
        .route("/admin/logins/{label}/test", post(test))
        .route("/admin/logins/{label}/rest", post(rest))
        .route("/admin/logins/{label}/wake", post(wake))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wanted {
    /// Only the trail of this login.
    login: String,
    done: String,
}

/// A line of the audit trail.
struct Line {
    at: When,
    record: LoginRecord,
}

#[derive(Template)]
#[template(path = "logins.html")]
struct LoginsView {
    page: Page,
    logins: Vec<LoginCard>,
    choices: Vec<Choice>,
    lines: Vec<Line>,
}

async fn list(
    State(app): State<App>,
    _: Operator,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Trouble> {
    let page = Page::new(&app, Place::Logins).after(&Done { done: wanted.done });
    let page = page.of_worker(&app).await;
    let (logins, _) = cards(&app, page.t).await?;
    let only = Some(wanted.login.as_str()).filter(|login| !login.is_empty());
    let mut records = app.store.login_trail(only, LINES).await?;
    records.reverse();
    let choices = logins.iter().map(|login| Choice {
        value: login.label.clone(),
        text: login.label.clone(),
        chosen: login.label == wanted.login,
    });
    let is_waited_for = logins.iter().any(|login| login.asked.as_ref().is_some_and(|a| a.is_open));
    let view = LoginsView {
        choices: choices.collect(),
        lines: records.into_iter().map(|record| Line { at: When(record.at), record }).collect(),
        logins,
        page: page.refreshing(is_waited_for),
    };
    html(StatusCode::OK, &view)
}

async fn test(
    State(app): State<App>,
    _: Operator,
    Path(label): Path<String>,
) -> Result<Response, Trouble> {
    ask(&app, &label, OrderKind::TestLogin, None).await
}

#[derive(Deserialize)]
struct Hours {
    /// 0: until it is woken.
    hours: String,
}

async fn rest(
    State(app): State<App>,
    _: Operator,
    Path(label): Path<String>,
    Form(form): Form<Hours>,
) -> Result<Response, Trouble> {
    let hours: i64 = form.hours.parse().unwrap_or(-1);
    if !(0..=LONGEST).contains(&hours) {
        return Err(Trouble::Bad(format!(
            "'hours' must be a whole number from 0 (until it is woken) to {LONGEST}."
        )));
    }
    let until = match hours {
        0 => UNTIL_WOKEN.saturating_mul(1000),
        hours => store::now().saturating_add(hours * HOUR_MS),
    };
    ask(&app, &label, OrderKind::RestLogin, Some(until)).await
}

async fn wake(
    State(app): State<App>,
    _: Operator,
    Path(label): Path<String>,
) -> Result<Response, Trouble> {
    ask(&app, &label, OrderKind::WakeLogin, None).await
}

async fn ask(
    app: &App,
    label: &str,
    what: OrderKind,
    until: Option<i64>,
) -> Result<Response, Trouble> {
    let known = app.store.told_logins().await?;
    if !known.iter().any(|login| login.login == label) {
        return Err(Trouble::NoLogin);
    }
    app.queue.order(what, label, until).await?;
    tracing::info!(login = label, ?what, "the worker is asked on the admin pages");
    Ok(see_other(app, "/logins?done=asked"))
}
