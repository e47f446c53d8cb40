//! The body of generate and jobs, read as a stream: text fields are bounded, pictures go from
//! base64 on the wire to files on the disk, in any order of keys, and a bad one ends the reading.

use std::{
    cell::Cell,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    rc::Rc,
};

use struson::reader::{
    JsonReader, JsonStreamReader, JsonSyntaxError, ReaderError, ReaderSettings, ValueType,
};

use super::{body::BodyError, error::ApiError};
use crate::images::{BadReference, Reference, ReferenceWriter};

/// A prompt's bound, in characters.
const MAX_PROMPT_CHARS: usize = 32_000;
/// The same in bytes: a character has four at most.
const MAX_PROMPT_BYTES: u64 = MAX_PROMPT_CHARS as u64 * 4;
/// Other text fields are a word.
const MAX_WORD_BYTES: u64 = 64;
/// References of one job.
const MAX_REFERENCES: usize = 5;
/// References that one body may write, those included that a repeated key replaces: each is a
/// file, and tiny ones would be many.
const MAX_WRITTEN: usize = 2 * (MAX_REFERENCES + 1);
/// Pictures of one job.
const MAX_COUNT: u32 = 4;
/// What may be read for one name or number: the parser holds them whole.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

const LIST: &str = "reference_images_base64";
const SINGLE: &str = "reference_image_base64";

/// A request that passed every check.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Draft {
    pub(super) prompt: String,
    pub(super) size: String,
    pub(super) quality: String,
    pub(super) count: u32,
    pub(super) references: Vec<Reference>,
}

/// Reads a whole body; references are written to `folder`, which is made for the first of them.
/// On an error the folder is removed.
pub(super) fn read(body: impl Read, folder: &Path) -> Result<Draft, ApiError> {
    let result = Intake::new(folder).read(body);
    if result.is_err() {
        // Also when it was never made.
        let _ = std::fs::remove_dir_all(folder);
    }
    result
}

struct Intake {
    folder: PathBuf,
    prompt: Option<Text>,
    size: Option<Text>,
    quality: Option<Text>,
    count: Option<u32>,
    list: Option<Vec<Reference>>,
    single: Option<Reference>,
    /// Every reference gets a number of its own, also one that a repeated key replaces.
    written: usize,
}

/// A text field as it came, up to its bound.
struct Text {
    value: String,
    too_long: bool,
}

/// What the reader below the parser and the reading above it tell each other.
struct Guard {
    /// Bytes that may be read before the parser must be done with a name or a number.
    budget: Cell<u64>,
    /// Why the body ended early: the parser passes that on in words of its own only.
    failed: Cell<Option<BodyError>>,
}

impl Guard {
    fn token(&self) {
        self.budget.set(MAX_TOKEN_BYTES);
    }
    fn stream(&self) {
        self.budget.set(u64::MAX);
    }
}

/// The body as the parser reads it.
struct Guarded<R> {
    inner: R,
    guard: Rc<Guard>,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let budget = self.guard.budget.get();
        if budget == 0 {
            return Err(io::Error::other("a name or number is too long"));
        }
        let most = usize::try_from(budget).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.inner.read(&mut buffer[..most]).inspect_err(|error| {
            self.guard.failed.set(BodyError::within(error));
        })?;
        self.guard.budget.set(budget - read as u64);
        Ok(read)
    }
}

