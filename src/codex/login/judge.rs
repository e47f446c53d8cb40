//! How each login stands, by all that is heard of it: what its turns came to, its quota's numbers,
//! its file, and what was known before a restart. What changes by it is told to the observer.

use super::{
    Logins,
    fitness::{Fitness, UNKNOWN_REST},
    now,
};
use crate::codex::{
    Failure, FailureCode, auth,
    status::{LoginEvent, LoginNews, QuotaWindow, Rest, RestReason},
};

/// What is to become of a job after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::codex) enum Verdict {
    /// The reason was the login's own: another may do.
    NextLogin,
    /// It is what it is.
    Final,
}

impl Logins {
    /// Notes what a turn came to. `limit` is the one that is used up, where Codex named it.
    pub(in crate::codex) fn judge(
        &self,
        index: usize,
        outcome: Result<(), &Failure>,
        limit: Option<&str>,
    ) -> Verdict {
        let failure = match outcome {
            Ok(()) => {
                let news = {
                    let fitness = &mut self.slots().fitness[index];
                    change(fitness, now(), Fitness::note_success)
                };
                self.tell(news.map(|news| (index, news)).into_iter().collect());
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
                let now = now();
                // Told is the rest that counts, which may be another than the failure's.
                let changed = change(&mut slots.fitness[other], now, |fitness| {
                    fitness.note_failure(failure, limit, now);
                });
                if failure.code == FailureCode::LoginExpired {
                    slots.each[other].expired = auth::stamp(&self.homes[other].path);
                }
                if other == index && of_the_user {
                    news.push((other, LoginNews::Failed(failure.code)));
                }
                news.extend(changed.map(|changed| (other, changed)));
            }
        }
        self.tell(news);
        if of_the_user { Verdict::NextLogin } else { Verdict::Final }
    }

    /// Notes all windows of a login's limits.
    pub(in crate::codex) fn note_quota(&self, index: usize, windows: Vec<QuotaWindow>) {
        let now = now();
        let mut news = vec![(index, LoginNews::Quota(windows.clone()))];
        {
            let fitness = &mut self.slots().fitness[index];
            let changed = change(fitness, now, |fitness| {
                fitness.note_quota(windows, self.live.now().codex_min_quota_percent, now);
            });
            news.extend(changed.map(|changed| (index, changed)));
        }
        self.tell(news);
    }

    /// All windows of a login's limits, as far as known.
    pub(in crate::codex) fn quota(&self, index: usize) -> Vec<QuotaWindow> {
        self.slots().fitness[index].quota().to_vec()
    }

    /// Looks at the login's file: whose it is, whether its token is another, whether it was signed
    /// in anew.
    pub(in crate::codex) fn look(&self, index: usize) {
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
                let changed = change(&mut slots.fitness[index], now(), Fitness::forget_expiry);
                news.extend(changed.map(|changed| (index, changed)));
            }
        }
        self.tell(news);
    }

    /// What was known before a restart.
    pub(in crate::codex) fn restore(
        &self,
        label: &str,
        rest: Option<Rest>,
        quota: Vec<QuotaWindow>,
    ) {
        let Some(index) = self.index(label) else { return };
        let stamp = auth::stamp(&self.homes[index].path);
        let mut slots = self.slots();
        if !quota.is_empty() {
            slots.fitness[index].note_quota(quota, self.live.now().codex_min_quota_percent, now());
        }
        let Some(rest) = rest else { return };
        if rest.reason == RestReason::LoginExpired {
            // Which file had expired is not stored, but since when: one that was written after that
            // is of a new sign-in, which the first look will find.
            let since = rest.until - UNKNOWN_REST;
            let expired = stamp.filter(|stamp| auth::written(stamp) <= since);
            slots.each[index].expired = Some(expired.unwrap_or_default());
        }
        slots.fitness[index].restore(rest);
    }

    /// Lets the login rest until then; by hand.
    pub(in crate::codex) fn leave_alone(&self, label: &str, until: i64) {
        let Some(index) = self.index(label) else { return };
        let rest = Rest { until, reason: RestReason::ByHand, limit: None };
        let counts = {
            let (fitness, now) = (&mut self.slots().fitness[index], now());
            fitness.begin(rest.clone(), false);
            fitness.rest(now).cloned()
        };
        let mut news = vec![(index, LoginNews::Rests(rest.clone()))];
        // The last that is told is the one that counts.
        news.extend(counts.filter(|counts| *counts != rest).map(|c| (index, LoginNews::Rests(c))));
        self.tell(news);
    }

    /// Ends the login's rests; by hand.
    pub(in crate::codex) fn wake(&self, label: &str) {
        let Some(index) = self.index(label) else { return };
        {
            let mut slots = self.slots();
            slots.fitness[index].wake();
            slots.each[index].expired = None;
        }
        self.tell(vec![(index, LoginNews::Wakes)]);
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
}

