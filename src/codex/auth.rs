//! What a login's `auth.json` says, without starting Codex. The file is read, never written (a seed
//! is put there by `login/seed.rs` alone), and no token is kept or logged.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustix::fs::{Access, access};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Failure, FailureCode};
use crate::config::LoginHome;

/// The file has about 5 KB.
pub(super) const LARGEST: u64 = 1024 * 1024;
/// Codex refreshes a token that has less than this left.
pub(super) const REFRESH_BEFORE: i64 = 300;
/// The claim that tells of the account.
const ABOUT: &str = "https://api.openai.com/auth";

/// Whether Codex can make images with this login. Codex itself needs 12 seconds of retries to
/// notice that nobody is logged in.
pub(super) fn check(home: &Path) -> Result<(), Failure> {
    let failure = |message: &str| Err(Failure::new(FailureCode::NotLoggedIn, message));
    let bytes = match read(home) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            return failure(
                "No ChatGPT login: sign in with `codex-image-service logins add`, or with `codex \
                 login` as the service's user and with CODEX_HOME set to the login's home.",
            );
        }
        Err(_) => {
            return failure(
                "The service may not read the file of its ChatGPT login; the service's owner must \
                 see to that.",
            );
        }
    };
    check_content(&bytes).map(drop)
}

/// The same of a file's content; what it says, when it will do.
pub(super) fn check_content(bytes: &[u8]) -> Result<Value, Failure> {
    let failure = |message: &str| Err(Failure::new(FailureCode::NotLoggedIn, message));
    let Ok(auth) = serde_json::from_slice::<Value>(bytes) else {
        return failure("The login file is damaged; sign in again with `codex login`.");
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
    Ok(auth)
}

/// What [`check`] has against a login, in words for its owner: with its label, the path and what the
/// system said. Not for callers.
pub(super) fn trouble(LoginHome { label, path }: &LoginHome) -> Option<String> {
    let failure = check(path).err()?;
    let home = path.display();
    let sign_in = format!("sign in with `codex-image-service logins add {label}`");
    let about = match (fs::metadata(path), read(path)) {
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => {
            let separated = path.as_os_str().as_encoded_bytes().iter().any(|b| b",;".contains(b));
            let hint = if separated { " (CODEX_HOMES is separated by colons)" } else { "" };
            format!("there is no folder {home}{hint}; {sign_in}")
        }
        (Err(error), _) => format!("{home} cannot be looked into: {error}"),
        (Ok(meta), _) if !meta.is_dir() => {
            format!("{home} is no folder; CODEX_HOMES names the folders that hold an auth.json")
        }
        (_, Err(error)) => format!(
            "{home}/auth.json cannot be read: {error}; does the service run as another user than \
             the one who signed in?"
        ),
        (_, Ok(None)) => format!("there is no auth.json in {home}; {sign_in}"),
        (_, Ok(Some(_))) => format!("{home}: {}", failure.message),
    };
    Some(format!("login {label}: {about}"))
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
    let auth: Value = read(home)
        .ok()
        .flatten()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
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
    let meta = fs::metadata(home.join("auth.json")).ok()?;
    Some((meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
}

/// When the file was written, in Unix seconds.
pub(super) fn written((_, seconds, _, _): &Stamp) -> i64 {
    *seconds
}

/// What about the login's file and folder will go wrong at the next refresh, or lets others in.
pub(super) fn warnings(home: &Path) -> Vec<String> {
    let path = home.join("auth.json");
    let Ok(meta) = fs::metadata(&path) else { return Vec::new() };
    let mut warnings = Vec::new();
    let cannot_write = |path: &Path| access(path, Access::WRITE_OK).is_err();
    // Codex puts the new file beside the real one.
    let folder = fs::canonicalize(&path).ok().and_then(|path| Some(path.parent()?.to_owned()));
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

/// None when there is no such file.
pub(super) fn read(home: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(home.join("auth.json")) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        file => file?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(auth: &str) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("auth.json"), auth).unwrap();
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
    fn the_owner_is_told_what_is_wrong_and_where() {
        let trouble = |path: &Path| {
            let path = path.to_owned();
            trouble(&LoginHome { label: "one".into(), path }).unwrap_or_default()
        };
        let good = home(r#"{"tokens":{"access_token":"a"}}"#);
        assert_eq!(trouble(good.path()), "");
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        let sign_in = "; sign in with `codex-image-service logins add one`";
        assert_eq!(
            trouble(dir.path()),
            format!("login one: there is no auth.json in {at}{sign_in}")
        );
        let missing = dir.path().join("a,two=/b");
        let hint = " (CODEX_HOMES is separated by colons)";
        let said = format!("login one: there is no folder {}{hint}{sign_in}", missing.display());
        assert_eq!(trouble(&missing), said);
        assert!(!trouble(&dir.path().join("a")).contains("colons"));
        let file = trouble(&good.path().join("auth.json"));
        assert!(file.contains("auth.json is no folder"), "{file}");
        // As what may not be read, also for root.
        std::os::unix::fs::symlink("auth.json", dir.path().join("auth.json")).unwrap();
        let said = trouble(dir.path());
        assert!(said.starts_with(&format!("login one: {at}/auth.json cannot be read: ")), "{said}");
        let failure = check(dir.path()).unwrap_err();
        assert!(failure.message.contains("may not read") && !failure.message.contains('/'));
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
