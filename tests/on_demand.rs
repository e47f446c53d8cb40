//! Promise: where systemd holds the sockets, front and worker are there when there is something to
//! do and gone when there is not, and nobody who asks for something notices which of the two it is.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    fs, io,
    net::{TcpListener, UdpSocket},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::MetadataExt as _,
            net::{UnixDatagram, UnixListener},
        },
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use support::{
    Backend, Browser, Db, Endpoint, HomeOptions, Reply, Service, Setup, Unit, admin, fake,
    manager::open_sockets, sqlite::Database, temp_dir, wait_for,
};

const FRONT: &str = "--role front";
const WORKER: &str = "--role worker";
/// Long enough for a process not to end in the middle of a test's sentence.
const IDLE: Duration = Duration::from_millis(400);
/// As short as the setting allows: it ends all the time.
const SHORT: Duration = Duration::from_millis(100);
/// A little less: then it is about to end.
const NEARLY: Duration = Duration::from_millis(85);

/// The worker's bell, where the front of this service rings.
fn bell(service: &Service) -> OwnedFd {
    let run = service.state_dir().join("run");
    fs::create_dir_all(&run).unwrap();
    let path = run.join("worker.bell");
    let _ = fs::remove_file(&path);
    UnixDatagram::bind(path).unwrap().into()
}

fn http(service: &Service) -> OwnedFd {
    let Endpoint::Tcp(address) = service.endpoint() else { panic!("TCP") };
    TcpListener::bind(address).unwrap().into()
}

fn inode(socket: impl AsFd) -> u64 {
    rustix::fs::fstat(socket).unwrap().st_ino
}

// Sockets in

#[test]
fn a_socket_of_the_wrong_kind_is_named() {
    let folder = temp_dir();
    let datagram =
        |name: &str| OwnedFd::from(UnixDatagram::bind(folder.path().join(name)).unwrap());
    let stream = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let local = |name: &str| OwnedFd::from(UnixListener::bind(folder.path().join(name)).unwrap());
    let udp = || OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    let file = || OwnedFd::from(fs::File::open("/dev/null").unwrap());
    let service = Setup::painter().stopped();
    let refused = |number: usize, role: &str, sockets, words: &[&str]| {
        let unit = Unit::hold(&service, &format!("unit{number}"), role, sockets);
        unit.start();
        unit.wait_for_end(1);
        assert_eq!(unit.ends()[0].code(), Some(1), "{}", unit.log());
        let log = unit.log();
        assert!(words.iter().all(|words| log.contains(words)), "{words:?} in {log}");
    };
    let datagram_first = vec![(datagram("a"), "worker.bell"), (stream(), "http")];
    refused(1, FRONT, datagram_first, &["passed as 3 (worker.bell)", "doorbell"]);
    let datagram_last = vec![(stream(), "http"), (datagram("b"), "worker.bell")];
    refused(2, FRONT, datagram_last, &["passed as 4 (worker.bell)", "doorbell"]);
    refused(3, "", vec![(datagram("c"), "bell")], &["passed as 3 (bell)", "doorbell"]);
    let stream_last = vec![(datagram("d"), "worker.bell"), (local("e"), "admin")];
    refused(4, WORKER, stream_last, &["passed as 4 (admin)", "ListenDatagram="]);
    let two = vec![(datagram("f"), "one"), (datagram("g"), "two")];
    refused(5, WORKER, two, &["passed as 4 (two)", "one doorbell"]);
    refused(6, WORKER, vec![(udp(), "bell")], &["passed as 3 (bell)", "ListenDatagram="]);
    refused(7, FRONT, vec![(stream(), ""), (file(), "x")], &["passed as 4 (x)", "ListenStream="]);
    refused(8, FRONT, vec![(file(), "")], &["passed as 3 (unknown)", "ListenStream="]);
}

