//! What the value of a setting can be, where a type of the standard library does not say it.

use std::{net::SocketAddr, path::PathBuf};

/// A value that is never printed: no `Debug`, no `Display`.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Closes the lid.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself; not for logs, answers or errors.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Where `serve` listens when systemd passes no socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address and port.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

/// Who a file is to belong to, each by a name or a number; at least one of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user; None: as it is.
    pub user: Option<String>,
    /// The group; None: as it is.
    pub group: Option<String>,
}

/// How pictures are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// The best engine that is there.
    Auto,
    /// `codex app-server`.
    AppServer,
    /// `codex exec`.
    Exec,
    /// The painter of `demo`; no Codex.
    Demo,
}

/// Where the log goes and how its lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// To the journal where standard error is the journal's, else as text.
    Auto,
    /// Entries of the journal, with fields.
    Journal,
    /// Lines for people, on standard error.
    Text,
    /// A JSON object a line, on standard error.
    Json,
}

/// A login: a `CODEX_HOME` and the name people see for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginHome {
    /// The folder's name, or the word before `=`; unique.
    pub label: String,
    /// The `CODEX_HOME`.
    pub path: PathBuf,
}
