//! What the engine knows of its logins, and what it tells of them as it happens. Other rooms keep
//! it; nothing here is a secret.

use super::FailureCode;

/// A window of a limit, as OpenAI counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaWindow {
    /// The limit's id: `codex` for turns, `image_gen` for pictures, or one that is not known yet.
    pub limit: String,
    /// The window's length; what a window is called, since its position says nothing.
    pub minutes: u32,
    /// 0 to 100.
    pub used_percent: u8,
    /// When it starts anew, in Unix seconds.
    pub resets_at: Option<i64>,
}

/// Why a login rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RestReason {
    /// A limit is used up.
    Quota,
    /// Less than `CODEX_MIN_QUOTA_PERCENT` of a limit is left.
    LowQuota,
    /// The session has expired or was revoked.
    LoginExpired,
    /// It failed several times in a row.
    Faults,
    /// Somebody wants it left alone.
    ByHand,
}

impl RestReason {
    /// The word of the store and of `--json`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::LowQuota => "low_quota",
            Self::LoginExpired => "login_expired",
            Self::Faults => "faults",
            Self::ByHand => "by_hand",
        }
    }

    /// The reason behind the word.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        [Self::Quota, Self::LowQuota, Self::LoginExpired, Self::Faults, Self::ByHand]
            .into_iter()
            .find(|reason| reason.as_str() == word)
    }
}

/// The end of a rest that only somebody ends: the beginning of the year 9999, in Unix seconds.
pub const UNTIL_WOKEN: i64 = 253_370_764_800;

/// A login is not used until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// In Unix seconds; [`UNTIL_WOKEN`] when no time ends it.
    pub until: i64,
    /// Why.
    pub reason: RestReason,
    /// The limit that is used up, for the two reasons that have one.
    pub limit: Option<String>,
}

/// In which order logins are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dispatch {
    /// In turn, those with more quota left more often.
    #[default]
    RoundRobin,
    /// The first of `CODEX_HOMES` that does not rest.
    PrimaryFirst,
}

impl Dispatch {
    /// The word of the store and of the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::PrimaryFirst => "primary-first",
        }
    }

    /// The order behind the word.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        [Self::RoundRobin, Self::PrimaryFirst].into_iter().find(|order| order.as_str() == word)
    }
}

/// What happened to a login, told when it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginEvent {
    /// The login's label.
    pub login: String,
    /// What happened.
    pub what: LoginNews,
}

/// See [`LoginEvent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginNews {
    /// It rests, from now or for another time than before.
    Rests(Rest),
    /// It is used again before its rest was over.
    Wakes,
    /// A job failed for a reason of the login.
    Failed(FailureCode),
    /// All windows of its limits, read anew.
    Quota(Vec<QuotaWindow>),
    /// The refresh token is another than before: the first 12 hex digits of their SHA-256.
    Rotated {
        /// Before; none when it was not known.
        before: Option<String>,
        /// After.
        after: String,
    },
    /// A Codex was killed.
    Killed {
        /// Why, in a few words without any secret.
        why: &'static str,
        /// The token was about to be refreshed, or changed meanwhile: the login may be lost.
        during_refresh: bool,
    },
}

/// A login as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginStatus {
    /// Its label.
    pub label: String,
    /// What its login file says is wrong with it, if anything is.
    pub problem: Option<super::Failure>,
    /// The first 8 characters of the account's id.
    pub account: Option<String>,
    /// Such as `plus`.
    pub plan: Option<String>,
    /// When the access token expires, in Unix seconds. Codex renews it in time, when it is used.
    pub expires_at: Option<i64>,
    /// Another process holds the login now.
    pub busy_elsewhere: bool,
    /// It is not used for now.
    pub rest: Option<Rest>,
    /// As far as known.
    pub quota: Vec<QuotaWindow>,
}

/// What OpenAI says of a login when it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Such as `plus`.
    pub plan: Option<String>,
    /// All windows of its limits.
    pub quota: Vec<QuotaWindow>,
}
