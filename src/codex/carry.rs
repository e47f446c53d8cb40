//! What is carried over from the `config.toml` in a login's home. The file itself is not loaded
//! (`--ignore-user-config`): it may start programs (MCP servers, `notify`, hooks), switch tools on
//! or loosen the sandbox. Only what says *where and as what* Codex talks to `OpenAI` is taken, key by
//! key and checked, and nothing that may hold a secret, for it becomes an argument.
//!
//! - `chatgpt_base_url`, `openai_base_url`: a gateway, or a stand-in in tests.
//! - `model`: unless the settings name one.
//! - `model_provider` and that provider's entry: the same for a provider of one's own; of it only
//!   the address, the name, the dialect and the retry counts, never headers, keys or commands.
//! - `features.enable_request_compression`: some gateways cannot read compressed bodies.
//! - `analytics.enabled`: off unless the login's owner switched it on.
//!
//! What is not kept out: Codex gives the model the home's own `AGENTS.md`, and 0.169 has no switch
//! for it (openai/codex issue 42601). It is words, not a program; a warning names it.
//!
//! Left out on purpose: `forced_login_method` and `forced_chatgpt_workspace_id` (on a mismatch
//! Codex signs the login out), effort and service tier (they cost quota), all paths and programs.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use toml::{Table, Value};

const LARGEST: u64 = 1024 * 1024;
/// The first that is there counts.
const GLOBAL_TEXTS: [&str; 2] = ["AGENTS.override.md", "AGENTS.md"];

/// The values for `-c`, in the form `key=value`.
pub(super) fn overrides(home: &Path, model_is_set: bool) -> Vec<String> {
    let table = match read(&home.join("config.toml")) {
        Ok(text) => text.parse::<Table>().unwrap_or_else(|error| {
            // The parser's message quotes the file, which may hold secrets.
            tracing::warn!(at = ?error.span(), "the login's config.toml is no TOML; left out");
            Table::new()
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Table::new(),
        Err(error) => {
            tracing::warn!(%error, "the login's config.toml cannot be read; left out");
            Table::new()
        }
    };
    chosen(&table, model_is_set)
}

/// Says in the log what of the home's texts cannot be kept out.
pub(super) fn warn_of_texts(home: &Path) {
    if let Some(name) = GLOBAL_TEXTS.iter().find(|name| is_filled(&home.join(name))) {
        tracing::warn!(
            "Codex tells the model what {name} in the login's home says, with every picture; give \
             the service a home of its own to avoid that"
        );
    }
}

fn is_filled(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.len() > 0)
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LARGEST).read_to_string(&mut text)?;
    Ok(text)
}

fn chosen(table: &Table, model_is_set: bool) -> Vec<String> {
    let mut chosen = Vec::new();
    let mut take = |key: &str, value: Option<&Value>, fits: fn(&Value) -> bool| match value {
        Some(value) if fits(value) => chosen.push(format!("{key}={value}")),
        Some(_) => tracing::warn!(key, "not taken over from the login's config.toml"),
        None => {}
    };
    let inner = |name: &str, key: &str| table.get(name)?.as_table()?.get(key);
    take("chatgpt_base_url", table.get("chatgpt_base_url"), is_address);
    take("openai_base_url", table.get("openai_base_url"), is_address);
    if !model_is_set {
        take("model", table.get("model"), is_word);
    }
    let feature = "enable_request_compression";
    take(&format!("features.{feature}"), inner("features", feature), Value::is_bool);
    let analytics = inner("analytics", "enabled").and_then(Value::as_bool).unwrap_or(false);
    chosen.push(format!("analytics.enabled={analytics}"));
    if let Some((id, provider)) = provider(table) {
        chosen.push(format!("model_provider=\"{id}\""));
        if let Some(provider) = provider {
            chosen.push(format!("model_providers.{id}={provider}"));
        }
    }
    chosen
}

