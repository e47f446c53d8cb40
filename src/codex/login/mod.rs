//! Chooses logins and hands them out, each to one Codex at a time: processes do not coordinate their
//! token refresh, so two at once can burn the single-use refresh token. The lock is held in this
//! process and, by flock, on a file in the home, whose descriptor the child inherits: it stays
//! taken until the last process that has it is gone, whatever became of the service.

mod fitness;

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

use self::fitness::Fitness;
use super::{
    Failure, FailureCode, LoginObserver, auth, failures,
    status::{Dispatch, LoginEvent, LoginNews, LoginStatus, QuotaWindow, Rest, RestReason},
};
use crate::config::LoginHome;

const LOCK_FILE: &str = ".codex-image-service.lock";
/// Nobody tells when another process lets go of a flock.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// The logins of the settings, which of them are in use, and how they stand.
pub(super) struct Logins {
    homes: Vec<LoginHome>,
    observer: LoginObserver,
    /// A login with less of its quota left rests; 0 = never.
    min_quota_percent: u8,
    slots: Mutex<Slots>,
    freed: Notify,
}

struct Slots {
    dispatch: Dispatch,
    each: Vec<Slot>,
    fitness: Vec<Fitness>,
}

/// By what of this process a login is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Held {
    #[default]
    Free,
    Run,
    AppServer,
}

#[derive(Clone, Default)]
struct Slot {
    held: Held,
    /// At the last look it was not logged in.
    absent: bool,
    /// That it is held elsewhere was said.
    said_contended: bool,
    /// Whose it was at the last look, and the refresh token's fingerprint.
    user: Option<String>,
    fingerprint: Option<String>,
    /// The login file when its session turned out to have expired.
    expired: Option<auth::Stamp>,
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
    pub(super) fn new(
        homes: &[LoginHome],
        observer: LoginObserver,
        min_quota_percent: u8,
    ) -> Arc<Self> {
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
            min_quota_percent,
            slots: Mutex::new(Slots {
                dispatch: Dispatch::default(),
                each: vec![Slot::default(); homes.len()],
                fitness: vec![Fitness::default(); homes.len()],
            }),
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

    /// The login that is next and free; waits until one that is none of `tried` is free. Fails
    /// when none could be used even if it were free.
    pub(super) async fn any(
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

    /// The login for one more turn, in use or not; none of `tried`. Reads the login files.
    pub(super) fn choose(&self, tried: &[usize]) -> Result<usize, Failure> {
        let order = self.order(tried)?;
        self.took(&order, order[0]);
        Ok(order[0])
    }

    /// Those that can be used, the next one first; never empty.
    fn order(&self, tried: &[usize]) -> Result<Vec<usize>, Failure> {
        self.check()?;
        for index in 0..self.homes.len() {
            self.look(index);
        }
        let now = now();
        let slots = self.slots();
        let present = (0..self.homes.len()).filter(|index| !slots.each[*index].absent);
        let open: Vec<usize> = present.clone().filter(|index| !tried.contains(index)).collect();
        let rest = |index: usize| slots.fitness[index].rest(now);
        let mut usable: Vec<usize> =
            open.iter().copied().filter(|&index| rest(index).is_none()).collect();
        if usable.is_empty() {
            // Better one that was faulty than none.
            let faulty = |rest: &Rest| rest.reason == RestReason::Faults;
            usable.extend(open.iter().copied().filter(|&index| rest(index).is_some_and(faulty)));
        }
        match slots.dispatch {
            _ if usable.is_empty() => Err(Self::exhausted(&present.filter_map(rest))),
            Dispatch::PrimaryFirst => Ok(usable),
            Dispatch::RoundRobin => Ok(fitness::richest(&slots.fitness, &usable)),
        }
    }

    /// Why none can be used, and until when.
    fn exhausted<'a>(rests: &(impl Iterator<Item = &'a Rest> + Clone)) -> Failure {
        let quota = |rest: &&Rest| matches!(rest.reason, RestReason::Quota | RestReason::LowQuota);
        let back = rests.clone().filter(quota).map(|rest| rest.until).min();
        match back {
            Some(back) => failures::exhausted(Some(back)),
            None if rests.clone().next().is_some() => failures::expired(),
            None => Failure::new(FailureCode::NotLoggedIn, "No other login can be used."),
        }
    }

    fn took(&self, order: &[usize], taken: usize) {
        fitness::pay(&mut self.slots().fitness, order, taken);
    }

