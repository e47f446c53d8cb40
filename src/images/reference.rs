//! Receives a caller's reference picture, as it is or as base64 text, in whatever portions the
//! network brings it, and leaves a verified file. Nothing is held but 56 KiB of buffers; what is not a picture,
//! or too large, is noticed at the first byte that shows it.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use sha2::{Digest, Sha256};

use super::{
    Format, Picture,
    files::Unfinished,
    walk::{Flaw, Walk},
};

/// The most bytes of one decoded reference.
pub const MAX_REFERENCE_BYTES: u64 = 10 * 1024 * 1024;

/// Symbols decoded at a time; a multiple of 4, so that no group of them is torn.
const SYMBOLS: usize = 32 * 1024;

/// A `data:` URL's head, up to its comma, may be this long.
const MAX_URL_HEAD: usize = 256;

/// Left-over bits of the last symbol are ignored, as everybody does.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A verified reference on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// What it is.
    pub picture: Picture,
    /// `<index>.<extension>`, in the folder given to [`ReferenceWriter::create`].
    pub file_name: String,
}

/// Why a reference is refused. The text is for the caller, who is told the index beside it.
#[derive(Debug, thiserror::Error)]
pub enum BadReference {
    /// Characters of no alphabet, text after padding, a lone last symbol, a `data:` URL of text.
    #[error("The reference image is not valid base64.")]
    NotBase64,
    /// No bytes at all.
    #[error("The reference image is empty.")]
    Empty,
    /// By its first bytes.
    #[error("The reference image is not a PNG, JPEG or WebP picture.")]
    UnknownType,
    /// Past [`MAX_REFERENCE_BYTES`].
    #[error("The reference image is larger than {} MiB.", MAX_REFERENCE_BYTES / (1024 * 1024))]
    TooLarge,
    /// It ends before the picture does.
    #[error("The reference image is truncated.")]
    Truncated,
    /// The parts do not fit together, or a checksum is wrong.
    #[error("The reference image is damaged: {0}.")]
    Damaged(&'static str),
    /// Outside of [`MAX_SIDE`](super::MAX_SIDE) and [`MAX_PIXELS`](super::MAX_PIXELS).
    #[error("The reference image has {width} x {height} pixels, which is outside the limits.")]
    #[allow(missing_docs)]
    Dimensions { width: u32, height: u32 },
    /// Not the caller's fault.
    #[error("The reference image could not be stored.")]
    Io(#[source] io::Error),
}

impl From<Flaw> for BadReference {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Truncated => Self::Truncated,
            Flaw::Damaged(what) => Self::Damaged(what),
            Flaw::Dimensions(width, height) => Self::Dimensions { width, height },
        }
    }
}

/// A sink for the base64 text of one reference.
///
/// Accepted are the standard and the URL-safe alphabet, also mixed; blanks and line ends anywhere;
/// any padding or none; and a `data:<type>;base64,` in front, whose type is not believed. The
/// bytes after the end of the picture, if any, count for the limit and are not stored.
///
/// Dropped before [`ReferenceWriter::finish`], it removes its file.
pub struct ReferenceWriter {
    dir: PathBuf,
    index: usize,
    text: Text,
    /// Symbols of the standard alphabet that wait to be decoded.
    symbols: Vec<u8>,
    decoded: Vec<u8>,
    sink: Sink,
    /// What an [`io::Error`] could not say.
    refused: Option<BadReference>,
}

/// Where in the text we are.
enum Text {
    /// The first characters, while they may be the start of a `data:` URL.
    Start(Vec<u8>),
    /// In front of the comma of a `data:` URL.
    UrlHead(Vec<u8>),
    Symbols,
    Padding,
}

/// Where decoded bytes go.
struct Sink {
    part: Unfinished,
    hash: Sha256,
    /// Bytes decoded.
    decoded: u64,
    /// Bytes that belong to the picture.
    bytes: u64,
    walk: Option<(Format, Walk)>,
}

