//! Promise: kill -9 at any moment loses nothing. Every job that was acknowledged ends, nothing is
//! paid twice, no process is left, and store and files agree.
//!
//! The random points follow a seed that is printed; `KILLS_SEED` repeats one.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]
#![allow(clippy::print_stdout, reason = "the seed and the figures")]

mod support;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use support::{
    Db, Endpoint, Service, Setup,
    db::JobRow,
    fake::{self, Step},
    lab::names,
    pictures, wait_for, wait_for_within,
};

/// Random kills in all.
const KILLS: usize = 208;

/// The services that share them: logins, concurrency.
const ROUNDS: [(usize, usize); 4] = [(1, 1), (2, 2), (3, 4), (1, 3)];

/// xorshift64*: small, seeded, good enough to choose moments.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 33) % limit
    }

    fn millis(&mut self, limit: u64) -> Duration {
        Duration::from_micros(self.below(limit * 1000))
    }
}

fn seed() -> u64 {
    let given = std::env::var("KILLS_SEED").ok().map(|seed| seed.parse().unwrap());
    given.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos()) ^ now.as_secs() | 1
    })
}

// Callers

/// A job of which a caller has an answer with its id.
struct Acknowledged {
    id: String,
    status: u16,
    body: Value,
}

/// Callers that send jobs for as long as they may, whether the service is there or not.
struct Callers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Callers {
    fn start(endpoint: &Endpoint, key: &str, random: &mut Random, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let threads = (0..count)
            .map(|_| {
                let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
                let (endpoint, bearer) = (endpoint.clone(), format!("Bearer {key}"));
                let mut random = Random(random.next() | 1);
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let answer = send(&endpoint, &bearer, &mut random);
                        let pause = match answer {
                            Some(answer) => {
                                acknowledged.lock().unwrap().push(answer);
                                random.millis(30)
                            }
                            // Not there, or its queue is full.
                            None => Duration::from_millis(5),
                        };
                        thread::sleep(pause);
                    }
                })
            })
            .collect();
        Self { stop, acknowledged, threads }
    }

    fn finish(self) -> Vec<Acknowledged> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        std::mem::take(&mut *self.acknowledged.lock().unwrap())
    }
}

/// A job of any kind; its answer when it named the job.
fn send(endpoint: &Endpoint, bearer: &str, random: &mut Random) -> Option<Acknowledged> {
    let pause = |random: &mut Random, limit| random.millis(limit).as_secs_f64();
    let mut words = format!(
        "early={:.3} sleep={:.3} paid={:.3} slow={:.3} after={:.3}",
        pause(random, 20),
        pause(random, 30),
        pause(random, 30),
        pause(random, 20),
        pause(random, 20)
    );
    if random.below(4) == 0 {
        words += " picture=noise"; // 3 MB: harvest and import take their time
    }
    let mut body = json!({"prompt": format!("a kite [fake {words}]")});
    let mut path = "/v1/images/jobs";
    match random.below(10) {
        0 | 1 => path = "/v1/images/generate",
        2 | 3 => {
            let picture = || STANDARD.encode(pictures::unique(&pictures::Kind::default(), "r"));
            body["reference_images_base64"] = json!([picture(), picture()]);
        }
        4 => body["count"] = json!(2),
        5 => body["count"] = json!(3),
        _ => {}
    }
    let headers = [("content-type", "application/json"), ("authorization", bearer)];
    let body = body.to_string();
    let reply = endpoint.request("POST", path, &headers, Some(body.as_bytes())).ok()?;
    let body: Value = serde_json::from_slice(&reply.body).ok()?;
    let named = reply.header("x-job-id").map(str::to_owned);
    let id = body["id"].as_str().map(str::to_owned).or(named)?;
    assert!(reply.status < 500 || reply.status == 502 || reply.status == 503, "{reply:?}");
    Some(Acknowledged { id, status: reply.status, body })
}

// Kills

