//! Promise: what the operator asks of the worker is carried out, once and in its order, by the
//! worker that works, whichever process that is; it is told what came of it, and what a killed worker
//! left open is carried out by the next.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use codex_image_service::store::{Store, orders::OrderKind};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{
    Backend, HomeOptions, Lab, Service, Setup, begin_within_a_day, fake, lab::names, process,
    snapshot_if_there, sqlite::Database, wait_for, wait_for_within, write_program,
};

/// The worker looks for orders by itself every 5 s; one after the other they take that each, but for
/// the first, unless a bell is heard.
const ORDERS: usize = 10;
const BY_BELL: Duration = Duration::from_secs(40);

fn login(name: &str) -> HomeOptions {
    HomeOptions {
        account: format!("acct-{name}"),
        user: format!("user-{name}"),
        ..HomeOptions::default()
    }
}

/// Two logins, `codex` and `codex2`, of the accounts `acct-one` and `acct-two`.
fn two(change: impl FnOnce(Setup) -> Setup) -> Lab {
    Lab::served(&[login("one"), login("two")], change)
}

fn used(backend: &Backend, account: &str) -> usize {
    backend.image_requests().iter().filter(|request| request.account == account).count()
}

/// In milliseconds.
fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn in_hours(count: i64) -> i64 {
    now() + count * 3_600_000
}

/// Gives an order as another process does; its number.
fn give(service: &Service, what: &str, subject: &str, until: Option<i64>) -> i64 {
    let until = until.map_or("NULL".to_owned(), |until| until.to_string());
    let mut database = Database::of(service);
    database.run(&format!(
        "INSERT INTO orders (at, what, subject, until) VALUES ({}, '{what}', '{subject}', {until})",
        now()
    ));
    database.number("SELECT max(seq) FROM orders")
}

/// The worker looks for orders now.
fn ring(service: &Service) {
    let bell = service.state_dir().join("run/worker.bell");
    UnixDatagram::unbound().unwrap().send_to(b"!", bell).unwrap();
}

fn outcome_if_done(service: &Service, order: i64) -> Option<(bool, String)> {
    let found = Database::of(service).texts(&format!(
        "SELECT failed || outcome FROM orders WHERE seq = {order} AND done_at IS NOT NULL"
    ));
    let text = found.first()?;
    Some((text.starts_with('1'), text[1..].to_owned()))
}

/// Waits until the order is carried out; what came of it.
#[track_caller]
fn done(service: &Service, order: i64) -> String {
    let (failed, words) =
        wait_for("the order to be carried out", || outcome_if_done(service, order));
    assert!(!failed, "{words}");
    words
}

/// Waits until the order is closed as one that cannot be carried out; why.
#[track_caller]
fn refused(service: &Service, order: i64) -> String {
    let (failed, words) = wait_for("the order to be refused", || outcome_if_done(service, order));
    assert!(failed, "{words}");
    words
}

fn trail(service: &Service, what: &str) -> Vec<String> {
    Database::of(service)
        .texts(&format!("SELECT detail FROM login_events WHERE what = '{what}' ORDER BY seq"))
}

/// A worker of its own beside a front.
struct Worker {
    child: Child,
    log: PathBuf,
}

impl Worker {
    fn start(front: &Service, log: &str) -> Self {
        let log = front.path(log);
        let file = || fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut command = front.command(&["serve", "--role", "worker"]);
        let child = command.stdout(file()).stderr(file()).spawn().unwrap();
        Self { child, log }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
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
}

/// Deletes a job as the pages do.
fn delete(service: &Service, job: &str) -> bool {
    let path = service.state_dir().join("codex-image-service.db");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let store = Store::open_existing(&path).await.unwrap();
        let deleted = store.delete_job(job).await.unwrap();
        store.give_order(OrderKind::RemoveJob, job, None).await.unwrap();
        store.close().await;
        deleted
    })
}

fn newest_order(service: &Service) -> i64 {
    Database::of(service).number("SELECT max(seq) FROM orders")
}

