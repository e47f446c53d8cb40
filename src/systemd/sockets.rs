//! The sockets that the service manager passed. What each is for shows by its kind: a stream socket
//! answers HTTP, a datagram socket is the worker's doorbell.

use std::{
    io,
    net::TcpListener,
    os::{
        fd::AsFd,
        unix::net::{UnixDatagram, UnixListener},
    },
};

use listenfd::ListenFd;

/// The number of the first socket that is passed.
const FIRST_SOCKET: usize = 3;

/// A listening socket, non-blocking.
#[derive(Debug)]
pub enum Listener {
    /// IPv4 or IPv6.
    Tcp(TcpListener),
    /// A Unix stream socket.
    Unix(UnixListener),
}

/// The sockets that were passed; none where there is no service manager.
#[derive(Debug, Default)]
pub struct Passed(Vec<Socket>);

#[derive(Debug)]
struct Socket {
    /// Its number and the name that its unit gives it, for people.
    called: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Stream(Listener),
    Datagram(UnixDatagram),
}

impl Passed {
    /// Takes them, each closed when another program is started.
    ///
    /// To be called once, before any thread is started: it takes `LISTEN_FDS` and `LISTEN_PID` out
    /// of the environment, so that no child believes the sockets to be its own.
    pub fn take() -> io::Result<Self> {
        // listenfd takes them also where nobody says whose they are.
        let pid = std::env::var("LISTEN_PID").ok().and_then(|pid| pid.parse().ok());
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut passed = ListenFd::from_env();
        if pid != Some(std::process::id()) {
            return Ok(Self::default());
        }
        let mut names = names.split(':');
        let sockets = (0..passed.len()).map(|index| {
            // As systemd calls what nobody named.
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown");
            take(&mut passed, index, format!("{} ({name})", index + FIRST_SOCKET))
        });
        sockets.collect::<io::Result<_>>().map(Self)
    }

    /// Were there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For a process that answers HTTP.
    pub fn listeners(self) -> io::Result<Vec<Listener>> {
        let sockets = self.0.into_iter().map(|Socket { called, kind }| match kind {
            Kind::Stream(listener) => Ok(listener),
            Kind::Datagram(_) => Err(refused(
                &called,
                "a datagram socket is the worker's doorbell (serve --role worker); who answers \
                 HTTP takes none",
            )),
        });
        sockets.collect()
    }

    /// For a worker that is a process of its own.
    pub fn bell(self) -> io::Result<Option<UnixDatagram>> {
        let mut bell = None;
        for Socket { called, kind } in self.0 {
            match kind {
                Kind::Datagram(socket) if bell.is_none() => bell = Some(socket),
                Kind::Datagram(_) => {
                    return Err(refused(&called, "the worker has one doorbell, and got two"));
                }
                Kind::Stream(_) => {
                    return Err(refused(
                        &called,
                        "a stream socket answers HTTP, which the worker does not; the unit of its \
                         doorbell needs ListenDatagram=",
                    ));
                }
            }
        }
        Ok(bell)
    }
}

impl From<Listener> for Passed {
    fn from(listener: Listener) -> Self {
        Self(vec![Socket { called: "a socket".to_owned(), kind: Kind::Stream(listener) }])
    }
}

fn take(passed: &mut ListenFd, index: usize, called: String) -> io::Result<Socket> {
    // A socket of another kind is an error of the first and may be right for the next.
    let kind = if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
        must_listen(&listener).map_err(|why| refused(&called, why))?;
        listener.set_nonblocking(true)?;
        Kind::Stream(Listener::Tcp(listener))
    } else if let Ok(Some(listener)) = passed.take_unix_listener(index) {
        must_listen(&listener).map_err(|why| refused(&called, why))?;
        listener.set_nonblocking(true)?;
        Kind::Stream(Listener::Unix(listener))
    } else if let Ok(Some(socket)) = passed.take_unix_datagram(index) {
        socket.set_nonblocking(true)?;
        Kind::Datagram(socket)
    } else {
        return Err(refused(
            &called,
            "neither a stream socket, TCP or Unix, nor a Unix datagram socket; the unit needs \
             ListenStream= with a port or a path, or ListenDatagram= with a path",
        ));
    };
    Ok(Socket { called, kind })
}

/// With `Accept=yes` systemd passes connections, which would look like sockets that never answer.
fn must_listen(socket: impl AsFd) -> Result<(), &'static str> {
    match rustix::net::sockopt::socket_acceptconn(socket) {
        Ok(true) => Ok(()),
        Ok(false) => Err("it does not listen; the socket unit needs Accept=no"),
        Err(_) => Err("it cannot be asked whether it listens"),
    }
}

fn refused(called: &str, why: &str) -> io::Error {
    io::Error::other(format!("the socket that was passed as {called}: {why}"))
}
