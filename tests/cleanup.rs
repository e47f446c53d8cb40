//! Promise: what is past its time goes, row and file together, and nothing else does: not under
//! a crash, not under hostile names, not while it is still needed; requests are served meanwhile.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use codex_image_service::state_dir::MARKER;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{
    Service, Setup, lab, pictures, process, snapshot, sqlite::Database, temp_dir, wait_for,
};
use uuid::Uuid;

const DAY: i64 = 24 * 3600 * 1000;

/// Past the age at which a file without a row is nobody's.
const OLD_SECONDS: i64 = 61 * 60;

/// With the fake Codex and no clean-up but the command's.
fn setup() -> Setup {
    Setup::fake().set("CLEANUP_INTERVAL_HOURS", "0")
}

/// `cleanup --json`, perhaps with `--dry-run`: its counts.
#[track_caller]
fn cleanup(service: &Service, args: &[&str]) -> Value {
    let output = service.run(&[&["cleanup", "--json"], args].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["dry_run"], args.contains(&"--dry-run"));
    assert_eq!(report["skipped"], json!([]));
    report["removed"].clone()
}

/// The same where folders are left alone: the counts, and these folders' names.
#[track_caller]
fn cleanup_skipping(service: &Service, args: &[&str]) -> (Value, Vec<String>) {
    let output = service.run(&[&["cleanup", "--json"], args].concat());
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let skipped = report["skipped"].as_array().unwrap().iter().map(|skipped| {
        let advice = skipped["advice"].as_str().unwrap();
        assert!(advice.contains("DATABASE_URL") && advice.contains(MARKER), "{advice}");
        skipped["folder"].as_str().unwrap().rsplit_once('/').unwrap().1.to_owned()
    });
    (report["removed"].clone(), skipped.collect())
}

fn nothing() -> Value {
    json!({"expired_jobs": 0, "images": 0, "orphan_files": 0, "orphan_rows": 0,
           "codex_threads": 0, "bytes": 0})
}

fn generated(service: &Service) -> PathBuf {
    service.state_dir().join("generated")
}

fn threads(service: &Service) -> PathBuf {
    service.codex_home().join("generated_images")
}

fn names(folder: &Path) -> BTreeSet<String> {
    lab::names(folder).into_iter().collect()
}

/// A picture's file name, the names of a reference and a work folder, none of which any row names.
fn leave_orphans(service: &Service) -> String {
    let id = new_id();
    write_old(&generated(service).join(format!("{id}.png")), "left by a crash");
    for (folder, file) in [("references", "0.png"), ("work", "events.jsonl")] {
        let folder = service.state_dir().join(folder).join(&id);
        write_old(&folder.join(file), "left by a crash");
        age(&folder);
    }
    id
}

fn has_orphans(service: &Service, id: &str) -> bool {
    let there = [format!("generated/{id}.png"), format!("references/{id}"), format!("work/{id}")]
        .map(|path| service.state_dir().join(path).exists());
    assert!(there == [there[0]; 3], "{there:?}");
    there[0]
}

/// The time of a job is over.
fn expire(service: &Service, job: &str) {
    Database::of(service).run(&format!("UPDATE jobs SET expires_at = 1 WHERE id = '{job}'"));
}

/// Makes a file or folder look untouched for an hour; of a link, the link itself.
fn age(path: &Path) {
    let time = jiff::Timestamp::now().as_second() - OLD_SECONDS;
    let time = rustix::fs::Timespec { tv_sec: time, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags).unwrap();
}

fn write_old(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    age(path);
}

fn new_id() -> String {
    format!("img_{}", Uuid::new_v4().simple())
}

fn file_of(job: &Value) -> String {
    job["images"][0]["url"].as_str().unwrap().rsplit_once('/').unwrap().1.to_owned()
}

fn file_status(service: &Service, file: &str) -> u16 {
    let path = format!("/generated/{file}");
    service.endpoint().request("GET", &path, &[], None).unwrap().status
}

/// Waits for the end of a job, and until its worker has tidied up after it.
fn wait_job(service: &Service, id: &str) -> Value {
    let job = service.wait_job(id);
    let drawn_in = format!("SELECT thread_id FROM turns WHERE job_id = '{id}'");
    let drawn_in = Database::of(service).texts(&drawn_in);
    wait_for("a tidy end", || {
        let left = drawn_in.iter().any(|thread| names(&threads(service)).contains(thread));
        (!left && !service.state_dir().join("work").join(id).exists()).then_some(())
    });
    job
}

