//! Asks a running service: submits a job, follows it, fetches its pictures, and cancels it when the
//! user does not want it any more.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use serde_json::Value;
use ureq::{
    Agent, Body,
    http::Response,
    tls::{RootCerts, TlsConfig},
};

use super::{Code, Drawn, Failed, Picture, Progress, request::Checked};

/// Between two looks at a job.
const LOOK: Duration = Duration::from_secs(1);
/// For connecting, and for the start of an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// An answer in JSON is far smaller, and no picture is larger.
const LARGEST_ANSWER: u64 = 4 * 1024 * 1024;
const LARGEST_PICTURE: u64 = 128 * 1024 * 1024;
/// Looks that may fail in a row: the service may just be restarted.
const FAILED_LOOKS: u32 = 30;

struct Client {
    agent: Agent,
    /// Without a slash at the end.
    url: String,
    bearer: String,
}

pub(super) fn draw(
    url: &str,
    key: &str,
    request: &Checked,
    place: &Path,
    progress: &Progress,
) -> Result<Drawn, Failed> {
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(Failed::usage(format!(
            "--server must be an http:// or https:// URL, such as http://127.0.0.1:8000, not {url:?}"
        )));
    }
    let config = Agent::config_builder()
        .http_status_as_error(false)
        // A homelab has its own authority, which the machine knows and the web does not.
        .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .user_agent(concat!("codex-image-service/", env!("CARGO_PKG_VERSION")))
        .build();
    let client = Arc::new(Client {
        agent: config.into(),
        url: url.trim_end_matches('/').to_owned(),
        bearer: format!("Bearer {}", key.trim()),
    });
    let id = client.submit(File::open(&request.body)?)?;
    cancel_on_interrupt(&client, &id)?;
    let job = client.follow(&id, progress).map_err(|failed| failed.and(&format!(" (job {id})")))?;
    let mut drawn = Drawn { pictures: Vec::new(), missing: None };
    for (number, image) in job["images"].as_array().into_iter().flatten().enumerate() {
        let url = client.reached(image["url"].as_str().unwrap_or_default())?;
        let source = format!("{url} (job {id})");
        match client.fetch(&url, place, number) {
            Ok(path) => drawn.pictures.push(Picture { path, number, source: Some(source) }),
            Err(failed) => {
                let failed = failed.and(&format!("; the service has the picture: {source}"));
                super::say(drawn.missing.replace(failed));
            }
        }
    }
    if job["status"] != "succeeded" {
        let message = job["error"].as_str().unwrap_or("The job gave no picture.");
        let code = job["error_code"].as_str().unwrap_or_default();
        if job["status"] == "cancelled" {
            return Err(Failed {
                code: Code::Interrupted,
                message: "the job was cancelled".into(),
            });
        }
        let retry_at = job["retry_at"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
        return Err(Failed::of(code, message, retry_at.map(jiff::Timestamp::as_second)));
    }
    if let Some(error) = job["errors"].as_array().and_then(|errors| errors.first()) {
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        let missing = Failed::of(&text("code"), &text("message"), None);
        super::say(drawn.missing.replace(missing));
    }
    Ok(drawn)
}

impl Client {
    fn submit(&self, body: File) -> Result<String, Failed> {
        let answer = self
            .agent
            .post(format!("{}/v1/images/jobs", self.url))
            .header("authorization", &self.bearer)
            .header("content-type", "application/json")
            .send(body)
            .map_err(|error| self.unreachable(&error))?;
        let job = read(answer)?;
        let id = job["id"].as_str().filter(|id| crate::names::is_job_id(id));
        id.map(str::to_owned).ok_or_else(|| {
            Failed::new(format!("{} answers, but it is no codex-image-service", self.url))
        })
    }

