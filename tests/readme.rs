//! Promise: the README tells what the program does, and what it gives to paste works.
#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use std::{fs, path::Path, process::Command};

use support::Setup;

use codex_image_service::config::table::{Preset, SETTINGS};

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

#[test]
fn a_job_can_be_submitted_polled_and_fetched_as_it_says() {
    for program in ["bash", "curl", "jq"] {
        if Command::new(program).arg("--version").output().is_err() {
            support::cannot_run(&format!("there is no {program}"));
            return;
        }
    }
    let readme = readme();
    let (_, from) = readme.split_once("    # submit, poll, fetch").unwrap();
    let (block, _) = from.split_once("\n\n").unwrap();
    let setup = Setup::painter();
    let listen = setup.environment().find(|(key, _)| *key == "LISTEN").unwrap().1.clone();
    let url = format!("http://{}", listen.to_str().unwrap());
    let service = setup.set("PUBLIC_BASE_URL", &url).start();
    let folder = service.path("cwd");
    let output = Command::new("bash")
        .args(["-c", &format!("#{block}")])
        .env("URL", &url)
        .env("KEY", service.default_key())
        .current_dir(&folder)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "succeeded\n", "{output:?}");
    let picture = support::lab::names(&folder).into_iter().find(|name| name.starts_with("img_"));
    image::open(folder.join(picture.unwrap())).unwrap();
}

#[test]
fn the_readme_tells_every_setting() {
    let readme = readme();
    for setting in SETTINGS {
        let row = readme
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` |", setting.name)))
            .unwrap_or_else(|| panic!("the README lacks {}", setting.name));
        let default = match setting.default {
            Preset::Value("") => "empty".to_owned(),
            other => other.to_string(),
        };
        assert!(row.contains(&default), "{row} should name the default {default}");
        assert!(row.contains(&setting.allowed.to_string()), "{row} should name what is allowed");
    }
}

#[test]
fn the_readme_tells_what_a_hangup_changes() {
    let readme = readme();
    let (_, from) = readme.split_once("`SIGHUP`").unwrap();
    let (paragraph, _) = from.split_once("\n\n").unwrap();
    let told = paragraph.split('`').filter(|word| word.contains('_'));
    let live = SETTINGS.iter().filter(|setting| setting.live).map(|setting| setting.name);
    assert_eq!(told.collect::<Vec<_>>(), live.collect::<Vec<_>>());
}
