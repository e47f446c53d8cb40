//! Hands out logins: one run at a time on each. `codex exec` processes do not coordinate their
//! token refresh, so two at once can burn the single-use refresh token. The lock is held in this
//! process and, by flock, on a file in the home, whose descriptor the child inherits: it stays
//! taken until the last process that has it is gone, whatever became of the service.

use std::{
    fs::{File, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{self, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    Failure, FailureCode, LoginObserver, auth,
    status::{LoginEvent, LoginNews, Rest, RestReason},
};
use crate::config::LoginHome;

const LOCK_FILE: &str = ".codex-image-service.lock";
/// Nobody tells when another process lets go of a flock.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// The logins of the settings and which of them are in use.
pub(super) struct Logins {
    homes: Vec<LoginHome>,
    observer: LoginObserver,
    slots: Mutex<Slots>,
    freed: Notify,
}

struct Slots {
    uses: u64,
    each: Vec<Slot>,
}

#[derive(Clone, Default)]
struct Slot {
    busy: bool,
    /// It is in use by an app-server of this process.
    serves: bool,
    last_use: u64,
    /// It has no quota or no valid login; not preferred until then, in Unix seconds.
    rests_until: i64,
    /// Whether it rests for its quota.
    quota: bool,
}

/// The sole use of a login.
pub(super) struct Lease {
    logins: Arc<Logins>,
    index: usize,
    /// Never unlocked by hand: that would take the lock from a child that still has it.
    pub(super) lock: Arc<File>,
}

/// Why no login was handed out.
pub(super) enum Refused {
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

enum Pass {
    Leased(Lease),
    /// All are in use here.
    Busy,
    /// At least one is free here and held by another process.
    Contended,
}

impl Logins {
    pub(super) fn new(homes: &[LoginHome], observer: LoginObserver) -> Arc<Self> {
        Arc::new(Self {
            observer,
            // Codex has another working directory than we.
            homes: homes
                .iter()
                .map(|home| LoginHome {
                    label: home.label.clone(),
                    path: path::absolute(&home.path).unwrap_or_else(|_| home.path.clone()),
                })
                .collect(),
            slots: Mutex::new(Slots { uses: 0, each: vec![Slot::default(); homes.len()] }),
            freed: Notify::new(),
        })
    }

    pub(super) fn homes(&self) -> &[LoginHome] {
        &self.homes
    }

    pub(super) fn index(&self, label: &str) -> Option<usize> {
        self.homes.iter().position(|home| home.label == label)
    }

    /// Ok when at least one login can be used, else what is wrong with the first.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let mut first = None;
        for home in &self.homes {
            match auth::check(&home.path) {
                Ok(()) => return Ok(()),
                Err(failure) => first = first.or(Some(failure)),
            }
        }
        Err(first.unwrap_or_else(|| Failure::new(FailureCode::NotLoggedIn, "No login is set up.")))
    }

    /// The free, logged-in login that was used least recently; one that rests only when no
    /// other is free. Waits until there is one that is none of `tried`.
    pub(super) async fn any(
        self: &Arc<Self>,
        tried: &[usize],
        stop: &CancellationToken,
    ) -> Result<Lease, Refused> {
        let tried = tried.to_vec();
        self.wait(stop, move |logins| {
            logins.check().map_err(Refused::Failed)?;
            let slots = logins.slots();
            let now = jiff::Timestamp::now().as_second();
            let mut order: Vec<usize> =
                (0..logins.homes.len()).filter(|index| !tried.contains(index)).collect();
            order.sort_by_key(|&i| (slots.each[i].rests_until > now, slots.each[i].last_use));
            drop(slots);
            order.retain(|&i| auth::check(&logins.homes[i].path).is_ok());
            if order.is_empty() {
                return Err(Refused::Failed(Failure::new(
                    FailureCode::NotLoggedIn,
                    "No other login can be used.",
                )));
            }
            logins.pass(&order)
        })
        .await
    }

    /// Whether a login that is none of `tried` could be used and does not rest.
    pub(super) fn has_fresh(&self, tried: &[usize]) -> bool {
        let now = jiff::Timestamp::now().as_second();
        (0..self.homes.len()).any(|index| {
            !tried.contains(&index)
                && self.slots().each[index].rests_until <= now
                && auth::check(&self.homes[index].path).is_ok()
        })
    }

    /// When the first quota that is used up comes back.
    pub(super) fn first_quota(&self) -> Option<i64> {
        let now = jiff::Timestamp::now().as_second();
        let slots = self.slots();
        let used_up = slots.each.iter().filter(|slot| slot.quota && slot.rests_until > now);
        used_up.map(|slot| slot.rests_until).min()
    }

    /// This login, logged in or not; waits until it is free, here and elsewhere.
    pub(super) async fn this(self: &Arc<Self>, index: usize) -> Result<Lease, Refused> {
        self.wait(&CancellationToken::new(), move |logins| logins.pass(&[index])).await
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
                .map_err(|error| broken(&error.into()))??;
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
            if slots.each[index].busy {
                continue;
            }
            match lock(self.homes[index].path.join(LOCK_FILE)) {
                Ok(Some(lock)) => {
                    slots.uses += 1;
                    slots.each[index].last_use = slots.uses;
                    slots.each[index].busy = true;
                    let logins = Arc::clone(self);
                    return Ok(Pass::Leased(Lease { logins, index, lock: Arc::new(lock) }));
                }
                Ok(None) => contended = true,
                Err(failed) => error = Some(failed),
            }
        }
        match error {
            _ if contended => Ok(Pass::Contended),
            Some(error) if !slots.each.iter().any(|slot| slot.busy) => Err(broken(&error)),
            _ => Ok(Pass::Busy),
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to become of a job after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The reason was the login's own: another may do.
    NextLogin,
    /// It is what it is.
    Final,
}

impl Logins {
    /// The login for one more turn, in use or not.
    pub(super) fn choose(&self, tried: &[usize]) -> Result<usize, Failure> {
        self.check()?;
        let now = jiff::Timestamp::now().as_second();
        let slots = self.slots();
        let mut order: Vec<usize> =
            (0..self.homes.len()).filter(|index| !tried.contains(index)).collect();
        order.sort_by_key(|&i| (slots.each[i].rests_until > now, slots.each[i].last_use));
        drop(slots);
        order.retain(|&i| auth::check(&self.homes[i].path).is_ok());
        let index = *order
            .first()
            .ok_or_else(|| Failure::new(FailureCode::NotLoggedIn, "No other login can be used."))?;
        let mut slots = self.slots();
        slots.uses += 1;
        slots.each[index].last_use = slots.uses;
        Ok(index)
    }

    /// This login, unless another process holds it.
    pub(super) async fn try_this(self: &Arc<Self>, index: usize) -> Result<Option<Lease>, Refused> {
        let logins = Arc::clone(self);
        let pass = tokio::task::spawn_blocking(move || logins.pass(&[index]))
            .await
            .map_err(|error| broken(&error.into()))??;
        Ok(match pass {
            Pass::Leased(lease) => Some(lease),
            _ => None,
        })
    }

    pub(super) fn judge(
        &self,
        index: usize,
        outcome: Result<(), &Failure>,
        _limit: Option<&str>,
    ) -> Verdict {
        tracing::trace!(login = self.homes[index].label, ?outcome, "judged");
        match outcome {
            Err(Failure {
                code: FailureCode::QuotaExceeded | FailureCode::LoginExpired, ..
            }) => Verdict::NextLogin,
            _ => Verdict::Final,
        }
    }

    pub(super) fn note_quota(&self, index: usize, windows: Vec<super::status::QuotaWindow>) {
        (self.observer)(LoginEvent {
            login: self.homes[index].label.clone(),
            what: LoginNews::Quota(windows),
        });
    }

    pub(super) fn look(&self, index: usize) {
        tracing::trace!(login = self.homes[index].label, "looked at");
    }

    /// Waits until no Codex of an earlier process can still be at work in this home. One of
    /// ours that holds the login shows that there is none.
    pub(super) async fn over(self: &Arc<Self>, index: usize) -> Result<(), Refused> {
        loop {
            if self.slots().each[index].serves {
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
}

impl Lease {
    /// An app-server of this process has the login from now on.
    pub(super) fn serve(&self) {
        self.logins.slots().each[self.index].serves = true;
    }

    pub(super) fn home(&self) -> &LoginHome {
        &self.logins.homes[self.index]
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// The login cannot draw now: others are preferred until then.
    pub(super) fn rest(&self, until: i64, quota: bool) {
        {
            let slot = &mut self.logins.slots().each[self.index];
            (slot.rests_until, slot.quota) = (until, quota);
        }
        let reason = if quota { RestReason::Quota } else { RestReason::LoginExpired };
        let rest = Rest { until, reason, limit: None };
        (self.logins.observer)(LoginEvent {
            login: self.home().label.clone(),
            what: LoginNews::Rests(rest),
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        {
            let slot = &mut self.logins.slots().each[self.index];
            (slot.busy, slot.serves) = (false, false);
        }
        self.logins.freed.notify_waiters();
    }
}

fn broken(error: &io::Error) -> Refused {
    tracing::error!(%error, "a login's home cannot be used");
    Refused::Failed(Failure::new(
        FailureCode::CodexError,
        "The service cannot write in the home of the ChatGPT login.",
    ))
}

/// None when another process holds the lock.
fn lock(path: PathBuf) -> io::Result<Option<File>> {
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

    const AUTH: &str = r#"{"auth_mode":"chatgpt","tokens":{"access_token":"a"}}"#;

    fn logins(auth: &[Option<&str>]) -> (tempfile::TempDir, Arc<Logins>) {
        let dir = tempfile::tempdir().unwrap();
        let mut homes = Vec::new();
        for (n, auth) in auth.iter().enumerate() {
            let path = dir.path().join(n.to_string());
            std::fs::create_dir(&path).unwrap();
            if let Some(auth) = auth {
                std::fs::write(path.join("auth.json"), auth).unwrap();
            }
            homes.push(LoginHome { label: n.to_string(), path });
        }
        (dir, Logins::new(&homes, Arc::new(|_| {})))
    }

    async fn label(logins: &Arc<Logins>) -> String {
        let lease = logins.any(&[], &CancellationToken::new()).await;
        lease.unwrap_or_else(|_| panic!("no login")).home().label.clone()
    }

    #[tokio::test]
    async fn the_least_recently_used_login_is_next() {
        let (_dir, logins) = logins(&[Some(AUTH), Some(AUTH), None]);
        assert_eq!(label(&logins).await, "0");
        assert_eq!(label(&logins).await, "1");
        assert_eq!(label(&logins).await, "0");
    }

    #[tokio::test]
    async fn a_resting_login_is_the_last_choice() {
        let (_dir, logins) = logins(&[Some(AUTH), Some(AUTH)]);
        let stop = CancellationToken::new();
        let Ok(first) = logins.any(&[], &stop).await else { panic!("no login") };
        first.rest(i64::MAX, true);
        assert_eq!(logins.first_quota(), Some(i64::MAX));
        assert!(logins.has_fresh(&[]) && !logins.has_fresh(&[1]));
        drop(first);
        assert_eq!(label(&logins).await, "1");
        assert_eq!(label(&logins).await, "1");
        let Ok(_held) = logins.this(1).await else { panic!("no login") };
        assert_eq!(label(&logins).await, "0");
    }

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

    #[tokio::test]
    async fn nobody_logged_in_is_said_at_once() {
        let (_dir, logins) = logins(&[None, None]);
        let refused = logins.any(&[], &CancellationToken::new()).await;
        let Err(Refused::Failed(failure)) = refused else { panic!("handed out") };
        assert_eq!(failure.code, FailureCode::NotLoggedIn);
    }
}
