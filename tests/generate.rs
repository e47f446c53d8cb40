//! Promise: `generate` makes a picture from the shell, with a service or without, by the service's
//! own rules; it says where the picture is and nothing else on standard output, never writes over a
//! file unasked and never over what is no file, leaves nothing behind, loses nothing that was paid
//! for, and its exit code tells what went wrong.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::Signal;
use support::{
    Backend, Endpoint, HomeOptions, Lab, Setup, copy_program, pictures, process, unread, wait_for,
};

/// What a run left.
struct Ran {
    code: Option<i32>,
    out: Vec<u8>,
    words: String,
}

impl Ran {
    #[track_caller]
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.text(), self.words);
        self
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

/// Runs of `generate` in a folder of their own.
struct Shell {
    setup: Setup,
    folder: PathBuf,
}

impl Shell {
    fn of(setup: Setup) -> Self {
        let folder = setup.path("shell");
        fs::create_dir(&folder).unwrap();
        fs::create_dir(setup.path("tmp")).unwrap();
        let tmp = setup.path("tmp");
        Self { setup: setup.set("TMPDIR", tmp), folder }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.setup.program_path());
        command.current_dir(&self.folder).env_clear().envs(self.setup.environment());
        command.arg("generate").args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.with_input(args, "")
    }

    fn with_input(&self, args: &[&str], input: &str) -> Ran {
        let file = self.setup.path("input");
        fs::write(&file, input).unwrap();
        let output = self.command(args).stdin(fs::File::open(file).unwrap()).output().unwrap();
        let words = String::from_utf8(output.stderr).unwrap();
        Ran { code: output.status.code(), out: output.stdout, words }
    }

    fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The files that are there.
    fn files(&self) -> Vec<String> {
        support::lab::names(&self.folder)
    }

    fn assert_tidy(&self) {
        assert_eq!(support::lab::names(&self.setup.path("tmp")), [""; 0]);
        let shadows = self.setup.path("state/codex");
        for shadow in support::lab::names(&shadows) {
            let kept = shadows.join(shadow).join("generated_images");
            assert_eq!(support::lab::names(&kept), [""; 0]);
        }
        let folder = self.setup.path("");
        wait_for("the end of all that was started", || {
            process::mentioning(&folder).is_empty().then_some(())
        });
    }
}

fn real(backend: &Backend) -> Shell {
    Shell::of(Setup::served(backend, &[HomeOptions::default()]))
}

fn url_of(lab: &Lab) -> String {
    match lab.service.endpoint() {
        Endpoint::Tcp(address) => format!("http://{address}"),
        Endpoint::Unix(path) => panic!("{}", path.display()),
    }
}

fn hash(path: &Path) -> String {
    pictures::sha256(&fs::read(path).unwrap())
}

fn paid(backend: &Backend) -> Vec<String> {
    backend.image_requests().into_iter().filter_map(|request| request.picture).collect()
}

#[test]
fn a_picture_without_a_service() {
    let backend = Backend::start();
    let shell = real(&backend);
    let ran = shell.run(&["a red kite", "-o", "kite.png"]).expect(0);
    assert_eq!(ran.text(), "kite.png\n");
    assert_eq!(paid(&backend), [hash(&shell.path("kite.png"))]);
    assert_eq!(shell.files(), ["kite.png"]);
    // A name of its own, and never over one that is there.
    for expected in ["a-red-kite.png\n", "a-red-kite-2.png\n"] {
        assert_eq!(shell.run(&["A red kite!", "--quiet"]).expect(0).text(), expected);
    }
    let before = hash(&shell.path("kite.png"));
    let ran = shell.run(&["a kite", "-o", "kite.png"]).expect(1);
    assert!(ran.words.contains("kite.png is there already; --force replaces it"), "{}", ran.words);
    assert_eq!(hash(&shell.path("kite.png")), before);
    assert_eq!(backend.image_requests().len(), 3, "known before anything was paid");
    shell.run(&["a kite", "-o", "kite.png", "--force"]).expect(0);
    assert_ne!(hash(&shell.path("kite.png")), before);
    shell.assert_tidy();
}

