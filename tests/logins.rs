//! Promise: with several logins a caller gets the picture from one that can draw, paid for once;
//! a login without quota is left alone until its reset, and when all are, callers are told when to
//! come back or wait for it.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use serde_json::json;
use support::{Backend, HomeOptions, Lab, Setup, backend::answers::now, wait_for, wait_for_within};

/// Two logins of two users; their accounts are `acct-one` and `acct-two`.
fn two(change: impl FnOnce(Setup) -> Setup) -> Lab {
    Lab::served(&[login("one"), login("two")], change)
}

fn login(name: &str) -> HomeOptions {
    HomeOptions {
        account: format!("acct-{name}"),
        user: format!("user-{name}"),
        ..HomeOptions::default()
    }
}

fn paid(backend: &Backend, account: &str) -> usize {
    let requests = backend.image_requests().into_iter();
    requests.filter(|request| request.account == account && request.picture.is_some()).count()
}

fn asked(backend: &Backend, account: &str) -> usize {
    backend.image_requests().iter().filter(|request| request.account == account).count()
}

#[test]
fn both_draw_in_turn() {
    let lab = two(|setup| setup);
    for n in 0..6 {
        lab.service.generate(&format!("kite {n}")).expect(200);
    }
    // Until the quota of both is known, the one of which nothing is known is thought to have more.
    let (one, two) = (paid(&lab.backend, "acct-one"), paid(&lab.backend, "acct-two"));
    assert!(one >= 2 && two >= 2 && one + two == 6, "{one} and {two}");
}

#[test]
fn the_second_draws_when_the_first_has_no_image_quota() {
    let lab = two(|setup| setup);
    lab.backend.set_for("acct-one", "mode=image-limit reset=3600");
    for n in 0..4 {
        lab.service.generate(&format!("kite {n}")).expect(200);
    }
    // Asked once, then left alone; nothing is paid twice.
    assert_eq!((asked(&lab.backend, "acct-one"), paid(&lab.backend, "acct-one")), (1, 0));
    assert_eq!((asked(&lab.backend, "acct-two"), paid(&lab.backend, "acct-two")), (4, 4));
}

#[test]
fn the_second_draws_when_the_first_is_signed_out() {
    let lab = two(|setup| setup);
    lab.backend.set_for("acct-one", "mode=401");
    for n in 0..3 {
        lab.service.generate(&format!("kite {n}")).expect(200);
    }
    assert_eq!((asked(&lab.backend, "acct-one"), paid(&lab.backend, "acct-two")), (0, 3));
}

#[test]
fn without_any_quota_callers_are_told_when_it_is_back() {
    let lab = two(|setup| setup.set("REQUEST_WAIT_TIMEOUT_SECONDS", "60"));
    lab.backend.set_for("acct-one", "mode=image-limit reset=7200");
    lab.backend.set_for("acct-two", "mode=image-limit reset=3600");
    let reply = lab.service.generate("a kite").expect(429);
    assert_eq!(reply.json()["error"]["code"], "quota_exceeded");
    let seconds: i64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&seconds), "{seconds}");
    // From here on at once, without a job, a Codex or a request; whoever asks in whatever way.
    let requests = lab.backend.image_requests().len();
    for path in ["/v1/images/generate", "/v1/images/jobs"] {
        let reply = lab.service.post_json(path, &json!({"prompt": "another kite"})).expect(429);
        assert_eq!(reply.json()["error"]["code"], "quota_exceeded");
        let seconds: i64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((3500..=3600).contains(&seconds), "{seconds}");
    }
    assert_eq!(lab.backend.image_requests().len(), requests);
    wait_for("/ready to say so", || {
        let reply = lab.service.request_bare("GET", "/ready", &[], None);
        (reply.status == 503)
            .then(|| assert_eq!(reply.json()["problems"][0]["code"], "logins_rest"))
    });
}

#[test]
fn a_front_of_its_own_tells_callers_before_it_takes_a_job() {
    let lab =
        two(|setup| setup.set("REQUEST_WAIT_TIMEOUT_SECONDS", "60").args(&["--role", "front"]));
    let mut worker = lab.service.command(&["serve", "--role", "worker"]).spawn().unwrap();
    for account in ["acct-one", "acct-two"] {
        lab.backend.set_for(account, "mode=image-limit reset=3600");
    }
    let first = lab.service.submit("a kite");
    assert_eq!(lab.service.wait_job(&first)["error_code"], "quota_exceeded");
    wait_for("the front to know", || {
        let reply = lab.service.post_json("/v1/images/jobs", &json!({"prompt": "another kite"}));
        (reply.status == 429).then(|| assert!(reply.header("retry-after").is_some()))
    });
    worker.kill().unwrap();
    worker.wait().unwrap();
}

#[test]
fn a_patient_caller_waits_for_the_reset() {
    let lab = two(|setup| setup);
    for account in ["acct-one", "acct-two"] {
        lab.backend.set_for(account, "mode=image-limit reset=6");
    }
    let begun = now();
    let job = lab.service.submit("a kite");
    lab.service
        .wait_for_log(&format!("job waits for the quota job_id=\"{job}\" phase=\"waiting\""));
    assert_eq!(lab.service.get(&format!("/v1/images/jobs/{job}")).json()["status"], "queued");
    for account in ["acct-one", "acct-two"] {
        lab.backend.set_for(account, "mode=ok");
    }
    assert_eq!(lab.service.wait_job(&job)["status"], "succeeded");
    assert!(now() >= begun + 4, "not before the reset");
    assert_eq!(paid(&lab.backend, "acct-one") + paid(&lab.backend, "acct-two"), 1);
}

