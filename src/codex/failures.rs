//! Names what went wrong, from what Codex wrote. There is no code to read: an exit status of 0 is
//! also that of moderation, an exhausted image quota and an image that could not be decoded, and
//! all that tells them apart is one line on standard error. Measured with 0.169.0.

use std::process::ExitStatus;

use serde_json::Value;

use super::{Failure, FailureCode, clip, events::Report, quota};

/// What the tool's own errors begin with, on standard error.
const TOOL_ERRORS: [&str; 2] = ["image generation failed: ", "image generation returned "];
/// A rate limit without a time is one of seconds to a minute.
const SHORT_WAIT: i64 = 60;
const WORDS: usize = 500;

/// How a run ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    Exited(ExitStatus),
    /// Its end was not seen: the service was ended meanwhile.
    Unknown,
    TimedOut,
    Stopped,
    /// It wrote more than any run should.
    TooMuch,
}

/// What is known of a run without a picture.
pub(super) struct Evidence<'a> {
    pub(super) report: &'a Report,
    pub(super) stderr: &'a str,
    pub(super) ending: Ending,
    /// Codex saved a file that is no picture.
    pub(super) saved_other: bool,
}

/// Why there is no picture.
pub(super) fn classify(evidence: &Evidence<'_>) -> Failure {
    specific(evidence).unwrap_or_else(|| match evidence.report.messages.last() {
        _ if evidence.saved_other => no_image("Codex saved a file that is no image."),
        Some(words) if is_undecodable(words) => {
            no_image("The image service's answer held no readable image.")
        }
        Some(words) => Failure::new(
            FailureCode::ModelRefused,
            format!("The model made no image: {}", scrubbed(words)),
        ),
        None => unexplained(evidence.ending),
    })
}

/// A failure that was reported as such, whether or not a picture was saved before it.
pub(super) fn specific(evidence: &Evidence<'_>) -> Option<Failure> {
    let report = evidence.report;
    if let Some(message) = &report.failed {
        let failure = turn(message);
        // "exceeded retry limit" and the like say less than the tool's own error.
        return Some(match tool(evidence.stderr) {
            Some(better) if failure.code == FailureCode::CodexError => better,
            _ => failure,
        });
    }
    match evidence.ending {
        Ending::TooMuch => Some(error("Codex wrote far more output than it should.")),
        Ending::TimedOut if !report.completed => {
            Some(Failure::new(FailureCode::Timeout, "Codex did not finish in time."))
        }
        Ending::Stopped if !report.completed => {
            Some(Failure::new(FailureCode::Interrupted, "The run was stopped."))
        }
        _ => tool(evidence.stderr),
    }
}

fn error(message: &str) -> Failure {
    Failure::new(FailureCode::CodexError, message)
}

fn no_image(message: &str) -> Failure {
    Failure::new(FailureCode::NoImage, message)
}

pub(super) fn expired() -> Failure {
    Failure::new(
        FailureCode::LoginExpired,
        "The ChatGPT login has expired or was revoked; the service's owner must sign in again.",
    )
}

fn moderated() -> Failure {
    Failure::new(
        FailureCode::ModerationBlocked,
        "OpenAI's safety system rejected the request for this image.",
    )
}

/// The message is the caller's when nobody ever can look.
pub(super) fn could_not_look() -> Failure {
    error("The service could not look for the image that Codex may have saved.")
}

pub(super) fn exhausted(retry_at: Option<i64>) -> Failure {
    Failure {
        code: FailureCode::QuotaExceeded,
        message: "The ChatGPT plan's usage limit is reached.".into(),
        retry_at,
    }
}

/// The service's owner lets every login rest; None: nobody knows until when.
pub(super) fn left_alone(retry_at: Option<i64>) -> Failure {
    Failure {
        code: FailureCode::LoginsRest,
        message: "The service's owner lets every ChatGPT login rest.".into(),
        retry_at,
    }
}

fn too_fast() -> Failure {
    let now = jiff::Timestamp::now().as_second();
    Failure {
        code: FailureCode::QuotaExceeded,
        message: "OpenAI asks for fewer requests at a time; try again in a minute.".into(),
        retry_at: Some(now + SHORT_WAIT),
    }
}

/// The message of `turn.failed`. It is text of Codex or of the server, not of the model.
pub(super) fn turn(message: &str) -> Failure {
    let text = message.to_lowercase();
    let says = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));
    if says(&["usage limit", "out of credits", "quota exceeded", "spend cap", "usage_limit"]) {
        return exhausted(quota::from_words(message, &quota::now()));
    }
    if says(&["status: 429", "status 429", "429 too many", "rate limit", "rate_limit"]) {
        return too_fast();
    }
    if says(&["token could not be refreshed", "sign in again", "status 401", "not logged in"])
        || says(&["authentication session", "token_invalidated", "401 unauthorized"])
    {
        return expired();
    }
    if says(&["usage policies", "content policy", "content_policy", "moderation", "safety system"])
    {
        return moderated();
    }
    if says(&["high demand", "at capacity", "status 5", "server_is_overloaded", "status: 5"]) {
        return error("OpenAI's service reports an error or is overloaded; try again later.");
    }
    if says(&["stream disconnected", "error sending request", "connection", "network", "timeout"])
        || says(&["timed out", "idle", "routing discovery failed"])
    {
        return error("The connection to OpenAI's service failed; try again later.");
    }
    match scrubbed(message) {
        words if words.is_empty() => error("Codex reports that the turn failed, without a reason."),
        words => error(&format!("Codex reports: {words}")),
    }
}

