//! Finds what Codex saved: `generated_images/<thread>/` in the login's home, in every version from
//! 0.117 to 0.169. The files' names differ between versions and their suffix says nothing, so
//! only the folder and the first bytes count.

use std::{
    ffi::OsString,
    fs::{self, DirEntry, File},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::events::is_thread_id;

/// One picture is asked for; more than this is not looked at.
const MOST_FILES: usize = 64;

/// What lies in the folders of a turn's threads.
#[derive(Debug, Default)]
pub(super) struct Harvest {
    /// Files that begin like a picture, oldest first in each folder.
    pub(super) pictures: Vec<PathBuf>,
    /// Whether there were regular files that do not.
    pub(super) others: bool,
}

/// Adds the pictures of a thread to `found`. Nothing there is nothing found; an error means that
/// there may be more than what was found.
pub(super) fn harvest(home: &Path, thread: &str, found: &mut Harvest) -> io::Result<()> {
    let Some(entries) = existing(folder(home, thread).and_then(fs::read_dir))? else {
        return Ok(());
    };
    let mut pictures: Vec<((i64, i64), OsString, PathBuf)> = Vec::new();
    let mut unread = None;
    for entry in entries.take(MOST_FILES) {
        match entry.and_then(|entry| Ok((look(&entry)?, entry))) {
            Ok((Entry::Picture(time), entry)) => {
                pictures.push((time, entry.file_name(), entry.path()));
            }
            Ok((Entry::OtherFile, _)) => found.others = true,
            Ok((Entry::NoFile, _)) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // The rest is looked at all the same: one of it may be the picture.
            Err(error) => unread = unread.or(Some(error)),
        }
    }
    pictures.sort();
    found.pictures.extend(pictures.into_iter().map(|(_, _, path)| path));
    unread.map_or(Ok(()), Err)
}

/// Whether a home has a folder for this thread.
pub(super) fn knows(home: &Path, thread: &str) -> io::Result<bool> {
    Ok(existing(folder(home, thread))?.is_some())
}

/// The threads of which a home keeps pictures, ours and others'.
pub(super) fn threads(home: &Path) -> io::Result<Vec<String>> {
    let entries = existing(fs::read_dir(home.join("generated_images")))?;
    let mut threads = Vec::new();
    for entry in entries.into_iter().flatten() {
        if let Some(name) = entry?.file_name().into_string().ok().filter(|name| is_thread_id(name))
        {
            threads.push(name);
        }
    }
    Ok(threads)
}

/// Removes a thread's folder with all that is in it.
pub(super) fn remove(home: &Path, thread: &str) -> io::Result<()> {
    match folder(home, thread).and_then(fs::remove_dir_all) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// None for what is certainly not there; any other error leaves that open.
fn existing<T>(looked: io::Result<T>) -> io::Result<Option<T>> {
    use io::ErrorKind::{InvalidInput, NotADirectory, NotFound};
    match looked {
        Err(error) if matches!(error.kind(), NotFound | NotADirectory | InvalidInput) => Ok(None),
        looked => looked.map(Some),
    }
}

/// The folder, when it is a real one: a link could lead anywhere.
fn folder(home: &Path, thread: &str) -> io::Result<PathBuf> {
    if !is_thread_id(thread) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a thread's id"));
    }
    let path = home.join("generated_images").join(thread);
    if fs::symlink_metadata(&path)?.is_dir() {
        Ok(path)
    } else {
        Err(io::Error::new(io::ErrorKind::NotADirectory, "not a folder"))
    }
}

/// What an entry of a thread's folder is.
enum Entry {
    /// A regular file that begins like a picture, and its time.
    Picture((i64, i64)),
    /// Another regular file.
    OtherFile,
    /// A folder, a link, a pipe.
    NoFile,
}

fn look(entry: &DirEntry) -> io::Result<Entry> {
    if !entry.file_type()?.is_file() {
        return Ok(Entry::NoFile);
    }
    // Still with care: it may be another by now, and opening a pipe would wait for its writer.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut file =
        File::options().read(true).custom_flags(flags.bits().cast_signed()).open(entry.path())?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(Entry::NoFile);
    }
    let mut head = Vec::new();
    file.by_ref().take(12).read_to_end(&mut head)?;
    Ok(if is_picture(&head) {
        Entry::Picture((meta.mtime(), meta.mtime_nsec()))
    } else {
        Entry::OtherFile
    })
}

