//! Every setting can be given in four forms, the higher form wins, what is wrong stops the start
//! with all of it said at once, and no secret is ever printed.

#![allow(clippy::unwrap_used)] // clippy takes only #[test] functions for tests

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

/// A working directory with nothing in it and a process that sees nothing else.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("credentials")).unwrap();
        // So that no file of this machine is read.
        fs::write(dir.path().join("empty.toml"), "").unwrap();
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn command(&self, env: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_codex-image-service"));
        command
            .current_dir(self.path())
            .env_clear()
            .env("HOME", "/home/nobody")
            .env("CODEX_IMAGE_SERVICE_CONFIG", "empty.toml")
            .envs(env.iter().copied());
        command
    }

    fn check(&self, env: &[(&str, &str)], args: &[&str]) -> Output {
        self.command(env).arg("check-config").args(args).output().unwrap()
    }

    /// The value and origin of one setting.
    fn setting(&self, env: &[(&str, &str)], args: &[&str], name: &str) -> (String, String) {
        let output = self.check(env, &[args, &["--json"]].concat());
        assert!(output.status.success(), "{}", text(&output.stdout));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let rows = report["settings"].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == name).unwrap();
        let field = |field: &str| row[field].as_str().unwrap().to_owned();
        (field("value"), field("origin"))
    }

    /// What is said when the settings are wrong, with the bench's path as DIR.
    fn complaint(&self, env: &[(&str, &str)], args: &[&str]) -> String {
        let output = self.check(env, args);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
        assert_eq!(text(&output.stdout), "");
        let said = text(&output.stderr);
        said.replace(&self.path().display().to_string(), "DIR").trim_end().to_owned()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn pair(value: &str, origin: impl Into<String>) -> (String, String) {
    (value.to_owned(), origin.into())
}

#[test]
fn each_form_wins_over_the_one_below_it() {
    let bench = Bench::new();
    let name = "GENERATION_QUEUE_MAX_SIZE";
    assert_eq!(bench.setting(&[], &[], name), pair("50", "default"));

    let file = bench.write("config.toml", "generation_queue_max_size = 51\n");
    let args = ["--config", file.as_str()];
    let from_file = format!("{file}: generation_queue_max_size");
    assert_eq!(bench.setting(&[], &args, name), pair("51", from_file));

    let dotenv = bench.write(".env", "GENERATION_QUEUE_MAX_SIZE=52\n");
    assert_eq!(bench.setting(&[], &args, name), pair("52", dotenv));
    let none = [("CODEX_IMAGE_SERVICE_ENV_FILE", "")];
    assert_eq!(bench.setting(&none, &args, name).0, "51");
    let other = bench.write("other.env", "GENERATION_QUEUE_MAX_SIZE=56\n");
    let another = [("CODEX_IMAGE_SERVICE_ENV_FILE", "other.env")];
    assert_eq!(bench.setting(&another, &args, name), pair("56", other));
    let missing = [("CODEX_IMAGE_SERVICE_ENV_FILE", "missing.env")];
    assert!(bench.complaint(&missing, &args).contains("DIR/missing.env"));

    let set = [(name, "53")];
    assert_eq!(bench.setting(&set, &args, name), pair("53", "environment"));

    let value = bench.write("size", "54\n");
    let named = [("GENERATION_QUEUE_MAX_SIZE_FILE", value.as_str())];
    let from_value = format!("GENERATION_QUEUE_MAX_SIZE_FILE: {value}");
    assert_eq!(bench.setting(&named, &args, name), pair("54", from_value));

    bench.write("credentials/generation-queue-max-size", "55\n");
    let credentials = bench.path().join("credentials").display().to_string();
    let set = [(name, "53"), ("CREDENTIALS_DIRECTORY", credentials.as_str())];
    let from_credential = "credential generation-queue-max-size";
    assert_eq!(bench.setting(&set, &args, name), pair("55", from_credential));
}

#[test]
fn the_file_is_the_one_of_the_command_line_or_of_the_variable() {
    let bench = Bench::new();
    bench.write("a.toml", "log_level = 'debug'");
    bench.write("b.toml", "log_level = 'error'");
    let variable = [("CODEX_IMAGE_SERVICE_CONFIG", "a.toml")];
    assert_eq!(bench.setting(&variable, &[], "LOG_LEVEL").0, "debug");
    assert_eq!(bench.setting(&variable, &["--config", "b.toml"], "LOG_LEVEL").0, "error");
    assert_eq!(
        bench.complaint(&[("CODEX_IMAGE_SERVICE_CONFIG", "c.toml")], &[]),
        "DIR/c.toml: cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn toml_says_things_naturally() {
    let bench = Bench::new();
    bench.write("size", "7\r\n");
    bench.write(
        "config.toml",
        r#"
        listen = "unix:run/http.sock"
        listen_mode = "0600"
        listen_owner = "www-data:33"
        run_dir = "bells"
        idle_exit_seconds = 30
        codex_homes = ["one=/h/a", "~/.codex"]
        cors_allow_origins = ["https://a.example", "https://b.example/"]
        metrics = true
        cleanup_interval_hours = 0.5
        generation_queue_max_size_file = "size"
        codex_timeout_seconds = "120"
        "#,
    );
    let args = ["--config", "config.toml"];
    let value = |name| bench.setting(&[], &args, name).0;
    let socket = format!("unix:{}/run/http.sock", bench.path().display());
    assert_eq!(value("LISTEN"), socket);
    assert_eq!(value("LISTEN_MODE"), "0600");
    assert_eq!(value("LISTEN_OWNER"), "www-data:33");
    assert_eq!(value("RUN_DIR"), format!("{}/bells", bench.path().display()));
    assert_eq!(value("IDLE_EXIT_SECONDS"), "30");
    assert_eq!(value("CODEX_HOMES"), "one=/h/a:codex=/home/nobody/.codex");
    assert_eq!(value("CORS_ALLOW_ORIGINS"), "https://a.example,https://b.example");
    assert_eq!(value("METRICS"), "on");
    assert_eq!(value("CLEANUP_INTERVAL_HOURS"), "0.5");
    assert_eq!(value("GENERATION_QUEUE_MAX_SIZE"), "7");
    assert_eq!(value("CODEX_TIMEOUT_SECONDS"), "120");
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let bench = Bench::new();
    bench.write(
        "config.toml",
        "max_conections = 5\nserver = { port = 1 }\nmetrics = 'maybe'\nlog_level = ['info']\n",
    );
    let env = [
        ("LISTEN", ":8000"),
        ("LISTEN_MODE", "660"),
        ("LISTEN_OWNER", "www-data:"),
        ("IDLE_EXIT_SECONDS", "-1"),
        ("DATABASE_URL", "postgresql://me:hunter2@db/x"),
        ("CODEX_WORKDIR", "/a,b"),
        ("PUBLIC_BASE_URL", "images.example"),
        ("CODEX_HOMES", "/h/x:/i/x"),
        ("CODEX_TIMEOUT_SECONDS", "soon"),
        ("CODEX_WORKER_CONCURRENCY", "0"),
        ("CLEANUP_INTERVAL_HOURS", "-1"),
    ];
    insta::assert_snapshot!(bench.complaint(&env, &["--config", "config.toml"]), @r#"
    max_conections = "5" (DIR/config.toml: max_conections): there is no such setting; did you mean max_connections?
    server = (table) (DIR/config.toml: server): there is no such setting; check-config without a file lists them all
    LISTEN = ":8000" (environment): no address; 0.0.0.0 or [::] would open it to the network; must be ADDRESS:PORT such as 127.0.0.1:8000 or [::1]:8000, localhost:PORT, or unix:/path of at most 107 bytes
    LISTEN_MODE = "660" (environment): must be four octal digits from 0000 to 0777, as text
    LISTEN_OWNER = "www-data:" (environment): must be empty, USER, USER:GROUP or :GROUP, each a name or a number
    DATABASE_URL = "postgresql://(hidden)@db/x" (environment): PostgreSQL is not supported yet; must be sqlite:///relative/path or sqlite:////absolute/path
    CODEX_WORKDIR = "/a,b" (environment): its absolute path holds a comma; must be a path without a comma (Codex splits lists of picture paths at commas)
    PUBLIC_BASE_URL = "images.example" (environment): must be an http:// or https:// URL without user, query or fragment
    CODEX_HOMES = "/h/x:/i/x" (environment): two logins are called "x"; name one of them, as in other=/i/x; must be PATH or LABEL=PATH, separated by colons, each label and each path only once
    CODEX_TIMEOUT_SECONDS = "soon" (environment): must be a number of seconds from 0.1 to 86400
    CODEX_WORKER_CONCURRENCY = "0" (environment): must be a whole number from 1 to 64
    CLEANUP_INTERVAL_HOURS = "-1" (environment): must be a number of hours from 0.001 to 8760, or 0 (a timer does it)
    LOG_LEVEL = ["info"] (DIR/config.toml: log_level): a list where one value belongs; must be one of error, warn, info, debug, trace
    METRICS = "maybe" (DIR/config.toml: metrics): must be on or off (also true, false, yes, no, 1, 0)
    IDLE_EXIT_SECONDS = "-1" (environment): must be a number of seconds from 0.1 to 86400, or 0 (never)
    "#);
}

#[test]
fn a_file_that_is_no_toml_is_not_quoted() {
    let bench = Bench::new();
    bench.write("config.toml", "listen = '127.0.0.1:1'\nadmin_password = \"hunter2\n");
    assert_eq!(
        bench.complaint(&[], &["--config", "config.toml"]),
        "DIR/config.toml: not TOML, or a key twice, at line 2"
    );
}

#[test]
fn one_layer_gives_a_setting_once() {
    let bench = Bench::new();
    bench.write("config.toml", "listen = 'x'\nlisten_file = 'y'\n");
    assert_eq!(
        bench.complaint(&[], &["--config", "config.toml"]),
        "LISTEN (DIR/config.toml: listen): listen and listen_file are both set; one of them is enough"
    );
    assert_eq!(
        bench.complaint(&[("CODEX_BIN", "x"), ("CODEX_BIN_FILE", "y")], &[]),
        "CODEX_BIN (environment): CODEX_BIN and CODEX_BIN_FILE are both set; one of them is enough"
    );
    assert_eq!(
        bench.complaint(&[("CODEX_BIN_FILE", "y")], &[]),
        "CODEX_BIN (CODEX_BIN_FILE: DIR/y): cannot be read: No such file or directory (os error 2)"
    );
    // The environment says more than `.env`, in whichever form.
    bench.write(".env", "CODEX_BIN=from-dotenv");
    bench.write("bin", "from-file\n");
    let (value, _) = bench.setting(&[("CODEX_BIN_FILE", "bin")], &[], "CODEX_BIN");
    assert_eq!(value, "from-file");
}

#[test]
fn no_secret_is_printed() {
    let bench = Bench::new();
    let password = "correct horse battery";
    bench.write("password", password);
    let session = "0123456789abcdef";
    let env = [("ADMIN_PASSWORD_FILE", "password"), ("ADMIN_SESSION_SECRET", session)];
    for args in [&[][..], &["--json"]] {
        let output = bench.check(&env, args);
        assert!(output.status.success());
        let printed = text(&output.stdout) + &text(&output.stderr);
        assert!(!printed.contains(password) && !printed.contains(session), "{printed}");
        assert!(printed.contains("(hidden)"));
    }
    // Neither where the key is misspelt nor where the value cannot be taken.
    let config =
        format!("admin_pasword = '{password}'\nadmin_session_secret = ['{session}']\npw = 'horse'");
    bench.write("config.toml", config);
    insta::assert_snapshot!(bench.complaint(&[], &["--config", "config.toml"]), @r#"
    admin_pasword = (hidden) (DIR/config.toml: admin_pasword): there is no such setting; did you mean admin_password?
    pw = (hidden) (DIR/config.toml: pw): there is no such setting; check-config without a file lists them all
    ADMIN_SESSION_SECRET = (hidden) (DIR/config.toml: admin_session_secret): a list where one value belongs; must be a value of your own, neither empty nor a published default; leave it out to have a random one made
    "#);
}

#[test]
fn secrets_that_everybody_knows_are_refused() {
    let bench = Bench::new();
    for known in ["change-me", "admin", "password", "changeme", "CHANGE-ME-NOW", "", " "] {
        for name in ["ADMIN_PASSWORD", "ADMIN_SESSION_SECRET"] {
            let said = bench.complaint(&[(name, known)], &[]);
            assert!(said.starts_with(&format!("{name} = (hidden) (environment): ")), "{said}");
            assert!(said.ends_with("leave it out to have a random one made"), "{said}");
        }
    }
    let said = bench.complaint(&[("ADMIN_PASSWORD", "")], &[]);
    assert!(said.contains(": empty; "), "{said}");
    let said = bench.complaint(&[("ADMIN_USERNAME", "")], &[]);
    assert!(said.contains("must be 1 to 128 characters"), "{said}");
}

#[test]
fn the_password_may_be_an_argon2_hash() {
    let bench = Bench::new();
    let hash = |costs: &str| {
        format!("$argon2id$v=19${costs}$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
    };
    let good = hash("m=65536,t=2,p=1");
    assert_eq!(bench.setting(&[("ADMIN_PASSWORD", &good)], &[], "ADMIN_PASSWORD").0, "(hidden)");
    for (wrong, why) in [
        (&good[..good.len() - 40], "not a whole Argon2 hash"),
        (&hash("m=2097152,t=1,p=1"), "more than 1 GiB of memory"),
        (&hash("m=65536,t=999999,p=1"), "too long to check"),
        ("=19=65536,t=2,p=1", "dollar signs were taken for variables"),
    ] {
        let said = bench.complaint(&[("ADMIN_PASSWORD", wrong)], &[]);
        assert!(said.starts_with("ADMIN_PASSWORD = (hidden) (environment): "), "{said}");
        assert!(said.contains(why) && !said.contains("65536"), "{said}");
    }
    // In a `.env` a dollar sign is one.
    bench.write(".env", format!("ADMIN_PASSWORD={good}\n"));
    assert_eq!(bench.setting(&[], &[], "ADMIN_PASSWORD").0, "(hidden)");
}

#[test]
fn the_env_file_of_the_python_original_is_taken() {
    let bench = Bench::new();
    bench.write(
        ".env",
        "\
# The service as it ran before
ADMIN_USERNAME=admin
ADMIN_PASSWORD='p$ss # word'
ADMIN_SESSION_SECRET=\"3f2a9c\"
ADMIN_URL_PREFIX=/codex-image/

PUBLIC_BASE_URL=https://images.example.com/codex-image/
DATABASE_URL=sqlite:///./data/app.db
GENERATED_DIR=./data/generated
CODEX_WORKDIR=./data/workdir
CODEX_BIN=/usr/local/bin/codex
CODEX_HOMES=/root/.codex:/root/.codex-2
export CODEX_TIMEOUT_SECONDS=300   # an edit takes longer
CODEX_WORKER_CONCURRENCY=3
GENERATION_QUEUE_MAX_SIZE=
REQUEST_WAIT_TIMEOUT_SECONDS=900
IMAGE_RETENTION_DAYS=14
CLEANUP_INTERVAL_HOURS=0
CORS_ALLOW_ORIGINS=
SOMETHING_ELSE=1
",
    );
    let output = bench.check(&[("CODEX_WORKER_CONCURRENCY", "4")], &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout).replace(&bench.path().display().to_string(), "DIR");
    // The columns are as wide as the path of the bench.
    let lines: Vec<String> =
        said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    LISTEN 127.0.0.1:8000 default
    LISTEN_MODE 0660 default
    LISTEN_OWNER "" default
    STATE_DIR /home/nobody/.local/state/codex-image-service default, from HOME
    DATABASE_URL sqlite:///DIR/data/app.db DIR/.env
    GENERATED_DIR DIR/data/generated DIR/.env
    CODEX_WORKDIR DIR/data/workdir DIR/.env
    CODEX_STATE_DIR /home/nobody/.local/state/codex-image-service/codex default, from STATE_DIR
    RUN_DIR /home/nobody/.local/state/codex-image-service/run default, from STATE_DIR
    PUBLIC_BASE_URL https://images.example.com/codex-image DIR/.env
    ADMIN_URL_PREFIX /codex-image DIR/.env
    ADMIN on default
    ADMIN_USERNAME admin DIR/.env
    ADMIN_PASSWORD (hidden) DIR/.env
    ADMIN_SESSION_SECRET (hidden) DIR/.env
    CODEX_BIN /usr/local/bin/codex DIR/.env
    CODEX_ENGINE auto default
    CODEX_HOMES codex=/root/.codex:codex-2=/root/.codex-2 DIR/.env
    CODEX_MODEL "" default
    CODEX_MIN_QUOTA_PERCENT 5 default
    CODEX_TIMEOUT_SECONDS 300 DIR/.env
    CODEX_WORKER_CONCURRENCY 4 environment
    CODEX_IDLE_SECONDS 300 default
    CODEX_RECYCLE_IMAGES 500 default
    CODEX_MAX_RSS_MB 640 default
    CODEX_KEEP_ALIVE on default
    GENERATION_QUEUE_MAX_SIZE 50 default
    REQUEST_WAIT_TIMEOUT_SECONDS 900 DIR/.env
    IMAGE_RETENTION_DAYS 14 DIR/.env
    CLEANUP_INTERVAL_HOURS 0 DIR/.env
    IMAGE_WALL_48H 320 default
    CORS_ALLOW_ORIGINS "" DIR/.env
    LOG_LEVEL info default
    LOG_FORMAT auto default
    METRICS off default
    SHUTDOWN_GRACE_SECONDS 90 default
    IDLE_EXIT_SECONDS 0 default
    MAX_CONNECTIONS 1024 default
    MAX_REQUEST_BODY_BYTES 70953644 default
    MAX_IMAGES_PER_REQUEST 4 default
    JSON_KEEPALIVE_SECONDS 0 default
    "#);
}

#[test]
fn places_follow_systemd_and_the_desktop() {
    let bench = Bench::new();
    let env = [("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), ("CODEX_HOME", "/srv/.login")];
    let setting = |name| bench.setting(&env, &[], name);
    assert_eq!(setting("STATE_DIR"), pair("/var/lib/a", "default, from STATE_DIRECTORY"));
    assert_eq!(
        setting("DATABASE_URL"),
        pair("sqlite:////var/lib/a/codex-image-service.db", "default, from STATE_DIR")
    );
    assert_eq!(setting("GENERATED_DIR").0, "/var/lib/a/generated");
    assert_eq!(setting("CODEX_WORKDIR").0, "/var/lib/a/work");
    assert_eq!(setting("CODEX_HOMES"), pair("login=/srv/.login", "default, from CODEX_HOME"));
    let xdg = [("XDG_STATE_HOME", "/x")];
    assert_eq!(bench.setting(&xdg, &[], "STATE_DIR").0, "/x/codex-image-service");
    // Empty, as compose files leave it, is not set.
    let empty = [("STATE_DIR", ""), ("LISTEN", ""), ("CODEX_HOMES", "")];
    assert_eq!(
        bench.setting(&empty, &[], "STATE_DIR").0,
        "/home/nobody/.local/state/codex-image-service"
    );
    assert_eq!(bench.setting(&empty, &[], "LISTEN").1, "default");
    assert_eq!(
        bench.setting(&empty, &[], "CODEX_HOMES"),
        pair("codex=/home/nobody/.codex", "default, from HOME")
    );
}

#[test]
fn without_a_home_only_what_needs_one_is_missing() {
    let bench = Bench::new();
    let homeless = |env: &[(&str, &str)]| {
        bench.command(env).env_remove("HOME").arg("check-config").output().unwrap()
    };
    let said = text(&homeless(&[]).stderr);
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(said.contains("STATE_DIR: not set, and neither are STATE_DIRECTORY, "), "{said}");
    assert!(said.contains("CODEX_HOMES: not set, and neither are CODEX_HOME and HOME"), "{said}");
    assert!(homeless(&[("STATE_DIR", "/s"), ("CODEX_ENGINE", "demo")]).status.success());
}

#[test]
fn as_json_the_problems_are_fields_and_sentences() {
    let bench = Bench::new();
    let output = bench.check(&[("MAX_CONNECTIONS", "many")], &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(text(&output.stdout), @r#"
    {
      "problems": [
        {
          "key": "MAX_CONNECTIONS",
          "value": "\"many\"",
          "origin": "environment",
          "reason": null,
          "allowed": "a whole number from 1 to 65536",
          "message": "MAX_CONNECTIONS = \"many\" (environment): must be a whole number from 1 to 65536"
        }
      ]
    }
    "#);
}

#[test]
fn every_command_explains_itself() {
    let bench = Bench::new();
    for command in ["check-config", "healthcheck"] {
        let output = bench.command(&[]).args([command, "--help"]).output().unwrap();
        let help = text(&output.stdout);
        assert!(output.status.success());
        assert!(help.contains("Exit codes: 0 ") && help.contains("Example"), "{help}");
    }
    let output = bench.command(&[]).args(["check-config", "--nonsense"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn what_is_allowed_and_hardly_meant_is_said() {
    let bench = Bench::new();
    let codex = bench.path().join("codex");
    fs::create_dir(&codex).unwrap();
    let token = r#"{"tokens":{"access_token":"a"}}"#;
    fs::write(codex.join("auth.json"), token).unwrap();
    let good = codex.display().to_string();
    let wrong = format!("one={good};two=/none");
    let check = |env: &[(&str, &str)], expected: &[&str]| {
        let output = bench.check(env, &[]);
        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(expected.iter().all(|words| said.contains(words)), "{said}");
        assert_eq!(said.lines().count(), usize::from(!expected.is_empty()), "{said}");
        let report: Value = serde_json::from_slice(&bench.check(env, &["--json"]).stdout).unwrap();
        let warnings = report["warnings"].as_array().unwrap();
        assert_eq!(warnings.len(), usize::from(!expected.is_empty()));
    };
    let (homes, everywhere) = (("CODEX_HOMES", good.as_str()), ("LISTEN", "0.0.0.0:8123"));
    check(&[homes], &[]);
    let hint = "two=/none (CODEX_HOMES is separated by colons)";
    check(&[("CODEX_HOMES", &wrong)], &["login one: there is no folder ", hint]);
    let unset = "LISTEN is 0.0.0.0:8123, but PUBLIC_BASE_URL is not set";
    check(&[homes, everywhere], &[unset, "http://localhost:8000"]);
    check(&[homes, everywhere, ("PUBLIC_BASE_URL", "http://nas:8123")], &[]);
}
