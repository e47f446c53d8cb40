//! A scripted stand-in of `codex exec --json`, for what the real one does too seldom to test.
//! It makes a picture like the real one unless a marker in the prompt says otherwise:
//!
//! `[fake job=a sleep=0.2 picture=truncated rc=1]`
//!
//! | word | effect |
//! |---|---|
//! | `job=TAG` | written to `payments.log` (a `job=` in a `[stub …]` marker counts as well) |
//! | `once` | the other words count in the first run of a turn alone |
//! | `early=S` | seconds before `thread.started` |
//! | `sleep=S` | seconds between `thread.started` and the payment |
//! | `gate` | before the payment it waits for the file `open` in `CODEX_HOME` |
//! | `later-gate` | the same, but not for the first picture of a job |
//! | `paid=S` | seconds between the payment and the picture |
//! | `slow=S` | half of the picture, then the rest after S seconds |
//! | `after=S` | seconds between the picture and the end |
//! | `picture=KIND` | ok jpeg webp noise; garbage truncated empty bomb huge; symlink fifo folder elsewhere; copy-of-reference same none |
//! | `pictures=N` | how many, each paid |
//! | `say=WORDS` `stderr=WORDS` | what the model, the log says; `+` stands for a blank |
//! | `fail=WORDS` | ends with `turn.failed` and exit code 1 |
//! | `rc=N` | the exit code |
//! | `ignore-term` | SIGTERM does nothing |
//! | `survive` | the end of its parent does nothing |
//! | `spawn-child` `escape-child` | leaves a sleeping grandchild, in the same or an own session |
//! | `stdout-garbage` `big-line=MIB` | what no parser likes, before the first event |
//! | `exit-before-thread` | ends before it names a thread |
//! | `dump` | environment and arguments go to `env.log` and `args.log` of `CODEX_HOME` |
//!
//! A payment is one line in `$CODEX_HOME/payments.log`, appended before the picture is written.
//! Every step is one line in `$CODEX_HOME/runs.log`, see [`Journal`].

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its standard streams are its API")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what breaks here shall say so loudly")]
#![allow(clippy::zombie_processes, reason = "the grandchild is left behind on purpose")]

#[allow(dead_code, reason = "shared with the tests, which use the rest")]
mod pictures;

