//! Decodes a picture to its last pixel and throws the pixels away: the proof that a browser will
//! show it, and the answer to whether anything shines through it. The structure has passed a
//! [walk](super::walk) before, checksums and limits included.

use std::{
    fs::File,
    io::{BufReader, Seek},
    panic::{AssertUnwindSafe, catch_unwind},
};

use image::{ImageDecoder, codecs::webp::WebPDecoder};
use png::{BitDepth, ColorType, Decoder, Limits, Transformations};
use zune_jpeg::{JpegDecoder, zune_core::options::DecoderOptions};

use super::{Format, MAX_SIDE};

/// What the `png` crate may allocate. A row of 16,384 pixels at 8 bytes each is 128 KiB; the rest
/// is for palettes and the like.
const PNG_BYTES: usize = 4 * 1024 * 1024;

/// Reads of this many bytes.
const READ: usize = 64 * 1024;

/// Decodes the file from its start; true when every pixel is opaque. The text of the error is for
/// a log.
///
/// PNG goes row by row and takes less than 5 MiB. The decoders of JPEG and WebP hold a whole
/// frame: up to 9 bytes a pixel (progressive JPEG: coefficients and output) and the file.
pub(super) fn decode(mut file: &File, format: Format) -> Result<bool, String> {
    file.rewind().map_err(|error| error.to_string())?;
    let input = BufReader::with_capacity(READ, file);
    // The input is hostile and a decoder's bug must not look like ours.
    catch_unwind(AssertUnwindSafe(|| match format {
        Format::Png => png(input),
        Format::Jpeg => jpeg(input),
        Format::Webp => webp(input),
    }))
    .unwrap_or_else(|_| Err("the decoder panicked".into()))
}

fn png(input: BufReader<&File>) -> Result<bool, String> {
    let mut decoder = Decoder::new_with_limits(input, Limits { bytes: PNG_BYTES });
    // The walk has verified every CRC.
    decoder.ignore_checksums(true);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    // Makes a missing palette an error.
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(|error| error.to_string())?;
    let line = reader.output_line_size(reader.info().width).ok_or("its rows are too long")?;
    let mut row = vec![0; line];
    let (color, depth) = reader.output_color_type();
    let sample = if depth == BitDepth::Sixteen { 2 } else { 1 };
    let mut opaque = true;
    while reader.read_row(&mut row).map_err(|error| error.to_string())?.is_some() {
        opaque = opaque
            && match color {
                ColorType::GrayscaleAlpha => is_opaque(&row, sample, 2),
                ColorType::Rgba => is_opaque(&row, sample, 4),
                _ => true,
            };
    }
    Ok(opaque)
}

/// Whether the last of each pixel's samples, of so many bytes each, is at its highest everywhere.
fn is_opaque(pixels: &[u8], sample: usize, samples: usize) -> bool {
    pixels
        .chunks_exact(sample * samples)
        .all(|pixel| pixel[sample * (samples - 1)..].iter().all(|byte| *byte == u8::MAX))
}

fn jpeg(input: BufReader<&File>) -> Result<bool, String> {
    // Not strict means: fill what is missing with grey.
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(MAX_SIDE as usize)
        .set_max_height(MAX_SIDE as usize);
    let mut decoder = JpegDecoder::new_with_options(input, options);
    decoder.decode().map_err(|error| error.to_string())?;
    Ok(true)
}

fn webp(input: BufReader<&File>) -> Result<bool, String> {
    let decoder = WebPDecoder::new(input).map_err(|error| error.to_string())?;
    let length = usize::try_from(decoder.total_bytes()).map_err(|error| error.to_string())?;
    let has_alpha = decoder.color_type().has_alpha();
    let mut frame = vec![0; length];
    decoder.read_image(&mut frame).map_err(|error| error.to_string())?;
    Ok(!has_alpha || is_opaque(&frame, 1, 4))
}
