//! Promise: the admin pages are for the operator alone; what others wrote is shown as it is and does
//! nothing; a key is seen once; and what is done on a page is done.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::json;
use support::{Browser, Reply, Service, Setup, pictures, sqlite::Database, wait_for};

/// What must never come out as it went in.
const HOSTILE: &str = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}</title>";

/// Every route of the pages, from the sources: `{…}` stands for something.
fn routes() -> BTreeSet<(String, &'static str)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/admin");
    let mut routes = BTreeSet::new();
    for text in support::snapshot(&folder).into_values() {
        for line in String::from_utf8(text).unwrap().lines() {
            let Some((_, call)) = line.split_once(".route(\"") else { continue };
            let (route, handlers) = call.split_once('"').unwrap();
            for (method, name) in [("get(", "GET"), ("post(", "POST"), ("any(", "GET")] {
                if handlers.contains(method) {
                    routes.insert((route.to_owned(), name));
                }
            }
        }
    }
    routes
}

fn filled(route: &str) -> String {
    let id = format!("img_{:032x}", 1);
    route
        .replace("{id}", &id)
        .replace("{n}", "1")
        .replace("{file}", &format!("{id}.png"))
        .replace("{label}", "codex")
        .replace("{*other}", "some/where")
        .replace("{name}", "style.css")
}

/// What each answer must say, pictures and downloads included.
#[track_caller]
fn assert_guarded(reply: &Reply, what: &str) {
    let header = |name| reply.header(name).unwrap_or_default();
    let policy = header("content-security-policy");
    assert!(policy.starts_with("default-src 'none';"), "{what}: {reply:?}");
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{what}: {policy}");
    assert_eq!(header("x-content-type-options"), "nosniff", "{what}");
    assert_eq!(header("x-frame-options"), "DENY", "{what}");
    assert_eq!(header("referrer-policy"), "same-origin", "{what}");
    assert!(!header("cache-control").is_empty(), "{what}: {reply:?}");
}

#[test]
fn nobody_gets_anywhere_without_a_session() {
    let service = Setup::admin().start();
    let routes = routes();
    assert!(routes.len() > 30, "{routes:?}");
    for (route, method) in &routes {
        let path = filled(route);
        let mut stranger = Browser::new(&service);
        let reply = match *method {
            "GET" => stranger.get(&path),
            _ => stranger.post(&path, &[("name", "x"), ("confirm", "yes")]),
        };
        assert_guarded(&reply, &path);
        match path.as_str() {
            "/admin/login" => assert!([200, 400].contains(&reply.status), "{path}: {reply:?}"),
            "/admin/logout" => assert_eq!(reply.status, 303),
            path if path.starts_with("/admin/assets/") => assert_eq!(reply.status, 404),
            _ => {
                assert!([303, 401].contains(&reply.status), "{method} {path}: {reply:?}");
                let to = reply.header("location").unwrap_or("/admin/login");
                assert!(to.starts_with("/admin/login"), "{method} {path}: {reply:?}");
                assert!(reply.body.len() < 4096, "{method} {path}");
            }
        }
    }
    let mut database = Database::of(&service);
    assert_eq!(database.number("SELECT count(*) FROM api_keys"), 0);
    assert_eq!(database.number("SELECT count(*) FROM orders"), 0);
}

#[test]
fn without_pages_there_are_none() {
    let service = Setup::admin().set("ADMIN", "off").start();
    for (route, _) in routes() {
        assert_eq!(service.request_bare("GET", &filled(&route), &[], None).status, 404, "{route}");
    }
    assert_eq!(service.request_bare("GET", "/", &[], None).status, 404);
    assert!(!service.state_dir().join("admin-password").exists());
}

