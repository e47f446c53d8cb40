//! The state directory: its folders, which are the user's alone or shared by the group of front and
//! worker, and the marker that says whose database knows a folder's content.
//!
//! The clean-up judges what lies in a folder by the database. With the wrong database, or while
//! the folder's disk is not mounted, everything would look like nobody's; so it judges only where
//! the marker names the database's own instance.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use crate::config::Config;

/// The file in a folder that names the instance whose folder it is.
pub const MARKER: &str = ".codex-image-service";

/// A folder of front and worker as two users. What is made in it belongs to its group, whoever
/// makes it.
const SHARED_FOLDER: u32 = 0o2770;
const PRIVATE_FOLDER: u32 = 0o700;

/// For files that front and worker both open to write.
const SHARED_FILE: u32 = 0o660;
const PRIVATE_FILE: u32 = 0o600;

/// Makes what is missing. What is there keeps its owner and mode: they are the operator's.
///
/// A new folder is its user's alone, for the user's group may be everybody's. It is shared with
/// the group when this process is one of two (`split`), or when the folder that it is made in is
/// shared already.
pub fn make(config: &Config, split: bool) -> io::Result<()> {
    make_folder(&config.state_dir, split)?;
    make_folder(&config.generated_dir, split)?;
    make_folder(&config.codex_workdir, split)?;
    make_folder(&config.references_dir(), split)?;
    make_folder(&config.thumbnails_dir(), split)?;
    make_folder(&config.run_dir, split)?;
    config.database.parent().map_or(Ok(()), |folder| make_folder(folder, split))?;
    let lock = config.worker_lock();
    make_file(&lock).map_err(|error| named(&lock, &error))
}

fn make_folder(path: &Path, split: bool) -> io::Result<()> {
    let make = || {
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o770).create(parent)?;
        }
        match DirBuilder::new().mode(PRIVATE_FOLDER).create(path) {
            Ok(()) if split || lies_in_shared_folder(path) => {
                fs::set_permissions(path, Permissions::from_mode(SHARED_FOLDER))
            }
            Err(_) if path.is_dir() => Ok(()),
            done => done,
        }
    };
    make().map_err(|error| named(path, &error))
}

/// Makes an empty file, for this user and, in a shared folder, its group, whatever the umask says;
/// one that is there stays as it is.
pub(crate) fn make_file(path: &Path) -> io::Result<()> {
    let mode = mode_of_file(path);
    match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Ok(file) => file.set_permissions(Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// The mode of a file that is made there.
pub(crate) fn mode_of_file(path: &Path) -> u32 {
    if lies_in_shared_folder(path) { SHARED_FILE } else { PRIVATE_FILE }
}

/// A small file of this user's own, and whether it was there.
pub(crate) struct PrivateFile {
    pub(crate) content: Vec<u8>,
    pub(crate) access: Access,
    pub(crate) came: Came,
    file: File,
}

/// Who can open a [`PrivateFile`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Its owner alone.
    Owner,
    /// Others as well. It is this user's, who can change that.
    Wide,
    /// Others as well, and it is not this user's.
    Foreign,
}

impl PrivateFile {
    /// Sees to it that its owner alone can open it.
    pub(crate) fn narrow(&self) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(PRIVATE_FILE))
    }
}

/// How a [`PrivateFile`] came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// It was there.
    Found,
    /// It was missing, or empty as by a kill between making and writing.
    Made,
    /// What was there did not fit.
    Replaced,
}

/// Reads a file of secrets, at most 4 KiB of it; one that is missing, or that does not fit by its
/// content and by who can open it, is made anew, for this user alone. When several processes come at
/// once, all get what one of them made.
pub(crate) fn private_file(
    path: &Path,
    fits: impl Fn(&[u8], Access) -> bool,
    make: impl Fn() -> io::Result<Vec<u8>>,
) -> io::Result<PrivateFile> {
    private(path, fits, make).map_err(|error| named(path, &error))
}

fn private(
    path: &Path,
    fits: impl Fn(&[u8], Access) -> bool,
    make: impl Fn() -> io::Result<Vec<u8>>,
) -> io::Result<PrivateFile> {
    const MOST: u64 = 4096;
    let options = |options: &mut OpenOptions| {
        // A link could lead to a file that somebody else reads.
        options.mode(PRIVATE_FILE).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).clone()
    };
    let to_read = options(OpenOptions::new().read(true));
    let to_make = options(OpenOptions::new().write(true).create_new(true));
    loop {
        let file = match to_read.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match to_make.open(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => continue,
            },
            opened => opened?,
        };
        file.lock()?;
        let metadata = file.metadata()?;
        if metadata.nlink() == 0 {
            // Whoever had the lock has put another in its place.
            continue;
        }
        let mut content = Vec::new();
        (&file).take(MOST).read_to_end(&mut content)?;
        let mode = Mode::from_raw_mode(metadata.permissions().mode());
        let access = match () {
            () if !mode.intersects(Mode::RWXG | Mode::RWXO) => Access::Owner,
            () if metadata.uid() == rustix::process::geteuid().as_raw() => Access::Wide,
            () => Access::Foreign,
        };
        if fits(&content, access) {
            // Others wait for the lock, and the file may be kept open for long.
            file.unlock()?;
            return Ok(PrivateFile { content, access, came: Came::Found, file });
        }
        let came = if content.is_empty() { Came::Made } else { Came::Replaced };
        let content = make()?;
        // Another file, not the same written over: somebody may have the old one open.
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut fresh = to_make.open(&new)?;
        fresh.write_all(&content)?;
        fs::rename(&new, path)?;
        return Ok(PrivateFile { content, access: Access::Owner, came, file: fresh });
    }
}

