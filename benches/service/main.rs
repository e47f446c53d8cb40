//! Promise: what the service costs, measured on its real release binary over real sockets and
//! beside something bare that does the same work in the same run. `cargo bench` prints one table;
//! `cargo bench -- --help` says the rest.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be measured says why")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to people")]

#[path = "../../tests/support/mod.rs"]
mod support;

mod bare;
mod caller;
mod cancel;
mod codex;
mod codex_cpu;
mod codex_memory;
mod machine;
mod memory;
mod nginx;
mod notice;
mod on_demand;
mod overhead;
mod pages;
mod routes;
mod start;
mod stats;
mod submit;
mod table;
mod together;
mod wrk;

use std::{
    panic,
    path::PathBuf,
    process::ExitCode,
    sync::{OnceLock, PoisonError},
};

use support::Setup;
use table::Row;

/// A name for the command line, what it is, and how to get its rows.
struct Measurement {
    name: &'static str,
    what: &'static str,
    run: fn() -> Result<Vec<Row>, String>,
}

const ALL: [Measurement; 16] = [
    Measurement { name: "start", what: "from the start to the first 200", run: start::rows },
    Measurement {
        name: "on-demand",
        what: "from a connection to the first byte, nothing running",
        run: on_demand::rows,
    },
    Measurement { name: "rss", what: "memory when idle", run: memory::idle },
    Measurement { name: "health", what: "/health a second", run: routes::health },
    Measurement { name: "poll", what: "polls of a job a second", run: routes::poll },
    Measurement { name: "submit", what: "durable submissions a second", run: submit::rows },
    Measurement { name: "download", what: "pictures sent a second", run: routes::download },
    Measurement {
        name: "overhead",
        what: "time a picture costs beyond Codex",
        run: overhead::rows,
    },
    Measurement { name: "uploads", what: "memory with 20 large uploads", run: memory::uploads },
    Measurement { name: "notice", what: "from a job's end to its caller", run: notice::rows },
    Measurement { name: "together", what: "32 pictures of 2 s on one login", run: together::rows },
    Measurement { name: "cpu", what: "processor time of Codex a picture", run: codex_cpu::rows },
    Measurement {
        name: "codex-rss",
        what: "memory of Codex after 200 large pictures",
        run: codex_memory::rows,
    },
    Measurement { name: "pages", what: "admin pages over a million jobs", run: pages::long },
    Measurement { name: "search", what: "words in 100,000 jobs", run: pages::search },
    Measurement { name: "cancel", what: "from a DELETE to the dropped request", run: cancel::rows },
];

const HELP: &str = "\
usage: cargo bench [-- [--program FILE] [NAME...]]

Measures the release binary and prints a table; with names, only those rows:
";

const AFTER: &str = "
  --program FILE   another build of the service, to compare with

wrk and nginx (apt-get install wrk nginx) and, for `overhead`, `together`, `cpu`, `codex-rss` and
`cancel`, the Codex that tests/run installs are needed for some rows, which otherwise say what is
missing. Load, bare comparison and service
share the machine: look at the ratios, and measure when nothing else runs.";

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

fn main() -> ExitCode {
    let names = match arguments() {
        Ok(Some(names)) => names,
        Ok(None) => return ExitCode::SUCCESS,
        Err(word) => {
            eprintln!("{word}: unknown; see cargo bench -- --help");
            return ExitCode::from(2);
        }
    };
    let wanted = |name| names.is_empty() || names.iter().any(|wanted| wanted == name);
    println!("{}", machine::description());
    let mut rows = Vec::new();
    let before = machine::load();
    for measurement in ALL.iter().filter(|measurement| wanted(measurement.name)) {
        eprintln!("measuring {}: {}", measurement.name, measurement.what);
        rows.extend(measure(measurement));
    }
    table::print(&rows);
    println!(
        "load {before} before, {} after (the load of the measuring included)",
        machine::load()
    );
    ExitCode::SUCCESS
}

/// The names; none means that only help was wanted.
fn arguments() -> Result<Option<Vec<String>>, String> {
    let mut names = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(word) = arguments.next() {
        match word.as_str() {
            // Cargo's own.
            "--bench" => {}
            "-h" | "--help" => {
                print!("{HELP}");
                for known in &ALL {
                    println!("  {:<16} {}", known.name, known.what);
                }
                println!("{AFTER}");
                return Ok(None);
            }
            "--program" => {
                let file = arguments.next().ok_or("--program without a file")?;
                let _ = PROGRAM.set(file.into());
            }
            name if ALL.iter().any(|known| known.name == name) => names.push(word),
            _ => return Err(word),
        }
    }
    Ok(Some(names))
}

/// The harness panics with its reason; that is then the row.
fn measure(measurement: &Measurement) -> Vec<Row> {
    static WHY: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());
    panic::set_hook(Box::new(|info| {
        *WHY.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
    }));
    let result = panic::catch_unwind(measurement.run);
    let _ = panic::take_hook();
    let why = match result {
        Ok(Ok(rows)) => return rows,
        Ok(Err(why)) => why,
        Err(_) => WHY.lock().unwrap_or_else(PoisonError::into_inner).clone(),
    };
    vec![Row::missing(measurement.name, &why)]
}

/// A setup with the binary that is measured.
fn program(setup: Setup) -> Setup {
    match PROGRAM.get() {
        Some(program) => setup.program(program),
        None => setup,
    }
}
