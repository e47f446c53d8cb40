//! `healthcheck` tells by its exit code whether a service answers, and never waits longer than a
//! container's supervisor would.

#![allow(clippy::unwrap_used)] // clippy takes only #[test] functions for tests

use std::{
    io::{Read, Write},
    net::TcpListener,
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

fn healthcheck(dir: &Path, listen: &str, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_codex-image-service"))
        .current_dir(dir)
        .env_clear()
        .envs([("HOME", "/home/nobody"), ("LISTEN", listen)])
        .arg("healthcheck")
        .args(args)
        .output()
        .unwrap()
}

/// Reads a request and gives an answer, once; returns the request.
fn answer(mut stream: impl Read + Write, status: &str) -> String {
    let mut request = [0; 1024];
    let length = stream.read(&mut request).unwrap();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
    String::from_utf8_lossy(&request[..length]).into_owned()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

#[test]
fn a_service_is_found_where_the_settings_say() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || answer(listener.accept().unwrap().0, "200 OK"));
    let output = healthcheck(dir.path(), &format!("0.0.0.0:{port}"), &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(said(&output), format!("alive: http://127.0.0.1:{port}/health answers 200\n"));
    let request = server.join().unwrap();
    assert!(request.starts_with("GET /health HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");

    let socket = dir.path().join("http.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = thread::spawn(move || answer(listener.accept().unwrap().0, "200 OK"));
    let output = healthcheck(dir.path(), "unix:http.sock", &[]);
    assert!(output.status.success(), "{}", said(&output));
    server.join().unwrap();
}

#[test]
fn a_service_that_is_not_well_fails_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/ready", listener.local_addr().unwrap());
    let server = thread::spawn(move || answer(listener.accept().unwrap().0, "503 No"));
    let output = healthcheck(dir.path(), "", &[&url]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(said(&output), format!("not well: {url} answers 503\n"));
    assert!(server.join().unwrap().starts_with("GET /ready "));

    // Now nobody listens there.
    let output = healthcheck(dir.path(), "", &[&url]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("refused"), "{}", said(&output));

    let output = healthcheck(dir.path(), "", &["https://example"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("neither http://HOST"), "{}", said(&output));
}

#[test]
fn a_service_that_is_silent_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let start = Instant::now();
    let output = healthcheck(dir.path(), "", &[&url]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("no answer in 5s"), "{}", said(&output));
    assert!(start.elapsed() < Duration::from_mins(1));
    drop(listener);
}
