//! Bytes in and out: stream to disk, sniff, verify, name, serve, remove.
//!
//! Everything here blocks (files, hashing, decoding) and belongs on a blocking thread, except
//! [`body`], which hands a file to the HTTP server. Nothing is trusted: what Codex wrote and what
//! a caller sent pass the same walk over their structure before a name is given to them.

use std::fmt::Write as _;

mod base64_body;
mod body;
mod convert;
mod files;
mod format;
mod import;
mod pixels;
mod reference;
#[cfg(test)]
pub(crate) mod samples;
mod thumbnail;
mod walk;

pub use self::{
    base64_body::{Base64Body, Segment},
    body::FileBody,
    convert::Output,
    files::{
        Stored, TEMPORARY_PREFIX, check_folder, open, open_thumbnail, remove, sweep, thumbnail_name,
    },
    format::Format,
    import::{DECODES_AT_ONCE, Imported, MAX_FRAME_PIXELS, MAX_IMPORT_BYTES, Rejected, import},
    reference::{
        BadReference, MAX_REFERENCE_BYTES, RawReferenceWriter, Reference, ReferenceWriter,
    },
    thumbnail::make_thumbnail,
    walk::{MAX_PIXELS, MAX_SIDE},
};

/// What is known of a verified picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// What its bytes say it is, whatever it was called.
    pub format: Format,
    /// Length in bytes.
    pub bytes: u64,
    /// Pixels, 1 to [`MAX_SIDE`].
    pub width: u32,
    /// Pixels, 1 to [`MAX_SIDE`].
    pub height: u32,
    /// Of the stored bytes.
    pub sha256: [u8; 32],
}

impl Picture {
    /// The hash as 64 lower-case hex digits.
    #[must_use]
    pub fn sha256_hex(&self) -> String {
        hex(&self.sha256)
    }
}

/// Bytes as lower-case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
