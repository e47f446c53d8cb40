//! What the overview shows: sums that triggers keep, the queue, what was drawn when, and what the
//! worker tells of itself and of its logins.

use sqlx::{Connection, FromRow, SqliteConnection};

use super::{Store, StoreError, keep_if_well, now, strangers::short};

/// Sums over everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
pub struct Totals {
    /// Jobs that were ever accepted.
    pub jobs: i64,
    /// Pictures that were ever drawn.
    pub images: i64,
    /// Keys that are not deleted.
    pub keys: i64,
    /// Pictures on the disk.
    pub stored_images: i64,
    /// Their bytes.
    pub stored_bytes: i64,
}

/// The queue as it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
pub struct QueueNow {
    /// Jobs that wait.
    pub queued: i64,
    /// Jobs that are being drawn.
    pub running: i64,
    /// When the oldest that waits was accepted.
    pub oldest_at: Option<i64>,
}

/// Turns that ended within an hour with a login.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct HourOfTurns {
    /// Hours since the epoch.
    pub hour: i64,
    /// The login's label; empty where none was reached.
    pub login: String,
    /// Pictures.
    pub images: i64,
    /// Turns without one.
    pub failures: i64,
}

/// What a login has drawn just now.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow)]
pub struct RecentUse {
    /// The login's label.
    pub login: String,
    /// Pictures in the last 5 hours.
    pub images_5h: i64,
    /// Pictures in the last 24 hours.
    pub images_24h: i64,
    /// Turns that ended in the last 24 hours, with a picture or without.
    pub turns_24h: i64,
    /// Pictures in the last 48 hours.
    pub images_48h: i64,
}

/// A login as the worker told of it.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct ToldLogin {
    /// Its label.
    pub login: String,
    /// The first characters of the account's id.
    pub account: Option<String>,
    /// Such as `plus`.
    pub plan: Option<String>,
    /// When the access token expires, in milliseconds.
    pub token_expires_at: Option<i64>,
    /// What is wrong with its login file.
    pub problem_code: Option<String>,
    /// The same in words.
    pub problem: Option<String>,
    /// Another process holds the login.
    pub busy_elsewhere: bool,
    /// When it was told, in milliseconds.
    pub told_at: i64,
}

impl ToldLogin {
    /// Whether another says the same, whenever that was told.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        Self { told_at: 0, ..self.clone() } == Self { told_at: 0, ..other.clone() }
    }
}

/// What the worker tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow)]
pub struct WorkerFacts {
    /// When it started, in milliseconds.
    pub started_at: Option<i64>,
    /// The version of Codex that it found.
    pub codex_version: Option<String>,
    /// What stands in the way of every picture, whatever the logins.
    pub problem_code: Option<String>,
    /// The same in words.
    pub problem: Option<String>,
    /// When it cleans up next, in milliseconds; None: a timer does, or it has not said yet.
    pub next_cleanup_at: Option<i64>,
}

impl Store {
    /// Sums over everything.
    pub async fn totals(&self) -> Result<Totals, StoreError> {
        Ok(sqlx::query_as(
            "SELECT coalesce(sum(k.jobs), 0) AS jobs, coalesce(sum(k.images), 0) AS images, \
             coalesce(sum(k.deleted_at IS NULL), 0) AS keys, \
             (SELECT images FROM stored_images) AS stored_images, \
             (SELECT bytes FROM stored_images) AS stored_bytes FROM api_keys k",
        )
        .fetch_one(&self.read)
        .await?)
    }

    /// The queue as it stands.
    pub async fn queue_now(&self) -> Result<QueueNow, StoreError> {
        Ok(sqlx::query_as(
            "SELECT (SELECT count(*) FROM jobs WHERE state = 'queued') AS queued, \
             (SELECT count(*) FROM jobs WHERE state = 'running') AS running, \
             (SELECT created_at FROM jobs WHERE state = 'queued' ORDER BY seq LIMIT 1) AS oldest_at",
        )
        .fetch_one(&self.read)
        .await?)
    }

