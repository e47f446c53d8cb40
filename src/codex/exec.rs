//! The engine that starts one `codex exec` for each picture. It promises one run at a time on each
//! login, an end to every run, and that whatever picture lies in the run's own thread folder is
//! reported, however the run ended.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{self, Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use super::{
    BoxFuture, Engine, Failure, FailureCode, Finished, LoginObserver, Step, StepSink, ThreadRef,
    Turn, clip, command,
    command::Run,
    events::Report,
    failures::{self, Ending, Evidence},
    follow::Follower,
    harvest::{self, Harvest},
    locate,
    locate::Program,
    login::{Lease, Logins, Verdict},
    own, prompt, run, salvage, shadow,
    spawn::{self, Launch, Spawner},
    versions::{self, Version},
};
use crate::config::{Config, Live, LoginHome};

pub(super) const EVENTS: &str = "events.jsonl";
const STDERR: &str = "stderr.txt";
/// The label of the login, so that recovery knows whose lock to wait for even when the run ended
/// before it had a thread.
pub(super) const LOGIN: &str = "login";
const CWD: &str = "cwd";
/// The error that explains a run stands at the end.
const STDERR_READ: u64 = 256 * 1024;
/// By so much may a file in the home grow: a picture has a few MB, but the databases of a home
/// that people use as well may be of any size.
const LARGEST_GROWTH: u64 = 256 * 1024 * 1024;

/// Draws by `codex exec`.
pub struct ExecEngine {
    bin: PathBuf,
    model: Option<String>,
    /// What Codex inherits, HOME and PATH among it.
    environment: Vec<(&'static str, OsString)>,
    live: Live,
    pub(super) logins: Arc<Logins>,
    pub(super) spawner: Arc<Spawner>,
    /// Where the shadows of the homes are, see [`super::shadow`].
    shadows: PathBuf,
}

impl ExecEngine {
    /// Sets the engine up; neither Codex nor a login need to be there yet.
    pub fn new(config: &Config, observer: LoginObserver) -> io::Result<Self> {
        Ok(Self {
            bin: config.codex_bin.clone(),
            model: config.codex_model.clone().filter(|model| !model.is_empty()),
            environment: command::inherited(config),
            logins: Logins::new(&config.codex_homes, observer, config.live.clone()),
            live: config.live.clone(),
            spawner: Arc::new(Spawner::new()?),
            shadows: config.codex_state_dir.clone(),
        })
    }

    /// Tries one login after the other for as long as the reason is the login's own.
    pub(super) async fn run(
        &self,
        turn: &Turn,
        sink: StepSink<'_>,
        stop: CancellationToken,
    ) -> Result<Finished, Failure> {
        // Before the wait for a login: without Codex there is nothing to wait for.
        self.locate()?;
        let mut tried = Vec::new();
        let mut left = self.live.now().codex_timeout;
        let mut last = None;
        loop {
            let lease = match self.logins.any(&tried, &stop).await {
                Ok(lease) => Arc::new(lease),
                Err(refused) => return Ok(without_login(last, refused.into())),
            };
            let (job_id, position, login) = (&turn.job_id, turn.position, &lease.home().label);
            tracing::info!(job_id, position, login, "turn is given to a login");
            let begun = Instant::now();
            let finished = self.attempt(turn, sink, &stop, &lease, left).await?;
            left = left.saturating_sub(begun.elapsed());
            let (logins, index) = (Arc::clone(&self.logins), lease.index());
            let failure = finished.failure.clone().filter(|_| finished.candidates.is_empty());
            let verdict = blocking(move || {
                logins.look(index);
                Ok(logins.judge(index, failure.as_ref().map_or(Ok(()), Err), None))
            })
            .await?;
            // What may have been drawn already is not drawn again with another login.
            let next = verdict == Verdict::NextLogin && !finished.unsure;
            if !next || left.is_zero() || stop.is_cancelled() {
                return Ok(finished);
            }
            tried.push(index);
            last = Some(finished);
        }
    }

    /// One run of Codex with one login.
    async fn attempt(
        &self,
        turn: &Turn,
        sink: StepSink<'_>,
        stop: &CancellationToken,
        lease: &Arc<Lease>,
        timeout: Duration,
    ) -> Result<Finished, Failure> {
        let (launch, follower, version) = self.prepare(turn, lease).await?;
        let running = self
            .spawner
            .spawn(launch)
            .await
            .map_err(|error| not_begun(turn, lease, &error, "Codex cannot be started"))?;

        // From here on nothing may end this as if Codex had not run.
        let login = &lease.home().label;
        let limits = run::Limits { timeout, stop, job_id: &turn.job_id, home: lease.home() };
        let run::Followed { report, ending, unsure } =
            run::follow(running, follower, &limits, |thread| {
                let thread = ThreadRef { login: login.clone(), thread };
                async move {
                    sink(Step::Thread(thread)).await;
                    sink(Step::Drawing).await;
                }
            })
            .await;

        let thread = report.thread.clone().map(|thread| ThreadRef { login: login.clone(), thread });
        let threads: Vec<_> =
            thread.clone().map(|thread| (lease.home().path.clone(), thread)).into_iter().collect();
        let dir = turn.dir.clone();
        let gathered =
            tokio::task::spawn_blocking(move || gather(&dir, &threads, &report, ending, unsure));
        let mut finished =
            gathered.await.unwrap_or_else(|error| unseen(turn, thread, &error.into()));
        if finished.thread.is_none()
            && let Some(refusal) = versions::refusal(version, &finished.stderr)
        {
            finished.failure = Some(refusal);
        }
        Ok(finished)
    }

