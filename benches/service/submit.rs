//! Durable submissions a second: only rows that the database holds afterwards count. The front
//! alone runs, so that no drawing takes part of the machine. Beside it, what the disk can do.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use sqlx::{Connection as _, SqliteConnection};

use super::{
    caller::bearer,
    program,
    stats::{median, rate},
    support::{Service, Setup},
    table::Row,
    wrk::Load,
};

const TARGET: f64 = 1_500.0;
const CLIENTS: usize = 8;
const SECONDS: u32 = 4;
const RUNS: usize = 5;

const SCRIPT: &str = r#"
wrk.method = "POST"
wrk.body = '{"prompt": "A red kite over the sea in the evening, seen from the beach", "size": "1024x1024"}'
wrk.headers["content-type"] = "application/json"
"#;

pub fn rows() -> Result<Vec<Row>, String> {
    let setup = program(Setup::painter()).args(&["--role", "front"]);
    let service = setup.set("GENERATION_QUEUE_MAX_SIZE", "100000").start();
    let script = service.path("submit.lua");
    std::fs::write(&script, SCRIPT).unwrap();
    let mut rates = Vec::new();
    let mut syncs = Vec::new();
    for _ in 0..RUNS {
        rates.push(run(&service, &script)?);
        syncs.push(syncs_a_second(&service.path("sync")));
    }
    let (figure, sync) = (median(rates), median(syncs));
    let how = format!("wrk -c{CLIENTS} -d{SECONDS}s, rows in the database, median of {RUNS}");
    Ok(vec![
        Row::new("durable submit", ">= 1500/s", &rate(figure), figure >= TARGET, &how),
        Row::plain("submit: the disk", &rate(sync), "4 KiB writes, each with fdatasync, same run"),
    ])
}

/// Committed rows a second; the answers must not be more than the rows.
fn run(service: &Service, script: &Path) -> Result<f64, String> {
    let (url, headers) = (service.url("/v1/images/jobs"), bearer(service));
    let before = committed(service);
    let load = Load {
        url: &url,
        connections: CLIENTS,
        seconds: SECONDS,
        headers: &headers,
        script: Some(script),
    };
    let outcome = load.run()?;
    let rows = committed(service) - before;
    if rows < outcome.answers {
        return Err(format!("{} were accepted, {rows} are in the database", outcome.answers));
    }
    // Those that were under way when wrk ended are left out.
    #[allow(clippy::cast_precision_loss, reason = "some thousands")]
    Ok(outcome.answers.min(rows) as f64 / outcome.seconds)
}

fn committed(service: &Service) -> u64 {
    let url = format!(
        "sqlite://{}?mode=ro",
        service.state_dir().join("codex-image-service.db").display()
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let count: i64 = runtime.block_on(async {
        let mut database = SqliteConnection::connect(&url).await.unwrap();
        sqlx::query_scalar("SELECT count(*) FROM jobs").fetch_one(&mut database).await.unwrap()
    });
    count.cast_unsigned()
}

fn syncs_a_second(path: &Path) -> f64 {
    let mut file = File::create(path).unwrap();
    let (begun, mut count) = (Instant::now(), 0.0);
    while begun.elapsed() < Duration::from_secs(1) {
        file.write_all(&[1; 4096]).unwrap();
        file.sync_data().unwrap();
        count += 1.0;
    }
    count / begun.elapsed().as_secs_f64()
}
