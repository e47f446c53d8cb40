//! One claimed job: its turns, in parallel as slots allow, and what they make of the job.
//!
//! Nothing is drawn before it was looked for: whatever way led here, a picture that an earlier
//! attempt left is taken.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::OwnedSemaphorePermit, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    bell::Ring,
    finish::{self, Accepted, TurnResult},
    recover,
    worker::{Worker, log_store_error},
};
use crate::{
    codex::{BoxFuture, Failure, FailureCode, Step, ThreadRef, Turn},
    store::{claims::Claim, jobs::Phase, now},
};

/// How long a stop may be held up by the last look for a job's pictures.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// Runs the open turns of a job. The first uses the slot that the claim came with.
pub(super) async fn job(
    worker: &Arc<Worker>,
    claim: &Claim,
    slot: OwnedSemaphorePermit,
    cancelled: &CancellationToken,
) {
    let job = Arc::new(Job::of(worker, claim));
    tracing::info!(
        job_id = claim.id.as_str(),
        phase = Phase::Starting.as_str(),
        attempt = claim.attempts,
        pictures = claim.open.len(),
        "job begins"
    );
    worker.shop.front_bell.ring(&Ring::Phase(claim.id.to_string()));
    let mut first_slot = Some(slot);
    let mut running = JoinSet::new();
    for index in 0..claim.open.len() {
        let slot = if let Some(slot) = first_slot.take() {
            slot
        } else {
            tokio::select! {
                slot = worker.slots.acquire() => match slot {
                    Some(slot) => slot,
                    None => break,
                },
                () = cancelled.cancelled() => break,
            }
        };
        let (worker, job, cancelled) = (Arc::clone(worker), Arc::clone(&job), cancelled.clone());
        running.spawn(async move {
            let result = turn(&worker, &job, index, cancelled).await;
            drop(slot);
            result
        });
    }
    let mut results = Vec::new();
    while let Some(result) = running.join_next().await {
        // Of a turn that panicked nothing is known.
        results.push(result.unwrap_or(TurnResult::HandsOff));
    }
    if worker.stop.is_cancelled()
        && claim.attempts >= recover::MAX_ATTEMPTS
        && fate(&results) == Fate::GiveBack
    {
        // The second interruption, which is the last. Should something keep the login busy,
        // the next start says the same.
        let _ = tokio::time::timeout(LAST_LOOK, recover::rest_of(worker, claim)).await;
        return;
    }
    settle(worker, claim, &results).await;
}

/// A job with what its turns need.
pub(super) struct Job {
    pub(super) claim: Claim,
    /// Absolute paths.
    references: Vec<PathBuf>,
    has_mask: bool,
}

impl Job {
    pub(super) fn of(worker: &Worker, claim: &Claim) -> Self {
        let folder = worker.shop.references_dir.join(&claim.id);
        Self {
            claim: claim.clone(),
            has_mask: claim.references.last().is_some_and(|reference| reference.is_mask),
            references: claim.references.iter().map(|known| folder.join(&known.file)).collect(),
        }
    }

    /// What the engine is asked, with `dir` as the attempt's own folder.
    pub(super) fn turn(&self, position: u32, dir: PathBuf) -> Turn {
        Turn {
            job_id: self.claim.id.to_string(),
            position,
            prompt: self.claim.prompt.clone(),
            size: self.claim.size.clone(),
            quality: self.claim.quality.clone(),
            background: self.claim.background.clone(),
            references: self.references.clone(),
            has_mask: self.has_mask,
            dir,
        }
    }
}

/// Takes the picture that an earlier attempt left, or draws it.
async fn turn(
    worker: &Worker,
    job: &Job,
    index: usize,
    cancelled: CancellationToken,
) -> TurnResult {
    let Some(open) = job.claim.open.get(index) else { return TurnResult::HandsOff };
    // The first owner of a job has nothing to look for.
    if job.claim.generation > 1 {
        match recover::turn(worker, job, open).await {
            recover::Found::Nothing(_) => {}
            recover::Found::Settled(result) => return result,
        }
    }
    draw(worker, job, open.position, cancelled).await
}

