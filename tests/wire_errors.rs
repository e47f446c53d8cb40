//! Promise: each error answer of the native API has the status, the headers and the body that its
//! callers know. One snapshot an answer; `INSTA_UPDATE=always` writes them anew.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::fmt::Write as _;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Reply, Service, Setup, pictures, process, sqlite::Database, wait_for};

const GENERATE: &str = "/v1/images/generate";
const JOBS: &str = "/v1/images/jobs";

/// Status, headers but those of every HTTP server, and body.
fn shown(reply: &Reply) -> String {
    let mut text = format!("{}\n", reply.status);
    for (name, value) in &reply.headers {
        if !["date", "content-length", "connection"].contains(&name.as_str()) {
            writeln!(text, "{name}: {value}").unwrap();
        }
    }
    match serde_json::from_slice::<Value>(&reply.body) {
        Ok(body) => write!(text, "\n{body:#}").unwrap(),
        Err(_) => write!(text, "\n{}", reply.text()).unwrap(),
    }
    text
}

#[track_caller]
fn assert_answer(name: &str, reply: &Reply) {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.add_filter("req_[0-9a-f]{20}", "[request]");
    settings.add_filter("img_[0-9a-f]{32}", "[job]");
    settings.add_filter(r"retry-after: \d{2,}", "retry-after: [seconds]");
    settings.bind(|| insta::assert_snapshot!(name, shown(reply)));
    assert_envelope(reply);
}

/// What holds for each of them.
#[track_caller]
fn assert_envelope(reply: &Reply) {
    let body = reply.json();
    assert_eq!(body["error"]["message"], body["detail"]);
    for member in ["type", "code"] {
        assert!(body["error"][member].is_string(), "{member}: {body}");
    }
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert!(reply.header("x-request-id").is_some());
    assert_eq!(reply.header("x-job-id"), body["id"].as_str());
}

fn post(service: &Service, body: impl AsRef<[u8]>) -> Reply {
    service.request("POST", JOBS, &[], Some(body.as_ref()))
}

#[test]
fn who_calls() {
    let service = Setup::painter().start();
    let with = |key: &str| service.request_as(key, "POST", GENERATE, Some(b"{}"));
    assert_answer("missing_key", &service.request_bare("POST", GENERATE, &[], Some(b"{}")));
    assert_answer("invalid_key", &with("cimg_nobodys"));
    let key = service.key("resting");
    service.change_key("disable", "resting");
    assert_answer("disabled_key", &with(&key));
}

#[test]
fn what_is_not_there() {
    let service = Setup::painter().start();
    assert_answer("no_route", &service.get("/v1/images/unknown"));
    for path in ["/v1", "/v1/images/jobs/", "/v1/images/generate/x", "//health", "/generated/"] {
        let reply = service.get(path);
        assert_eq!(reply.json()["error"]["code"], "not_found", "{path}");
        assert_eq!(reply.status, 404, "{path}");
    }
    assert_answer("no_job", &service.get(&format!("{JOBS}/img_{}", "0".repeat(32))));
    assert_answer("no_file", &service.get("/generated/img_0.png"));

    assert_answer("wrong_method", &service.get(GENERATE));
    for (method, path, allowed) in [
        ("PUT", JOBS, "GET,HEAD,POST"),
        ("POST", "/v1/images/jobs/img_0", "DELETE,GET,HEAD"),
        ("DELETE", "/generated/img_0.png", "GET,HEAD"),
        ("POST", "/health", "GET,HEAD"),
        ("BREW", "/ready", "GET,HEAD"),
    ] {
        let reply = service.request(method, path, &[], None).expect(405);
        assert_envelope(&reply);
        let mut found: Vec<&str> = reply.header("allow").unwrap().split(',').collect();
        found.sort_unstable();
        assert_eq!(found.join(","), allowed, "{method} {path}");
    }
}

