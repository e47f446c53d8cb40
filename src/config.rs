//! Every setting in one struct, with its default, range and origin.
//!
//! [`Config::load`] reads all forms a setting can have (TOML file, `.env`, environment,
//! `NAME_FILE`, systemd credential) and reports everything that is wrong at once. What it returns
//! is final: paths are absolute, numbers are in range, logins have unique labels.

mod dotenv;
mod error;
mod layers;
mod live;
mod parse;
mod resolve;
mod shown;
mod sources;
pub mod table;
mod values;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::http::Uri;

pub use self::{
    error::{ConfigError, Problem},
    live::{Changeable, Differences, Live},
    shown::Resolved,
    sources::{CONFIG_FILE_VARIABLE, DEFAULT_CONFIG_FILE, ENV_FILE_VARIABLE, Origin, Sources},
    table::{SETTINGS, Setting},
    values::{EngineChoice, Listen, LogFormat, LoginHome, Owner, Secret},
};

/// The resolved settings.
#[derive(Clone)]
#[allow(missing_docs)]
pub struct Config {
    pub listen: Listen,
    /// `LISTEN_MODE`, default 0660.
    pub listen_mode: u32,
    pub listen_owner: Option<Owner>,
    pub state_dir: PathBuf,
    /// The SQLite file that `DATABASE_URL` names.
    pub database: PathBuf,
    pub generated_dir: PathBuf,
    pub codex_workdir: PathBuf,
    /// Folder of the homes in which app-servers run; see `codex::shadow`.
    pub codex_state_dir: PathBuf,
    /// Folder of the doorbells.
    pub run_dir: PathBuf,
    /// Without a slash at the end.
    pub public_base_url: String,
    /// Empty, or with a slash at the start and none at the end.
    pub admin_url_prefix: String,
    /// `ADMIN`, default on.
    pub admin: bool,
    pub admin_username: String,
    pub admin_password: Option<Secret>,
    pub admin_session_secret: Option<Secret>,
    /// A word to be looked up in PATH, or an absolute path.
    pub codex_bin: PathBuf,
    pub codex_engine: EngineChoice,
    /// At least one, unless the engine is `demo`.
    pub codex_homes: Vec<LoginHome>,
    pub codex_model: Option<String>,
    /// `CODEX_IDLE_SECONDS`, default 300.
    pub codex_idle: Duration,
    /// `CODEX_RECYCLE_IMAGES`, default 500.
    pub codex_recycle_images: u32,
    /// `CODEX_MAX_RSS_MB`, default 640.
    pub codex_max_rss_mb: u64,
    /// `CODEX_KEEP_ALIVE`, default on.
    pub codex_keep_alive: bool,
    pub cleanup_interval: Option<Duration>,
    /// `IMAGE_WALL_48H`, default 320.
    pub image_wall_48h: Option<u32>,
    /// Lower-case, without a slash at the end; `*` is everyone.
    pub cors_allow_origins: Vec<String>,
    /// `LOG_FORMAT`, default auto.
    pub log_format: LogFormat,
    /// `METRICS`, default off.
    pub metrics: bool,
    /// `IDLE_EXIT_SECONDS`, default never.
    pub idle_exit: Option<Duration>,
    /// `MAX_CONNECTIONS`, default 1024.
    pub max_connections: usize,
    /// The settings that may change while the service runs.
    pub live: Live,
    resolved: Vec<Resolved>,
    variables: BTreeMap<String, OsString>,
}

