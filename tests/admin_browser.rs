//! Promise: an operator does with the admin pages what they are for, in a real browser: with and
//! without JavaScript, on a desk and on a phone, at the root and under a prefix behind nginx. Every
//! page is valid, accessible, usable by keyboard, light and dark, and asks nobody else for anything.
//!
//! The scripts in `browser/` say what an operator does and must see; here stands around what.
//! Pictures of all pages lie in `.cache/shots` afterwards.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use support::{
    Chromium, Nginx, Service, Setup,
    http::Endpoint,
    nginx::Prefix,
    pictures::{self, Kind},
    sqlite::Database,
    wait_for,
};

const PASSWORD: &str = "seven kites over Dover";
/// Jobs in the history that are called `seed 1` and so on: several pages of them.
const SEEDS: u32 = 120;
const PREFIX: &str = "/home/pictures";

/// With the fake Codex, whose jobs can be made to last.
fn setup() -> Setup {
    Setup::fake_with_logins(2).set("ADMIN_PASSWORD", PASSWORD)
}

/// The whole tour; `base` is the service's URL with its prefix.
fn tour(browser: &Chromium, service: &Service, base: &str, args: &[&str]) {
    seed(service);
    run(browser, "tour.mjs", base, args, &[("SEEDS", &SEEDS.to_string()), ("LOGIN", "codex2")]);
}

fn run(browser: &Chromium, script: &str, base: &str, args: &[&str], env: &[(&str, &str)]) {
    let who = [("BASE_URL", base), ("USERNAME", "admin"), ("PASSWORD", PASSWORD)];
    browser.run(script, args, &[&who, env].concat());
}

/// A long history, made by hand: drawing it would take minutes.
fn seed(service: &Service) {
    service.default_key();
    Database::of(service).run(&format!(
        "WITH RECURSIVE seeds (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM seeds WHERE n < {SEEDS}) \
         INSERT INTO jobs (id, api_key_id, prompt, size, quality, count, state, created_at, \
           started_at, finished_at, expires_at) \
         SELECT printf('img_%032x', n), k.id, 'seed ' || n, 'auto', 'auto', 1, \
           'expired', k.created_at, k.created_at, k.created_at, k.created_at \
         FROM seeds, api_keys k"
    ));
}

#[test]
fn with_scripts_on_a_desk() {
    let Some(browser) = Chromium::find() else { return };
    let service = setup().start();
    tour(&browser, &service, &service.url(""), &["desk"]);
}

#[test]
fn without_scripts() {
    let Some(browser) = Chromium::find() else { return };
    let service = setup().start();
    tour(&browser, &service, &service.url(""), &["without-scripts", "--no-scripts"]);
}

#[test]
fn on_a_phone() {
    let Some(browser) = Chromium::find() else { return };
    let service = setup().start();
    tour(&browser, &service, &service.url(""), &["phone", "--phone"]);
}

#[test]
fn behind_nginx_that_strips_the_prefix() {
    behind_nginx(Prefix::Stripped, &["stripped"]);
}

/// Without scripts: then it is forms and refreshes that go through nginx.
#[test]
fn behind_nginx_that_keeps_the_prefix() {
    behind_nginx(Prefix::Kept, &["kept", "--no-scripts"]);
}

fn behind_nginx(form: Prefix, args: &[&str]) {
    let Some(browser) = Chromium::find() else { return };
    let setup = setup().set("ADMIN_URL_PREFIX", PREFIX);
    let Some(nginx) = Nginx::before(setup.address(), PREFIX, form) else { return };
    let service = setup.set("PUBLIC_BASE_URL", nginx.url("")).start();
    tour(&browser, &service, &nginx.url(""), args);
}

#[test]
fn every_page() {
    let Some(browser) = Chromium::find() else { return };
    let service = setup().start();
    let furniture = furnish(&service).to_string();
    run(&browser, "pages.mjs", &service.url(""), &[], &[("FURNITURE", &furniture)]);
}