/// Is the folder of this path one in which the group may write, and keeps what is made there?
fn lies_in_shared_folder(path: &Path) -> bool {
    const SHARED: u32 = 0o2020;
    let folder = path.parent().and_then(|folder| fs::metadata(folder).ok());
    folder.is_some_and(|folder| folder.permissions().mode() & SHARED == SHARED)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Marks the folders that are empty as this instance's; only for a database that knows no job
/// yet. In a folder that holds something, only its operator can know whose it is.
pub fn mark_empty_folders(config: &Config, instance: &str) {
    for folder in [&config.generated_dir, &config.references_dir(), &config.codex_workdir] {
        if let Err(error) = mark_if_empty(folder, instance) {
            tracing::warn!(folder = %folder.display(), %error, "the folder could not be marked");
        }
    }
}

fn mark_if_empty(folder: &Path, instance: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        // An empty marker was left by a start that was killed; the other folder by mkfs.
        let counts_as_nothing = name == "lost+found"
            || (name == MARKER && entry.metadata().is_ok_and(|file| file.len() == 0));
        if !counts_as_nothing {
            return Ok(());
        }
    }
    let path = folder.join(MARKER);
    make_file(&path)?;
    let mut file = OpenOptions::new().write(true).open(path)?;
    // Front and worker may both be here; they write the same.
    file.write_all(format!("{instance}\n").as_bytes())?;
    file.sync_all()
}

/// Whether a folder is this instance's; if not, why.
pub fn check_marker(folder: &Path, instance: &str) -> Result<(), String> {
    let mut found = String::new();
    let read = File::open(folder.join(MARKER))
        .and_then(|file| file.take(256).read_to_string(&mut found).map(drop));
    match read {
        Ok(()) if found.trim() == instance => Ok(()),
        Ok(()) => Err(format!("its {MARKER} names another instance, {:?}", found.trim())),
        Err(_) if !folder.is_dir() => Err("there is no such folder".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("there is no {MARKER} in it"))
        }
        Err(error) => Err(format!("its {MARKER} cannot be read: {error}")),
    }
}

/// What an operator does about a folder that [`check_marker`] does not take for ours.
#[must_use]
pub fn advice(folder: &Path, instance: &str) -> String {
    let marker: PathBuf = folder.join(MARKER);
    format!(
        "Is it mounted? Is DATABASE_URL right? To adopt the folder as it is, write {instance} \
         into {}.",
        marker.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn only_an_empty_folder_is_marked() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check_marker(dir.path(), ID), Err(format!("there is no {MARKER} in it")));
        // As by a kill between making and writing, on a fresh disk.
        fs::write(dir.path().join(MARKER), "").unwrap();
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        mark_if_empty(dir.path(), ID).unwrap();
        assert_eq!(check_marker(dir.path(), ID), Ok(()));
        mark_if_empty(dir.path(), "another").unwrap();
        assert_eq!(check_marker(dir.path(), ID), Ok(()));
        assert!(check_marker(dir.path(), "another").unwrap_err().contains(ID));

        let used = tempfile::tempdir().unwrap();
        fs::write(used.path().join("img_holiday.jpg"), "").unwrap();
        mark_if_empty(used.path(), ID).unwrap();
        assert!(check_marker(used.path(), ID).is_err());
        assert!(check_marker(&used.path().join("no"), ID).unwrap_err().contains("no such folder"));
    }

    #[test]
    fn folders_are_a_users_own_unless_they_are_to_be_shared() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let folder = |path: PathBuf, split| {
            make_folder(&path, split).unwrap();
            mode(&path)
        };
        let file = |path: PathBuf| {
            make_file(&path).unwrap();
            mode(&path)
        };

        assert_eq!(folder(dir.path().join("a/private"), false), PRIVATE_FOLDER);
        assert_eq!(file(dir.path().join("a/private/file")), PRIVATE_FILE);
        let shared = dir.path().join("a/shared");
        assert_eq!(folder(shared.clone(), true), SHARED_FOLDER);
        assert_eq!(file(shared.join("file")), SHARED_FILE);
        assert_eq!(folder(shared.join("below"), false), SHARED_FOLDER);

        fs::set_permissions(&shared, Permissions::from_mode(0o700)).unwrap();
        assert_eq!(folder(shared, true), 0o700, "what is there is the operator's");
    }

    #[test]
    fn a_private_file_is_made_once_however_many_come() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let fits = |content: &[u8], access| access == Access::Owner && content.len() == 32;
        let open = || {
            private_file(&path, fits, || {
                let mut content = vec![0; 32];
                getrandom::fill(&mut content).unwrap();
                Ok(content)
            })
            .unwrap()
        };
        let all_at_once = || {
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..16).map(|_| scope.spawn(open)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
            })
        };
        for (before, came) in [(None, Came::Made), (Some(&b"short"[..]), Came::Replaced)] {
            if let Some(content) = before {
                fs::write(&path, content).unwrap();
            }
            let files = all_at_once();
            assert!(files.iter().all(|file| file.content == files[0].content));
            assert_eq!(files.iter().filter(|file| file.came == came).count(), 1);
            assert_eq!(open().came, Came::Found);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        }
        let before = open().content;
        let widen = || fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        widen();
        let wide = private_file(&path, |_, access| access == Access::Wide, || Ok(Vec::new()));
        let wide = wide.unwrap();
        assert!(wide.came == Came::Found && wide.content == before);
        wide.narrow().unwrap();
        drop(wide);
        assert!(open().came == Came::Found, "it is private now");
        widen();
        let after = open();
        assert!(after.came == Came::Replaced && after.content != before);

        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let refused = private_file(&link, fits, || Ok(Vec::new())).err().unwrap().to_string();
        assert!(refused.contains("link"), "{refused}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left over");
    }
}
