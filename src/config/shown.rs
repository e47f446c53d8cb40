//! How settings look to people: the value that holds, in the form in which it could be set again,
//! and where it came from.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    EngineChoice, Listen, LogFormat, LoginHome, Owner, Secret, error::HIDDEN, table::Setting,
};

/// A setting as it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resolved {
    /// Its name in the environment.
    pub name: &'static str,
    /// The value, never a secret.
    pub value: String,
    /// Where it came from, in words.
    pub origin: String,
    /// What holds when nobody sets it.
    pub default: String,
    /// What a value may be.
    pub allowed: String,
    /// What it is for.
    pub meaning: &'static str,
    /// Whether the value is hidden.
    pub secret: bool,
}

impl Resolved {
    pub(super) fn new(setting: &'static Setting, value: String, origin: String) -> Self {
        Self {
            name: setting.name,
            value,
            origin,
            default: setting.default.to_string(),
            allowed: setting.allowed.to_string(),
            meaning: setting.meaning,
            secret: setting.secret,
        }
    }
}

/// A value that can be shown in the form in which it is set.
pub(super) trait Show {
    fn show(&self) -> String;
}

/// The database's file, shown as the URL that names it.
pub(super) struct SqliteFile(pub(super) PathBuf);

impl Show for SqliteFile {
    fn show(&self) -> String {
        format!("sqlite:///{}", self.0.display())
    }
}

/// Permissions, shown as they are set.
pub(super) struct OctalMode(pub(super) u32);

impl Show for OctalMode {
    fn show(&self) -> String {
        format!("{:04o}", self.0)
    }
}

impl Show for Option<Owner> {
    fn show(&self) -> String {
        let Some(Owner { user, group }) = self else { return String::new() };
        let group = group.as_ref().map(|group| format!(":{group}")).unwrap_or_default();
        format!("{}{group}", user.as_deref().unwrap_or_default())
    }
}

impl Show for PathBuf {
    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Show for String {
    fn show(&self) -> String {
        self.clone()
    }
}

impl Show for Option<String> {
    fn show(&self) -> String {
        self.clone().unwrap_or_default()
    }
}

impl Show for Option<Secret> {
    fn show(&self) -> String {
        if self.is_some() { HIDDEN.to_owned() } else { "(unset)".to_owned() }
    }
}

impl Show for u64 {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Show for f64 {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Show for bool {
    fn show(&self) -> String {
        if *self { "on" } else { "off" }.to_owned()
    }
}

impl Show for tracing::Level {
    fn show(&self) -> String {
        self.as_str().to_ascii_lowercase()
    }
}

impl Show for Listen {
    fn show(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

impl Show for EngineChoice {
    fn show(&self) -> String {
        match self {
            Self::Auto => "auto",
            Self::AppServer => "app-server",
            Self::Exec => "exec",
            Self::Demo => "demo",
        }
        .to_owned()
    }
}

impl Show for LogFormat {
    fn show(&self) -> String {
        match self {
            Self::Auto => "auto",
            Self::Journal => "journal",
            Self::Text => "text",
            Self::Json => "json",
        }
        .to_owned()
    }
}

impl Show for Vec<LoginHome> {
    fn show(&self) -> String {
        let homes = self.iter().map(|home| format!("{}={}", home.label, home.path.display()));
        homes.collect::<Vec<_>>().join(":")
    }
}

impl Show for Vec<String> {
    fn show(&self) -> String {
        self.join(",")
    }
}
