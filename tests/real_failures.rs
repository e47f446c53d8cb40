//! Promise: whatever goes wrong with the real Codex, its login or the service behind it, the caller
//! gets the code that says so, and when and whether to try again; never a path, a token or raw
//! JSON. What Codex itself said is kept in the turn's row.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    collections::HashSet,
    fs,
    ops::RangeInclusive,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::{
    Backend, HomeOptions, Lab, Reply, Setup, codex_binary, codex_home, home, lab, pictures::sha256,
    process, rows, sqlite::Database, wait_for,
};

/// Texts are kept to this many bytes each.
const KEPT: usize = 64 * 1024;

/// What a caller is told.
struct Expected {
    status: u16,
    code: &'static str,
    /// A part of the message.
    words: &'static str,
    again: Again,
}

/// Whether and when a client may repeat the request.
enum Again {
    /// As it likes.
    Open,
    /// After so many seconds.
    After(RangeInclusive<u64>),
    /// It would end the same way.
    Never,
}

const MODERATED: Expected = Expected {
    status: 502,
    code: "moderation_blocked",
    words: "safety system",
    again: Again::Never,
};
const EXPIRED: Expected =
    Expected { status: 502, code: "login_expired", words: "sign in again", again: Again::Never };

const fn no_image(words: &'static str) -> Expected {
    Expected { status: 502, code: "no_image", words, again: Again::Open }
}

const fn codex_error(words: &'static str) -> Expected {
    Expected { status: 502, code: "codex_error", words, again: Again::Open }
}

const fn not_logged_in(words: &'static str) -> Expected {
    Expected { status: 502, code: "not_logged_in", words, again: Again::Never }
}

const fn limited(words: &'static str, seconds: RangeInclusive<u64>) -> Expected {
    Expected { status: 429, code: "quota_exceeded", words, again: Again::After(seconds) }
}

/// A job that failed as expected.
struct Failed {
    reply: Reply,
    turn: Value,
    took: Duration,
}

impl Failed {
    fn text(&self, column: &str) -> &str {
        self.turn[column].as_str().unwrap_or_else(|| panic!("no {column}: {}", self.turn))
    }
}

impl Lab {
    /// Asks for a picture, which must fail like this, in the answer, the job and the rows alike.
    #[track_caller]
    fn fails(&self, prompt: &str, expected: &Expected) -> Failed {
        let generated = self.service.state_dir().join("generated");
        let before = lab::names(&generated);
        let begin = Instant::now();
        let reply = self.service.generate(prompt);
        let took = begin.elapsed();
        let reply = reply.expect(expected.status);
        let body = reply.json();
        let message = body["error"]["message"].as_str().unwrap();
        assert_eq!(
            (&body["error"]["code"], &body["detail"]),
            (&json!(expected.code), &json!(message))
        );
        assert!(message.contains(expected.words), "{message}");
        self.assert_harmless(message);
        let (after, again) = (reply.header("retry-after"), reply.header("x-should-retry"));
        match &expected.again {
            Again::Open => assert_eq!((after, again), (None, None)),
            Again::Never => assert_eq!((after, again), (None, Some("false"))),
            Again::After(range) => {
                let after: u64 = after.unwrap().parse().unwrap();
                assert!(range.contains(&after) && again.is_none(), "{after} {again:?}");
            }
        }

        let id = body["id"].as_str().unwrap();
        assert_eq!(reply.header("x-job-id"), Some(id));
        let job = self.service.job(id);
        assert_eq!((&job["status"], &job["images"]), (&json!("failed"), &json!([])), "{job}");
        assert_eq!((&job["error"], &job["error_code"]), (&json!(message), &json!(expected.code)));
        let [turn] = rows::turns(&self.service, id).try_into().unwrap();
        assert_eq!(
            (&turn["state"], &turn["error_code"]),
            (&json!("failed"), &json!(expected.code))
        );
        for column in ["stdout", "stderr"] {
            assert!(turn[column].as_str().unwrap().len() <= KEPT);
        }
        assert_eq!(lab::names(&generated), before, "no file is left");
        self.assert_tidy();
        Failed { reply, turn, took }
    }