    /// Until the job is final.
    fn follow(&self, id: &str, progress: &Progress) -> Result<Value, Failed> {
        let mut failed = 0;
        loop {
            let asked = self
                .agent
                .get(format!("{}/v1/images/jobs/{id}", self.url))
                .header("authorization", &self.bearer)
                .call();
            match asked {
                Ok(answer) if answer.status().as_u16() < 500 => {
                    failed = 0;
                    let job = read(answer)?;
                    let status = job["status"].as_str().unwrap_or_default();
                    if !matches!(status, "queued" | "running") {
                        return Ok(job);
                    }
                    progress.phase(job["phase"].as_str().unwrap_or(status));
                }
                Ok(answer) if failed == FAILED_LOOKS => return read(answer),
                Err(error) if failed == FAILED_LOOKS => return Err(self.unreachable(&error)),
                Ok(_) | Err(_) => failed += 1,
            }
            thread::sleep(LOOK);
        }
    }

    /// The picture's address where the service was found: its public one may not be reachable here.
    fn reached(&self, url: &str) -> Result<String, Failed> {
        let (_, file) = url
            .split_once("/generated/")
            .ok_or_else(|| Failed::new("the service names no picture"))?;
        Ok(format!("{}/generated/{file}", self.url))
    }

    /// The picture goes to a file named by its type.
    fn fetch(&self, url: &str, place: &Path, number: usize) -> Result<PathBuf, Failed> {
        let answer = self.agent.get(url).call().map_err(|error| self.unreachable(&error))?;
        if answer.status() != 200 {
            return Err(Failed::new(format!("the picture cannot be had: {}", answer.status())));
        }
        let kind = match answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()) {
            Some("image/jpeg") => "jpg",
            Some("image/webp") => "webp",
            _ => "png",
        };
        let path = place.join(format!("picture-{number}.{kind}"));
        let mut reader = answer.into_body().into_with_config().limit(LARGEST_PICTURE).reader();
        let written = File::create(&path).and_then(|mut file| io::copy(&mut reader, &mut file));
        match written {
            Ok(_) => Ok(path),
            Err(error) => {
                // Half a picture is none.
                let _ = fs::remove_file(&path);
                Err(Failed::new(format!("{}: {error}", path.display())))
            }
        }
    }

    fn cancel(&self, id: &str) {
        let url = format!("{}/v1/images/jobs/{id}", self.url);
        let _ = self.agent.delete(&url).header("authorization", &self.bearer).call();
    }

    fn unreachable(&self, error: &ureq::Error) -> Failed {
        Failed::new(format!("{} cannot be asked: {error}; is the service running there?", self.url))
    }
}

/// The answer's JSON, or the error that it is.
fn read(answer: Response<Body>) -> Result<Value, Failed> {
    let status = answer.status();
    let retry = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
    let retry_at = retry
        .and_then(|seconds| seconds.parse::<i64>().ok())
        .map(|seconds| jiff::Timestamp::now().as_second().saturating_add(seconds));
    let mut text = String::new();
    answer.into_body().into_reader().take(LARGEST_ANSWER).read_to_string(&mut text)?;
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    if status.is_success() {
        return Ok(body);
    }
    let message = body["error"]["message"].as_str().unwrap_or("the service gives no reason");
    let code = body["error"]["code"].as_str().unwrap_or_default();
    let message = format!("{message} ({status})");
    if matches!(status.as_u16(), 400 | 413 | 422) {
        return Err(Failed::usage(message));
    }
    Err(Failed::of(code, &message, retry_at))
}

/// From now on an interrupt cancels the job and ends this process.
fn cancel_on_interrupt(client: &Arc<Client>, id: &str) -> io::Result<()> {
    let (client, id) = (Arc::clone(client), Mutex::new(id.to_owned()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let interrupted = runtime.block_on(async {
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
    })?;
    thread::Builder::new().name("interrupt".into()).spawn(move || {
        let mut interrupted = interrupted;
        runtime.block_on(interrupted.recv());
        // The thread that follows the job sees its end and says so.
        client.cancel(&id.lock().unwrap_or_else(PoisonError::into_inner));
    })?;
    Ok(())
}