#[test]
fn a_key_is_shown_once_to_whoever_made_it_and_nowhere_else() {
    let service = Setup::admin().start();
    let (mut maker, mut other) = (Browser::signed_in(&service), Browser::signed_in(&service));
    let made = maker.post("/admin/api-keys", &[("name", "  a new one ")]).expect(303);
    assert_eq!(made.header("location"), Some("/admin/keys?done=created"));
    assert!(!other.get("/admin/keys").expect(200).text().contains("new-key"));
    let page = maker.get("/admin/keys?done=created").expect(200);
    assert_eq!(page.header("cache-control"), Some("no-store"));
    let text = page.text();
    let (_, rest) = text.split_once("id=\"new-key\"").unwrap();
    let key = rest.split(['>', '<']).nth(1).unwrap().to_owned();
    assert!(key.starts_with("cimg_") && key.len() == 54, "{key}");
    assert!(!maker.get("/admin/keys?done=created").expect(200).text().contains(&key));
    service.request_as(&key, "GET", "/v1/images/jobs", None).expect(200);
    assert!(!service.log().contains(&key[9..]));
    let stored = Database::of(&service).texts("SELECT name || handle || hash FROM api_keys");
    assert!(stored[0].starts_with("a new one") && !stored[0].contains(&key), "{stored:?}");

    for name in ["", "   ", "a\nb", &"x".repeat(101)] {
        let refused = maker.post("/admin/api-keys", &[("name", name)]).expect(422);
        assert!(refused.text().contains("1 to 100 characters"), "{name:?}");
    }
    maker.post("/admin/api-keys", &[("other", "x")]).expect(422);
    assert_eq!(Database::of(&service).number("SELECT count(*) FROM api_keys"), 1);

    // Two made before the page is looked at, and a HEAD in between.
    for name in ["one", "two"] {
        maker.post("/admin/api-keys", &[("name", name)]).expect(303);
    }
    maker.request("HEAD", "/admin/keys", &[], None).expect(200);
    let page = maker.get("/admin/keys").expect(200).text();
    assert_eq!(page.matches("class=\"secret\"").count(), 2, "{page}");
}

#[test]
fn what_is_refused_is_said_on_a_page() {
    let service = Setup::admin().start();
    let mut browser = Browser::signed_in(&service);
    for (path, status) in [
        ("/admin/api-keys", 405),
        ("/admin/test-generate", 405),
        ("/admin/requests?q=a&q=b", 400),
        ("/admin/image-requests/img_1/references/99999999999", 400),
        ("/admin/requests/img_none", 404),
        ("/admin/nothing/of/the/kind", 404),
    ] {
        let reply = browser.get(path).expect(status);
        let text = reply.text();
        assert!(text.contains("<h1>"), "{path}");
        assert!(text.contains("role=\"alert\"") && text.contains("Sign out"), "{path}: {text}");
        assert_guarded(&reply, path);
    }
    let stranger = service.request_bare("GET", "/admin/assets/nothing.css", &[], None).expect(404);
    assert!(!stranger.text().contains("Sign out"), "{stranger:?}");
}

#[test]
fn without_a_worker_the_pages_say_so() {
    let service = Setup::admin().args(&["--role", "front"]).start();
    let mut browser = Browser::signed_in(&service);
    browser.post("/admin/cleanup", &[("dry_run", "yes")]).expect(303);
    for path in ["/admin", "/admin/logins", "/admin/cleanup", "/admin/test"] {
        let page = browser.get(path).expect(200).text();
        assert!(page.contains("No worker is running"), "{path}: {page}");
        assert!(!page.contains("http-equiv=\"refresh\""), "{path}: nothing will come of it");
    }
    assert!(!browser.get("/admin").expect(200).text().contains("Worker up for"));
}

#[test]
fn a_key_is_disabled_renamed_and_deleted() {
    let service = Setup::admin().start();
    let key = service.key("first");
    let id = Database::of(&service).texts("SELECT id FROM api_keys")[0].clone();
    service.request_as(&key, "GET", "/v1/images/jobs", None).expect(200);
    let mut browser = Browser::signed_in(&service);
    let mut deed = |what: &str, fields: &[(&str, &str)]| {
        browser.post(&format!("/admin/api-keys/{id}/{what}"), fields)
    };
    deed("disable", &[]).expect(303);
    service.request_as(&key, "GET", "/v1/images/jobs", None).expect(403);
    deed("enable", &[]).expect(303);
    service.request_as(&key, "GET", "/v1/images/jobs", None).expect(200);
    deed("rename", &[("name", "second")]).expect(303);
    let refused = deed("rename", &[("name", "\u{7}")]).expect(422).text();
    assert!(refused.contains("<details open>") && refused.matches("1 to 100").count() == 1);
    assert_eq!(Database::of(&service).texts("SELECT name FROM api_keys"), ["second"]);
    deed("delete", &[("confirm", "yes")]).expect(303);
    service.request_as(&key, "GET", "/v1/images/jobs", None).expect(401);
    deed("delete", &[("confirm", "yes")]).expect(404);
    for path in ["disable", "enable", "rename", "delete"] {
        let path = format!("/admin/api-keys/key_none/{path}");
        browser.post(&path, &[("name", "x"), ("confirm", "yes")]).expect(404);
    }
}

