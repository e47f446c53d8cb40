//! Promise: the README tells what the program does.
#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

use std::{fs, path::Path};

use codex_image_service::config::table::{Preset, SETTINGS};

#[test]
fn the_readme_tells_every_setting() {
    let readme =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
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
