//! Promise: nothing is read from a stranger. The key comes first, then the declared length, then
//! the body; whoever is refused early still gets the whole answer; and whoever sends nonsense,
//! nothing at all or too slowly keeps nobody else waiting.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    time::Duration,
};

use serde_json::json;
use support::{Connection, PATIENCE, Service, Setup, process, wait_for, wait_for_within};

const GENERATE: &str = "/v1/images/generate";
const JOBS: &str = "/v1/images/jobs";
const MIB: u64 = 1024 * 1024;
const DECLARED: (&str, &str) = ("content-length", "52428800");
const CHUNKED: (&str, &str) = ("transfer-encoding", "chunked");

/// On a Unix socket, whose kernel buffers hold only what the sender's allow.
fn on_unix_socket(setup: Setup) -> Service {
    let socket = setup.path("front.sock");
    setup.set("LISTEN", format!("unix:{}", socket.display())).start()
}

/// Everything the server says until it hangs up.
fn rest(connection: &mut Connection) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = connection.read_to_end(&mut all);
    all
}

fn bearer(service: &Service) -> String {
    format!("Bearer {}", service.default_key())
}

/// It still works, for others and on new connections.
#[track_caller]
fn assert_serves(service: &Service) {
    service.request_bare("GET", "/health", &[], None).expect(200);
    service.generate("a kite").expect(200);
}

// Order

#[test]
fn of_a_body_without_a_key_next_to_nothing_is_read() {
    let service = on_unix_socket(Setup::painter());
    let cases: [(&str, &[(&str, &str)]); 5] = [
        (GENERATE, &[DECLARED]),
        (JOBS, &[DECLARED]),
        (JOBS, &[CHUNKED]),
        (JOBS, &[DECLARED, ("authorization", "Bearer cimg_nobodys")]),
        (JOBS, &[DECLARED, ("authorization", "Basic eDp5")]),
    ];
    for (path, headers) in cases {
        let mut connection = service.connect();
        connection.shrink_send_buffer().unwrap();
        connection.send("POST", path, headers, None).unwrap();
        if headers.contains(&CHUNKED) {
            connection.write_all(b"3200000\r\n").unwrap();
        }
        let mut taken = 0;
        while let Ok(count @ 1..) = connection.write(&[b' '; 1024]) {
            taken += count as u64;
            assert!(taken < 50 * MIB, "all of it was read");
        }
        // What a Unix socket of the smallest buffer holds besides is a few KiB.
        assert!(taken < 64 * 1024, "{taken} bytes were taken: {path} {headers:?}");
        let reply = connection.reply("POST").unwrap().expect(401);
        assert_eq!(reply.header("connection"), Some("close"));
        assert!(rest(&mut connection).is_empty());
    }
}

#[test]
fn a_disabled_key_is_refused_before_its_body() {
    let service = on_unix_socket(Setup::painter());
    let key = service.key("resting");
    service.change_key("disable", "resting");
    let bearer = format!("Bearer {key}");
    let mut connection = service.connect();
    connection.shrink_send_buffer().unwrap();
    connection.send("POST", JOBS, &[DECLARED, ("authorization", &bearer)], None).unwrap();
    assert!(connection.pour(50 * MIB) < 64 * 1024 + 16 * 1024);
    connection.reply("POST").unwrap().expect(403);
}

#[test]
fn the_whole_answer_arrives_although_the_body_keeps_coming() {
    let service = Setup::painter().set("MAX_REQUEST_BODY_BYTES", "1000000").start();
    let bearer = bearer(&service);
    let keyed = ("authorization", bearer.as_str());
    let body = vec![b' '; 50 * 1024 * 1024];
    for round in 0..20 {
        for (status, headers) in [(401, vec![]), (413, vec![keyed])] {
            let mut connection = service.connect();
            // Sends until the server takes no more, then reads: what a simple client does.
            connection.send("POST", GENERATE, &headers, Some(&body)).unwrap();
            let reply = connection.reply("POST");
            let reply = reply.unwrap_or_else(|why| panic!("round {round}, {status}: {why}"));
            assert!(reply.expect(status).json()["detail"].is_string());
        }
    }
    assert_serves(&service);
}

