//! A very simple model: it reads one request of the Responses API and decides what to say, which
//! is to call the image tool in the dialect that is offered and then to report.

use serde_json::{Value, json};
use uuid::Uuid;

use super::options::{Mode, Options, Tool};

/// What the model sees of the caller's latest turn.
#[derive(Default)]
pub struct Turn<'a> {
    /// The caller's words, without what Codex puts around attached pictures.
    pub prompt: String,
    /// Paths that Codex names beside attached pictures.
    pub paths: Vec<String>,
    /// The addresses of the attached pictures.
    pub attached: Vec<&'a str>,
    /// The items after the caller's.
    since: Vec<&'a Value>,
}

impl<'a> Turn<'a> {
    /// Finds the caller's latest words in a request body.
    pub fn of(body: &'a Value) -> Self {
        let items = list(&body["input"]);
        let Some(at) = items.iter().rposition(is_callers) else { return Self::default() };
        let mut turn = Self { since: items[at + 1..].iter().collect(), ..Self::default() };
        let content = &items[at]["content"];
        if let Some(text) = content.as_str() {
            text.trim().clone_into(&mut turn.prompt);
            return turn;
        }
        let mut words = Vec::new();
        let parts = list(content);
        for (index, part) in parts.iter().enumerate() {
            let text = part["text"].as_str().unwrap_or_default();
            let before_picture = parts.get(index + 1).is_some_and(is_picture);
            let after_picture = index > 0 && is_picture(&parts[index - 1]);
            if is_picture(part) {
                turn.attached.push(part["image_url"].as_str().unwrap_or_default());
            } else if before_picture && text.starts_with("<image ") {
                let path = text.split_once("path=\"").and_then(|(_, rest)| rest.split_once('"'));
                turn.paths.extend(path.map(|(path, _)| path.to_owned()));
            } else if !(after_picture && text.trim() == "</image>") {
                words.push(text);
            }
        }
        words.join("\n").trim().clone_into(&mut turn.prompt);
        turn
    }

    /// Whether the tools have answered already.
    pub fn has_outcome(&self) -> bool {
        self.since.iter().any(|item| is_outcome(item))
    }
}

/// True for a user message in the caller's words; Codex adds context of its own in the same role.
fn is_callers(item: &Value) -> bool {
    const CODEX_OWN: [&str; 8] = [
        "<environment_context",
        "<skill",
        "<user_instructions",
        "<turn_aborted",
        "<agents_md",
        "<agent_md",
        "<recommended",
        "<hook",
    ];
    let message = item["type"].as_str().is_none_or(|kind| kind == "message");
    let text = texts(&item["content"]);
    message
        && item["role"] == "user"
        && !CODEX_OWN.iter().any(|tag| text.trim_start().starts_with(tag))
}