/// The chosen provider and what of its entry may be passed on. A provider whose address cannot
/// be passed on is left out as a whole: half of it would lead elsewhere.
fn provider(table: &Table) -> Option<(&str, Option<Value>)> {
    let id = table.get("model_provider")?.as_str()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if id.is_empty() || !id.bytes().all(plain) {
        tracing::warn!("model_provider is not taken over from the login's config.toml");
        return None;
    }
    let entry = table.get("model_providers").and_then(|all| all.as_table()?.get(id)?.as_table());
    let Some(entry) = entry else { return Some((id, None)) };
    let mut kept = Table::new();
    for (key, value) in entry {
        let fits: fn(&Value) -> bool = match key.as_str() {
            "name" | "wire_api" => is_word,
            "base_url" => is_address,
            "requires_openai_auth" | "supports_websockets" => Value::is_bool,
            "request_max_retries"
            | "stream_max_retries"
            | "stream_idle_timeout_ms"
            | "websocket_connect_timeout_ms" => Value::is_integer,
            _ => |_| false,
        };
        if fits(value) {
            kept.insert(key.clone(), value.clone());
        } else {
            tracing::warn!(key, "not taken over from the provider in the login's config.toml");
            if key == "base_url" {
                return None;
            }
        }
    }
    // Displayed as a value, a table takes its inline form.
    Some((id, Some(Value::Table(kept))))
}

fn is_word(value: &Value) -> bool {
    value.as_str().is_some_and(|text| {
        !text.is_empty() && text.len() <= 128 && !text.chars().any(char::is_control)
    })
}

/// An address without user, password, query or fragment: those are where secrets are put.
fn is_address(value: &Value) -> bool {
    value.as_str().is_some_and(|text| {
        (text.starts_with("https://") || text.starts_with("http://"))
            && text.len() <= 512
            && text.bytes().all(|byte| byte.is_ascii_graphic())
            && !text.contains(['@', '?', '#', '"', '\'', '\\'])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        chosen(&text.parse().unwrap(), false)
    }

    #[test]
    fn addresses_and_the_model_are_carried_over() {
        let text = "chatgpt_base_url = 'http://127.0.0.1:1/backend-api/'\nmodel = 'gpt-5.5'\n\
                    [features]\nenable_request_compression = false\nshell_tool = true\n\
                    [analytics]\nenabled = true\n";
        assert_eq!(
            of(text),
            [
                "chatgpt_base_url=\"http://127.0.0.1:1/backend-api/\"",
                "model=\"gpt-5.5\"",
                "features.enable_request_compression=false",
                "analytics.enabled=true",
            ]
        );
        assert!(!chosen(&text.parse().unwrap(), true).iter().any(|arg| arg.starts_with("model=")));
    }

    #[test]
    fn programs_and_tools_are_not() {
        let text = "notify = ['x']\nsandbox_mode = 'danger-full-access'\nprofile = 'p'\n\
                    [mcp_servers.evil]\ncommand = 'x'\n[[hooks.SessionStart]]\n[shell]\nx = 1\n";
        assert_eq!(of(text), ["analytics.enabled=false"]);
    }

    #[test]
    fn an_address_with_a_secret_is_not() {
        for bad in
            ["https://u:p@h/", "https://h/?key=s", "file:///x", "https://h/ x", "https://h/#k"]
        {
            assert_eq!(of(&format!("openai_base_url = '{bad}'")), ["analytics.enabled=false"]);
        }
    }

    #[test]
    fn a_provider_comes_without_its_keys() {
        let text = "model_provider = 'lab'\n[model_providers.lab]\nname = 'OpenAI'\n\
                    base_url = 'http://h/v1'\nenv_key = 'SECRET'\nrequires_openai_auth = true\n\
                    stream_max_retries = 1\nhttp_headers = { X = 'secret' }\n\
                    auth = { command = 'x' }\n[model_providers.other]\nbase_url = 'http://o/'\n";
        let args = of(text);
        assert_eq!(args[1], "model_provider=\"lab\"");
        let value = args[2].strip_prefix("model_providers.lab=").unwrap();
        assert!(value.starts_with('{') && !value.contains('\n'), "{value}");
        let table: Table = format!("v = {value}").parse().unwrap();
        assert_eq!(table["v"].as_table().unwrap().len(), 4, "{value}");
        assert!(!args.concat().to_lowercase().contains("secret"));
        assert_eq!(of("model_provider = 'a.b'\n"), ["analytics.enabled=false"]);
    }
}
