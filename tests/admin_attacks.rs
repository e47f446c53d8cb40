//! Promise: nobody gets into the admin pages, or has the operator do something there, by cookies,
//! forms, addresses or many tries; and nobody keeps the operator out.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use support::{
    Browser, Reply, Service, Setup,
    admin::{PASSWORD, USER, form},
    process,
    sqlite::Database,
};

const SESSION: &str = "codex_image_session";
const DEVICE: &str = "codex_image_device";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

/// The right form.
fn right() -> String {
    form(&[("username", USER), ("password", PASSWORD)])
}

fn post(service: &Service, headers: &[(&str, &str)], body: &str) -> Reply {
    let all = [&[FORM], headers].concat();
    service.request_bare("POST", "/admin/login", &all, Some(body.as_bytes()))
}

/// What `GET /admin` answers to these `Cookie` headers, sent as bytes.
fn with_cookies(service: &Service, cookies: &[&[u8]]) -> u16 {
    let mut head = b"GET /admin HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n".to_vec();
    for cookie in cookies {
        head.extend([&b"cookie: "[..], cookie, b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    let mut connection = service.connect();
    connection.write_all(&head).unwrap();
    connection.reply("GET").unwrap().status
}

// Cookies

#[test]
fn a_cookie_that_was_planted_gives_nobody_the_operators_session() {
    let service = Setup::admin().start();
    let mut victim = Browser::new(&service);
    // One that the attacker may know: signed, and not begun by the victim.
    let mut attacker = Browser::signed_in(&service);
    let planted = attacker.cookie(SESSION).unwrap().to_owned();
    victim.cookies.push((SESSION.to_owned(), planted.clone()));
    victim.sign_in(PASSWORD).expect(303);
    assert!(victim.is_signed_in());
    assert_ne!(victim.cookie(SESSION), Some(planted.as_str()));
    assert!(!attacker.is_signed_in(), "the session that was presented is over");
    // A failed try changes nothing.
    let before = victim.cookies.clone();
    victim.sign_in("wrong").expect(401);
    assert_eq!(victim.cookies, before);
    assert!(victim.is_signed_in());
}

#[test]
fn only_a_cookie_that_was_signed_here_opens_the_pages() {
    let service = Setup::admin().start();
    let browser = Browser::signed_in(&service);
    let good = browser.cookie(SESSION).unwrap().to_owned();
    let device = browser.cookie(DEVICE).unwrap().to_owned();
    let named = |value: &str| format!("{SESSION}={value}").into_bytes();
    assert_eq!(with_cookies(&service, &[&named(&good)]), 200);

    let bytes = URL_SAFE_NO_PAD.decode(&good).unwrap();
    let mut other_id = bytes.clone();
    other_id[0] ^= 1;
    let mut other_tag = bytes.clone();
    other_tag[63] ^= 1;
    let forged = [
        URL_SAFE_NO_PAD.encode(other_id),
        URL_SAFE_NO_PAD.encode(other_tag),
        URL_SAFE_NO_PAD.encode(&bytes[..32]),
        URL_SAFE_NO_PAD.encode([&bytes[..32], &[0; 32]].concat()),
        URL_SAFE_NO_PAD.encode([0; 64]),
        device,
        good[..85].to_owned(),
        format!("{good}A"),
        format!("{good}=="),
        format!("\"{good}\""),
        good.to_ascii_lowercase(),
        good.replace(['-', '_'], "+") + "!",
        "A".repeat(86),
        "A".repeat(50_000),
        String::new(),
        "é".repeat(43),
        "' OR 1=1 --".to_owned(),
    ];
    for value in &forged {
        assert_eq!(with_cookies(&service, &[&named(value)]), 303, "{value:.100}");
    }
    for raw in [&b"\xff\xfe"[..], b"codex_image_session", b"codex_image_session=\xff", b";;;=;"] {
        assert_eq!(with_cookies(&service, &[raw]), 303);
    }
    // Another name, however near.
    let near = format!("x{SESSION}={good}; {SESSION}x={good}; {}={good}", SESSION.to_uppercase());
    assert_eq!(with_cookies(&service, &[near.as_bytes()]), 303);
    assert_eq!(with_cookies(&service, &[&vec![b'a'; 200_000]]), 431);

    // Neighbours on the host set cookies as well: theirs neither help nor harm.
    let (good, bad) = (named(&good), named(&forged[0]));
    assert_eq!(with_cookies(&service, &[&bad, &good]), 200);
    assert_eq!(with_cookies(&service, &[&[&bad[..], b"; ", &good].concat()]), 200);
    assert_eq!(with_cookies(&service, &[b"other=\xff\xfe", &good]), 200);
    assert_eq!(with_cookies(&service, &[&[b"a=\xe9;", &good[..], b";b=\xff"].concat()]), 200);
    let many = [bad.as_slice(); 400].join(&b';');
    assert_eq!(with_cookies(&service, &[&many]), 303);
    service.get("/v1/images/jobs").expect(200);
}

#[test]
fn a_cookie_of_another_service_is_none() {
    let (here, there) = (Setup::admin().start(), Setup::admin().start());
    let cookies = Browser::signed_in(&there).cookies;
    let mut browser = Browser::new(&here);
    browser.cookies = cookies;
    assert!(!browser.is_signed_in());
    // Nor when it is signed, and nobody began it here.
    Database::of(&there).run("DELETE FROM admin_sessions");
    let mut browser = Browser::new(&there);
    browser.cookies = Browser::signed_in(&there).cookies;
    assert!(browser.is_signed_in());
    Database::of(&there).run("DELETE FROM admin_sessions");
    assert!(!browser.is_signed_in());
}

#[test]
fn what_a_page_fetches_is_not_led_to_the_sign_in() {
    let service = Setup::admin().start();
    let answer = |method, path, headers: &[(&str, &str)]| {
        let reply = service.request_bare(method, path, headers, None);
        (reply.status, reply.header("location").map(str::to_owned))
    };
    let status = |method, headers: &[(&str, &str)]| answer(method, "/admin/keys", headers);
    let led = (303, Some("/admin/login?next=%2Fkeys".to_owned()));
    assert_eq!(status("GET", &[]), led);
    assert_eq!(status("HEAD", &[]), led);
    assert_eq!(status("GET", &[("sec-fetch-mode", "navigate")]), led);
    // What was sent is not done, and nobody shall think so.
    let ended = (303, Some("/admin/login?ended=yes".to_owned()));
    assert_eq!(answer("POST", "/admin/api-keys", &[]), ended);
    let to_sign_in = (303, Some("/admin/login".to_owned()));
    assert_eq!(answer("GET", "/admin", &[]), to_sign_in);
    for fetched in [
        ("sec-fetch-mode", "no-cors"),
        ("sec-fetch-mode", "cors"),
        ("accept", "text/event-stream"),
        ("accept", "image/avif,image/webp,*/*"),
    ] {
        assert_eq!(status("GET", &[fetched]), (401, None));
    }
}

// Forms of other sites

#[test]
fn a_form_of_another_site_is_refused() {
    let service = Setup::admin().set("PUBLIC_BASE_URL", "https://Images.example:443/x").start();
    let mut browser = Browser::new(&service);
    browser.sign_in(PASSWORD).expect(303);
    let mut send = |headers: &[(&str, &str)], path: &str| {
        browser.request("POST", path, &[&[FORM], headers].concat(), Some(b"")).status
    };
    let refused: [&[(&str, &str)]; 8] = [
        &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")],
        &[("sec-fetch-site", "cross-site")],
        // A neighbour below the same domain, or on another port.
        &[("sec-fetch-site", "same-site"), ("origin", "https://other.example")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("origin", "http://images.example")],
        &[("origin", "https://images.example.evil.example")],
        &[("origin", "http://localhost:1")],
    ];
    for headers in refused {
        for path in ["/admin/logout-everywhere", "/admin/logout", "/admin/login", "/admin/nothing"]
        {
            assert_eq!(send(headers, path), 403, "{headers:?} {path}");
        }
    }
    assert!(browser.is_signed_in(), "nothing was done");
    let reply = post(&service, &[("sec-fetch-site", "cross-site")], &right()).expect(403);
    assert!(reply.text().contains("another site"), "{reply:?}");
    assert!(reply.header("set-cookie").is_none());

    let let_in: [&[(&str, &str)]; 5] = [
        &[("sec-fetch-site", "same-origin"), ("origin", "https://images.example")],
        &[("sec-fetch-site", "none")],
        // A browser that does not tell the site, at the proxy's name and at our own.
        &[("origin", "https://images.example"), ("host", "127.0.0.1:8000")],
        &[("origin", "http://localhost"), ("host", "localhost")],
        // No browser.
        &[],
    ];
    for headers in let_in {
        let reply = post(&service, headers, &right());
        assert_eq!(reply.status, 303, "{headers:?} {reply:?}");
    }
}

#[test]
fn a_page_without_tls_is_told_why_nobody_stays_signed_in() {
    let service = Setup::admin()
        .set("PUBLIC_BASE_URL", "https://images.example/pictures")
        .set("ADMIN_URL_PREFIX", "/pictures")
        .start();
    let headers = [("origin", "http://nas:8000"), ("host", "nas:8000")];
    let reply = post(&service, &headers, &right()).expect(400);
    assert!(reply.text().contains("https://images.example/pictures/admin"), "{reply:?}");
    assert!(reply.header("set-cookie").is_none());
}

// Bodies

#[test]
fn a_form_that_is_none_is_told_so() {
    let service = Setup::admin().start();
    let broken = ["", "username=admin", "password=x", "a=b", "username=a&password=b&username=c"];
    for body in broken {
        let reply = post(&service, &[], body).expect(400);
        assert!(reply.text().contains("role=\"alert\""), "{reply:?}");
    }
    // Words that are no UTF-8 are a wrong password, and nothing worse.
    post(&service, &[], "username=admin&password=%ff%fe%00").expect(401);
    post(&service, &[], "username=%zz&password=%").expect(401);
    let json = [("content-type", "application/json")];
    let body = Some(&b"{}"[..]);
    service.request_bare("POST", "/admin/login", &json, body).expect(415);
    service.request_bare("POST", "/admin/login", &[], body).expect(415);
    let long = format!("username=admin&password={}", "x".repeat(8 * 1024));
    post(&service, &[], &long).expect(413);
    // The longest that can be right.
    let long = "ü".repeat(512);
    let mut service = service;
    service.set("ADMIN_PASSWORD", &long);
    service.set("ADMIN_USERNAME", "ü".repeat(128));
    service.restart();
    post(&service, &[], &form(&[("username", &"ü".repeat(128)), ("password", &long)])).expect(303);
}

#[test]
fn a_strangers_body_is_not_read() {
    let service = Setup::admin().start();
    let length = ("content-length", "100000000");
    for (path, headers, status) in [
        ("/admin/login", vec![FORM, length, ("sec-fetch-site", "cross-site")], 403),
        ("/admin/login", vec![FORM, length], 413),
        ("/admin/logout-everywhere", vec![FORM, length], 303),
        ("/admin/nothing", vec![FORM, length], 303),
    ] {
        let mut connection = service.connect();
        connection.send("POST", path, &headers, None).unwrap();
        let sent = connection.pour(100_000_000);
        assert_eq!(connection.reply("POST").unwrap().status, status, "{path}");
        assert!(sent < 4 * 1024 * 1024, "{sent} bytes were taken");
    }
    // One that does not come is not waited for.
    let mut connection = service.connect();
    let begun = Instant::now();
    connection.send("POST", "/admin/login", &[FORM, ("content-length", "20")], None).unwrap();
    assert_eq!(connection.reply("POST").unwrap().status, 408);
    assert!(begun.elapsed() < Duration::from_secs(30));
}

// Addresses

#[test]
fn a_sign_in_leads_nowhere_else() {
    let service = Setup::admin().set("ADMIN_URL_PREFIX", "/pictures").start();
    for next in [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "@evil.example",
        ".evil.example",
        "/../../evil",
        "/%2e%2e/%2e%2e/evil",
        "/..;/evil",
        "javascript:alert(1)",
        "/keys\r\nSet-Cookie: a=b",
        "/keys#<script>",
        "/\u{2028}",
        "/admin\0",
    ] {
        let fields = [("username", USER), ("password", PASSWORD), ("next", next)];
        let reply = Browser::new(&service).post("/admin/login", &fields).expect(303);
        assert_eq!(reply.header("location"), Some("/pictures/admin"), "{next:?}");
        let asked = form(&[("next", next)]);
        let page = Browser::new(&service).get(&format!("/admin/login?{asked}")).expect(200);
        assert!(page.text().contains("name=\"next\" value=\"\""), "{next:?} {page:?}");
    }
    // Ways into the prefix that are none.
    for path in
        ["//evil.example/admin", "/pictures//evil.example", "/admin/..%2f..%2fx", "/admin/%"]
    {
        let reply = service.request_bare("GET", path, &[], None);
        let to = reply.header("location").unwrap_or_default().to_owned();
        assert!(to.is_empty() || to == "/pictures/admin/login", "{path}: {to}");
    }
    let many = format!("/admin/login?{}", "next=%2Fkeys&".repeat(500));
    Browser::new(&service).get(&many).expect(200);
    let hostile = [("username", "\"><script>alert(1)</script>"), ("password", "x")];
    let page = Browser::new(&service).post("/admin/login", &hostile).expect(401).text();
    assert!(!page.contains("<script>alert"), "{page}");
}

// Many tries

#[test]
fn too_many_tries_are_put_off_for_as_long_as_is_said() {
    let service = Setup::admin().start();
    let mut known = Browser::signed_in(&service);
    known.post("/admin/logout", &[]).expect(303);
    let mut stranger = Browser::new(&service);
    for _ in 0..8 {
        stranger.sign_in("wrong").expect(401);
    }
    let put_off = stranger.sign_in(PASSWORD).expect(429);
    let seconds: u64 = put_off.header("retry-after").unwrap().parse().unwrap();
    assert!((30..=60).contains(&seconds), "{seconds}");
    assert!(put_off.text().contains(&format!("Try again in {seconds} seconds")), "{put_off:?}");
    let until = Instant::now() + Duration::from_secs(seconds);

    // Another address does not help, nor another name.
    for address in ["198.51.100.7", "2001:db8::1"] {
        let reply = post(&service, &[("x-forwarded-for", address)], &right()).expect(429);
        assert!(reply.header("set-cookie").is_none());
    }
    let body = form(&[("username", "other"), ("password", PASSWORD)]);
    post(&service, &[], &body).expect(429);
    // Nor a device that nobody knows.
    let mut forged = Browser::new(&service);
    forged.cookies.push((DEVICE.to_owned(), "A".repeat(86)));
    forged.sign_in(PASSWORD).expect(429);
    // The pages and the API go on.
    stranger.get("/admin/login").expect(200);
    service.get("/v1/images/jobs").expect(200);

    // The operator's browser has been here before, and has tries of its own.
    for _ in 0..7 {
        known.sign_in("mistyped").expect(401);
    }
    known.sign_in(PASSWORD).expect(303);
    assert!(known.is_signed_in());
    known.sign_in("mistyped").expect(401);
    known.sign_in(PASSWORD).expect(429);

    thread::sleep(until.saturating_duration_since(Instant::now()));
    stranger.sign_in(PASSWORD).expect(303);
    assert!(stranger.is_signed_in());
}

#[test]
fn many_at_once_are_no_more_than_one_after_the_other() {
    let service = Setup::admin().start();
    process::forget_peak(service.pid());
    let before = process::peak_kib(service.pid()).unwrap();
    let wrong = form(&[("username", USER), ("password", "wrong")]);
    let answers: Vec<u16> = thread::scope(|scope| {
        let tries: Vec<_> = (0..40).map(|_| scope.spawn(|| post(&service, &[], &wrong))).collect();
        tries.into_iter().map(|one| one.join().unwrap().status).collect()
    });
    let judged = answers.iter().filter(|status| **status == 401).count();
    assert!(judged <= 8, "{answers:?}");
    assert!(answers.iter().all(|status| [401, 429].contains(status)), "{answers:?}");
    // Two of Argon2's 19 MiB, and not three.
    let after = process::peak_kib(service.pid()).unwrap();
    assert!(after < before + 2 * 19 * 1024 + 12 * 1024, "{before} KiB, then {after} KiB");
}

#[test]
fn a_wrong_name_takes_as_long_as_a_wrong_password() {
    // Argon2 is what takes time; that it runs is seen by its memory.
    let service = Setup::admin().start();
    Browser::signed_in(&service);
    for user in [USER, "nobody", ""] {
        process::forget_peak(service.pid());
        let before = process::peak_kib(service.pid()).unwrap();
        post(&service, &[], &form(&[("username", user), ("password", "wrong")])).expect(401);
        let after = process::peak_kib(service.pid()).unwrap();
        assert!(after > before + 15 * 1024, "{user:?}: {before} KiB, then {after} KiB");
    }
}

#[test]
fn ten_thousand_tries_leave_nothing_behind() {
    let service = Setup::admin().set("LOG_LEVEL", "error").start();
    let mut known = Browser::signed_in(&service);
    let wrong = form(&[("username", USER), ("password", "wrong")]);
    let tries = |from: u32, count: u32| {
        let mut connection = None;
        for number in from..from + count {
            let address = format!("2001:db8:{:x}:{:x}::1", number >> 8, number & 0xff);
            // The eight that are judged end their connection, the others too: it had a body.
            let reply = loop {
                let open = connection.get_or_insert_with(|| service.connect());
                let headers = [FORM, ("x-forwarded-for", &address)];
                let sent = open.send("POST", "/admin/login", &headers, Some(wrong.as_bytes()));
                match sent.and_then(|()| open.reply("POST")) {
                    Ok(reply) => break reply,
                    Err(_) => connection = None,
                }
            };
            if reply.header("connection") == Some("close") {
                connection = None;
            }
            assert!([401, 429].contains(&reply.status), "{reply:?}");
        }
    };
    tries(0, 1_000);
    let before = process::resident_kib(service.pid()).unwrap();
    tries(1_000, 9_000);
    let after = process::resident_kib(service.pid()).unwrap();
    assert!(after < before + 2 * 1024, "{before} KiB, and {after} KiB after 9,000 more");
    assert!(known.is_signed_in());
    known.sign_in(PASSWORD).expect(303);
    service.get("/v1/images/jobs").expect(200);
}

#[test]
fn what_is_secret_is_written_nowhere() {
    let mut service = Setup::admin().set("LOG_LEVEL", "trace").start();
    let mut browser = Browser::signed_in(&service);
    browser.sign_in("not the password of anybody").expect(401);
    browser.get("/admin").expect(200);
    let cookies: Vec<String> = browser.cookies.iter().map(|(_, value)| value.clone()).collect();
    browser.post("/admin/logout-everywhere", &[]).expect(303);
    post(&service, &[("sec-fetch-site", "cross-site")], &right()).expect(403);
    service.term();
    let mut files = support::snapshot(&service.state_dir());
    files.insert("the log".into(), service.log().into_bytes());
    let secrets = [PASSWORD, "not the password of anybody", &form(&[("", PASSWORD)])[1..]];
    for (path, content) in files {
        let cookies = cookies.iter().flat_map(|cookie| [&cookie[..40], &cookie[46..]]);
        for secret in secrets.into_iter().chain(cookies) {
            let found = content.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} is in {}", path.display());
        }
    }
}
