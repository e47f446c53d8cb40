//! Draws by the engine of the settings, in this process and without a service.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Code, Drawn, Failed, Picture, Progress, request::Checked};
use crate::{
    codex::{
        self, BoxFuture, Engine, FailureCode, Step, Turn,
        status::{Rest, RestReason},
    },
    config::{Config, EngineChoice},
    images::{self, Rejected},
    logins,
    names::JobId,
    store::{Store, StoreError},
};

/// After so long without a thread it is said that somebody else may have the login.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn draw(
    config: &Config,
    request: &Checked,
    place: &Path,
    progress: &Progress,
) -> Result<Drawn, Failed> {
    fs::remove_file(&request.body)?;
    let asked = &request.asked;
    let engine = codex::engine(config, Arc::new(|_| {}))?;
    if let Some(problem) = engine.problems().into_iter().next() {
        let troubles = codex::login_troubles(config);
        let message = match problem.code {
            FailureCode::NotLoggedIn if !troubles.is_empty() => troubles.join("\n"),
            _ => problem.message,
        };
        return Err(Failed::of(problem.code.as_str(), &message, None));
    }
    if config.codex_engine != EngineChoice::Exec {
        codex::check_folders(config).map_err(|error| {
            Failed::new(format!("Codex cannot be started: {error} (is STATE_DIR right?)"))
        })?;
    }
    let job_id = JobId::fresh().to_string();
    let turn = |position| Turn {
        job_id: job_id.clone(),
        position,
        prompt: asked.prompt.clone(),
        size: asked.size.clone(),
        quality: asked.quality.clone(),
        background: "auto".into(),
        has_mask: false,
        references: asked.references.iter().map(|file| request.references.join(file)).collect(),
        dir: place.join(format!("turn-{position}")),
    };
    let turns: Vec<Turn> = (0..asked.count).map(turn).collect();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let Err(error) = runtime.block_on(restore(config, engine.as_ref())) {
        progress.say(&format!("what is stored of the logins cannot be read: {error}"));
    }
    look_at_rests(engine.as_ref(), progress)?;
    let drawn = runtime.block_on(all(Arc::clone(&engine), turns, place, progress));
    runtime.block_on(engine.close());
    runtime.shutdown_timeout(Duration::from_millis(100));
    drawn
}

/// Tells the engine what a service knows of its logins, when there is one.
async fn restore(config: &Config, engine: &dyn Engine) -> Result<(), StoreError> {
    if let Some(store) = Store::open_to_read(&config.database).await? {
        let restored = logins::restore(&store, engine).await;
        store.close().await;
        restored?;
    }
    Ok(())
}

/// Says which logins rest; when all do, that is the end of it.
fn look_at_rests(engine: &dyn Engine, progress: &Progress) -> Result<(), Failed> {
    let present: Vec<_> =
        engine.logins().into_iter().filter(|login| login.problem.is_none()).collect();
    let resting: Vec<_> =
        present.iter().filter_map(|login| Some((&login.label, login.rest.as_ref()?))).collect();
    for (label, rest) in &resting {
        progress.say(&format!(
            "login {label} rests: {}; `codex-image-service logins wake {label}` ends that",
            logins::rest_in_words(rest)
        ));
    }
    // One that was faulty is still better than none.
    if resting.is_empty()
        || resting.len() < present.len()
        || resting.iter().any(|(_, rest)| rest.reason == RestReason::Faults)
    {
        return Ok(());
    }
    let quota = |rest: &Rest| matches!(rest.reason, RestReason::Quota | RestReason::LowQuota);
    let of_quota = resting.iter().filter(|(_, rest)| quota(rest));
    let mut by_hand = resting.iter().filter(|(_, rest)| rest.reason == RestReason::ByHand);
    Err(match of_quota.min_by_key(|(_, rest)| rest.until) {
        None if by_hand.next().is_some() => Failed::of(
            FailureCode::LoginsRest.as_str(),
            "Every login is left alone, as somebody wished; `codex-image-service logins wake` ends \
             that.",
            None,
        ),
        Some((label, rest)) => Failed::of(
            FailureCode::QuotaExceeded.as_str(),
            &format!(
                "No login has quota left; {label} is the first to be back. When it is back \
                 already, `codex-image-service logins wake {label}` says so."
            ),
            Some(rest.until),
        ),
        None => Failed::of(
            FailureCode::LoginExpired.as_str(),
            "The sessions of all logins are over; sign in again with `codex-image-service logins \
             add`, or end the rest with `logins wake`.",
            None,
        ),
    })
}

