//! Promise: OpenAI's own clients, openai-python and openai-node, find their API here: pictures in
//! each form, streams, the right exception for each error, a pause that is honoured, and silent
//! repetitions that pay once.
//!
//! The scripts in `clients/` say what a client must see; here stands what was paid for it.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use image::ImageFormat;
use serde_json::json;
use support::{
    Backend, HomeOptions, Lab, PATIENCE, Setup, cannot_run,
    pictures::{self, Kind, sha256},
    temp_dir, wait_for, wait_for_within,
};

/// A client: the program that runs its script, and the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Python,
    Node,
}

impl Client {
    fn command(self) -> Option<Command> {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
        let (program, script) = match self {
            Self::Python => (tests.join(".cache/python/bin/python"), "check.py"),
            Self::Node => (
                tests.join(format!("clients/node_modules/node-linux-{machine}/bin/node")),
                "check.mjs",
            ),
        };
        let mut command = Command::new(&program);
        command.arg(tests.join("clients").join(script));
        program.is_file().then_some(command)
    }
}

/// The clients that are installed; says so of one that is not.
fn clients() -> Vec<Client> {
    let installed = |client: &Client| {
        let is_there = client.command().is_some();
        if !is_there {
            cannot_run(&format!(
                "{client:?}'s package is not installed; tests/run clients does it"
            ));
        }
        is_there
    };
    [Client::Python, Client::Node].into_iter().filter(installed).collect()
}

/// A service with the real Codex in its default engine, and what the scripts need beside it.
struct Bench {
    lab: Lab,
    folder: tempfile::TempDir,
    disabled: String,
}

/// The pictures that are sent, by their names.
fn sent() -> [(&'static str, Vec<u8>); 3] {
    let small = Kind { size: (64, 48), ..Kind::default() };
    let jpeg = Kind { format: ImageFormat::Jpeg, ..small };
    let clear = Kind { alpha: true, ..small };
    [
        ("red.png", pictures::of_seed(&small, "red")),
        ("blue.jpg", pictures::of_seed(&jpeg, "blue")),
        ("mask.png", pictures::of_seed(&clear, "mask")),
    ]
}

impl Bench {
    fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let backend = Backend::start();
        let setup = Setup::served(&backend, &[HomeOptions::default()]);
        let address = setup.environment().find(|(name, _)| *name == "LISTEN").unwrap().1.clone();
        let public = format!("http://{}", address.to_str().unwrap());
        let lab = Lab { service: change(setup.set("PUBLIC_BASE_URL", public)).start(), backend };
        let folder = temp_dir();
        for (name, bytes) in sent() {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        let disabled = lab.service.key("disabled");
        lab.service.change_key("disable", "disabled");
        Self { lab, folder, disabled }
    }

    /// The script under way, which speaks to `base`.
    fn start(&self, client: Client, scenario: &str, base: &str) -> Script {
        let log = self.folder.path().join(format!("{client:?}-{scenario}.log"));
        let file = fs::File::create(&log).unwrap();
        let child = client
            .command()
            .unwrap()
            .arg(scenario)
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("BASE_URL", format!("{base}/v1"))
            .env("API_KEY", self.lab.service.default_key())
            .env("DISABLED_KEY", &self.disabled)
            .env("PICTURES", self.folder.path())
            .env("JOB", tag(client))
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Script { child, log, name: format!("{client:?}'s {scenario}") }
    }

    fn run(&self, client: Client, scenario: &str) {
        self.start(client, scenario, &self.lab.service.url("")).ends_well();
    }

    /// What both made of a scenario, paid by so many pictures each.
    fn both_pay(&self, scenario: &str, pictures: usize) {
        for client in clients() {
            self.run(client, scenario);
            let backend = &self.lab.backend;
            assert_eq!(backend.pictures_for(tag(client)), pictures, "{client:?}'s {scenario}");
        }
    }
}

/// Marks what a client's pictures are charged for.
fn tag(client: Client) -> &'static str {
    match client {
        Client::Python => "python",
        Client::Node => "node",
    }
}

