//! Whether a login can be used now: its rests, its faults and its quota. Nothing here reads a clock
//! or a file.

use crate::codex::{
    Failure, FailureCode,
    status::{QuotaWindow, Rest, RestReason},
};

/// When nobody said for how long.
pub(super) const UNKNOWN_REST: i64 = 300;
/// From so many faults in a row a login rests, for so long, and then twice as long each time.
const FAULTS: u32 = 3;
const FIRST_BACKOFF: i64 = 30;
const LONGEST_BACKOFF: i64 = 1800;
/// The limits that a picture spends: a turn of the model and the image itself.
const SPENT: [&str; 2] = ["codex", "image_gen"];

/// What is known of a login.
#[derive(Clone, Debug, Default)]
pub(super) struct Fitness {
    rests: Vec<Told>,
    faults: u32,
    quota: Vec<QuotaWindow>,
    /// Of the smooth weighted round-robin.
    pub(super) credit: i64,
}

/// A rest and who told of it.
#[derive(Clone, Debug)]
struct Told {
    rest: Rest,
    /// The quota's numbers, which may take it back; a failure may not.
    by_numbers: bool,
}

impl Fitness {
    /// The rest that lasts longest, if the login rests.
    pub(super) fn rest(&self, now: i64) -> Option<&Rest> {
        let active = self.rests.iter().map(|told| &told.rest).filter(|rest| rest.until > now);
        // Behind a used-up quota it does not matter that there were faults as well.
        active.max_by_key(|rest| (rest.reason != RestReason::Faults, rest.until))
    }

    /// The percentage left of the tightest window; 100 when none is known.
    pub(super) fn left(&self) -> i64 {
        let used = self.quota.iter().filter(|window| is_spent(&window.limit));
        100 - used.map(|window| i64::from(window.used_percent)).max().unwrap_or(0)
    }

    pub(super) fn quota(&self) -> &[QuotaWindow] {
        &self.quota
    }

    /// Notes that a turn gave a picture, or failed for a reason of its own.
    pub(super) fn note_success(&mut self) {
        self.faults = 0;
        self.rests.retain(|told| told.rest.reason != RestReason::Faults);
    }

    /// Notes a turn that failed; gives the rest that the login takes now.
    pub(super) fn note_failure(
        &mut self,
        failure: &Failure,
        limit: Option<&str>,
        now: i64,
    ) -> Option<Rest> {
        let (reason, until) = match failure.code {
            FailureCode::QuotaExceeded => {
                (RestReason::Quota, failure.retry_at.unwrap_or(now + UNKNOWN_REST))
            }
            FailureCode::LoginExpired => (RestReason::LoginExpired, now + UNKNOWN_REST),
            FailureCode::CodexError | FailureCode::Timeout => {
                self.faults = self.faults.saturating_add(1);
                let past = self.faults.checked_sub(FAULTS)?;
                let backoff = FIRST_BACKOFF << past.min(16);
                (RestReason::Faults, now + backoff.min(LONGEST_BACKOFF))
            }
            _ => {
                self.note_success();
                return None;
            }
        };
        let limit = limit.filter(|_| reason == RestReason::Quota).map(str::to_owned);
        let rest = Rest { until, reason, limit };
        self.begin(rest.clone(), false);
        Some(rest)
    }

    /// Rests from now on.
    pub(super) fn begin(&mut self, rest: Rest, by_numbers: bool) {
        self.rests
            .retain(|told| (told.rest.reason, &told.rest.limit) != (rest.reason, &rest.limit));
        self.rests.push(Told { rest, by_numbers });
    }

    /// What was known before a restart. What the numbers said they may take back: little left is
    /// said by nobody else, and a used-up limit by them when they still say the same.
    pub(super) fn restore(&mut self, rest: Rest) {
        let of_numbers = rest.reason == RestReason::LowQuota
            || self.rests.iter().any(|told| told.by_numbers && told.rest == rest);
        self.begin(rest, of_numbers);
    }

    /// The session was renewed from outside.
    pub(super) fn forget_expiry(&mut self) {
        self.rests.retain(|told| told.rest.reason != RestReason::LoginExpired);
    }

    /// Somebody says that it can be used; numbers that said otherwise are forgotten with the rests.
    pub(super) fn wake(&mut self) {
        self.rests.clear();
        self.quota.clear();
        self.faults = 0;
    }

