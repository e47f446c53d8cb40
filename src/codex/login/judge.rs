//! How each login stands, by all that is heard of it: what its turns came to, its quota's numbers,
//! its file, and what was known before a restart. What changes by it is told to the observer.

use super::{Logins, now};
use crate::codex::{
    Failure, FailureCode, auth,
    status::{LoginEvent, LoginNews, QuotaWindow, Rest},
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
    pub(in crate::codex) fn note_quota(&self, index: usize, windows: Vec<QuotaWindow>) {
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
                slots.fitness[index].forget_expiry();
                news.push((index, LoginNews::Wakes));
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
        let fitness = &mut self.slots().fitness[index];
        fitness.note_quota(quota, self.min_quota_percent, now());
        if let Some(rest) = rest {
            fitness.begin(rest, false);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codex::{
        failures,
        login::samples::{AUTH, logins},
    };

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
}
