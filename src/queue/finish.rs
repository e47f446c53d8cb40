//! How a turn ends: its candidates are verified, the outcome is written, and what Codex keeps is
//! removed, in this order.

use std::time::Duration;

use super::{
    bell::Ring,
    worker::{Worker, log_store_error},
};
use crate::{
    codex::{Failure, FailureCode, Finished, ThreadRef},
    images::{self, Rejected},
    store::{
        self,
        claims::Claim,
        jobs::{JobState, Phase},
        outcomes::{NewImage, Recorded, TurnEnd, TurnFailure},
    },
};

/// How long a job may wait for this server to be able to store its picture.
const STORE_PATIENCE: Duration = Duration::from_hours(24);

/// What became of a turn, as far as its job is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TurnResult {
    /// It is written.
    Recorded,
    /// It is written, and the job is final.
    Final,
    /// Stopped, and without a picture to show.
    Stopped,
    /// No login can be used before then, in milliseconds, and the caller is that patient.
    Waits(i64),
    /// The claim is void, or the store or the disk failed: hands off.
    HandsOff,
}

/// What the candidates of a turn came to.
pub(super) enum Accepted {
    /// A verified picture, stored under its final name.
    Picture(NewImage),
    /// There is none, and this is why.
    Nothing(Failure),
    /// There may be one, but this server could not look, or not store it (its disk is full,
    /// say). Codex's copy stays; the job's lease ends and the picture is looked for again.
    Unknown,
    /// It stayed unknown for so long that the job must end; it is not drawn again.
    GivenUp(Failure),
}

/// The first candidate that is a picture, verified and stored under its final name.
pub(super) async fn accept(
    worker: &Worker,
    claim: &Claim,
    position: u32,
    finished: &Finished,
) -> Accepted {
    let mut rejected = false;
    let mut unknown = finished.unsure;
    for candidate in &finished.candidates {
        let (candidate, folder) = (candidate.clone(), worker.shop.generated_dir.clone());
        let (stem, output) = (file_stem(claim, position), claim.output);
        let Ok(_decoder) = worker.decoders.acquire().await else { break };
        let imported =
            tokio::task::spawn_blocking(move || images::import(&candidate, &folder, &stem, output))
                .await;
        match imported {
            Ok(Ok(imported)) => {
                return Accepted::Picture(NewImage {
                    file: imported.file_name,
                    media_type: imported.picture.format.media_type().to_owned(),
                    bytes: imported.picture.bytes,
                    width: imported.picture.width,
                    height: imported.picture.height,
                    sha256: imported.picture.sha256_hex(),
                    source_sha256: imported.source_sha256,
                    opaque: imported.opaque,
                });
            }
            Ok(Err(reason @ (Rejected::Storage(_) | Rejected::Unreadable(_)))) => {
                tracing::error!(job_id = claim.id.as_str(), position, %reason, "a picture could not be stored");
                unknown = true;
            }
            Ok(Err(reason)) => {
                tracing::warn!(job_id = claim.id.as_str(), position, %reason, "what Codex saved is no picture");
                rejected = true;
            }
            Err(_) => {
                tracing::error!(job_id = claim.id.as_str(), position, "reading a picture panicked");
                rejected = true;
            }
        }
    }
    if unknown {
        return if has_waited_too_long(claim) {
            Accepted::GivenUp(Failure {
                code: FailureCode::CodexError,
                message: "The picture could not be stored on this server.".to_owned(),
                retry_at: None,
            })
        } else {
            Accepted::Unknown
        };
    }
    Accepted::Nothing(match &finished.failure {
        Some(failure) => failure.clone(),
        None if rejected => no_image("Codex saved a file that is not a picture."),
        None => no_image("Codex ended without making a picture."),
    })
}

fn has_waited_too_long(claim: &Claim) -> bool {
    let waited = u64::try_from(store::now().saturating_sub(claim.started_at)).unwrap_or(0);
    Duration::from_millis(waited) > STORE_PATIENCE
}

fn no_image(message: &str) -> Failure {
    Failure { code: FailureCode::NoImage, message: message.to_owned(), retry_at: None }
}

/// `<id>` when one picture was asked for, `<id>_1`, `<id>_2`, … when several were.
fn file_stem(claim: &Claim, position: u32) -> String {
    if claim.count == 1 { claim.id.to_string() } else { format!("{}_{}", claim.id, position + 1) }
}

