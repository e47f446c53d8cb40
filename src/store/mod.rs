//! The only place that knows SQL: typed rows in and out, one file a table.
//!
//! One `SQLite` file in WAL mode, one connection that writes and a few that read. A commit is on
//! the disk when it returns (`synchronous=FULL`).

pub mod admin;
pub mod api_keys;
pub mod backup;
pub mod claims;
pub mod cleanups;
pub mod details;
pub mod history;
pub mod jobs;
pub mod joining;
pub mod logins;
mod migrate;
pub mod orders;
pub mod outcomes;
pub mod overview;
pub mod retired;
mod sound;
mod strangers;
pub mod submissions;
mod trouble;

use std::{os::unix::fs::MetadataExt as _, path::Path, sync::Arc, time::Duration};

use sqlx::{
    ConnectOptions, Connection as _, Sqlite, SqlitePool,
    pool::PoolConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use strangers::Strangers;

/// How long a writer waits for another process's write (the commands run beside the service).
const BUSY_TIMEOUT: Duration = Duration::from_secs(15);

/// Connections that read. More than the cores of a small server bring nothing: each is a thread.
const READERS: u32 = 2;

/// What the store may refuse.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// `SQLite` or the disk failed; the text stays in the log.
    #[error("the database failed: {0}")]
    Sql(#[from] sqlx::Error),
    /// The same of a commit that several jobs shared.
    #[error("the database failed: {0}")]
    Commit(Arc<sqlx::Error>),
    /// The embedded migrations could not be applied.
    #[error("the database could not be brought up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A file beside the database could not be used.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file belongs to the Python original.
    #[error(
        "{0} is a database of the Python codex-image-service. It was left untouched; it cannot be \
         taken over yet. Set DATABASE_URL or STATE_DIR to another place."
    )]
    Original(String),
    /// There is none, and none may be made.
    #[error("there is no database {0}; are DATABASE_URL and STATE_DIR right? Nothing was made.")]
    Missing(String),
    /// The file is a database, but not ours.
    #[error("{0} is a database of another program. It was left untouched.")]
    Foreign(String),
    /// The file is something else altogether.
    #[error("{0} is not an SQLite database. It was left untouched.")]
    NoDatabase(String),
    /// It cannot be read from end to end.
    #[error("{path} is damaged: {found}")]
    Damaged {
        /// The database.
        path: String,
        /// What `SQLite` found first.
        found: String,
    },
    /// The file was written by a newer version of this program.
    #[error(
        "{path} has schema version {found}, this program knows {known}. Start the newer \
         version, or restore a backup made by this one."
    )]
    Newer {
        /// The database.
        path: String,
        /// The newest migration that it holds.
        found: i64,
        /// The newest that this program holds.
        known: i64,
    },
    /// Not even the little that `SQLite` needs to open it.
    #[error(
        "there is no room left on the disk of {0}: make some there, then the service starts by itself"
    )]
    Full(String),
    /// It is there, and this user may not write it.
    #[error(
        "{path} can't be written by this user, {user}; it belongs to {owner} and has mode \
         {mode:04o}. Give it to this user, or run as that one."
    )]
    NotWritable {
        /// The database, or its folder.
        path: String,
        /// The user, with the number.
        user: String,
        /// Its owner, with the number.
        owner: String,
        /// Its permissions.
        mode: u32,
    },
}

/// The database. Clones share the connections.
#[derive(Clone)]
pub struct Store {
    path: Arc<Path>,
    /// Connections that only read.
    read: SqlitePool,
    /// The same for what may take long, a history that is searched or exported: no caller waits for
    /// it. Opened when it is first wanted.
    slow: SqlitePool,
    /// The one connection that writes: waiting for it is first come, first served.
    write: SqlitePool,
    strangers: Arc<Strangers>,
}

