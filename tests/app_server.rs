//! Promise: with one app-server for each login many pictures are drawn at once, each paid for once
//! and each the right one; the login is refreshed once for all of them, and what goes wrong with
//! the app-server ends in a named failure or in a recovery. With the real Codex.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{collections::HashSet, fs, path::Path, time::Duration};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{
    Db, HomeOptions, Lab, Service,
    home::is_expired,
    pictures,
    process::{self, command_line},
    wait_for, wait_for_within, write_program,
};

fn lab() -> Lab {
    served(|setup| setup)
}

fn served(change: impl FnOnce(support::Setup) -> support::Setup) -> Lab {
    Lab::served(&[HomeOptions::default()], change)
}

/// The app-servers that run, without what they started.
fn servers(service: &Service) -> Vec<i32> {
    let mut found = service.orphans();
    found.retain(|pid| command_line(*pid).contains("bin/codex app-server"));
    found
}

#[track_caller]
fn the_server(service: &Service) -> i32 {
    let found = servers(service);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

fn succeeded(lab: &Lab, jobs: &[String]) -> Vec<Value> {
    let ended = jobs.iter().map(|job| lab.service.wait_job(job));
    let ended: Vec<_> = ended.collect();
    for job in &ended {
        assert_eq!(job["status"], "succeeded", "{job}\n{}", lab.service.log());
    }
    ended
}

/// The picture of a job, by way of its URL.
fn picture(service: &Service, job: &Value) -> Vec<u8> {
    let url = job["images"][0]["url"].as_str().unwrap();
    let (_, path) = url.split_once("/generated/").unwrap();
    service.get(&format!("/generated/{path}")).expect(200).body
}

fn no_pictures_are_kept(lab: &Lab) {
    for shadow in lab.shadows() {
        wait_for("Codex's own copies to be removed", || {
            support::lab::names(&shadow.join("generated_images")).is_empty().then_some(())
        });
    }
    assert!(!lab.service.codex_home().join("generated_images").exists());
}

#[test]
fn many_at_once_on_one_server_each_get_their_own_picture() {
    let lab = lab();
    lab.backend.hold_images();
    let jobs: Vec<_> =
        (0..16).map(|n| lab.service.submit(&format!("kite number {n} [stub job=k{n}]"))).collect();
    lab.backend.wait_for_images(16);
    assert_eq!(lab.backend.peak_images(), 16);
    lab.backend.release_images();
    let ended = succeeded(&lab, &jobs);
    let requests = lab.backend.image_requests();
    for (n, job) in ended.iter().enumerate() {
        let tag = format!("k{n}");
        assert_eq!(lab.backend.image_requests_for(&tag), 1, "paid once");
        let paid = requests.iter().find(|request| request.job.as_deref() == Some(&*tag)).unwrap();
        let hash = pictures::sha256(&picture(&lab.service, job));
        assert_eq!(paid.picture.as_deref(), Some(hash.as_str()), "the job's own picture");
    }
    the_server(&lab.service);
    no_pictures_are_kept(&lab);
}

#[test]
fn references_arrive_as_they_were_sent() {
    let lab = lab();
    let kinds = ["png", "jpeg"].map(|format| {
        let mut options = support::backend::Options::default();
        options.apply(&format!("format={format}")).unwrap();
        pictures::unique(&options.picture, "a reference")
    });
    let texts = kinds.each_ref().map(|bytes| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(bytes)
    });
    let body = json!({"prompt": "the same, but green", "reference_images_base64": texts});
    lab.service.post_json("/v1/images/generate", &body).expect(200);
    let edits = lab.backend.edits();
    assert_eq!(edits.len(), 1);
    let sent: Vec<_> = edits[0].references.iter().map(|sent| sent.sha256.clone()).collect();
    assert_eq!(sent, kinds.map(|bytes| pictures::sha256(&bytes)));
}