/// A job with a reference that succeeded, and all that could be left of it.
fn job_with_everything(service: &Service, thread: &str) -> (String, String) {
    let picture = pictures::unique(&pictures::Kind::default(), "reference");
    let body = json!({"prompt": "a kite",
                      "reference_images_base64": [BASE64_STANDARD.encode(picture)]});
    let job = service.post_json("/v1/images/jobs", &body).expect(202).json();
    let job = wait_job(service, job["id"].as_str().unwrap());
    assert_eq!(job["status"], "succeeded", "{job}");
    let id = job["id"].as_str().unwrap().to_owned();
    assert!(service.state_dir().join("references").join(&id).exists());
    // As if the end of the job had been interrupted before it tidied up.
    write_old(&service.state_dir().join("work").join(&id).join("0-1/events.jsonl"), "{}\n");
    write_old(&threads(service).join(thread).join("x.png"), "a picture");
    Database::of(service).run(&format!(
        "UPDATE turns SET thread_id = '{thread}', stdout = 'said', stderr = 'warned' \
             WHERE job_id = '{id}'"
    ));
    (id, file_of(&job))
}

#[test]
fn a_jobs_time_is_that_of_the_setting() {
    let service = setup().set("IMAGE_RETENTION_DAYS", "2.5").start();
    let job = wait_job(&service, &service.submit("a kite"));
    let time = |key: &str| -> jiff::Timestamp { job[key].as_str().unwrap().parse().unwrap() };
    let kept = time("expires_at").as_millisecond() - time("created_at").as_millisecond();
    assert!((kept - 5 * DAY / 2).abs() < 60_000, "{job}");
    assert_eq!(job["images"][0]["expires_at"], job["expires_at"]);
    assert_eq!(cleanup(&service, &[]), nothing());
    assert_eq!(file_status(&service, &file_of(&job)), 200);
}

#[test]
fn what_is_past_its_time_goes_and_the_rest_stays() {
    let service = setup().start();
    let (over, over_file) = job_with_everything(&service, "01a202ac-589d-75c2-aeb3-000000000001");
    let (kept, kept_file) = job_with_everything(&service, "01a202ac-589d-75c2-aeb3-000000000002");
    let failed = wait_job(&service, &service.submit("none [fake picture=none]"));
    let foreign = "01a202ac-589d-75c2-aeb3-00000000f0e1";
    write_old(&threads(&service).join(foreign).join("x.png"), "somebody else's");
    write_old(&threads(&service).join("holiday/beach.png"), "somebody else's");
    expire(&service, &over);
    expire(&service, failed["id"].as_str().unwrap());

    let before = (snapshot(&service.state_dir().join("generated")), snapshot(&threads(&service)));
    let planned = cleanup(&service, &["--dry-run"]);
    assert_eq!(planned, cleanup(&service, &["--dry-run"]), "a plan changes nothing");
    let after = (snapshot(&service.state_dir().join("generated")), snapshot(&threads(&service)));
    assert!(before == after);
    assert_eq!(service.job(&over)["status"], "succeeded");

    let done = cleanup(&service, &[]);
    assert_eq!(done, planned);
    // Both threads: what Codex keeps of a job that has ended is of no use to anybody.
    let counts = json!([done["expired_jobs"], done["images"], done["codex_threads"]]);
    assert_eq!(counts, json!([2, 1, 2]), "{done}");
    assert!(done["bytes"].as_u64().unwrap() > 0);

    let job = service.job(&over);
    assert_eq!((&job["status"], &job["images"]), (&"expired".into(), &json!([])));
    assert_eq!(file_status(&service, &over_file), 404);
    assert_eq!(service.job(failed["id"].as_str().unwrap())["status"], "failed");
    for folder in ["references", "work"] {
        assert_eq!(names(&service.state_dir().join(folder)), [kept.clone()].into(), "{folder}");
    }
    assert_eq!(names(&generated(&service)), [kept_file.clone()].into());
    let foreign = [foreign, "holiday"].map(str::to_owned);
    assert_eq!(names(&threads(&service)), foreign.into());
    assert_eq!(
        (&service.job(&kept)["status"], file_status(&service, &kept_file)),
        (&"succeeded".into(), 200)
    );

    // The history stays, with what was said.
    let mut database = Database::of(&service);
    assert_eq!(database.number("SELECT count(*) FROM jobs"), 3);
    assert_eq!(database.number("SELECT count(*) FROM turns"), 3);
    assert_eq!(database.texts("SELECT job_id FROM images"), [&*kept]);
    // What came from the caller and from Codex does not.
    assert_eq!(database.texts("SELECT job_id FROM job_references"), [&*kept]);
    let said = "SELECT job_id FROM turns WHERE stdout IS NOT NULL OR stderr IS NOT NULL";
    assert_eq!(database.texts(said), [kept]);
    assert_eq!(cleanup(&service, &[]), nothing());
}

