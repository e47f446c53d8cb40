//! Tables `dispatch`, `login_rests`, `login_quota`, `login_events`, `worker_status`: what must outlive
//! a restart, what the front must know of the logins, and the history of each.

use sqlx::{FromRow, Row as _, sqlite::SqliteRow};

use super::{
    Store, StoreError, now,
    strangers::{checked, none_of_ours, parsed, short},
};
use crate::{
    codex::status::{Dispatch, QuotaWindow, Rest, RestReason},
    names::is_label,
};

/// A window of a login is noted at most so often while its numbers stay the same, and so often
/// when they change; in milliseconds.
const SAME_AGAIN: i64 = 60 * 60 * 1000;
const CHANGED: i64 = 2 * 60 * 1000;
/// How long the history is kept, in milliseconds.
const KEPT_QUOTA: i64 = 90 * 24 * 60 * 60 * 1000;
const KEPT_EVENTS: i64 = 365 * 24 * 60 * 60 * 1000;

/// The line of the audit trail by which a running service learns that it is to wake a login.
pub(super) const BY_HAND: &str = "woken by hand";

/// Rows of what is known of logins that are looked at together, of which there are a few for each.
const MOST: i64 = 1000;

/// A line of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct LoginRecord {
    /// When, in milliseconds.
    pub at: i64,
    /// The login's label.
    pub login: String,
    /// `rests`, `wakes`, `failed`, `rotated`, `killed` or `tested`.
    pub what: String,
    /// More of it, in words.
    pub detail: String,
}

/// What a login has drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow)]
pub struct LoginUse {
    /// The login's label.
    pub login: String,
    /// Pictures in the last 24 hours.
    pub images_24h: i64,
    /// Pictures in the last 48 hours.
    pub images_48h: i64,
    /// Turns that ended in the last 24 hours, with a picture or without.
    pub turns_24h: i64,
}

/// A login's label, and nothing else.
struct Labelled(String);

impl FromRow<'_, SqliteRow> for Labelled {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        checked(row, "login", is_label).map(Self)
    }
}

/// A login and its rest.
struct Resting(String, Rest);

impl FromRow<'_, SqliteRow> for Resting {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let Labelled(login) = Labelled::from_row(row)?;
        let until: i64 = row.try_get("until")?;
        let reason = parsed(row, "reason", RestReason::of)?;
        let has_quota: bool = row.try_get("has_quota")?;
        // A name of OpenAI's choice: without it the rest is a rest still.
        let limit = if has_quota { checked(row, "quota", is_label).ok() } else { None };
        Ok(Self(login, Rest { until: until / 1000, reason, limit }))
    }
}

/// A login and how a window of it stands.
struct Told(String, QuotaWindow);

impl FromRow<'_, SqliteRow> for Told {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let Labelled(login) = Labelled::from_row(row)?;
        let resets_at: Option<i64> = row.try_get("resets_at")?;
        let window = QuotaWindow {
            limit: checked(row, "quota", is_label)?,
            minutes: row.try_get("minutes")?,
            used_percent: row.try_get("used")?,
            resets_at: resets_at.map(|at| at / 1000),
        };
        if window.used_percent > 100 {
            return Err(none_of_ours("used"));
        }
        Ok(Self(login, window))
    }
}

impl Store {
    /// In which order logins are used.
    pub async fn dispatch(&self) -> Result<Dispatch, StoreError> {
        const MODE: &str = concat!("SELECT ", short!("mode", 64), " FROM dispatch LIMIT 1");
        let row = sqlx::query(MODE).fetch_optional(&self.read).await?;
        let mode = row.and_then(|row| self.ours("dispatch", 1, parsed(&row, "mode", Dispatch::of)));
        Ok(mode.unwrap_or_default())
    }

