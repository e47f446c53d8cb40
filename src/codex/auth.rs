//! What a login's `auth.json` says, without starting Codex. The file is read, never written or
//! copied, and no token is kept or logged.

use std::{fs::File, io::Read, path::Path};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use super::{Failure, FailureCode};

/// The file has about 5 KB.
const LARGEST: u64 = 1024 * 1024;
/// Codex refreshes a token that has less than this left.
const REFRESH_BEFORE: i64 = 300;

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
    let expiry = || -> Option<i64> {
        let auth: Value = serde_json::from_slice(&read(home)?).ok()?;
        let token = auth.pointer("/tokens/access_token")?.as_str()?;
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        serde_json::from_slice::<Value>(&claims).ok()?.get("exp")?.as_i64()
    };
    expiry().is_some_and(|exp| exp - jiff::Timestamp::now().as_second() < REFRESH_BEFORE)
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