impl ReferenceWriter {
    /// Creates `dir/<index>.part`, emptying one that is there.
    ///
    /// # Errors
    /// [`BadReference::Io`] only.
    pub fn create(dir: &Path, index: usize) -> Result<Self, BadReference> {
        Ok(Self {
            dir: dir.to_owned(),
            index,
            text: Text::Start(Vec::new()),
            symbols: Vec::with_capacity(SYMBOLS),
            decoded: vec![0; SYMBOLS / 4 * 3],
            sink: Sink::create(dir, index)?,
            refused: None,
        })
    }

    /// Takes the next portion of the text, of any length; of no more use after an error.
    fn push(&mut self, portion: &[u8]) -> Result<(), BadReference> {
        let mut rest = portion;
        while let [first, later @ ..] = rest {
            match &mut self.text {
                Text::Start(start) => {
                    if !first.is_ascii_whitespace() {
                        start.push(*first);
                    }
                    rest = later;
                    if start.eq_ignore_ascii_case(b"data:") {
                        self.text = Text::UrlHead(Vec::new());
                    } else if !b"data:"
                        .get(..start.len())
                        .is_some_and(|d| d.eq_ignore_ascii_case(start))
                    {
                        self.leave_start()?;
                    }
                }
                Text::UrlHead(head) => {
                    rest = later;
                    if *first == b',' {
                        if !head.to_ascii_lowercase().ends_with(b";base64") {
                            return Err(BadReference::NotBase64);
                        }
                        self.text = Text::Symbols;
                    } else if head.len() == MAX_URL_HEAD {
                        return Err(BadReference::NotBase64);
                    } else {
                        head.push(*first);
                    }
                }
                Text::Symbols => {
                    rest = self.collect(rest)?;
                    if self.symbols.len() == SYMBOLS {
                        self.decode()?;
                    }
                }
                Text::Padding => {
                    if *first != b'=' && !first.is_ascii_whitespace() {
                        return Err(BadReference::NotBase64);
                    }
                    rest = later;
                }
            }
        }
        // What a small portion shows must not wait for a large one.
        if self.sink.walk.is_none() && self.symbols.len() >= Format::SNIFF_BYTES * 4 / 3 {
            self.decode()?;
        }
        Ok(())
    }

    /// Verifies that the reference is complete and gives it its name: `<index>.<extension>`. File
    /// and name are durable afterwards (the folder's own entry in its parent is the caller's).
    ///
    /// # Errors
    /// Why the reference is refused, also when a [`Write::write`] has failed for that.
    pub fn finish(mut self) -> Result<Reference, BadReference> {
        if let Some(refused) = self.refused.take() {
            return Err(refused);
        }
        match self.text {
            Text::Start(_) => self.leave_start()?,
            Text::UrlHead(_) => return Err(BadReference::NotBase64),
            Text::Symbols | Text::Padding => {}
        }
        self.decode_all()?;
        self.sink.finish(&self.dir, self.index)
    }

    /// The text did not start as a URL: what was held back is base64.
    fn leave_start(&mut self) -> Result<(), BadReference> {
        if let Text::Start(start) = std::mem::replace(&mut self.text, Text::Symbols) {
            self.collect(&start)?;
        }
        Ok(())
    }

    /// Moves symbols out of `text` until the buffer is full or padding begins; returns the rest.
    fn collect<'a>(&mut self, text: &'a [u8]) -> Result<&'a [u8], BadReference> {
        for (at, byte) in text.iter().enumerate() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => self.symbols.push(*byte),
                b'-' => self.symbols.push(b'+'),
                b'_' => self.symbols.push(b'/'),
                b'=' => {
                    self.text = Text::Padding;
                    return Ok(&text[at + 1..]);
                }
                blank if blank.is_ascii_whitespace() => {}
                _ => return Err(BadReference::NotBase64),
            }
            if self.symbols.len() == SYMBOLS {
                return Ok(&text[at + 1..]);
            }
        }
        Ok(&[])
    }

    /// Decodes whole groups of 4 symbols and keeps the rest.
    fn decode(&mut self) -> Result<(), BadReference> {
        let rest = self.symbols.split_off(self.symbols.len() / 4 * 4);
        self.decode_all()?;
        self.symbols.extend(rest);
        Ok(())
    }

    fn decode_all(&mut self) -> Result<(), BadReference> {
        let length = BASE64
            .decode_slice(&self.symbols, &mut self.decoded)
            .map_err(|_| BadReference::NotBase64)?;
        self.symbols.clear();
        self.sink.take(&self.decoded[..length])
    }
}

