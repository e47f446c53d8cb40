//! From text to types, one function a kind of setting. None looks at the process or the file
//! system: what a value means depends on the value and on [`Place`] alone.

mod logins;
mod secrets;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use axum::http::Uri;
use tracing::Level;

use super::{EngineChoice, Listen, LogFormat, Owner, layers::Raw, table::Allowed};

pub(super) use self::{
    logins::{homes, labelled},
    secrets::{password, secret, username},
};

/// What relative paths and `~` stand for.
pub(super) struct Place {
    pub(super) working_dir: PathBuf,
    pub(super) home: Option<PathBuf>,
}

/// Why a value is not taken, where what is allowed does not say it already.
pub(super) type Refusal = Option<String>;
type Parsed<T> = Result<T, Refusal>;

fn because<T>(reason: &str) -> Parsed<T> {
    Err(Some(reason.to_owned()))
}

/// One line of text, without blanks around it.
fn line(raw: &Raw) -> Parsed<&str> {
    match raw {
        Raw::List(_) => because("a list where one value belongs"),
        Raw::Text(text) if text.trim().chars().any(char::is_control) => {
            because("holds a control character")
        }
        Raw::Text(text) => Ok(text.trim()),
    }
}

/// The items of an array, or of a text at each separator; empty ones are dropped.
fn items(raw: &Raw, separator: char) -> Parsed<Vec<&str>> {
    let items: Vec<&str> = match raw {
        Raw::List(items) => items.iter().map(|item| item.trim()).collect(),
        Raw::Text(text) => text.split(separator).map(str::trim).collect(),
    };
    if items.iter().any(|item| item.chars().any(char::is_control)) {
        return because("holds a control character");
    }
    Ok(items.into_iter().filter(|item| !item.is_empty()).collect())
}

/// A path, made absolute; `~` is the home directory.
fn absolute(text: &str, place: &Place) -> Parsed<PathBuf> {
    if text.is_empty() {
        return because("empty");
    }
    let path = match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => match &place.home {
            Some(home) => home.join(rest.trim_start_matches('/')),
            None => return because("~ without HOME"),
        },
        _ => PathBuf::from(text),
    };
    let path = place.working_dir.join(path);
    // `..` stays: behind a symbolic link it is not the folder before it in the text.
    Ok(path.components().filter(|part| *part != Component::CurDir).collect())
}

pub(super) fn path(raw: &Raw, place: &Place) -> Parsed<PathBuf> {
    absolute(line(raw)?, place)
}

pub(super) fn codex_visible(raw: &Raw, place: &Place) -> Parsed<PathBuf> {
    without_comma(path(raw, place)?)
}

/// Codex takes reference pictures as one list separated by commas.
pub(super) fn without_comma(path: PathBuf) -> Parsed<PathBuf> {
    if path.as_os_str().as_encoded_bytes().contains(&b',') {
        return because("its absolute path holds a comma");
    }
    Ok(path)
}

/// A command stays a word, to be looked up in PATH; a path is made absolute, since Codex does not
/// run in our working directory.
pub(super) fn command(raw: &Raw, place: &Place) -> Parsed<PathBuf> {
    match line(raw)? {
        "" => Err(None),
        word if !word.contains('/') && word != "~" => Ok(word.into()),
        text => absolute(text, place),
    }
}

