//! Promise: a credential `auth-<label>` becomes the login once, again only when it is another and
//! newer, and never a token is lost by that: not by a restart, a kill, or a Codex that is at work.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::{Backend, HomeOptions, Service, Setup, codex_home, home, lab, snapshot};

const AUTH: &str = "auth.json";
const USED: &str = ".codex-image-service.seed";

/// With the fake Codex; the login `main` has a home that is not there yet.
fn setup() -> Setup {
    let setup = Setup::fake();
    let credentials = setup.path("credentials");
    fs::create_dir(&credentials).unwrap();
    let homes = format!("main={}", setup.path("logins/main").display());
    setup.set("CODEX_HOMES", homes).set("CREDENTIALS_DIRECTORY", credentials)
}

fn main(service: &Service) -> PathBuf {
    service.path("logins/main")
}

/// A login of this user that was renewed on that day of 2026, as the credential of `label`.
fn give(service: &Service, label: &str, user: &str, day: u32) -> Vec<u8> {
    let folder = service.path("made");
    fs::create_dir_all(&folder).unwrap();
    let options = HomeOptions { account: format!("acct-{user}"), ..HomeOptions::default() };
    home::write_login(&folder, &options);
    let mut auth: Value = serde_json::from_slice(&fs::read(folder.join(AUTH)).unwrap()).unwrap();
    auth["last_refresh"] = format!("2026-01-{day:02}T12:00:00.123456789Z").into();
    give_raw(service, label, auth.to_string().as_bytes())
}

fn give_raw(service: &Service, label: &str, content: &[u8]) -> Vec<u8> {
    fs::write(service.path("credentials").join(format!("auth-{label}")), content).unwrap();
    content.to_owned()
}

fn auth(service: &Service) -> Vec<u8> {
    fs::read(main(service).join(AUTH)).unwrap()
}

fn fingerprint(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Starts and stops it; what its log says of that.
fn round(service: &mut Service) -> String {
    let before = service.log().len();
    service.start();
    assert!(service.term().success());
    service.log()[before..].to_owned()
}

/// As if Codex had renewed the login on that day.
fn renew(service: &Service, day: u32) -> Vec<u8> {
    let mut own: Value = serde_json::from_slice(&auth(service)).unwrap();
    own["tokens"]["refresh_token"] = format!("rt.renewed.{day}").into();
    own["last_refresh"] = format!("2026-01-{day:02}T12:00:00Z").into();
    fs::write(main(service).join(AUTH), own.to_string()).unwrap();
    auth(service)
}

#[test]
fn it_is_copied_once() {
    let mut service = setup().stopped();
    let seed = give(&service, "main", "one", 1);
    let log = round(&mut service);
    let print = fingerprint(&seed);
    assert!(
        log.contains("the login is seeded from its credential, which must not be used"),
        "{log}"
    );
    assert!(log.contains(&format!("login=\"main\" seed=\"{}\"", &print[..12])), "{log}");
    assert!(auth(&service) == seed);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&service.path("logins")), 0o700);
    assert_eq!(mode(&main(&service)), 0o700);
    for name in [AUTH, USED] {
        assert_eq!(mode(&main(&service).join(name)), 0o600);
    }
    assert_eq!(fs::read_to_string(main(&service).join(USED)).unwrap(), format!("{print}\n"));
    // Nothing of it is told.
    let said: Value = serde_json::from_slice(&seed).unwrap();
    for token in ["refresh_token", "access_token", "id_token"] {
        assert!(!service.log().contains(said["tokens"][token].as_str().unwrap()));
    }

    // It is used, and stays what Codex makes of it.
    service.start();
    service.generate("a kite").expect(200);
    service.term();
    assert!(auth(&service) == seed);
    let own = renew(&service, 2);
    let before = snapshot(&main(&service));
    let log = round(&mut service);
    assert!(log.contains("the login is kept: its seed is in use already"), "{log}");
    assert!(auth(&service) == own && snapshot(&main(&service)) == before);
}

