//! Carries out what the operator asks of the worker. An order is closed with words when it is done,
//! and only then: one that a killed worker left open is carried out by the next. What takes long
//! holds up only what would get in its way.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, oneshot},
    task::{self, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    activity::Activity,
    codex::Engine,
    logins::{self, Wanted},
    names::JobId,
    queue::bell::{Doorbell, Ring},
    retention::{Cause, Cleaner, Removal},
    store::{
        Store, StoreError, now,
        orders::{Order, OrderKind, Subject, rest_by_hand},
    },
};

/// How often it is looked for orders, and for what was asked on the command line, unasked.
const LOOK: Duration = Duration::from_secs(5);
/// OpenAI answers in seconds, or not.
const TEST: Duration = Duration::from_mins(2);
/// How often old orders are removed.
const TIDY: Duration = Duration::from_hours(24);

/// What orders are carried out with.
pub struct Orders {
    /// Where they stand.
    pub store: Store,
    /// What has the logins.
    pub engine: Arc<dyn Engine>,
    /// What removes files.
    pub cleaner: Arc<Cleaner>,
    /// The worker's own bell: jobs may begin.
    pub bell: Doorbell,
    /// Notified when an order was given.
    pub given: Arc<Notify>,
    /// To be notified when something about a login may have changed.
    pub changed: Arc<Notify>,
    /// What is carried out is under way.
    pub activity: Activity,
}

/// Of those in one lane one is carried out at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Lane {
    /// Done in a moment, in the order in which they were given.
    AtOnce,
    /// Asks OpenAI about this login.
    Login(String),
    Cleaning,
    Removing,
}

/// Words for whoever asked, or what failed on the worker's own side: then it is tried again.
type Outcome = Result<Result<String, String>, StoreError>;

impl Orders {
    /// Carries out orders until `stop`, from when this worker is the only one and was told what the
    /// worker before it knew: another's engine would heed none of them.
    pub async fn carry_out(self, begin: oneshot::Receiver<Wanted>, stop: CancellationToken) {
        let work = async {
            let Ok(wanted) = begin.await else { return };
            Arc::new(self).work(wanted).await;
        };
        // What is under way stops as well: it stays open, and is begun anew after the next start.
        stop.run_until_cancelled(work).await;
    }