/// Does something to what is known of a login; gives how that changes its rest, for whoever keeps
/// it: another rest than before, or none.
fn change(fitness: &mut Fitness, now: i64, with: impl FnOnce(&mut Fitness)) -> Option<LoginNews> {
    let before = fitness.rest(now).cloned();
    with(fitness);
    match fitness.rest(now) {
        Some(rest) if before.as_ref() != Some(rest) => Some(LoginNews::Rests(rest.clone())),
        None if before.is_some() => Some(LoginNews::Wakes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::codex::{
        failures,
        login::{
            Taken,
            samples::{AUTH, logins},
        },
    };
    use crate::config::Live;

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
    async fn a_woken_login_is_used_at_once() {
        let (_dir, logins) = logins(&[Some(AUTH)]);
        let window = QuotaWindow {
            limit: "codex".into(),
            minutes: 300,
            used_percent: 100,
            resets_at: Some(now() + 1000),
        };
        logins.note_quota(0, vec![window]);
        for failure in [failures::exhausted(None), failures::expired()] {
            logins.judge(0, Err(&failure), None);
        }
        assert!(logins.choose(&[]).is_err());
        logins.wake("0");
        assert_eq!(logins.choose(&[]), Ok(0));
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

    /// The rests that are told of a login: Some, or None for its waking.
    type Rests = Arc<Mutex<Vec<Option<Rest>>>>;

    fn observed() -> (tempfile::TempDir, Arc<Logins>, Rests) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("auth.json"), AUTH).unwrap();
        let home = crate::config::LoginHome { label: "0".into(), path: dir.path().to_owned() };
        let told = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&told);
        let observer = Arc::new(move |event: LoginEvent| match event.what {
            LoginNews::Rests(rest) => hears.lock().unwrap().push(Some(rest)),
            LoginNews::Wakes => hears.lock().unwrap().push(None),
            _ => {}
        });
        (dir, Logins::new(&[home], observer, Live::default()), told)
    }

    fn reasons(told: &Mutex<Vec<Option<Rest>>>) -> Vec<Option<RestReason>> {
        let told = std::mem::take(&mut *told.lock().unwrap());
        told.into_iter().map(|rest| rest.map(|rest| rest.reason)).collect()
    }

    fn sign_in(dir: &tempfile::TempDir) {
        std::fs::write(dir.path().join("auth.json"), format!("{AUTH} ")).unwrap();
    }

    #[test]
    fn a_login_wakes_when_nothing_rests_any_more() {
        let (dir, logins, told) = observed();
        logins.judge(0, Err(&failures::exhausted(Some(now() + 3600))), None);
        logins.judge(0, Err(&failures::expired()), None);
        reasons(&told);
        sign_in(&dir);
        logins.look(0);
        assert!(!reasons(&told).contains(&None), "it still rests");
        assert_eq!(logins.choose(&[]).unwrap_err().code, FailureCode::QuotaExceeded);
    }

    #[test]
    fn a_success_ends_the_rest_after_faults_and_says_so() {
        let (_dir, logins, told) = observed();
        let fault = Failure::new(FailureCode::CodexError, "x");
        for success in [true, false] {
            for _ in 0..3 {
                logins.judge(0, Err(&fault), None);
            }
            assert_eq!(reasons(&told), [Some(RestReason::Faults)]);
            let refused = Failure::new(FailureCode::ModelRefused, "x");
            logins.judge(0, if success { Ok(()) } else { Err(&refused) }, None);
            assert_eq!(reasons(&told), [None]);
        }
    }

    #[test]
    fn the_rest_that_counts_is_the_last_that_is_told() {
        let (_dir, logins, told) = observed();
        logins.leave_alone("0", now() + 7200);
        assert_eq!(reasons(&told), [Some(RestReason::ByHand)]);
        // Of a picture that was on its way.
        logins.judge(0, Err(&failures::exhausted(Some(now() + 3600))), None);
        logins.judge(0, Ok(()), None);
        assert_eq!(reasons(&told), []);
        logins.leave_alone("0", now() + 1800);
        assert_eq!(reasons(&told), [Some(RestReason::ByHand), Some(RestReason::Quota)]);
        // What was told before a restart is told once more as it was, and takes nothing away.
        let window = QuotaWindow {
            limit: "codex".into(),
            minutes: 300,
            used_percent: 1,
            resets_at: Some(now() + 60),
        };
        logins.note_quota(0, vec![window.clone()]);
        let rest = Rest { until: now() + 9000, reason: RestReason::ByHand, limit: None };
        logins.restore("0", Some(rest.clone()), Vec::new());
        assert_eq!((logins.quota(0), reasons(&told)), (vec![window], vec![]));
        assert_eq!(logins.statuses()[0].rest, Some(rest));
    }

    #[test]
    fn a_new_sign_in_is_noticed_after_a_restart() {
        // Before the restart and after it.
        for before in [true, false] {
            let (dir, logins, told) = observed();
            let reason = RestReason::LoginExpired;
            // The file is of now; it expired before it was written, or just after.
            let since = if before { now() - 100 } else { now() + 100 };
            let rest = Rest { until: since + UNKNOWN_REST, reason, limit: None };
            logins.restore("0", Some(rest), Vec::new());
            if !before {
                logins.look(0);
                assert_eq!(logins.choose(&[]).unwrap_err().code, FailureCode::LoginExpired);
                sign_in(&dir);
            }
            assert_eq!(logins.choose(&[]), Ok(0));
            assert_eq!(reasons(&told), [None]);
        }
    }

    #[test]
    fn a_login_held_here_is_not_held_elsewhere() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let (_dir, logins, _told) = observed();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(!logins.statuses()[0].busy_elsewhere);
                }
            });
            let runtime = tokio::runtime::Runtime::new().unwrap();
            for _ in 0..300 {
                let taken = runtime.block_on(logins.try_this(0));
                let held = matches!(taken, Ok(Taken::Lease(_)));
                if !held {
                    done.store(true, Ordering::Relaxed);
                }
                assert!(held, "it is free");
                let second = runtime.block_on(logins.try_this(0));
                let here = matches!(second, Ok(Taken::Here));
                if !here {
                    done.store(true, Ordering::Relaxed);
                }
                assert!(here, "this process has it");
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