#[test]
fn files_without_a_row_go_when_they_are_old() {
    let service = setup().start();
    let (old, young) = (new_id(), new_id());
    for id in [&old, &young] {
        let temporary = id.replace("img_", ".tmp-");
        for file in [format!("{id}.png"), format!("{id}_2.webp"), temporary] {
            fs::write(generated(&service).join(&file), "left by a crash").unwrap();
            if id == &old {
                age(&generated(&service).join(file));
            }
        }
        for (folder, file) in [("references", "0.png"), ("work", "events.jsonl")] {
            let folder = service.state_dir().join(folder).join(id);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join(file), "left by a crash").unwrap();
            if id == &old {
                age(&folder);
            }
        }
    }
    let planned = cleanup(&service, &["--dry-run"]);
    let done = cleanup(&service, &[]);
    assert_eq!(planned, done);
    assert_eq!(done["orphan_files"], 5, "{done}");
    let temporary = young.replace("img_", ".tmp-");
    let kept = [format!("{young}.png"), format!("{young}_2.webp"), temporary];
    assert_eq!(names(&generated(&service)), kept.into());
    for folder in ["references", "work"] {
        assert_eq!(names(&service.state_dir().join(folder)), [young.clone()].into(), "{folder}");
    }
}

#[test]
fn rows_without_a_file_stop_showing_it() {
    let service = setup().start();
    let one = wait_job(&service, &service.submit("a kite"));
    let several = service.post_json("/v1/images/generate", &json!({"prompt": "two", "count": 2}));
    let several = several.expect(200).json();
    wait_job(&service, several["id"].as_str().unwrap());
    let overdue = wait_job(&service, &service.submit("a kite"));
    let intact = wait_job(&service, &service.submit("a kite"));
    for job in [&one, &several, &overdue] {
        fs::remove_file(generated(&service).join(file_of(job))).unwrap();
    }
    let id = |job: &Value| job["id"].as_str().unwrap().to_owned();
    expire(&service, &id(&overdue));

    let planned = cleanup(&service, &["--dry-run"]);
    let done = cleanup(&service, &[]);
    assert_eq!(planned, done);
    assert_eq!(json!([done["orphan_rows"], done["expired_jobs"]]), json!([2, 1]), "{done}");
    assert_eq!(service.job(&id(&one))["status"], "expired");
    let left = service.job(&id(&several));
    assert_eq!(
        (&left["status"], left["images"].as_array().unwrap().len()),
        (&"succeeded".into(), 1)
    );
    assert_eq!(file_status(&service, &file_of(&left)), 200);
    assert_eq!(service.job(&id(&intact))["images"].as_array().unwrap().len(), 1);
}

