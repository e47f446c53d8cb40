//! Promise: every version of Codex from 0.122.0 on draws, by each engine, what was asked for, paid
//! once and with nothing left behind; one that cannot is named with what it lacks.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use support::{
    Lab, Setup, cannot_run, codex_binary, lab,
    pictures::{self, Kind, sha256},
    write_program,
};

const ENGINES: [&str; 2] = ["exec", "app-server"];

/// Where `tests/run` puts a version; None when it is not there.
fn installed(version: &str) -> Option<PathBuf> {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.cache/codex").join(version);
    let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let vendor = cache.join("package/vendor").join(triple);
    let places = ["bin/codex", "codex/codex"].map(|tail| vendor.join(tail));
    places.into_iter().find(|path| path.is_file())
}

fn draws(version: &str) {
    let Some(codex) = installed(version) else {
        return cannot_run(&format!(
            "Codex {version} is not installed; tests/run versions does it"
        ));
    };
    let said = std::process::Command::new(&codex).env_clear().arg("--version").output().unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap().trim(), format!("codex-cli {version}"));
    for engine in ENGINES {
        draws_by(&codex, engine);
    }
}

/// A text picture and an edit through the whole service.
fn draws_by(codex: &Path, engine: &str) {
    let lab = lab_with(codex, engine);
    let before = in_home(&lab);
    let large = "[stub noise=1 size=1024x1024]";
    let text = one(&lab, &json!({"prompt": format!("a red kite {large}"), "size": "1024x1024"}));
    assert!(lab.backend.image_requests()[0].references.is_empty());

    let reference = pictures::unique(&Kind { size: (64, 48), ..Kind::default() }, "reference");
    let edit = one(
        &lab,
        &json!({"prompt": format!("bluer {large}"),
            "reference_image_base64": STANDARD.encode(&reference)}),
    );
    let [request] = lab.backend.image_requests().try_into().unwrap();
    let arrived: Vec<_> = request.references.iter().map(|r| (&*r.mime, &*r.sha256)).collect();
    assert_eq!(arrived, [("image/png", &*sha256(&reference))], "{engine}");

    let drawn = text + edit;
    assert!(drawn > 6_000_000, "{drawn}");
    lab.service.wait_for_no_orphans();
    // The service has to notice that end, too.
    support::wait_for(&format!("what {engine} left for {drawn} bytes of pictures to go"), || {
        let grown = in_home(&lab).saturating_sub(before);
        (grown * 10 <= drawn * 11).then_some(())
    });
}

fn lab_with(codex: &Path, engine: &str) -> Lab {
    Lab::with(|setup| {
        // What an app-server logs goes when it ends.
        let setup = setup.set("CODEX_IDLE_SECONDS", "1");
        setup.set("CODEX_BIN", codex).set("CODEX_ENGINE", engine)
    })
}

/// One picture, paid once and with these very bytes, and nothing of it stays with Codex; its length.
fn one(lab: &Lab, body: &Value) -> u64 {
    lab.backend.reset_counts();
    let answer = lab.service.post_json("/v1/images/generate", body).expect(200).json();
    let [image] = answer["images"].as_array().unwrap().as_slice() else { panic!("{answer}") };
    let picture = lab.service.picture(image["url"].as_str().unwrap());
    let [request] = lab.backend.image_requests().try_into().unwrap();
    assert_eq!(request.picture, Some(sha256(&picture)), "these very bytes");
    for home in homes(lab) {
        let kept = home.join("generated_images");
        support::wait_for(&format!("{} to be empty", kept.display()), || {
            lab::names(&kept).is_empty().then_some(())
        });
    }
    picture.len().try_into().unwrap()
}

/// The login's home and the folders in which its app-servers run.
fn homes(lab: &Lab) -> Vec<PathBuf> {
    let mut homes = lab.shadows();
    homes.push(lab.service.codex_home());
    homes
}

/// Bytes on the disk.
fn in_home(lab: &Lab) -> u64 {
    fn size(path: &Path) -> u64 {
        // Databases come and go meanwhile.
        let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
        let inside = fs::read_dir(path).into_iter().flatten().flatten();
        let inside: u64 =
            if meta.is_dir() { inside.map(|entry| size(&entry.path())).sum() } else { 0 };
        meta.blocks() * 512 + inside
    }
    homes(lab).iter().map(|home| size(home)).sum::<u64>()
}

// One old version always, the others by `tests/run versions`.

#[test]
fn the_newest_draws() {
    for engine in ENGINES {
        draws_by(&codex_binary(), engine);
    }
}

