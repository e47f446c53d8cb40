//! `completions`: what a shell needs to complete this program's command line.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, ValueEnum};

use super::{Cli, fail};

/// Print the completions of a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  codex-image-service completions bash > ~/.local/share/bash-completion/completions/codex-image-service
  codex-image-service completions fish > ~/.config/fish/completions/codex-image-service.fish

Exit codes: 0 done, 1 failed (standard output is full, say), 2 wrong usage.")]
pub(super) struct Args {
    /// Which shell.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    // The generator itself panics when it cannot write.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, &name, &mut text);
    let text = String::from_utf8_lossy(&text);
    // In bash, clap_complete 4.6 spells the states of a program with a hyphen in its name in two
    // ways, and nothing would be completed after a command: clap-rs/clap#6421.
    let wrong = name.replace('-', "__subcmd__");
    let text = text.replace(&wrong, &name.replace('-', "__")).into_bytes();
    match io::stdout().write_all(&text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&error),
        _ => ExitCode::SUCCESS,
    }
}
