//! The end of a process that is started again when somebody needs it. Nothing is lost by it: what
//! comes while it ends waits in a socket that systemd holds too, and what came before is found.
//!
//! The order proves it. The door is closed, the bell is no more heard, and only then it is looked
//! whether anything is there to do. What was accepted or heard before the look is seen by it: a
//! connection is counted as soon as it is accepted, and a bell is rung after the store knows why.
//! What comes later is neither accepted nor heard here. Where the look finds something, all is as
//! before.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::work::Idling;
use crate::{
    activity::Activity,
    http::server::{self, Hall, Listener},
    queue::pause::Still,
    store::{Store, StoreError},
};

/// Where callers come in.
pub(super) struct Door {
    hall: Hall,
    /// The sockets, while none is accepted from.
    listeners: Vec<Listener>,
    accepting: Vec<JoinHandle<Listener>>,
    closed: CancellationToken,
}

impl Door {
    pub(super) fn new(hall: Hall, listeners: Vec<Listener>) -> Self {
        Self { hall, listeners, accepting: Vec::new(), closed: CancellationToken::new() }
    }

    pub(super) fn open(&mut self) {
        self.closed = CancellationToken::new();
        for listener in self.listeners.drain(..) {
            let (hall, closed) = (self.hall.clone(), self.closed.clone());
            self.accepting.push(tokio::spawn(server::serve(listener, hall, closed)));
        }
    }

    /// When this resolves nothing is accepted any more.
    async fn close(&mut self) {
        self.closed.cancel();
        for accepting in self.accepting.drain(..) {
            match accepting.await {
                Ok(listener) => self.listeners.push(listener),
                Err(error) => tracing::error!(%error, "a socket is lost"),
            }
        }
    }

    /// Ends connections that wait for no answer; false when something came up meanwhile. The door
    /// is open: the end of a connection may take its time.
    async fn see_off(&self, activity: &Activity) -> bool {
        let connections = &self.hall.connections;
        let _ = self.hall.hang_up.send(());
        connections.close();
        let all_are_gone = tokio::select! {
            biased;
            () = activity.stirred() => false,
            () = connections.wait() => true,
        };
        connections.reopen();
        all_are_gone
    }
}

/// Resolves when nothing was under way for so long and nothing is there to do; from then on nothing
/// is begun. `worker` is None where the worker is another process.
pub(super) async fn wait(
    after: Duration,
    mut door: Option<Door>,
    idling: &Idling,
    worker: Option<&Store>,
) -> Option<Still> {
    let activity = &idling.activity;
    loop {
        activity.quiet_for(after).await;
        if let Some(door) = &mut door {
            if !door.see_off(activity).await {
                continue;
            }
            door.close().await;
        }
        let still = match worker {
            Some(_) => Some(idling.pause.begin().await),
            None => None,
        };
        // In this order: what is under way may leave something to do.
        let connected = door.as_ref().is_some_and(|door| !door.hall.connections.is_empty());
        let quiet = activity.is_quiet() && !connected;
        if quiet && has_nothing_to_do(worker).await {
            return still;
        }
        drop(still);
        if let Some(door) = &mut door {
            door.open();
        }
        activity.stir();
    }
}

async fn has_nothing_to_do(store: Option<&Store>) -> bool {
    let Some(store) = store else { return true };
    let look = async {
        Ok::<_, StoreError>(!store.has_open_job().await? && store.open_orders().await?.is_empty())
    };
    look.await.unwrap_or_else(|error| {
        tracing::error!(%error, "it is not known whether there is something to do");
        false
    })
}
