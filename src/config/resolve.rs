//! From the sources to the struct: for each setting the value that wins, parsed, or what is wrong
//! with it. Nothing stops at the first problem.

use std::{path::PathBuf, time::Duration};

use super::{
    Changeable, Config, ConfigError, EngineChoice, Live, LoginHome, Problem, Resolved, Secret,
    layers::{Layers, Raw},
    parse::{self, Place, Refusal},
    shown::{OctalMode, Show, SqliteFile},
    sources::{Origin, Sources},
    table::{self as t, Preset, Setting},
};

/// The database's name in `STATE_DIR`.
pub(super) const DATABASE: &str = "codex-image-service.db";
/// `GENERATED_DIR` in `STATE_DIR`.
pub(super) const GENERATED: &str = "generated";
/// `CODEX_STATE_DIR` in `STATE_DIR`.
pub(super) const CODEX: &str = "codex";
/// `CODEX_WORKDIR` in `STATE_DIR`.
pub(super) const WORK: &str = "work";
/// `RUN_DIR` in `STATE_DIR`.
pub(super) const RUN: &str = "run";

const HOUR: f64 = 3_600.0;
const DAY: f64 = 24.0 * HOUR;

pub(super) fn load(sources: &Sources) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let layers = Layers::open(sources, &mut problems);
    let place = Place {
        working_dir: sources.working_dir.clone(),
        home: layers.variable("HOME").map(PathBuf::from).filter(|home| home.is_absolute()),
    };
    let mut resolver = Resolver { layers, place, problems, resolved: Vec::new() };
    match resolver.config() {
        Some(config) if resolver.problems.is_empty() => Ok(config),
        _ => Err(ConfigError { problems: resolver.problems }),
    }
}

struct Resolver {
    layers: Layers,
    place: Place,
    problems: Vec<Problem>,
    resolved: Vec<Resolved>,
}

/// What holds when nobody sets a setting, and what it was made from.
type Fallback<T> = Result<(T, Origin), Refusal>;

