//! How soon a waiting caller has its answer once its job is final: from the worker's log line
//! "job ended", written when the end is committed, to the last byte at the caller.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::{
    program,
    stats::median,
    support::{Service, Setup, wait_for},
    table::Row,
};

const TRIES: usize = 40;

pub fn rows() -> Result<Vec<Row>, String> {
    let one = program(Setup::painter()).start();
    let mut rows = vec![row("notice, one process", 10.0, &one, &one)?];
    drop(one);
    let front = program(Setup::painter()).args(&["--role", "front"]).start();
    let mut worker = program(Setup::painter())
        .args(&["--role", "worker"])
        .set("STATE_DIR", front.state_dir())
        .stopped();
    worker.spawn();
    wait_for("the worker", || (front.get("/ready").status == 200).then_some(()));
    rows.push(row("notice, split", 50.0, &front, &worker)?);
    Ok(rows)
}

fn row(what: &str, target: f64, front: &Service, worker: &Service) -> Result<Row, String> {
    let mut times = Vec::new();
    for _ in 0..TRIES {
        let body = json!({"prompt": "a kite"});
        let reply = front.post_json("/v1/images/generate", &body).expect(200);
        let answered = SystemTime::now();
        let id = reply.json()["id"].as_str().ok_or("no id")?.to_owned();
        let ended = wait_for("the log line", || ended_at(&worker.log(), &id));
        // The clock of the wall: a step back would be a negative time.
        times.push(answered.duration_since(ended).unwrap_or(Duration::ZERO).as_secs_f64() * 1000.0);
    }
    let worst = times.iter().copied().fold(0.0, f64::max);
    let figure = median(times);
    let how = format!(
        "log line \"job ended\" to the whole answer, median of {TRIES}; worst {worst:.1} ms"
    );
    let (wanted, met) = (format!("<= {target:.0} ms"), figure <= target);
    Ok(Row::new(what, &wanted, &format!("{figure:.2} ms"), met, &how))
}

/// When the worker said that the job ended.
fn ended_at(log: &str, id: &str) -> Option<SystemTime> {
    let line = log.lines().find(|line| line.contains("job ended") && line.contains(id))?;
    let time: jiff::Timestamp = line.split_whitespace().next()?.parse().ok()?;
    Some(time.into())
}