#[test]
fn what_is_still_needed_is_not_touched() {
    let service = setup().start();
    let running = service.submit("a kite [fake sleep=600]");
    wait_for("the run", || (service.job(&running)["status"] == "running").then_some(()));
    let picture = pictures::unique(&pictures::Kind::default(), "reference");
    let body = json!({"prompt": "waits",
                      "reference_images_base64": [BASE64_STANDARD.encode(picture)]});
    let queued = service.post_json("/v1/images/jobs", &body).expect(202).json();
    let queued = queued["id"].as_str().unwrap().to_owned();

    // All of it looks old, and these jobs' time is over before they began.
    let thread = wait_for("the thread", || {
        let found =
            Database::of(&service).texts("SELECT thread_id FROM turns WHERE thread_id > ''");
        found.first().cloned()
    });
    // A picture that a crash left between its file and its row, for recovery to find.
    write_old(&generated(&service).join(format!("{running}.png")), "not known yet");
    write_old(&threads(&service).join(&thread).join("half.png"), "being written");
    Database::of(&service).run("UPDATE jobs SET expires_at = 1");
    for folder in ["references", "work"] {
        for name in names(&service.state_dir().join(folder)) {
            age(&service.state_dir().join(folder).join(name));
        }
    }
    age(&threads(&service).join(&thread));

    assert_eq!(cleanup(&service, &["--dry-run"]), nothing());
    assert_eq!(cleanup(&service, &[]), nothing());
    assert_eq!(service.job(&running)["status"], "running");
    assert_eq!(service.job(&queued)["status"], "queued");
    assert!(service.state_dir().join("references").join(&queued).exists());
    assert!(service.state_dir().join("work").join(&running).exists());
    assert!(threads(&service).join(&thread).join("half.png").exists());
    assert!(generated(&service).join(format!("{running}.png")).exists());

    service.delete(&format!("/v1/images/jobs/{running}")).expect(200);
    assert_eq!(service.wait_job(&queued)["status"], "succeeded");
}

#[test]
fn nothing_is_followed_out_of_the_folders() {
    let service = setup().start();
    service.key("to make the tables");
    let outside = temp_dir();
    fs::write(outside.path().join("precious.txt"), "x".repeat(5000)).unwrap();
    fs::create_dir(outside.path().join("0-1")).unwrap();
    fs::write(outside.path().join("0-1/precious.txt"), "x".repeat(5000)).unwrap();
    let before = snapshot(outside.path());

    // Links that bear names of ours go, what they lead to stays.
    let link = |at: PathBuf, to: &Path| {
        symlink(to, &at).unwrap();
        age(&at);
        at
    };
    let file = outside.path().join("precious.txt");
    let gone = [link(generated(&service).join(format!("{}.png", new_id())), &file)];
    let state = service.state_dir();
    let kept = [
        link(state.join("references").join(new_id()), outside.path()),
        link(state.join("work").join(new_id()), outside.path()),
        link(generated(&service).join("holiday.png"), &file),
    ];
    // Names that are not ours, or of another kind.
    let others = [
        "generated/notes.txt",
        "generated/.hidden",
        "references/img_x/0.png",
        "work/README",
        "generated/img\n",
        "references/IMG_00000000000000000000000000000000/0",
        "work/img_0000000000000000000000000000000g/x",
        "generated/img_00000000000000000000000000000000.png/x",
        "generated/img_holiday.jpg",
        "generated/img_00000000000000000000000000000000.gif",
        "generated/.tmp-notes",
        // The Python original's, which may share a folder.
        "generated/img_000000000000000000000000.png",
        "references/img_000000000000000000000000/0.png",
        "work/img_000000000000000000000000/x",
    ];
    for name in others {
        let path = state.join(name);
        write_old(&path, "not yours");
        age(path.parent().unwrap());
    }
    write_old(&state.join("references").join(new_id()), "a file where a folder belongs");
    // A folder of a finished job that is a link.
    let (over, _) = job_with_everything(&service, "01a202ac-589d-75c2-aeb3-000000000003");
    fs::remove_dir_all(state.join("work").join(&over)).unwrap();
    symlink(outside.path(), state.join("work").join(&over)).unwrap();
    fs::create_dir_all(threads(&service)).unwrap();
    let thread = threads(&service).join("01a202ac-589d-75c2-aeb3-000000000003");
    fs::remove_dir_all(&thread).unwrap();
    symlink(outside.path(), &thread).unwrap();
    expire(&service, &over);

    let planned = cleanup(&service, &["--dry-run"]);
    let done = cleanup(&service, &[]);
    assert_eq!(planned, done);
    assert!(done["bytes"].as_u64().unwrap() < 5000, "what lies outside is not counted: {done}");
    assert_eq!(done["orphan_files"], gone.len());
    assert!(snapshot(outside.path()) == before);
    for path in gone {
        assert!(!path.is_symlink(), "{}", path.display());
    }
    for path in kept {
        assert!(path.is_symlink(), "{}", path.display());
    }
    for name in others {
        assert!(state.join(name).exists(), "{name:?}");
    }
    assert_eq!(service.job(&over)["status"], "expired");
}

