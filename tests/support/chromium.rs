//! A real Chromium, driven by the scripts in `tests/browser/` through playwright.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{cannot_run, pictures, process};

/// Longer than any script takes on a slow machine.
const LONGEST: Duration = Duration::from_mins(6);

/// What the scripts need, found on this machine.
pub struct Chromium {
    node: PathBuf,
    program: PathBuf,
    /// Home and temporary files of all that is started; a short path, for sockets lie in it.
    folder: tempfile::TempDir,
}

impl Chromium {
    /// Nothing where something is missing, and that is said.
    pub fn find() -> Option<Self> {
        let tests = tests();
        let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
        let node = tests.join(format!("clients/node_modules/node-linux-{machine}/bin/node"));
        let installed = tests.join("browser/node_modules/.installed");
        if !node.is_file() || !installed.is_file() {
            cannot_run("the browser's scripts are not installed; tests/run admin_browser does it");
            return None;
        }
        let Some(chromium) = program("chromium") else {
            cannot_run("there is no chromium; tests/run admin_browser installs it");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let red =
            pictures::of_seed(&pictures::Kind { size: (320, 240), ..Default::default() }, "red");
        fs::write(folder.path().join("red.png"), red).unwrap();
        Some(Self { node, program: chromium, folder })
    }

    /// Runs `tests/browser/<script>` to its end; panics with what it said unless that is a good one.
    #[track_caller]
    pub fn run(&self, script: &str, args: &[&str], env: &[(&str, &str)]) {
        let log = self.folder.path().join("log");
        let file = fs::File::create(&log).unwrap();
        let mut child = Command::new(&self.node)
            .arg(tests().join("browser").join(script))
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.folder.path())
            .env("TMPDIR", self.folder.path())
            .env("CHROMIUM", &self.program)
            .env("SHOTS", tests().join(".cache/shots"))
            .env("PICTURES", self.folder.path())
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .process_group(0)
            .spawn()
            .unwrap();
        let end = Instant::now() + LONGEST;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() > end {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let said = String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
        let how = status.map_or_else(|| format!("not done in {LONGEST:?}"), |s| s.to_string());
        assert!(status.is_some_and(|s| s.success()), "{script} {args:?}: {how}\n{said}");
        println!("{script} {args:?}\n{said}");
    }
}

impl Drop for Chromium {
    /// A script that was killed leaves its Chromium behind.
    fn drop(&mut self) {
        for pid in process::mentioning(self.folder.path()) {
            process::signal(pid, Signal::KILL);
        }
    }
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// A program that Debian installs, wherever it puts it.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let folders = ["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin"];
    folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}