#[test]
fn what_others_wrote_does_nothing() {
    let service = Setup::admin().start();
    let key = service.key(&HOSTILE[..100.min(HOSTILE.len())]);
    let body = json!({ "prompt": HOSTILE }).to_string();
    let made = service.request_as(&key, "POST", "/v1/images/generate", Some(body.as_bytes()));
    let id = made.expect(200).json()["id"].as_str().unwrap().to_owned();
    let quoted = HOSTILE.replace('\'', "''");
    // What Codex and a login could have said.
    Database::of(&service).run(&format!(
        "UPDATE turns SET stdout = '{quoted}', stderr = '{quoted}', note = '{quoted}', \
           error = '{quoted}', error_code = '{quoted}', login = '{quoted}', thread_id = '{quoted}'; \
         UPDATE jobs SET error = '{quoted}', error_code = '{quoted}', end_user = '{quoted}'; \
         INSERT INTO login_status VALUES ('{quoted}', 0, '{quoted}', '{quoted}', 1, '{quoted}', \
           '{quoted}', 0, 1); \
         INSERT INTO login_events (at, login, what, detail) VALUES (1, '{quoted}', 'failed', '{quoted}'); \
         INSERT INTO login_quota VALUES ('{quoted}', '{quoted}', 300, 1, 5, NULL); \
         INSERT INTO orders (at, what, subject, done_at, failed, outcome) \
           VALUES (1, 'test_login', '{quoted}', 1, 1, '{quoted}'), (1, 'count', '', 1, 1, '{quoted}'); \
         INSERT INTO cleanup_runs VALUES (101, 1, 1, 'operator', 0, 1, 1, 1, 1, 1, 1, '{quoted}', '{quoted}'); \
         INSERT INTO cleanup_runs VALUES (102, 1, 1, 'operator', 1, 1, 1, 1, 1, 1, 1, '{quoted}', '{quoted}')"
    ));
    let mut browser = Browser::signed_in(&service);
    let query = support::admin::form(&[("q", HOSTILE), ("key", HOSTILE), ("login", HOSTILE)]);
    let key_id = Database::of(&service).texts("SELECT id FROM api_keys")[0].clone();
    for path in [
        "/admin".to_owned(),
        "/admin/keys".to_owned(),
        format!("/admin/api-keys/{key_id}/delete"),
        "/admin/requests".to_owned(),
        format!("/admin/requests?{query}"),
        format!("/admin/requests/{id}"),
        format!("/admin/image-requests/{id}/delete"),
        "/admin/gallery".to_owned(),
        format!("/admin/gallery?{query}"),
        format!("/admin/test?again={id}"),
        format!("/admin/test?job={id}"),
        "/admin/logins".to_owned(),
        format!("/admin/logins?{query}&done=%3Cscript%3E"),
        "/admin/cleanup".to_owned(),
        "/admin/settings".to_owned(),
    ] {
        let reply = browser.get(&path).expect(200);
        assert_guarded(&reply, &path);
        let page = reply.text();
        for raw in ["<script>alert", "<img src=x", "onerror=alert(2)>", "</title></", "\"'&{{"] {
            assert!(!page.contains(raw), "{raw} in {path}");
        }
        assert!(page.matches("<script").count() == 1, "{path}: one script, and it is ours");
        assert!(!page.contains("style=\"") && !page.contains(" onclick"), "{path}");
    }
    // Names of files are not even kept.
    let reply =
        draw(&mut browser, &[("prompt", "x"), ("key", &key_id)], Some((HOSTILE, b"<svg/>")));
    assert!(reply.expect(422).text().contains("reference"));
}