use std::{
    env, fs,
    io::{Read as _, Write as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread::sleep,
    time::Duration,
};

use image::ImageFormat;
use serde_json::{Value, json};

/// Far longer than any test; a leaked process still ends some day.
const LONG: Duration = Duration::from_mins(10);

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("--version") => println!("codex-cli 0.169.0"),
        Some("login") => println!("Logged in using ChatGPT"),
        Some("sleep") => {
            if args.len() > 1 {
                rustix::process::setsid().unwrap();
            }
            sleep(LONG);
        }
        Some("exec") => return exec(&args),
        _ => {
            eprintln!("the fake Codex speaks `exec` only, not {args:?}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn exec(args: &[String]) -> ExitCode {
    // Like the real one: standard input is read to its end whatever the arguments say.
    let mut prompt = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut prompt);
    let mut prompt = String::from_utf8_lossy(&prompt).into_owned();
    let last = args.last().unwrap();
    if last != "-" {
        prompt.clone_from(last);
    }
    let home = PathBuf::from(env::var_os("CODEX_HOME").unwrap());
    let mut journal = Journal::of(&home);
    let mut script = Script::of(&prompt);
    if script.has("once") && journal.earlier().iter().any(|line| line.what == "begin") {
        script = Script(Vec::new());
    }
    journal.note("begin", "-");
    if script.has("dump") {
        dump(&home, args);
    }
    if script.has("ignore-term") {
        ignore_term();
    }
    if script.has("survive") {
        rustix::process::set_parent_process_death_signal(None).unwrap();
    }
    for (word, session) in [("spawn-child", &[][..]), ("escape-child", &["session"][..])] {
        if script.has(word) {
            // It inherits the output pipes, so whoever waits for their end waits for it.
            Command::new(env::current_exe().unwrap()).arg("sleep").args(session).spawn().unwrap();
        }
    }
    if script.has("stdout-garbage") {
        std::io::stdout().write_all(b"{\"type\":\n\xff\xfe\0 no JSON\n[1,2]\nnull\n\n").unwrap();
    }
    if let Some(mib) = script.get("big-line") {
        let line = "x".repeat(mib.parse::<usize>().unwrap() << 20);
        event(
            &json!({"type": "item.completed", "item": {"id": "item_0", "type": "reasoning", "text": line}}),
        );
    }
    if script.has("exit-before-thread") {
        return script.code(0);
    }
    script.pause("early");
    let code = draw(&script, &mut journal, &References::of(args), &prompt);
    journal.note("end", "-");
    code
}

fn draw(script: &Script, journal: &mut Journal, references: &References, prompt: &str) -> ExitCode {
    let thread = uuid::Uuid::new_v4().to_string();
    journal.thread.clone_from(&thread);
    event(&json!({"type": "thread.started", "thread_id": thread}));
    journal.note("thread", "-");
    event(&json!({"type": "turn.started"}));
    script.pause("sleep");
    let gated = script.has("gate") || (script.has("later-gate") && !journal.turn.ends_with("/0"));
    while gated && !journal.home.join("open").exists() {
        sleep(Duration::from_millis(5));
    }
    let count = script.get("pictures").map_or(1, |count| count.parse().unwrap());
    let kind = script.get("picture").unwrap_or("ok");
    for number in 0..count {
        if kind != "none" {
            journal.note("pay", &journal.picture_before().unwrap_or_else(|| "-".to_owned()));
            pay(&journal.home, &thread, &Script::job(prompt));
            script.pause("paid");
            save(script, kind, journal, &thread, number, references);
            let whole = ["ok", "jpeg", "webp", "noise", "same", "copy-of-reference"];
            journal.note("saved", if whole.contains(&kind) { "whole" } else { "-" });
        }
    }
    if let Some(words) = script.get("stderr") {
        eprintln!("{}", words.replace('+', " "));
    }
    script.pause("after");
    if let Some(words) = script.get("fail") {
        let words = words.replace('+', " ");
        event(&json!({"type": "turn.failed", "error": {"message": words}}));
        return script.code(1);
    }
    let words = script.get("say").unwrap_or("Done.").replace('+', " ");
    event(
        &json!({"type": "item.completed", "item": {"id": "item_1", "type": "agent_message", "text": words}}),
    );
    event(&json!({"type": "turn.completed", "usage": {"input_tokens": 1, "output_tokens": 1}}));
    script.code(0)
}

/// One line of `--json`. A reader that is gone is not this program's trouble.
fn event(event: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{event}").and_then(|()| out.flush());
}

/// One whole line by one write: many of these programs may append at once.
fn pay(home: &Path, thread: &str, job: &str) {
    let mut log = append(&home.join("payments.log"));
    log.write_all(format!("{thread} {job}\n").as_bytes()).unwrap();
}

fn append(path: &Path) -> fs::File {
    fs::OpenOptions::new().create(true).append(true).open(path).unwrap()
}

fn save(
    script: &Script,
    kind: &str,
    journal: &Journal,
    thread: &str,
    number: usize,
    references: &References,
) {
    let home = &journal.home;
    let owner = if kind == "elsewhere" { "another-thread" } else { thread };
    let folder = home.join("generated_images").join(owner);
    fs::create_dir_all(&folder).unwrap();
    let name = if number == 0 { "x.png".to_owned() } else { format!("x{number}.png") };
    let path = folder.join(name);
    let picture = |format| {
        let kind = pictures::Kind { format, ..pictures::Kind::default() };
        pictures::unique(&kind, thread)
    };
    let bytes = match kind {
        "ok" | "elsewhere" | "symlink" | "huge" => picture(ImageFormat::Png),
        "jpeg" => picture(ImageFormat::Jpeg),
        "webp" => picture(ImageFormat::WebP),
        "noise" => {
            let kind =
                pictures::Kind { size: (1024, 1024), noise: true, ..pictures::Kind::default() };
            pictures::unique(&kind, thread)
        }
        "same" => pictures::of_seed(&pictures::Kind::default(), "same"),
        "truncated" => {
            let mut bytes = picture(ImageFormat::Png);
            bytes.truncate(bytes.len() / 2);
            bytes
        }
        "garbage" => b"these bytes are no picture ".repeat(9),
        "empty" => Vec::new(),
        "bomb" => pictures::lying_png(60_000, 60_000),
        "copy-of-reference" => fs::read(references.0.first().unwrap()).unwrap(),
        "folder" => return fs::create_dir(&path).unwrap(),
        "fifo" => {
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            let kind = rustix::fs::FileType::Fifo;
            return rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
        }
        other => panic!("no picture is called {other:?}"),
    };
    if kind == "symlink" {
        let target = home.join(format!("not-yours-{thread}.png"));
        fs::write(&target, bytes).unwrap();
        return symlink(target, path).unwrap();
    }
    journal.note("drawn", &pictures::sha256(&bytes));
    let mut file = fs::File::create(&path).unwrap();
    let (half, rest) = bytes.split_at(bytes.len() / 2);
    file.write_all(half).unwrap();
    journal.note("half", "-");
    script.pause("slow");
    file.write_all(rest).unwrap();
    if kind == "huge" {
        file.set_len(1 << 30).unwrap(); // 1 GiB, but sparse: costs nothing
    }
}

/// A handler that does nothing stays for good once installed.
fn ignore_term() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let handler = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    drop(handler.unwrap());
}

fn dump(home: &Path, args: &[String]) {
    let mut lines: Vec<String> = env::vars_os()
        .map(|(key, value)| format!("{}={}", key.display(), value.display()))
        .collect();
    lines.sort();
    lines.push(String::new());
    append(&home.join("env.log")).write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
    append(&home.join("args.log")).write_all(format!("{}\n", json!(args)).as_bytes()).unwrap();
}