    /// All that touches the disk before a run, off the async threads.
    async fn prepare(
        &self,
        turn: &Turn,
        lease: &Arc<Lease>,
    ) -> Result<(Launch, Follower, Option<Version>), Failure> {
        let (bin, model, turn) = (self.bin.clone(), self.model.clone(), turn.clone());
        let (environment, lease) = (self.environment.clone(), Arc::clone(lease));
        blocking(move || {
            // Anew: Codex may have been updated while a login was waited for.
            let program = locate::locate(&bin, command::value(&environment, "PATH"))?;
            let version = versions::usable(&program, &environment)?;
            let prepared =
                prepare(&program, version, model.as_deref(), &environment, &turn, &lease)?;
            Ok((prepared.0, prepared.1, version))
        })
        .await
    }

    /// The version of the Codex that is there, if it was asked for that already.
    /// What is wrong with Codex itself, as far as that is known by now; starts nothing.
    pub(super) fn known_problem(&self) -> Option<Failure> {
        match self.locate() {
            Ok(program) => versions::too_old(versions::known_of(&program)),
            Err(failure) => Some(failure),
        }
    }

    pub(super) fn known_version(&self) -> Option<Version> {
        versions::known_of(&self.locate().ok()?)
    }

    pub(super) fn locate(&self) -> Result<Program, Failure> {
        locate::locate(&self.bin, command::value(&self.environment, "PATH"))
    }
}

impl Engine for ExecEngine {
    fn draw<'a>(
        &'a self,
        turn: &'a Turn,
        sink: StepSink<'a>,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Finished> {
        Box::pin(async move { self.run(turn, sink, stop).await.unwrap_or_else(without_a_run) })
    }

    fn recover<'a>(&'a self, turn: &'a Turn, known: Option<ThreadRef>) -> BoxFuture<'a, Finished> {
        Box::pin(async move {
            salvage::salvage(turn, &self.logins, &self.shadows, known.clone())
                .await
                .unwrap_or_else(|error| unseen(turn, known, &error))
        })
    }

    fn capacity(&self) -> usize {
        self.logins.homes().len()
    }

    fn problems(&self) -> Vec<Failure> {
        let codex = self.locate();
        let codex = codex.and_then(|program| versions::usable(&program, &self.environment)).err();
        codex.into_iter().chain(self.logins.check().err()).collect()
    }

    fn kept_threads(&self) -> BoxFuture<'_, Vec<ThreadRef>> {
        let (logins, shadows) = (Arc::clone(&self.logins), self.shadows.clone());
        Box::pin(async move {
            let listed = tokio::task::spawn_blocking(move || {
                let mut threads = Vec::new();
                for LoginHome { label, path } in logins.homes() {
                    for place in shadow::places(&shadows, path) {
                        let listed = harvest::threads(&place).unwrap_or_else(|error| {
                            tracing::warn!(%error, login = label, "kept pictures cannot be listed");
                            Vec::new()
                        });
                        let named = |thread| ThreadRef { login: label.clone(), thread };
                        threads.extend(listed.into_iter().map(named));
                    }
                }
                threads
            });
            listed.await.unwrap_or_default()
        })
    }

    fn forget<'a>(&'a self, thread: &'a ThreadRef) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let (logins, shadows) = (Arc::clone(&self.logins), self.shadows.clone());
            let thread = thread.clone();
            tokio::task::spawn_blocking(move || {
                let homes = match logins.index(&thread.login) {
                    Some(index) => &logins.homes()[index..=index],
                    // The login has another name by now, or its home is no longer ours.
                    None => logins.homes(),
                };
                let places = homes.iter().flat_map(|home| shadow::places(&shadows, &home.path));
                let removed = places.map(|place| harvest::remove(&place, &thread.thread));
                removed.fold(Ok(()), Result::and)
            })
            .await?
        })
    }
}