#[test]
fn a_login_left_alone_is_not_used_until_it_is_woken() {
    let mut lab = two(|setup| setup);
    // One is drawing when it is left alone: that goes on, and its success takes nothing back.
    lab.backend.hold_images();
    let jobs = [lab.service.submit("a kite"), lab.service.submit("another kite")];
    lab.backend.wait_for_images(2);
    assert_eq!((used(&lab.backend, "acct-one"), used(&lab.backend, "acct-two")), (1, 1));
    let words = done(&lab.service, give(&lab.service, "rest_login", "codex", Some(in_hours(24))));
    assert!(words.starts_with("by_hand until 20"), "{words}");
    lab.backend.release_images();
    for job in &jobs {
        assert_eq!(lab.service.wait_job(job)["status"], "succeeded");
    }
    let draw = |lab: &Lab, count: usize| {
        lab.backend.reset_counts();
        for n in 0..count {
            lab.service.generate(&format!("kite {n}")).expect(200);
        }
        (used(&lab.backend, "acct-one"), used(&lab.backend, "acct-two"))
    };
    assert_eq!(draw(&lab, 4), (0, 4));
    assert_eq!(trail(&lab.service, "rests"), [words]);
    let stored = "SELECT login || ' ' || reason FROM login_rests";
    assert_eq!(Database::of(&lab.service).texts(stored), ["codex by_hand"]);
    lab.service.restart();
    assert_eq!(draw(&lab, 4), (0, 4));
    // By its order, and by the command.
    assert_eq!(done(&lab.service, give(&lab.service, "wake_login", "codex", None)), "woken");
    let (one, two) = draw(&lab, 4);
    assert!(one > 0 && one + two == 4, "{one} and {two}");
    assert!(Database::of(&lab.service).texts(stored).is_empty());
    let rest = give(&lab.service, "rest_login", "codex", None);
    assert_eq!(done(&lab.service, rest), "by_hand until woken");
    assert_eq!(draw(&lab, 2), (0, 2));
    assert!(lab.service.run(&["logins", "wake", "codex"]).status.success());
    wait_for("the command to be heeded", || {
        (lab.service.log().matches("login is woken by hand").count() == 2).then_some(())
    });
    assert!(draw(&lab, 4).0 > 0);
    // What was asked last holds, though all of it is found at once.
    for what in ["rest_login", "wake_login", "rest_login"] {
        give(&lab.service, what, "codex", Some(in_hours(1)));
    }
    done(&lab.service, newest_order(&lab.service));
    // Longer than it takes to look for what the command line wants.
    thread::sleep(Duration::from_secs(6));
    assert_eq!(draw(&lab, 3), (0, 3));
    lab.service.restart();
    assert_eq!(draw(&lab, 3), (0, 3));
}

#[test]
fn a_rest_by_hand_outlasts_a_shorter_reason_and_a_longer_one_that_is_taken_back() {
    let mut service = Setup::fake_with_logins(2).start();
    done(&service, give(&service, "rest_login", "codex", Some(in_hours(1))));
    // As if its numbers had said in the meantime that little is left for longer than that.
    service.kill9();
    Database::of(&service).run(&format!(
        "UPDATE login_rests SET reason = 'low_quota', quota = 'codex', until = {}; \
         INSERT INTO login_quota (login, quota, minutes, at, used, resets_at) \
         VALUES ('codex', 'codex', 300, {}, 97, {})",
        now() + 7_200_000,
        now() - 60_000,
        now() + 7_200_000
    ));
    service.start();
    let listed = |service: &Service| {
        let output = service.run(&["logins", "list", "--json"]);
        let list: Value = serde_json::from_slice(&output.stdout).unwrap();
        list[0]["rest"]["reason"].as_str().unwrap_or("none").to_owned()
    };
    assert_eq!(listed(&service), "low_quota");
    // They are taken back: what was asked by hand is still known.
    service.kill9();
    Database::of(&service).run("DELETE FROM login_rests; UPDATE login_windows SET used = 1");
    service.start();
    assert_eq!(listed(&service), "by_hand");
    for n in 0..3 {
        service.generate(&format!("kite {n}")).expect(200);
    }
    let paid = |home: &str| fake::payments(&service.path(home)).len();
    assert_eq!((paid("codex"), paid("codex2")), (0, 3));
    done(&service, give(&service, "wake_login", "codex", None));
    assert_eq!(listed(&service), "none");
}

#[test]
fn when_all_are_left_alone_callers_are_told_the_truth() {
    let setup = Setup::fake_with_logins(2).set("REQUEST_WAIT_TIMEOUT_SECONDS", "60");
    let service = setup.start();
    check_what_callers_are_told(&service, || {});
}

#[test]
fn a_front_of_its_own_tells_the_same() {
    let setup = Setup::fake_with_logins(2).set("REQUEST_WAIT_TIMEOUT_SECONDS", "60");
    let front = setup.args(&["--role", "front"]).start();
    let worker = Worker::start(&front, "worker.log");
    wait_for("the worker", || {
        worker
            .log()
            .contains("job")
            .then_some(())
            .or_else(|| front.state_dir().join("run/worker.bell").exists().then_some(()))
    });
    check_what_callers_are_told(&front, || ring(&front));
    worker.stop();
}