/// `runs.log`: what this program did and when, so that tests know at which step it was killed. A
/// line is `time pid step turn thread detail`: nanoseconds of the monotonic clock; begin, thread,
/// pay, drawn, half, saved or end; the job and position by the service's folders; `-` for nothing.
struct Journal {
    home: PathBuf,
    turn: String,
    thread: String,
}

/// A line of an earlier run of the same turn.
struct Earlier {
    home: PathBuf,
    what: String,
    thread: String,
    detail: String,
}

impl Journal {
    fn of(home: &Path) -> Self {
        // The working directory is `<job>/<position>-<generation>/cwd`.
        let cwd = env::current_dir().unwrap();
        let mut names = cwd.iter().rev().skip(1).filter_map(|name| name.to_str());
        let attempt = names.next().and_then(|name| name.split_once('-'));
        let job = names.next().filter(|name| name.starts_with("img_"));
        let turn = match (attempt, job) {
            (Some((position, _)), Some(job)) => format!("{job}/{position}"),
            _ => "-".to_owned(),
        };
        Self { home: home.to_owned(), turn, thread: "-".to_owned() }
    }

    fn note(&self, what: &str, detail: &str) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let nanoseconds = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
        let (pid, turn, thread) = (std::process::id(), &self.turn, &self.thread);
        let line = format!("{nanoseconds} {pid} {what} {turn} {thread} {detail}\n");
        append(&self.home.join("runs.log")).write_all(line.as_bytes()).unwrap();
    }

    /// What earlier runs of this turn noted, in this home and in those beside it.
    fn earlier(&self) -> Vec<Earlier> {
        let mut found = Vec::new();
        if self.turn == "-" {
            return found;
        }
        for entry in fs::read_dir(self.home.join("..")).unwrap().flatten() {
            let log = fs::read_to_string(entry.path().join("runs.log")).unwrap_or_default();
            found.extend(log.lines().filter_map(|line| {
                let [_, pid, what, turn, thread, detail] =
                    line.split(' ').collect::<Vec<_>>().try_into().ok()?;
                let mine = pid.parse() == Ok(std::process::id());
                (turn == self.turn && !mine).then(|| Earlier {
                    home: entry.path(),
                    what: what.to_owned(),
                    thread: thread.to_owned(),
                    detail: detail.to_owned(),
                })
            }));
        }
        found
    }

    /// The thread of an earlier run that made a whole picture for this turn, whether the service
    /// left the picture there or not: to pay now would be to pay twice.
    fn picture_before(&self) -> Option<String> {
        let is_picture = |path: PathBuf| {
            fs::read(path).is_ok_and(|bytes| image::load_from_memory(&bytes).is_ok())
        };
        let earlier = self.earlier().into_iter().find(|line| {
            let folder = line.home.join("generated_images").join(&line.thread);
            let files = fs::read_dir(folder).into_iter().flatten().flatten();
            (line.what == "saved" && line.detail == "whole")
                || (line.what == "pay" && files.into_iter().any(|file| is_picture(file.path())))
        });
        earlier.map(|line| line.thread)
    }
}

/// The words of the marker.
struct Script(Vec<String>);

impl Script {
    fn of(prompt: &str) -> Self {
        let inner = prompt.split_once("[fake ").and_then(|(_, rest)| rest.split_once(']'));
        let words = inner.map_or("", |(words, _)| words).split_whitespace();
        Self(words.map(str::to_owned).collect())
    }

    /// The first `job=` in any marker.
    fn job(prompt: &str) -> String {
        let rest = prompt.split_once("job=").map_or("", |(_, rest)| rest);
        let end = rest.find(|c: char| c == ']' || c.is_whitespace()).unwrap_or(rest.len());
        if end == 0 { "-".to_owned() } else { rest[..end].to_owned() }
    }

    fn has(&self, word: &str) -> bool {
        self.0.iter().any(|known| known == word)
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    fn pause(&self, key: &str) {
        if let Some(seconds) = self.get(key) {
            sleep(Duration::from_secs_f64(seconds.parse().unwrap()));
        }
    }

    fn code(&self, otherwise: u8) -> ExitCode {
        ExitCode::from(self.get("rc").map_or(otherwise, |code| code.parse().unwrap()))
    }
}

/// The files of `-i` and `--image`, which take several values and split on commas.
struct References(Vec<PathBuf>);

impl References {
    fn of(args: &[String]) -> Self {
        let mut found = Vec::new();
        let mut taking = false;
        for arg in &args[..args.len() - 1] {
            if let Some(joined) = arg.strip_prefix("--image=") {
                found.extend(joined.split(',').map(PathBuf::from));
            } else if arg.starts_with('-') {
                taking = arg == "-i" || arg == "--image";
            } else if taking {
                found.extend(arg.split(',').map(PathBuf::from));
            }
        }
        Self(found)
    }
}
