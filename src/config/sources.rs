//! What settings are read from, and the name of each source. Everything is handed in, so that
//! reading depends on nothing of the process it runs in.

use std::{collections::BTreeMap, ffi::OsString, fmt, path::PathBuf};

use super::error::{ConfigError, Problem};

/// The TOML file that is read when none is named and this one exists.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/codex-image-service/config.toml";
/// The environment variable that names another.
pub const CONFIG_FILE_VARIABLE: &str = "CODEX_IMAGE_SERVICE_CONFIG";

/// The environment variable that names another file than the `.env` of the working directory; empty,
/// none is read, for commands that run in somebody else's folder.
pub const ENV_FILE_VARIABLE: &str = "CODEX_IMAGE_SERVICE_ENV_FILE";

/// Everything that settings are read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The real environment.
    pub environment: BTreeMap<String, OsString>,
    /// Where `.env` is looked for and relative paths start.
    pub working_dir: PathBuf,
    /// The TOML file of `--config`; must exist.
    pub config_file: Option<PathBuf>,
    /// The TOML file that is read when neither `--config` nor the environment names one, if it
    /// exists.
    pub default_config_file: Option<PathBuf>,
    /// systemd's credentials.
    pub credentials_dir: Option<PathBuf>,
}

impl Sources {
    /// What this process was started with. Variables whose names are not Unicode are none of ours.
    pub fn of_process(config_file: Option<PathBuf>) -> Result<Self, ConfigError> {
        let working_dir = std::env::current_dir().map_err(|error| ConfigError {
            problems: vec![
                Problem::new("the working directory").reason(format!("unknown: {error}")),
            ],
        })?;
        Ok(Self {
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
                .collect(),
            working_dir,
            config_file,
            default_config_file: Some(DEFAULT_CONFIG_FILE.into()),
            credentials_dir: crate::systemd::credentials_dir(),
        })
    }
}

/// Where a value was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// Nobody set it, and this is what it was made from.
    Derived(&'static str),
    /// A key of the TOML file.
    ConfigFile(PathBuf, String),
    /// The `.env` of the working directory.
    DotEnv(PathBuf),
    /// The environment.
    Environment,
    /// The file that this variable or key names.
    ValueFile(String, PathBuf),
    /// The systemd credential of this name.
    Credential(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Derived(from) => write!(f, "default, from {from}"),
            Self::ConfigFile(path, key) => write!(f, "{}: {key}", path.display()),
            Self::DotEnv(path) => path.display().fmt(f),
            Self::Environment => f.write_str("environment"),
            Self::ValueFile(name, path) => write!(f, "{name}: {}", path.display()),
            Self::Credential(name) => write!(f, "credential {name}"),
        }
    }
}