pub(super) fn listen(raw: &Raw, place: &Place) -> Parsed<Listen> {
    // The length that the kernel takes, without its NUL.
    const LONGEST_SOCKET: usize = 107;
    let text = line(raw)?;
    if let Some(path) = text.strip_prefix("unix:") {
        if path.starts_with('@') {
            return because("abstract sockets cannot be protected");
        }
        let path = absolute(path, place)?;
        return if path.as_os_str().len() > LONGEST_SOCKET {
            because("the path is too long for a socket")
        } else {
            Ok(Listen::Unix(path))
        };
    }
    if let Some(port) = text.strip_prefix("localhost:") {
        let port = port.parse().map_err(|_| None)?;
        return Ok(Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
    }
    if text.starts_with(':') {
        return because("no address; 0.0.0.0 or [::] would open it to the network");
    }
    text.parse().map(Listen::Tcp).map_err(|_| None)
}

/// Four octal digits: a number of the TOML file has none of its zeros in front, and may have been
/// meant to be decimal or octal.
pub(super) fn mode(raw: &Raw) -> Parsed<u32> {
    match line(raw)?.as_bytes() {
        digits @ [b'0', _, _, _] if digits.iter().all(|digit| (b'0'..=b'7').contains(digit)) => {
            Ok(digits.iter().fold(0, |mode, digit| mode * 8 + u32::from(digit - b'0')))
        }
        _ => Err(None),
    }
}

/// Who that is, and whether there is such a user, is not looked up here.
pub(super) fn owner(raw: &Raw) -> Parsed<Option<Owner>> {
    let text = line(raw)?;
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let is_odd = |name: &str| name.contains(|c: char| c == ':' || c == '/' || c.is_whitespace());
    if is_odd(user) || is_odd(group) || text.ends_with(':') {
        return Err(None);
    }
    let named = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
    let owner = Owner { user: named(user), group: named(group) };
    Ok(Some(owner).filter(|_| !text.is_empty()))
}

/// As `SQLAlchemy` writes it: three slashes and a relative path, or four and an absolute one.
pub(super) fn database(raw: &Raw, place: &Place) -> Parsed<PathBuf> {
    let text = line(raw)?;
    let Some(path) = text.strip_prefix("sqlite:///") else {
        return match text.split_once(':') {
            Some((scheme, _)) if scheme.starts_with("postgres") => {
                because("PostgreSQL is not supported yet")
            }
            Some((scheme, _)) if scheme.starts_with("sqlite") => Err(None),
            Some(_) => because("only SQLite is supported"),
            None => Err(None),
        };
    };
    if path.starts_with(":memory:") {
        return because("jobs must outlive the process");
    }
    if path.contains(['?', '#']) {
        return because("parameters are not supported");
    }
    if path.ends_with('/') {
        return Err(None);
    }
    absolute(path, place)
}

pub(super) fn public_base_url(raw: &Raw) -> Parsed<String> {
    let text = line(raw)?.trim_end_matches('/');
    let uri: Uri = text.parse().map_err(|_| None)?;
    let authority = uri.authority().ok_or(None)?;
    let plain = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.query().is_none()
        && !text.contains('#')
        && !authority.as_str().contains('@')
        && !authority.host().is_empty();
    if plain { Ok(text.to_owned()) } else { Err(None) }
}

pub(super) fn url_prefix(raw: &Raw) -> Parsed<String> {
    let text = line(raw)?.trim_end_matches('/');
    let clean = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/".contains(&b))
        && !text.split('/').skip(1).any(|part| matches!(part, "" | "." | ".."));
    if text == "/admin" || text.starts_with("/admin/") {
        return because("the pages' own name; the pages are below the prefix, at PREFIX/admin");
    }
    if text.is_empty() || (text.starts_with('/') && clean) {
        Ok(text.to_owned())
    } else {
        Err(None)
    }
}

pub(super) fn engine(raw: &Raw) -> Parsed<EngineChoice> {
    match line(raw)?.to_ascii_lowercase().as_str() {
        "auto" => Ok(EngineChoice::Auto),
        "app-server" => Ok(EngineChoice::AppServer),
        "exec" => Ok(EngineChoice::Exec),
        "demo" => Ok(EngineChoice::Demo),
        _ => Err(None),
    }
}

pub(super) fn model(raw: &Raw) -> Parsed<Option<String>> {
    let text = line(raw)?;
    // It becomes an argument of Codex and must not look like an option.
    let clean = text.len() <= 128
        && !text.starts_with('-')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:/".contains(&b));
    if clean { Ok(Some(text.to_owned()).filter(|text| !text.is_empty())) } else { Err(None) }
}

pub(super) fn origins(raw: &Raw) -> Parsed<Vec<String>> {
    let mut origins = Vec::new();
    for item in items(raw, ',')? {
        let origin = item.trim_end_matches('/').to_ascii_lowercase();
        let clean = origin == "*"
            || origin.split_once("://").is_some_and(|(scheme, host)| {
                let name = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
                !scheme.is_empty()
                    && scheme.bytes().all(name)
                    && !host.is_empty()
                    && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))
            });
        if !clean {
            return Err(Some(format!("{item:?} is no origin")));
        }
        if !origins.contains(&origin) {
            origins.push(origin);
        }
    }
    Ok(origins)
}

pub(super) fn level(raw: &Raw) -> Parsed<Level> {
    match line(raw)?.to_ascii_lowercase().as_str() {
        "error" => Ok(Level::ERROR),
        "warn" | "warning" => Ok(Level::WARN),
        "info" => Ok(Level::INFO),
        "debug" => Ok(Level::DEBUG),
        "trace" => Ok(Level::TRACE),
        _ => Err(None),
    }
}

pub(super) fn log_format(raw: &Raw) -> Parsed<LogFormat> {
    match line(raw)?.to_ascii_lowercase().as_str() {
        "auto" => Ok(LogFormat::Auto),
        "journal" => Ok(LogFormat::Journal),
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(None),
    }
}

pub(super) fn switch(raw: &Raw) -> Parsed<bool> {
    match line(raw)?.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err(None),
    }
}

/// A whole number within the range of the table.
pub(super) fn whole(raw: &Raw, allowed: Allowed) -> Parsed<u64> {
    let number: u64 = line(raw)?.parse().map_err(|_| None)?;
    match allowed {
        Allowed::Whole { min, max } if (min..=max).contains(&number) => Ok(number),
        _ => Err(None),
    }
}

/// A number within the range of the table, in the table's unit.
pub(super) fn number(raw: &Raw, allowed: Allowed) -> Parsed<f64> {
    let number: f64 = line(raw)?.parse().map_err(|_| None)?;
    match allowed {
        Allowed::Number { zero: Some(_), .. } if number == 0.0 => Ok(0.0),
        Allowed::Number { min, max, .. } if (min..=max).contains(&number) => Ok(number),
        _ => Err(None),
    }
}

/// So many units, each of so many seconds.
pub(super) fn duration(number: f64, seconds: f64) -> Duration {
    Duration::try_from_secs_f64(number * seconds).unwrap_or(Duration::MAX)
}

/// The state directory that systemd or the desktop's conventions give.
pub(super) fn state_dir<'a>(
    variable: impl Fn(&str) -> Option<&'a std::ffi::OsStr>,
    home: Option<&Path>,
) -> Option<(PathBuf, &'static str)> {
    const NAME: &str = "codex-image-service";
    let first = variable("STATE_DIRECTORY")
        .and_then(std::ffi::OsStr::to_str)
        .and_then(|dirs| dirs.split(':').find(|dir| dir.starts_with('/')));
    if let Some(dir) = first {
        return Some((dir.into(), "STATE_DIRECTORY"));
    }
    // The convention has relative paths ignored.
    let xdg = variable("XDG_STATE_HOME").map(Path::new).filter(|dir| dir.is_absolute());
    if let Some(dir) = xdg {
        return Some((dir.join(NAME), "XDG_STATE_HOME"));
    }
    home.map(|home| (home.join(".local/state").join(NAME), "HOME"))
}

#[cfg(test)]
mod tests;
