//! Promise: a job says how far it is, with the time of each phase, in its answers and as a stream
//! of events that ends with the result; nothing is told twice and nobody else hears it.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Connection, HomeOptions, Lab, Service, Setup, process, wait_for};

/// An event of a stream.
#[derive(Clone, Debug, PartialEq)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

/// A stream that is being read.
struct Events {
    connection: Connection,
    text: String,
    ended: bool,
}

fn path(job: &str) -> String {
    format!("/v1/images/jobs/{job}/events")
}

impl Events {
    fn open(service: &Service, job: &str, last: Option<&str>) -> Self {
        let bearer = format!("Bearer {}", service.default_key());
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(last.map(|last| ("last-event-id", last)));
        let mut connection = service.endpoint().connect().unwrap();
        connection.send("GET", &path(job), &headers, None).unwrap();
        let head = connection.head().unwrap().expect(200);
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        assert_eq!(head.header("cache-control"), Some("no-store"));
        assert_eq!(head.header("x-job-id"), Some(job));
        Self { connection, text: String::new(), ended: false }
    }

    /// The next event; None at the stream's end.
    fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                if event.starts_with(':') {
                    continue;
                }
                let field = |name: &str| {
                    let line = event.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                    line.to_owned()
                };
                let data = serde_json::from_str(&field("data: ")).unwrap();
                return Some(Event { id: field("id: "), name: field("event: "), data });
            }
            if self.ended {
                assert_eq!(self.text, "");
                return None;
            }
            let more = self.connection.read_some().unwrap();
            let more = String::from_utf8(more).unwrap();
            self.ended = more.is_empty() || more.ends_with("0\r\n\r\n");
            // Without the chunks' lengths, which stand in lines of their own.
            let lines = more.split("\r\n").filter(|line| {
                line.is_empty() || !line.bytes().all(|byte| byte.is_ascii_hexdigit())
            });
            self.text.extend(lines);
        }
    }

    fn rest(mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

fn names(events: &[Event]) -> Vec<&str> {
    let name = |event: &Event| match &*event.name {
        "phase" => event.data["phase"].as_str().unwrap().to_owned(),
        other => other.to_owned(),
    };
    events.iter().map(name).map(|name| &*name.leak()).collect()
}

fn slow() -> Setup {
    Setup::fake()
}

#[test]
fn the_phases_come_in_their_order_and_the_result_is_the_polls_answer() {
    let lab = Lab::served(&[HomeOptions::default()], |setup| setup);
    lab.backend.hold_images();
    let job = lab.service.submit("a kite");
    lab.backend.wait_for_images(1);
    let running = wait_for("the picture to be asked for", || {
        let answer = lab.service.job(&job);
        (answer["phase"] == "drawing").then_some(answer)
    });
    assert!(running["phases"]["waiting"].is_string() && running["phases"]["starting"].is_string());
    assert!(running["phases"].get("saving").is_none());
    let mut events = Events::open(&lab.service, &job, None);
    let first: Vec<_> = (0..3).map(|_| events.next().unwrap()).collect();
    assert_eq!(names(&first), ["waiting", "starting", "drawing"]);
    assert_eq!(first[2].data["status"], "running");
    assert_eq!(first[2].data["at"], running["phases"]["drawing"]);
    lab.backend.release_images();
    let last = events.rest();
    assert_eq!(names(&last), ["saving", "result"]);
    let answer = lab.service.job(&job);
    assert_eq!(last[1].data, answer);
    assert_eq!((&answer["status"], &answer["phase"]), (&json!("succeeded"), &Value::Null));
    let times: Vec<_> = ["waiting", "starting", "drawing", "saving"]
        .map(|phase| answer["phases"][phase].as_str().unwrap().to_owned())
        .into();
    assert!(times.is_sorted(), "{times:?}");
    // The turn ends with its picture: the model does not come to say that it is done.
    assert!(answer.get("note").is_none(), "{answer}");
}

#[test]
fn what_the_model_said_stands_beside_its_picture() {
    let lab = Lab::new();
    let job = lab.service.submit("a kite");
    assert_eq!(lab.service.wait_job(&job)["note"], "Done: 1 picture(s).");
}

#[test]
fn who_comes_back_hears_the_rest_only() {
    let service = slow().start();
    let job = service.submit("a kite");
    service.wait_job(&job);
    let all = Events::open(&service, &job, None).rest();
    assert_eq!(names(&all), ["waiting", "starting", "drawing", "saving", "result"]);
    let rest = Events::open(&service, &job, Some(&all[1].id)).rest();
    assert_eq!(rest, all[2..]);
    // Who has heard the result needs not come again.
    let headers = [("last-event-id", all[4].id.as_str())];
    service.request("GET", &path(&job), &headers, None).expect(204);
    let again = Events::open(&service, &job, Some("something else")).rest();
    assert_eq!(again, all);
}

#[test]
fn several_may_follow_and_none_of_them_is_somebody_else() {
    let service = slow().start();
    let job = service.submit("a kite [fake sleep=1]");
    let followers: Vec<_> = (0..3).map(|_| Events::open(&service, &job, None)).collect();
    for events in followers {
        let events = events.rest();
        assert_eq!(names(&events), ["waiting", "starting", "drawing", "saving", "result"]);
    }
    let other = service.key("other");
    service.request_as(&other, "GET", &path(&job), None).expect(404);
    service.request_bare("GET", &path(&job), &[], None).expect(401);
    service.get(&path("img_00000000000000000000000000000000")).expect(404);
}

#[test]
fn a_job_that_fails_or_is_cancelled_ends_the_stream() {
    let lab = Lab::served(&[HomeOptions::default()], |setup| setup);
    let job = lab.service.submit("a kite [stub mode=moderated]");
    let events = Events::open(&lab.service, &job, None).rest();
    let last = events.last().unwrap();
    assert_eq!(
        (&last.data["status"], &last.data["error_code"]),
        (&json!("failed"), &json!("moderation_blocked"))
    );
    assert!(!names(&events).contains(&"saving"));
    lab.backend.hold_images();
    let job = lab.service.submit("a kite");
    lab.backend.wait_for_images(2);
    let events = Events::open(&lab.service, &job, None);
    lab.service.delete(&format!("/v1/images/jobs/{job}")).expect(200);
    assert_eq!(events.rest().last().unwrap().data["status"], "cancelled");
}

#[test]
fn a_stop_ends_the_streams_and_they_go_on_after_it() {
    let mut lab =
        Lab::served(&[HomeOptions::default()], |setup| setup.set("SHUTDOWN_GRACE_SECONDS", "0.2"));
    lab.backend.hold_images();
    let job = lab.service.submit("a kite");
    lab.backend.wait_for_images(1);
    let mut events = Events::open(&lab.service, &job, None);
    let seen: Vec<_> = (0..3).map(|_| events.next().unwrap()).collect();
    process::signal(lab.service.pid(), Signal::TERM);
    assert!(events.rest().iter().all(|event| event.name == "phase"));
    lab.service.wait_end(Duration::from_mins(1));
    lab.backend.release_images();
    lab.service.start();
    let rest = Events::open(&lab.service, &job, Some(&seen[2].id)).rest();
    assert_eq!(rest.last().unwrap().data["status"], "succeeded");
    assert!(rest.iter().all(|event| !seen.contains(event)));
}

#[test]
fn a_silent_stream_is_kept_alive() {
    let lab = Lab::served(&[HomeOptions::default()], |setup| setup);
    lab.backend.hold_images();
    let job = lab.service.submit("a kite");
    lab.backend.wait_for_images(1);
    let mut events = Events::open(&lab.service, &job, None);
    for _ in 0..3 {
        events.next().unwrap();
    }
    let more = events.connection.read_some().unwrap();
    assert!(String::from_utf8(more).unwrap().contains(": keep-alive\n\n"));
    lab.backend.release_images();
    assert_eq!(names(&events.rest()), ["saving", "result"]);
}
