//! What a service costs that runs only when somebody asks: on a machine with a real systemd, from
//! connecting to the socket of a front that does not run to the first byte of its answer.

use std::{path::Path, time::Instant};

use super::{
    PROGRAM,
    stats::{median, ms},
    support::{Endpoint, Installed, installed::FRONT},
    table::Row,
};

const TARGET_MS: f64 = 50.0;
const STARTS: usize = 20;

pub fn rows() -> Result<Vec<Row>, String> {
    let built = Path::new(env!("CARGO_BIN_EXE_codex-image-service"));
    let program = PROGRAM.get().map_or(built, AsRef::as_ref);
    let service = Installed::of("default", program, |_| {})
        .ok_or("it needs root, and the machine that tests/run systemd makes")?;
    service.enable();
    service.wait_until_nothing_runs();
    let mut times = Vec::new();
    for _ in 0..STARTS {
        times.push(first_byte(&service.front)?);
        service.machine.sh(&format!("systemctl stop {FRONT}"));
        service.wait_until_nothing_runs();
    }
    let worst = times.iter().copied().fold(0.0, f64::max);
    let figure = median(times);
    let how = format!(
        "systemd-nspawn, connect to the first byte, median of {STARTS}; worst {worst:.0} ms; between them no process of ours"
    );
    Ok(vec![Row::new(
        "start on demand",
        "<= 50 ms",
        &format!("{figure:.1} ms"),
        figure <= TARGET_MS,
        &how,
    )])
}

fn first_byte(front: &Endpoint) -> Result<f64, String> {
    let begun = Instant::now();
    let mut connection = front.connect().map_err(|error| error.to_string())?;
    connection.send("GET", "/health", &[], None).map_err(|error| error.to_string())?;
    let first = connection.read_some().map_err(|error| error.to_string())?;
    let took = ms(begun.elapsed());
    first.starts_with(b"HTTP/1.1 200").then_some(took).ok_or("no 200".to_owned())
}
