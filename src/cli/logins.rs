//! `logins`: how the ChatGPT logins stand, and signing in. Works on the state directory, also while
//! the service runs.

use std::{
    collections::HashMap, fmt::Write as _, io::Write, path::PathBuf, process::ExitCode, sync::Arc,
};

use clap::Subcommand;
use serde_json::{Value, json};

use super::{block_on, config_or_exit, fail, plain};
use crate::{
    codex::{
        self, Engine,
        status::{Dispatch, LoginStatus, QuotaWindow, Rest, RestReason},
    },
    config::Config,
    logins, state_dir,
    store::{
        Store,
        logins::{LoginRecord, LoginUse},
    },
};

/// Show, test and sign in the ChatGPT logins of `CODEX_HOMES`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  codex-image-service logins list
  codex-image-service logins add second
  codex-image-service logins wake second

Exit codes: 0 done, 1 failed (the login is none, say), 2 wrong usage.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How each login stands: account, plan, quota, rests, what it has drawn.
    #[command(after_help = "Example: codex-image-service logins list --json")]
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Ask OpenAI about a login, without spending an image.
    ///
    /// It says when the numbers show that a login that rests has quota again. A login that a
    /// service uses cannot be asked beside it: wait until that has been idle for
    /// `CODEX_IDLE_SECONDS`, or stop it; `logins list` shows what it knows.
    #[command(after_help = "Example: codex-image-service logins test second")]
    Test {
        /// The login's label, from `logins list`.
        label: String,
    },
    /// End a login's rest by hand; a running service follows within seconds.
    ///
    /// It is used at once, and rests again when OpenAI refuses it, or when its numbers say so.
    #[command(after_help = "Example: codex-image-service logins wake second")]
    Wake {
        /// The login's label, from `logins list`.
        label: String,
    },
    /// Sign a login in with Codex's own device login, in its home.
    ///
    /// Run it as the service's user, on a terminal: it shows an address and a code.
    #[command(after_help = "Example: codex-image-service logins add second")]
    Add {
        /// The login's label, as in `CODEX_HOMES`.
        label: String,
    },
    /// What happened to the logins: rests, failures, kills, renewed tokens (fingerprints only).
    #[command(after_help = "Example: codex-image-service logins audit second --limit 20")]
    Audit {
        /// Only of this login.
        label: Option<String>,
        /// So many of the newest lines, 1 to 10,000.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show or choose in which order logins are used; a running service follows in seconds.
    #[command(after_help = "Example: codex-image-service logins dispatch primary-first")]
    Dispatch {
        /// round-robin (those with more quota left more often) or primary-first.
        #[arg(value_parser = ["round-robin", "primary-first"])]
        order: Option<String>,
    },
}

#[derive(Debug, thiserror::Error)]
enum LoginsError {
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error(transparent)]
    StateDir(std::io::Error),
    #[error("the engine cannot be set up: {0}")]
    Engine(std::io::Error),
    #[error("There is no login {label}; known are: {known}")]
    Unknown { label: String, known: String },
    #[error("{0}")]
    Trouble(String),
    #[error("the folders of Codex cannot be written: {0}")]
    Folders(std::io::Error),
    #[error("{label}: {message} ({code}){hint}")]
    Login { label: String, message: String, code: &'static str, hint: &'static str },
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("standard output could not be written to: {0}")]
    Output(#[from] std::io::Error),
}

