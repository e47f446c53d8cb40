//! `man`: the manual, made of the same words as `--help`.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use super::{Cli, fail};

/// Print the manual page, or write one for each command into a folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  codex-image-service man | man -l -
  codex-image-service man /usr/local/share/man/man1

Exit codes: 0 done, 1 failed (there is no such folder, say), 2 wrong usage.")]
pub(super) struct Args {
    /// The folder, for a page of each command: codex-image-service.1, codex-image-service-serve.1, …
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let mut command = Cli::command();
    command.build();
    let done = match &args.folder {
        Some(folder) => pages(&command, folder),
        None => one_page(command).and_then(|page| io::stdout().write_all(&page)),
    };
    match done {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&error),
        _ => ExitCode::SUCCESS,
    }
}

/// Every command on the page of the program, each with a section of its own.
fn one_page(command: Command) -> io::Result<Vec<u8>> {
    let mut sections = Vec::new();
    for sub in visible(&command) {
        add_sections(sub, sub.get_name(), &mut sections)?;
    }
    let man = Man::new(command);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    man.render_extra_section(&mut page)?;
    page.extend(sections);
    man.render_version_section(&mut page)?;
    Ok(tidied(&page, ".SH").into_bytes())
}

/// A command's section, and those of the commands below it. Its parts are headings of the second
/// rank here.
fn add_sections(command: &Command, name: &str, page: &mut Vec<u8>) -> io::Result<()> {
    // What every command has is said once.
    let own = command.clone().mut_args(|arg| {
        let is_everywhere = matches!(arg.get_id().as_str(), "config" | "help");
        arg.hide(is_everywhere)
    });
    let man = Man::new(own);
    let mut parts = Vec::new();
    man.render_synopsis_section(&mut parts)?;
    man.render_description_section(&mut parts)?;
    man.render_options_section(&mut parts)?;
    man.render_extra_section(&mut parts)?;
    writeln!(page, ".SH \"{}\"", name.to_uppercase().replace('-', "\\-"))?;
    page.extend(tidied(&parts, ".SS").into_bytes());
    for sub in visible(command) {
        add_sections(sub, &format!("{name} {}", sub.get_name()), page)?;
    }
    Ok(())
}

/// With headings of this rank, and examples that are not stretched to the margin.
fn tidied(page: &[u8], heading: &str) -> String {
    let mut text = String::new();
    for line in String::from_utf8_lossy(page).lines() {
        let _ = match line.strip_prefix(".SH ") {
            Some("EXTRA") => writeln!(text, "{heading} NOTES"),
            Some(title) => writeln!(text, "{heading} {title}"),
            None if line.starts_with(".TH ") => writeln!(text, "{line}\n.ad l\n.nh"),
            None => writeln!(text, "{line}"),
        };
    }
    text
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
}

fn pages(command: &Command, folder: &Path) -> io::Result<()> {
    let man = Man::new(command.clone());
    let path = folder.join(man.get_filename());
    let mut page = Vec::new();
    man.render(&mut page)?;
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    fs::write(&path, tidied(&page, ".SH")).map_err(named)?;
    for sub in visible(command) {
        pages(sub, folder)?;
    }
    Ok(())
}
