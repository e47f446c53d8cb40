//! Keeps what the engine tells of its logins, and hands it back after a restart. A store that fails
//! never keeps a picture from being drawn: what could not be written is said in the log.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    activity::Activity,
    codex::{
        Engine, LoginObserver,
        status::{
            Account, Dispatch, LoginEvent, LoginNews, LoginStatus, QuotaWindow, Rest, RestReason,
            UNTIL_WOKEN,
        },
    },
    store::{Store, StoreError, now},
};

/// How often it is looked whether a rest is over for which nobody was told anything.
const LOOK: Duration = Duration::from_secs(5);
/// When idle logins are looked at first, and how often from then on.
const FIRST_RENEWAL: Duration = Duration::from_mins(1);
const RENEWALS: Duration = Duration::from_hours(1);
/// A login is renewed when its token expires within this time: where a worker is there only now and
/// then, a timer starts one daily, and may miss a day.
const EXPIRES_SOON: Duration = Duration::from_hours(48);
/// And not twice within this one.
const RENEWED_FOR: Duration = Duration::from_hours(24);
/// How often old history is removed.
const TIDY: Duration = Duration::from_hours(24);

/// The end of the line at which news arrive.
pub struct News(mpsc::UnboundedReceiver<LoginEvent>);

/// An observer for the engine, and where what it is told arrives. News are few: a handful for a
/// picture at most.
#[must_use]
pub fn observer() -> (LoginObserver, News) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let observer = Arc::new(move |event| {
        // Nobody listens any more: the service is about to end.
        let _ = sender.send(event);
    });
    (observer, News(receiver))
}

/// Tells the engine what was known before the restart.
///
/// # Errors
/// When the store cannot be read.
pub async fn restore(store: &Store, engine: &dyn Engine) -> Result<(), StoreError> {
    let mut quotas: Vec<(String, Vec<QuotaWindow>)> = Vec::new();
    for (login, window) in store.login_quotas().await? {
        match quotas.last_mut().filter(|(last, _)| *last == login) {
            Some((_, windows)) => windows.push(window),
            None => quotas.push((login, vec![window])),
        }
    }
    for (login, windows) in quotas {
        engine.restore(&login, None, windows);
    }
    for (login, rest) in store.login_rests().await?.into_iter().chain(store.rests_by_hand().await?)
    {
        engine.restore(&login, Some(rest), Vec::new());
    }
    engine.set_dispatch(store.dispatch().await?);
    Ok(())
}

/// Renews idle logins before their tokens expire, until `stop`: one that expires while nobody draws
/// may be lost for good. Each at most daily.
///
/// A worker that may end soon (`at_once`) begins as soon as it is the only one, and does not end
/// before its first look is over.
pub async fn keep_alive(
    store: Store,
    engine: Arc<dyn Engine>,
    mut on_duty: watch::Receiver<bool>,
    activity: Activity,
    at_once: bool,
    stop: CancellationToken,
) {
    let mut first_look = at_once.then(|| activity.begin());
    let first = if at_once { Duration::ZERO } else { FIRST_RENEWAL };
    let begun = stop.run_until_cancelled(on_duty.wait_for(|on_duty| *on_duty)).await;
    if begun.is_none_or(|begun| begun.is_err()) {
        return;
    }
    let first = tokio::time::Instant::now() + first;
    let mut look = tokio::time::interval_at(first, RENEWALS);
    let mut renewed: HashMap<String, Instant> = HashMap::new();
    while stop.run_until_cancelled(look.tick()).await.is_some() {
        let _under_way = first_look.take().unwrap_or_else(|| activity.begin());
        let known = Arc::clone(&engine);
        let Ok(logins) = tokio::task::spawn_blocking(move || known.logins()).await else {
            continue;
        };
        let now = now() / 1000;
        for login in logins.into_iter().filter(|login| expires_soon(login, now)) {
            // What was begun is finished: it may be a refresh.
            if stop.is_cancelled() {
                return;
            }
            if renewed.get(&login.label).is_some_and(|at| at.elapsed() < RENEWED_FOR) {
                continue;
            }
            if was_renewed_lately(&store, &login.label).await {
                continue;
            }
            renewed.insert(login.label.clone(), Instant::now());
            match engine.account(&login.label, true).await {
                Ok(_) => tracing::info!(login = login.label, "idle login renewed"),
                Err(failure) => {
                    tracing::warn!(
                        login = login.label,
                        code = failure.code.as_str(),
                        "an idle login could not be renewed: {}",
                        failure.message
                    );
                }
            }
        }
    }
}

/// By a process before this one, or by a turn.
async fn was_renewed_lately(store: &Store, login: &str) -> bool {
    let since = now().saturating_sub(i64::try_from(RENEWED_FOR.as_millis()).unwrap_or(i64::MAX));
    store.was_rotated_since(login, since).await.unwrap_or_else(|error| {
        tracing::error!(%error, "it is not known when a login was renewed");
        false
    })
}

/// One that can be used, is not in use elsewhere, and expires within two days.
fn expires_soon(login: &LoginStatus, now: i64) -> bool {
    let soon = now + i64::try_from(EXPIRES_SOON.as_secs()).unwrap_or(i64::MAX / 2);
    let over = login.rest.as_ref().is_some_and(|rest| rest.reason == RestReason::LoginExpired);
    login.problem.is_none()
        && !login.busy_elsewhere
        && !over
        && login.expires_at.is_some_and(|at| at < soon)
}