impl Write for ReferenceWriter {
    /// Takes the next portion of the text, of any length and all of it. An error means that the
    /// reference is refused and no further text is wanted; [`ReferenceWriter::finish`] says why.
    fn write(&mut self, portion: &[u8]) -> io::Result<usize> {
        if self.refused.is_none() {
            self.refused = self.push(portion).err();
        }
        match &self.refused {
            None => Ok(portion.len()),
            Some(refused) => Err(io::Error::new(io::ErrorKind::InvalidData, refused.to_string())),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    /// Creates `dir/<index>.part`, emptying one that is there.
    fn create(dir: &Path, index: usize) -> Result<Self, BadReference> {
        let part = Unfinished::create(dir.join(format!("{index}.part")));
        let part = part.map_err(BadReference::Io)?;
        Ok(Self { part, hash: Sha256::new(), decoded: 0, bytes: 0, walk: None })
    }

    /// Verifies that the picture is complete and gives it its name.
    fn finish(self, dir: &Path, index: usize) -> Result<Reference, BadReference> {
        let Self { part, hash, bytes, decoded, walk } = self;
        let (format, walk) = match walk {
            Some(known) => known,
            None if decoded == 0 => return Err(BadReference::Empty),
            None => return Err(BadReference::UnknownType),
        };
        let shape = walk.finish()?;
        let file_name = format!("{index}.{}", format.extension());
        part.keep(dir, &file_name).map_err(BadReference::Io)?;
        let (width, height) = (shape.width, shape.height);
        let picture = Picture { format, bytes, width, height, sha256: hash.finalize().into() };
        Ok(Reference { picture, file_name })
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), BadReference> {
        self.decoded += bytes.len() as u64;
        if self.decoded > MAX_REFERENCE_BYTES {
            return Err(BadReference::TooLarge);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let (_, walk) = match &mut self.walk {
            Some(known) => known,
            none => {
                let format = Format::sniff(bytes).ok_or(BadReference::UnknownType)?;
                none.insert((format, Walk::new(format)))
            }
        };
        let belongs = walk.feed(bytes)?;
        let bytes = &bytes[..belongs];
        self.bytes += belongs as u64;
        self.hash.update(bytes);
        self.part.write_all(bytes).map_err(BadReference::Io)
    }
}

/// A sink for the bytes of one reference as they are. Dropped before [`RawReferenceWriter::finish`],
/// it removes its file.
pub struct RawReferenceWriter {
    dir: PathBuf,
    index: usize,
    /// The first bytes, until there are enough of them to tell the format.
    head: Vec<u8>,
    sink: Sink,
}

impl RawReferenceWriter {
    /// Creates `dir/<index>.part`, emptying one that is there.
    ///
    /// # Errors
    /// [`BadReference::Io`] only.
    pub fn create(dir: &Path, index: usize) -> Result<Self, BadReference> {
        let sink = Sink::create(dir, index)?;
        Ok(Self { dir: dir.to_owned(), index, head: Vec::new(), sink })
    }

    /// Takes the next portion, of any length; of no more use after an error.
    ///
    /// # Errors
    /// Why the reference is refused: at the first byte that shows it.
    pub fn push(&mut self, portion: &[u8]) -> Result<(), BadReference> {
        if self.sink.walk.is_some() {
            return self.sink.take(portion);
        }
        self.head.extend_from_slice(portion);
        if self.head.len() < Format::SNIFF_BYTES {
            return Ok(());
        }
        self.sink.take(&std::mem::take(&mut self.head))
    }

    /// See [`ReferenceWriter::finish`].
    ///
    /// # Errors
    /// Why the reference is refused.
    pub fn finish(mut self) -> Result<Reference, BadReference> {
        let head = std::mem::take(&mut self.head);
        self.sink.take(&head)?;
        self.sink.finish(&self.dir, self.index)
    }
}

#[cfg(test)]
mod tests;
