//! One turn on an app-server, from its thread to its end.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Servers,
    events::{ImageItem, TurnEnd, TurnEvent},
    server::{PATIENCE, Server},
    tell,
    wire::CallError,
    words_failure,
};
use crate::{
    codex::{
        Failure, FailureCode, Finished, Step, StepSink, ThreadRef, Turn, command,
        events::{Report, is_thread_id},
        exec::{self, LOGIN},
        failures::{self, Ending, Evidence},
        harvest::{self, Harvest},
        login::Refused,
        prompt, shadow,
    },
    config::LoginHome,
};

/// From the interrupt to the turn's end; it takes 0.1 s.
pub(in crate::codex) const INTERRUPT: Duration = Duration::from_secs(20);
/// Standard error is another pipe: what it says of a failure may be read a little later.
const LATE_WORDS: Duration = Duration::from_millis(500);
/// What is kept of the turn's course, in characters.
const COURSE: usize = 32 * 1024;
/// The last messages say why there is no picture.
const MOST_MESSAGES: usize = 4;

/// A turn and where it runs.
pub(super) struct Attempt<'a, 's> {
    pub(super) servers: &'a Servers,
    pub(super) server: &'a Server,
    pub(super) home: &'a LoginHome,
    pub(super) turn: &'a Turn,
    pub(super) sink: StepSink<'s>,
    pub(super) stop: &'a CancellationToken,
    pub(super) timeout: Duration,
}

/// How it ended, for the choice of what is next.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// The app-server is gone.
    pub(super) died: bool,
    /// The limit that is used up.
    pub(super) limit: Option<String>,
}

/// What a turn came to so far.
#[derive(Default)]
struct Course {
    images: Vec<ImageItem>,
    messages: Vec<String>,
    tool_errors: Vec<String>,
    end: Option<TurnEnd>,
    /// A line for each event.
    log: String,
}

/// Takes the thread out of the wire when the turn is left, whatever the reason.
struct Listener<'a> {
    server: &'a Server,
    thread: &'a str,
    turn: Option<String>,
    ended: bool,
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        self.server.wire.forget(self.thread, self.ended);
        if let (false, Some(turn)) = (self.ended, &self.turn) {
            let which = json!({"threadId": self.thread, "turnId": turn});
            self.server.wire.tell("turn/interrupt", &which);
        }
        self.server.wire.tell("thread/unsubscribe", &json!({"threadId": self.thread}));
    }
}

impl Attempt<'_, '_> {
    pub(super) async fn run(&self) -> (Finished, Ended) {
        let begun = Instant::now();
        let cwd = match self.prepare().await {
            Ok(cwd) => cwd,
            Err(failure) => return (failed(failure), Ended::default()),
        };
        let thread = match self.start_thread(&cwd).await {
            Ok(thread) => thread,
            Err(error) => return self.not_started(error).await,
        };
        let mut events = self.server.wire.listen(&thread, self.turn.dir.clone());
        let mut listener =
            Listener { server: self.server, thread: &thread, turn: None, ended: false };
        // Stored before anything is paid for.
        tell(self.sink, &self.home.label, &thread).await;
        if self.stop.is_cancelled() {
            // Nothing was asked for yet.
            listener.ended = true;
            return (failed(Refused::Stopped.into()), Ended::default());
        }
        let mut course = Course::default();
        let ending = match self.start_turn(&thread).await {
            Ok(turn) => {
                listener.turn = turn;
                self.follow(&mut events, &mut course, &listener, begun).await
            }
            Err(CallError::Refused(words)) => {
                let error = Some((words, String::new()));
                course.end = Some(TurnEnd { interrupted: false, error });
                Ending::Unknown
            }
            Err(CallError::Late) => {
                self.server.kill("did not begin a turn in time");
                Ending::Unknown
            }
            Err(CallError::Gone) => Ending::Unknown,
        };
        let mut died = false;
        if course.end.is_none() {
            // Nobody writes any more once it is gone.
            died = true;
            self.server.gone().await;
        } else {
            self.wait_for_words(&mut events, &mut course).await;
        }
        listener.ended = true;
        drop(listener);
        self.finish(&thread, course, ending, died, begun).await
    }

