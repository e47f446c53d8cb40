//! Promise: keys are made, listed, disabled, enabled and deleted by the command line, beside the
//! running service and at once; a key is shown once and kept nowhere.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::process::{Output, Stdio};

use serde_json::Value;
use support::{Reply, Service, Setup, snapshot, sqlite::Database, unread, wait_for};

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// `keys …`, with its exit code.
#[track_caller]
fn keys(service: &Service, args: &[&str], code: i32) -> Output {
    let output = service.run(&[&["keys"], args].concat());
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}{}", out(&output), words(&output));
    output
}

fn listed(service: &Service) -> Vec<Value> {
    serde_json::from_slice(&keys(service, &["list", "--json"], 0).stdout).unwrap()
}

fn list_jobs_with(service: &Service, authorization: &str) -> Reply {
    let headers = [("authorization", authorization)];
    service.endpoint().request("GET", "/v1/images/jobs", &headers, None).unwrap()
}

fn status_with(service: &Service, key: &str) -> u16 {
    list_jobs_with(service, &format!("Bearer {key}")).status
}

#[test]
fn a_new_key_stands_alone_on_standard_output() {
    let service = Setup::painter().stopped();
    let output = keys(&service, &["create", "laptop"], 0);
    let shown = out(&output);
    let key = shown.strip_suffix('\n').unwrap();
    let secret = key.strip_prefix("cimg_").unwrap();
    assert_eq!(secret.len(), 43 + 6);
    assert!(secret.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{key}");
    let said = words(&output);
    assert!(said.contains("laptop") && said.contains("key_") && !said.contains(secret), "{said}");
    assert_ne!(shown, out(&keys(&service, &["create", "laptop"], 0)), "names may repeat");

    // The key lets its bearer in; nothing of it is written anywhere.
    let mut service = service;
    service.start();
    assert_eq!(status_with(&service, key), 200);
    let listed = listed(&service);
    assert_eq!(listed.len(), 2);
    let handle = listed[0]["handle"].as_str().unwrap();
    assert_eq!(handle, format!("cimg_{}…", &secret[..4]));
    let table = out(&keys(&service, &["list"], 0));
    assert!(table.contains(handle) && !table.contains(&secret[..5]), "{table}");
    service.term();
    let mut files = snapshot(&service.state_dir());
    files.insert("the log".into(), service.log().into_bytes());
    for (path, content) in files {
        for part in [&secret[..8], &secret[20..28], &secret[secret.len() - 8..]] {
            let found = content.windows(8).any(|window| window == part.as_bytes());
            assert!(!found, "{part} is in {}", path.display());
        }
    }
}

#[test]
fn a_key_that_nobody_saw_is_void() {
    let service = Setup::painter().stopped();
    let mut command = service.command(&["keys", "create", "unseen"]);
    let output = command.stdout(unread()).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    assert!(words(&output).contains("standard output"), "{}", words(&output));
    assert!(listed(&service).is_empty());

    // A list that nobody reads to its end is no failure.
    service.key("seen");
    let mut command = service.command(&["keys", "list"]);
    let output = command.stdout(unread()).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((output.status.code(), words(&output).as_str()), (Some(0), ""));
}

#[test]
fn the_list_is_a_table_or_json() {
    let service = Setup::painter().stopped();
    let none = keys(&service, &["list"], 0);
    assert!(out(&none).is_empty() && words(&none).contains("There are no keys"));
    assert_eq!(out(&keys(&service, &["list", "--json"], 0)).trim(), "[]");

    service.key("laptop");
    service.key("a longer name");
    let json = listed(&service);
    let names: Vec<_> = json.iter().map(|key| key["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["laptop", "a longer name"], "oldest first");
    for key in &json {
        assert!(key["id"].as_str().unwrap().starts_with("key_"));
        assert_eq!((&key["enabled"], &key["jobs"]), (&true.into(), &0.into()));
        assert_eq!(key["last_used_at"], Value::Null);
        let created = key["created_at"].as_str().unwrap();
        assert!(created.parse::<jiff::Timestamp>().is_ok(), "{created}");
        assert!(key.get("hash").is_none());
    }
    let table = out(&keys(&service, &["list"], 0));
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 3);
    let column = |line: &str, word: &str| line.find(word).map(|at| line[..at].chars().count());
    assert_eq!(column(lines[0], "STATE"), column(lines[1], "enabled"));
    assert_eq!(column(lines[0], "STATE"), column(lines[2], "enabled"));
    assert!(lines[1].ends_with("never"), "{table}");
}

#[test]
fn changes_take_effect_at_once() {
    let service = Setup::painter().start();
    // Made while the service runs.
    let key = service.key("laptop");
    let id = listed(&service)[0]["id"].as_str().unwrap().to_owned();
    for _ in 0..3 {
        assert_eq!(status_with(&service, &key), 200);
        let said = words(&keys(&service, &["disable", &id], 0));
        assert!(said.contains(&id) && said.contains("disabled"), "{said}");
        let refused = list_jobs_with(&service, &format!("Bearer {key}")).expect(403);
        assert_eq!(refused.json()["detail"], "API key is disabled");
        assert_eq!(listed(&service)[0]["enabled"], false);
        assert!(out(&keys(&service, &["list"], 0)).contains("disabled"));
        // Also while it is disabled already.
        keys(&service, &["disable", &id], 0);
        keys(&service, &["enable", &id], 0);
    }
    assert_eq!(status_with(&service, &key), 200);
    let said = words(&keys(&service, &["delete", &id], 0));
    assert!(said.contains(&id) && said.contains("deleted"), "{said}");
    let refused = list_jobs_with(&service, &format!("Bearer {key}")).expect(401);
    assert_eq!(refused.json()["detail"], "Invalid API key");
    assert!(listed(&service).is_empty());
    for change in ["enable", "disable", "delete"] {
        let said = words(&keys(&service, &[change, &id], 1));
        assert!(said.contains(&id) && said.contains("no key"), "{said}");
    }
    assert_eq!(status_with(&service, &key), 401, "a deleted key can't be enabled");
}

#[test]
fn ids_and_names_that_cannot_be() {
    let service = Setup::painter().stopped();
    for id in ["key_000000000000", "laptop", "", "1 OR 1=1", "%", "key_\u{1b}[31m"] {
        for change in ["enable", "disable", "delete"] {
            let said = words(&keys(&service, &[change, id], 1));
            assert!(said.contains("there is no key with the id"), "{said}");
            assert!(!said.contains('\u{1b}'), "control characters reach the terminal: {said:?}");
        }
    }
    for name in ["", "   ", "\n", "a\tb", "bell\u{7}", "\u{1b}[31mred", &"x".repeat(101)] {
        let output = keys(&service, &["create", name], 1);
        assert!(out(&output).is_empty() && words(&output).contains("1 to 100 characters"));
        assert!(!words(&output).contains(['\u{1b}', '\u{7}']), "{:?}", words(&output));
    }
    assert!(listed(&service).is_empty());
    let longest = "ü".repeat(100);
    let odd = ["; DROP TABLE api_keys", "Mom's 🖼️", "50% \"off\"", "\\n", &longest];
    for name in odd {
        keys(&service, &["create", name], 0);
    }
    keys(&service, &["create", "  blanks around  "], 0);
    keys(&service, &["create", "--", "--json"], 0);
    let listed = listed(&service);
    let names: Vec<_> = listed.iter().map(|key| key["name"].as_str().unwrap()).collect();
    assert_eq!(names[..5], odd);
    assert_eq!(names[5..], ["blanks around", "--json"]);
    assert_eq!(out(&keys(&service, &["list"], 0)).lines().count(), 8);
}

#[test]
fn wrong_usage_is_2() {
    let service = Setup::painter().stopped();
    for args in
        [&[][..], &["create"], &["create", "a", "b"], &["rename", "x"], &["list", "x"], &["delete"]]
    {
        let output = keys(&service, args, 2);
        assert!(out(&output).is_empty() && words(&output).contains("Usage"), "{args:?}");
    }
}

#[test]
fn a_mistyped_key_is_refused() {
    let service = Setup::painter().start();
    let key = service.key("laptop");
    let twisted: Vec<String> = vec![
        key[..key.len() - 1].to_owned(),
        format!("{key}x"),
        key.to_ascii_uppercase(),
        key.replacen("cimg_", "cimg-", 1),
        // Without its checksum it looks like an old key, but nobody has it.
        key[..key.len() - 6].to_owned(),
        {
            let mut characters: Vec<char> = key.chars().collect();
            characters.swap(10, 11);
            if characters[10] == characters[11] {
                characters[10] = if characters[10] == 'x' { 'y' } else { 'x' };
            }
            characters.into_iter().collect()
        },
    ];
    for wrong in twisted {
        let refused = list_jobs_with(&service, &format!("Bearer {wrong}")).expect(401);
        assert_eq!(refused.json()["detail"], "Invalid API key", "{wrong}");
    }
    assert_eq!(status_with(&service, &key), 200);
    for form in [format!("bearer {key}"), format!("BEARER   {key}  ")] {
        assert_eq!(list_jobs_with(&service, &form).status, 200, "{form}");
    }
}

#[test]
fn keys_of_the_original_stay_valid() {
    let service = Setup::painter().start();
    service.key("new");
    let old = "cimg_Zm9v-_FyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE";
    assert_eq!(old.len(), "cimg_".len() + 43);
    assert_eq!(status_with(&service, old), 401, "nobody has it yet");
    let hash = support::pictures::sha256(old.as_bytes());
    Database::of(&service).run(&format!(
        "INSERT INTO api_keys (id, name, handle, hash, created_at) \
         VALUES ('1f0c', 'old', 'cimg_Zm9v…', '{hash}', 0)"
    ));
    assert_eq!(status_with(&service, old), 200);
    keys(&service, &["disable", "1f0c"], 0);
    assert_eq!(status_with(&service, old), 403);
    // One of the two that is mistyped.
    assert_eq!(status_with(&service, &old.replace("Zm9v-", "Zm9v_")), 401);
}

#[test]
fn the_last_use_and_the_jobs_are_noted() {
    let service = Setup::painter().start();
    service.generate("a kite").expect(200);
    service.submit("a kite");
    let used = wait_for("the note", || {
        let listed = listed(&service);
        listed[0]["last_used_at"].as_str().map(str::to_owned)
    });
    let used: jiff::Timestamp = used.parse().unwrap();
    let age = jiff::Timestamp::now().as_second() - used.as_second();
    assert!((0..=60).contains(&age), "{used}");
    assert_eq!(listed(&service)[0]["jobs"], 2);
    // A refused key is not used.
    let other = service.key("other");
    let id = listed(&service)[1]["id"].as_str().unwrap().to_owned();
    keys(&service, &["disable", &id], 0);
    assert_eq!(status_with(&service, &other), 403);
    service.get("/v1/images/jobs").expect(200);
    assert_eq!(listed(&service)[1]["last_used_at"], Value::Null);
}

#[test]
fn a_key_may_be_named_while_its_name_is_its_own() {
    let service = Setup::painter().stopped();
    for name in ["laptop", "phone", "phone"] {
        service.key(name);
    }
    let said = words(&keys(&service, &["disable", "laptop"], 0));
    let ids: Vec<_> =
        listed(&service).iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(said, format!("{} is disabled.\n", ids[0]));
    assert_eq!(listed(&service)[0]["enabled"], false);
    let said = words(&keys(&service, &["delete", "phone"], 1));
    assert!(said.contains(&format!("{}, {}", ids[1], ids[2])), "{said}");
    assert_eq!(listed(&service).len(), 3);
    let said = words(&keys(&service, &["enable", "desk"], 1));
    assert!(said.contains("no key with the id or name \"desk\""), "{said}");
}
