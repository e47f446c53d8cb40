//! Table `orders`: what the operator asks of the worker. The worker looks here and carries out what
//! is open, in its order; what came of it is kept for a while.

use sqlx::{FromRow, Row as _, sqlite::SqliteRow};

use super::{
    Store, StoreError,
    logins::BY_HAND,
    now,
    strangers::{none_of_ours, short},
};
use crate::{
    codex::status::{Rest, RestReason, UNTIL_WOKEN},
    names::{JobId, is_label},
};

/// How long orders that were carried out are kept, in milliseconds.
const KEPT: i64 = 30 * 24 * 60 * 60 * 1000;
/// The longest rest that has an end, in milliseconds.
const LONGEST_REST: i64 = 2 * 365 * 24 * 60 * 60 * 1000;

/// What may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(rename_all = "snake_case")]
pub enum OrderKind {
    /// Ask OpenAI about a login.
    TestLogin,
    /// Leave a login alone until a time.
    RestLogin,
    /// End a login's rest.
    WakeLogin,
    /// Remove what has expired.
    CleanUp,
    /// Count what a clean-up would remove.
    Count,
    /// Remove the files of a deleted job.
    RemoveJob,
}

/// What an order is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// There is nothing to name.
    Nothing,
    /// A login, by its label; whether there is one the settings say.
    Login(String),
    /// A job.
    Job(JobId),
}

impl Subject {
    /// The word of the store.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Nothing => "",
            Self::Login(label) => label,
            Self::Job(id) => id.as_str(),
        }
    }

    /// What the word stands for in an order of this kind, if for anything.
    fn of(what: OrderKind, word: &str) -> Option<Self> {
        match what {
            OrderKind::TestLogin | OrderKind::RestLogin | OrderKind::WakeLogin => {
                is_label(word).then(|| Self::Login(word.to_owned()))
            }
            OrderKind::CleanUp | OrderKind::Count => word.is_empty().then_some(Self::Nothing),
            OrderKind::RemoveJob => JobId::parse(word).map(Self::Job),
        }
    }
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its number.
    pub seq: i64,
    /// When it was given, in milliseconds.
    pub at: i64,
    /// What is asked.
    pub what: OrderKind,
    /// What it is about.
    pub subject: Subject,
    /// Of a rest, in milliseconds.
    pub until: Option<i64>,
    /// When it had been carried out, in milliseconds.
    pub done_at: Option<i64>,
    /// It could not be carried out.
    pub failed: bool,
    /// What came of it, in words.
    pub outcome: Option<String>,
}

impl FromRow<'_, SqliteRow> for Order {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let what = row.try_get("what")?;
        let subject = Subject::of(what, row.try_get("subject")?);
        Ok(Self {
            seq: row.try_get("seq")?,
            at: row.try_get("at")?,
            what,
            subject: subject.ok_or_else(|| none_of_ours("subject"))?,
            until: row.try_get("until")?,
            done_at: row.try_get("done_at")?,
            failed: row.try_get("failed")?,
            outcome: row.try_get("outcome")?,
        })
    }
}

/// The columns of an order, as far as they could be one's.
macro_rules! order_columns {
    () => {
        concat!(
            "SELECT seq, at, ",
            short!("what", 64),
            ", ",
            short!("subject", 255),
            ", until, done_at, failed, ",
            short!("outcome", 16384),
            " FROM orders "
        )
    };
}

/// Open orders that are looked at together.
const PAGE: usize = 100;
/// Logins, at most, of which orders are looked at.
const MOST_LOGINS: u32 = 1000;

/// The rest of an order, whose time is in milliseconds. Without one, or with one that nobody is
/// going to wait for, it lasts until somebody ends it.
#[must_use]
pub fn rest_by_hand(until: Option<i64>) -> Rest {
    let until = until.filter(|until| *until < now() + LONGEST_REST);
    let until = until.map_or(UNTIL_WOKEN, |until| until / 1000);
    Rest { until, reason: RestReason::ByHand, limit: None }
}

/// Of `orders AS o`: is it a rest by hand that is in force? `?1` is now, and `?2` [`BY_HAND`]. A macro,
/// for only literals are joined at compile time.
macro_rules! in_force {
    () => {
        "coalesce(until > ?1, 1) AND seq = \
         (SELECT max(seq) FROM orders WHERE subject = o.subject AND what = 'rest_login' \
          AND done_at IS NOT NULL AND NOT failed) \
         AND NOT EXISTS (SELECT 1 FROM login_events WHERE login = o.subject \
          AND what = 'wakes' AND detail = ?2 AND at >= o.done_at)"
    };
}