    /// From now on they are used in this order.
    pub async fn set_dispatch(&self, dispatch: Dispatch) -> Result<(), StoreError> {
        sqlx::query("UPDATE dispatch SET mode = ?")
            .bind(dispatch.as_str())
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Notes a rest, or with None that the login is used again.
    pub async fn set_login_rest(&self, login: &str, rest: Option<&Rest>) -> Result<(), StoreError> {
        let query = match rest {
            None => sqlx::query("DELETE FROM login_rests WHERE login = ?").bind(login),
            Some(Rest { until, reason, limit }) => {
                sqlx::query("INSERT OR REPLACE INTO login_rests VALUES (?, ?, ?, ?)")
                    .bind(login)
                    .bind(until.saturating_mul(1000))
                    .bind(reason.as_str())
                    .bind(limit.as_deref())
            }
        };
        query.execute(&self.write).await?;
        Ok(())
    }

    /// Ends a login's rest by hand: what is stored of it and of its numbers counts no more, and jobs
    /// that wait for it may begin. A running service learns of it by [`Store::woken_since`].
    pub async fn wake_login(&self, login: &str) -> Result<(), StoreError> {
        self.set_login_rest(login, None).await?;
        self.note_login(login, "wakes", BY_HAND).await?;
        self.wake_jobs().await
    }

    /// Jobs that wait for a login's rest to end wait no more.
    pub async fn wake_jobs(&self) -> Result<(), StoreError> {
        let waiting = "UPDATE jobs SET not_before = NULL \
                       WHERE state = 'queued' AND not_before IS NOT NULL";
        sqlx::query(waiting).execute(&self.write).await?;
        Ok(())
    }

    /// The logins woken by hand after this line of the audit trail, and the newest line.
    pub async fn woken_since(&self, seq: i64) -> Result<(Vec<String>, i64), StoreError> {
        const WOKEN: &str = concat!(
            "SELECT seq, ",
            short!("login", 255),
            " FROM login_events WHERE seq > ? AND what = 'wakes' AND detail = ? \
             ORDER BY seq LIMIT ?"
        );
        let rows =
            sqlx::query(WOKEN).bind(seq).bind(BY_HAND).bind(MOST).fetch_all(&self.read).await?;
        let newest = rows.last().map_or(Ok(seq), |newest| newest.try_get("seq"))?;
        let labels = self.all_of_ours("login_events", &rows);
        Ok((labels.into_iter().map(|Labelled(login)| login).collect(), newest))
    }

    /// The newest line of the audit trail.
    pub async fn newest_login_line(&self) -> Result<i64, StoreError> {
        let newest = sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM login_events");
        Ok(newest.fetch_one(&self.read).await?)
    }

    /// The rests that are not over, each with its login's label.
    pub async fn login_rests(&self) -> Result<Vec<(String, Rest)>, StoreError> {
        const RESTS: &str = concat!(
            "SELECT 0 AS seq, ",
            short!("login", 255),
            ", until, ",
            short!("reason", 64),
            ", quota IS NOT NULL AS has_quota, ",
            short!("quota", 255),
            " FROM login_rests WHERE until > ? LIMIT ?"
        );
        let rows = sqlx::query(RESTS).bind(now()).bind(MOST).fetch_all(&self.read).await?;
        let rests = self.all_of_ours("login_rests", &rows);
        Ok(rests.into_iter().map(|Resting(login, rest)| (login, rest)).collect())
    }

    /// Why the logins of the settings rest, those that do and not for faults; each reason once.
    pub async fn rest_reasons(&self) -> Result<Vec<RestReason>, StoreError> {
        let words: Vec<String> = sqlx::query_scalar(
            "SELECT DISTINCT reason FROM login_rests WHERE until > ? AND reason <> 'faults' \
             AND login IN (SELECT login FROM login_status) ORDER BY reason",
        )
        .bind(now())
        .fetch_all(&self.read)
        .await?;
        Ok(words.iter().filter_map(|word| RestReason::of(word)).collect())
    }

    /// When every login rests: until when the first does, in Unix seconds, as the worker told.
    pub async fn all_rest_until(&self) -> Result<Option<i64>, StoreError> {
        let until: Option<i64> = sqlx::query_scalar("SELECT all_rest_until FROM worker_status")
            .fetch_one(&self.read)
            .await?;
        Ok(until.filter(|until| *until > now()).map(|until| until / 1000))
    }

    /// Tells the front that every login rests until then, or (None) that one can be used.
    pub async fn set_all_rest_until(&self, until: Option<i64>) -> Result<(), StoreError> {
        sqlx::query("UPDATE worker_status SET all_rest_until = ?")
            .bind(until.map(|until| until.saturating_mul(1000)))
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Notes how a login's windows stand. What is as it was is noted once an hour.
    pub async fn note_quota(&self, login: &str, windows: &[QuotaWindow]) -> Result<(), StoreError> {
        for window in windows {
            sqlx::query(
                "INSERT OR REPLACE INTO login_quota SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE NOT EXISTS \
                 (SELECT 1 FROM login_quota WHERE login = ?1 AND quota = ?2 AND minutes = ?3 \
                  AND at > ?4 - CASE WHEN used = ?5 AND resets_at IS ?6 THEN ?7 ELSE ?8 END)",
            )
            .bind(login)
            .bind(&window.limit)
            .bind(window.minutes)
            .bind(now())
            .bind(window.used_percent)
            .bind(window.resets_at.map(|at| at.saturating_mul(1000)))
            .bind(SAME_AGAIN)
            .bind(CHANGED)
            .execute(&self.write)
            .await?;
        }
        Ok(())
    }

    /// How the windows of all logins stand, as far as they were told; what was told before a login
    /// was woken by hand counts no more.
    pub async fn login_quotas(&self) -> Result<Vec<(String, QuotaWindow)>, StoreError> {
        const WINDOWS: &str = concat!(
            "SELECT 0 AS seq, ",
            short!("login", 255),
            ", ",
            short!("quota", 255),
            ", minutes, used, resets_at FROM login_windows AS w \
             WHERE at > coalesce((SELECT max(at) FROM login_events \
              WHERE login = w.login AND what = 'wakes' AND detail = ?), 0) \
             ORDER BY w.login, w.quota, w.minutes LIMIT ?"
        );
        let rows = sqlx::query(WINDOWS).bind(BY_HAND).bind(MOST).fetch_all(&self.read).await?;
        let windows = self.all_of_ours("login_windows", &rows);
        Ok(windows.into_iter().map(|Told(login, window)| (login, window)).collect())
    }

    /// Adds a line to the audit trail.
    pub async fn note_login(
        &self,
        login: &str,
        what: &'static str,
        detail: &str,
    ) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO login_events (at, login, what, detail) VALUES (?, ?, ?, ?)")
            .bind(now())
            .bind(login)
            .bind(what)
            .bind(detail)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Was its token renewed since then?
    pub async fn was_rotated_since(&self, login: &str, since: i64) -> Result<bool, StoreError> {
        let found: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM login_events WHERE login = ? AND what = 'rotated' AND at > ? LIMIT 1",
        )
        .bind(login)
        .bind(since)
        .fetch_optional(&self.read)
        .await?;
        Ok(found.is_some())
    }

    /// The newest lines of the audit trail, the oldest of them first.
    pub async fn login_trail(
        &self,
        login: Option<&str>,
        limit: u32,
    ) -> Result<Vec<LoginRecord>, StoreError> {
        const TRAIL: &str = concat!(
            "SELECT seq, at, ",
            short!("login", 255),
            ", ",
            short!("what", 64),
            ", ",
            short!("detail", 16384),
            " FROM login_events WHERE ?1 IS NULL OR login = ?1 ORDER BY seq DESC LIMIT ?2"
        );
        let rows = sqlx::query(TRAIL).bind(login).bind(limit).fetch_all(&self.read).await?;
        let mut lines: Vec<LoginRecord> = self.all_of_ours("login_events", &rows);
        lines.reverse();
        Ok(lines)
    }

    /// What each login has drawn lately.
    pub async fn login_uses(&self) -> Result<Vec<LoginUse>, StoreError> {
        const DAY: i64 = 24 * 60 * 60 * 1000;
        Ok(sqlx::query_as(
            "SELECT login, sum(state = 'succeeded' AND finished_at > ?1) AS images_24h, \
             sum(state = 'succeeded') AS images_48h, sum(finished_at > ?1) AS turns_24h \
             FROM turns WHERE finished_at > ?2 AND login IS NOT NULL GROUP BY login",
        )
        .bind(now() - DAY)
        .bind(now() - 2 * DAY)
        .fetch_all(&self.read)
        .await?)
    }

    /// Removes what is older than anybody asks for.
    pub async fn forget_old_login_history(&self) -> Result<(), StoreError> {
        // How a window stands is kept beside its history, however old.
        sqlx::query("DELETE FROM login_quota WHERE at < ?1")
            .bind(now() - KEPT_QUOTA)
            .execute(&self.write)
            .await?;
        sqlx::query("DELETE FROM login_events WHERE at < ?")
            .bind(now() - KEPT_EVENTS)
            .execute(&self.write)
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("x.db")).await.unwrap();
        (dir, store)
    }

