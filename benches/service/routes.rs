//! Requests a second, each beside its bare comparison: alternating runs, the median of each, and
//! the median of the pairs' ratios.

use super::{
    bare::Bare,
    caller::bearer,
    nginx::Nginx,
    program,
    stats::{median, rate},
    support::{Service, Setup, pictures},
    table::Row,
    wrk::Load,
};

const PAIRS: usize = 5;
const SECONDS: u32 = 3;
const CONNECTIONS: usize = 32;
const DOWNLOAD_RATIO: f64 = 0.75;

/// One side of a comparison.
struct Side {
    url: String,
    headers: Vec<String>,
}

/// The ratio is of each pair, its median shows what disturbances of the machine hide.
struct Compared {
    ours: f64,
    best: f64,
    bare: f64,
    ratio: f64,
}

pub fn health() -> Result<Vec<Row>, String> {
    let service = program(Setup::painter()).start();
    let server = Bare::health();
    let ours = Side { url: service.url("/health"), headers: Vec::new() };
    let bare = Side { url: server.url("/health"), headers: Vec::new() };
    Ok(compare(&ours, &bare)?.rows("/health", 80_000.0, "a bare axum route"))
}

pub fn poll() -> Result<Vec<Row>, String> {
    let service = program(Setup::painter()).start();
    let id = service.submit("a kite");
    service.wait_job(&id);
    let server = Bare::poll(&service.state_dir().join("codex-image-service.db"));
    let path = format!("/v1/images/jobs/{id}");
    let ours = Side { url: service.url(&path), headers: bearer(&service) };
    let bare = Side { url: server.url(&format!("/{id}")), headers: Vec::new() };
    let bare_one = "a bare axum handler with one indexed read by sqlx";
    Ok(compare(&ours, &bare)?.rows("poll", 20_000.0, bare_one))
}

pub fn download() -> Result<Vec<Row>, String> {
    let service = program(Setup::painter()).start();
    let (file, bytes) = large_picture(&service);
    let nginx = Nginx::start(&service.state_dir().join("generated"))?;
    let ours = Side { url: service.url(&format!("/generated/{file}")), headers: Vec::new() };
    let bare = Side { url: nginx.url(&file), headers: Vec::new() };
    let Compared { ours, bare, ratio, .. } = compare(&ours, &bare)?;
    let gib = |rate: f64| format!("{rate:.0}/s, {:.2} GiB/s", rate * bytes / f64::from(1 << 30));
    let how = format!("{:.1} MB file, wrk -c{CONNECTIONS}, {PAIRS} pairs", bytes / 1e6);
    let target = format!(">= {DOWNLOAD_RATIO} x nginx");
    Ok(vec![
        Row::new(
            "download / nginx",
            &target,
            &format!("{ratio:.2}"),
            ratio >= DOWNLOAD_RATIO,
            &how,
        ),
        Row::plain("download", &gib(ours), "the service"),
        Row::plain(
            "download: nginx",
            &gib(bare),
            "sendfile on, tcp_nopush on, same file, same run",
        ),
    ])
}

/// A picture of 1.5 MB in place of the painter's small one: the row names the file, and the file
/// is what counts here.
fn large_picture(service: &Service) -> (String, f64) {
    let id = service.submit("a kite");
    let job = service.wait_job(&id);
    let url = job["images"][0]["url"].as_str().expect("a picture").to_owned();
    let file = url.rsplit_once('/').expect("a path").1.to_owned();
    let kind = pictures::Kind { size: (760, 660), noise: true, ..Default::default() };
    let picture = pictures::of_seed(&kind, "download");
    std::fs::write(service.state_dir().join("generated").join(&file), &picture).unwrap();
    assert_eq!(service.picture(&url).len(), picture.len());
    (file, f64::from(u32::try_from(picture.len()).expect("some MB")))
}

impl Side {
    fn load(&self, seconds: u32) -> Result<f64, String> {
        let Self { url, headers } = self;
        let load = Load { url, connections: CONNECTIONS, seconds, headers, script: None };
        Ok(load.run()?.rate)
    }
}

fn compare(ours: &Side, bare: &Side) -> Result<Compared, String> {
    ours.load(1)?;
    bare.load(1)?;
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        pairs.push((ours.load(SECONDS)?, bare.load(SECONDS)?));
    }
    Ok(Compared {
        ours: median(pairs.iter().map(|pair| pair.0).collect()),
        best: pairs.iter().map(|pair| pair.0).fold(0.0, f64::max),
        bare: median(pairs.iter().map(|pair| pair.1).collect()),
        ratio: median(pairs.iter().map(|pair| pair.0 / pair.1).collect()),
    })
}

impl Compared {
    fn rows(&self, what: &str, target: f64, bare: &str) -> Vec<Row> {
        let how = format!(
            "wrk -t1 -c{CONNECTIONS} -d{SECONDS}s, median of {PAIRS} pairs; best {}; \
             {:.2} of the bare one",
            rate(self.best),
            self.ratio
        );
        let (wanted, met) = (format!(">= {}", rate(target)), self.ours >= target);
        vec![
            Row::new(what, &wanted, &rate(self.ours), met, &how),
            Row::plain(&format!("{what}: bare"), &rate(self.bare), &format!("{bare}, same run")),
        ]
    }
}
