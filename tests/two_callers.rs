//! Promise: whatever two callers, or a caller and the operator, do to the same job at the same
//! time, each gets a right answer, the job ends in one state, and a cancelled Codex is stopped.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use serde_json::{Value, json};
use support::{Connection, Service, Setup, fake, lab, sqlite::Database, wait_for};

const GENERATE: &str = "/v1/images/generate";
const JOBS: &str = "/v1/images/jobs";

fn is_final(job: &Value) -> bool {
    ["succeeded", "failed", "cancelled"].iter().any(|state| job["status"] == *state)
}

fn path(id: &str) -> String {
    format!("{JOBS}/{id}")
}

fn wait_running(service: &Service, id: &str) {
    wait_for("the job to run", || (service.job(id)["status"] == "running").then_some(()));
}

/// Waits until the fake Codex of the one running job has begun.
fn wait_for_codex(service: &Service) {
    wait_for("Codex", || (!service.orphans().is_empty()).then_some(()));
}

/// A synchronous caller that has sent its request and waits.
fn waiting_caller(service: &Service, key: &str, prompt: &str) -> (Connection, String) {
    let body = json!({ "prompt": prompt }).to_string();
    let bearer = format!("Bearer {key}");
    let mut connection = service.connect();
    let headers = [("authorization", bearer.as_str())];
    connection.send("POST", GENERATE, &headers, Some(body.as_bytes())).unwrap();
    let id = wait_for("the job", || {
        let sql = "SELECT id FROM jobs WHERE state = 'running' ORDER BY seq DESC LIMIT 1";
        Database::of(service).texts(sql).pop()
    });
    (connection, id)
}

// Cancelling

#[test]
fn a_queued_job_is_cancelled() {
    let service = Setup::fake().set("CODEX_WORKER_CONCURRENCY", "1").start();
    let running = service.submit("[fake job=first sleep=60]");
    wait_running(&service, &running);
    let queued = service.submit("[fake job=second]");
    let reply = service.delete(&path(&queued)).expect(200);
    assert_eq!(reply.header("x-job-id"), Some(queued.as_str()));
    assert_eq!(reply.json(), service.job(&queued), "it answers with the job");
    assert_eq!(reply.json()["status"], "cancelled");
    // Twice is no error: the second finds what it asked for.
    service.delete(&path(&queued)).expect(200);
    service.delete(&path(&running)).expect(200);
    // The next job runs, the cancelled ones never do.
    service.generate("[fake job=third]").expect(200);
    assert_eq!(fake::payments_for(&service.codex_home(), "second"), 0);
    assert_eq!(service.job(&queued)["status"], "cancelled");
}

#[test]
fn a_running_codex_is_stopped() {
    let service = Setup::fake().start();
    for script in ["sleep=60", "paid=60", "slow=60", "after=60", "sleep=60 spawn-child"] {
        let id = service.submit(&format!("[fake {script}]"));
        wait_running(&service, &id);
        wait_for_codex(&service);
        let reply = service.delete(&path(&id)).expect(200).json();
        assert_eq!((&reply["status"], &reply["images"]), (&json!("cancelled"), &json!([])));
        service.wait_for_no_orphans();
        service.delete(&path(&id)).expect(200);
        let job = service.job(&id);
        assert_eq!((&job["status"], &job["images"]), (&json!("cancelled"), &json!([])), "{script}");
    }
    // Nothing of them is shown, and the slot is free again.
    service.generate("a kite").expect(200);
    let shown = lab::names(&service.state_dir().join("generated")).len();
    assert_eq!(shown, 1, "only the last one's picture");
    wait_for("the end of the work folders", || {
        lab::names(&service.state_dir().join("work")).is_empty().then_some(())
    });
}

#[test]
fn a_codex_that_does_not_want_to_stop_is_stopped() {
    let service = Setup::fake().start();
    let id = service.submit("[fake ignore-term sleep=120]");
    wait_running(&service, &id);
    wait_for_codex(&service);
    service.delete(&path(&id)).expect(200);
    service.wait_for_no_orphans();
    service.generate("a kite").expect(200);
}

#[test]
fn several_pictures_stop_together() {
    let service = Setup::fake().start();
    let body = json!({"prompt": "[fake gate]", "count": 4});
    let id = service.post_json(JOBS, &body).expect(202).json()["id"].clone();
    let id = id.as_str().unwrap();
    wait_running(&service, id);
    service.delete(&path(id)).expect(200);
    service.wait_for_no_orphans();
    service.generate("a kite").expect(200);
    assert_eq!(service.job(id)["status"], "cancelled");
    assert!(fake::payments(&service.codex_home()).len() < 5, "not all four were drawn");
}