    /// What a caller may read.
    #[track_caller]
    fn assert_harmless(&self, message: &str) {
        let folder = self.service.path("");
        assert!(!message.contains(folder.to_str().unwrap().trim_end_matches('/')), "{message}");
        for sign in ["{", "http:", "127.0.0.1", "localhost", "eyJ", "rt.", "[stub", "/responses"] {
            assert!(!message.contains(sign), "{sign}: {message}");
        }
        assert!(message.len() < 600 && message.chars().all(|c| !c.is_control()), "{message}");
    }

    /// A picture that comes in spite of all; the time it took.
    #[track_caller]
    fn draws(&self, prompt: &str) -> Duration {
        let begin = Instant::now();
        let reply = self.service.generate(prompt).expect(200);
        let url = reply.json()["images"][0]["url"].as_str().unwrap().to_owned();
        image::load_from_memory(&self.service.picture(&url)).unwrap();
        begin.elapsed()
    }

    /// Stopped and started again, without what it knows of the logins. Not killed: what a killed
    /// service leaves is only swept up later.
    fn restart(&mut self) {
        assert!(self.service.term().success());
        Database::of(&self.service).run("DELETE FROM login_rests");
        self.service.start();
    }

    fn problems(&self) -> Value {
        self.service.get("/ready").expect(503).json()["problems"].take()
    }

    fn auth(&self) -> PathBuf {
        self.service.codex_home().join("auth.json")
    }
}

#[track_caller]
fn mode(mode: &str, expected: &Expected) -> (Lab, Failed) {
    let lab = Lab::new();
    let failed = lab.fails(&format!("a kite [stub mode={mode}]"), expected);
    // Codex came to a thread and said something, and that is kept.
    assert!(failed.text("stdout").contains(failed.text("thread_id")), "{}", failed.turn);
    (lab, failed)
}

// What OpenAI or the model refuses.

#[test]
fn moderation() {
    let (lab, failed) = mode("moderated", &MODERATED);
    assert!(failed.text("stderr").contains("moderation_blocked"));
    assert_eq!(lab.backend.image_requests().len(), 1);
}

#[test]
fn policy() {
    let (lab, failed) = mode("policy", &MODERATED);
    assert!(failed.text("stdout").contains("turn.failed"));
    assert!(lab.backend.image_requests().is_empty());
}

#[test]
fn refusal_with_the_models_words() {
    let expected = Expected {
        status: 502,
        code: "model_refused",
        words: "Sorry, that is nothing I would draw.",
        again: Again::Never,
    };
    mode("refuse", &expected);
}

// Limits.

#[test]
fn usage_limit_in_the_zone_of_codex() {
    // Codex writes the hour of its own zone; the seconds are cut off, and a minute is added.
    for zone in ["UTC", "Asia/Kolkata", "America/Los_Angeles", "XYZ-5:45"] {
        // Within the day, and so far away that the message names the date.
        for reset in [3600, 300_000] {
            let lab = Lab::with(|setup| setup.set("TZ", zone));
            let prompt = format!("a kite [stub mode=usage-limit reset={reset}]");
            let failed = lab.fails(&prompt, &limited("usage limit", reset - 30..=reset + 70));
            assert!(failed.text("stdout").contains("try again at"), "{}", failed.turn);
        }
    }
}