/// Something for every page to show, the worst that callers write among it.
fn furnish(service: &Service) -> Value {
    seed(service);
    let words =
        "<script>alert(1)</script><img src=x onerror=alert(2)> \"'&amp; ]]> \u{202e}txt.exe ";
    let long = "a_word_without_an_end_".repeat(20);
    service.key(&format!("{words}{long}").chars().take(100).collect::<String>());
    let red = pictures::of_seed(&Kind { size: (320, 240), ..Kind::default() }, "red");
    let succeeded = submit(
        service,
        &json!({
            "prompt": "a red kite over a green hill, in the manner of an old postcard",
            "count": 4,
            "size": "1024x1024",
        }),
    );
    let referenced = submit(
        service,
        &json!({"prompt": "the same in blue", "reference_images_base64": [STANDARD.encode(red)]}),
    );
    let hostile = format!("{words}\n{long} [fake say=<script>alert(3)</script>+{long}]");
    let hostile = submit(service, &json!({"prompt": hostile}));
    let failed = "a kite [fake fail=<b>too+much</b> picture=none stderr=<script>alert(4)</script>]";
    let failed = submit(service, &json!({"prompt": failed}));
    for done in [&succeeded, &referenced, &hostile, &failed] {
        service.wait_job(done);
    }
    // Two are drawn until the test ends, the others wait behind them.
    let [running, _, cancelled, queued] = ["one", "two", "three", "four"].map(|which| {
        let prompt = format!("a kite that is never finished, number {which} [fake gate]");
        submit(service, &json!({"prompt": prompt}))
    });
    wait_for("a running job", || (service.job(&running)["status"] == "running").then_some(()));
    service.delete(&format!("/v1/images/jobs/{cancelled}")).expect(200);
    tell_of_logins(service);
    json!({
        "key": Database::of(service).texts("SELECT id FROM api_keys WHERE name <> 'test'")[0],
        "jobs": {
            "succeeded": succeeded,
            "referenced": referenced,
            "hostile": hostile,
            "failed": failed,
            "running": running,
            "queued": queued,
            "cancelled": cancelled,
            "expired": format!("img_{:032x}", 1),
        },
    })
}

fn submit(service: &Service, body: &Value) -> String {
    let reply = service.post_json("/v1/images/jobs", body).expect(202);
    reply.json()["id"].as_str().unwrap().to_owned()
}