#[test]
fn what_is_final_cannot_be_cancelled() {
    let service = Setup::fake().start();
    let done = service.generate("a kite").expect(200).json();
    let id = done["id"].as_str().unwrap();
    for _ in 0..2 {
        let reply = service.delete(&path(id)).expect(409);
        assert_eq!(reply.header("x-job-id"), Some(id));
    }
    assert_eq!(service.job(id)["status"], "succeeded");
    service.picture(done["images"][0]["url"].as_str().unwrap());
    let failed = service.generate("[fake picture=none]");
    service.delete(&path(failed.header("x-job-id").unwrap())).expect(409);
}

// At the same time

/// Polls until the job is final and asserts that it stays what it became.
fn poll(service: &Service, id: &str, stop: &AtomicBool) -> Value {
    let mut last = Value::Null;
    while !stop.load(Ordering::Relaxed) {
        let job = service.job(id);
        if is_final(&last) {
            assert_eq!(job["status"], last["status"], "a final state changed");
        }
        let shows = !job["images"].as_array().unwrap().is_empty();
        assert_eq!(shows, job["status"] == "succeeded", "{job}");
        last = job;
    }
    last
}

#[test]
fn two_callers_delete_and_poll_the_same_job() {
    let service = Setup::fake().start();
    let _ = service.default_key();
    let begun = Instant::now();
    service.wait_job(&service.submit("[fake sleep=0.02]"));
    let life = begun.elapsed();
    let mut ends = [0; 2];
    for round in 0..48 {
        // The moment of the cancelling moves over the whole life of the job, and beyond.
        let pause = life * (round % 12) / 8;
        let id = service.submit(&format!("[fake job=r{round} sleep=0.02]"));
        let stop = AtomicBool::new(false);
        let (service, id, stop) = (&service, id.as_str(), &stop);
        let (statuses, state) = thread::scope(|scope| {
            let polling = [0, 1].map(|_| scope.spawn(|| poll(service, id, stop)));
            let deleting = [0, 1].map(|_| {
                scope.spawn(move || {
                    thread::sleep(pause);
                    service.delete(&path(id)).status
                })
            });
            let statuses = deleting.map(|thread| thread.join().unwrap());
            let state = service.wait_job(id)["status"].clone();
            stop.store(true, Ordering::Relaxed);
            for seen in polling.map(|thread| thread.join().unwrap()) {
                assert!(!is_final(&seen) || seen["status"] == state, "{seen}");
            }
            (statuses, state)
        });
        let expected = if state == "cancelled" { [200, 200] } else { [409, 409] };
        assert_eq!(statuses, expected, "both are told the same: {state}");
        ends[usize::from(state == "succeeded")] += 1;
        assert!(fake::payments_for(&service.codex_home(), &format!("r{round}")) <= 1);
    }
    println!("{} cancelled, {} succeeded", ends[0], ends[1]);
    assert!(ends[0] > 0, "some are cancelled");
    service.wait_for_no_orphans();
    // A picture for each that succeeded, and none besides.
    let sql = "SELECT i.file FROM images i JOIN jobs j ON j.id = i.job_id \
               WHERE j.state = 'succeeded'";
    let rows = Database::of(&service).texts(sql);
    assert_eq!(rows.len(), ends[1] + 1, "and the first, which nobody cancelled");
    wait_for("no file without a row", || {
        let files = lab::names(&service.state_dir().join("generated")).len();
        (files == rows.len()).then_some(())
    });
    service.generate("a kite").expect(200);
}

#[test]
fn many_submit_poll_list_and_cancel_at_once() {
    let service = Setup::painter().set("GENERATION_QUEUE_MAX_SIZE", "20").start();
    let _ = service.default_key();
    thread::scope(|scope| {
        for number in 0..8 {
            let service = &service;
            scope.spawn(move || {
                for _ in 0..12 {
                    let reply = service.post_json(JOBS, &json!({"prompt": "a kite"}));
                    if reply.status == 503 {
                        continue;
                    }
                    let id = reply.expect(202).json()["id"].as_str().unwrap().to_owned();
                    if number % 2 == 0 {
                        let status = service.delete(&path(&id)).status;
                        assert!([200, 409].contains(&status), "{status}");
                    }
                    service.get(JOBS).expect(200);
                    assert!(is_final(&service.wait_job(&id)));
                }
            });
        }
    });
    let sql = "SELECT state FROM jobs WHERE state NOT IN ('succeeded', 'cancelled')";
    assert!(Database::of(&service).texts(sql).is_empty());
}