#[test]
fn image_quota() {
    let lab = Lab::new();
    let prompt = "a kite [stub mode=image-limit reset=7200]";
    let failed = lab.fails(prompt, &limited("usage limit", 7100..=7200));
    assert!(failed.text("stderr").contains("usage_limit_reached"));
    let retry_at = failed.turn["retry_at"].as_i64().unwrap() / 1000;
    let left = retry_at - jiff::Timestamp::now().as_second();
    assert!((7100..=7200).contains(&left), "{left}");
    let id = failed.reply.json()["id"].as_str().unwrap().to_owned();
    assert!(lab.service.job(&id)["retry_at"].is_string());
    assert_eq!(lab.backend.image_requests().len(), 1);
    // It is known to rest: nobody asks OpenAI again before its time.
    let reply = lab.service.generate("a kite").expect(429);
    assert_eq!(reply.json()["error"]["code"], "quota_exceeded");
    assert_eq!(lab.backend.image_requests().len(), 1);
}

#[test]
fn rate_limit() {
    // Whoever has the patience waits that minute; this caller has not.
    let lab = Lab::with(|setup| setup.set("REQUEST_WAIT_TIMEOUT_SECONDS", "30"));
    lab.fails("a kite [stub mode=rate-limit]", &limited("fewer requests", 31..=60));
}

#[test]
fn another_login_helps_out_and_the_earliest_reset_counts() {
    let backend = Backend::start();
    let login = |account: &str| HomeOptions {
        account: account.into(),
        user: format!("user of {account}"),
        ..HomeOptions::default()
    };
    let setup = Setup::real_with(&backend, &login("acct-a"));
    let second = codex_home(&setup.path("second"), &backend, &login("acct-b"));
    let homes = format!("{}:{}", setup.path("codex").display(), second.display());
    let mut lab = Lab { service: setup.set("CODEX_HOMES", homes).start(), backend };
    for words in ["mode=usage-limit", "mode=image-limit", "mode=401"] {
        lab.backend.reset_counts();
        lab.backend.set_for("acct-a", words);
        lab.draws("a kite");
        lab.draws("another");
        let asked = |account| lab.backend.requests().iter().any(|r| r.account == account);
        assert!(asked("acct-a") && asked("acct-b"), "{words}");
        let paid: Vec<_> =
            lab.backend.image_requests().into_iter().filter(|r| r.picture.is_some()).collect();
        assert!(paid.len() == 2 && paid.iter().all(|r| r.account == "acct-b"), "{paid:?}");
        lab.restart();
    }
    lab.backend.set_for("acct-a", "mode=image-limit reset=9000");
    lab.backend.set_for("acct-b", "mode=image-limit reset=5000");
    lab.fails("a kite", &limited("usage limit", 4950..=5000));

    // A login that nobody can use without signing in again does not hide that of another one the
    // quota comes back.
    lab.backend.set_for("acct-b", "mode=401");
    lab.restart();
    lab.fails("a kite", &limited("usage limit", 8900..=9000));
    lab.backend.set_for("acct-a", "mode=401");
    lab.restart();
    lab.fails("a kite", &EXPIRED);
}

// The login.

#[test]
fn a_refused_login_whose_refresh_is_refused() {
    let lab = Lab::new();
    lab.backend.set("mode=401");
    let failed = lab.fails("a kite", &EXPIRED);
    assert!(failed.took < Duration::from_secs(20), "{:?}", failed.took);
    assert_eq!(lab.backend.refreshes(), 0);
    // It comes back by itself once somebody signed in.
    lab.backend.set("mode=ok");
    home::write_login(&lab.service.codex_home(), &HomeOptions::default());
    lab.draws("a kite");
}

#[test]
fn a_login_refused_once_is_refreshed_once() {
    let lab = Lab::new();
    let before = fs::read_to_string(lab.auth()).unwrap();
    lab.backend.set("mode=401-once");
    lab.draws("a kite");
    lab.draws("another kite");
    assert_eq!((lab.backend.refreshes(), lab.backend.refused_refreshes()), (1, 0));
    assert_ne!(before, fs::read_to_string(lab.auth()).unwrap());
    assert_eq!(fs::metadata(lab.auth()).unwrap().permissions().mode() & 0o777, 0o600);
}