    /// The turn's own folder, and the words in it that recovery reads.
    async fn prepare(&self) -> Result<PathBuf, Failure> {
        let (dir, label) = (self.turn.dir.clone(), self.home.label.clone());
        let (job_id, references) = (self.turn.job_id.clone(), self.turn.references.clone());
        let made = tokio::task::spawn_blocking(move || {
            for reference in &references {
                command::checked(reference)?;
            }
            let make = || {
                let cwd = exec::place(&std::path::absolute(&dir)?)?;
                fs::write(dir.join(LOGIN), label)?;
                Ok(cwd)
            };
            make().map_err(|error| not_prepared(&job_id, &dir, &error))
        });
        let Turn { job_id, dir, .. } = self.turn;
        made.await.map_err(|error| not_prepared(job_id, dir, &error.into()))?
    }

    async fn start_thread(&self, cwd: &Path) -> Result<String, CallError> {
        let wanted = json!({
            "cwd": cwd,
            "sandbox": "read-only",
            "approvalPolicy": "never",
            "ephemeral": true,
        });
        let started = self.server.wire.call("thread/start", wanted, PATIENCE).await?;
        let id = started["thread"]["id"].as_str().filter(|id| is_thread_id(id));
        id.map(str::to_owned).ok_or_else(|| CallError::Refused("it named no thread".into()))
    }

    async fn not_started(&self, error: CallError) -> (Finished, Ended) {
        let died = !matches!(error, CallError::Refused(_));
        match error {
            CallError::Refused(words) => {
                let (job_id, login) = (&self.turn.job_id, &self.home.label);
                tracing::error!(job_id, login, words, "Codex's app-server begins no thread");
                return (failed(words_failure(&words)), Ended::default());
            }
            CallError::Late => self.server.kill("did not begin a thread in time"),
            CallError::Gone => {}
        }
        self.server.gone().await;
        let words = "Codex ended before it began.";
        (failed(Failure::new(FailureCode::CodexError, words)), Ended { died, limit: None })
    }

    async fn start_turn(&self, thread: &str) -> Result<Option<String>, CallError> {
        let text = prompt::compose(self.turn).map_err(|_| CallError::Gone)?;
        let mut input = vec![json!({"type": "text", "text": text})];
        let images = self.turn.references.iter();
        input.extend(images.map(|path| json!({"type": "localImage", "path": path})));
        let wanted = json!({"threadId": thread, "input": input});
        let started = self.server.wire.call("turn/start", wanted, PATIENCE).await?;
        Ok(started["turn"]["id"].as_str().map(str::to_owned))
    }

    /// Until the turn's end. It is interrupted past the deadline, when stopped, and once its picture
    /// is there: Codex would send it back to the model, only to hear that it is done. That holds
    /// each picture several times over in memory (16 at once of 3 MB: 450 MB resident instead of
    /// 240), is charged to the login, and lets the model ask for a second one that nobody wants.
    async fn follow(
        &self,
        events: &mut mpsc::Receiver<TurnEvent>,
        course: &mut Course,
        listener: &Listener<'_>,
        begun: Instant,
    ) -> Ending {
        let mut deadline = tokio::time::Instant::from_std(begun + self.timeout);
        let mut ending = Ending::Unknown;
        let mut interrupted = false;
        while course.end.is_none() {
            let why = tokio::select! {
                event = events.recv() => match event {
                    Some(event) => {
                        if event == TurnEvent::Drawing {
                            (self.sink)(Step::Drawing).await;
                        }
                        let drawn = self.is_picture(&event, listener.thread).await;
                        course.take(event);
                        if !drawn || interrupted {
                            continue;
                        }
                        Ending::Unknown
                    }
                    None => break,
                },
                () = self.server.wire.closed() => break,
                () = tokio::time::sleep_until(deadline) => Ending::TimedOut,
                () = self.stop.cancelled(), if !interrupted => Ending::Stopped,
            };
            if interrupted {
                self.server.kill("did not interrupt a turn");
                break;
            }
            (ending, interrupted) = (why, true);
            let which = json!({"threadId": listener.thread, "turnId": listener.turn});
            self.server.wire.tell("turn/interrupt", &which);
            deadline = tokio::time::Instant::now() + INTERRUPT;
        }
        // What came before the end of the connection and was not taken yet.
        while let Ok(event) = events.try_recv() {
            course.take(event);
        }
        ending
    }

