//! A small HTTP/1.1 client that can also misbehave: over TCP and Unix sockets, byte by byte if
//! wanted. It believes nothing of the server and says what it saw.

use std::{
    fmt::{self, Write as _},
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::Value;

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// An address and port.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// Opens a connection; every read and write on it may take two minutes.
    pub fn connect(&self) -> io::Result<Connection> {
        let stream = match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, Duration::from_secs(10))?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Self::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        };
        let connection = Connection { stream, buffer: Vec::new() };
        connection.set_timeout(Some(Duration::from_mins(2)))?;
        Ok(connection)
    }

    /// One request on a connection of its own, `connection: close`; the whole answer.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> io::Result<Reply> {
        let mut connection = self.connect()?;
        let mut all = vec![("connection", "close")];
        all.extend(headers);
        connection.send(method, path, &all, body)?;
        connection.reply(method)
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// An open connection.
pub struct Connection {
    stream: Stream,
    /// Read and not yet used.
    buffer: Vec<u8>,
}

impl Connection {
    /// How long a single read or write may take; an answer that is late is an error of kind
    /// `WouldBlock`.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
            Stream::Unix(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
        }
    }

    /// Lets the kernel hold as little as it can of what the server has not read yet, so that what
    /// was sent is nearly what was read.
    pub fn shrink_send_buffer(&self) -> io::Result<()> {
        use rustix::net::sockopt::set_socket_send_buffer_size as set;
        Ok(match &self.stream {
            Stream::Tcp(stream) => set(stream, 1),
            Stream::Unix(stream) => set(stream, 1),
        }?)
    }

    /// Sends a request with `host` and, for a body, `content-length`, unless `headers` has them.
    /// A server may refuse before it has read everything: a broken pipe in the body is no error.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> io::Result<()> {
        let has = |name: &str| headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !has("host") {
            head += "host: localhost\r\n";
        }
        if let Some(body) = body.filter(|_| !has("content-length") && !has("transfer-encoding")) {
            write!(head, "content-length: {}\r\n", body.len()).expect("writing to a string");
        }
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").expect("writing to a string");
        }
        head += "\r\n";
        self.write_all(head.as_bytes())?;
        match self.write_all(body.unwrap_or_default()) {
            Err(error) if is_gone(&error) => Ok(()),
            other => other,
        }
    }

    /// Sends `bytes` in pieces of `size` with a pause after each, until all are sent, the server
    /// stops taking them, or it has answered; gives how many it took.
    pub fn send_slowly(&mut self, bytes: &[u8], size: usize, pause: Duration) -> usize {
        let mut sent = 0;
        for piece in bytes.chunks(size) {
            if self.has_answer() || self.write_all(piece).is_err() {
                break;
            }
            sent += piece.len();
            std::thread::sleep(pause);
        }
        sent
    }

    /// Sends zeros until the server answers, hangs up or takes no more for two seconds, at most
    /// `limit`; gives how many bytes it took (what fits in socket buffers included).
    pub fn pour(&mut self, limit: u64) -> u64 {
        let zeros = [0; 16 * 1024];
        let mut sent = 0;
        let _ = self.set_timeout(Some(Duration::from_secs(2)));
        while sent < limit && !self.has_answer() {
            match self.write(&zeros) {
                Ok(count) if count > 0 => sent += count as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        let _ = self.set_timeout(Some(Duration::from_mins(2)));
        sent
    }

    /// True when bytes of an answer, or the end of the stream, can be read at once.
    pub fn has_answer(&mut self) -> bool {
        if !self.buffer.is_empty() {
            return true;
        }
        let mut piece = [0; 4096];
        let blocking = |stream: &Stream, yes: bool| match stream {
            Stream::Tcp(stream) => stream.set_nonblocking(!yes),
            Stream::Unix(stream) => stream.set_nonblocking(!yes),
        };
        let _ = blocking(&self.stream, false);
        let read = self.read(&mut piece);
        let _ = blocking(&self.stream, true);
        match read {
            Ok(count) => {
                self.buffer.extend_from_slice(&piece[..count]);
                true
            }
            Err(error) => {
                !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
            }
        }
    }

    /// Says that nothing more will be sent; answers can still be read.
    pub fn finish_sending(&self) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Reads one answer to a request of `method`, interim 1xx answers skipped.
    pub fn reply(&mut self, method: &str) -> io::Result<Reply> {
        loop {
            let mut reply = self.head()?;
            if reply.status < 200 {
                continue;
            }
            let empty = method == "HEAD" || [204, 304].contains(&reply.status);
            if !empty {
                reply.body = self.body(&reply)?;
            }
            return Ok(reply);
        }
    }

    /// Reads status line and headers, and leaves the body for [`Self::read_some`].
    pub fn head(&mut self) -> io::Result<Reply> {
        let at = Instant::now();
        let status = self.line()?;
        let code = status.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
        let code = code.ok_or_else(|| bad(&format!("no status line: {status:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Reply { status: code, headers, body: Vec::new(), took: at.elapsed() });
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad("no header"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Whatever can be read next, for streams; empty at the end.
    pub fn read_some(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill()?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    fn body(&mut self, reply: &Reply) -> io::Result<Vec<u8>> {
        if reply.header("transfer-encoding") == Some("chunked") {
            let mut body = Vec::new();
            loop {
                let line = self.line()?;
                let size = line.split(';').next().unwrap_or_default();
                let size = usize::from_str_radix(size, 16).map_err(|_| bad("no chunk size"))?;
                body.extend(self.exactly(size)?);
                self.line()?;
                if size == 0 {
                    return Ok(body);
                }
            }
        }
        if let Some(length) = reply.header("content-length") {
            let length = length.parse().map_err(|_| bad("no content-length"))?;
            return self.exactly(length);
        }
        while self.fill()? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).map_err(|_| bad("a head that is not UTF-8"));
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        let count = loop {
            match self.read(&mut piece) {
                // A socket with a timeout is not resumed after a signal, whatever its handler asks.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.buffer.extend_from_slice(&piece[..count]);
        Ok(count)
    }
}

impl Read for Connection {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.read(into),
            Stream::Unix(stream) => stream.read(into),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// An answer.
#[derive(Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// Decoded of its chunks.
    pub body: Vec<u8>,
    /// How long the head was waited for.
    pub took: Duration,
}

impl Reply {
    /// The first header of that lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; panics with the answer when it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|why| panic!("no JSON ({why}): {self:?}"))
    }

    /// Panics with the whole answer unless the status is `status`; for chaining.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:#?}");
        self
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let body: String = self.text().chars().take(2000).collect();
        f.debug_struct("Reply")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("body", &body)
            .finish_non_exhaustive()
    }
}