impl Config {
    /// Reads and checks every setting.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        resolve::load(sources)
    }

    /// Settings for a throw-away service under `dir` with the painter as its engine. Nothing is
    /// read from the environment, so a demo never touches a real state directory or login.
    #[must_use]
    pub fn for_demo(dir: &Path, listen: Listen) -> Self {
        const DAY: Duration = Duration::from_hours(24);
        let public_base_url = match &listen {
            Listen::Tcp(address) => format!("http://{}", reachable(*address)),
            Listen::Unix(_) => "http://localhost".to_owned(),
        };
        Self {
            listen,
            listen_mode: 0o660,
            listen_owner: None,
            state_dir: dir.to_owned(),
            database: dir.join(resolve::DATABASE),
            generated_dir: dir.join(resolve::GENERATED),
            codex_workdir: dir.join(resolve::WORK),
            codex_state_dir: dir.join(resolve::CODEX),
            run_dir: dir.join(resolve::RUN),
            public_base_url,
            admin_url_prefix: String::new(),
            admin: true,
            admin_username: "admin".to_owned(),
            admin_password: None,
            admin_session_secret: None,
            codex_bin: "codex".into(),
            codex_engine: EngineChoice::Demo,
            codex_homes: Vec::new(),
            codex_model: None,
            codex_idle: Duration::from_mins(5),
            codex_recycle_images: 500,
            codex_max_rss_mb: 640,
            codex_keep_alive: true,
            cleanup_interval: Some(DAY / 4),
            image_wall_48h: Some(320),
            cors_allow_origins: Vec::new(),
            log_format: LogFormat::Auto,
            metrics: false,
            idle_exit: None,
            max_connections: 1024,
            live: Live::default(),
            resolved: Vec::new(),
            variables: BTreeMap::new(),
        }
    }

    /// Folder of the references that callers sent, one folder a job.
    #[must_use]
    pub fn references_dir(&self) -> PathBuf {
        self.state_dir.join("references")
    }

    /// Folder of the small copies of pictures that the admin pages show.
    #[must_use]
    pub fn thumbnails_dir(&self) -> PathBuf {
        self.state_dir.join("thumbnails")
    }

    /// The lock that a worker holds for as long as it lives.
    #[must_use]
    pub fn worker_lock(&self) -> PathBuf {
        self.state_dir.join("worker.lock")
    }

    /// The socket at which a worker is woken.
    #[must_use]
    pub fn worker_bell(&self) -> PathBuf {
        self.run_dir.join("worker.bell")
    }

    /// Every setting with the value that holds, fit to be shown, and its origin, in the order of
    /// the table. Empty for a demo.
    #[must_use]
    pub fn resolved(&self) -> &[Resolved] {
        &self.resolved
    }

    /// What is allowed and yet hardly meant, in sentences.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let row = self.resolved.iter().find(|row| row.name == table::PUBLIC_BASE_URL.name);
        let path = self.public_base_url.parse::<Uri>().map(|url| url.path().to_owned());
        let path = path.as_deref().unwrap_or_default().trim_end_matches('/');
        let prefix = &self.admin_url_prefix;
        let mut warnings = Vec::new();
        if row.is_some_and(|row| row.origin != "default") && path != prefix {
            warnings.push(format!(
                "PUBLIC_BASE_URL ends in the path \"{path}\" and ADMIN_URL_PREFIX is \"{prefix}\": \
                 behind a proxy both name the path under which it shows the service"
            ));
        }
        match &self.listen {
            Listen::Tcp(address)
                if !address.ip().is_loopback()
                    && row.is_some_and(|row| row.origin == "default") =>
            {
                warnings.push(format!(
                    "LISTEN is {address}, but PUBLIC_BASE_URL is not set: picture URLs begin with \
                     {}, which other machines cannot reach",
                    self.public_base_url
                ));
            }
            _ => {}
        }
        warnings
    }

    /// The origin of `PUBLIC_BASE_URL` as browsers write it: lower-case, without a path and without
    /// the port that goes without saying.
    #[must_use]
    pub fn public_origin(&self) -> String {
        let url: Uri = self.public_base_url.parse().unwrap_or_default();
        let scheme = url.scheme_str().unwrap_or("http").to_ascii_lowercase();
        let host = url.host().unwrap_or("localhost").to_ascii_lowercase();
        let default = if scheme == "https" { 443 } else { 80 };
        match url.port_u16().filter(|port| *port != default) {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        }
    }

    /// Where a browser finds the admin pages.
    #[must_use]
    pub fn admin_url(&self) -> String {
        // The public base URL may or may not end in the prefix; the pages lie below the prefix.
        format!("{}{}/admin", self.public_origin(), self.admin_url_prefix)
    }

    /// A variable of the environment or else of `.env` that is no setting, such as a proxy for
    /// Codex. The original put `.env` into its environment, and with it into Codex's. Empty for
    /// a demo.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(name).map(OsString::as_os_str)
    }
}