impl Resolver {
    /// `None` when something is wrong; then [`Self::problems`] says what.
    fn config(&mut self) -> Option<Config> {
        let listen = self.take(&t::LISTEN, parse::listen);
        let listen_mode = self.take(&t::LISTEN_MODE, |raw, _| parse::mode(raw).map(OctalMode));
        let listen_owner = self.take(&t::LISTEN_OWNER, |raw, _| parse::owner(raw));
        let state_dir = self.state_dir();
        let below = |name| match &state_dir {
            Some(state) => Ok((state.join(name), Origin::Derived("STATE_DIR"))),
            None => Err(None),
        };
        let database = self.take_or(
            &t::DATABASE_URL,
            |raw, place| parse::database(raw, place).map(SqliteFile),
            |_, _| below(DATABASE).map(|(path, origin)| (SqliteFile(path), origin)),
        );
        let generated_dir = self.take_or(&t::GENERATED_DIR, parse::path, |_, _| below(GENERATED));
        let codex_workdir = self.codex_folder(&t::CODEX_WORKDIR, state_dir.as_ref(), WORK);
        let codex_state_dir = self.codex_folder(&t::CODEX_STATE_DIR, state_dir.as_ref(), CODEX);
        let run_dir = self.take_or(&t::RUN_DIR, parse::path, |_, _| below(RUN));
        let public_base_url = self.take(&t::PUBLIC_BASE_URL, |raw, _| parse::public_base_url(raw));
        let admin_url_prefix = self.take(&t::ADMIN_URL_PREFIX, |raw, _| parse::url_prefix(raw));
        let admin = self.take(&t::ADMIN, |raw, _| parse::switch(raw));
        let admin_username = self.take(&t::ADMIN_USERNAME, |raw, _| parse::username(raw));
        let admin_password = self.secret(&t::ADMIN_PASSWORD, parse::password);
        let admin_session_secret = self.secret(&t::ADMIN_SESSION_SECRET, parse::secret);
        let codex_bin = self.take(&t::CODEX_BIN, parse::command);
        let codex_engine = self.take(&t::CODEX_ENGINE, |raw, _| parse::engine(raw));
        let codex_homes = self.codex_homes(codex_engine);
        let codex_model = self.take(&t::CODEX_MODEL, |raw, _| parse::model(raw));
        let codex_min_quota_percent = self.whole(&t::CODEX_MIN_QUOTA_PERCENT);
        let codex_timeout = self.number(&t::CODEX_TIMEOUT_SECONDS);
        let codex_worker_concurrency = self.whole(&t::CODEX_WORKER_CONCURRENCY);
        let codex_idle = self.number(&t::CODEX_IDLE_SECONDS);
        let codex_recycle_images = self.whole(&t::CODEX_RECYCLE_IMAGES);
        let codex_max_rss_mb = self.whole(&t::CODEX_MAX_RSS_MB);
        let codex_keep_alive = self.take(&t::CODEX_KEEP_ALIVE, |raw, _| parse::switch(raw));
        let generation_queue_max_size = self.whole(&t::GENERATION_QUEUE_MAX_SIZE);
        let request_wait_timeout = self.number(&t::REQUEST_WAIT_TIMEOUT_SECONDS);
        let image_retention = self.number(&t::IMAGE_RETENTION_DAYS);
        let cleanup_interval = self.number(&t::CLEANUP_INTERVAL_HOURS);
        let image_wall_48h = self.whole(&t::IMAGE_WALL_48H);
        let cors_allow_origins = self.take(&t::CORS_ALLOW_ORIGINS, |raw, _| parse::origins(raw));
        let log_level = self.take(&t::LOG_LEVEL, |raw, _| parse::level(raw));
        let log_format = self.take(&t::LOG_FORMAT, |raw, _| parse::log_format(raw));
        let metrics = self.take(&t::METRICS, |raw, _| parse::switch(raw));
        let shutdown_grace = self.number(&t::SHUTDOWN_GRACE_SECONDS);
        let idle_exit = self.number(&t::IDLE_EXIT_SECONDS);
        let max_connections = self.whole(&t::MAX_CONNECTIONS);
        let max_request_body_bytes = self.whole(&t::MAX_REQUEST_BODY_BYTES);
        let max_images_per_request = self.whole(&t::MAX_IMAGES_PER_REQUEST);
        let json_keepalive = self.number(&t::JSON_KEEPALIVE_SECONDS);
        let changeable = Changeable {
            codex_min_quota_percent: u8::try_from(codex_min_quota_percent?).ok()?,
            codex_timeout: parse::duration(codex_timeout?, 1.0),
            codex_worker_concurrency: usize::try_from(codex_worker_concurrency?).ok()?,
            generation_queue_max_size: u32::try_from(generation_queue_max_size?).ok()?,
            request_wait_timeout: parse::duration(request_wait_timeout?, 1.0),
            image_retention: parse::duration(image_retention?, DAY),
            log_level: log_level?,
            shutdown_grace: parse::duration(shutdown_grace?, 1.0),
            max_request_body_bytes: max_request_body_bytes?,
            max_images_per_request: u32::try_from(max_images_per_request?).ok()?,
            json_keepalive: unless_zero(json_keepalive?, 1.0),
        };
        let resolved = std::mem::take(&mut self.resolved);
        Some(Config {
            listen: listen?,
            listen_mode: listen_mode?.0,
            listen_owner: listen_owner?,
            state_dir: state_dir?,
            database: database?.0,
            generated_dir: generated_dir?,
            codex_workdir: codex_workdir?,
            codex_state_dir: codex_state_dir?,
            run_dir: run_dir?,
            public_base_url: public_base_url?,
            admin_url_prefix: admin_url_prefix?,
            admin: admin?,
            admin_username: admin_username?,
            admin_password: admin_password?,
            admin_session_secret: admin_session_secret?,
            codex_bin: codex_bin?,
            codex_engine: codex_engine?,
            codex_homes: codex_homes?,
            codex_model: codex_model?,
            codex_idle: parse::duration(codex_idle?, 1.0),
            codex_recycle_images: u32::try_from(codex_recycle_images?).ok()?,
            codex_max_rss_mb: codex_max_rss_mb?,
            codex_keep_alive: codex_keep_alive?,
            cleanup_interval: unless_zero(cleanup_interval?, HOUR),
            image_wall_48h: Some(u32::try_from(image_wall_48h?).ok()?).filter(|wall| *wall > 0),
            cors_allow_origins: cors_allow_origins?,
            log_format: log_format?,
            metrics: metrics?,
            idle_exit: unless_zero(idle_exit?, 1.0),
            max_connections: usize::try_from(max_connections?).ok()?,
            live: Live::new(changeable, resolved.clone()),
            resolved,
            variables: self.layers.variables(),
        })
    }

    /// A folder that Codex sees, by itself of this name in `STATE_DIR`.
    fn codex_folder(
        &mut self,
        setting: &'static Setting,
        state_dir: Option<&PathBuf>,
        name: &str,
    ) -> Option<PathBuf> {
        self.take_or(setting, parse::codex_visible, |_, _| match state_dir {
            Some(state) => {
                Ok((parse::without_comma(state.join(name))?, Origin::Derived("STATE_DIR")))
            }
            None => Err(None),
        })
    }

