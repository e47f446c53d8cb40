//! `keys`: who may call. Works on the state directory, also while the service runs.

use std::{fmt::Write as _, io::Write, path::PathBuf, process::ExitCode};

use clap::Subcommand;

use super::{block_on, config_or_exit, fail, plain};
use crate::{
    api_key,
    config::Config,
    state_dir,
    store::{Store, api_keys::ApiKey},
};

/// Make, list, enable, disable and delete the keys of callers.
///
/// A key is shown once, when it is made: only its SHA-256 is stored. Commands work beside the
/// running service and take effect at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  key=$(codex-image-service keys create laptop)
  curl -H \"Authorization: Bearer $key\" http://127.0.0.1:8000/v1/images/jobs

Exit codes: 0 done, 1 failed (no such key, say), 2 wrong usage.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key: the key alone on standard output, words on standard error.
    #[command(after_help = "Example: codex-image-service keys create laptop > laptop.key")]
    Create {
        /// What the key is for, 1 to 100 characters.
        name: String,
    },
    /// List the keys, without their secrets.
    #[command(after_help = "Example: codex-image-service keys list --json")]
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Let a disabled key in again.
    #[command(after_help = "Example: codex-image-service keys enable key_0123456789ab")]
    Enable {
        /// The key's id, or its name when no other key has it.
        #[arg(value_name = "ID|NAME")]
        key: String,
    },
    /// Refuse a key with 403, until it is enabled again.
    #[command(after_help = "Example: codex-image-service keys disable laptop")]
    Disable {
        /// The key's id, or its name when no other key has it.
        #[arg(value_name = "ID|NAME")]
        key: String,
    },
    /// Forget a key for ever; its jobs stay in the history.
    #[command(after_help = "Example: codex-image-service keys delete key_0123456789ab")]
    Delete {
        /// The key's id, or its name when no other key has it.
        #[arg(value_name = "ID|NAME")]
        key: String,
    },
}

/// Why a command on keys failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeysError {
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error(transparent)]
    StateDir(std::io::Error),
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    #[error("the name must have 1 to 100 characters and no control characters, not {0:?}")]
    Name(String),
    #[error("there is no key with the id or name {0:?}; 'keys list' shows them")]
    Unknown(String),
    #[error("several keys are called {name:?}; give one of their ids: {ids}")]
    Ambiguous { name: String, ids: String },
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
    match block_on(execute(args.command, &config)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(&error),
        Err(error) => fail(&error),
    }
}

async fn execute(command: Command, config: &Config) -> Result<(), KeysError> {
    state_dir::make(config, false).map_err(KeysError::StateDir)?;
    let store = Store::open(&config.database).await?;
    let result = match command {
        Command::Create { name } => create(&store, &name).await,
        Command::List { json } => list(&store, json).await,
        Command::Enable { key } => change(&store, key, Change::Enable).await,
        Command::Disable { key } => change(&store, key, Change::Disable).await,
        Command::Delete { key } => change(&store, key, Change::Delete).await,
    };
    store.close().await;
    result
}

enum Change {
    Enable,
    Disable,
    Delete,
}

async fn change(store: &Store, key: String, change: Change) -> Result<(), KeysError> {
    let id = id_of(&store.list_keys().await?, &key)?;
    let (changed, words) = match change {
        Change::Enable => (store.enable_key(&id, true).await?, "enabled."),
        Change::Disable => (store.enable_key(&id, false).await?, "disabled."),
        Change::Delete => (store.delete_key(&id).await?, "deleted; its jobs stay in the history."),
    };
    if !changed {
        return Err(KeysError::Unknown(key));
    }
    eprintln!("{id} is {words}");
    Ok(())
}

/// The id of the key with this id, or else of the only one with this name.
fn id_of(keys: &[ApiKey], key: &str) -> Result<String, KeysError> {
    if keys.iter().any(|known| known.id == key) {
        return Ok(key.to_owned());
    }
    let named: Vec<_> =
        keys.iter().filter(|known| known.name == key).map(|known| known.id.as_str()).collect();
    match named[..] {
        [] => Err(KeysError::Unknown(key.to_owned())),
        [id] => Ok(id.to_owned()),
        _ => Err(KeysError::Ambiguous { name: key.to_owned(), ids: named.join(", ") }),
    }
}

async fn create(store: &Store, name: &str) -> Result<(), KeysError> {
    let name = api_key::checked_name(name).ok_or_else(|| KeysError::Name(name.to_owned()))?;
    let key = new_key(store, name).await?;
    if let Err(error) = writeln!(std::io::stdout(), "{}", key.text) {
        // Nobody has seen it, and nobody ever will.
        store.delete_key(&key.id).await?;
        return Err(error.into());
    }
    eprintln!(
        "Made the key {} for {name:?}. It is shown this once; keep it where its caller finds it.",
        key.id
    );
    Ok(())
}

/// Makes and stores a key.
pub(super) async fn new_key(store: &Store, name: &str) -> Result<api_key::NewKey, KeysError> {
    let key = api_key::generate()?;
    let (handle, hash) = (api_key::handle(&key.text), api_key::hash(&key.text));
    store.insert_key(&key.id, name, &handle, &hash).await?;
    Ok(key)
}

async fn list(store: &Store, json: bool) -> Result<(), KeysError> {
    let keys = store.list_keys().await?;
    if keys.is_empty() && !json {
        eprintln!("There are no keys; 'keys create NAME' makes one.");
        return Ok(());
    }
    let text = if json {
        serde_json::to_string_pretty(&keys.iter().map(as_json).collect::<Vec<_>>())? + "\n"
    } else {
        table(&keys)
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever read the list has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn table(keys: &[ApiKey]) -> String {
    let width = keys.iter().map(|key| key.name.chars().count()).max().unwrap_or(4).max(4);
    let mut text = format!(
        "{:<17} {:<10} {:<width$} {:<8} {:>6} LAST USED\n",
        "ID", "KEY", "NAME", "STATE", "JOBS"
    );
    for key in keys {
        let state = if key.enabled { "enabled" } else { "disabled" };
        let used = key.last_used_at.map_or_else(|| "never".to_owned(), time);
        let ApiKey { jobs, .. } = key;
        let [id, handle, name] = [&key.id, &key.handle, &key.name].map(|text| plain(text));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{id:<17} {handle:<10} {name:<width$} {state:<8} {jobs:>6} {used}");
    }
    text
}

fn as_json(key: &ApiKey) -> serde_json::Value {
    serde_json::json!({
        "id": key.id,
        "name": key.name,
        "handle": key.handle,
        "enabled": key.enabled,
        "jobs": key.jobs,
        "images": key.images,
        "created_at": time(key.created_at),
        "last_used_at": key.last_used_at.map(time),
    })
}

fn time(milliseconds: i64) -> String {
    jiff::Timestamp::from_millisecond(milliseconds)
        .map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_default()
}