/// Sends the try-out's form.
fn draw(browser: &mut Browser<'_>, fields: &[(&str, &str)], file: Option<(&str, &[u8])>) -> Reply {
    let mut body = Vec::new();
    for (name, value) in fields {
        body.extend(
            format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
                .into_bytes(),
        );
    }
    if let Some((name, content)) = file {
        let name = name.replace('"', "%22");
        body.extend(
            format!(
                "--b\r\nContent-Disposition: form-data; name=\"reference\"; filename=\"{name}\"\r\n\
                 Content-Type: image/svg+xml\r\n\r\n"
            )
            .into_bytes(),
        );
        body.extend_from_slice(content);
        body.extend(b"\r\n");
    }
    body.extend(b"--b--\r\n");
    let headers =
        [("content-type", "multipart/form-data; boundary=b"), ("sec-fetch-site", "same-origin")];
    browser.request("POST", "/admin/test-generate", &headers, Some(&body))
}

/// The job that an answer of the try-out leads to.
fn job_of(reply: &Reply) -> String {
    let to = reply.header("location").unwrap();
    to.strip_prefix("/admin/test?job=").unwrap().to_owned()
}

#[test]
fn the_try_out_draws_as_any_caller_does() {
    let service = Setup::admin().start();
    let mut browser = Browser::signed_in(&service);
    assert!(
        browser.get("/admin/test").expect(200).text().contains("there is none that is enabled")
    );
    service.key("mine");
    let key = Database::of(&service).texts("SELECT id FROM api_keys")[0].clone();

    let fields =
        [("prompt", "a kite"), ("size", "auto"), ("quality", "low"), ("count", "2"), ("key", &key)];
    let two = job_of(&draw(&mut browser, &fields, Some(("", b""))).expect(303));
    let red = pictures::of_seed(&pictures::Kind::default(), "red");
    let one = job_of(&draw(&mut browser, &fields, Some(("red.png", &red))).expect(303));
    let rows = |id: &str| {
        let sql = format!(
            "SELECT api_key_id || ' ' || size || ' ' || quality || ' ' || count || ' ' || \
             (SELECT count(*) FROM job_references WHERE job_id = jobs.id) FROM jobs WHERE id = '{id}'"
        );
        Database::of(&service).texts(&sql)[0].clone()
    };
    assert_eq!(rows(&two), format!("{key} auto low 2 0"));
    assert_eq!(rows(&one), format!("{key} auto low 1 1"));
    for id in [&one, &two] {
        wait_for("a picture", || {
            (Database::of(&service).texts(&format!("SELECT state FROM jobs WHERE id = '{id}'"))[0]
                == "succeeded")
                .then_some(())
        });
        let page = browser.get(&format!("/admin/test?job={id}")).expect(200).text();
        assert!(page.contains(&format!("/generated/{id}")), "{page}");
        assert!(!page.contains("http-equiv=\"refresh\""), "it has ended");
    }
    let reference = format!("/admin/image-requests/{one}/references/1");
    let sent = browser.get(&reference).expect(200);
    assert_eq!((sent.header("content-type"), &sent.body), (Some("image/png"), &red));
    assert_eq!(sent.header("content-security-policy"), Some("default-src 'none'; sandbox"));
    browser.get(&format!("/admin/image-requests/{one}/references/2")).expect(404);

    // A line ends as callers end it, whatever browsers send.
    let lines = [("prompt", "one\r\ntwo"), ("key", &key)];
    let lines = job_of(&draw(&mut browser, &lines, None).expect(303));
    let stored = format!("SELECT prompt FROM jobs WHERE id = '{lines}'");
    assert_eq!(Database::of(&service).texts(&stored), ["one\ntwo"]);

    // Once more with the same picture, from the job.
    assert!(
        browser.get(&format!("/admin/test?again={one}")).expect(200).text().contains(&reference)
    );
    let again = [&fields[..], &[("again", &one), ("same_references", "yes")]].concat();
    let again = job_of(&draw(&mut browser, &again, None).expect(303));
    let sent = browser.get(&format!("/admin/image-requests/{again}/references/1")).expect(200);
    assert_eq!(sent.body, red);
}

