//! The real Codex CLI, pinned in `tests/codex/package.json`.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};

/// The native binary (the npm wrapper needs Node and does not pass signals on).
/// `TEST_CODEX_BIN` names another one, for trying other versions.
pub fn codex_binary() -> PathBuf {
    if let Some(other) = std::env::var_os("TEST_CODEX_BIN") {
        return other.into();
    }
    let (package, triple) = match std::env::consts::ARCH {
        "x86_64" => ("codex-linux-x64", "x86_64-unknown-linux-musl"),
        "aarch64" => ("codex-linux-arm64", "aarch64-unknown-linux-musl"),
        other => panic!("Codex is not pinned for {other}"),
    };
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/codex/node_modules");
    let found = modules.join(format!("@openai/{package}/vendor/{triple}/bin/codex"));
    assert!(found.is_file(), "the real Codex is not installed: run tests/run once");
    found
}

/// The flags that leave Codex the image tool and hardly anything else.
pub const LEAN: [&str; 14] = [
    "features.shell_tool=false",
    "features.unified_exec=false",
    "features.apps=false",
    "features.plugins=false",
    "features.remote_plugin=false",
    "features.view_image=false",
    "features.goals=false",
    "features.hooks=false",
    "features.tool_suggest=false",
    "features.skill_search=false",
    "features.shell_snapshot=false",
    "features.unbounded_connection_retries=false",
    "web_search=\"disabled\"",
    "agents.enabled=false",
];

/// `codex exec` with [`LEAN`] in `home`, before its prompt; nothing of this process's environment.
pub fn exec(home: &Path, workdir: &Path, env: &[(String, String)]) -> Command {
    let mut command = lean("exec", home, workdir, env);
    command.stdin(Stdio::null());
    command.args(["--json", "--skip-git-repo-check", "--ephemeral", "-s", "read-only"]);
    command
}

fn lean(subcommand: &str, home: &Path, workdir: &Path, env: &[(String, String)]) -> Command {
    let mut command = Command::new(codex_binary());
    command.env_clear().env("CODEX_HOME", home).env("HOME", home).envs(env.iter().cloned());
    command.current_dir(workdir).arg(subcommand);
    for setting in LEAN {
        command.args(["-c", setting]);
    }
    command
}

/// What a finished `codex exec` left.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// The events of `--json`.
    pub events: Vec<Value>,
    /// Standard error.
    pub stderr: String,
    /// The files of the run's own thread.
    pub files: Vec<PathBuf>,
}

impl Outcome {
    /// Runs `command` to its end and looks into `home` for what it made.
    pub fn of(mut command: Command, home: &Path) -> Self {
        let output = command.output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let events: Vec<Value> =
            stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let thread = events.iter().find_map(|event| event["thread_id"].as_str());
        let folder = thread.map(|thread| home.join("generated_images").join(thread));
        let files = folder
            .and_then(|folder| fs::read_dir(folder).ok())
            .map_or_else(Vec::new, |entries| entries.map(|entry| entry.unwrap().path()).collect());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { code: output.status.code(), events, stderr, files }
    }

    /// What `turn.failed` said.
    pub fn failure(&self) -> Option<&str> {
        let failed = self.events.iter().find(|event| event["type"] == "turn.failed")?;
        failed["error"]["message"].as_str()
    }

    /// The last words of the model.
    pub fn answer(&self) -> Option<&str> {
        let items = self.events.iter().rev().map(|event| &event["item"]);
        items.into_iter().find(|item| item["type"] == "agent_message")?["text"].as_str()
    }
}

/// A `codex app-server`, asked directly; it ends with this value.
pub struct AppServer {
    child: Child,
    stdout: BufReader<ChildStdout>,
    asked: u64,
    /// Notifications that came while an answer was awaited.
    early: Vec<Value>,
}

impl AppServer {
    /// Starts one in `home` and introduces itself.
    pub fn start(home: &Path, workdir: &Path, env: &[(String, String)]) -> Self {
        let mut command = lean("app-server", home, workdir, env);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut server = Self { child, stdout, asked: 0, early: Vec::new() };
        let info = json!({"clientInfo": {"name": "test", "title": "test", "version": "1"}});
        server.ask("initialize", &info);
        server.write(&json!({"method": "initialized"}));
        server
    }

    /// The result of `method`; panics when it is an error.
    pub fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.asked += 1;
        let id = self.asked;
        self.write(&json!({"id": id, "method": method, "params": params}));
        loop {
            let mut said = self.read();
            if said["id"] == id && said["method"].is_null() {
                assert!(said["error"].is_null(), "{method}: {said}");
                return said["result"].take();
            }
            self.early.push(said);
        }
    }

    /// The parameters of the next notification that `wanted` accepts; others are skipped.
    pub fn wait(&mut self, method: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let early = (!self.early.is_empty()).then(|| self.early.remove(0));
            let mut said = early.unwrap_or_else(|| self.read());
            if said["method"] == method && wanted(&said["params"]) {
                return said["params"].take();
            }
        }
    }

    fn write(&mut self, message: &Value) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{message}").unwrap();
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        assert!(self.stdout.read_line(&mut line).unwrap() > 0, "the app-server ended");
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for AppServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
