//! Promise: by the units in `units/`, on a machine that is no NixOS, the service is what systemd and
//! its operator expect: it starts when somebody asks, ends when nobody does, says how it is, stops
//! without losing anything, and gives nothing away. The real Codex draws, inside the worker's unit.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{collections::HashSet, fs, path::Path, thread};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{
    HomeOptions, Installed, home,
    installed::{FRONT, LOGINS, SETTINGS, WORKER, drop_in},
    process, wait_for,
};

// On demand.

#[test]
fn nothing_runs_until_somebody_asks_nor_when_nobody_does() {
    let Some(service) = Installed::new(|plans| {
        for unit in [FRONT, WORKER] {
            drop_in(plans, unit, "Environment=IDLE_EXIT_SECONDS=1");
        }
    }) else {
        return;
    };
    service.enable();
    service.wait_until_nothing_runs();
    for round in 1..=2 {
        let answer = service.machine.sh("curl -fsS http://127.0.0.1:8000/health");
        assert_eq!(answer, r#"{"status":"ok"}"#);
        let reply = service.generate(&format!("kite number {round}")).expect(200);
        let url = reply.json()["images"][0]["url"].as_str().unwrap().to_owned();
        let path = url.strip_prefix("http://localhost:8000").unwrap();
        assert_eq!(service.request("GET", path, &[], None).expect(200).body[1..4], *b"PNG");
        // Front, worker and Codex end by themselves, and none of them by a kill.
        service.wait_until_nothing_runs();
        for unit in [FRONT, WORKER] {
            service.machine.wait_for_unit(unit, "inactive");
            assert_eq!(service.machine.property(unit, "Result"), "success", "{unit}");
            assert_eq!(service.machine.property(unit, "ExecMainStatus"), "0", "{unit}");
        }
        assert_eq!(service.backend.image_requests().len(), round);
    }
    assert_eq!(service.machine.sh("systemctl --failed --no-legend"), "");
}

#[test]
fn the_front_never_starts_by_the_workers_bell() {
    let Some(service) = Installed::new(|plans| {
        drop_in(plans, FRONT, "Environment=IDLE_EXIT_SECONDS=1");
    }) else {
        return;
    };
    service.enable();
    service.backend.hold_images();
    let job = service.submit("a kite");
    service.backend.wait_for_images(1);
    service.machine.wait_for_unit(FRONT, "inactive");
    let starts =
        || service.machine.sh(&format!("journalctl -u {FRONT} -o cat | grep -c ^Started || true"));
    let before = starts();
    service.backend.release_images();
    let log = format!("-u {WORKER} JOB_ID={job} -o cat");
    wait_for("the end of the job", || {
        service.machine.journal(&log).contains("job ended").then_some(())
    });
    assert_eq!(starts(), before, "its bell woke the front");
    assert_eq!(service.wait_job(&job)["status"], "succeeded");
}

#[test]
fn a_job_that_nobody_was_told_of_is_drawn_all_the_same() {
    let Some(service) = Installed::new(|_| {}) else { return };
    service.enable();
    // The start of the front would start the socket.
    service.request("GET", "/health", &[], None).expect(200);
    service.machine.sh(&format!("systemctl stop codex-image-worker.socket {WORKER}"));
    let job = service.submit("a kite");
    let told = service.request("GET", "/ready", &[], None);
    assert!(told.status == 503 && told.text().contains("no_worker"), "{}", told.text());
    service.machine.sh("systemctl start codex-image-worker.socket");
    assert_eq!(service.wait_job(&job)["status"], "succeeded");
}

// Stops.

#[test]
fn a_restart_of_the_front_loses_no_caller_and_pays_nothing_twice() {
    const CALLERS: usize = 20;
    let Some(service) = Installed::new(|_| {}) else { return };
    service.enable();
    service.backend.hold_images();
    let ask = |caller: usize| {
        let key = format!("caller-{caller}");
        let body = json!({"prompt": format!("kite number {caller}")});
        service.request("POST", "/v1/images/generate", &[("idempotency-key", &key)], Some(&body))
    };
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|caller| scope.spawn(move || ask(caller))).collect();
        wait_for("all of them to wait", || {
            let jobs = service.request("GET", "/v1/images/jobs?limit=50", &[], None).expect(200);
            (jobs.json()["data"].as_array().unwrap().len() == CALLERS).then_some(())
        });
        let before = service.pid(FRONT);
        service.machine.sh(&format!("systemctl restart {FRONT}"));
        assert_ne!(service.pid(FRONT), before);
        let mut jobs = HashSet::new();
        for caller in callers {
            let reply = caller.join().unwrap();
            let told = reply.json();
            assert_eq!(reply.status, 503, "{told}");
            assert_eq!(reply.header("retry-after"), Some("1"));
            assert_eq!(told["error"]["code"], "shutting_down");
            assert!(jobs.insert(reply.header("x-job-id").unwrap().to_owned()), "one job each");
        }
        service.backend.release_images();
        let again: Vec<_> = (0..CALLERS).map(|caller| scope.spawn(move || ask(caller))).collect();
        for caller in again {
            let reply = caller.join().unwrap().expect(200);
            let job = reply.json()["id"].as_str().unwrap().to_owned();
            assert!(jobs.remove(&job), "the retry joins the job that was there");
        }
    });
    assert_eq!(service.backend.image_requests().len(), CALLERS);
}

