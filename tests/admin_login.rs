//! Promise: the operator signs in with the password that was set or made, and stays signed in for
//! as long as was said, whatever is restarted meanwhile; and signs out, here or everywhere, at once.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Output};

use codex_image_service::{
    admin_password::AdminPassword,
    config::{Config, Listen},
    store::Store,
};
use support::{
    Browser, Service, Setup,
    admin::{PASSWORD, USER},
    process, snapshot,
    sqlite::Database,
    temp_dir, unread, wait_for,
};

const SESSION: &str = "codex_image_session";
const DEVICE: &str = "codex_image_device";
const DAY: i64 = 24 * 60 * 60;

/// The file with the password that is made when none is set.
fn password_file(service: &Service) -> std::path::PathBuf {
    service.state_dir().join("admin-password")
}

fn made_password(service: &Service) -> String {
    fs::read_to_string(password_file(service)).unwrap().trim_end().to_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The seconds that the only session has left.
fn left(service: &Service) -> i64 {
    let sql = "SELECT (expires_at - created_at + 999) / 1000 FROM admin_sessions";
    Database::of(service).number(sql)
}

fn set_cookies(reply: &support::Reply) -> Vec<String> {
    let set = reply.headers.iter().filter(|(name, _)| name == "set-cookie");
    set.map(|(_, value)| value.clone()).collect()
}

/// The attributes of a cookie that an answer sets, its value left out.
fn attributes(reply: &support::Reply, name: &str) -> String {
    let set = set_cookies(reply);
    let cookie = set.iter().find(|cookie| cookie.starts_with(&format!("{name}="))).unwrap();
    cookie.split_once("; ").unwrap().1.to_owned()
}

fn words(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

// In and out

#[test]
fn the_right_password_opens_the_pages() {
    let service = Setup::admin().start();
    let mut browser = Browser::new(&service);
    assert!(!browser.is_signed_in());
    let page = browser.get("/admin/login").expect(200);
    assert_eq!(page.header("cache-control"), Some("no-store"));
    let page = page.text();
    for words in ["<h1>Sign in</h1>", ">User name<", ">Password<", "Stay signed in for 30 days"] {
        assert!(page.contains(words), "{words} in {page}");
    }
    let reply = browser.sign_in(PASSWORD).expect(303);
    assert_eq!(reply.header("location"), Some("/admin"));
    assert!(browser.is_signed_in());
    assert_eq!(browser.get("/admin/login").expect(303).header("location"), Some("/admin"));
}

#[test]
fn a_wrong_name_and_a_wrong_password_are_told_alike() {
    let service = Setup::admin().start();
    let answers = [(USER, "Tr0ub4dor"), ("Admin", PASSWORD), ("nobody", "Tr0ub4dor"), (USER, "")]
        .map(|(user, password)| {
            let mut browser = Browser::new(&service);
            let fields = [("username", user), ("password", password)];
            let reply = browser.post("/admin/login", &fields).expect(401);
            assert!(browser.cookies.is_empty(), "{reply:?}");
            let page = reply.text();
            assert!(page.contains("role=\"alert\""), "{page}");
            assert!(password.is_empty() || !page.contains(password), "{page}");
            page.replace(&format!("value=\"{user}\""), "")
        });
    assert!(answers.iter().all(|page| *page == answers[0]));
}

#[test]
fn who_came_for_a_page_is_led_to_it() {
    let service = Setup::admin().start();
    let mut browser = Browser::new(&service);
    let reply = browser.get("/admin/requests?q=red+kite%21&state=failed").expect(303);
    let to = "/admin/login?next=%2Frequests%3Fq%3Dred%2Bkite%2521%26state%3Dfailed";
    assert_eq!(reply.header("location"), Some(to));
    let page = browser.get(to).expect(200).text();
    let next = "/requests?q=red+kite%21&amp;state=failed";
    assert!(page.contains(next) || page.contains(&next.replace("&amp;", "&#38;")), "{page}");
    let fields = [
        ("username", USER),
        ("password", PASSWORD),
        ("next", "/requests?q=red+kite%21&state=failed"),
    ];
    let reply = browser.post("/admin/login", &fields).expect(303);
    let back = Some("/admin/requests?q=red+kite%21&state=failed");
    assert_eq!(reply.header("location"), back);
    // Signed in already.
    assert_eq!(browser.get(to).expect(303).header("location"), back);
}

#[test]
fn cookies_say_what_browsers_must_know() {
    let attributes_with = |settings: &[(&str, &str)], fields: &[(&str, &str)]| {
        let setup = Setup::admin();
        let setup = settings.iter().fold(setup, |setup, (key, value)| setup.set(key, *value));
        let service = setup.start();
        let all = [&[("username", USER), ("password", PASSWORD)], fields].concat();
        let reply = Browser::new(&service).post("/admin/login", &all).expect(303);
        let session = attributes(&reply, SESSION);
        (session, attributes(&reply, DEVICE), left(&service))
    };
    assert_eq!(
        attributes_with(&[], &[]),
        (
            "Path=/; HttpOnly; SameSite=Lax".to_owned(),
            "Path=/; HttpOnly; SameSite=Lax; Max-Age=31536000".to_owned(),
            DAY
        )
    );
    let (session, device, left) = attributes_with(
        &[("PUBLIC_BASE_URL", "https://a.example/b"), ("ADMIN_URL_PREFIX", "/pictures")],
        &[("remember", "yes")],
    );
    assert_eq!(session, "Path=/pictures; HttpOnly; SameSite=Lax; Max-Age=2592000; Secure");
    assert_eq!(device, "Path=/pictures; HttpOnly; SameSite=Lax; Max-Age=31536000; Secure");
    assert_eq!(left, 30 * DAY);
}

#[test]
fn a_prefix_is_answered_whether_or_not_a_proxy_strips_it() {
    let service = Setup::admin().set("ADMIN_URL_PREFIX", "/pictures").start();
    for prefix in ["", "/pictures"] {
        let mut browser = Browser::under(&service, prefix);
        let reply = browser.get("/admin/keys").expect(303);
        assert_eq!(reply.header("location"), Some("/pictures/admin/login?next=%2Fkeys"));
        let page = browser.get("/admin/login").expect(200).text();
        assert!(page.contains("action=\"/pictures/admin/login\""), "{page}");
        let reply = browser.sign_in(PASSWORD).expect(303);
        assert_eq!(reply.header("location"), Some("/pictures/admin"));
        browser.get("/admin").expect(200);
        let reply = browser.post("/admin/logout", &[]).expect(303);
        assert_eq!(reply.header("location"), Some("/pictures/admin/login"));
        assert_eq!(
            attributes(&reply, SESSION),
            "Path=/pictures; HttpOnly; SameSite=Lax; Max-Age=0"
        );
    }
}

#[test]
fn signing_out_ends_the_session_and_no_other() {
    let service = Setup::admin().start();
    let (mut here, mut there) = (Browser::signed_in(&service), Browser::signed_in(&service));
    let kept = here.cookies.clone();
    assert_eq!(
        here.post("/admin/logout", &[]).expect(303).header("location"),
        Some("/admin/login")
    );
    assert_eq!(here.cookie(SESSION), None);
    assert!(here.cookie(DEVICE).is_some(), "the browser stays known");
    here.cookies = kept;
    assert!(!here.is_signed_in(), "a cookie that somebody kept is void");
    assert!(there.is_signed_in());
    // Signing out twice is no error.
    here.post("/admin/logout", &[]).expect(303);
}

#[test]
fn signing_out_everywhere_ends_all_sessions() {
    let service = Setup::admin().start();
    let (mut here, mut there) = (Browser::signed_in(&service), Browser::signed_in(&service));
    Browser::new(&service).post("/admin/logout-everywhere", &[]).expect(303);
    assert!(here.is_signed_in() && there.is_signed_in(), "a stranger can't");
    here.post("/admin/logout-everywhere", &[]).expect(303);
    assert!(!here.is_signed_in() && !there.is_signed_in());
    assert_eq!(Database::of(&service).number("SELECT count(*) FROM admin_sessions"), 0);
}

/// Tries a wrong password with these cookies until there is no try left; how many there were.
fn tries(service: &Service, cookies: &[(String, String)]) -> usize {
    let mut browser = Browser::new(service);
    browser.cookies = cookies.to_vec();
    (0..20).take_while(|_| browser.sign_in("wrong").status == 401).count()
}

#[test]
fn signing_out_everywhere_makes_strangers_of_all_browsers() {
    let mut service = Setup::admin().start();
    let device =
        |browser: &Browser| vec![(DEVICE.to_owned(), browser.cookie(DEVICE).unwrap().to_owned())];
    let mut here = Browser::signed_in(&service);
    let stolen = device(&here);
    here.post("/admin/logout-everywhere", &[]).expect(303);
    // Now it has what strangers have, and no more of it than all of them together.
    assert_eq!(tries(&service, &stolen), 8);
    assert_eq!(tries(&service, &[]), 0);
    service.restart();
    assert_eq!(tries(&service, &stolen), 8);
    assert_eq!(tries(&service, &[]), 0);
    // Who signs in from now on is known.
    service.restart();
    let mut here = Browser::new(&service);
    here.cookies.clone_from(&stolen);
    here.sign_in(PASSWORD).expect(303);
    let known = device(&here);
    assert_ne!(known, stolen);
    assert_eq!((tries(&service, &known), tries(&service, &[])), (8, 8));
}

#[test]
fn a_session_that_is_over_is_over() {
    let service = Setup::admin().start();
    let mut browser = Browser::signed_in(&service);
    Database::of(&service).run("UPDATE admin_sessions SET expires_at = created_at");
    assert!(!browser.is_signed_in());
    // The next sign-in takes it away.
    browser.sign_in(PASSWORD).expect(303);
    assert_eq!(Database::of(&service).number("SELECT count(*) FROM admin_sessions"), 1);
}

// Over starts

#[test]
fn a_session_outlives_the_process_and_not_what_it_was_signed_with() {
    let mut service = Setup::admin().start();
    let cookies = Browser::signed_in(&service).cookies;
    let is_signed_in = |service: &Service| {
        let mut browser = Browser::new(service);
        browser.cookies.clone_from(&cookies);
        browser.is_signed_in()
    };
    service.restart();
    assert!(is_signed_in(&service));
    assert_eq!(mode(&service.state_dir().join("session-secret")), 0o600);
    let changes =
        [("ADMIN_PASSWORD", PASSWORD, "another password"), ("ADMIN_USERNAME", USER, "operator")];
    for (setting, now, other) in changes {
        service.set(setting, other);
        service.restart();
        assert!(!is_signed_in(&service), "{setting}");
        service.set(setting, now);
        service.restart();
        assert!(is_signed_in(&service), "{setting} as it was");
    }
    service.set("ADMIN_SESSION_SECRET", "a secret of the operator's own");
    service.restart();
    assert!(!is_signed_in(&service));
}

#[test]
fn a_session_secret_that_is_broken_is_made_anew() {
    let mut service = Setup::admin().start();
    let mut cookies = Browser::signed_in(&service).cookies;
    let file = service.state_dir().join("session-secret");
    for broken in [&b"short"[..], &[0; 32]] {
        fs::write(&file, broken).unwrap();
        service.restart();
        let mut browser = Browser::new(&service);
        browser.cookies = cookies;
        assert!(!browser.is_signed_in());
        assert_eq!(mode(&file), 0o600);
        browser.sign_in(PASSWORD).expect(303);
        cookies = browser.cookies;
    }
    assert_eq!(service.log().matches("the session secret was broken").count(), 2);
}

#[test]
fn a_session_secret_whose_mode_is_too_wide_is_kept_and_narrowed() {
    // As a volume does it whose modes are set at each mount.
    let mut service = Setup::admin().start();
    let cookies = Browser::signed_in(&service).cookies;
    let file = service.state_dir().join("session-secret");
    let secret = fs::read(&file).unwrap();
    for _ in 0..2 {
        fs::set_permissions(&file, fs::Permissions::from_mode(0o660)).unwrap();
        service.restart();
        let mut browser = Browser::new(&service);
        browser.cookies.clone_from(&cookies);
        assert!(browser.is_signed_in());
        assert_eq!((mode(&file), fs::read(&file).unwrap()), (0o600, secret.clone()));
    }
    let log = service.log();
    assert_eq!(log.matches("others than its owner could read the session secret").count(), 2);
    assert!(!log.contains("the session secret was broken"), "{log}");
}

#[test]
fn a_session_secret_that_is_no_file_of_ours_stops_the_start() {
    let service = Setup::admin().stopped();
    let file = service.state_dir().join("session-secret");
    std::os::unix::fs::symlink("/etc/hostname", &file).unwrap();
    let output = service.run(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(words(&output).contains(file.to_str().unwrap()), "{}", words(&output));
    assert!(file.is_symlink());
}

// The password

#[test]
fn the_password_may_be_set_as_a_hash() {
    // Argon2's own test vector.
    let hash =
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
    let service = Setup::admin().set("ADMIN_PASSWORD", hash).start();
    let mut browser = Browser::new(&service);
    browser.sign_in(hash).expect(401);
    browser.sign_in("password").expect(303);
    assert!(browser.is_signed_in());
}

#[test]
fn a_password_is_made_once_and_only_its_hash_is_kept() {
    let mut service = Setup::painter().start();
    let (file, named) =
        (password_file(&service), "the password of the admin pages is in this file");
    assert_eq!(mode(&file), 0o600);
    let password = made_password(&service);
    assert_eq!(password.len(), 29, "five groups of five");
    service.wait_for_log(named);
    let log = service.log();
    assert!(log.contains(file.to_str().unwrap()) && !log.contains(&password), "{log}");

    // Not again, and named again while nobody has signed in.
    service.restart();
    assert_eq!(made_password(&service), password);
    wait_for("a second line", || (service.log().matches(named).count() == 2).then_some(()));
    Browser::new(&service).sign_in("wrong").expect(401);
    assert_eq!(Database::of(&service).number("SELECT count(*) FROM admin_account"), 0);
    let mut browser = Browser::new(&service);
    browser.sign_in(&password).expect(303);
    service.wait_for_log("the file can be deleted");
    let kept = Database::of(&service).texts("SELECT password_hash FROM admin_account");
    assert!(kept[0].starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept:?}");

    // The file is not needed any more, and none is made.
    fs::remove_file(&file).unwrap();
    let cookies = browser.cookies;
    service.restart();
    assert!(!file.exists());
    assert_eq!(service.log().matches(named).count(), 2);
    let mut browser = Browser::new(&service);
    browser.cookies = cookies;
    assert!(browser.is_signed_in());
    browser.sign_in(&password).expect(303);
    service.term();
    let mut files = snapshot(&service.state_dir());
    files.insert("the log".into(), service.log().into_bytes());
    for (path, content) in files {
        let found = content.windows(password.len()).any(|window| window == password.as_bytes());
        assert!(!found, "the password is in {}", path.display());
    }
}

#[test]
fn a_password_that_lies_there_is_taken() {
    let service = Setup::painter().stopped();
    fs::write(password_file(&service), "of the operator's own\n").unwrap();
    fs::set_permissions(password_file(&service), fs::Permissions::from_mode(0o644)).unwrap();
    let mut service = service;
    service.start();
    assert_eq!(made_password(&service), "of the operator's own");
    service.wait_for_log("others than its owner can read the file");
    Browser::new(&service).sign_in("of the operator's own").expect(303);
}

#[test]
fn a_file_that_is_gone_before_the_first_sign_in_is_told() {
    let mut service = Setup::painter().start();
    fs::remove_file(password_file(&service)).unwrap();
    Browser::new(&service).sign_in("whatever").expect(500);
    service.wait_for_log("holds no password; at the next start one is made");
    service.restart();
    let password = made_password(&service);
    Browser::new(&service).sign_in(&password).expect(303);
}

#[tokio::test]
async fn on_a_terminal_it_is_shown_and_written_nowhere() {
    let dir = temp_dir();
    let mut config = Config::for_demo(dir.path(), Listen::Unix("/nowhere".into()));
    let store = Store::open(&config.database).await.unwrap();
    let place = || async {
        let places = std::sync::Arc::new(tokio::sync::Semaphore::new(1));
        places.acquire_owned().await.unwrap()
    };
    let made = AdminPassword::new(&config);
    let shown = made.prepare(&store, true).await.unwrap().unwrap();
    let other = AdminPassword::new(&config).prepare(&store, true).await.unwrap().unwrap();
    assert_ne!(shown.expose(), other.expose(), "until it has been used, each start makes another");
    assert!(!dir.path().join("admin-password").exists());
    let verified = made.verify(&store, shown.clone(), place().await).await.unwrap().unwrap();
    assert!(made.keep(&store, verified).await.unwrap());

    let next = AdminPassword::new(&config);
    assert!(next.prepare(&store, true).await.unwrap().is_none());
    assert!(next.verify(&store, shown.clone(), place().await).await.unwrap().is_some());
    assert!(next.verify(&store, other, place().await).await.unwrap().is_none());

    // One that is changed between being verified and being kept does not count.
    let verified = next.verify(&store, shown.clone(), place().await).await.unwrap().unwrap();
    store.set_admin_password("another", true).await.unwrap();
    assert!(!next.keep(&store, verified).await.unwrap());

    config.admin_password = Some(shown);
    assert!(AdminPassword::new(&config).prepare(&store, true).await.unwrap().is_none());
    store.close().await;
}

#[test]
fn a_start_hashes_nothing() {
    // Argon2's memory.
    const MUCH: u64 = 16 * 1024;
    let service = Setup::admin().start();
    let before = process::peak_kib(service.pid()).unwrap();
    let resident = process::resident_kib(service.pid()).unwrap();
    assert!(before < resident + MUCH, "{before} KiB at the start, {resident} KiB since");
    Browser::signed_in(&service);
    let after = process::peak_kib(service.pid()).unwrap();
    assert!(after > before + MUCH, "{before} KiB, and {after} KiB after a sign-in");
    // And all of it is given back, after the second and the third as well.
    for _ in 0..2 {
        Browser::signed_in(&service);
    }
    let kept = process::resident_kib(service.pid()).unwrap();
    assert!(kept < resident + MUCH / 4, "{resident} KiB, and {kept} KiB after sign-ins");
}

#[test]
fn another_password_can_be_made_beside_the_service() {
    let service = Setup::painter().start();
    let first = made_password(&service);
    let mut browser = Browser::new(&service);
    browser.sign_in(&first).expect(303);
    let stolen = browser.cookies.clone();
    let output = service.run(&["admin", "reset-password"]);
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
    let second = String::from_utf8(output.stdout.clone()).unwrap();
    let second = second.strip_suffix('\n').unwrap();
    assert!(second.len() == 29 && second != first);
    let said = words(&output);
    let file = password_file(&service).display().to_string();
    assert!(said.contains("One session was ended") && said.contains(&file), "{said}");
    assert!(!said.contains(second));
    assert!(!browser.is_signed_in());
    browser.sign_in(&first).expect(401);
    browser.sign_in(second).expect(303);
    assert!(browser.is_signed_in());
    // A browser that was known is so no longer: it shares the strangers' tries, one of which is gone.
    assert_eq!((tries(&service, &stolen), tries(&service, &[])), (7, 0));
}

#[test]
fn a_password_that_is_made_before_the_first_start_is_the_one() {
    let mut service = Setup::painter().stopped();
    let output = service.run(&["admin", "reset-password"]);
    let password = String::from_utf8(output.stdout).unwrap();
    service.start();
    assert!(!password_file(&service).exists());
    Browser::new(&service).sign_in(password.trim_end()).expect(303);
}

#[test]
fn a_password_that_is_set_is_not_reset() {
    let service = Setup::admin().stopped();
    let output = service.run(&["admin", "reset-password"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let said = words(&output);
    assert!(said.contains("ADMIN_PASSWORD is set (environment)"), "{said}");
    for args in [&["admin", "--help"][..], &["admin", "reset-password", "--help"]] {
        let output = service.run(args);
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.contains("Example") && help.contains("Exit codes: 0 "), "{help}");
    }
    assert_eq!(service.run(&["admin"]).status.code(), Some(2));
}

#[test]
fn a_password_that_nobody_sees_is_not_taken() {
    let service = Setup::painter().start();
    let first = made_password(&service);
    let output = service.command(&["admin", "reset-password"]).stdout(unread()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    Browser::new(&service).sign_in(&first).expect(303);
}

// Without pages

#[test]
fn without_the_pages_there_is_nothing_to_sign_in_to() {
    let service = Setup::painter().set("ADMIN", "off").start();
    for path in ["/admin", "/admin/login", "/admin/keys"] {
        assert_eq!(Browser::new(&service).get(path).status, 404);
    }
    assert!(!password_file(&service).exists());
    assert!(!service.state_dir().join("session-secret").exists());
}

#[test]
fn a_worker_makes_no_password() {
    let mut service = Setup::painter().args(&["--role", "worker"]).stopped();
    service.spawn();
    wait_for("the worker", || {
        fs::metadata(service.state_dir().join("run")).ok()?.is_dir().then_some(())
    });
    service.term();
    assert!(!password_file(&service).exists());
    assert!(!service.state_dir().join("session-secret").exists());
}