/// By `codex exec` a login draws one picture after the other, and only the first renews it.
#[test]
fn an_expired_login_is_refreshed_once_by_16_jobs_at_once() {
    const JOBS: usize = 16;
    let login = HomeOptions { lifetime: -10, ..HomeOptions::default() };
    let lab = Lab::with_login(&login, |setup| setup.set("CODEX_WORKER_CONCURRENCY", "16"));
    lab.backend.set("oauth_latency=1.5");
    let jobs: Vec<_> = (0..JOBS).map(|n| lab.service.submit(&format!("kite {n}"))).collect();
    let mut served = HashSet::new();
    for job in jobs {
        let ended = lab.service.wait_job(&job);
        assert_eq!(ended["status"], "succeeded", "{ended}\n{}", lab.service.log());
        let url = ended["images"][0]["url"].as_str().unwrap();
        served.insert(sha256(&lab.service.picture(url)));
    }
    let paid = lab.backend.image_requests().into_iter().filter_map(|request| request.picture);
    let paid: Vec<_> = paid.collect();
    assert_eq!((paid.len(), served.len()), (JOBS, JOBS), "a picture for each, paid once");
    assert_eq!(paid.into_iter().collect::<HashSet<_>>(), served);
    assert_eq!((lab.backend.refreshes(), lab.backend.refused_refreshes()), (1, 0));

    // The login works, and so does the refresh token that it has now.
    lab.draws("a kite");
    let mut auth: Value = serde_json::from_slice(&fs::read(lab.auth()).unwrap()).unwrap();
    auth["tokens"]["access_token"] = home::tokens(&login.account, -10)["access_token"].take();
    fs::write(lab.auth(), auth.to_string()).unwrap();
    lab.draws("another kite");
    assert_eq!((lab.backend.refreshes(), lab.backend.refused_refreshes()), (2, 0));
}

#[test]
fn a_refresh_under_way_is_not_cut_off() {
    let login = HomeOptions { lifetime: -10, ..HomeOptions::default() };
    let lab = Lab::with_login(&login, |setup| setup);
    lab.backend.set("oauth_latency=2");
    let job = lab.service.submit("a kite");
    wait_for("the refresh", || {
        lab.backend.requests().iter().any(|r| r.path.ends_with("/oauth/token")).then_some(())
    });
    lab.service.delete(&format!("/v1/images/jobs/{job}")).expect(200);
    // Cut off, the new tokens would be lost and the old ones spent.
    lab.draws("another kite");
    assert_eq!((lab.backend.refreshes(), lab.backend.refused_refreshes()), (1, 0));
    assert_eq!(lab.service.job(&job)["status"], "cancelled");
}

#[test]
fn no_login() {
    let login = HomeOptions { logged_in: false, ..HomeOptions::default() };
    let lab = Lab::with_login(&login, |setup| setup);
    assert_eq!(lab.problems()[0]["code"], "not_logged_in");
    let failed = lab.fails("a kite", &not_logged_in("codex login"));
    assert!(failed.took < Duration::from_secs(20), "{:?}", failed.took);
    assert!(lab.backend.requests().is_empty(), "nobody was asked");
    home::write_login(&lab.service.codex_home(), &HomeOptions::default());
    wait_for("/ready", || (lab.service.get("/ready").status == 200).then_some(()));
    lab.draws("a kite");
}

