//! Tables `admin_account`, `admin_sessions` and `admin_devices`: the operator's password, where the
//! service made it, who is signed in, and which browsers are known.

use sqlx::{Connection as _, SqliteConnection};

use super::{Store, StoreError, keep_if_well, now};

/// SHA-256 of what a cookie holds.
pub type SessionId = [u8; 32];

impl Store {
    /// The Argon2 hash of the password that was made here, if there is one.
    pub async fn admin_password(&self) -> Result<Option<String>, StoreError> {
        Ok(sqlx::query_scalar("SELECT password_hash FROM admin_account")
            .fetch_optional(&self.read)
            .await?)
    }

    /// Keeps a password's hash, a PHC string; `replace`: also where there is one. False when it was
    /// not kept.
    pub async fn set_admin_password(&self, hash: &str, replace: bool) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO admin_account VALUES (1, ?1, ?2) ON CONFLICT DO UPDATE \
             SET password_hash = ?1, set_at = ?2 WHERE ?3",
        )
        .bind(hash)
        .bind(now())
        .bind(replace)
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Begins a session that ends by itself at `expires_at`, in milliseconds; those that are over
    /// go.
    pub async fn begin_session(&self, id: &SessionId, expires_at: i64) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM admin_sessions WHERE expires_at <= ?")
            .bind(now())
            .execute(&self.write)
            .await?;
        sqlx::query("INSERT INTO admin_sessions VALUES (?, ?, ?)")
            .bind(id.as_slice())
            .bind(now())
            .bind(expires_at)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Is this a session that is not over?
    pub async fn is_session(&self, id: &SessionId) -> Result<bool, StoreError> {
        let found: Option<i64> =
            sqlx::query_scalar("SELECT 1 FROM admin_sessions WHERE id = ? AND expires_at > ?")
                .bind(id.as_slice())
                .bind(now())
                .fetch_optional(&self.read)
                .await?;
        Ok(found.is_some())
    }

    /// Ends a session.
    pub async fn end_session(&self, id: &SessionId) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM admin_sessions WHERE id = ?")
            .bind(id.as_slice())
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Which cookies of known browsers are good: those of this generation.
    pub async fn device_generation(&self) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar("SELECT generation FROM admin_devices").fetch_one(&self.read).await?)
    }

    /// Ends every session, and no browser is known any more; gives how many sessions there were.
    pub async fn end_all_sessions(&self) -> Result<u64, StoreError> {
        let mut writer = self.write.acquire().await?;
        let outcome = end_all(&mut writer).await;
        Ok(keep_if_well(writer, outcome).await?)
    }
}

async fn end_all(writer: &mut SqliteConnection) -> sqlx::Result<u64> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("UPDATE admin_devices SET generation = generation + 1")
        .execute(&mut *transaction)
        .await?;
    let done = sqlx::query("DELETE FROM admin_sessions").execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(done.rows_affected())
}
