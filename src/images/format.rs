//! The three formats that this service knows, told by their first bytes and never by a name.

/// A picture's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Format {
    Png,
    Jpeg,
    Webp,
}

impl Format {
    /// Every format there is.
    pub const ALL: [Self; 3] = [Self::Png, Self::Jpeg, Self::Webp];

    /// How many first bytes [`Format::sniff`] needs to recognise every format.
    pub const SNIFF_BYTES: usize = 12;

    /// Recognises a format by the first bytes of a file.
    #[must_use]
    pub fn sniff(head: &[u8]) -> Option<Self> {
        if head.starts_with(b"\x89PNG\r\n\x1a\n") {
            Some(Self::Png)
        } else if head.starts_with(b"\xff\xd8\xff") {
            Some(Self::Jpeg)
        } else if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP") {
            Some(Self::Webp)
        } else {
            None
        }
    }

    /// The ending of file names, without a dot.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Webp => "webp",
        }
    }

    /// The value of `Content-Type`.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
        }
    }

    /// The word of OpenAI's API and of the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Webp => "webp",
        }
    }

    /// The format of that [word](Format::as_str).
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == word)
    }

    /// The format that an [`extension`](Format::extension) of ours stands for.
    #[must_use]
    pub fn of_extension(extension: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.extension() == extension)
    }
}

#[cfg(test)]
mod tests {
    use super::Format;

    #[test]
    fn first_bytes_tell() {
        assert_eq!(Format::sniff(b"\x89PNG\r\n\x1a\n____"), Some(Format::Png));
        assert_eq!(Format::sniff(b"\xff\xd8\xff\xe0________"), Some(Format::Jpeg));
        assert_eq!(Format::sniff(b"RIFF____WEBP"), Some(Format::Webp));
        for other in
            [&b""[..], b"GIF89a______", b"RIFF____WAVE", b"\x89PNG\r\n\x1a", b"<svg xmlns="]
        {
            assert_eq!(Format::sniff(other), None);
        }
    }

    #[test]
    fn extensions_lead_back() {
        for format in Format::ALL {
            assert_eq!(Format::of_extension(format.extension()), Some(format));
        }
        assert_eq!(Format::of_extension("jpeg"), None);
    }
}
