//! From the start of the process to the first 200 of `/health`.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    program,
    stats::{median, ms},
    support::{Service, Setup},
    table::Row,
};

const TARGET_MS: f64 = 10.0;
const STARTS: usize = 20;
/// Between two attempts to connect; a busier client would take the core from the service.
const PAUSE: Duration = Duration::from_micros(100);

pub fn rows() -> Result<Vec<Row>, String> {
    let how = format!("spawn to the first 200 of /health, median of {STARTS}");
    let row = |what: &str, times: Vec<f64>| {
        let figure = median(times);
        Row::new(what, "<= 10 ms", &format!("{figure:.1} ms"), figure <= TARGET_MS, &how)
    };
    let mut known = program(Setup::fake()).stopped();
    first_answer(&mut known)?;
    known.term();
    let (mut existing, mut fresh) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        existing.push(first_answer(&mut known)?);
        known.term();
        let mut new = program(Setup::fake()).stopped();
        fresh.push(first_answer(&mut new)?);
        new.term();
    }
    Ok(vec![row("start", existing), row("start, fresh state", fresh)])
}

fn first_answer(service: &mut Service) -> Result<f64, String> {
    let begun = Instant::now();
    service.spawn();
    let endpoint = service.endpoint();
    while begun.elapsed() < Duration::from_secs(10) {
        match endpoint.request("GET", "/health", &[], None) {
            Ok(reply) if reply.status == 200 => return Ok(ms(begun.elapsed())),
            _ => sleep(PAUSE),
        }
    }
    Err(format!("no /health within 10 s:\n{}", service.log()))
}