    /// Turns that ended since an hour, in hours since the epoch.
    pub async fn turns_by_hour(&self, since: i64) -> Result<Vec<HourOfTurns>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT hour, login, images, failures FROM turns_by_hour WHERE hour >= ? \
             ORDER BY hour, login",
        )
        .bind(since)
        .fetch_all(&self.read)
        .await?)
    }

    /// What each login has drawn just now.
    pub async fn recent_uses(&self) -> Result<Vec<RecentUse>, StoreError> {
        const HOUR: i64 = 60 * 60 * 1000;
        Ok(sqlx::query_as(
            "SELECT login, sum(state = 'succeeded' AND finished_at > ?1) AS images_5h, \
             sum(state = 'succeeded' AND finished_at > ?2) AS images_24h, \
             sum(finished_at > ?2) AS turns_24h, sum(state = 'succeeded') AS images_48h \
             FROM turns INDEXED BY turns_by_end \
             WHERE finished_at > ?3 AND login IS NOT NULL GROUP BY login",
        )
        .bind(now() - 5 * HOUR)
        .bind(now() - 24 * HOUR)
        .bind(now() - 48 * HOUR)
        .fetch_all(&self.read)
        .await?)
    }

    /// The logins of the settings as the worker told of them, in their order there.
    pub async fn told_logins(&self) -> Result<Vec<ToldLogin>, StoreError> {
        const TOLD: &str = concat!(
            "SELECT place AS seq, ",
            short!("login", 255),
            ", ",
            short!("account", 255),
            ", ",
            short!("plan", 255),
            ", token_expires_at, ",
            short!("problem_code", 64),
            ", ",
            short!("problem", 16384),
            ", busy_elsewhere, told_at FROM login_status ORDER BY place LIMIT 1000"
        );
        let rows = sqlx::query(TOLD).fetch_all(&self.read).await?;
        Ok(self.all_of_ours("login_status", &rows))
    }

    /// The worker tells of all its logins, in the order of the settings.
    pub async fn tell_logins(&self, logins: &[ToldLogin]) -> Result<(), StoreError> {
        let mut writer = self.write.acquire().await?;
        let outcome = tell(&mut writer, logins).await;
        Ok(keep_if_well(writer, outcome).await?)
    }

    /// What the worker told of itself.
    pub async fn worker_facts(&self) -> Result<WorkerFacts, StoreError> {
        Ok(sqlx::query_as("SELECT * FROM worker_status").fetch_one(&self.read).await?)
    }

    /// The worker tells when it started, which Codex it found, and what stands in the way of every
    /// picture: a code and a sentence.
    pub async fn tell_worker(
        &self,
        started_at: i64,
        codex_version: Option<&str>,
        problem: Option<(&str, &str)>,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE worker_status SET started_at = ?, codex_version = ?, problem_code = ?, \
             problem = ?",
        )
        .bind(started_at)
        .bind(codex_version)
        .bind(problem.map(|(code, _)| code))
        .bind(problem.map(|(_, words)| words))
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// The worker tells when it cleans up next.
    pub async fn tell_next_cleanup(&self, at: Option<i64>) -> Result<(), StoreError> {
        sqlx::query("UPDATE worker_status SET next_cleanup_at = ?")
            .bind(at)
            .execute(&self.write)
            .await?;
        Ok(())
    }
}

async fn tell(writer: &mut SqliteConnection, logins: &[ToldLogin]) -> sqlx::Result<()> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("DELETE FROM login_status").execute(&mut *transaction).await?;
    for (place, login) in (0_i64..).zip(logins) {
        sqlx::query("INSERT INTO login_status VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")
            .bind(&login.login)
            .bind(place)
            .bind(&login.account)
            .bind(&login.plan)
            .bind(login.token_expires_at)
            .bind(&login.problem_code)
            .bind(&login.problem)
            .bind(login.busy_elsewhere)
            .bind(login.told_at)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await
}
