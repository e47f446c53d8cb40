//! The sources, opened, and which of them wins: the TOML file, over it `.env`, over it the
//! environment, over it systemd's credentials. In one layer a setting is given once, as a value or
//! as a file with the value.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::{
    dotenv,
    error::{HIDDEN, Problem, nearest, quoted},
    sources::{CONFIG_FILE_VARIABLE, ENV_FILE_VARIABLE, Origin, Sources},
    table::{SETTINGS, Setting},
};

/// No value is longer; a file that is was not meant.
const LONGEST_FILE: u64 = 1024 * 1024;

/// A value as its source gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    Text(String),
    /// An array of the TOML file.
    List(Vec<String>),
}

impl Raw {
    /// As an error shows it.
    pub(super) fn shown(&self, secret: bool) -> String {
        match self {
            _ if secret => HIDDEN.to_owned(),
            Self::Text(text) => quoted(text),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(|item| quoted(item)).collect();
                format!("[{}]", items.join(", "))
            }
        }
    }
}

/// A value and where it was found.
pub(super) type Found = Option<(Raw, Origin)>;

/// The sources, opened.
pub(super) struct Layers {
    working_dir: PathBuf,
    environment: BTreeMap<String, OsString>,
    dotenv_path: PathBuf,
    dotenv: BTreeMap<String, OsString>,
    config_path: PathBuf,
    config: toml::Table,
    credentials_dir: Option<PathBuf>,
}