impl Store {
    /// Asks something of the worker.
    pub async fn give_order(
        &self,
        what: OrderKind,
        subject: &str,
        until: Option<i64>,
    ) -> Result<i64, StoreError> {
        let done = sqlx::query(
            // Asked twice in a row before it was carried out, it is carried out once. What is asked
            // of the same subject in between counts.
            "INSERT INTO orders (at, what, subject, until) SELECT ?1, ?2, ?3, ?4 WHERE NOT EXISTS \
             (SELECT 1 FROM orders WHERE what = ?2 AND until IS ?4 AND seq = \
              (SELECT max(seq) FROM orders WHERE done_at IS NULL AND subject = ?3 \
               AND (?3 <> '' OR what = ?2)))",
        )
        .bind(now())
        .bind(what)
        .bind(subject)
        .bind(until)
        .execute(&self.write)
        .await?;
        Ok(done.last_insert_rowid())
    }

    /// What is to be carried out, oldest first.
    pub async fn open_orders(&self) -> Result<Vec<Order>, StoreError> {
        const OPEN: &str =
            concat!(order_columns!(), "WHERE done_at IS NULL AND seq > ? ORDER BY seq LIMIT ?");
        let (mut after, mut orders) = (i64::MIN, Vec::new());
        loop {
            let rows = sqlx::query(OPEN)
                .bind(after)
                .bind(i64::try_from(PAGE).unwrap_or(i64::MAX))
                .fetch_all(&self.read)
                .await?;
            orders.extend(self.all_of_ours("orders", &rows));
            match rows.last() {
                // Those that are none of ours must not be all that is ever looked at.
                Some(last) if rows.len() == PAGE && orders.len() < PAGE => {
                    after = last.try_get("seq")?;
                }
                _ => return Ok(orders),
            }
        }
    }

    /// Notes that an order was carried out, or why not.
    pub async fn close_order(
        &self,
        seq: i64,
        outcome: Result<&str, &str>,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE orders SET done_at = ?, failed = ?, outcome = ? WHERE seq = ?")
            .bind(now())
            .bind(outcome.is_err())
            .bind(outcome.unwrap_or_else(|why| why))
            .bind(seq)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// The newest order about each subject, of those kinds that name a login.
    pub async fn latest_login_orders(&self) -> Result<Vec<Order>, StoreError> {
        const LATEST: &str = concat!(
            order_columns!(),
            "WHERE seq IN (SELECT max(seq) FROM orders \
             WHERE what IN ('test_login', 'rest_login', 'wake_login') GROUP BY subject) LIMIT ?"
        );
        let rows = sqlx::query(LATEST).bind(MOST_LOGINS).fetch_all(&self.read).await?;
        Ok(self.all_of_ours("orders", &rows))
    }

    /// The rests by hand that are not over, each with its login's label. They are known by the
    /// orders: a rest that lasts longer takes their place among the others, and may end before them.
    pub async fn rests_by_hand(&self) -> Result<Vec<(String, Rest)>, StoreError> {
        const IN_FORCE: &str =
            concat!(order_columns!(), "AS o WHERE ", in_force!(), " ORDER BY seq DESC LIMIT ?3");
        let rows = sqlx::query(IN_FORCE)
            .bind(now())
            .bind(BY_HAND)
            .bind(MOST_LOGINS)
            .fetch_all(&self.read)
            .await?;
        let orders: Vec<Order> = self.all_of_ours("orders", &rows);
        let rest = |order: Order| (order.subject.as_str().to_owned(), rest_by_hand(order.until));
        Ok(orders.into_iter().map(rest).collect())
    }

    /// The newest order of this kind.
    pub async fn latest_order(&self, what: OrderKind) -> Result<Option<Order>, StoreError> {
        const LATEST: &str = concat!(order_columns!(), "WHERE what = ? ORDER BY seq DESC LIMIT 1");
        let rows = sqlx::query(LATEST).bind(what).fetch_all(&self.read).await?;
        Ok(self.all_of_ours("orders", &rows).pop())
    }

    /// Removes what nobody asks for any more. A rest that is in force is known by its order; one that
    /// was ended must not outlive what tells of its end.
    pub async fn forget_old_orders(&self) -> Result<(), StoreError> {
        sqlx::query(concat!(
            "DELETE FROM orders WHERE done_at < ?3 \
             AND seq NOT IN (SELECT seq FROM orders AS o WHERE ",
            in_force!(),
            ")"
        ))
        .bind(now())
        .bind(BY_HAND)
        .bind(now() - KEPT)
        .execute(&self.write)
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_order_is_carried_out_once_and_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("x.db")).await.unwrap();
        for _ in 0..2 {
            store.give_order(OrderKind::TestLogin, "one", None).await.unwrap();
        }
        store.give_order(OrderKind::RestLogin, "one", Some(5)).await.unwrap();
        let open = store.open_orders().await.unwrap();
        let kinds: Vec<_> = open.iter().map(|order| order.what).collect();
        assert_eq!(kinds, [OrderKind::TestLogin, OrderKind::RestLogin]);
        store.close_order(open[0].seq, Ok("fine")).await.unwrap();
        store.close_order(open[1].seq, Err("no such login")).await.unwrap();
        assert!(store.open_orders().await.unwrap().is_empty());
        let latest = store.latest_login_orders().await.unwrap();
        assert_eq!(latest.len(), 1);
        assert!(latest[0].failed && latest[0].outcome.as_deref() == Some("no such login"));
        let tested = store.latest_order(OrderKind::TestLogin).await.unwrap().unwrap();
        assert_eq!((tested.failed, tested.outcome.as_deref()), (false, Some("fine")));
    }

