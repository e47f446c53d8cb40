//! Keeps what the engine tells of its logins, and hands it back after a restart. A store that fails
//! never keeps a picture from being drawn: what could not be written is said in the log.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    codex::{
        Engine, LoginObserver,
        status::{Dispatch, LoginEvent, LoginNews, LoginStatus, QuotaWindow, Rest, RestReason},
    },
    store::{Store, StoreError},
};

/// How often it is looked whether another order was chosen or a login woken by hand.
const LOOK: Duration = Duration::from_secs(5);
/// When idle logins are looked at first, and how often from then on.
const FIRST_RENEWAL: Duration = Duration::from_mins(1);
const RENEWALS: Duration = Duration::from_hours(1);
/// A login is renewed when its token expires within this time, and not twice within it.
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
    let mut rests = store.login_rests().await?;
    let mut quotas: Vec<(String, Vec<QuotaWindow>)> = Vec::new();
    for (login, window) in store.login_quotas().await? {
        match quotas.last_mut().filter(|(last, _)| *last == login) {
            Some((_, windows)) => windows.push(window),
            None => quotas.push((login, vec![window])),
        }
    }
    for (login, windows) in quotas {
        let rest = rests.iter().position(|(rests, _)| *rests == login);
        engine.restore(&login, rest.map(|at| rests.swap_remove(at).1), windows);
    }
    for (login, rest) in rests {
        engine.restore(&login, Some(rest), Vec::new());
    }
    engine.set_dispatch(store.dispatch().await?);
    Ok(())
}

/// Renews idle logins before their tokens expire, until `stop`: one that expires while nobody draws
/// may be lost for good. Each at most daily.
pub async fn keep_alive(engine: Arc<dyn Engine>, stop: CancellationToken) {
    let first = tokio::time::Instant::now() + FIRST_RENEWAL;
    let mut look = tokio::time::interval_at(first, RENEWALS);
    let mut renewed: HashMap<String, Instant> = HashMap::new();
    while stop.run_until_cancelled(look.tick()).await.is_some() {
        let known = Arc::clone(&engine);
        let Ok(logins) = tokio::task::spawn_blocking(move || known.logins()).await else {
            continue;
        };
        let now = jiff::Timestamp::now().as_second();
        for login in logins.into_iter().filter(|login| expires_soon(login, now)) {
            // What was begun is finished: it may be a refresh.
            if stop.is_cancelled() {
                return;
            }
            if renewed.get(&login.label).is_some_and(|at| at.elapsed() < RENEWED_FOR) {
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

/// One that can be used, is not in use elsewhere, and expires within a day.
fn expires_soon(login: &LoginStatus, now: i64) -> bool {
    let soon = now + i64::try_from(RENEWED_FOR.as_secs()).unwrap_or(i64::MAX / 2);
    let over = login.rest.as_ref().is_some_and(|rest| rest.reason == RestReason::LoginExpired);
    login.problem.is_none()
        && !login.busy_elsewhere
        && !over
        && login.expires_at.is_some_and(|at| at < soon)
}

/// Writes down what is told until `stop`, and passes on which order of logins is wanted.
pub async fn keep(store: Store, engine: Arc<dyn Engine>, mut news: News, stop: CancellationToken) {
    let mut look = tokio::time::interval(LOOK);
    let mut tidy = tokio::time::interval(TIDY);
    let mut wanted = Wanted {
        dispatch: store.dispatch().await.ok(),
        line: store.newest_login_line().await.ok(),
    };
    // What is stored may be of an earlier process.
    let mut told = None;
    loop {
        let rest = engine.all_rest_until();
        if told != Some(rest) {
            match store.set_all_rest_until(rest).await {
                Ok(()) => told = Some(rest),
                Err(error) => tracing::error!(%error, "the front cannot be told of the logins"),
            }
        }
        let kept = tokio::select! {
            event = news.0.recv() => match event {
                Some(event) => write(&store, event).await,
                None => return,
            },
            _ = tidy.tick() => store.forget_old_login_history().await,
            _ = look.tick() => wanted.heed(&store, engine.as_ref()).await,
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

/// What was asked for on the command line, as far as it was heeded.
struct Wanted {
    dispatch: Option<Dispatch>,
    /// Of the audit trail.
    line: Option<i64>,
}

impl Wanted {
    async fn heed(&mut self, store: &Store, engine: &dyn Engine) -> Result<(), StoreError> {
        let dispatch = store.dispatch().await?;
        if self.dispatch.replace(dispatch) != Some(dispatch) {
            tracing::info!(dispatch = dispatch.as_str(), "logins are used in another order");
            engine.set_dispatch(dispatch);
        }
        let Some(line) = self.line else {
            self.line = Some(store.newest_login_line().await?);
            return Ok(());
        };
        let (woken, newest) = store.woken_since(line).await?;
        self.line = Some(newest);
        for login in &woken {
            tracing::info!(login, "login is woken by hand");
            engine.wake(login);
        }
        if !woken.is_empty() {
            // Those that had begun to wait again since the command.
            store.wake_jobs().await?;
        }
        Ok(())
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
    let until = jiff::Timestamp::from_second(rest.until).map(|time| time.to_string());
    format!("{}{limit} until {}", rest.reason.as_str(), until.unwrap_or_default())
}