#[test]
fn each_failure_has_its_name() {
    let lab = lab();
    for (mode, status, code) in [
        ("moderated", 502, "moderation_blocked"),
        ("refuse", 502, "model_refused"),
        ("policy", 502, "moderation_blocked"),
        ("empty", 502, "no_image"),
        ("bad-base64", 502, "no_image"),
        ("garbage", 502, "no_image"),
        ("image-500", 502, "codex_error"),
        ("drop", 502, "codex_error"),
    ] {
        let reply = lab.service.generate(&format!("a kite [stub mode={mode}]"));
        assert_eq!(reply.status, status, "{mode}: {reply:?}\n{}", lab.service.log());
        assert_eq!(reply.json()["error"]["code"], code, "{mode}: {reply:?}");
    }
    // A refusal is shown in the model's words, and the server has lived through all of it.
    let refused = lab.service.generate("a kite [stub mode=refuse]").expect(502).json();
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("nothing I would draw"), "{message}");
    lab.service.generate("a kite").expect(200);
    the_server(&lab.service);
}

#[test]
fn failures_at_the_same_time_are_told_apart() {
    let lab = lab();
    lab.backend.hold_images();
    let modes = ["moderated", "image-500", "ok", "empty", "moderated", "ok"];
    let jobs = modes.map(|mode| lab.service.submit(&format!("a kite [stub mode={mode}]")));
    lab.backend.wait_for_images(modes.len());
    lab.backend.release_images();
    let codes = jobs.each_ref().map(|job| lab.service.wait_job(job)["error_code"].clone());
    let expected = ["moderation_blocked", "codex_error", "", "no_image", "moderation_blocked", ""];
    let expected = expected.map(|code| if code.is_empty() { Value::Null } else { code.into() });
    assert_eq!(codes, expected, "{}", lab.service.log());
}

#[test]
fn at_expiry_one_refresh_serves_all() {
    let login = HomeOptions { lifetime: -10, ..HomeOptions::default() };
    let lab = Lab::served(&[login], |setup| setup);
    lab.backend.set("oauth_latency=1.5");
    let before = fs::read(lab.service.codex_home().join("auth.json")).unwrap();
    let jobs: Vec<_> = (0..16).map(|n| lab.service.submit(&format!("kite {n}"))).collect();
    succeeded(&lab, &jobs);
    assert_eq!((lab.backend.refreshes(), lab.backend.refused_refreshes()), (1, 0));
    assert_eq!(lab.backend.image_requests().len(), 16);
    // The login's own file has the new tokens, and the server's home still only leads there.
    let after = fs::read(lab.service.codex_home().join("auth.json")).unwrap();
    assert_ne!(before, after);
    let after: Value = serde_json::from_slice(&after).unwrap();
    assert!(!is_expired(after["tokens"]["access_token"].as_str().unwrap()));
    for shadow in lab.shadows() {
        assert!(fs::symlink_metadata(shadow.join("auth.json")).unwrap().is_symlink());
    }
}

#[test]
fn cancelling_interrupts_the_turn_and_the_server_lives_on() {
    let lab = lab();
    lab.service.generate("a kite").expect(200);
    let server = the_server(&lab.service);
    lab.backend.hold_images();
    let job = lab.service.submit("a kite that nobody waits for");
    lab.backend.wait_for_images(2);
    lab.service.delete(&format!("/v1/images/jobs/{job}")).expect(200);
    assert_eq!(lab.service.wait_job(&job)["status"], "cancelled");
    wait_for("the request to be dropped", || (lab.backend.open_images() == 0).then_some(()));
    lab.backend.release_images();
    lab.service.generate("another kite").expect(200);
    assert_eq!(the_server(&lab.service), server);
    no_pictures_are_kept(&lab);
}

