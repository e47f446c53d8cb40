//! The skills that a login's owner installed. A caller's `$name` would put the whole text of the
//! skill of that name before the model, and Codex can only be told to leave out each one by its
//! path (openai/codex issue 46414): so they are looked for where Codex does.

use std::{
    fs,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

const FILE: &str = "SKILL.md";
/// As deep as Codex looks.
const DEEPEST: usize = 6;
/// Folders that are looked into; nobody has so many, but a link may lead anywhere.
const MOST_FOLDERS: usize = 2000;
/// One argument may have 128 KiB.
const LONGEST: usize = 120 * 1024;

/// The value for `-c` that leaves out every skill of this home and this user; none when there
/// are none.
pub(super) fn left_out(home: &Path, user: Option<&Path>) -> Option<String> {
    let mut roots = vec![home.join("skills"), PathBuf::from("/etc/codex/skills")];
    roots.extend(user.map(|user| user.join(".agents/skills")));
    setting(&found(roots))
}

fn found(roots: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut skills = Vec::new();
    let mut folders: Vec<(PathBuf, usize)> = roots.into_iter().map(|root| (root, 0)).collect();
    let mut looked_into = 0;
    while let Some((folder, depth)) = folders.pop() {
        looked_into += 1;
        if looked_into > MOST_FOLDERS {
            tracing::warn!("too many folders of skills; not all of them are left out");
            break;
        }
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            // Through links, as Codex does.
            if path.is_dir() {
                if depth < DEEPEST {
                    folders.push((path, depth + 1));
                }
            } else if entry.file_name() == FILE {
                skills.push(fs::canonicalize(&path).unwrap_or(path));
            }
        }
    }
    skills.sort();
    skills.dedup();
    skills
}

fn setting(skills: &[PathBuf]) -> Option<String> {
    let mut rules = Vec::new();
    let mut length = 0;
    for path in skills.iter().filter_map(|path| path.to_str()) {
        let rule = Table::from_iter([
            ("path".to_owned(), Value::from(path)),
            ("enabled".to_owned(), Value::from(false)),
        ]);
        length += Value::from(rule.clone()).to_string().len() + 2;
        if length > LONGEST {
            tracing::warn!("too many skills; not all of them are left out");
            break;
        }
        rules.push(Value::from(rule));
    }
    (!rules.is_empty()).then(|| format!("skills.config={}", Value::from(rules)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn skill(folder: &Path) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(FILE), "x").unwrap();
        folder.join(FILE).canonicalize().unwrap()
    }

    #[test]
    fn every_skill_is_named_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let (home, user) = (dir.path().join("home"), dir.path().join("us\"er"));
        assert_eq!(left_out(&home, Some(&user)), None);
        let linked = skill(&dir.path().join("elsewhere/linked"));
        let mut all = vec![
            skill(&home.join("skills/a")),
            skill(&home.join("skills/group/b")),
            skill(&user.join(".agents/skills/c")),
            linked.clone(),
        ];
        symlink(linked.parent().unwrap(), home.join("skills/link")).unwrap();
        symlink(&home, home.join("skills/circle")).unwrap();
        all.sort();
        let text = left_out(&home, Some(&user)).unwrap();
        assert!(!text.contains('\n'), "{text}");
        let table: Table =
            format!("[skills]\n{}", text.replacen("skills.", "", 1)).parse().unwrap();
        let rules = table["skills"]["config"].as_array().unwrap();
        let paths: Vec<_> =
            rules.iter().map(|rule| PathBuf::from(rule["path"].as_str().unwrap())).collect();
        assert_eq!(paths, all);
        assert!(rules.iter().all(|rule| rule["enabled"].as_bool() == Some(false)));
    }

    #[test]
    fn the_argument_has_a_bound() {
        let many: Vec<_> =
            (0..5000).map(|n| PathBuf::from(format!("/skills/{n}/SKILL.md"))).collect();
        assert!(setting(&many).unwrap().len() < 128 * 1024);
    }
}