#[test]
fn a_stop_of_the_worker_lets_codex_finish_and_outlives_nothing() {
    let Some(service) = Installed::new(|_| {}) else { return };
    service.enable();
    service.backend.hold_images();
    let job = service.submit("a kite");
    service.backend.wait_for_images(1);
    let mut stop = service.machine.command(&format!("systemctl stop {WORKER}")).spawn().unwrap();
    // Codex is told nothing while the worker drains.
    service.machine.wait_for_unit(WORKER, "deactivating");
    wait_for("its word that it stops", || {
        service.machine.journal(&format!("-u {WORKER} -o cat")).contains("stopping").then_some(())
    });
    assert!(service.processes().iter().any(|line| line.contains("app-server")), "Codex is at work");
    service.backend.release_images();
    assert!(stop.wait().unwrap().success());
    assert_eq!(service.machine.property(WORKER, "Result"), "success");
    assert!(!service.processes().iter().any(|line| line.starts_with("codex-image-worker")));
    assert_eq!(service.wait_job(&job)["status"], "succeeded");
    assert_eq!(service.backend.image_requests().len(), 1);
}

#[test]
fn a_killed_worker_comes_back_and_its_codex_is_gone() {
    let Some(service) = Installed::new(|_| {}) else { return };
    service.enable();
    service.backend.hold_images();
    let job = service.submit("a kite");
    service.backend.wait_for_images(1);
    let codex: Vec<_> =
        service.processes().into_iter().filter(|line| line.contains("app-server")).collect();
    assert_eq!(codex.len(), 1, "{codex:?}");
    let before = service.pid(WORKER);
    process::signal(before, Signal::KILL);
    wait_for("another worker", || {
        let now = service.pid(WORKER);
        (now != 0 && now != before).then_some(())
    });
    service.backend.release_images();
    assert_eq!(service.wait_job(&job)["status"], "succeeded");
    // What was asked for and never came is drawn once more.
    assert_eq!(service.backend.image_requests().len(), 2);
    let left = service.processes();
    assert_eq!(left.iter().filter(|line| line.contains("app-server")).count(), 1, "{left:?}");
}

#[test]
fn a_worker_that_hangs_is_replaced() {
    let Some(service) = Installed::new(|plans| {
        drop_in(plans, WORKER, "WatchdogSec=2s\nWatchdogSignal=KILL");
    }) else {
        return;
    };
    service.enable();
    assert_eq!(service.generate("a kite").status, 200);
    process::signal(service.pid(WORKER), Signal::STOP);
    let job = service.submit("another kite");
    assert_eq!(service.wait_job(&job)["status"], "succeeded");
    assert!(service.machine.journal(&format!("-u {WORKER}")).contains("Watchdog timeout"));
    assert_eq!(service.backend.image_requests().len(), 2);
}

// What it says.