#[test]
fn a_turn_ends_with_its_picture() {
    let lab = lab();
    // This model asks for a second picture once it has seen the first, and that takes a while.
    let words = "[stub images=2 serial=1 latency=1 job=one]";
    let answer = lab.service.generate(&format!("a kite {words}")).expect(200).json();
    assert_eq!(answer["images"].as_array().map(Vec::len), Some(1), "{answer}");
    let server = the_server(&lab.service);
    // As long as the second would have taken to be asked for.
    lab.service.generate("another kite [stub latency=1.5]").expect(200);
    assert_eq!(lab.backend.image_requests_for("one"), 1);
    assert_eq!(the_server(&lab.service), server);
    no_pictures_are_kept(&lab);
}

#[test]
fn past_its_deadline_a_turn_is_interrupted() {
    let lab = served(|setup| setup.set("CODEX_TIMEOUT_SECONDS", "8"));
    lab.backend.hold_images();
    let reply = lab.service.generate("a kite").expect(502);
    assert_eq!(reply.json()["error"]["code"], "timeout");
    let server = the_server(&lab.service);
    wait_for("the request to be dropped", || (lab.backend.open_images() == 0).then_some(()));
    lab.backend.release_images();
    lab.service.generate("a kite").expect(200);
    assert_eq!(the_server(&lab.service), server);
}

#[test]
fn a_killed_server_is_replaced_and_its_jobs_are_drawn() {
    let lab = lab();
    lab.backend.hold_images();
    let jobs: Vec<_> = (0..4).map(|n| lab.service.submit(&format!("kite {n}"))).collect();
    lab.backend.wait_for_images(4);
    let server = the_server(&lab.service);
    process::signal(server, Signal::KILL);
    wait_for("the jobs to be drawn again", || {
        (lab.backend.image_requests().len() >= 8).then_some(())
    });
    lab.backend.release_images();
    succeeded(&lab, &jobs);
    // Nobody's picture was there yet, so each is asked for once more and no more.
    assert_eq!(lab.backend.image_requests().len(), 8);
    assert_ne!(the_server(&lab.service), server);
}

#[test]
fn a_server_that_dies_each_time_is_a_failure_with_a_name() {
    let lab = lab();
    lab.backend.hold_images();
    let job = lab.service.submit("a kite");
    for round in 1..=2 {
        lab.backend.wait_for_images(round);
        process::signal(the_server(&lab.service), Signal::KILL);
    }
    let ended = lab.service.wait_job(&job);
    assert_eq!((&ended["status"], &ended["error_code"]), (&json!("failed"), &json!("codex_error")));
    lab.backend.release_images();
    lab.service.generate("a kite").expect(200);
}

#[test]
fn a_stopped_server_is_noticed_and_replaced() {
    let lab = lab();
    lab.backend.hold_images();
    let job = lab.service.submit("a kite");
    lab.backend.wait_for_images(1);
    let server = the_server(&lab.service);
    process::signal(server, Signal::STOP);
    // Asked after 10 s, given up 20 s later, ended 10 s after that.
    wait_for_within(Duration::from_mins(3), "the job to be drawn again", || {
        (lab.backend.image_requests().len() >= 2).then_some(())
    });
    lab.backend.release_images();
    succeeded(&lab, &[job]);
    assert_ne!(the_server(&lab.service), server);
}

#[test]
fn without_work_it_ends_and_comes_back() {
    let lab = served(|setup| setup.set("CODEX_IDLE_SECONDS", "0.3"));
    lab.service.generate("a kite").expect(200);
    lab.service.wait_for_no_orphans();
    lab.service.generate("another kite").expect(200);
    lab.assert_tidy();
}

#[test]
fn after_so_many_pictures_it_is_replaced() {
    let lab = served(|setup| setup.set("CODEX_RECYCLE_IMAGES", "2"));
    let mut seen = HashSet::new();
    for n in 0..6 {
        lab.service.generate(&format!("kite {n}")).expect(200);
        seen.extend(servers(&lab.service));
    }
    assert!(seen.len() >= 2, "{seen:?}");
    assert_eq!(lab.backend.image_requests().len(), 6);
}