#[test]
fn version_0_130_0_draws() {
    draws("0.130.0");
}

#[test]
#[ignore = "run by `tests/run versions`"]
fn version_0_122_0_draws() {
    draws("0.122.0");
}

#[test]
#[ignore = "run by `tests/run versions`"]
fn version_0_142_3_draws() {
    draws("0.142.3");
}

#[test]
#[ignore = "run by `tests/run versions`"]
fn version_0_148_0_draws() {
    draws("0.148.0");
}

#[test]
#[ignore = "run by `tests/run versions`"]
fn version_0_155_0_draws() {
    draws("0.155.0");
}

// Versions that nobody has seen.

/// The real Codex, which says that it is another version and refuses what a shell pattern for one
/// of its arguments tells.
fn other_version(folder: &Path, version: &str, refused: &str, words: &str) -> PathBuf {
    let path = folder.join("codex-of-another-version");
    let script = format!(
        "#!/bin/sh\n\
         [ \"$1\" != --version ] || {{ echo 'codex-cli {version}'; exit; }}\n\
         for argument do case $argument in {refused}) printf '%b\\n' \"{words}\" >&2; exit {}; esac; \
         done\nexec '{}' \"$@\"\n",
        if words.starts_with("error: ") { 2 } else { 1 },
        codex_binary().display(),
    );
    write_program(&path, &script);
    path
}

fn refuses(version: &str, engine: &str, refused: &str, words: &str, named: &[&str]) {
    let lab = Lab::with(|setup: Setup| {
        let codex = other_version(&setup.path("cwd"), version, refused, words);
        setup.set("CODEX_BIN", codex).set("CODEX_ENGINE", engine)
    });
    let reply = lab.service.generate("a red kite").expect(502);
    let error = &reply.json()["error"];
    assert_eq!(error["code"], "codex_missing", "{engine}: {error}");
    let message = error["message"].as_str().unwrap();
    for word in named {
        assert!(message.contains(word), "{engine}: no {word} in {message}");
    }
    assert!(!message.contains('/'), "{message}");
    assert_eq!(lab.backend.image_requests().len(), 0);
}

#[test]
fn a_version_never_seen_before_draws_as_the_newest() {
    for engine in ENGINES {
        let folder = support::temp_dir();
        let codex = other_version(folder.path(), "7.1.0-alpha.2", "no-such-argument", "");
        let lab = lab_with(&codex, engine);
        one(&lab, &json!({"prompt": "a red kite"}));
        lab.service.wait_for_log("newer than any");
    }
}

#[test]
fn what_a_version_never_seen_before_refuses_is_named() {
    let option = "error: unexpected argument '--ignore-rules' found";
    refuses("7.1.0", "exec", "--ignore-rules", option, &["Codex 7.1.0", "--ignore-rules"]);
    let setting = "Error loading config.toml: invalid type: boolean\\nin \\`features.shell_tool\\`";
    let named = ["Codex 7.1.0", "the setting features.shell_tool"];
    for engine in ["exec", "app-server", "auto"] {
        refuses("7.1.0", engine, "features.shell_tool=*", setting, &named);
    }
    let gone = "error: unrecognized subcommand 'app-server'";
    refuses("7.1.0", "app-server", "app-server", gone, &["Codex 7.1.0", "app-server"]);
}

#[test]
fn without_its_app_server_a_version_draws_by_exec() {
    let folder = support::temp_dir();
    let gone = "error: unrecognized subcommand 'app-server'";
    let codex = other_version(folder.path(), "7.1.0", "app-server", gone);
    one(&lab_with(&codex, "auto"), &json!({"prompt": "a red kite"}));
}

#[test]
fn a_version_that_would_run_the_logins_own_settings_is_not_run() {
    for engine in ["exec", "app-server", "auto"] {
        let lab = Lab::with(|setup: Setup| {
            let codex = other_version(&setup.path("cwd"), "0.121.0", "exec|app-server", "error: x");
            setup.set("CODEX_BIN", codex).set("CODEX_ENGINE", engine)
        });
        let ready = lab.service.get("/ready").expect(503).json();
        let problem = &ready["problems"][0];
        assert_eq!(problem["code"], "codex_missing", "{ready}");
        let reply = lab.service.generate("a red kite").expect(502);
        for words in [&problem["message"], &reply.json()["error"]["message"]] {
            let words = words.as_str().unwrap();
            for word in ["0.121.0", "--ignore-user-config", "0.122.0", "CODEX_BIN"] {
                assert!(words.contains(word), "{words}");
            }
        }
    }
}