/// As many jobs that succeeded as asked for, with their files, made by hand: drawing them would
/// take minutes.
fn many_jobs(service: &Service, count: usize) -> Vec<String> {
    service.default_key();
    let mut database = Database::of(service);
    let ids: Vec<String> = (0..count).map(|_| new_id()).collect();
    database.run("BEGIN");
    for id in &ids {
        database.run(&format!(
            "INSERT INTO jobs (id, api_key_id, prompt, size, quality, count, state, created_at, \
               finished_at, expires_at) \
             SELECT '{id}', id, 'a kite', 'auto', 'auto', 1, 'succeeded', 1, 1, 2 FROM api_keys; \
             INSERT INTO turns (job_id, position, state) VALUES ('{id}', 0, 'succeeded'); \
             INSERT INTO images (job_id, position, file, type, bytes, width, height, sha256, \
               created_at) \
             VALUES ('{id}', 0, '{id}.png', 'image/png', 1, 1, 1, '{id}', 1)"
        ));
        fs::write(generated(service).join(format!("{id}.png")), "a picture").unwrap();
        let references = service.state_dir().join("references").join(id);
        fs::create_dir(&references).unwrap();
        fs::write(references.join("0.png"), "a picture").unwrap();
    }
    database.run("COMMIT");
    ids
}

#[test]
fn killed_anywhere_the_next_one_goes_on() {
    const LATEST: Duration = Duration::from_millis(4);
    const JOBS: usize = 600;
    let service = setup().start();
    let mut jobs = many_jobs(&service, JOBS).len();
    let mut database = Database::of(&service);
    let (mut interrupted, mut partial) = (0, 0);
    let mut after = Duration::ZERO;
    for _ in 0..40 {
        // However quick the machine is, there is more to remove than it can before the signal.
        let left = names(&generated(&service)).len();
        jobs += many_jobs(&service, JOBS - left).len();
        let mut command = service.command(&["cleanup"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Not before it has begun to remove, then somewhere in the middle.
        let started = std::time::Instant::now();
        while names(&generated(&service)).len() == JOBS && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
            assert!(started.elapsed() < support::PATIENCE);
        }
        std::thread::sleep(after);
        after = if after > LATEST { Duration::ZERO } else { after + Duration::from_micros(370) };
        process::signal(child.id().cast_signed(), Signal::KILL);
        interrupted += usize::from(!child.wait().unwrap().success());

        // Nothing that is shown is missing, and nothing is both.
        let files = names(&generated(&service));
        let shown = database.texts(
            "SELECT i.file FROM images i JOIN jobs j ON j.id = i.job_id WHERE j.state = 'succeeded'",
        );
        for file in &shown {
            assert!(files.contains(file), "{file} is shown and gone");
        }
        partial += usize::from(!shown.is_empty());
        service.get("/health").expect(200);
    }
    println!("{interrupted} were killed, {partial} left something to do");
    assert!(interrupted >= 20, "only {interrupted} were killed in time");

    cleanup(&service, &[]);
    assert_eq!(names(&generated(&service)), [].into());
    assert_eq!(names(&service.state_dir().join("references")), [].into());
    assert_eq!(database.number("SELECT count(*) FROM images"), 0);
    let expired = "SELECT count(*) FROM jobs WHERE state = 'expired' AND purged_at IS NOT NULL";
    assert_eq!(database.number(expired), i64::try_from(jobs).unwrap());
    assert_eq!(database.texts("PRAGMA integrity_check"), ["ok"]);
    assert_eq!(cleanup(&service, &[]), nothing());
}

#[test]
fn requests_are_served_meanwhile_and_two_may_clean() {
    let service = setup().set("GENERATION_QUEUE_MAX_SIZE", "100000").start();
    let ids = many_jobs(&service, 1500);
    let kept = wait_job(&service, &service.submit("kept"));
    let done = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        let cleaners: Vec<_> = (0..2).map(|_| scope.spawn(|| cleanup(&service, &[]))).collect();
        let callers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut served = 0;
                    loop {
                        service.submit("meanwhile");
                        service.job(&ids[0]);
                        assert_eq!(file_status(&service, &file_of(&kept)), 200);
                        // A round that has ended before the cleaning has.
                        if done.load(Ordering::Relaxed) {
                            return served;
                        }
                        served += 1;
                    }
                })
            })
            .collect();
        let reports: Vec<Value> = cleaners.into_iter().map(|each| each.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        let counted = reports.iter().map(|report| report["expired_jobs"].as_u64().unwrap());
        assert!(counted.sum::<u64>() >= 1500, "{reports:?}");
        callers.into_iter().map(|each| each.join().unwrap()).min().unwrap()
    });
    println!("each caller was served {served} times meanwhile");
    assert!(served > 0);
    let mut database = Database::of(&service);
    let left = "SELECT count(*) FROM jobs WHERE expires_at = 2 AND purged_at IS NULL";
    assert_eq!(database.number(left), 0);
}

