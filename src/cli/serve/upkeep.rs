//! What a service does beside its jobs: it says what stands in the way of drawing, and removes
//! what has expired. None of it holds up a job, or a stop.

use std::{sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    activity::Activity,
    codex::Engine,
    retention::{Cause, Cleaner},
    store::{self, Store},
};

/// Says in the log what stands in the way of drawing; the service starts all the same.
pub(super) fn report_problems(engine: &dyn Engine) {
    for problem in engine.problems() {
        tracing::warn!(code = problem.code.as_str(), "{}", problem.message);
    }
    for warning in engine.warnings() {
        tracing::warn!("{warning}");
    }
}

pub(super) fn clean_up_regularly(
    interval: Option<Duration>,
    cleaner: Arc<Cleaner>,
    activity: Activity,
    draining: CancellationToken,
    tasks: &TaskTracker,
) {
    tasks.spawn(async move {
        let Some(interval) = interval else { return tell_next(&cleaner.store, None).await };
        let mut tick = tokio::time::interval(interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // One that is under way stops as well, before the store is closed under it; the next
            // goes on where it stopped.
            let report = tokio::select! {
                biased;
                () = draining.cancelled() => return,
                report = async {
                    tick.tick().await;
                    let _under_way = activity.begin();
                    tell_next(&cleaner.store, Some(interval)).await;
                    cleaner.run_and_note(Cause::Schedule, false).await
                } => report,
            };
            match report {
                Ok(report) => tracing::info!(
                    expired_jobs = report.expired_jobs,
                    images = report.images,
                    orphans = report.orphan_files + report.orphan_rows,
                    skipped_folders = report.skipped.len(),
                    bytes = report.bytes,
                    "clean-up done"
                ),
                Err(error) => tracing::error!(%error, "the clean-up stopped"),
            }
        }
    });
}

/// Tells the front when the next clean-up is.
async fn tell_next(store: &Store, interval: Option<Duration>) {
    let milliseconds = |interval: Duration| i64::try_from(interval.as_millis()).unwrap_or(i64::MAX);
    let at = interval.map(|interval| store::now().saturating_add(milliseconds(interval)));
    if let Err(error) = store.tell_next_cleanup(at).await {
        tracing::error!(%error, "the front cannot be told of the next clean-up");
    }
}
