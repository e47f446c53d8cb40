//! What a login's `auth.json` says, without starting Codex. The file is read, never written or
//! copied, and no token is kept or logged.

use std::{fs::File, io::Read, os::unix::fs::MetadataExt, path::Path};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustix::fs::{Access, access};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Failure, FailureCode};

/// The file has about 5 KB.
const LARGEST: u64 = 1024 * 1024;
/// Codex refreshes a token that has less than this left.
pub(super) const REFRESH_BEFORE: i64 = 300;
/// The claim that tells of the account.
const ABOUT: &str = "https://api.openai.com/auth";

/// Whether Codex can make images with this login. Codex itself needs 12 seconds of retries to
/// notice that nobody is logged in.
pub(super) fn check(home: &Path) -> Result<(), Failure> {
    let failure = |message: &str| Err(Failure::new(FailureCode::NotLoggedIn, message));
    let Some(bytes) = read(home) else {
        return failure(
            "No ChatGPT login: sign in with `codex login`, as the service's user and with CODEX_HOME set to the login's home.",
        );
    };
    let Ok(auth) = serde_json::from_slice::<Value>(&bytes) else {
        return failure("The login file cannot be read; sign in again with `codex login`.");
    };
    let text = |pointer: &str| auth.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    let by_key = match text("/auth_mode") {
        "" => !text("/OPENAI_API_KEY").is_empty(),
        mode => mode.eq_ignore_ascii_case("apikey"),
    };
    if by_key {
        return failure(
            "Codex is set up with an API key, and an API key gives no image tool; sign in with \
             ChatGPT by `codex login`.",
        );
    }
    if text("/tokens/access_token").is_empty() {
        return failure("The login file holds no ChatGPT login; sign in with `codex login`.");
    }
    Ok(())
}

/// Whether Codex may just now be exchanging the refresh token, which works only once: ended in
/// that moment, the login would be lost.
pub(super) fn refresh_is_due(home: &Path) -> bool {
    expires_within(home, REFRESH_BEFORE)
}

/// Whether the access token expires within so many seconds, or has expired.
pub(super) fn expires_within(home: &Path, seconds: i64) -> bool {
    let now = jiff::Timestamp::now().as_second();
    claims(home).expires_at.is_some_and(|at| at.saturating_sub(now) < seconds)
}

/// What the login's tokens say of it. Never a token.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    /// The ChatGPT user.
    pub(super) user: Option<String>,
    /// The first 8 characters of the account's id.
    pub(super) account: Option<String>,
    /// Such as `plus`.
    pub(super) plan: Option<String>,
    /// When the access token expires, in Unix seconds.
    pub(super) expires_at: Option<i64>,
    /// The first 12 hex digits of the refresh token's SHA-256.
    pub(super) fingerprint: Option<String>,
}

/// Reads them; what cannot be read is none.
pub(super) fn claims(home: &Path) -> Claims {
    let auth: Value =
        read(home).and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let (id, access) = (payload(&auth, "id_token"), payload(&auth, "access_token"));
    let about = |key: &str| {
        let of = |claims: &Value| Some(claims.get(ABOUT)?.get(key)?.as_str()?.to_owned());
        of(&id).or_else(|| of(&access)).map(|text| text.chars().take(64).collect::<String>())
    };
    let account = about("chatgpt_account_id")
        .or_else(|| Some(auth.pointer("/tokens/account_id")?.as_str()?.to_owned()));
    let token = auth.pointer("/tokens/refresh_token").and_then(Value::as_str);
    Claims {
        user: about("chatgpt_user_id"),
        account: account.map(|id| id.chars().take(8).collect()),
        plan: about("chatgpt_plan_type"),
        expires_at: access.get("exp").and_then(Value::as_i64),
        fingerprint: token.filter(|token| !token.is_empty()).map(fingerprint),
    }
}

fn payload(auth: &Value, token: &str) -> Value {
    let read = || {
        let token = auth.get("tokens")?.get(token)?.as_str()?;
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        serde_json::from_slice(&claims).ok()
    };
    read().unwrap_or_default()
}

fn fingerprint(token: &str) -> String {
    let digest = Sha256::digest(token.as_bytes());
    digest.iter().take(6).fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Which login file it is: another after every change.
pub(super) type Stamp = (u64, i64, i64, u64);

/// None when there is none.
pub(super) fn stamp(home: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(home.join("auth.json")).ok()?;
    Some((meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
}

/// When the file was written, in Unix seconds.
pub(super) fn written((_, seconds, _, _): &Stamp) -> i64 {
    *seconds
}

/// What about the login's file and folder will go wrong at the next refresh, or lets others in.
pub(super) fn warnings(home: &Path) -> Vec<String> {
    let path = home.join("auth.json");
    let Ok(meta) = std::fs::metadata(&path) else { return Vec::new() };
    let mut warnings = Vec::new();
    let cannot_write = |path: &Path| access(path, Access::WRITE_OK).is_err();
    // Codex puts the new file beside the real one.
    let folder = std::fs::canonicalize(&path).ok().and_then(|path| Some(path.parent()?.to_owned()));
    if cannot_write(&path) || folder.as_deref().is_none_or(cannot_write) {
        warnings.push(
            "auth.json or its folder cannot be written; the login will be lost when Codex renews it"
                .to_owned(),
        );
    }
    if meta.mode() & 0o077 != 0 {
        warnings.push(format!(
            "others may read auth.json (mode {:04o}); chmod 600 it",
            meta.mode() & 0o7777
        ));
    }
    warnings
}

fn read(home: &Path) -> Option<Vec<u8>> {
    let file = File::open(home.join("auth.json")).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(auth: &str) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("auth.json"), auth).unwrap();
        home
    }

    #[test]
    fn only_a_chatgpt_login_will_do() {
        let chatgpt =
            r#"{"auth_mode":"chatgpt","OPENAI_API_KEY":null,"tokens":{"access_token":"a"}}"#;
        assert_eq!(check(home(chatgpt).path()), Ok(()));
        assert_eq!(check(home(r#"{"tokens":{"access_token":"a"}}"#).path()), Ok(()));
        for bad in [
            "",
            "{",
            "[]",
            "{}",
            r#"{"tokens":{}}"#,
            r#"{"auth_mode":"chatgpt","tokens":null}"#,
            r#"{"auth_mode":"apikey","OPENAI_API_KEY":"k","tokens":{"access_token":"a"}}"#,
            r#"{"OPENAI_API_KEY":"k"}"#,
        ] {
            assert_eq!(
                check(home(bad).path()).unwrap_err().code,
                FailureCode::NotLoggedIn,
                "{bad}"
            );
        }
        let key = check(home(r#"{"auth_mode":"apikey"}"#).path()).unwrap_err();
        assert!(key.message.contains("no image tool"));
        assert!(check(tempfile::tempdir().unwrap().path()).is_err());
    }

    #[test]
    fn a_token_near_its_end_is_about_to_be_refreshed() {
        let now = jiff::Timestamp::now().as_second();
        for (exp, due) in [(now + 3600, false), (now + 100, true), (now - 100, true)] {
            let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{exp}}}"#));
            let auth = format!(r#"{{"tokens":{{"access_token":"h.{claims}.s"}}}}"#);
            assert_eq!(refresh_is_due(home(&auth).path()), due);
        }
        assert!(!refresh_is_due(home(r#"{"tokens":{"access_token":"opaque"}}"#).path()));
    }
}