#[test]
fn references_several_pictures_and_other_types() {
    let backend = Backend::start();
    let shell = real(&backend);
    let reference = pictures::unique(&pictures::Kind::default(), "a reference");
    fs::write(shell.path("in.png"), &reference).unwrap();
    shell.run(&["make it night", "-r", "in.png", "-o", "night.png"]).expect(0);
    assert_eq!(backend.edits()[0].references[0].sha256, pictures::sha256(&reference));
    let ran = shell.run(&["kites", "-n", "2", "-o", "two.png"]).expect(0);
    assert_eq!(ran.text(), "two-1.png\ntwo-2.png\n");
    assert_ne!(hash(&shell.path("two-1.png")), hash(&shell.path("two-2.png")));
    let ran = shell.run(&["a kite [stub format=webp]", "-o", "odd.png"]).expect(0);
    assert!(ran.words.contains("odd.png is a webp picture"), "{}", ran.words);
    let ran = shell.with_input(&["-", "-o", "-"], "a kite from a pipe\n").expect(0);
    image::load_from_memory(&ran.out).unwrap();
    assert!(backend.image_requests().last().unwrap().prompt.contains("a kite from a pipe"));
    shell.assert_tidy();
}

#[test]
fn the_rules_are_the_services() {
    let shell = Shell::of(Setup::painter());
    fs::write(shell.path("text.png"), "this is no picture").unwrap();
    fs::write(shell.path("kite.png"), pictures::unique(&pictures::Kind::default(), "k")).unwrap();
    let six = ["a kite"].into_iter().chain(["-r", "kite.png"].repeat(6)).collect::<Vec<_>>();
    for (args, words) in [
        (&["a kite", "--size", "big"][..], "'size' must be 'auto' or WIDTHxHEIGHT"),
        (&["a kite", "--quality", "best"], "'quality' must be low, medium, high or auto"),
        (&["a kite", "-n", "0"], "'count' must be"),
        (&["a kite", "-n", "4000000000"], "'count' must be"),
        (&[""], "'prompt' must have 1 to 32000 characters"),
        (&["a kite", "-r", "missing.png"], "missing.png: No such file"),
        (&["a kite", "-r", "."], ".: not a file"),
        (&["a kite", "-r", "kite.png", "-r", "text.png"], "text.png: not a PNG, JPEG or WebP"),
        (&six, "At most 5 reference images"),
        (&["a kite", "-r", "kite.png", "-n", "2"], "-n must be 1"),
    ] {
        // Nobody is asked, not even a service that is not there.
        for server in [&[][..], &["--server", "http://127.0.0.1:9", "--key", "k"]] {
            let ran = shell.run(&[args, server].concat()).expect(2);
            assert!(ran.words.contains(words), "{args:?}: {}", ran.words);
        }
    }
    let ran = shell.run(&["a kite", "-o", "no/such/kite.png"]).expect(1);
    assert!(ran.words.contains("there is no folder no/such"), "{}", ran.words);
    assert_eq!(shell.files(), ["kite.png", "text.png"]);
    shell.run(&["a kite"]).expect(0);
    shell.run(&[]).expect(2);
    assert!(shell.run(&["--help"]).expect(0).text().contains("Example:"));
    shell.assert_tidy();
}

#[test]
fn the_exit_code_tells_what_went_wrong() {
    let backend = Backend::start();
    let shell = real(&backend);
    for (mode, code) in
        [("moderated", 4), ("refuse", 4), ("empty", 1), ("image-limit reset=3600", 3)]
    {
        let ran = shell.run(&[&format!("a kite [stub mode={mode}]")]).expect(code);
        assert_eq!(ran.text(), "");
        assert!(code != 3 || ran.words.contains("It is back at 20"), "{}", ran.words);
    }
    fs::remove_file(shell.setup.path("codex/auth.json")).unwrap();
    shell.run(&["a kite"]).expect(5);
    assert_eq!(shell.files(), [""; 0]);
    shell.assert_tidy();
    let shell =
        Shell::of(Setup::served(&backend, &[HomeOptions::default()]).set("CODEX_BIN", "/none"));
    shell.run(&["a kite"]).expect(6);
}

