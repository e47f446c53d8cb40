//! Promise: the native API answers every row of its contract: routes, bodies, headers, keys,
//! fields and their defaults, pages of the list.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use serde_json::{Value, json};
use support::{Reply, Service, Setup, fake, lab, pictures, sqlite::Database, wait_for};

const GENERATE: &str = "/v1/images/generate";
const JOBS: &str = "/v1/images/jobs";

fn keys_of(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Milliseconds of a time on the wire; panics unless it has the form that callers parse.
fn time(value: &Value) -> i64 {
    let text = value.as_str().unwrap();
    assert!(text.len() == 29 && text.ends_with("+00:00"), "{text}");
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

#[track_caller]
fn assert_job_id(id: &str) {
    let digits = id.strip_prefix("img_").unwrap();
    assert_eq!(digits.len(), 32, "{id}");
    assert!(digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')), "{id}");
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

fn picture() -> String {
    base64(&pictures::unique(&pictures::Kind::default(), "reference"))
}

// Routes

#[test]
fn the_routes_without_a_key() {
    let service = Setup::painter().start();
    let bare = |method, path| service.request_bare(method, path, &[], None);

    let health = bare("GET", "/health").expect(200);
    assert_eq!(health.text(), r#"{"status":"ok"}"#);
    assert_eq!(health.header("content-type"), Some("application/json"));
    let head = bare("HEAD", "/health").expect(200);
    assert_eq!(head.header("content-length"), Some("15"));

    assert_eq!(bare("GET", "/ready").expect(200).json(), json!({"status": "ready"}));
    let home = bare("GET", "/").expect(303);
    assert_eq!(home.header("location"), Some("/admin"));
    for path in ["/health", "/ready", "/"] {
        assert!(bare("GET", path).header("x-request-id").is_some(), "{path}");
    }
}

#[test]
fn ready_says_what_is_missing() {
    let service = Setup::new().set("CODEX_BIN", "/nonexistent/codex").start();
    let ready = service.request_bare("GET", "/ready", &[], None).expect(503).json();
    assert_eq!(ready["status"], "not ready");
    let codes: Vec<&Value> =
        ready["problems"].as_array().unwrap().iter().map(|problem| &problem["code"]).collect();
    assert!(codes.contains(&&json!("codex_missing")), "{ready}");
    assert!(!ready.to_string().contains("/nonexistent"), "no path: {ready}");
    // It serves all the same, and the job says why.
    let id = service.submit("a kite");
    let job = service.wait_job(&id);
    assert_eq!((&job["status"], &job["error_code"]), (&json!("failed"), &json!("codex_missing")));
}

#[test]
fn the_way_to_the_pages_knows_the_prefix() {
    let service = Setup::painter().set("ADMIN_URL_PREFIX", "/pictures").start();
    let home = service.request_bare("GET", "/", &[], None).expect(303);
    assert_eq!(home.header("location"), Some("/pictures/admin"));
}

#[test]
fn generate_answers_with_the_picture() {
    let service = Setup::painter().start();
    let reply = service.generate("a kite").expect(200);
    let body = reply.json();
    assert_eq!(keys_of(&body), ["created_at", "id", "images", "status"]);
    assert_eq!(body["status"], "succeeded");
    let id = body["id"].as_str().unwrap();
    assert_job_id(id);
    assert_eq!(reply.header("x-job-id"), Some(id));
    assert_eq!(reply.header("content-type"), Some("application/json"));

    let [image] = body["images"].as_array().unwrap().as_slice() else { panic!("{body}") };
    assert_eq!(keys_of(image), ["expires_at", "url"]);
    assert_eq!(image["url"], format!("http://localhost:8000/generated/{id}.png"));
    let week = 7 * 24 * 3600 * 1000;
    let kept = time(&image["expires_at"]) - time(&body["created_at"]);
    assert!((week..week + 600_000).contains(&kept), "{kept}");
    let now = jiff::Timestamp::now().as_millisecond();
    assert!((now - 600_000..=now).contains(&time(&body["created_at"])), "{body}");
    assert!(service.picture(image["url"].as_str().unwrap()).starts_with(b"\x89PNG"));
}

#[test]
fn several_pictures_are_numbered() {
    let service = Setup::painter().set("PUBLIC_BASE_URL", "https://art.example/base/").start();
    let body = service.post_json(GENERATE, &json!({"prompt": "kites", "count": 4})).expect(200);
    let body = body.json();
    let id = body["id"].as_str().unwrap();
    let images = body["images"].as_array().unwrap().iter();
    let urls: Vec<&str> = images.map(|image| image["url"].as_str().unwrap()).collect();
    let expected: Vec<String> = (1..=4)
        .map(|number| format!("https://art.example/base/generated/{id}_{number}.png"))
        .collect();
    assert_eq!(urls, expected);
    assert_eq!(body.get("missing"), None);
    for url in expected {
        service.picture(&url);
    }
}

#[test]
fn the_extension_tells_the_true_type() {
    let service = Setup::fake().start();
    for (kind, extension) in [("ok", "png"), ("jpeg", "jpg"), ("webp", "webp")] {
        let body = service.generate(&format!("[fake picture={kind}]")).expect(200).json();
        let url = body["images"][0]["url"].as_str().unwrap();
        assert!(url.ends_with(&format!(".{extension}")), "{url}");
    }
}

#[test]
fn a_job_is_submitted_and_polled_to_its_end() {
    let service = Setup::fake().start();
    let reply = service.post_json(JOBS, &json!({"prompt": "[fake gate]"})).expect(202);
    let body = reply.json();
    assert_eq!(keys_of(&body), ["id", "status"]);
    assert_eq!(body["status"], "queued");
    let id = body["id"].as_str().unwrap();
    assert_job_id(id);
    let path = format!("{JOBS}/{id}");
    assert_eq!(reply.header("location"), Some(path.as_str()));
    assert_eq!(reply.header("x-job-id"), Some(id));
    assert!(reply.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);

    let running = wait_for("the job to run", || {
        let reply = service.get(&path).expect(200);
        (reply.json()["status"] == "running").then_some(reply)
    });
    assert_eq!(running.header("cache-control"), Some("no-store"));
    assert!(running.header("retry-after").is_some());
    assert_eq!(running.header("x-job-id"), Some(id));
    let job = running.json();
    assert_eq!((&job["images"], &job["error"]), (&json!([]), &Value::Null));

    fake::open_gate(&service.codex_home());
    let job = service.wait_job(id);
    assert_eq!((&job["status"], &job["error"]), (&json!("succeeded"), &Value::Null));
    assert_eq!(
        keys_of(&job),
        [
            "created_at",
            "error",
            "error_code",
            "expires_at",
            "id",
            "images",
            "note",
            "phase",
            "phases",
            "status"
        ]
    );
    assert_eq!(job["images"][0]["expires_at"], job["expires_at"]);
    assert!(time(&job["expires_at"]) > time(&job["created_at"]));
    assert_eq!(service.get(&path).header("retry-after"), None, "nothing more to wait for");
}

#[test]
fn a_failed_job_says_why() {
    let service = Setup::fake().start();
    let job = service.wait_job(&service.submit("[fake picture=garbage]"));
    assert_eq!((&job["status"], &job["images"]), (&json!("failed"), &json!([])));
    assert_eq!(job["error_code"], "no_image");
    assert!(job["error"].is_string(), "{job}");
}

#[test]
fn what_is_missing_of_several_is_said() {
    let service = Setup::fake().start();
    // The same picture three times: the second and the third are no new ones.
    let body = json!({"prompt": "[fake picture=same]", "count": 3});
    let answer = service.post_json(GENERATE, &body).expect(200).json();
    assert_eq!(answer["status"], "succeeded");
    assert_eq!(answer["images"].as_array().unwrap().len(), 1);
    assert_eq!(answer["missing"], 2);
    let errors = answer["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 2);
    for error in errors {
        assert_eq!(keys_of(error), ["code", "index", "message"]);
        assert_eq!(error["code"], "duplicate_image");
    }
    let job = service.job(answer["id"].as_str().unwrap());
    for member in ["status", "images", "missing", "errors"] {
        assert_eq!(job[member], answer[member], "{member}");
    }
    assert_eq!(job["error"], Value::Null);
}

// Keys

#[test]
fn forms_of_the_key() {
    let service = Setup::painter().start();
    let key = service.default_key();
    for good in [
        format!("Bearer {key}"),
        format!("bearer {key}"),
        format!("BEARER   {key}"),
        format!("bEaReR\t{key}  "),
        format!("   Bearer \t {key}\t"),
    ] {
        service.request_bare("GET", JOBS, &[("authorization", &good)], None).expect(200);
    }
    let mut mistyped = key.to_owned();
    mistyped.replace_range(9..10, if &key[9..10] == "x" { "y" } else { "x" });
    let unknown = format!("cimg_{}", "A".repeat(43));
    for (bad, detail) in [
        (String::new(), "Missing bearer API key"),
        (key.to_owned(), "Missing bearer API key"),
        ("Bearer".to_owned(), "Missing bearer API key"),
        ("Bearer   ".to_owned(), "Missing bearer API key"),
        (format!("Basic {key}"), "Missing bearer API key"),
        (format!("Bearer {mistyped}"), "Invalid API key"),
        (format!("Bearer {unknown}"), "Invalid API key"),
        (format!("Bearer {key}x"), "Invalid API key"),
        (format!("Bearer {key} {key}"), "Invalid API key"),
        ("Bearer sk-whatever".to_owned(), "Invalid API key"),
        ("Bearer ключ".to_owned(), "Invalid API key"),
        (format!("Bearer {}", "A".repeat(20_000)), "Invalid API key"),
    ] {
        let reply = service.request_bare("GET", JOBS, &[("authorization", &bad)], None);
        let reply = reply.expect(401);
        assert_eq!(reply.json()["detail"], detail, "{bad}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
}

#[test]
fn a_key_of_the_original_verifies() {
    let service = Setup::painter().start();
    // 43 characters without a checksum, stored as the hex SHA-256 of the whole key.
    let key = format!("cimg_{}", "Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE");
    let hash = pictures::sha256(key.as_bytes());
    Database::of(&service).run(&format!(
        "INSERT INTO api_keys (id, name, handle, hash, created_at) \
         VALUES ('key_old', 'old', 'cimg_Zm9v', '{hash}', 0)"
    ));
    service.request_as(&key, "GET", JOBS, None).expect(200);
}

#[test]
fn each_route_wants_a_key_before_anything_else() {
    let service = Setup::painter().start();
    let id = service.submit("a kite");
    let job = format!("{JOBS}/{id}");
    for (method, path) in [
        ("POST", GENERATE),
        ("POST", JOBS),
        ("GET", JOBS),
        ("GET", job.as_str()),
        ("DELETE", job.as_str()),
        ("GET", "/v1/images/jobs/%ff"),
        ("GET", "/v1/images/jobs?limit=nonsense"),
    ] {
        let reply = service.request_bare(method, path, &[], Some(b"{")).expect(401);
        assert_eq!(reply.json()["detail"], "Missing bearer API key", "{method} {path}");
    }
    // Its rights end at once, without a restart.
    let key = service.key("passing");
    service.request_as(&key, "GET", JOBS, None).expect(200);
    service.change_key("disable", "passing");
    for (method, path) in [("POST", GENERATE), ("GET", JOBS), ("GET", job.as_str())] {
        let reply = service.request_as(&key, method, path, None).expect(403);
        assert_eq!(reply.json()["detail"], "API key is disabled", "{method} {path}");
    }
    service.change_key("enable", "passing");
    service.request_as(&key, "GET", JOBS, None).expect(200);
    service.change_key("delete", "passing");
    service.request_as(&key, "GET", JOBS, None).expect(401);
}

#[test]
fn the_job_of_another_key_does_not_exist() {
    let service = Setup::painter().start();
    let id = service.submit("a kite");
    let other = service.key("other");
    let answer = |method, id: &str| {
        let path = format!("{JOBS}/{id}");
        let mut reply = service.request_as(&other, method, &path, None).expect(404);
        reply.headers.retain(|(name, _)| name != "x-request-id" && name != "date");
        (reply.headers, reply.body)
    };
    for method in ["GET", "DELETE"] {
        let unknown = answer(method, &format!("img_{}", "0".repeat(32)));
        assert_eq!(answer(method, &id), unknown, "{method}: another's");
        for odd in ["img_000000000000000000000000", "nonsense", "%00", "%ff", "img_..%2f..%2fx"] {
            assert_eq!(answer(method, odd), unknown, "{method} {odd}");
        }
    }
    let list = service.request_as(&other, "GET", JOBS, None).expect(200).json();
    assert_eq!(list, json!({"data": [], "has_more": false, "next_cursor": null}));
    assert_eq!(service.wait_job(&id)["status"], "succeeded", "nobody cancelled it");
}

// Headers

#[test]
fn a_sane_request_id_is_adopted() {
    let service = Setup::painter().start();
    let answered = |path: &str, id: &str| {
        let reply = service.request_bare("GET", path, &[("x-request-id", id)], None);
        reply.header("x-request-id").unwrap().to_owned()
    };
    let longest = "x".repeat(64);
    for path in ["/health", JOBS, "/v1/none", "/generated/none.png"] {
        for sane in ["abc-1.2_3", "a", longest.as_str()] {
            assert_eq!(answered(path, sane), sane, "{path}");
        }
        let too_long = "x".repeat(65);
        for odd in ["", "a b", "a\tb", "<script>", "a\u{e9}", "a,b", too_long.as_str()] {
            let made = answered(path, odd);
            assert!(made.starts_with("req_") && made.len() == 24, "{path} {odd}: {made}");
        }
    }
    assert_ne!(answered("/health", ""), answered("/health", ""));
}

// Fields

/// Submits, and gives `size quality count references` of the row.
fn row_of(service: &Service, body: &Value) -> String {
    let reply = service.post_json(JOBS, body).expect(202);
    service.wait_job(reply.json()["id"].as_str().unwrap());
    let sql = "SELECT size || ' ' || quality || ' ' || count || ' ' || \
               (SELECT count(*) FROM job_references WHERE job_id = jobs.id) \
               FROM jobs ORDER BY seq DESC LIMIT 1";
    Database::of(service).texts(sql).remove(0)
}

#[test]
fn fields_and_their_defaults() {
    let service = Setup::painter().start();
    let (one, other) = (picture(), picture());
    let url = format!("data:image/webp;base64,{one}");
    for (extra, row) in [
        (json!({}), "1024x1024 medium 1 0"),
        (json!({"size": "1536x100", "quality": "low"}), "1536x100 low 1 0"),
        (json!({"size": "auto", "quality": "auto", "count": 4}), "auto auto 4 0"),
        (json!({"quality": "high", "count": "2"}), "1024x1024 high 2 0"),
        (json!({"count": 2.0}), "1024x1024 medium 2 0"),
        (json!({"count": " 3 "}), "1024x1024 medium 3 0"),
        (json!({"count": "2.0"}), "1024x1024 medium 2 0"),
        (json!({"model": "x", "n": 9, "deep": {"er": [1, null]}}), "1024x1024 medium 1 0"),
        (json!({"reference_images_base64": null}), "1024x1024 medium 1 0"),
        (json!({"reference_images_base64": []}), "1024x1024 medium 1 0"),
        (json!({"reference_image_base64": null}), "1024x1024 medium 1 0"),
        (json!({"reference_image_base64": ""}), "1024x1024 medium 1 0"),
        (json!({"reference_image_base64": one}), "1024x1024 medium 1 1"),
        (json!({"reference_image_base64": url, "count": 4}), "1024x1024 medium 1 1"),
        (json!({"reference_images_base64": [one, other], "count": 3}), "1024x1024 medium 1 2"),
        (
            json!({"reference_images_base64": [one, other], "reference_image_base64": one}),
            "1024x1024 medium 1 2",
        ),
        (
            json!({"reference_images_base64": [], "reference_image_base64": one}),
            "1024x1024 medium 1 1",
        ),
        (
            json!({"reference_images_base64": null, "reference_image_base64": one}),
            "1024x1024 medium 1 1",
        ),
    ] {
        let mut body = json!({"prompt": "a kite"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        assert_eq!(row_of(&service, &body), row, "{extra}");
    }
}

#[test]
fn the_list_wins_over_the_single_reference() {
    let service = Setup::painter().start();
    let (listed, single) = (
        pictures::unique(&pictures::Kind::default(), "listed"),
        pictures::unique(&pictures::Kind::default(), "single"),
    );
    let body = format!(
        r#"{{"reference_image_base64":"{}","prompt":"x","reference_images_base64":["{}"]}}"#,
        base64(&single),
        base64(&listed)
    );
    service.request("POST", JOBS, &[], Some(body.as_bytes())).expect(202);
    let stored = Database::of(&service).texts("SELECT sha256 FROM job_references");
    assert_eq!(stored, [pictures::sha256(&listed)]);
}

#[test]
fn bounds_of_the_prompt() {
    let service = Setup::painter().start();
    let submit = |prompt: String| service.post_json(JOBS, &json!({ "prompt": prompt })).status;
    assert_eq!(submit("x".to_owned()), 202);
    // Characters are counted, not bytes.
    assert_eq!(submit("𝄞".repeat(32_000)), 202);
    assert_eq!(submit("𝄞".repeat(32_001)), 422);
    assert_eq!(submit("x".repeat(32_001)), 422);
    assert_eq!(submit(String::new()), 422);
    let kept = "SELECT prompt FROM jobs ORDER BY seq DESC LIMIT 1";
    assert_eq!(Database::of(&service).texts(kept), ["𝄞".repeat(32_000)]);
    // Escapes are read, also those of characters that need two.
    let body = br#"{"prompt":"a\u0022\ud834\udd1e\n\/"}"#;
    service.request("POST", JOBS, &[], Some(body)).expect(202);
    assert_eq!(Database::of(&service).texts(kept), ["a\"\u{1d11e}\n/"]);
}

// The list

#[test]
fn the_list_comes_in_pages_newest_first() {
    let service = Setup::painter().start();
    let mut ids: Vec<String> = (0..7).map(|_| service.submit("a kite")).collect();
    ids.reverse();
    for id in &ids {
        service.wait_job(id);
    }
    let page = |query: &str| service.get(&format!("{JOBS}{query}")).expect(200).json();
    let ids_of = |page: &Value| -> Vec<String> {
        let jobs = page["data"].as_array().unwrap().iter();
        jobs.map(|job| job["id"].as_str().unwrap().to_owned()).collect()
    };
    let all = page("");
    assert_eq!(keys_of(&all), ["data", "has_more", "next_cursor"]);
    assert_eq!(ids_of(&all), ids);
    assert_eq!((&all["has_more"], &all["next_cursor"]), (&json!(false), &Value::Null));
    assert_eq!(all["data"][0], service.job(&ids[0]), "the same as when it is polled");

    let mut seen = Vec::new();
    let mut query = "?limit=3".to_owned();
    loop {
        let page = page(&query);
        seen.push(ids_of(&page).len());
        let at: usize = seen.iter().sum();
        assert_eq!(ids_of(&page), ids[at - seen.last().unwrap()..at]);
        assert_eq!(page["has_more"], page["next_cursor"].is_string());
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("?limit=3&cursor={cursor}");
        // What comes meanwhile does not shift the pages.
        service.submit("a kite");
    }
    assert_eq!(seen, [3, 3, 1]);
    assert_eq!(ids_of(&page("?limit=100&unknown=1")).len(), 9);
}

// Waiting

#[test]
fn a_caller_without_patience_finds_the_job_later() {
    let service = Setup::fake().set("REQUEST_WAIT_TIMEOUT_SECONDS", "0.2").start();
    let reply: Reply = service.generate("[fake gate]").expect(504);
    fake::open_gate(&service.codex_home());
    let body = reply.json();
    let id = body["id"].as_str().unwrap();
    assert_eq!(body["status_url"], format!("{JOBS}/{id}"));
    assert_eq!(reply.header("location"), body["status_url"].as_str());
    assert_eq!(reply.header("x-job-id"), Some(id));
    assert_eq!(service.wait_job(id)["status"], "succeeded");
}

#[test]
fn a_full_queue_refuses_everybody_and_keeps_its_word() {
    let service = Setup::fake()
        .set("GENERATION_QUEUE_MAX_SIZE", "2")
        .set("CODEX_WORKER_CONCURRENCY", "1")
        .start();
    let first = service.submit("[fake gate]");
    wait_for("the first to run", || (service.job(&first)["status"] == "running").then_some(()));
    let queued = [service.submit("a kite"), service.submit("a kite")];
    for path in [GENERATE, JOBS] {
        let reference = picture();
        let body = json!({"prompt": "one too many", "reference_image_base64": reference});
        let reply = service.post_json(path, &body).expect(503);
        assert!(reply.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
        assert_eq!(reply.header("x-job-id"), None);
    }
    let left = lab::names(&service.state_dir().join("references"));
    assert_eq!(left, [""; 0], "what was refused leaves no file");
    fake::open_gate(&service.codex_home());
    for id in [first].iter().chain(&queued) {
        assert_eq!(service.wait_job(id)["status"], "succeeded");
    }
    service.generate("a kite").expect(200);
}
