//! Finds the program behind `CODEX_BIN`. Behind npm's JavaScript wrapper it prefers the native
//! binary: the wrapper costs a Node process for each picture, and a SIGKILL to it alone leaves the
//! native child running.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{Failure, FailureCode};

/// Codex's own binary has about 290 MB; a launcher of whatever kind is far smaller.
const SMALLEST_NATIVE: u64 = 32 * 1024 * 1024;

/// The program to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    /// Codex itself, which looks up nothing that it needs in PATH; a launcher may.
    pub(super) native: bool,
}

/// Looks at the disk anew: Codex may be installed or updated while the service runs.
pub(super) fn locate(bin: &Path, search: Option<&OsStr>) -> Result<Program, Failure> {
    find(bin, search).ok_or_else(|| {
        Failure::new(
            FailureCode::CodexMissing,
            "The Codex CLI was not found; install it or set CODEX_BIN.",
        )
    })
}

fn find(bin: &Path, search: Option<&OsStr>) -> Option<Program> {
    let found = if bin.components().count() > 1 {
        std::path::absolute(bin).ok().filter(|path| is_program(path))?
    } else {
        env::split_paths(search?)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(bin))
            .find(|path| is_program(path))?
    };
    let path = behind_npm(&found).unwrap_or(found);
    let native = is_native(&path);
    Some(Program { path, native })
}

/// The native binary of the npm package whose wrapper `found` is (or links to).
fn behind_npm(found: &Path) -> Option<PathBuf> {
    let real = fs::canonicalize(found).ok()?;
    if !real.ends_with("@openai/codex/bin/codex.js") {
        return None;
    }
    let (package, triple) = platform()?;
    let root = real.parent()?.parent()?;
    // Nested below the package, beside it (npm hoists; pnpm links it there), or, before the
    // platform packages were split off, in the package itself.
    let homes = [
        root.join("node_modules/@openai").join(package),
        root.parent()?.join(package),
        root.into(),
    ];
    homes
        .iter()
        .map(|home| home.join("vendor").join(triple))
        .flat_map(|vendor| [vendor.join("bin/codex"), vendor.join("codex/codex")])
        .find(|path| is_program(path))
}

fn platform() -> Option<(&'static str, &'static str)> {
    match env::consts::ARCH {
        "x86_64" => Some(("codex-linux-x64", "x86_64-unknown-linux-musl")),
        "aarch64" => Some(("codex-linux-arm64", "aarch64-unknown-linux-musl")),
        _ => None,
    }
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn is_native(path: &Path) -> bool {
    let Ok(mut file) = File::open(path) else { return false };
    let large = file.metadata().is_ok_and(|meta| meta.len() >= SMALLEST_NATIVE);
    let mut magic = [0; 4];
    large && file.read_exact(&mut magic).is_ok() && magic == *b"\x7fELF"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn npm(dir: &Path) -> PathBuf {
        let wrapper = dir.join("node_modules/@openai/codex/bin/codex.js");
        program(&wrapper);
        let link = dir.join("bin/codex");
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&wrapper, &link).unwrap();
        link
    }

    #[test]
    fn a_name_is_looked_up_and_a_path_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("codex");
        program(&path);
        let found = Some(Program { path: path.clone(), native: false });
        assert_eq!(find(Path::new("codex"), Some(dir.path().as_os_str())), found);
        assert_eq!(find(&path, None), found);
        assert_eq!(find(Path::new("other"), Some(dir.path().as_os_str())), None);
        assert_eq!(
            locate(&dir.path().join("no"), None).unwrap_err().code,
            FailureCode::CodexMissing
        );
    }

    #[test]
    fn a_file_that_cannot_run_is_not_codex() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("codex"), "text").unwrap();
        assert_eq!(find(Path::new("codex"), Some(dir.path().as_os_str())), None);
    }

    #[test]
    fn the_native_binary_is_preferred_in_every_layout() {
        let Some((package, triple)) = platform() else { return };
        for (home, tail) in [
            (format!("node_modules/@openai/{package}"), "bin/codex"),
            (format!("node_modules/@openai/{package}"), "codex/codex"),
            (format!("node_modules/@openai/codex/node_modules/@openai/{package}"), "bin/codex"),
            ("node_modules/@openai/codex".to_owned(), "codex/codex"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().canonicalize().unwrap();
            let link = npm(&root);
            let native = root.join(home).join("vendor").join(triple).join(tail);
            program(&native);
            assert_eq!(find(&link, None).unwrap().path, native);
        }
    }

    #[test]
    fn a_wrapper_without_its_binary_is_used_itself() {
        let dir = tempfile::tempdir().unwrap();
        let link = npm(dir.path());
        assert_eq!(find(&link, None).unwrap().path, link);
    }
}