fn check_what_callers_are_told(service: &Service, ring: impl Fn()) {
    let orders = [
        give(service, "rest_login", "codex", Some(in_hours(1))),
        give(service, "rest_login", "codex2", None),
    ];
    ring();
    for order in orders {
        done(service, order);
    }
    let reply = wait_for("callers to be told", || {
        let reply = service.generate("a kite");
        (reply.status == 429).then_some(reply)
    });
    let check = |reply: &support::Reply| {
        let error = &reply.json()["error"];
        assert_eq!(
            (&error["code"], &error["type"]),
            (&json!("logins_rest"), &json!("rate_limit_error"))
        );
        assert_eq!(error["message"], "The service's owner lets every ChatGPT login rest.");
    };
    check(&reply);
    let seconds: i64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&seconds), "{seconds}");
    let ready = wait_for("/ready to say so", || {
        let reply = service.request_bare("GET", "/ready", &[], None);
        (reply.status == 503).then(|| reply.json()["problems"][0].clone())
    });
    assert_eq!(ready["code"], "logins_rest");
    let message = ready["message"].as_str().unwrap();
    assert!(
        message.contains("owner wants it left alone") && !message.contains("quota"),
        "{message}"
    );
    // Until somebody wakes them nobody knows when to come back, and OpenAI's clients shall not try.
    let order = give(service, "rest_login", "codex", None);
    ring();
    done(service, order);
    let reply = wait_for("callers to be told", || {
        let body = json!({"prompt": "a kite", "model": "gpt-image-1"});
        let reply = service.post_json("/v1/images/generations", &body);
        (reply.header("retry-after").is_none()).then_some(reply)
    });
    let reply = reply.expect(429);
    check(&reply);
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    wait_for("/ready to say so", || {
        let reply = service.request_bare("GET", "/ready", &[], None).json();
        let message = reply["problems"][0]["message"].as_str()?;
        message.starts_with("Every login rests until somebody wakes it: ").then_some(())
    });
    // A short rest is waited for.
    let order = give(service, "rest_login", "codex", Some(now() + 12_000));
    ring();
    done(service, order);
    wait_for("a job to be taken", || {
        (service.post_json("/v1/images/jobs", &json!({"prompt": "a kite"})).status == 202)
            .then_some(())
    });
    let job = Database::of(service).texts("SELECT id FROM jobs ORDER BY seq DESC LIMIT 1");
    assert_eq!(service.wait_job(&job[0])["status"], "succeeded");
    // And a wake ends it for a job that waits.
    let until = now() + 50_000;
    let order = give(service, "rest_login", "codex", Some(until));
    ring();
    done(service, order);
    let job = service.submit("another kite");
    wait_for("the job to wait", || {
        let waiting = "SELECT count(*) FROM jobs WHERE not_before IS NOT NULL";
        (Database::of(service).number(waiting) == 1).then_some(())
    });
    let order = give(service, "wake_login", "codex", None);
    ring();
    done(service, order);
    assert_eq!(service.wait_job(&job)["status"], "succeeded");
    let ended = format!("SELECT finished_at FROM jobs WHERE id = '{job}'");
    assert!(Database::of(service).number(&ended) < until, "it waited for the end of the rest");
    // Nothing else was drawn.
    assert_eq!(fake::payments(&service.codex_home()).len(), 2);
}

#[test]
fn a_job_that_was_taken_before_fails_with_the_truth() {
    let service = Setup::fake().set("CODEX_WORKER_CONCURRENCY", "1").start();
    let drawn = service.submit("a kite [fake gate]");
    fake::wait_for_step(&service.codex_home(), "thread", 1);
    let late = service.submit("another kite");
    done(&service, give(&service, "rest_login", "codex", None));
    fake::open_gate(&service.codex_home());
    assert_eq!(service.wait_job(&drawn)["status"], "succeeded");
    let job = service.wait_job(&late);
    assert_eq!((&job["status"], &job["error_code"]), (&json!("failed"), &json!("logins_rest")));
    assert_eq!(job["error"], "The service's owner lets every ChatGPT login rest.");
    assert!(job["retry_at"].is_null(), "{job}");
    // Nor does the command draw.
    let output = service.run(&["generate", "a third kite"]);
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{words}");
    assert!(words.contains("login codex rests: by_hand until woken"), "{words}");
    assert!(words.contains("Every login is left alone") && !words.contains("quota"), "{words}");
    assert_eq!(fake::payments(&service.codex_home()).len(), 1);
}