/// An address at which this machine reaches a listener of ours: loopback for "every address".
#[must_use]
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_written_as_browsers_do() {
        let mut config = Config::for_demo(Path::new("/tmp/demo"), Listen::Unix("/x".into()));
        for (url, origin) in [
            ("https://Images.Example.com/base", "https://images.example.com"),
            ("https://images.example.com:443", "https://images.example.com"),
            ("http://images.example.com:80/x/y", "http://images.example.com"),
            ("http://[::1]:8000", "http://[::1]:8000"),
            ("HTTPS://a:8443", "https://a:8443"),
        ] {
            url.clone_into(&mut config.public_base_url);
            assert_eq!(config.public_origin(), origin);
        }
        config.admin_url_prefix = "/pictures".to_owned();
        assert_eq!(config.admin_url(), "https://a:8443/pictures/admin");
    }

    #[test]
    fn a_demo_differs_from_the_defaults_only_where_it_must() {
        let dir = Path::new("/tmp/demo");
        let listen = Listen::Tcp(([0, 0, 0, 0], 8123).into());
        let set = |(name, value): (&str, &str)| (name.to_owned(), OsString::from(value));
        let loaded = Config::load(&Sources {
            environment: [
                ("LISTEN", "0.0.0.0:8123"),
                ("STATE_DIR", "/tmp/demo"),
                ("CODEX_ENGINE", "demo"),
                ("PUBLIC_BASE_URL", "http://127.0.0.1:8123"),
            ]
            .map(set)
            .into(),
            working_dir: "/nonexistent".into(),
            ..Sources::default()
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let demo = Config::for_demo(dir, listen);
        let Config {
            listen,
            listen_mode,
            listen_owner,
            state_dir,
            database,
            generated_dir,
            codex_workdir,
            codex_state_dir,
            run_dir,
            public_base_url,
            admin_url_prefix,
            admin,
            admin_username,
            admin_password,
            admin_session_secret,
            codex_bin,
            codex_engine,
            codex_homes,
            codex_model,
            codex_idle,
            codex_recycle_images,
            codex_max_rss_mb,
            codex_keep_alive,
            cleanup_interval,
            image_wall_48h,
            cors_allow_origins,
            log_format,
            metrics,
            idle_exit,
            max_connections,
            live,
            resolved: _,
            variables: _,
        } = loaded;
        assert_eq!(demo.listen, listen);
        assert_eq!((demo.listen_mode, demo.listen_owner), (listen_mode, listen_owner));
        assert_eq!(demo.state_dir, state_dir);
        assert_eq!(demo.database, database);
        assert_eq!(demo.generated_dir, generated_dir);
        assert_eq!(demo.codex_workdir, codex_workdir);
        assert_eq!(demo.codex_state_dir, codex_state_dir);
        assert_eq!(demo.run_dir, run_dir);
        assert_eq!(demo.public_base_url, public_base_url);
        assert_eq!(demo.admin_url_prefix, admin_url_prefix);
        assert_eq!(demo.admin, admin);
        assert_eq!(demo.admin_username, admin_username);
        assert!(demo.admin_password.is_none() && admin_password.is_none());
        assert!(demo.admin_session_secret.is_none() && admin_session_secret.is_none());
        assert_eq!(demo.codex_bin, codex_bin);
        assert_eq!(demo.codex_engine, codex_engine);
        assert_eq!(demo.codex_homes, codex_homes);
        assert_eq!(demo.codex_model, codex_model);
        assert_eq!(demo.codex_idle, codex_idle);
        assert_eq!(demo.codex_recycle_images, codex_recycle_images);
        assert_eq!(demo.codex_max_rss_mb, codex_max_rss_mb);
        assert_eq!(demo.codex_keep_alive, codex_keep_alive);
        assert_eq!(demo.cleanup_interval, cleanup_interval);
        assert_eq!(demo.image_wall_48h, image_wall_48h);
        assert_eq!(demo.cors_allow_origins, cors_allow_origins);
        assert_eq!(demo.log_format, log_format);
        assert_eq!(demo.metrics, metrics);
        assert_eq!(demo.idle_exit, idle_exit);
        assert_eq!(demo.live.now(), live.now());
        assert_eq!(demo.max_connections, max_connections);
    }
}
