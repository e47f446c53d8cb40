//! Promise: the queue is bounded and first come, first served; as many pictures are in the making
//! as the settings and the logins allow, one at a time on each login; who waits wakes at once.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]
#![allow(clippy::print_stdout, reason = "figures")]

mod support;

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use support::{
    Db, Reply, Service, Setup,
    fake::{self, Step},
    wait_for,
};

fn homes(service: &Service, count: usize) -> Vec<PathBuf> {
    let name = |n| if n == 1 { "codex".to_owned() } else { format!("codex{n}") };
    (1..=count).map(|n| service.path(&name(n))).collect()
}

fn submit(service: &Service, body: &Value) -> Reply {
    service.post_json("/v1/images/jobs", body)
}

#[track_caller]
fn assert_queue_full(reply: Reply) {
    let reply = reply.expect(503);
    assert_eq!(reply.json()["error"]["code"], "queue_full", "{reply:?}");
    assert!(reply.header("retry-after").is_some(), "{reply:?}");
}

/// From `begin` to `end` of each run, in the order of their beginning.
fn runs(home: &Path) -> Vec<(Duration, Duration, String)> {
    let steps = fake::steps(home);
    let begins = steps.iter().filter(|step| step.what == "begin");
    let end = |run: &Step| {
        let end = steps.iter().find(|step| step.pid == run.pid && step.what == "end");
        end.unwrap_or_else(|| panic!("no end of {run:?}")).at
    };
    begins.map(|begin| (begin.at, end(begin), begin.turn.clone())).collect()
}

/// How many of these runs were under way at once, at most.
fn most_at_once(runs: &[(Duration, Duration, String)]) -> usize {
    let under_way = |at: Duration| runs.iter().filter(|run| run.0 <= at && at < run.1).count();
    runs.iter().map(|run| under_way(run.0)).max().unwrap_or_default()
}

#[test]
fn the_queue_is_bounded_for_those_who_wait_and_those_who_do_not() {
    let service = Setup::fake().set("GENERATION_QUEUE_MAX_SIZE", "2").start();
    let home = service.codex_home();
    let mut ids = vec![service.submit("running, which does not count [fake gate]")];
    fake::wait_for_step(&home, "thread", 1);
    ids.extend((0..2).map(|_| service.submit("queued")));
    assert_queue_full(submit(&service, &json!({"prompt": "one too many"})));
    assert_queue_full(service.generate("one too many"));
    assert_eq!(Db::of(&service).jobs().len(), 3, "a refused job leaves no row");
    // A cancelled job makes room.
    service.delete(&format!("/v1/images/jobs/{}", ids.pop().unwrap())).expect(200);
    ids.push(service.submit("in its place"));
    assert_queue_full(service.generate("one too many"));
    fake::open_gate(&home);
    for id in &ids {
        assert_eq!(service.wait_job(id)["status"], "succeeded");
    }
    service.generate("there is room again").expect(200);
}

#[test]
fn the_bound_holds_when_many_come_at_once() {
    let service = Setup::fake().set("GENERATION_QUEUE_MAX_SIZE", "5").start();
    let home = service.codex_home();
    service.submit("running [fake gate]");
    fake::wait_for_step(&home, "thread", 1);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let callers: Vec<_> = (0..24)
            .map(|_| scope.spawn(|| submit(&service, &json!({"prompt": "a kite"})).status))
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 202).count(), 5, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 19, "{statuses:?}");
    fake::open_gate(&home);
}

#[test]
fn first_come_first_served() {
    let service = Setup::fake().set("CODEX_WORKER_CONCURRENCY", "1").start();
    let home = service.codex_home();
    service.submit("running [fake gate]");
    fake::wait_for_step(&home, "thread", 1);
    thread::scope(|scope| {
        for n in 0..12 {
            if n % 3 == 0 {
                scope.spawn(|| service.generate("who waits has no precedence").expect(200));
            } else {
                let body = json!({"prompt": "nor has who does not", "count": n % 2 + 1});
                submit(&service, &body).expect(202);
            }
            wait_for("the job", || (Db::of(&service).jobs().len() == n + 2).then_some(()));
        }
        fake::open_gate(&home);
    });
    let mut db = Db::of(&service);
    wait_for("the end of all jobs", || (db.open_jobs() == 0).then_some(()));
    let accepted: Vec<String> = db.jobs().into_iter().map(|job| job.id).collect();
    let mut begun: Vec<String> = Vec::new();
    for (_, _, turn) in runs(&home) {
        let job = turn.split('/').next().unwrap().to_owned();
        if !begun.contains(&job) {
            begun.push(job);
        }
    }
    assert_eq!(begun, accepted);
}

