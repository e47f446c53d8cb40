//! Many pictures at once on one login: by one app-server, and by `codex exec`, of which a login can
//! run one at a time.

use std::time::Instant;

use super::{
    codex::{draw, lasting},
    stats::median,
    support::{Backend, HomeOptions, Service, Setup},
    table::Row,
};

const TARGET: f64 = 7.5;
const PICTURES: usize = 32;
const AT_ONCE: usize = 16;
const RUNS: usize = 5;
/// With all of them one run would take a minute and a half.
const BY_EXEC: usize = 8;
const TAKES: &str = "image_latency=2";

pub fn rows() -> Result<Vec<Row>, String> {
    let backend = Backend::start();
    backend.set(TAKES);
    let service = lasting(Setup::served(&backend, &[HomeOptions::default()]), AT_ONCE).start();
    let first = seconds(&service, PICTURES);
    let warm: Vec<_> = (0..RUNS).map(|_| seconds(&service, PICTURES)).collect();
    let peak = backend.peak_images();
    if peak != AT_ONCE {
        return Err(format!("{peak} were drawn at once, not {AT_ONCE}"));
    }
    let worst = warm.iter().copied().fold(0.0, f64::max);
    let figure = median(warm);
    let how = format!(
        "2 s each, {peak} at once, one login, median of {RUNS}, worst {worst:.2} s; \
         {first:.2} s with the app-server's start"
    );
    drop(service);

    let backend = Backend::start();
    backend.set(TAKES);
    let setup = Setup::real(&backend);
    let service = lasting(setup, AT_ONCE).start();
    let exec = seconds(&service, BY_EXEC);
    let each = exec / f64::from(u32::try_from(BY_EXEC).expect("a few"));
    let peak = backend.peak_images();
    let all = each * f64::from(u32::try_from(PICTURES).expect("a few"));
    let exec_how = format!(
        "same run, {peak} at once on one login: {each:.2} s each, so {all:.0} s for {PICTURES}"
    );
    let name = format!("{PICTURES} pictures");
    Ok(vec![
        Row::new(&name, "<= 7.5 s", &format!("{figure:.2} s"), figure <= TARGET, &how),
        Row::plain(&format!("{BY_EXEC} pictures: exec"), &format!("{exec:.1} s"), &exec_how),
    ])
}

/// All asked for at once, until the last is answered.
fn seconds(service: &Service, pictures: usize) -> f64 {
    service.default_key();
    let begun = Instant::now();
    draw(service, pictures, pictures, |_| ());
    begun.elapsed().as_secs_f64()
}
