//! Promise: front and worker run as two users with one shared group, each with an ordinary umask;
//! whoever comes first makes what both need, and the login is the worker's alone.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    fs::{self, Permissions},
    io,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use codex_image_service::state_dir::MARKER;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Endpoint, Reply, copy_program, fake, pictures, process, sqlite::Database, wait_for};

const FRONT: u32 = 61_001;
const WORKER: u32 = 61_002;
const GROUP: u32 = 61_000;

/// A folder that both users reach, with the programs in it.
struct Place {
    dir: tempfile::TempDir,
    endpoint: Endpoint,
    listen: String,
    children: Vec<(u32, Child)>,
}

impl Place {
    /// None (and said) where users cannot be had.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            support::cannot_run("only root can start programs as other users");
            return None;
        }
        // Not beside the build, which may lie in a folder that is its user's alone.
        let dir = tempfile::tempdir().unwrap();
        allow(dir.path(), 0o755);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (endpoint, listen) = (Endpoint::Tcp(address), address.to_string());
        let place = Self { dir, endpoint, listen, children: Vec::new() };
        let given = [("var", 0, 0o2770), ("codex", WORKER, 0o700), ("cwd", 0, 0o755)];
        for (name, owner, mode) in given {
            fs::create_dir(place.path(name)).unwrap();
            if let Err(error) = give(&place.path(name), owner) {
                support::cannot_run(&format!("a file cannot be given to user {owner}: {error}"));
                return None;
            }
            allow(&place.path(name), mode);
        }
        fs::create_dir(place.path("bin")).unwrap();
        copy_program(Path::new(env!("CARGO_BIN_EXE_codex-image-service")), &place.program());
        copy_program(fake::binary(), &place.path("bin/fake_codex"));
        fake::home(&place.home());
        give(&place.home().join("auth.json"), WORKER).unwrap();
        Some(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn program(&self) -> PathBuf {
        self.path("bin/codex-image-service")
    }

    fn home(&self) -> PathBuf {
        self.path("codex")
    }

    fn state(&self) -> PathBuf {
        self.path("var/state")
    }

    /// A program of one of the two users, under the umask that systemd and shells give.
    fn command(&self, user: u32, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "umask 022; exec \"$@\"", "sh"])
            .arg(program)
            .args(args)
            .env_clear()
            .env("STATE_DIR", self.state())
            .env("HOME", "/nonexistent")
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LISTEN", &self.listen)
            .env("CODEX_ENGINE", "exec")
            .env("CODEX_BIN", self.path("bin/fake_codex"))
            .env("CODEX_HOMES", self.home())
            .env("CLEANUP_INTERVAL_HOURS", "0")
            .current_dir(self.path("cwd"))
            .stdin(Stdio::null())
            .gid(GROUP)
            .uid(user);
        command
    }

    fn run(&self, user: u32, args: &[&str]) -> Output {
        self.command(user, &self.program(), args).output().unwrap()
    }

    /// Starts a role; the front until it answers, the worker until the front sees it.
    fn start(&mut self, user: u32) {
        let role = if user == FRONT { "front" } else { "worker" };
        let log = || {
            let log = self.path(&format!("{role}.log"));
            fs::File::options().create(true).append(true).open(log).unwrap()
        };
        let mut command = self.command(user, &self.program(), &["serve", "--role", role]);
        let child = command.stdout(log()).stderr(log()).spawn().unwrap();
        self.children.push((user, child));
    }

    fn wait_until_ready(&self) {
        wait_for("/ready", || {
            let reply = self.endpoint.request("GET", "/ready", &[], None).ok()?;
            (reply.status == 200).then_some(())
        });
    }

    fn stop(&mut self, user: u32) {
        let index = self.children.iter().position(|(of, _)| *of == user).unwrap();
        let (_, mut child) = self.children.remove(index);
        process::signal(child.id().cast_signed(), Signal::TERM);
        let status = wait_for("the end", || child.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }

    fn key(&self) -> String {
        let output = self.run(FRONT, &["keys", "create", "x"]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn post(&self, key: &str, body: &Value) -> Reply {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = body.to_string();
        let path = "/v1/images/generate";
        self.endpoint.request("POST", path, &headers, Some(body.as_bytes())).unwrap()
    }

    /// A picture with a reference, made by the worker and served by the front; the job.
    fn draw(&self, key: &str) -> Value {
        let reference = pictures::unique(&pictures::Kind::default(), "reference");
        let body = json!({"prompt": "a kite",
                          "reference_images_base64": [BASE64_STANDARD.encode(reference)]});
        let job = self.post(key, &body).expect(200).json();
        let file = format!("/generated/{}", file_of(&job));
        self.endpoint.request("GET", &file, &[], None).unwrap().expect(200);
        job
    }

    /// Owner, group and mode of something in the state directory.
    #[track_caller]
    fn assert_is(&self, name: &str, owner: u32, mode: u32) {
        let found = fs::symlink_metadata(self.state().join(name)).unwrap();
        let found = (found.uid(), found.gid(), found.mode() & 0o7777);
        assert_eq!(found, (owner, GROUP, mode), "{name}: {:o}, not {mode:o}", found.2);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for log in ["front.log", "worker.log"] {
                let said = fs::read_to_string(self.path(log)).unwrap_or_default();
                let _ = io::Write::write_all(&mut io::stderr(), said.as_bytes());
            }
        }
    }
}

fn give(path: &Path, owner: u32) -> io::Result<()> {
    chown(path, Some(owner), Some(GROUP))
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn file_of(job: &Value) -> String {
    job["images"][0]["url"].as_str().unwrap().rsplit_once('/').unwrap().1.to_owned()
}

/// Everything that a split service does, on what is there already.
fn work_together(place: &mut Place, first: u32) {
    let second = if first == FRONT { WORKER } else { FRONT };
    place.start(first);
    wait_for("the database", || {
        place.state().join("codex-image-service.db").exists().then_some(())
    });
    place.start(second);
    place.wait_until_ready();
    let key = place.key();
    let job = place.draw(&key);
    let id = job["id"].as_str().unwrap();

    place.assert_is(&format!("generated/{}", file_of(&job)), WORKER, 0o640);
    place.assert_is(&format!("references/{id}"), FRONT, 0o2770);
    place.assert_is(&format!("references/{id}/0.png"), FRONT, 0o640);
    let of = |name: &str| fs::symlink_metadata(place.state().join(name)).unwrap();
    for name in ["", "-wal", "-shm"] {
        let name = format!("codex-image-service.db{name}");
        assert_eq!((of(&name).gid(), of(&name).mode() & 0o777), (GROUP, 0o660), "{name}");
    }
    let marked = ["generated", "references", "work"].map(|name| format!("{name}/{MARKER}"));
    let locks = ["worker.lock", "codex-image-service.migrate.lock"].map(str::to_owned);
    for name in marked.iter().chain(&locks) {
        assert_eq!((of(name).gid(), of(name).mode() & 0o777), (GROUP, 0o660), "{name}");
    }
    assert_eq!((of("run/front.bell").uid(), of("run/worker.bell").uid()), (FRONT, WORKER));

    // Each may come back first.
    for user in [first, second] {
        place.stop(user);
        place.start(user);
        place.wait_until_ready();
        place.draw(&key);
    }
    place.stop(FRONT);
    place.stop(WORKER);
    place.start(second);
    place.start(first);
    place.wait_until_ready();
    place.draw(&key);

    // What the front received and what the worker made goes, whoever cleans up.
    let mut database = Database::open(&place.state().join("codex-image-service.db"));
    for (user, job) in [(WORKER, id.to_owned()), (FRONT, String::new())] {
        let which = if job.is_empty() { "1".to_owned() } else { format!("id = '{job}'") };
        database.run(&format!("UPDATE jobs SET expires_at = 1 WHERE {which}"));
        let output = place.run(user, &["cleanup", "--json"]);
        assert!(output.status.success(), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["skipped"], json!([]));
        assert!(report["removed"]["images"].as_u64() > Some(0), "{report}");
    }
    let left = database.number("SELECT count(*) FROM jobs WHERE purged_at IS NULL");
    assert_eq!(left, 0, "a file was in the way");

    // The login is the worker's alone.
    let mode = fs::metadata(place.home()).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o700);
    let login = place.home().join("auth.json");
    for (user, may) in [(FRONT, false), (WORKER, true)] {
        let mut cat = place.command(user, Path::new("/bin/cat"), &[login.to_str().unwrap()]);
        assert_eq!(cat.output().unwrap().status.success(), may, "user {user}");
    }
}

#[test]
fn in_a_state_directory_that_was_made_for_them() {
    let Some(mut place) = Place::new() else { return };
    fs::create_dir(place.state()).unwrap();
    give(&place.state(), 0).unwrap();
    allow(&place.state(), 0o2770);
    work_together(&mut place, FRONT);
    let of = fs::metadata(place.state()).unwrap();
    assert_eq!((of.uid(), of.mode() & 0o7777), (0, 0o2770), "it is left as it was");
    for name in ["generated", "references", "work", "run"] {
        place.assert_is(name, FRONT, 0o2770);
    }
}

#[test]
fn in_one_that_the_front_makes() {
    let Some(mut place) = Place::new() else { return };
    work_together(&mut place, FRONT);
    place.assert_is("", FRONT, 0o2770);
}

#[test]
fn in_one_that_the_worker_makes() {
    let Some(mut place) = Place::new() else { return };
    work_together(&mut place, WORKER);
    place.assert_is("", WORKER, 0o2770);
}

#[test]
fn in_one_that_a_command_makes() {
    let Some(mut place) = Place::new() else { return };
    let key = place.key();
    place.start(WORKER);
    place.start(FRONT);
    place.wait_until_ready();
    place.draw(&key);
}

#[test]
fn what_the_front_puts_there_leads_the_worker_nowhere() {
    let Some(mut place) = Place::new() else { return };
    place.start(FRONT);
    wait_for("the front", || place.endpoint.request("GET", "/health", &[], None).ok());
    let key = place.key();
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = json!({"prompt": "a kite"}).to_string();
    let reply = place.endpoint.request("POST", "/v1/images/jobs", &headers, Some(body.as_bytes()));
    let id = reply.unwrap().expect(202).json()["id"].as_str().unwrap().to_owned();

    // A front that somebody took over knows the job, and where the worker will write.
    let login = place.home().join("auth.json");
    let before = fs::read(&login).unwrap();
    let work = place.state().join("work").join(&id);
    let script = "for turn in 0-1 0-2 0-3; do mkdir -p $1/$turn; \
                  for file in login events.jsonl stderr.txt; do ln -s $2 $1/$turn/$file; done; done";
    let arguments = ["-c", script, "sh", work.to_str().unwrap(), login.to_str().unwrap()];
    let made = place.command(FRONT, Path::new("/bin/sh"), &arguments).output().unwrap();
    assert!(made.status.success(), "{made:?}");

    place.start(WORKER);
    let job = wait_for("the end of the job", || {
        let path = format!("/v1/images/jobs/{id}");
        let job = place.endpoint.request("GET", &path, &headers, None).ok()?.json();
        (job["status"] != "queued" && job["status"] != "running").then_some(job)
    });
    assert_eq!(job["status"], "failed", "{job}");
    assert_eq!(fs::read(&login).unwrap(), before);
    let log = fs::read_to_string(place.path("worker.log")).unwrap();
    assert!(log.contains("is another user's"), "{log}");
    // The next job is drawn.
    place.draw(&key);
}

#[test]
fn what_the_front_calls_a_job_leads_the_worker_nowhere() {
    let Some(mut place) = Place::new() else { return };
    place.start(FRONT);
    place.start(WORKER);
    place.wait_until_ready();
    let key = place.key();
    place.draw(&key);
    // As the logins lie in a folder of the worker's own.
    let logins = place.home();
    let before = support::lab::names(&logins);
    let mut database = Database::open(&place.state().join("codex-image-service.db"));
    let mut insert = |id: &str, state: &str| {
        database.run(&format!(
            "BEGIN IMMEDIATE; INSERT INTO jobs (seq, id, api_key_id, prompt, size, quality, count, \
             state, created_at, expires_at) SELECT min(0, (SELECT min(seq) FROM jobs)) - 1, '{id}', \
             min(id), 'a kite', 'auto', 'auto', 1, '{state}', 1, 1 FROM api_keys; \
             INSERT INTO turns (job_id, position) VALUES ('{id}', 0); COMMIT"
        ))
    };
    insert(logins.to_str().unwrap(), "failed");
    let output = place.run(WORKER, &["cleanup", "--json"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(support::lab::names(&logins), before, "the clean-up removed it");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["removed"]["expired_jobs"], 0, "{report}");

    // Nor is it a place of work, beside the folder of work or below one of another's.
    let beside = format!("{}/beside", logins.display());
    let foreign = place.state().join("foreign");
    insert(&beside, "queued");
    insert(foreign.to_str().unwrap(), "queued");
    place.draw(&key);
    assert!(!Path::new(&beside).exists() && !foreign.exists());
    let log = fs::read_to_string(place.path("worker.log")).unwrap();
    assert_eq!(log.matches("is left alone").count(), 2, "{log}");
}

#[test]
fn a_front_that_may_not_write_is_not_ready() {
    let Some(mut place) = Place::new() else { return };
    place.start(WORKER);
    place.start(FRONT);
    place.wait_until_ready();
    allow(&place.state().join("codex-image-service.db"), 0o440);
    let problems = wait_for("the problem", || {
        let reply = place.endpoint.request("GET", "/ready", &[], None).unwrap();
        (reply.status == 503).then(|| reply.json()["problems"].clone())
    });
    let expected = json!([{"code": "store", "message": "The database cannot be written."}]);
    assert_eq!(problems, expected);
}

#[test]
fn a_database_of_somebody_else_ends_the_start_with_their_names() {
    let Some(place) = Place::new() else { return };
    place.key();
    let database = place.state().join("codex-image-service.db");
    give(&database, 0).unwrap();
    let path = database.display();
    // One that may be read only, and one that may not even be that.
    for mode in [0o644, 0o600] {
        allow(&database, mode);
        for (user, args) in [
            (FRONT, &["serve", "--role", "front"][..]),
            (WORKER, &["serve", "--role", "worker"]),
            (FRONT, &["keys", "list"]),
        ] {
            if mode == 0o644 && args[0] == "keys" {
                continue;
            }
            let output = place.run(user, args);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{said}");
            let (start, end) = (
                format!("{path} can't be written by this user, "),
                format!("; it belongs to root (0) and has mode {mode:04o}."),
            );
            assert!(said.contains(&start) && said.contains(&end), "{said}");
            assert!(said.contains(&user.to_string()), "{said}");
        }
    }
}
