//! Promise: a picture that was there before is never passed off as a new one. The job fails with
//! `duplicate_image`, and the older picture stays untouched.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use support::{
    Reply, Service, Setup, lab,
    pictures::{self, Kind},
    rows,
};

fn generate(service: &Service, body: &Value) -> Reply {
    service.post_json("/v1/images/generate", body)
}

#[track_caller]
fn assert_duplicate(service: &Service, reply: Reply) {
    let reply = reply.expect(502);
    let body = reply.json();
    assert_eq!(body["error"]["code"], "duplicate_image");
    assert!(body["detail"].as_str().unwrap().contains("was there before"), "{body}");
    assert_eq!(reply.header("x-should-retry"), None, "the next one may well be new");
    let id = body["id"].as_str().unwrap();
    let job = service.job(id);
    assert_eq!((&job["status"], &job["images"]), (&json!("failed"), &json!([])));
    let files = lab::names(&service.state_dir().join("generated"));
    assert!(!files.iter().any(|file| file.contains(id)), "{files:?}");
    assert_eq!(rows::of(service, "images", "file").len(), files.len(), "a row for each file");
}

fn url(reply: Reply) -> String {
    reply.expect(200).json()["images"][0]["url"].as_str().unwrap().to_owned()
}

#[test]
fn a_reference_is_no_new_picture() {
    let service = Setup::fake().start();
    let reference = pictures::unique(&Kind::default(), "reference");
    let body = json!({"prompt": "bluer [fake picture=copy-of-reference]",
                      "reference_images_base64": [STANDARD.encode(&reference)]});
    assert_duplicate(&service, generate(&service, &body));
    // Of several references, each counts; a second try is no better.
    let other = STANDARD.encode(pictures::unique(&Kind::default(), "other"));
    let body = json!({"prompt": "bluer [fake picture=copy-of-reference]",
                      "reference_images_base64": [STANDARD.encode(&reference), other]});
    assert_duplicate(&service, generate(&service, &body));
    // A picture made from the reference is new.
    let body = json!({"prompt": "bluer", "reference_images_base64": [STANDARD.encode(&reference)]});
    assert_ne!(service.picture(&url(generate(&service, &body))), reference);
}

#[test]
fn another_jobs_picture_is_no_new_picture() {
    let service = Setup::fake().start();
    let same = json!({"prompt": "a kite [fake picture=same]"});
    let first = url(generate(&service, &same));
    let before = service.picture(&first);
    assert_duplicate(&service, generate(&service, &same));
    assert_duplicate(&service, generate(&service, &same));
    assert_eq!(service.picture(&first), before, "untouched");

    // Nobody is told whose picture it was, and no other caller gets it.
    let key = format!("Bearer {}", service.key("other"));
    let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
    let body = same.to_string();
    let endpoint = service.endpoint();
    let reply = endpoint
        .request("POST", "/v1/images/generate", &headers, Some(body.as_bytes()))
        .unwrap()
        .expect(502);
    let id = &first[first.find("img_").unwrap()..first.len() - ".png".len()];
    assert!(!reply.text().contains(id), "{reply:?}");
    assert_eq!(service.picture(&first), before);
}

#[test]
fn pictures_of_one_job_must_differ_too() {
    let service = Setup::fake().start();
    let body = json!({"prompt": "kites [fake picture=same]", "count": 3});
    let answer = generate(&service, &body).expect(200).json();
    assert_eq!(answer["images"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!(answer["missing"], 2);
    for error in answer["errors"].as_array().unwrap() {
        assert_eq!(error["code"], "duplicate_image");
    }
    assert_eq!(lab::names(&service.state_dir().join("generated")).len(), 1);
    let shown = answer["images"][0]["url"].as_str().unwrap();
    assert!(!service.picture(shown).is_empty());
}

#[test]
fn at_the_same_time_only_one_of_two_wins() {
    // Two logins, so that two runs end together.
    let setup = Setup::fake();
    let second = support::fake::home(&setup.path("second"));
    let homes = format!("{}:{}", setup.path("codex").display(), second.display());
    let service = setup.set("CODEX_HOMES", homes).start();
    for _ in 0..5 {
        let jobs: Vec<_> =
            (0..2).map(|_| service.submit("a kite [fake picture=same sleep=0.1]")).collect();
        let ended: Vec<_> = jobs.iter().map(|job| service.wait_job(job)).collect();
        assert!(ended.iter().any(|job| job["error_code"] == "duplicate_image"), "{ended:?}");
    }
    let shown: Vec<_> = rows::of(&service, "images", "file");
    assert_eq!(shown.len(), 1, "{shown:?}");
    let files = lab::names(&service.state_dir().join("generated"));
    assert_eq!(files, [shown[0]["file"].as_str().unwrap()]);
    let bytes = fs::read(service.state_dir().join("generated").join(&files[0])).unwrap();
    assert_eq!(pictures::sha256(&bytes), shown[0]["sha256"].as_str().unwrap());
}