#[test]
fn too_long_is_refused_by_its_declaration() {
    let service = on_unix_socket(Setup::painter());
    let bearer = bearer(&service);
    let keyed = ("authorization", bearer.as_str());
    for length in ["70953645", "999999999999", "9223372036854775807"] {
        let mut connection = service.connect();
        connection.send("POST", JOBS, &[keyed, ("content-length", length)], None).unwrap();
        connection.reply("POST").unwrap().expect(413);
    }
    // Exactly the limit is read.
    let mut connection = service.connect();
    connection.send("POST", JOBS, &[keyed, ("content-length", "70953644")], Some(b"[")).unwrap();
    connection.reply("POST").unwrap().expect(422);
}

#[test]
fn too_long_is_refused_by_its_count() {
    let service = Setup::painter().set("MAX_REQUEST_BODY_BYTES", "100000").start();
    let bearer = bearer(&service);
    let keyed = ("authorization", bearer.as_str());
    let chunks = |count: usize| format!("3e8\r\n{}\r\n", " ".repeat(1000)).repeat(count);
    let post = |headers: &[(&str, &str)], body: &str| {
        service.request_bare("POST", JOBS, headers, Some(body.as_bytes()))
    };
    let json = r#"{"prompt":"x"}"#;
    let fits = format!("{}{:x}\r\n{json}\r\n0\r\n\r\n", chunks(99), json.len());
    // Leading blanks count for the length, and for nothing else up to 64 KiB.
    let short = format!("{}{:x}\r\n{json}\r\n0\r\n\r\n", chunks(50), json.len());
    post(&[keyed, CHUNKED], &short).expect(202);
    let late = format!("{:x}\r\n{json}\r\n{}0\r\n\r\n", json.len(), chunks(99));
    post(&[keyed, CHUNKED], &late).expect(202);
    assert_ne!(post(&[keyed, CHUNKED], &fits).status, 413);
    let over = format!("{:x}\r\n{json}\r\n{}0\r\n\r\n", json.len(), chunks(101));
    post(&[keyed, CHUNKED], &over).expect(413);
    // Also where it is noticed inside of a text or a picture.
    for field in ["prompt", "x", "reference_image_base64"] {
        let begin = format!(r#"{{"{field}":""#);
        let text = format!("{:x}\r\n{begin}\r\n{}", begin.len(), chunks(101));
        post(&[keyed, CHUNKED], &text).expect(413);
    }
    // A length beside the chunks counts for nothing.
    let lying = [keyed, ("content-length", "14"), CHUNKED];
    let status = post(&lying, &over).status;
    assert!(status == 413 || status == 400, "{status}");
}

#[test]
fn a_small_length_beside_chunks_buys_no_memory() {
    let service = Setup::painter().start();
    let bearer = bearer(&service);
    let headers = [("authorization", bearer.as_str()), ("content-length", "14"), CHUNKED];
    service.generate("warm").expect(200);
    process::forget_peak(service.pid());
    let before = process::peak_kib(service.pid()).unwrap();
    let mut connection = service.connect();
    connection.send("POST", JOBS, &headers, None).unwrap();
    connection.write_all(b"3200000\r\n").unwrap();
    let blanks = vec![b' '; 1 << 20];
    let sent = (0..50).take_while(|_| connection.write_all(&blanks).is_ok()).count();
    let _ = connection.write_all(b"\r\n0\r\n\r\n");
    connection.reply("POST").unwrap().expect(400);
    let grown = process::peak_kib(service.pid()).unwrap() - before;
    assert!(grown < 4 * 1024, "{grown} KiB for {sent} MiB");
}

#[test]
fn expect_100_continue_is_answered_only_to_who_may_send() {
    let service = Setup::painter().start();
    let bearer = bearer(&service);
    let keyed = ("authorization", bearer.as_str());
    let expect = ("expect", "100-continue");
    let body = r#"{"prompt":"a kite"}"#;
    let length = body.len().to_string();
    let first = |headers: &[(&str, &str)]| {
        let mut connection = service.connect();
        connection.send("POST", GENERATE, headers, None).unwrap();
        (connection.head().unwrap().status, connection)
    };
    assert_eq!(first(&[expect, DECLARED]).0, 401);
    assert_eq!(first(&[expect, CHUNKED]).0, 401);
    assert_eq!(first(&[expect, ("authorization", "Bearer x"), DECLARED]).0, 401);
    assert_eq!(first(&[expect, keyed, ("content-length", "999999999")]).0, 413);
    let (status, mut connection) = first(&[expect, keyed, ("content-length", &length)]);
    assert_eq!(status, 100);
    connection.write_all(body.as_bytes()).unwrap();
    connection.reply("POST").unwrap().expect(200);
}

#[test]
fn what_was_refused_is_never_taken_for_a_request() {
    let service = Setup::painter().start();
    let hidden = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut body = hidden.repeat(4);
    body.extend(vec![b' '; 4096]);
    for headers in [vec![], vec![CHUNKED]] {
        let mut connection = service.connect();
        connection.send("POST", GENERATE, &headers, Some(&body)).unwrap();
        connection.reply("POST").unwrap().expect(401);
        assert!(rest(&mut connection).is_empty(), "one answer and no more");
    }
}

// Patience

#[test]
fn who_stops_sending_keeps_nobody_waiting_and_is_given_up() {
    let service = Setup::painter().start();
    let bearer = bearer(&service);
    let keyed = ("authorization", bearer.as_str());
    let mut heads: Vec<Connection> = (0..50).map(|_| service.connect()).collect();
    for (number, connection) in heads.iter_mut().enumerate() {
        let begun = b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ";
        connection.write_all(&begun[..number % begun.len()]).unwrap();
    }
    let mut small = service.connect();
    small.send("POST", JOBS, &[keyed, ("content-length", "100")], Some(b"{\"prompt\"")).unwrap();
    let mut large = service.connect();
    large.send("POST", JOBS, &[keyed, DECLARED], Some(b"{\"prompt\":\"x")).unwrap();
    for _ in 0..5 {
        assert_serves(&service);
    }
    // After 30 seconds they are told, and gone.
    for connection in [&mut small, &mut large] {
        let reply = connection.reply("POST").unwrap().expect(408);
        assert_eq!(reply.json()["error"]["code"], "request_timeout");
    }
    for mut connection in heads {
        let said = String::from_utf8(rest(&mut connection)).unwrap();
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    }
    assert_serves(&service);
}

#[test]
fn a_slow_sender_is_served_in_the_end() {
    let service = Setup::painter().start();
    let bearer = bearer(&service);
    let body = r#"{"prompt":"a kite","size":"auto"}"#;
    let length = body.len().to_string();
    let head = format!(
        "POST {GENERATE} HTTP/1.1\r\nhost: x\r\nauthorization: {bearer}\r\n\
         content-length: {length}\r\n\r\n"
    );
    let mut connection = service.connect();
    let whole = format!("{head}{body}");
    let sent = connection.send_slowly(whole.as_bytes(), 3, Duration::from_millis(2));
    assert_eq!(sent, whole.len());
    connection.reply("POST").unwrap().expect(200);
}

#[test]
fn at_most_so_many_are_connected_at_once() {
    let service = Setup::painter().set("MAX_CONNECTIONS", "3").start();
    let _ = service.default_key();
    let mut open: Vec<Connection> = (0..3)
        .map(|_| {
            let mut connection = service.connect();
            connection.send("GET", "/health", &[], None).unwrap();
            connection.reply("GET").unwrap().expect(200);
            connection
        })
        .collect();
    let mut waiting = service.connect();
    waiting.send("GET", "/health", &[("connection", "close")], None).unwrap();
    waiting.set_timeout(Some(Duration::from_millis(300))).unwrap();
    let early = waiting.reply("GET").unwrap_err();
    assert!(matches!(early.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{early}");
    // The others are served on, and the first that leaves makes room.
    open[0].send("GET", "/health", &[], None).unwrap();
    open[0].reply("GET").unwrap().expect(200);
    open.pop();
    waiting.set_timeout(Some(PATIENCE)).unwrap();
    waiting.reply("GET").unwrap().expect(200);
}

// Heads

#[test]
fn too_many_headers_and_too_large_heads() {
    let service = Setup::painter().start();
    let head = |count: usize| {
        let many: Vec<String> = (0..count).map(|number| format!("x-h{number}: v\r\n")).collect();
        format!("GET /health HTTP/1.1\r\nhost: x\r\n{}\r\n", many.concat())
    };
    let giant_path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(1 << 20));
    let giant_value = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
    for (what, head, expected) in [
        ("100 headers", head(100), vec![200]),
        ("10,000 headers", head(10_000), vec![431]),
        ("a header of 1 MiB", giant_value, vec![431]),
        ("a path of 1 MiB", giant_path, vec![414, 431]),
    ] {
        let mut connection = service.connect();
        let _ = connection.write_all(head.as_bytes());
        let status = connection.reply("GET").unwrap_or_else(|why| panic!("{what}: {why}")).status;
        assert!(expected.contains(&status), "{what}: {status}");
    }
    assert_serves(&service);
}

#[test]
fn garbage() {
    let service = Setup::painter().start();
    let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for bytes in [
        &b"\0\0\0\0\0\0\0\0\r\n\r\n"[..],
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\nhost: x\nbad header\n\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n folded: y\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx: a\0b\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 18446744073709551616\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1, 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        tls,
    ] {
        let mut connection = service.connect();
        connection.write_all(bytes).unwrap();
        connection.finish_sending().unwrap();
        let said = String::from_utf8_lossy(&rest(&mut connection)).into_owned();
        let status = said.get(..12).unwrap_or_default();
        let refused = said.is_empty() || status.starts_with("HTTP/1.1 4") || status.contains("505");
        assert!(refused, "{:?}: {said}", String::from_utf8_lossy(bytes));
    }
    assert_serves(&service);
}

#[test]
fn odd_but_right() {
    let service = Setup::painter().start();
    let say = |text: &str| {
        let mut connection = service.connect();
        connection.write_all(text.as_bytes()).unwrap();
        String::from_utf8(rest(&mut connection)).unwrap()
    };
    let body = r#"{"status":"ok"}"#;
    let old = say("GET /health HTTP/1.0\r\n\r\n");
    assert!(old.starts_with("HTTP/1.0 200") && old.ends_with(body), "{old}");
    let absolute =
        say("GET http://example.org/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(absolute.starts_with("HTTP/1.1 200") && absolute.ends_with(body), "{absolute}");
    for (target, method) in [("*", "OPTIONS"), ("example.org:443", "CONNECT"), ("//", "GET")] {
        let text = format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let said = say(&text);
        assert!(said.starts_with("HTTP/1.1 40"), "{method} {target}: {said}");
    }
    assert_serves(&service);
}

#[test]
fn requests_in_one_go_are_answered_in_order() {
    let service = Setup::painter().start();
    let bearer = bearer(&service);
    let body = json!({"prompt": "a kite"}).to_string();
    let post = format!(
        "POST {GENERATE} HTTP/1.1\r\nhost: x\r\nauthorization: {bearer}\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let get = "GET /v1/none HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut connection = service.connect();
    connection.write_all(format!("{post}{get}{post}{get}").as_bytes()).unwrap();
    for status in [200, 404, 200, 404] {
        connection.reply("GET").unwrap().expect(status);
    }
}

#[test]
fn many_refused_callers_leave_nothing_open() {
    let service = Setup::painter().start();
    let open = || std::fs::read_dir(format!("/proc/{}/fd", service.pid())).unwrap().count();
    assert_serves(&service);
    let before = open();
    for _ in 0..100 {
        let mut connection = service.connect();
        let _ = connection.send("POST", JOBS, &[DECLARED], Some(b"{"));
        drop(connection);
    }
    wait_for_within(PATIENCE, "the end of the connections", || {
        (open() <= before + 2).then_some(())
    });
    wait_for("a quiet service", || {
        assert_serves(&service);
        Some(())
    });
}