    /// Whether this is news of a picture that lies in the thread's folder. Of what is none the model
    /// is told, and it may do better.
    async fn is_picture(&self, event: &TurnEvent, thread: &str) -> bool {
        let TurnEvent::Image(ImageItem { saved: Some(_), failed: false, .. }) = event else {
            return false;
        };
        let shadow = shadow::path(&self.servers.shadows, &self.home.path);
        let thread = thread.to_owned();
        let looked = tokio::task::spawn_blocking(move || {
            let mut found = Harvest::default();
            harvest::harvest(&shadow, &thread, &mut found).is_ok() && !found.pictures.is_empty()
        });
        looked.await.unwrap_or(false)
    }

    /// A failed picture is explained on standard error only, which may come later.
    async fn wait_for_words(&self, events: &mut mpsc::Receiver<TurnEvent>, course: &mut Course) {
        let wait = async {
            while course.is_unexplained() {
                match events.recv().await {
                    Some(event) => course.take(event),
                    None => return,
                }
            }
        };
        let _ = tokio::time::timeout(LATE_WORDS, wait).await;
    }

    async fn finish(
        &self,
        thread: &str,
        course: Course,
        ending: Ending,
        died: bool,
        begun: Instant,
    ) -> (Finished, Ended) {
        let shadow = shadow::path(&self.servers.shadows, &self.home.path);
        let id = thread.to_owned();
        let harvested = tokio::task::spawn_blocking(move || {
            let mut found = Harvest::default();
            harvest::harvest(&shadow, &id, &mut found).map(|()| (shadow, found))
        });
        let mut unsure = self.server.lingers.load(std::sync::atomic::Ordering::Acquire);
        let mut found = Harvest::default();
        match harvested.await.unwrap_or_else(|error| Err(error.into())) {
            Ok((_, harvest)) => found = harvest,
            Err(error) => {
                tracing::error!(
                    job_id = self.turn.job_id,
                    login = self.home.label,
                    codex_thread = thread,
                    %error,
                    "the pictures of a thread cannot be looked for"
                );
                unsure = true;
            }
        }
        let mut candidates = found.pictures;
        // The one that Codex names is the likeliest; what it names elsewhere is not believed.
        for saved in course.images.iter().filter_map(|image| image.saved.as_ref()) {
            if let Some(at) = candidates.iter().position(|known| known == saved) {
                candidates[..=at].rotate_right(1);
            }
        }
        if candidates.is_empty() {
            candidates.extend(course.images.iter().filter_map(|image| image.decoded.clone()));
        }
        let limit = course.images.iter().rev().find_map(|image| image.limit.clone());
        let said: Vec<_> =
            course.tool_errors.iter().map(|words| format!("ERROR {words}")).collect();
        let mut stderr = said.join("\n");
        if course.is_unexplained() && self.server.active() <= 1 {
            // Older versions do not say whose error it is; here it can only be this turn's.
            stderr = self.server.wire.errors().since(begun);
        }
        let note = course.messages.last().cloned();
        let Course { messages, end, log, .. } = course;
        let end = end.unwrap_or_default();
        let completed = !died && end.error.is_none() && !end.interrupted;
        let mut report = Report::default();
        (report.messages, report.completed) = (messages, completed);
        let ending = if completed { Ending::Exited(ExitStatus::default()) } else { ending };
        let evidence =
            Evidence { report: &report, stderr: &stderr, ending, saved_other: found.others };
        let failure = if candidates.is_empty() {
            Some(match (&limit, &end.error) {
                (Some((_, resets_at)), _) => failures::exhausted(*resets_at),
                (None, Some((words, kind))) => whole_turn(words, kind),
                (None, None) if unsure => failures::could_not_look(),
                (None, None) if died => died_early(ending),
                (None, None) => failures::classify(&evidence),
            })
        } else {
            None
        };
        let limit = limit.map(|(id, _)| id);
        let thread = ThreadRef { login: self.home.label.clone(), thread: thread.to_owned() };
        let thread = Some(thread);
        (
            Finished { candidates, unsure, failure, thread, stdout: log, stderr, note },
            Ended { died, limit },
        )
    }
}

