//! What an app-server says of one turn, reduced to what matters and bounded: unknown messages and
//! fields are passed over, and no text is longer than a few thousand characters.

use std::path::PathBuf;

use serde_json::Value;

use crate::codex::{clip, status::QuotaWindow};

/// The model's words and Codex's errors.
const MESSAGE_CHARS: usize = 2000;
/// No account has more limits than this.
const MOST_WINDOWS: usize = 32;

/// News of one turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TurnEvent {
    /// The picture was asked for.
    Drawing,
    /// A picture, or none.
    Image(ImageItem),
    /// The model said something.
    Message(String),
    /// Why the image tool failed, in its own words. From standard error, so it may come late.
    ToolError(String),
    /// The turn is over.
    Completed(TurnEnd),
}

/// An `imageGeneration` item that is completed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ImageItem {
    /// Where Codex says that it saved the picture; not to be believed.
    pub(super) saved: Option<PathBuf>,
    /// Where its base64 was decoded to, when Codex saved none.
    pub(super) decoded: Option<PathBuf>,
    pub(super) failed: bool,
    /// The limit that is used up, and when it starts anew in Unix seconds.
    pub(super) limit: Option<(String, Option<i64>)>,
}

/// The end of a turn.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TurnEnd {
    pub(super) interrupted: bool,
    /// What Codex says went wrong with the whole turn, and its own word for it.
    pub(super) error: Option<(String, String)>,
}

/// The thread that a notification is about.
pub(super) fn thread_of(params: &Value) -> Option<&str> {
    params.get("threadId")?.as_str()
}

/// News of a turn in a notification; None when it is of no interest. The base64 of a picture that
/// has not been saved is handed to `decode`.
pub(super) fn turn_event(
    method: &str,
    params: &Value,
    decode: impl FnOnce(&str) -> Option<PathBuf>,
) -> Option<TurnEvent> {
    let item = &params["item"];
    let kind = item["type"].as_str().unwrap_or_default();
    match (method, kind) {
        ("item/started", "imageGeneration") => Some(TurnEvent::Drawing),
        ("item/completed", "imageGeneration") => Some(TurnEvent::Image(image(item, decode))),
        ("item/completed", "agentMessage") => {
            let words = item["text"].as_str().map(str::trim).filter(|text| !text.is_empty())?;
            Some(TurnEvent::Message(clip::words(words, MESSAGE_CHARS)))
        }
        ("turn/completed", _) => {
            let turn = &params["turn"];
            let error = &turn["error"];
            let said = error["message"].as_str().map(|message| clip::words(message, MESSAGE_CHARS));
            let failed = turn["status"] == "failed";
            Some(TurnEvent::Completed(TurnEnd {
                interrupted: turn["status"] == "interrupted",
                error: said.or_else(|| failed.then(String::new)).map(|message| {
                    let word = error["codexErrorInfo"].as_str().unwrap_or_default();
                    (message, clip::words(word, MESSAGE_CHARS))
                }),
            }))
        }
        _ => None,
    }
}

fn image(item: &Value, decode: impl FnOnce(&str) -> Option<PathBuf>) -> ImageItem {
    let failure = &item["failure"];
    let saved = item["savedPath"].as_str().filter(|path| !path.is_empty()).map(PathBuf::from);
    let result = item["result"].as_str().filter(|result| !result.is_empty());
    let decoded = if saved.is_none() { result.and_then(decode) } else { None };
    let limit = (failure["type"] == "usageLimitExceeded").then(|| {
        let id = failure["limitId"].as_str().unwrap_or("image_gen");
        (clip::words(id, 64), failure["resetsAt"].as_i64())
    });
    ImageItem { saved, decoded, failed: item["status"] == "failed", limit }
}

/// From a line of standard error in JSON: the thread and why its image tool failed. Only there is
/// it said whose a moderation was. Observed with 0.147 to 0.169.
pub(super) fn tool_error(line: &[u8]) -> Option<(String, String)> {
    // Most lines are of another kind, and parsing costs more than a look.
    memchr::memmem::find(line, b"codex.tool_result")?;
    let line: Value = serde_json::from_slice(line).ok()?;
    let fields = &line["fields"];
    let failed = fields["success"] == "false" || fields["success"] == false;
    // The longer name is that of 0.147 and 0.148.
    let of_images =
        ["imagegen", "image_genimagegen"].iter().any(|name| fields["tool_name"] == *name);
    if fields["event.name"] != "codex.tool_result" || !of_images || !failed {
        return None;
    }
    let thread = fields["conversation.id"].as_str()?;
    Some((thread.to_owned(), clip::words(fields["output"].as_str()?, MESSAGE_CHARS)))
}

