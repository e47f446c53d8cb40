//! Promise: Codex runs with what drawing needs and nothing else: no program of the login's own
//! settings starts, no tool but the image tool works, its environment is the documented list, and
//! no secret of the service or the login turns up where it does not belong.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use support::{
    Backend, HomeOptions, Lab, Setup, codex_binary, codex_home, fake, home::write_login, lab, rows,
    temp_dir, wait_for, write_program,
};

/// What stands in every text that must not reach the model.
const PLANTED: &str = "PLANTED-TEXT";

// What a login's owner may have set up.

/// Programs and texts in a login's home and above the working directory.
struct Plants {
    /// Each program that starts leaves a file here.
    started: PathBuf,
    program: PathBuf,
}

impl Plants {
    /// Writes the program; `folder` exists.
    fn new(folder: &Path) -> Self {
        let started = folder.join("started");
        fs::create_dir(&started).unwrap();
        let program = folder.join("planted");
        let script = format!("#!/bin/sh\n: > '{}'/\"$1\"\n", started.display());
        write_program(&program, &script);
        Self { started, program }
    }

    fn started(&self) -> Vec<String> {
        lab::names(&self.started)
    }

    fn hook(&self, name: &str) -> Value {
        json!([{"hooks": [{"type": "command", "command": format!("'{}' {name}", self.program.display())}]}])
    }

    /// A login whose config.toml starts programs and changes what the model is told.
    fn login(&self) -> HomeOptions {
        let program = self.program.display();
        let config = format!(
            "notify = [\"{program}\", \"notify\"]\n\
             developer_instructions = \"{PLANTED} developer\"\n\
             sandbox_mode = \"danger-full-access\"\n\
             model_provider = \"planted\"\n"
        );
        let tables = format!(
            "shell_tool = true\n\
             [mcp_servers.planted]\ncommand = \"{program}\"\nargs = [\"mcp\"]\n\
             [shell_environment_policy]\ninherit = \"all\"\n\
             [[hooks.SessionStart]]\n[[hooks.SessionStart.hooks]]\ntype = \"command\"\n\
             command = \"'{program}' hook-of-config\"\n\
             [[hooks.UserPromptSubmit]]\n[[hooks.UserPromptSubmit.hooks]]\ntype = \"command\"\n\
             command = \"'{program}' hook-at-prompt\"\n"
        );
        HomeOptions { config: vec![config], features: vec![tables], ..HomeOptions::default() }
    }