fn is_picture(part: &Value) -> bool {
    part["type"] == "input_image"
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A string, or the texts of a list of parts.
fn texts(value: &Value) -> String {
    value.as_str().map_or_else(
        || {
            list(value)
                .iter()
                .filter_map(|part| part["text"].as_str())
                .collect::<Vec<_>>()
                .join(" ")
        },
        str::to_owned,
    )
}

/// In which dialect the request offers an image tool.
pub fn offered_tool(body: &Value) -> Option<Tool> {
    let more = list(&body["input"]).iter().filter(|item| item["type"] == "additional_tools");
    let lists = std::iter::once(&body["tools"]).chain(more.map(|item| &item["tools"]));
    let mut found = Vec::new();
    for tools in lists {
        find_tools(list(tools), None, &mut found);
    }
    [Tool::Function, Tool::Code, Tool::Hosted].into_iter().find(|tool| found.contains(tool))
}

/// Tools may lie in namespaces.
fn find_tools(tools: &[Value], namespace: Option<&str>, found: &mut Vec<Tool>) {
    for tool in tools {
        if tool["type"] == "namespace" {
            find_tools(list(&tool["tools"]), tool["name"].as_str(), found);
        } else if tool["type"] == "image_generation" {
            found.push(Tool::Hosted);
        } else if namespace == Some("image_gen") && tool["name"] == "imagegen" {
            found.push(Tool::Function);
        } else if tool["name"] == "exec"
            && texts(&tool["description"]).contains("image_gen__imagegen")
        {
            found.push(Tool::Code);
        }
    }
}

/// The output items of one answer. `picture` makes one as base64 (the hosted dialect only).
pub fn plan(body: &Value, options: &Options, mut picture: impl FnMut() -> String) -> Vec<Value> {
    let turn = Turn::of(body);
    if options.mode == Mode::Refuse {
        return vec![message("Sorry, that is nothing I would draw.")];
    }
    let Some(tool) = options.tool.or_else(|| offered_tool(body)) else {
        return vec![message("I was given no tool that draws.")];
    };
    let mut outputs: Vec<&Value> =
        turn.since.iter().copied().filter(|item| is_outcome(item)).collect();
    if matches!(options.mode, Mode::Shell | Mode::Patch) {
        if outputs.is_empty() {
            return vec![intrusion(body, tool, options)];
        }
        outputs.remove(0);
    }
    if tool == Tool::Code {
        // A script that runs on in the background is asked after.
        if let Some(cell) = outputs.last().and_then(|output| running_cell(output)) {
            let arguments = json!({"cell_id": cell, "yield_time_ms": 120_000});
            return vec![function("wait", None, &arguments)];
        }
        outputs.retain(|output| running_cell(output).is_none());
    }
    let expected = if tool == Tool::Code && !options.serial { 1 } else { options.images };
    if outputs.len() >= expected {
        let failed = outputs.iter().rfind(|output| !carries_picture(output));
        let words = failed.map_or_else(
            || format!("Done: {} picture(s).", options.images),
            |output| {
                let why: String = words_of(output).chars().take(300).collect();
                format!("Drawing failed: {why}")
            },
        );
        return vec![message(&words)];
    }
    let first = outputs.len();
    let count = if options.serial { 1 } else { options.images };
    let calls = (first..first + count).map(|number| arguments(&turn, options, number));
    match tool {
        Tool::Function => {
            calls.map(|args| function("imagegen", Some("image_gen"), &args)).collect()
        }
        Tool::Code if options.mode == Mode::Spin => vec![custom("exec", "while (true) {}")],
        Tool::Code => {
            let lines = calls
                .map(|args| format!("generatedImage(await tools.image_gen__imagegen({args}));\n"));
            let script: String =
                std::iter::once("// @exec: {\"yield_time_ms\": 120000}\n".to_owned())
                    .chain(lines)
                    .collect();
            vec![custom("exec", &script)]
        }
        Tool::Hosted => calls
            .map(|args| {
                json!({"type": "image_generation_call", "id": id("ig_"), "status": "completed",
                       "revised_prompt": args["prompt"], "result": picture()})
            })
            .collect(),
    }
}

/// The arguments of one call of the image tool: the caller's words and pictures, passed on.
fn arguments(turn: &Turn, options: &Options, number: usize) -> Value {
    let mut args = json!({"prompt": if options.images == 1 {
        turn.prompt.clone()
    } else {
        format!("{}\n(picture {} of {})", turn.prompt, number + 1, options.images)
    }});
    if !turn.paths.is_empty() {
        args["referenced_image_paths"] = turn.paths.iter().take(5).cloned().collect();
    } else if !turn.attached.is_empty() {
        args["num_last_images_to_include"] = turn.attached.len().min(5).into();
    }
    if options.picture.alpha {
        args["transparent_background"] = true.into();
    }
    args
}

/// A call that nobody asked for: a shell command or a new file.
fn intrusion(body: &Value, tool: Tool, options: &Options) -> Value {
    const PATCH: &str = "*** Begin Patch\n*** Add File: intruder.txt\n+was here\n*** End Patch";
    let command = &options.shell_command;
    match (tool, options.mode) {
        (Tool::Code, Mode::Patch) => {
            custom("exec", &format!("text(await tools.apply_patch({}));", json!(PATCH)))
        }
        (Tool::Code, _) => {
            let call = json!({"cmd": command});
            custom("exec", &format!("text(await tools.exec_command({call}));"))
        }
        (_, Mode::Patch) => custom("apply_patch", PATCH),
        _ if body["tools"].to_string().contains("\"shell_command\"") => {
            function("shell_command", None, &json!({"command": command}))
        }
        _ => function("exec_command", None, &json!({"cmd": command})),
    }
}

fn is_outcome(item: &Value) -> bool {
    ["function_call_output", "custom_tool_call_output", "image_generation_call"]
        .iter()
        .any(|kind| item["type"] == *kind)
}

fn words_of(output: &Value) -> String {
    let inner = &output["output"];
    texts(if inner["content"].is_null() { inner } else { &inner["content"] })
}

fn carries_picture(output: &Value) -> bool {
    output["type"] == "image_generation_call"
        || output["output"].to_string().contains("input_image")
        || words_of(output).contains("Generated images are saved")
}

fn running_cell(output: &Value) -> Option<String> {
    let words = words_of(output);
    let (_, rest) = words.split_once("running with cell ID ")?;
    rest.split(|c: char| c == '.' || c.is_whitespace()).next().map(str::to_owned)
}

fn message(text: &str) -> Value {
    json!({"type": "message", "id": id("msg_"), "role": "assistant",
           "content": [{"type": "output_text", "text": text, "annotations": []}]})
}

fn function(name: &str, namespace: Option<&str>, arguments: &Value) -> Value {
    let mut call = json!({"type": "function_call", "id": id("fc_"), "call_id": id("call_"),
                          "name": name, "arguments": arguments.to_string()});
    if let Some(namespace) = namespace {
        call["namespace"] = namespace.into();
    }
    call
}

fn custom(name: &str, input: &str) -> Value {
    json!({"type": "custom_tool_call", "id": id("ctc_"), "call_id": id("call_"),
           "status": "completed", "name": name, "input": input})
}

/// A fresh id of the kind that `prefix` says.
pub fn id(prefix: &str) -> String {
    format!("{prefix}{}", Uuid::new_v4().simple())
}
