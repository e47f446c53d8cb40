//! The command line: one file a command; parses, wires, exits with a meaningful code.

// Commands talk to people; the service itself talks to the log.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod admin;
mod backup;
mod check_config;
mod cleanup;
mod completions;
mod demo;
mod generate;
mod healthcheck;
mod keys;
mod listen;
mod logins;
mod man;
mod openapi;
mod restore;
mod serve;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError, Sources};

/// One ChatGPT subscription's image generation, shared over a clean HTTP API.
///
/// Without a command the service is started, as by `serve`.
#[derive(Debug, Parser)]
#[command(name = "codex-image-service", version, after_help = AFTER)]
struct Cli {
    /// The TOML file with the settings; else the one that `CODEX_IMAGE_SERVICE_CONFIG` names,
    /// else /etc/codex-image-service/config.toml if there is one.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER: &str = "\
Example:
  codex-image-service demo                 a picture in a minute, no login needed
  codex-image-service keys create laptop   a key for a caller
  codex-image-service serve                the service

Exit codes: 0 done, 1 failed (a wrong setting too; standard error says which), 2 wrong usage.";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Demo(demo::Args),
    Generate(generate::Args),
    Keys(keys::Args),
    Logins(logins::Args),
    Admin(admin::Args),
    Cleanup(cleanup::Args),
    Backup(backup::Args),
    Restore(restore::Args),
    CheckConfig(check_config::Args),
    Healthcheck(healthcheck::Args),
    Openapi(openapi::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Does what the command line says.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let command = cli.command.unwrap_or_else(|| Command::Serve(serve::Args::default()));
    match &command {
        Command::Serve(args) if args.is_split() => all_access_for_the_group(),
        _ => no_access_for_others(),
    }
    match command {
        Command::Serve(args) => serve::run(&args, cli.config),
        Command::Demo(args) => demo::run(&args),
        Command::Generate(args) => generate::run(args, cli.config),
        Command::Keys(args) => keys::run(args, cli.config),
        Command::Logins(args) => logins::run(args, cli.config),
        Command::Admin(args) => admin::run(&args, cli.config),
        Command::Cleanup(args) => cleanup::run(&args, cli.config),
        Command::Backup(args) => backup::run(&args, cli.config),
        Command::Restore(args) => restore::run(&args, cli.config),
        Command::CheckConfig(args) => check_config::run(&args, cli.config),
        Command::Healthcheck(args) => healthcheck::run(args, cli.config),
        Command::Openapi(args) => openapi::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

/// The settings of this process.
fn load_config(file: Option<PathBuf>) -> Result<Config, ConfigError> {
    Config::load(&Sources::of_process(file)?)
}

/// The settings, for commands that can do nothing without them.
fn config_or_exit(file: Option<PathBuf>) -> Result<Config, ExitCode> {
    load_config(file).map_err(|error| fail(&error))
}

/// Says what went wrong; exit code 1.
fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("codex-image-service: {error}");
    let (mut said, mut source) = (error.to_string(), error.source());
    while let Some(cause) = source {
        let words = cause.to_string();
        // Many an error has its cause in its own words.
        if !said.contains(&words) {
            eprintln!("  because: {words}");
        }
        (said, source) = (said + &words, cause.source());
    }
    ExitCode::FAILURE
}

/// A text of the store for a terminal, which obeys some characters: what the front wrote may be an
/// attacker's.
fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// Prompts and pictures are not for other users of the machine, whatever the umask said.
fn no_access_for_others() {
    use rustix::{fs::Mode, process::umask};
    let given = umask(Mode::RWXO);
    umask(given | Mode::RWXO);
}

/// Front and worker may be two users: each removes and replaces what the other made.
fn all_access_for_the_group() {
    rustix::process::umask(rustix::fs::Mode::RWXO);
}

/// A runtime for a command that does one thing.
fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work))
}
