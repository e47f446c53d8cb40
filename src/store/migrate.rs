//! Brings the schema up to date: embedded migrations, under a file lock, and only on a database
//! that is ours. A database of another program is recognised before anything is written to it.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Instant,
};

use sqlx::{
    ConnectOptions, Connection, SqliteConnection,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteSynchronous},
};
use uuid::Uuid;

use super::StoreError;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Applies what is missing. sqlx's own lock does nothing for `SQLite`, and front, worker and
/// commands may start at the same moment: a lock on a file beside the database orders them. Where
/// there is no database, one is made only if it may be.
pub(super) async fn bring_up_to_date(
    path: &Path,
    options: &SqliteConnectOptions,
    may_make: bool,
) -> Result<(), StoreError> {
    let missing = || StoreError::Missing(path.display().to_string());
    // Another process of ours may be writing: only a clear sight counts.
    match look(path).await {
        Ok(Sight::Empty) if !may_make => return Err(missing()),
        Ok(sight) => refuse_others(path, &sight)?,
        Err(_) => {}
    }
    let lock_path = path.with_extension("migrate.lock");
    let _lock = tokio::task::spawn_blocking(move || lock(&lock_path))
        .await
        .map_err(|panic| StoreError::Sql(sqlx::Error::Protocol(panic.to_string())))??;
    let from = match look(path).await {
        Ok(Sight::Empty) if !may_make => return Err(missing()),
        // SQLite would not let the group write, and gives its other files the mode of this one.
        Ok(Sight::Empty) => make_shared(path).map(|()| None)?,
        Ok(sight) => {
            refuse_others(path, &sight)?;
            if is_current(path).await? {
                return Ok(());
            }
            if let Sight::Ours(from) = sight { from } else { None }
        }
        Err(error) => return Err(unreadable(path, error)),
    };
    // Its commits need not each reach the disk: closing syncs them all (or, when others have the
    // database open, the next commit does, for it syncs the log up to its own end).
    let options = options.clone().synchronous(SqliteSynchronous::Normal);
    let mut connection = options.connect().await?;
    let begun = Instant::now();
    if let Some(from) = from {
        // A long history takes its time, and a service that says nothing seems to hang.
        tracing::info!(from, to = newest(), "bringing the database up to date");
    }
    MIGRATIONS.run(&mut connection).await?;
    connection.close().await?;
    if from.is_some() {
        let seconds = begun.elapsed().as_secs();
        tracing::info!(seconds, "the database is up to date");
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, StoreError> {
    make_shared(path)?;
    let open = || {
        let file = OpenOptions::new().write(true).open(path)?;
        file.lock()?;
        Ok(file)
    };
    open().map_err(|source| StoreError::Io { path: path.display().to_string(), source })
}

fn make_shared(path: &Path) -> Result<(), StoreError> {
    crate::state_dir::make_file(path)
        .map_err(|source| StoreError::Io { path: path.display().to_string(), source })
}

/// What the tables of a file say about it.
enum Sight {
    /// No file, or no table in it.
    Empty,
    /// The Python original's.
    Original,
    /// Another program's.
    Foreign,
    /// Ours, with the newest migration that is written down, if any.
    Ours(Option<i64>),
}

impl Sight {
    fn is_newest(&self) -> bool {
        matches!(*self, Self::Ours(Some(version)) if version == newest())
    }
}

fn refuse_others(path: &Path, sight: &Sight) -> Result<(), StoreError> {
    let name = || path.display().to_string();
    match *sight {
        Sight::Empty => Ok(()),
        Sight::Original => Err(StoreError::Original(name())),
        Sight::Foreign => Err(StoreError::Foreign(name())),
        Sight::Ours(version) => refuse_newer(path, version),
    }
}

fn refuse_newer(path: &Path, version: Option<i64>) -> Result<(), StoreError> {
    match version {
        Some(found) if found > newest() => {
            Err(StoreError::Newer { path: path.display().to_string(), found, known: newest() })
        }
        _ => Ok(()),
    }
}

/// A look that makes not even the files that `SQLite` puts beside a database in WAL mode. Where
/// that does not show one of ours, and there is such a log, a copy of both is looked at.
async fn look(path: &Path) -> sqlx::Result<Sight> {
    if !has_content(path) {
        return Ok(Sight::Empty);
    }
    let immutable = SqliteConnectOptions::new().filename(path).read_only(true).immutable(true);
    match recognise(&immutable).await {
        // Without its log, a first start that was killed may look empty, half made or broken.
        Ok(Sight::Empty | Sight::Foreign) | Err(_) if has_content(&log_of(path)) => {
            look_at_copy(path).await
        }
        sight => sight,
    }
}

async fn look_at_copy(path: &Path) -> sqlx::Result<Sight> {
    let folder = std::env::temp_dir().join(format!("codex-image-service-{}", Uuid::new_v4()));
    let copy = folder.join("copy.db");
    DirBuilder::new().mode(0o700).create(&folder)?;
    let sight = async {
        tokio::fs::copy(log_of(path), log_of(&copy)).await?;
        tokio::fs::copy(path, &copy).await?;
        recognise(&SqliteConnectOptions::new().filename(&copy)).await
    }
    .await;
    std::fs::remove_dir_all(folder)?;
    sight
}

fn has_content(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.len() > 0)
}

/// The log that `SQLite` keeps beside a database in WAL mode.
fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

async fn recognise(options: &SqliteConnectOptions) -> sqlx::Result<Sight> {
    let mut connection = options.connect().await?;
    let sight = sight_of(&mut connection).await;
    connection.close().await?;
    sight
}

async fn sight_of(connection: &mut SqliteConnection) -> sqlx::Result<Sight> {
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table'")
            .fetch_all(&mut *connection)
            .await?;
    let has = |name: &str| tables.iter().any(|table| table == name);
    if !has("_sqlx_migrations") {
        return Ok(match () {
            () if has("image_requests") => Sight::Original,
            () if tables.is_empty() => Sight::Empty,
            () => Sight::Foreign,
        });
    }
    // Other programs use sqlx, too. Without a row, a first start of ours was interrupted.
    let first: Option<String> =
        sqlx::query_scalar("SELECT description FROM _sqlx_migrations ORDER BY version LIMIT 1")
            .fetch_optional(&mut *connection)
            .await?;
    let ours = MIGRATIONS.iter().next().map(|migration| migration.description.as_ref());
    match first.as_deref() {
        None if tables.len() > 1 => return Ok(Sight::Foreign),
        Some(_) if first.as_deref() != ours => return Ok(Sight::Foreign),
        _ => {}
    }
    let version = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations");
    Ok(Sight::Ours(version.fetch_one(connection).await?))
}

/// Whether nothing seems to be left to do, by a look that makes nothing. What is still in the log
/// may say otherwise.
pub(super) async fn seems_current(path: &Path) -> bool {
    look(path).await.is_ok_and(|sight| sight.is_newest())
}

/// Whether nothing is left to do in a database that is open, its log included.
pub(super) async fn holds_newest(connection: &mut SqliteConnection) -> sqlx::Result<bool> {
    Ok(sight_of(connection).await?.is_newest())
}

/// With what is still in the log; true when nothing is to be done.
async fn is_current(path: &Path) -> Result<bool, StoreError> {
    let sight = recognise(&SqliteConnectOptions::new().filename(path).read_only(true)).await?;
    refuse_others(path, &sight)?;
    Ok(sight.is_newest())
}

/// Whether a database is there, ours and of this version.
pub(super) async fn is_up_to_date(path: &Path) -> Result<bool, StoreError> {
    Ok(has_content(path) && is_current(path).await?)
}

/// Fails unless there is a database of ours, of this version or a former one. Makes nothing.
pub(super) async fn must_be_ours(path: &Path) -> Result<(), StoreError> {
    match look(path).await {
        Ok(Sight::Empty) => Err(StoreError::Missing(path.display().to_string())),
        Ok(sight) => refuse_others(path, &sight),
        Err(error) => Err(unreadable(path, error)),
    }
}

/// The version of a database that must be ours, this one or a former one.
pub(super) async fn version_of(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<i64, StoreError> {
    let sight = sight_of(connection).await.map_err(|error| unreadable(path, error))?;
    refuse_others(path, &sight)?;
    match sight {
        Sight::Ours(Some(version)) => Ok(version),
        _ => Err(StoreError::Missing(path.display().to_string())),
    }
}

/// A file that could not be read, by its name where it is to blame.
pub(super) fn unreadable(path: &Path, error: sqlx::Error) -> StoreError {
    let path = path.display().to_string();
    match code_of(&error).as_deref() {
        Some("26") => StoreError::NoDatabase(path), // SQLITE_NOTADB
        Some("11") => StoreError::Damaged { path, found: error.to_string() }, // SQLITE_CORRUPT
        _ => error.into(),
    }
}

/// The number that `SQLite` gave it.
pub(super) fn code_of(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

fn newest() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}
