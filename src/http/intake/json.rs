//! Reading JSON as a stream: names and numbers are bounded, texts are bounded, pictures go on to
//! their files.

use std::{
    cell::Cell,
    io::{self, Read, Write},
    rc::Rc,
};

use struson::reader::{
    JsonReader, JsonStreamReader, JsonSyntaxError, ReaderError, ReaderSettings, ValueType,
};

use super::{MAX_REFERENCES, Place, ReferenceFolder, Text, invalid, too_many};
use crate::{
    http::{body::BodyError, error::ApiError},
    images::Reference,
};

/// What may be read for one name or number: the parser holds them whole.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

/// A body that is being read.
pub(in crate::http) struct Json<R: Read> {
    reader: JsonStreamReader<Guarded<R>>,
    guard: Rc<Guard>,
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

/// A value that is no list and no object.
pub(in crate::http) struct Scalar {
    /// As it came; `true`, `false` and numbers in their own words.
    pub(in crate::http) text: Text,
    /// Whether it came as a string.
    pub(in crate::http) is_string: bool,
}

impl<R: Read> Json<R> {
    /// Reads a body that is one object; `member` is told the name of each of its members and reads,
    /// or skips, the value.
    pub(in crate::http) fn read(
        body: R,
        mut member: impl FnMut(&mut Self, &str) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        let guard = Rc::new(Guard { budget: Cell::new(MAX_TOKEN_BYTES), failed: Cell::new(None) });
        // The path would hold each name whole, also inside of unknown fields, where no guard is.
        let settings = ReaderSettings { track_path: false, ..ReaderSettings::default() };
        let body = Guarded { inner: body, guard: Rc::clone(&guard) };
        let mut json =
            Self { reader: JsonStreamReader::new_custom(body, settings), guard: Rc::clone(&guard) };
        let mut whole = || {
            if json.peek()? != ValueType::Object {
                return Err(invalid("body", "The request body must be a JSON object."));
            }
            json.members(&mut member)
        };
        let read = whole().and_then(|()| {
            guard.stream();
            json.reader.consume_trailing_whitespace().map_err(broken)
        });
        read.map_err(|error| guard.failed.get().map_or(error, Into::into))
    }

    /// The members of an object that begins here.
    pub(in crate::http) fn members(
        &mut self,
        member: &mut impl FnMut(&mut Self, &str) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        self.reader.begin_object().map_err(broken)?;
        loop {
            self.guard.token();
            if !self.reader.has_next().map_err(broken)? {
                break;
            }
            let name = self.reader.next_name_owned().map_err(broken)?;
            member(self, &name)?;
        }
        self.reader.end_object().map_err(broken)
    }

    /// What kind of value comes next.
    pub(in crate::http) fn peek(&mut self) -> Result<ValueType, ApiError> {
        self.reader.peek().map_err(broken)
    }

    /// A value of which nobody wants to know.
    pub(in crate::http) fn skip(&mut self) -> Result<(), ApiError> {
        self.guard.stream();
        self.reader.skip_value().map_err(broken)
    }

    pub(in crate::http) fn null(&mut self) -> Result<(), ApiError> {
        self.reader.next_null().map_err(broken)
    }

    /// A string of at most `limit` bytes; of a longer one only that it was longer.
    pub(in crate::http) fn text(
        &mut self,
        param: &'static str,
        limit: u64,
    ) -> Result<Text, ApiError> {
        if self.peek()? != ValueType::String {
            return Err(invalid(param, &format!("'{param}' must be a string.")));
        }
        self.guard.stream();
        let mut reader = self.reader.next_string_reader().map_err(broken)?;
        let mut bytes = Vec::new();
        reader.by_ref().take(limit).read_to_end(&mut bytes).map_err(|error| broken_text(&error))?;
        if bytes.contains(&0) {
            return Err(ApiError::BadText(param));
        }
        let rest = io::copy(&mut reader, &mut io::sink()).map_err(|error| broken_text(&error))?;
        Text::of(bytes, rest > 0, param)
    }

    /// A number in its own words.
    pub(in crate::http) fn number(&mut self) -> Result<String, ApiError> {
        self.guard.token();
        self.reader.next_number_as_string().map_err(broken)
    }

    /// A string, a number or a truth value; None for null, which stands for no value.
    pub(in crate::http) fn scalar(
        &mut self,
        param: &'static str,
        limit: u64,
    ) -> Result<Option<Scalar>, ApiError> {
        let value = match self.peek()? {
            ValueType::Null => return self.null().map(|()| None),
            ValueType::String => {
                return Ok(Some(Scalar { text: self.text(param, limit)?, is_string: true }));
            }
            ValueType::Number => self.number()?,
            ValueType::Boolean => self.reader.next_bool().map_err(broken)?.to_string(),
            ValueType::Array | ValueType::Object => {
                return Err(invalid(param, &format!("'{param}' must be a single value.")));
            }
        };
        let text = Text { too_long: value.len() as u64 > limit, value };
        Ok(Some(Scalar { text, is_string: false }))
    }

    /// Items of a list; `item` is told how many there were before.
    pub(in crate::http) fn items(
        &mut self,
        param: &'static str,
        mut item: impl FnMut(&mut Self, usize) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        self.reader.begin_array().map_err(broken)?;
        let mut count = 0;
        while self.reader.has_next().map_err(broken)? {
            if count == MAX_REFERENCES {
                return Err(too_many(param));
            }
            item(self, count)?;
            count += 1;
            self.guard.token();
        }
        self.reader.end_array().map_err(broken)
    }

    /// A picture as base64, from the wire to a file; None for an empty string.
    pub(in crate::http) fn picture(
        &mut self,
        folder: &mut ReferenceFolder,
        place: &Place,
    ) -> Result<Option<Reference>, ApiError> {
        if self.peek()? != ValueType::String {
            return Err(invalid(place.param, "Must be a base64 string."));
        }
        let mut writer = folder.base64(place)?;
        self.guard.stream();
        let mut text = self.reader.next_string_reader().map_err(broken)?;
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
                    Err(reason) => Err(place.refuse(&reason)),
                    Ok(_) => Err(ApiError::Internal),
                };
            }
        }
        if empty {
            return Ok(None);
        }
        writer.finish().map(Some).map_err(|reason| place.refuse(&reason))
    }
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