/// Quotas, events, a busy week and clean-ups, which the fake does not tell.
fn tell_of_logins(service: &Service) {
    Database::of(service).run(
        "WITH now (ms) AS (SELECT unixepoch() * 1000),
              told (login, minutes, used) AS (
                VALUES ('codex', 300, 12), ('codex', 10080, 61), ('codex2', 300, 97), ('codex2', 10080, 88))
         INSERT INTO login_quota (login, quota, minutes, at, used, resets_at)
         SELECT login, 'codex', minutes, ms, used, ms + minutes * 30000 FROM told, now;
         WITH told (login, what, detail) AS (
                VALUES ('codex', 'rotated', 'the token is fresh'), ('codex2', 'rests', 'quota'),
                       ('codex2', 'wakes', ''), ('codex2', 'failed', '<script>alert(5)</script>'))
         INSERT INTO login_events (at, login, what, detail)
         SELECT unixepoch() * 1000, login, what, detail FROM told;
         INSERT OR REPLACE INTO login_status
         SELECT login, place, account, plan, expires, code, problem, 0, unixepoch() * 1000
         FROM (SELECT 'codex' AS login, 0 AS place, '5f3a91c2' AS account, 'plus' AS plan,
             unixepoch() * 1000 + 700000000 AS expires, NULL AS code, NULL AS problem
           UNION ALL SELECT 'codex2', 1, 'b02e77aa', 'pro', unixepoch() * 1000 - 4000000, NULL, NULL);
         INSERT OR REPLACE INTO login_rests
         VALUES ('codex2', unixepoch() * 1000 + 9000000, 'quota', 'codex');
         INSERT INTO orders (at, what, subject, done_at, failed, outcome)
         SELECT unixepoch() * 1000, 'test_login', 'codex', unixepoch() * 1000, 1,
           'OpenAI refuses the login: <script>alert(7)</script>';
         WITH RECURSIVE hours (ago) AS (SELECT 3 UNION ALL SELECT ago + 1 FROM hours WHERE ago < 167)
         INSERT OR IGNORE INTO turns_by_hour (hour, login, images, failures)
         SELECT unixepoch() / 3600 - ago, login, (ago * slope) % 13, ago % 11 = 0
         FROM hours, (SELECT 'codex' AS login, 5 AS slope UNION SELECT 'codex2', 8);
         INSERT INTO cleanup_runs (started_at, finished_at, cause, dry_run, expired_jobs, images,
           orphan_files, orphan_rows, codex_threads, bytes, skipped, error)
         SELECT at - 1234, at, cause, dry_run, 3, 5, 1, 0, 12, 12345678, skipped, error
         FROM (SELECT unixepoch() * 1000 AS at), (
           SELECT 'operator' AS cause, 1 AS dry_run, '' AS skipped, NULL AS error
           UNION ALL SELECT 'schedule', 0, '', NULL
           UNION ALL SELECT 'operator', 0, '/srv/pictures/lost+found: not permitted', NULL
           UNION ALL SELECT 'command', 0, '', '<script>alert(6)</script> no space left on device')",
    );
}

// The harness itself.

#[test]
fn the_harness_sees_each_fault() {
    let Some(browser) = Chromium::find() else { return };
    browser.run("selftest.mjs", &[], &[]);
}

/// What a page needs of nginx: the address as the browser knows it, and events when they happen.
#[test]
fn nginx_is_what_operators_have() {
    for (form, path) in [(Prefix::Stripped, "/a?b=%2F"), (Prefix::Kept, "/home/pictures/a?b=%2F")] {
        let service = TcpListener::bind("127.0.0.1:0").unwrap();
        let Some(nginx) = Nginx::before(service.local_addr().unwrap(), PREFIX, form) else {
            return;
        };
        let host = nginx.address().to_string();
        let origin = format!("http://{host}");
        let mut client = Endpoint::Tcp(nginx.address()).connect().unwrap();
        let headers = [("host", host.as_str()), ("origin", origin.as_str())];
        client.send("POST", &format!("{PREFIX}/a?b=%2F"), &headers, Some(b"")).unwrap();

        let (mut stream, _) = service.accept().unwrap();
        let mut heard = [0; 4096];
        let count = stream.read(&mut heard).unwrap();
        let heard = String::from_utf8_lossy(&heard[..count]).to_lowercase();
        assert!(heard.starts_with(&format!("post {path} http/1.1\r\n").to_lowercase()), "{heard}");
        for line in [
            format!("host: {host}"),
            format!("origin: {origin}"),
            "x-forwarded-for: 127.0.0.1".to_owned(),
            "x-forwarded-proto: http".to_owned(),
        ] {
            assert!(heard.lines().any(|known| known == line), "{line} is missing in {heard}");
        }
        let begin = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        stream.write_all(begin.as_bytes()).unwrap();
        client.head().unwrap();
        for event in ["data: 1\n\n", "data: 2\n\n"] {
            stream.write_all(event.as_bytes()).unwrap();
            let passed = String::from_utf8(client.read_some().unwrap()).unwrap();
            assert!(passed.contains(event), "{passed:?}");
        }
        let reply = Endpoint::Tcp(nginx.address()).request("GET", "/elsewhere", &[], None);
        assert_eq!(reply.unwrap().status, 404);
    }
}