#[test]
fn a_form_that_is_refused_keeps_its_words_and_no_files() {
    let service = Setup::admin().start();
    service.key("mine");
    let key = Database::of(&service).texts("SELECT id FROM api_keys")[0].clone();
    let mut browser = Browser::signed_in(&service);
    let long = "x".repeat(32_001);
    let cases: [(&[(&str, &str)], &str); 7] = [
        (&[("prompt", " "), ("key", &key)], "must not be blank"),
        (&[("prompt", &long), ("key", &key)], "1 to 32000 characters"),
        (&[("prompt", "mine <b>"), ("size", "12x12"), ("key", &key)], "WIDTHxHEIGHT"),
        (&[("prompt", "mine <b>"), ("quality", "best"), ("key", &key)], "low, medium, high"),
        (&[("prompt", "mine <b>"), ("count", "9"), ("key", &key)], "1 to 4"),
        (&[("prompt", "mine <b>")], "one of the keys"),
        (&[("size", "auto"), ("key", &key)], "is required"),
    ];
    for (fields, words) in cases {
        let red = pictures::of_seed(&pictures::Kind::default(), "red");
        let page = draw(&mut browser, fields, Some(("red.png", &red))).expect(422).text();
        assert!(page.contains(words) && page.contains("role=\"alert\""), "{words}: {page}");
        let kept = fields.iter().any(|(_, value)| value.starts_with("mine"));
        assert_eq!(page.contains("mine &#60;b&#62;"), kept, "{words}: {page}");
    }
    let folder = service.state_dir().join("references");
    assert_eq!(support::lab::names(&folder), [""; 0]);
    assert_eq!(Database::of(&service).number("SELECT count(*) FROM jobs"), 0);
    for (kind, body) in [("text/plain", &b"x"[..]), ("multipart/form-data; boundary=b", b"--b\r\n")]
    {
        let headers = [("content-type", kind), ("sec-fetch-site", "same-origin")];
        browser.request("POST", "/admin/test-generate", &headers, Some(body)).expect(400);
    }
    // The key may be gone by the time that the form is sent.
    let fields = [("prompt", "x"), ("key", "key_000000000000")];
    let reply = draw(&mut browser, &fields, None);
    assert!(reply.status == 409 && reply.text().contains("Choose another"), "{reply:?}");
    assert_eq!(support::lab::names(&folder), [""; 0]);
    // Nor is a prompt lost where nothing is accepted just now.
    let full = Setup::fake()
        .set("ADMIN_PASSWORD", support::admin::PASSWORD)
        .set("GENERATION_QUEUE_MAX_SIZE", "1")
        .set("CODEX_WORKER_CONCURRENCY", "1")
        .start();
    let running = full.submit("a kite [fake gate]");
    wait_for("a running job", || (full.job(&running)["status"] == "running").then_some(()));
    full.submit("one that waits");
    let key = Database::of(&full).texts("SELECT id FROM api_keys")[0].clone();
    let mut browser = Browser::signed_in(&full);
    let reply = draw(&mut browser, &[("prompt", "mine <b>"), ("key", &key)], None);
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.text().contains("mine &#60;b&#62;"), "{reply:?}");
}

#[test]
fn an_open_job_is_followed_cancelled_and_deleted() {
    let service = Setup::fake().set("ADMIN_PASSWORD", support::admin::PASSWORD).start();
    let id = service.submit("a kite [fake gate]");
    wait_for("a running job", || (service.job(&id)["status"] == "running").then_some(()));
    let mut browser = Browser::signed_in(&service);
    let page = browser.get(&format!("/admin/requests/{id}")).expect(200).text();
    assert!(page.contains("http-equiv=\"refresh\"") && page.contains("Cancel job"), "{page}");

    let cookie = browser.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>();
    let cookie = cookie.join("; ");
    let mut events = service.connect();
    let path = format!("/admin/image-requests/{id}/events");
    events.send("GET", &path, &[("cookie", &cookie)], None).unwrap();
    let begin = events.head().unwrap();
    assert_eq!(begin.header("content-type"), Some("text/event-stream"));
    assert_eq!(begin.header("x-accel-buffering"), Some("no"));
    let mut heard = String::new();
    while !heard.contains("event: phase") {
        heard += &String::from_utf8(events.read_some().unwrap()).unwrap();
    }
    browser.post(&format!("/admin/image-requests/{id}/cancel"), &[]).expect(303);
    while !heard.contains("event: result") {
        heard += &String::from_utf8(events.read_some().unwrap()).unwrap();
    }
    assert!(heard.contains("\"cancelled\""), "{heard}");
    let late = browser.post(&format!("/admin/image-requests/{id}/cancel"), &[]).expect(303);
    assert!(late.header("location").unwrap().ends_with("done=cancelled"), "a second click");
    let drawn = service.submit("a kite");
    service.wait_job(&drawn);
    let late = browser.post(&format!("/admin/image-requests/{drawn}/cancel"), &[]).expect(303);
    assert!(late.header("location").unwrap().ends_with("done=too-late"));

    browser.get(&format!("/admin/image-requests/{id}/delete")).expect(200);
    assert_eq!(service.job(&id)["status"], "cancelled", "a page that asks does nothing");
    browser.post(&format!("/admin/image-requests/{id}/delete"), &[]).expect(303);
    browser.get(&format!("/admin/requests/{id}")).expect(404);
    service.request("GET", &format!("/v1/images/jobs/{id}"), &[], None).expect(404);
    browser.post(&format!("/admin/image-requests/{id}/delete"), &[]).expect(404);
    assert!(!browser.get("/admin/requests").expect(200).text().contains(&id));
}