pub(super) fn run(args: Args, file: Option<PathBuf>) -> ExitCode {
    let config = match config_or_exit(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if let Command::Add { label } = &args.command {
        return match codex::sign_in(&config, label) {
            Ok(()) => {
                eprintln!("The login {label} is signed in.");
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error),
        };
    }
    match block_on(execute(args.command, &config)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(&error),
        Err(error) => fail(&error),
    }
}

async fn execute(command: Command, config: &Config) -> Result<(), LoginsError> {
    state_dir::make(config, false).map_err(LoginsError::StateDir)?;
    let store = Store::open(&config.database).await?;
    let result = match command {
        Command::List { json } => list(config, &store, json).await,
        Command::Test { label } => test(config, &store, &label).await,
        Command::Wake { label } => wake(config, &store, &label).await,
        Command::Audit { label, limit, json } => {
            let lines = store.login_trail(label.as_deref(), limit).await?;
            print(&if json {
                to_json(&lines.iter().map(record_json).collect())?
            } else {
                trail(&lines)
            })
        }
        Command::Dispatch { order } => {
            if let Some(order) = order.as_deref().and_then(Dispatch::of) {
                store.set_dispatch(order).await?;
            }
            print(&format!("{}\n", store.dispatch().await?.as_str()))
        }
        Command::Add { .. } => Ok(()),
    };
    store.close().await;
    result
}

fn engine(config: &Config) -> Result<Arc<dyn Engine>, LoginsError> {
    codex::engine(config, Arc::new(|_| {})).map_err(LoginsError::Engine)
}

async fn list(config: &Config, store: &Store, as_json: bool) -> Result<(), LoginsError> {
    let engine = engine(config)?;
    logins::restore(store, engine.as_ref()).await?;
    let uses: HashMap<String, LoginUse> =
        store.login_uses().await?.into_iter().map(|uses| (uses.login.clone(), uses)).collect();
    let found = tokio::task::spawn_blocking(move || engine.logins()).await;
    let found = found.map_err(|error| LoginsError::Engine(error.into()))?;
    if found.is_empty() && !as_json {
        eprintln!("There is no login: the engine is demo.");
        return Ok(());
    }
    let troubles: Troubles = config
        .codex_homes
        .iter()
        .filter_map(|home| Some((home.label.as_str(), codex::login_trouble(home)?)))
        .collect();
    let rows = found.iter().map(|login| (login, uses.get(&login.label)));
    print(&if as_json {
        to_json(&rows.map(|(login, uses)| login_json(login, uses, &troubles)).collect())?
    } else {
        rows.map(|(login, uses)| in_words(login, uses, &troubles)).collect::<Vec<_>>().join("\n")
    })
}

/// A login of the settings, as it stands.
async fn known(engine: &Arc<dyn Engine>, label: &str) -> Result<LoginStatus, LoginsError> {
    let look = Arc::clone(engine);
    let logins = tokio::task::spawn_blocking(move || look.logins()).await;
    let logins = logins.map_err(|error| LoginsError::Engine(error.into()))?;
    let labels: Vec<_> = logins.iter().map(|login| login.label.clone()).collect();
    logins.into_iter().find(|login| login.label == label).ok_or_else(|| LoginsError::Unknown {
        label: label.to_owned(),
        known: if labels.is_empty() { "none".to_owned() } else { labels.join(", ") },
    })
}

async fn test(config: &Config, store: &Store, label: &str) -> Result<(), LoginsError> {
    let engine = engine(config)?;
    logins::restore(store, engine.as_ref()).await?;
    known(&engine, label).await?;
    let home = config.codex_homes.iter().find(|home| home.label == label);
    if let Some(trouble) = home.and_then(codex::login_trouble) {
        return Err(LoginsError::Trouble(trouble));
    }
    codex::check_folders(config).map_err(LoginsError::Folders)?;
    let asked = engine.account(label, false).await;
    engine.close().await;
    let login = known(&engine, label).await?;
    let account = asked.map_err(|failure| LoginsError::Login {
        label: label.to_owned(),
        message: failure.message,
        code: failure.code.as_str(),
        hint: if login.busy_elsewhere { BUSY } else { "" },
    })?;
    let plan = account.plan.as_deref().unwrap_or("unknown");
    let mut text = format!("{label}: the session is valid, plan {plan}\n");
    for window in &account.quota {
        let _ = writeln!(text, "  {}", window_in_words(window));
    }
    if let Some(rest) = &login.rest {
        let _ = writeln!(text, "  rests: {}", logins::rest_in_words(rest));
        if let Some(why) = needless(rest, &account.quota, config.live.now().codex_min_quota_percent)
        {
            let _ = writeln!(text, "  {why}: {}", wake_in_words(label));
        }
    }
    print(&text)
}

const BUSY: &str = "; `logins list` shows what the service knows of it. To ask OpenAI, wait until \
                    the service has been idle for CODEX_IDLE_SECONDS, or stop it";

fn wake_in_words(label: &str) -> String {
    format!("`codex-image-service logins wake {label}` ends its rest")
}

/// Why a login that was just asked about need not rest any more.
fn needless(rest: &Rest, quota: &[QuotaWindow], min_percent: u8) -> Option<&'static str> {
    match rest.reason {
        RestReason::LoginExpired => Some("the session is valid again"),
        RestReason::Faults | RestReason::ByHand => None,
        RestReason::Quota | RestReason::LowQuota => {
            let of = |window: &&QuotaWindow| {
                rest.limit.as_ref().is_none_or(|limit| *limit == window.limit)
            };
            let left = quota.iter().filter(of).map(|w| 100 - w.used_percent.min(100)).min();
            left.is_some_and(|left| left >= min_percent.max(1))
                .then_some("by its numbers the quota is back")
        }
    }
}

