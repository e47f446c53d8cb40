//! Promise: front and worker run as two processes that meet only in the state directory and at
//! two doorbells, and either may come, go and crash without the other.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]
#![allow(clippy::print_stdout, reason = "figures")]

mod support;

use std::{
    fs::{self, File},
    io,
    os::unix::net::UnixDatagram,
    process::Child,
    thread,
    time::{Duration, Instant, SystemTime},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Db, Disk, Reply, Service, Setup, fake, process, wait_for, wait_for_within};

/// What wakes by a bell wakes within this, but for a few times on a machine that does other things,
/// and what wakes without one does not: the front looks by itself every 2 s, the worker every 10 s.
const BY_BELL: Duration = Duration::from_millis(500);

/// A worker beside a front. It ends with the front's folder.
struct Worker {
    child: Child,
    log: std::path::PathBuf,
}

impl Worker {
    fn start(front: &Service) -> Self {
        Self::start_as(front, "worker.log")
    }

    /// Starts without waiting for anything.
    fn start_as(front: &Service, log: &str) -> Self {
        let log = front.path(log);
        let file = || File::options().create(true).append(true).open(&log).unwrap();
        let mut command = front.command(&["serve", "--role", "worker"]);
        let child = command.stdout(file()).stderr(file()).spawn().unwrap();
        Self { child, log }
    }