#[test]
fn a_login_is_tested_without_spending() {
    let lab = two(|setup| setup);
    let words = done(&lab.service, give(&lab.service, "test_login", "codex", None));
    assert!(words.starts_with("plus; "), "{words}");
    for part in ["codex 5 h: 12 % used", "codex 7 d: 34 % used", "image_gen 5 h: 5 % used"] {
        assert!(words.contains(part), "{words}");
    }
    lab.backend.set_for("acct-two", "mode=401");
    let why = refused(&lab.service, give(&lab.service, "test_login", "codex2", None));
    assert!(why.ends_with("(login_expired)"), "{why}");
    assert_eq!(trail(&lab.service, "tested"), [words, why]);
    assert!(lab.backend.image_requests().is_empty() && lab.backend.turns().is_empty());
    // Also while it draws.
    lab.backend.hold_images();
    let job = lab.service.submit("a kite");
    lab.backend.wait_for_images(1);
    let label = if used(&lab.backend, "acct-one") == 1 { "codex" } else { "codex2" };
    lab.backend.set_for("acct-two", "");
    done(&lab.service, give(&lab.service, "test_login", label, None));
    lab.backend.release_images();
    assert_eq!(lab.service.wait_job(&job)["status"], "succeeded");
    for what in ["test_login", "rest_login", "wake_login"] {
        let why = refused(&lab.service, give(&lab.service, what, "other", None));
        assert_eq!(why, "there is no login other; known are: codex, codex2");
    }
    let why = refused(&lab.service, give(&lab.service, "rest_login", "codex", Some(1)));
    assert_eq!(why, "its time was over before it began");
}

#[test]
fn a_slow_test_holds_up_nothing_and_is_begun_anew_after_a_kill() {
    let setup = Setup::fake_with_logins(2);
    let script = setup.path("codex-script");
    let text = "#!/bin/sh\n[ \"$1\" = --version ] && echo codex-cli 0.169.0 && exit\n\
                echo began >> \"$0.log\"\nexec sleep 600\n";
    write_program(&script, text);
    let starts = setup.path("codex-script.log");
    let mut service = setup.unset("CODEX_ENGINE").set("CODEX_BIN", script).start();
    let slow = give(&service, "test_login", "codex", None);
    let count = |log: &PathBuf| fs::read_to_string(log).unwrap_or_default().lines().count();
    wait_for("the test to begin", || (count(&starts) == 1).then_some(()));
    for (what, subject) in [("rest_login", "codex"), ("count", ""), ("clean_up", "")] {
        let until = (what == "rest_login").then(|| in_hours(1));
        done(&service, give(&service, what, subject, until));
    }
    assert_eq!(outcome_if_done(&service, slow), None);
    service.kill9_all();
    service.start();
    wait_for("the test to begin anew", || (count(&starts) == 2).then_some(()));
    assert_eq!(outcome_if_done(&service, slow), None);
    // And a stop does not wait for it.
    let asked = Instant::now();
    service.term();
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    assert_eq!(outcome_if_done(&service, slow), None);
}

#[test]
fn the_demo_has_no_logins() {
    let service = Setup::painter().start();
    let why = refused(&service, give(&service, "rest_login", "codex", None));
    assert_eq!(why, "there is no login codex; known are: none");
    done(&service, give(&service, "clean_up", "", None));
    let mut database = Database::of(&service);
    assert_eq!(database.number("SELECT count(*) FROM login_status"), 0);
    let facts = "SELECT started_at IS NOT NULL AND codex_version IS NULL FROM worker_status";
    assert_eq!(database.number(facts), 1);
}

