//! Table `jobs` as a repeated request sees it: is its job there already? What was paid for, or may
//! have been, is never asked for again; what never began is.

use sqlx::{FromRow, SqliteConnection};

use super::{Store, StoreError, now};
use crate::codex::FailureCode;

/// How long an idempotency key is known, in milliseconds.
const KEY_KNOWN: i64 = 24 * 60 * 60 * 1000;
/// How long after its end a job is found by a client that says that it repeats a request, in
/// milliseconds. With timeouts of 600 s a second repetition comes 20 minutes after the start.
const END_KNOWN: i64 = 15 * 60 * 1000;

/// By what a repeated request finds the job of the first one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joining {
    /// SHA-256 over the route, the parsed fields and the digests of the references.
    pub request_hash: [u8; 32],
    /// The caller's own name for the request, 1 to 255 characters.
    pub idempotency_key: Option<String>,
    /// The client says that it repeats a request.
    pub is_repeated: bool,
}

/// What a repeated request finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its job, in flight or final.
    Job(String),
    /// Its idempotency key, which belongs to another request.
    Mismatch,
}

#[derive(FromRow)]
struct Known {
    id: String,
    state: String,
    error_code: Option<String>,
    is_same: bool,
}

impl Known {
    /// Whether it ended before anything was asked of OpenAI: it is made anew.
    fn never_began(&self) -> bool {
        let code = self.error_code.as_deref().and_then(|code| code.parse().ok());
        self.state == "failed" && code.is_some_and(FailureCode::is_unpaid)
    }
}

impl Store {
    /// The job that this request joins, if it repeats one, or that it may not.
    pub async fn joinable(
        &self,
        api_key_id: &str,
        joining: &Joining,
    ) -> Result<Option<Found>, StoreError> {
        let mut reader = self.read.acquire().await?;
        Ok(find(&mut reader, api_key_id, joining).await?)
    }
}

/// The same within a transaction.
pub(super) async fn find(
    connection: &mut SqliteConnection,
    api_key_id: &str,
    joining: &Joining,
) -> sqlx::Result<Option<Found>> {
    let known: Option<Known> = if let Some(key) = &joining.idempotency_key {
        sqlx::query_as(
            "SELECT id, state, error_code, request_hash IS ?3 AS is_same FROM jobs \
             WHERE api_key_id = ?1 AND idempotency_key = ?2 AND created_at > ?4 \
             ORDER BY seq DESC LIMIT 1",
        )
        .bind(api_key_id)
        .bind(key)
        .bind(joining.request_hash.as_slice())
        .bind(now() - KEY_KNOWN)
        .fetch_optional(connection)
        .await?
    } else if joining.is_repeated {
        sqlx::query_as(
            "SELECT id, state, error_code, 1 AS is_same FROM jobs \
             WHERE api_key_id = ?1 AND request_hash = ?2 \
             AND (state IN ('queued', 'running') OR finished_at > ?3) \
             ORDER BY seq DESC LIMIT 1",
        )
        .bind(api_key_id)
        .bind(joining.request_hash.as_slice())
        .bind(now() - END_KNOWN)
        .fetch_optional(connection)
        .await?
    } else {
        None
    };
    Ok(match known {
        Some(known) if !known.is_same => Some(Found::Mismatch),
        Some(known) if known.never_began() => None,
        Some(known) => Some(Found::Job(known.id)),
        None => None,
    })
}
