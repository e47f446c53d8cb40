//! `openapi`: the API's description, as `/openapi.json` serves it.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::fail;
use crate::http;

/// Print the API's description (OpenAPI 3.1, JSON).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  codex-image-service openapi > openapi.json

A running service answers the same at /openapi.json.")]
pub(super) struct Args {}

pub(super) fn run(_: &Args) -> ExitCode {
    match io::stdout().write_all(&http::openapi::document()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}
