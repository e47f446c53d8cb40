//! What is wrong with the settings, all of it at once, in sentences that name the key, the value
//! (never a secret) and what is allowed.

use std::fmt;

use super::sources::Origin;

/// Every problem that was found, in the order of the table.
#[derive(Debug)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// One thing that stops the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting, or the key or file that is no setting.
    pub key: String,
    /// What was given, fit to be shown.
    pub value: Option<String>,
    /// Where it was given.
    pub origin: Option<Origin>,
    /// What is the matter, where what is allowed does not say it.
    pub reason: Option<String>,
    /// What is allowed; completes "must be …".
    pub allowed: Option<String>,
}

impl Problem {
    pub(super) fn new(key: impl fmt::Display) -> Self {
        Self { key: key.to_string(), value: None, origin: None, reason: None, allowed: None }
    }

    pub(super) fn value(self, value: String) -> Self {
        Self { value: Some(value), ..self }
    }

    pub(super) fn origin(self, origin: Origin) -> Self {
        Self { origin: Some(origin), ..self }
    }

    pub(super) fn reason(self, reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..self }
    }

    pub(super) fn allowed(self, allowed: impl fmt::Display) -> Self {
        Self { allowed: Some(allowed.to_string()), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if let Some(origin) = &self.origin {
            write!(f, " ({origin})")?;
        }
        match (&self.reason, &self.allowed) {
            (Some(reason), Some(allowed)) => write!(f, ": {reason}; must be {allowed}"),
            (Some(words), None) => write!(f, ": {words}"),
            (None, Some(allowed)) => write!(f, ": must be {allowed}"),
            (None, None) => Ok(()),
        }
    }
}

/// Stands for a secret wherever a value is shown.
pub(super) const HIDDEN: &str = "(hidden)";

/// A value as an error shows it: quoted, control characters escaped, cut when long, and without
/// the user and password that a URL may carry.
pub(super) fn quoted(value: &str) -> String {
    const LONGEST: usize = 200;
    let mut value = value.to_owned();
    if let Some((scheme, rest)) = value.split_once("://") {
        let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        // An unescaped / in a password ends the authority early; rather hide too much.
        if let Some(at) = rest[..authority].rfind('@').or_else(|| rest.rfind('@')) {
            value = format!("{scheme}://{HIDDEN}{}", &rest[at..]);
        }
    }
    if value.chars().count() > LONGEST {
        value = value.chars().take(LONGEST).chain("…".chars()).collect();
    }
    format!("{value:?}")
}

/// The known key that is nearest to what was written, if any is near enough to be meant.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    known
        .map(|name| (distance(&word, name), name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, name)| *distance <= name.len().div_ceil(4).min(4))
        .map(|(_, name)| name)
}

/// Levenshtein's distance, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_one_that_can_be_meant() {
        let known = ["listen", "admin_password", "log_level", "metrics"];
        for (word, meant) in [
            ("LISTEN", Some("listen")),
            ("listn", Some("listen")),
            ("admin-pasword", Some("admin_password")),
            ("loglevel", Some("log_level")),
            ("server", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, known.into_iter()), meant, "{word}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn a_shown_value_holds_no_password_and_no_control_character() {
        assert_eq!(quoted("postgresql://me:p@ss@db/x"), "\"postgresql://(hidden)@db/x\"");
        assert_eq!(quoted("postgresql://me:p/ss@db/x"), "\"postgresql://(hidden)@db/x\"");
        assert_eq!(quoted("a\u{1b}[31m\n"), r#""a\u{1b}[31m\n""#);
        assert!(quoted(&"é".repeat(1000)).chars().count() < 210);
    }
}