#[test]
fn a_repeated_request_does_not_draw_what_was_deleted() {
    let service = Setup::admin().start();
    let submit = || {
        let headers = [("idempotency-key", "one"), ("content-type", "application/json")];
        service.request("POST", "/v1/images/jobs", &headers, Some(b"{\"prompt\":\"a kite\"}"))
    };
    let id = submit().expect(202).json()["id"].as_str().unwrap().to_owned();
    service.wait_job(&id);
    let mut browser = Browser::signed_in(&service);
    browser.post(&format!("/admin/image-requests/{id}/delete"), &[]).expect(303);
    assert_eq!(submit().expect(202).json()["id"], id.as_str());
    service.request("GET", &format!("/v1/images/jobs/{id}"), &[], None).expect(404);
    assert_eq!(Database::of(&service).number("SELECT count(*) FROM jobs"), 1);
}

#[test]
fn pictures_are_small_copies_made_once() {
    let service = Setup::admin().start();
    let made = service.generate("a kite").expect(200).json();
    let url = made["images"][0]["url"].as_str().unwrap().to_owned();
    let file = url.rsplit('/').next().unwrap();
    let mut browser = Browser::signed_in(&service);
    let path = format!("/admin/thumbnails/{file}");
    let small = browser.get(&path).expect(200);
    assert_eq!(small.header("content-type"), Some("image/jpeg"));
    assert!(small.header("cache-control").unwrap().starts_with("private"), "{small:?}");
    assert!(small.body.len() < 60_000, "{}", small.body.len());
    let kept = service.state_dir().join("thumbnails").join(format!("{file}.jpg"));
    let before = fs::metadata(&kept).unwrap().modified().unwrap();
    assert_eq!(browser.get(&path).expect(200).body, small.body);
    assert_eq!(fs::metadata(&kept).unwrap().modified().unwrap(), before);
    // Whatever is asked for, only what a row names is looked at.
    for name in [
        "..%2f..%2fcodex-image-service.db",
        "..%2fgenerated%2fx.png",
        "%2fetc%2fpasswd",
        &format!("{file}%00"),
        &format!("{file}.jpg"),
        ".codex-image-service",
    ] {
        browser.get(&format!("/admin/thumbnails/{name}")).expect(404);
    }
    // A picture that is broken by now is no reason to fall.
    let id = service.generate("another").expect(200).json()["id"].as_str().unwrap().to_owned();
    fs::write(service.state_dir().join("generated").join(format!("{id}.png")), b"broken").unwrap();
    browser.get(&format!("/admin/thumbnails/{id}.png")).expect(404);
}

#[test]
fn style_and_script_are_kept_for_ever_under_their_own_names() {
    let service = Setup::admin().start();
    let page = Browser::new(&service).get("/admin/login").expect(200).text();
    let assets: Vec<&str> =
        page.split('"').filter(|text| text.starts_with("/admin/assets/")).collect();
    assert!(assets.len() >= 3, "{page}");
    for asset in assets {
        let reply = service.request_bare("GET", asset, &[], None).expect(200);
        let kept = reply.header("cache-control").unwrap();
        assert!(kept.contains("immutable") && kept.contains("max-age=31536000"), "{kept}");
        assert_guarded(&reply, asset);
        let other = asset.replace('-', "-0");
        assert_eq!(service.request_bare("GET", &other, &[], None).status, 404);
    }
}

