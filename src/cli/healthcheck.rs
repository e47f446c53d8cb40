//! `healthcheck`: asks a running service whether it is alive, with nothing but std, so that a
//! container needs no curl.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc,
    thread,
    time::Duration,
};

use axum::http::Uri;

use crate::config::{Listen, reachable};

/// For all of it: name, connection, answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Enough for any status line.
const LONGEST_STATUS_LINE: u64 = 1024;

/// Ask a running service whether it is alive (GET /health)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 alive, 1 not (a sentence says why), 2 wrong usage.

Examples: codex-image-service healthcheck
          codex-image-service healthcheck http://127.0.0.1:8000/ready
          codex-image-service healthcheck unix:/run/codex-image-service/http.sock")]
pub struct Args {
    /// `http://HOST[:PORT][/PATH]` or `unix:/PATH`; by default where the settings say that the
    /// service listens
    url: Option<String>,
}

/// What to ask, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    at: At,
    path: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    /// Host and port as they are dialled and as the `Host` header has them.
    Tcp(String),
    Unix(PathBuf),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.at {
            At::Tcp(host) => write!(f, "http://{host}{}", self.path),
            At::Unix(socket) => write!(f, "{} at unix:{}", self.path, socket.display()),
        }
    }
}

/// Asks, and says what came back.
#[must_use]
pub fn run(args: Args, config_file: Option<PathBuf>) -> ExitCode {
    let outcome = target(args.url, config_file).and_then(|target| {
        let answer = ask_in_time(target.clone());
        match answer {
            Ok(200) => Ok(format!("alive: {target} answers 200")),
            Ok(status) => Err(format!("not well: {target} answers {status}")),
            Err(error) => Err(format!("not well: {target}: {error}")),
        }
    });
    let (written, code) = match outcome {
        Ok(sentence) => (writeln!(io::stdout(), "{sentence}"), ExitCode::SUCCESS),
        Err(sentence) => (writeln!(io::stderr(), "{sentence}"), ExitCode::FAILURE),
    };
    // The exit code is the answer; whether anybody reads the sentence does not matter.
    drop(written);
    code
}

fn target(url: Option<String>, config_file: Option<PathBuf>) -> Result<Target, String> {
    if let Some(url) = url {
        return parse(&url)
            .ok_or_else(|| format!("{url:?} is neither http://HOST[:PORT][/PATH] nor unix:/PATH"));
    }
    let listen = super::load_config(config_file).map_err(|error| error.to_string())?.listen;
    from_listen(listen).ok_or_else(|| "LISTEN has port 0; give the URL to ask".to_owned())
}

fn from_listen(listen: Listen) -> Option<Target> {
    let at = match listen {
        Listen::Tcp(address) if address.port() == 0 => return None,
        Listen::Tcp(address) => At::Tcp(reachable(address).to_string()),
        Listen::Unix(path) => At::Unix(path),
    };
    Some(Target { at, path: "/health".to_owned() })
}

fn parse(url: &str) -> Option<Target> {
    if let Some(socket) = url.strip_prefix("unix:") {
        let at = At::Unix(Some(PathBuf::from(socket)).filter(|path| path.is_absolute())?);
        return Some(Target { at, path: "/health".to_owned() });
    }
    let uri: Uri = url.parse().ok().filter(|uri: &Uri| uri.scheme_str() == Some("http"))?;
    let host = uri.host().filter(|host| !host.is_empty())?;
    let at = At::Tcp(format!("{host}:{}", uri.port_u16().unwrap_or(80)));
    let path = match uri.path_and_query().map_or("/", |path| path.as_str()) {
        "/" => "/health",
        path => path,
    };
    Some(Target { at, path: path.to_owned() })
}

/// The answer's status. A thread does the asking: neither looking up a name nor connecting to a
/// Unix socket whose queue is full has a deadline of its own in std.
fn ask_in_time(target: Target) -> io::Result<u16> {
    let (tell, told) = mpsc::channel();
    thread::Builder::new().spawn(move || tell.send(ask(&target)))?;
    told.recv_timeout(PATIENCE)
        .unwrap_or_else(|_| Err(io::Error::other(format!("no answer in {PATIENCE:?}"))))
}

fn ask(target: &Target) -> io::Result<u16> {
    match &target.at {
        At::Tcp(host) => exchange(connect(host)?, host, &target.path),
        At::Unix(socket) => exchange(dial(socket)?, "localhost", &target.path),
    }
}

fn connect(host: &str) -> io::Result<TcpStream> {
    // An address in brackets is one for the parser, a name for the resolver.
    host.parse::<SocketAddr>().map_or_else(|_| TcpStream::connect(host), TcpStream::connect)
}

fn dial(socket: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(socket)
}

fn exchange(mut stream: impl Read + Write, host: &str, path: &str) -> io::Result<u16> {
    // In one write: to a peer that answers before it has read everything, a second may fail.
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: codex-image-service-healthcheck\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    let mut stream = io::BufReader::new(stream).take(LONGEST_STATUS_LINE);
    io::BufRead::read_until(&mut stream, b'\n', &mut head)?;
    status(&head).ok_or_else(|| io::Error::other("what answers does not speak HTTP"))
}

/// The number in `HTTP/1.1 200 OK`.
fn status(line: &[u8]) -> Option<u16> {
    let line = str::from_utf8(line).ok()?.strip_prefix("HTTP/1.")?;
    line.split_ascii_whitespace().nth(1).filter(|word| word.len() == 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, path: &str) -> Target {
        Target { at: At::Tcp(host.to_owned()), path: path.to_owned() }
    }

    #[test]
    fn targets_are_urls_or_sockets() {
        for (url, target) in [
            ("http://127.0.0.1:8000", tcp("127.0.0.1:8000", "/health")),
            ("http://127.0.0.1:8000/", tcp("127.0.0.1:8000", "/health")),
            ("http://[::1]:8000/ready?x=1", tcp("[::1]:8000", "/ready?x=1")),
            ("http://front", tcp("front:80", "/health")),
        ] {
            assert_eq!(parse(url), Some(target), "{url}");
        }
        for url in ["https://front", "front:8000", "unix:relative", "/health", ""] {
            assert_eq!(parse(url), None, "{url}");
        }
        let at = At::Unix("/run/x.sock".into());
        assert_eq!(parse("unix:/run/x.sock"), Some(Target { at, path: "/health".to_owned() }));
    }

    #[test]
    fn every_address_is_asked_on_loopback() {
        for (listen, host) in [
            ("0.0.0.0:8000", "127.0.0.1:8000"),
            ("[::]:8000", "[::1]:8000"),
            ("192.0.2.1:80", "192.0.2.1:80"),
        ] {
            let target = from_listen(Listen::Tcp(listen.parse().unwrap()));
            assert_eq!(target, Some(tcp(host, "/health")), "{listen}");
        }
        assert_eq!(from_listen(Listen::Tcp("127.0.0.1:0".parse().unwrap())), None);
    }

    #[test]
    fn a_status_line_is_http_or_nothing() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 503\r\n"), Some(503));
        assert_eq!(status(b"SSH-2.0-OpenSSH_9.9\r\n"), None);
        assert_eq!(status(b"HTTP/1.1 2000 OK\r\n"), None);
        assert_eq!(status(b"\xff\xff"), None);
        assert_eq!(status(b""), None);
    }
}