#[test]
fn systemd_knows_how_it_is() {
    let Some(service) = Installed::new(|_| {}) else { return };
    service.enable();
    assert_eq!(service.generate("a kite").status, 200);
    for unit in [FRONT, WORKER] {
        assert_eq!(service.machine.property(unit, "SubState"), "running");
        assert_ne!(service.machine.property(unit, "StatusText"), "", "{unit}");
    }
    service.backend.hold_images();
    let job = service.submit("another kite");
    wait_for("the worker's word that one is drawn", || {
        service.machine.property(WORKER, "StatusText").contains('1').then_some(())
    });
    service.backend.release_images();
    service.wait_job(&job);

    // Settings that can change do, without a restart; the others are named.
    let pid = service.pid(FRONT);
    service
        .machine
        .sh(&format!("echo 'log_level = \"debug\"\nmax_connections = 77' >> {SETTINGS}"));
    service.machine.sh(&format!("systemctl reload {FRONT} {WORKER}"));
    assert_eq!(service.pid(FRONT), pid);
    let log = service.machine.journal(&format!("-u {FRONT} -o cat"));
    assert!(log.contains("MAX_CONNECTIONS"), "{log}");
    service.request("GET", "/health", &[], None).expect(200);

    // And what is wrong is said where one looks.
    service.machine.sh(&format!("echo 'image_retention_days = \"soon\"' >> {SETTINGS}"));
    service.machine.sh(&format!("systemctl reload {FRONT} || true"));
    service.request("GET", "/health", &[], None).expect(200);
    assert!(!service.machine.holds(&format!("systemctl restart {FRONT}")));
    let log = service.machine.journal(&format!("-u {FRONT} -o cat"));
    assert!(log.to_lowercase().contains("image_retention_days") && log.contains("soon"), "{log}");
}

#[test]
fn the_journal_tells_a_jobs_story_and_no_secret() {
    const PROMPT: &str = "a kite over Nowhere-on-Sea";
    let Some(service) = Installed::new(|_| {}) else { return };
    service.enable();
    let reply = service.generate(PROMPT).expect(200);
    let (job, request) = (reply.header("x-job-id").unwrap(), reply.header("x-request-id").unwrap());
    let entries = |matches: &str| -> Vec<Value> {
        let lines = service.machine.journal(&format!("-o json {matches}"));
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let story = entries(&format!("JOB_ID={job}"));
    let of = |field: &str| -> HashSet<String> {
        story.iter().filter_map(|entry| Some(entry[field].as_str()?.to_owned())).collect()
    };
    assert_eq!(of("_SYSTEMD_UNIT"), [FRONT, WORKER].map(str::to_owned).into(), "{story:#?}");
    assert!(of("REQUEST_ID").contains(request), "{story:#?}");
    assert!(of("LOGIN").contains("main"), "{story:#?}");
    assert_eq!(of("CODEX_THREAD").len(), 1, "{story:#?}");
    assert!(!of("KEY_HANDLE").is_empty() && !of("PHASE").is_empty(), "{story:#?}");
    assert_eq!(of("SYSLOG_IDENTIFIER"), ["codex-image-service".to_owned()].into());
    assert!(!entries(&format!("REQUEST_ID={request}")).is_empty());

    let auth = service.auth();
    let all = service.machine.journal("--output=export");
    for secret in [PROMPT, &service.key, auth["tokens"]["refresh_token"].as_str().unwrap()] {
        assert!(!all.contains(secret));
    }
}

// Who may what.

#[test]
fn front_and_worker_are_caged() {
    let Some(service) = Installed::new(|_| {}) else { return };
    service.enable();
    service.backend.set_shell_command(&format!(
        "cat {LOGINS}/main/auth.json > /var/lib/codex-image-service/stolen; touch /tmp/intruder"
    ));
    for mode in ["shell", "patch"] {
        let reply = service.generate(&format!("a kite [stub mode={mode}]"));
        assert_eq!(reply.status, 200, "{mode}");
    }
    let found = service
        .machine
        // /tmp is a file system of its own; the last name shows that the search sees it.
        .sh("touch /tmp/intruder.planted; find / /tmp /run -xdev \\( -name stolen -o -name 'intruder*' \\) | sort -u");
    assert_eq!(found, "/tmp/intruder.planted", "something ran by a prompt");

    for (unit, most) in [(FRONT, 0.6), (WORKER, 1.5)] {
        let told =
            service.machine.sh(&format!("systemd-analyze security --no-pager {unit} | tail -n 1"));
        let exposure = told.split_whitespace().find_map(|word| word.parse::<f64>().ok()).unwrap();
        println!("{unit}: exposure {exposure}");
        assert!(exposure <= most, "{unit}: {told}");
    }
    service.machine.sh(
        "cd /etc/systemd/system; systemd-analyze --man=no verify codex-image-*.service codex-image-*.socket codex-image-*.timer",
    );

    // The front's user, in the front's own view of the machine.
    let front = service.machine.property(FRONT, "MainPID");
    let as_front = |script: &str| {
        service.machine.holds(&format!(
            "nsenter -t {front} -m -n setpriv --reuid=codex-image --regid=codex-image \
             --init-groups bash -c '{script}' 2>/dev/null"
        ))
    };
    let worker = service.machine.property(WORKER, "MainPID");
    assert!(
        as_front("test -r /var/lib/codex-image-service/codex-image-service.db"),
        "its own state"
    );
    assert!(as_front("test -e /etc/codex-image-service/config.toml"), "its settings");
    assert!(as_front("test \"$(ls /var/lib)\" = codex-image-service"), "nobody else's state");
    for forbidden in [
        format!("ls {LOGINS}"),
        format!("cat {LOGINS}/main/auth.json"),
        format!("cat /proc/{worker}/environ"),
        format!("ls /proc/{worker}/root/"),
        "touch /etc/intruder".to_owned(),
        "true < /dev/tcp/127.0.0.1/8000".to_owned(),
    ] {
        assert!(!as_front(&forbidden), "the front can: {forbidden}");
    }
    let links = fs::read_to_string(format!("/proc/{}/net/dev", service.pid(FRONT))).unwrap();
    assert_eq!(links.lines().count(), 3, "two lines of heads, and lo:\n{links}");

    // The worker speaks to the world and listens to nobody.
    let ours = process_sockets(service.pid(WORKER));
    let listening = fs::read_to_string(format!("/proc/{}/net/tcp", service.pid(WORKER))).unwrap();
    let heard = listening.lines().filter(|line| line.split_whitespace().nth(3) == Some("0A"));
    let heard: Vec<_> = heard.filter_map(|line| line.split_whitespace().nth(9)).collect();
    assert!(!heard.iter().any(|inode| ours.contains(*inode)), "the worker listens");
}

/// The inodes of a process's sockets.
fn process_sockets(pid: i32) -> HashSet<String> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(Result::unwrap);
    let targets = files.filter_map(|file| fs::read_link(file.path()).ok());
    let names = targets.filter_map(|target| {
        let name = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned();
        Some(name)
    });
    names.collect()
}