async fn all(
    engine: Arc<dyn Engine>,
    turns: Vec<Turn>,
    place: &Path,
    progress: &Progress,
) -> Result<Drawn, Failed> {
    let stop = CancellationToken::new();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut running = JoinSet::new();
    for turn in turns {
        let (engine, stop, tell) = (Arc::clone(&engine), stop.clone(), tell.clone());
        let place = place.to_owned();
        running.spawn(async move {
            let sink = |step: Step| -> BoxFuture<'_, ()> {
                let _ = tell.send(step);
                Box::pin(std::future::ready(()))
            };
            let finished = engine.draw(&turn, &sink, stop).await;
            let stem = format!("picture-{}", turn.position);
            let candidates = finished.candidates.clone();
            let imported = tokio::task::spawn_blocking(move || import(&candidates, &place, &stem));
            let picture = imported.await.unwrap_or_else(|_| Err(Failed::new("a task failed")));
            // What could not be stored elsewhere stays where Codex put it.
            if let (Some(thread), Ok(_)) = (&finished.thread, &picture) {
                let _ = engine.forget(thread).await;
            }
            (turn.position, picture, finished.failure)
        });
    }
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut ended = Vec::new();
    let (mut stopped, mut begun) = (false, false);
    loop {
        tokio::select! {
            turn = running.join_next() => match turn {
                Some(turn) => ended.push(turn.map_err(|_| Failed::new("a task of the engine failed"))?),
                None => break,
            },
            Some(news) = told.recv() => {
                begun = true;
                progress.phase(match news {
                    Step::Thread(_) => "starting",
                    Step::Drawing => "drawing",
                });
            }
            () = tokio::time::sleep(PATIENCE), if !begun => {
                let look = Arc::clone(&engine);
                let logins = tokio::task::spawn_blocking(move || look.logins()).await;
                if logins.is_ok_and(|logins| logins.iter().any(|login| login.busy_elsewhere)) {
                    progress.phase(
                        "waiting: another process uses the login (the service? --server asks it)",
                    );
                }
            }
            _ = &mut interrupted, if !stopped => {
                stopped = true;
                progress.phase("stopping");
                stop.cancel();
            }
        }
    }
    ended.sort_by_key(|(position, ..)| *position);
    let mut drawn = Drawn { pictures: Vec::new(), missing: None };
    for (position, picture, failure) in ended {
        let failed = match (picture, failure) {
            (Ok(Some(path)), _) => {
                let number = usize::try_from(position).unwrap_or(usize::MAX);
                drawn.pictures.push(Picture { path, number, source: None });
                continue;
            }
            (Err(failed), _) => failed,
            (Ok(None), Some(failure)) => {
                Failed::of(failure.code.as_str(), &failure.message, failure.retry_at)
            }
            (Ok(None), None) => Failed::new("Codex saved a file that is not a picture."),
        };
        drawn.missing = Some(failed);
    }
    if stopped && drawn.missing.is_some() {
        drawn.missing = Some(Failed { code: Code::Interrupted, message: "interrupted".to_owned() });
    }
    match drawn.missing {
        Some(failed) if drawn.pictures.is_empty() => Err(failed),
        _ => Ok(drawn),
    }
}

/// The first of the candidates that is a picture, in this folder. One that may be a picture and
/// cannot be stored is paid for: it is said where it is.
fn import(candidates: &[PathBuf], place: &Path, stem: &str) -> Result<Option<PathBuf>, Failed> {
    for file in candidates {
        match images::import(file, place, stem, None) {
            Ok(picture) => return Ok(Some(place.join(picture.file_name))),
            Err(error @ Rejected::Storage(_)) => {
                return Err(Failed::new(format!("{error}; Codex keeps it as {}", file.display())));
            }
            Err(_) => {}
        }
    }
    Ok(None)
}
