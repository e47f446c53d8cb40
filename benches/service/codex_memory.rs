//! Resident memory of an app-server after many large pictures, at the default concurrency and with
//! many at once. Recycling is put so far away that it is one and the same process to the end.

use std::{sync::Mutex, thread, time::Duration};

use super::{
    codex::{app_server, draw, helpers, lasting},
    support::{Backend, HomeOptions, Service, Setup, process},
    table::Row,
};

/// Bytes, and a MB is a million of them.
const TARGET: u64 = 320_000_000;
const PICTURES: usize = 200;
const MARKS: [usize; 3] = [50, 100, PICTURES];
/// About 3 MB as PNG.
const LARGE: &str = "size=1024x1024 noise=1";
/// What the child gives back by itself takes about ten seconds.
const LATER: Duration = Duration::from_secs(15);

pub fn rows() -> Result<Vec<Row>, String> {
    Ok(vec![row(2)?, row(16)?])
}

fn row(at_once: usize) -> Result<Row, String> {
    let backend = Backend::start();
    backend.set(LARGE);
    let setup = Setup::served(&backend, &[HomeOptions::default()]);
    let service = lasting(setup, at_once).start();
    draw(&service, 1, 1, |_| ());
    let pid = app_server(&service);
    process::forget_peak(pid);
    let marks = Mutex::new(Vec::new());
    // More callers than places: a place that gets free is taken at once.
    draw(&service, PICTURES, at_once * 2, |ended| {
        if MARKS.contains(&ended) {
            marks.lock().unwrap().push((ended, resident(pid)));
        }
    });
    let mut marks = marks.into_inner().unwrap();
    marks.sort_unstable();
    let (_, figure) = marks.pop().ok_or("nothing was drawn")?;
    let peak = process::peak_kib(pid).ok_or("no VmHWM in /proc")? * 1024;
    let helper: u64 = helpers(pid).into_iter().map(resident).sum();
    thread::sleep(LATER);
    let later = resident(pid);
    same(&service, pid)?;
    let earlier: Vec<_> =
        marks.iter().map(|(count, bytes)| format!("{} after {count}", mb(*bytes))).collect();
    let how = format!(
        "VmRSS as picture {PICTURES} of 3 MB is answered; {}; peak {}; {} {} s later; its helper {}",
        earlier.join(", "),
        mb(peak),
        mb(later),
        LATER.as_secs(),
        mb(helper)
    );
    let name = format!("Codex memory, {at_once} at once");
    Ok(Row::new(&name, "<= 320 MB", &mb(figure), figure <= TARGET, &how))
}

fn resident(pid: i32) -> u64 {
    process::resident_kib(pid).unwrap_or(0) * 1024
}

fn same(service: &Service, pid: i32) -> Result<(), String> {
    let now = app_server(service);
    (now == pid).then_some(()).ok_or_else(|| "the app-server was replaced".to_owned())
}

fn mb(bytes: u64) -> String {
    format!("{} MB", bytes / 1_000_000)
}
