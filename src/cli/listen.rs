//! Where `serve` and `demo` listen: the sockets that systemd passed, or the one of the setting.

use std::{
    fs::{self, Permissions},
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
    time::{Duration, Instant},
};

use nix::unistd::{Group, User};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{TcpListener, UnixListener};

use crate::{
    config::{Config, Listen, Owner, reachable},
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
            Listen::Unix(path) => {
                unix(path, config.listen_mode, config.listen_owner.as_ref()).map(Listener::Unix)
            }
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

/// A Unix socket with the permissions and the owner of the settings. It begins to listen last:
/// before that nobody can connect, whatever the umask lets be seen.
fn unix(path: &Path, mode: u32, owner: Option<&Owner>) -> io::Result<UnixListener> {
    // As many as the system allows.
    const WAITING: i32 = i32::MAX;
    let (user, group) = owner.map_or(Ok((None, None)), ids)?;
    remove_stale_socket(path)?;
    let address = format!("unix:{}", path.display());
    let refused = |error: io::Error| refused("LISTEN", &address, &error);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let name = SocketAddrUnix::new(path)?;
    net::bind(&socket, &name).map_err(|error| refused(error.into()))?;
    let listening = std::os::unix::fs::lchown(path, user, group)
        .map_err(|error| named(&format!("{address}: its owner"), &error))
        .and_then(|()| {
            fs::set_permissions(path, Permissions::from_mode(mode))
                .map_err(|error| named(&format!("{address}: its permissions"), &error))
        })
        .and_then(|()| net::listen(&socket, WAITING).map_err(|error| refused(error.into())));
    if let Err(error) = listening {
        let _ = fs::remove_file(path);
        return Err(error);
    }
    UnixListener::from_std(socket.into())
}

/// The numbers of an owner, looked up where they are names.
fn ids(owner: &Owner) -> io::Result<(Option<u32>, Option<u32>)> {
    let unknown = |what: &str, name: &str, why: io::Error| {
        named(&format!("LISTEN_OWNER: {what} {name}"), &why)
    };
    let missing = || io::Error::new(io::ErrorKind::NotFound, "there is none of this name");
    let user = owner.user.as_deref().map(|name| {
        name.parse().or_else(|_| match User::from_name(name) {
            Ok(Some(user)) => Ok(user.uid.as_raw()),
            Ok(None) => Err(unknown("user", name, missing())),
            Err(error) => Err(unknown("user", name, error.into())),
        })
    });
    let group = owner.group.as_deref().map(|name| {
        name.parse().or_else(|_| match Group::from_name(name) {
            Ok(Some(group)) => Ok(group.gid.as_raw()),
            Ok(None) => Err(unknown("group", name, missing())),
            Err(error) => Err(unknown("group", name, error.into())),
        })
    });
    Ok((user.transpose()?, group.transpose()?))
}

fn named(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn refused(setting: &str, address: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{setting}: {address} can't be listened on: {error}"))
}

/// A socket that a dead process left may go; one where somebody answers stays.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    // Any other answer comes from somebody who lives, however busy or unwilling.
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
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
