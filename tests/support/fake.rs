//! The scripted fake Codex (`fake_codex.rs`, a Cargo example so that the tests have it as a
//! program): where it is, a home for it, and what it wrote there.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use super::{
    home::{self, HomeOptions},
    wait_for,
};

/// The program. `cargo test` builds it; after `cargo test --test …` alone it may be missing or old
/// and is built here.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let profile = Path::new(env!("CARGO_BIN_EXE_codex-image-service")).parent().unwrap();
        let binary = profile.join("examples/fake_codex");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support");
        let newest = ["fake_codex.rs", "pictures.rs"].map(|name| changed(&sources.join(name)));
        if changed(&binary) < newest.into_iter().max().unwrap() {
            build(profile);
        }
        binary
    })
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|data| data.modified()).ok()
}

fn build(profile: &Path) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--example", "fake_codex", "--target-dir"]);
    cargo.arg(profile.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success(), "the fake Codex cannot be built");
}

/// Makes `dir` a `CODEX_HOME` that looks logged in.
pub fn home(dir: &Path) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    home::write_login(dir, &HomeOptions::default());
    dir.to_owned()
}

/// One picture that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// The thread it was made in.
    pub thread: String,
    /// The `job=` of the prompt, or `-`.
    pub job: String,
}

/// All payments in a home, in order.
pub fn payments(home: &Path) -> Vec<Payment> {
    let log = lines(&home.join("payments.log"));
    let read = log.iter().map(|line| {
        let (thread, job) = line.split_once(' ').expect("thread and job");
        Payment { thread: thread.to_owned(), job: job.to_owned() }
    });
    read.collect()
}

/// How often `job` was paid.
pub fn payments_for(home: &Path, job: &str) -> usize {
    payments(home).iter().filter(|payment| payment.job == job).count()
}

/// A step of a run, as the fake noted it in `runs.log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Time since the machine started.
    pub at: Duration,
    /// The process.
    pub pid: i32,
    /// begin, thread, pay, drawn, half, saved or end.
    pub what: String,
    /// The job's id, `/` and the position.
    pub turn: String,
    /// The thread, or `-`.
    pub thread: String,
    /// With `pay`: the earlier thread that had made a picture for this turn, or `-`. With `drawn`:
    /// the picture's SHA-256. With `saved`: `whole` if it is a picture.
    pub detail: String,
}

/// All steps of all runs in a home, in order.
pub fn steps(home: &Path) -> Vec<Step> {
    let log = lines(&home.join("runs.log"));
    let steps = log.iter().map(|line| {
        let [at, pid, what, turn, thread, detail] =
            line.split(' ').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
        let (at, pid) = (Duration::from_nanos(at.parse().unwrap()), pid.parse().unwrap());
        Step { at, pid, what, turn, thread, detail }
    });
    steps.collect()
}

/// Lets the runs in `home` go on that wait at their `gate`, and all later ones.
pub fn open_gate(home: &Path) {
    fs::write(home.join("open"), "").unwrap();
}

/// Lets the next run in `home` wait at its `gate` again.
pub fn close_gate(home: &Path) {
    match fs::remove_file(home.join("open")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{error}"),
        _ => {}
    }
}

/// Waits until a run in `home` has come to `step`, `count` runs in all.
pub fn wait_for_step(home: &Path, step: &str, count: usize) {
    wait_for(&format!("{count} times {step:?} of the fake"), || {
        let reached = steps(home).iter().filter(|known| known.what == step).count();
        (reached >= count).then_some(())
    });
}

/// The `KEY=value` lines of the environments it received, with `[fake dump]` in the prompt.
pub fn environment(home: &Path) -> Vec<String> {
    lines(&home.join("env.log")).into_iter().filter(|line| !line.is_empty()).collect()
}

/// The arguments it received, one list a run, with `[fake dump]` in the prompt.
pub fn arguments(home: &Path) -> Vec<Vec<String>> {
    let log = lines(&home.join("args.log"));
    log.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