#[test]
fn sockets_without_an_owner_are_left_alone() {
    let service = Setup::painter().stopped();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = service.command(&["serve"]);
    // On standard input, where a first descriptor of 0 would find it.
    command.env("LISTEN_FDS", "1").env("LISTEN_FDS_FIRST_FD", "0");
    let mut child = command.stdin(OwnedFd::from(other)).spawn().unwrap();
    // It listens at its own address.
    wait_for("/health", || service.endpoint().request("GET", "/health", &[], None).ok());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_worker_hears_the_bell_that_was_passed() {
    let front = Setup::fake().args(&["--role", "front"]).start();
    let socket = bell(&front);
    let path = front.state_dir().join("run/worker.bell");
    let before = fs::symlink_metadata(&path).unwrap().ino();
    let worker = Unit::watch(&front, "worker", WORKER, vec![(socket, "worker.bell")]);
    assert_eq!(worker.starts(), 0, "nothing is to be done");
    // The bell starts it, and wakes it from then on.
    for _ in 0..3 {
        front.generate("a kite").expect(200);
    }
    assert_eq!(worker.starts(), 1);
    assert!(worker.term().success());
    front.generate("a kite").expect(200);
    assert_eq!(worker.starts(), 2);
    assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), before, "the socket is systemd's");
}

#[test]
fn a_bell_that_nobody_rings_is_said() {
    let service = Setup::fake().stopped();
    let folder = temp_dir();
    let path = folder.path().join("other.bell");
    let socket = UnixDatagram::bind(&path).unwrap();
    let worker = Unit::hold(&service, "worker", WORKER, vec![(socket.into(), "worker.bell")]);
    worker.start();
    wait_for("the warning", || {
        worker.log().contains("which the front rings").then_some(worker.log())
    });
    assert!(worker.log().contains("other.bell"), "{}", worker.log());
    assert!(worker.term().success());
}

#[test]
fn codex_inherits_no_socket_that_was_passed() {
    let service = Setup::fake().stopped();
    let folder = temp_dir();
    let unix = OwnedFd::from(UnixListener::bind(folder.path().join("http")).unwrap());
    let bells = bell(&service);
    let tcp = http(&service);
    let passed = [inode(&unix), inode(&bells), inode(&tcp)];
    let front = Unit::watch(&service, "front", FRONT, vec![(tcp, "http"), (unix, "local")]);
    let worker = Unit::watch(&service, "worker", WORKER, vec![(bells, "worker.bell")]);
    let job = service.submit("a kite [fake gate]");
    fake::wait_for_step(&service.codex_home(), "thread", 1);
    let serving = [front.pid().unwrap(), worker.pid().unwrap()];
    let mut held: Vec<_> = serving.iter().flat_map(|pid| open_sockets(*pid)).collect();
    held.retain(|inode| passed.contains(inode));
    held.sort_unstable();
    held.dedup();
    assert_eq!(held.len(), 3, "the two have them");
    let codexes = service.orphans().into_iter().filter(|pid| !serving.contains(pid));
    let codexes: Vec<_> = codexes.collect();
    assert!(!codexes.is_empty());
    for pid in codexes {
        let sockets = open_sockets(pid);
        assert!(passed.iter().all(|inode| !sockets.contains(inode)), "{sockets:?}");
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        assert!(!environment.contains("LISTEN_"), "{environment}");
    }
    fake::open_gate(&service.codex_home());
    assert_eq!(service.wait_job(&job)["status"], "succeeded");
}

// The end by idleness

fn on_demand(setup: Setup, idle: Duration) -> Service {
    setup.set("IDLE_EXIT_SECONDS", idle.as_secs_f64().to_string()).stopped()
}

fn front(service: &Service) -> Unit {
    Unit::watch(service, "front", FRONT, vec![(http(service), "http")])
}

fn worker(service: &Service) -> Unit {
    Unit::watch(service, "worker", WORKER, vec![(bell(service), "worker.bell")])
}

fn health(endpoint: &Endpoint) -> io::Result<Reply> {
    endpoint.request("GET", "/health", &[], None)
}