#[test]
fn another_one_is_taken_only_when_it_is_newer() {
    let mut service = setup().stopped();
    give(&service, "main", "one", 1);
    round(&mut service);
    let own = renew(&service, 10);
    let used = fs::read(main(&service).join(USED)).unwrap();
    for day in [9, 10] {
        let seed = give(&service, "main", "two", day);
        let mut dated: Value = serde_json::from_slice(&seed).unwrap();
        dated["last_refresh"] = format!("2026-01-{day:02}T13:00:00+01:00").into();
        give_raw(&service, "main", dated.to_string().as_bytes());
        let log = round(&mut service);
        assert!(log.contains("kept: its seed is another, but not newer"), "{day}: {log}");
        assert!(auth(&service) == own);
        // Not remembered: had the home's been lost meanwhile, it would be the one to take.
        assert!(fs::read(main(&service).join(USED)).unwrap() == used);
    }
    let mut undated: Value = serde_json::from_slice(&give(&service, "main", "two", 1)).unwrap();
    undated.as_object_mut().unwrap().remove("last_refresh");
    give_raw(&service, "main", undated.to_string().as_bytes());
    assert!(round(&mut service).contains("without a last_refresh in both"));
    assert!(auth(&service) == own);

    let seed = give(&service, "main", "two", 11);
    let log = round(&mut service);
    assert!(log.contains("the login is seeded anew"), "{log}");
    assert!(auth(&service) == seed);
    // The first one again: it is another than the last, and older.
    let own = renew(&service, 12);
    give(&service, "main", "one", 1);
    round(&mut service);
    assert!(auth(&service) == own);
}

#[test]
fn a_home_without_a_login_takes_it() {
    let mut service = setup().stopped();
    let seed = give(&service, "main", "one", 1);
    // Signed out.
    round(&mut service);
    fs::remove_file(main(&service).join(AUTH)).unwrap();
    let log = round(&mut service);
    assert!(log.contains("its seed was used already, so it is not taken again"), "{log}");
    assert!(log.contains("logins add main"), "{log}");
    assert!(!main(&service).join(AUTH).exists());
    let other = give(&service, "main", "two", 2);
    assert!(round(&mut service).contains("the login is seeded from its credential"));
    assert!(auth(&service) == other && other != seed);
    // Damaged, or an API key: the same seed is spent, another is not.
    for content in ["", "\0\0\0", "{\"OPENAI_API_KEY\":\"sk-x\"}"] {
        fs::write(main(&service).join(AUTH), content).unwrap();
        assert!(round(&mut service).contains("its seed is in use already"));
        assert_eq!(auth(&service), content.as_bytes());
        let other = give(&service, "main", "three", 1);
        assert!(round(&mut service).contains("the login is seeded anew"));
        assert!(auth(&service) == other);
    }
}

#[test]
fn a_kill_at_any_step_loses_nothing() {
    let mut service = setup().stopped();
    let (next, used) = (".codex-image-service.seed.next", main(&service).join(USED));
    let first = give(&service, "main", "one", 1);
    // While the login was written.
    fs::create_dir_all(main(&service)).unwrap();
    fs::write(main(&service).join(next), &first[..10]).unwrap();
    assert!(round(&mut service).contains("the login is seeded from its credential"));
    assert!(auth(&service) == first && !main(&service).join(next).exists());
    // Before it was written down, the first time and later; with and without a use in between.
    for day in [5, 7] {
        let seed = give(&service, "main", "two", day);
        let before = fs::read(&used).unwrap();
        round(&mut service);
        assert!(auth(&service) == seed);
        fs::write(&used, &before).unwrap();
        assert!(round(&mut service).contains("its seed is in use already"));
        assert_eq!(fs::read_to_string(&used).unwrap(), fingerprint(&seed) + "\n");
        fs::write(&used, &before).unwrap();
        let own = renew(&service, day + 1);
        round(&mut service);
        assert!(auth(&service) == own);
        fs::remove_file(&used).unwrap();
        round(&mut service);
        assert!(auth(&service) == own);
        fs::write(&used, &before).unwrap();
    }
    // While it was written down.
    let seed = give(&service, "main", "three", 20);
    round(&mut service);
    fs::write(main(&service).join(next), "0123").unwrap();
    round(&mut service);
    assert!(auth(&service) == seed && !main(&service).join(next).exists());
}

