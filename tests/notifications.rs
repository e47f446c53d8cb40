//! Promise: a service manager is told the truth: that the service is ready when it is, how it stands,
//! that it is alive only while it really answers, that it reads its settings again, and that its end
//! takes longer.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    fs,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
};

use rustix::{
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt::set_socket_passcred,
    },
    process::Signal,
    time::{ClockId, clock_gettime},
};
use serde_json::json;
use support::{Db, Service, Setup, fake, process, sqlite::Database, wait_for, write_program};

/// What listens at `NOTIFY_SOCKET`: each message with the process that sent it.
struct Manager {
    heard: Arc<Mutex<Vec<(i32, String)>>>,
    path: PathBuf,
}

impl Manager {
    /// Listens; the service is to be started with the setup.
    fn of(setup: Setup) -> (Self, Setup) {
        let path = setup.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        set_socket_passcred(&socket, true).unwrap();
        let heard = Arc::<Mutex<Vec<_>>>::default();
        let kept = Arc::clone(&heard);
        thread::spawn(move || {
            loop {
                let mut text = [0; 4096];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
                let mut beside = RecvAncillaryBuffer::new(&mut space);
                let buffers = &mut [IoSliceMut::new(&mut text)];
                let Ok(got) = recvmsg(&socket, buffers, &mut beside, RecvFlags::empty()) else {
                    return;
                };
                let sender = beside.drain().find_map(|message| match message {
                    RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
                    _ => None,
                });
                let text = String::from_utf8(text[..got.bytes].to_vec()).unwrap();
                let sender = sender.unwrap().as_raw_nonzero().get();
                kept.lock().unwrap().push((sender, text.trim_end().to_owned()));
            }
        });
        (Self { heard, path: path.clone() }, setup.set("NOTIFY_SOCKET", path))
    }

    /// All that was sent until now: what has been sent may not have been heard yet.
    fn everything(&self) -> Vec<(i32, String)> {
        let (mark, own) = ("everything", std::process::id().cast_signed());
        UnixDatagram::unbound().unwrap().send_to(mark.as_bytes(), &self.path).unwrap();
        wait_for("what was sent", || (self.count(mark) > 0).then_some(()));
        let mut heard = self.heard.lock().unwrap();
        heard.retain(|(sender, _)| *sender != own);
        heard.clone()
    }

    fn messages(&self) -> Vec<String> {
        self.heard.lock().unwrap().iter().map(|(_, text)| text.clone()).collect()
    }

    /// How many messages were of this kind.
    fn count(&self, kind: &str) -> usize {
        self.messages().iter().filter(|text| text.starts_with(kind)).count()
    }

    fn wait(&self, text: &str, times: usize) {
        wait_for(&format!("{text:?} {times} times, in {:?}", self.messages()), || {
            (self.count(text) >= times).then_some(())
        });
    }

    /// The last `STATUS`.
    fn status(&self) -> Option<String> {
        let messages = self.messages();
        messages.iter().rev().find_map(|text| text.strip_prefix("STATUS=")).map(str::to_owned)
    }

    fn wait_status(&self, what: impl Fn(&str) -> bool, words: &str) {
        wait_for(&format!("a status of {words}, in {:?}", self.messages()), || {
            self.status().is_some_and(|status| what(&status)).then_some(())
        });
    }
}

/// The service with a watchdog that is meant for it: the number of its process is known only to it.
fn watched(setup: Setup, microseconds: u32) -> Setup {
    let (program, start) = (setup.program_path().display().to_string(), setup.path("start"));
    let script = format!(
        "#!/bin/sh\nexport WATCHDOG_PID=$$ WATCHDOG_USEC={microseconds}\nexec {program} \"$@\"\n"
    );
    write_program(&start, &script);
    setup.program(start)
}

/// The service with a file of settings, and where that is.
fn with_file(setup: Setup, text: &str) -> (Setup, PathBuf) {
    let file = setup.path("settings.toml");
    fs::write(&file, text).unwrap();
    (setup.set("CODEX_IMAGE_SERVICE_CONFIG", &file), file)
}