#[test]
fn the_service_cleans_at_its_start_and_regularly() {
    let mut service = Setup::fake().set("CLEANUP_INTERVAL_HOURS", "0").start();
    let over = wait_job(&service, &service.submit("a kite"));
    let id = over["id"].as_str().unwrap().to_owned();
    expire(&service, &id);
    service.term();

    // Not in this process: a timer does it.
    service.start();
    service.generate("time passes").expect(200);
    assert_eq!(service.job(&id)["status"], "succeeded");
    assert!(!service.log().contains("clean-up"), "{}", service.log());
    service.term();

    service.set("CLEANUP_INTERVAL_HOURS", "0.001");
    service.start();
    wait_for("the clean-up at the start", || {
        (service.job(&id)["status"] == "expired").then_some(())
    });
    assert_eq!(file_status(&service, &file_of(&over)), 404);
    service.wait_for_log("clean-up done");

    // And again, 3.6 seconds later.
    let next = wait_job(&service, &service.submit("another"));
    let id = next["id"].as_str().unwrap().to_owned();
    expire(&service, &id);
    wait_for("the next clean-up", || (service.job(&id)["status"] == "expired").then_some(()));
}

#[test]
fn a_stop_does_not_wait_for_it() {
    let mut service = setup().start();
    many_jobs(&service, 1500);
    service.term();
    service.set("CLEANUP_INTERVAL_HOURS", "6");
    // On any machine it takes far longer than a stop: each of them counts to 10,000 first.
    Database::of(&service).run(
        "CREATE TRIGGER slow BEFORE UPDATE OF purged_at ON jobs WHEN 10000 > (WITH RECURSIVE \
         n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 10000) SELECT count(*) FROM n) \
         BEGIN SELECT 1; END",
    );
    service.start();
    wait_for("its begin", || (names(&generated(&service)).len() < 1500).then_some(()));
    assert!(service.term().success());
    assert!(!names(&generated(&service)).is_empty(), "it was not done");
    let log = service.log();
    assert!(!log.contains("ERROR") && !log.contains("clean-up done"), "{log}");
    Database::of(&service).run("DROP TRIGGER slow");
    cleanup(&service, &[]);
    assert_eq!(names(&generated(&service)), [].into());
}