#[test]
fn both_forms_of_a_prefix_lead_to_the_same() {
    let service =
        Setup::admin().set("ADMIN_URL_PREFIX", "/home/pictures").set("METRICS", "on").start();
    let made = service.generate("a kite").expect(200).json();
    let file = made["images"][0]["url"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    for prefix in ["", "/home/pictures"] {
        let mut browser = Browser::under(&service, prefix);
        browser.sign_in(support::admin::PASSWORD).expect(303);
        let page = browser.get("/admin").expect(200).text();
        for link in page.split("=\"/").skip(1) {
            assert!(link.starts_with("home/pictures/"), "{}", &link[..40]);
        }
        let job = browser.get(&format!("/admin/requests/{}", made["id"].as_str().unwrap()));
        assert!(job.expect(200).text().contains(&format!("/home/pictures/generated/{file}")));
        browser.get(&format!("/generated/{file}")).expect(200);
        browser.get("/health").expect(200);
        let to = browser.get("/").expect(303);
        assert_eq!(to.header("location"), Some("/home/pictures/admin"));
    }
    // Every route that the document names is known below the prefix.
    let document = service.request_bare("GET", "/home/pictures/openapi.json", &[], None);
    let document = document.expect(200).json();
    for path in document["paths"].as_object().unwrap().keys() {
        let path = path.replace("{id}", "none").replace("{file}", "none");
        let status = |prefix| service.get(&format!("{prefix}{path}")).status;
        let page = service.get(&format!("/home/pictures{path}")).text();
        assert_eq!(status("/home/pictures"), status(""), "{path}: {page}");
        assert!(!page.contains("\"not_found\""), "{path}: {page}");
        // OpenAI's are there without the `/v1`, too.
        let short = path.strip_prefix("/v1").unwrap_or(&path);
        let below = format!("/home/pictures{short}");
        assert_eq!(service.get(&below).status, service.get(short).status, "{short}");
    }
    for path in ["/home/picturesadmin", "/home/admin", "/home/pictures/home/pictures/admin"] {
        assert_eq!(service.request_bare("GET", path, &[], None).status, 404, "{path}");
    }
    for path in [
        "/home/pictures//admin/keys",
        "/home/pictures/../admin/keys",
        "/home/pictures/%2e%2e/admin/keys",
    ] {
        let reply = service.request_bare("GET", path, &[], None);
        assert!(reply.status == 404 || reply.status == 303, "{path}: {reply:?}");
        assert!(
            reply.header("location").is_none_or(|to| to.starts_with("/home/pictures/admin/login"))
        );
    }
}

#[test]
fn settings_are_shown_with_their_origin_and_no_secret() {
    let service = Setup::admin()
        .set("ADMIN_SESSION_SECRET", "a very secret word indeed")
        .set("IMAGE_RETENTION_DAYS", "3")
        .start();
    let page = Browser::signed_in(&service).get("/admin/settings").expect(200).text();
    for words in
        ["IMAGE_RETENTION_DAYS", ">3<", "environment", "(hidden)", "CODEX_WORKER_CONCURRENCY"]
    {
        assert!(page.contains(words), "{words}");
    }
    for secret in [support::admin::PASSWORD, "a very secret word"] {
        assert!(!page.contains(secret));
    }
}

#[test]
fn the_order_of_the_logins_is_chosen() {
    let service: Service = Setup::admin().start();
    let mut browser = Browser::signed_in(&service);
    browser.post("/admin/dispatch-mode", &[("mode", "primary-first")]).expect(303);
    let mode = "SELECT mode FROM dispatch";
    assert_eq!(Database::of(&service).texts(mode), ["primary-first"]);
    let refused = browser.post("/admin/dispatch-mode", &[("mode", "any")]).expect(400);
    assert!(refused.text().contains("round-robin or primary-first"));
    assert_eq!(Database::of(&service).texts(mode), ["primary-first"]);
}
