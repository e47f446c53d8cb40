//! Where the pictures go: never over a file that is there, unless that is wanted, and never half.

use std::{
    fs::{self, File},
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use super::Failed;

/// The longest name that is made of a prompt, without its extension.
const LONGEST_NAME: usize = 40;

/// Where pictures go.
pub(super) enum Target {
    /// To standard output.
    Stdout,
    /// Into this file.
    File { path: PathBuf, force: bool },
    /// Into this folder, under a name made of the prompt.
    Folder { path: PathBuf, name: String },
}

impl Target {
    /// Checks what can be known before anything is drawn.
    pub(super) fn new(output: Option<PathBuf>, prompt: &str, force: bool) -> Result<Self, Failed> {
        let Some(path) = output else {
            return Ok(Self::Folder { path: PathBuf::from("."), name: name_of(prompt) });
        };
        if path.as_os_str() == "-" {
            if io::stdout().is_terminal() {
                return Err(Failed::new("a picture is not for a terminal; redirect the output"));
            }
            return Ok(Self::Stdout);
        }
        let is_folder = path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let folder = if is_folder { path.as_path() } else { parent(&path) };
        if !folder.is_dir() {
            return Err(Failed::new(format!("there is no folder {}", folder.display())));
        }
        if is_folder {
            return Ok(Self::Folder { path, name: name_of(prompt) });
        }
        if path.exists() && !force {
            return Err(Failed::new(format!(
                "{} is there already; --force replaces it",
                path.display()
            )));
        }
        Ok(Self::File { path, force })
    }

    /// Puts one of so many pictures in its place and prints where that is.
    pub(super) fn deliver(&self, picture: &Path, number: usize, of: usize) -> Result<(), Failed> {
        let kind = picture.extension().and_then(|kind| kind.to_str()).unwrap_or("png");
        let placed = match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                io::copy(&mut File::open(picture)?, &mut stdout)?;
                stdout.flush()?;
                return Ok(());
            }
            Self::File { path, force } => {
                let path = if of == 1 { path.clone() } else { numbered(path, number + 1) };
                let named = path.extension().and_then(|named| named.to_str()).unwrap_or_default();
                if !fits(named, kind) {
                    eprintln!("{} is a {} picture, whatever its name says.", path.display(), kind);
                }
                if !place(picture, &path, *force)? {
                    return Err(Failed::new(format!("{} is there already", path.display())));
                }
                path
            }
            Self::Folder { path, name } => {
                let mut count = 1;
                loop {
                    let name = if count == 1 { name.clone() } else { format!("{name}-{count}") };
                    let path = path.join(format!("{name}.{kind}"));
                    if place(picture, &path, false)? {
                        break path;
                    }
                    count += 1;
                }
            }
        };
        println!("{}", placed.strip_prefix(".").unwrap_or(&placed).display());
        Ok(())
    }
}

/// Whole or not at all; false when a file is there that is not to be replaced.
fn place(picture: &Path, path: &Path, force: bool) -> Result<bool, Failed> {
    let named = |error: io::Error| Failed::new(format!("{}: {error}", path.display()));
    let part = parent(path).join(format!(".{}.part", uuid::Uuid::new_v4().simple()));
    let written = || -> io::Result<bool> {
        fs::copy(picture, &part)?;
        if force {
            fs::rename(&part, path)?;
            return Ok(true);
        }
        // A link is not made over a file that is there.
        match fs::hard_link(&part, path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(_) if path.exists() => Ok(false),
            // Some file systems have no links.
            Err(_) => fs::rename(&part, path).map(|()| true),
        }
    };
    let outcome = written();
    let _ = fs::remove_file(&part);
    outcome.map_err(named)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = match path.extension() {
        Some(kind) => format!("{stem}-{number}.{}", kind.to_string_lossy()),
        None => format!("{stem}-{number}"),
    };
    path.with_file_name(name)
}

fn fits(named: &str, kind: &str) -> bool {
    let same = |name: &str| if name == "jpeg" { "jpg".to_owned() } else { name.to_owned() };
    same(&named.to_ascii_lowercase()) == same(kind)
}

/// `a-red-kite-over-a-green-hill`
fn name_of(prompt: &str) -> String {
    let mut name = String::new();
    for c in prompt.chars() {
        if c.is_alphanumeric() {
            name.extend(c.to_lowercase());
        } else if !name.ends_with('-') && !name.is_empty() {
            name.push('-');
        }
        if name.len() >= LONGEST_NAME {
            break;
        }
    }
    let name = name.trim_end_matches('-');
    if name.is_empty() { "picture".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_of_the_prompt() {
        for (prompt, name) in [
            ("A red kite, over a hill!", "a-red-kite-over-a-hill"),
            ("../../etc/passwd", "etc-passwd"),
            ("🪁", "picture"),
            ("Ein Drachen über Köln", "ein-drachen-über-köln"),
        ] {
            assert_eq!(name_of(prompt), name);
        }
        assert!(name_of(&"long ".repeat(100)).len() <= LONGEST_NAME + 4);
    }

    #[test]
    fn several_pictures_of_one_name_are_numbered() {
        assert_eq!(numbered(Path::new("a/kite.png"), 2), Path::new("a/kite-2.png"));
        assert_eq!(numbered(Path::new("kite"), 1), Path::new("kite-1"));
        assert!(fits("JPEG", "jpg") && fits("png", "png") && !fits("png", "webp"));
    }
}
