//! `check-config`: every setting as it holds and where it came from, or everything that is wrong.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use serde::Serialize;

use crate::{
    codex,
    config::{ConfigError, Problem, Resolved},
    systemd,
};

/// Check the settings and show where each of them came from
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Secrets are never shown. What is allowed and yet hardly meant, such as a login whose folder is not
there, is said on standard error and is no failure.
Exit codes: 0 all is well, 1 something is wrong (all of it is listed), 2 wrong usage.

Example: codex-image-service --config ./config.toml check-config")]
pub struct Args {
    /// Write JSON: {"settings": […], "warnings": […]}, or {"problems": […]} when something is wrong
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Report<'a> {
    Well { settings: &'a [Resolved], warnings: &'a [String] },
    Wrong { problems: Vec<Told<'a>> },
}

/// A problem, field by field and as a sentence.
#[derive(Serialize)]
struct Told<'a> {
    key: &'a str,
    value: Option<&'a str>,
    origin: Option<String>,
    reason: Option<&'a str>,
    allowed: Option<&'a str>,
    message: String,
}

impl<'a> From<&'a Problem> for Told<'a> {
    fn from(problem: &'a Problem) -> Self {
        Self {
            key: &problem.key,
            value: problem.value.as_deref(),
            origin: problem.origin.as_ref().map(ToString::to_string),
            reason: problem.reason.as_deref(),
            allowed: problem.allowed.as_deref(),
            message: problem.to_string(),
        }
    }
}

/// Prints the settings (standard output), or what is wrong (standard error; as JSON both go to
/// standard output).
#[must_use]
pub fn run(args: &Args, config_file: Option<PathBuf>) -> ExitCode {
    let config = super::load_config(config_file);
    let (checked, code) = match &config {
        Ok(config) => {
            let credentials = systemd::credentials_dir();
            let logins = codex::login_outlook(config, credentials.as_deref());
            let warnings = [config.warnings(), logins].concat();
            (Ok((config.resolved(), warnings)), ExitCode::SUCCESS)
        }
        Err(error) => (Err(error), ExitCode::FAILURE),
    };
    match report(checked, args.json) {
        Ok(()) => code,
        // Whoever read the output has gone; that says nothing about the settings.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn report(checked: Result<(&[Resolved], Vec<String>), &ConfigError>, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match checked {
        Ok((settings, warnings)) if json => {
            write_json(&mut out, &Report::Well { settings, warnings: &warnings })
        }
        Ok((settings, warnings)) => {
            write_table(&mut out, settings)?;
            warnings.iter().try_for_each(|warning| writeln!(io::stderr(), "warning: {warning}"))
        }
        Err(error) if json => {
            let problems = error.problems.iter().map(Told::from).collect();
            write_json(&mut out, &Report::Wrong { problems })
        }
        Err(error) => writeln!(io::stderr(), "{error}"),
    }
}

fn write_json(out: &mut impl Write, report: &Report) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}

/// Three columns; a long value pushes its own origin aside, not everybody's.
fn write_table(out: &mut impl Write, settings: &[Resolved]) -> io::Result<()> {
    const WIDEST: usize = 48;
    let name_width = settings.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let shown = |row: &Resolved| match row.value.as_str() {
        "" => "\"\"".to_owned(),
        value => value.to_owned(),
    };
    let widths = settings.iter().map(|row| shown(row).chars().count());
    let value_width = widths.filter(|width| *width <= WIDEST).max().unwrap_or(0);
    for row in settings {
        let value = shown(row);
        writeln!(out, "{:name_width$}  {value:value_width$}  {}", row.name, row.origin)?;
    }
    Ok(())
}
