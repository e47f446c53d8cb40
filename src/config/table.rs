//! The settings, declared once: name, default, what is allowed and what it means. Parsing, the
//! error messages, `check-config` and the documentation all read this table, so a range or a
//! default cannot be said in two places and differ.

use std::fmt;

/// What holds when nobody sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// This text, read like any other value.
    Value(&'static str),
    /// Found out at start, as these words say.
    Derived(&'static str),
    /// Nothing; the words say what happens then.
    Unset(&'static str),
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value("") => f.write_str("\"\""),
            Self::Value(words) | Self::Derived(words) | Self::Unset(words) => f.write_str(words),
        }
    }
}

/// What a value may be. Displayed, it completes the sentence "must be …".
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Allowed {
    /// Said in words; the parser knows the details.
    Words(&'static str),
    /// A whole number in this range, ends included.
    Whole {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// A number, decimals too, in this range, ends included.
    Number {
        /// The smallest.
        min: f64,
        /// The largest.
        max: f64,
        /// Plural, for the message.
        unit: &'static str,
        /// What 0 means, where 0 is allowed although it is below `min`.
        zero: Option<&'static str>,
    },
    /// One of these words, in any case.
    OneOf(&'static [&'static str]),
    /// on, off and their relatives.
    Switch,
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => f.write_str(words),
            Self::Whole { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Number { min, max, unit, zero } => {
                write!(f, "a number of {unit} from {min} to {max}")?;
                zero.map_or(Ok(()), |meaning| write!(f, ", or 0 ({meaning})"))
            }
            Self::OneOf(words) => write!(f, "one of {}", words.join(", ")),
            Self::Switch => f.write_str("on or off (also true, false, yes, no, 1, 0)"),
        }
    }
}

/// One row of the table.
#[derive(Debug)]
pub struct Setting {
    /// Its name in the environment; lower-case, it is the key of the TOML file.
    pub name: &'static str,
    /// What holds when nobody sets it.
    pub default: Preset,
    /// What a value may be.
    pub allowed: Allowed,
    /// What it is for, in one line.
    pub meaning: &'static str,
    /// Never printed, neither by `check-config` nor in an error.
    pub secret: bool,
    /// Whether an empty environment variable is a value (to be taken or refused) or, as where
    /// compose files write `NAME: ${NAME:-}`, the same as none.
    pub keeps_empty: bool,
    /// Whether a change holds without a restart, see [`super::Live`].
    pub live: bool,
}

impl Setting {
    const fn new(
        name: &'static str,
        default: Preset,
        allowed: Allowed,
        meaning: &'static str,
    ) -> Self {
        let keeps_empty = matches!(default, Value(text) if text.is_empty());
        Self { name, default, allowed, meaning, secret: false, keeps_empty, live: false }
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self.keeps_empty = true;
        self
    }

    const fn keeping_empty(mut self) -> Self {
        self.keeps_empty = true;
        self
    }

    const fn live(mut self) -> Self {
        self.live = true;
        self
    }

    /// The key of the TOML file.
    #[must_use]
    pub fn key(&self) -> String {
        self.name.to_ascii_lowercase()
    }

    /// The name of the systemd credential.
    #[must_use]
    pub fn credential(&self) -> String {
        self.key().replace('_', "-")
    }

    /// The environment variable that names a file with the value.
    #[must_use]
    pub fn file_variable(&self) -> String {
        format!("{}_FILE", self.name)
    }

    /// The key of the TOML file that names a file with the value.
    #[must_use]
    pub fn file_key(&self) -> String {
        format!("{}_file", self.key())
    }
}

use Allowed::{Number, OneOf, Switch, Whole, Words};
use Preset::{Derived, Unset, Value};

const PATH: Allowed = Words("a path");
const SECONDS: Allowed = Number { min: 0.1, max: 86_400.0, unit: "seconds", zero: None };

macro_rules! settings {
    ($($name:ident = $default:expr, $allowed:expr, $meaning:expr $(, $mark:ident)?;)+) => {
        $(
            #[doc = $meaning]
            #[allow(clippy::doc_markdown)] // the words are for the terminal as well
            pub static $name: Setting =
                Setting::new(stringify!($name), $default, $allowed, $meaning)$(.$mark())?;
        )+
        /// All of them, in the order of the documentation.
        pub static SETTINGS: &[&Setting] = &[$(&$name),+];
    };
}

