//! Tables `admin_account` and `admin_sessions`: the operator's password, where the service made it,
//! and who is signed in.

use super::{Store, StoreError, now};

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

    /// Ends every session; gives how many there were.
    pub async fn end_all_sessions(&self) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM admin_sessions").execute(&self.write).await?;
        Ok(done.rows_affected())
    }
}
