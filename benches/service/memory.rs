//! Resident memory: idle, and with many large uploads at once.

use std::{fs, thread, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    program,
    support::{Service, Setup, pictures},
    table::Row,
};

/// Bytes, and a MB is a million of them.
const IDLE_TARGET: u64 = 10_000_000;
const PEAK_TARGET: u64 = 64_000_000;
const ONE_TARGET: u64 = 2_000_000;
const UPLOADS: usize = 20;
const REFERENCES: usize = 4;

pub fn idle() -> Result<Vec<Row>, String> {
    let service = program(Setup::fake()).start();
    thread::sleep(Duration::from_secs(2));
    let (all, own) = (bytes(&service, "VmRSS")?, bytes(&service, "RssAnon")?);
    let how = format!("VmRSS 2 s after the start; {} of it anonymous", mb(own));
    Ok(vec![Row::new("idle memory", "<= 10 MB", &mb(all), all <= IDLE_TARGET, &how)])
}

pub fn uploads() -> Result<Vec<Row>, String> {
    // The front alone: what is measured is the reading of bodies.
    let service = program(Setup::painter()).args(&["--role", "front"]).start();
    service.submit("warm");
    let body = body();
    let before = bytes(&service, "VmHWM")?;
    upload(&service, &body)?;
    let one = bytes(&service, "VmHWM")? - before;
    thread::scope(|scope| {
        let sent: Vec<_> = (0..UPLOADS).map(|_| scope.spawn(|| upload(&service, &body))).collect();
        sent.into_iter().try_for_each(|sent| sent.join().unwrap())
    })?;
    let peak = bytes(&service, "VmHWM")?;
    let how = format!(
        "VmHWM after {UPLOADS} at once of {REFERENCES} x 8 MiB references, bodies of {:.1} MB",
        f64::from(u32::try_from(body.len()).expect("some MB")) / 1e6
    );
    Ok(vec![
        Row::new("20 uploads", "<= 64 MB", &mb(peak), peak <= PEAK_TARGET, &how),
        Row::new(
            "one upload",
            "< 2 MB",
            &mb(one),
            one < ONE_TARGET,
            "growth of VmHWM by the first",
        ),
    ])
}

fn upload(service: &Service, body: &[u8]) -> Result<(), String> {
    let reply = service.request("POST", "/v1/images/jobs", &[JSON], Some(body));
    (reply.status == 202).then_some(()).ok_or_else(|| format!("refused: {reply:?}"))
}

const JSON: (&str, &str) = ("content-type", "application/json");

/// Four different pictures of 8 MiB, true PNGs that do not compress.
fn body() -> Vec<u8> {
    let kind = pictures::Kind { size: (1_800, 1_552), noise: true, ..Default::default() };
    let references: Vec<String> = (0..REFERENCES)
        .map(|number| STANDARD.encode(pictures::of_seed(&kind, &number.to_string())))
        .collect();
    serde_json::json!({"prompt": "a kite", "reference_images": references}).to_string().into_bytes()
}

/// A field of `/proc`, in bytes.
pub fn bytes(service: &Service, field: &str) -> Result<u64, String> {
    let status = fs::read_to_string(format!("/proc/{}/status", service.pid()));
    let status = status.map_err(|why| why.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| format!("no {field} in /proc"))
}

pub fn mb(bytes: u64) -> String {
    let tenths = bytes / 100_000;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}
