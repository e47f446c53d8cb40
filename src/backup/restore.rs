//! Puts a backup in the place of the database: a verified copy of it, in one step, while nobody
//! has the database open. What it replaces stays beside it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, fcntl_lock},
    io::Errno,
};

use super::place::{Partial, beside, is_part_of, real, under_a_date};
use crate::{
    config::Config,
    state_dir,
    store::{
        StoreError,
        backup::{self, Contents},
    },
};

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file is no backup of ours, or damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody works with the database.
    #[error("the service runs, or a command does: {0} is in use. Stop front and worker first")]
    InUse(PathBuf),
    /// It has a log beside it, so it is no backup, and not whole without that.
    #[error(
        "{0} has a log beside it ({0}-wal), so it is no backup but a database; make a backup of it \
         with the command of that name"
    )]
    NoBackup(PathBuf),
    /// There is no such file, or it is something else.
    #[error("{0} is no regular file")]
    NoFile(PathBuf),
    /// It would replace itself.
    #[error("{0} is the database itself")]
    OwnPlace(PathBuf),
    /// A file.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A backup that is the database now.
#[derive(Debug)]
pub struct Restored {
    /// What it holds.
    pub contents: Contents,
    /// Where the database is that was there, if there was one.
    pub replaced: Option<PathBuf>,
}

/// Makes the backup `from` the database of these settings.
///
/// # Errors
/// See [`RestoreError`]; the database is then as it was.
pub async fn restore(config: &Config, from: &Path) -> Result<Restored, RestoreError> {
    let database = real(&config.database);
    let database = database.as_path();
    if !fs::metadata(from).map_err(io_error(from))?.is_file() {
        return Err(RestoreError::NoFile(from.to_owned()));
    }
    // Whether this user may read it shows only so.
    File::open(from).map_err(io_error(from))?;
    if is_part_of(from, database) {
        return Err(RestoreError::OwnPlace(from.to_owned()));
    }
    if beside(from, "-wal").metadata().is_ok_and(|log| log.len() > 0) {
        return Err(RestoreError::NoBackup(from.to_owned()));
    }
    backup::verify(from).await?;
    state_dir::make(config, false)
        .map_err(|source| RestoreError::Io { path: config.state_dir.clone(), source })?;
    let worker_lock = config.worker_lock();
    let _worker = lock(&worker_lock, database)?;
    let migrate_lock = config.database.with_extension("migrate.lock");
    state_dir::make_file(&migrate_lock).map_err(io_error(&migrate_lock))?;
    let _starts = lock(&migrate_lock, database)?;

    let mut partial = copy(from, database)?;
    // The copy, not what it was made from: disks fail.
    let contents = backup::verify(partial.path()).await?;
    let mut replaced = None;
    // Locks it for as long as this lasts.
    let mut _current = None;
    if database.exists() {
        // One that is damaged is kept as it is, with its log.
        let _ = backup::write_log_back(database).await;
        _current = Some(lock_database(database)?);
        replaced = Some(keep_current(database)?);
    }
    partial.settle(database, true).map_err(io_error(database))?;
    Ok(Restored { contents, replaced })
}

/// A copy beside the database, of its owner and with its mode, or as the service would make it.
fn copy(from: &Path, database: &Path) -> Result<Partial, RestoreError> {
    let folder = database.parent().unwrap_or(Path::new("/"));
    let made = || {
        let partial = Partial::make(folder, state_dir::mode_of_file(database))?;
        let file = partial.file();
        io::copy(&mut File::open(from)?, &mut &*file)?;
        let like = fs::metadata(database);
        if let Ok(like) = &like {
            file.set_permissions(like.permissions())?;
        }
        let like = like.or_else(|_| fs::metadata(folder))?;
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::fchown(file, Some(like.uid()), Some(like.gid()))?;
        }
        Ok(partial)
    };
    made().map_err(io_error(folder))
}

/// Fails while anybody has it open: every connection of `SQLite`'s holds a lock on its file, in WAL
/// mode for as long as it lives. To be kept; nothing of this process may open the database meanwhile.
fn lock_database(database: &Path) -> Result<File, RestoreError> {
    let file = open(database)?;
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::AGAIN | Errno::ACCESS) => Err(RestoreError::InUse(database.to_owned())),
        Err(error) => Err(io_error(database)(error.into())),
    }
}

/// Gives the database another name as well, and takes its log, if it still has one, there.
fn keep_current(database: &Path) -> Result<PathBuf, RestoreError> {
    let (kept, ()) = under_a_date(
        |stamp| beside(database, &format!(".replaced-{stamp}")),
        |kept| fs::hard_link(database, kept),
    )
    .map_err(io_error(database))?;
    for end in ["-wal", "-journal"] {
        match fs::rename(beside(database, end), beside(&kept, end)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error(&beside(database, end))(error));
            }
            _ => {}
        }
    }
    match fs::remove_file(beside(database, "-shm")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error(&beside(database, "-shm"))(error))
        }
        _ => Ok(kept),
    }
}

fn lock(path: &Path, database: &Path) -> Result<File, RestoreError> {
    let file = open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RestoreError::InUse(database.to_owned())),
        Err(TryLockError::Error(error)) => Err(io_error(path)(error)),
    }
}

fn open(path: &Path) -> Result<File, RestoreError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(io_error(path))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::Io { path, source }
}
