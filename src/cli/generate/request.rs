//! The request as the service's own API takes it, so that the shell's rules are the service's. It is
//! checked here before anybody is asked, also for a service: what is wrong is named as it stands on
//! the command line.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use base64::{engine::general_purpose::STANDARD, write::EncoderWriter};
use serde_json::json;

use super::Failed;
use crate::{
    http::{self, Asked},
    images::{BadReference, MAX_REFERENCE_BYTES, RawReferenceWriter},
};

/// What is asked for.
pub(super) struct Request {
    pub(super) prompt: String,
    pub(super) size: String,
    pub(super) quality: String,
    pub(super) count: u32,
    pub(super) references: Vec<PathBuf>,
}

/// A request that passed every check.
pub(super) struct Checked {
    /// The body for a service.
    pub(super) body: PathBuf,
    /// The same as the service would read it.
    pub(super) asked: Asked,
    /// The folder of the references that it names.
    pub(super) references: PathBuf,
}

impl Request {
    /// Checks everything by the service's own rules; files are made in this folder.
    pub(super) fn check(&self, folder: &Path) -> Result<Checked, Failed> {
        if self.count > 1 && !self.references.is_empty() {
            return Err(Failed::usage("with --reference one picture is made, so -n must be 1"));
        }
        let looked = folder.join("looked-at");
        fs::create_dir(&looked)?;
        for (number, reference) in self.references.iter().enumerate() {
            look(reference, &looked, number)?;
        }
        fs::remove_dir_all(looked)?;
        let body = self.write(folder)?;
        let references = folder.join("references");
        let asked = http::read_request(File::open(&body)?, &references).map_err(Failed::usage)?;
        Ok(Checked { body, asked, references })
    }

    /// Writes it as JSON into a file of this folder; the pictures are not held in memory.
    fn write(&self, folder: &Path) -> Result<PathBuf, Failed> {
        let path = folder.join("request.json");
        let mut file = BufWriter::new(File::create(&path)?);
        let mut head = json!({
            "prompt": self.prompt,
            "size": self.size,
            "quality": self.quality,
            "count": self.count,
        })
        .to_string();
        head.pop();
        file.write_all(head.as_bytes())?;
        for (number, reference) in self.references.iter().enumerate() {
            let between = if number == 0 { ",\"reference_images_base64\":[\"" } else { "\",\"" };
            file.write_all(between.as_bytes())?;
            copy(reference, &mut file)?;
        }
        let end: &[u8] = if self.references.is_empty() { b"}" } else { b"\"]}" };
        file.write_all(end)?;
        file.into_inner().map_err(|error| Failed::from(error.into_error()))?;
        Ok(path)
    }
}

/// A reference that is none is named by its path, as the service cannot.
fn look(reference: &Path, folder: &Path, number: usize) -> Result<(), Failed> {
    let named = |error: io::Error| Failed::usage(format!("{}: {error}", reference.display()));
    let meta = fs::metadata(reference).map_err(named)?;
    if !meta.is_file() {
        return Err(Failed::usage(format!("{}: not a file", reference.display())));
    }
    let refused = |reason: BadReference| match reason {
        BadReference::Io(error) => Failed::from(error),
        reason => {
            let reason = reason.to_string();
            let words = reason.strip_prefix("The reference image ").unwrap_or(&reason);
            let words = words.strip_prefix("is ").unwrap_or(words);
            Failed::usage(format!("{}: {words}", reference.display()))
        }
    };
    if meta.len() > MAX_REFERENCE_BYTES {
        return Err(refused(BadReference::TooLarge));
    }
    let mut file = File::open(reference).map_err(named)?;
    let mut writer = RawReferenceWriter::create(folder, number).map_err(refused)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = file.read(&mut buffer).map_err(named)?;
        if length == 0 {
            break;
        }
        writer.push(&buffer[..length]).map_err(refused)?;
    }
    writer.finish().map_err(refused)?;
    Ok(())
}

fn copy(reference: &Path, into: &mut impl Write) -> Result<(), Failed> {
    let named = |error: io::Error| Failed::new(format!("{}: {error}", reference.display()));
    let mut encoder = EncoderWriter::new(into, &STANDARD);
    io::copy(&mut File::open(reference).map_err(named)?, &mut encoder).map_err(named)?;
    encoder.finish().map_err(named)?;
    Ok(())
}
