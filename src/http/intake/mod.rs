//! Bodies become drafts: read as a stream, text fields bounded, pictures from the wire to files on
//! the disk, a bad one ends the reading. What all routes share; each dress has its own fields.

pub(super) mod form;
pub(super) mod json;
pub(super) mod native;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::error::ApiError;
use crate::bounds::MAX_PROMPT_CHARS;
pub(super) use crate::bounds::{MAX_PROMPT_BYTES, MAX_REFERENCES, is_quality, is_size};
use crate::images::{BadReference, Output, RawReferenceWriter, Reference, ReferenceWriter};

/// References that one body may write, those included that a repeated key replaces: each is a
/// file, and tiny ones would be many.
const MAX_WRITTEN: usize = 2 * (MAX_REFERENCES + 1);

/// A request that passed every check.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Draft {
    pub(super) prompt: String,
    pub(super) size: String,
    pub(super) quality: String,
    pub(super) background: &'static str,
    /// What pictures are converted to; None: they stay as they are made.
    pub(super) output: Option<Output>,
    pub(super) end_user: Option<String>,
    pub(super) count: u32,
    pub(super) references: Vec<Reference>,
    /// The last reference is a mask.
    pub(super) has_mask: bool,
}

impl Draft {
    /// A digest of the whole request on this route, in whatever order its fields came and however
    /// they were packed: clients pack each repetition anew. `more` is what counts beside the draft.
    pub(super) fn hash(&self, route: &str, more: &[&str]) -> [u8; 32] {
        let Self {
            prompt,
            size,
            quality,
            background,
            output,
            end_user,
            count,
            references,
            has_mask,
        } = self;
        let mut hash = Sha256::new();
        let mut add = |part: &[u8]| {
            // The length in front keeps neighbours apart.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        };
        for part in [route, prompt, size, quality, background] {
            add(part.as_bytes());
        }
        add(format!("{count} {has_mask} {output:?}").as_bytes());
        add(end_user.as_deref().unwrap_or_default().as_bytes());
        for part in more {
            add(part.as_bytes());
        }
        for reference in references {
            add(&reference.picture.sha256);
        }
        hash.finalize().into()
    }
}

/// A text field as it came, up to its bound.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) value: String,
    pub(super) too_long: bool,
}

impl Text {
    /// From its first bytes; `cut`: there were more. NUL is no text on any route.
    pub(super) fn of(bytes: Vec<u8>, cut: bool, param: &'static str) -> Result<Self, ApiError> {
        if bytes.contains(&0) {
            return Err(ApiError::BadText(param));
        }
        if cut {
            // At the bound the last character may be torn; the text is refused anyway.
            return Ok(Self { value: String::new(), too_long: true });
        }
        let value = String::from_utf8(bytes).map_err(|_| ApiError::NotUtf8(param))?;
        Ok(Self { value, too_long: false })
    }
}

/// A prompt within its bounds.
pub(super) fn prompt(text: Option<Text>) -> Result<String, ApiError> {
    let Some(prompt) = text else { return Err(invalid("prompt", "'prompt' is required.")) };
    let chars = prompt.value.chars().count();
    if prompt.too_long || chars == 0 || chars > MAX_PROMPT_CHARS {
        return Err(invalid("prompt", "'prompt' must have 1 to 32000 characters."));
    }
    if prompt.value.trim().is_empty() {
        // It would be paid for.
        return Err(invalid("prompt", "'prompt' must not be blank."));
    }
    Ok(prompt.value)
}

/// A whole number, also as `2.0`.
pub(super) fn whole(text: &str) -> Option<u32> {
    let whole = text.split_once('.').map_or(text, |(whole, fraction)| {
        if fraction.bytes().all(|digit| digit == b'0') { whole } else { "" }
    });
    whole.parse().ok()
}

pub(super) fn invalid(param: &'static str, message: &str) -> ApiError {
    ApiError::Invalid { param, message: message.to_owned() }
}

/// The folder of a request's references. It is made for the first of them.
pub(super) struct ReferenceFolder {
    path: PathBuf,
    /// Every reference gets a number of its own, also one that a repeated key replaces.
    written: usize,
}

