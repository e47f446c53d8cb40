//! Promise: SIGTERM and SIGINT end the service within bounds and with exit code 0. Who waits is
//! answered, what runs may end, what cannot end is done after the next start, and no process stays.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Backend, Db, Reply, Service, Setup, fake, process, wait_for};

/// Long enough for a stop without anything to wait for, on a loaded machine; shorter than the grace
/// that running jobs are given.
const SOON: Duration = Duration::from_secs(20);

/// A caller that waits for its picture.
fn caller(service: &Service, prompt: &str) -> JoinHandle<Reply> {
    let endpoint = service.endpoint();
    let bearer = format!("Bearer {}", service.default_key());
    let body = json!({"prompt": prompt}).to_string();
    thread::spawn(move || {
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        endpoint.request("POST", "/v1/images/generate", &headers, Some(body.as_bytes())).unwrap()
    })
}

/// The id in a 503 that promises that the job goes on.
#[track_caller]
fn put_off(reply: Reply) -> String {
    let reply = reply.expect(503);
    let body = reply.json();
    assert_eq!(body["error"]["code"], "shutting_down", "{body}");
    assert!(reply.header("retry-after").is_some(), "{reply:?}");
    let id = body["id"].as_str().unwrap();
    assert_eq!(reply.header("x-job-id"), Some(id));
    id.to_owned()
}

fn wait_for_jobs(service: &Service, count: usize) {
    wait_for("the jobs to be accepted", || (Db::of(service).jobs().len() == count).then_some(()));
}

#[track_caller]
fn assert_clean_end(service: &mut Service, within: Duration) {
    let begin = Instant::now();
    let status = service.wait_end(Duration::from_mins(2));
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(begin.elapsed() < within, "{:?}", begin.elapsed());
    assert_eq!(service.orphans(), [0; 0], "processes are left");
    Db::of(service).assert_intact();
}