/// What a turn was doing when the service was killed.
fn phase(job: &JobRow, latest: Option<&Step>, done: bool) -> &'static str {
    match (job.state.as_str(), latest.map(|step| step.what.as_str())) {
        ("queued", _) => "queued",
        ("running", _) if done => "done beside others",
        ("running", None) => "claimed",
        ("running", Some("begin")) => "Codex begins",
        ("running", Some("thread")) => "thread named",
        ("running", Some("pay" | "drawn")) => "paid",
        ("running", Some("half")) => "half a picture",
        ("running", Some("saved")) => "picture saved",
        ("running", Some("end")) => "harvest, import, finish",
        other => panic!("{other:?}"),
    }
}

struct Round {
    service: Service,
    homes: Vec<PathBuf>,
    random: Random,
    /// How often a kill met a job that was running.
    met: HashMap<String, usize>,
    phases: BTreeMap<&'static str, usize>,
    slowest_end: Duration,
}

impl Round {
    fn new(seed: u64, (logins, concurrency): (usize, usize)) -> Self {
        let setup = Setup::fake_with_logins(logins);
        // No other program can take the address while the service is down.
        let socket = format!("unix:{}", setup.path("socket").display());
        let setup = setup
            .set("LISTEN", socket)
            .set("CODEX_WORKER_CONCURRENCY", concurrency.to_string())
            .set("GENERATION_QUEUE_MAX_SIZE", "6");
        let homes = (1..=logins)
            .map(|n| if n == 1 { "codex".to_owned() } else { format!("codex{n}") })
            .map(|name| setup.path(&name))
            .collect();
        Self {
            service: setup.stopped(),
            homes,
            random: Random(seed),
            met: HashMap::new(),
            phases: BTreeMap::new(),
            slowest_end: Duration::ZERO,
        }
    }

    fn steps(&self) -> Vec<Step> {
        self.homes.iter().flat_map(|home| fake::steps(home)).collect()
    }

    /// Kills, now or at a moment that is short but matters.
    fn kill(&mut self) {
        match self.random.below(10) {
            // While it starts: migrations, recovery.
            0 => {
                self.service.spawn();
                thread::sleep(self.random.millis(80));
            }
            chosen => {
                self.service.start();
                let step = match chosen {
                    1 => Some("thread"),
                    2 => Some("pay"),
                    3 | 4 => Some("end"),
                    5 => Some("saved"),
                    6 => Some("begin"),
                    _ => None,
                };
                let pause = if let Some(step) = step {
                    let so_far = self.steps().len();
                    let end = Instant::now() + Duration::from_millis(400);
                    while !self.steps()[so_far..].iter().any(|known| known.what == step)
                        && Instant::now() < end
                    {
                        thread::sleep(Duration::from_millis(1));
                    }
                    self.random.millis(12)
                } else {
                    self.random.millis(300)
                };
                thread::sleep(pause);
            }
        }
        if self.random.below(4) == 0 {
            self.service.kill9_all();
        } else {
            let begin = Instant::now();
            self.service.kill9();
            // By the parent-death signal alone.
            wait_for_within(Duration::from_secs(10), "the end of all Codexes", || {
                self.service.orphans().is_empty().then_some(())
            });
            self.slowest_end = self.slowest_end.max(begin.elapsed());
        }
        self.look();
    }

    /// Where the kill met the jobs.
    fn look(&mut self) {
        let mut db = Db::copy_of(&self.service);
        let steps = self.steps();
        let done: HashSet<String> = db
            .turns()
            .into_iter()
            .filter(|turn| turn.state == "succeeded" || turn.state == "failed")
            .map(|turn| format!("{}/{}", turn.job_id, turn.position))
            .collect();
        for job in db.jobs() {
            if job.state != "queued" && job.state != "running" {
                continue;
            }
            if job.state == "running" {
                *self.met.entry(job.id.clone()).or_default() += 1;
            }
            for position in 0..job.count {
                let turn = format!("{}/{position}", job.id);
                let latest = steps.iter().rfind(|step| step.turn == turn);
                *self.phases.entry(phase(&job, latest, done.contains(&turn))).or_default() += 1;
            }
        }
    }