/// The windows in an answer to `account/rateLimits/read`, or in `account/rateLimits/updated`,
/// which tells of one limit only.
pub(super) fn quota(said: &Value) -> Vec<QuotaWindow> {
    let limits: Vec<&Value> = match said["rateLimitsByLimitId"].as_object() {
        Some(limits) if !limits.is_empty() => limits.values().collect(),
        _ => vec![&said["rateLimits"]],
    };
    let mut windows = Vec::new();
    for limit in limits {
        let id = limit["limitId"].as_str().unwrap_or("codex");
        for window in [&limit["primary"], &limit["secondary"]] {
            let Some(used) = window["usedPercent"].as_f64() else { continue };
            let Some(minutes) = window["windowDurationMins"].as_u64() else { continue };
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // bounded here
            let used_percent = used.clamp(0.0, 100.0).ceil() as u8;
            if windows.len() < MOST_WINDOWS {
                windows.push(QuotaWindow {
                    limit: clip::words(id, 64),
                    minutes: u32::try_from(minutes).unwrap_or(u32::MAX),
                    used_percent,
                    resets_at: window["resetsAt"].as_i64(),
                });
            }
        }
    }
    windows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(method: &str, params: &Value) -> Option<TurnEvent> {
        turn_event(method, params, |text| Some(PathBuf::from(format!("/decoded/{text}"))))
    }

    #[test]
    fn a_saved_picture_is_not_decoded() {
        let item = json!({"type": "imageGeneration", "id": "exec-1", "status": "completed",
            "result": "aGk=", "savedPath": "/h/x.png", "failure": null, "new": {"field": 1}});
        let expected = ImageItem { saved: Some("/h/x.png".into()), ..ImageItem::default() };
        let got = event("item/completed", &json!({"threadId": "t", "item": item}));
        assert_eq!(got, Some(TurnEvent::Image(expected)));
        let item = json!({"type": "imageGeneration", "status": "completed", "result": "aGk="});
        let expected = ImageItem { decoded: Some("/decoded/aGk=".into()), ..ImageItem::default() };
        let got = event("item/completed", &json!({"item": item}));
        assert_eq!(got, Some(TurnEvent::Image(expected)));
    }

    #[test]
    fn a_limit_names_itself_and_its_end() {
        let item = json!({"type": "imageGeneration", "status": "failed", "result": "",
            "failure": {"type": "usageLimitExceeded", "limitId": "image_gen", "resetsAt": 17}});
        let expected = ImageItem {
            failed: true,
            limit: Some(("image_gen".into(), Some(17))),
            ..ImageItem::default()
        };
        let got = event("item/completed", &json!({"item": item}));
        assert_eq!(got, Some(TurnEvent::Image(expected)));
    }

    #[test]
    fn the_end_of_a_turn() {
        let end = |turn: Value| match event("turn/completed", &json!({"turn": turn})) {
            Some(TurnEvent::Completed(end)) => end,
            other => panic!("{other:?}"),
        };
        assert_eq!(end(json!({"status": "completed", "error": null})), TurnEnd::default());
        assert!(end(json!({"status": "interrupted", "error": null})).interrupted);
        let failed = end(json!({"status": "failed",
            "error": {"message": "no", "codexErrorInfo": "unauthorized"}}));
        assert_eq!(failed.error, Some(("no".into(), "unauthorized".into())));
        let failed = end(json!({"status": "failed",
            "error": {"message": "x", "codexErrorInfo": {"httpConnectionFailed": {}}}}));
        assert_eq!(failed.error, Some(("x".into(), String::new())));
        assert!(end(json!({"status": "failed"})).error.is_some());
    }

    #[test]
    fn what_is_unknown_is_passed_over() {
        for (method, params) in [
            ("item/completed", json!({"item": {"type": "newKind"}})),
            ("item/agentMessage/delta", json!({"delta": "x"})),
            ("something/new", json!([1, 2])),
            ("item/started", json!(null)),
        ] {
            assert_eq!(event(method, &params), None);
        }
    }

    #[test]
    fn only_a_failed_image_tool_is_an_error_of_it() {
        let line = |tool: &str, success: &str| {
            json!({"fields": {"event.name": "codex.tool_result", "tool_name": tool,
                "success": success, "conversation.id": "t1", "output": "image generation failed: x",
                "arguments": "{\"prompt\":\"secret\"}"}})
            .to_string()
        };
        for tool in ["imagegen", "image_genimagegen"] {
            let found = tool_error(line(tool, "false").as_bytes());
            assert_eq!(found, Some(("t1".into(), "image generation failed: x".into())));
        }
        for other in [line("imagegen", "true"), line("exec", "false"), "codex.tool_result".into()] {
            assert_eq!(tool_error(other.as_bytes()), None);
        }
    }

    #[test]
    fn windows_are_named_by_limit_and_length() {
        let window = |used: f64, minutes: u32| json!({"usedPercent": used, "windowDurationMins": minutes, "resetsAt": 9});
        let limit = |id: &str| json!({"limitId": id, "primary": window(12.2, 300), "secondary": window(200.0, 10_080)});
        let both = json!({"rateLimits": limit("codex"),
            "rateLimitsByLimitId": {"codex": limit("codex"), "image_gen": limit("image_gen")}});
        let windows = quota(&both);
        assert_eq!(windows.len(), 4);
        assert_eq!((windows[0].used_percent, windows[0].minutes), (13, 300));
        assert_eq!(windows[3].used_percent, 100);
        assert_eq!(quota(&json!({"rateLimits": limit("codex")})).len(), 2);
        assert!(quota(&json!({"rateLimits": {"primary": null}})).is_empty());
        assert!(quota(&Value::Null).is_empty());
    }
}