/// It has not ended although it could have several times.
fn assert_stays(unit: &Unit, idle: Duration) {
    let (begin, ends) = (Instant::now(), unit.ends().len());
    wait_for("several ends", || {
        assert_eq!(unit.ends().len(), ends, "it ended\n{}", unit.log());
        (begin.elapsed() > 3 * idle).then_some(())
    });
}

#[track_caller]
fn assert_idled(unit: &Unit) {
    wait_for("its end", || unit.pid().is_none().then_some(()));
    unit.assert_ended_well();
    let log = unit.log();
    assert_eq!(log.matches("stopped: idle").count(), unit.ends().len(), "{log}");
}

#[test]
fn a_front_ends_when_nobody_asks_and_comes_when_somebody_does() {
    let service = on_demand(Setup::painter(), IDLE);
    let front = front(&service);
    for number in 1..=3 {
        health(&service.endpoint()).unwrap().expect(200);
        assert_eq!(front.starts(), number);
        front.wait_for_end(number);
    }
    assert_idled(&front);
}

#[test]
fn a_front_does_not_end_under_a_request() {
    let service = on_demand(Setup::fake(), IDLE);
    let (front, worker) = (front(&service), worker(&service));
    let key = service.default_key().to_owned();
    let endpoint = service.endpoint();
    let waiting = thread::spawn(move || {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = json!({"prompt": "a kite [fake gate]"}).to_string();
        endpoint.request("POST", "/v1/images/generate", &headers, Some(body.as_bytes()))
    });
    fake::wait_for_step(&service.codex_home(), "thread", 1);
    assert_stays(&front, IDLE);
    assert_eq!(worker.ends().len(), 0, "nor the worker, in the middle of a turn");
    fake::open_gate(&service.codex_home());
    waiting.join().unwrap().unwrap().expect(200);
    for unit in [&front, &worker] {
        unit.wait_for_end(1);
        assert_idled(unit);
        assert_eq!(unit.starts(), 1);
    }

    // Nor under one that has not come whole yet, nor under an answer that is not taken yet.
    let mut slow = service.connect();
    let half = b"GET /health HTTP/1.1\r\nhost: x\r\n";
    io::Write::write_all(&mut slow, half).unwrap();
    wait_for("its start", || front.pid());
    assert_stays(&front, IDLE);
    io::Write::write_all(&mut slow, b"\r\n").unwrap();
    slow.reply("GET").unwrap().expect(200);
    // An open connection on which nobody asks is no reason to stay.
    front.wait_for_end(2);
    assert!(slow.reply("GET").is_err(), "it was closed");
    assert_idled(&front);
}

#[test]
fn events_keep_the_front() {
    let service = on_demand(Setup::fake(), IDLE);
    let (front, _worker) = (front(&service), worker(&service));
    let job = service.submit("a kite [fake gate]");
    let mut events = service.connect();
    let bearer = format!("Bearer {}", service.default_key());
    let path = format!("/v1/images/jobs/{job}/events");
    events.send("GET", &path, &[("authorization", &bearer)], None).unwrap();
    events.head().unwrap().expect(200);
    fake::wait_for_step(&service.codex_home(), "thread", 1);
    assert_stays(&front, IDLE);
    fake::open_gate(&service.codex_home());
    let mut told = String::new();
    while !told.contains("succeeded") {
        let piece = events.read_some().unwrap();
        assert!(!piece.is_empty(), "{told}");
        told += &String::from_utf8_lossy(&piece);
    }
}

#[test]
fn a_request_in_the_moment_of_the_end_is_answered() {
    let service = on_demand(Setup::painter(), SHORT);
    let folder = temp_dir();
    let path = folder.path().join("http");
    let local = UnixListener::bind(&path).unwrap();
    let sockets = vec![(http(&service), "http"), (local.into(), "local")];
    let front = Unit::watch(&service, "front", FRONT, sockets);
    let endpoints = [service.endpoint(), Endpoint::Unix(path)];
    health(&endpoints[0]).unwrap().expect(200);
    // Before, in and after the moment in which it ends, millisecond by millisecond.
    for step in 0..120 {
        thread::sleep(NEARLY + Duration::from_millis(step % 40));
        let callers = [0, 1, 0].map(|which| {
            let endpoint: Endpoint = endpoints[which].clone();
            thread::spawn(move || health(&endpoint))
        });
        for caller in callers {
            let reply = caller.join().unwrap();
            let reply = reply.unwrap_or_else(|why| panic!("step {step}: {why}\n{}", front.log()));
            assert_eq!(reply.status, 200);
        }
    }
    let ends = front.ends().len();
    assert!((10..=120).contains(&ends), "it ended {ends} times");
    assert_idled(&front);
}

