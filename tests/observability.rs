//! Promise: an operator sees what happened: one event a request, counters that are right, reasons
//! why it is not ready; and never sees a prompt or a key.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Endpoint, Reply, Service, Setup, fake, process, wait_for};

/// The events of requests in the log, as their fields.
fn requests(service: &Service) -> Vec<BTreeMap<String, String>> {
    let log = service.log();
    let events = log.lines().filter(|line| line.contains("http::trace: request "));
    events
        .map(|line| {
            let fields = line.split_once("http::trace: request ").unwrap().1.split(' ');
            let fields = fields.filter_map(|field| field.split_once('='));
            fields
                .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
                .collect()
        })
        .collect()
}

/// The one event of a request, waited for: the log is written by a thread of its own.
fn event_of(service: &Service, reply: &Reply) -> BTreeMap<String, String> {
    let id = reply.header("x-request-id").unwrap().to_owned();
    let found = |events: Vec<BTreeMap<String, String>>| -> Vec<_> {
        events.into_iter().filter(|event| event["request_id"] == id).collect()
    };
    wait_for("the event", || found(requests(service)).pop());
    let [event] = found(requests(service)).try_into().unwrap();
    event
}

fn metrics(service: &Service) -> BTreeMap<String, f64> {
    let text = service.endpoint().request("GET", "/metrics", &[], None).unwrap().expect(200).text();
    let values = text.lines().filter(|line| !line.starts_with('#'));
    values
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let name = name.strip_prefix("codex_image_service_").unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// What was found holds for a second.
fn wait_until_ready_says(service: &Service, status: u16, problems: &[&str]) {
    let problems: Vec<String> = problems.iter().map(|&code| code.to_owned()).collect();
    wait_for(&format!("{status} {problems:?} of /ready"), || {
        (ready(service) == (status, problems.clone())).then_some(())
    });
}

fn ready(service: &Service) -> (u16, Vec<String>) {
    let reply = service.endpoint().request("GET", "/ready", &[], None).unwrap();
    let body = reply.json();
    let problems = body["problems"].as_array().cloned().unwrap_or_default();
    for problem in &problems {
        assert!(problem["message"].as_str().unwrap().ends_with(['.', ')']), "{problem}");
    }
    let codes = problems.iter().map(|problem| problem["code"].as_str().unwrap().to_owned());
    (reply.status, codes.collect())
}

fn is_running(service: &Service, job: &str) -> Option<()> {
    (service.job(job)["status"] == "running").then_some(())
}

// Events

#[test]
fn each_request_is_one_event() {
    let service = Setup::painter().set("CORS_ALLOW_ORIGINS", "https://app.example").start();
    let handle = format!("{}…", &service.default_key()[..9]);
    let anonymous = |method: &str, path: &str, headers: &[(&str, &str)]| {
        service.endpoint().request(method, path, headers, None).unwrap()
    };
    let job = service.generate("a kite").expect(200);
    let id = job.json()["id"].as_str().unwrap().to_owned();
    let poll = format!("/v1/images/jobs/{id}");
    let file = format!("/generated/{id}.png");
    let preflight = [("origin", "https://app.example"), ("access-control-request-method", "POST")];
    let cases = [
        (job, "POST", "/v1/images/generate", 200, Some(&handle)),
        (service.get(&poll), "GET", "/v1/images/jobs/{id}", 200, Some(&handle)),
        (service.get("/v1/images/jobs?limit=5"), "GET", "/v1/images/jobs", 200, Some(&handle)),
        (service.delete(&poll), "DELETE", "/v1/images/jobs/{id}", 409, Some(&handle)),
        (
            service.post_json("/v1/images/jobs", &json!({})),
            "POST",
            "/v1/images/jobs",
            422,
            Some(&handle),
        ),
        (anonymous("GET", &poll, &[]), "GET", "/v1/images/jobs/{id}", 401, None),
        (anonymous("GET", &file, &[]), "GET", "/generated/{file}", 200, None),
        (anonymous("HEAD", &file, &[]), "HEAD", "/generated/{file}", 200, None),
        (anonymous("GET", "/generated/secret.png", &[]), "GET", "/generated/{file}", 404, None),
        (anonymous("GET", "/secret?password=hunter2", &[]), "GET", "(none)", 404, None),
        (anonymous("PUT", &poll, &[]), "PUT", "/v1/images/jobs/{id}", 405, None),
        // Any word may be a method; the log names only those of HTTP.
        (anonymous("BREW", "/", &[]), "other", "/", 405, None),
        (anonymous("GET", "/", &[]), "GET", "/", 303, None),
        (
            anonymous("OPTIONS", "/v1/images/jobs", &preflight),
            "OPTIONS",
            "/v1/images/jobs",
            200,
            None,
        ),
    ];
    let count = cases.len();
    for (reply, method, route, status, key) in cases {
        let event = event_of(&service, &reply);
        assert_eq!((reply.status, event["status"].parse()), (status, Ok(status)), "{event:?}");
        assert_eq!((event["method"].as_str(), event["route"].as_str()), (method, route));
        assert_eq!(event.get("key_handle"), key, "{event:?}");
        assert!(event["ms"].parse::<u64>().is_ok(), "{event:?}");
        assert_eq!(event.get("job_id").map(String::as_str), reply.header("x-job-id"), "{event:?}");
    }
    assert_eq!(requests(&service).len(), count);
    let log = service.log();
    assert!(!log.contains("hunter2") && !log.contains("secret") && !log.contains("limit=5"));
}

#[test]
fn a_disabled_key_is_named_and_an_unknown_one_is_not() {
    let service = Setup::painter().start();
    let key = service.default_key().to_owned();
    let handle = format!("{}…", &key[..9]);
    let listed = service.run(&["keys", "list", "--json"]).stdout;
    let listed: Value = serde_json::from_slice(&listed).unwrap();
    service.run(&["keys", "disable", listed[0]["id"].as_str().unwrap()]);
    let refused = service.get("/v1/images/jobs").expect(403);
    assert_eq!(event_of(&service, &refused)["key_handle"], handle);
    service.run(&["keys", "delete", listed[0]["id"].as_str().unwrap()]);
    let refused = service.get("/v1/images/jobs").expect(401);
    assert_eq!(event_of(&service, &refused).get("key_handle"), None);
}

#[test]
fn the_callers_own_id_is_kept_when_it_is_harmless() {
    let service = Setup::painter().start();
    let with_id = |id: &str| {
        let headers = [("x-request-id", id)];
        service.endpoint().request("GET", "/", &headers, None).unwrap()
    };
    for id in ["a", "5f3c-1.b_C", &"x".repeat(64)] {
        let reply = with_id(id);
        assert_eq!(reply.header("x-request-id"), Some(id));
        assert_eq!(event_of(&service, &reply)["request_id"], id);
    }
    let mut made = Vec::new();
    for id in ["", "a b", "a\tb", "a=b", "\"quoted\"", "é", &"x".repeat(65)] {
        let reply = with_id(id);
        let own = reply.header("x-request-id").unwrap().to_owned();
        assert!(own.starts_with("req_"), "{id:?} became {own}");
        event_of(&service, &reply);
        made.push(own);
    }
    made.sort();
    made.dedup();
    assert_eq!(made.len(), 7, "no id twice");
    assert!(!service.log().contains("quoted"));
    // On answers to what is no request of ours, too.
    let broken = service.post_json("/v1/images/jobs", &json!({"prompt": 5}));
    assert!(broken.header("x-request-id").is_some());
}

#[test]
fn a_caller_that_goes_away_leaves_its_event() {
    let service = Setup::fake().set("METRICS", "on").start();
    let bearer = format!("Bearer {}", service.default_key());
    let mut caller = service.connect();
    let headers = [("authorization", bearer.as_str()), ("x-request-id", "goes-away")];
    let body = json!({"prompt": "a kite [fake gate]"}).to_string();
    caller.send("POST", "/v1/images/generate", &headers, Some(body.as_bytes())).unwrap();
    let [job] = wait_for("the job", || {
        let jobs = service.get("/v1/images/jobs").json()["data"].as_array().unwrap().clone();
        <[Value; 1]>::try_from(jobs).ok()
    });
    drop(caller);
    let event = wait_for("its event", || {
        requests(&service).into_iter().find(|event| event["request_id"] == "goes-away")
    });
    assert_eq!((event["status"].as_str(), event["route"].as_str()), ("499", "/v1/images/generate"));
    let counted = r#"http_requests_total{route="/v1/images/generate",method="POST",status="499"}"#;
    assert!((metrics(&service)[counted] - 1.0).abs() < f64::EPSILON);
    // Its job goes on.
    fake::open_gate(&service.codex_home());
    assert_eq!(service.wait_job(job["id"].as_str().unwrap())["status"], "succeeded");
}

#[test]
fn health_and_its_like_are_for_debugging() {
    let mut service = Setup::painter().set("METRICS", "on").start();
    let ask = |service: &Service| {
        for path in ["/health", "/ready", "/metrics"] {
            service.endpoint().request("GET", path, &[], None).unwrap().expect(200);
        }
        event_of(service, &service.get("/v1/images/jobs"));
    };
    ask(&service);
    assert_eq!(requests(&service).len(), 1);
    service.term();
    service.set("LOG_LEVEL", "debug");
    service.start();
    ask(&service);
    let routes: Vec<String> = requests(&service)
        .into_iter()
        .skip(1)
        .map(|mut event| event.remove("route").unwrap())
        .collect();
    for route in ["/health", "/ready", "/metrics"] {
        assert!(routes.iter().any(|known| known == route), "{routes:?}");
    }
    service.term();
    let before = service.log().len();
    service.set("LOG_LEVEL", "error");
    service.start();
    service.get("/v1/images/jobs").expect(200);
    assert!(service.term().success());
    assert_eq!(&service.log()[before..], "", "nothing went wrong");
}

#[test]
fn neither_prompt_nor_key_is_ever_logged() {
    let service = Setup::fake().set("LOG_LEVEL", "trace").set("METRICS", "on").start();
    let canary = "canary-7Qx";
    let prompts = [
        format!("{canary} drawn"),
        format!("{canary} fails [fake picture=none fail=no+luck+{canary} stderr=ERROR+{canary}]"),
        format!("{canary} is garbage [fake picture=garbage stdout-garbage]"),
        format!("{canary} says so [fake picture=none say={canary}]"),
    ];
    for prompt in &prompts {
        let job = service.submit(prompt);
        service.wait_job(&job);
    }
    for body in [
        json!({"prompt": format!("{canary}\0")}),
        json!({"prompt": canary, "size": canary}),
        json!({"prompt": canary, "quality": canary, "count": canary}),
        json!({"prompt": canary, "reference_images_base64": [canary]}),
        json!({canary: canary}),
    ] {
        assert!(service.post_json("/v1/images/jobs", &body).status >= 400);
    }
    let cut = format!(r#"{{"prompt": "{canary}"#);
    service.request("POST", "/v1/images/jobs", &[], Some(cut.as_bytes())).expect(400);
    // Keys that are wrong are still somebody's.
    let key = service.default_key().to_owned();
    let wrong = key[..key.len() - 1].to_owned();
    for authorization in
        [format!("Bearer {wrong}"), format!("Basic {key}"), key.clone(), format!("Bearer {key} x")]
    {
        let headers = [("authorization", authorization.as_str())];
        let path = format!("/v1/images/jobs?key={key}");
        service.endpoint().request("GET", &path, &headers, None).unwrap().expect(401);
        service.endpoint().request("GET", &format!("/{key}"), &headers, None).unwrap().expect(404);
    }
    let metrics = service.endpoint().request("GET", "/metrics", &[], None).unwrap().text();
    event_of(&service, &service.get("/v1/images/jobs"));
    let seen = service.log() + &metrics;
    for line in seen.lines() {
        assert!(!line.contains(canary) && !line.contains(&key[9..15]), "{line}");
    }
}

// Start

#[test]
fn a_start_without_codex_names_what_is_missing() {
    let service = Setup::new().set("CODEX_BIN", "/nowhere/codex").start();
    service.wait_for_log("code=\"codex_missing\"");
    service.wait_for_log("CODEX_BIN");
    service.wait_for_log("code=\"not_logged_in\"");
    assert!(!service.log().contains("panicked"), "{}", service.log());
    assert_eq!(
        ready(&service),
        (503, vec!["codex_missing".to_owned(), "not_logged_in".to_owned()])
    );
    let job = service.wait_job(&service.submit("a kite"));
    assert_eq!((&job["status"], &job["error_code"]), (&"failed".into(), &"codex_missing".into()));
}

#[test]
fn ready_follows_what_comes_and_goes() {
    let service = Setup::fake().start();
    assert_eq!(ready(&service), (200, vec![]));
    let login = service.codex_home().join("auth.json");
    let aside = service.path("aside.json");
    fs::rename(&login, &aside).unwrap();
    wait_until_ready_says(&service, 503, &["not_logged_in"]);
    let job = service.wait_job(&service.submit("a kite"));
    assert_eq!(job["error_code"], "not_logged_in");
    fs::rename(&aside, &login).unwrap();
    // Without a restart.
    wait_until_ready_says(&service, 200, &[]);
    assert_eq!(service.wait_job(&service.submit("a kite"))["status"], "succeeded");
}

#[test]
fn many_that_ask_whether_it_is_ready_cost_one_look() {
    let service = Setup::fake().args(&["--role", "front"]).start();
    // The lock of a worker, as seen by one that wants it: it is hardly ever taken.
    let lock = fs::File::options().write(true).open(service.state_dir().join("worker.lock"));
    let lock = lock.unwrap();
    let done = AtomicBool::new(false);
    let (tries, looks) = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    ready(&service);
                }
            });
        }
        // Refused again and again is one look, of somebody who was put off in the middle of it.
        let (mut tries, mut looks, mut was_refused) = (0, 0, false);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(2) {
            tries += 1;
            let is_refused = lock.try_lock().is_err();
            if !is_refused {
                lock.unlock().unwrap();
            }
            looks += usize::from(is_refused && !was_refused);
            was_refused = is_refused;
            std::thread::sleep(Duration::from_micros(100));
        }
        done.store(true, Ordering::Relaxed);
        (tries, looks)
    });
    assert!(looks <= 3, "the lock was seen taken {looks} times in {tries} tries");
}

