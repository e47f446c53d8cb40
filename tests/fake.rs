//! Promise: the scripted fake Codex does what the table at its head says, so that a fault that a
//! test asks for is the fault that the service meets.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use image::ImageFormat;
use rustix::process::Signal;
use support::{
    codex::Outcome,
    fake::{self, Payment},
    pictures, process, temp_dir, wait_for,
};

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let dir = temp_dir();
        fake::home(dir.path());
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(fake::binary());
        command.env_clear().env("CODEX_HOME", self.path()).stdin(Stdio::null());
        command.args(["exec", "--json"]).args(args);
        command
    }

    fn run(&self, prompt: &str) -> Outcome {
        Outcome::of(self.command(&["--", prompt]), self.path())
    }
}

/// The one file that `picture=kind` leaves in the thread's folder.
fn file_of(kind: &str) -> (Home, PathBuf) {
    let home = Home::new();
    let outcome = home.run(&format!("[fake picture={kind}]"));
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    let [file] = outcome.files.try_into().unwrap();
    (home, file)
}

#[test]
fn it_draws_and_notes_the_payment() {
    let home = Home::new();
    let outcome = home.run("a kite [fake job=a pictures=2 say=two+kites]");
    assert_eq!((outcome.code, outcome.files.len()), (Some(0), 2), "{outcome:#?}");
    assert_eq!(outcome.answer(), Some("two kites"));
    let thread = outcome.events[0]["thread_id"].as_str().unwrap().to_owned();
    let paid = Payment { thread, job: "a".to_owned() };
    assert_eq!(fake::payments(home.path()), [paid.clone(), paid]);
    home.run("another [stub job=b]");
    assert_eq!(fake::payments_for(home.path(), "b"), 1);
}

#[test]
fn it_starts_fast_enough_to_be_killed_hundreds_of_times() {
    let home = Home::new();
    // Of the processor: what else the machine does takes its time, too.
    let work = (0..20).map(|_| {
        let mut child = home.command(&["--", "a kite"]).stdout(Stdio::null()).spawn().unwrap();
        let work = process::work_until_end(child.id().cast_signed());
        assert!(child.wait().unwrap().success());
        work
    });
    let each = work.sum::<Duration>() / 20;
    println!("{each:?} a run");
    assert!(each < Duration::from_millis(200), "{each:?} a run");
}

#[test]
fn every_format_is_named_png() {
    for (kind, format) in
        [("ok", ImageFormat::Png), ("jpeg", ImageFormat::Jpeg), ("webp", ImageFormat::WebP)]
    {
        let (_home, file) = file_of(kind);
        assert_eq!(file.file_name().unwrap(), "x.png");
        let bytes = fs::read(&file).unwrap();
        assert_eq!(image::guess_format(&bytes).unwrap(), format);
        image::load_from_memory(&bytes).unwrap();
    }
}

#[test]
fn what_is_no_picture_is_none() {
    for kind in ["garbage", "truncated", "empty", "bomb"] {
        let (_home, file) = file_of(kind);
        assert!(image::load_from_memory(&fs::read(&file).unwrap()).is_err(), "{kind}");
    }
    let (_home, file) = file_of("bomb");
    let bytes = fs::read(file).unwrap();
    let size = image::ImageReader::with_format(std::io::Cursor::new(bytes), ImageFormat::Png);
    assert_eq!(size.into_dimensions().unwrap(), (60_000, 60_000), "its checksums are right");
}

#[test]
fn files_of_other_kinds() {
    use std::os::unix::fs::FileTypeExt as _;
    let (_home, file) = file_of("symlink");
    assert!(file.symlink_metadata().unwrap().is_symlink());
    image::open(&file).unwrap();
    let (_home, file) = file_of("fifo");
    assert!(file.metadata().unwrap().file_type().is_fifo());
    let (_home, file) = file_of("folder");
    assert!(file.is_dir());
    let (_home, file) = file_of("huge");
    assert_eq!(file.metadata().unwrap().len(), 1 << 30);

    let home = Home::new();
    assert!(home.run("[fake picture=elsewhere]").files.is_empty());
    assert!(home.path().join("generated_images/another-thread/x.png").exists());
    assert!(home.run("[fake picture=none]").files.is_empty());
    assert_eq!(fake::payments(home.path()).len(), 1, "none is not paid");
}

