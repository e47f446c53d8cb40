//! What differs between the versions of Codex, which version is there, and what it refuses.
//!
//! Measured with the real binaries from npm against the stand-in of the backend; `tests/versions.rs`
//! draws with those that matter. What is not acted upon stands here as well, for whoever wonders:
//!
//! | since | difference | who copes |
//! |---|---|---|
//! | 0.122 | `exec --ignore-user-config --ignore-rules`, app-server | [`OLDEST`] |
//! | 0.122 | `image_generation` is on without being asked for | – |
//! | 0.144 | the picture is a tool's (`images/generations`), before that part of the model's answer | what was saved counts, by whichever way |
//! | 0.144 | a refused picture is an item `failed` and a line of the log; before that only words | `failures.rs`, `app_server/events.rs` |
//! | 0.144 | the tool of the log is `image_genimagegen`, by 0.155 `imagegen` | `app_server/events.rs` |
//! | 0.144 | pictures are kept out of the log database; before that each adds 1.7 × its bytes, for as long as the app-server lives | [`most_images`], `shadow.rs` |
//! | 0.145 | `agents.enabled` is a switch; before that an error | [`Version::knows`] |
//! | 0.148 | `failure` of an item: which limit, until when (seen) | `app_server/events.rs` |
//! | 0.148 | `turn/completed` lists messages (seen; 0.142 does not) | they are read as they come |
//! | 0.155 | `thread_unload_delay_secs=0` is heeded (seen; 0.148 keeps each thread) | the bound of an app-server's memory |
//! | 0.160 | the backend is asked for its routing before the first turn | – |
//!
//! No version's app-server knows `--ignore-user-config`, which is why it has a shadow of the home.

use std::{
    ffi::OsString,
    fmt,
    io::{self, Read as _},
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, Signal},
};

use super::{Failure, FailureCode, locate::Program};

/// The first that can be told to leave the login's own settings alone. With one that cannot, what
/// stands in them would run: a program, a shell, another sandbox.
const OLDEST: Version = Version(0, 122, 0);
/// The newest that the service was tried with; a newer one is taken for this one.
const NEWEST: Version = Version(0, 169, 0);

/// The first that does not write every picture into its log.
const LEAN_LOG: Version = Version(0, 144, 0);
/// Of pictures of 3 MB so many are 550 MB of log.
const MOST_LOGGED: u32 = 100;

/// Settings that an older version refuses, and the first version that takes them.
const SETTINGS: [(&str, Version); 1] = [
    // Before: "invalid type: boolean `false`, expected struct AgentRoleToml in `agents`".
    // `features.multi_agent=false` does the same there.
    ("agents.enabled=false", Version(0, 145, 0)),
];

/// Codex itself says its version in milliseconds, a launcher in a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// For how long a launcher's word holds: what it starts may change without it.
const LAUNCHER_HOLDS: Duration = Duration::from_mins(1);
/// More than `codex-cli 0.169.0-alpha.12`.
const LONGEST_LINE: usize = 256;
/// Of how many programs the version is remembered.
const MOST_KNOWN: usize = 8;

/// A version of Codex. What comes after the third number (`-alpha.1`) is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32, u32);

impl Version {
    /// From what `codex --version` prints: `codex-cli 0.169.0`.
    fn parse(said: &str) -> Option<Self> {
        let mut words = said.split_whitespace();
        if !words.next()?.starts_with("codex") {
            return None;
        }
        let mut numbers = words.next()?.splitn(3, '.');
        let mut number = || {
            let text = numbers.next()?;
            let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            text[..end].parse().ok()
        };
        Some(Self(number()?, number()?, number()?))
    }

