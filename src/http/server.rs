//! Connections: at most so many, each with a deadline for its head, and an end that lets the
//! client read its answer even when its body was not wanted.

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, HttpBody},
    http::{HeaderValue, StatusCode, header},
};
use http_body::{Frame, SizeHint};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::{io::Errno, net::sockopt};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::activity::{Activity, UnderWay};

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
/// The same where nothing was left unread: a client that is just sending its next request.
const PARTING: Duration = Duration::from_millis(500);

/// A socket that accepts.
pub enum Listener {
    /// IPv4 or IPv6.
    Tcp(TcpListener),
    /// A path, or what systemd passed.
    Unix(UnixListener),
}

/// What the connections of all sockets share.
#[derive(Clone)]
pub struct Hall {
    /// What answers.
    pub router: Router,
    /// One for each connection.
    pub slots: Arc<Semaphore>,
    /// Cancelled when the service stops: open connections end with the answer that they wait for.
    pub stop: CancellationToken,
    /// The same for those that are open when something is sent, and wait for none.
    pub hang_up: watch::Sender<()>,
    /// All that are open.
    pub connections: TaskTracker,
    /// Where it matters: a connection is under way until its first request, and each request until
    /// the end of its answer.
    pub activity: Option<Activity>,
}

/// Serves the connections of one socket until `door` is cancelled or the service stops; gives the
/// socket back. Every connection that was accepted is counted by then.
pub async fn serve(listener: Listener, hall: Hall, door: CancellationToken) -> Listener {
    loop {
        let slot = tokio::select! {
            slot = Arc::clone(&hall.slots).acquire_owned() => slot,
            () = door.cancelled() => return listener,
            () = hall.stop.cancelled() => return listener,
        };
        let accepted = tokio::select! {
            () = door.cancelled() => return listener,
            () = hall.stop.cancelled() => return listener,
            accepted = accept(&listener) => accepted,
        };
        let fresh = hall.activity.as_ref().map(Activity::begin);
        match accepted {
            Ok(Accepted::Tcp(stream, address)) => {
                let served = connection(stream, Peer::Tcp(address), &hall, fresh);
                hall.connections.spawn(async move {
                    served.await;
                    drop(slot);
                })
            }
            Ok(Accepted::Unix(stream)) => {
                let served = connection(stream, Peer::Unix, &hall, fresh);
                hall.connections.spawn(async move {
                    served.await;
                    drop(slot);
                })
            }
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

fn connection<S>(
    stream: S,
    peer: Peer,
    hall: &Hall,
    fresh: Option<UnderWay>,
) -> impl Future<Output = ()> + Send + use<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (router, activity) = (hall.router.clone(), hall.activity.clone());
    // From here on, not from when it is first looked at.
    let (stop, mut hang_up) = (hall.stop.clone(), hall.hang_up.subscribe());
    let stopping = async move {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = hang_up.changed() => {}
        }
    };
    serve_connection(stream, peer, router, (activity, fresh), stopping)
}

async fn serve_connection<S>(
    stream: S,
    peer: Peer,
    router: Router,
    (activity, fresh): (Option<Activity>, Option<UnderWay>),
    stopping: impl Future<Output = ()>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let farewell = Arc::new(Mutex::new(Farewell::Parting));
    let fresh = Mutex::new(fresh);
    let said = Arc::clone(&farewell);
    let service = service_fn(move |request: Request<Incoming>| {
        let farewell = Arc::clone(&said);
        let is_read = Arc::new(AtomicBool::new(request.body().is_end_stream()));
        let read = Arc::clone(&is_read);
        let mut request = request.map(|body| Body::new(Taken { body, is_read }));
        request.extensions_mut().insert(peer);
        let under_way = activity.as_ref().map(Activity::begin);
        fresh.lock().unwrap_or_else(PoisonError::into_inner).take();
        let answer = router.clone().oneshot(request);
        Box::pin(async move {
            let mut answer = answer.await.map_err(|never: Infallible| match never {})?;
            // Refused before all of the body was read: the connection ends with this answer, and the
            // client must not send its next request into the void.
            if !read.load(Ordering::Relaxed) && !answer.status().is_success() {
                let known = is_told_to_known_callers(answer.status())
                    && answer.extensions().get::<ToStranger>().is_none();
                let how = if known { Farewell::Known } else { Farewell::Stranger };
                *farewell.lock().unwrap_or_else(PoisonError::into_inner) = how;
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(match under_way {
                Some(under_way) => answer.map(|body| Body::new(Held { body, under_way })),
                None => answer,
            })
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
    let mut stopping = std::pin::pin!(stopping);
    let mut told = false;
    let ended = std::future::poll_fn(|context| {
        let Some(open) = connection.as_mut() else { return Poll::Ready(Ok(())) };
        // What has come already is answered.
        let ended = open.poll_without_shutdown(context);
        if ended.is_ready() || told || stopping.as_mut().poll(context).is_pending() {
            return ended;
        }
        told = true;
        Pin::new(&mut *open).graceful_shutdown();
        open.poll_without_shutdown(context)
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
    if let Some(connection) = connection {
        let farewell = *farewell.lock().unwrap_or_else(PoisonError::into_inner);
        let (bytes, time) = match farewell {
            Farewell::Known => (KNOWN_LINGER_BYTES, KNOWN_LINGER),
            Farewell::Stranger => (LINGER_BYTES, LINGER),
            Farewell::Parting => (LINGER_BYTES, PARTING),
        };
        linger(connection.into_parts().io.into_inner(), bytes, time).await;
    }
}

/// How a connection ends.
#[derive(Clone, Copy)]
enum Farewell {
    /// With nothing left unread.
    Parting,
    /// In the middle of a stranger's body.
    Stranger,
    /// In the middle of a body of a caller with a key.
    Known,
}

/// A request's body that tells when all of it has been read.
struct Taken {
    body: Incoming,
    is_read: Arc<AtomicBool>,
}

impl HttpBody for Taken {
    type Data = bytes::Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.is_read.store(true, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer that is under way until its last byte is handed on.
struct Held {
    body: Body,
    #[expect(dead_code, reason = "it ends with the body")]
    under_way: UnderWay,
}

impl HttpBody for Held {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
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