#[test]
fn ready_says_that_it_is_shutting_down() {
    let mut service = Setup::fake().start();
    let job = service.submit("a kite [fake gate]");
    wait_for("the run", || is_running(&service, &job));
    process::signal(service.pid(), Signal::TERM);
    wait_for("the word", || {
        (ready(&service) == (503, vec!["shutting_down".to_owned()])).then_some(())
    });
    assert_eq!(service.get("/health").status, 200);
    let refused = service.post_json("/v1/images/jobs", &json!({"prompt": "late"})).expect(503);
    assert_eq!(refused.json()["error"]["code"], "shutting_down");
    fake::open_gate(&service.codex_home());
    assert!(service.wait_end(support::PATIENCE).success());
}

#[test]
fn ready_misses_a_worker_of_another_process() {
    let mut service = Setup::fake().args(&["--role", "front"]).start();
    assert_eq!(ready(&service), (503, vec!["no_worker".to_owned()]));
    let mut command = service.command(&["serve", "--role", "worker"]);
    let mut worker = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    wait_for("the worker", || (ready(&service) == (200, vec![])).then_some(()));
    worker.kill().unwrap();
    worker.wait().unwrap();
    wait_until_ready_says(&service, 503, &["no_worker"]);
    service.term();
}

// Metrics

