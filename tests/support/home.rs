//! Logins that are fake: a `CODEX_HOME` whose Codex talks to the stand-in, and the tokens in it.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Backend, backend::answers::now};

/// What a login is like.
#[derive(Clone, Debug)]
pub struct HomeOptions {
    /// The account; one per login, so that the backend tells them apart.
    pub account: String,
    /// The ChatGPT user; one per account unless said.
    pub user: String,
    /// Seconds until the access token expires; negative = it has.
    pub lifetime: i64,
    /// False: no `auth.json`, so not logged in.
    pub logged_in: bool,
    /// Further top-level lines of config.toml.
    pub config: Vec<String>,
    /// Further lines under `[features]`.
    pub features: Vec<String>,
}

impl Default for HomeOptions {
    fn default() -> Self {
        Self {
            account: "acct-test".to_owned(),
            user: "user-test".to_owned(),
            lifetime: 10 * 86_400,
            logged_in: true,
            config: Vec::new(),
            features: Vec::new(),
        }
    }
}

/// Writes config.toml and auth.json into `dir` so that Codex there uses `backend`. The token
/// endpoint is no setting but an environment variable, see [`Backend::env`].
///
/// Two names for one server: newer Codex insists on https when the model's URL has the same origin
/// as `chatgpt_base_url`, and leaves another origin alone.
pub fn codex_home(dir: &Path, backend: &Backend, options: &HomeOptions) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    let port = backend.port();
    let config = format!(
        "chatgpt_base_url = \"http://127.0.0.1:{port}/backend-api/\"\n\
         openai_base_url = \"http://localhost:{port}/backend-api/codex\"\n\
         check_for_update_on_startup = false\n\
         {}\n[analytics]\nenabled = false\n\
         [features]\nenable_request_compression = false\n{}\n",
        options.config.join("\n"),
        options.features.join("\n"),
    );
    fs::write(dir.join("config.toml"), config).unwrap();
    if options.logged_in {
        write_login(dir, options);
    }
    dir.to_owned()
}

/// Writes `auth.json` alone.
pub fn write_login(dir: &Path, options: &HomeOptions) {
    let mut tokens = tokens_of(&options.account, &options.user, options.lifetime);
    tokens["account_id"] = options.account.clone().into();
    let login = json!({"auth_mode": "chatgpt", "OPENAI_API_KEY": null, "tokens": tokens,
                       "last_refresh": jiff::Timestamp::now().to_string()});
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(dir.join("auth.json"))
        .unwrap();
    file.write_all(login.to_string().as_bytes()).unwrap();
}

/// Fresh tokens of `account`; the refresh token names it too, for the token endpoint.
pub fn tokens(account: &str, lifetime: i64) -> Value {
    let user = account.replacen("acct-", "user-", 1);
    tokens_of(account, &user, lifetime)
}

fn tokens_of(account: &str, user: &str, lifetime: i64) -> Value {
    let issued = now();
    let mut claims = json!({
        "iss": "test", "sub": user, "iat": issued, "exp": issued + lifetime,
        "jti": Uuid::new_v4(), "email": "test@example.invalid",
        "https://api.openai.com/auth": {"chatgpt_plan_type": "plus",
            "chatgpt_user_id": user, "chatgpt_account_id": account},
    });
    let id_token = jwt(&claims);
    claims["jti"] = Uuid::new_v4().to_string().into();
    json!({"id_token": id_token, "access_token": jwt(&claims),
           "refresh_token": format!("rt.{account}.{}", Uuid::new_v4().simple())})
}

/// Three parts like a JWT's; Codex checks no signature, and there is no key.
fn jwt(claims: &Value) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    [part(r#"{"alg":"none","typ":"JWT"}"#), part(&claims.to_string()), part("unsigned")].join(".")
}

/// The account of a refresh token made by [`tokens`].
pub fn account_of_refresh_token(token: &str) -> Option<&str> {
    token.strip_prefix("rt.")?.rsplit_once('.').map(|(account, _)| account)
}

/// Whether an access token's time is over; a token of another kind never expires.
pub fn is_expired(token: &str) -> bool {
    let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Option<Value> = claims.and_then(|raw| serde_json::from_slice(&raw).ok());
    claims.and_then(|claims| claims["exp"].as_i64()).is_some_and(|end| end <= now())
}