#[test]
fn bodies_that_cannot_be_read() {
    let service = Setup::painter().set("MAX_REQUEST_BODY_BYTES", "100000").start();
    let long = vec![b' '; 100_001];
    assert_answer("body_too_large", &post(&service, &long));
    assert_answer("malformed_json", &post(&service, "{\"prompt\": \"a kite\","));
    assert_answer("empty_body", &post(&service, ""));
    assert_answer("lone_surrogate", &post(&service, r#"{"prompt":"\ud800"}"#));
    assert_answer("nul", &post(&service, r#"{"prompt":"a\u0000b"}"#));

    let mut connection = service.connect();
    let bearer = format!("Bearer {}", service.default_key());
    let headers = [("authorization", bearer.as_str()), ("transfer-encoding", "chunked")];
    connection.send("POST", JOBS, &headers, Some(b"5\r\n{\"pro\r\nno length\r\n")).unwrap();
    assert_answer("broken_body", &connection.reply("POST").unwrap());
}

#[test]
fn fields_out_of_their_bounds() {
    let service = Setup::painter().start();
    for (name, body) in [
        ("no_object", json!(["a kite"])),
        ("no_prompt", json!({"size": "auto"})),
        ("prompt_empty", json!({"prompt": ""})),
        ("prompt_type", json!({"prompt": 7})),
        ("prompt_null", json!({"prompt": null})),
        ("size", json!({"prompt": "x", "size": "12x99999"})),
        ("quality", json!({"prompt": "x", "quality": "best"})),
        ("count", json!({"prompt": "x", "count": 5})),
        ("too_many_references", json!({"prompt": "x", "reference_images_base64": many(6)})),
        ("references_type", json!({"prompt": "x", "reference_images_base64": "AAAA"})),
        ("references_item_type", json!({"prompt": "x", "reference_images_base64": [1]})),
        ("reference_type", json!({"prompt": "x", "reference_image_base64": 1})),
    ] {
        assert_answer(name, &post(&service, body.to_string()).expect(422));
    }
    for (size, status) in [
        ("100x100", 202),
        ("9999x9999", 202),
        ("99x100", 422),
        ("10000x100", 422),
        ("1024X1024", 422),
        ("1024x1024 ", 422),
        ("1024", 422),
        ("", 422),
        ("AUTO", 422),
        ("١٠٢٤x1024", 422),
    ] {
        let body = json!({"prompt": "x", "size": size});
        assert_eq!(post(&service, body.to_string()).status, status, "{size}");
    }
    for count in ["0", "-1", "5", "1.5", "\"\"", "\"x\"", "null", "true", "[]", "{}", "1e99"] {
        let reply = post(&service, format!(r#"{{"prompt":"x","count":{count}}}"#)).expect(422);
        assert_eq!(reply.json()["error"]["param"], "count", "{count}");
    }
    for query in ["limit=0", "limit=101", "limit=x", "limit=", "cursor=", "cursor=5", "limit=%ff"] {
        let reply = service.get(&format!("{JOBS}?{query}")).expect(422);
        assert_envelope(&reply);
        let param = query.split('=').next().unwrap();
        let named = reply.json()["error"]["param"].as_str().unwrap().to_owned();
        assert!(named == param || named == "query", "{query}: {named}");
    }
}

fn many(count: usize) -> Vec<String> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let picture = || pictures::unique(&pictures::Kind::default(), "reference");
    (0..count).map(|_| STANDARD.encode(picture())).collect()
}

#[test]
fn a_bad_reference_is_named_by_its_index() {
    let service = Setup::painter().start();
    let good = many(1).remove(0);
    let body = json!({"prompt": "x", "reference_images_base64": [good, "no base64!"]});
    assert_answer("bad_reference", &post(&service, body.to_string()).expect(400));
    let body = json!({"prompt": "x", "reference_image_base64": "AAAA"});
    assert_answer("bad_single_reference", &post(&service, body.to_string()).expect(400));
}

#[test]
fn what_codex_failed() {
    // A service each: an exhausted or expired login concerns the jobs after it.
    for (name, script) in [
        ("model_refused", "picture=none say=I+cannot+draw+that."),
        ("no_image", "picture=garbage"),
        ("codex_error", "picture=none fail=it+rained"),
        ("moderation_blocked", "picture=none fail=rejected+by+the+safety+system"),
        ("login_expired", "picture=none fail=Please+sign+in+again"),
        ("quota_exceeded", "picture=none fail=You've+hit+your+usage+limit.+Try+again+in+3+days"),
    ] {
        let service = Setup::fake().start();
        let reply = service.generate(&format!("[fake {script}]"));
        assert_answer(&format!("failed_{name}"), &reply);
        let job = service.job(reply.header("x-job-id").unwrap());
        assert_eq!(job["error_code"], reply.json()["error"]["code"]);
        assert_eq!(job["error"], reply.json()["detail"]);
        if name == "quota_exceeded" {
            let seconds: i64 = reply.header("retry-after").unwrap().parse().unwrap();
            assert!((3 * 86_400 - 600..=3 * 86_400 + 600).contains(&seconds), "{seconds}");
        }
    }
    let service = Setup::fake().set("CODEX_TIMEOUT_SECONDS", "0.3").start();
    assert_answer("failed_timeout", &service.generate("[fake sleep=60]"));
    let service = Setup::new().set("CODEX_BIN", "/nonexistent/codex").start();
    assert_answer("failed_codex_missing", &service.generate("a kite"));
    let service = Setup::fake().start();
    service.generate("[fake picture=same]").expect(200);
    assert_answer("failed_duplicate_image", &service.generate("[fake picture=same]"));
}

#[test]
fn all_of_several_pictures_failed() {
    let service = Setup::fake().start();
    let body = json!({"prompt": "[fake picture=garbage]", "count": 2});
    assert_answer("failed_all_of_two", &service.post_json(GENERATE, &body).expect(502));
}

#[test]
fn not_now() {
    let service = Setup::fake()
        .set("REQUEST_WAIT_TIMEOUT_SECONDS", "0.2")
        .set("GENERATION_QUEUE_MAX_SIZE", "1")
        .set("CODEX_WORKER_CONCURRENCY", "1")
        .start();
    let running = service.generate("[fake sleep=60]");
    assert_answer("still_running", &running);
    service.submit("a kite");
    assert_answer("queue_full_async", &post(&service, r#"{"prompt":"x"}"#));
    let sync = service.generate("x");
    assert_answer("queue_full_sync", &sync);
}

#[test]
fn too_many_uploads() {
    let service = Setup::painter().start();
    let bearer = format!("Bearer {}", service.default_key());
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-length", "20000"),
        ("expect", "100-continue"),
    ];
    // Each is being read when this is done, and goes no further.
    let uploads: Vec<_> = (0..32)
        .map(|_| {
            let mut connection = service.connect();
            connection.send("POST", JOBS, &headers, None).unwrap();
            assert_eq!(connection.head().unwrap().status, 100);
            connection
        })
        .collect();
    let long = " ".repeat(20_000);
    assert_answer("too_many_uploads", &post(&service, &long));
    // Small bodies still pass, and the slots come back.
    service.generate("a kite").expect(200);
    drop(uploads);
    wait_for("a free slot", || (post(&service, &long).status == 400).then_some(()));
}

#[test]
fn a_waiting_caller_is_told_of_the_stop() {
    let mut service = Setup::fake().set("SHUTDOWN_GRACE_SECONDS", "0.2").start();
    let body = json!({"prompt": "[fake sleep=60]"}).to_string();
    let bearer = format!("Bearer {}", service.default_key());
    let mut connection = service.connect();
    let headers = [("authorization", bearer.as_str())];
    connection.send("POST", GENERATE, &headers, Some(body.as_bytes())).unwrap();
    wait_for("the job to run", || {
        let jobs = service.get(JOBS).json();
        (jobs["data"][0]["status"] == "running").then_some(())
    });
    process::signal(service.pid(), Signal::TERM);
    let reply = connection.reply("POST").unwrap();
    assert_answer("shutting_down", &reply);
    drop(connection);
    assert!(service.wait_end(support::PATIENCE).success());
}

#[test]
fn jobs_that_cannot_be_cancelled() {
    let service = Setup::fake().start();
    let done = service.generate("a kite").expect(200).json()["id"].as_str().unwrap().to_owned();
    assert_answer("cancel_finished", &service.delete(&format!("{JOBS}/{done}")));
    let failed = service.generate("[fake picture=garbage]");
    let id = failed.header("x-job-id").unwrap();
    assert_answer("cancel_failed", &service.delete(&format!("{JOBS}/{id}")));
    assert_answer("cancel_unknown", &service.delete(&format!("{JOBS}/img_{}", "0".repeat(32))));
}

#[test]
fn a_caller_whose_job_is_cancelled_by_another() {
    let service = Setup::fake().start();
    let body = json!({"prompt": "[fake sleep=60]"}).to_string();
    let bearer = format!("Bearer {}", service.default_key());
    let mut connection = service.connect();
    let headers = [("authorization", bearer.as_str())];
    connection.send("POST", GENERATE, &headers, Some(body.as_bytes())).unwrap();
    let id = wait_for("the job", || {
        service.get(JOBS).json()["data"][0]["id"].as_str().map(str::to_owned)
    });
    service.delete(&format!("{JOBS}/{id}")).expect(200);
    assert_answer("cancelled_while_waiting", &connection.reply("POST").unwrap());
}

#[test]
fn our_own_fault() {
    let service = Setup::painter().start();
    let id = service.submit("a kite");
    service.wait_job(&id);
    Database::of(&service).run("ALTER TABLE jobs RENAME TO hidden");
    // No word of tables, files or SQL.
    assert_answer("internal", &service.get(&format!("{JOBS}/{id}")));
    service.request_bare("GET", "/health", &[], None).expect(200);
}
