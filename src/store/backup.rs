//! A database as one file: copied beside a running service, and verified.

use std::path::Path;

use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

use super::{BUSY_TIMEOUT, StoreError, migrate};

/// What a copy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Jobs, those of the history too.
    pub jobs: i64,
    /// The version of its schema, which may be an older one.
    pub schema: i64,
}

/// Writes the database as it stands at one moment into `copy`, an empty file. Others may go on
/// writing. The schema stays as it is: a copy of it is wanted most before it is brought up to date.
pub async fn copy(database: &Path, copy: &Path) -> Result<(), StoreError> {
    migrate::must_be_ours(database).await?;
    let name = copy.to_str().ok_or_else(|| StoreError::Io {
        path: copy.display().to_string(),
        source: std::io::Error::other("SQLite can write only to a path that is Unicode"),
    })?;
    // Not read-only: that would leave the files behind that SQLite puts beside a database.
    let options = SqliteConnectOptions::new().filename(database).busy_timeout(BUSY_TIMEOUT);
    let mut connection = options.disable_statement_logging().connect().await?;
    // It is opened by this at the latest: what fails here, fails beside the database.
    let opened = sqlx::query("SELECT count(*) FROM sqlite_schema").execute(&mut connection).await;
    if let Err(error) = opened {
        return Err(migrate::unreadable(database, error).explained(database).await);
    }
    let copied = sqlx::query("VACUUM INTO ?").bind(name).execute(&mut connection).await;
    connection.close().await?;
    copied.map(drop).map_err(|error| migrate::unreadable(database, error))
}

/// Reads all of a copy that nobody writes to; fails when it is damaged, not ours, or of a newer
/// version. Nothing is made beside it.
pub async fn verify(copy: &Path) -> Result<Contents, StoreError> {
    let options = SqliteConnectOptions::new().filename(copy).read_only(true).immutable(true);
    let mut connection = options.disable_statement_logging().connect().await?;
    let schema = migrate::version_of(&mut connection, copy).await?;
    let check = sqlx::query_scalar("PRAGMA integrity_check(1)").fetch_all(&mut connection).await;
    let found: Vec<String> = check.map_err(|error| migrate::unreadable(copy, error))?;
    if found != ["ok"] {
        let path = copy.display().to_string();
        return Err(StoreError::Damaged { path, found: found.join("; ") });
    }
    let jobs = sqlx::query_scalar("SELECT count(*) FROM jobs").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(Contents { jobs, schema })
}

/// Writes the log back into a database that nobody else has open, so that it is whole without.
pub async fn write_log_back(database: &Path) -> Result<(), StoreError> {
    let options = SqliteConnectOptions::new().filename(database).busy_timeout(BUSY_TIMEOUT);
    let mut connection = options.disable_statement_logging().connect().await?;
    // The last to close it does the rest.
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await?;
    Ok(connection.close().await?)
}