    #[tokio::test]
    async fn a_rest_is_remembered_until_it_is_over() {
        let (_dir, store) = store().await;
        let soon = now() / 1000 + 100;
        let rest = |until| Rest { until, reason: RestReason::Quota, limit: Some("x".into()) };
        store.set_login_rest("one", Some(&rest(soon))).await.unwrap();
        store.set_login_rest("two", Some(&rest(soon - 200))).await.unwrap();
        store.set_login_rest("three", Some(&rest(soon))).await.unwrap();
        store.set_login_rest("three", None).await.unwrap();
        assert_eq!(store.login_rests().await.unwrap(), [("one".to_owned(), rest(soon))]);
    }

    #[tokio::test]
    async fn the_newest_numbers_stand_and_are_not_noted_too_often() {
        let (_dir, store) = store().await;
        let window = |used_percent| QuotaWindow {
            limit: "codex".into(),
            minutes: 300,
            used_percent,
            resets_at: Some(9),
        };
        for used in [1, 1, 2] {
            store.note_quota("one", &[window(used)]).await.unwrap();
        }
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM login_quota")
            .fetch_one(&store.read)
            .await
            .unwrap();
        assert_eq!(rows, 1);
        sqlx::query("UPDATE login_quota SET at = at - 200000").execute(&store.write).await.unwrap();
        store.note_quota("one", &[window(1)]).await.unwrap();
        store.note_quota("one", &[window(2)]).await.unwrap();
        let known = store.login_quotas().await.unwrap();
        assert_eq!(known, [("one".to_owned(), window(2))]);
        store.forget_old_login_history().await.unwrap();
        assert_eq!(store.login_quotas().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_login_woken_by_hand_rests_no_more() {
        let (_dir, store) = store().await;
        let rest =
            Rest { until: now() / 1000 + 100, reason: RestReason::Quota, limit: Some("x".into()) };
        let window =
            QuotaWindow { limit: "x".into(), minutes: 300, used_percent: 100, resets_at: None };
        for login in ["one", "two"] {
            store.set_login_rest(login, Some(&rest)).await.unwrap();
            store.note_quota(login, std::slice::from_ref(&window)).await.unwrap();
        }
        let before = store.newest_login_line().await.unwrap();
        store.wake_login("one").await.unwrap();
        assert_eq!(store.login_rests().await.unwrap(), [("two".to_owned(), rest)]);
        assert_eq!(store.login_quotas().await.unwrap(), [("two".to_owned(), window)]);
        let (woken, newest) = store.woken_since(before).await.unwrap();
        assert_eq!(woken, ["one"]);
        assert_eq!(store.woken_since(newest).await.unwrap(), (Vec::new(), newest));
    }

    #[tokio::test]
    async fn a_renewal_is_known_by_the_trail() {
        let (_dir, store) = store().await;
        let before = now() - 1;
        store.note_login("one", "rotated", "").await.unwrap();
        store.note_login("two", "tested", "").await.unwrap();
        assert!(store.was_rotated_since("one", before).await.unwrap());
        assert!(!store.was_rotated_since("one", now()).await.unwrap());
        assert!(!store.was_rotated_since("two", before).await.unwrap());
    }

    #[tokio::test]
    async fn the_trail_is_read_in_order() {
        let (_dir, store) = store().await;
        for n in 0..5 {
            store.note_login(["one", "two"][n % 2], "killed", &n.to_string()).await.unwrap();
        }
        let trail = |lines: Vec<LoginRecord>| {
            lines.into_iter().map(|line| line.detail).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(trail(store.login_trail(None, 3).await.unwrap()), "2 3 4");
        assert_eq!(trail(store.login_trail(Some("two"), 9).await.unwrap()), "1 3");
        assert_eq!(store.dispatch().await.unwrap(), Dispatch::RoundRobin);
        store.set_dispatch(Dispatch::PrimaryFirst).await.unwrap();
        assert_eq!(store.dispatch().await.unwrap(), Dispatch::PrimaryFirst);
    }
}