    #[tokio::test]
    async fn what_was_asked_in_between_counts() {
        use OrderKind::{CleanUp, Count, RestLogin, WakeLogin};
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("x.db")).await.unwrap();
        for what in [RestLogin, WakeLogin, RestLogin, RestLogin] {
            store.give_order(what, "one", None).await.unwrap();
        }
        for what in [Count, CleanUp, Count] {
            store.give_order(what, "", None).await.unwrap();
        }
        let open: Vec<_> = store.open_orders().await.unwrap();
        let kinds: Vec<_> = open.iter().map(|order| order.what).collect();
        assert_eq!(kinds, [RestLogin, WakeLogin, RestLogin, Count, CleanUp]);
    }

    #[tokio::test]
    async fn an_order_is_kept_for_as_long_as_its_rest_is_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("x.db")).await.unwrap();
        let rest = async |login: &str, until, outcome| {
            let seq = store.give_order(OrderKind::RestLogin, login, until).await.unwrap();
            store.close_order(seq, outcome).await.unwrap();
        };
        let (soon, past) = (Some(now() + 100_000), Some(now() - 1));
        for (login, until, outcome) in [
            ("for ever", soon, Ok("a shorter one before")),
            ("for ever", None, Ok("by_hand")),
            ("for ever", soon, Err("refused")),
            ("soon", soon, Ok("by_hand")),
            ("over", None, Ok("a longer one before")),
            ("over", past, Ok("by_hand")),
            ("woken", None, Ok("by_hand")),
            ("refused", None, Err("no such login")),
        ] {
            rest(login, until, outcome).await;
        }
        let seq = store.give_order(OrderKind::CleanUp, "", None).await.unwrap();
        store.close_order(seq, Ok("")).await.unwrap();
        store.wake_login("woken").await.unwrap();
        let known = async || {
            let mut known = store.rests_by_hand().await.unwrap();
            known.sort_by(|one, other| one.0.cmp(&other.0));
            known.into_iter().map(|(login, _)| login).collect::<Vec<_>>()
        };
        assert_eq!(known().await, ["for ever", "soon"]);
        // What woke a login is forgotten, too, after a year.
        for sql in
            ["UPDATE orders SET done_at = done_at - ?", "UPDATE login_events SET at = at - ?"]
        {
            let two_years = 2 * 365 * 24 * 3_600_000_i64;
            sqlx::query(sql).bind(two_years).execute(&store.write).await.unwrap();
        }
        store.forget_old_orders().await.unwrap();
        store.forget_old_login_history().await.unwrap();
        assert_eq!(known().await, ["for ever", "soon"]);
        let left: Vec<(String, Option<i64>)> =
            sqlx::query_as("SELECT subject, until FROM orders ORDER BY subject")
                .fetch_all(&store.read)
                .await
                .unwrap();
        assert_eq!(left, [("for ever".to_owned(), None), ("soon".to_owned(), soon)]);
    }

    #[tokio::test]
    async fn a_rest_by_hand_is_known_by_its_order_until_it_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("x.db")).await.unwrap();
        let soon = now() + 100_000;
        for (login, until) in [
            ("one", Some(soon + 5000)),
            ("one", Some(soon)),
            ("over", Some(now() - 1)),
            ("for ever", None),
            ("for years", Some(now() + 10 * 365 * 24 * 3_600_000)),
            ("refused", Some(soon)),
            ("woken", Some(soon)),
            ("open", Some(soon)),
        ] {
            store.give_order(OrderKind::RestLogin, login, until).await.unwrap();
        }
        for order in store.open_orders().await.unwrap() {
            match order.subject.as_str() {
                "open" => {}
                "refused" => store.close_order(order.seq, Err("no")).await.unwrap(),
                _ => store.close_order(order.seq, Ok("yes")).await.unwrap(),
            }
        }
        store.wake_login("woken").await.unwrap();
        let mut known = store.rests_by_hand().await.unwrap();
        known.sort_by(|one, other| one.0.cmp(&other.0));
        let rest = |until| Rest { until, reason: RestReason::ByHand, limit: None };
        let expected =
            [("for ever", UNTIL_WOKEN), ("for years", UNTIL_WOKEN), ("one", soon / 1000)];
        assert_eq!(known, expected.map(|(login, until)| (login.to_owned(), rest(until))));
    }
}
