//! A backup is one file: the database as it was at one moment. It is written under another name,
//! verified, and takes its place in one step; until then what was there stays, also under a kill.

mod place;
mod restore;

use std::{
    io,
    path::{Path, PathBuf},
};

use self::place::{Partial, Target};
use crate::store::{
    StoreError,
    backup::{self, Contents},
};

pub use self::restore::{RestoreError, Restored, restore};

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The database could not be read, or the copy is not whole.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Where to.
    #[error("there is no folder {0}")]
    NoFolder(PathBuf),
    /// It is not asked for to replace it.
    #[error("{0} is there already; --force replaces it")]
    Exists(PathBuf),
    /// A link, a device, a folder.
    #[error("{0} is no regular file, and is left alone")]
    NoFile(PathBuf),
    /// The database would replace itself.
    #[error("{0} belongs to the database itself; a backup needs another place")]
    OwnPlace(PathBuf),
    /// Only backups in a folder of dated ones can be counted.
    #[error("--keep is for a folder, and {0} is none")]
    NothingToKeep(PathBuf),
    /// The disk.
    #[error("there is no room for the backup in {0}")]
    Full(PathBuf),
    /// A file.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The backup is made; those that it replaces are still there.
    #[error("the backup {made} is made; an older one could not be removed: {path}: {source}")]
    NotRemoved {
        /// The new backup.
        made: PathBuf,
        /// The old one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A backup.
#[derive(Debug)]
pub struct Made {
    /// Where.
    pub path: PathBuf,
    /// How large.
    pub bytes: u64,
    /// What it holds.
    pub contents: Contents,
    /// Older ones that were removed.
    pub removed: usize,
}

/// Backs the database up, also while the service runs, into the file `at` or, where that is a
/// folder, into a dated file in it. Of those `keep` are kept, when it says how many.
///
/// # Errors
/// See [`BackupError`]. When there is no new backup, no old one is removed.
pub async fn make(
    database: &Path,
    at: &Path,
    force: bool,
    keep: Option<u32>,
) -> Result<Made, BackupError> {
    let target = Target::of(at, database, force, keep.is_some())?;
    let partial = Partial::make(&target.folder, 0o600).map_err(|error| target.trouble(error))?;
    if let Err(error) = backup::copy(database, partial.path()).await {
        return Err(match error {
            // That of the database itself.
            error @ StoreError::Full(_) => error.into(),
            error if error.is_full() => BackupError::Full(target.folder),
            error => error.into(),
        });
    }
    let contents = backup::verify(partial.path()).await?;
    let (path, bytes) = target.take(partial)?;
    let removed = match keep {
        Some(keep) => target.remove_older(&path, keep)?,
        None => 0,
    };
    Ok(Made { path, bytes, contents, removed })
}
