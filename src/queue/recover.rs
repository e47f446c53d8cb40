//! What a dead worker left: a picture that was paid for is taken; what has none is drawn again,
//! once.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    finish::{self, Accepted, TurnResult},
    run::{self, Job},
    worker::{Worker, log_store_error},
};
use crate::{
    codex::{Failure, FailureCode, Finished},
    store::{
        claims::{Claim, OpenTurn},
        now,
    },
};

/// How often a job is begun at most; an attempt counts when it is claimed.
pub(super) const MAX_ATTEMPTS: i64 = 2;

/// What a look for a turn's picture came to.
pub(super) enum Found {
    /// There is none, for sure; this is what the attempt left instead.
    Nothing(Box<Finished>),
    /// There is one, or nobody can tell; this is what to make of it.
    Settled(TurnResult),
}

/// Looks for the pictures of an interrupted job; the job is then final or back in the queue.
async fn job(worker: &Arc<Worker>, claim: &Claim) {
    tracing::info!(
        job_id = claim.id.as_str(),
        attempts = claim.attempts,
        "job was interrupted; looking for its pictures"
    );
    let job = Job::of(worker, claim);
    let mut results = Vec::new();
    for open in &claim.open {
        results.push(match turn(worker, &job, open).await {
            Found::Settled(result) => result,
            Found::Nothing(_) if claim.attempts < MAX_ATTEMPTS => TurnResult::Stopped,
            Found::Nothing(left) => {
                finish::record(worker, claim, open.position, *left, now(), Err(interrupted())).await
            }
        });
    }
    run::settle(worker, claim, &results).await;
}

/// The same for those pictures that a job still lacks.
pub(super) async fn rest_of(worker: &Arc<Worker>, claim: &Claim) {
    match worker.shop.store.open_turns(claim).await {
        Ok(open) => job(worker, &Claim { open, ..claim.clone() }).await,
        Err(error) => log_store_error(claim, &error),
    }
}

/// Looks for the picture of one turn and takes it.
pub(super) async fn turn(worker: &Worker, job: &Job, open: &OpenTurn) -> Found {
    let finished = look(worker, job, open).await;
    let (claim, position, found_at) = (&job.claim, open.position, now());
    match finish::accept(worker, claim, position, &finished).await {
        Accepted::Picture(image) => {
            let (login, codex_thread) = finish::names(finished.thread.as_ref());
            tracing::info!(
                job_id = claim.id.as_str(),
                position,
                login,
                codex_thread,
                "an interrupted attempt left its picture"
            );
            Found::Settled(
                finish::record(worker, claim, position, finished, found_at, Ok(image)).await,
            )
        }
        Accepted::GivenUp(failure) => Found::Settled(
            finish::record(worker, claim, position, finished, found_at, Err(failure)).await,
        ),
        Accepted::Unknown => Found::Settled(TurnResult::HandsOff),
        // What the interrupted run reported is not final: it may just have been killed.
        Accepted::Nothing(_) => {
            if let Some(thread) = &finished.thread {
                finish::forget(worker, claim, thread).await;
            }
            Found::Nothing(Box::new(finished))
        }
    }
}

fn interrupted() -> Failure {
    Failure {
        code: FailureCode::Interrupted,
        message: "The service was interrupted twice while it worked on this job.".to_owned(),
        retry_at: None,
    }
}

/// Asks the engine what the attempts of a turn left, the latest first.
async fn look(worker: &Worker, job: &Job, open: &OpenTurn) -> Finished {
    let known = open.thread.clone();
    let folder = worker.shop.workdir.join(&job.claim.id);
    let mut folders = match attempts(&folder, open.position).await {
        Ok(folders) => folders,
        Err(error) => {
            tracing::error!(job_id = job.claim.id.as_str(), %error, "a job's attempts could not be listed");
            return Finished { unsure: true, ..Finished::default() };
        }
    };
    if folders.is_empty() && known.is_some() {
        // Somebody tidied up, but the thread is known and its picture may be there.
        folders.push(folder.join(format!("{}-gone", open.position)));
    }
    let mut latest = Finished::default();
    let mut unsure = false;
    for dir in folders {
        let turn = job.turn(open.position, dir);
        let finished = worker.shop.engine.recover(&turn, known.clone()).await;
        if !finished.candidates.is_empty() {
            return finished;
        }
        unsure |= finished.unsure;
        if latest.thread.is_none() {
            latest = finished;
        }
    }
    Finished { unsure, ..latest }
}

/// The folders of a turn's attempts (`<position>-<generation>`), the latest first.
async fn attempts(folder: &Path, position: u32) -> io::Result<Vec<PathBuf>> {
    let prefix = format!("{position}-");
    let mut found = Vec::new();
    let mut entries = match tokio::fs::read_dir(folder).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    while let Some(entry) = entries.next_entry().await? {
        let generation = entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_prefix(&prefix))
            .and_then(|generation| generation.parse::<i64>().ok());
        if let Some(generation) = generation {
            found.push((generation, entry.path()));
        }
    }
    found.sort_unstable_by_key(|(generation, _)| std::cmp::Reverse(*generation));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}