#[test]
fn metrics_are_there_on_request_only() {
    for service in [Setup::painter().start(), Setup::painter().set("METRICS", "off").start()] {
        let reply = service.get("/metrics").expect(404);
        assert_eq!(reply.json()["error"]["code"], "not_found");
    }
}

#[test]
fn metrics_are_for_this_machine_or_with_a_key() {
    let service = Setup::painter().set("METRICS", "on").start();
    let Endpoint::Tcp(address) = service.endpoint() else { panic!("TCP") };
    let get = |endpoint: &Endpoint, headers: &[(&str, &str)]| {
        endpoint.request("GET", "/metrics", headers, None).unwrap()
    };
    let loopback = Endpoint::Tcp(address);
    let reply = get(&loopback, &[]).expect(200);
    let kind = reply.header("content-type").unwrap();
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    assert!(reply.text().ends_with("# EOF\n"));

    let bearer = format!("Bearer {}", service.default_key());
    let bearer = ("authorization", bearer.as_str());
    for forwarded in [("x-forwarded-for", "127.0.0.1"), ("forwarded", "for=127.0.0.1")] {
        get(&loopback, &[forwarded]).expect(401);
        get(&loopback, &[forwarded, ("authorization", "Bearer cimg_x")]).expect(401);
        get(&loopback, &[forwarded, bearer]).expect(200);
    }
    service.endpoint().request("POST", "/metrics", &[], None).unwrap().expect(405);
}

