//! Promise: the log tells a job's whole story under its id: in the journal as fields to search by, in
//! JSON as members, as text for people. A journal that is not there costs nobody the log.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};
use support::{Service, Setup, fake, wait_for, write_program};

/// An entry of the journal, or a line of JSON with its names in capital letters.
type Entry = BTreeMap<String, String>;

/// Something that listens where the service believes the journal to be: the socket's path is the
/// system's, so the service runs with another `/run`.
struct Journal {
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl Journal {
    fn at(run: &Path) -> Self {
        let folder = run.join("systemd/journal");
        fs::create_dir_all(&folder).unwrap();
        let socket = UnixDatagram::bind(folder.join("socket")).unwrap();
        let entries = Arc::<Mutex<Vec<Entry>>>::default();
        let heard = Arc::clone(&entries);
        thread::spawn(move || {
            let mut datagram = vec![0; 256 * 1024];
            while let Ok(length) = socket.recv(&mut datagram) {
                if length > 0 {
                    heard.lock().unwrap().push(parsed(&datagram[..length]));
                }
            }
        });
        Self { entries }
    }

    fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap().clone()
    }

    /// What `journalctl JOB_ID=…` shows.
    fn of_job(&self, id: &str) -> Vec<Entry> {
        let mut entries = self.entries();
        entries.retain(|entry| entry.get("JOB_ID").is_some_and(|job| job == id));
        entries
    }
}

/// <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>
fn parsed(mut datagram: &[u8]) -> Entry {
    let mut entry = Entry::new();
    while !datagram.is_empty() {
        let end = datagram.iter().position(|byte| *byte == b'\n').unwrap();
        let (line, rest) = (&datagram[..end], &datagram[end + 1..]);
        let plain = line.iter().position(|byte| *byte == b'=');
        let (name, value, rest) = if let Some(at) = plain {
            (&line[..at], &line[at + 1..], rest)
        } else {
            let (length, rest) = rest.split_first_chunk::<8>().unwrap();
            let (value, rest) = rest.split_at(u64::from_le_bytes(*length).try_into().unwrap());
            (line, value, rest.strip_prefix(b"\n").unwrap())
        };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let before = entry.insert(text(name), text(value));
        assert_eq!(before, None, "{} twice", text(name));
        datagram = rest;
    }
    entry
}

/// The service with a `/run` of its own. None, and said, where that cannot be had.
fn with_own_run(setup: Setup) -> Option<Setup> {
    let namespaces = ["--user", "--map-root-user", "--mount"];
    let probe = Command::new("unshare").args(namespaces).arg("true").status();
    if !probe.is_ok_and(|status| status.success()) {
        support::cannot_run("no namespace of mounts can be had");
        return None;
    }
    let (run, start) = (setup.path("run"), setup.path("start"));
    fs::create_dir(&run).unwrap();
    let program = setup.program_path().display();
    let namespaces = namespaces.join(" ");
    let script = format!(
        "#!/bin/sh\n\
         exec unshare {namespaces} sh -c 'mount --bind \"$0\" /run && exec \"$@\"' \
         {} {program} \"$@\"\n",
        run.display()
    );
    write_program(&start, &script);
    Some(setup.program(start))
}

/// The words and the fields of a story, without what differs from job to job.
fn told(entries: &[Entry]) -> Vec<(String, Vec<&str>)> {
    let fields = ["REQUEST_ID", "KEY_HANDLE", "LOGIN", "PHASE", "CODEX_THREAD"];
    let told = |entry: &Entry| {
        let words = entry["MESSAGE"].split(" job_id=").next().unwrap().to_owned();
        let words = words.split(" request_id=").next().unwrap().to_owned();
        (words, fields.into_iter().filter(|name| entry.contains_key(*name)).collect())
    };
    entries.iter().map(told).collect()
}