fn hangup(service: &Service, manager: &Manager) {
    let before = (manager.count("RELOADING=1"), manager.count("READY=1"));
    process::signal(service.pid(), Signal::HUP);
    manager.wait("READY=1", before.1 + 1);
    assert_eq!(manager.count("RELOADING=1"), before.0 + 1, "{:?}", manager.messages());
}

#[test]
fn a_life_is_told_in_order_by_the_process_itself() {
    let (manager, setup) = Manager::of(Setup::painter());
    let mut service = setup.stopped();
    service.spawn();
    manager.wait("READY=1", 1);
    // At once, and not after some tries.
    service.endpoint().request("GET", "/health", &[], None).unwrap().expect(200);
    assert_eq!(service.post_json("/v1/images/generate", &json!({"prompt": "a kite"})).status, 200);
    manager.wait("STATUS=", 1);
    let pid = service.pid();
    assert!(service.term().success());
    let heard = manager.everything();
    assert!(heard.iter().all(|(sender, _)| *sender == pid), "{pid}: {heard:?}");
    let heard: Vec<_> = heard.into_iter().map(|(_, text)| text).collect();
    assert_eq!(heard[0], "READY=1");
    assert!(heard.iter().all(|text| !text.contains("MAINPID")), "it is what was started");
    let stop = heard.iter().position(|text| text == "STOPPING=1").unwrap();
    assert!(heard[stop + 1..].iter().any(|text| text.starts_with("EXTEND_TIMEOUT_USEC=")));
    for (kind, times) in [("READY=1", 1), ("STOPPING=1", 1), ("WATCHDOG=1", 0), ("RELOADING", 0)] {
        assert_eq!(heard.iter().filter(|text| text.starts_with(kind)).count(), times, "{heard:?}");
    }
}

#[test]
fn it_is_not_ready_before_its_store_is() {
    let (manager, setup) = Manager::of(Setup::painter());
    let lock = setup.path("state").join("codex-image-service.migrate.lock");
    let held = fs::File::create(&lock).unwrap();
    held.lock().unwrap();
    let mut service = setup.stopped();
    service.spawn();
    let folder = format!("/proc/{}/fd", service.pid());
    wait_for("it to wait for its turn to migrate", || {
        let open = fs::read_dir(&folder).ok()?.flatten();
        let mut open = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        open.any(|path| path == lock).then_some(())
    });
    assert_eq!(manager.messages(), [""; 0]);
    held.unlock().unwrap();
    manager.wait("READY=1", 1);
    service.endpoint().request("GET", "/health", &[], None).unwrap().expect(200);
    service.term();
}

#[test]
fn front_and_worker_each_tell_of_themselves() {
    for role in ["front", "worker"] {
        let (manager, setup) = Manager::of(watched(Setup::fake(), 400_000));
        let mut service = setup.args(&["--role", role]).stopped();
        service.spawn();
        manager.wait("READY=1", 1);
        manager.wait("STATUS=idle", 1);
        manager.wait("WATCHDOG=1", 2);
        assert!(service.term().success());
        manager.wait("STOPPING=1", 1);
    }
}

// Reloading