    /// Notes fresh numbers. A limit with less than `min_percent` left rests until it starts anew.
    pub(super) fn note_quota(&mut self, windows: Vec<QuotaWindow>, min_percent: u8, now: i64) {
        self.rests.retain(|told| !told.by_numbers && told.rest.until > now);
        self.quota = windows;
        for window in self.quota.clone() {
            let left = 100 - window.used_percent.min(100);
            let reason = match left {
                0 => RestReason::Quota,
                left if left < min_percent => RestReason::LowQuota,
                _ => continue,
            };
            let until = window.resets_at.unwrap_or(now + UNKNOWN_REST);
            if !is_spent(&window.limit) || until <= now {
                continue;
            }
            let known = self.rests.iter().find(|told| {
                (told.rest.reason, told.rest.limit.as_ref()) == (reason, Some(&window.limit))
            });
            // Of several windows the one that lasts longest counts, and a failure's word stays.
            if known.is_none_or(|told| told.by_numbers && told.rest.until < until) {
                self.begin(Rest { until, reason, limit: Some(window.limit) }, true);
            }
        }
    }
}

fn is_spent(limit: &str) -> bool {
    SPENT.contains(&limit)
}

/// Which of the candidates is next, by smooth weighted round-robin: each gains its weight, the
/// richest is taken and pays what all gained.
pub(super) fn richest(fitness: &[Fitness], candidates: &[usize]) -> Vec<usize> {
    let mut order = candidates.to_vec();
    order.sort_by_key(|&index| {
        (std::cmp::Reverse(fitness[index].credit + weight(&fitness[index])), index)
    });
    order
}

/// Settles the accounts when `taken` of the candidates was used.
pub(super) fn pay(fitness: &mut [Fitness], candidates: &[usize], taken: usize) {
    let total: i64 = candidates.iter().map(|&index| weight(&fitness[index])).sum();
    for &index in candidates {
        fitness[index].credit += weight(&fitness[index]);
    }
    fitness[taken].credit -= total;
}