settings! {
    LISTEN = Value("127.0.0.1:8000"),
        Words("ADDRESS:PORT such as 127.0.0.1:8000 or [::1]:8000, localhost:PORT, or unix:/path of at most 107 bytes"),
        "where to listen; ignored when systemd passes sockets";
    LISTEN_MODE = Value("0660"),
        Words("four octal digits from 0000 to 0777, as text"),
        "the permissions of the Unix socket in LISTEN";
    LISTEN_OWNER = Value(""), Words("empty, USER, USER:GROUP or :GROUP, each a name or a number"),
        "who gets the Unix socket in LISTEN; empty: whoever runs the service";
    STATE_DIR = Derived("$STATE_DIRECTORY, else $XDG_STATE_HOME/codex-image-service, else ~/.local/state/codex-image-service"),
        Words("a path without a comma (Codex splits lists of picture paths at commas)"),
        "the folder of everything that has no place of its own";
    DATABASE_URL = Derived("codex-image-service.db in STATE_DIR"),
        Words("sqlite:///relative/path or sqlite:////absolute/path"),
        "the database; a relative path starts at the working directory";
    GENERATED_DIR = Derived("generated in STATE_DIR"), PATH,
        "the folder of the finished pictures";
    CODEX_WORKDIR = Derived("work in STATE_DIR"),
        Words("a path without a comma (Codex splits lists of picture paths at commas)"),
        "the folder in which Codex works";
    CODEX_STATE_DIR = Derived("codex in STATE_DIR"),
        Words("a path without a comma (Codex splits lists of picture paths at commas)"),
        "the folder of the homes that Codex runs in; of two processes the worker's alone";
    RUN_DIR = Derived("run in STATE_DIR"), PATH,
        "the folder of the sockets by which front and worker wake each other";
    PUBLIC_BASE_URL = Value("http://localhost:8000"),
        Words("an http:// or https:// URL without user, query or fragment"),
        "the prefix of image URLs; https makes cookies Secure";
    ADMIN_URL_PREFIX = Value(""),
        Words("empty or a path that starts with /, of letters, digits and -._~/"),
        "the path under which a proxy shows the service";
    ADMIN = Value("on"), Switch,
        "whether there are admin pages";
    ADMIN_USERNAME = Value("admin"), Words("1 to 128 characters, none of them a control character"),
        "who signs in to the admin pages", keeping_empty;
    ADMIN_PASSWORD = Unset("a random one is made and shown once, on a terminal or in a file that the log names"),
        Words("a password of your own of at most 1024 bytes, neither empty nor a published default, or its Argon2 hash ($argon2id$…); leave it out to have a random one made"),
        "the password of the admin pages, in plain text or hashed", secret;
    ADMIN_SESSION_SECRET = Unset("a random one is kept in STATE_DIR"),
        Words("a value of your own, neither empty nor a published default; leave it out to have a random one made"),
        "what signs the session cookies", secret;
    CODEX_BIN = Value("codex"), Words("a command name or a path"),
        "the Codex CLI";
    CODEX_ENGINE = Value("auto"), OneOf(&["auto", "app-server", "exec", "demo"]),
        "how pictures are made; demo paints them itself, without Codex";
    CODEX_HOMES = Value(""),
        Words("PATH or LABEL=PATH, separated by colons, each label and each path only once"),
        "the logins; empty: $CODEX_HOME, else ~/.codex";
    CODEX_MODEL = Value(""),
        Words("empty or a model name of at most 128 letters, digits and -._:/"),
        "the model that Codex is told to use; empty: Codex's own choice";
    CODEX_MIN_QUOTA_PERCENT = Value("5"), Whole { min: 0, max: 100 },
        "a login with less of its quota left rests; 0: never", live;
    CODEX_TIMEOUT_SECONDS = Value("360"), SECONDS,
        "the time one picture may take", live;
    CODEX_WORKER_CONCURRENCY = Value("2"), Whole { min: 1, max: 64 },
        "pictures in flight at once", live;
    CODEX_IDLE_SECONDS = Value("300"), SECONDS,
        "how long an app-server without work is kept";
    CODEX_RECYCLE_IMAGES = Value("500"), Whole { min: 1, max: 1_000_000 },
        "after so many pictures an app-server is replaced";
    CODEX_MAX_RSS_MB = Value("640"), Whole { min: 64, max: 1_048_576 },
        "an app-server with more resident memory (MiB) is replaced";
    CODEX_KEEP_ALIVE = Value("on"), Switch,
        "whether an idle login is renewed before its token expires, at most daily; not with exec";
    GENERATION_QUEUE_MAX_SIZE = Value("50"), Whole { min: 1, max: 100_000 },
        "jobs that may wait; those running do not count", live;
    REQUEST_WAIT_TIMEOUT_SECONDS = Value("600"), SECONDS,
        "how long a synchronous caller waits", live;
    IMAGE_RETENTION_DAYS = Value("7"),
        Number { min: 0.0001, max: 36_500.0, unit: "days", zero: None },
        "how long pictures, references and Codex's output are kept; the history stays", live;
    CLEANUP_INTERVAL_HOURS = Value("6"),
        Number { min: 0.001, max: 8_760.0, unit: "hours", zero: Some("a timer does it") },
        "how often this process removes what has expired";
    IMAGE_WALL_48H = Value("320"), Whole { min: 0, max: 1_000_000 },
        "pictures that a login draws in 48 hours until OpenAI refuses more, for the charts; 0: not drawn";
    CORS_ALLOW_ORIGINS = Value(""),
        Words("origins such as https://app.example, separated by commas, or *"),
        "web pages that may call the API";
    LOG_LEVEL = Value("info"), OneOf(&["error", "warn", "info", "debug", "trace"]),
        "how much of its own doings the service logs", live;
    LOG_FORMAT = Value("auto"), OneOf(&["auto", "journal", "text", "json"]),
        "where the log goes: the journal, with fields, or text or JSON lines on standard error; auto: the journal where standard error is the journal's, else text";
    METRICS = Value("off"), Switch,
        "whether GET /metrics answers";
    SHUTDOWN_GRACE_SECONDS = Value("90"),
        Number { min: 0.0, max: 3_600.0, unit: "seconds", zero: None },
        "how long pictures in flight may take to finish at a stop", live;
    IDLE_EXIT_SECONDS = Value("0"),
        Number { min: 0.1, max: 86_400.0, unit: "seconds", zero: Some("never") },
        "after so long without work the service ends, when systemd holds its sockets and starts it again";
    MAX_CONNECTIONS = Value("1024"), Whole { min: 1, max: 65_536 },
        "callers connected at once";
    // base64 of 5 references of 10 MiB, and 1 MiB for the rest: 4 × ⌈52,428,800 / 3⌉ + 1,048,576
    MAX_REQUEST_BODY_BYTES = Value("70953644"), Whole { min: 1_024, max: 1_073_741_824 },
        "the largest request body", live;
    MAX_IMAGES_PER_REQUEST = Value("4"), Whole { min: 1, max: 10 },
        "the largest n on OpenAI's routes", live;
    JSON_KEEPALIVE_SECONDS = Value("0"),
        Number { min: 1.0, max: 3_600.0, unit: "seconds", zero: Some("off") },
        "how often OpenAI's routes send a blank line while a picture is drawn, for impatient proxies; an error then comes with status 200", live;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_rules() {
        for (n, setting) in SETTINGS.iter().enumerate() {
            assert!(SETTINGS[..n].iter().all(|other| other.name != setting.name));
            let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
            assert!(setting.name.bytes().all(plain), "{}", setting.name);
            assert!(!setting.name.ends_with("_FILE"), "{} would be ambiguous", setting.name);
        }
        assert_eq!(ADMIN_SESSION_SECRET.credential(), "admin-session-secret");
    }

    #[test]
    fn the_body_limit_is_what_its_comment_says() {
        let expected = (5 * 10 * 1_048_576_u64).div_ceil(3) * 4 + 1_048_576;
        assert_eq!(MAX_REQUEST_BODY_BYTES.default, Value("70953644"));
        assert_eq!(expected, 70_953_644);
    }

    #[test]
    fn what_is_allowed_reads_as_the_end_of_a_sentence() {
        assert_eq!(CODEX_WORKER_CONCURRENCY.allowed.to_string(), "a whole number from 1 to 64");
        assert_eq!(
            CLEANUP_INTERVAL_HOURS.allowed.to_string(),
            "a number of hours from 0.001 to 8760, or 0 (a timer does it)"
        );
    }
}