    /// Whether this version takes the setting, `key=value`.
    pub(super) fn knows(self, setting: &str) -> bool {
        SETTINGS.iter().all(|(known, since)| *known != setting || self >= *since)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The version of a program that the service may run; None when it does not say one, and then it
/// is taken for the newest. Blocks for as long as the program takes to say it, once for each
/// program and change of it.
///
/// # Errors
/// `codex_missing`: it is too old to be kept away from the login's own settings.
pub(super) fn usable(
    program: &Program,
    environment: &[(&'static str, OsString)],
) -> Result<Option<Version>, Failure> {
    let version = of(program, environment);
    too_old(version).map_or(Ok(version), Err)
}

/// Why a version may not be run.
pub(super) fn too_old(version: Option<Version>) -> Option<Failure> {
    let version = version.filter(|version| *version < OLDEST)?;
    Some(unusable(format!(
        "Codex {version} is too old: it has no --ignore-user-config. Install Codex {OLDEST} or \
         newer, or set CODEX_BIN to one."
    )))
}

/// Names what a Codex that never came to its work refused, from its standard error; None when it
/// did not refuse anything, but failed.
pub(super) fn refusal(version: Option<Version>, stderr: &str) -> Option<Failure> {
    let what = refused(stderr)?;
    let codex = version.map_or("This Codex".to_owned(), |version| format!("Codex {version}"));
    Some(unusable(format!(
        "{codex} refuses {what}, without which the service does not run it. The service is known \
         to work with Codex {OLDEST} to {NEWEST}."
    )))
}

/// After how many pictures an app-server is to be replaced at the latest, which empties its log.
pub(super) fn most_images(version: Option<Version>) -> u32 {
    if version.is_some_and(|version| version < LEAN_LOG) { MOST_LOGGED } else { u32::MAX }
}

fn unusable(message: String) -> Failure {
    Failure::new(FailureCode::CodexMissing, message)
}

fn refused(stderr: &str) -> Option<String> {
    let mut lines = stderr.lines();
    let line = lines.find(|line| {
        // Of the parser of the command line, or of the settings.
        line.starts_with("error: ")
            || line.starts_with("Error loading config")
            || line.starts_with("Error: error loading")
    })?;
    if line.starts_with("error: ") {
        let quoted: Vec<&str> = line.split('\'').skip(1).step_by(2).collect();
        let option = quoted.iter().find(|word| word.starts_with('-')).or(quoted.first());
        // `--color <COLOR>`
        let option = option.and_then(|option| option.split([' ', '=']).next());
        return option
            .filter(|option| is_name(option))
            .map(|option| format!("the option {option}"));
    }
    let key = lines.find_map(|line| line.strip_prefix("in `")?.strip_suffix('`'));
    let key = key.filter(|key| is_name(key));
    Some(key.map_or("its settings".to_owned(), |key| format!("the setting {key}")))
}

/// Nothing of the login's own can look like this.
fn is_name(word: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !word.is_empty() && word.len() <= 64 && word.bytes().all(plain)
}

/// A program as it lies on the disk: an update makes another of it.
#[derive(Clone, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    file: (u64, u64, u64),
    changed: (i64, i64),
}

struct Known {
    stamp: Stamp,
    asked: Instant,
    version: Option<Version>,
}

fn known() -> MutexGuard<'static, Vec<Known>> {
    static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stamp {
    fn of(program: &Program) -> Option<Self> {
        let meta = std::fs::metadata(&program.path).ok()?;
        Some(Self {
            path: program.path.clone(),
            file: (meta.dev(), meta.ino(), meta.len()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// The version that a program said when it was last asked. Asks nothing: only somebody who wants
/// to run it has a reason to.
pub(super) fn known_of(program: &Program) -> Option<Version> {
    let stamp = Stamp::of(program)?;
    known().iter().find(|known| known.stamp == stamp)?.version
}

fn of(program: &Program, environment: &[(&'static str, OsString)]) -> Option<Version> {
    let stamp = Stamp::of(program)?;
    let holds = |known: &Known| program.native || known.asked.elapsed() < LAUNCHER_HOLDS;
    if let Some(known) = known().iter().find(|known| known.stamp == stamp && holds(known)) {
        return known.version;
    }
    let version = match ask(program, environment) {
        Ok(said) => Version::parse(&said),
        Err(error) => {
            tracing::warn!(%error, "Codex cannot be asked for its version");
            return None;
        }
    };
    match version {
        Some(version) if version > NEWEST => tracing::info!(
            %version,
            known = %NEWEST,
            "this Codex is newer than any that the service was tried with"
        ),
        Some(version) => tracing::debug!(%version, "Codex was found"),
        None => tracing::warn!("Codex does not say its version; it is taken for the newest"),
    }
    let mut known = known();
    known.retain(|known| known.stamp.path != stamp.path);
    if known.len() == MOST_KNOWN {
        known.remove(0);
    }
    known.push(Known { stamp, asked: Instant::now(), version });
    version
}

/// The first line that `--version` prints.
fn ask(program: &Program, environment: &[(&'static str, OsString)]) -> io::Result<String> {
    let mut command = Command::new(&program.path);
    command.arg("--version").current_dir("/").process_group(0);
    command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    // Even for this Codex makes folders in its home, and no home is ours without its lock.
    command.env("CODEX_HOME", "/dev/null");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let said = child.stdout.take().map_or(Ok(Vec::new()), first_line);
    end(&mut child)?;
    Ok(String::from_utf8_lossy(&said?).into_owned())
}

fn first_line(mut stdout: ChildStdout) -> io::Result<Vec<u8>> {
    let begun = Instant::now();
    let mut said = Vec::new();
    while said.len() < LONGEST_LINE && !said.contains(&b'\n') {
        let left = PATIENCE.saturating_sub(begun.elapsed());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match rustix::event::poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => {}
        }
        let mut buffer = [0; LONGEST_LINE];
        match stdout.read(&mut buffer)? {
            0 => break,
            count => said.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(said)
}

/// It has said all that it was asked, or will not.
fn end(child: &mut Child) -> io::Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        // Not waited for yet, so the number is still this group's.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    child.wait().map(drop)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::codex::testing::write_program;

    fn program(path: &Path, script: &str) -> Program {
        write_program(path, &format!("#!/bin/sh\n{script}\n"));
        Program { path: path.into(), native: true }
    }

    fn environment() -> Vec<(&'static str, OsString)> {
        vec![("PATH", std::env::var_os("PATH").unwrap())]
    }

    #[test]
    fn a_version_is_read_as_codex_says_it() {
        assert_eq!(Version::parse("codex-cli 0.169.0\n"), Some(Version(0, 169, 0)));
        assert_eq!(Version::parse("codex-cli 0.170.1-alpha.3"), Some(Version(0, 170, 1)));
        assert_eq!(Version::parse("codex 1.2.3+x"), Some(Version(1, 2, 3)));
        for other in ["", "codex-cli", "codex-cli 1", "codex-cli x.y.z", "node 0.1.2", "codex 1.2"]
        {
            assert_eq!(Version::parse(other), None, "{other}");
        }
        assert!(Version(0, 122, 0) > Version(0, 99, 9) && Version(1, 0, 0) > NEWEST);
    }

    #[test]
    fn an_old_one_is_spared_what_it_refuses() {
        let knows = |version: Version| version.knows("agents.enabled=false");
        assert!(!knows(OLDEST) && !knows(Version(0, 144, 6)));
        assert!(knows(Version(0, 145, 0)) && knows(NEWEST) && knows(Version(1, 0, 0)));
        assert!(OLDEST.knows("features.shell_tool=false"));
    }

    #[test]
    fn a_program_is_asked_once_for_each_change_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("codex");
        let asked = dir.path().join("asked");
        let script = |version: &str| {
            format!("echo \"$CODEX_HOME\" >> {}; echo codex-cli {version}", asked.display())
        };
        let found = program(&path, &script("0.150.1"));
        assert_eq!((known_of(&found), asked.exists()), (None, false));
        for _ in 0..2 {
            assert_eq!(usable(&found, &environment()).unwrap(), Some(Version(0, 150, 1)));
        }
        assert_eq!(known_of(&found), Some(Version(0, 150, 1)));
        assert_eq!(fs::read_to_string(&asked).unwrap(), "/dev/null\n");
        // Kept, so that the other is another file even where both are made in the same moment.
        fs::rename(&path, dir.path().join("before")).unwrap();
        let found = program(&path, &script("0.121.0"));
        let failure = usable(&found, &environment()).unwrap_err();
        assert_eq!(failure.code, FailureCode::CodexMissing);
        for word in ["0.121.0", "--ignore-user-config", "0.122.0", "CODEX_BIN"] {
            assert!(failure.message.contains(word), "{}", failure.message);
        }
    }

    #[test]
    fn a_program_that_says_something_else_is_taken_for_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        for (name, script) in [("a", "exit 3"), ("b", "yes | head -c 9999"), ("c", "sleep 60 &")] {
            let found = program(&dir.path().join(name), script);
            assert_eq!(usable(&found, &environment()), Ok(None), "{name}");
        }
    }

    #[test]
    fn what_is_refused_is_named() {
        let version = Some(Version(0, 200, 1));
        for (stderr, named) in [
            (
                "error: unexpected argument '--ignore-rules' found\n\nUsage: x",
                "option --ignore-rules",
            ),
            ("error: unrecognized subcommand 'app-server'", "option app-server"),
            ("error: invalid value 'never' for '--color <COLOR>'", "option --color"),
            (
                "WARNING: x\nError loading config.toml: invalid type: boolean `false`, expected \
                 struct AgentRoleToml\nin `agents`\n\n",
                "setting agents",
            ),
            ("Error: error loading default config after config error: x\nin `agents`", "agents"),
            ("Error loading configuration: what eyJ is", "its settings"),
        ] {
            let failure = refusal(version, stderr).unwrap();
            assert_eq!(failure.code, FailureCode::CodexMissing);
            assert!(failure.message.contains(named), "{}", failure.message);
            assert!(failure.message.starts_with("Codex 0.200.1 refuses "));
            assert!(!failure.message.contains("eyJ"));
        }
        assert!(
            refusal(None, "error: unexpected argument '--x' found")
                .unwrap()
                .message
                .starts_with("This Codex refuses the option --x,")
        );
        for other in ["", "thread panicked", "error: unexpected argument '/home/x' found"] {
            assert_eq!(refusal(version, other), None, "{other}");
        }
    }
}
