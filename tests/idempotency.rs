//! Promise: a request that is repeated finds the job of the first one, on every route, whether it
//! runs, has ended or begins in the same moment; pictures are paid for once. What never began is
//! made anew.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{fs, thread};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use support::{Browser, HomeOptions, Lab, Reply, Service, Setup, fake, pictures, sqlite::Database};

const ROUTES: [&str; 4] =
    ["/v1/images/generations", "/v1/images/edits", "/v1/images/generate", "/v1/images/jobs"];

const KEY: (&str, &str) = ("idempotency-key", "order-1");
const AGAIN: (&str, &str) = ("x-stainless-retry-count", "1");

fn post(service: &Service, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
    service.request("POST", path, headers, Some(body.to_string().as_bytes()))
}

/// A body that every route takes: each reads its own fields.
fn body(prompt: &str) -> Value {
    let picture = STANDARD.encode(pictures::of_seed(&pictures::Kind::default(), "reference"));
    json!({"prompt": prompt, "images": [{"image_url": picture}], "size": "1024x1024"})
}

fn job(reply: &Reply) -> String {
    reply.header("x-job-id").unwrap().to_owned()
}

fn lab() -> Lab {
    Lab::served(&[HomeOptions::default()], |setup| setup)
}

fn paid(lab: &Lab) -> usize {
    lab.backend.image_requests().iter().filter(|request| request.picture.is_some()).count()
}

#[test]
fn the_same_key_and_body_find_the_job_on_every_route() {
    let lab = lab();
    for (number, path) in ROUTES.into_iter().enumerate() {
        let key = format!("order {number}");
        let headers = [("idempotency-key", key.as_str())];
        let body = body(&format!("kite {number}"));
        let first = post(&lab.service, path, &headers, &body);
        assert!([200, 202].contains(&first.status), "{first:?}");
        lab.service.wait_job(&job(&first));
        let second = post(&lab.service, path, &headers, &body);
        assert_eq!((second.status, job(&second)), (first.status, job(&first)), "{path}");
        if first.status == 200 {
            assert_eq!(second.json(), first.json());
        }
        assert_eq!(paid(&lab), number + 1, "{path}");
    }
    // The files of a repetition do not stay.
    let references = lab.service.state_dir().join("references");
    let folders = fs::read_dir(references).unwrap().flatten().filter(|one| one.path().is_dir());
    assert_eq!(folders.count(), 1);
}

#[test]
fn another_body_under_the_same_key_is_refused() {
    let service = Setup::painter().start();
    post(&service, ROUTES[0], &[KEY], &body("a kite")).expect(200);
    let other = [
        (ROUTES[0], body("another kite")),
        (ROUTES[2], body("a kite")),
        (ROUTES[0], json!({"prompt": "a kite", "size": "1024x1024", "n": 2})),
        (ROUTES[0], json!({"prompt": "a kite", "size": "1024x1024", "response_format": "url"})),
    ];
    for (path, body) in other {
        let reply = post(&service, path, &[KEY], &body).expect(422);
        assert_eq!(reply.json()["error"]["code"], "idempotency_mismatch");
    }
    // Another caller's key of that name is another key.
    let other = service.key("other");
    let bearer = format!("Bearer {other}");
    let headers = [KEY, ("authorization", bearer.as_str())];
    let text = body("another kite").to_string();
    service.request_bare("POST", ROUTES[0], &headers, Some(text.as_bytes())).expect(200);
}

#[test]
fn keys_have_their_bounds() {
    let service = Setup::painter().start();
    let long = "k".repeat(255);
    post(&service, ROUTES[0], &[("idempotency-key", &long)], &body("a kite")).expect(200);
    let longer = "k".repeat(256);
    for bad in [longer.as_str(), "", "naïve"] {
        let reply =
            post(&service, ROUTES[0], &[("idempotency-key", bad)], &body("a kite")).expect(400);
        assert_eq!(reply.json()["error"]["code"], "invalid_idempotency_key");
    }
}

#[test]
fn a_key_is_known_for_a_day() {
    let service = Setup::painter().start();
    let first = job(&post(&service, ROUTES[0], &[KEY], &body("a kite")).expect(200));
    let back = |hours: u32| {
        Database::of(&service).run(&format!(
            "UPDATE jobs SET created_at = created_at - {hours} * 3600000, \
             finished_at = finished_at - {hours} * 3600000"
        ));
    };
    back(23);
    assert_eq!(job(&post(&service, ROUTES[0], &[KEY], &body("a kite"))), first);
    back(2);
    let anew = post(&service, ROUTES[0], &[KEY], &body("another kite")).expect(200);
    assert_ne!(job(&anew), first);
}

