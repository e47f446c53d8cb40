//! A worker that is asked to keep still: it begins nothing and hears no bell, so that a look into the
//! store tells whether there is something to do, and what is rung from then on is the next
//! worker's.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{bell::Ears, worker::Worker};

/// Both ends of the asking; clones share them.
#[derive(Clone, Default)]
pub struct Pause(Arc<Ends>);

#[derive(Default)]
struct Ends {
    asked: watch::Sender<bool>,
    still: watch::Sender<bool>,
}

/// The worker keeps still until this is dropped, or it is to end.
pub struct Still(Pause);

impl Pause {
    /// Asks for it, and waits until the worker keeps still.
    pub async fn begin(&self) -> Still {
        // The end of an earlier one has been heard of.
        let _ = self.0.still.subscribe().wait_for(|still| !still).await;
        self.0.asked.send_replace(true);
        let still = Still(self.clone());
        let _ = self.0.still.subscribe().wait_for(|still| *still).await;
        still
    }

    /// Resolves when somebody asks for it.
    async fn asked(&self) {
        let _ = self.0.asked.subscribe().wait_for(|asked| *asked).await;
    }

    /// Keeps still until nobody asks for it any more, or `drain`.
    async fn keep(&self, drain: &CancellationToken) {
        self.0.still.send_replace(true);
        let mut asked = self.0.asked.subscribe();
        let _ = drain.run_until_cancelled(asked.wait_for(|asked| !asked)).await;
        self.0.still.send_replace(false);
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        self.0.0.asked.send_replace(false);
    }
}

impl Worker {
    /// Claims jobs until `drain`; while it is to keep still, it claims none and has closed its ears.
    pub(super) async fn claim_with_pauses(
        self: &Arc<Self>,
        mut ears: Option<Ears>,
        drain: &CancellationToken,
    ) {
        let pause = &self.shop.pause;
        loop {
            let until = drain.child_token();
            let mut claiming = std::pin::pin!(Arc::clone(self).claim_jobs(&until));
            tokio::select! {
                () = &mut claiming => return,
                () = pause.asked() => {}
            }
            until.cancel();
            claiming.await;
            if let Some(ears) = &mut ears {
                ears.close().await;
            }
            pause.keep(drain).await;
            if drain.is_cancelled() {
                return;
            }
            if let Some(ears) = &mut ears {
                ears.open();
            }
        }
    }
}