/// The last error of the image tool on standard error, if there is one.
fn tool(stderr: &str) -> Option<Failure> {
    let said = stderr.lines().rev().find_map(|line| {
        // A line of Codex's log, not one that quotes such a line further on.
        line.contains("ERROR").then_some(())?;
        TOOL_ERRORS.iter().find_map(|mark| Some(&line[line.find(mark)?..]))
    })?;
    let Some(reason) = said.strip_prefix(TOOL_ERRORS[0]) else {
        return Some(no_image("The image service answered without an image."));
    };
    let answer = answer(reason);
    let code = ["code", "type"]
        .iter()
        .filter_map(|key| answer.pointer(&format!("/error/{key}"))?.as_str())
        .collect::<Vec<_>>()
        .join(" ");
    let status = reason.strip_prefix("http ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
    Some(match status {
        _ if code.contains("moderation") || code.contains("content_policy") => moderated(),
        // A body whose quoting is not quite that of JSON.
        Some(400) if answer.is_null() && reason.contains("moderation_blocked") => moderated(),
        Some(429) if code.contains("rate_limit") => too_fast(),
        Some(429) => exhausted(quota::from_answer(&answer, jiff::Timestamp::now())),
        Some(401) => expired(),
        Some(status @ 400..500) => {
            error(&format!("The image service refused the request (HTTP status {status})."))
        }
        Some(status) => {
            error(&format!("The image service failed (HTTP status {status}); try again later."))
        }
        None if reason.starts_with("network error") => {
            error("The connection to the image service failed; try again later.")
        }
        None => error("The image could not be made; the image tool reports an error."),
    })
}

/// The body inside `http 429 Too Many Requests: Some("{\"error\":...}")`; null when there is none.
/// The text is quoted by Rust's rules, which for what appears in JSON are those of JSON.
fn answer(reason: &str) -> Value {
    let body = || -> Option<Value> {
        let quoted = &reason[reason.find("Some(\"")? + "Some(".len()..];
        let text: String = serde_json::Deserializer::from_str(quoted).into_iter().next()?.ok()?;
        serde_json::from_str(&text).ok()
    };
    body().unwrap_or_default()
}

/// Codex tells the model this of a picture that is no base64 or that it cannot show, and says
/// it nowhere else.
fn is_undecodable(words: &str) -> bool {
    words.contains("image content omitted") || words.contains("could not be processed")
}

fn unexplained(ending: Ending) -> Failure {
    use std::os::unix::process::ExitStatusExt;
    match ending {
        Ending::Exited(status) if status.success() => {
            no_image("Codex finished without making an image.")
        }
        Ending::Exited(status) => match (status.code(), status.signal()) {
            // Before any request: an option it does not know, which it did not name.
            (Some(2), _) => error("This version of Codex is too old or too new for the service."),
            (Some(code), _) => error(&format!("Codex ended with status {code} and said no more.")),
            (None, signal) => {
                error(&format!("Codex was ended by signal {}.", signal.unwrap_or_default()))
            }
        },
        Ending::Unknown => Failure::new(
            FailureCode::Interrupted,
            "The service was ended while the image was being made.",
        ),
        Ending::TimedOut | Ending::Stopped | Ending::TooMuch => {
            no_image("Codex finished without making an image.")
        }
    }
}

/// Words that a caller may read: no JSON, no address, no path, nothing like a token.
fn scrubbed(text: &str) -> String {
    let text = text.split(['{', '\0']).next().unwrap_or_default();
    let text = text.split(", url: ").next().unwrap_or_default();
    let hidden = |word: &str| {
        let bare = word.trim_start_matches(|c: char| !c.is_alphanumeric() && c != '/' && c != '~');
        bare.contains("://")
            || (bare.starts_with(['/', '~']) && bare.len() > 1)
            || bare.contains("(/")
            || ["eyJ", "sk-", "rt-", "rt_", "at-"].iter().any(|start| bare.starts_with(start))
            || word.len() > 200
    };
    let words: Vec<&str> =
        text.split_whitespace().map(|word| if hidden(word) { "[…]" } else { word }).collect();
    clip::words(&words.join(" "), WORDS)
}

#[cfg(test)]
#[path = "failures_tests.rs"]
mod tests;