#[test]
fn clean_ups_and_counts_are_kept() {
    let mut service = Setup::fake().set("CLEANUP_INTERVAL_HOURS", "0").start();
    let job = service.wait_job(&service.submit("a kite"));
    let id = job["id"].as_str().unwrap();
    let next = "SELECT next_cleanup_at FROM worker_status";
    assert_eq!(Database::of(&service).texts(next), [""]);
    Database::of(&service).run(&format!("UPDATE jobs SET expires_at = 1 WHERE id = '{id}'"));
    let words = done(&service, give(&service, "count", "", None));
    assert!(words.starts_with("Would remove 1 expired jobs with 1 pictures, "), "{words}");
    assert_eq!(service.job(id)["status"], "succeeded");
    let words = done(&service, give(&service, "clean_up", "", None));
    assert!(words.starts_with("Removed 1 expired jobs with 1 pictures, "), "{words}");
    assert_eq!(service.job(id)["status"], "expired");
    for args in [&["cleanup"][..], &["cleanup", "--dry-run"]] {
        assert!(service.run(args).status.success());
    }
    let runs = "SELECT cause || dry_run || expired_jobs || images || (bytes > 0) \
                || (finished_at >= started_at) || skipped || coalesce(error, '') \
                FROM cleanup_runs ORDER BY seq";
    let kept = ["operator111", "operator011", "command000"]
        .map(|row| format!("{row}{}1", u8::from(row.starts_with("operator"))));
    assert_eq!(Database::of(&service).texts(runs), kept);
    // A folder that is left alone is named, and what stops a clean-up is told.
    fs::remove_file(service.state_dir().join("work/.codex-image-service")).unwrap();
    let words = done(&service, give(&service, "clean_up", "", None));
    assert!(words.ends_with("1 folders were not searched."), "{words}");
    let skipped = "SELECT skipped FROM cleanup_runs ORDER BY seq DESC LIMIT 1";
    let skipped = Database::of(&service).texts(skipped);
    assert!(skipped[0].contains("/work: ") && !skipped[0].contains('\n'), "{skipped:?}");
    let broken = "CREATE TRIGGER broken BEFORE UPDATE OF purged_at ON jobs \
                  BEGIN SELECT raise(ABORT, 'no more'); END";
    Database::of(&service).run("UPDATE jobs SET purged_at = NULL");
    Database::of(&service).run(broken);
    let why = refused(&service, give(&service, "clean_up", "", None));
    let error = "SELECT error FROM cleanup_runs ORDER BY seq DESC LIMIT 1";
    assert_eq!(Database::of(&service).texts(error), [why]);
    Database::of(&service).run("DROP TRIGGER broken");
    // By itself.
    service.term();
    service.set("CLEANUP_INTERVAL_HOURS", "2");
    service.start();
    let last = "SELECT cause FROM cleanup_runs ORDER BY seq DESC LIMIT 1";
    wait_for("the clean-up of the start", || {
        (Database::of(&service).texts(last) == ["schedule"]).then_some(())
    });
    let next = Database::of(&service).number(next);
    assert!((next - now() - 2 * 3_600_000).abs() < 60_000, "{next}");
}