fn weight(fitness: &Fitness) -> i64 {
    fitness.left().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn failed(code: FailureCode, retry_at: Option<i64>) -> Failure {
        Failure { retry_at, ..Failure::new(code, "x") }
    }

    fn window(limit: &str, used_percent: u8, resets_at: i64) -> QuotaWindow {
        QuotaWindow { limit: limit.into(), minutes: 300, used_percent, resets_at: Some(resets_at) }
    }

    #[test]
    fn a_used_up_quota_rests_until_its_reset() {
        let mut login = Fitness::default();
        let failure = failed(FailureCode::QuotaExceeded, Some(NOW + 50));
        let rest = login.note_failure(&failure, Some("image_gen"), NOW).unwrap();
        assert_eq!((rest.until, rest.limit.as_deref()), (NOW + 50, Some("image_gen")));
        assert!(login.rest(NOW + 49).is_some() && login.rest(NOW + 50).is_none());
        // Numbers that say otherwise do not take back what a failure said.
        login.note_quota(vec![window("image_gen", 5, NOW + 50)], 5, NOW);
        assert!(login.rest(NOW).is_some());
    }

    #[test]
    fn each_limit_has_its_own_rest() {
        let mut login = Fitness::default();
        for (limit, until) in [("codex", 10), ("image_gen", 70)] {
            let failure = failed(FailureCode::QuotaExceeded, Some(NOW + until));
            login.note_failure(&failure, Some(limit), NOW);
        }
        assert_eq!(login.rest(NOW).unwrap().until, NOW + 70);
        assert_eq!(login.rest(NOW + 20).unwrap().limit.as_deref(), Some("image_gen"));
    }

    #[test]
    fn faults_in_a_row_rest_longer_each_time() {
        let mut login = Fitness::default();
        let fault = failed(FailureCode::CodexError, None);
        let mut rests = Vec::new();
        for _ in 0..12 {
            rests.push(login.note_failure(&fault, None, NOW).map_or(0, |rest| rest.until - NOW));
        }
        assert_eq!(rests, [0, 0, 30, 60, 120, 240, 480, 960, 1800, 1800, 1800, 1800]);
        login.note_success();
        assert!(login.rest(NOW).is_none() && login.note_failure(&fault, None, NOW).is_none());
        // What is the job's own fault is none of the login's.
        login.note_failure(&failed(FailureCode::ModerationBlocked, None), None, NOW);
        assert!(login.note_failure(&fault, None, NOW).is_none());
        assert!(login.note_failure(&fault, None, NOW).is_none());
    }

    #[test]
    fn little_left_rests_and_more_left_wakes() {
        let mut login = Fitness::default();
        login.note_quota(
            vec![window("codex", 96, NOW + 60), window("other", 100, NOW + 99)],
            5,
            NOW,
        );
        assert_eq!(login.rest(NOW).unwrap().reason, RestReason::LowQuota);
        assert_eq!(login.left(), 4);
        login.note_quota(vec![window("codex", 50, NOW + 60)], 5, NOW);
        assert!(login.rest(NOW).is_none());
        login.note_quota(vec![window("codex", 99, NOW + 60)], 0, NOW);
        assert!(login.rest(NOW).is_none(), "switched off");
        login.note_quota(vec![window("image_gen", 100, NOW + 60)], 0, NOW);
        assert_eq!(login.rest(NOW).unwrap().reason, RestReason::Quota);
        login.note_quota(vec![window("image_gen", 100, NOW - 60)], 5, NOW);
        assert!(login.rest(NOW).is_none(), "its time is over");
    }

    #[test]
    fn a_rest_by_hand_is_ended_by_time_or_hand_alone() {
        let rest = Rest { until: NOW + 100, reason: RestReason::ByHand, limit: None };
        let mut login = Fitness::default();
        login.begin(rest.clone(), false);
        login.note_success();
        login.note_quota(vec![window("codex", 1, NOW + 60)], 5, NOW);
        login.forget_expiry();
        for code in [FailureCode::CodexError, FailureCode::ModelRefused, FailureCode::NoImage] {
            login.note_failure(&failed(code, None), None, NOW);
        }
        assert_eq!(login.rest(NOW + 99), Some(&rest));
        assert_eq!(login.rest(NOW + 100), None);
        // What lasts longer counts, and what is shorter is still there when that is taken back.
        login.note_quota(vec![window("codex", 100, NOW + 200)], 5, NOW);
        assert_eq!(login.rest(NOW).unwrap().reason, RestReason::Quota);
        login.note_quota(vec![window("codex", 9, NOW + 200)], 5, NOW);
        assert_eq!(login.rest(NOW), Some(&rest));
        // Said again, the last word holds.
        login.begin(Rest { until: NOW + 7, ..rest }, false);
        assert_eq!((login.rest(NOW).unwrap().until, login.rest(NOW + 8)), (NOW + 7, None));
        login.wake();
        assert_eq!(login.rest(NOW), None);
    }

    #[test]
    fn what_numbers_said_before_a_restart_they_may_take_back() {
        let rest = |reason, until| Rest { until, reason, limit: Some("codex".into()) };
        let fresh = || vec![window("codex", 50, NOW + 60)];
        for (used, reason, until, taken_back) in [
            (96, RestReason::LowQuota, NOW + 60, true),
            (100, RestReason::Quota, NOW + 60, true),
            // A failure said so: at another time than the numbers, or without any.
            (100, RestReason::Quota, NOW + 90, false),
            (10, RestReason::Quota, NOW + 60, false),
        ] {
            let mut login = Fitness::default();
            login.note_quota(vec![window("codex", used, NOW + 60)], 5, NOW);
            login.restore(rest(reason, until));
            assert_eq!(login.rest(NOW), Some(&rest(reason, until)));
            login.note_quota(fresh(), 5, NOW);
            assert_eq!(login.rest(NOW).is_none(), taken_back, "{used} {reason:?} {until}");
        }
    }

    #[test]
    fn those_with_more_left_are_used_more_often() {
        let mut fitness = vec![Fitness::default(), Fitness::default(), Fitness::default()];
        fitness[1].note_quota(vec![window("codex", 75, NOW + 9)], 5, NOW);
        let mut uses = [0; 3];
        for _ in 0..90 {
            let next = richest(&fitness, &[0, 1, 2])[0];
            pay(&mut fitness, &[0, 1, 2], next);
            uses[next] += 1;
        }
        assert_eq!(uses, [40, 10, 40]);
    }
}
