//! Promise: after a crash the service goes on where it was. What was queued is drawn by itself,
//! what was paid is taken, what has no picture is drawn once more and not a third time.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{fs, path::PathBuf, time::Instant};

use rustix::process::Signal;
use serde_json::json;
use support::{Backend, Db, Service, Setup, fake, pictures, process, wait_for};

/// A service whose job has come to `step` and is then killed.
fn crashed_at(words: &str, step: &str) -> (Service, String) {
    let mut service = Setup::fake().start();
    let id = service.submit(&format!("a kite [fake {words}]"));
    fake::wait_for_step(&service.codex_home(), step, 1);
    service.kill9();
    (service, id)
}

fn paid(service: &Service) -> usize {
    fake::payments(&service.codex_home()).len()
}

#[track_caller]
fn assert_succeeded(service: &Service, id: &str) {
    let job = service.wait_job(id);
    assert_eq!(job["status"], "succeeded", "{job}");
    let picture = service.picture(job["images"][0]["url"].as_str().unwrap());
    image::load_from_memory(&picture).unwrap();
}

#[test]
fn queued_jobs_go_on_by_themselves_and_in_order() {
    let mut service = Setup::fake().set("CODEX_WORKER_CONCURRENCY", "1").start();
    let first = service.submit("first [fake once sleep=600]");
    fake::wait_for_step(&service.codex_home(), "thread", 1);
    let mut ids = vec![first];
    ids.extend((1..6).map(|n| service.submit(&format!("number {n}"))));
    service.kill9();
    // Nobody asks: they go on because the service is back.
    service.start();
    let mut db = Db::of(&service);
    wait_for("the end of all jobs", || (db.open_jobs() == 0).then_some(()));
    for id in &ids {
        assert_succeeded(&service, id);
    }
    let mut later = db.jobs().split_off(1);
    later.sort_by_key(|job| job.started_at);
    let begun: Vec<&str> = later.iter().map(|job| job.id.as_str()).collect();
    assert_eq!(begun, ids[1..], "in the order of acceptance");
    assert_eq!(paid(&service), 6);
}

#[test]
fn a_picture_in_its_threads_folder_is_taken() {
    let (mut service, id) = crashed_at("once after=600", "saved");
    let folder = service.codex_home().join("generated_images");
    let thread = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let saved = fs::read(thread.join("x.png")).unwrap();
    service.start();
    assert_succeeded(&service, &id);
    let [image] = Db::of(&service).images().try_into().unwrap();
    assert_eq!(image.sha256, pictures::sha256(&saved));
    assert_eq!(paid(&service), 1);
    wait_for("the thread's folder to go", || (!thread.exists()).then_some(()));
}

#[test]
fn it_is_taken_by_the_stored_thread_when_the_work_folder_is_gone() {
    let mut service = Setup::fake().start();
    let id = service.submit("a kite [fake once after=600]");
    fake::wait_for_step(&service.codex_home(), "saved", 1);
    let mut db = Db::of(&service);
    wait_for("the stored thread", || {
        db.turns().iter().any(|turn| turn.thread_id.is_some()).then_some(())
    });
    service.kill9();
    fs::remove_dir_all(service.state_dir().join("work").join(&id)).unwrap();
    service.start();
    assert_succeeded(&service, &id);
    assert_eq!(paid(&service), 1, "the store knows the thread");
}

#[test]
fn it_is_taken_by_what_codex_said_when_the_store_does_not_know_the_thread() {
    let (mut service, id) = crashed_at("once after=600", "saved");
    // As if the crash had come before the thread was stored.
    Db::of(&service).forget_threads();
    service.start();
    assert_succeeded(&service, &id);
    assert_eq!(paid(&service), 1, "the work folder knows the thread");
}

#[test]
fn a_second_interruption_is_the_last() {
    let (mut service, id) = crashed_at("paid=600", "pay");
    service.start();
    fake::wait_for_step(&service.codex_home(), "pay", 2);
    service.kill9();
    service.start();
    let job = service.wait_job(&id);
    assert_eq!((&job["status"], &job["error_code"]), (&json!("failed"), &json!("interrupted")));
    assert!(job["error"].as_str().unwrap().contains("interrupted twice"), "{job}");
    assert_eq!(Db::of(&service).job(&id).attempts, 2);
    assert_eq!(paid(&service), 2);
    service.restart();
    assert_eq!(service.job(&id)["status"], "failed");
    assert_eq!(paid(&service), 2, "never a third time");
}

#[test]
fn a_picture_of_the_second_attempt_is_taken_too() {
    let mut service = Setup::fake().start();
    let id = service.submit("a kite [fake after=600]");
    let home = service.codex_home();
    fake::wait_for_step(&home, "saved", 1);
    // The first picture is lost with its folder: drawn once more.
    service.kill9();
    fs::remove_dir_all(home.join("generated_images")).unwrap();
    service.start();
    fake::wait_for_step(&home, "saved", 2);
    service.kill9();
    service.start();
    assert_succeeded(&service, &id);
    assert_eq!((paid(&service), Db::of(&service).job(&id).attempts), (2, 2));
}