    fn drain(&mut self) {
        self.service.start();
        let mut db = Db::of(&self.service);
        wait_for_within(Duration::from_mins(2), "the end of all jobs", || {
            (db.open_jobs() == 0).then_some(())
        });
    }

    fn verify(&mut self, acknowledged: &[Acknowledged]) {
        let jobs = self.known_and_final(acknowledged);
        self.failed_only_when_interrupted_twice(&jobs);
        let steps = self.steps();
        let twice: Vec<_> = steps.iter().filter(|s| s.what == "pay" && s.detail != "-").collect();
        assert!(twice.is_empty(), "paid twice: {twice:#?}");
        self.files_agree_with_rows(&steps);
        let status = self.service.term();
        assert_eq!(status.code(), Some(0), "{status}");
        self.service.wait_for_no_orphans();
        Db::of(&self.service).assert_intact();
        self.nothing_is_left_behind(&jobs);
    }

    fn known_and_final(&self, acknowledged: &[Acknowledged]) -> Vec<JobRow> {
        let jobs = Db::of(&self.service).jobs();
        let known: HashMap<&str, &JobRow> = jobs.iter().map(|job| (job.id.as_str(), job)).collect();
        for Acknowledged { id, status, body } in acknowledged {
            let row = known.get(id.as_str()).unwrap_or_else(|| panic!("{id} is lost ({status})"));
            let now = self.service.job(id);
            assert_eq!(now["status"], row.state, "{now}");
            match status {
                200 => assert_eq!(now["images"], body["images"], "what was told stays true"),
                502 => assert_eq!(now["error_code"], body["error"]["code"]),
                202 | 503 => {}
                other => panic!("{other}: {body}"),
            }
        }
        jobs
    }

    fn failed_only_when_interrupted_twice(&self, jobs: &[JobRow]) {
        let mut failed: HashSet<String> = HashSet::new();
        for turn in Db::of(&self.service).turns() {
            match turn.state.as_str() {
                "succeeded" => {}
                "failed" => {
                    assert_eq!(turn.error_code.as_deref(), Some("interrupted"), "{turn:?}");
                    failed.insert(turn.job_id);
                }
                other => panic!("{other}: {turn:?}"),
            }
        }
        for job in jobs {
            assert!(job.attempts <= 2, "{job:?}");
            match job.state.as_str() {
                "succeeded" => assert_eq!(job.error_code, None, "{job:?}"),
                "failed" => assert_eq!(job.error_code.as_deref(), Some("interrupted"), "{job:?}"),
                other => panic!("{other}: {job:?}"),
            }
            if failed.contains(&job.id) {
                assert_eq!(job.attempts, 2, "{job:?}");
                let met = self.met.get(&job.id).copied().unwrap_or_default();
                assert!(met >= 2, "interrupted {met} times only: {job:?}");
            }
        }
    }

    fn files_agree_with_rows(&self, steps: &[Step]) {
        let drawn: HashSet<(&str, &str)> = steps
            .iter()
            .filter(|step| step.what == "drawn")
            .map(|step| (step.turn.as_str(), step.detail.as_str()))
            .collect();
        let images = Db::of(&self.service).images();
        let mut sums = HashSet::new();
        for image in &images {
            let bytes = fs::read(self.generated_dir().join(&image.file)).unwrap();
            let sum = pictures::sha256(&bytes);
            assert_eq!((bytes.len().cast_signed() as i64, &sum), (image.bytes, &image.sha256));
            let turn = format!("{}/{}", image.job_id, image.position);
            assert!(drawn.contains(&(turn.as_str(), sum.as_str())), "of another job: {image:?}");
            assert_eq!(
                pictures::sha256(&self.service.picture(&format!("/generated/{}", image.file))),
                sum
            );
            assert!(sums.insert(sum), "served twice: {image:?}");
        }
        let named: HashSet<String> = images.into_iter().map(|image| image.file).collect();
        for name in names(&self.generated_dir()) {
            // What an interrupted import left; the clean-up takes it after an hour.
            assert!(name.starts_with(".tmp-") || named.contains(&name), "{name} has no row");
        }
    }