#[test]
fn an_interrupt_ends_it_and_leaves_nothing() {
    let backend = Backend::start();
    let shell = real(&backend);
    backend.hold_images();
    let mut child = shell.start(&["a kite"]);
    backend.wait_for_images(1);
    process::signal(child.id().cast_signed(), Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    backend.release_images();
    assert_eq!(shell.files(), [""; 0]);
    shell.assert_tidy();
}

#[test]
fn a_running_service_is_asked_instead() {
    let lab = Lab::served(&[HomeOptions::default()], |setup| {
        setup.set("PUBLIC_BASE_URL", "https://images.example.invalid")
    });
    let url = url_of(&lab);
    let shell = Shell::of(
        Setup::new()
            .set("CODEX_IMAGE_SERVICE_URL", &url)
            .set("CODEX_IMAGE_SERVICE_KEY", lab.service.default_key()),
    );
    assert_eq!(shell.run(&["a red kite", "-o", "kite.png"]).expect(0).text(), "kite.png\n");
    assert_eq!(paid(&lab.backend), [hash(&shell.path("kite.png"))]);
    shell.run(&["make it night", "-r", "kite.png", "-o", "night.png"]).expect(0);
    assert_eq!(lab.backend.edits()[0].references[0].sha256, hash(&shell.path("kite.png")));
    shell.run(&["a kite [stub mode=moderated]"]).expect(4);
    let ran = shell.run(&["a kite", "--key", "cimg_wrong"]).expect(1);
    assert!(ran.words.contains("Invalid API key"), "{}", ran.words);
    let ran = shell.run(&["a kite", "--server", "http://127.0.0.1:9"]).expect(1);
    assert!(ran.words.contains("http://127.0.0.1:9 cannot be asked"), "{}", ran.words);
    let ran = shell.run(&["a kite", "--server", "nas:8000"]).expect(2);
    assert!(ran.words.contains("--server must be an http:// or https:// URL"), "{}", ran.words);
    // Once said by a job, and once before there is one.
    for _ in 0..2 {
        let ran = shell.run(&["a kite [stub mode=image-limit reset=3600]"]).expect(3);
        assert!(ran.words.contains("It is back at 20"), "{}", ran.words);
    }
    assert_eq!(shell.files(), ["kite.png", "night.png"]);
    shell.assert_tidy();
}

#[test]
fn an_interrupt_cancels_the_services_job() {
    let lab = Lab::served(&[HomeOptions::default()], |setup| setup);
    let url = url_of(&lab);
    let shell = Shell::of(Setup::new().set("CODEX_IMAGE_SERVICE_KEY", lab.service.default_key()));
    lab.backend.hold_images();
    let mut child = shell.start(&["a kite", "--server", &url]);
    lab.backend.wait_for_images(1);
    process::signal(child.id().cast_signed(), Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    wait_for("the request to be dropped", || (lab.backend.open_images() == 0).then_some(()));
    lab.backend.release_images();
    let jobs = lab.service.get("/v1/images/jobs").expect(200).json();
    assert_eq!(jobs["data"][0]["status"], "cancelled");
    shell.assert_tidy();
}

#[test]
fn only_files_are_replaced() {
    let shell = Shell::of(Setup::painter());
    rustix::fs::mknodat(
        rustix::fs::CWD,
        shell.path("pipe.png"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    symlink("pipe.png", shell.path("to-pipe.png")).unwrap();
    symlink("nothing.png", shell.path("to-nothing.png")).unwrap();
    fs::create_dir(shell.path("kites-2.png")).unwrap();
    for (args, words) in [
        (&["-o", "pipe.png"][..], "pipe.png is a pipe; only a file"),
        (&["-o", "to-pipe.png"], "to-pipe.png is a pipe"),
        (&["-o", "to-nothing.png"], "to-nothing.png is a link to nothing"),
        (&["-o", "kites.png", "-n", "2"], "kites-2.png is a folder"),
    ] {
        let ran = shell.run(&[&["a kite", "--force"], args].concat()).expect(2);
        assert!(ran.words.contains(words), "{}", ran.words);
        assert!(words.contains("link") || ran.words.contains("-o - writes"), "{}", ran.words);
    }
    assert_eq!(shell.files(), ["kites-2.png", "pipe.png", "to-nothing.png", "to-pipe.png"]);
    let kind = fs::symlink_metadata(shell.path("pipe.png")).unwrap().file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&kind));
    // A link stays one; the file behind it is replaced.
    fs::create_dir(shell.path("album")).unwrap();
    fs::write(shell.path("album/kite.png"), "old").unwrap();
    symlink("album/kite.png", shell.path("kite.png")).unwrap();
    shell.run(&["a kite", "-o", "kite.png"]).expect(1);
    shell.run(&["a kite", "-o", "kite.png", "--force"]).expect(0);
    assert!(fs::symlink_metadata(shell.path("kite.png")).unwrap().is_symlink());
    image::open(shell.path("album/kite.png")).unwrap();
    assert_eq!(support::lab::names(&shell.path("album")), ["kite.png"]);
    // What is another name of standard output is standard output.
    let ran = shell.run(&["a kite", "-o", "/dev/stdout", "--force"]).expect(0);
    image::load_from_memory(&ran.out).unwrap();
    shell.assert_tidy();
}

#[test]
fn what_was_paid_for_is_kept_when_it_cannot_be_written() {
    let backend = Backend::start();
    let shell = real(&backend);
    let kept = |words: &str| {
        let (_, at) = words.split_once("the picture is kept as ").unwrap();
        PathBuf::from(at.split([',', '\n']).next().unwrap())
    };
    // The folder goes while the picture is drawn.
    fs::create_dir(shell.path("album")).unwrap();
    backend.hold_images();
    let child = shell.start(&["a kite", "-o", "album/kite.png"]);
    backend.wait_for_images(1);
    fs::remove_dir_all(shell.path("album")).unwrap();
    backend.release_images();
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert_eq!(paid(&backend), [hash(&kept(&words))]);
    // Nobody reads.
    let output = shell.command(&["a kite", "-o", "-"]).stdout(unread()).output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert_eq!(paid(&backend)[1], hash(&kept(&words)));
}

#[test]
fn a_services_picture_that_cannot_be_written_is_named() {
    let service = Setup::painter().start();
    let shell = Shell::of(Setup::new().set("CODEX_IMAGE_SERVICE_KEY", service.default_key()));
    let (url, args) = (service.url(""), ["a kite", "-o", "-", "--server"]);
    let mut command = shell.command(&[&args[..], &[&url]].concat());
    let output = command.stdout(unread()).output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{words}");
    let (_, at) = words.split_once(&format!("the service's {url}")).unwrap();
    let (file, job) = at.split_once(" (job ").unwrap();
    assert!(!service.picture(file).is_empty());
    assert_eq!(service.job(job.trim_end().trim_end_matches(')'))["status"], "succeeded");
}

#[test]
fn an_output_folder_is_tried_before_anything_is_drawn() {
    if !rustix::process::geteuid().is_root() {
        support::cannot_run("only root can start programs as other users");
        return;
    }
    let setup = Setup::painter();
    let dir = tempfile::tempdir().unwrap();
    let allow = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    allow(dir.path(), 0o755);
    let program = dir.path().join("codex-image-service");
    copy_program(setup.program_path(), &program);
    fs::create_dir(dir.path().join("tmp")).unwrap();
    allow(&dir.path().join("tmp"), 0o777);
    let output = Command::new(program)
        .args(["generate", "a kite", "-o", "kite.png", "--server", "http://127.0.0.1:9"])
        .env_clear()
        .env("TMPDIR", dir.path().join("tmp"))
        .env("CODEX_IMAGE_SERVICE_KEY", "k")
        .current_dir(dir.path())
        .uid(61_003)
        .gid(61_003)
        .output()
        .unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("no picture can be put into .: Permission denied"), "{words}");
    assert_eq!(support::lab::names(&dir.path().join("tmp")), [""; 0]);
}

#[test]
fn an_empty_variable_is_none() {
    let setup = Setup::painter().set("CODEX_IMAGE_SERVICE_URL", "");
    let shell = Shell::of(setup.set("CODEX_IMAGE_SERVICE_KEY", ""));
    shell.run(&["a kite"]).expect(0);
    let ran = shell.run(&["a kite", "--server", "http://127.0.0.1:9"]).expect(2);
    assert!(ran.words.contains("set CODEX_IMAGE_SERVICE_KEY"), "{}", ran.words);
    assert_eq!(shell.files(), ["a-kite.png"]);
}

#[test]
fn what_keeps_codex_from_its_work_is_said_with_its_place() {
    let backend = Backend::start();
    let shell = real(&backend);
    // Nobody can make a folder in a file, not even root.
    let state = shell.setup.path("file/state");
    fs::write(shell.setup.path("file"), "").unwrap();
    let mut command = shell.command(&["a kite"]);
    let output = command.env("STATE_DIR", &state).output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{words}");
    let said = format!("{}/codex: Not a directory", state.display());
    assert!(words.contains(&said) && words.contains("STATE_DIR"), "{words}");
    // A login file that cannot be read is another matter than none.
    let auth = shell.setup.path("codex/auth.json");
    fs::remove_file(&auth).unwrap();
    let ran = shell.run(&["a kite"]).expect(5);
    let home = shell.setup.path("codex");
    let said = format!("login codex: there is no auth.json in {}", home.display());
    assert!(ran.words.contains(&said), "{}", ran.words);
    symlink("auth.json", &auth).unwrap();
    let ran = shell.run(&["a kite"]).expect(5);
    let said = format!("login codex: {} cannot be read: Too many levels", auth.display());
    assert!(ran.words.contains(&said), "{}", ran.words);
    assert!(backend.turns().is_empty());
    shell.assert_tidy();
}