async fn wake(config: &Config, store: &Store, label: &str) -> Result<(), LoginsError> {
    let engine = engine(config)?;
    logins::restore(store, engine.as_ref()).await?;
    let login = known(&engine, label).await?;
    store.wake_login(label).await?;
    let rest = match &login.rest {
        Some(rest) => format!("its rest is ended ({})", logins::rest_in_words(rest)),
        None => "it was not known to rest".to_owned(),
    };
    print(&format!("{label}: {rest}; a running service follows within seconds\n"))
}

fn state(login: &LoginStatus) -> &'static str {
    match login {
        LoginStatus { problem: Some(_), .. } => "not_logged_in",
        LoginStatus { rest: Some(_), .. } => "resting",
        _ => "ready",
    }
}

/// What is wrong with logins, by their labels.
type Troubles<'a> = HashMap<&'a str, String>;

fn in_words(login: &LoginStatus, uses: Option<&LoginUse>, troubles: &Troubles) -> String {
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
    let mut text = format!("{}: {}", login.label, state(login).replace('_', " "));
    if let Some(rest) = &login.rest {
        let _ = write!(text, ", {}", logins::rest_in_words(rest));
    }
    if login.busy_elsewhere {
        text.push_str(", in use by another process");
    }
    text.push('\n');
    if let Some(trouble) = troubles.get(login.label.as_str()) {
        let _ = writeln!(text, "  {trouble}");
    }
    if login.rest.is_some() {
        let _ = writeln!(text, "  {}", wake_in_words(&login.label));
    }
    let _ = writeln!(text, "  account {}…, plan {}", known(&login.account), known(&login.plan));
    if let Some(at) = login.expires_at {
        let _ = writeln!(text, "  token valid until {}; Codex renews it", time(at));
    }
    for window in &login.quota {
        let _ = writeln!(text, "  {}", window_in_words(window));
    }
    let none = LoginUse::default();
    let uses = uses.unwrap_or(&none);
    let rate =
        rate(uses).map_or_else(|| "no turns".to_owned(), |rate| format!("{rate} % of turns"));
    let _ = writeln!(
        text,
        "  images: {} in 24 h ({rate}), {} in 48 h",
        uses.images_24h, uses.images_48h
    );
    text
}

fn window_in_words(window: &QuotaWindow) -> String {
    let reset = window.resets_at.map(|at| format!(", anew at {}", time(at))).unwrap_or_default();
    format!("{}{reset}", logins::window_in_words(window))
}

/// Pictures for a hundred turns.
fn rate(uses: &LoginUse) -> Option<i64> {
    (uses.turns_24h > 0).then(|| uses.images_24h * 100 / uses.turns_24h)
}

fn login_json(login: &LoginStatus, uses: Option<&LoginUse>, troubles: &Troubles) -> Value {
    let none = LoginUse::default();
    let uses = uses.unwrap_or(&none);
    let window = |window: &QuotaWindow| {
        json!({
            "limit": window.limit,
            "minutes": window.minutes,
            "used_percent": window.used_percent,
            "resets_at": window.resets_at.map(time),
        })
    };
    json!({
        "label": login.label,
        "state": state(login),
        "problem": troubles.get(login.label.as_str()),
        "account": login.account,
        "plan": login.plan,
        "token_expires_at": login.expires_at.map(time),
        "in_use_elsewhere": login.busy_elsewhere,
        "rest": login.rest.as_ref().map(|rest| json!({
            "until": time(rest.until),
            "reason": rest.reason.as_str(),
            "limit": rest.limit,
        })),
        "windows": login.quota.iter().map(window).collect::<Vec<_>>(),
        "images_24h": uses.images_24h,
        "images_48h": uses.images_48h,
        "success_percent_24h": rate(uses),
    })
}

fn record_json(line: &LoginRecord) -> Value {
    json!({"at": time(line.at / 1000), "login": line.login, "what": line.what, "detail": line.detail})
}

fn trail(lines: &[LoginRecord]) -> String {
    let line = |line: &LoginRecord| {
        let LoginRecord { at, login, what, detail } = line;
        format!("{}  {}\n", time(at / 1000), plain(&format!("{login}  {what}  {detail}")))
    };
    lines.iter().map(line).collect()
}

fn to_json(rows: &Vec<Value>) -> Result<String, LoginsError> {
    Ok(serde_json::to_string_pretty(rows)? + "\n")
}

fn print(text: &str) -> Result<(), LoginsError> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_default()
}
