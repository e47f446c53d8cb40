//! Promise: where systemd holds the sockets, front and worker are there when there is something to
//! do and gone when there is not, and nobody who asks for something notices which of the two it is.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::MetadataExt as _,
            net::{UnixDatagram, UnixListener},
        },
    },
};

use support::{Endpoint, Service, Setup, Unit, fake, manager::open_sockets, temp_dir, wait_for};

const WORKER: &str = "--role worker";

/// The worker's bell, where the front of this service rings.
fn bell(service: &Service) -> OwnedFd {
    let run = service.state_dir().join("run");
    fs::create_dir_all(&run).unwrap();
    let path = run.join("worker.bell");
    let _ = fs::remove_file(&path);
    UnixDatagram::bind(path).unwrap().into()
}

fn http(service: &Service) -> OwnedFd {
    let Endpoint::Tcp(address) = service.endpoint() else { panic!("TCP") };
    TcpListener::bind(address).unwrap().into()
}

fn inode(socket: impl AsFd) -> u64 {
    rustix::fs::fstat(socket).unwrap().st_ino
}

// Sockets in

#[test]
fn a_socket_of_the_wrong_kind_is_named() {
    let folder = temp_dir();
    let datagram =
        |name: &str| OwnedFd::from(UnixDatagram::bind(folder.path().join(name)).unwrap());
    let stream = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let local = |name: &str| OwnedFd::from(UnixListener::bind(folder.path().join(name)).unwrap());
    let udp = || OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    let file = || OwnedFd::from(fs::File::open("/dev/null").unwrap());
    let service = Setup::painter().stopped();
    let refused = |number: usize, role: &str, sockets, words: &[&str]| {
        let unit = Unit::hold(&service, &format!("unit{number}"), role, sockets);
        unit.start();
        unit.wait_for_end(1);
        assert_eq!(unit.ends()[0].code(), Some(1), "{}", unit.log());
        let log = unit.log();
        assert!(words.iter().all(|words| log.contains(words)), "{words:?} in {log}");
    };
    let front = "--role front";
    let datagram_first = vec![(datagram("a"), "worker.bell"), (stream(), "http")];
    refused(1, front, datagram_first, &["passed as 3 (worker.bell)", "doorbell"]);
    let datagram_last = vec![(stream(), "http"), (datagram("b"), "worker.bell")];
    refused(2, front, datagram_last, &["passed as 4 (worker.bell)", "doorbell"]);
    refused(3, "", vec![(datagram("c"), "bell")], &["passed as 3 (bell)", "doorbell"]);
    let stream_last = vec![(datagram("d"), "worker.bell"), (local("e"), "admin")];
    refused(4, WORKER, stream_last, &["passed as 4 (admin)", "ListenDatagram="]);
    let two = vec![(datagram("f"), "one"), (datagram("g"), "two")];
    refused(5, WORKER, two, &["passed as 4 (two)", "one doorbell"]);
    refused(6, WORKER, vec![(udp(), "bell")], &["passed as 3 (bell)", "ListenDatagram="]);
    refused(7, front, vec![(stream(), ""), (file(), "x")], &["passed as 4 (x)", "ListenStream="]);
    refused(8, front, vec![(file(), "")], &["passed as 3 (unknown)", "ListenStream="]);
}

#[test]
fn sockets_without_an_owner_are_left_alone() {
    let service = Setup::painter().stopped();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = service.command(&["serve"]);
    // On standard input, where a first descriptor of 0 would find it.
    command.env("LISTEN_FDS", "1").env("LISTEN_FDS_FIRST_FD", "0");
    let mut child = command.stdin(OwnedFd::from(other)).spawn().unwrap();
    // It listens at its own address.
    wait_for("/health", || service.endpoint().request("GET", "/health", &[], None).ok());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_worker_hears_the_bell_that_was_passed() {
    let front = Setup::fake().args(&["--role", "front"]).start();
    let socket = bell(&front);
    let path = front.state_dir().join("run/worker.bell");
    let before = fs::symlink_metadata(&path).unwrap().ino();
    let worker = Unit::watch(&front, "worker", WORKER, vec![(socket, "worker.bell")]);
    assert_eq!(worker.starts(), 0, "nothing is to be done");
    // The bell starts it, and wakes it from then on.
    for _ in 0..3 {
        front.generate("a kite").expect(200);
    }
    assert_eq!(worker.starts(), 1);
    assert!(worker.term().success());
    front.generate("a kite").expect(200);
    assert_eq!(worker.starts(), 2);
    assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), before, "the socket is systemd's");
}

#[test]
fn a_bell_that_nobody_rings_is_said() {
    let service = Setup::fake().stopped();
    let folder = temp_dir();
    let path = folder.path().join("other.bell");
    let socket = UnixDatagram::bind(&path).unwrap();
    let worker = Unit::hold(&service, "worker", WORKER, vec![(socket.into(), "worker.bell")]);
    worker.start();
    wait_for("the warning", || {
        worker.log().contains("which the front rings").then_some(worker.log())
    });
    assert!(worker.log().contains("other.bell"), "{}", worker.log());
    assert!(worker.term().success());
}

#[test]
fn codex_inherits_no_socket_that_was_passed() {
    let service = Setup::fake().stopped();
    let folder = temp_dir();
    let unix = OwnedFd::from(UnixListener::bind(folder.path().join("http")).unwrap());
    let bells = bell(&service);
    let tcp = http(&service);
    let passed = [inode(&unix), inode(&bells), inode(&tcp)];
    let front =
        Unit::watch(&service, "front", "--role front", vec![(tcp, "http"), (unix, "local")]);
    let worker = Unit::watch(&service, "worker", WORKER, vec![(bells, "worker.bell")]);
    let job = service.submit("a kite [fake gate]");
    fake::wait_for_step(&service.codex_home(), "thread", 1);
    let serving = [front.pid().unwrap(), worker.pid().unwrap()];
    let mut held: Vec<_> = serving.iter().flat_map(|pid| open_sockets(*pid)).collect();
    held.retain(|inode| passed.contains(inode));
    held.sort_unstable();
    held.dedup();
    assert_eq!(held.len(), 3, "the two have them");
    let codexes = service.orphans().into_iter().filter(|pid| !serving.contains(pid));
    let codexes: Vec<_> = codexes.collect();
    assert!(!codexes.is_empty());
    for pid in codexes {
        let sockets = open_sockets(pid);
        assert!(passed.iter().all(|inode| !sockets.contains(inode)), "{sockets:?}");
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        assert!(!environment.contains("LISTEN_"), "{environment}");
    }
    fake::open_gate(&service.codex_home());
    assert_eq!(service.wait_job(&job)["status"], "succeeded");
}