// Keys that end

#[test]
fn a_key_is_deleted_while_its_job_runs() {
    let service = Setup::fake().start();
    for change in ["delete", "disable"] {
        fake::close_gate(&service.codex_home());
        let key = service.key(change);
        let (mut waiting, id) = waiting_caller(&service, &key, "[fake gate]");
        service.change_key(change, change);
        let refused = if change == "delete" { 401 } else { 403 };
        for (method, path) in [("GET", path(&id)), ("DELETE", path(&id)), ("POST", JOBS.to_owned())]
        {
            service.request_as(&key, method, &path, Some(b"{\"prompt\":\"x\"}")).expect(refused);
        }
        // What was accepted is kept: the job ends, and who waits for it gets it.
        fake::open_gate(&service.codex_home());
        let reply = waiting.reply("POST").unwrap().expect(200);
        assert_eq!(reply.header("x-job-id"), Some(id.as_str()));
        service.picture(reply.json()["images"][0]["url"].as_str().unwrap());
        if change == "disable" {
            service.change_key("enable", change);
            let job = service.request_as(&key, "GET", &path(&id), None).expect(200).json();
            assert_eq!(job["status"], "succeeded");
        }
    }
    let sql = "SELECT k.name || ' ' || j.state FROM jobs j JOIN api_keys k ON k.id = j.api_key_id";
    assert_eq!(Database::of(&service).texts(sql).len(), 2, "the history is kept");
}

#[test]
fn a_key_that_ends_while_its_body_comes_submits_nothing() {
    let service = Setup::painter().start();
    let key = service.key("passing");
    let bearer = format!("Bearer {key}");
    let mut connection = service.connect();
    let headers =
        [("authorization", bearer.as_str()), ("content-length", "14"), ("expect", "100-continue")];
    connection.send("POST", JOBS, &headers, None).unwrap();
    assert_eq!(connection.head().unwrap().status, 100);
    service.change_key("delete", "passing");
    std::io::Write::write_all(&mut connection, br#"{"prompt":"x"}"#).unwrap();
    connection.reply("POST").unwrap().expect(401);
    assert!(Database::of(&service).texts("SELECT id FROM jobs").is_empty());
}

// Callers that leave

#[test]
fn a_caller_that_goes_away_leaves_a_job_to_be_had() {
    let service = Setup::fake().start();
    let key = service.default_key().to_owned();
    let (connection, id) = waiting_caller(&service, &key, "[fake gate job=left]");
    drop(connection);
    fake::open_gate(&service.codex_home());
    let job = service.wait_job(&id);
    assert_eq!(job["status"], "succeeded");
    service.picture(job["images"][0]["url"].as_str().unwrap());
    assert_eq!(fake::payments_for(&service.codex_home(), "left"), 1);
}

#[test]
fn callers_that_go_away_at_any_moment_lose_nothing_that_was_accepted() {
    let service = Setup::painter().start();
    let bearer = format!("Bearer {}", service.default_key());
    let body = json!({"prompt": "a kite"}).to_string();
    let headers = [("authorization", bearer.as_str())];
    for _ in 0..100 {
        let mut connection = service.connect();
        connection.send("POST", GENERATE, &headers, Some(body.as_bytes())).unwrap();
        drop(connection);
    }
    service.generate("the last").expect(200);
    wait_for("the end of all jobs", || {
        let sql = "SELECT state FROM jobs WHERE state <> 'succeeded'";
        Database::of(&service).texts(sql).is_empty().then_some(())
    });
}

#[test]
fn two_wait_for_jobs_of_the_same_words() {
    // The same prompt twice is two jobs with two pictures.
    let service = Setup::painter().start();
    let _ = service.default_key();
    let answers = thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| service.generate("a kite").expect(200).json()));
        both.map(|thread| thread.join().unwrap())
    });
    assert_ne!(answers[0]["id"], answers[1]["id"]);
    assert_ne!(answers[0]["images"], answers[1]["images"]);
}
