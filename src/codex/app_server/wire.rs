//! Requests to an app-server and what it says: one JSON object a line, both ways. Two threads read
//! (nothing that Codex writes can hold up the async threads), one task writes. Each answer goes to
//! its request and each event to its turn; what Codex asks for is refused.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt as _,
    net::unix::pipe,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use super::{
    decode::decoded,
    events::{self, TurnEvent},
    scan::{Broken, Line, Scanner, Taken},
    stderr::LastErrors,
};
use crate::codex::{clip, status::QuotaWindow};

/// Lines that wait to be written; a request is one.
const QUEUED_LINES: usize = 64;
/// Events of a turn that nobody took yet; a turn has about ten in all.
const QUEUED_EVENTS: usize = 256;
/// So much that is no message is put up with at a time: a warning may go astray.
const MOST_GARBAGE: usize = 64;

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallError {
    /// Codex answered with an error.
    Refused(String),
    /// No answer in time.
    Late,
    /// The app-server is gone.
    Gone,
}

/// What the readers tell beside answers and events.
#[derive(Debug)]
pub(super) enum Told {
    /// Windows of one or more limits.
    Quota(Vec<QuotaWindow>),
    /// It cannot be talked with any more; why, in a few words.
    Broken(&'static str),
}

/// The connection; clones share it.
#[derive(Clone)]
pub(super) struct Wire {
    shared: Arc<Shared>,
    lines: mpsc::Sender<Vec<u8>>,
}

struct Shared {
    next: AtomicU64,
    state: Mutex<State>,
    /// Cancelled when nothing more will be said.
    closed: CancellationToken,
    /// What standard error says of no known turn.
    errors: LastErrors,
    told: mpsc::UnboundedSender<Told>,
}

#[derive(Default)]
struct State {
    calls: HashMap<u64, oneshot::Sender<Result<Value, CallError>>>,
    turns: HashMap<String, Listening>,
    /// Threads whose turn nobody listens to any more and which has not ended yet.
    abandoned: HashSet<String>,
}

struct Listening {
    events: mpsc::Sender<TurnEvent>,
    /// Where a picture is put that Codex did not save.
    dir: PathBuf,
}

impl Wire {
    /// Starts to read and to write; `dir` is for what passes through.
    pub(super) fn start(
        stdin: pipe::Sender,
        stdout: File,
        stderr: File,
        dir: &Path,
        told: mpsc::UnboundedSender<Told>,
    ) -> io::Result<Self> {
        let (lines, waiting) = mpsc::channel(QUEUED_LINES);
        let closed = CancellationToken::new();
        let shared = Arc::new(Shared {
            next: AtomicU64::new(1),
            state: Mutex::default(),
            closed: closed.clone(),
            errors: LastErrors::default(),
            told,
        });
        tokio::spawn(write(stdin, waiting, Arc::clone(&shared)));
        let wire = Self { shared, lines };
        let scanner = Scanner::new(dir)?;
        // Without a sender: the connection must be able to end while the thread still reads.
        let (reader, refusals) = (Arc::clone(&wire.shared), wire.lines.downgrade());
        thread::Builder::new()
            .name("codex-stdout".into())
            .spawn(move || read(&reader, &refusals, stdout, scanner))?;
        let reader = Arc::clone(&wire.shared);
        thread::Builder::new().name("codex-stderr".into()).spawn(move || {
            let tell = |thread: &str, words| reader.tell_turn(thread, TurnEvent::ToolError(words));
            reader.errors.read(stderr, tell);
        })?;
        Ok(wire)
    }

    /// Asks and waits for the answer, `patience` at most.
    pub(super) async fn call(
        &self,
        method: &str,
        params: Value,
        patience: Duration,
    ) -> Result<Value, CallError> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.shared.lock().calls.insert(id, reply);
        let asked = async {
            self.send(&json!({"id": id, "method": method, "params": params})).await?;
            tokio::select! {
                biased;
                answer = answer => answer.unwrap_or(Err(CallError::Gone)),
                () = self.shared.closed.cancelled() => Err(CallError::Gone),
            }
        };
        let answer = tokio::time::timeout(patience, asked).await.unwrap_or(Err(CallError::Late));
        self.shared.lock().calls.remove(&id);
        answer
    }

    /// Says something that has no answer.
    pub(super) async fn notify(&self, method: &str) -> Result<(), CallError> {
        self.send(&json!({"method": method})).await
    }

    async fn send(&self, message: &Value) -> Result<(), CallError> {
        self.lines.send(line(message)).await.map_err(|_| CallError::Gone)
    }

    /// Asks without waiting, and without wanting to know the answer.
    pub(super) fn tell(&self, method: &str, params: &Value) {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let _ = self.lines.try_send(line(&json!({"id": id, "method": method, "params": params})));
    }

    /// From now on the events of this thread's turn are told, until the receiver is dropped.
    pub(super) fn listen(&self, thread: &str, dir: PathBuf) -> mpsc::Receiver<TurnEvent> {
        let (events, told) = mpsc::channel(QUEUED_EVENTS);
        self.shared.lock().turns.insert(thread.to_owned(), Listening { events, dir });
        told
    }

