//! What the worker tells the front of itself and of its logins, by the store: the front looks at no
//! Codex and into no login's home. An idle service writes hardly anything by it.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    activity::UnderWay,
    codex::{Engine, Failure, status::LoginStatus},
    store::{Store, StoreError, now, overview::ToldLogin},
};

/// How often it is looked how all stands when nothing is heard of it, and how often at most.
const LOOK: Duration = Duration::from_mins(1);
const LOOK_AT_MOST: Duration = Duration::from_secs(1);
/// What has not changed is told again after so long, in milliseconds.
const TOLD_AGAIN: i64 = 60 * 60 * 1000;

/// Tells until `stop`, from when this worker is the only one: at once, when `changed` is notified,
/// now and then, and a last time at the end: what it told holds while no worker is there. `beginning`
/// is under way until something was told.
pub async fn front(
    store: Store,
    engine: Arc<dyn Engine>,
    changed: Arc<Notify>,
    mut on_duty: watch::Receiver<bool>,
    beginning: UnderWay,
    stop: CancellationToken,
) {
    let begun = stop.run_until_cancelled(on_duty.wait_for(|on_duty| *on_duty)).await;
    if begun.is_none_or(|begun| begun.is_err()) {
        return;
    }
    let started_at = now();
    let mut teller = Teller { store, engine, started_at, itself: None, logins: None };
    let mut beginning = Some(beginning);
    loop {
        teller.tell_or_say().await;
        beginning.take();
        let next = async {
            // News come in flocks.
            tokio::time::sleep(LOOK_AT_MOST).await;
            let _ = tokio::time::timeout(LOOK, changed.notified()).await;
        };
        if stop.run_until_cancelled(next).await.is_none() {
            return teller.tell_or_say().await;
        }
    }
}

struct Teller {
    store: Store,
    engine: Arc<dyn Engine>,
    started_at: i64,
    /// As it was told.
    itself: Option<Itself>,
    logins: Option<Vec<ToldLogin>>,
}

/// What a worker tells of itself.
#[derive(PartialEq)]
struct Itself {
    /// Which Codex it is shows when somebody has a reason to ask it.
    version: Option<String>,
    /// What stands in the way of every picture; of logins each tells by itself.
    problem: Option<Failure>,
}

impl Itself {
    fn of(engine: &dyn Engine) -> Self {
        Self { version: engine.version(), problem: engine.known_problem() }
    }
}

impl Teller {
    async fn tell_or_say(&mut self) {
        if let Err(error) = self.tell().await {
            tracing::error!(%error, "the front cannot be told how the worker stands");
        }
    }

    async fn tell(&mut self) -> Result<(), StoreError> {
        let engine = Arc::clone(&self.engine);
        let look = move || (Itself::of(engine.as_ref()), engine.logins());
        let Ok((itself, logins)) = tokio::task::spawn_blocking(look).await else { return Ok(()) };
        if self.itself.as_ref() != Some(&itself) {
            let Itself { version, problem } = &itself;
            let problem = problem.as_ref().map(|it| (it.code.as_str(), it.message.as_str()));
            self.store.tell_worker(self.started_at, version.as_deref(), problem).await?;
            self.itself = Some(itself);
        }
        let known = match &mut self.logins {
            Some(known) => known,
            // What an earlier process told holds, too.
            none => none.insert(self.store.told_logins().await?),
        };
        let now = now();
        let logins: Vec<_> = logins.into_iter().map(|login| standing(login, now)).collect();
        let holds = |(old, new): (&ToldLogin, &ToldLogin)| {
            let age = now.saturating_sub(old.told_at);
            old.says_the_same(new) && (0..TOLD_AGAIN).contains(&age)
        };
        if known.len() != logins.len() || !known.iter().zip(&logins).all(holds) {
            self.store.tell_logins(&logins).await?;
            *known = logins;
        }
        Ok(())
    }
}

fn standing(login: LoginStatus, now: i64) -> ToldLogin {
    ToldLogin {
        login: login.label,
        account: login.account,
        plan: login.plan,
        token_expires_at: login.expires_at.map(|at| at.saturating_mul(1000)),
        problem_code: login.problem.as_ref().map(|problem| problem.code.as_str().to_owned()),
        problem: login.problem.map(|problem| problem.message),
        busy_elsewhere: login.busy_elsewhere,
        told_at: now,
    }
}