#[test]
fn secrets_come_as_credentials() {
    const PASSWORD: &str = "correct horse battery staple";
    let Some(service) = Installed::new(|plans| {
        plans.file("/etc/secrets/password", PASSWORD);
        drop_in(plans, FRONT, "LoadCredential=admin-password:/etc/secrets/password");
        drop_in(plans, WORKER, "LoadCredential=auth-main:/etc/secrets/auth.json");
    }) else {
        return;
    };
    service.machine.sh("chmod 700 /etc/secrets; chmod 600 /etc/secrets/*");
    let seed = |options: &HomeOptions| {
        let dir = support::temp_dir();
        home::write_login(dir.path(), options);
        fs::copy(dir.path().join("auth.json"), service.machine.root("/etc/secrets/auth.json"))
            .unwrap();
    };
    // The login comes with the credential alone; its token is over, so that Codex renews it.
    service.machine.sh(&format!("rm {LOGINS}/main/auth.json"));
    seed(&HomeOptions { lifetime: -60, ..HomeOptions::default() });
    service.enable();
    service.generate("a kite").expect(200);
    let renewed = service.auth();
    assert!(service.backend.refreshes() >= 1 && service.backend.refused_refreshes() == 0);

    // The same seed is never used twice, whatever became of the login since.
    service.machine.sh(&format!("systemctl restart {WORKER}"));
    service.generate("another kite").expect(200);
    assert_eq!(service.auth(), renewed);

    // A newer one is.
    seed(&HomeOptions::default());
    service.machine.sh(&format!("systemctl restart {WORKER}"));
    service.generate("a third kite").expect(200);
    assert_ne!(service.auth()["tokens"], renewed["tokens"]);
    let file = service.machine.sh(&format!("stat -c '%U %a' {LOGINS}/main/auth.json"));
    assert_eq!(file, "codex-image-worker 600");

    // The password opens the pages, and is to be seen nowhere.
    let signed_in = service.request(
        "POST",
        "/admin/login",
        &[
            ("content-type", "application/x-www-form-urlencoded"),
            ("origin", "http://localhost:8000"),
            ("host", "localhost:8000"),
        ],
        None,
    );
    assert_ne!(signed_in.status, 200, "without a password");
    let environment = fs::read(format!("/proc/{}/environ", service.pid(FRONT))).unwrap();
    let shown = service.machine.sh(&format!("systemctl show {FRONT} {WORKER}"));
    let journal = service.machine.journal("--output=export");
    let settings = service.machine.sh(&format!("cat {SETTINGS}"));
    let token = renewed["tokens"]["refresh_token"].as_str().unwrap();
    for text in [&*String::from_utf8_lossy(&environment), &shown, &journal, &settings] {
        assert!(!text.contains(PASSWORD) && !text.contains(token));
    }
    for user in ["codex-image", "codex-image-worker"] {
        assert!(!service.machine.holds(&format!(
            "setpriv --reuid={user} --regid=codex-image --clear-groups cat /etc/secrets/password"
        )));
    }
    assert!(!service.machine.holds(&format!(
        "setpriv --reuid=codex-image-worker --regid=codex-image --clear-groups cat /run/credentials/{FRONT}/admin-password"
    )));
}

