//! Names and files: how a finished picture gets its name, how it is opened for serving and how it
//! goes. A file has its final name only when it is complete and on the disk; what is being
//! written is called `.tmp-…` or `….part` and is removed when its writer gives up.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::OFlags;

use super::Format;

/// The start of the names of pictures that are still being imported.
pub const TEMPORARY_PREFIX: &str = ".tmp-";

/// Readable by the group: where the service is split into two users, they share one.
const MODE: u32 = 0o640;

/// A file under a provisional name, removed when dropped before [`Unfinished::keep`].
pub(super) struct Unfinished {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl Unfinished {
    /// Creates the file, emptying what an interrupted writer left under that name.
    pub(super) fn create(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(MODE)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)?;
        Ok(Self { file, path, kept: false })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Makes content, name and folder entry durable. Replaces an older file of that name.
    pub(super) fn keep(self, dir: &Path, name: &str) -> io::Result<()> {
        self.file.sync_all()?;
        self.keep_unsynced(dir, name)?;
        sync_dir(dir)
    }

    /// Gives it its name, whole for whoever sees it, and yet perhaps lost by a loss of power.
    pub(super) fn keep_unsynced(mut self, dir: &Path, name: &str) -> io::Result<()> {
        fs::rename(&self.path, dir.join(name))?;
        self.kept = true;
        Ok(())
    }
}

impl Write for Unfinished {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.kept {
            // Nobody is left to tell; what stays is swept later.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens a regular file without following a link at its end and without waiting for the writer of
/// a pipe that stands in its place.
///
/// # Errors
/// Those of `open(2)`, ELOOP for a link among them; `InvalidInput` for what is no regular file.
pub(super) fn open_regular(path: &Path) -> io::Result<(File, fs::Metadata)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() {
        Ok((file, metadata))
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// Could a picture be stored in this folder now, as far as the folder itself goes?
///
/// # Errors
/// Why not: it is not there, no folder, or may not be written.
pub fn check_folder(dir: &Path) -> io::Result<()> {
    if !fs::metadata(dir)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let wanted = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    Ok(rustix::fs::access(dir, wanted)?)
}

/// Makes the entries of a folder durable.
///
/// # Errors
/// Those of `open(2)` and `fsync(2)`.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// A finished picture, open for reading.
#[derive(Debug)]
pub struct Stored {
    /// At its start.
    pub file: File,
    /// Told by the extension, which tells the truth here.
    pub format: Format,
    /// Length in bytes.
    pub bytes: u64,
    /// When it was written.
    pub modified: SystemTime,
}

/// Opens a finished picture by the name that a URL carries.
///
/// # Errors
/// `NotFound` for every name that none of our pictures can have; those of `open(2)`.
pub fn open(dir: &Path, name: &str) -> io::Result<Stored> {
    let format = format_of_name(name).ok_or(io::ErrorKind::NotFound)?;
    let (file, metadata) = open_regular(&dir.join(name))?;
    Ok(Stored { file, format, bytes: metadata.len(), modified: metadata.modified()? })
}

/// Opens the small copy of a picture of this name; see [`super::make_thumbnail`].
///
/// # Errors
/// As [`open`].
pub fn open_thumbnail(dir: &Path, picture: &str) -> io::Result<Stored> {
    format_of_name(picture).ok_or(io::ErrorKind::NotFound)?;
    let (file, metadata) = open_regular(&dir.join(thumbnail_name(picture)))?;
    let (bytes, modified) = (metadata.len(), metadata.modified()?);
    Ok(Stored { file, format: Format::Jpeg, bytes, modified })
}

/// What the small copy of a picture is called.
#[must_use]
pub fn thumbnail_name(picture: &str) -> String {
    format!("{picture}.jpg")
}

/// Removes a finished picture; `false` when there was none.
///
/// # Errors
/// `InvalidInput` for a name that none of our pictures can have; those of `unlink(2)`.
pub fn remove(dir: &Path, name: &str) -> io::Result<bool> {
    if format_of_name(name).is_none() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    match fs::remove_file(dir.join(name)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what interrupted imports left, when nobody has written to it for `age`. Returns how
/// many files went.
///
/// # Errors
/// Those of reading the folder; a file that cannot be removed is left for the next time.
pub fn sweep(dir: &Path, age: Duration) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let ours = entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX);
        let old = || -> Option<bool> {
            Some(entry.metadata().ok()?.modified().ok()?.elapsed().ok()? >= age)
        };
        if ours && old() == Some(true) && fs::remove_file(entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

/// Whether a picture may be stored under this name (without extension): 1 to 100 ASCII letters,
/// digits, `-` and `_`. No path, no hidden file, no second extension.
pub(super) fn is_stem(stem: &str) -> bool {
    (1..=100).contains(&stem.len())
        && stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn format_of_name(name: &str) -> Option<Format> {
    let (stem, extension) = name.split_once('.')?;
    if is_stem(stem) { Format::of_extension(extension) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("img_1.png"), b"1234").unwrap();
        fs::write(dir.path().join("notes.txt"), b"secret").unwrap();
        std::os::unix::fs::symlink("notes.txt", dir.path().join("img_2.png")).unwrap();
        fs::create_dir(dir.path().join("img_3.png")).unwrap();

        let stored = open(dir.path(), "img_1.png").unwrap();
        assert_eq!((stored.bytes, stored.format), (4, Format::Png));
        for name in
            ["notes.txt", "../x.png", ".tmp-1.png", "a.b.png", "img_2.png", "img_3.png", ".png", ""]
        {
            assert!(open(dir.path(), name).is_err(), "{name}");
        }
    }

    #[test]
    fn removing_is_repeatable() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("img_1.png"), b"1234").unwrap();
        assert!(remove(dir.path(), "img_1.png").unwrap());
        assert!(!remove(dir.path(), "img_1.png").unwrap());
        assert!(remove(dir.path(), "../img_1.png").is_err());
    }

    #[test]
    fn sweep_takes_only_old_leftovers() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".tmp-a", "img_1.png"] {
            fs::write(dir.path().join(name), b"1234").unwrap();
        }
        assert_eq!(sweep(dir.path(), Duration::from_mins(1)).unwrap(), 0);
        assert_eq!(sweep(dir.path(), Duration::ZERO).unwrap(), 1);
        assert!(dir.path().join("img_1.png").exists());
    }
}