/// A script under way.
struct Script {
    child: Child,
    log: PathBuf,
    name: String,
}

impl Script {
    #[track_caller]
    fn ends_well(mut self) {
        let status = wait_for_within(PATIENCE * 2, &self.name, || self.child.try_wait().unwrap());
        let said = fs::read_to_string(&self.log).unwrap();
        assert!(status.success(), "{} ended with {status}:\n{said}", self.name);
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// Pictures.

#[test]
fn pictures_from_words() {
    let bench = Bench::with(|setup| setup);
    bench.both_pay("generate", 1 + 3 + 1 + 2);
}

#[test]
fn pictures_from_pictures() {
    let bench = Bench::with(|setup| setup);
    let [red, blue, mask] = sent().map(|(_, bytes)| sha256(&bytes));
    for client in clients() {
        bench.lab.backend.reset_counts();
        bench.run(client, "edit");
        // Whatever a client calls them and says of them, these very bytes arrive, in their order.
        let arrived = |words: &str| -> Vec<_> {
            let edits = bench.lab.backend.edits().into_iter();
            edits
                .filter(|edit| edit.prompt.contains(words))
                .map(|edit| edit.references.into_iter().map(|one| one.sha256).collect::<Vec<_>>())
                .collect()
        };
        let (single, three) = match client {
            Client::Python => ("a file", "bytes"),
            Client::Node => ("a stream", "a Blob"),
        };
        assert_eq!(arrived(single), [[&*red]], "{client:?}");
        assert_eq!(arrived(three), [[&*red]; 3], "{client:?}");
        assert_eq!(arrived("several"), [[&*red, &*blue, &*red, &*mask]], "{client:?}");
        assert_eq!(bench.lab.backend.pictures_for(tag(client)), 1 + 3 + 1 + 1, "{client:?}");
    }
}

#[test]
fn streams() {
    let bench = Bench::with(|setup| setup);
    bench.both_pay("stream", 3 + 1);
}

// Errors.

#[test]
fn every_error_is_the_right_exception() {
    let bench = Bench::with(|setup| setup.set("MAX_REQUEST_BODY_BYTES", (1 << 20).to_string()));
    // The picture of the idempotency key, and nothing for a request that was declined or refused.
    bench.both_pay("errors", 1);
    for client in clients() {
        // That one, and the one that moderation declined: no client repeated it.
        assert_eq!(bench.lab.backend.image_requests_for(tag(client)), 2, "{client:?}");
    }
}

#[test]
fn a_full_queue_and_a_short_patience() {
    let bench = Bench::with(|setup| {
        setup
            .set("REQUEST_WAIT_TIMEOUT_SECONDS", "2")
            .set("GENERATION_QUEUE_MAX_SIZE", "1")
            .set("CODEX_WORKER_CONCURRENCY", "1")
    });
    let backend = &bench.lab.backend;
    for client in clients() {
        backend.hold_images();
        bench.run(client, "busy");
        backend.release_images();
        wait_for("both pictures", || (backend.pictures_for(tag(client)) == 2).then_some(()));
        wait_for("an idle service", || {
            let jobs = bench.lab.service.get("/v1/images/jobs").json();
            let mut jobs = jobs["data"].as_array().unwrap().iter();
            jobs.all(|job| job["status"] == "succeeded").then_some(())
        });
        assert_eq!(backend.image_requests_for(tag(client)), 2);
        // And what came too late is found by the repetition, not drawn again.
        bench.run(client, "patience");
        assert_eq!(backend.image_requests_for(tag(client)), 3);
    }
    bench.lab.service.wait_for_log("status=504");
}

#[test]
fn a_quota_that_comes_back_in_hours() {
    let bench = Bench::with(|setup| setup);
    bench.lab.backend.set("mode=image-limit reset=7200");
    for client in clients() {
        bench.run(client, "quota");
    }
    // Nobody asked again, by itself or otherwise.
    assert_eq!(bench.lab.backend.image_requests().len(), 1);
}

// What the clients repeat by themselves.

#[test]
fn a_short_pause_is_honoured() {
    // Longer than a caller may wait here: it is told.
    let bench = Bench::with(|setup| setup.set("REQUEST_WAIT_TIMEOUT_SECONDS", "8"));
    let backend = &bench.lab.backend;
    for client in clients() {
        // Codex is running: the answer to the first request comes before the patience ends.
        let kite = bench.lab.service.submit("a kite");
        assert_eq!(bench.lab.service.wait_job(&kite)["status"], "succeeded");
        backend.set("mode=image-limit reset=12");
        let script = bench.start(client, "one", &bench.lab.service.url(""));
        wait_for("the refused request", || {
            (backend.image_requests_for(tag(client)) == 1).then_some(())
        });
        backend.set("mode=ok");
        script.ends_well();
        assert_eq!(
            (backend.image_requests_for(tag(client)), backend.pictures_for(tag(client))),
            (2, 1),
            "{client:?}"
        );
    }
    assert_eq!(bench.lab.service.log().matches("status=429").count(), clients().len());
}

#[test]
fn a_cut_connection_pays_once() {
    let bench = Bench::with(|setup| setup);
    let backend = &bench.lab.backend;
    for client in clients() {
        for scenario in ["one", "one_edit"] {
            backend.reset_counts();
            backend.hold_images();
            let proxy = Proxy::before(&bench.lab);
            let script = bench.start(client, scenario, &proxy.url);
            backend.wait_for_images(1);
            proxy.cut();
            wait_for("the repetition", || proxy.said("x-stainless-retry-count: 1").then_some(()));
            backend.release_images();
            script.ends_well();
            assert_eq!(backend.image_requests().len(), 1, "{client:?}'s {scenario}");
            assert_eq!(backend.pictures_for(tag(client)), 1, "{client:?}'s {scenario}");
        }
    }
    let jobs = bench.lab.service.get("/v1/images/jobs").expect(200).json();
    assert_eq!(jobs["data"].as_array().unwrap().len(), clients().len() * 2, "{jobs}");
    assert_eq!(jobs["has_more"], json!(false));
}

/// What stands between a client and the service, and may break.
struct Proxy {
    url: String,
    open: Arc<Mutex<Vec<TcpStream>>>,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Proxy {
    fn before(lab: &Lab) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = lab.service.url("").replace("http://", "");
        let (open, heard) = <(Arc<Mutex<Vec<TcpStream>>>, Arc<Mutex<Vec<u8>>>)>::default();
        let (opened, words) = (Arc::clone(&open), Arc::clone(&heard));
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = TcpStream::connect(&service).unwrap();
                for end in [&client, &server] {
                    opened.lock().unwrap().push(end.try_clone().unwrap());
                }
                let ends = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let words = Arc::clone(&words);
                thread::spawn(move || pass_on(ends.0, ends.1, Some(&words)));
                thread::spawn(move || pass_on(server, client, None));
            }
        });
        Self { url, open, heard }
    }

    /// Every connection breaks.
    fn cut(&self) {
        for end in self.open.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Whether a client sent these words.
    fn said(&self, words: &str) -> bool {
        let heard = String::from_utf8_lossy(&self.heard.lock().unwrap()).to_lowercase();
        heard.contains(words)
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, heard: Option<&Mutex<Vec<u8>>>) {
    let mut piece = [0; 16 * 1024];
    while let Ok(count) = from.read(&mut piece)
        && count > 0
        && to.write_all(&piece[..count]).is_ok()
    {
        if let Some(heard) = heard {
            heard.lock().unwrap().extend_from_slice(&piece[..count]);
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
