//! A login as the pages show it: put together from what the worker told and what the store counts.

use std::collections::HashMap;

use super::{
    App,
    chart::Hours,
    show::{Away, When},
    texts::Texts,
    trouble::Trouble,
};
use crate::{
    codex::status::{QuotaWindow, Rest, RestReason, UNTIL_WOKEN},
    store::{
        self,
        orders::Order,
        overview::{RecentUse, ToldLogin},
    },
};

/// Hours of the longest look at a login's success.
const MONTH: i64 = 30 * 24;
const HOUR_MS: i64 = 3_600_000;

/// A window of a quota.
pub(super) struct Window {
    pub(super) name: String,
    pub(super) used: u8,
    pub(super) resets: Option<Away>,
}

/// What was last asked of the worker about the login.
pub(super) struct Asked {
    pub(super) is_open: bool,
    pub(super) failed: bool,
    pub(super) words: String,
    pub(super) at: When,
}

/// A login.
pub(super) struct LoginCard {
    pub(super) label: String,
    /// The label within an address.
    pub(super) path: String,
    pub(super) state: &'static str,
    /// `good`, `wait` or `bad`.
    pub(super) class: &'static str,
    /// Why it rests, or what is wrong with it.
    pub(super) why: Option<String>,
    pub(super) rests: bool,
    /// None also where no time ends the rest.
    pub(super) rests_until: Option<When>,
    pub(super) account: Option<String>,
    pub(super) plan: Option<String>,
    pub(super) token: Option<Away>,
    pub(super) token_over: bool,
    pub(super) windows: Vec<Window>,
    pub(super) uses: RecentUse,
    /// See `IMAGE_WALL_48H`.
    pub(super) wall: Option<i64>,
    pub(super) forecast: Option<String>,
    pub(super) success_24h: Option<i64>,
    pub(super) success_30d: Option<i64>,
    pub(super) asked: Option<Asked>,
    pub(super) told_at: When,
}

/// Every login of the settings, and what was drawn by the hour.
pub(super) async fn cards(
    app: &App,
    t: &'static Texts,
) -> Result<(Vec<LoginCard>, Hours), Trouble> {
    let now = store::now();
    let store = &app.store;
    let told = store.told_logins().await?;
    let hours = Hours::of(store.turns_by_hour(now / HOUR_MS - MONTH).await?, now);
    let mut rests: HashMap<String, Rest> = store.login_rests().await?.into_iter().collect();
    let mut windows: HashMap<String, Vec<QuotaWindow>> = HashMap::new();
    for (login, window) in store.login_quotas().await? {
        windows.entry(login).or_default().push(window);
    }
    let by_login = |uses: RecentUse| (uses.login.clone(), uses);
    let mut uses: HashMap<String, RecentUse> =
        store.recent_uses().await?.into_iter().map(by_login).collect();
    let mut orders: HashMap<String, Order> = store
        .latest_login_orders()
        .await?
        .into_iter()
        .map(|order| (order.subject.as_str().to_owned(), order))
        .collect();
    let cards = told
        .into_iter()
        .map(|login| {
            let label = login.login.clone();
            let known = Known {
                rest: rests.remove(&label),
                windows: windows.remove(&label).unwrap_or_default(),
                uses: uses.remove(&label).unwrap_or_default(),
                order: orders.remove(&label),
            };
            card(t, login, known, &hours, app.admin.wall, now)
        })
        .collect();
    Ok((cards, hours))
}

/// What is known of a login beside what the worker told.
struct Known {
    rest: Option<Rest>,
    windows: Vec<QuotaWindow>,
    uses: RecentUse,
    order: Option<Order>,
}

fn card(
    t: &'static Texts,
    told: ToldLogin,
    known: Known,
    hours: &Hours,
    wall: Option<i64>,
    now: i64,
) -> LoginCard {
    let Known { rest, windows, uses, order } = known;
    let (state, class) = match (&told.problem_code, &rest, told.busy_elsewhere) {
        (Some(_), ..) => (t.login_problem, "bad"),
        (None, Some(_), _) => (t.login_rests, "wait"),
        (None, None, true) => (t.login_elsewhere, "wait"),
        (None, None, false) => (t.login_ready, "good"),
    };
    let why = match (&told.problem, &rest) {
        (Some(problem), _) => Some(problem.clone()),
        (None, Some(rest)) => Some(rest_words(t, rest)),
        (None, None) => None,
    };
    let (drawn, failed) = hours.sums(&told.login, MONTH);
    let forecast = wall.map(|wall| {
        let pace = format!("{:.1}", hours.pace(&told.login));
        t.wall_in(hours.hours_to_wall(&told.login, wall), &pace)
    });
    LoginCard {
        path: path_segment(&told.login),
        state,
        class,
        why,
        rests: rest.is_some(),
        rests_until: rest
            .filter(|rest| rest.until < UNTIL_WOKEN)
            .map(|rest| When(rest.until.saturating_mul(1000))),
        account: told.account,
        plan: told.plan,
        token: told.token_expires_at.map(|at| Away { at, now }),
        token_over: told.token_expires_at.is_some_and(|at| at <= now),
        windows: windows.iter().map(|window| shown(window, now)).collect(),
        success_24h: percent(uses.images_24h, uses.turns_24h),
        success_30d: percent(drawn, drawn + failed),
        uses,
        wall,
        forecast,
        asked: order.map(|order| asked(t, order)),
        told_at: When(told.told_at),
        label: told.login,
    }
}

fn percent(part: i64, whole: i64) -> Option<i64> {
    (whole > 0).then(|| part * 100 / whole)
}

fn rest_words(t: &Texts, rest: &Rest) -> String {
    let why = match rest.reason {
        RestReason::Quota => t.rest_quota,
        RestReason::LowQuota => t.rest_low_quota,
        RestReason::LoginExpired => t.rest_expired,
        RestReason::Faults => t.rest_faults,
        RestReason::ByHand => t.rest_by_hand,
    };
    rest.limit.as_ref().map_or_else(|| why.to_owned(), |limit| format!("{why} ({limit})"))
}

fn shown(window: &QuotaWindow, now: i64) -> Window {
    let length = match window.minutes {
        minutes if minutes % (24 * 60) == 0 => format!("{} d", minutes / (24 * 60)),
        minutes if minutes % 60 == 0 => format!("{} h", minutes / 60),
        minutes => format!("{minutes} min"),
    };
    Window {
        name: format!("{} · {length}", window.limit),
        used: window.used_percent.min(100),
        resets: window.resets_at.map(|at| Away { at: at.saturating_mul(1000), now }),
    }
}

fn asked(t: &Texts, order: Order) -> Asked {
    Asked {
        is_open: order.done_at.is_none(),
        failed: order.failed,
        words: order.outcome.unwrap_or_else(|| t.asked_of_worker.to_owned()),
        at: When(order.done_at.unwrap_or(order.at)),
    }
}

/// A text as one segment of a path (RFC 3986, 3.3): everything but the unreserved characters is
/// written as its bytes.
pub(super) fn path_segment(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut path, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                path.push(char::from(byte));
            }
            // Writing to a String cannot fail.
            _ => {
                let _ = write!(path, "%{byte:02X}");
            }
        }
        path
    })
}
