//! The words of the backend's answers: quotas, errors, events. Shapes are those that Codex reads.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::{model, options::Options};

/// The error of an exhausted quota.
pub fn limit_reached(options: &Options) -> Value {
    json!({"error": {
        "type": "usage_limit_reached",
        "message": "The usage limit has been reached",
        "plan_type": "plus",
        "resets_at": now() + options.reset,
        "resets_in_seconds": options.reset,
    }})
}

/// An error in OpenAI's envelope.
pub fn error(message: &str, kind: &str, code: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "code": code, "param": null}})
}

/// The `x-codex-*` headers of a turn of which `percent` of the 5-hour window is used.
pub fn turn_headers(options: &Options, percent: u32) -> HeaderMap {
    let mut headers = HeaderMap::new();
    family(&mut headers, "x-codex", options, percent);
    headers
}

/// The headers of an image request that hits the quota `image_gen`.
pub fn image_limit_headers(options: &Options) -> HeaderMap {
    let mut headers = turn_headers(options, options.used_percent);
    family(&mut headers, "x-image-gen", options, 100);
    put(&mut headers, "x-image-gen-limit-name", "image_gen");
    put(&mut headers, "x-codex-active-limit", "image-gen");
    headers
}

fn family(headers: &mut HeaderMap, prefix: &str, options: &Options, percent: u32) {
    let windows = [
        ("primary", percent, 300, now() + options.reset),
        ("secondary", options.weekly_percent, 10_080, now() + 86_400),
    ];
    for (window, percent, minutes, reset) in windows {
        put(headers, &format!("{prefix}-{window}-used-percent"), &format!("{percent}.0"));
        put(headers, &format!("{prefix}-{window}-window-minutes"), &minutes.to_string());
        put(headers, &format!("{prefix}-{window}-reset-at"), &reset.to_string());
    }
}

fn put(headers: &mut HeaderMap, name: &str, value: &str) {
    let name = HeaderName::try_from(name).expect("a header's name");
    headers.insert(name, HeaderValue::try_from(value).expect("a header's value"));
}

/// The answer of `wham/usage`.
pub fn usage(options: &Options, account: &str) -> Value {
    let window = |used: u32, length: i64, reset: i64| {
        json!({"used_percent": used, "limit_window_seconds": length,
               "reset_after_seconds": reset, "reset_at": now() + reset})
    };
    let limit = |primary: u32, secondary: u32| {
        let reached = primary >= 100 || secondary >= 100;
        json!({"allowed": !reached, "limit_reached": reached,
               "primary_window": window(primary, 18_000, options.reset),
               "secondary_window": window(secondary, 604_800, 86_400)})
    };
    json!({
        "plan_type": "plus", "user_id": "user-test", "account_id": account,
        "email": "test@example.invalid",
        "rate_limit": limit(options.used_percent, options.weekly_percent),
        "additional_rate_limits": [{"limit_name": "image_gen", "metered_feature": "image_gen",
            "rate_limit": limit(options.image_percent, options.image_percent)}],
        "credits": {"has_credits": false, "unlimited": false, "balance": "0"},
    })
}

/// The answer of `wham/accounts/check`, without which no turn starts.
pub fn accounts(account: &str) -> Value {
    json!({
        "accounts": [{"id": account, "name": "Test", "plan_type": "plus", "structure": "personal",
            "workspace_backend_origin": "https://backend.invalid",
            "account_routing_override": "NO_CONSTRAINT"}],
        "account_ordering": [account],
        "default_account_id": account,
    })
}

/// The events that open an answer.
pub fn opening(response: &str, options: &Options) -> Vec<Value> {
    let window = |used: u32, minutes: i64, reset: i64| {
        json!({"used_percent": f64::from(used), "window_minutes": minutes,
               "reset_at": now() + reset})
    };
    vec![
        json!({"type": "response.created", "response": {"id": response}}),
        json!({"type": "codex.rate_limits", "plan_type": "plus", "credits": null, "rate_limits": {
            "allowed": true, "limit_reached": false,
            "primary": window(options.used_percent, 300, options.reset),
            "secondary": window(options.weekly_percent, 10_080, 86_400)}}),
    ]
}

/// The event of a turn that the content policy ends.
pub fn policy_failure(response: &str) -> Value {
    json!({"type": "response.failed", "response": {"id": response, "status": "failed", "error": {
        "code": "content_policy_violation",
        "message": "This content is against the usage policies."}}})
}

/// The events that carry `items` and complete the answer.
pub fn items_and_end(response: &str, items: &[Value]) -> Vec<Value> {
    let mut events = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let is_message = item["type"] == "message";
        let mut begun = item.clone();
        if is_message {
            begun["content"] = json!([]);
        } else if item["type"] == "image_generation_call" {
            begun["result"] = Value::Null;
            begun["status"] = "in_progress".into();
        }
        events.push(json!({"type": "response.output_item.added", "output_index": index,
                           "item": begun}));
        if is_message {
            events.push(json!({"type": "response.output_text.delta", "output_index": index,
                "item_id": item["id"], "delta": item["content"][0]["text"]}));
        }
        events.push(json!({"type": "response.output_item.done", "output_index": index,
                           "item": item}));
    }
    events.push(json!({"type": "response.completed", "response": {
        "id": response, "output": items, "usage": {
            "input_tokens": 1000, "input_tokens_details": {"cached_tokens": 400},
            "output_tokens": 50, "output_tokens_details": {"reasoning_tokens": 10},
            "total_tokens": 1050}}}));
    events
}

/// A fresh response id.
pub fn response_id() -> String {
    model::id("resp_")
}

/// Unix seconds.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