/// The story of a job that is drawn at once. Accepting and beginning are two processes' or two
/// threads' business, and either may be the first to tell.
fn assert_is_whole(entries: &[Entry], key: &str, request: &str) {
    let mut story = told(entries);
    let by = ["REQUEST_ID", "KEY_HANDLE"].to_vec();
    let drawn = ["LOGIN", "CODEX_THREAD"].to_vec();
    let in_phase = ["LOGIN", "PHASE", "CODEX_THREAD"].to_vec();
    let accepted = story.iter().position(|(words, _)| words == "job accepted").unwrap();
    assert_eq!(story.remove(accepted).1, by);
    let answered = story.iter().position(|(words, _)| words == "request").unwrap();
    assert_eq!(story.remove(answered).1, by);
    let expected = [
        ("job begins", ["PHASE"].to_vec()),
        ("turn is given to a login", ["LOGIN"].to_vec()),
        ("Codex begins a thread", drawn),
        ("picture is asked for", in_phase.clone()),
        ("picture stored", in_phase),
        ("job ended", vec![]),
    ];
    assert_eq!(story, expected.map(|(words, fields)| (words.to_owned(), fields)));
    for entry in entries {
        for (name, value) in [
            ("KEY_HANDLE", key),
            ("REQUEST_ID", request),
            ("LOGIN", "codex"),
            ("CODEX_THREAD", entries.iter().find_map(|e| e.get("CODEX_THREAD")).unwrap()),
        ] {
            assert!(entry.get(name).is_none_or(|known| known == value), "{entry:?}");
        }
    }
    let phases: Vec<_> = entries.iter().filter_map(|entry| entry.get("PHASE")).collect();
    assert_eq!(phases, ["starting", "drawing", "saving"]);
}

/// One picture, waited for; its job's id and its request's.
fn draw(service: &Service, prompt: &str) -> (String, String) {
    let reply = service.generate(prompt).expect(200);
    let request = reply.header("x-request-id").unwrap().to_owned();
    (reply.json()["id"].as_str().unwrap().to_owned(), request)
}

#[test]
fn the_journal_finds_a_jobs_whole_story() {
    let canary = "canary-7Qx";
    let Some(setup) = with_own_run(Setup::fake()) else { return };
    let journal = Journal::at(&setup.path("run"));
    let mut service = setup.set("LOG_FORMAT", "journal").start();
    let handle = format!("{}…", &service.default_key()[..9]);
    let (id, request) = draw(&service, canary);
    // A picture is drawn for it, so that nothing of the first is still to come.
    service.generate("another").expect(200);
    wait_for("both", || {
        let ended = |e: &Entry| e["MESSAGE"].starts_with("job ended");
        (journal.entries().iter().filter(|e| ended(e)).count() == 2).then_some(())
    });
    let is_request = |entry: &Entry| entry["MESSAGE"].starts_with("request ");
    wait_for("the request", || journal.of_job(&id).iter().any(is_request).then_some(()));
    assert_is_whole(&journal.of_job(&id), &handle, &request);
    for entry in journal.entries() {
        assert_eq!(entry["SYSLOG_IDENTIFIER"], "codex-image-service");
        assert!(entry["TARGET"].starts_with("codex_image_service::"), "{entry:?}");
        assert!(entry["CODE_FILE"].starts_with("src/") && entry.contains_key("CODE_LINE"));
        assert!(!entry["CODE_FILE"].contains("journal"), "the place is the event's: {entry:?}");
        assert_eq!(entry["PRIORITY"], "6", "{entry:?}");
        for value in entry.values() {
            assert!(!value.contains(canary) && !value.contains(service.default_key()));
        }
    }
    // What stands beside the message stands in it as well: `journalctl -u` shows nothing else.
    let stored = journal.of_job(&id);
    let stored = stored.iter().find(|e| e["MESSAGE"].starts_with("picture stored")).unwrap();
    for part in [format!("job_id=\"{id}\""), "login=\"codex\"".to_owned(), "bytes=".to_owned()] {
        assert!(stored["MESSAGE"].contains(&part), "{stored:?}");
    }
    assert!(service.term().success());
    wait_for("the last line", || {
        (journal.entries().last().unwrap()["MESSAGE"] == "stopped").then_some(())
    });
    assert_eq!(service.log(), "", "nothing goes elsewhere");
}