#[test]
fn a_stop_lets_turns_end_and_leaves_no_process() {
    let mut lab = lab();
    lab.backend.hold_images();
    let job = lab.service.submit("a kite");
    lab.backend.wait_for_images(1);
    process::signal(lab.service.pid(), Signal::TERM);
    std::thread::sleep(Duration::from_millis(300));
    the_server(&lab.service);
    lab.backend.release_images();
    lab.service.wait_end(Duration::from_mins(1));
    lab.service.wait_for_no_orphans();
    assert_eq!(Db::of(&lab.service).job(&job).state, "succeeded");
}

#[test]
fn a_kill_of_the_service_ends_the_server_and_nothing_is_paid_twice() {
    let mut lab = lab();
    lab.backend.hold_images();
    let jobs: Vec<_> = (0..3).map(|n| lab.service.submit(&format!("kite {n}"))).collect();
    lab.backend.wait_for_images(3);
    lab.service.kill9();
    lab.service.wait_for_no_orphans();
    lab.backend.release_images();
    lab.service.start();
    succeeded(&lab, &jobs);
    assert_eq!(lab.backend.image_requests().len(), 6, "each once more");
}

#[test]
fn a_picture_that_was_saved_before_a_kill_is_taken_and_not_paid_again() {
    let mut lab = lab();
    // The picture is there; the model has not said its last word.
    let job = lab.service.submit("a kite [stub mode=hang late=1]");
    let saved = wait_for("the picture in the shadow", || {
        let folders = lab.shadows().into_iter().map(|shadow| shadow.join("generated_images"));
        folders.flat_map(|folder| support::snapshot_if_there(&folder)).next()
    });
    lab.service.kill9();
    lab.service.wait_for_no_orphans();
    lab.service.start();
    let ended = succeeded(&lab, &[job]);
    assert_eq!(picture(&lab.service, &ended[0]), saved.1);
    assert_eq!(lab.backend.image_requests().len(), 1, "paid once");
    no_pictures_are_kept(&lab);
}