    fn state_dir(&mut self) -> Option<PathBuf> {
        self.take_or(&t::STATE_DIR, parse::codex_visible, |layers, place| {
            let found = parse::state_dir(|name| layers.variable(name), place.home.as_deref());
            let (path, from) = found.ok_or_else(|| {
                Some("not set, and neither are STATE_DIRECTORY, XDG_STATE_HOME and HOME".to_owned())
            })?;
            // The references lie below it.
            Ok((parse::without_comma(path)?, Origin::Derived(from)))
        })
    }

    /// The logins; when none is named, the one that Codex itself would use. The painter needs none.
    fn codex_homes(&mut self, engine: Option<EngineChoice>) -> Option<Vec<LoginHome>> {
        let default = |layers: &Layers, place: &Place| {
            let (path, from) = match (layers.variable("CODEX_HOME"), &place.home) {
                (Some(path), _) => (place.working_dir.join(path), "CODEX_HOME"),
                (None, Some(home)) => (home.join(".codex"), "HOME"),
                (None, None) if engine == Some(EngineChoice::Demo) => {
                    return Ok((Vec::new(), Origin::Default));
                }
                (None, None) => {
                    return Err(Some("not set, and neither are CODEX_HOME and HOME".to_owned()));
                }
            };
            Ok((vec![parse::labelled(path)?], Origin::Derived(from)))
        };
        // Set but empty means the default as well.
        let named = self.layers.find(&t::CODEX_HOMES).map(|found| {
            found.is_some_and(|(raw, _)| parse::homes(&raw, &self.place) != Ok(Vec::new()))
        });
        match named {
            Ok(false) => self.record(&t::CODEX_HOMES, default(&self.layers, &self.place), None),
            _ => self.take(&t::CODEX_HOMES, parse::homes),
        }
    }

    /// The outer option says whether all is well, the inner one whether there is a secret.
    #[allow(clippy::option_option)]
    fn secret(
        &mut self,
        setting: &'static Setting,
        parser: impl Fn(&Raw) -> Result<Option<Secret>, Refusal>,
    ) -> Option<Option<Secret>> {
        self.take_or(setting, |raw, _| parser(raw), |_, _| Ok((None, Origin::Default)))
    }

    fn whole(&mut self, setting: &'static Setting) -> Option<u64> {
        self.take(setting, |raw, _| parse::whole(raw, setting.allowed))
    }

    fn number(&mut self, setting: &'static Setting) -> Option<f64> {
        self.take(setting, |raw, _| parse::number(raw, setting.allowed))
    }

    /// A setting whose default is a text like any other.
    fn take<T: Show>(
        &mut self,
        setting: &'static Setting,
        parser: impl Fn(&Raw, &Place) -> Result<T, Refusal>,
    ) -> Option<T> {
        self.take_or(setting, &parser, |_, place| match setting.default {
            Preset::Value(text) => {
                parser(&Raw::Text(text.to_owned()), place).map(|value| (value, Origin::Default))
            }
            Preset::Derived(_) | Preset::Unset(_) => Err(None),
        })
    }

    fn take_or<T: Show>(
        &mut self,
        setting: &'static Setting,
        parser: impl Fn(&Raw, &Place) -> Result<T, Refusal>,
        fallback: impl FnOnce(&Layers, &Place) -> Fallback<T>,
    ) -> Option<T> {
        match self.layers.find(setting) {
            Err(problem) => {
                self.problems.push(*problem);
                None
            }
            Ok(None) => {
                let fallback = fallback(&self.layers, &self.place);
                self.record(setting, fallback, None)
            }
            Ok(Some((raw, origin))) => {
                let parsed = parser(&raw, &self.place).map(|value| (value, origin.clone()));
                self.record(setting, parsed, Some((raw, origin)))
            }
        }
    }

    /// Notes what holds for `check-config`, or what is wrong.
    fn record<T: Show>(
        &mut self,
        setting: &'static Setting,
        outcome: Fallback<T>,
        given: Option<(Raw, Origin)>,
    ) -> Option<T> {
        match outcome {
            Ok((value, origin)) => {
                let row = Resolved::new(setting, value.show(), origin.to_string());
                self.resolved.push(row);
                Some(value)
            }
            // No default because of another setting, which has its own problem.
            Err(None) if given.is_none() => None,
            Err(reason) => {
                let mut problem = Problem::new(setting.name).allowed(setting.allowed);
                problem.reason = reason;
                if let Some((raw, origin)) = given {
                    problem = problem.value(raw.shown(setting.secret)).origin(origin);
                }
                self.problems.push(problem);
                None
            }
        }
    }
}

/// So many units, each of so many seconds; 0 stands for no time at all.
fn unless_zero(number: f64, seconds: f64) -> Option<Duration> {
    Some(parse::duration(number, seconds)).filter(|time| !time.is_zero())
}
