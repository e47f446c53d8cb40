//! Small disks, for tests of what happens when one is full or may not be written.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::cannot_run;

/// A file system of its own, unmounted at the end; None (and said) where it may not be made.
pub struct Disk(PathBuf);

impl Disk {
    /// A tmpfs with these mount options, mounted there.
    pub fn new(at: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        let output = mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
        match output {
            Ok(output) if output.status.success() => Some(Self(at.to_owned())),
            Ok(output) => {
                cannot_run(&format!(
                    "a small file system is needed: {}",
                    String::from_utf8_lossy(&output.stderr)
                ));
                None
            }
            Err(error) => {
                cannot_run(&format!("mount(8) is needed: {error}"));
                None
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes until nothing more fits.
    pub fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        for size in [64 * 1024, 4096, 1] {
            while file.write(&vec![1; size]).is_ok() {}
        }
    }

    /// Takes away what [`Disk::fill`] wrote.
    pub fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }

    /// Also while files on it are open to be written: another file system on top of it, with the
    /// same file, may only be read.
    pub fn refuse_writes(&self) {
        let mut mount = Command::new("mount");
        let done = mount.arg("--bind").args([&self.0, &self.0]).status().unwrap();
        assert!(done.success());
        let mut mount = Command::new("mount");
        let done = mount.args(["-o", "remount,bind,ro"]).arg(&self.0).status().unwrap();
        assert!(done.success());
    }

    /// Fails while files on it are open to be written.
    pub fn make_read_only(&self) {
        let mut mount = Command::new("mount");
        assert!(mount.args(["-o", "remount,ro"]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the service that uses it may end later than this value.
        let unmount = || Command::new("umount").arg("-l").arg(&self.0).output();
        while unmount().is_ok_and(|output| output.status.success()) {}
    }
}
