//! Promise: the stand-in of ChatGPT's backend makes the real Codex do what it was observed to do,
//! in success and in every failure. All other suites that use it stand on this one.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use image::ImageFormat;
use serde_json::{Value, json};
use support::{
    Backend, HomeOptions,
    backend::{Mode, Options, answers::now},
    codex::{self, AppServer, Outcome},
    codex_home, pictures, temp_dir, wait_for,
};

/// A backend and one login of it.
struct Lab {
    backend: Backend,
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        Self::with(&HomeOptions::default())
    }

    fn with(login: &HomeOptions) -> Self {
        let lab = Self { backend: Backend::start(), dir: temp_dir() };
        codex_home(&lab.home(), &lab.backend, login);
        fs::create_dir(lab.workdir()).unwrap();
        lab
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn workdir(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn command(&self, args: &[&str], prompt: &str) -> Command {
        let mut command = codex::exec(&self.home(), &self.workdir(), &self.backend.env());
        command.args(args).args(["--", prompt]);
        command
    }

    fn spawn(&self, prompt: &str) -> Child {
        let mut command = self.command(&[], prompt);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn run(&self, prompt: &str) -> Outcome {
        self.run_with(&[], prompt)
    }

    fn run_with(&self, args: &[&str], prompt: &str) -> Outcome {
        Outcome::of(self.command(args, prompt), &self.home())
    }
}

/// Runs one turn in `mode`, which must end with `code` and without a picture.
fn fails(mode: &str, code: i32) -> Outcome {
    let outcome = Lab::new().run(&format!("a kite [stub mode={mode}]"));
    assert_eq!(outcome.code, Some(code), "{outcome:#?}");
    assert!(outcome.files.is_empty(), "{outcome:#?}");
    assert_eq!(outcome.failure().is_some(), code != 0, "{outcome:#?}");
    outcome
}

/// The same, with a reason in `turn.failed`.
fn fails_saying(mode: &str, reason: &str) {
    let outcome = fails(mode, 1);
    assert!(outcome.failure().is_some_and(|said| said.contains(reason)), "{outcome:#?}");
}

/// The same for failures of the image request, which leave an exit code of 0 and a log line.
fn fails_quietly(mode: &str, reason: &str) {
    let outcome = fails(mode, 0);
    assert!(outcome.stderr.contains(reason), "{outcome:#?}");
}

fn format_of(file: &Path) -> ImageFormat {
    image::guess_format(&fs::read(file).unwrap()).unwrap()
}

#[test]
fn a_picture_is_made_and_paid_once() {
    let lab = Lab::new();
    let outcome = lab.run("a red kite [stub job=kite size=48x32]");
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    let [file] = outcome.files.as_slice() else { panic!("{outcome:#?}") };
    let bytes = fs::read(file).unwrap();
    let picture = image::load_from_memory(&bytes).unwrap();
    assert_eq!((picture.width(), picture.height()), (48, 32));
    assert_eq!(lab.backend.image_requests_for("kite"), 1);
    assert_eq!(lab.backend.pictures_for("kite"), 1);
    let [request] = lab.backend.image_requests().try_into().unwrap();
    assert_eq!(request.picture, Some(pictures::sha256(&bytes)));
    assert!(request.prompt.contains("a red kite"), "{}", request.prompt);
    assert_eq!(request.background, "opaque");
    assert!(lab.backend.edits().is_empty());
}

#[test]
fn a_model_without_code_mode_calls_the_tool_directly() {
    let lab = Lab::new();
    let outcome = lab.run_with(&["-m", "gpt-5.5"], "[stub images=2] kites");
    assert_eq!((outcome.code, outcome.files.len()), (Some(0), 2), "{outcome:#?}");
    let named_by_call =
        |file: &PathBuf| file.file_name().unwrap().to_string_lossy().starts_with("call_");
    assert!(outcome.files.iter().all(named_by_call), "{outcome:#?}");
}

#[test]
fn several_pictures_are_several_requests() {
    for words in ["images=3", "images=3 serial=1"] {
        let lab = Lab::new();
        let outcome = lab.run(&format!("kites [stub {words}]"));
        assert_eq!((outcome.code, outcome.files.len()), (Some(0), 3), "{outcome:#?}");
        let mut sums: Vec<_> =
            outcome.files.iter().map(|file| pictures::sha256(&fs::read(file).unwrap())).collect();
        sums.sort();
        sums.dedup();
        assert_eq!(sums.len(), 3, "every picture is unlike the others");
        assert_eq!(lab.backend.image_requests().len(), 3);
    }
}

#[test]
fn references_arrive_as_edits_with_their_own_bytes() {
    let lab = Lab::new();
    let mut sums = Vec::new();
    let mut args = Vec::new();
    for (name, format) in [("a.png", ImageFormat::Png), ("b.jpg", ImageFormat::Jpeg)] {
        let kind = pictures::Kind { format, ..pictures::Kind::default() };
        let bytes = pictures::unique(&kind, name);
        let path = lab.dir.path().join(name);
        fs::write(&path, &bytes).unwrap();
        sums.push(pictures::sha256(&bytes));
        args.extend(["-i".to_owned(), path.to_str().unwrap().to_owned()]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = lab.run_with(&args, "make them one [stub job=edit]");
    assert_eq!((outcome.code, outcome.files.len()), (Some(0), 1), "{outcome:#?}");
    let [edit] = lab.backend.edits().try_into().unwrap();
    let seen: Vec<_> = edit.references.iter().map(|reference| reference.sha256.clone()).collect();
    assert_eq!(seen, sums);
    assert_eq!(edit.references[1].mime, "image/jpeg");
    assert!(!edit.prompt.contains("<image"), "{}", edit.prompt);
}

#[test]
fn other_formats_are_saved_under_the_name_of_png() {
    for (name, format) in [("jpeg", ImageFormat::Jpeg), ("webp", ImageFormat::WebP)] {
        let lab = Lab::new();
        let outcome = lab.run(&format!("a kite [stub format={name}]"));
        let [file] = outcome.files.as_slice() else { panic!("{outcome:#?}") };
        assert_eq!(file.extension().unwrap(), "png");
        assert_eq!(format_of(file), format);
    }
}

#[test]
fn noise_is_as_large_as_a_real_picture_and_transparency_comes_through() {
    let lab = Lab::new();
    let outcome = lab.run("a kite [stub noise=1 size=1024x1024]");
    assert!(outcome.files[0].metadata().unwrap().len() > 3_000_000, "{outcome:#?}");
    let lab = Lab::new();
    let outcome = lab.run("a kite [stub transparent=1]");
    assert_eq!(lab.backend.image_requests()[0].background, "transparent");
    let picture = image::open(&outcome.files[0]).unwrap();
    assert!(picture.color().has_alpha());
}

#[test]
fn a_refused_login_is_refreshed_once() {
    let lab = Lab::new();
    let before = fs::read_to_string(lab.home().join("auth.json")).unwrap();
    lab.backend.set("mode=401-once");
    let outcome = lab.run("a kite");
    assert_eq!((outcome.code, outcome.files.len()), (Some(0), 1), "{outcome:#?}");
    assert_eq!(lab.backend.refreshes(), 1);
    assert_ne!(before, fs::read_to_string(lab.home().join("auth.json")).unwrap());
}

#[test]
fn an_expired_login_is_refreshed_and_a_spent_token_is_not() {
    let login = HomeOptions { lifetime: -10, ..HomeOptions::default() };
    let lab = Lab::with(&login);
    let old = fs::read(lab.home().join("auth.json")).unwrap();
    let outcome = lab.run("a kite");
    assert_eq!((outcome.code, outcome.files.len()), (Some(0), 1), "{outcome:#?}");
    assert_eq!((lab.backend.refreshes(), lab.backend.refused_refreshes()), (1, 0));

    fs::write(lab.home().join("auth.json"), old).unwrap();
    let outcome = lab.run("a kite");
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    assert!(outcome.failure().unwrap().contains("already used"), "{outcome:#?}");
    assert_eq!(lab.backend.refreshes(), 1);
    assert!(lab.backend.refused_refreshes() > 0);
}

#[test]
fn a_dead_login_ends_the_turn() {
    let lab = Lab::new();
    lab.backend.set("mode=401");
    let outcome = lab.run("a kite");
    assert_eq!((outcome.code, outcome.files.len()), (Some(1), 0), "{outcome:#?}");
    assert!(outcome.failure().unwrap().contains("log out and sign in again"), "{outcome:#?}");
}

#[test]
fn accounts_can_fare_differently() {
    let lab = Lab::new();
    lab.backend.set_for("acct-test", "mode=moderated");
    assert!(lab.run("a kite").files.is_empty());
    lab.backend.set_for("acct-test", "");
    assert_eq!(lab.run("a kite").files.len(), 1);
}

/// The image item and the end of one turn of the app server, `input` as it takes it.
fn app_turn(server: &mut AppServer, lab: &Lab, input: &Value) -> (Value, Value) {
    let start = json!({"cwd": lab.workdir(), "sandbox": "read-only", "approvalPolicy": "never",
                       "ephemeral": true});
    let thread = server.ask("thread/start", &start)["thread"]["id"].take();
    server.ask("turn/start", &json!({"threadId": thread, "input": input}));
    let is_image = |params: &Value| params["item"]["type"] == "imageGeneration";
    let item = server.wait("item/completed", is_image)["item"].take();
    let end = server.wait("turn/completed", |params| params["threadId"] == thread)["turn"].take();
    (item, end)
}

#[test]
fn the_app_server_draws_and_names_what_failed() {
    let lab = Lab::new();
    let mut server = AppServer::start(&lab.home(), &lab.workdir(), &lab.backend.env());
    let reference = lab.dir.path().join("reference.png");
    let bytes = pictures::unique(&pictures::Kind::default(), "reference");
    fs::write(&reference, &bytes).unwrap();
    let input = json!([{"type": "text", "text": "a kite [stub job=app]"},
                       {"type": "localImage", "path": reference}]);
    let (item, end) = app_turn(&mut server, &lab, &input);
    assert_eq!((&item["status"], &end["status"]), (&json!("completed"), &json!("completed")));
    let saved = fs::read(item["savedPath"].as_str().unwrap()).unwrap();
    let [edit] = lab.backend.edits().try_into().unwrap();
    assert_eq!(edit.picture, Some(pictures::sha256(&saved)));
    assert_eq!(edit.references[0].sha256, pictures::sha256(&bytes));
    assert_eq!(edit.job.as_deref(), Some("app"));

    let input = json!([{"type": "text", "text": "a kite [stub mode=image-limit reset=7200]"}]);
    let (item, end) = app_turn(&mut server, &lab, &input);
    assert_eq!(item["failure"]["type"], "usageLimitExceeded", "{item}");
    assert_eq!(item["failure"]["limitId"], "image_gen", "{item}");
    assert!(item["failure"]["resetsAt"].as_i64() > Some(now() + 7000), "{item}");
    assert_eq!(end["status"], "completed");

    lab.backend.set("used_percent=97 image_percent=98");
    let quota = server.ask("account/rateLimits/read", &Value::Null);
    assert_eq!(quota["rateLimits"]["primary"]["usedPercent"], 97, "{quota}");
    let images = &quota["rateLimitsByLimitId"]["image_gen"];
    assert_eq!(images["primary"]["usedPercent"], 98, "{quota}");
}

#[test]
fn mode_usage_limit() {
    fails_saying("usage-limit", "hit your usage limit");
}

#[test]
fn mode_rate_limit() {
    fails_saying("rate-limit", "429 Too Many Requests");
}

#[test]
fn mode_image_limit() {
    fails_quietly("image-limit", "image generation failed: http 429");
}

#[test]
fn mode_moderated() {
    fails_quietly("moderated", "moderation_blocked");
}

#[test]
fn mode_image_500() {
    fails_quietly("image-500", "image generation failed: http 500");
}

#[test]
fn mode_image_drop() {
    fails_quietly("image-drop", "network error");
}

#[test]
fn mode_empty() {
    fails_quietly("empty", "image generation returned no image data");
}

#[test]
fn mode_bad_base64() {
    let outcome = fails("bad-base64", 0);
    assert!(!outcome.stderr.contains("image generation"), "{outcome:#?}");
}

#[test]
fn mode_refuse() {
    let outcome = fails("refuse", 0);
    assert_eq!(outcome.answer(), Some("Sorry, that is nothing I would draw."));
}

#[test]
fn mode_policy() {
    fails_saying("policy", "is against the usage policies");
}

#[test]
fn mode_drop() {
    fails_saying("drop", "stream disconnected before completion");
}

#[test]
fn mode_drop_once() {
    let lab = Lab::new();
    let outcome = lab.run("a kite [stub mode=drop-once]");
    assert_eq!((outcome.code, outcome.files.len()), (Some(0), 1), "{outcome:#?}");
    let errors = outcome.events.iter().filter(|event| event["type"] == "error").count();
    assert_eq!(errors, 1, "{outcome:#?}");
    assert_eq!(lab.backend.image_requests().len(), 1);
}

#[test]
fn modes_500_and_503() {
    // Codex tries for 25 seconds before it gives up: both at once.
    std::thread::scope(|scope| {
        scope.spawn(|| fails_saying("500", "high demand"));
        scope.spawn(|| fails_saying("503", "503 Service Unavailable"));
    });
}

#[test]
fn mode_garbage_sse() {
    fails_saying("garbage-sse", "stream disconnected before completion");
}

#[test]
fn mode_garbage() {
    let lab = Lab::new();
    let outcome = lab.run("a kite [stub mode=garbage]");
    assert_eq!((outcome.code, outcome.files.len()), (Some(0), 1), "{outcome:#?}");
    assert!(image::guess_format(&fs::read(&outcome.files[0]).unwrap()).is_err());
}

#[test]
fn modes_shell_and_patch_find_no_such_tools() {
    for mode in ["shell", "patch"] {
        for model in [&[][..], &["-m", "gpt-5.5"]] {
            let lab = Lab::new();
            let outcome = lab.run_with(model, &format!("a kite [stub mode={mode}]"));
            assert_eq!((outcome.code, outcome.files.len()), (Some(0), 1), "{outcome:#?}");
            assert!(!lab.workdir().join("intruder.txt").exists());
            let tried = lab.backend.turns().iter().any(|turn| {
                let said = turn["input"].to_string();
                ["exec_command", "rejected", "apply_patch"].iter().any(|word| said.contains(word))
            });
            assert!(tried, "the intrusion was tried");
        }
    }
}

#[test]
fn mode_hang_waits_and_pictures_can_be_held_back() {
    let lab = Lab::new();
    let mut hanging = lab.spawn("a kite [stub mode=hang]");
    wait_for("the turn", || (!lab.backend.turns().is_empty()).then_some(()));
    assert!(hanging.try_wait().unwrap().is_none());
    hanging.kill().unwrap();
    hanging.wait().unwrap();

    lab.backend.hold_images();
    let mut held = lab.spawn("a kite");
    lab.backend.wait_for_images(1);
    assert!(held.try_wait().unwrap().is_none());
    lab.backend.release_images();
    assert!(held.wait().unwrap().success());
    assert_eq!(lab.backend.peak_images(), 1);
}

#[test]
fn every_mode_has_a_name_and_a_typo_is_no_mode() {
    for (name, mode) in Mode::NAMES {
        let mut options = Options::default();
        options.apply_marker(&format!("a kite [stub mode={name} images=2] please")).unwrap();
        assert_eq!((options.mode, options.images), (mode, 2));
    }
    assert!(Options::default().apply_marker("[stub mode=moderate]").is_err());
    assert!(Options::default().apply_marker("[stub imags=2]").is_err());
    let outcome = Lab::new().run("a kite [stub mode=moderate]");
    assert_eq!((outcome.code, outcome.files.len()), (Some(1), 0), "{outcome:#?}");
}
