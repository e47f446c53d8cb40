//! Table `api_keys`: who may call. The key itself is never stored, only its SHA-256.

use sqlx::FromRow;

use super::{Store, StoreError, now};

/// A key as the operator sees it.
#[derive(Clone, Debug, FromRow, serde::Serialize)]
pub struct ApiKey {
    /// `key_` and 12 hex digits.
    pub id: String,
    /// The name that the operator gave it.
    pub name: String,
    /// The prefix and four characters of the secret.
    pub handle: String,
    /// A disabled key is refused with 403.
    pub enabled: bool,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// Milliseconds since the epoch, to the minute.
    pub last_used_at: Option<i64>,
    /// Jobs that this key has submitted.
    pub jobs: i64,
    /// Pictures that were drawn for it.
    pub images: i64,
}

/// A caller whose key verified.
#[derive(Clone, Debug, FromRow)]
pub struct Caller {
    /// The key's id.
    pub id: String,
    /// What the log names.
    pub handle: String,
    /// A disabled key is known, but refused.
    pub enabled: bool,
}

/// What a key has had.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow)]
pub struct KeyUse {
    /// Pictures since the later time.
    pub recent_images: i64,
    /// Pictures since the earlier time.
    pub images: i64,
    /// Jobs that wait.
    pub queued: i64,
    /// Jobs that are being drawn.
    pub running: i64,
}

impl Store {
    /// What a key has had since two times, in milliseconds; `recent` is the later one. Turns are
    /// counted: the rows of pictures go when these expire.
    pub async fn key_use(&self, id: &str, recent: i64, since: i64) -> Result<KeyUse, StoreError> {
        Ok(sqlx::query_as(
            "WITH drawn AS (SELECT t.finished_at AS at FROM turns t JOIN jobs j ON j.id = t.job_id \
               WHERE t.finished_at >= min(?2, ?3) AND t.state = 'succeeded' AND j.api_key_id = ?1) \
             SELECT (SELECT count(*) FROM drawn WHERE at >= ?2) AS recent_images, \
             (SELECT count(*) FROM drawn WHERE at >= ?3) AS images, \
             (SELECT count(*) FROM jobs WHERE state = 'queued' AND api_key_id = ?1) AS queued, \
             (SELECT count(*) FROM jobs WHERE state = 'running' AND api_key_id = ?1) AS running",
        )
        .bind(id)
        .bind(recent)
        .bind(since)
        .fetch_one(&self.read)
        .await?)
    }

    /// Stores a new key by its hash.
    pub async fn insert_key(
        &self,
        id: &str,
        name: &str,
        handle: &str,
        hash: &str,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO api_keys (id, name, handle, hash, created_at) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(id)
        .bind(name)
        .bind(handle)
        .bind(hash)
        .bind(now())
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Every key that is not deleted, oldest first.
    pub async fn list_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT id, name, handle, enabled, created_at, last_used_at, jobs, images \
             FROM api_keys WHERE deleted_at IS NULL ORDER BY created_at, id",
        )
        .fetch_all(&self.read)
        .await?)
    }

    /// The caller to whom a key of this hash belongs.
    pub async fn caller(&self, hash: &str) -> Result<Option<Caller>, StoreError> {
        Ok(sqlx::query_as("SELECT id, handle, enabled FROM api_keys WHERE hash = ?")
            .bind(hash)
            .fetch_optional(&self.read)
            .await?)
    }

    /// Enables or disables a key; false when there is none of this id.
    pub async fn enable_key(&self, id: &str, enabled: bool) -> Result<bool, StoreError> {
        let done =
            sqlx::query("UPDATE api_keys SET enabled = ? WHERE id = ? AND deleted_at IS NULL")
                .bind(enabled)
                .bind(id)
                .execute(&self.write)
                .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Gives a key another name; false when there is none of this id.
    pub async fn rename_key(&self, id: &str, name: &str) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE api_keys SET name = ? WHERE id = ? AND deleted_at IS NULL")
            .bind(name)
            .bind(id)
            .execute(&self.write)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Forgets the key's hash, so that it verifies no more; its jobs stay, under its name.
    /// False when there is none of this id.
    pub async fn delete_key(&self, id: &str) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE api_keys SET hash = NULL, enabled = 0, deleted_at = ? \
             WHERE id = ? AND deleted_at IS NULL",
        )
        .bind(now())
        .bind(id)
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Notes that a key was used.
    pub async fn touch_key(&self, id: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE api_keys SET last_used_at = ? WHERE id = ?")
            .bind(now())
            .bind(id)
            .execute(&self.write)
            .await?;
        Ok(())
    }
}