async fn draw(
    worker: &Worker,
    job: &Job,
    position: u32,
    cancelled: CancellationToken,
) -> TurnResult {
    let claim = &job.claim;
    let folder = format!("{position}-{}", claim.generation);
    let turn = job.turn(position, worker.shop.workdir.join(&claim.id).join(folder));
    let begun = Instant::now();
    // For the log; the last one counts.
    let thread: Mutex<Option<ThreadRef>> = Mutex::default();
    let thread = &thread;
    let sink = |step: Step| -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let store = &worker.shop.store;
            let stored = match &step {
                Step::Thread(known) => {
                    let ThreadRef { login, thread: codex_thread } = known;
                    let job_id = claim.id.as_str();
                    tracing::info!(job_id, position, login, codex_thread, "Codex begins a thread");
                    *thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(known.clone());
                    store.set_thread(claim, position, &known.login, &known.thread).await
                }
                Step::Drawing => {
                    let known = thread.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    let (job_id, phase) = (claim.id.as_str(), Phase::Drawing.as_str());
                    let (login, codex_thread) = finish::names(known.as_ref());
                    tracing::info!(
                        job_id,
                        phase,
                        position,
                        login,
                        codex_thread,
                        "picture is asked for"
                    );
                    store.note_drawing(claim).await
                }
            };
            if let Err(error) = stored {
                log_store_error(claim, &error);
            } else if step == Step::Drawing {
                worker.shop.front_bell.ring(&Ring::Phase(claim.id.to_string()));
            }
        })
    };
    let finished = worker.shop.engine.draw(&turn, &sink, cancelled.clone()).await;
    (worker.shop.on_turn)(begun.elapsed());
    let saving_at = now();
    let result: Result<_, Failure> = match finish::accept(worker, claim, position, &finished).await
    {
        Accepted::Picture(image) => Ok(image),
        Accepted::GivenUp(failure) => Err(failure),
        Accepted::Unknown => return TurnResult::HandsOff,
        Accepted::Nothing(failure) if !cancelled.is_cancelled() => {
            if let Some(until) = worth_waiting_for(worker, claim, &failure) {
                if let Some(thread) = &finished.thread {
                    finish::forget(worker, claim, thread).await;
                }
                return TurnResult::Waits(until);
            }
            Err(failure)
        }
        Accepted::Nothing(_) => {
            if let Some(thread) = &finished.thread {
                finish::forget(worker, claim, thread).await;
            }
            return TurnResult::Stopped;
        }
    };
    finish::record(worker, claim, position, finished, saving_at, result).await
}

/// When the first of the logins that rest is back, if the job's caller is still there by then.
fn worth_waiting_for(worker: &Worker, claim: &Claim, failure: &Failure) -> Option<i64> {
    if !matches!(failure.code, FailureCode::QuotaExceeded | FailureCode::LoginsRest) {
        return None;
    }
    let until = failure.retry_at?.saturating_mul(1000);
    let patience =
        i64::try_from(worker.shop.live.now().request_wait_timeout.as_millis()).unwrap_or(i64::MAX);
    (until <= claim.created_at.saturating_add(patience)).then_some(until)
}

/// What its turns make of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is final.
    Done,
    /// It goes back into the queue.
    GiveBack,
    /// The same, and it waits there until then.
    Postpone(i64),
    /// A picture of it may be there although the store doesn't know it. The job stays as it is;
    /// its lease ends, and the picture is looked for.
    Leave,
}

fn fate(results: &[TurnResult]) -> Fate {
    if results.contains(&TurnResult::Final) {
        Fate::Done
    } else if results.contains(&TurnResult::HandsOff) {
        Fate::Leave
    } else {
        let first = results.iter().filter_map(|result| match result {
            TurnResult::Waits(until) => Some(*until),
            _ => None,
        });
        first.min().map_or(Fate::GiveBack, Fate::Postpone)
    }
}

/// Decides what becomes of a job when its turns have ended, one way or another.
pub(super) async fn settle(worker: &Arc<Worker>, claim: &Claim, results: &[TurnResult]) {
    let held = match fate(results) {
        Fate::Done | Fate::Leave => true,
        Fate::GiveBack => worker.give_back(claim).await,
        Fate::Postpone(until) => worker.postpone(claim, until).await,
    };
    if !held {
        // Void: the caller cancelled it, and nobody is going to need the folder.
        tracing::info!(
            job_id = claim.id.as_str(),
            state = "cancelled",
            attempts = claim.attempts,
            "job ended"
        );
        worker.clear_workdir(claim).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_of_which_anything_is_unknown_is_never_drawn_again_at_once() {
        use TurnResult::{Final, HandsOff, Recorded, Stopped};
        assert_eq!(fate(&[Recorded, HandsOff, Stopped]), Fate::Leave);
        assert_eq!(fate(&[HandsOff]), Fate::Leave);
        assert_eq!(fate(&[Recorded, Stopped]), Fate::GiveBack);
        assert_eq!(fate(&[]), Fate::GiveBack);
        assert_eq!(
            fate(&[Recorded, TurnResult::Waits(7), TurnResult::Waits(5)]),
            Fate::Postpone(5)
        );
        assert_eq!(fate(&[HandsOff, TurnResult::Waits(7)]), Fate::Leave);
        assert_eq!(fate(&[Recorded, Final]), Fate::Done);
    }
}