#[test]
fn a_repetition_joins_the_job_that_runs() {
    let lab = lab();
    lab.backend.hold_images();
    for (number, path) in ROUTES.into_iter().enumerate() {
        lab.backend.reset_counts();
        lab.backend.hold_images();
        let body = body(&format!("kite {number}"));
        let (first, second) = thread::scope(|scope| {
            let first = scope.spawn(|| post(&lab.service, path, &[], &body));
            lab.backend.wait_for_images(1);
            let second = scope.spawn(|| post(&lab.service, path, &[AGAIN], &body));
            // It waits for the same job, and asks for nothing.
            thread::sleep(std::time::Duration::from_millis(300));
            lab.backend.release_images();
            (first.join().unwrap(), second.join().unwrap())
        });
        assert_eq!(first.status, second.status);
        assert_eq!(job(&first), job(&second), "{path}");
        lab.service.wait_job(&job(&first));
        assert_eq!(lab.backend.image_requests().len(), 1, "{path}");
    }
}

#[test]
fn a_caller_that_was_cut_off_gets_its_picture_by_asking_again() {
    let lab = lab();
    lab.backend.hold_images();
    let body = body("a kite").to_string();
    let bearer = format!("Bearer {}", lab.service.default_key());
    let mut connection = lab.service.connect();
    let headers = [("authorization", bearer.as_str())];
    connection.send("POST", ROUTES[0], &headers, Some(body.as_bytes())).unwrap();
    lab.backend.wait_for_images(1);
    drop(connection);
    lab.backend.release_images();
    let again = lab.service.request("POST", ROUTES[0], &[AGAIN], Some(body.as_bytes())).expect(200);
    assert!(again.json()["data"][0]["b64_json"].is_string());
    assert_eq!(lab.backend.image_requests().len(), 1);
}

#[test]
fn a_restart_in_between_changes_nothing() {
    let mut lab = lab();
    let body = body("a kite [stub image_latency=1]");
    let first = job(&post(&lab.service, "/v1/images/jobs", &[KEY], &body).expect(202));
    lab.service.restart();
    let second = post(&lab.service, "/v1/images/jobs", &[KEY], &body).expect(202);
    assert_eq!(job(&second), first);
    assert_eq!(lab.service.wait_job(&first)["status"], "succeeded");
    assert_eq!(paid(&lab), 1);
}

