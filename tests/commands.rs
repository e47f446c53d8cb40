//! Promise: every command explains itself, exits with a code that means something, and works with
//! what surrounds a service: a terminal, a Unix socket, systemd.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _},
            net::{UnixDatagram, UnixListener},
        },
    },
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;
use support::{Endpoint, Service, Setup, admin::form, fake, process, temp_dir, wait_for};

const BINARY: &str = env!("CARGO_BIN_EXE_codex-image-service");

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn status(endpoint: &Endpoint, path: &str) -> Option<u16> {
    endpoint.request("GET", path, &[], None).ok().map(|reply| reply.status)
}

fn wait_for_health(endpoint: &Endpoint) {
    wait_for("/health", || (status(endpoint, "/health") == Some(200)).then_some(()));
}

/// A child that ends with this value.
struct Running(Child);

impl Running {
    fn stop(mut self, signal: Signal) -> ExitStatus {
        process::signal(self.0.id().cast_signed(), signal);
        self.ended()
    }

    fn ended(&mut self) -> ExitStatus {
        wait_for("its end", || self.0.try_wait().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_command_explains_itself() {
    let service = Setup::painter().stopped();
    let commands: [&[&str]; 13] = [
        &[],
        &["serve"],
        &["demo"],
        &["keys"],
        &["admin"],
        &["admin", "reset-password"],
        &["cleanup"],
        &["backup"],
        &["restore"],
        &["check-config"],
        &["healthcheck"],
        &["completions"],
        &["man"],
    ];
    for command in commands {
        let output = service.run(&[command, &["--help"]].concat());
        let help = out(&output);
        assert!(output.status.success(), "{command:?}");
        for word in ["Example", "codex-image-service ", "Exit codes: 0 ", "1 ", "2 wrong usage"] {
            assert!(help.contains(word), "{command:?} does not say {word:?}: {help}");
        }
        assert!(words(&output).is_empty(), "{command:?}: {}", words(&output));
    }
    for command in ["create", "list", "enable", "disable", "delete"] {
        let output = service.run(&["keys", command, "--help"]);
        assert!(output.status.success() && out(&output).contains("Usage: "), "{command}");
    }
    let version = service.run(&["--version"]);
    assert_eq!(out(&version), format!("codex-image-service {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_2() {
    let service = Setup::painter().stopped();
    for args in [
        &["paint"][..],
        &["--loud"],
        &["serve", "--role", "king"],
        &["serve", "now"],
        &["demo", "--listen", "somewhere"],
        &["demo", "--delay", "soon"],
        &["demo", "--delay", "601"],
        &["demo", "--delay", "NaN"],
        &["cleanup", "--force"],
        &["backup"],
        &["backup", "--keep", "0", "."],
        &["healthcheck", "a", "b"],
        &["check-config", "--yaml"],
        &["completions"],
        &["completions", "cmd"],
    ] {
        let output = service.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", words(&output));
        assert!(words(&output).contains("--help"), "{args:?}: {}", words(&output));
        assert!(out(&output).is_empty());
    }
}

#[test]
fn picture_urls_that_lead_nowhere_are_warned_of() {
    let setup = Setup::painter();
    let listen = setup.environment().find(|(key, _)| *key == "LISTEN").unwrap().1.clone();
    let everywhere = listen.to_str().unwrap().replace("127.0.0.1", "0.0.0.0");
    let mut service = setup.set("LISTEN", everywhere).start();
    let said = "but PUBLIC_BASE_URL is not set: picture URLs begin with http://localhost:8000";
    assert!(service.log().contains(said), "{}", service.log());
    service.term();
    let before = service.log().len();
    service.set("PUBLIC_BASE_URL", "http://nas:8000");
    service.start();
    assert!(!service.log()[before..].contains("PUBLIC_BASE_URL"));
}

#[test]
fn without_a_command_it_serves() {
    let service = Setup::painter().stopped();
    let running = Running(service.command(&[]).stderr(Stdio::null()).spawn().unwrap());
    wait_for_health(&service.endpoint());
    assert_eq!(service.run(&["healthcheck"]).status.code(), Some(0));
    assert_eq!(running.stop(Signal::INT).code(), Some(0));
}

#[test]
fn a_wrong_setting_stops_every_command() {
    let service = Setup::painter().set("CODEX_WORKER_CONCURRENCY", "many").stopped();
    for args in [
        &["serve"][..],
        &["keys", "list"],
        &["cleanup"],
        &["backup", "."],
        &["check-config"],
        &["healthcheck"],
    ] {
        let output = service.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let said = words(&output);
        let expected = ["CODEX_WORKER_CONCURRENCY", "many", "1 to 64"];
        assert!(expected.iter().all(|word| said.contains(word)), "{args:?}: {said}");
    }
    assert!(!service.state_dir().join("codex-image-service.db").exists());
}

#[test]
fn check_config_tells_machines_as_well() {
    let service = Setup::painter().set("ADMIN_PASSWORD", "correct horse battery").stopped();
    let output = service.run(&["check-config", "--json"]);
    assert!(output.status.success());
    assert!(!out(&output).contains("horse"));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let settings = told["settings"].as_array().unwrap();
    let state = settings.iter().find(|setting| setting["name"] == "STATE_DIR").unwrap();
    assert_eq!(state["value"], service.state_dir().to_str().unwrap());
    assert!(state["origin"].as_str().unwrap().contains("environment"), "{state}");
    // It only looks.
    assert_eq!(fs::read_dir(service.state_dir()).unwrap().count(), 0);
}

// For packagers

/// Gives `input` to a program that is to accept it; what it says. None where there is none.
fn accepted_by(program: &str, args: &[&str], input: &[u8]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.env("MANWIDTH", "80").spawn() else {
        support::cannot_run(&format!("there is no {program}"));
        return None;
    };
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && words(&output).is_empty(), "{program}: {}", words(&output));
    Some(out(&output))
}

#[test]
fn completions_are_what_their_shells_take() {
    // Without settings, and whatever they say.
    let service = Setup::new().set("CODEX_ENGINE", "wrong").unset("HOME").stopped();
    for (shell, check) in [("bash", Some(["-n"])), ("zsh", None), ("fish", None)] {
        let output = service.run(&["completions", shell]);
        assert!(output.status.success(), "{}", words(&output));
        for word in ["codex-image-service", "healthcheck", "backup", "keep", "front"] {
            assert!(out(&output).contains(word), "{shell} does not know {word}");
        }
        if let Some(args) = check {
            accepted_by(shell, &args, &output.stdout);
        }
    }
    // As bash itself would ask for them.
    let script = "source /dev/stdin
        COMP_WORDS=(codex-image-service logins a); COMP_CWORD=2
        [[ $(complete -p codex-image-service) =~ -F\\ ([^ ]+) ]]
        ${BASH_REMATCH[1]} codex-image-service a logins; echo \"${COMPREPLY[*]}\"";
    let output = service.run(&["completions", "bash"]);
    if let Some(found) = accepted_by("bash", &["-c", script], &output.stdout) {
        assert_eq!(found, "add audit\n");
    }
}

#[test]
fn the_manual_has_every_command() {
    let service = Setup::new().set("CODEX_ENGINE", "wrong").unset("HOME").stopped();
    let output = service.run(&["man"]);
    assert!(output.status.success(), "{}", words(&output));
    if let Some(page) = accepted_by("man", &["--warnings", "-l", "-"], &output.stdout) {
        for line in ["NAME", "SERVE", "KEYS CREATE", "LOGINS ADD", "BACKUP", "HEALTHCHECK", "MAN"] {
            assert!(page.lines().any(|said| said == line), "no section {line}: {page}");
        }
        assert!(page.contains("--keep <N>") && page.contains("Exit codes: 0 "), "{page}");
        assert_eq!(page.matches("--config <FILE>").count(), 1, "{page}");
    }
    let folder = service.path("man1");
    let output = service.run(&["man", folder.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(words(&output).contains("man1/codex-image-service.1: No such file"));
    fs::create_dir(&folder).unwrap();
    assert!(service.run(&["man", folder.to_str().unwrap()]).status.success());
    let pages = support::lab::names(&folder);
    for name in ["codex-image-service.1", "codex-image-service-logins-add.1"] {
        assert!(pages.iter().any(|page| page == name), "{pages:?}");
    }
    for name in pages {
        accepted_by("man", &["--warnings", "-l", "-"], &fs::read(folder.join(name)).unwrap());
    }
}

// Demo

struct Demo {
    running: Running,
    temp: tempfile::TempDir,
    lines: Vec<String>,
}

impl Demo {
    fn command(temp: &Path, listen: &str) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(["demo", "--delay", "0", "--listen", listen])
            .env_clear()
            .env("TMPDIR", temp)
            .current_dir(temp)
            .stdin(Stdio::null());
        command
    }

    /// Started, its welcome read.
    fn start() -> Self {
        let temp = temp_dir();
        let mut command = Self::command(temp.path(), "127.0.0.1:0");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut lines = Vec::new();
        for line in stdout.lines() {
            lines.push(line.unwrap());
            if lines.last().unwrap().contains("Ctrl-C") {
                break;
            }
        }
        Self { running: Running(child), temp, lines }
    }

    fn after(&self, word: &str) -> &str {
        self.lines.iter().find_map(|line| line.strip_prefix(word)).unwrap().trim()
    }
}

#[test]
fn the_demos_line_works_when_pasted() {
    let demo = Demo::start();
    let key = demo.after("Key:");
    assert!(key.starts_with("cimg_") && !key.contains(' '), "{:?}", demo.lines);
    let line = demo.after("Try:");
    assert!(line.starts_with("curl ") && line.contains(key), "{line}");
    if !Command::new("curl").arg("--version").output().is_ok_and(|it| it.status.success()) {
        return support::cannot_run("curl is not installed");
    }
    let output = Command::new("sh").arg("-c").arg(line).output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["status"], "succeeded", "{answer}");
    let url = answer["images"][0]["url"].as_str().unwrap();
    let picture = Command::new("curl").args(["-sf", url]).output().unwrap();
    assert!(picture.status.success(), "{url}");
    assert_eq!(image::guess_format(&picture.stdout).unwrap(), image::ImageFormat::Png);
    image::load_from_memory(&picture.stdout).unwrap();
    assert_eq!(demo.running.stop(Signal::TERM).code(), Some(0));
}

#[test]
fn the_demo_tells_the_way_to_its_pages() {
    let demo = Demo::start();
    let said = demo.after("Pages:");
    let (url, rest) = said.split_once("/admin  user name ").unwrap();
    let (user, password) = rest.split_once(", password ").unwrap();
    let endpoint = Endpoint::Tcp(url.strip_prefix("http://").unwrap().parse().unwrap());
    let body = form(&[("username", user), ("password", password)]);
    let headers = [("content-type", "application/x-www-form-urlencoded"), ("origin", url)];
    let reply = endpoint.request("POST", "/admin/login", &headers, Some(body.as_bytes())).unwrap();
    assert_eq!(reply.expect(303).header("location"), Some("/admin"));
}

#[test]
fn the_demo_leaves_nothing_behind() {
    for signal in [Signal::INT, Signal::TERM] {
        let Demo { running, temp, .. } = Demo::start();
        let entries = || fs::read_dir(temp.path()).unwrap().map(|entry| entry.unwrap().path());
        let [state] = entries().collect::<Vec<_>>().try_into().unwrap();
        let mode = fs::metadata(&state).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "for nobody else");
        assert_eq!(running.stop(signal).code(), Some(0));
        assert_eq!(entries().next(), None);
    }
}

#[test]
fn the_demo_says_when_the_port_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let temp = temp_dir();
    let output = Demo::command(temp.path(), &address).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = words(&output);
    assert!(said.contains(&address) && said.contains("Address already in use"), "{said}");
    assert!(!said.contains("panicked") && out(&output).is_empty());
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
}

// Where it listens

#[test]
fn a_taken_port_is_named() {
    let first = Setup::painter().start();
    let Endpoint::Tcp(address) = first.endpoint() else { panic!("TCP") };
    let second = Setup::painter().set("LISTEN", address.to_string()).stopped();
    let output = second.run(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    let said = words(&output);
    let expected = ["LISTEN", &address.to_string(), "Address already in use"];
    assert!(expected.iter().all(|word| said.contains(word)), "{said}");
    assert_eq!(first.get("/health").status, 200);
}

#[test]
fn healthcheck_tells_the_living_from_the_dead() {
    let mut service = Setup::painter().start();
    assert_eq!(service.run(&["healthcheck"]).status.code(), Some(0));
    let ready = service.url("/ready");
    assert_eq!(service.run(&["healthcheck", &ready]).status.code(), Some(0));
    service.term();
    let output = service.run(&["healthcheck"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(words(&output).contains("refused"), "{}", words(&output));
}

#[test]
fn a_unix_socket_is_for_its_user_and_group() {
    let folder = temp_dir();
    let path = folder.path().join("http.sock");
    let url = format!("unix:{}", path.display());
    let mut service = Setup::painter().set("LISTEN", &url).stopped();
    service.start();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o007, 0, "not for others");
    service.generate("a kite").expect(200);
    assert_eq!(service.run(&["healthcheck"]).status.code(), Some(0));
    assert_eq!(service.run(&["healthcheck", &url]).status.code(), Some(0));

    // One that a dead process left is replaced.
    service.kill9();
    assert!(path.exists());
    assert_eq!(service.run(&["healthcheck"]).status.code(), Some(1));
    service.start();

    // One where somebody answers stays.
    let second = Setup::painter().set("LISTEN", &url).stopped();
    let output = second.run(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    let said = words(&output);
    assert!(said.contains(path.to_str().unwrap()) && said.contains("in use"), "{said}");
    assert_eq!(service.get("/health").status, 200);
    service.term();

    // What is no socket stays as well.
    fs::remove_file(&path).ok();
    fs::write(&path, "a letter").unwrap();
    let output = service.run(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(words(&output).contains(path.to_str().unwrap()), "{}", words(&output));
    assert_eq!(fs::read_to_string(&path).unwrap(), "a letter");
}

#[test]
fn a_unix_socket_gets_the_permissions_and_the_owner_of_the_settings() {
    let folder = temp_dir();
    let path = folder.path().join("http.sock");
    let mut service = Setup::painter().set("LISTEN", format!("unix:{}", path.display())).stopped();
    let start = |service: &mut Service, mode: &str, owner: &str| {
        service.set("LISTEN_MODE", mode);
        service.set("LISTEN_OWNER", owner);
        service.start();
        // Whoever could connect has met them: it does not listen before.
        let socket = fs::metadata(&path).unwrap();
        let found = (socket.permissions().mode() & 0o7777, socket.uid(), socket.gid());
        service.kill9();
        found
    };
    let me = fs::metadata(folder.path()).unwrap();
    let (user, group) = (me.uid(), me.gid());
    // The umask has no say.
    assert_eq!(start(&mut service, "0666", ""), (0o666, user, group));
    // One that a dead process left with other rights does not matter.
    assert_eq!(start(&mut service, "0600", &format!("{user}:{group}")), (0o600, user, group));
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let my_name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == user.to_string()).then(|| name.to_owned())
    });
    if let Some(name) = my_name {
        assert_eq!(start(&mut service, "0640", &name), (0o640, user, group));
    }
    if rustix::process::geteuid().is_root() {
        assert_eq!(start(&mut service, "0660", "61001:61000"), (0o660, 61_001, 61_000));
        assert_eq!(start(&mut service, "0660", ":61000"), (0o660, user, 61_000));
    }
    for (owner, words) in
        [("nobody-of-this-name", "user nobody-of-this-name"), (":no-such-group", "group no-such-")]
    {
        fs::remove_file(&path).ok();
        service.set("LISTEN_OWNER", owner);
        let output = service.run(&["serve"]);
        assert_eq!(output.status.code(), Some(1));
        let said = self::words(&output);
        assert!(said.contains("LISTEN_OWNER") && said.contains(words), "{said}");
        assert!(!path.exists(), "nothing is left");
    }
}

// systemd

/// `serve` as systemd starts it: sockets from descriptor 3 on, `LISTEN_PID` its own.
fn with_sockets(service: &Service, sockets: Vec<OwnedFd>) -> Command {
    // A shell moves what Command can pass to where systemd puts it.
    let moves = ["3<&0 0</dev/null", "4<&0 3<&1 0</dev/null 1>&2"][sockets.len() - 1];
    let script =
        format!("export LISTEN_PID=$$ LISTEN_FDS={}; exec \"$0\" serve {moves}", sockets.len());
    let mut command = Command::new("sh");
    let settings = service.command(&[]);
    command.env_clear().envs(settings.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command.current_dir(service.path("cwd")).arg("-c").arg(script).arg(BINARY);
    let mut sockets = sockets.into_iter().rev();
    command.stdin(sockets.next().unwrap());
    if let Some(socket) = sockets.next() {
        command.stdout(socket);
    }
    command
}

#[test]
fn sockets_are_taken_from_systemd() {
    let service = Setup::painter().stopped();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let short = temp_dir();
    let path = short.path().join("s");
    let unix = UnixListener::bind(&path).unwrap();
    // A caller that came before the service did.
    let early = TcpStream::connect(address).unwrap();

    let mut command = with_sockets(&service, vec![tcp.into(), unix.into()]);
    let log = fs::File::create(service.path("service.log")).unwrap();
    let running = Running(command.stderr(log).spawn().unwrap());
    drop(command);
    for endpoint in [Endpoint::Tcp(address), Endpoint::Unix(path.clone())] {
        wait_for_health(&endpoint);
    }
    drop(early);
    let Endpoint::Tcp(unused) = service.endpoint() else { panic!("TCP") };
    assert!(TcpStream::connect(unused).is_err(), "LISTEN is ignored");
    // Log lines have a thread of their own.
    wait_for("both addresses in the log", || {
        let log = service.log();
        let both = log.contains(&address.to_string()) && log.contains(path.to_str().unwrap());
        both.then_some(())
    });
    assert_eq!(running.stop(Signal::TERM).code(), Some(0));
    wait_for("nobody to listen", || TcpStream::connect(address).err());
    assert!(path.exists(), "the socket is systemd's");
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let service = Setup::painter().stopped();
    let mut command = service.command(&["serve"]);
    command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    let running = Running(command.stderr(Stdio::null()).spawn().unwrap());
    wait_for_health(&service.endpoint());
    assert_eq!(running.stop(Signal::TERM).code(), Some(0));
}

#[test]
fn sockets_that_do_not_listen_are_refused() {
    let service = Setup::painter().stopped();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let datagram = UnixDatagram::unbound().unwrap();
    let file = fs::File::open("/dev/null").unwrap();
    for (socket, why) in [
        (OwnedFd::from(connection), "Accept=no"),
        (datagram.into(), "doorbell"),
        (file.into(), "ListenStream="),
    ] {
        let output = with_sockets(&service, vec![socket]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", words(&output));
        assert!(words(&output).contains(why), "{}", words(&output));
        assert!(words(&output).contains("passed as 3"), "{}", words(&output));
    }
}

#[test]
fn systemd_is_told() {
    let mut service = Setup::fake().stopped();
    let short = temp_dir();
    let path = short.path().join("n");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(support::PATIENCE)).unwrap();
    // What is told of how it stands comes in between.
    let told = || loop {
        let mut message = [0; 4096];
        let length = manager.recv(&mut message).unwrap();
        let message = String::from_utf8(message[..length].to_vec()).unwrap();
        if !message.starts_with("STATUS=") {
            return message;
        }
    };
    service.set("NOTIFY_SOCKET", &path);
    service.spawn();
    let ready = told();
    assert!(ready.lines().any(|line| line == "READY=1"), "{ready}");
    // At once, not after a while: it serves when it says so.
    assert_eq!(status(&service.endpoint(), "/health"), Some(200));
    // The stop is told when it begins, not when it has ended.
    let job = service.submit("a kite [fake gate]");
    wait_for("the run", || (service.job(&job)["status"] == "running").then_some(()));
    process::signal(service.pid(), Signal::TERM);
    let stopping = told();
    assert!(stopping.lines().any(|line| line == "STOPPING=1"), "{stopping}");
    assert_eq!(service.job(&job)["status"], "running");
    fake::open_gate(&service.codex_home());
    assert!(service.wait_end(support::PATIENCE).success());
    // A manager that is gone stops nobody.
    drop(manager);
    service.start();
    service.wait_for_log("the service manager cannot be told");
    assert!(service.term().success());
}

#[test]
fn a_failed_start_is_not_ready() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = taken.local_addr().unwrap();
    let service = Setup::painter().set("LISTEN", address.to_string()).stopped();
    let short = temp_dir();
    let path = short.path().join("n");
    let manager = UnixDatagram::bind(&path).unwrap();
    let mut command = service.command(&["serve"]);
    let output = command.env("NOTIFY_SOCKET", &path).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    manager.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    // Why, for `systemctl status`, and nothing else.
    let mut said = [0; 4096];
    let length = manager.recv(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said[..length]);
    assert!(said.starts_with("STATUS=failed: ") && said.contains(&address.to_string()), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(manager.recv(&mut [0; 64]).is_err(), "nothing more is said");
}
