//! Where `serve` and `demo` listen: the sockets that systemd passed, or the one of the setting.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::FileTypeExt,
    path::Path,
    time::{Duration, Instant},
};

use tokio::net::{TcpListener, UnixListener};

use crate::{
    config::{Config, Listen, reachable},
    http::server::Listener,
    systemd,
};

/// How long an address that is taken is tried again. The socket of a service that was just killed
/// lives for a moment in a child that it had not finished starting.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// The listening sockets of this process.
pub(super) async fn sockets(
    config: &Config,
    passed: Vec<systemd::Listener>,
) -> io::Result<Vec<Listener>> {
    if !passed.is_empty() {
        return passed.into_iter().map(from_systemd).collect();
    }
    let begun = Instant::now();
    loop {
        let bound = match &config.listen {
            Listen::Tcp(address) => tcp("LISTEN", *address)
                .and_then(|(socket, _)| TcpListener::from_std(socket).map(Listener::Tcp)),
            Listen::Unix(path) => unix(path).map(Listener::Unix),
        };
        match bound {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < PATIENCE =>
            {
                tokio::time::sleep(PAUSE).await;
            }
            bound => return bound.map(|listener| vec![listener]),
        }
    }
}

fn from_systemd(socket: systemd::Listener) -> io::Result<Listener> {
    match socket {
        systemd::Listener::Tcp(socket) => TcpListener::from_std(socket).map(Listener::Tcp),
        systemd::Listener::Unix(socket) => UnixListener::from_std(socket).map(Listener::Unix),
    }
}

/// A listening socket, non-blocking, and where it really listens; `setting` is named when it is
/// refused.
pub(super) fn tcp(
    setting: &str,
    address: SocketAddr,
) -> io::Result<(std::net::TcpListener, SocketAddr)> {
    let socket = std::net::TcpListener::bind(address)
        .map_err(|error| refused(setting, &address.to_string(), &error))?;
    socket.set_nonblocking(true)?;
    let bound = socket.local_addr()?;
    Ok((socket, bound))
}

fn unix(path: &Path) -> io::Result<UnixListener> {
    remove_stale_socket(path)?;
    UnixListener::bind(path)
        .map_err(|error| refused("LISTEN", &format!("unix:{}", path.display()), &error))
}

fn refused(setting: &str, address: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{setting}: {address} can't be listened on: {error}"))
}

/// A socket that a dead process left may go; one where somebody answers stays.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    // Any other answer comes from somebody who lives, however busy or unwilling.
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        _ => Ok(()),
    }
}

/// Where a socket can be reached, for people.
pub(super) fn address_of(listener: &Listener) -> String {
    match listener {
        Listener::Tcp(socket) => socket.local_addr().map_or_else(
            |_| "unknown".to_owned(),
            |address| format!("http://{}", reachable(address)),
        ),
        Listener::Unix(socket) => socket
            .local_addr()
            .ok()
            .and_then(|address| {
                address.as_pathname().map(|path| format!("unix:{}", path.display()))
            })
            .unwrap_or_else(|| "unix".to_owned()),
    }
}