    /// Notes what a turn came to. `limit` is the one that is used up, where Codex named it.
    pub(super) fn judge(
        &self,
        index: usize,
        outcome: Result<(), &Failure>,
        limit: Option<&str>,
    ) -> Verdict {
        let failure = match outcome {
            Ok(()) => {
                self.slots().fitness[index].note_success();
                return Verdict::Final;
            }
            Err(failure) => failure,
        };
        let of_the_user =
            matches!(failure.code, FailureCode::QuotaExceeded | FailureCode::LoginExpired);
        let mut news = Vec::new();
        {
            let mut slots = self.slots();
            let user = slots.each[index].user.clone();
            for other in 0..self.homes.len() {
                // One user's logins share the user's quota and session.
                let same = of_the_user && user.is_some() && slots.each[other].user == user;
                if other != index && !same {
                    continue;
                }
                let rest = slots.fitness[other].note_failure(failure, limit, now());
                if failure.code == FailureCode::LoginExpired {
                    slots.each[other].expired = auth::stamp(&self.homes[other].path);
                }
                if other == index && of_the_user {
                    news.push((other, LoginNews::Failed(failure.code)));
                }
                news.extend(rest.map(|rest| (other, LoginNews::Rests(rest))));
            }
        }
        self.tell(news);
        if of_the_user { Verdict::NextLogin } else { Verdict::Final }
    }

    /// Notes all windows of a login's limits.
    pub(super) fn note_quota(&self, index: usize, windows: Vec<QuotaWindow>) {
        let now = now();
        let mut news = vec![(index, LoginNews::Quota(windows.clone()))];
        {
            let fitness = &mut self.slots().fitness[index];
            let before = fitness.rest(now).cloned();
            fitness.note_quota(windows, self.min_quota_percent, now);
            match (before, fitness.rest(now).cloned()) {
                (before, Some(rest)) if before.as_ref() != Some(&rest) => {
                    news.push((index, LoginNews::Rests(rest)));
                }
                (Some(_), None) => news.push((index, LoginNews::Wakes)),
                _ => {}
            }
        }
        self.tell(news);
    }

    /// Looks at the login's file: whose it is, whether its token is another, whether it was signed
    /// in anew.
    pub(super) fn look(&self, index: usize) {
        let home = &self.homes[index].path;
        let (absent, claims, stamp) =
            (auth::check(home).is_err(), auth::claims(home), auth::stamp(home));
        let mut news = Vec::new();
        {
            let mut slots = self.slots();
            let slot = &mut slots.each[index];
            slot.absent = absent;
            slot.user = claims.user;
            if let Some(after) = claims.fingerprint {
                let before = slot.fingerprint.replace(after.clone());
                if before.as_ref().is_some_and(|before| *before != after) {
                    news.push((index, LoginNews::Rotated { before, after }));
                }
            }
            if slot.expired.is_some() && slot.expired != stamp {
                slot.expired = None;
                slots.fitness[index].forget_expiry();
                news.push((index, LoginNews::Wakes));
            }
        }
        self.tell(news);
    }

    /// When every login that is there rests, until when the first of them does.
    pub(super) fn all_rest_until(&self) -> Option<i64> {
        let now = now();
        let slots = self.slots();
        let mut first = None;
        for (slot, fitness) in slots.each.iter().zip(&slots.fitness) {
            match fitness.rest(now) {
                Some(rest) if rest.reason != RestReason::Faults => {
                    first = Some(first.map_or(rest.until, |first: i64| first.min(rest.until)));
                }
                _ if slot.absent => {}
                _ => return None,
            }
        }
        first
    }

    /// What was known before a restart.
    pub(super) fn restore(&self, label: &str, rest: Option<Rest>, quota: Vec<QuotaWindow>) {
        let Some(index) = self.index(label) else { return };
        let fitness = &mut self.slots().fitness[index];
        fitness.note_quota(quota, self.min_quota_percent, now());
        if let Some(rest) = rest {
            fitness.begin(rest, false);
        }
    }

    pub(super) fn set_dispatch(&self, dispatch: Dispatch) {
        self.slots().dispatch = dispatch;
    }

    /// How all of them stand; reads their files and tries their locks.
    pub(super) fn statuses(&self) -> Vec<LoginStatus> {
        let status = |(index, home): (usize, &LoginHome)| {
            let claims = auth::claims(&home.path);
            let busy = self.slots().each[index].held != Held::Free;
            let path = home.path.join(LOCK_FILE);
            let busy_elsewhere = !busy && path.exists() && matches!(lock(path), Ok(None));
            let slots = self.slots();
            let fitness = &slots.fitness[index];
            LoginStatus {
                label: home.label.clone(),
                problem: auth::check(&home.path).err(),
                account: claims.account,
                plan: claims.plan,
                expires_at: claims.expires_at,
                busy_elsewhere,
                rest: fitness.rest(now()).cloned(),
                quota: fitness.quota().to_vec(),
            }
        };
        self.homes.iter().enumerate().map(status).collect()
    }