#[test]
fn a_waiting_job_survives_a_kill_and_can_be_cancelled() {
    let mut lab = Lab::served(&[login("one")], |setup| setup);
    lab.backend.set("mode=image-limit reset=8");
    let jobs = [lab.service.submit("a kite"), lab.service.submit("another kite")];
    wait_for("the jobs to wait", || {
        (lab.service.log().matches("job waits for the quota").count() >= 2).then_some(())
    });
    lab.service.delete(&format!("/v1/images/jobs/{}", jobs[1])).expect(200);
    lab.backend.set("mode=ok");
    lab.service.restart();
    assert_eq!(lab.service.wait_job(&jobs[0])["status"], "succeeded");
    assert_eq!(lab.service.wait_job(&jobs[1])["status"], "cancelled");
    assert_eq!(paid(&lab.backend, "acct-one"), 1);
}

#[test]
fn what_is_the_jobs_own_fault_is_not_tried_on_another_login() {
    let lab = two(|setup| setup);
    for (mode, code) in [("moderated", "moderation_blocked"), ("refuse", "model_refused")] {
        lab.backend.reset_counts();
        let reply = lab.service.generate(&format!("a kite [stub mode={mode}]")).expect(502);
        assert_eq!(reply.json()["error"]["code"], code);
        assert_eq!(lab.backend.turns().iter().filter(|turn| is_first(turn)).count(), 1, "{mode}");
        assert!(lab.backend.image_requests().len() <= 1);
    }
}

/// The first request of a turn, not one that brings the tool's outcome.
fn is_first(turn: &serde_json::Value) -> bool {
    let input = turn["input"].as_array().unwrap();
    turn["generate"] != false
        && !input
            .iter()
            .any(|item| item["type"].as_str().is_some_and(|kind| kind.ends_with("_output")))
}

#[test]
fn logins_of_one_user_rest_together() {
    let mut other = login("two");
    other.user = "user-one".to_owned();
    let lab = Lab::served(&[login("one"), other], |setup| {
        setup.set("REQUEST_WAIT_TIMEOUT_SECONDS", "60")
    });
    assert!(lab.service.log().contains("the same ChatGPT user"));
    lab.backend.set_for("acct-one", "mode=image-limit reset=3600");
    lab.service.generate("a kite").expect(429);
    assert_eq!(asked(&lab.backend, "acct-two"), 0);
}

#[test]
fn little_quota_left_lets_a_login_rest() {
    let lab = two(|setup| setup.set("CODEX_MIN_QUOTA_PERCENT", "10"));
    lab.backend.set_for("acct-one", "image_percent=93");
    lab.service.generate("a first kite").expect(200);
    wait_for("the rest", || lab.service.log().contains("low_quota").then_some(()));
    lab.backend.reset_counts();
    for n in 0..3 {
        lab.service.generate(&format!("kite {n}")).expect(200);
    }
    assert_eq!((asked(&lab.backend, "acct-one"), paid(&lab.backend, "acct-two")), (0, 3));
}

#[test]
fn a_login_that_others_may_read_is_warned_of() {
    let backend = Backend::start();
    let setup = Setup::served(&backend, &[login("one")]);
    let auth = setup.path("codex/auth.json");
    fs::set_permissions(auth, fs::Permissions::from_mode(0o644)).unwrap();
    let service = setup.start();
    service.wait_for_log("others may read auth.json");
}

#[test]
fn two_services_with_one_login_never_use_it_at_once() {
    let backend = Backend::start();
    let first = Setup::served(&backend, &[login("one")]).set("CODEX_IDLE_SECONDS", "1").start();
    let home = first.codex_home();
    let second = Setup::served(&backend, &[login("one")]).set("CODEX_HOMES", home).start();
    first.generate("a kite").expect(200);
    // The first has it until it has idled; the second says so and waits.
    second.generate("another kite").expect(200);
    assert!(second.log().contains("another process uses the login"), "{}", second.log());
    assert_eq!(backend.image_requests().len(), 2);
}

#[test]
fn an_idle_login_is_renewed_before_its_token_expires() {
    // One expires within the day, the other does not; a third is not to be renewed.
    let soon = HomeOptions { lifetime: 3600, ..login("one") };
    let lab =
        Lab::served(&[soon.clone(), login("two")], |setup| setup.set("CODEX_IDLE_SECONDS", "1"));
    let not_wanted = Lab::served(&[soon], |setup| setup.set("CODEX_KEEP_ALIVE", "off"));
    let before = fs::read(lab.service.codex_home().join("auth.json")).unwrap();
    // The first look is a minute after the start.
    wait_for_within(Duration::from_mins(3), "the renewal", || {
        lab.service.log().contains("idle login renewed login=\"codex\"").then_some(())
    });
    assert_eq!((lab.backend.refreshes(), lab.backend.refused_refreshes()), (1, 0));
    assert_ne!(before, fs::read(lab.service.codex_home().join("auth.json")).unwrap());
    assert!(lab.backend.turns().is_empty() && lab.backend.image_requests().is_empty());
    lab.service.wait_for_no_orphans();
    assert!(not_wanted.backend.requests().is_empty());
}
