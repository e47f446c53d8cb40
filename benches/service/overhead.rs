//! What a picture costs beyond Codex: a request through the service, from its first byte to its
//! answer, beside the very command that the service starts, from its start to its end. Command
//! line, environment and prompt are taken from a run of the service while it runs.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use super::{
    program,
    stats::{median, ms},
    support::{Backend, Service, Setup, codex_binary, process, wait_for},
    table::Row,
};

const TARGET_MS: f64 = 6.0;
const PAIRS: usize = 21;
const PROMPT: &str = "a kite";
/// Keeps the fake Codex long enough to be looked at.
const LINGER: &str = " [fake sleep=0.5]";

pub fn rows() -> Result<Vec<Row>, String> {
    let mut rows = vec![with_fake()?];
    rows.push(if std::panic::catch_unwind(codex_binary).is_ok() {
        with_real()?
    } else {
        Row::missing("overhead, real Codex", "the pinned Codex is not installed: tests/run does it")
    });
    Ok(rows)
}

fn with_fake() -> Result<Row, String> {
    let service = program(Setup::fake()).start();
    let bare = thread::scope(|scope| {
        let request = scope.spawn(|| generate(&service, &format!("{PROMPT}{LINGER}")));
        let bare = Bare::captured(&service);
        request.join().unwrap();
        bare
    });
    compare(&service, &bare, "overhead, fake Codex")
}

fn with_real() -> Result<Row, String> {
    let backend = Backend::start();
    let service = program(Setup::real(&backend)).start();
    backend.hold_images();
    let bare = thread::scope(|scope| {
        let request = scope.spawn(|| generate(&service, PROMPT));
        backend.wait_for_images(1);
        let bare = Bare::captured(&service);
        backend.release_images();
        request.join().unwrap();
        bare
    });
    compare(&service, &bare, "overhead, real Codex")
}

fn compare(service: &Service, bare: &Bare, what: &str) -> Result<Row, String> {
    for _ in 0..2 {
        generate(service, PROMPT);
        bare.run()?;
    }
    let mut pairs = Vec::new();
    for turn in 0..PAIRS {
        // Either first, in turns: what the first leaves behind (exits, writes) delays the second.
        pairs.push(if turn % 2 == 0 {
            let ours = generate(service, PROMPT);
            (ours, bare.run()?)
        } else {
            let bare = bare.run()?;
            (generate(service, PROMPT), bare)
        });
    }
    let ours = median(pairs.iter().map(|pair| pair.0).collect());
    let alone = median(pairs.iter().map(|pair| pair.1).collect());
    let figure = median(pairs.iter().map(|pair| pair.0 - pair.1).collect());
    let how = format!("median of {PAIRS} pairs; {ours:.1} ms beside {alone:.1} ms for Codex alone");
    Ok(Row::new(what, "<= 6 ms", &format!("{figure:.1} ms"), figure <= TARGET_MS, &how))
}

/// A request to the end of its answer, in milliseconds.
fn generate(service: &Service, prompt: &str) -> f64 {
    service.default_key();
    let begun = Instant::now();
    service.generate(prompt).expect(200);
    ms(begun.elapsed())
}

/// The service's command, run without it.
struct Bare {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    prompt: PathBuf,
    cwd: PathBuf,
    output: PathBuf,
}

impl Bare {
    /// Copies the command that the service runs now.
    fn captured(service: &Service) -> Self {
        let pid = wait_for("Codex at work", || running_exec(service));
        let at = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
        let old = fs::read_link(at("cwd")).unwrap();
        // A folder like the one of a turn, and as deep.
        let cwd = service.state_dir().join("bare/0-1/cwd");
        fs::create_dir_all(&cwd).unwrap();
        let mut words = split(&at("cmdline"));
        words
            .iter_mut()
            .filter(|word| *word == old.as_os_str())
            .for_each(|word| *word = cwd.clone().into());
        let prompt = service.path("bare-prompt");
        let text = fs::read_to_string(at("fd/0")).unwrap();
        fs::write(&prompt, text.replace(LINGER, "")).unwrap();
        let environment = split(&at("environ")).into_iter().map(pair).collect();
        Self {
            program: fs::read_link(at("exe")).unwrap().into(),
            arguments: words.split_off(1),
            environment,
            prompt,
            cwd,
            output: service.path("bare-output"),
        }
    }

    /// From its start to its end, in milliseconds.
    fn run(&self) -> Result<f64, String> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(&self.cwd).env_clear();
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(File::open(&self.prompt).unwrap());
        command.stdout(File::create(&self.output).unwrap()).stderr(Stdio::null());
        let begun = Instant::now();
        let status = command.spawn().and_then(|mut child| child.wait());
        let took = ms(begun.elapsed());
        match status {
            Ok(status) if status.success() => Ok(took),
            other => Err(format!("Codex alone: {other:?}")),
        }
    }
}

fn running_exec(service: &Service) -> Option<i32> {
    let home = service.codex_home();
    process::mentioning(&home).into_iter().find(|pid| {
        // Between fork and exec a child still looks like the service.
        *pid != service.pid() && process::command_line(*pid).contains(" exec ")
    })
}

fn split(path: &Path) -> Vec<OsString> {
    let raw = fs::read(path).unwrap();
    let words = raw.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec()));
    let mut words: Vec<_> = words.collect();
    words.pop(); // behind the last NUL
    words
}

fn pair(word: OsString) -> (OsString, OsString) {
    let mut bytes = word.into_vec();
    let at = bytes.iter().position(|byte| *byte == b'=').unwrap_or(bytes.len());
    let value = bytes.split_off((at + 1).min(bytes.len()));
    bytes.truncate(at);
    (OsString::from_vec(bytes), OsString::from_vec(value))
}
