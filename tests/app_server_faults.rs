//! Promise: whatever an app-server does (garbage, endless lines, silence, requests of its own) and
//! whenever it is killed, jobs end in a named failure or in a recovery, the login stays usable
//! whenever the protocol allows it, and two Codexes never use one login at once.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]
#![allow(clippy::print_stdout, reason = "the figures")]

mod support;

use std::{
    fs, slice,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::json;
use support::{
    Backend, HomeOptions, Lab, Service, Setup,
    home::write_login,
    process::{self, command_line},
    wait_for_within, write_program,
};

/// A service whose Codex is a script: an app-server that introduces itself and then does `then`
/// for each line that it reads.
fn scripted(then: &str) -> Service {
    let backend = Backend::start();
    let setup = Setup::served(&backend, &[HomeOptions::default()]);
    let script = setup.path("scripted");
    let text = format!(
        "#!/bin/bash\n[ \"$1\" != --version ] || exec echo codex-cli 0.169.0\n\
         read -r line; echo '{{\"id\":1,\"result\":{{}}}}'\n\
         while read -r line; do\n{then}\ndone\n"
    );
    write_program(&script, &text);
    // The engine is named, so that nothing falls back to exec.
    setup.set("CODEX_ENGINE", "app-server").set("CODEX_BIN", script).start()
}

/// Begins a thread and answers nothing more, once `then` has been done.
fn after_the_thread(then: &str) -> String {
    format!(
        "id=$(sed 's/.*\"id\":\\([0-9]*\\).*/\\1/' <<< \"$line\")\n\
         case $line in\n\
         *thread/start*) echo \"{{\\\"id\\\":$id,\\\"result\\\":{{\\\"thread\\\":{{\\\"id\\\":\\\"01a202ac-589d-75c2-aeb3-17ff97d6019f\\\"}}}}}}\";;\n\
         *turn/start*) {then};;\n\
         *rateLimits*) echo \"{{\\\"id\\\":$id,\\\"result\\\":{{}}}}\";;\n\
         esac"
    )
}

#[track_caller]
fn fails(service: &Service, code: &str) {
    let reply = service.generate("a kite").expect(502);
    assert_eq!(reply.json()["error"]["code"], code, "{reply:?}\n{}", service.log());
    service.wait_for_no_orphans();
}

#[test]
fn garbage_ends_in_a_named_failure() {
    fails(
        &scripted(&after_the_thread("while echo 'this is no message'; do :; done")),
        "codex_error",
    );
}

#[test]
fn a_line_without_end_ends_in_a_named_failure() {
    let flood = "head -c 200000000 /dev/zero | tr '\\0' 'x'";
    fails(&scripted(&after_the_thread(flood)), "codex_error");
}

#[test]
fn an_end_in_the_middle_is_a_named_failure() {
    fails(&scripted(&after_the_thread("exit 0")), "codex_error");
    fails(&scripted("exit 1"), "codex_error");
}

#[test]
fn a_line_of_60_megabytes_is_read_and_a_picture_in_it_is_taken() {
    // A picture that was not saved, behind a field of 60 MB that nobody knows.
    let dir = support::temp_dir();
    let picture = support::pictures::unique(&support::pictures::Kind::default(), "x");
    let base64 = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(&picture)
    };
    let item = |unknown: &str| {
        json!({"method": "item/completed", "params": {
            "unknown": unknown,
            "threadId": "01a202ac-589d-75c2-aeb3-17ff97d6019f",
            "item": {"type": "imageGeneration", "id": "x", "status": "completed", "result": base64},
        }})
        .to_string()
    };
    let end = json!({"method": "turn/completed", "params": {
        "threadId": "01a202ac-589d-75c2-aeb3-17ff97d6019f",
        "turn": {"id": "t", "status": "completed", "error": null},
    }});
    let lines = dir.path().join("lines");
    fs::write(&lines, format!("{}\n{end}\n", item(&"u".repeat(60_000_000)))).unwrap();
    let then = format!("echo \"{{\\\"id\\\":$id,\\\"result\\\":{{}}}}\"; cat {}", lines.display());
    let service = scripted(&after_the_thread(&then));
    process::forget_peak(service.pid());
    let reply = service.generate("a kite").expect(200);
    let url = reply.json()["images"][0]["url"].as_str().unwrap().to_owned();
    assert_eq!(service.picture(&url), picture);
    // The line passed by; it was not held.
    let peak = process::peak_kib(service.pid()).unwrap();
    assert!(peak < 100 * 1024, "{peak} KiB");
}

#[test]
fn what_codex_asks_for_is_refused_and_not_left_unanswered() {
    let ask = "echo '{\"id\":\"q1\",\"method\":\"item/commandExecution/requestApproval\",\"params\":{}}'; \
               read -r answer; echo \"$answer\" > \"$CODEX_HOME/answer\"; exit 0";
    let service = scripted(&after_the_thread(ask));
    fails(&service, "codex_error");
    let base = service.state_dir().join("codex");
    let shadow = base.join(&support::lab::names(&base)[0]);
    let answer: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(shadow.join("answer")).unwrap()).unwrap();
    assert_eq!(answer["id"], "q1");
    assert!(answer["error"]["code"].is_i64() && answer.get("result").is_none(), "{answer}");
}

#[test]
fn a_silent_backend_ends_at_the_deadline() {
    let lab =
        Lab::served(&[HomeOptions::default()], |setup| setup.set("CODEX_TIMEOUT_SECONDS", "8"));
    let reply = lab.service.generate("a kite [stub mode=hang]").expect(502);
    assert_eq!(reply.json()["error"]["code"], "timeout");
    lab.service.generate("a kite").expect(200);
}