/// Draws 14 jobs, one of them of three pictures, and gives all runs; those of each login were one
/// after the other.
fn drawn_with(logins: usize, concurrency: usize) -> Vec<(Duration, Duration, String)> {
    let service = Setup::fake_with_logins(logins)
        .set("CODEX_WORKER_CONCURRENCY", concurrency.to_string())
        .start();
    for n in 0..14 {
        let count = if n == 4 { 3 } else { 1 };
        let body = json!({"prompt": "a kite [fake sleep=0.1 after=0.05]", "count": count});
        submit(&service, &body).expect(202);
    }
    let mut db = Db::of(&service);
    wait_for("the end of all jobs", || (db.open_jobs() == 0).then_some(()));
    assert!(db.jobs().iter().all(|job| job.state == "succeeded"));
    service.wait_for_no_orphans();
    let mut all = Vec::new();
    for home in homes(&service, logins) {
        let runs = runs(&home);
        assert_eq!(most_at_once(&runs), 1, "one run at a time on {}", home.display());
        assert!(runs.len() >= 3, "each login has its share: {}", runs.len());
        all.extend(runs);
    }
    assert_eq!(all.len(), 16);
    all
}

#[test]
fn the_concurrency_of_the_settings_is_kept_and_used() {
    assert_eq!(most_at_once(&drawn_with(3, 2)), 2);
}

#[test]
fn no_more_runs_than_logins() {
    assert_eq!(most_at_once(&drawn_with(3, 8)), 3);
    assert_eq!(most_at_once(&drawn_with(1, 4)), 1);
}

#[test]
fn the_pictures_of_one_job_are_drawn_in_parallel() {
    let service = Setup::fake_with_logins(3).set("CODEX_WORKER_CONCURRENCY", "3").start();
    let body = json!({"prompt": "kites [fake gate]", "count": 3});
    let id = submit(&service, &body).expect(202).json()["id"].as_str().unwrap().to_owned();
    let homes = homes(&service, 3);
    for home in &homes {
        fake::wait_for_step(home, "thread", 1); // all three at once, none goes on
    }
    for home in &homes {
        fake::open_gate(home);
    }
    let job = service.wait_job(&id);
    assert_eq!(job["images"].as_array().unwrap().len(), 3, "{job}");
}

#[test]
fn a_caller_that_goes_away_does_not_lose_its_job() {
    let service = Setup::fake().start();
    let home = service.codex_home();
    let bearer = format!("Bearer {}", service.default_key());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let mut connection = service.connect();
    let body = json!({"prompt": "a kite [fake gate]"}).to_string();
    connection.send("POST", "/v1/images/generate", &headers, Some(body.as_bytes())).unwrap();
    fake::wait_for_step(&home, "thread", 1);
    drop(connection);
    fake::open_gate(&home);
    let list = service.get("/v1/images/jobs").expect(200).json();
    let id = list["data"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(service.wait_job(&id)["status"], "succeeded");
    assert_eq!(fake::payments(&home).len(), 1);
}

#[test]
fn a_waiter_wakes_at_once() {
    let service = Setup::fake().start();
    let mut wakes = Vec::new();
    for _ in 0..40 {
        let reply = service.generate("a kite [fake sleep=0.01]").expect(200);
        let answered = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let id = reply.json()["id"].as_str().unwrap().to_owned();
        let finished = Db::of(&service).job(&id).finished_at.unwrap();
        let finished = Duration::from_millis(u64::try_from(finished).unwrap());
        wakes.push(answered.saturating_sub(finished));
    }
    wakes.sort();
    let at = |percent: usize| wakes[(wakes.len() - 1) * percent / 100];
    let (median, most) = (at(50), at(100));
    println!(
        "from the finish (its commit included) to the answer: median {median:?}, 90 % {:?}, most {most:?}",
        at(90)
    );
    // Who is not woken looks by itself every 2 s.
    assert!(median < Duration::from_millis(500), "{median:?}");
    assert!(at(90) < Duration::from_secs(1), "{:?}", at(90));
}
