//! Where the pictures go: never over a file that is there, unless that is wanted, never over what is
//! no file, and never half. What stands in the way is found before anything is drawn, as far as it
//! can be.

use std::{
    fs::{self, File, FileType},
    io::{self, IsTerminal, Write},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use super::Failed;

/// The longest name that is made of a prompt, without its extension.
const LONGEST_NAME: usize = 40;
/// Other names of this process's standard output.
const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// Where pictures go.
pub(super) enum Target {
    /// To standard output.
    Stdout,
    /// Into these files, one for each picture.
    Files { paths: Vec<PathBuf>, force: bool },
    /// Into this folder, under a name made of the prompt.
    Folder { path: PathBuf, name: String },
}

impl Target {
    /// Checks what can be known before anything is drawn.
    pub(super) fn new(
        output: Option<PathBuf>,
        prompt: &str,
        count: usize,
        force: bool,
    ) -> Result<Self, Failed> {
        let Some(path) = output else {
            let path = PathBuf::from(".");
            probe(&path)?;
            return Ok(Self::Folder { path, name: name_of(prompt) });
        };
        if STDOUT.iter().any(|name| path.as_os_str() == *name) {
            if io::stdout().is_terminal() {
                return Err(Failed::usage("a picture is not for a terminal; redirect the output"));
            }
            return Ok(Self::Stdout);
        }
        let is_folder = path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let folder = if is_folder { path.as_path() } else { parent(&path) };
        if !folder.is_dir() {
            return Err(Failed::new(format!("there is no folder {}", folder.display())));
        }
        if is_folder {
            probe(&path)?;
            return Ok(Self::Folder { path, name: name_of(prompt) });
        }
        let paths: Vec<_> = match count {
            1 => vec![path],
            _ => (1..=count).map(|number| numbered(&path, number)).collect(),
        };
        for path in &paths {
            let (real, is_there) = behind(path)?;
            if is_there && !force {
                return Err(is_there_already(path));
            }
            probe(parent(&real))?;
        }
        Ok(Self::Files { paths, force })
    }

    /// Puts one of the pictures in its place and prints where that is.
    pub(super) fn deliver(&self, picture: &Path, number: usize) -> Result<(), Failed> {
        let kind = picture.extension().and_then(|kind| kind.to_str()).unwrap_or("png");
        let placed = match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                let written = || {
                    io::copy(&mut File::open(picture)?, &mut stdout)?;
                    stdout.flush()
                };
                return { written }().map_err(|error| unwritable_output(&error));
            }
            Self::Files { paths, force } => {
                let path = paths.get(number).ok_or_else(|| Failed::new("a picture too many"))?;
                let named = path.extension().and_then(|named| named.to_str()).unwrap_or_default();
                if !fits(named, kind) {
                    eprintln!("{} is a {} picture, whatever its name says.", path.display(), kind);
                }
                let (real, _) = behind(path)?;
                if !place(picture, &real, *force)? {
                    return Err(is_there_already(path));
                }
                path.clone()
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
        let placed = placed.strip_prefix(".").unwrap_or(&placed);
        if let Err(error) = writeln!(io::stdout(), "{}", placed.display()) {
            // It is where it should be; who closed the output may still want to know.
            eprintln!("{}: {}", placed.display(), unwritable_output(&error).message);
        }
        Ok(())
    }
}

fn unwritable_output(error: &io::Error) -> Failed {
    Failed::new(format!("standard output could not be written to: {error}"))
}

fn is_there_already(path: &Path) -> Failed {
    Failed::new(format!("{} is there already; --force replaces it", path.display()))
}

/// Can a picture be put into this folder?
fn probe(folder: &Path) -> Result<(), Failed> {
    let part = part(folder);
    let made = File::create_new(&part).and_then(|_| fs::remove_file(&part));
    made.map_err(|error| {
        Failed::new(format!("no picture can be put into {}: {error}", folder.display()))
    })
}

fn part(folder: &Path) -> PathBuf {
    folder.join(format!(".{}.part", uuid::Uuid::new_v4().simple()))
}

/// The file that is meant, behind a link too, and whether it is there. What is there and no file
/// is refused: nobody wants a picture in the place of a device.
fn behind(path: &Path) -> Result<(PathBuf, bool), Failed> {
    let named = |error: io::Error| Failed::new(format!("{}: {error}", path.display()));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((path.to_owned(), false)),
        Err(error) => Err(named(error)),
        Ok(meta) if meta.is_file() => Ok((path.to_owned(), true)),
        Ok(meta) if meta.is_symlink() => {
            let real = match fs::canonicalize(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(Failed::usage(format!(
                        "{} is a link to nothing; give the path that it should lead to",
                        path.display()
                    )));
                }
                real => real.map_err(named)?,
            };
            let kind = fs::metadata(&real).map_err(named)?.file_type();
            if kind.is_file() { Ok((real, true)) } else { Err(no_file(path, kind)) }
        }
        Ok(meta) => Err(no_file(path, meta.file_type())),
    }
}

fn no_file(path: &Path, kind: FileType) -> Failed {
    let what = match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Failed::usage(format!(
        "{} is {what}; only a file is written or replaced (-o - writes to standard output)",
        path.display()
    ))
}

/// Whole or not at all; false when a file is there that is not to be replaced.
fn place(picture: &Path, path: &Path, force: bool) -> Result<bool, Failed> {
    let named = |error: io::Error| Failed::new(format!("{}: {error}", path.display()));
    let part = part(parent(path));
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
            Err(_) if path.symlink_metadata().is_ok() => Ok(false),
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