#[test]
fn what_may_change_changes_at_a_hangup_and_the_rest_is_named() {
    let (manager, setup) = Manager::of(Setup::fake().set("LOG_FORMAT", "text"));
    let setup = setup.set("MAX_IMAGES_PER_REQUEST", "3");
    let secret = setup.path("password");
    fs::write(&secret, "one-password").unwrap();
    let fixed = format!("admin_password_file = {secret:?}\n");
    let (setup, file) = with_file(setup, &fixed);
    let mut service = setup.start();
    let home = service.codex_home();
    service.submit("a kite [fake gate]");
    fake::wait_for_step(&home, "thread", 1);
    for _ in 0..2 {
        service.submit("waits");
    }

    let settings = "generation_queue_max_size = 2\nlog_level = \"debug\"\nmetrics = true\n\
                    max_images_per_request = 9\nshutdown_grace_seconds = 0.2\n\
                    max_request_body_bytes = 2000\n";
    fs::write(&file, format!("{fixed}{settings}")).unwrap();
    fs::write(&secret, "another-password").unwrap();
    let clock = || {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
    };
    let before = clock();
    hangup(&service, &manager);
    let messages = manager.messages();
    let reloading = messages.iter().position(|text| text.starts_with("RELOADING=1")).unwrap();
    let at = messages[reloading].strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert!((before..clock()).contains(&at.parse::<i64>().unwrap()), "{before} {at}");
    assert!(messages[reloading + 1..].contains(&"READY=1".to_owned()));

    service.wait_for_log(
        "now GENERATION_QUEUE_MAX_SIZE = 2, LOG_LEVEL = debug, SHUTDOWN_GRACE_SECONDS = 0.2, \
         MAX_REQUEST_BODY_BYTES = 2000",
    );
    // The environment is as it was at the start, and stronger than the file.
    service.wait_for_log("needs a restart: METRICS, ADMIN_PASSWORD");
    assert!(
        !service.log().contains("MAX_IMAGES_PER_REQUEST") && !service.log().contains("-password\"")
    );
    assert!(!service.log().contains("another-password"));
    let refused = service.post_json("/v1/images/jobs", &json!({"prompt": "one too many"}));
    assert_eq!(refused.expect(503).json()["error"]["code"], "queue_full");
    let long = json!({"prompt": "x".repeat(3000)});
    assert_eq!(service.post_json("/v1/images/jobs", &long).status, 413);
    service.get("/health").expect(200);
    service.wait_for_log("route=\"/health\"");
    assert_eq!(service.get("/metrics").status, 404);

    // Nothing of a wrong file holds, not even what is right in it.
    let wrong = "generation_queue_max_size = 0\nlog_level = \"error\"\nno_setting = 1\n";
    fs::write(&file, format!("{fixed}{wrong}")).unwrap();
    hangup(&service, &manager);
    let place = file.display();
    service.wait_for_log(&format!(
        "the settings stay as they are: GENERATION_QUEUE_MAX_SIZE = \"0\" ({place}: \
         generation_queue_max_size): must be a whole number from 1 to 100000"
    ));
    service.wait_for_log("the settings stay as they are: no_setting");
    let refused = service.post_json("/v1/images/jobs", &json!({"prompt": "one too many"}));
    assert_eq!(refused.expect(503).json()["error"]["code"], "queue_full");

    fs::remove_file(&file).unwrap();
    hangup(&service, &manager);
    service.wait_for_log("cannot be read");

    // The grace is the one of the first reload.
    let running = Db::of(&service).jobs().remove(0).id;
    assert!(service.term().success());
    assert_eq!(Db::of(&service).job(&running).state, "queued", "it was given back");
}

#[test]
fn more_pictures_are_drawn_at_once_and_fewer_again() {
    let setup = Setup::fake_with_logins(3);
    let (manager, setup) = Manager::of(setup);
    let (setup, file) = with_file(setup, "codex_worker_concurrency = 1");
    let service = setup.start();
    let ids: Vec<_> = (0..3).map(|_| service.submit("a kite [fake sleep=600]")).collect();
    let states = || -> Vec<String> {
        ids.iter().map(|id| service.job(id)["status"].as_str().unwrap().to_owned()).collect()
    };
    wait_for("one", || (states() == ["running", "queued", "queued"]).then_some(()));
    fs::write(&file, "codex_worker_concurrency = 3").unwrap();
    hangup(&service, &manager);
    wait_for("all", || (states() == ["running"; 3]).then_some(()));
    fs::write(&file, "codex_worker_concurrency = 1").unwrap();
    hangup(&service, &manager);
    assert_eq!(states(), ["running"; 3], "what runs goes on");
    let more: Vec<_> = (0..2).map(|_| service.submit("a kite [fake sleep=600]")).collect();
    for id in &ids[..2] {
        service.delete(&format!("/v1/images/jobs/{id}")).expect(200);
    }
    // Two slots are gone; the third is still taken.
    wait_for("the others' end", || {
        (Db::of(&service).jobs().iter().filter(|job| job.state == "running").count() == 1)
            .then_some(())
    });
    manager.wait_status(|status| status.starts_with("1 running, 2 queued"), "one that runs");
    service.delete(&format!("/v1/images/jobs/{}", ids[2])).expect(200);
    wait_for("the next", || (service.job(&more[0])["status"] == "running").then_some(()));
    assert_eq!(service.job(&more[1])["status"], "queued");
}