// The one-shots.

#[test]
fn timers_clean_up_and_keep_copies() {
    let Some(service) = Installed::new(|_| {}) else { return };
    service.enable();
    let reply = service.generate("a kite").expect(200);
    let (id, url) = (reply.json()["id"].clone(), reply.json()["images"][0]["url"].clone());
    let path = url.as_str().unwrap().strip_prefix("http://localhost:8000").unwrap().to_owned();

    let next = service.machine.property("codex-image-cleanup.timer", "NextElapseUSecRealtime");
    assert_ne!(next, "", "the timer waits for nothing");
    service.machine.sh("systemctl start codex-image-cleanup.service");
    service.request("GET", &path, &[], None).expect(200);
    let database = "/var/lib/codex-image-service/codex-image-service.db";
    service.machine.sh(&format!("sqlite3 {database} 'UPDATE jobs SET expires_at = 1'"));
    service.machine.sh("systemctl start codex-image-cleanup.service");
    service.request("GET", &path, &[], None).expect(404);
    let job =
        service.request("GET", &format!("/v1/images/jobs/{}", id.as_str().unwrap()), &[], None);
    assert_eq!(job.expect(200).json()["status"], "expired");

    service.machine.sh("systemctl start codex-image-backup.service");
    let copies = "/var/backup/codex-image-service";
    let listed = service.machine.sh(&format!("stat -c '%U %a' {copies} {copies}/*"));
    assert_eq!(listed, "codex-image-worker 700\ncodex-image-worker 600");
    assert!(!service.machine.holds(&format!(
        "setpriv --reuid=codex-image --regid=codex-image --clear-groups ls {copies}"
    )));
    service.machine.sh("systemctl start codex-image-healthcheck.service");
    assert_eq!(service.machine.sh("systemctl --failed --no-legend"), "");
}

#[test]
fn one_unit_can_do_it_all() {
    let program = Path::new(env!("CARGO_BIN_EXE_codex-image-service"));
    let Some(service) = Installed::of("all-in-one", program, |_| {}) else { return };
    let machine = &service.machine;
    machine.sh(
        "systemctl enable --now --quiet codex-image-service.socket codex-image-service.service",
    );
    machine.wait_for_unit(FRONT, "active");
    service.generate("a kite").expect(200);
    let users: HashSet<_> = service
        .processes()
        .iter()
        .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
        .collect();
    assert_eq!(users, ["codex-image".to_owned()].into());
    machine.sh("systemctl start codex-image-cleanup.service codex-image-healthcheck.service");
    machine.sh(&format!("systemctl restart {FRONT}"));
    service.generate("another kite").expect(200);
    machine.sh(&format!("systemctl stop codex-image-service.socket {FRONT}"));
    assert_eq!(service.processes(), Vec::<String>::new());
    assert_eq!(machine.sh("systemctl --failed --no-legend"), "");
}