    /// What lies beside config.toml, in the user's home, and in a folder above the working directory.
    fn scatter(&self, home: &Path, user: &Path, above: &Path) {
        let hooks = json!({"hooks": {"SessionStart": self.hook("hook-of-json")}});
        fs::write(home.join("hooks.json"), hooks.to_string()).unwrap();
        for (name, skills) in
            [("planted", home.join("skills")), ("sown", user.join(".agents/skills"))]
        {
            fs::create_dir_all(skills.join(name)).unwrap();
            let head = format!("---\nname: {name}\ndescription: {PLANTED} skill\n---\n");
            let text = format!("{head}{PLANTED} text of {name}\n");
            fs::write(skills.join(name).join("SKILL.md"), text).unwrap();
        }
        fs::create_dir_all(home.join("rules")).unwrap();
        let rule = "prefix_rule(pattern = [\"touch\"], decision = \"allow\")\n";
        fs::write(home.join("rules/default.rules"), rule).unwrap();
        let project = format!(
            "developer_instructions = \"{PLANTED} project\"\n\
            [mcp_servers.project]\ncommand = \"{}\"\nargs = [\"project-mcp\"]\n",
            self.program.display()
        );
        fs::create_dir_all(above.join(".codex")).unwrap();
        fs::write(above.join(".codex/config.toml"), project).unwrap();
        fs::create_dir_all(above.join(".git/objects")).unwrap();
        fs::create_dir_all(above.join(".git/refs")).unwrap();
        fs::write(above.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
        for folder in [home, above] {
            fs::write(folder.join("AGENTS.md"), format!("{PLANTED} {}", folder.display())).unwrap();
        }
    }
}

/// The provider that the login chooses: the stand-in again, with a key and headers of its own.
fn provider(backend: &Backend) -> String {
    format!(
        "[model_providers.planted]\nname = \"OpenAI\"\nwire_api = \"responses\"\n\
         base_url = \"http://localhost:{}/backend-api/codex\"\nrequires_openai_auth = true\n\
         supports_websockets = false\nenv_key = \"PLANTED_KEY\"\n\
         http_headers = {{ x-planted = \"{PLANTED} header\" }}\n",
        backend.port()
    )
}

/// Outside of the cage the plants do what they were planted for; else the test below proves nothing.
#[test]
fn without_the_cage_the_plants_work() {
    let backend = Backend::start();
    let dir = temp_dir();
    let plants = Plants::new(dir.path());
    let mut login = plants.login();
    // With a key of its own the provider would not be asked for pictures.
    login.config[0] = login.config[0].replace("model_provider = \"planted\"\n", "");
    let above = dir.path().join("above");
    let (home, user, work) =
        (dir.path().join("login"), dir.path().join("user"), above.join("work"));
    for folder in [&user, &work] {
        fs::create_dir_all(folder).unwrap();
    }
    codex_home(&home, &backend, &login);
    plants.scatter(&home, &user, &above);
    let trust =
        |folder: &Path| format!("[projects.\"{}\"]\ntrust_level = \"trusted\"\n", folder.display());
    let trust = trust(&above) + &trust(&work);
    let config = fs::read_to_string(home.join("config.toml")).unwrap();
    fs::write(home.join("config.toml"), config + &trust).unwrap();
    let output = Command::new(codex_binary())
        .env_clear()
        .envs(backend.env())
        .env("CODEX_HOME", &home)
        .env("HOME", &user)
        .env("PATH", "/usr/bin:/bin")
        .current_dir(&work)
        .stdin(Stdio::null())
        .args(["exec", "--json", "--skip-git-repo-check", "--dangerously-bypass-hook-trust", "--"])
        .arg("$planted $sown a kite")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    wait_for("the notify program", || {
        plants.started().contains(&"notify".to_owned()).then_some(())
    });
    let all = ["hook-at-prompt", "hook-of-config", "hook-of-json", "mcp", "notify", "project-mcp"];
    assert_eq!(plants.started(), all, "{output:?}");
    let turn = backend.turns()[0].to_string();
    for text in [
        "text of planted",
        "text of sown",
        "project",
        home.to_str().unwrap(),
        above.to_str().unwrap(),
    ] {
        assert!(turn.contains(&format!("{PLANTED} {text}")), "{text}: {said}\n{turn}");
    }
}

#[test]
fn in_the_cage_no_plant_works() {
    let backend = Backend::start();
    let setup = Setup::real(&backend);
    let plants = Plants::new(&setup.path(""));
    let mut login = plants.login();
    login.features.push(provider(&backend));
    let state = setup.path("state");
    let trust = format!("[projects.\"{}\"]\ntrust_level = \"trusted\"\n", state.display());
    login.features.push(trust);
    let home = codex_home(&setup.path("codex"), &backend, &login);
    plants.scatter(&home, &setup.path("home"), &state);
    let before = fs::read_to_string(home.join("config.toml")).unwrap();
    let service = setup.set("PLANTED_KEY", "planted-secret").start();
    let lab = Lab { service, backend };

    let seen = Seen::during(&lab, "$planted $sown a kite");
    assert!(seen.args.iter().any(|arg| arg == "model_provider=\"planted\""), "{:?}", seen.args);
    for arg in &seen.args {
        for absent in [PLANTED, "env_key", "x-planted", "mcp", "danger", "developer_instructions"] {
            assert!(!arg.contains(absent), "{absent}: {arg}");
        }
    }
    assert!(!seen.env.contains_key("PLANTED_KEY"), "{:?}", seen.env);
    let turns = lab.backend.turns();
    assert!(!turns.is_empty(), "the provider that the login chose was asked");
    for turn in turns {
        // Codex has no switch for the AGENTS.md of the home itself, so the log warns of it.
        let text = turn.to_string().replace(&format!("{PLANTED} {}", home.display()), "");
        let at = text.find(PLANTED).map(|at| &text[at..(at + 100).min(text.len())]);
        assert_eq!(at, None);
    }
    lab.service.wait_for_log("AGENTS.md");
    assert_eq!(plants.started(), Vec::<String>::new());
    assert_eq!(fs::read_to_string(home.join("config.toml")).unwrap(), before, "left as it was");
}

#[test]
fn a_profile_of_the_login_is_not_used() {
    let login = HomeOptions { config: vec!["profile = \"planted\"".into()], ..Default::default() };
    let lab = Lab::with_login(&login, |setup| {
        let profile = format!("model = \"gpt-planted\"\ndeveloper_instructions = \"{PLANTED}\"\n");
        fs::write(setup.path("codex/planted.config.toml"), profile).unwrap();
        setup
    });
    draw(&lab, "a kite");
    let turn = lab.backend.turns()[0].to_string();
    assert!(!turn.contains(PLANTED) && !turn.contains("gpt-planted"));
}

// What the model may try.

/// With the tools that Codex has by itself, the commands of the tests below do run.
#[test]
fn without_the_cage_intrusions_work() {
    for mode in ["shell", "patch"] {
        let (backend, dir) = (Backend::start(), temp_dir());
        let (home, work) = (dir.path().join("login"), dir.path().join("work"));
        codex_home(&home, &backend, &HomeOptions::default());
        fs::create_dir(&work).unwrap();
        let output = Command::new(codex_binary())
            .env_clear()
            .envs(backend.env())
            .envs([("CODEX_HOME", &*home), ("HOME", &*home), ("PATH", Path::new("/usr/bin:/bin"))])
            .current_dir(&work)
            .stdin(Stdio::null())
            .args(["exec", "--json", "--skip-git-repo-check", "-s", "danger-full-access", "--"])
            .arg(format!("a kite [stub mode={mode}]"))
            .output()
            .unwrap();
        assert_eq!(lab::names(&work), ["intruder.txt"], "{mode}: {output:?}");
    }
}

#[test]
fn no_command_runs_and_no_file_is_written() {
    for model in ["", "gpt-5.5"] {
        let lab = Lab::with(|setup| setup.set("CODEX_MODEL", model));
        let folder = lab.service.path("");
        let outside = folder.join("outside.txt");
        let stolen = folder.join("stolen.txt");
        lab.backend.set_shell_command(&format!(
            "touch intruder.txt '{}'; cat '{}' > '{}'; echo done",
            outside.display(),
            lab.service.codex_home().join("auth.json").display(),
            stolen.display(),
        ));
        for mode in ["shell", "patch"] {
            lab.backend.reset_counts();
            lab.backend.hold_images();
            let job = lab.service.submit(&format!("a kite [stub mode={mode}]"));
            // The picture is asked for after the intrusion was tried.
            lab.backend.wait_for_images(1);
            let files = all_files(&folder);
            let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
            let bad = ["intruder.txt", "outside.txt", "stolen.txt"];
            let found: Vec<_> =
                files.iter().filter(|path| bad.contains(&name(path).as_str())).collect();
            assert!(found.is_empty(), "{mode} {model}: {found:?}");
            lab.backend.release_images();
            assert_eq!(lab.service.wait_job(&job)["status"], "succeeded");
            assert_tried(&lab, mode);
        }
        assert!(!Path::new("intruder.txt").exists() && !outside.exists() && !stolen.exists());
    }
}

/// The model did try, was told that it cannot, and saw nothing of the login.
fn assert_tried(lab: &Lab, mode: &str) {
    let turns = lab.backend.turns();
    let outputs: Vec<String> = turns
        .iter()
        .flat_map(|turn| turn["input"].as_array().unwrap())
        .filter(|item| item["type"].as_str().is_some_and(|kind| kind.ends_with("_call_output")))
        .map(|item| item["output"].to_string())
        .collect();
    let refused = ["unsupported call", "not a function", "rejected"];
    assert!(refused.iter().any(|words| outputs[0].contains(words)), "{mode}: {outputs:?}");
    let token = secrets_of(&lab.service.codex_home()).remove(0);
    assert!(!turns.iter().any(|turn| turn.to_string().contains(&token)));
}

// What Codex is given.

/// What the running Codex looks like from outside.
struct Seen {
    pid: i32,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    cwd: PathBuf,
    /// Its open files, while the picture is awaited.
    files: Vec<PathBuf>,
    group: i32,
    limits: String,
    /// The environments of everything it started.
    all_env: String,
    job: String,
}

impl Seen {
    /// Looks while the picture of `prompt` is awaited, then lets it come.
    fn during(lab: &Lab, prompt: &str) -> Self {
        lab.backend.hold_images();
        let before = lab.backend.image_requests().len();
        let job = lab.service.submit(prompt);
        lab.backend.wait_for_images(before + 1);
        let native = fs::canonicalize(codex_binary()).unwrap();
        let running = lab.service.orphans();
        let exe = |pid: &&i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|e| e == native);
        let pid = *running.iter().find(exe).unwrap();
        let of = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
        let seen = Self {
            pid,
            args: strings(&of("cmdline")),
            env: strings(&of("environ"))
                .into_iter()
                .map(|pair| pair.split_once('=').map(|(k, v)| (k.into(), v.into())).unwrap())
                .collect(),
            cwd: fs::read_link(of("cwd")).unwrap(),
            files: fs::read_dir(of("fd"))
                .unwrap()
                .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
                .collect(),
            group: process_group(pid),
            limits: fs::read_to_string(of("limits")).unwrap(),
            all_env: running
                .iter()
                .flat_map(|pid| strings(Path::new(&format!("/proc/{pid}/environ"))))
                .collect(),
            job,
        };
        let mode = fs::metadata(&seen.cwd).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "the folder is nobody else's");
        lab.backend.release_images();
        assert_eq!(lab.service.wait_job(&seen.job)["status"], "succeeded");
        seen
    }
}

