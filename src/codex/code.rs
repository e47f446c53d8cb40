//! The words of a failure: one fixed string for each code, the same in the store, on the wire and
//! in the logs.

use std::{fmt, str::FromStr};

use super::{Failure, FailureCode};

/// A word that names no [`FailureCode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such failure code")]
pub struct UnknownFailureCode;

impl FailureCode {
    /// Every code, in the order of the enum.
    pub const ALL: [Self; 12] = [
        Self::ModerationBlocked,
        Self::ModelRefused,
        Self::QuotaExceeded,
        Self::LoginsRest,
        Self::LoginExpired,
        Self::NotLoggedIn,
        Self::CodexMissing,
        Self::NoImage,
        Self::DuplicateImage,
        Self::Timeout,
        Self::Interrupted,
        Self::CodexError,
    ];

    /// Whether nothing was asked of OpenAI that could have been paid for: the same request may be
    /// made anew, and may then do better.
    #[must_use]
    pub const fn is_unpaid(self) -> bool {
        match self {
            Self::QuotaExceeded
            | Self::LoginsRest
            | Self::LoginExpired
            | Self::NotLoggedIn
            | Self::CodexMissing => true,
            Self::ModerationBlocked
            | Self::ModelRefused
            | Self::NoImage
            | Self::DuplicateImage
            | Self::Timeout
            | Self::Interrupted
            | Self::CodexError => false,
        }
    }

    /// The word in `snake_case`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ModerationBlocked => "moderation_blocked",
            Self::ModelRefused => "model_refused",
            Self::QuotaExceeded => "quota_exceeded",
            Self::LoginsRest => "logins_rest",
            Self::LoginExpired => "login_expired",
            Self::NotLoggedIn => "not_logged_in",
            Self::CodexMissing => "codex_missing",
            Self::NoImage => "no_image",
            Self::DuplicateImage => "duplicate_image",
            Self::Timeout => "timeout",
            Self::Interrupted => "interrupted",
            Self::CodexError => "codex_error",
        }
    }
}

impl fmt::Display for FailureCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for FailureCode {
    type Err = UnknownFailureCode;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|code| code.as_str() == word).ok_or(UnknownFailureCode)
    }
}

impl Failure {
    pub(crate) fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_at: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back() {
        for code in FailureCode::ALL {
            assert_eq!(code.as_str().parse(), Ok(code));
        }
        assert_eq!("Timeout".parse::<FailureCode>(), Err(UnknownFailureCode));
    }
}