    async fn work(self: Arc<Self>, mut wanted: Wanted) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tidy = tokio::time::interval(TIDY);
        let mut tasks = JoinSet::new();
        let mut under_way: HashMap<task::Id, (Lane, i64)> = HashMap::new();
        loop {
            if let Err(error) = self.begin(&mut wanted, &mut tasks, &mut under_way).await {
                tracing::error!(%error, "what was asked of the worker could not be carried out");
            }
            tokio::select! {
                () = self.given.notified() => {}
                _ = look.tick() => {}
                _ = tidy.tick() => {
                    if let Err(error) = self.store.forget_old_orders().await {
                        tracing::error!(%error, "old orders could not be removed");
                    }
                }
                Some(ended) = tasks.join_next_with_id() => {
                    let id = ended.as_ref().map_or_else(task::JoinError::id, |(id, ())| *id);
                    let order = under_way.remove(&id);
                    if let (Err(_), Some((_, seq))) = (ended, order) {
                        // It would do so again.
                        self.close(seq, Err("the worker failed; its log says more")).await;
                    }
                }
            }
        }
    }

    /// Carries out what is done in a moment, and begins what takes longer.
    async fn begin(
        self: &Arc<Self>,
        wanted: &mut Wanted,
        tasks: &mut JoinSet<()>,
        under_way: &mut HashMap<task::Id, (Lane, i64)>,
    ) -> Result<(), StoreError> {
        self.heed(wanted).await?;
        for order in self.store.open_orders().await? {
            let lane = Lane::of(&order);
            if lane == Lane::AtOnce {
                let outcome = self.at_once(&order, wanted).await?;
                self.finish(&order, outcome).await;
            } else if !under_way.values().any(|(taken, _)| *taken == lane) {
                let (orders, seq) = (Arc::clone(self), order.seq);
                let busy = self.activity.begin();
                let begun = tasks.spawn(async move {
                    orders.carry_out_one(&order).await;
                    drop(busy);
                });
                under_way.insert(begun.id(), (lane, seq));
            }
        }
        Ok(())
    }

    async fn heed(&self, wanted: &mut Wanted) -> Result<(), StoreError> {
        if wanted.heed(&self.store, self.engine.as_ref()).await? {
            self.bell.ring(&Ring::Any);
        }
        Ok(())
    }

    async fn at_once(&self, order: &Order, wanted: &mut Wanted) -> Outcome {
        let login = order.subject.as_str();
        if let Err(unknown) = self.known(login).await {
            return Ok(Err(unknown));
        }
        if order.what == OrderKind::WakeLogin {
            // As the command does, so that there is one way only.
            self.store.wake_login(login).await?;
            self.heed(wanted).await?;
            return Ok(Ok("woken".to_owned()));
        }
        let rest = rest_by_hand(order.until);
        if rest.until <= now() / 1000 {
            return Ok(Err("its time was over before it began".to_owned()));
        }
        // Before the order is closed: news of the engine are written when somebody comes to it.
        self.store.set_login_rest(login, Some(&rest)).await?;
        self.engine.rest(login, rest.until);
        Ok(Ok(logins::rest_in_words(&rest)))
    }

    /// Of the logins of the settings; the error is a sentence.
    async fn known(&self, login: &str) -> Result<(), String> {
        let engine = Arc::clone(&self.engine);
        let logins = task::spawn_blocking(move || engine.logins()).await.unwrap_or_default();
        if logins.iter().any(|known| known.label == login) {
            return Ok(());
        }
        let known: Vec<_> = logins.into_iter().map(|known| known.label).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(format!("there is no login {login}; known are: {known}"))
    }

    async fn carry_out_one(&self, order: &Order) {
        let outcome = match order.what {
            OrderKind::TestLogin => self.test(order.subject.as_str()).await,
            OrderKind::CleanUp => Ok(self.clean_up(false).await),
            OrderKind::Count => Ok(self.clean_up(true).await),
            OrderKind::RemoveJob => match &order.subject {
                Subject::Job(job) => self.remove(job).await,
                Subject::Nothing | Subject::Login(_) => return,
            },
            OrderKind::RestLogin | OrderKind::WakeLogin => return,
        };
        match outcome {
            Ok(outcome) => self.finish(order, outcome).await,
            Err(error) => {
                tracing::error!(%error, what = ?order.what, "an order could not be carried out");
                // Not at once again.
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    async fn remove(&self, job: &JobId) -> Outcome {
        Ok(match self.cleaner.remove_deleted(job).await? {
            Removal::Done => Ok("removed".to_owned()),
            Removal::Nothing => Ok("nothing of it was left".to_owned()),
            Removal::Partly => {
                Err("not all could be removed; the next clean-up tries again".to_owned())
            }
        })
    }

    async fn test(&self, login: &str) -> Outcome {
        if let Err(unknown) = self.known(login).await {
            return Ok(Err(unknown));
        }
        let asked = tokio::time::timeout(TEST, self.engine.account(login, false)).await;
        let outcome = match asked {
            Ok(Ok(account)) => Ok(logins::account_in_words(&account)),
            Ok(Err(failure)) => Err(format!("{} ({})", failure.message, failure.code)),
            Err(_) => Err("nothing was heard in time".to_owned()),
        };
        let words = outcome.as_ref().unwrap_or_else(|why| why);
        self.store.note_login(login, "tested", words).await?;
        Ok(outcome)
    }

    async fn clean_up(&self, dry_run: bool) -> Result<String, String> {
        let report = self.cleaner.run_and_note(Cause::Operator, dry_run).await;
        report.map_err(|error| error.to_string()).map(|report| match report.skipped.len() {
            0 => report.in_words(dry_run),
            skipped => format!("{} {skipped} folders were not searched.", report.in_words(dry_run)),
        })
    }

    async fn finish(&self, order: &Order, outcome: Result<String, String>) {
        let Order { seq, what, .. } = order;
        let subject = order.subject.as_str();
        match &outcome {
            Ok(words) => tracing::info!(?what, subject, "order carried out: {words}"),
            Err(why) => tracing::warn!(?what, subject, "order not carried out: {why}"),
        }
        self.close(*seq, outcome.as_deref().map_err(String::as_str)).await;
        self.changed.notify_one();
    }

    async fn close(&self, seq: i64, outcome: Result<&str, &str>) {
        if let Err(error) = self.store.close_order(seq, outcome).await {
            tracing::error!(%error, "what came of an order could not be written");
            // It is still open, and must not be carried out again and again.
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Lane {
    fn of(order: &Order) -> Self {
        match order.what {
            OrderKind::RestLogin | OrderKind::WakeLogin => Self::AtOnce,
            OrderKind::TestLogin => Self::Login(order.subject.as_str().to_owned()),
            OrderKind::CleanUp | OrderKind::Count => Self::Cleaning,
            OrderKind::RemoveJob => Self::Removing,
        }
    }
}
