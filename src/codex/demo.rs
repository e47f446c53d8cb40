//! The engine of `demo`: paints instead of asking a model. No Codex, no login, no network; every
//! other part of the service does exactly what it does with a real engine.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::task::{JoinError, spawn_blocking};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    BoxFuture, Engine, Failure, FailureCode, Finished, Step, StepSink, ThreadRef, Turn,
    painter::{Card, paint},
};

/// The label of the login that the demo pretends to have.
const LOGIN: &str = "demo";
/// What stands before the ids of its threads.
pub(super) const THREAD_PREFIX: &str = "demo-";

/// The picture's name in the folder of its turn.
const PICTURE: &str = "picture.png";

/// Where it is painted until it is complete.
const UNFINISHED: &str = ".tmp-picture.png";

/// An [`Engine`] that paints.
#[derive(Clone, Debug)]
pub struct DemoEngine {
    delay: Duration,
}

impl DemoEngine {
    /// An engine that lets `delay` pass before each picture, as a model would.
    #[must_use]
    pub fn new(delay: Duration) -> Self {
        Self { delay }
    }

    async fn paint(&self, turn: &Turn, sink: StepSink<'_>, stop: CancellationToken) -> Finished {
        let seed = Uuid::new_v4().to_string();
        let thread = ThreadRef { login: LOGIN.into(), thread: format!("{THREAD_PREFIX}{seed}") };
        let mut finished = Finished { thread: Some(thread.clone()), ..Finished::default() };
        sink(Step::Thread(thread)).await;
        sink(Step::Drawing).await;
        if stop.run_until_cancelled(tokio::time::sleep(self.delay)).await.is_none() {
            finished.failure = Some(Failure {
                code: FailureCode::Interrupted,
                message: "The picture was stopped before it was painted.".into(),
                retry_at: None,
            });
            return finished;
        }
        let turn = turn.clone();
        let painted = spawn_blocking(move || paint_file(&turn, &seed)).await;
        match settled(painted) {
            Ok(picture) => finished.candidates.push(picture),
            Err(error) => {
                finished.stderr = error.to_string();
                finished.failure = Some(Failure {
                    code: FailureCode::CodexError,
                    message: "The picture could not be painted.".into(),
                    retry_at: None,
                });
            }
        }
        finished
    }
}

impl Engine for DemoEngine {
    fn draw<'a>(
        &'a self,
        turn: &'a Turn,
        sink: StepSink<'a>,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Finished> {
        Box::pin(self.paint(turn, sink, stop))
    }

    fn recover<'a>(&'a self, turn: &'a Turn, known: Option<ThreadRef>) -> BoxFuture<'a, Finished> {
        let picture = turn.dir.join(PICTURE);
        Box::pin(async move {
            let complete = tokio::fs::try_exists(&picture).await;
            let unsure = complete.is_err();
            let candidates = if complete.unwrap_or(false) { vec![picture] } else { Vec::new() };
            Finished { candidates, unsure, thread: known, ..Finished::default() }
        })
    }

    fn capacity(&self) -> usize {
        usize::MAX
    }

    fn problems(&self) -> Vec<Failure> {
        Vec::new()
    }

    fn kept_threads(&self) -> BoxFuture<'_, Vec<ThreadRef>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    fn forget<'a>(&'a self, _: &'a ThreadRef) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// What became of the task. Of a panic only that it was one: its text may hold the prompt, and a
/// `JoinError` shows it where the error that is made of it does not.
fn settled<T>(joined: Result<io::Result<T>, JoinError>) -> io::Result<T> {
    joined?
}

/// Paints the picture of a turn; under its name it is complete.
fn paint_file(turn: &Turn, seed: &str) -> io::Result<PathBuf> {
    fs::create_dir_all(&turn.dir)?;
    let unfinished = turn.dir.join(UNFINISHED);
    let picture = turn.dir.join(PICTURE);
    write_picture(turn, seed, &unfinished)?;
    fs::rename(unfinished, &picture)?;
    Ok(picture)
}

fn write_picture(turn: &Turn, seed: &str, path: &Path) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    let (prompt, size, quality) = (&turn.prompt, &turn.size, &turn.quality);
    paint(&Card { prompt, size, quality, seed }, &mut out)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn turn(dir: &Path) -> Turn {
        Turn {
            job_id: "img_1".into(),
            position: 0,
            prompt: "a fox".into(),
            size: "200x300".into(),
            quality: "low".into(),
            background: "auto".into(),
            has_mask: false,
            references: Vec::new(),
            dir: dir.join("turn"),
        }
    }

    #[tokio::test]
    async fn paints_after_telling_its_thread() {
        let dir = tempfile::tempdir().unwrap();
        let turn = turn(dir.path());
        let told = Mutex::new(Vec::new());
        let picture = turn.dir.join(PICTURE);
        let sink = |step: Step| -> BoxFuture<'_, ()> {
            assert!(!picture.exists());
            if let Step::Thread(thread) = step {
                told.lock().unwrap().push(thread);
            }
            Box::pin(std::future::ready(()))
        };
        let engine = DemoEngine::new(Duration::ZERO);
        assert!(engine.recover(&turn, None).await.candidates.is_empty());
        let finished = engine.draw(&turn, &sink, CancellationToken::new()).await;
        assert_eq!(finished.candidates, std::slice::from_ref(&picture));
        assert_eq!(finished.failure, None);
        assert_eq!(finished.thread.as_slice(), told.lock().unwrap().as_slice());

        let imported = crate::images::import(&picture, dir.path(), "img_1", None).unwrap().picture;
        assert_eq!((imported.width, imported.height), (200, 300));
        assert_eq!(engine.recover(&turn, None).await.candidates, std::slice::from_ref(&picture));
    }

    #[tokio::test]
    async fn the_text_of_a_panic_is_not_passed_on() {
        let joined = spawn_blocking(|| -> io::Result<()> { panic!("a heliotrope kite") }).await;
        assert!(!settled(joined).unwrap_err().to_string().contains("heliotrope"));
    }

    #[tokio::test]
    async fn stops_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let turn = turn(dir.path());
        let stop = CancellationToken::new();
        stop.cancel();
        let engine = DemoEngine::new(Duration::from_hours(1));
        let sink = |_: Step| -> BoxFuture<'_, ()> { Box::pin(std::future::ready(())) };
        let finished = engine.draw(&turn, &sink, stop).await;
        assert_eq!(finished.failure.unwrap().code, FailureCode::Interrupted);
        assert!(finished.candidates.is_empty());
    }
}
