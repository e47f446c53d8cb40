//! Which login is next: of those that are there and do not rest, the one that has the most left, or
//! the first. When there is none it says why, and until when.

use super::{Logins, fitness, now};
use crate::codex::{
    Failure, FailureCode, auth, failures,
    status::{Dispatch, Rest, RestReason, UNTIL_WOKEN},
};

impl Logins {
    /// Ok when at least one login can be used, else what is wrong with the first.
    pub(in crate::codex) fn check(&self) -> Result<(), Failure> {
        let mut first = None;
        for home in &self.homes {
            match auth::check(&home.path) {
                Ok(()) => return Ok(()),
                Err(failure) => first = first.or(Some(failure)),
            }
        }
        Err(first.unwrap_or_else(|| Failure::new(FailureCode::NotLoggedIn, "No login is set up.")))
    }

    /// The login for one more turn, in use or not; none of `tried`. Reads the login files.
    pub(in crate::codex) fn choose(&self, tried: &[usize]) -> Result<usize, Failure> {
        let order = self.order(tried)?;
        self.took(&order, order[0]);
        Ok(order[0])
    }

    /// Those that can be used, the next one first; never empty.
    pub(super) fn order(&self, tried: &[usize]) -> Result<Vec<usize>, Failure> {
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
        let has = |reasons: &[RestReason]| rests.clone().any(|rest| reasons.contains(&rest.reason));
        // The others end by what somebody does.
        let ends = |rest: &&Rest| match rest.reason {
            RestReason::Quota | RestReason::LowQuota => true,
            RestReason::ByHand => rest.until < UNTIL_WOKEN,
            RestReason::LoginExpired | RestReason::Faults => false,
        };
        let back = rests.clone().filter(ends).map(|rest| rest.until).min();
        if has(&[RestReason::Quota, RestReason::LowQuota]) {
            failures::exhausted(back)
        } else if has(&[RestReason::ByHand]) {
            failures::left_alone(back)
        } else if has(&[RestReason::LoginExpired, RestReason::Faults]) {
            failures::expired()
        } else {
            Failure::new(FailureCode::NotLoggedIn, "No other login can be used.")
        }
    }

    pub(super) fn took(&self, order: &[usize], taken: usize) {
        fitness::pay(&mut self.slots().fitness, order, taken);
    }

    /// When every login that is there rests, until when the first of them does.
    pub(in crate::codex) fn all_rest_until(&self) -> Option<i64> {
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
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::codex::login::{
        Refused, Verdict,
        samples::{AUTH, logins},
    };

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
    async fn logins_left_alone_are_not_said_to_lack_quota() {
        let (_dir, logins) = logins(&[Some(AUTH), Some(AUTH)]);
        let (soon, later) = (now() + 100, now() + 200);
        logins.leave_alone("0", later);
        assert_eq!((label(&logins).await.as_str(), logins.all_rest_until()), ("1", None));
        logins.leave_alone("1", UNTIL_WOKEN);
        let refused = logins.choose(&[]).unwrap_err();
        assert_eq!((refused.code, refused.retry_at), (FailureCode::LoginsRest, Some(later)));
        assert_eq!(logins.all_rest_until(), Some(later));
        logins.leave_alone("0", UNTIL_WOKEN);
        assert_eq!(logins.choose(&[]).unwrap_err().retry_at, None, "nobody knows");
        logins.wake("0");
        assert_eq!(logins.choose(&[]), Ok(0));
        let used_up = Failure { retry_at: Some(soon), ..failures::exhausted(None) };
        logins.judge(0, Err(&used_up), None);
        let refused = logins.choose(&[]).unwrap_err();
        assert_eq!((refused.code, refused.retry_at), (FailureCode::QuotaExceeded, Some(soon)));
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
    async fn nobody_logged_in_is_said_at_once() {
        let (_dir, logins) = logins(&[None, None]);
        let refused = logins.any(&[], &CancellationToken::new()).await;
        let Err(Refused::Failed(failure)) = refused else { panic!("handed out") };
        assert_eq!(failure.code, FailureCode::NotLoggedIn);
    }
}