impl Layers {
    /// Opens what there is; what cannot be read or holds unknown keys is a problem.
    pub(super) fn open(sources: &Sources, problems: &mut Vec<Problem>) -> Self {
        let mut layers = Self {
            working_dir: sources.working_dir.clone(),
            environment: sources.environment.clone(),
            dotenv_path: sources.working_dir.join(".env"),
            dotenv: BTreeMap::new(),
            config_path: PathBuf::new(),
            config: toml::Table::new(),
            credentials_dir: sources.credentials_dir.clone(),
        };
        let named = sources.environment.get(ENV_FILE_VARIABLE);
        if let Some(other) = named {
            layers.dotenv_path = sources.working_dir.join(other);
        }
        let read = match named {
            Some(none) if none.is_empty() => Ok(String::new()),
            _ => read(&layers.dotenv_path),
        };
        match read {
            Ok(text) => {
                let pairs = dotenv::parse(&text).into_iter();
                layers.dotenv = pairs.map(|(name, value)| (name, value.into())).collect();
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => {}
            Err(error) => problems.push(unreadable(&layers.dotenv_path, &error)),
        }
        layers.open_config(sources, problems);
        layers
    }

    fn open_config(&mut self, sources: &Sources, problems: &mut Vec<Problem>) {
        let named = sources
            .config_file
            .clone()
            .or_else(|| self.variable(CONFIG_FILE_VARIABLE).map(PathBuf::from));
        let must_exist = named.is_some();
        let Some(path) = named.or_else(|| sources.default_config_file.clone()) else { return };
        self.config_path = self.working_dir.join(path);
        let text = match read(&self.config_path) {
            Ok(text) => text,
            Err(error) if !must_exist && error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return problems.push(unreadable(&self.config_path, &error)),
        };
        match toml::from_str(&text) {
            Ok(table) => {
                self.config = table;
                self.refuse_unknown_keys(problems);
            }
            Err(error) => {
                // Not in the error's own words: they quote the line, which may hold a secret.
                let before = error.span().and_then(|span| text.get(..span.start));
                let line = before.map_or(0, |before| before.matches('\n').count()) + 1;
                let reason = format!("not TOML, or a key twice, at line {line}");
                problems.push(Problem::new(self.config_path.display()).reason(reason));
            }
        }
    }

    fn refuse_unknown_keys(&self, problems: &mut Vec<Problem>) {
        let known: Vec<String> =
            SETTINGS.iter().flat_map(|setting| [setting.key(), setting.file_key()]).collect();
        for (key, value) in self.config.iter().filter(|(key, _)| !known.contains(key)) {
            let meant = nearest(key, known.iter().map(String::as_str));
            // A misspelt secret is a secret still, so only what cannot be one is shown.
            let harmless = meant.map_or(value.is_bool(), |meant| {
                !SETTINGS.iter().any(|setting| setting.secret && setting.key() == meant)
            });
            let hint = meant.map_or_else(
                || "check-config without a file lists them all".to_owned(),
                |meant| format!("did you mean {meant}?"),
            );
            problems.push(
                Problem::new(bare_or_quoted(key))
                    .value(shown(value, !harmless))
                    .origin(Origin::ConfigFile(self.config_path.clone(), bare_or_quoted(key)))
                    .reason(format!("there is no such setting; {hint}")),
            );
        }
    }

    /// A variable that is no setting, such as HOME; empty is as good as not there.
    pub(super) fn variable(&self, name: &str) -> Option<&OsStr> {
        let value = self.environment.get(name).or_else(|| self.dotenv.get(name));
        value.map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// The variables that are no settings, `.env`'s under the environment's.
    pub(super) fn variables(&self) -> BTreeMap<String, OsString> {
        let mut all = self.dotenv.clone();
        all.extend(self.environment.clone());
        for setting in SETTINGS {
            all.remove(setting.name);
            all.remove(&setting.file_variable());
        }
        all
    }

    /// What the highest layer that knows the setting says.
    pub(super) fn find(&self, setting: &'static Setting) -> Result<Found, Box<Problem>> {
        if let Some(found) = self.in_credentials(setting)? {
            return Ok(Some(found));
        }
        if let Some(found) = self.in_variables(setting, &self.environment, Origin::Environment)? {
            return Ok(Some(found));
        }
        let dotenv = Origin::DotEnv(self.dotenv_path.clone());
        if let Some(found) = self.in_variables(setting, &self.dotenv, dotenv)? {
            return Ok(Some(found));
        }
        self.in_config(setting)
    }

    fn in_credentials(&self, setting: &'static Setting) -> Result<Found, Box<Problem>> {
        let Some(dir) = &self.credentials_dir else { return Ok(None) };
        let name = setting.credential();
        match read(&dir.join(&name)) {
            Ok(text) => Ok(Some((Raw::Text(trimmed(text)), Origin::Credential(name)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Problem::new(setting.name)
                .origin(Origin::Credential(name))
                .reason(format!("cannot be read: {error}"))
                .into()),
        }
    }

    fn in_variables(
        &self,
        setting: &'static Setting,
        layer: &BTreeMap<String, OsString>,
        origin: Origin,
    ) -> Result<Found, Box<Problem>> {
        let file_variable = setting.file_variable();
        let file = layer.get(&file_variable).filter(|path| !path.is_empty());
        let plain = layer
            .get(setting.name)
            .filter(|value| !value.is_empty() || (setting.keeps_empty && file.is_none()));
        match (plain, file) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(both(setting, setting.name, &file_variable, origin)),
            (None, Some(path)) => self.in_file(setting, file_variable, Path::new(path)),
            (Some(value), None) => match value.to_str() {
                Some(text) => Ok(Some((Raw::Text(text.to_owned()), origin))),
                None => Err(Problem::new(setting.name)
                    .value(Raw::Text(value.to_string_lossy().into_owned()).shown(setting.secret))
                    .origin(origin)
                    .reason("not UTF-8")
                    .into()),
            },
        }
    }

    fn in_config(&self, setting: &'static Setting) -> Result<Found, Box<Problem>> {
        let (key, file_key) = (setting.key(), setting.file_key());
        let origin = |key: &str| Origin::ConfigFile(self.config_path.clone(), key.to_owned());
        let refused = |key: &str, value: &toml::Value, allowed: &str| {
            Problem::new(setting.name)
                .value(shown(value, setting.secret))
                .origin(origin(key))
                .allowed(allowed)
        };
        match (self.config.get(&key), self.config.get(&file_key)) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(both(setting, &key, &file_key, origin(&key))),
            (None, Some(toml::Value::String(path))) => {
                self.in_file(setting, file_key, Path::new(path))
            }
            (None, Some(other)) => {
                Err(refused(&file_key, other, "the path of a file with the value").into())
            }
            (Some(value), None) => match raw(value) {
                Some(raw) => Ok(Some((raw, origin(&key)))),
                None => Err(refused(&key, value, &setting.allowed.to_string()).into()),
            },
        }
    }

    fn in_file(
        &self,
        setting: &'static Setting,
        named_by: String,
        path: &Path,
    ) -> Result<Found, Box<Problem>> {
        let path = self.working_dir.join(path);
        let text = read(&path);
        let origin = Origin::ValueFile(named_by, path);
        match text {
            Ok(text) => Ok(Some((Raw::Text(trimmed(text)), origin))),
            Err(error) => Err(Problem::new(setting.name)
                .origin(origin)
                .reason(format!("cannot be read: {error}"))
                .into()),
        }
    }
}

/// The text of a file of a reasonable length.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // One byte more than allowed tells a file that is too long from one that just fits.
    File::open(path)?.take(LONGEST_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST_FILE {
        return Err(io::Error::other("longer than 1 MiB"));
    }
    Ok(text)
}

/// Without the newline that editors and `echo` leave at the end.
fn trimmed(mut text: String) -> String {
    let kept = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text).len());
    text.truncate(kept.unwrap_or(text.len()));
    text
}