impl Intake {
    fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            prompt: None,
            size: None,
            quality: None,
            count: None,
            list: None,
            single: None,
            written: 0,
        }
    }

    fn read(mut self, body: impl Read) -> Result<Draft, ApiError> {
        let guard = Rc::new(Guard { budget: Cell::new(MAX_TOKEN_BYTES), failed: Cell::new(None) });
        // The path would hold each name whole, also inside of unknown fields, where no guard is.
        let settings = ReaderSettings { track_path: false, ..ReaderSettings::default() };
        let body = Guarded { inner: body, guard: Rc::clone(&guard) };
        match self.members(JsonStreamReader::new_custom(body, settings), &guard) {
            Ok(()) => self.check(),
            Err(error) => Err(guard.failed.get().map_or(error, Into::into)),
        }
    }

    fn members(
        &mut self,
        mut json: JsonStreamReader<impl Read>,
        guard: &Guard,
    ) -> Result<(), ApiError> {
        if json.peek().map_err(broken)? != ValueType::Object {
            return Err(invalid("body", "The request body must be a JSON object."));
        }
        json.begin_object().map_err(broken)?;
        loop {
            guard.token();
            if !json.has_next().map_err(broken)? {
                break;
            }
            let name = json.next_name_owned().map_err(broken)?;
            match name.as_str() {
                "prompt" => {
                    self.prompt = Some(text(&mut json, guard, "prompt", MAX_PROMPT_BYTES)?);
                }
                "size" => self.size = Some(text(&mut json, guard, "size", MAX_WORD_BYTES)?),
                "quality" => {
                    self.quality = Some(text(&mut json, guard, "quality", MAX_WORD_BYTES)?);
                }
                "count" => self.count = Some(count(&mut json, guard)?),
                LIST => self.list = self.references(&mut json, guard)?,
                SINGLE => self.single = self.reference(&mut json, guard, SINGLE, 0)?,
                _ => {
                    guard.stream();
                    json.skip_value().map_err(broken)?;
                }
            }
        }
        json.end_object().map_err(broken)?;
        guard.stream();
        json.consume_trailing_whitespace().map_err(broken)
    }

    fn references(
        &mut self,
        json: &mut JsonStreamReader<impl Read>,
        guard: &Guard,
    ) -> Result<Option<Vec<Reference>>, ApiError> {
        match json.peek().map_err(broken)? {
            ValueType::Null => json.next_null().map_err(broken).map(|()| None),
            ValueType::Array => {
                json.begin_array().map_err(broken)?;
                let mut list = Vec::new();
                while json.has_next().map_err(broken)? {
                    if list.len() == MAX_REFERENCES {
                        return Err(invalid(LIST, "At most 5 reference images are allowed."));
                    }
                    match self.reference(json, guard, LIST, list.len())? {
                        Some(reference) => list.push(reference),
                        None => return Err(invalid(LIST, "Each item must be a base64 string.")),
                    }
                    guard.token();
                }
                json.end_array().map_err(broken)?;
                Ok(Some(list))
            }
            _ => Err(invalid(LIST, "Must be a list of base64 strings.")),
        }
    }

    /// One reference, from the wire to a file. The old singular field may be empty.
    fn reference(
        &mut self,
        json: &mut JsonStreamReader<impl Read>,
        guard: &Guard,
        param: &'static str,
        index: usize,
    ) -> Result<Option<Reference>, ApiError> {
        match json.peek().map_err(broken)? {
            ValueType::Null => return json.next_null().map_err(broken).map(|()| None),
            ValueType::String => {}
            _ => return Err(invalid(param, "Must be a base64 string.")),
        }
        if self.written == MAX_WRITTEN {
            return Err(invalid(param, "At most 5 reference images are allowed."));
        }
        let refuse = |reason: BadReference| match reason {
            BadReference::Io(error) => {
                tracing::error!(%error, "a reference could not be stored");
                ApiError::Internal
            }
            reason => ApiError::BadReference { index, reason: reason.to_string() },
        };
        std::fs::create_dir_all(&self.folder).map_err(|error| refuse(BadReference::Io(error)))?;
        let mut writer = ReferenceWriter::create(&self.folder, self.written).map_err(refuse)?;
        self.written += 1;
        guard.stream();
        let mut text = json.next_string_reader().map_err(broken)?;
        let mut buffer = vec![0; 32 * 1024];
        let mut empty = true;
        loop {
            let length = text.read(&mut buffer).map_err(|error| broken_text(&error))?;
            if length == 0 {
                break;
            }
            empty = false;
            if writer.write_all(&buffer[..length]).is_err() {
                // What the writer refused is told by its end.
                return match writer.finish() {
                    Err(reason) => Err(refuse(reason)),
                    Ok(_) => Err(ApiError::Internal),
                };
            }
        }
        if empty && param == SINGLE {
            return Ok(None);
        }
        writer.finish().map(Some).map_err(refuse)
    }

    fn check(self) -> Result<Draft, ApiError> {
        let Some(prompt) = self.prompt else {
            return Err(invalid("prompt", "'prompt' is required."));
        };
        let chars = prompt.value.chars().count();
        if prompt.too_long || chars == 0 || chars > MAX_PROMPT_CHARS {
            return Err(invalid("prompt", "'prompt' must have 1 to 32000 characters."));
        }
        let size = self.size.map_or_else(|| "1024x1024".to_owned(), |text| text.value);
        if !is_size(&size) {
            return Err(invalid(
                "size",
                "'size' must be 'auto' or WIDTHxHEIGHT with 3 to 4 digits each, such as 1024x1024.",
            ));
        }
        let quality = self.quality.map_or_else(|| "medium".to_owned(), |text| text.value);
        if !matches!(quality.as_str(), "low" | "medium" | "high" | "auto") {
            return Err(invalid("quality", "'quality' must be low, medium, high or auto."));
        }
        // The list wins over the old singular field, unless it is empty.
        let references = match self.list {
            Some(list) if !list.is_empty() => list,
            _ => self.single.into_iter().collect(),
        };
        let count = if references.is_empty() { self.count.unwrap_or(1) } else { 1 };
        Ok(Draft { prompt: prompt.value, size, quality, count, references })
    }
}