#[test]
fn an_error_is_in_the_message_with_its_reason() {
    let Some(setup) = with_own_run(Setup::fake()) else { return };
    let journal = Journal::at(&setup.path("run"));
    let service = setup.set("LOG_FORMAT", "journal").set("CODEX_BIN", "/nowhere/codex").start();
    let warned = wait_for("the warning", || {
        journal.entries().into_iter().find(|entry| entry["MESSAGE"].contains("codex_missing"))
    });
    assert_eq!(warned["PRIORITY"], "4");
    let job = service.wait_job(&service.submit("a kite"));
    let id = job["id"].as_str().unwrap();
    let ended = wait_for("its end", || {
        journal.of_job(id).into_iter().find(|e| e["MESSAGE"].starts_with("job ended"))
    });
    assert!(ended["MESSAGE"].contains("code=\"codex_missing\""), "{ended:?}");
}

#[test]
fn without_a_journal_the_log_goes_to_standard_error() {
    let Some(setup) = with_own_run(Setup::painter()) else { return };
    let service = setup.set("LOG_FORMAT", "journal").start();
    service.wait_for_log("the journal cannot be reached; the log goes to standard error");
    service.wait_for_log("listening address=");
}

#[test]
fn json_tells_the_same_story_a_line_an_event() {
    let mut service = Setup::fake().set("LOG_FORMAT", "json").start();
    let handle = format!("{}…", &service.default_key()[..9]);
    let (id, request) = draw(&service, "a \"kite\"\nin two lines");
    assert!(service.term().success());
    let log = service.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        for name in ["timestamp", "level", "target", "message"] {
            assert!(line[name].is_string(), "{line}");
        }
    }
    let member =
        |(name, value): (&String, &Value)| Some((name.to_uppercase(), value.as_str()?.to_owned()));
    let entries = lines.iter().map(|line| line.as_object().unwrap().iter().filter_map(member));
    let mut entries: Vec<Entry> = entries.map(Iterator::collect).collect();
    entries.retain(|entry| entry.get("JOB_ID").is_some_and(|job| *job == id));
    assert_is_whole(&entries, &handle, &request);
    let ended = lines.iter().find(|line| line["message"] == "job ended").unwrap();
    assert_eq!(ended["attempts"], 1, "a number is one");
}

#[test]
fn what_a_dead_service_left_goes_on_in_the_same_story() {
    let mut service = Setup::fake().start();
    let id = service.submit("a kite [fake after=600]");
    fake::wait_for_step(&service.codex_home(), "saved", 1);
    service.wait_for_log("picture is asked for");
    service.kill9_all();
    service.start();
    service.wait_job(&id);
    service.wait_for_log("job ended");
    let log = service.log();
    let of_job = log.lines().filter(|line| line.contains(&format!("job_id=\"{id}\"")));
    let story: Vec<_> = of_job.collect();
    for words in [
        "job accepted",
        "job begins",
        "picture is asked for",
        "job was interrupted; looking for its pictures",
        "an interrupted attempt left its picture",
        "picture stored",
        "job ended",
    ] {
        assert!(story.iter().any(|line| line.contains(words)), "{words} in {story:#?}");
    }
}

#[test]
fn a_request_that_joins_a_job_is_told_of_there() {
    let service = Setup::painter().start();
    let headers = [("content-type", "application/json"), ("idempotency-key", "one")];
    let body = json!({"prompt": "a kite"}).to_string();
    let ask = || {
        let reply = service.request("POST", "/v1/images/jobs", &headers, Some(body.as_bytes()));
        let reply = reply.expect(202);
        let id = reply.json()["id"].as_str().unwrap().to_owned();
        (id, reply.header("x-request-id").unwrap().to_owned())
    };
    let ((id, _), (same, second)) = (ask(), ask());
    assert_eq!(id, same);
    let words = format!("job is asked for once more job_id=\"{id}\" request_id=\"{second}\"");
    service.wait_for_log(&words);
}