/// Scalars and arrays of scalars; nothing else can be a value.
fn raw(value: &toml::Value) -> Option<Raw> {
    fn scalar(value: &toml::Value) -> Option<String> {
        match value {
            toml::Value::String(text) => Some(text.clone()),
            toml::Value::Integer(number) => Some(number.to_string()),
            toml::Value::Float(number) => Some(number.to_string()),
            toml::Value::Boolean(on) => Some(on.to_string()),
            _ => None,
        }
    }
    match value {
        toml::Value::Array(items) => items.iter().map(scalar).collect::<Option<_>>().map(Raw::List),
        other => scalar(other).map(Raw::Text),
    }
}

/// Any value of a TOML file as an error shows it.
fn shown(value: &toml::Value, secret: bool) -> String {
    raw(value).map_or_else(|| format!("({})", value.type_str()), |raw| raw.shown(secret))
}

fn both(setting: &Setting, plain: &str, file: &str, origin: Origin) -> Box<Problem> {
    let reason = format!("{plain} and {file} are both set; one of them is enough");
    Problem::new(setting.name).origin(origin).reason(reason).into()
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem::new(path.display()).reason(format!("cannot be read: {error}"))
}

/// A key of the TOML file, quoted when it is not a plain one.
fn bare_or_quoted(key: &str) -> String {
    let bare = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { key.to_owned() } else { quoted(key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_at_the_end_is_not_part_of_the_value() {
        for (text, value) in [
            ("a", "a"),
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\n\n", "a\n"),
            (" a \r", " a \r"),
            ("", ""),
        ] {
            assert_eq!(trimmed(text.to_owned()), value, "{text:?}");
        }
    }

    #[test]
    fn what_toml_can_say_is_a_value_or_is_named() {
        let table: toml::Table =
            "a = 1.5\nb = [1, 'x', true]\nc = [[1]]\nd = 2026-11-22\n[e]".parse().unwrap();
        assert_eq!(raw(&table["a"]), Some(Raw::Text("1.5".to_owned())));
        let items = ["1", "x", "true"].map(str::to_owned).into();
        assert_eq!(raw(&table["b"]), Some(Raw::List(items)));
        assert_eq!(shown(&table["c"], false), "(array)");
        assert_eq!(shown(&table["d"], false), "(datetime)");
        assert_eq!(shown(&table["e"], true), "(table)");
    }
}