    fn kill9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    #[track_caller]
    fn stop(mut self) {
        process::signal(self.child.id().cast_signed(), Signal::TERM);
        let status = wait_for("the worker's end", || self.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{status}\n{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

fn front() -> Service {
    Setup::fake().args(&["--role", "front"]).start()
}

fn problems(front: &Service) -> Vec<String> {
    let body = front.get("/ready").json();
    let problems = body["problems"].as_array().cloned().unwrap_or_default();
    problems.iter().map(|problem| problem["code"].as_str().unwrap().to_owned()).collect()
}

fn wait_until_ready(front: &Service) {
    wait_for("/ready", || problems(front).is_empty().then_some(()));
}

/// What was found holds for a second.
fn wait_until_no_worker(front: &Service) {
    wait_for("the worker to be missed", || (problems(front) == ["no_worker"]).then_some(()));
}

/// A caller that waits for its picture on a thread of its own, and when it was answered.
fn caller(front: &Service, prompt: &str) -> thread::JoinHandle<(io::Result<Reply>, SystemTime)> {
    let (endpoint, key) = (front.endpoint(), front.default_key().to_owned());
    let body = json!({"prompt": prompt}).to_string();
    thread::spawn(move || {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let reply =
            endpoint.request("POST", "/v1/images/generate", &headers, Some(body.as_bytes()));
        (reply, SystemTime::now())
    })
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

/// The moment of a column of the store.
fn moment(milliseconds: Option<i64>) -> Duration {
    Duration::from_millis(u64::try_from(milliseconds.unwrap()).unwrap())
}

/// The median.
fn distribution(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{what}: median {:?}, 90 % {:?}, most {:?}", at(50), at(90), at(100));
    at(50)
}

/// Draws so many pictures; those who wait and the worker are woken by their bells.
#[track_caller]
fn assert_bells_are_heard(front: &Service, pictures: usize) {
    let (mut wakes, mut begins) = (Vec::new(), Vec::new());
    for _ in 0..pictures {
        let sent = since_epoch(SystemTime::now());
        let (reply, answered) = caller(front, "a kite [fake sleep=0.02]").join().unwrap();
        let id = reply.unwrap().expect(200).json()["id"].as_str().unwrap().to_owned();
        let row = Db::of(front).job(&id);
        wakes.push(since_epoch(answered).saturating_sub(moment(row.finished_at)));
        begins.push(moment(row.started_at).saturating_sub(sent));
    }
    let median = distribution("from the finish to the answer, two processes", wakes);
    assert!(median < BY_BELL, "{median:?}");
    let median = distribution("from the request to the claim, two processes", begins);
    assert!(median < BY_BELL, "{median:?}");
}

#[test]
fn a_waiter_wakes_by_the_bell() {
    let front = front();
    let worker = Worker::start(&front);
    wait_until_ready(&front);
    assert_bells_are_heard(&front, 25);
    worker.stop();
}

#[test]
fn a_worker_killed_in_the_middle_of_a_job_goes_on_after_its_restart() {
    let front = front();
    let worker = Worker::start(&front);
    wait_until_ready(&front);
    let drawn = caller(&front, "a kite [fake once gate]");
    let home = front.codex_home();
    fake::wait_for_step(&home, "thread", 1);
    worker.kill9();
    wait_for("the end of Codex", || front.orphans().is_empty().then_some(()));
    wait_until_no_worker(&front);
    assert!(!drawn.is_finished(), "its caller still waits");
    let worker = Worker::start(&front);
    let (reply, _) = drawn.join().unwrap();
    let id = reply.unwrap().expect(200).json()["id"].as_str().unwrap().to_owned();
    assert_eq!(Db::of(&front).job(&id).attempts, 2);

    // And with the picture already there.
    let taken = caller(&front, "a kite [fake once after=600]");
    fake::wait_for_step(&home, "saved", 2);
    worker.kill9();
    let worker = Worker::start(&front);
    taken.join().unwrap().0.unwrap().expect(200);
    assert_eq!(fake::payments(&home).len(), 2);
    worker.stop();
}

#[test]
fn a_front_killed_and_restarted_finds_its_jobs() {
    let mut front = front();
    let worker = Worker::start(&front);
    wait_until_ready(&front);
    let home = front.codex_home();
    let waiting = caller(&front, "a kite [fake gate]");
    fake::wait_for_step(&home, "thread", 1);
    let queued = front.submit("queued");
    front.kill9();
    assert!(waiting.join().unwrap().0.is_err(), "its connection is gone");
    assert_eq!(fake::steps(&home).len(), 2, "the worker goes on");
    front.start();
    fake::open_gate(&home);
    let jobs: Vec<Value> =
        front.get("/v1/images/jobs").expect(200).json()["data"].as_array().unwrap().clone();
    assert_eq!(jobs.len(), 2, "the caller finds what it lost");
    for job in jobs {
        assert_eq!(front.wait_job(job["id"].as_str().unwrap())["status"], "succeeded");
    }
    assert_eq!(front.job(&queued)["status"], "succeeded");
    // The new front hears the old worker's bell.
    assert_bells_are_heard(&front, 15);
    worker.stop();
}

#[test]
fn without_a_worker_jobs_wait_and_ready_says_why() {
    let front = front();
    assert_eq!(front.get("/ready").status, 503);
    assert_eq!(problems(&front), ["no_worker"]);
    let id = front.submit("sent before there was a worker");
    let waiting = caller(&front, "waited for before there was a worker");
    wait_for("both jobs", || (Db::of(&front).open_jobs() == 2).then_some(()));
    assert_eq!(front.job(&id)["status"], "queued");
    let worker = Worker::start(&front);
    assert_eq!(front.wait_job(&id)["status"], "succeeded");
    waiting.join().unwrap().0.unwrap().expect(200);
    wait_until_ready(&front);
    worker.stop();
    wait_until_no_worker(&front);
}

#[test]
fn a_front_tells_that_its_worker_has_no_login() {
    let front = front();
    fs::remove_file(front.codex_home().join("auth.json")).unwrap();
    let _worker = Worker::start(&front);
    wait_for("the trouble", || (problems(&front) == ["not_logged_in"]).then_some(()));
}

#[test]
fn a_front_tells_that_its_worker_has_no_codex() {
    let front = Setup::fake().set("CODEX_BIN", "/nowhere/codex").args(&["--role", "front"]).start();
    let worker = Worker::start(&front);
    wait_for("the trouble", || (problems(&front) == ["codex_missing"]).then_some(()));
    let told = front.get("/ready").json()["problems"][0].clone();
    assert!(told["message"].as_str().unwrap().contains("CODEX_BIN"), "{told}");
    worker.stop();
    // One that finds it again says so.
    let mut command = front.command(&["serve", "--role", "worker"]);
    let mut other = command.env("CODEX_BIN", fake::binary()).spawn().unwrap();
    wait_until_ready(&front);
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_front_sees_that_there_is_no_place_for_pictures() {
    let setup = Setup::fake().args(&["--role", "front"]);
    let Some(disk) = Disk::new(&setup.path("pictures"), "size=80m") else { return };
    let folder = setup.path("pictures").join("generated");
    let front = setup.set("GENERATED_DIR", &folder).start();
    let _worker = Worker::start(&front);
    wait_until_ready(&front);
    disk.fill();
    wait_for("the trouble", || (problems(&front) == ["storage"]).then_some(()));
    disk.make_room();
    wait_until_ready(&front);
}

#[test]
fn a_front_that_stops_names_the_job_and_the_worker_goes_on() {
    let mut front = front();
    let worker = Worker::start(&front);
    wait_until_ready(&front);
    let waiting = caller(&front, "a kite [fake gate]");
    fake::wait_for_step(&front.codex_home(), "thread", 1);
    assert_eq!(front.term().code(), Some(0));
    let reply = waiting.join().unwrap().0.unwrap().expect(503);
    assert_eq!(reply.json()["error"]["code"], "shutting_down");
    fake::open_gate(&front.codex_home());
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    wait_for("the end of the job", || (Db::of(&front).job(&id).state == "succeeded").then_some(()));
    front.start();
    assert_eq!(front.job(&id)["status"], "succeeded");
    worker.stop();
}

#[test]
fn a_worker_that_stops_hands_its_job_to_the_next() {
    let front =
        Setup::fake().set("SHUTDOWN_GRACE_SECONDS", "0.2").args(&["--role", "front"]).start();
    let worker = Worker::start(&front);
    wait_until_ready(&front);
    let waiting = caller(&front, "a kite [fake once gate]");
    fake::wait_for_step(&front.codex_home(), "thread", 1);
    worker.stop();
    assert_eq!(front.orphans(), [0; 0], "Codex is stopped");
    assert!(!waiting.is_finished(), "its caller still waits");
    let worker = Worker::start(&front);
    waiting.join().unwrap().0.unwrap().expect(200);
    worker.stop();
}

#[test]
fn a_second_worker_waits_and_takes_over() {
    let front = front();
    let first = Worker::start(&front);
    wait_until_ready(&front);
    let second = Worker::start_as(&front, "second.log");
    wait_for("the second to see the first", || {
        second.log().contains("another worker").then_some(())
    });
    // The first still hears the bell.
    assert_bells_are_heard(&front, 15);
    let id = front.submit("a kite [fake once gate]");
    fake::wait_for_step(&front.codex_home(), "thread", 16);
    assert_eq!(Db::of(&front).job(&id).attempts, 1);
    first.kill9();
    assert_eq!(front.wait_job(&id)["status"], "succeeded");
    assert_eq!(Db::of(&front).job(&id).attempts, 2);
    // The second hears the bell now.
    assert_bells_are_heard(&front, 15);
    second.stop();
}

#[test]
fn a_second_worker_that_only_waits_can_be_stopped() {
    let front = front();
    let first = Worker::start(&front);
    wait_until_ready(&front);
    let second = Worker::start_as(&front, "second.log");
    wait_for("the second to see the first", || {
        second.log().contains("another worker").then_some(())
    });
    second.stop();
    front.generate("a kite").expect(200);
    first.stop();
}

#[test]
fn a_stale_or_missing_doorbell_only_costs_time() {
    let front = front();
    let run = front.state_dir().join("run");
    // Left by a dead process, before there is a worker.
    drop(UnixDatagram::bind(run.join("worker.bell")).unwrap());
    let worker = Worker::start(&front);
    wait_until_ready(&front);
    front.generate("a kite").expect(200);

    // Nobody hears the worker: the front looks by itself.
    fs::remove_file(run.join("front.bell")).unwrap();
    front.generate("a kite").expect(200);
    // Somebody else's file in its place.
    fs::write(run.join("front.bell"), "").unwrap();
    front.generate("a kite").expect(200);
    // Nobody hears the front either: the worker looks by itself.
    fs::remove_file(run.join("worker.bell")).unwrap();
    let begin = Instant::now();
    let id = front.submit("a kite");
    wait_for_within(Duration::from_secs(30), "the end of the job", || {
        (front.job(&id)["status"] == "succeeded").then_some(())
    });
    println!("without any bell a job was drawn {:?} after it was sent", begin.elapsed());
    worker.stop();
}

#[test]
fn both_may_be_killed_again_and_again() {
    let mut front = front();
    let mut ids = Vec::new();
    let mut worker = Worker::start(&front);
    for round in 0..16 {
        for _ in 0..2 {
            ids.push(front.submit("a kite [fake sleep=0.03 paid=0.03 slow=0.02 after=0.03]"));
        }
        let step = ["thread", "pay", "saved", "end"][round % 4];
        let so_far = fake::steps(&front.codex_home()).len();
        wait_for_within(Duration::from_secs(20), "a step", || {
            let steps = fake::steps(&front.codex_home());
            let idle = Db::of(&front).open_jobs() == 0;
            (idle || steps[so_far..].iter().any(|known| known.what == step)).then_some(())
        });
        if round % 3 == 0 {
            front.restart();
        }
        worker.kill9();
        wait_for("the end of Codex", || front.orphans().is_empty().then_some(()));
        worker = Worker::start(&front);
    }
    for id in &ids {
        let job = front.wait_job(id);
        let interrupted = job["status"] == "failed" && job["error_code"] == "interrupted";
        assert!(job["status"] == "succeeded" || interrupted, "{job}");
    }
    let steps = fake::steps(&front.codex_home());
    let twice: Vec<_> = steps.iter().filter(|s| s.what == "pay" && s.detail != "-").collect();
    assert!(twice.is_empty(), "paid twice: {twice:#?}");
    worker.stop();
    front.term();
    front.wait_for_no_orphans();
    Db::of(&front).assert_intact();
}