/// The texts of a file of `/proc` that ends each by a NUL.
fn strings(path: &Path) -> Vec<String> {
    let raw = fs::read(path).unwrap_or_default();
    let texts = raw.split(|byte| *byte == 0).filter(|text| !text.is_empty());
    texts.map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

fn process_group(pid: i32) -> i32 {
    let pid = rustix::process::Pid::from_raw(pid);
    rustix::process::getpgid(pid).unwrap().as_raw_nonzero().get()
}

#[test]
fn its_environment_is_the_documented_list() {
    let secrets = [
        ("OPENAI_API_KEY", "sk-planted-openai-b81d4e77c2"),
        ("CODEX_API_KEY", "sk-planted-codex-5a90fe316d"),
        ("CODEX_ACCESS_TOKEN", "at-planted"),
        ("ADMIN_PASSWORD", "planted-password-7f3c9a51e06b"),
        ("ADMIN_SESSION_SECRET", "planted-session-secret"),
        ("BEARER_KEY", "cimg_planted"),
        ("AWS_SECRET_ACCESS_KEY", "planted-aws"),
        ("SSH_AUTH_SOCK", "/planted/agent"),
        ("RUST_LOG", "trace"),
        ("CODEX_SQLITE_HOME", "/planted/sqlite"),
        ("XDG_CONFIG_HOME", "/planted/config"),
    ];
    let passed = [
        ("TZ", "Europe/Berlin"),
        ("LANG", "C.UTF-8"),
        ("NO_PROXY", "127.0.0.1,localhost"),
        ("no_proxy", "127.0.0.1,localhost"),
        // A proxy that is not there, for names that are not asked for.
        ("HTTPS_PROXY", "http://127.0.0.1:9"),
        ("https_proxy", "http://127.0.0.1:9"),
        ("HTTP_PROXY", "http://127.0.0.1:9"),
        ("http_proxy", "http://127.0.0.1:9"),
        ("ALL_PROXY", "http://127.0.0.1:9"),
        ("all_proxy", "http://127.0.0.1:9"),
        ("SSL_CERT_DIR", "/etc/ssl/certs"),
    ];
    let lab = Lab::with(|setup| {
        secrets.iter().chain(&passed).fold(setup, |setup, (key, value)| setup.set(key, *value))
    });
    let seen = Seen::during(&lab, "a kite");
    let mut expected: BTreeMap<String, String> =
        passed.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    expected.extend(lab.backend.env());
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    expected.insert("HOME".into(), path(&lab.service.path("home")));
    expected.insert("CODEX_HOME".into(), path(&lab.service.codex_home()));
    expected.insert("PATH".into(), path(codex_binary().parent().unwrap()));
    assert_eq!(seen.env, expected);
    for (key, secret) in secrets {
        assert!(!seen.all_env.contains(secret), "{key} is in the environment of a child of Codex");
        assert!(!seen.args.concat().contains(secret), "{key} is in the arguments");
    }
}

/// As with the original, which put `.env` into its own environment.
#[test]
fn what_it_may_inherit_may_stand_in_dotenv() {
    let setup = Setup::fake().set("NO_PROXY", "of.the.environment").set("LANG", "");
    let dotenv = "HTTPS_PROXY=http://127.0.0.1:9\nNO_PROXY=of.the.file\nLANG=C.UTF-8\n\
                  OPENAI_API_KEY=sk-planted-openai\nPLANTED=1\nHOME=/planted\n";
    fs::write(setup.path("cwd/.env"), dotenv).unwrap();
    let service = setup.start();
    service.generate("a kite [fake dump]").expect(200);
    let path = |path: PathBuf| path.to_str().unwrap().to_owned();
    let mut expected = vec![
        format!("CODEX_HOME={}", path(service.codex_home())),
        format!("HOME={}", path(service.path("home"))),
        "HTTPS_PROXY=http://127.0.0.1:9".to_owned(),
        "NO_PROXY=of.the.environment".to_owned(),
    ];
    let mut env = fake::environment(&service.codex_home());
    env.retain(|pair| !pair.starts_with("PATH="));
    expected.sort();
    assert_eq!(env, expected);
}

#[test]
fn its_arguments_hold_no_prompt_and_no_secret() {
    let lab = Lab::new();
    let prompt = "a heliotrope kite over Valparaíso";
    let seen = Seen::during(&lab, prompt);
    let args = seen.args.concat();
    assert!(!args.contains("heliotrope") && !args.contains("Make exactly one image"), "{args}");
    assert!(!seen.all_env.contains("heliotrope"));
    for secret in secrets_of(&lab.service.codex_home()) {
        assert!(!args.contains(&secret));
    }
    assert!(!args.contains(lab.service.default_key()));
    assert!(!args.contains("dangerously") && !args.contains("--yolo"), "{args}");
    let follows = |option: &str| {
        let at = seen.args.iter().position(|arg| arg == option).unwrap();
        seen.args[at + 1].as_str()
    };
    assert_eq!((seen.args[1].as_str(), follows("-s")), ("exec", "read-only"));
    assert_eq!(Path::new(follows("-C")), seen.cwd);
    for flag in ["--json", "--ephemeral", "--ignore-user-config", "--ignore-rules"] {
        assert!(seen.args.iter().any(|arg| arg == flag), "{flag}: {args}");
    }
    assert_eq!(seen.args.last().unwrap(), "-", "the prompt comes by standard input");
}

#[test]
fn it_has_a_place_and_a_process_group_of_its_own() {
    let lab = Lab::new();
    let seen = Seen::during(&lab, "a kite");
    assert_eq!(seen.group, seen.pid, "the leader of its group");
    assert_ne!(seen.group, process_group(lab.service.pid()));
    let own = lab.service.state_dir().join("work").join(&seen.job);
    assert!(seen.cwd.starts_with(&own), "{}", seen.cwd.display());
    let core = seen.limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "a core would hold the tokens");

    // Of the service's files it has its own prompt, its own output and the login's lock.
    let service = lab.service.path("");
    let mut ours: Vec<_> = seen
        .files
        .iter()
        .filter(|file| file.starts_with(&service) && !file.starts_with(&own))
        .filter(|file| !file.starts_with(lab.service.codex_home()))
        .collect();
    ours.dedup();
    assert!(ours.is_empty(), "{ours:?}");
    let is_prompt = |file: &&PathBuf| file.to_string_lossy().starts_with("/memfd:prompt");
    assert_eq!(seen.files.iter().filter(is_prompt).count(), 1, "{:?}", seen.files);
    // A second job gets another place.
    let next = Seen::during(&lab, "a kite");
    assert!(next.cwd != seen.cwd && !seen.cwd.exists(), "{}", seen.cwd.display());
}