impl ReferenceFolder {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), written: 0 }
    }

    /// For the next reference, as base64; `place` names it in errors.
    pub(super) fn base64(&mut self, place: &Place) -> Result<ReferenceWriter, ApiError> {
        let number = self.next(place)?;
        ReferenceWriter::create(&self.path, number).map_err(|reason| place.refuse(&reason))
    }

    /// For the next reference, as it is.
    pub(super) fn raw(&mut self, place: &Place) -> Result<RawReferenceWriter, ApiError> {
        let number = self.next(place)?;
        RawReferenceWriter::create(&self.path, number).map_err(|reason| place.refuse(&reason))
    }

    fn next(&mut self, place: &Place) -> Result<usize, ApiError> {
        if self.written == MAX_WRITTEN {
            return Err(too_many(place.param));
        }
        fs::create_dir_all(&self.path).map_err(|error| place.refuse(&BadReference::Io(error)))?;
        self.written += 1;
        Ok(self.written - 1)
    }
}

pub(super) fn too_many(param: &'static str) -> ApiError {
    invalid(param, "At most 5 reference images are allowed.")
}

/// Where in the request a picture stands.
pub(super) struct Place {
    /// The field.
    pub(super) param: &'static str,
    /// The same with what tells it from its neighbours, such as `image[1]`.
    pub(super) name: String,
}

impl Place {
    pub(super) fn at(param: &'static str, index: usize) -> Self {
        Self { param, name: format!("{param}[{index}]") }
    }

    pub(super) fn only(param: &'static str) -> Self {
        Self { param, name: param.to_owned() }
    }

    pub(super) fn refuse(&self, reason: &BadReference) -> ApiError {
        if let BadReference::Io(error) = reason {
            tracing::error!(%error, "a reference could not be stored");
            return match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ApiError::StorageFull,
                _ => ApiError::Internal,
            };
        }
        self.refuse_for(&reason.to_string())
    }

    pub(super) fn refuse_for(&self, reason: &str) -> ApiError {
        let (param, place, reason) = (self.param, self.name.clone(), reason.to_owned());
        ApiError::BadReference { param, place, reason }
    }
}

/// What `read` gives; on an error the folder is removed.
pub(super) fn tidy<T>(folder: &Path, read: Result<T, ApiError>) -> Result<T, ApiError> {
    if read.is_err() {
        // Also when it was never made.
        let _ = fs::remove_dir_all(folder);
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_tells_every_field_from_every_other() {
        let draft = || Draft {
            prompt: "p".into(),
            size: "auto".into(),
            quality: "auto".into(),
            background: "auto",
            output: None,
            end_user: None,
            count: 1,
            references: Vec::new(),
            has_mask: false,
        };
        let base = draft().hash("r", &["m"]);
        assert_eq!(draft().hash("r", &["m"]), base);
        let output = Output { format: crate::images::Format::Png, compression: 100 };
        let others = [
            draft().hash("s", &["m"]),
            draft().hash("r", &[]),
            draft().hash("r", &["", "m"]),
            Draft { prompt: "q".into(), ..draft() }.hash("r", &["m"]),
            Draft { prompt: "pa".into(), size: "uto".into(), ..draft() }.hash("r", &["m"]),
            Draft { quality: "high".into(), ..draft() }.hash("r", &["m"]),
            Draft { background: "opaque", ..draft() }.hash("r", &["m"]),
            Draft { output: Some(output), ..draft() }.hash("r", &["m"]),
            Draft { end_user: Some("u".into()), ..draft() }.hash("r", &["m"]),
            Draft { count: 2, ..draft() }.hash("r", &["m"]),
            Draft { has_mask: true, ..draft() }.hash("r", &["m"]),
        ];
        for (n, other) in others.iter().enumerate() {
            assert!(*other != base && !others[..n].contains(other), "{n}");
        }
    }

    #[test]
    fn whole_numbers() {
        for (text, number) in
            [("2", Some(2)), ("2.0", Some(2)), ("2.5", None), ("", None), ("-1", None)]
        {
            assert_eq!(whole(text), number, "{text}");
        }
    }
}
