//! Promise: `/openapi.json` describes the service as it is: every route and no other, every answer
//! to whatever is sent, in a document that programs can read.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use support::{Reply, Service, Setup, cannot_run, wait_for_within};

const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

/// What schemathesis compares.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
     response_schema_conformance,response_headers_conformance,unsupported_method,ignored_auth";

/// For a machine that does other things beside it.
const PATIENCE: Duration = Duration::from_mins(5);

fn document(service: &Service) -> Value {
    let reply = service.request_bare("GET", "/openapi.json", &[], None).expect(200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    reply.json()
}

/// Paths and methods, those of OpenAI's routes without `/v1` included.
fn operations(document: &Value) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let method = method.to_uppercase();
            if operation["tags"][0] == "OpenAI" {
                let short = path.strip_prefix("/v1").unwrap();
                found.insert((short.to_owned(), method.clone()));
            }
            found.insert((path.clone(), method));
        }
    }
    found
}

fn is_no_route(reply: &Reply) -> bool {
    reply.status == 404 && reply.json()["error"]["code"] == "not_found"
}

#[test]
fn router_and_document_agree() {
    let service = Setup::painter().set("METRICS", "on").start();
    let documented = operations(&document(&service));
    let paths: BTreeSet<_> = documented.iter().map(|(path, _)| path.as_str()).collect();
    assert!(paths.len() > 15, "{paths:?}");
    for path in &paths {
        let there = path.replace("{id}", "some").replace("{file}", "some");
        for method in METHODS {
            let reply = service.request(method, &there, &[], None);
            assert!(method == "HEAD" || !is_no_route(&reply), "{method} {path}: {reply:?}");
            let is = |method: &str| documented.contains(&((*path).to_owned(), method.to_owned()));
            // Who answers GET answers HEAD.
            let named = is(method) || (method == "HEAD" && is("GET"));
            assert_eq!(reply.status != 405, named, "{method} {path}: {reply:?}");
        }
    }
    // The routes that answered, by the service's own count.
    let metrics = service.get("/metrics").expect(200).text();
    let counted: BTreeSet<_> = metrics
        .lines()
        .filter_map(|line| line.split_once("route=\"")?.1.split_once('"'))
        .map(|(route, _)| route)
        .filter(|route| *route != "(none)")
        .collect();
    assert_eq!(counted, paths);
}

/// axum lists no routes: they are read where they are added, and nothing else adds any.
#[test]
fn every_route_is_in_the_document() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut routed = BTreeSet::new();
    for (path, text) in support::snapshot(&sources) {
        // The admin pages are for a browser and no API; they have one folder, and their routes one
        // beginning.
        let is_page = path.to_str().unwrap().contains("http/admin/");
        let Ok(text) = String::from_utf8(text) else { continue };
        for line in text.lines() {
            let other = [".route_service(", ".nest_service(", ".fallback_service("];
            // Where both forms of a prefix lead to the same routes.
            let is_whole = path.ends_with("http/prefix.rs");
            let hides = other.iter().any(|call| line.contains(call));
            assert!(is_whole || !hides, "{}: {line}", path.display());
            assert!(!line.ends_with(".route("), "not on one line: {}", path.display());
            let Some((_, call)) = line.split_once(".route(\"") else { continue };
            let (route, handlers) = call.split_once('"').unwrap();
            assert_eq!(is_page, route.starts_with("/admin"), "{}: {line}", path.display());
            if is_page {
                continue;
            }
            for method in ["get", "post", "put", "patch", "delete", "any"] {
                if handlers.contains(&format!("{method}(")) {
                    if path.ends_with("http/openai/mod.rs") {
                        routed.insert((format!("/v1{route}"), method.to_uppercase()));
                    }
                    routed.insert((route.to_owned(), method.to_uppercase()));
                }
            }
        }
    }
    assert_eq!(routed, operations(&document(&Setup::painter().start())));
}