    /// After a clean-up an hour later.
    fn nothing_is_left_behind(&self, jobs: &[JobRow]) {
        let folder = |name: &str| self.service.state_dir().join(name);
        let folders = [self.generated_dir(), folder("references"), folder("work")];
        println!("  before the clean-up: {:?}", folders.each_ref().map(|f| names(f).len()));
        let long_ago = SystemTime::now() - Duration::from_hours(2);
        for folder in &folders {
            for name in names(folder) {
                File::open(folder.join(name)).unwrap().set_modified(long_ago).unwrap();
            }
        }
        let output = self.service.run(&["cleanup"]);
        assert!(output.status.success(), "{output:?}");
        assert!(names(&folders[0]).iter().all(|name| name.starts_with("img_")));
        let known: HashSet<&str> = jobs.iter().map(|job| job.id.as_str()).collect();
        for name in names(&folders[1]) {
            assert!(known.contains(name.as_str()), "references of no job: {name}");
        }
        assert_eq!(names(&folders[2]), [""; 0], "work folders of finished jobs");
        for home in &self.homes {
            let threads = names(&home.join("generated_images"));
            assert_eq!(threads, [""; 0], "what Codex kept of finished jobs");
        }
    }

    fn generated_dir(&self) -> PathBuf {
        self.service.state_dir().join("generated")
    }
}

#[test]
fn two_hundred_random_kills_lose_nothing_and_pay_nothing_twice() {
    let seed = seed();
    println!("KILLS_SEED={seed}");
    let mut random = Random(seed);
    let mut phases: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rounds = 0;
    // Chance decides what a kill meets: some phases take a millisecond. Further rounds are run
    // until each was met, within reason.
    for config in ROUNDS.into_iter().cycle().take(ROUNDS.len() * 3) {
        let missed = |phase: &&&str| phases.get(**phase).is_none_or(|count| *count < 3);
        if rounds >= ROUNDS.len() && PHASES.iter().find(missed).is_none() {
            break;
        }
        rounds += 1;
        let mut round = Round::new(random.next() | 1, config);
        let key = round.service.default_key().to_owned();
        let endpoint = round.service.endpoint();
        let callers = Callers::start(&endpoint, &key, &mut random, 3);
        let begin = Instant::now();
        for _ in 0..KILLS / ROUNDS.len() {
            round.kill();
        }
        let killed = begin.elapsed();
        round.drain_beside(callers, killed);
        for (phase, count) in round.phases {
            *phases.entry(phase).or_default() += count;
        }
    }
    println!("turns met by a kill in {rounds} rounds: {phases:#?}");
    for phase in PHASES {
        assert!(phases.get(phase).is_some_and(|count| *count >= 3), "{phase}: {phases:?}");
    }
}

/// What a kill may meet a turn at; each must be met.
const PHASES: [&str; 7] = [
    "queued",
    "Codex begins",
    "thread named",
    "paid",
    "half a picture",
    "picture saved",
    "harvest, import, finish",
];

impl Round {
    fn drain_beside(&mut self, callers: Callers, killed: Duration) {
        self.service.start();
        let acknowledged = callers.finish();
        self.service.kill9();
        self.look();
        self.drain();
        let jobs = Db::of(&self.service).jobs();
        let of = |state: &str| jobs.iter().filter(|job| job.state == state).count();
        println!(
            "{} logins: {killed:?}; {} jobs ({} acknowledged), {} succeeded, {} interrupted twice; \
             {} payments; all Codexes gone within {:?} of a kill",
            self.homes.len(),
            jobs.len(),
            acknowledged.len(),
            of("succeeded"),
            of("failed"),
            self.steps().iter().filter(|step| step.what == "pay").count(),
            self.slowest_end,
        );
        assert!(of("succeeded") > 10, "too few jobs to prove anything");
        self.verify(&acknowledged);
    }
}

