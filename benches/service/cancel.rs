//! How soon a picture that is being drawn is given up: from the DELETE of its job until the backend
//! sees that its image request was dropped.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    codex::{app_server, draw, lasting},
    stats::{median, ms},
    support::{Backend, HomeOptions, Setup},
    table::Row,
};

const TARGET_MS: f64 = 500.0;
const TRIES: usize = 20;
const PATIENCE: Duration = Duration::from_secs(30);

pub fn rows() -> Result<Vec<Row>, String> {
    let backend = Backend::start();
    let setup = Setup::served(&backend, &[HomeOptions::default()]);
    let service = lasting(setup, 2).start();
    draw(&service, 1, 1, |_| ());
    let pid = app_server(&service);
    backend.hold_images();
    backend.reset_counts();
    let (mut dropped, mut answered) = (Vec::new(), Vec::new());
    for tries in 1..=TRIES {
        let job = service.submit("a kite that nobody waits for");
        backend.wait_for_images(tries);
        let begun = Instant::now();
        service.delete(&format!("/v1/images/jobs/{job}")).expect(200);
        answered.push(ms(begun.elapsed()));
        while backend.open_images() > 0 {
            if begun.elapsed() > PATIENCE {
                return Err(format!("the image request is still open after {PATIENCE:?}"));
            }
            sleep(Duration::from_micros(200));
        }
        dropped.push(ms(begun.elapsed()));
        let job = service.wait_job(&job);
        if job["status"] != "cancelled" {
            return Err(format!("not cancelled: {job}"));
        }
    }
    backend.release_images();
    draw(&service, 1, 1, |_| ());
    if app_server(&service) != pid {
        return Err("the app-server did not live on".to_owned());
    }
    let worst = dropped.iter().copied().fold(0.0, f64::max);
    let (figure, answered) = (median(dropped), median(answered));
    let how = format!(
        "DELETE to the dropped image request, median of {TRIES}, worst {worst:.0} ms; \
         {answered:.1} ms to the answer; the same app-server to the end"
    );
    Ok(vec![Row::new("cancel", "<= 500 ms", &format!("{figure:.0} ms"), figure <= TARGET_MS, &how)])
}