#[test]
fn what_is_no_login_is_refused_and_the_service_starts() {
    let mut service = setup().stopped();
    let good = give(&service, "main", "one", 1);
    let mut without: Value = serde_json::from_slice(&good).unwrap();
    without["tokens"]["refresh_token"] = "".into();
    let mut large = good.clone();
    large.resize(1024 * 1024 + 1, b' ');
    let key = json!({"auth_mode": "apikey", "OPENAI_API_KEY": "sk-planted"});
    for (content, words) in [
        (key.to_string().into_bytes(), "API key"),
        (b"{}".to_vec(), "no ChatGPT login"),
        (b"planted".to_vec(), "damaged"),
        (b"\xff\xfe".to_vec(), "damaged"),
        (Vec::new(), "damaged"),
        (without.to_string().into_bytes(), "no refresh token"),
        (large, "too large"),
    ] {
        give_raw(&service, "main", &content);
        let log = round(&mut service);
        let said = "login main: the credential auth-main cannot be used: ";
        assert!(log.contains(said) && log.contains(words), "{words}: {log}");
        assert!(!log.contains("planted"), "{log}");
        assert!(!main(&service).exists());
        let checked = service.run(&["check-config"]);
        let warned = String::from_utf8(checked.stderr).unwrap();
        assert!(checked.status.success() && warned.contains(said), "{warned}");
        assert!(warned.contains("there is no folder") && !warned.contains("planted"), "{warned}");
    }
    // For nobody.
    give_raw(&service, "main", &good);
    give_raw(&service, "mian", &good);
    let said = "the credential auth-mian is for no login of CODEX_HOMES, which has: main";
    let check =
        |service: &Service| String::from_utf8(service.run(&["check-config"]).stderr).unwrap();
    assert_eq!(check(&service), format!("warning: {said}\n"), "the home will be made");
    assert!(!main(&service).exists(), "it only looks");
    assert!(round(&mut service).contains(said));
    assert!(auth(&service) == good);
    // A name that systemd would not take.
    let homes = format!("büro={}", service.path("logins/main").display());
    service.set("CODEX_HOMES", homes);
    let said = "login büro: a credential cannot be called auth-büro";
    assert!(round(&mut service).contains(said) && check(&service).contains(said));
}

#[test]
fn a_link_and_a_login_in_use_are_left_alone() {
    let mut service = setup().stopped();
    fs::create_dir_all(main(&service)).unwrap();
    let elsewhere = service.path("elsewhere.json");
    symlink(&elsewhere, main(&service).join(AUTH)).unwrap();
    let seed = give(&service, "main", "one", 1);
    assert!(round(&mut service).contains("its auth.json is a link or no file"));
    assert!(!elsewhere.exists());
    fs::remove_file(main(&service).join(AUTH)).unwrap();

    let lock = fs::File::create(main(&service).join(".codex-image-service.lock")).unwrap();
    lock.lock().unwrap();
    assert!(round(&mut service).contains("another process uses the login"));
    assert_eq!(lab::names(&main(&service)), [".codex-image-service.lock"]);
    lock.unlock().unwrap();
    round(&mut service);
    assert!(auth(&service) == seed);
}

#[test]
fn only_a_worker_seeds() {
    let mut service = setup().args(&["--role", "front"]).stopped();
    give(&service, "main", "one", 1);
    let log = round(&mut service);
    assert!(!log.contains("the login") && !main(&service).exists(), "{log}");
    service.run(&["logins", "list"]);
    service.run(&["cleanup"]);
    assert!(!main(&service).exists());
    let mut painter = setup().set("CODEX_ENGINE", "demo").stopped();
    give(&painter, "main", "one", 1);
    round(&mut painter);
    assert!(!main(&painter).exists());
}

#[test]
fn the_real_codex_goes_on_with_what_it_was_given() {
    let backend = Backend::start();
    let setup = Setup::served(&backend, &[HomeOptions::default()]);
    let none = HomeOptions { logged_in: false, ..HomeOptions::default() };
    codex_home(&setup.path("logins/main"), &backend, &none);
    let credentials = setup.path("credentials");
    fs::create_dir(&credentials).unwrap();
    let homes = format!("main={}", setup.path("logins/main").display());
    let setup = setup.set("CODEX_HOMES", homes).set("CREDENTIALS_DIRECTORY", credentials);
    let mut service = setup.stopped();
    let give = |service: &Service, account: &str, lifetime: i64| {
        let folder = service.path("made");
        fs::create_dir_all(&folder).unwrap();
        let account = account.to_owned();
        home::write_login(&folder, &HomeOptions { account, lifetime, ..HomeOptions::default() });
        give_raw(service, "main", &fs::read(folder.join(AUTH)).unwrap())
    };
    // Its access token is over, so that Codex renews it and the seed is spent.
    let seed = give(&service, "acct-one", -10);
    service.start();
    service.generate("a kite").expect(200);
    assert_eq!(backend.refreshes(), 1);
    service.term();
    let own = auth(&service);
    assert!(own != seed);
    assert!(!backend.is_spent(&main(&service)));

    service.start();
    assert!(service.log().contains("its seed is in use already"), "{}", service.log());
    service.generate("another").expect(200);
    service.term();
    assert!(auth(&service) == own);
    assert_eq!((backend.refreshes(), backend.refused_refreshes()), (1, 0));

    give(&service, "acct-two", 3600);
    service.start();
    assert!(service.log().contains("the login is seeded anew"), "{}", service.log());
    service.generate("a third").expect(200);
    let accounts: Vec<_> = backend.image_requests().into_iter().map(|one| one.account).collect();
    assert_eq!(accounts, ["acct-one", "acct-one", "acct-two"]);
    assert_eq!(backend.refused_refreshes(), 0);
}