impl Course {
    fn take(&mut self, event: TurnEvent) {
        if self.log.len() < COURSE {
            self.log.push_str(&in_words(&event));
            self.log.push('\n');
        }
        match event {
            TurnEvent::Drawing => {}
            TurnEvent::Image(image) => self.images.push(image),
            TurnEvent::Message(words) => {
                if self.messages.len() == MOST_MESSAGES {
                    self.messages.remove(0);
                }
                self.messages.push(words);
            }
            TurnEvent::ToolError(words) => {
                self.tool_errors.truncate(MOST_MESSAGES);
                self.tool_errors.push(words);
            }
            TurnEvent::Completed(end) => self.end = Some(end),
        }
    }

    /// The picture failed, and nobody has said why.
    fn is_unexplained(&self) -> bool {
        self.tool_errors.is_empty()
            && self.images.iter().any(|image| image.failed && image.limit.is_none())
    }
}

/// For people who look into a job's history.
fn in_words(event: &TurnEvent) -> String {
    let event: Value = match event {
        TurnEvent::Drawing => json!({"event": "image asked for"}),
        TurnEvent::Image(image) => json!({
            "event": "image",
            "saved": image.saved.is_some(),
            "decoded": image.decoded.is_some(),
            "failed": image.failed,
            "limit": image.limit.as_ref().map(|(id, _)| id),
        }),
        TurnEvent::Message(words) => json!({"event": "message", "text": words}),
        TurnEvent::ToolError(_) => json!({"event": "tool error"}),
        TurnEvent::Completed(end) => json!({
            "event": "turn over",
            "interrupted": end.interrupted,
            "error": end.error.as_ref().map(|(words, _)| words),
        }),
    };
    event.to_string()
}

/// The whole turn failed: Codex's own word for it, else its sentence.
fn whole_turn(words: &str, kind: &str) -> Failure {
    let said = words_failure(words);
    match kind {
        "usageLimitExceeded" if said.code != FailureCode::QuotaExceeded => {
            failures::exhausted(None)
        }
        "unauthorized" if said.code != FailureCode::LoginExpired => failures::expired(),
        _ => said,
    }
}

fn died_early(ending: Ending) -> Failure {
    match ending {
        Ending::TimedOut => Failure::new(FailureCode::Timeout, "Codex did not finish in time."),
        Ending::Stopped => Failure::new(FailureCode::Interrupted, "The run was stopped."),
        _ => Failure::new(
            FailureCode::CodexError,
            "Codex ended in the middle of the work, twice in a row.",
        ),
    }
}

fn not_prepared(job_id: &str, dir: &Path, error: &io::Error) -> Failure {
    let folder = dir.display();
    tracing::error!(job_id, %folder, %error, "a turn cannot be prepared");
    Failure::new(FailureCode::CodexError, "The service could not start Codex.")
}

fn failed(failure: Failure) -> Finished {
    Finished { failure: Some(failure), ..Finished::default() }
}