#[test]
fn two_at_the_same_instant_are_one_job() {
    let lab = lab();
    for (number, path) in ROUTES.into_iter().enumerate() {
        lab.backend.reset_counts();
        let (key, body) = (format!("twin {number}"), body(&format!("twins {number}")));
        let headers = [("idempotency-key", key.as_str())];
        let replies: Vec<Reply> = thread::scope(|scope| {
            let asked: Vec<_> =
                (0..8).map(|_| scope.spawn(|| post(&lab.service, path, &headers, &body))).collect();
            asked.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let jobs: Vec<String> = replies.iter().map(job).collect();
        assert!(jobs.iter().all(|id| *id == jobs[0]), "{path}: {jobs:?}");
        lab.service.wait_job(&jobs[0]);
        assert_eq!(lab.backend.image_requests().len(), 1, "{path}");
    }
}

#[test]
fn a_repetition_is_only_what_says_that_it_is_one() {
    let service = Setup::painter().start();
    let first = job(&post(&service, ROUTES[0], &[], &body("a kite")).expect(200));
    for headers in
        [&[][..], &[("x-stainless-retry-count", "0")], &[("x-stainless-retry-count", "x")]]
    {
        let other = job(&post(&service, ROUTES[0], headers, &body("a kite")).expect(200));
        assert_ne!(other, first);
    }
    // Another route or another body has no first request.
    let anew = job(&post(&service, ROUTES[0], &[AGAIN], &body("another kite")).expect(200));
    assert_ne!(anew, first);
    let native = job(&post(&service, ROUTES[2], &[AGAIN], &body("a kite")).expect(200));
    assert_ne!(native, first);
}

#[test]
fn a_job_is_found_for_a_quarter_of_an_hour_after_its_end() {
    let service = Setup::painter().start();
    let first = job(&post(&service, ROUTES[0], &[], &body("a kite")).expect(200));
    let back = |minutes: u32| {
        let by = minutes * 60_000;
        Database::of(&service).run(&format!("UPDATE jobs SET finished_at = finished_at - {by}"));
    };
    back(14);
    assert_eq!(job(&post(&service, ROUTES[0], &[AGAIN], &body("a kite"))), first);
    back(2);
    assert_ne!(job(&post(&service, ROUTES[0], &[AGAIN], &body("a kite"))), first);
}

#[test]
fn a_final_failure_is_told_again_and_nothing_is_paid() {
    let lab = lab();
    for (mode, status) in [("moderated", 400), ("refuse", 400), ("garbage", 502)] {
        lab.backend.reset_counts();
        let body = body(&format!("a kite [stub mode={mode}]"));
        let key = [("idempotency-key", mode)];
        let first = post(&lab.service, ROUTES[0], &key, &body).expect(status);
        let asked = lab.backend.image_requests().len();
        let second = post(&lab.service, ROUTES[0], &key, &body).expect(status);
        assert_eq!(second.json(), first.json());
        assert_eq!(lab.backend.image_requests().len(), asked, "{mode}");
    }
}

#[test]
fn what_never_began_is_made_anew() {
    let setup = Setup::fake();
    let codex = fake::binary();
    let mut service = setup.set("CODEX_BIN", "/nonexistent/codex").start();
    let first = post(&service, ROUTES[0], &[KEY], &body("a kite")).expect(502);
    assert_eq!(first.json()["error"]["code"], "codex_missing");
    service.set("CODEX_BIN", codex);
    service.restart();
    let again = post(&service, ROUTES[0], &[KEY], &body("a kite")).expect(200);
    assert_ne!(job(&again), job(&first));
    // From now on it is found.
    assert_eq!(job(&post(&service, ROUTES[0], &[KEY], &body("a kite"))), job(&again));
    assert_eq!(fake::payments(&service.codex_home()).len(), 1);
}

#[test]
fn a_cancelled_job_is_not_paid_for_after_all() {
    let lab = lab();
    lab.backend.hold_images();
    let first = job(&post(&lab.service, "/v1/images/jobs", &[KEY], &body("a kite")).expect(202));
    lab.backend.wait_for_images(1);
    lab.service.delete(&format!("/v1/images/jobs/{first}")).expect(200);
    lab.backend.release_images();
    let again = post(&lab.service, "/v1/images/jobs", &[KEY], &body("a kite")).expect(202);
    assert_eq!(job(&again), first);
    assert_eq!(lab.service.job(&first)["status"], "cancelled");
    assert_eq!(lab.backend.image_requests().len(), 1);
}

/// Deletes a job as the operator does.
fn delete(service: &Service, job: &str) {
    let mut browser = Browser::signed_in(service);
    browser.post(&format!("/admin/image-requests/{job}/delete"), &[]).expect(303);
}

#[test]
fn a_deleted_job_is_not_paid_for_after_all_and_shows_nothing() {
    let service = Setup::admin().start();
    let generated = service.state_dir().join("generated");
    for (number, path) in ROUTES.into_iter().enumerate() {
        let key = format!("order {number}");
        let headers = [("idempotency-key", key.as_str())];
        let body = body(&format!("kite {number}"));
        let first = job(&post(&service, path, &headers, &body));
        service.wait_job(&first);
        // What cannot be removed keeps its row.
        let file = Database::of(&service)
            .texts(&format!("SELECT file FROM images WHERE job_id = '{first}'"))
            .remove(0);
        fs::remove_file(generated.join(&file)).unwrap();
        fs::create_dir_all(generated.join(&file).join("full")).unwrap();
        delete(&service, &first);
        for repeats in [headers, [AGAIN]] {
            let again = post(&service, path, &repeats, &body);
            assert_eq!(job(&again), first, "{path}");
            if path == "/v1/images/jobs" {
                assert_eq!(again.status, 202);
            } else {
                assert_eq!(again.expect(502).json()["error"]["code"], "expired", "{path}");
            }
        }
        service.get(&format!("/v1/images/jobs/{first}")).expect(404);
        let jobs = Database::of(&service).number("SELECT count(*) FROM jobs");
        assert_eq!(jobs, i64::try_from(number).unwrap() + 1, "{path}");
    }
    assert_eq!(service.get("/v1/images/jobs").json()["data"], json!([]));
}

#[test]
fn a_stream_shows_nothing_of_a_deleted_job() {
    let service = Setup::admin().start();
    let body = json!({"prompt": "a kite", "stream": true});
    let first = job(&post(&service, ROUTES[0], &[KEY], &body).expect(200));
    service.wait_job(&first);
    let generated = service.state_dir().join("generated");
    let file = Database::of(&service).texts("SELECT file FROM images").remove(0);
    fs::remove_file(generated.join(&file)).unwrap();
    fs::create_dir_all(generated.join(&file).join("full")).unwrap();
    delete(&service, &first);
    let again = post(&service, ROUTES[0], &[KEY], &body).expect(200);
    assert_eq!(job(&again), first);
    let events = again.text();
    assert!(events.starts_with("event: error\n") && events.contains("\"expired\""), "{events}");
}

#[test]
fn a_failure_that_was_deleted_is_the_same_failure() {
    let service = Setup::admin().start();
    for n in [1, 2] {
        let (key, body) = (format!("order {n}"), json!({"prompt": "a kite", "n": n}));
        let ask = || post(&service, ROUTES[0], &[("idempotency-key", &key)], &body);
        let first = job(&ask().expect(200));
        Database::of(&service).run(
            "DELETE FROM images; \
             UPDATE turns SET state = 'failed', error_code = 'moderation_blocked', error = 'kite!'; \
             UPDATE jobs SET state = 'failed', error_code = 'moderation_blocked', error = 'kite!' \
             WHERE deleted_at IS NULL",
        );
        ask().expect(400);
        delete(&service, &first);
        let again = ask().expect(400);
        assert_eq!(job(&again), first);
        assert_eq!(again.json()["error"]["code"], "moderation_blocked");
        assert!(!again.text().contains("kite"), "{}", again.text());
    }
}

#[test]
fn what_was_deleted_before_it_began_does_not_begin() {
    let front = Setup::admin().args(&["--role", "front"]).start();
    let first = job(&post(&front, "/v1/images/jobs", &[KEY], &body("a kite")).expect(202));
    delete(&front, &first);
    assert_eq!(job(&post(&front, "/v1/images/jobs", &[KEY], &body("a kite")).expect(202)), first);
    assert_eq!(Database::of(&front).texts("SELECT state FROM jobs"), ["cancelled"]);
}

#[test]
fn a_full_queue_keeps_nobody_from_the_job_that_is_there() {
    let front =
        Setup::fake().set("GENERATION_QUEUE_MAX_SIZE", "1").args(&["--role", "front"]).start();
    let first = job(&post(&front, "/v1/images/jobs", &[KEY], &body("a kite")).expect(202));
    post(&front, "/v1/images/jobs", &[], &body("another kite")).expect(503);
    post(&front, "/v1/images/jobs", &[("idempotency-key", "order-2")], &body("a kite")).expect(503);
    assert_eq!(job(&post(&front, "/v1/images/jobs", &[KEY], &body("a kite")).expect(202)), first);
    assert_eq!(job(&post(&front, "/v1/images/jobs", &[AGAIN], &body("a kite")).expect(202)), first);
}

#[test]
fn a_form_is_known_again_whatever_its_boundary_and_order() {
    let lab = lab();
    let picture = pictures::unique(&pictures::Kind::default(), "image");
    let send = |boundary: &str, picture_first: bool, headers: &[(&str, &str)]| {
        let part = |head: &str, value: &[u8]| {
            let head = format!("--{boundary}\r\ncontent-disposition: form-data; {head}\r\n\r\n");
            [head.as_bytes(), value, b"\r\n"].concat()
        };
        let image = part("name=\"image\"; filename=\"a.png\"", &picture);
        let prompt = part("name=\"prompt\"", b"make it night");
        let mut parts = [prompt, image];
        if picture_first {
            parts.reverse();
        }
        let body = [parts.concat(), format!("--{boundary}--\r\n").into_bytes()].concat();
        let kind = format!("multipart/form-data; boundary={boundary}");
        let mut all = vec![("content-type", kind.as_str())];
        all.extend(headers);
        lab.service.request("POST", "/v1/images/edits", &all, Some(&body)).expect(200)
    };
    let first = job(&send("one", false, &[]));
    assert_eq!(job(&send("two", true, &[AGAIN])), first);
    assert_eq!(lab.backend.image_requests().len(), 1);
}
