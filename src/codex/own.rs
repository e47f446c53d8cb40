//! Folders that are this user's alone. Where front and worker are two users, the front can make what
//! it likes in the folders that both use; nothing of it may come to be Codex's home or place of work,
//! nor lead a write of the worker's elsewhere.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::Path,
};

/// Write permission of the group and of others.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Makes a folder, or sees to it that the one that is there is this user's and nobody else can write
/// in it. What it lies in is made when it is missing.
pub(super) fn folder(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.is_dir()) {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check(path),
        made => made,
    }
}

/// Whether what is there is such a folder.
pub(super) fn check(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    let wrong = |why: &str| {
        let path = path.display();
        Err(io::Error::other(format!("{path} {why}; Codex is not run with it, remove it")))
    };
    match () {
        () if !found.is_dir() => wrong("is no folder"),
        () if found.uid() != rustix::process::geteuid().as_raw() => wrong("is another user's"),
        () if found.mode() & WRITABLE_BY_OTHERS != 0 => wrong("can be written by other users"),
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    #[test]
    fn only_a_folder_of_ones_own_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        folder(&path).unwrap();
        folder(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(folder(&path).unwrap_err().to_string().contains("other users"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();

        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(folder(&link).unwrap_err().to_string().contains("no folder"));

        if chown(&path, Some(61_003), None).is_ok() {
            assert!(folder(&path).unwrap_err().to_string().contains("another user's"));
        }
    }
}
