//! Who may see the admin pages, and what is refused because everybody knows it.

use super::{Parsed, because, line};
use crate::{
    config::{Secret, layers::Raw},
    password_hash,
};

pub(in crate::config) fn username(raw: &Raw) -> Parsed<String> {
    let text = line(raw)?;
    if (1..=128).contains(&text.chars().count()) { Ok(text.to_owned()) } else { Err(None) }
}

/// Taken as it is, blanks too; refused when empty or when everybody knows it.
pub(in crate::config) fn secret(raw: &Raw) -> Parsed<Option<Secret>> {
    match raw {
        Raw::List(_) => because("a list where one value belongs"),
        Raw::Text(text) if text.trim().is_empty() => because("empty"),
        Raw::Text(text) if is_published(text) => because("a published default that anyone can try"),
        Raw::Text(text) => Ok(Some(Secret::new(text.clone()))),
    }
}

/// The same; in plain text, or as an Argon2 hash that can be checked.
pub(in crate::config) fn password(raw: &Raw) -> Parsed<Option<Secret>> {
    let password = secret(raw)?;
    match password.as_ref().and_then(|password| password_hash::refusal(password.expose())) {
        Some(reason) => because(reason),
        None => Ok(password),
    }
}

/// What example files and defaults hold, this service's Python original included (`change-me`,
/// `change-this-session-secret`, `dev-only-session-secret`).
fn is_published(value: &str) -> bool {
    const WORDS: &[&str] = &[
        "12345",
        "123456",
        "12345678",
        "123456789",
        "admin",
        "admin123",
        "adminpassword",
        "default",
        "devonlysessionsecret",
        "devsecret",
        "example",
        "letmein",
        "pass",
        "passwd",
        "password",
        "password1",
        "password123",
        "qwerty",
        "root",
        "secret",
        "secretkey",
        "sessionsecret",
        "supersecret",
        "test",
        "todo",
        "xxx",
    ];
    const STARTS: &[&str] = &["changeme", "changethis", "pleasechange", "replaceme", "replacewith"];
    const SHORTEST_YOURS: &[&str] = &["yourpassword", "yoursecret", "yoursessionsecret"];
    let plain: String =
        value.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    WORDS.contains(&plain.as_str())
        || SHORTEST_YOURS.contains(&plain.as_str())
        || STARTS.iter().any(|start| plain.starts_with(start))
}