#[test]
fn a_worker_ends_when_nothing_is_left_to_do() {
    let service = on_demand(Setup::fake(), IDLE);
    let (_front, worker) = (front(&service), worker(&service));
    service.generate("a kite").expect(200);
    worker.wait_for_end(1);
    assert_idled(&worker);
    assert!(!worker.log().contains("another worker"), "{}", worker.log());

    // What waits for a login keeps it.
    let soon = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec + 300;
    let rest = format!("INSERT INTO login_rests VALUES ('codex', {soon}000, 'quota', NULL)");
    Database::of(&service).run(&rest);
    let job = service.submit("a kite");
    wait_for("the postponement", || worker.log().contains("job waits").then_some(()));
    assert_stays(&worker, IDLE);
    assert_eq!(service.job(&job)["status"], "queued");
    assert!(service.run(&["logins", "wake", "codex"]).status.success());
    assert_eq!(service.wait_job(&job)["status"], "succeeded");
    worker.wait_for_end(2);

    // What was asked of it is done before, also by one that is started for nothing else.
    let mut db = Database::of(&service);
    let open = "SELECT count(*) FROM orders WHERE done_at IS NULL";
    db.run("INSERT INTO orders (at, what, subject) VALUES (1, 'clean_up', '')");
    worker.start();
    worker.wait_for_end(3);
    assert_eq!(db.number(open), 0);
    assert_idled(&worker);
}

#[test]
fn a_job_in_the_moment_of_the_end_is_drawn() {
    let service = on_demand(Setup::fake(), SHORT);
    let (_front, worker) = (front(&service), worker(&service));
    service.generate("a kite").expect(200);
    for step in 0..60 {
        thread::sleep(NEARLY + Duration::from_millis(step % 40));
        // Nobody asks again, nobody else rings.
        service.generate("a kite").expect(200);
    }
    let ends = worker.ends().len();
    assert!((5..=60).contains(&ends), "it ended {ends} times");
    assert_idled(&worker);
    assert!(worker.starts() <= ends + 1);
}

#[test]
fn twenty_jobs_are_twenty_pictures_however_often_both_end() {
    let service = on_demand(Setup::fake(), SHORT);
    let (front, worker) = (front(&service), worker(&service));
    service.default_key();
    let mut jobs: Vec<String> = (0..20_u64)
        .map(|number| {
            thread::sleep(Duration::from_millis(number * 37 % 300));
            service.submit(&format!("kite {number} [fake sleep=0.02]"))
        })
        .collect();
    for job in &jobs {
        assert_eq!(service.wait_job(job)["status"], "succeeded");
    }
    // On a machine that is slow to draw they had no time to end in between.
    for unit in [&front, &worker] {
        while unit.ends().len() < 2 {
            wait_for("its end", || unit.pid().is_none().then_some(()));
            jobs.push(service.submit("one more kite"));
            assert_eq!(service.wait_job(&jobs[jobs.len() - 1])["status"], "succeeded");
        }
        assert_idled(unit);
    }
    assert_eq!(fake::payments(&service.codex_home()).len(), jobs.len());
    let mut db = Db::of(&service);
    assert!(jobs.iter().all(|job| db.job(job).attempts == 1));
    assert_eq!(db.images().len(), jobs.len());
}