#[test]
fn without_a_network_it_ends_in_bounded_time() {
    let backend = Backend::start();
    let setup = Setup::served(&backend, &[HomeOptions::default()]);
    let service = setup.set("CODEX_TIMEOUT_SECONDS", "60").start();
    drop(backend);
    let reply = service.generate("a kite").expect(502);
    let code = reply.json()["error"]["code"].as_str().unwrap().to_owned();
    assert!(["codex_error", "timeout"].contains(&code.as_str()), "{code}");
}

/// Kills of the service at all moments around a refresh that takes 1.5 s: the tokens are spent at
/// its begin and replaced at its end. Codex lives on until it is over, and nobody else uses the
/// login before. Every start refreshes: by itself when the token has less than 300 s, and because
/// the service asks for it when it has less than a turn may take.
///
/// A refreshed token must last for a moment, as real ones do: one that is due again at once has
/// Codex refresh it in passing, again and again, and for that it does not wait when it ends.
#[test]
fn kills_around_a_refresh_never_burn_the_login() {
    const KILLS: usize = 100;
    let expired = HomeOptions { lifetime: -10, ..HomeOptions::default() };
    let mut lab = Lab::served(slice::from_ref(&expired), |setup| {
        setup.set("CODEX_WORKER_CONCURRENCY", "4").set("GENERATION_QUEUE_MAX_SIZE", "1000")
    });
    lab.backend.set("oauth_latency=1.5 lifetime=310");
    let login = lab.service.codex_home();
    let mut within = 0;
    let most = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let watch = {
        let (most, done, folder) = (Arc::clone(&most), Arc::clone(&done), lab.service.path(""));
        thread::spawn(move || {
            let mut before: Vec<i32> = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let serves = |pid: &i32| command_line(*pid).contains("bin/codex app-server");
                let found: Vec<i32> =
                    process::mentioning(&folder).into_iter().filter(serves).collect();
                // One that was just forked to become a helper still bears its parent's name.
                let own =
                    |pid: &&i32| !process::parent(**pid).is_some_and(|of| found.contains(&of));
                let found: Vec<i32> = found.iter().copied().filter(|pid| own(&pid)).collect();
                // Only those that were there before as well: such a helper may outlive its parent
                // for a moment, and one look is not one moment.
                let both = found.iter().filter(|pid| before.contains(pid)).count();
                most.fetch_max(both, Ordering::Relaxed);
                before = found;
                thread::sleep(Duration::from_millis(5));
            }
        })
    };
    let mut round = 0;
    // A slow machine may need more of them, and later ones.
    while round < KILLS || (within < KILLS / 5 && round < 4 * KILLS) {
        lab.service.submit(&format!("kite {round}"));
        // From before the start of Codex to after the end of the refresh; every other time while
        // Codex starts.
        let most = if round % 2 == 0 { 1800 * (1 + round as u64 / KILLS as u64) } else { 300 };
        thread::sleep(Duration::from_millis(10 + (round as u64 * 137) % most));
        within += usize::from(lab.backend.open_refreshes() > 0);
        lab.service.kill9();
        if round % 4 == 0 {
            // The next one begins with a token that has expired, of a refresh that is over.
            lab.service.wait_for_no_orphans();
            assert!(!lab.backend.is_spent(&login), "burnt in round {round}");
            write_login(&login, &expired);
        }
        lab.service.start();
        round += 1;
    }
    println!("{within} of {round} kills within a refresh");
    // Whatever the kills left, the next picture comes.
    lab.backend.set("lifetime=864000");
    // Those that were interrupted twice have failed, and say so; the others are drawn first.
    let last = lab.service.submit("the last kite");
    let ended = wait_for_within(Duration::from_mins(5), "the last picture", || {
        let job = lab.service.job(&last);
        job["phase"].is_null().then_some(job)
    });
    assert_eq!(ended["status"], "succeeded", "{ended}");
    done.store(true, Ordering::Relaxed);
    watch.join().unwrap();
    assert_eq!(most.load(Ordering::Relaxed), 1, "two Codexes at once");
    assert!(within >= KILLS / 5, "only {within} kills met a refresh");
    assert!(lab.backend.refreshes() >= KILLS / 5, "{} refreshes", lab.backend.refreshes());
    assert_eq!(lab.backend.refused_refreshes(), 0, "a spent token was sent again");
    process::signal(lab.service.pid(), Signal::TERM);
    lab.service.wait_end(Duration::from_mins(1));
}

#[test]
fn a_stop_waits_for_a_slow_refresh() {
    let expired = HomeOptions { lifetime: -10, ..HomeOptions::default() };
    let mut lab = Lab::served(&[expired], |setup| setup.set("SHUTDOWN_GRACE_SECONDS", "1"));
    // Longer than an end without one may take; after 20 s Codex itself gives it up while it starts.
    lab.backend.set("oauth_latency=16.5");
    lab.service.submit("a kite");
    wait_for_within(Duration::from_secs(20), "the refresh", || {
        (lab.backend.open_refreshes() > 0).then_some(())
    });
    assert!(lab.service.term().success());
    assert!(!lab.backend.is_spent(&lab.service.codex_home()), "{}", lab.service.log());
    assert_eq!((lab.backend.refreshes(), lab.backend.refused_refreshes()), (1, 0));
    lab.service.wait_for_no_orphans();
}
