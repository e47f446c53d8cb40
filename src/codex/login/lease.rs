//! Hands logins out, each to one Codex at a time: processes do not coordinate their token refresh,
//! so two at once can burn the single-use refresh token. The lock is held in this process and, by
//! flock, on a file in the home, whose descriptor the child inherits: it stays taken until the last
//! process that has it is gone, whatever became of the service.

use std::{
    fs::{File, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::Logins;
use crate::{
    codex::{Failure, FailureCode},
    config::LoginHome,
};

pub(super) const LOCK_FILE: &str = ".codex-image-service.lock";
/// Nobody tells when another process lets go of a flock.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// A child of this process, between fork and exec, still has what was let go of in that moment:
/// only a lock that stays taken is taken by somebody else.
pub(super) const A_FORK: Duration = Duration::from_millis(20);
/// Each of the unit tests starts programs beside the others, many at once on a busy machine.
pub(super) const LOOKS: u32 = if cfg!(test) { 100 } else { 3 };

/// By what of this process a login is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Held {
    #[default]
    Free,
    Run,
    AppServer,
}

/// The sole use of a login.
pub(in crate::codex) struct Lease {
    logins: Arc<Logins>,
    index: usize,
    /// Never unlocked by hand: that would take the lock from a child that still has it.
    pub(in crate::codex) lock: Arc<File>,
}

/// Why no login was handed out.
pub(in crate::codex) enum Refused {
    Stopped,
    Failed(Failure),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Failed(failure) => failure,
            Refused::Stopped => Self::new(FailureCode::Interrupted, "The run was stopped."),
        }
    }
}

/// What became of the wish for one login.
pub(in crate::codex) enum Taken {
    Lease(Lease),
    /// Something of this process has it, for a moment.
    Here,
    /// Another process has it.
    Elsewhere,
}

enum Pass {
    Leased(Lease),
    /// All are in use here.
    Busy,
    /// At least one is free here and held by another process.
    Contended,
}

impl Logins {
    /// The login that is next and free; waits until one that is none of `tried` is free. Fails
    /// when none could be used even if it were free.
    pub(in crate::codex) async fn any(
        self: &Arc<Self>,
        tried: &[usize],
        stop: &CancellationToken,
    ) -> Result<Lease, Refused> {
        let tried = tried.to_vec();
        self.wait(stop, move |logins| {
            let order = logins.order(&tried).map_err(Refused::Failed)?;
            let pass = logins.pass(&order)?;
            if let Pass::Leased(lease) = &pass {
                logins.took(&order, lease.index);
            }
            Ok(pass)
        })
        .await
    }

    /// This login, logged in or not; waits until it is free, here and elsewhere.
    async fn this(self: &Arc<Self>, index: usize) -> Result<Lease, Refused> {
        self.wait(&CancellationToken::new(), move |logins| logins.pass(&[index])).await
    }

    /// This login, if it is free.
    pub(in crate::codex) async fn try_this(
        self: &Arc<Self>,
        index: usize,
    ) -> Result<Taken, Refused> {
        for _ in 0..LOOKS {
            let logins = Arc::clone(self);
            let pass = tokio::task::spawn_blocking(move || logins.pass(&[index]))
                .await
                .map_err(|error| broken(None, &error.into()))??;
            match pass {
                Pass::Leased(lease) => return Ok(Taken::Lease(lease)),
                Pass::Busy => return Ok(Taken::Here),
                Pass::Contended => tokio::time::sleep(A_FORK).await,
            }
        }
        Ok(Taken::Elsewhere)
    }