// Exact points

/// Where Codex was when the service was killed, and what that makes of the job.
struct Point {
    /// Words for the fake's first run, which holds it at the point.
    words: &'static str,
    /// The step that says that it is there.
    step: &'static str,
    /// Payments in the end.
    payments: usize,
    /// Attempts in the end: 1 when the interrupted run's picture is taken.
    attempts: i64,
}

fn killed_at(point: &Point, whole: bool) {
    let mut service = Setup::fake().start();
    let home = service.codex_home();
    let id = service.submit(&format!("a kite [fake once {}]", point.words));
    fake::wait_for_step(&home, point.step, 1);
    if point.step == "pay" {
        // It is noted before it is done.
        wait_for("the payment", || (!fake::payments(&home).is_empty()).then_some(()));
    }
    if whole {
        service.kill9_all();
    } else {
        service.kill9();
    }
    service.start();
    let job = service.wait_job(&id);
    assert_eq!(job["status"], "succeeded", "{job}");
    assert_eq!(fake::payments(&home).len(), point.payments, "payments at {}", point.step);
    assert_eq!(Db::of(&service).job(&id).attempts, point.attempts);
    let images = Db::of(&service).images();
    let [image] = images.as_slice() else { panic!("{images:?}") };
    let served = service.picture(job["images"][0]["url"].as_str().unwrap());
    assert_eq!(pictures::sha256(&served), image.sha256);
    wait_for("the end of the tidying", || {
        let left = names(&service.state_dir().join("work")).len()
            + names(&home.join("generated_images")).len();
        (left == 0).then_some(())
    });
    service.term();
    service.wait_for_no_orphans();
    Db::of(&service).assert_intact();
}

/// Of the service alone, and of everything at once.
fn killed_both_ways_at(point: &Point) {
    killed_at(point, false);
    killed_at(point, true);
}

#[test]
fn killed_before_the_thread_has_a_name() {
    killed_both_ways_at(&Point { words: "early=600", step: "begin", payments: 1, attempts: 2 });
}

#[test]
fn killed_before_the_picture_is_asked_for() {
    killed_both_ways_at(&Point { words: "sleep=600", step: "thread", payments: 1, attempts: 2 });
}

#[test]
fn killed_before_the_picture_is_there() {
    killed_both_ways_at(&Point { words: "paid=600", step: "pay", payments: 2, attempts: 2 });
}

#[test]
fn killed_when_half_of_the_picture_is_there() {
    killed_both_ways_at(&Point { words: "slow=600", step: "half", payments: 2, attempts: 2 });
}

#[test]
fn killed_when_the_picture_is_there_and_codex_goes_on() {
    killed_both_ways_at(&Point { words: "after=600", step: "saved", payments: 1, attempts: 1 });
}

#[test]
fn killed_while_the_picture_is_imported() {
    // It takes some ten milliseconds: not every look comes in time, and not every kill.
    let mut met = 0;
    for _ in 0..100 {
        let mut service = Setup::fake().start();
        let generated = service.state_dir().join("generated");
        let id = service.submit("a kite [fake picture=noise]");
        // No pause between the looks.
        let end = Instant::now() + support::PATIENCE;
        while names(&generated).is_empty() {
            assert!(Instant::now() < end, "nothing is imported");
        }
        service.kill9();
        met += usize::from(names(&generated).iter().any(|name| name.starts_with(".tmp-")));
        service.start();
        assert_eq!(service.wait_job(&id)["status"], "succeeded");
        assert_eq!(fake::payments(&service.codex_home()).len(), 1);
        assert_eq!(Db::of(&service).job(&id).attempts, 1);
        let named: Vec<String> = names(&generated);
        assert_eq!(named.iter().filter(|name| !name.starts_with(".tmp-")).count(), 1, "{named:?}");
        if met == 2 {
            return;
        }
    }
    panic!("the import was met {met} times only");
}