#[test]
fn it_says_what_it_did() {
    let service = setup().start();
    let said = |args: &[&str]| {
        let output = service.run(args);
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let nothing = "0 expired jobs with 0 pictures, 0 orphan files, 0 orphan rows and 0 Codex \
                   threads: 0 bytes.\n";
    assert_eq!(said(&["cleanup"]), format!("Removed {nothing}"));
    assert_eq!(said(&["cleanup", "--dry-run"]), format!("Would remove {nothing}"));
}

#[test]
fn without_a_database_nothing_is_made() {
    let service = setup().stopped();
    let output = service.run(&["cleanup"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("there is no database") && said.contains("DATABASE_URL"), "{said}");
    assert_eq!(fs::read_dir(service.state_dir()).unwrap().count(), 0);
}

#[test]
fn with_the_wrong_database_nothing_is_anybodys() {
    let mut service = setup().start();
    let job = service.wait_job(&service.submit("a kite"));
    let orphans = leave_orphans(&service);
    for file in names(&generated(&service)) {
        age(&generated(&service).join(file));
    }
    let all = names(&generated(&service));
    service.term();

    // One whose place depends on the working directory, from another one.
    service.set("DATABASE_URL", "sqlite:///./relative.db");
    let output = service.run(&["cleanup"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");

    // A new one, by the service itself.
    let other = service.path("other.db");
    service.set("DATABASE_URL", format!("sqlite:///{}", other.display()));
    service.set("CLEANUP_INTERVAL_HOURS", "1");
    service.start();
    service.wait_for_log("names another instance");
    service.wait_for_log("To adopt the folder as it is, write");
    service.wait_for_log("clean-up done");
    service.term();
    let every = ["generated", "references", "work"].map(str::to_owned);
    assert_eq!(cleanup_skipping(&service, &[]), (nothing(), every.to_vec()));
    let said = String::from_utf8(service.run(&["cleanup"]).stdout).unwrap();
    assert_eq!(said.lines().filter(|line| line.starts_with("Skipped ")).count(), 3, "{said}");
    assert!(has_orphans(&service, &orphans));
    assert_eq!(names(&generated(&service)), all);

    // As advised, if it is meant so.
    let mut database = Database::open(&other);
    let id = database.texts("SELECT id FROM instance").remove(0);
    for folder in every {
        fs::write(service.state_dir().join(folder).join(MARKER), &id).unwrap();
    }
    assert_eq!(cleanup(&service, &[])["orphan_files"], 4);
    assert!(!generated(&service).join(file_of(&job)).exists());
}

#[test]
fn a_folder_that_is_not_mounted_makes_no_orphans() {
    let mut service = setup().start();
    let kept = service.wait_job(&service.submit("kept"));
    let over = service.wait_job(&service.submit("over"));
    let away = service.path("away");
    fs::rename(generated(&service), &away).unwrap();
    let only = (nothing(), vec!["generated".to_owned()]);
    assert_eq!(cleanup_skipping(&service, &[]), only, "no folder");
    // The empty folder below a mount; a start does not take it for new.
    fs::create_dir(generated(&service)).unwrap();
    service.restart();
    assert_eq!(cleanup_skipping(&service, &[]), only, "an empty folder");
    assert_eq!(fs::read_dir(generated(&service)).unwrap().count(), 0);

    // What is past its time goes as ever.
    let id = over["id"].as_str().unwrap();
    expire(&service, id);
    let (done, _) = cleanup_skipping(&service, &[]);
    assert_eq!((&done["expired_jobs"], &done["orphan_rows"]), (&json!(1), &json!(0)), "{done}");
    assert_eq!(service.job(id)["status"], "expired");

    fs::remove_dir(generated(&service)).unwrap();
    fs::rename(away, generated(&service)).unwrap();
    assert_eq!(file_status(&service, &file_of(&kept)), 200);
    assert_eq!(service.job(kept["id"].as_str().unwrap())["images"].as_array().unwrap().len(), 1);
    // Its file was out of reach; it goes as one that no row names.
    age(&generated(&service).join(file_of(&over)));
    assert_eq!(cleanup(&service, &[])["orphan_files"], 1);
    assert_eq!(names(&generated(&service)), [file_of(&kept)].into());
}

#[test]
fn a_folder_in_use_is_not_taken_for_ours() {
    let service = setup().stopped();
    let used = service.path("pictures");
    write_old(&used.join(format!("{}.png", new_id())), "of another service");
    let mut service = service;
    service.set("GENERATED_DIR", used.as_os_str());
    service.start();
    let before = snapshot(&used);
    assert_eq!(cleanup_skipping(&service, &[]), (nothing(), vec!["pictures".to_owned()]));
    assert!(snapshot(&used) == before);
    let job = service.wait_job(&service.submit("a kite"));
    assert_eq!(file_status(&service, &file_of(&job)), 200);
}

#[test]
fn threads_go_also_after_their_login_was_renamed() {
    let mut service = setup().start();
    let thread = "01a202ac-589d-75c2-aeb3-000000000009";
    job_with_everything(&service, thread);
    service.term();
    let home = service.codex_home();
    service.set("CODEX_HOMES", format!("renamed={}", home.display()));
    assert_eq!(cleanup(&service, &[])["codex_threads"], 1);
    assert_eq!(names(&threads(&service)), [].into());
}