fn is_picture(head: &[u8]) -> bool {
    head.starts_with(b"\x89PNG\r\n\x1a\n")
        || head.starts_with(b"\xff\xd8\xff")
        || (head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP"))
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::{PermissionsExt, symlink},
        time::Duration,
    };

    use super::*;

    const THREAD: &str = "01a202ac-589d-75c2-aeb3-17ff97d6019f";

    fn harvested(home: &Path) -> io::Result<Harvest> {
        let mut found = Harvest::default();
        harvest(home, THREAD, &mut found).map(|()| found)
    }

    #[test]
    fn only_regular_pictures_count_oldest_first() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("generated_images").join(THREAD);
        fs::create_dir_all(&dir).unwrap();
        let now = std::time::SystemTime::now();
        for (name, bytes, age) in [
            ("b.png", &b"\x89PNG\r\n\x1a\nxxxx"[..], 10),
            ("a.png", b"\xff\xd8\xff\xe0", 5),
            ("c.png", b"RIFF\0\0\0\0WEBPVP8 ", 20),
            ("garbage.png", b"these bytes are no image", 1),
        ] {
            fs::write(dir.join(name), bytes).unwrap();
            let file = File::options().write(true).open(dir.join(name)).unwrap();
            file.set_modified(now - Duration::from_secs(age)).unwrap();
        }
        symlink(dir.join("a.png"), dir.join("link.png")).unwrap();
        fs::create_dir(dir.join("folder.png")).unwrap();
        let found = harvested(home.path()).unwrap();
        let names: Vec<_> = found.pictures.iter().map(|p| p.file_name().unwrap()).collect();
        assert_eq!(names, ["c.png", "b.png", "a.png"]);
        assert!(found.others);
    }

    #[test]
    fn nothing_outside_the_folder_is_touched() {
        let home = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("x.png"), b"\x89PNG\r\n\x1a\n").unwrap();
        fs::create_dir(home.path().join("generated_images")).unwrap();
        symlink(outside.path(), home.path().join("generated_images").join(THREAD)).unwrap();
        assert!(harvested(home.path()).unwrap().pictures.is_empty());
        assert!(remove(home.path(), THREAD).is_err());
        assert!(remove(home.path(), "..").is_err());
        assert!(outside.path().join("x.png").exists());
    }

    #[test]
    fn what_is_not_there_is_nothing_and_what_cannot_be_looked_at_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let pictures = home.path().join("generated_images");
        let nothing = || {
            let found = harvested(home.path()).unwrap();
            found.pictures.is_empty() && !found.others && !knows(home.path(), THREAD).unwrap()
        };
        assert!(nothing());
        fs::write(&pictures, "").unwrap();
        assert!(nothing());
        fs::remove_file(&pictures).unwrap();
        symlink(&pictures, &pictures).unwrap();
        assert!(harvested(home.path()).is_err() && knows(home.path(), THREAD).is_err());
        assert!(threads(home.path()).is_err());
    }

    #[test]
    fn a_file_that_cannot_be_read_does_not_hide_the_others() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("generated_images").join(THREAD);
        fs::create_dir_all(&dir).unwrap();
        for name in ["a.png", "b.png", "c.png"] {
            fs::write(dir.join(name), b"\x89PNG\r\n\x1a\n").unwrap();
        }
        fs::set_permissions(dir.join("b.png"), fs::Permissions::from_mode(0o000)).unwrap();
        let mut found = Harvest::default();
        let looked = harvest(home.path(), THREAD, &mut found);
        if File::open(dir.join("b.png")).is_ok() {
            return; // root reads everything
        }
        assert_eq!(looked.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(found.pictures, [dir.join("a.png"), dir.join("c.png")]);
    }

    #[test]
    fn a_thread_is_removed_once_and_again() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("generated_images").join(THREAD);
        fs::create_dir_all(dir.join("sub")).unwrap();
        remove(home.path(), THREAD).unwrap();
        assert!(!dir.exists());
        remove(home.path(), THREAD).unwrap();
    }
}