impl Store {
    /// Opens the database, makes it when there is none, and brings its schema up to date.
    ///
    /// Safe to be called by several processes at once: the migrations run under a file lock.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_or_make(path, true).await
    }

    /// Like [`Store::open`], but only for a database that is there: where there is none, nothing
    /// is made.
    pub async fn open_existing(path: &Path) -> Result<Self, StoreError> {
        Self::open_or_make(path, false).await
    }

    async fn open_or_make(path: &Path, may_make: bool) -> Result<Self, StoreError> {
        if let Some(store) = Self::open_current(path).await {
            return Ok(store);
        }
        match migrate::bring_up_to_date(path, &options(path), may_make).await {
            Ok(()) => Ok(Self::connect(path)),
            Err(error) => Err(error.explained(path).await),
        }
    }

    /// A database that is up to date, as at nearly every start: told by the connections that stay
    /// open anyway, for somebody may wait for this start. None for any other, and for one that
    /// cannot be read.
    async fn open_current(path: &Path) -> Option<Self> {
        if !migrate::seems_current(path).await {
            return None;
        }
        let file = identity(path).await;
        let store = Self::connect(path);
        let is_current = async {
            let mut reader = store.read.acquire().await?;
            migrate::holds_newest(&mut reader).await
        };
        // A backup may have taken the database's place while this waited for whoever put it there,
        // and then the reader has the former one open. From now on it keeps others from doing so.
        if matches!(is_current.await, Ok(true)) && file.is_some() && file == identity(path).await {
            return Some(store);
        }
        store.close().await;
        None
    }

    /// A database that is there and up to date, only to be read; None for any other. Nothing is
    /// made, changed or waited for.
    pub async fn open_to_read(path: &Path) -> Result<Option<Self>, StoreError> {
        Ok(migrate::is_up_to_date(path).await?.then(|| Self::connect(path)))
    }

    fn connect(path: &Path) -> Self {
        let pool = SqlitePoolOptions::new()
            // Nothing here loses its connection, and a ping would double each query's cost.
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(BUSY_TIMEOUT * 2);
        let write = pool.clone().max_connections(1).connect_lazy_with(options(path));
        let reading = || options(path).pragma("query_only", "1");
        let slow = pool.clone().max_connections(1).connect_lazy_with(reading());
        let read = pool.max_connections(READERS).connect_lazy_with(reading());
        Self { path: path.into(), read, slow, write, strangers: Arc::default() }
    }

    /// Which database this is: a random id, made with it.
    pub async fn instance(&self) -> Result<String, StoreError> {
        Ok(sqlx::query_scalar("SELECT id FROM instance").fetch_one(&self.read).await?)
    }

    /// The same, of a database in which there was never a job.
    pub async fn instance_if_fresh(&self) -> Result<Option<String>, StoreError> {
        let fresh = "SELECT id FROM instance WHERE NOT EXISTS (SELECT 1 FROM jobs)";
        Ok(sqlx::query_scalar(fresh).fetch_optional(&self.read).await?)
    }

    /// Does the store answer? One small read.
    pub async fn answers(&self) -> bool {
        sqlx::query("SELECT 1").execute(&self.read).await.is_ok()
    }

    /// Would the store take a write, now or in a moment? A look at the file and the lock that
    /// writers take; nothing is written.
    pub async fn takes_writes(&self) -> bool {
        let look = async {
            sqlx::query("SELECT count(*) FROM sqlite_schema").execute(&self.read).await?;
            let mut writer = self.write.acquire().await?;
            let outcome = async { writer.begin_with("BEGIN IMMEDIATE").await?.rollback().await };
            let outcome = outcome.await;
            keep_if_well(writer, outcome).await
        };
        look.await.is_ok()
    }

    /// May this process write the database, and make the files that `SQLite` puts beside it? A
    /// connection that was opened while it might not is never allowed to.
    ///
    /// # Errors
    /// [`StoreError::NotWritable`], or what the system said of the file.
    pub async fn check_writable(&self) -> Result<(), StoreError> {
        trouble::check_writable(&self.path).await
    }

    /// Ends the connections, so that the log is written back into the database.
    pub async fn close(&self) {
        self.read.close().await;
        self.slow.close().await;
        self.write.close().await;
    }
}

/// Which file is there: device and inode.
async fn identity(path: &Path) -> Option<(u64, u64)> {
    let file = tokio::fs::metadata(path).await.ok()?;
    Some((file.dev(), file.ino()))
}

/// Gives a writer back after a transaction, or ends it when that failed: where `SQLite` rolls back
/// by itself (a full disk, say), sqlx still counts the transaction as open, for ever.
async fn keep_if_well<T>(
    writer: PoolConnection<Sqlite>,
    outcome: sqlx::Result<T>,
) -> sqlx::Result<T> {
    if outcome.is_err() {
        let _ = writer.close().await;
    }
    outcome
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        // What stands in the schema may be a front's that somebody took over: nothing in it calls a
        // function that does more than compute.
        .pragma("trusted_schema", "OFF")
        .disable_statement_logging()
}

/// Now, in milliseconds since the Unix epoch: the unit of every time in the store.
#[must_use]
pub fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