/// Writes how a turn ended, tells the world when its job did, and removes what Codex keeps.
pub(super) async fn record(
    worker: &Worker,
    claim: &Claim,
    position: u32,
    finished: Finished,
    saving_at: i64,
    result: Result<NewImage, Failure>,
) -> TurnResult {
    let mut end = TurnEnd {
        position,
        thread: finished.thread.clone().map(|thread| (thread.login, thread.thread)),
        stdout: finished.stdout,
        stderr: finished.stderr,
        note: finished.note,
        saving_at,
        result: result.map_err(|failure| turn_failure(&failure)),
    };
    let store = &worker.shop.store;
    let mut recorded = store.finish_turn(claim, &end, worker.expires_at()).await;
    if let (Ok(Recorded::Duplicate), Ok(image)) = (&recorded, &end.result) {
        remove_file(worker, claim, image).await;
        end.result = Err(turn_failure(&Failure {
            code: FailureCode::DuplicateImage,
            message: "Codex handed back a picture that was there before instead of a new one."
                .to_owned(),
            retry_at: None,
        }));
        recorded = store.finish_turn(claim, &end, worker.expires_at()).await;
    }
    if matches!(recorded, Ok(Recorded::Open | Recorded::Final(_))) {
        tell(claim, &end);
    }
    let result = match recorded {
        Ok(Recorded::Open | Recorded::Duplicate) => {
            // Some callers want each picture as it comes.
            worker.shop.front_bell.ring(&Ring::Phase(claim.id.to_string()));
            TurnResult::Recorded
        }
        Ok(Recorded::Final(state)) => {
            let code = match (state, &end.result) {
                (JobState::Failed, Err(failure)) => Some(failure.code),
                _ => None,
            };
            worker.announce(claim, state.as_str(), code);
            worker.clear_workdir(claim).await;
            TurnResult::Final
        }
        Ok(Recorded::Void) => {
            // Taken over: file and thread are the new owner's.
            if !is_final(worker, claim).await {
                return TurnResult::HandsOff;
            }
            // Cancelled at the last moment: nobody holds the job, so both may go.
            if let Ok(image) = &end.result {
                remove_file(worker, claim, image).await;
            }
            TurnResult::Stopped
        }
        Err(error) => {
            log_store_error(claim, &error);
            // Codex's own copy is the only one that counts until the store knows ours.
            return TurnResult::HandsOff;
        }
    };
    if let Some(thread) = &finished.thread {
        forget(worker, claim, thread).await;
    }
    result
}

async fn is_final(worker: &Worker, claim: &Claim) -> bool {
    worker.shop.store.is_final(&claim.id).await.unwrap_or(false)
}

async fn remove_file(worker: &Worker, claim: &Claim, image: &NewImage) {
    if let Err(error) = tokio::fs::remove_file(worker.shop.generated_dir.join(&image.file)).await {
        let (job_id, file) = (claim.id.as_str(), &image.file);
        tracing::warn!(job_id, file, %error, "a picture without a row stays until the clean-up");
    }
}

/// Removes what Codex keeps of a thread.
pub(super) async fn forget(worker: &Worker, claim: &Claim, thread: &ThreadRef) {
    if let Err(error) = worker.shop.engine.forget(thread).await {
        tracing::warn!(
            job_id = claim.id.as_str(),
            login = thread.login,
            codex_thread = thread.thread,
            %error,
            "what Codex keeps of a thread could not be removed"
        );
    }
}

/// Login and thread for an event, as far as they are known.
pub(super) fn names(thread: Option<&ThreadRef>) -> (Option<&str>, Option<&str>) {
    thread.map(|thread| (thread.login.as_str(), thread.thread.as_str())).unzip()
}

/// Tells the log how a turn ended, now that the store knows it; not in Codex's words.
fn tell(claim: &Claim, end: &TurnEnd) {
    let (job_id, position, phase) = (claim.id.as_str(), end.position, Phase::Saving.as_str());
    let (login, codex_thread) = end.thread.as_ref().map(|(login, id)| (login, id)).unzip();
    match &end.result {
        Ok(image) => tracing::info!(
            job_id,
            phase,
            position,
            login,
            codex_thread,
            bytes = image.bytes,
            "picture stored"
        ),
        Err(failure) => tracing::info!(
            job_id,
            position,
            login,
            codex_thread,
            code = failure.code,
            "turn ended without a picture"
        ),
    }
}

fn turn_failure(failure: &Failure) -> TurnFailure {
    TurnFailure {
        code: failure.code.as_str(),
        message: failure.message.clone(),
        retry_at: failure.retry_at.map(|seconds| seconds.saturating_mul(1000)),
    }
}