#[test]
fn nothing_of_the_owners_settings_reaches_it() {
    const PLANTED: &str = "planted-words-93bd";
    let lab = served(|setup| {
        let program = setup.path("planted");
        let text = format!("#!/bin/sh\ntouch {}\n", setup.path("was-run").display());
        write_program(&program, &text);
        let home = setup.path("codex");
        let config = fs::read_to_string(home.join("config.toml")).unwrap();
        let program = program.to_str().unwrap();
        let plants = format!(
            "notify = [\"{program}\"]\ndeveloper_instructions = \"{PLANTED}\"\n{config}\n\
             [mcp_servers.planted]\ncommand = \"{program}\"\nargs = [\"mcp\"]\n"
        );
        fs::write(home.join("config.toml"), plants).unwrap();
        fs::write(home.join("AGENTS.md"), PLANTED).unwrap();
        fs::create_dir_all(home.join("skills/planted")).unwrap();
        let skill = format!("---\nname: planted\ndescription: x\n---\n{PLANTED}\n");
        fs::write(home.join("skills/planted/SKILL.md"), skill).unwrap();
        setup.set("PLANTED_KEY", "planted-secret")
    });
    lab.service.generate("$planted a kite").expect(200);
    let said = json!(lab.backend.turns()).to_string();
    assert!(said.contains("a kite") && !said.contains(PLANTED), "{said}");
    assert!(!lab.service.path("was-run").exists(), "a program of the owner's was started");
    let server = the_server(&lab.service);
    let environment = fs::read(format!("/proc/{server}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    let mut names: Vec<_> =
        environment.split('\0').filter_map(|variable| Some(variable.split_once('=')?.0)).collect();
    names.sort_unstable();
    let expected = [
        "CODEX_HOME",
        "CODEX_REFRESH_TOKEN_URL_OVERRIDE",
        "CODEX_REVOKE_TOKEN_URL_OVERRIDE",
        "HOME",
        "LOG_FORMAT",
        "PATH",
        "RUST_LOG",
    ];
    assert_eq!(names, expected);
    assert!(!command_line(server).contains("kite"));
}

#[test]
fn the_disk_keeps_the_pictures_and_hardly_more() {
    let lab = served(|setup| setup.set("CODEX_IDLE_SECONDS", "0.3"));
    // A foreign thread in the login's home and one in the server's own.
    let foreign =
        lab.service.codex_home().join("generated_images/01a20e04-a874-7b23-84f2-2db74932aeaa");
    fs::create_dir_all(&foreign).unwrap();
    fs::write(foreign.join("x.png"), "somebody's").unwrap();
    let size = |lab: &Lab| -> u64 {
        let places = [vec![lab.service.codex_home()], lab.shadows()].concat();
        places.iter().map(|place| folder_bytes(place)).sum()
    };
    lab.service.generate("a kite to warm up").expect(200);
    lab.service.wait_for_no_orphans();
    let before = size(&lab);
    let mut bytes = 0;
    for n in 0..5 {
        let reply = lab.service.generate(&format!("kite {n} [stub size=1024x1024 noise=1]"));
        bytes += picture(&lab.service, &reply.expect(200).json()).len() as u64;
    }
    lab.service.wait_for_no_orphans();
    let grown = size(&lab).saturating_sub(before);
    // The pictures themselves lie in the service's folder: nothing of them remains here.
    assert!(grown * 10 <= bytes, "{grown} bytes for pictures of {bytes}");
    assert_eq!(fs::read_to_string(foreign.join("x.png")).unwrap(), "somebody's");
}

fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type().unwrap() {
            kind if kind.is_dir() => folder_bytes(&entry.path()),
            kind if kind.is_file() => entry.metadata().unwrap().len(),
            _ => 0,
        })
        .sum()
}

/// The first picture makes the app-server one that takes no more turns; a slow one still runs there.
fn retiring(lab: &Lab) -> String {
    let slow = lab.service.submit("a slow kite [stub kept=1]");
    lab.backend.wait_for_images(1);
    slow
}

fn starts(lab: &Lab) -> usize {
    lab.service.log().matches("starting Codex's app-server").count()
}

#[test]
fn a_job_that_waits_for_an_app_server_to_end_can_be_cancelled() {
    let lab = served(|setup| setup.set("CODEX_RECYCLE_IMAGES", "1"));
    let slow = retiring(&lab);
    lab.service.generate("a kite").expect(200);
    lab.service.wait_for_log("replaced after its last turn");
    let waiting = lab.service.submit("a kite that nobody wants any more");
    std::thread::sleep(Duration::from_secs(1));
    lab.service.delete(&format!("/v1/images/jobs/{waiting}")).expect(200);
    lab.backend.release_kept();
    succeeded(&lab, &[slow]);
    // Nothing is begun for it, neither then nor later.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((starts(&lab), lab.backend.image_requests().len()), (1, 2));
    assert_eq!(lab.service.job(&waiting)["status"], "cancelled");
}

#[test]
fn another_login_draws_while_an_app_server_comes_to_its_end() {
    let login = |name: &str| HomeOptions {
        account: format!("acct-{name}"),
        user: format!("user-{name}"),
        ..HomeOptions::default()
    };
    let lab =
        Lab::served(&[login("one"), login("two")], |setup| setup.set("CODEX_RECYCLE_IMAGES", "1"));
    let slow = retiring(&lab);
    for n in 0..4 {
        lab.service.generate(&format!("kite {n}")).expect(200);
    }
    assert_eq!(lab.service.job(&slow)["status"], "running");
    lab.backend.release_kept();
    succeeded(&lab, &[slow]);
}
