//! The `CODEX_HOME` in which an app-server runs: a folder of the service's own with nothing in it
//! but a link to the login's `auth.json`. `codex exec` can be told to pass over the settings,
//! instructions and hooks of a home; an app-server cannot, so it is not shown them. The login stays
//! one file: Codex writes through the link, in every version tried (0.122 to 0.169).

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::own;

const AUTH: &str = "auth.json";

/// Where the shadow of a login's home is. `base` is the service's folder of them.
pub(super) fn path(base: &Path, home: &Path) -> PathBuf {
    let digest = Sha256::digest(home.as_os_str().as_encoded_bytes());
    let name = digest.iter().take(8).fold(String::new(), |name, byte| format!("{name}{byte:02x}"));
    base.join(name)
}

/// Where Codex may have saved pictures for a login: its home, and the shadow of it.
pub(super) fn places(base: &Path, home: &Path) -> [PathBuf; 2] {
    [home.to_owned(), path(base, home)]
}

/// Whether this process may write where the shadow is, or will be.
pub(super) fn check(base: &Path, home: &Path) -> io::Result<()> {
    let shadow = path(base, home);
    let folder = if shadow.is_dir() { &shadow } else { base };
    let probe = folder.join(format!(".probe-{}", uuid::Uuid::new_v4().simple()));
    let made = own::folder(folder);
    let tried =
        made.and_then(|()| fs::File::create_new(&probe)).and_then(|_| fs::remove_file(&probe));
    tried.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", folder.display())))
}

/// Makes it, or puts right what is there. To be called under the login's lock.
pub(super) fn prepare(base: &Path, home: &Path) -> io::Result<PathBuf> {
    let shadow = path(base, home);
    own::folder(base)?;
    own::folder(&shadow)?;
    sweep(&shadow);
    let (link, auth) = (shadow.join(AUTH), home.join(AUTH));
    match fs::symlink_metadata(&link) {
        Ok(meta) if meta.is_symlink() => {
            if fs::read_link(&link)? == auth {
                return Ok(shadow);
            }
            fs::remove_file(&link)?;
        }
        Ok(_) => rescue(&link, &auth)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    symlink(&auth, &link)?;
    Ok(shadow)
}

/// Puts a login that a Codex wrote beside its place where it belongs, if there is one. To be called
/// under the login's lock.
pub(super) fn settle(base: &Path, home: &Path) -> io::Result<()> {
    let stray = fs::symlink_metadata(path(base, home).join(AUTH));
    if stray.is_ok_and(|file| file.is_file()) { prepare(base, home).map(drop) } else { Ok(()) }
}

/// Removes what Codex logged there: up to 0.143 whole pictures, in every version who knows what.
/// To be called under the login's lock, while no Codex runs there.
pub(super) fn sweep(shadow: &Path) {
    for entry in fs::read_dir(shadow).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_log = name.to_str().is_some_and(|name| {
            name.starts_with("logs_")
                && [".sqlite", ".sqlite-wal", ".sqlite-shm"].iter().any(|end| name.ends_with(end))
        });
        if is_log && let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!(%error, "a log of Codex's cannot be removed");
        }
    }
}

/// A Codex has put a file in the place of the link. If it is younger than the login's own, the
/// login's refresh token is the one in here, and the other is spent.
fn rescue(link: &Path, auth: &Path) -> io::Result<()> {
    let changed = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified());
    match changed(auth) {
        Ok(own) if own >= changed(link)? => return fs::remove_file(link),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    tracing::error!("Codex wrote a login beside the login's file; it is put back in its place");
    match fs::rename(link, auth) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            // Still in one step for whoever reads it.
            let next = auth.with_extension("json.next");
            fs::copy(link, &next)?;
            fs::File::open(&next)?.sync_all()?;
            fs::rename(&next, auth)?;
            fs::remove_file(link)
        }
        renamed => renamed,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        os::unix::fs::PermissionsExt as _,
        time::{Duration, SystemTime},
    };

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (base, home) = (dir.path().join("state/codex"), dir.path().join("home"));
        fs::create_dir(&home).unwrap();
        fs::write(home.join(AUTH), "old").unwrap();
        (dir, base, home)
    }

    #[test]
    fn logs_of_the_last_time_are_removed() {
        let (_dir, base, home) = place();
        let shadow = prepare(&base, &home).unwrap();
        let kept = ["auth.json", "state_5.sqlite", "logs_2.txt"];
        for name in
            ["logs_2.sqlite", "logs_2.sqlite-wal", "logs_3.sqlite-shm"].iter().chain(&kept[1..])
        {
            fs::write(shadow.join(name), "x").unwrap();
        }
        prepare(&base, &home).unwrap();
        let left = fs::read_dir(&shadow).unwrap().count();
        assert!(left == kept.len() && kept.iter().all(|name| shadow.join(name).exists()));
    }

    #[test]
    fn what_somebody_else_may_have_put_there_is_no_home() {
        let (dir, base, home) = place();
        fs::create_dir_all(base.parent().unwrap()).unwrap();
        symlink(dir.path(), &base).unwrap();
        assert!(prepare(&base, &home).is_err());
        fs::remove_file(&base).unwrap();

        let shadow = path(&base, &home);
        fs::create_dir_all(&base).unwrap();
        fs::set_permissions(&base, fs::Permissions::from_mode(0o700)).unwrap();
        symlink(dir.path(), &shadow).unwrap();
        assert!(prepare(&base, &home).is_err() && !dir.path().join(AUTH).exists());
    }

    #[test]
    fn it_holds_a_link_to_the_login_and_nothing_else() {
        let (_dir, base, home) = place();
        fs::write(home.join("config.toml"), "x").unwrap();
        for _ in 0..2 {
            let shadow = prepare(&base, &home).unwrap();
            assert_eq!(shadow, path(&base, &home));
            let names: Vec<_> =
                fs::read_dir(&shadow).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, [AUTH]);
            assert_eq!(fs::read_to_string(shadow.join(AUTH)).unwrap(), "old");
        }
        fs::write(path(&base, &home).join(AUTH), "new").unwrap();
        assert_eq!(fs::read_to_string(home.join(AUTH)).unwrap(), "new");
        assert_ne!(path(&base, &home), path(&base, Path::new("/other")));
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_replaced() {
        let (_dir, base, home) = place();
        let shadow = prepare(&base, &home).unwrap();
        fs::remove_file(shadow.join(AUTH)).unwrap();
        symlink("/nonexistent", shadow.join(AUTH)).unwrap();
        prepare(&base, &home).unwrap();
        assert_eq!(fs::read_to_string(shadow.join(AUTH)).unwrap(), "old");
    }

    #[test]
    fn a_login_that_replaced_the_link_is_not_lost() {
        for (age, expected) in [(10, "old"), (-10, "fresh")] {
            let (_dir, base, home) = place();
            let shadow = prepare(&base, &home).unwrap();
            fs::remove_file(shadow.join(AUTH)).unwrap();
            fs::write(shadow.join(AUTH), "fresh").unwrap();
            let now = SystemTime::now();
            let then =
                if age > 0 { now - Duration::from_secs(10) } else { now + Duration::from_secs(10) };
            File::options()
                .write(true)
                .open(shadow.join(AUTH))
                .unwrap()
                .set_modified(then)
                .unwrap();
            prepare(&base, &home).unwrap();
            assert_eq!(fs::read_to_string(home.join(AUTH)).unwrap(), expected);
            assert!(fs::symlink_metadata(shadow.join(AUTH)).unwrap().is_symlink());
        }
    }
}