/// Writes down what is told until `stop`, and notifies `changed` of it. Until this worker is the
/// only one, another tells the front whether all logins rest.
pub async fn keep(
    store: Store,
    engine: Arc<dyn Engine>,
    mut news: News,
    changed: Arc<Notify>,
    mut on_duty: watch::Receiver<bool>,
    stop: CancellationToken,
) {
    let mut look = tokio::time::interval(LOOK);
    let mut tidy = tokio::time::interval(TIDY);
    // What is stored may be of an earlier process.
    let mut told = None;
    loop {
        let rest = engine.all_rest_until();
        if *on_duty.borrow() && told != Some(rest) {
            match store.set_all_rest_until(rest).await {
                Ok(()) => told = Some(rest),
                Err(error) => tracing::error!(%error, "the front cannot be told of the logins"),
            }
        }
        let kept = tokio::select! {
            event = news.0.recv() => match event {
                Some(event) => {
                    let written = write(&store, event).await;
                    changed.notify_one();
                    written
                }
                None => return,
            },
            _ = tidy.tick() => store.forget_old_login_history().await,
            _ = look.tick() => Ok(()),
            Ok(()) = on_duty.changed() => Ok(()),
            () = stop.cancelled() => break,
        };
        if let Err(error) = kept {
            tracing::error!(%error, "the history of the logins cannot be kept");
        }
    }
    // What was told until now; the store is closed after this.
    while let Ok(event) = news.0.try_recv() {
        if let Err(error) = write(&store, event).await {
            tracing::error!(%error, "the history of the logins cannot be kept");
            return;
        }
    }
}

/// What is wanted of the logins by whoever writes it into the store, as far as it was heeded.
pub struct Wanted {
    dispatch: Option<Dispatch>,
    /// Of the audit trail.
    line: Option<i64>,
}

impl Wanted {
    /// From now on, what is wanted is news.
    pub async fn new(store: &Store) -> Self {
        Self { dispatch: store.dispatch().await.ok(), line: store.newest_login_line().await.ok() }
    }

    /// Follows a change of the order of logins, and wakes those that were woken by hand; true when
    /// there was one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn heed(&mut self, store: &Store, engine: &dyn Engine) -> Result<bool, StoreError> {
        let dispatch = store.dispatch().await?;
        if self.dispatch.replace(dispatch) != Some(dispatch) {
            tracing::info!(dispatch = dispatch.as_str(), "logins are used in another order");
            engine.set_dispatch(dispatch);
        }
        let Some(line) = self.line else {
            self.line = Some(store.newest_login_line().await?);
            return Ok(false);
        };
        let (woken, newest) = store.woken_since(line).await?;
        self.line = Some(newest);
        for login in &woken {
            tracing::info!(login, "login is woken by hand");
            engine.wake(login);
        }
        if !woken.is_empty() {
            // Those that had begun to wait again since it was written.
            store.wake_jobs().await?;
        }
        Ok(!woken.is_empty())
    }
}

async fn write(store: &Store, LoginEvent { login, what }: LoginEvent) -> Result<(), StoreError> {
    match what {
        LoginNews::Quota(windows) => store.note_quota(&login, &windows).await,
        LoginNews::Rests(rest) => {
            store.set_login_rest(&login, Some(&rest)).await?;
            store.note_login(&login, "rests", &rest_in_words(&rest)).await
        }
        LoginNews::Wakes => {
            store.set_login_rest(&login, None).await?;
            store.note_login(&login, "wakes", "used again before its rest was over").await
        }
        LoginNews::Failed(code) => store.note_login(&login, "failed", code.as_str()).await,
        LoginNews::Rotated { before, after } => {
            let before = before.as_deref().unwrap_or("unknown");
            store.note_login(&login, "rotated", &format!("refresh token {before} -> {after}")).await
        }
        LoginNews::Killed { why, during_refresh } => {
            let mark =
                if during_refresh { "; a refresh was due, the login may be lost" } else { "" };
            store.note_login(&login, "killed", &format!("Codex {why}{mark}")).await
        }
    }
}

/// Such as `quota (image_gen) until 2026-11-24T15:00:00Z`.
#[must_use]
pub fn rest_in_words(rest: &Rest) -> String {
    let limit = rest.limit.as_ref().map(|limit| format!(" ({limit})")).unwrap_or_default();
    let until = match jiff::Timestamp::from_second(rest.until) {
        Ok(time) if rest.until < UNTIL_WOKEN => time.to_string(),
        _ => "woken".to_owned(),
    };
    format!("{}{limit} until {until}", rest.reason.as_str())
}

/// Such as `codex 5 h: 12 % used`.
#[must_use]
pub fn window_in_words(window: &QuotaWindow) -> String {
    let length = match window.minutes {
        minutes if minutes % 1440 == 0 => format!("{} d", minutes / 1440),
        minutes if minutes % 60 == 0 => format!("{} h", minutes / 60),
        minutes => format!("{minutes} min"),
    };
    format!("{} {length}: {} % used", window.limit, window.used_percent)
}

/// Such as `plus; codex 5 h: 12 % used, image_gen 5 h: 5 % used`.
#[must_use]
pub fn account_in_words(account: &Account) -> String {
    let plan = account.plan.as_deref().unwrap_or("a plan that was not told");
    let windows: Vec<_> = account.quota.iter().map(window_in_words).collect();
    if windows.is_empty() { plan.to_owned() } else { format!("{plan}; {}", windows.join(", ")) }
}