    /// Waits until no Codex of an earlier process can still be at work in this home. One of
    /// ours that holds the login shows that there is none.
    pub(in crate::codex) async fn over(self: &Arc<Self>, index: usize) -> Result<(), Refused> {
        loop {
            if self.slots().each[index].held == Held::AppServer {
                return Ok(());
            }
            let waited = tokio::time::timeout(TRY_AGAIN, self.this(index)).await;
            match waited {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(refused)) => return Err(refused),
                Err(_) => {}
            }
        }
    }

    async fn wait(
        self: &Arc<Self>,
        stop: &CancellationToken,
        attempt: impl Fn(&Arc<Self>) -> Result<Pass, Refused> + Clone + Send + 'static,
    ) -> Result<Lease, Refused> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if stop.is_cancelled() {
                return Err(Refused::Stopped);
            }
            let (logins, attempt) = (Arc::clone(self), attempt.clone());
            let pass = tokio::task::spawn_blocking(move || attempt(&logins))
                .await
                // This error says of a panic no more than that it was one.
                .map_err(|error| broken(None, &error.into()))??;
            let contended = match pass {
                Pass::Leased(lease) => return Ok(lease),
                Pass::Contended => true,
                Pass::Busy => false,
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = freed => {}
                () = tokio::time::sleep(TRY_AGAIN), if contended => {}
            }
        }
    }

    /// One look at the logins in this order. All of it under one lock: nobody sees a login
    /// taken that is only being tried.
    fn pass(self: &Arc<Self>, order: &[usize]) -> Result<Pass, Refused> {
        let mut slots = self.slots();
        let mut contended = false;
        let mut error = None;
        for &index in order {
            if slots.each[index].held != Held::Free {
                continue;
            }
            match lock(self.homes[index].path.join(LOCK_FILE)) {
                Ok(Some(lock)) => {
                    slots.each[index].held = Held::Run;
                    slots.each[index].said_contended = false;
                    let logins = Arc::clone(self);
                    return Ok(Pass::Leased(Lease { logins, index, lock: Arc::new(lock) }));
                }
                Ok(None) => {
                    contended = true;
                    if !std::mem::replace(&mut slots.each[index].said_contended, true) {
                        let login = &self.homes[index].label;
                        tracing::warn!(
                            login,
                            "another process uses the login; waiting for its end"
                        );
                    }
                }
                Err(failed) => error = Some((index, failed)),
            }
        }
        match error {
            _ if contended => Ok(Pass::Contended),
            Some((index, error)) if slots.each.iter().all(|slot| slot.held == Held::Free) => {
                Err(broken(Some(&self.homes[index].label), &error))
            }
            _ => Ok(Pass::Busy),
        }
    }
}

impl Lease {
    /// An app-server of this process has the login from now on.
    pub(in crate::codex) fn serve(&self) {
        self.logins.slots().each[self.index].held = Held::AppServer;
    }

    pub(in crate::codex) fn home(&self) -> &LoginHome {
        &self.logins.homes[self.index]
    }

    pub(in crate::codex) fn index(&self) -> usize {
        self.index
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.logins.slots().each[self.index].held = Held::Free;
        self.logins.freed.notify_waiters();
    }
}

fn broken(login: Option<&str>, error: &io::Error) -> Refused {
    tracing::error!(login, %error, "a login's home cannot be used");
    Refused::Failed(Failure::new(
        FailureCode::CodexError,
        "The service cannot write in the home of the ChatGPT login.",
    ))
}

/// Takes the lock of a home; None when another process holds it.
pub(in crate::codex) fn lock_home(home: &Path) -> io::Result<Option<File>> {
    lock(home.join(LOCK_FILE))
}

/// None when another process holds the lock.
pub(super) fn lock(path: PathBuf) -> io::Result<Option<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codex::login::samples::{AUTH, logins};

    #[tokio::test]
    async fn one_run_at_a_time() {
        let (_dir, logins) = logins(&[Some(AUTH)]);
        let stop = CancellationToken::new();
        let lease = logins.any(&[], &stop).await.ok();
        let second = tokio::time::timeout(Duration::from_millis(50), logins.any(&[], &stop)).await;
        assert!(second.is_err());
        let waiting = logins.any(&[], &stop);
        let (next, ()) = tokio::join!(waiting, async { drop(lease) });
        assert!(next.is_ok());
    }

    #[tokio::test]
    async fn a_lock_held_elsewhere_is_waited_for() {
        let (_dir, logins) = logins(&[Some(AUTH)]);
        let elsewhere = lock(logins.homes[0].path.join(LOCK_FILE)).unwrap();
        let stop = CancellationToken::new();
        let waiting =
            tokio::time::timeout(Duration::from_millis(250), logins.any(&[], &stop)).await;
        assert!(waiting.is_err());
        drop(elsewhere);
        assert!(logins.any(&[], &stop).await.is_ok());
    }

    #[tokio::test]
    async fn waiting_can_be_stopped() {
        let (_dir, logins) = logins(&[Some(AUTH)]);
        let stop = CancellationToken::new();
        let _lease = logins.any(&[], &stop).await.ok();
        let (refused, ()) = tokio::join!(logins.any(&[], &stop), async { stop.cancel() });
        assert!(matches!(refused, Err(Refused::Stopped)));
    }
}