#[test]
fn the_same_and_the_reference_again() {
    let home = Home::new();
    let sum = |outcome: Outcome| pictures::sha256(&fs::read(&outcome.files[0]).unwrap());
    let first = sum(home.run("[fake picture=same]"));
    assert_eq!(first, sum(home.run("[fake picture=same]")));
    assert_ne!(sum(home.run("a kite")), sum(home.run("a kite")));

    let reference = home.path().join("reference.png");
    fs::write(&reference, pictures::unique(&pictures::Kind::default(), "reference")).unwrap();
    let args = ["-i", reference.to_str().unwrap(), "--", "[fake picture=copy-of-reference]"];
    let copy = sum(Outcome::of(home.command(&args), home.path()));
    assert_eq!(copy, pictures::sha256(&fs::read(reference).unwrap()));
}

#[test]
fn the_prompt_can_come_by_standard_input() {
    let home = Home::new();
    let mut command = home.command(&["-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"[fake job=piped picture=none rc=3] [stub job=x]").unwrap();
    assert!(child.try_wait().unwrap().is_none(), "it waits for the end of its input");
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn ways_to_fail() {
    let home = Home::new();
    let outcome = home.run("[fake picture=none fail=no+luck stderr=ERROR+so+it+is]");
    assert_eq!((outcome.code, outcome.failure()), (Some(1), Some("no luck")));
    assert!(outcome.stderr.contains("ERROR so it is"));
    let outcome = home.run("[fake exit-before-thread rc=7]");
    assert_eq!((outcome.code, outcome.events.len()), (Some(7), 0));

    let output = home.command(&["--", "[fake stdout-garbage big-line=2]"]).output().unwrap();
    assert!(output.stdout.len() > 2 << 20);
    assert!(String::from_utf8(output.stdout).is_err());
}

#[test]
fn environment_and_arguments_are_shown_on_request() {
    let home = Home::new();
    home.run("a kite");
    assert!(fake::environment(home.path()).is_empty());
    let mut command = home.command(&["-m", "x", "--", "[fake dump picture=none]"]);
    assert!(command.env("SECRET", "1").output().unwrap().status.success());
    assert!(fake::environment(home.path()).contains(&"SECRET=1".to_owned()));
    let [args] = fake::arguments(home.path()).try_into().unwrap();
    assert_eq!(args[..4], ["exec", "--json", "-m", "x"]);
}

#[test]
fn it_can_ignore_sigterm_and_leave_children_behind() {
    let home = Home::new();
    let mut command =
        home.command(&["--", "[fake ignore-term spawn-child escape-child sleep=600]"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0; 8];
    stdout.read_exact(&mut first).unwrap();
    let pid = child.id().cast_signed();
    process::signal(pid, Signal::TERM);
    wait_for("both grandchildren", || (process::mentioning(home.path()).len() == 3).then_some(()));
    assert!(child.try_wait().unwrap().is_none(), "SIGTERM did nothing");
    process::signal(pid, Signal::KILL);
    child.wait().unwrap();
    let left = process::mentioning(home.path());
    assert_eq!(left.len(), 2);
    for pid in left {
        process::signal(pid, Signal::KILL);
    }
}

#[test]
fn steps_are_noted_and_a_second_payment_of_a_turn_is_seen() {
    let home = Home::new();
    let job = format!("img_{}", "0".repeat(32));
    let run = |attempt: &str, prompt: &str| {
        let cwd = home.path().join("work").join(&job).join(attempt).join("cwd");
        fs::create_dir_all(&cwd).unwrap();
        let mut command = home.command(&["--", prompt]);
        command.current_dir(cwd);
        Outcome::of(command, home.path())
    };
    run("0-1", "[fake once picture=truncated]");
    let first = fake::steps(home.path());
    let whats: Vec<&str> = first.iter().map(|step| step.what.as_str()).collect();
    assert_eq!(whats, ["begin", "thread", "pay", "drawn", "half", "saved", "end"]);
    assert_eq!(first[0].turn, format!("{job}/0"));

    run("0-3", "[fake once picture=truncated]"); // a whole one, for this is the second run
    run("1-3", "another position");
    let last = run("0-5", "paid twice");
    assert_eq!(last.files.len(), 1);
    let steps = fake::steps(home.path());
    let seen: Vec<bool> =
        steps.iter().filter(|step| step.what == "pay").map(|step| step.detail != "-").collect();
    assert_eq!(seen, [false, false, false, true]);
}