#[test]
fn a_login_file_that_cannot_be_used() {
    let lab = Lab::new();
    for (text, words) in [
        ("{\"auth_mode\": \"chatgpt\", \"tok", "is damaged"),
        ("", "is damaged"),
        (r#"{"auth_mode": "apikey", "OPENAI_API_KEY": "sk-test"}"#, "no image tool"),
        (r#"{"OPENAI_API_KEY": "sk-test"}"#, "no image tool"),
        (r#"{"auth_mode": "chatgpt", "OPENAI_API_KEY": null, "tokens": null}"#, "no ChatGPT login"),
    ] {
        fs::write(lab.auth(), text).unwrap();
        lab.fails("a kite", &not_logged_in(words));
        wait_for("the problem", || {
            let reply = lab.service.get("/ready");
            let problem = reply.json()["problems"][0].clone();
            let is_this = problem["message"].as_str().is_some_and(|said| said.contains(words));
            (problem["code"] == "not_logged_in" && is_this).then_some(())
        });
        assert_eq!(fs::read_to_string(lab.auth()).unwrap(), text, "the file is not ours");
    }
    fs::remove_file(lab.auth()).unwrap();
    fs::create_dir(lab.auth()).unwrap();
    lab.fails("a kite", &not_logged_in("may not read"));
    assert!(lab.backend.requests().is_empty(), "nobody was asked");
}

// The image request.

#[test]
fn an_image_answer_without_a_picture() {
    mode("empty", &no_image("without an image"));
}

#[test]
fn a_picture_that_is_no_base64() {
    mode("bad-base64", &no_image("no readable image"));
}

#[test]
fn a_picture_that_is_garbage() {
    let (lab, _) = mode("garbage", &no_image("no image"));
    assert_eq!(lab.backend.image_requests().len(), 1);
}

#[test]
fn an_image_request_that_fails() {
    both(
        || drop(mode("image-500", &codex_error("HTTP status 500"))),
        || drop(mode("image-drop", &codex_error("connection"))),
    );
}

// The turn.

#[test]
fn a_stream_that_breaks() {
    both(
        || drop(mode("drop", &codex_error("connection"))),
        || drop(mode("garbage-sse", &codex_error("connection"))),
    );
}

#[test]
fn a_stream_that_breaks_once() {
    let lab = Lab::new();
    lab.draws("a kite [stub mode=drop-once]");
    assert_eq!(lab.backend.image_requests().len(), 1);
}

#[test]
fn a_service_that_is_overloaded() {
    both(
        || drop(mode("500", &codex_error("try again later"))),
        || drop(mode("503", &codex_error("try again later"))),
    );
}

#[test]
fn silence_ends_with_the_deadline() {
    let lab = Lab::with(|setup| setup.set("CODEX_TIMEOUT_SECONDS", "8"));
    let failed = lab.fails("a kite [stub mode=hang]", &timeout());
    assert!((8..60).contains(&failed.took.as_secs()), "{:?}", failed.took);
    assert!(failed.text("stdout").contains(failed.text("thread_id")), "{}", failed.turn);
    lab.draws("a kite");
}

#[test]
fn a_script_without_end_ends_with_the_deadline() {
    // Scripts run in a program that Codex starts in a process group of its own.
    let lab = Lab::with(|setup| setup.set("CODEX_TIMEOUT_SECONDS", "8"));
    lab.fails("a kite [stub mode=spin]", &timeout());
    lab.draws("a kite");

    // It also ends with the service.
    let mut lab = Lab::new();
    lab.service.submit("a kite [stub mode=spin]");
    wait_for("the script", || {
        let running = lab.service.orphans();
        running.iter().any(|pid| process::command_line(*pid).contains("code-mode")).then_some(())
    });
    thread::sleep(Duration::from_millis(300)); // until the script runs; nothing tells
    lab.service.kill9();
    lab.service.wait_for_no_orphans();
}

fn timeout() -> Expected {
    Expected { status: 502, code: "timeout", words: "in time", again: Again::Open }
}

#[test]
fn no_network_ends_with_the_deadline_or_by_itself() {
    let nobody = |deadline: &str| {
        let lab = Lab::with(|setup| setup.set("CODEX_TIMEOUT_SECONDS", deadline));
        let Lab { service, backend } = lab;
        drop(backend);
        // A backend for the form; nobody listens where the login leads.
        Lab { service, backend: Backend::start() }
    };
    both(
        || {
            let failed = nobody("4").fails("a kite", &timeout());
            assert!((4..60).contains(&failed.took.as_secs()), "{:?}", failed.took);
        },
        || {
            let failed = nobody("100").fails("a kite", &codex_error("connection"));
            assert!((1..100).contains(&failed.took.as_secs()), "{:?}", failed.took);
        },
    );
}

#[test]
fn what_fails_after_the_picture_costs_nothing() {
    let with_deadline = || Lab::with(|setup| setup.set("CODEX_TIMEOUT_SECONDS", "15"));
    both(
        || {
            let lab = with_deadline();
            for mode in ["usage-limit", "policy", "refuse", "hang"] {
                lab.backend.reset_counts();
                lab.draws(&format!("a kite [stub mode={mode} late=1]"));
                assert_eq!(lab.backend.image_requests().len(), 1, "{mode}");
            }
            lab.assert_tidy();
        },
        || {
            let lab = Lab::new();
            lab.draws("a kite [stub mode=drop late=1]");
            assert_eq!(lab.backend.image_requests().len(), 1);
            lab.assert_tidy();
        },
    );
}

// Codex itself.

#[test]
fn codex_that_is_not_there_yet() {
    let expected =
        Expected { status: 502, code: "codex_missing", words: "CODEX_BIN", again: Again::Never };
    let lab = Lab::with(|setup| {
        let bin = setup.path("bin/codex");
        setup.set("CODEX_BIN", bin)
    });
    let problems = lab.problems();
    assert_eq!(problems[0]["code"], "codex_missing", "{problems}");
    lab.service.get("/health").expect(200);
    lab.fails("a kite", &expected);
    lab.service.wait_for_log("codex_missing");

    let bin = lab.service.path("bin");
    fs::create_dir(&bin).unwrap();
    symlink(codex_binary(), bin.join("codex")).unwrap();
    wait_for("/ready", || (lab.service.get("/ready").status == 200).then_some(()));
    lab.draws("a kite");
}

#[test]
fn behind_the_npm_wrapper_the_native_binary_is_run() {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/codex/node_modules");
    let wrappers = modules.join(".bin");
    let by_path = Lab::with(|setup| setup.set("CODEX_BIN", wrappers.join("codex")));
    let by_name = Lab::with(|setup| {
        let path = format!("{}:/usr/bin:/bin", wrappers.display());
        setup.set("CODEX_BIN", "codex").set("PATH", path)
    });
    let native = fs::canonicalize(codex_binary()).unwrap();
    for lab in [by_path, by_name] {
        lab.backend.hold_images();
        let job = lab.service.submit("a kite");
        lab.backend.wait_for_images(1);
        let running = lab.service.orphans();
        let programs: Vec<PathBuf> = running
            .iter()
            .filter_map(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok())
            .collect();
        assert!(programs.contains(&native), "{programs:?}");
        let is_codex = |program: &PathBuf| program.parent() == native.parent();
        assert!(programs.iter().all(is_codex), "{programs:?}");
        let lines = running.iter().map(|pid| process::command_line(*pid));
        assert!(!lines.collect::<String>().contains("codex.js"));
        lab.backend.release_images();
        assert_eq!(lab.service.wait_job(&job)["status"], "succeeded");
    }
}

#[test]
fn what_codex_wrote_is_kept_in_bounds() {
    let service = Setup::fake().start();
    let reply = service.generate("a kite [fake big-line=3 picture=none]").expect(502);
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    let [turn] = rows::turns(&service, &id).try_into().unwrap();
    let stdout = turn["stdout"].as_str().unwrap();
    assert!((KEPT - 1024..=KEPT).contains(&stdout.len()), "{}", stdout.len());
    assert!(stdout.contains("bytes left out") && stdout.contains("turn.completed"));
}

/// Slow tests that mostly wait, side by side.
fn both(one: impl FnOnce() + Send, other: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let other = scope.spawn(other);
        one();
        if let Err(panic) = other.join() {
            std::panic::resume_unwind(panic);
        }
    });
}