#[test]
fn of_several_pictures_only_what_is_missing_is_drawn() {
    let mut service = Setup::fake().start();
    let body = json!({"prompt": "kites", "count": 3});
    let reply = service.post_json("/v1/images/jobs", &body).expect(202);
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    // One login: one after the other. The first is done when the second begins.
    fake::wait_for_step(&service.codex_home(), "begin", 2);
    service.kill9();
    service.start();
    let job = service.wait_job(&id);
    assert_eq!(job["status"], "succeeded", "{job}");
    assert_eq!(job["images"].as_array().unwrap().len(), 3, "{job}");
    assert_eq!(job["missing"], json!(null), "{job}");
    let steps = fake::steps(&service.codex_home());
    let first = steps.iter().filter(|step| step.what == "pay" && step.turn.ends_with("/0"));
    assert_eq!(first.count(), 1, "the first was not drawn again");
    assert!(steps.iter().all(|step| step.what != "pay" || step.detail == "-"), "{steps:#?}");
}

#[test]
fn a_codex_that_outlives_the_service_is_waited_for() {
    let (mut service, id) = crashed_at("once survive ignore-term paid=1.5 after=0.5", "pay");
    let left = service.orphans();
    assert_eq!(left.len(), 1, "it outlived the service: {left:?}");
    service.start();
    let other = service.submit("another on the same login");
    assert_succeeded(&service, &id);
    assert_succeeded(&service, &other);
    assert!(service.orphans().is_empty(), "it ended by itself before its picture was taken");
    assert_eq!(paid(&service), 2, "one payment for each job");
    let steps = fake::steps(&service.codex_home());
    let end = steps.iter().find(|step| step.pid == left[0] && step.what == "end").unwrap();
    let others = steps.iter().filter(|step| step.pid != left[0]);
    assert!(others.into_iter().all(|step| step.at >= end.at), "one run at a time on a login");
}

#[test]
fn a_clean_stop_and_a_start_lose_nothing() {
    let mut service = Setup::fake().set("CODEX_WORKER_CONCURRENCY", "1").start();
    let running = service.submit("running [fake sleep=0.5]");
    let queued: Vec<String> = (0..3).map(|n| service.submit(&format!("queued {n}"))).collect();
    fake::wait_for_step(&service.codex_home(), "thread", 1);
    let status = service.term();
    assert_eq!(status.code(), Some(0), "{status}");
    service.wait_for_no_orphans();
    let mut db = Db::of(&service);
    assert_eq!(db.job(&running).state, "succeeded", "it ended within the grace");
    assert!(queued.iter().all(|id| db.job(id).state == "queued"));
    drop(db);
    service.start();
    for id in &queued {
        assert_succeeded(&service, id);
    }
    assert_eq!(paid(&service), 4);
}

#[test]
fn a_picture_of_the_real_codex_is_taken() {
    let backend = Backend::start();
    let mut service = Setup::real(&backend).start();
    let folder = service.codex_home().join("generated_images");
    let is_whole =
        |path: PathBuf| fs::read(path).is_ok_and(|bytes| image::load_from_memory(&bytes).is_ok());
    for round in 0..4 {
        // Codex waits for the model's last words.
        let words = format!("[stub mode=hang late=1 job=kite{round}]");
        let id = service.submit(&format!("a red kite {words}"));
        let saved = || {
            let threads = fs::read_dir(&folder).into_iter().flatten().flatten();
            threads
                .flat_map(|thread| fs::read_dir(thread.path()).into_iter().flatten().flatten())
                .any(|file| is_whole(file.path()))
        };
        wait_for("the picture", || saved().then_some(()));
        service.kill9();
        service.wait_for_no_orphans();
        service.start();
        assert_succeeded(&service, &id);
        assert_eq!(backend.image_requests_for(&format!("kite{round}")), 1, "paid once");
        wait_for("the thread's folder to go", || (!saved()).then_some(()));
    }
    assert_eq!(service.log().matches("looking for its pictures").count(), 4);
}

#[test]
fn what_codex_started_may_outlive_a_kill_but_not_unnoticed() {
    // The parent-death signal reaches Codex alone, not what Codex started itself. That holds the
    // login's lock as Codex does, so the next run waits for its end.
    let (mut service, id) = crashed_at("once spawn-child sleep=600", "thread");
    let begin = Instant::now();
    let left = wait_for("the end of Codex itself", || {
        let left = service.orphans();
        left.iter().all(|pid| process::command_line(*pid).contains(" sleep")).then_some(left)
    });
    println!("left by kill -9 after {:?}: {} grandchild", begin.elapsed(), left.len());
    service.start();
    service.wait_for_log("looking for its pictures");
    let next = service.submit("on the same login");
    wait_for("the claim", || (Db::of(&service).job(&next).state == "running").then_some(()));
    assert_eq!(service.job(&id)["status"], "running", "it is waited for");
    assert_eq!(fake::steps(&service.codex_home()).len(), 2, "nothing runs beside it");
    for pid in left {
        process::signal(pid, Signal::KILL);
    }
    assert_succeeded(&service, &id);
    assert_succeeded(&service, &next);
}
