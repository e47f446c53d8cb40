//! Promise: connections of strangers, however many, cost nobody a picture that was paid for.
#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use support::{Setup, fake, http::Endpoint, wait_for, write_program};

#[test]
fn idle_connections_leave_enough_for_the_worker() {
    const FILES: usize = 340;
    let setup = Setup::fake().set("MAX_CONNECTIONS", "1024");
    let script = setup.path("few-files");
    let binary = env!("CARGO_BIN_EXE_codex-image-service");
    write_program(&script, &format!("#!/bin/sh\nulimit -n {FILES}\nexec {binary} \"$@\"\n"));
    let service = setup.program(script).start();
    service.wait_for_log("the limit of open files allows");
    let key = service.default_key().to_owned();
    let mut caller = service.connect();

    // More than there are descriptors. The service accepts those that it has room for, the
    // kernel keeps some waiting, and the rest gives up.
    let Endpoint::Tcp(address) = service.endpoint() else { panic!("a TCP service") };
    let knock = || TcpStream::connect_timeout(&address, Duration::from_millis(20)).ok();
    let strangers: Vec<_> = (0..FILES + 40).filter_map(|_| knock()).collect();
    assert!(strangers.len() > 100, "{}", strangers.len());
    let at_once = Instant::now();
    wait_for("the strangers to be let in", || {
        (at_once.elapsed() > Duration::from_millis(500)).then_some(())
    });

    // The caller was there before.
    let bearer = format!("Bearer {key}");
    let body = br#"{"prompt":"a kite [fake job=kite]"}"#;
    caller.send("POST", "/v1/images/jobs", &[("authorization", &bearer)], Some(body)).unwrap();
    let reply = caller.reply("POST").unwrap().expect(202);
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    wait_for("the end of the job", || {
        service.log().lines().find(|line| line.contains("job ended")).map(str::to_owned)
    });
    drop(strangers);
    assert_eq!(service.wait_job(&id)["status"], "succeeded", "{}", service.log());
    assert_eq!(fake::payments_for(&service.codex_home(), "kite"), 1);
}
