//! Where a backup goes: what may be replaced, how it gets there in one step, and which older ones
//! there are.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use uuid::Uuid;

use super::BackupError;

/// A dated backup's name, with its time between: `20261126T164500Z`.
const BEFORE: &str = "codex-image-service-";
const AFTER: &str = ".db";

/// The name of an unfinished file, with 32 hex digits between, and that of its journal.
const PARTIAL: &str = ".codex-image-service-";
const UNFINISHED: [&str; 2] = [".partial", ".partial-journal"];

/// What is unfinished for so long is nobody's any more.
const ABANDONED: Duration = Duration::from_hours(1);

/// How many callers of one moment find a name, one a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a backup goes.
pub(super) struct Target {
    pub(super) folder: PathBuf,
    name: Name,
}

enum Name {
    /// This, and whether it may take another's place.
    Given { path: PathBuf, replace: bool },
    /// Of the time when it is put there.
    Dated,
}

impl Target {
    pub(super) fn of(
        at: &Path,
        database: &Path,
        force: bool,
        keep: bool,
    ) -> Result<Self, BackupError> {
        let failed = |source| BackupError::Io { path: at.to_owned(), source };
        let at = std::path::absolute(at).map_err(failed)?;
        if at.is_dir() {
            return Ok(Self { folder: at, name: Name::Dated });
        }
        if keep {
            return Err(BackupError::NothingToKeep(at));
        }
        let (folder, path) = match (at.parent(), at.file_name()) {
            (Some(folder), Some(_)) if folder.is_dir() => (folder.to_owned(), at),
            (Some(folder), Some(_)) => return Err(BackupError::NoFolder(folder.to_owned())),
            _ => return Err(BackupError::NoFile(at)),
        };
        if is_part_of(&path, database) {
            return Err(BackupError::OwnPlace(path));
        }
        match fs::symlink_metadata(&path) {
            Ok(found) if !found.is_file() => Err(BackupError::NoFile(path)),
            Ok(_) if !force => Err(BackupError::Exists(path)),
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(BackupError::Io { path, source })
            }
            _ => Ok(Self { folder, name: Name::Given { path, replace: force } }),
        }
    }

    /// What the system said about the new file.
    pub(super) fn trouble(&self, source: io::Error) -> BackupError {
        let path = match &self.name {
            Name::Given { path, .. } => path,
            Name::Dated => &self.folder,
        };
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                BackupError::Full(self.folder.clone())
            }
            io::ErrorKind::AlreadyExists => BackupError::Exists(path.clone()),
            _ => BackupError::Io { path: path.clone(), source },
        }
    }

    /// Puts the whole file there; where that is, and how many bytes it has.
    pub(super) fn take(&self, mut partial: Partial) -> Result<(PathBuf, u64), BackupError> {
        let put = match &self.name {
            Name::Given { path, replace } => {
                partial.settle(path, *replace).map(|bytes| (path.clone(), bytes))
            }
            Name::Dated => under_a_date(
                |stamp| self.folder.join(format!("{BEFORE}{stamp}{AFTER}")),
                |path| partial.settle(path, false),
            ),
        };
        put.map_err(|error| self.trouble(error))
    }

    /// Removes the oldest dated backups of this folder, so that `keep` are left; how many went.
    /// The new one, `made`, stays, whatever the clock says.
    pub(super) fn remove_older(&self, made: &Path, keep: u32) -> Result<usize, BackupError> {
        let failed = |path: PathBuf| {
            |source| BackupError::NotRemoved { made: made.to_owned(), path, source }
        };
        let entries = fs::read_dir(&self.folder).map_err(failed(self.folder.clone()))?;
        let mut older: Vec<PathBuf> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_str().is_some_and(is_dated))
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
            .map(|entry| entry.path())
            .filter(|path| path != made)
            .collect();
        older.sort();
        let surplus = (older.len() + 1).saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX));
        for path in older.iter().take(surplus) {
            fs::remove_file(path).map_err(failed(path.clone()))?;
        }
        Ok(surplus.min(older.len()))
    }
}

/// Whether a path is the database or a file that `SQLite` keeps beside it, by whatever name.
pub(super) fn is_part_of(path: &Path, database: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let database = real(database);
    ["", "-wal", "-shm", "-journal"].iter().any(|end| {
        let own = beside(&database, end);
        path == own || id(path).is_some_and(|found| id(&own) == Some(found))
    })
}