    /// Nobody listens to that thread any more; `ended` = its turn is over.
    pub(super) fn forget(&self, thread: &str, ended: bool) {
        let mut state = self.shared.lock();
        state.turns.remove(thread);
        if !ended {
            state.abandoned.insert(thread.to_owned());
        }
    }

    /// Whether the turn of a thread may still be running.
    pub(super) fn is_busy_with(&self, thread: &str) -> bool {
        let state = self.shared.lock();
        state.turns.contains_key(thread) || state.abandoned.contains(thread)
    }

    /// Resolves when nothing more will be said.
    pub(super) async fn closed(&self) {
        self.shared.closed.cancelled().await;
    }

    /// What was said on standard error, without what is said of a known turn.
    pub(super) fn errors(&self) -> &LastErrors {
        &self.shared.errors
    }

    /// Ends the connection from this side: nothing is written any more.
    pub(super) fn close(&self) {
        self.shared.closed.cancel();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self, why: &'static str) {
        let _ = self.told.send(Told::Broken(why));
    }

    /// An answer, a request or a notification.
    fn take(&self, refusals: &mpsc::WeakSender<Vec<u8>>, message: &Value, taken: &mut Taken) {
        let method = message["method"].as_str();
        let id = message.get("id").filter(|id| !id.is_null());
        match (method, id) {
            (None, Some(id)) => self.answer(id, message),
            (Some(method), Some(id)) => {
                tracing::warn!(method, "Codex asks the service something; it is refused");
                let words = "This client grants nothing and answers nothing.";
                let refusal = json!({"id": id, "error": {"code": -32601, "message": words}});
                let sent = refusals.upgrade().map(|lines| lines.try_send(line(&refusal)));
                if !matches!(sent, Some(Ok(()))) {
                    self.broken("asked without end");
                }
            }
            (Some(method), None) => self.notified(method, &message["params"], taken),
            (None, None) => {}
        }
    }

    fn answer(&self, id: &Value, message: &Value) {
        let call = id.as_u64().and_then(|id| self.lock().calls.remove(&id));
        let Some(call) = call else { return };
        let answer = match message.get("error").filter(|error| !error.is_null()) {
            Some(error) => {
                let words = error["message"].as_str().unwrap_or_default();
                Err(CallError::Refused(clip::words(words, 2000)))
            }
            None => Ok(message["result"].clone()),
        };
        let _ = call.send(answer);
    }

    fn notified(&self, method: &str, params: &Value, taken: &mut Taken) {
        if method == "account/rateLimits/updated" {
            let _ = self.told.send(Told::Quota(events::quota(params)));
            return;
        }
        let Some(thread) = events::thread_of(params) else { return };
        let dir = self.lock().turns.get(thread).map(|turn| turn.dir.clone());
        // Decoding takes a while: not under the lock.
        let decode = |text: &str| dir.as_deref().and_then(|dir| decoded(text, taken, dir));
        let Some(event) = events::turn_event(method, params, decode) else { return };
        if matches!(event, TurnEvent::Completed(_)) {
            self.lock().abandoned.remove(thread);
        }
        self.tell_turn(thread, event);
    }

    fn tell_turn(&self, thread: &str, event: TurnEvent) {
        let events = self.lock().turns.get(thread).map(|turn| turn.events.clone());
        if let Some(Err(mpsc::error::TrySendError::Full(_))) =
            events.map(|events| events.try_send(event))
        {
            self.broken("said more of a turn than any turn holds");
        }
    }
}

fn line(message: &Value) -> Vec<u8> {
    let mut line = message.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Writes until the connection is closed. The pipe's end is what asks Codex to end.
async fn write(mut pipe: pipe::Sender, mut lines: mpsc::Receiver<Vec<u8>>, shared: Arc<Shared>) {
    loop {
        let line = tokio::select! {
            () = shared.closed.cancelled() => return,
            line = lines.recv() => match line {
                Some(line) => line,
                None => return,
            },
        };
        let written = tokio::select! {
            () = shared.closed.cancelled() => return,
            written = pipe.write_all(&line) => written,
        };
        if written.is_err() {
            return shared.broken("takes no requests any more");
        }
    }
}

fn read(
    shared: &Shared,
    refusals: &mpsc::WeakSender<Vec<u8>>,
    mut stdout: File,
    mut scanner: Scanner,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut garbage = 0;
    let why = loop {
        let count = match stdout.read(&mut buffer) {
            Ok(0) => break "closed its output",
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break "cannot be read",
        };
        let fed =
            scanner.feed(&buffer[..count], |Line { text, taken }| {
                match serde_json::from_slice::<Value>(text) {
                    Ok(message) if message.is_object() => {
                        garbage = 0;
                        shared.take(refusals, &message, taken);
                    }
                    _ if text.iter().all(u8::is_ascii_whitespace) => {}
                    _ => garbage += 1,
                }
            });
        match fed {
            _ if garbage > MOST_GARBAGE => break "wrote what is no message",
            Ok(()) => {}
            Err(Broken::TooLong) => break "wrote a line without end",
            Err(Broken::Storage(error)) => {
                tracing::error!(%error, "Codex's output cannot be put aside");
                break "wrote more than could be put aside";
            }
        }
    };
    shared.broken(why);
    shared.closed.cancel();
    // Until it is gone: a full or a closed pipe could end it in the middle of a refresh.
    let _ = io::copy(&mut stdout, &mut io::sink());
}
