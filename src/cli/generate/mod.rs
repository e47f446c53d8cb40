//! `generate`: pictures from the shell, by the engine of the settings or by a running service.

mod client;
mod local;
mod output;
mod progress;
mod request;

use std::{
    io::{self, IsTerminal, Read},
    path::PathBuf,
    process::ExitCode,
};

use self::{output::Target, progress::Progress, request::Request};
use super::config_or_exit;
use crate::codex::FailureCode;

/// Make pictures from the shell.
///
/// Without --server Codex is run right here, with the logins of the settings, and no service is
/// needed. With it a running service is asked instead. The paths of the pictures are printed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  codex-image-service generate \"a red kite over a green hill\" -o kite.png
  codex-image-service generate \"make it night\" --reference kite.png --size 1536x1024
  CODEX_IMAGE_SERVICE_KEY=cimg_… codex-image-service generate \"a kite\" --server http://nas:8000

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the quota is used up, 4 refused by the model or by \
OpenAI's safety system, 5 no valid login, 6 Codex is missing, 7 out of time, 130 interrupted.")]
pub(super) struct Args {
    /// What to draw, 1 to 32,000 characters; - reads it from standard input. As an argument it can
    /// be seen by other users of this machine.
    prompt: String,
    /// Where to put the picture: a file, a folder with / at its end, or - for standard output.
    /// Without it, a name is made of the prompt.
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// A picture to work from (PNG, JPEG or WebP, at most 10 MiB); up to 5.
    #[arg(short, long, value_name = "FILE")]
    reference: Vec<PathBuf>,
    /// `WIDTHxHEIGHT` or auto; the model takes it as a wish.
    #[arg(long, default_value = "1024x1024")]
    size: String,
    /// low, medium, high or auto.
    #[arg(long, default_value = "medium")]
    quality: String,
    /// How many pictures, 1 to 4.
    #[arg(short = 'n', long, default_value_t = 1)]
    count: u32,
    /// Replace a file that is there.
    #[arg(long)]
    force: bool,
    /// Say nothing but the paths and errors.
    #[arg(short, long)]
    quiet: bool,
    /// Ask this service instead, such as <http://127.0.0.1:8000>.
    #[arg(long, value_name = "URL", env = "CODEX_IMAGE_SERVICE_URL")]
    server: Option<String>,
    /// The key for the service; better in the environment, where other users do not see it.
    #[arg(long, env = "CODEX_IMAGE_SERVICE_KEY", hide_env_values = true)]
    key: Option<String>,
}

/// Why there is no picture.
#[derive(Debug)]
pub(super) struct Failed {
    code: Code,
    message: String,
}

/// The exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Code {
    Other = 1,
    Quota = 3,
    Refused = 4,
    Login = 5,
    NoCodex = 6,
    Timeout = 7,
    Interrupted = 130,
}

impl Failed {
    fn new(message: impl Into<String>) -> Self {
        Self { code: Code::Other, message: message.into() }
    }

    /// A failure of Codex, by its code on the wire.
    fn of(code: &str, message: &str, retry_at: Option<i64>) -> Self {
        let kind = match code.parse() {
            Ok(FailureCode::QuotaExceeded) => Code::Quota,
            Ok(FailureCode::ModerationBlocked | FailureCode::ModelRefused) => Code::Refused,
            Ok(FailureCode::LoginExpired | FailureCode::NotLoggedIn) => Code::Login,
            Ok(FailureCode::CodexMissing) => Code::NoCodex,
            Ok(FailureCode::Timeout) => Code::Timeout,
            Ok(FailureCode::Interrupted) => Code::Interrupted,
            _ => Code::Other,
        };
        let back = retry_at.and_then(|at| jiff::Timestamp::from_second(at).ok());
        let back = back.map(|at| format!(" It is back at {at}.")).unwrap_or_default();
        Self { code: kind, message: format!("{message}{back}") }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::new(error.to_string())
    }
}

pub(super) fn run(args: Args, file: Option<PathBuf>) -> ExitCode {
    match generate(args, file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Ended::Config(code)) => code,
        Err(Ended::Failed(Failed { code, message })) => {
            eprintln!("codex-image-service: {message}");
            ExitCode::from(code as u8)
        }
    }
}

/// How it ends without a picture.
enum Ended {
    /// The settings are wrong, which was said.
    Config(ExitCode),
    Failed(Failed),
}

impl<T: Into<Failed>> From<T> for Ended {
    fn from(error: T) -> Self {
        Self::Failed(error.into())
    }
}

fn generate(args: Args, file: Option<PathBuf>) -> Result<(), Ended> {
    let prompt = match args.prompt.as_str() {
        "-" => {
            let mut text = String::new();
            // A byte more than any prompt may have, so that a longer one is refused.
            io::stdin().take(4 * 32_000 + 1).read_to_string(&mut text)?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        text => text.to_owned(),
    };
    let target = Target::new(args.output, &prompt, args.force)?;
    let place = tempfile_dir()?;
    let request = Request {
        prompt,
        size: args.size,
        quality: args.quality,
        count: args.count,
        references: args.reference,
    };
    let progress = Progress::start(!args.quiet, io::stderr().is_terminal());
    let drawn = match args.server {
        Some(url) => {
            let key = args.key.ok_or_else(|| {
                Failed::new("the service wants a key: set CODEX_IMAGE_SERVICE_KEY or give --key")
            })?;
            client::draw(&url, &key, &request, place.path(), &progress)
        }
        None => match config_or_exit(file) {
            Ok(config) => local::draw(&config, &request, place.path(), &progress),
            Err(code) => return Err(Ended::Config(code)),
        },
    };
    progress.finish();
    let drawn = drawn?;
    for (number, picture) in drawn.pictures.iter().enumerate() {
        target.deliver(picture, number, drawn.pictures.len())?;
    }
    match drawn.missing {
        Some(failed) => Err(failed.into()),
        None => Ok(()),
    }
}

/// What was drawn.
struct Drawn {
    /// Verified pictures in the folder of this run, named by their type.
    pictures: Vec<PathBuf>,
    /// Why some are missing.
    missing: Option<Failed>,
}

/// A folder of this run's own that goes with it.
struct Place(PathBuf);

impl Place {
    fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tempfile_dir() -> io::Result<Place> {
    use std::os::unix::fs::DirBuilderExt as _;
    let name = format!("codex-image-service-{}", uuid::Uuid::new_v4().simple());
    let path = std::env::temp_dir().join(name);
    std::fs::DirBuilder::new().mode(0o700).create(&path)?;
    Ok(Place(path))
}