// What may be found where.

#[test]
fn no_secret_and_no_prompt_goes_astray() {
    // Each of these is the last that a login is asked for until its time has come.
    for last in ["image-limit", "usage-limit"] {
        nothing_goes_astray(last);
    }
}

fn nothing_goes_astray(last: &str) {
    let login = HomeOptions { lifetime: -10, ..HomeOptions::default() };
    let lab = Lab::with_login(&login, |setup| {
        setup
            .set("LOG_LEVEL", "debug")
            .set("ADMIN_PASSWORD", "planted-password-7f3c9a51e06b")
            .set("ADMIN_SESSION_SECRET", "planted-session-secret-0123456789")
            .set("OPENAI_API_KEY", "sk-planted-openai-b81d4e77c2")
            .set("CODEX_API_KEY", "sk-planted-codex-5a90fe316d")
            // Without its settings Codex would ask OpenAI itself.
            .set("HTTPS_PROXY", "http://127.0.0.1:9")
            .set("NO_PROXY", "127.0.0.1,localhost")
    });
    let service = &lab.service;
    let mut secrets = secrets_of(&service.codex_home());
    let prompt = |mode: &str| format!("a heliotrope kite [stub mode={mode}]");

    // Well and badly, by every way on which something could be said.
    let mut answers = vec![service.generate(&prompt("ok")).expect(200).text()];
    for mode in ["moderated", "empty", "bad-base64", "refuse", "policy"] {
        let reply = service.generate(&prompt(mode));
        assert!(reply.status >= 400, "{mode}: {reply:?}");
        answers.push(reply.text());
    }
    lab.backend.set("mode=401-once");
    lab.backend.set("mode=401");
    answers.push(service.generate(&prompt("401")).expect(502).text());
    let wrong = format!("{}x", service.default_key());
    let bodies =
        ["{\"prompt\": \"heliotrope", "{\"prompt\": \"heliotrope\", \"size\": \"heliotrope\"}"];
    for (key, body) in [
        (wrong.as_str(), bodies[0]),
        (service.default_key(), bodies[0]),
        (service.default_key(), bodies[1]),
    ] {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let endpoint = service.endpoint();
        let reply =
            endpoint.request("POST", "/v1/images/jobs", &headers, Some(body.as_bytes())).unwrap();
        assert!(reply.status >= 400);
        answers.push(reply.text());
        let path = format!("/v1/images/jobs/{key}?key={key}");
        answers.push(endpoint.request("GET", &path, &headers, None).unwrap().text());
    }
    // Signed in anew, it is used again.
    secrets.extend(secrets_of(&service.codex_home()));
    write_login(&service.codex_home(), &HomeOptions::default());
    lab.backend.set("mode=ok");
    answers.push(service.generate(&prompt("ok")).expect(200).text());
    let config = service.codex_home().join("config.toml");
    if last == "image-limit" {
        let good = fs::read(&config).unwrap();
        fs::write(&config, "token = \"sk-planted-config-c4e2097b8f").unwrap();
        answers.push(service.generate(&prompt("ok")).text());
        fs::write(&config, good).unwrap();
    }
    answers.push(service.generate(&prompt(last)).expect(429).text());
    lab.assert_tidy();

    secrets.extend(secrets_of(&service.codex_home()));
    secrets.extend(
        [
            "planted-password-7f3c9a51e06b",
            "planted-session-secret-0123456789",
            "sk-planted-openai-b81d4e77c2",
            "sk-planted-codex-5a90fe316d",
            "sk-planted-config-c4e2097b8f",
            service.default_key(),
        ]
        .map(str::to_owned),
    );
    secrets.sort();
    secrets.dedup();
    assert!(secrets.len() >= 11, "tokens before and after the refresh");
    let log = service.log();
    assert!(log.contains("DEBUG") && log.contains("moderation_blocked"), "the log says something");
    let rows = rows::everything(service);
    for secret in &secrets {
        // A part is as bad: the middle is in no handle and no header.
        let secret = &secret[secret.len() / 3..secret.len() / 3 * 2];
        assert!(!log.contains(secret), "{secret} is in the log");
        let found = rows.iter().find(|(_, value)| value.contains(secret));
        assert_eq!(found, None, "{secret} is in the database");
        let found = answers.iter().find(|answer| answer.contains(secret));
        assert_eq!(found, None, "{secret} is in an answer");
        for path in all_files(&service.path("")) {
            let allowed = path.ends_with("codex/auth.json") || path.ends_with("codex/config.toml");
            assert!(allowed || !holds(&path, secret), "{secret} is in {}", path.display());
        }
    }
    assert!(!log.contains("heliotrope"), "a prompt is in the log");
    let answers: Vec<_> = answers.iter().filter(|answer| answer.contains("heliotrope")).collect();
    assert!(answers.is_empty(), "{answers:?}");
    let mut places: Vec<_> = rows
        .iter()
        .filter(|(_, value)| value.contains("heliotrope"))
        .map(|(place, _)| place.as_str())
        .collect();
    places.dedup();
    assert_eq!(places, ["jobs.prompt"]);
    for path in all_files(&service.codex_home()) {
        assert!(!holds(&path, "heliotrope"), "Codex keeps a prompt in {}", path.display());
    }
}

/// The tokens of a login.
fn secrets_of(home: &Path) -> Vec<String> {
    let login: Value = serde_json::from_slice(&fs::read(home.join("auth.json")).unwrap()).unwrap();
    ["access_token", "id_token", "refresh_token"]
        .map(|name| login["tokens"][name].as_str().unwrap().to_owned())
        .into()
}

fn holds(path: &Path, text: &str) -> bool {
    let bytes = fs::read(path).unwrap_or_default();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(all_files(&entry.path()));
        } else if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            // Not what links lead to: Codex links to its own program.
            found.push(entry.path());
        }
    }
    found
}

fn draw(lab: &Lab, prompt: &str) {
    let job = lab.service.submit(prompt);
    assert_eq!(lab.service.wait_job(&job)["status"], "succeeded");
}