fn prepare(
    program: &Program,
    version: Option<Version>,
    model: Option<&str>,
    environment: &[(&'static str, OsString)],
    turn: &Turn,
    lease: &Lease,
) -> Result<(Launch, Follower), Failure> {
    let failed = |error: io::Error| not_begun(turn, lease, &error, "a run cannot be prepared");
    let dir = path::absolute(&turn.dir).map_err(failed)?;
    let cwd = place(&dir).map_err(failed)?;
    let home = &lease.home().path;
    let references = &turn.references;
    let command = command::command(&Run {
        program,
        version,
        home,
        model,
        environment,
        cwd: &cwd,
        references,
    })?;
    let (events, stderr) = (dir.join(EVENTS), dir.join(STDERR));
    let launch = || {
        fs::write(dir.join(LOGIN), &lease.home().label)?;
        let stdout = output(&events)?;
        let errors = output(&stderr)?;
        let stdin = spawn::text_input(&prompt::compose(turn)?)?;
        let lock = Arc::clone(&lease.lock);
        let largest_file = largest_in(home)? + LARGEST_GROWTH;
        let death_signal = Some(Signal::KILL);
        io::Result::Ok(Launch {
            command,
            stdin,
            stdout,
            stderr: errors,
            lock,
            largest_file,
            death_signal,
        })
    };
    let launch = launch().map_err(failed)?;
    Ok((launch, Follower::new(&events, &stderr).map_err(failed)?))
}

/// Makes a turn's own folder, in that of its job, and gives the one in it where Codex works.
pub(super) fn place(dir: &Path) -> io::Result<PathBuf> {
    let cwd = dir.join(CWD);
    dir.parent().map_or(Ok(()), own::folder)?;
    own::folder(dir)?;
    own::folder(&cwd)?;
    Ok(cwd)
}

fn largest_in(dir: &Path) -> io::Result<u64> {
    let sizes = fs::read_dir(dir)?.flatten().filter_map(|entry| Some(entry.metadata().ok()?.len()));
    Ok(sizes.max().unwrap_or(0))
}

/// A file for a stream of Codex, appended to: nothing that it starts can write over the rest.
fn output(path: &Path) -> io::Result<File> {
    File::options().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    File::options().append(true).open(path)
}

/// What a run left in its own folder and in those of its threads. When it is `unsure` from the
/// start, it stays so.
pub(super) fn gather(
    dir: &Path,
    threads: &[(PathBuf, ThreadRef)],
    report: &Report,
    ending: Ending,
    mut unsure: bool,
) -> Finished {
    let mut found = Harvest::default();
    for (home, thread) in threads {
        if let Err(error) = harvest::harvest(home, &thread.thread, &mut found) {
            let ThreadRef { login, thread: codex_thread } = thread;
            tracing::error!(login, codex_thread, %error, "the pictures of a thread cannot be looked for");
            unsure = true;
        }
    }
    let Harvest { pictures: candidates, others: saved_other } = found;
    let stderr = clip::tail(&dir.join(STDERR), STDERR_READ);
    let evidence = Evidence { report, stderr: &stderr, ending, saved_other };
    let failure = match failures::specific(&evidence) {
        None if !candidates.is_empty() => None,
        None if unsure => Some(failures::could_not_look()),
        None => Some(failures::classify(&evidence)),
        reported => reported,
    };
    Finished {
        candidates,
        unsure,
        failure,
        thread: threads.first().map(|(_, thread)| thread.clone()),
        stdout: clip::head_and_tail(&dir.join(EVENTS)),
        stderr: clip::head_and_tail(&dir.join(STDERR)),
        note: report.messages.last().cloned(),
    }
}

pub(super) fn without_a_run(failure: Failure) -> Finished {
    Finished { failure: Some(failure), ..Finished::default() }
}

/// There was a run, and what it left was not looked at.
fn unseen(turn: &Turn, thread: Option<ThreadRef>, error: &io::Error) -> Finished {
    tracing::error!(job_id = turn.job_id, %error, "what Codex left could not be looked for");
    Finished { thread, unsure: true, ..without_a_run(failures::could_not_look()) }
}

fn broken(error: &io::Error, what: &'static str) -> Failure {
    tracing::error!(%error, "{what}");
    could_not_start()
}

fn not_begun(turn: &Turn, lease: &Lease, error: &io::Error, what: &'static str) -> Failure {
    let (login, folder) = (&lease.home().label, turn.dir.display());
    tracing::error!(job_id = turn.job_id, login, %folder, %error, "{what}");
    could_not_start()
}

fn could_not_start() -> Failure {
    Failure::new(FailureCode::CodexError, "The service could not start Codex.")
}

/// There is no (other) login: what the last one came to, with the time at which one is back.
pub(super) fn without_login(last: Option<Finished>, failure: Failure) -> Finished {
    match last {
        Some(mut finished) => {
            match &mut finished.failure {
                // In its own words, but others may come back earlier.
                Some(last) if last.code == failure.code => last.retry_at = failure.retry_at,
                // Another comes back without anybody's help.
                _ if failure.code == FailureCode::QuotaExceeded => finished.failure = Some(failure),
                _ => {}
            }
            finished
        }
        None => without_a_run(failure),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        // This error says of a panic only that it was one; its text may hold the prompt.
        .map_err(|error| broken(&error.into(), "a task of the engine failed"))?
}

#[cfg(test)]
#[path = "exec_tests.rs"]
mod tests;
