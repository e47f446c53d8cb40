//! The request as the service's own API takes it, so that the shell's rules are the service's.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use base64::{engine::general_purpose::STANDARD, write::EncoderWriter};
use serde_json::json;

use super::Failed;
use crate::images::MAX_REFERENCE_BYTES;

/// What is asked for.
pub(super) struct Request {
    pub(super) prompt: String,
    pub(super) size: String,
    pub(super) quality: String,
    pub(super) count: u32,
    pub(super) references: Vec<PathBuf>,
}

impl Request {
    /// Writes it as JSON into a file of this folder; the pictures are not held in memory.
    pub(super) fn write(&self, folder: &Path) -> Result<PathBuf, Failed> {
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

fn copy(reference: &Path, into: &mut impl Write) -> Result<(), Failed> {
    let named = |error: io::Error| Failed::new(format!("{}: {error}", reference.display()));
    let meta = fs::metadata(reference).map_err(named)?;
    if !meta.is_file() {
        return Err(Failed::new(format!("{} is no file", reference.display())));
    }
    if meta.len() > MAX_REFERENCE_BYTES {
        return Err(Failed::new(format!(
            "{} has {} bytes; a reference may have {MAX_REFERENCE_BYTES}",
            reference.display(),
            meta.len()
        )));
    }
    let mut encoder = EncoderWriter::new(into, &STANDARD);
    io::copy(&mut File::open(reference).map_err(named)?, &mut encoder).map_err(named)?;
    encoder.finish().map_err(named)?;
    Ok(())
}