#[test]
fn the_command_prints_the_document_that_is_served() {
    let service = Setup::painter().start();
    let printed = service.run(&["openapi"]);
    assert!(printed.status.success(), "{printed:?}");
    let served = service.request_bare("GET", "/openapi.json", &[], None).expect(200);
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), served.text());
}

#[test]
fn every_reference_has_its_target() {
    fn walk(at: &Value, document: &Value) {
        match at {
            Value::Object(members) => {
                if let Some(target) = members.get("$ref") {
                    let target = target.as_str().unwrap();
                    let found = target.strip_prefix('#').and_then(|place| document.pointer(place));
                    assert!(found.is_some(), "there is no {target}");
                }
                members.values().for_each(|member| walk(member, document));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, document)),
            _ => {}
        }
    }
    let document = document(&Setup::painter().start());
    let operations = document["paths"].as_object().unwrap().values();
    let names: Vec<&str> = operations
        .flat_map(|methods| methods.as_object().unwrap().values())
        .map(|operation| operation["operationId"].as_str().unwrap())
        .collect();
    let unique: BTreeSet<_> = names.iter().collect();
    assert_eq!(names.len(), unique.len(), "{names:?}");
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    walk(&document, &document);
}

/// What schemathesis finds: an answer of status 5xx, one that the document does not name, or one
/// that is not as the document says.
#[test]
fn every_answer_is_in_the_document() {
    let program =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.cache/python/bin/schemathesis");
    if !program.is_file() {
        return cannot_run("schemathesis is not installed; tests/run openapi does it");
    }
    let service = Setup::painter()
        .set("METRICS", "on")
        // Full when nobody drains it: that is another test's.
        .set("GENERATION_QUEUE_MAX_SIZE", "10000")
        .set("CODEX_WORKER_CONCURRENCY", "2")
        .start();
    let job = service.generate("a kite").expect(200).json()["id"].as_str().unwrap().to_owned();
    let log = service.path("schemathesis.log");
    let file = fs::File::create(&log).unwrap();
    // Loaded from its address, its own route would be left out.
    let described = service.path("openapi.json");
    let document = document(&service);
    fs::write(&described, document.to_string()).unwrap();
    let mut child = Command::new(&program)
        .args(["--config-file".as_ref(), known(&service, &job).as_os_str()])
        .args(["run".as_ref(), described.as_os_str()])
        .args(["--url", &service.url("")])
        .args(["--header", &format!("Authorization: Bearer {}", service.default_key())])
        .args(["--checks", CHECKS, "--phases", "examples,coverage,fuzzing,stateful"])
        .args(["--max-examples", "10", "--seed", "1", "--workers", "1"])
        .args(["--continue-on-failure", "--no-color", "--output-sanitize", "false"])
        .env_clear()
        .env("HOME", service.path("home"))
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LANG", "C.UTF-8")
        .env("COLUMNS", "100")
        .current_dir(service.path("cwd"))
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    let status = wait_for_within(PATIENCE, "schemathesis", || child.try_wait().unwrap());
    let said = fs::read_to_string(&log).unwrap();
    assert!(status.success(), "{status}\n{said}");
    // It did not merely fail to find anything to do.
    let paths = document["paths"].as_object().unwrap().values();
    let tested: usize = paths.map(|methods| methods.as_object().unwrap().len()).sum();
    assert!(said.contains(&format!("Tested: {tested}")), "{tested} operations\n{said}");
}

/// What is there to be found, and how often it is asked for.
fn known(service: &Service, job: &str) -> PathBuf {
    let file = service.path("schemathesis.toml");
    let known = [
        ("jobs", "id", job),
        ("generated", "file", &format!("{job}.png")),
        ("models", "id", "gpt-image-2"),
    ];
    let mut text = String::new();
    for (route, name, value) in known {
        writeln!(
            text,
            "[dictionaries.{route}]\nvalues = [\"{value}\"]\n[[operations]]\n\
             include-path-regex = \"{route}\"\n\
             parameters = {{ \"path.{name}\" = {{ dictionary = \"{route}\", probability = 0.6 }} }}"
        )
        .unwrap();
    }
    fs::write(&file, text).unwrap();
    file
}
