//! Promise: the command line shows how each login stands and what happened to it, tests and signs
//! in logins, and never shows or keeps a token.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _, process::Output};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{
    Backend, HomeOptions, Lab, Service, Setup, home,
    process::{self, command_line},
    rows, wait_for, write_program,
};

fn login(name: &str) -> HomeOptions {
    HomeOptions {
        account: format!("acct-{name}-0123456789"),
        user: format!("user-{name}"),
        ..HomeOptions::default()
    }
}

fn lab() -> Lab {
    Lab::served(&[login("one"), login("two")], |setup| setup.set("CODEX_IDLE_SECONDS", "1"))
}

#[track_caller]
fn logins(service: &Service, args: &[&str], code: i32) -> String {
    let output: Output = service.run(&[&["logins"], args].concat());
    let (out, words) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "{args:?}: {out}{words}");
    assert!(!out.contains("eyJ") && !words.contains("eyJ"), "a token is shown");
    out + &words
}

fn listed(service: &Service) -> Value {
    serde_json::from_str(&logins(service, &["list", "--json"], 0)).unwrap()
}

#[test]
fn the_list_says_how_each_login_stands() {
    let lab = lab();
    lab.backend.set_for("acct-two-0123456789", "mode=image-limit reset=3600");
    for n in 0..3 {
        lab.service.generate(&format!("kite {n}")).expect(200);
    }
    let rested = |list: &Value| list[1]["state"] == "resting" && !list[1]["windows"][0].is_null();
    let list = wait_for("the ledger", || Some(listed(&lab.service)).filter(rested));
    let (one, two) = (&list[0], &list[1]);
    assert_eq!((&one["label"], &one["state"]), (&json!("codex"), &json!("ready")));
    assert_eq!((&one["account"], &one["plan"]), (&json!("acct-one"), &json!("plus")));
    assert!(one["token_expires_at"].is_string());
    assert_eq!((&one["images_24h"], &one["images_48h"]), (&json!(3), &json!(3)));
    assert_eq!(one["success_percent_24h"], 100);
    let windows = one["windows"].as_array().unwrap();
    let of = |limit: &str, minutes: u32| {
        windows.iter().find(|w| w["limit"] == limit && w["minutes"] == minutes).unwrap()
    };
    assert_eq!(of("codex", 300)["used_percent"], 12);
    assert_eq!(of("codex", 10_080)["used_percent"], 34);
    assert_eq!(of("image_gen", 300)["used_percent"], 5);
    assert_eq!(
        (&two["rest"]["reason"], &two["rest"]["limit"]),
        (&json!("quota"), &json!("image_gen"))
    );
    let words = logins(&lab.service, &["list"], 0);
    for part in ["codex2: resting", "image_gen 5 h: 5 % used", "codex 7 d: 34 % used", "plan plus"]
    {
        assert!(words.contains(part), "{part}: {words}");
    }
}

#[test]
fn a_rest_outlives_a_restart() {
    let mut lab = lab();
    for account in ["acct-one-0123456789", "acct-two-0123456789"] {
        lab.backend.set_for(account, "mode=image-limit reset=3600");
    }
    lab.service.generate("a kite").expect(429);
    let asked = lab.backend.image_requests().len();
    wait_for("the ledger", || {
        let list = listed(&lab.service);
        (list[0]["state"] == "resting" && list[1]["state"] == "resting").then_some(())
    });
    lab.service.restart();
    lab.service.generate("a kite").expect(429);
    assert_eq!(lab.backend.image_requests().len(), asked);
}

#[test]
fn a_rest_is_ended_by_hand() {
    let mut lab = lab();
    for account in ["acct-one-0123456789", "acct-two-0123456789"] {
        lab.backend.set_for(account, "mode=image-limit reset=3600");
    }
    lab.service.generate("a kite").expect(429);
    wait_for("the ledger", || {
        let list = listed(&lab.service);
        (list[0]["state"] == "resting" && list[1]["state"] == "resting").then_some(())
    });
    for account in ["acct-one-0123456789", "acct-two-0123456789"] {
        lab.backend.set_for(account, "");
    }
    lab.service.generate("a kite").expect(429);
    lab.service.wait_for_no_orphans();
    let words = logins(&lab.service, &["test", "codex2"], 0);
    let hint = "by its numbers the quota is back: `codex-image-service logins wake codex2`";
    assert!(words.contains("rests: quota (image_gen) until ") && words.contains(hint), "{words}");
    // The running service follows, and so do the list and the next start.
    let words = logins(&lab.service, &["wake", "codex2"], 0);
    assert!(words.contains("codex2: its rest is ended (quota (image_gen) until "), "{words}");
    wait_for("the service to follow", || {
        lab.service.log().contains("login is woken by hand").then_some(())
    });
    lab.service.generate("a kite").expect(200);
    assert_eq!(lab.backend.image_requests().last().unwrap().account, "acct-two-0123456789");
    assert_eq!(listed(&lab.service)[1]["state"], "ready");
    let trail = logins(&lab.service, &["audit", "codex2"], 0);
    assert!(trail.contains("wakes  woken by hand"), "{trail}");

    // Without the service the same is known: what rests is not asked.
    let home = lab.service.codex_home();
    lab.service.term();
    lab.service.set("CODEX_HOMES", home);
    let generate = |lab: &Lab, code: i32| {
        let output = lab.service.run(&["generate", "a kite", "-o", "-"]);
        let words = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words}");
        words
    };
    let asked = lab.backend.image_requests().len();
    let words = generate(&lab, 3);
    assert!(words.contains("login codex rests: quota (image_gen) until "), "{words}");
    assert!(words.contains("`codex-image-service logins wake codex`"), "{words}");
    assert!(words.contains("It is back at 20"), "{words}");
    assert_eq!(lab.backend.image_requests().len(), asked);
    logins(&lab.service, &["wake", "codex"], 0);
    generate(&lab, 0);
}

