//! What all tests stand on: the stand-in of ChatGPT's backend, the scripted fake Codex, the real
//! Codex, and the service itself as a child process. Everything blocks, so that tests stay plain;
//! each part runs on threads or processes of its own and works from async tests too.

#![allow(dead_code, reason = "every suite compiles this module and uses a part of it")]
#![allow(unused_imports, reason = "the same")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken support is a failed test")]
#![allow(clippy::print_stdout, reason = "shown by the test harness when a test fails")]

pub mod admin;
pub mod backend;
pub mod chromium;
pub mod codex;
pub mod db;
pub mod disk;
pub mod fake;
pub mod former;
pub mod history;
pub mod home;
pub mod http;
pub mod installed;
pub mod lab;
pub mod machine;
pub mod manager;
pub mod nginx;
pub mod pictures;
pub mod process;
pub mod programs;
pub mod rows;
pub mod service;
pub mod setup;
pub mod sqlite;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use admin::Browser;
pub use backend::Backend;
pub use chromium::Chromium;
pub use codex::codex_binary;
pub use db::Db;
pub use disk::Disk;
pub use home::{HomeOptions, codex_home};
pub use http::{Connection, Endpoint, Reply};
pub use installed::Installed;
pub use lab::Lab;
pub use machine::{Machine, Plans};
pub use manager::Unit;
pub use nginx::Nginx;
pub use programs::{copy_program, unread, write_program};
pub use service::Service;
pub use setup::Setup;

/// Long enough for a loaded machine with two slow cores; nothing waits this long when all is well.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A folder that goes with the value. Not under `/tmp`: there Codex warns about its home.
pub fn temp_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// `path` with `end` at the end of its name.
pub fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Every file below `folder` with its content, by its path; links and folders by their kind.
pub fn snapshot(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            found.extend(snapshot(&path));
        } else if kind.is_file() {
            found.insert(path.clone(), fs::read(&path).unwrap());
        } else {
            found.insert(path.clone(), format!("{kind:?}").into_bytes());
        }
    }
    found
}

/// The same, and nothing while there is no such folder.
pub fn snapshot_if_there(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    if folder.is_dir() { snapshot(folder) } else { BTreeMap::new() }
}

/// For what is counted by the day, UTC: waits for the next where this one is about to end.
pub fn begin_within_a_day() {
    let left = 86_400 - backend::answers::now().rem_euclid(86_400);
    if left < 120 {
        std::thread::sleep(Duration::from_secs(left.unsigned_abs()));
    }
}

/// Waits until `probe` gives something; panics with `what` when [`PATIENCE`] is over.
pub fn wait_for<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    wait_for_within(PATIENCE, what, probe)
}

/// Like [`wait_for`], with a patience of its own.
pub fn wait_for_within<T>(
    patience: Duration,
    what: &str,
    mut probe: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "waited {patience:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// For a suite that needs what this machine cannot have (a browser, systemd): says why it does not
/// run, past the capture of the test harness so that `tests/run` shows it, and fails under CI.
/// The caller returns after it.
pub fn cannot_run(why: &str) {
    let line = format!("cannot run: {}: {why}\n", std::thread::current().name().unwrap_or("?"));
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "under CI this must run: {why}");
}