#[test]
fn metrics_need_a_key_from_another_machine() {
    let service = Setup::painter().set("METRICS", "on").stopped();
    let Endpoint::Tcp(address) = service.endpoint() else { panic!("TCP") };
    let Some(own) = own_address() else {
        return support::cannot_run("this machine has no address but loopback");
    };
    let mut service = service;
    service.set("LISTEN", format!("0.0.0.0:{}", address.port()));
    service.start();
    let outside = Endpoint::Tcp(SocketAddr::new(own, address.port()));
    outside.request("GET", "/metrics", &[], None).unwrap().expect(401);
    let bearer = format!("Bearer {}", service.default_key());
    let headers = [("authorization", bearer.as_str())];
    outside.request("GET", "/metrics", &headers, None).unwrap().expect(200);
    Endpoint::Tcp(address).request("GET", "/metrics", &[], None).unwrap().expect(200);
}

/// The address from which this machine would speak to others; nothing is sent.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback())
}

#[test]
fn the_counters_tell_what_happened() {
    let service = Setup::fake().set("METRICS", "on").start();
    service.default_key();
    let body = json!({"prompt": "a kite [fake sleep=0.3]"});
    let sent = body.to_string().len();
    service.post_json("/v1/images/generate", &body).expect(200);
    service.post_json("/v1/images/generate", &json!({"prompt": "two", "count": 2})).expect(200);
    service.generate("none [fake picture=garbage]").expect(502);
    service.generate("none [fake picture=none say=No]").expect(502);
    let running = service.submit("a kite [fake sleep=600]");
    wait_for("the run", || is_running(&service, &running));
    let cancelled = service.submit("never drawn");
    for _ in 0..2 {
        service.delete(&format!("/v1/images/jobs/{cancelled}")).expect(200);
    }
    for _ in 0..3 {
        service.submit("waits");
    }
    service.post_json("/v1/images/jobs", &json!({"prompt": ""})).expect(422);
    for _ in 0..4 {
        service.get(&format!("/nothing/{}", uuid::Uuid::new_v4())).expect(404);
    }

    let found = metrics(&service);
    let finished = |state: &str, code: &str| {
        format!(r#"jobs_finished_total{{state="{state}",code="{code}"}}"#)
    };
    let answered = |method: &str, route: &str, status: u16| {
        format!(r#"http_requests_total{{route="{route}",method="{method}",status="{status}"}}"#)
    };
    for (name, expected) in [
        ("jobs_accepted_total".to_owned(), 9.0),
        (finished("succeeded", ""), 2.0),
        (finished("failed", "no_image"), 1.0),
        (finished("failed", "model_refused"), 1.0),
        (finished("cancelled", ""), 1.0),
        ("jobs_queued".to_owned(), 3.0),
        ("jobs_running".to_owned(), 1.0),
        ("codex_run_seconds_count".to_owned(), 5.0),
        (answered("POST", "/v1/images/generate", 200), 2.0),
        (answered("POST", "/v1/images/generate", 502), 2.0),
        (answered("POST", "/v1/images/jobs", 202), 5.0),
        (answered("POST", "/v1/images/jobs", 422), 1.0),
        (answered("DELETE", "/v1/images/jobs/{id}", 200), 2.0),
        (answered("GET", "(none)", 404), 4.0),
        (r#"http_request_seconds_count{route="/v1/images/generate"}"#.to_owned(), 4.0),
    ] {
        assert_eq!(found.get(&name), Some(&expected), "{name}: {found:#?}");
    }
    let seconds = found["codex_run_seconds_sum"];
    assert!((0.3..60.0).contains(&seconds), "{seconds}");
    let bytes = found["http_request_body_bytes_total"];
    assert!(bytes >= f64::from(u32::try_from(sent).unwrap()) && bytes < 4000.0, "{bytes}");
    // What a caller sends makes no new series.
    let before = metrics(&service).len();
    for n in 0..20 {
        service.get(&format!("/nothing/{n}?{n}"));
        service.request(&format!("VERB{n}"), "/nothing", &[], None);
    }
    assert_eq!(metrics(&service).len(), before + 1, "all strange methods are one");

    service.delete(&format!("/v1/images/jobs/{running}")).expect(200);
    wait_for("an empty queue", || {
        let found = metrics(&service);
        let left = found["jobs_queued"] + found["jobs_running"];
        (left < 0.5).then_some(())
    });
    // A job is counted right after its end is stored.
    wait_for("all to be counted", || {
        let end = metrics(&service);
        let of = |state| end[&finished(state, "")];
        ((of("succeeded"), of("cancelled")) == (5.0, 2.0)).then_some(())
    });
}
