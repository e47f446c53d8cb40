//! Connections: at most so many, each with a deadline for its head, and an end that lets the
//! client read its answer even when its body was not wanted.

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, HttpBody},
    http::{HeaderValue, StatusCode, header},
};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::{io::Errno, net::sockopt};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

/// A head that is not whole by then, or an idle connection, is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of a head; more is answered with 431.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Most header fields; more are answered with 431.
const MAX_HEADERS: usize = 128;
/// A client that takes nothing of its answer for so long is given up.
const SEND_TIMEOUT: Duration = Duration::from_mins(1);
/// What is read and thrown away of a body that nobody wanted, and for how long, so that the
/// client comes to read its answer instead of meeting a reset.
const LINGER_BYTES: u64 = 48 * 1024;
const LINGER: Duration = Duration::from_secs(2);
/// The same for a caller whose key is known. Most clients send their whole upload before they look
/// for an answer, and would take a reset for a broken network, and try again.
const KNOWN_LINGER_BYTES: u64 = 128 * 1024 * 1024;
const KNOWN_LINGER: Duration = Duration::from_secs(10);

/// A socket that accepts.
pub enum Listener {
    /// IPv4 or IPv6.
    Tcp(TcpListener),
    /// A path, or what systemd passed.
    Unix(UnixListener),
}

/// Serves connections of one socket until `stop`, then lets the open ones end.
pub async fn serve(
    listener: Listener,
    router: Router,
    slots: Arc<Semaphore>,
    stop: CancellationToken,
    connections: TaskTracker,
) {
    loop {
        let slot = tokio::select! {
            slot = Arc::clone(&slots).acquire_owned() => slot,
            () = stop.cancelled() => return,
        };
        let (router, stop_one) = (router.clone(), stop.clone());
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accept(&listener) => accepted,
        };
        match accepted {
            Ok(Accepted::Tcp(stream, address)) => connections.spawn(async move {
                connection(stream, Peer::Tcp(address), router, stop_one).await;
                drop(slot);
            }),
            Ok(Accepted::Unix(stream)) => connections.spawn(async move {
                connection(stream, Peer::Unix, router, stop_one).await;
                drop(slot);
            }),
            Err(error) => {
                // Out of descriptors or memory: what is open must end first. Anything else is one
                // client's own failure.
                if is_shortage(&error) {
                    tracing::error!(%error, "no connection could be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                continue;
            }
        };
    }
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    Tcp(IpAddr),
    Unix,
}

impl Peer {
    /// From this machine?
    pub(super) fn is_local(self) -> bool {
        match self {
            Self::Tcp(address) => address.to_canonical().is_loopback(),
            Self::Unix => true,
        }
    }
}

/// Marks the answer of a route that reads a body without a key: its caller is none that we know.
#[derive(Clone, Copy)]
pub(super) struct ToStranger;

enum Accepted {
    Tcp(tokio::net::TcpStream, IpAddr),
    Unix(tokio::net::UnixStream),
}

async fn accept(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            stream.set_nodelay(true)?;
            sockopt::set_tcp_user_timeout(
                &stream,
                SEND_TIMEOUT.as_millis().try_into().unwrap_or(0),
            )?;
            Ok(Accepted::Tcp(stream, address.ip()))
        }
        Listener::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
    }
}

async fn connection<S>(stream: S, peer: Peer, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let known = Arc::new(AtomicBool::new(false));
    let is_known = Arc::clone(&known);
    let service = service_fn(move |request: Request<Incoming>| {
        let is_known = Arc::clone(&is_known);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        let has_body = !request.body().is_end_stream();
        let answer = router.clone().oneshot(request);
        Box::pin(async move {
            let mut answer = answer.await.map_err(|never: Infallible| match never {})?;
            // Refused, maybe before all of the body was read: the connection ends with this
            // answer, and the client must not send its next request into the void.
            if has_body && !answer.status().is_success() {
                let known = is_told_to_known_callers(answer.status())
                    && answer.extensions().get::<ToStranger>().is_none();
                is_known.store(known, Ordering::Relaxed);
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        })
    });
    let mut connection = Some(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service),
    );
    let mut stopping = Box::pin(stop.cancelled());
    let mut told = false;
    let ended = std::future::poll_fn(|context| {
        let Some(open) = connection.as_mut() else { return std::task::Poll::Ready(Ok(())) };
        if !told && stopping.as_mut().poll(context).is_ready() {
            told = true;
            Pin::new(&mut *open).graceful_shutdown();
        }
        open.poll_without_shutdown(context)
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
    if let Some(connection) = connection {
        let (bytes, time) = if known.load(Ordering::Relaxed) {
            (KNOWN_LINGER_BYTES, KNOWN_LINGER)
        } else {
            (LINGER_BYTES, LINGER)
        };
        linger(connection.into_parts().io.into_inner(), bytes, time).await;
    }
}

/// The routes that take bodies look at the key first: whoever hears this of a body has one, unless
/// the answer is marked [`ToStranger`].
fn is_told_to_known_callers(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNPROCESSABLE_ENTITY
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::SERVICE_UNAVAILABLE
    )
}

/// Ends our half, then waits a little for the client to end its own.
async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: u64, time: Duration) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let discard = async {
        let mut rest = (&mut stream).take(bytes);
        let mut buffer = [0; 8 * 1024];
        while matches!(rest.read(&mut buffer).await, Ok(1..)) {}
    };
    let _ = tokio::time::timeout(time, discard).await;
}