/// Where a database is: a link to it is followed, as `SQLite` does.
pub(super) fn real(database: &Path) -> PathBuf {
    fs::canonicalize(database).unwrap_or_else(|_| database.to_owned())
}

/// `path` with `end` at the end of its name.
pub(super) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// A time as it stands in the names of files: to the second.
fn stamp(time: jiff::Timestamp) -> String {
    time.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// Has a file take a name with the time in it, and waits for the next second while that of this
/// one is taken: it says `AlreadyExists` then. Where it is, and what else was said.
pub(super) fn under_a_date<T>(
    name: impl Fn(&str) -> PathBuf,
    mut take: impl FnMut(&Path) -> io::Result<T>,
) -> io::Result<(PathBuf, T)> {
    let begun = Instant::now();
    loop {
        let path = name(&stamp(jiff::Timestamp::now()));
        match take(&path) {
            Err(error)
                if error.kind() == io::ErrorKind::AlreadyExists && begun.elapsed() < PATIENCE =>
            {
                thread::sleep(Duration::from_millis(20));
            }
            taken => return taken.map(|taken| (path, taken)),
        }
    }
}

fn is_dated(name: &str) -> bool {
    let time = name.strip_prefix(BEFORE).and_then(|rest| rest.strip_suffix(AFTER));
    time.is_some_and(|time| {
        time.len() == 16
            && time.bytes().enumerate().all(|(at, byte)| match at {
                8 => byte == b'T',
                15 => byte == b'Z',
                _ => byte.is_ascii_digit(),
            })
    })
}

/// A file in the making, beside the place that it is to take. It goes with this value.
pub(super) struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    pub(super) fn make(folder: &Path, mode: u32) -> io::Result<Self> {
        remove_abandoned(folder);
        let name = format!("{PARTIAL}{}{}", Uuid::new_v4().simple(), UNFINISHED[0]);
        let path = folder.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let partial = Self { path, file };
        partial.file.set_permissions(Permissions::from_mode(mode))?;
        Ok(partial)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its name, on the disk as well; how many bytes it has. When that fails it is still
    /// what it was.
    pub(super) fn settle(&mut self, path: &Path, replace: bool) -> io::Result<u64> {
        self.file.sync_all()?;
        let bytes = self.file.metadata()?.len();
        let put = || match renameat_with(CWD, &self.path, CWD, path, RenameFlags::NOREPLACE) {
            // Not every file system can.
            Err(Errno::INVAL | Errno::NOSYS) => match fs::symlink_metadata(path) {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(_) => fs::rename(&self.path, path),
            },
            done => Ok(done?),
        };
        if replace { fs::rename(&self.path, path) } else { put() }?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        File::open(folder)?.sync_all()?;
        Ok(bytes)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Once it has its name there is nothing here.
        let _ = fs::remove_file(&self.path);
        // `SQLite` removes it, unless it failed.
        let _ = fs::remove_file(beside(&self.path, "-journal"));
    }
}

/// What a kill left behind.
fn remove_abandoned(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_str().and_then(|name| name.strip_prefix(PARTIAL));
        let id = name.and_then(|name| UNFINISHED.iter().find_map(|end| name.strip_suffix(end)));
        if id.is_none_or(|id| id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            continue;
        }
        let changed = entry.metadata().ok().filter(fs::Metadata::is_file);
        let changed = changed.and_then(|file| file.modified().ok());
        let is_old = |time: SystemTime| time.elapsed().is_ok_and(|age| age > ABANDONED);
        if changed.is_some_and(is_old) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_names_are_dated() {
        let time = "2026-11-26T16:45:07Z".parse().unwrap();
        assert_eq!(stamp(time), "20261126T164507Z");
        assert!(is_dated("codex-image-service-20261126T164507Z.db"));
        for other in [
            "codex-image-service.db",
            "codex-image-service-20261126T164507Z.db-wal",
            "codex-image-service-20261126T164507Z.db.bak",
            "codex-image-service-20261126T164507.db",
            "codex-image-service-20261126-164507Z.db",
            "codex-image-service-2026112aT164507Z.db",
            "my-codex-image-service-20261126T164507Z.db",
        ] {
            assert!(!is_dated(other), "{other}");
        }
    }
}