    /// What about the logins may go wrong later, in sentences for the log.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut users: Vec<(String, &str)> = Vec::new();
        for LoginHome { label, path } in &self.homes {
            warnings.extend(
                auth::warnings(path).into_iter().map(|text| format!("login {label}: {text}")),
            );
            let Some(user) = auth::claims(path).user else { continue };
            match users.iter().find(|(known, _)| *known == user) {
                Some((_, other)) => warnings.push(format!(
                    "login {label}: the same ChatGPT user as login {other}; they share one quota \
                     and one session"
                )),
                None => users.push((user, label)),
            }
        }
        warnings
    }

    /// Never under the lock: the observer may do anything.
    fn tell(&self, news: Vec<(usize, LoginNews)>) {
        for (index, what) in news {
            let login = self.homes[index].label.clone();
            match &what {
                LoginNews::Rests(rest) => {
                    let Rest { until, reason, limit } = rest;
                    tracing::warn!(login, until, reason = reason.as_str(), limit, "login rests");
                }
                LoginNews::Wakes => tracing::info!(login, "login is used again"),
                _ => {}
            }
            (self.observer)(LoginEvent { login, what });
        }
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
                Err(failed) => error = Some(failed),
            }
        }
        match error {
            _ if contended => Ok(Pass::Contended),
            Some(error) if !slots.each.iter().any(|slot| slot.held != Held::Free) => {
                Err(broken(&error))
            }
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

    /// Waits until no Codex of an earlier process can still be at work in this home. One of
    /// ours that holds the login shows that there is none.
    pub(super) async fn over(self: &Arc<Self>, index: usize) -> Result<(), Refused> {
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
}

impl Lease {
    /// An app-server of this process has the login from now on.
    pub(super) fn serve(&self) {
        self.logins.slots().each[self.index].held = Held::AppServer;
    }

    pub(super) fn home(&self) -> &LoginHome {
        &self.logins.homes[self.index]
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.logins.slots().each[self.index].held = Held::Free;
        self.logins.freed.notify_waiters();
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn broken(error: &io::Error) -> Refused {
    tracing::error!(%error, "a login's home cannot be used");
    Refused::Failed(Failure::new(
        FailureCode::CodexError,
        "The service cannot write in the home of the ChatGPT login.",
    ))
}

/// Takes the lock of a home; None when another process holds it.
pub(super) fn lock_home(home: &path::Path) -> io::Result<Option<File>> {
    lock(home.join(LOCK_FILE))
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
        (dir, Logins::new(&homes, Arc::new(|_| {}), 5))
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
    async fn a_resting_login_is_not_used() {
        let (_dir, logins) = logins(&[Some(AUTH), Some(AUTH)]);
        let back = now() + 100;
        let used_up = Failure { retry_at: Some(back), ..failures::exhausted(None) };
        assert_eq!(logins.judge(0, Err(&used_up), None), Verdict::NextLogin);
        assert_eq!(label(&logins).await, "1");
        assert_eq!(label(&logins).await, "1");
        assert_eq!(logins.all_rest_until(), None);
        let refused = logins.choose(&[1]).unwrap_err();
        assert_eq!((refused.code, refused.retry_at), (FailureCode::QuotaExceeded, Some(back)));
        let later = Failure { retry_at: Some(back + 50), ..failures::exhausted(None) };
        logins.judge(1, Err(&later), None);
        assert_eq!(logins.all_rest_until(), Some(back));
        assert_eq!(logins.choose(&[]).unwrap_err().retry_at, Some(back));
    }

    #[tokio::test]
    async fn the_first_is_preferred_when_it_is_wanted() {
        let (_dir, logins) = logins(&[Some(AUTH), Some(AUTH)]);
        logins.set_dispatch(Dispatch::PrimaryFirst);
        assert_eq!((logins.choose(&[]), logins.choose(&[])), (Ok(0), Ok(0)));
        assert_eq!(logins.choose(&[0]), Ok(1));
    }

    #[tokio::test]
    async fn a_faulty_login_is_better_than_none() {
        let (_dir, logins) = logins(&[Some(AUTH)]);
        for _ in 0..5 {
            let fault = Failure::new(FailureCode::CodexError, "x");
            assert_eq!(logins.judge(0, Err(&fault), None), Verdict::Final);
        }
        assert_eq!(logins.choose(&[]), Ok(0));
        assert_eq!(logins.all_rest_until(), None);
    }

    #[tokio::test]
    async fn logins_of_one_user_rest_together() {
        let auth = |user: &str| {
            use base64::Engine as _;
            let claims =
                format!(r#"{{"https://api.openai.com/auth":{{"chatgpt_user_id":"{user}"}}}}"#);
            let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
            format!(
                r#"{{"auth_mode":"chatgpt","tokens":{{"access_token":"a","id_token":"h.{claims}.s"}}}}"#
            )
        };
        let (one, two) = (auth("one"), auth("two"));
        let (_dir, logins) = logins(&[Some(&one), Some(&one), Some(&two)]);
        assert_eq!(logins.choose(&[]), Ok(0));
        logins.judge(0, Err(&failures::exhausted(None)), None);
        assert_eq!((logins.choose(&[]), logins.choose(&[])), (Ok(2), Ok(2)));
        assert!(logins.warnings().iter().any(|text| text.contains("same ChatGPT user")));
    }

    #[tokio::test]
    async fn signing_in_anew_ends_the_rest_of_an_expired_login() {
        let (dir, logins) = logins(&[Some(AUTH)]);
        assert_eq!(logins.choose(&[]), Ok(0));
        logins.judge(0, Err(&failures::expired()), None);
        assert_eq!(logins.choose(&[]).unwrap_err().code, FailureCode::LoginExpired);
        std::fs::write(dir.path().join("0/auth.json"), format!("{AUTH} ")).unwrap();
        assert_eq!(logins.choose(&[]), Ok(0));
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