#[test]
fn what_is_wrong_with_a_login_is_said_with_its_place() {
    let backend = Backend::start();
    let setup = Setup::served(&backend, &[login("one")]);
    let (good, bad) = (setup.path("codex"), setup.path("a,b"));
    let homes = format!("good={}:bad={}", good.display(), bad.display());
    let mut service = setup.set("CODEX_HOMES", homes).start();
    let said = format!(
        "login bad: there is no folder {} (CODEX_HOMES is separated by colons); sign in with \
         `codex-image-service logins add bad`",
        bad.display()
    );
    assert!(service.log().contains(&said), "{}", service.log());
    assert!(logins(&service, &["list"], 0).contains(&said));
    assert_eq!(listed(&service)[1]["problem"], said);
    assert!(logins(&service, &["test", "bad"], 1).contains(&said));
    // It can be used all the same, and callers learn of no path.
    service.generate("a kite").expect(200);
    let auth = good.join("auth.json");
    fs::rename(&auth, good.join("kept")).unwrap();
    std::os::unix::fs::symlink("auth.json", &auth).unwrap();
    let said = format!("login good: {} cannot be read: Too many levels", auth.display());
    assert!(logins(&service, &["list"], 0).contains(&said));
    assert!(logins(&service, &["test", "good"], 1).contains(&said));
    let told = wait_for("/ready", || {
        let reply = service.get("/ready");
        (reply.status == 503).then(|| reply.json()["problems"][0].clone())
    });
    assert_eq!(told["code"], "not_logged_in");
    let message = told["message"].as_str().unwrap();
    assert!(message.contains("may not read") && !message.contains('/'), "{message}");
    service.restart();
    service.wait_for_log(&said);
    // Neither is this a login.
    fs::rename(good.join("kept"), &auth).unwrap();
    service.term();
    service.set("CODEX_HOMES", format!("file={}", auth.display()));
    assert!(logins(&service, &["list"], 0).contains("auth.json is no folder; CODEX_HOMES names"));
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named() {
    let backend = Backend::start();
    let service = Setup::served(&backend, &[login("one")]).stopped();
    let shadows = service.state_dir().join("codex");
    fs::write(&shadows, "a file in the place of a folder").unwrap();
    let words = logins(&service, &["test", "codex"], 1);
    assert!(words.contains(&format!("{}: ", shadows.display())), "{words}");
    assert!(!words.contains("could not start Codex"), "{words}");
}

#[test]
fn the_audit_trail_tells_what_happened() {
    let expired = HomeOptions { lifetime: -10, ..login("one") };
    let lab = Lab::served(&[expired], |setup| setup);
    lab.service.generate("a kite").expect(200);
    lab.backend.hold_images();
    let job = lab.service.submit("another");
    lab.backend.wait_for_images(2);
    for pid in lab.service.orphans() {
        if command_line(pid).contains("app-server") {
            process::signal(pid, Signal::KILL);
        }
    }
    lab.backend.wait_for_images(3);
    lab.backend.release_images();
    lab.service.wait_job(&job);
    lab.backend.set("mode=image-limit reset=3600");
    lab.service.generate("a third").expect(429);
    let lines = wait_for("the trail", || {
        let lines: Value =
            serde_json::from_str(&logins(&lab.service, &["audit", "--json"], 0)).unwrap();
        Some(lines).filter(|lines| lines.to_string().contains("\"rests\""))
    });
    let said = |what: &str| {
        let lines = lines.as_array().unwrap().iter();
        let of: Vec<_> = lines.filter(|line| line["what"] == what).collect();
        assert!(!of.is_empty(), "{what}: {of:?}");
        of[0]["detail"].as_str().unwrap().to_owned()
    };
    assert!(said("rotated").starts_with("refresh token "));
    assert!(said("killed").contains("ended without being asked"));
    assert_eq!(said("failed"), "quota_exceeded");
    assert!(said("rests").starts_with("quota (image_gen) until "));
    assert!(logins(&lab.service, &["audit", "codex", "--limit", "1"], 0).lines().count() == 1);
    // Neither tokens nor prompts, in no row.
    let auth: Value =
        serde_json::from_slice(&fs::read(lab.service.codex_home().join("auth.json")).unwrap())
            .unwrap();
    for name in ["access_token", "refresh_token", "id_token"] {
        let token = auth["tokens"][name].as_str().unwrap();
        let part = &token[token.len() / 3..token.len() / 3 * 2];
        assert!(rows::everything(&lab.service).iter().all(|(_, value)| !value.contains(part)));
        assert!(!lab.service.log().contains(part));
    }
}

#[test]
fn a_test_asks_without_spending() {
    let lab = lab();
    let words = logins(&lab.service, &["test", "codex2"], 0);
    assert!(words.contains("codex2: the session is valid, plan plus"), "{words}");
    assert!(words.contains("image_gen 5 h: 5 % used"), "{words}");
    assert!(lab.backend.image_requests().is_empty() && lab.backend.turns().is_empty());
    lab.backend.set_for("acct-two-0123456789", "mode=401");
    let words = logins(&lab.service, &["test", "codex2"], 1);
    assert!(words.contains("login_expired"), "{words}");
    for command in ["test", "wake"] {
        let words = logins(&lab.service, &[command, "other"], 1);
        assert!(words.contains("There is no login other; known are: codex, codex2"), "{words}");
    }
    // While the service has it, nobody else starts a Codex there.
    lab.backend.hold_images();
    let job = lab.service.submit("a kite");
    lab.backend.wait_for_images(1);
    let words = logins(&lab.service, &["test", "codex"], 1);
    assert!(words.contains("in use by another process"), "{words}");
    assert!(words.contains("`logins list` shows") && words.contains("CODEX_IDLE"), "{words}");
    lab.backend.release_images();
    assert_eq!(lab.service.wait_job(&job)["status"], "succeeded");
    lab.service.wait_for_no_orphans();
}

#[test]
fn another_order_is_followed_at_once() {
    let lab = lab();
    assert_eq!(logins(&lab.service, &["dispatch"], 0), "round-robin\n");
    assert_eq!(logins(&lab.service, &["dispatch", "primary-first"], 0), "primary-first\n");
    logins(&lab.service, &["dispatch", "sideways"], 2);
    wait_for("the service to follow", || {
        lab.service.log().contains("dispatch=\"primary-first\"").then_some(())
    });
    for n in 0..4 {
        lab.service.generate(&format!("kite {n}")).expect(200);
    }
    let second = |request: &support::backend::ImageRequest| request.account.contains("two");
    assert!(!lab.backend.image_requests().iter().any(second));
}

#[test]
fn signing_in_runs_codex_in_the_right_home() {
    let backend = Backend::start();
    let setup = Setup::served(&backend, &[login("one")]);
    let script = setup.path("codex-script");
    // Signs in like Codex does, and says with what it was started.
    let text = "#!/bin/sh\nprintf '%s ' \"$@\" > \"$CODEX_HOME/args\"\nenv > \"$CODEX_HOME/env\"\n\
                printf '{\"auth_mode\":\"chatgpt\",\"tokens\":{\"access_token\":\"x\"}}' \
                > \"$CODEX_HOME/auth.json\"\n";
    write_program(&script, text);
    let new = setup.path("logins/new");
    let homes = format!("old={}:new={}", setup.path("codex").display(), new.display());
    let setup = setup.set("CODEX_HOMES", homes).set("OPENAI_API_KEY", "sk-planted");
    let service = setup.set("CODEX_BIN", script).stopped();
    let words = logins(&service, &["add", "new"], 0);
    assert!(words.contains("The login new is signed in."), "{words}");
    assert!(fs::read_to_string(new.join("args")).unwrap().starts_with("login --device-auth "));
    let environment = fs::read_to_string(new.join("env")).unwrap();
    assert!(!environment.contains("sk-planted"), "{environment}");
    assert_eq!(fs::metadata(&new).unwrap().permissions().mode() & 0o777, 0o700);
    let words = logins(&service, &["add", "other"], 1);
    assert!(words.contains("known are: old, new"), "{words}");
    // Nobody signs in where a Codex is at work.
    let held = fs::File::create(new.join(".codex-image-service.lock")).unwrap();
    held.lock().unwrap();
    assert!(logins(&service, &["add", "new"], 1).contains("in use by another process"));
    held.unlock().unwrap();
    // Signed in with an API key there is no image tool.
    home::write_login(&new, &HomeOptions::default());
    fs::write(new.join("auth.json"), "{\"OPENAI_API_KEY\":\"k\"}").unwrap();
    assert_eq!(listed(&service)[1]["state"], "not_logged_in");
}