fn is_size(size: &str) -> bool {
    let is_side = |side: &str| {
        matches!(side.len(), 3 | 4) && side.bytes().all(|digit| digit.is_ascii_digit())
    };
    size == "auto" || size.split_once('x').is_some_and(|(w, h)| is_side(w) && is_side(h))
}

fn text(
    json: &mut JsonStreamReader<impl Read>,
    guard: &Guard,
    param: &'static str,
    limit: u64,
) -> Result<Text, ApiError> {
    if json.peek().map_err(broken)? != ValueType::String {
        return Err(invalid(param, &format!("'{param}' must be a string.")));
    }
    guard.stream();
    let mut reader = json.next_string_reader().map_err(broken)?;
    let mut bytes = Vec::new();
    reader.by_ref().take(limit).read_to_end(&mut bytes).map_err(|error| broken_text(&error))?;
    if bytes.contains(&0) {
        return Err(ApiError::BadText(param));
    }
    let rest = io::copy(&mut reader, &mut io::sink()).map_err(|error| broken_text(&error))?;
    // Cut at the bound, the last character may be torn; the text is refused anyway.
    let value = if rest == 0 {
        String::from_utf8(bytes).map_err(|_| ApiError::Malformed("invalid UTF-8".to_owned()))?
    } else {
        String::new()
    };
    Ok(Text { value, too_long: rest > 0 })
}

/// An integer, also as `"2"` or `2.0`, as the original takes it.
fn count(json: &mut JsonStreamReader<impl Read>, guard: &Guard) -> Result<u32, ApiError> {
    let refused = || invalid("count", "'count' must be an integer from 1 to 4.");
    let digits = match json.peek().map_err(broken)? {
        ValueType::Number => {
            guard.token();
            json.next_number_as_string().map_err(broken)?
        }
        ValueType::String => text(json, guard, "count", MAX_WORD_BYTES)?.value.trim().to_owned(),
        _ => return Err(refused()),
    };
    let whole = digits.split_once('.').map_or(digits.as_str(), |(whole, fraction)| {
        if fraction.bytes().all(|digit| digit == b'0') { whole } else { "" }
    });
    match whole.parse() {
        Ok(count) if (1..=MAX_COUNT).contains(&count) => Ok(count),
        _ => Err(refused()),
    }
}

fn invalid(param: &'static str, message: &str) -> ApiError {
    ApiError::Invalid { param, message: message.to_owned() }
}

fn broken(error: ReaderError) -> ApiError {
    match error {
        ReaderError::IoError { error, .. } => broken_text(&error),
        ReaderError::SyntaxError(error) => malformed(&error),
        other => ApiError::Malformed(other.to_string()),
    }
}

/// Inside of a text the parser's errors come as I/O errors, as do those of the body.
fn broken_text(error: &io::Error) -> ApiError {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(error) => malformed(error),
        None => ApiError::Malformed(error.to_string()),
    }
}

fn malformed(error: &JsonSyntaxError) -> ApiError {
    let at = error.location.line_pos.as_ref();
    let (line, column) = at.map_or((0, 0), |at| (at.line + 1, at.column + 1));
    ApiError::Malformed(format!("{:?} at line {line}, column {column}", error.kind))
}

#[cfg(test)]
mod tests;