#[test]
fn a_folder_that_cannot_be_read_is_named_and_stops_nothing() {
    let service = Setup::fake().set("CLEANUP_INTERVAL_HOURS", "0").start();
    let job = service.submit("a kite");
    service.wait_job(&job);
    // What Codex keeps of a job that has ended comes last.
    let thread = Database::of(&service).texts("SELECT thread_id FROM turns").remove(0);
    let kept = service.codex_home().join("generated_images").join(thread);
    let work = service.state_dir().join("work").join(job);
    wait_for("a tidy end", || (!kept.exists() && !work.exists()).then_some(()));
    fs::create_dir_all(&kept).unwrap();
    fs::write(kept.join("late.png"), "a copy").unwrap();
    let thumbnails = service.state_dir().join("thumbnails");
    fs::remove_dir(&thumbnails).unwrap();
    fs::write(&thumbnails, "a file in the place of a folder").unwrap();
    let words = done(&service, give(&service, "clean_up", "", None));
    assert!(words.contains("1 Codex threads") && words.ends_with("1 folders were not searched."));
    assert!(!kept.exists());
    let skipped = "SELECT skipped FROM cleanup_runs";
    let skipped = Database::of(&service).texts(skipped).remove(0);
    assert_eq!(skipped.matches("/thumbnails: Not a directory").count(), 1, "{skipped}");
    assert!(service.log().contains("the clean-up skips a folder"));
    let output = service.run(&["cleanup"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("/thumbnails: Not a directory"), "{said}");
}

#[test]
fn a_database_that_keeps_no_runs_stops_no_clean_up() {
    let service = Setup::fake().set("CLEANUP_INTERVAL_HOURS", "0").start();
    Database::of(&service).run(
        "CREATE TRIGGER broken BEFORE INSERT ON cleanup_runs \
         BEGIN SELECT raise(ABORT, 'no more'); END",
    );
    let output = service.run(&["cleanup"]);
    assert!(output.status.success(), "{output:?}");
    done(&service, give(&service, "clean_up", "", None));
}

/// A job with a reference, a thumbnail and all that an interrupted end could leave; its id and the
/// name of its picture.
fn job_with_files(service: &Service) -> (String, String) {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let picture = support::pictures::unique(&support::pictures::Kind::default(), "reference");
    let body = json!({"prompt": "a kite",
                      "reference_images_base64": [BASE64_STANDARD.encode(picture)]});
    let job = service.post_json("/v1/images/jobs", &body).expect(202).json();
    let job = service.wait_job(job["id"].as_str().unwrap());
    let id = job["id"].as_str().unwrap().to_owned();
    let url = job["images"][0]["url"].as_str().unwrap();
    let file = url.rsplit_once('/').unwrap().1.to_owned();
    let state = service.state_dir();
    wait_for("a tidy end", || (!state.join("work").join(&id).exists()).then_some(()));
    fs::write(state.join("thumbnails").join(format!("{file}.jpg")), "small").unwrap();
    fs::create_dir(state.join("work").join(&id)).unwrap();
    fs::write(state.join("work").join(&id).join("events.jsonl"), "{}\n").unwrap();
    (id, file)
}

/// What lies on the disk of a job.
fn left(service: &Service, job: &str) -> Vec<String> {
    let folders = ["generated", "thumbnails", "references", "work"];
    let found = folders.iter().flat_map(|folder| {
        let names = names(&service.state_dir().join(folder)).into_iter();
        names.filter(|name| name.contains(job)).map(move |name| format!("{folder}/{name}"))
    });
    found.collect()
}

fn check_that_a_deleted_job_goes(service: &Service, ring: impl Fn()) {
    begin_within_a_day();
    let (id, file) = job_with_files(service);
    let (kept, kept_file) = job_with_files(service);
    assert_eq!(left(service, &id).len(), 4, "{:?}", left(service, &id));
    assert!(delete(service, &id));
    // At once for callers, whenever the files go.
    service.get(&format!("/v1/images/jobs/{id}")).expect(404);
    service.delete(&format!("/v1/images/jobs/{id}")).expect(404);
    service.get(&format!("/v1/images/jobs/{id}/events")).expect(404);
    let listed = service.get("/v1/images/jobs").expect(200).text();
    assert!(!listed.contains(&id) && listed.contains(&kept));
    assert_eq!(service.get(&format!("/generated/{file}")).status, 404);
    ring();
    assert_eq!(done(service, newest_order(service)), "removed");
    assert_eq!(left(service, &id), [""; 0]);
    assert_eq!(left(service, &kept).len(), 4);
    assert_eq!(service.get(&format!("/generated/{kept_file}")).status, 200);
    // Its picture still counts; its words are nowhere.
    assert_eq!(service.get("/v1/usage").json()["images_today"], 2);
    let mut database = Database::of(service);
    let row = format!(
        "SELECT prompt || state || (purged_at IS NOT NULL) || (SELECT count(*) FROM images \
         WHERE job_id = id) || (SELECT count(*) FROM job_references WHERE job_id = id) \
         FROM jobs WHERE id = '{id}'"
    );
    assert_eq!(database.texts(&row), ["expired100"]);
    // Once more, or for a job that is not deleted, nothing happens.
    for job in [&id, &kept, "img_00000000000000000000000000000000"] {
        let order = give(service, "remove_job", job, None);
        ring();
        assert_eq!(done(service, order), "nothing of it was left");
    }
    assert_eq!(left(service, &kept).len(), 4);
}

#[test]
fn a_deleted_job_goes() {
    let service = Setup::fake().set("CLEANUP_INTERVAL_HOURS", "0").start();
    check_that_a_deleted_job_goes(&service, || {});
    // The clean-up does it as well, and says beforehand how much it is.
    let (id, _) = job_with_files(&service);
    Database::of(&service).run("CREATE TRIGGER none BEFORE INSERT ON orders WHEN NEW.what = 'remove_job' BEGIN SELECT raise(IGNORE); END");
    assert!(delete(&service, &id));
    let dry = service.run(&["cleanup", "--dry-run", "--json"]);
    let real = service.run(&["cleanup", "--json"]);
    let removed = |output: &std::process::Output| {
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["removed"].clone()
    };
    assert_eq!(removed(&dry), removed(&real));
    assert_eq!(removed(&real)["expired_jobs"], 1);
    assert_eq!(left(&service, &id), [""; 0]);
}

#[test]
fn a_deleted_job_goes_in_two_processes_too() {
    let front = Setup::fake().set("CLEANUP_INTERVAL_HOURS", "0").args(&["--role", "front"]).start();
    let worker = Worker::start(&front, "worker.log");
    wait_for("the bell", || front.state_dir().join("run/worker.bell").exists().then_some(()));
    let begun = Instant::now();
    for _ in 0..ORDERS {
        let order = give(&front, "count", "", None);
        ring(&front);
        done(&front, order);
    }
    assert!(begun.elapsed() < BY_BELL, "{:?}", begun.elapsed());
    check_that_a_deleted_job_goes(&front, || ring(&front));
    // A worker that is killed leaves it to the next.
    let (id, _) = job_with_files(&front);
    worker.kill9();
    assert!(delete(&front, &id));
    let rest = give(&front, "rest_login", "codex", Some(in_hours(1)));
    front.get(&format!("/v1/images/jobs/{id}")).expect(404);
    assert_eq!(left(&front, &id).len(), 4);
    let worker = Worker::start(&front, "worker.log");
    done(&front, rest);
    wait_for("the files to go", || left(&front, &id).is_empty().then_some(()));
    // One that waits for its turn carries out nothing: the other has the logins.
    let waiting = Worker::start(&front, "waiting.log");
    wait_for_within(support::PATIENCE, "it to wait", || {
        waiting.log().contains("another worker works").then_some(())
    });
    for what in ["wake_login", "rest_login", "wake_login"] {
        give(&front, what, "codex", None);
    }
    let last = newest_order(&front);
    ring(&front);
    done(&front, last);
    assert!(!waiting.log().contains("order carried out"), "{}", waiting.log());
    // When it has taken over, it knows what was asked of the other.
    let rest = give(&front, "rest_login", "codex", None);
    ring(&front);
    done(&front, rest);
    worker.stop();
    wait_for("the other to take over", || {
        let order = give(&front, "count", "", None);
        thread::sleep(Duration::from_secs(1));
        ring(&front);
        thread::sleep(Duration::from_secs(1));
        outcome_if_done(&front, order).filter(|_| waiting.log().contains("order carried out"))
    });
    let reply = wait_for("callers to be told", || {
        let reply = front.generate("a kite");
        (reply.status == 429).then_some(reply)
    });
    assert_eq!(reply.json()["error"]["code"], "logins_rest");
    waiting.stop();
}

#[test]
fn a_job_that_is_deleted_while_it_is_drawn_ends_and_leaves_nothing() {
    let service = Setup::fake().set("CLEANUP_INTERVAL_HOURS", "0").start();
    let job = service.submit("a kite [fake gate]");
    fake::wait_for_step(&service.codex_home(), "thread", 1);
    let queued = service.submit("another kite");
    for job in [&job, &queued] {
        assert!(delete(&service, job));
    }
    done(&service, newest_order(&service));
    let next = service.submit("a third kite");
    assert_eq!(service.wait_job(&next)["status"], "succeeded");
    for job in [&job, &queued] {
        service.get(&format!("/v1/images/jobs/{job}")).expect(404);
        wait_for("its files to go", || left(&service, job).is_empty().then_some(()));
    }
    assert_eq!(fake::payments(&service.codex_home()).len(), 1);
    let states = "SELECT DISTINCT state FROM jobs WHERE deleted_at IS NOT NULL";
    assert_eq!(Database::of(&service).texts(states), ["cancelled"]);
    let kept = service.codex_home().join("generated_images");
    wait_for("Codex's copies to go", || snapshot_if_there(&kept).is_empty().then_some(()));
}

#[test]
fn a_repeated_request_does_not_draw_what_was_deleted() {
    let service = Setup::fake().start();
    let submit = |repeats: (&str, &str)| {
        let headers = [("content-type", "application/json"), repeats];
        let body = json!({"prompt": "a kite"}).to_string();
        let reply = service.request("POST", "/v1/images/jobs", &headers, Some(body.as_bytes()));
        reply.expect(202).json()["id"].as_str().unwrap().to_owned()
    };
    let (key, again) = (("idempotency-key", "once"), ("x-stainless-retry-count", "1"));
    let first = submit(key);
    service.wait_job(&first);
    assert!(delete(&service, &first));
    wait_for("its files to go", || left(&service, &first).is_empty().then_some(()));
    assert_eq!((submit(key), submit(again)), (first.clone(), first));
    assert_eq!(fake::payments(&service.codex_home()).len(), 1);
}

#[test]
fn thumbnails_go_with_their_pictures_and_nothing_else_does() {
    let service = Setup::fake().set("CLEANUP_INTERVAL_HOURS", "0").start();
    let (over, _) = job_with_files(&service);
    let (kept, kept_file) = job_with_files(&service);
    Database::of(&service).run(&format!("UPDATE jobs SET expires_at = 1 WHERE id = '{over}'"));
    let folder = service.state_dir().join("thumbnails");
    let unknown = "img_0123456789abcdef0123456789abcdef";
    let others = [
        "notes.jpg".to_owned(),
        "img_holiday.png.jpg".to_owned(),
        format!("{unknown}.jpg"),
        format!("{unknown}.png"),
        format!("{unknown}.png.jpeg"),
        ".tmp-0123456789abcdef0123456789abcdef".to_owned(),
    ];
    for name in
        others.iter().chain([&format!("{unknown}.png.jpg"), &format!("{unknown}_2.jpg.jpg")])
    {
        fs::write(folder.join(name), "small").unwrap();
    }
    fs::create_dir(folder.join(format!("{unknown}_3.png.jpg"))).unwrap();
    let count = |args: &[&str]| -> Value {
        let output = service.run(&[&["cleanup", "--json"], args].concat());
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["removed"].clone()
    };
    let planned = count(&["--dry-run"]);
    assert_eq!(planned, count(&[]));
    assert_eq!((&planned["expired_jobs"], &planned["orphan_files"]), (&json!(1), &json!(2)));
    let mut expected: Vec<_> = others.into();
    expected.extend([format!("{kept_file}.jpg"), format!("{unknown}_3.png.jpg")]);
    expected.sort();
    assert_eq!(names(&folder), expected);
    assert_eq!(left(&service, &over), [""; 0]);
    assert_eq!(left(&service, &kept).len(), 4);
}

#[test]
fn the_front_is_told_of_the_worker_and_its_logins() {
    let mut one = login("one");
    one.account = "acct-one-0123456789".to_owned();
    let mut lab = Lab::served(&[one, login("two")], |setup| setup);
    let told = "SELECT place || login || ' ' || account || ' ' || coalesce(plan, '') || ' ' \
                || coalesce(problem_code, 'well') || busy_elsewhere FROM login_status ORDER BY place";
    let expected = ["0codex acct-one plus well0", "1codex2 acct-two plus well0"];
    wait_for("the logins", || (Database::of(&lab.service).texts(told) == expected).then_some(()));
    let version = "SELECT codex_version FROM worker_status WHERE started_at > 0";
    wait_for("the version", || {
        let found = Database::of(&lab.service).texts(version);
        found.first().is_some_and(|found| found.starts_with("0.")).then_some(())
    });
    // What changes shows after an order at the latest; what does not is not written again.
    fs::remove_file(lab.service.path("codex2/auth.json")).unwrap();
    let why = refused(&lab.service, give(&lab.service, "test_login", "codex2", None));
    assert!(why.ends_with("(not_logged_in)"), "{why}");
    wait_for("the change", || {
        let found = Database::of(&lab.service).texts(told);
        // Without a file there is no account to tell.
        (found.len() == 2 && found[1].is_empty()).then_some(())
    });
    let problem = "SELECT problem_code FROM login_status WHERE login = 'codex2'";
    assert_eq!(Database::of(&lab.service).texts(problem), ["not_logged_in"]);
    let at = Database::of(&lab.service).texts("SELECT told_at FROM login_status");
    lab.service.restart();
    done(&lab.service, give(&lab.service, "test_login", "codex", None));
    thread::sleep(Duration::from_secs(2));
    assert_eq!(Database::of(&lab.service).texts("SELECT told_at FROM login_status"), at);
    // After an hour it is told again.
    Database::of(&lab.service).run("UPDATE login_status SET told_at = told_at - 3600001");
    lab.service.restart();
    wait_for("it to be told again", || {
        let old = format!("SELECT count(*) FROM login_status WHERE told_at < {}", now() - 600_000);
        (Database::of(&lab.service).number(&old) == 0).then_some(())
    });
}

#[test]
fn an_idle_worker_writes_nothing() {
    let service = Setup::fake_with_logins(2).start();
    service.wait_job(&service.submit("a kite"));
    let log = support::beside(&service.state_dir().join("codex-image-service.db"), "-wal");
    let written = || fs::metadata(&log).map(|data| (data.len(), data.modified().unwrap())).ok();
    // Several looks of each of those that look now and then; at first what follows a job comes, too.
    let is_idle = |()| {
        let before = written();
        thread::sleep(Duration::from_secs(12));
        written() == before
    };
    assert!([(); 4].into_iter().any(is_idle), "it never ceases to write");
}
