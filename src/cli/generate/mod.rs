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

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the quota is used up or every login rests, 4 refused by the model or by \
OpenAI's safety system, 5 no valid login, 6 Codex is missing, 7 out of time, 130 interrupted.")]
pub(super) struct Args {
    /// What to draw, 1 to 32,000 characters; - reads it from standard input. As an argument it can
    /// be seen by other users of this machine.
    prompt: String,
    /// Where to put the picture: a file, a folder, or - for standard output. Without it, a name is
    /// made of the prompt. With -n, kite.png becomes kite-1.png and so on.
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// A picture to work from (PNG, JPEG or WebP, at most 10 MiB); up to 5. Not with -n 2 or more:
    /// from references one picture is made.
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
    /// Replace a file that is there; behind a link the file that it leads to. Nothing but files is
    /// ever replaced.
    #[arg(long)]
    force: bool,
    /// Say nothing but the paths and errors.
    #[arg(short, long)]
    quiet: bool,
    /// Ask this service instead, such as <http://127.0.0.1:8000>; else the one that
    /// `CODEX_IMAGE_SERVICE_URL` names.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The key for the service; better in `CODEX_IMAGE_SERVICE_KEY`, where other users do not see it.
    #[arg(long)]
    key: Option<String>,
}

/// Why there is no picture.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    code: Code,
    message: String,
}

/// The exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Code {
    Other = 1,
    Usage = 2,
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

    /// The command line asks for what cannot be.
    fn usage(message: impl Into<String>) -> Self {
        Self { code: Code::Usage, message: message.into() }
    }

    /// With more words.
    fn and(self, words: &str) -> Self {
        Self { message: format!("{}{words}", self.message), ..self }
    }

    /// A failure of Codex, by its code on the wire.
    fn of(code: &str, message: &str, retry_at: Option<i64>) -> Self {
        let kind = match code.parse() {
            Ok(FailureCode::QuotaExceeded | FailureCode::LoginsRest) => Code::Quota,
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
    let mut place = Place::new()?;
    let request = Request {
        prompt,
        size: args.size,
        quality: args.quality,
        count: args.count,
        references: args.reference,
    };
    let checked = request.check(place.path())?;
    let count = usize::try_from(request.count).unwrap_or(usize::MAX);
    let target = Target::new(args.output, &request.prompt, count, args.force)?;
    let progress = Progress::start(!args.quiet, io::stderr().is_terminal());
    let drawn = match args.server.or_else(|| variable("CODEX_IMAGE_SERVICE_URL")) {
        Some(url) => {
            let key =
                args.key.or_else(|| variable("CODEX_IMAGE_SERVICE_KEY")).ok_or_else(|| {
                    Failed::usage(
                        "the service wants a key: set CODEX_IMAGE_SERVICE_KEY or give --key",
                    )
                })?;
            client::draw(&url, &key, &checked, place.path(), &progress)
        }
        None => match config_or_exit(file) {
            Ok(config) => local::draw(&config, &checked, place.path(), &progress),
            Err(code) => return Err(Ended::Config(code)),
        },
    };
    progress.finish();
    let drawn = drawn?;
    let mut failed = drawn.missing;
    for Picture { path, number, source } in &drawn.pictures {
        if let Err(why) = target.deliver(path, *number) {
            place.keep();
            let source = source.as_ref().map(|at| format!(", and the service's {at}"));
            let (path, source) = (path.display(), source.unwrap_or_default());
            say(failed.replace(why.and(&format!("; the picture is kept as {path}{source}"))));
        }
    }
    match failed {
        Some(failed) => Err(failed.into()),
        None => Ok(()),
    }
}

/// Of several failures the last one ends the command; the others are said before it.
fn say(failed: Option<Failed>) {
    if let Some(Failed { message, .. }) = failed {
        eprintln!("codex-image-service: {message}");
    }
}

/// A variable of the environment that is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What was drawn.
struct Drawn {
    pictures: Vec<Picture>,
    /// Why some are missing.
    missing: Option<Failed>,
}

/// A picture that was drawn.
struct Picture {
    /// Verified, in the folder of this run, named by its type.
    path: PathBuf,
    /// Which one of those that were asked for, from 0.
    number: usize,
    /// Where the service has it.
    source: Option<String>,
}

/// A folder of this run's own that goes with it, unless it holds what was paid for.
struct Place {
    path: PathBuf,
    kept: bool,
}

impl Place {
    fn new() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let name = format!("codex-image-service-{}", uuid::Uuid::new_v4().simple());
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|error| {
            io::Error::new(error.kind(), format!("{} (TMPDIR): {error}", path.display()))
        })?;
        Ok(Self { path, kept: false })
    }

    fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Its pictures stay.
    fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_dir_all(&self.path);
            return;
        }
        for entry in std::fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if !entry.file_name().as_encoded_bytes().starts_with(b"picture-") {
                let _ = std::fs::remove_dir_all(entry.path());
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}