#[test]
fn without_a_manager_a_hangup_does_the_same() {
    let (setup, file) = with_file(Setup::painter(), "");
    let service = setup.start();
    fs::write(&file, "log_level = \"debug\"").unwrap();
    process::signal(service.pid(), Signal::HUP);
    service.wait_for_log("the settings are read again; now LOG_LEVEL = debug");
    process::signal(service.pid(), Signal::HUP);
    service.wait_for_log("the settings are read again; nothing changes");
    service.get("/health").expect(200);
}

// Standing

#[test]
fn the_status_follows_queue_and_logins() {
    let (manager, setup) = Manager::of(Setup::fake());
    let mut service = setup.start();
    let home = service.codex_home();
    manager.wait("STATUS=idle; 1 login", 1);
    service.submit("a kite [fake gate]");
    service.submit("another");
    manager.wait_status(|status| status == "1 running, 1 queued; 1 login", "two jobs");
    fake::open_gate(&home);
    manager.wait_status(|status| status == "idle; 1 login", "none");
    let words = "You've+hit+your+usage+limit.+Try+again+in+2+hours.";
    service.submit(&format!("a kite [fake picture=none fail={words} rc=1]"));
    let rests = |status: &str| status.starts_with("idle; 1 login, 1 rests until 20");
    manager.wait_status(rests, "a rest");
    let told = manager.messages();
    let told: Vec<_> = told.iter().filter(|text| text.starts_with("STATUS=")).collect();
    assert!(told.windows(2).all(|two| two[0] != two[1]), "only changes: {told:?}");
    assert!(service.term().success());
}

#[test]
fn a_stop_is_given_time_for_as_long_as_it_needs() {
    let (manager, setup) = Manager::of(Setup::fake());
    let mut service = setup.set("SHUTDOWN_GRACE_SECONDS", "300").start();
    let home = service.codex_home();
    let id = service.submit("a kite [fake gate]");
    fake::wait_for_step(&home, "thread", 1);
    process::signal(service.pid(), Signal::TERM);
    manager.wait("STOPPING=1", 1);
    manager.wait_status(|status| status == "stopping: 1 running, 0 queued; 1 login", "the stop");
    manager.wait("EXTEND_TIMEOUT_USEC=", 2);
    fake::open_gate(&home);
    assert!(service.wait_end(support::PATIENCE).success());
    assert_eq!(Db::of(&service).job(&id).state, "succeeded");
    let messages = manager.messages();
    let asked = messages.iter().filter_map(|text| text.strip_prefix("EXTEND_TIMEOUT_USEC="));
    for microseconds in asked {
        assert!((1_000_000..=30_000_000).contains(&microseconds.parse::<u32>().unwrap()));
    }
}

// Life

#[test]
fn a_store_that_takes_no_writes_silences_the_watchdog() {
    let (manager, setup) = Manager::of(watched(Setup::painter(), 400_000));
    let service = setup.start();
    manager.wait("WATCHDOG=1", 3);
    let mut database = Database::of(&service);
    database.run("BEGIN IMMEDIATE");
    service.wait_for_log("the database does not answer; the watchdog is not told");
    manager.everything();
    let silent = manager.count("WATCHDOG=1");
    for _ in 0..100 {
        service.endpoint().request("GET", "/health", &[], None).unwrap().expect(200);
    }
    assert_eq!(manager.count("WATCHDOG=1"), silent, "nothing while it is locked");
    database.run("ROLLBACK");
    manager.wait("WATCHDOG=1", silent + 2);
    assert_eq!(service.log().matches("the watchdog is not told").count(), 1, "said once");
}

#[test]
fn the_watchdog_of_another_process_is_none_of_ours() {
    let (manager, setup) = Manager::of(Setup::painter());
    let mut service = setup.set("WATCHDOG_USEC", "1000").set("WATCHDOG_PID", "1").start();
    service.generate("a kite").expect(200);
    assert!(service.term().success());
    manager.everything();
    assert_eq!(manager.count("WATCHDOG=1"), 0);
}
