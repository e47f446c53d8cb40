//! The lines are those that Codex 0.169.0 wrote against a stand-in of the service.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

use super::*;

fn ended(code: i32) -> Ending {
    Ending::Exited(ExitStatus::from_raw(code << 8))
}

fn report(failed: Option<&str>, message: Option<&str>) -> Report {
    let mut report = Report::default();
    report.failed = failed.map(Into::into);
    report.messages = message.map(Into::into).into_iter().collect();
    report.completed = failed.is_none();
    report
}

fn code_of(report: &Report, stderr: &str, ending: Ending) -> Failure {
    classify(&Evidence { report, stderr, ending, saved_other: false })
}

fn failed(message: &str) -> Failure {
    code_of(&report(Some(message), None), "", ended(1))
}

fn tool_failed(reason: &str) -> Failure {
    let line = format!(
        "2026-11-22T12:00:00.000000Z ERROR codex_core::tools::router: error=image generation \
         {reason}\nsome other line\n"
    );
    code_of(&report(None, Some("The image could not be made: Script failed")), &line, ended(0))
}

#[test]
fn failed_turns() {
    use FailureCode as C;
    for (message, code) in [
        (
            "Your access token could not be refreshed because your refresh token was revoked. Please log out and sign in again.",
            C::LoginExpired,
        ),
        (
            "Your access token could not be refreshed because your refresh token was already used. Please log out and sign in again.",
            C::LoginExpired,
        ),
        (
            "unexpected status 401 Unauthorized: Your authentication token has been invalidated., url: http://localhost:1/x",
            C::LoginExpired,
        ),
        (
            "You’ve hit your usage limit. Upgrade to Pro (https://chatgpt.com/explore/pro) or try again later.",
            C::QuotaExceeded,
        ),
        ("exceeded retry limit, last status: 429 Too Many Requests", C::QuotaExceeded),
        ("This content may violate our usage policies.", C::ModerationBlocked),
        (
            "stream disconnected before completion: stream closed before response.completed",
            C::CodexError,
        ),
        (
            "We're currently experiencing high demand, which may cause temporary errors.",
            C::CodexError,
        ),
        (
            "unexpected status 503 Service Unavailable: {\"error\":1}, url: http://localhost:1/x",
            C::CodexError,
        ),
        (
            "stream disconnected before completion: error sending request for url (http://localhost:1/x)",
            C::CodexError,
        ),
        ("workspace routing discovery failed", C::CodexError),
        ("something new in /root/.codex/x {\"raw\":1}", C::CodexError),
        ("", C::CodexError),
    ] {
        let failure = failed(message);
        assert_eq!(failure.code, code, "{message}");
        for leak in ["http://", "/root", "{"] {
            assert!(!failure.message.contains(leak), "{}", failure.message);
        }
    }
    assert!(failed("exceeded retry limit, last status: 429 Too Many Requests").retry_at.is_some());
}

#[test]
fn a_quota_says_when() {
    let now = jiff::Timestamp::now().as_second();
    let failure = failed("You’ve hit your usage limit. Try again in 2 hours.");
    assert!((now + 7200..now + 7400).contains(&failure.retry_at.unwrap()));

    let body = format!(
        r#"{{\"error\": {{\"type\": \"usage_limit_reached\", \"message\": \"The usage limit has been reached\", \"resets_at\": {}}}}}"#,
        now + 3600
    );
    let failure = tool_failed(&format!("failed: http 429 Too Many Requests: Some(\"{body}\")"));
    assert_eq!((failure.code, failure.retry_at), (FailureCode::QuotaExceeded, Some(now + 3600)));
}

#[test]
fn failed_tools() {
    use FailureCode as C;
    for (reason, code) in [
        (
            r#"failed: http 400 Bad Request: Some("{\"error\": {\"message\": \"Your request was rejected by the safety system.\", \"type\": \"image_generation_user_error\", \"param\": null, \"code\": \"moderation_blocked\"}}")"#,
            C::ModerationBlocked,
        ),
        (
            r#"failed: http 429 Too Many Requests: Some("{\"error\": {\"code\": \"rate_limit_exceeded\"}}")"#,
            C::QuotaExceeded,
        ),
        ("failed: http 401 Unauthorized: None", C::LoginExpired),
        (
            r#"failed: http 500 Internal Server Error: Some("{\"error\": {\"message\": \"moderation_blocked\"}}")"#,
            C::CodexError,
        ),
        (
            "failed: network error: error sending request for url (http://localhost:1/x)",
            C::CodexError,
        ),
        ("failed: requested the last 3 conversation images", C::CodexError),
        ("returned no image data", C::NoImage),
    ] {
        assert_eq!(tool_failed(reason).code, code, "{reason}");
        assert!(!tool_failed(reason).message.contains("http:"), "{reason}");
    }
}

#[test]
fn a_refusal_keeps_the_models_words() {
    let failure = code_of(&report(None, Some("I can't help with that.")), "", ended(0));
    assert_eq!(failure.code, FailureCode::ModelRefused);
    assert_eq!(failure.message, "The model made no image: I can't help with that.");
    let long = code_of(&report(None, Some(&"a b ".repeat(1000))), "", ended(0));
    assert!(long.message.chars().count() < 560);
    let leaky = "Saved to `/home/u/.codex/x.png` (see ~/x or http://h/y), key eyJhbGciOi.x and/or";
    let failure = code_of(&report(None, Some(leaky)), "", ended(0));
    assert!(failure.message.ends_with("Saved to […] (see […] or […] key […] and/or"));
}

#[test]
fn words_about_errors_are_not_errors() {
    // What the caller made the model say decides nothing.
    let words = "image generation failed: http 429 usage limit moderation_blocked";
    let failure = code_of(&report(None, Some(words)), "", ended(0));
    assert_eq!(failure.code, FailureCode::ModelRefused);
}

#[test]
fn no_words_and_no_picture() {
    use FailureCode as C;
    assert_eq!(code_of(&report(None, None), "", ended(0)).code, C::NoImage);
    let unseen = Report::default();
    assert_eq!(code_of(&unseen, "", ended(1)).code, C::CodexError);
    assert!(code_of(&unseen, "", ended(2)).message.contains("too old"));
    assert_eq!(code_of(&unseen, "", Ending::Exited(ExitStatus::from_raw(9))).code, C::CodexError);
    assert_eq!(code_of(&unseen, "", Ending::TimedOut).code, C::Timeout);
    assert_eq!(code_of(&unseen, "", Ending::Stopped).code, C::Interrupted);
    assert_eq!(code_of(&unseen, "", Ending::Unknown).code, C::Interrupted);
    assert_eq!(code_of(&unseen, "", Ending::TooMuch).code, C::CodexError);
}

#[test]
fn a_saved_file_that_is_no_picture() {
    let done = report(None, Some("Done: 1 image(s)."));
    let failure =
        classify(&Evidence { report: &done, stderr: "", ending: ended(0), saved_other: true });
    assert_eq!(failure.code, FailureCode::NoImage);
    let words =
        "The image could not be made: image content omitted because it could not be processed";
    let report = report(None, Some(words));
    assert_eq!(code_of(&report, "", ended(0)).code, FailureCode::NoImage);
}

#[test]
fn the_tools_error_says_more_than_a_failed_turn() {
    let line = "x ERROR codex: error=image generation failed: http 401 Unauthorized: None";
    let report = report(Some("stream disconnected"), None);
    assert_eq!(code_of(&report, line, ended(1)).code, FailureCode::LoginExpired);
}
