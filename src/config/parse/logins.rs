//! The logins: folders, and what they are called.

use std::path::PathBuf;

use super::{Parsed, Place, absolute, because, items};
use crate::config::{LoginHome, layers::Raw};

/// The logins that are named; none is for the caller to fill in.
pub(in crate::config) fn homes(raw: &Raw, place: &Place) -> Parsed<Vec<LoginHome>> {
    let mut homes: Vec<LoginHome> = Vec::new();
    for item in items(raw, ':')? {
        let (label, path) = match item.split_once('=') {
            // A path may hold a `=` as well; a label holds no slash.
            Some((label, path)) if !label.contains('/') => (Some(label.trim()), path.trim()),
            _ => (None, item),
        };
        let path = absolute(path, place)?;
        let home = match label {
            None => labelled(path)?,
            Some("") => return because("a label is empty"),
            Some(label) => LoginHome { label: label.to_owned(), path },
        };
        if let Some(other) = homes.iter().find(|other| other.path == home.path) {
            return Err(Some(format!("{} is there twice", other.path.display())));
        }
        if homes.iter().any(|other| other.label == home.label) {
            let LoginHome { label, path } = home;
            let path = path.display();
            return Err(Some(format!(
                "two logins are called {label:?}; name one of them, as in other={path}"
            )));
        }
        homes.push(home);
    }
    Ok(homes)
}

/// A login that is called like its folder; `.codex` is `codex`.
pub(in crate::config) fn labelled(path: PathBuf) -> Parsed<LoginHome> {
    let name = path.file_name().map(|name| name.to_string_lossy());
    let label = name.as_deref().map(|name| name.strip_prefix('.').unwrap_or(name));
    match label {
        Some(label) if !label.is_empty() => Ok(LoginHome { label: label.to_owned(), path }),
        _ => Err(Some(format!("{} has no name to call the login by", path.display()))),
    }
}