/// The stop as it should be: whoever waits is answered, and what runs ends.
fn stops_well(signal: Signal) {
    let mut service = Setup::fake().set("CODEX_WORKER_CONCURRENCY", "1").start();
    let home = service.codex_home();
    let running = caller(&service, "running [fake gate]");
    fake::wait_for_step(&home, "thread", 1);
    let queued = caller(&service, "queued");
    wait_for_jobs(&service, 2);
    let sent = service.submit("queued as well");

    process::signal(service.pid(), signal);
    service.wait_for_log("letting running jobs end");
    // Who is queued is told at once, while the other still runs.
    let queued = put_off(queued.join().unwrap());

    let headers = [("content-type", "application/json")];
    for path in ["/v1/images/jobs", "/v1/images/generate"] {
        let refused = service.request("POST", path, &headers, Some(br#"{"prompt": "late"}"#));
        let refused = refused.expect(503);
        assert_eq!(refused.json()["error"]["code"], "shutting_down");
        assert!(refused.header("retry-after").is_some(), "{refused:?}");
        assert_eq!(refused.json()["id"], Value::Null);
    }
    let ready = service.get("/ready").expect(503).json();
    assert_eq!(ready["problems"][0]["code"], "shutting_down", "{ready}");
    assert!(!running.is_finished(), "the running one is still waited for");
    assert_eq!(service.job(&sent)["status"], "queued");

    fake::open_gate(&home);
    let done = running.join().unwrap().expect(200).json();
    assert_eq!(done["status"], "succeeded");
    assert_clean_end(&mut service, SOON);
    let states: Vec<String> = Db::of(&service).jobs().into_iter().map(|job| job.state).collect();
    assert_eq!(states, ["succeeded", "queued", "queued"]);

    service.start();
    for id in [queued, sent] {
        assert_eq!(service.wait_job(&id)["status"], "succeeded");
        assert_eq!(Db::of(&service).job(&id).attempts, 1, "it was not begun before");
    }
    assert_eq!(fake::payments(&home).len(), 3);
}

#[test]
fn sigterm_lets_running_jobs_end_and_answers_who_waits() {
    stops_well(Signal::TERM);
}

#[test]
fn sigint_does_the_same() {
    stops_well(Signal::INT);
}

#[test]
fn when_the_grace_is_over_the_job_goes_back_and_is_done_later() {
    let mut service = Setup::fake().set("SHUTDOWN_GRACE_SECONDS", "0.3").start();
    let home = service.codex_home();
    let waiting = caller(&service, "a kite [fake once gate]");
    fake::wait_for_step(&home, "thread", 1);
    process::signal(service.pid(), Signal::TERM);
    let id = put_off(waiting.join().unwrap());
    assert_clean_end(&mut service, SOON);
    assert_eq!(Db::of(&service).job(&id).state, "queued");
    service.start();
    assert_eq!(service.wait_job(&id)["status"], "succeeded");
    assert_eq!(fake::payments(&home).len(), 1);
}

#[test]
fn a_picture_that_is_there_when_the_grace_is_over_is_taken() {
    let mut service = Setup::fake().set("SHUTDOWN_GRACE_SECONDS", "0.3").start();
    let waiting = caller(&service, "a kite [fake after=600]");
    fake::wait_for_step(&service.codex_home(), "saved", 1);
    process::signal(service.pid(), Signal::TERM);
    assert_eq!(waiting.join().unwrap().expect(200).json()["status"], "succeeded");
    assert_clean_end(&mut service, SOON);
}

#[test]
fn a_second_signal_does_not_wait() {
    for second in [Signal::TERM, Signal::INT] {
        let mut service = Setup::fake().start();
        let waiting = caller(&service, "a kite [fake gate]");
        fake::wait_for_step(&service.codex_home(), "thread", 1);
        process::signal(service.pid(), Signal::TERM);
        service.wait_for_log("letting running jobs end");
        process::signal(service.pid(), second);
        let id = put_off(waiting.join().unwrap());
        assert_clean_end(&mut service, SOON);
        assert_eq!(Db::of(&service).job(&id).state, "queued");
    }
}

#[test]
fn a_second_stop_in_the_middle_of_a_job_is_its_last() {
    let mut service = Setup::fake().set("SHUTDOWN_GRACE_SECONDS", "0.2").start();
    let home = service.codex_home();
    let body = json!({"prompt": "kites [fake gate]", "count": 2});
    let reply = service.post_json("/v1/images/jobs", &body).expect(202);
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    for (attempt, state) in [(1, "queued"), (2, "failed")] {
        fake::wait_for_step(&home, "thread", attempt);
        process::signal(service.pid(), Signal::TERM);
        assert_clean_end(&mut service, SOON);
        assert_eq!(Db::of(&service).job(&id).state, state);
        service.start();
    }
    assert_eq!(service.job(&id)["error_code"], "interrupted", "drawn again once, not for ever");
    assert_eq!(Db::of(&service).job(&id).attempts, 2);
}

#[test]
fn a_codex_that_ignores_sigterm_is_killed_with_all_that_it_started() {
    let mut service = Setup::fake().set("SHUTDOWN_GRACE_SECONDS", "0").start();
    service.submit("a kite [fake ignore-term spawn-child gate]");
    fake::wait_for_step(&service.codex_home(), "thread", 1);
    assert_eq!(service.orphans().len(), 2, "Codex and its child");
    process::signal(service.pid(), Signal::TERM);
    assert_clean_end(&mut service, Duration::from_secs(5) + SOON);
}

#[test]
fn what_codex_started_ends_with_its_run() {
    let service = Setup::fake().start();
    service.generate("a kite [fake spawn-child]").expect(200);
    service.wait_for_no_orphans();
}

#[test]
fn recovery_that_waits_for_a_leftover_codex_does_not_hold_up_a_stop() {
    let mut service = Setup::fake().set("SHUTDOWN_GRACE_SECONDS", "0.3").start();
    let home = service.codex_home();
    let id = service.submit("a kite [fake once survive ignore-term gate]");
    fake::wait_for_step(&home, "thread", 1);
    service.kill9();
    let left = service.orphans();
    assert_eq!(left.len(), 1, "it outlived the service");
    service.start();
    service.wait_for_log("looking for its pictures");
    let begin = Instant::now();
    let status = service.term();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    assert_eq!(service.orphans(), left, "it is not ours to end");

    service.start();
    fake::open_gate(&home);
    assert_eq!(service.wait_job(&id)["status"], "succeeded");
    assert_eq!(fake::payments(&home).len(), 1, "its picture was taken");
    assert_eq!(Db::of(&service).job(&id).attempts, 1);
}

#[test]
fn nothing_runs_and_it_stops_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut service = Setup::fake().start();
        let mut idle = service.connect();
        idle.send("GET", "/health", &[], None).unwrap();
        idle.reply("GET").unwrap().expect(200); // and stays open
        process::signal(service.pid(), signal);
        assert_clean_end(&mut service, SOON);
    }
}

#[test]
fn no_real_codex_is_left_behind() {
    for how in ["SIGTERM", "SIGINT", "kill -9"] {
        let backend = Backend::start();
        let mut service = Setup::real(&backend).set("SHUTDOWN_GRACE_SECONDS", "0.3").start();
        backend.hold_images();
        let id = service.submit("a red kite [stub job=kite]");
        backend.wait_for_images(1);
        assert!(!service.orphans().is_empty(), "Codex runs");
        match how {
            "SIGTERM" => process::signal(service.pid(), Signal::TERM),
            "SIGINT" => process::signal(service.pid(), Signal::INT),
            _ => process::signal(service.pid(), Signal::KILL),
        }
        let begin = Instant::now();
        let status = service.wait_end(Duration::from_mins(1));
        service.wait_for_no_orphans();
        println!("{how}: {status}, all gone after {:?}", begin.elapsed());
        assert!(begin.elapsed() < SOON, "{how}: {:?}", begin.elapsed());
        assert_eq!(status.code(), (how != "kill -9").then_some(0), "{how}");
        backend.release_images();
        service.start();
        assert_eq!(service.wait_job(&id)["status"], "succeeded", "{how}");
    }
}