#[test]
fn in_one_process_what_was_accepted_is_drawn_before_the_end() {
    let service = on_demand(Setup::fake(), SHORT);
    let unit = Unit::watch(&service, "all", "", vec![(http(&service), "http")]);
    let jobs: Vec<_> = (0..3).map(|_| service.submit("a kite [fake sleep=0.5]")).collect();
    unit.wait_for_end(1);
    assert_idled(&unit);
    let mut db = Db::of(&service);
    assert!(jobs.iter().all(|job| db.job(job).state == "succeeded"));
    assert_eq!((unit.starts(), service.orphans()), (1, Vec::new()));
    assert_eq!(service.job(&jobs[0])["status"], "succeeded");
    assert_eq!(unit.starts(), 2);
}

#[test]
fn no_codex_outlives_a_worker_that_ends() {
    let backend = Backend::start();
    let service = on_demand(Setup::served(&backend, &[HomeOptions::default()]), IDLE);
    let unit = Unit::watch(&service, "all", "", vec![(http(&service), "http")]);
    for number in 1..=2 {
        backend.hold_images();
        let job = service.submit("a red kite");
        backend.wait_for_images(number);
        assert!(service.orphans().len() > 1, "the app-server is there");
        backend.release_images();
        assert_eq!(service.wait_job(&job)["status"], "succeeded");
        // The app-server would be kept for minutes.
        unit.wait_for_end(number);
        assert_eq!(service.orphans(), Vec::<i32>::new());
    }
    assert_idled(&unit);
    assert!(!unit.log().contains("killed"), "{}", unit.log());
}

#[test]
fn a_worker_that_is_started_for_it_renews_idle_logins_before_it_ends() {
    let backend = Backend::start();
    // A timer starts it daily, so that one which has two days left is due.
    let login = HomeOptions { lifetime: 47 * 3600, ..HomeOptions::default() };
    let service = on_demand(Setup::served(&backend, &[login]), SHORT);
    let worker = Unit::hold(&service, "worker", WORKER, vec![(bell(&service), "worker.bell")]);
    worker.start();
    worker.wait_for_end(1);
    assert!(worker.log().contains("idle login renewed"), "{}", worker.log());
    assert_eq!((backend.refreshes(), backend.refused_refreshes()), (1, 0));
    assert!(service.orphans().is_empty());
    // The next day comes the next time.
    worker.start();
    worker.wait_for_end(2);
    assert_eq!(backend.refreshes(), 1);
    assert_idled(&worker);
}

#[test]
fn a_worker_that_sleeps_is_not_missed() {
    let setup = Setup::fake().set("ADMIN_PASSWORD", admin::PASSWORD);
    let service = on_demand(setup, IDLE);
    let (_front, worker) = (front(&service), worker(&service));
    let job = service.submit("a kite [fake gate]");
    fake::wait_for_step(&service.codex_home(), "thread", 1);
    let mut browser = Browser::signed_in(&service);
    let page = browser.get("/admin").expect(200).text();
    assert!(page.contains("Worker up for"), "{page}");
    fake::open_gate(&service.codex_home());
    assert_eq!(service.wait_job(&job)["status"], "succeeded");
    worker.wait_for_end(1);
    service.get("/ready").expect(200);
    let page = browser.get("/admin").expect(200).text();
    // What it told holds; only that it is up does not.
    assert!(!page.contains("No worker is running") && !page.contains("Worker up for"), "{page}");
    assert!(page.contains("Codex"), "{page}");
    assert_eq!((worker.starts(), worker.ends().len()), (1, 1), "nobody woke it");
    // Without its socket nobody would come.
    drop(worker);
    let missed = wait_for("the worker to be missed", || {
        service.endpoint().request("GET", "/ready", &[], None).ok().filter(|it| it.status == 503)
    });
    assert!(missed.text().contains("no_worker"), "{missed:?}");
}

#[test]
fn without_sockets_of_systemd_nothing_ends() {
    let mut service = on_demand(Setup::painter(), SHORT);
    service.start();
    service.wait_for_log("IDLE_EXIT_SECONDS is ignored");
    let begin = Instant::now();
    wait_for("several ends", || (begin.elapsed() > 5 * SHORT).then_some(()));
    service.get("/health").expect(200);
    assert!(service.term().success());
}
