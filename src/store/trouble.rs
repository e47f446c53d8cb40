//! What stands behind an error of `SQLite`'s, which names neither file nor user: a full disk, or a file
//! of somebody else.

use std::{os::unix::fs::MetadataExt as _, path::Path};

use nix::unistd::{Uid, User};
use rustix::{
    fs::{Access, access},
    io::Errno,
};

use super::{StoreError, migrate};

/// `SQLITE_FULL`, and `SQLITE_IOERR_SHMSIZE`: the index of the log is made when a database is opened.
const NO_ROOM: [&str; 2] = ["13", "4874"];

impl StoreError {
    /// Whether the disk had no room left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let is_full =
            |error| migrate::code_of(error).is_some_and(|code| NO_ROOM.contains(&code.as_str()));
        match self {
            Self::Sql(error) => is_full(error),
            Self::Commit(error) => is_full(error),
            Self::Full(_) => true,
            _ => false,
        }
    }

    /// The same of a database that could not be opened, with what a look at its file says.
    pub(super) async fn explained(self, path: &Path) -> Self {
        if self.is_full() {
            return Self::Full(path.display().to_string());
        }
        match self {
            Self::Sql(_) if path.exists() => match check_writable(path).await {
                Err(said) => said,
                Ok(()) => self,
            },
            _ => self,
        }
    }
}

/// May this process write the database, and make the files that `SQLite` puts beside it?
pub(super) async fn check_writable(path: &Path) -> Result<(), StoreError> {
    let path = path.to_owned();
    let look = move || {
        // `SQLite` follows a link, and makes its other files there.
        let path = path.canonicalize().unwrap_or(path);
        let folder = path.parent().unwrap_or(&path);
        may(&path, access(&path, Access::READ_OK | Access::WRITE_OK))?;
        may(folder, access(folder, Access::WRITE_OK | Access::EXEC_OK))
    };
    let looked = tokio::task::spawn_blocking(look).await;
    looked.map_err(|panic| StoreError::Sql(sqlx::Error::Protocol(panic.to_string())))?
}

/// Says whose file it is when it may not be written.
fn may(path: &Path, allowed: rustix::io::Result<()>) -> Result<(), StoreError> {
    let Err(error) = allowed else { return Ok(()) };
    let name = path.display().to_string();
    match (error, std::fs::metadata(path)) {
        (Errno::ACCESS, Ok(file)) => Err(StoreError::NotWritable {
            path: name,
            user: named(Uid::effective()),
            owner: named(Uid::from_raw(file.uid())),
            mode: file.mode() & 0o7777,
        }),
        _ => Err(StoreError::Io { path: name, source: error.into() }),
    }
}

/// Such as `root (0)`.
fn named(user: Uid) -> String {
    match User::from_uid(user) {
        Ok(Some(known)) => format!("{} ({user})", known.name),
        _ => user.to_string(),
    }
}
