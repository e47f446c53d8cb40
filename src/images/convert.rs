//! Converts a verified picture into the format that its caller asked for. Colour profiles and
//! orientation are carried over; where JPEG has no transparency, the picture lies on white.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Seek, Write},
    panic::{AssertUnwindSafe, catch_unwind},
};

use image::{
    DynamicImage, ImageDecoder, ImageEncoder, ImageError, ImageReader, Rgb, RgbImage,
    codecs::{
        jpeg::JpegEncoder,
        png::{CompressionType, FilterType, PngEncoder},
        webp::WebPEncoder,
    },
};
use sha2::{Digest, Sha256};

use super::{Format, MAX_FRAME_PIXELS, Picture};

/// What the decoder may allocate beyond the frame itself.
const DECODER_BYTES: u64 = 512 * 1024 * 1024;

/// The format that a caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// Which one.
    pub format: Format,
    /// 0 (small) to 100 (good); of use for JPEG only. PNG and WebP are written without loss.
    pub compression: u8,
}

/// Why a picture was not converted.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConvertError {
    #[error("it has too many pixels to be converted")]
    TooLarge,
    #[error("it cannot be converted: {0}")]
    Failed(String),
    /// Not the picture's fault: a full disk and the like.
    #[error("cannot store the picture: {0}")]
    Storage(#[source] io::Error),
}

/// Writes the picture in `from` to `to` in the wanted format; gives what is known of the new one.
///
/// Holds the whole frame: 4 bytes a pixel and as much again for JPEG.
pub(super) fn convert(
    mut from: &File,
    picture: &Picture,
    output: Output,
    to: &mut impl Write,
) -> Result<Picture, ConvertError> {
    if u64::from(picture.width) * u64::from(picture.height) > MAX_FRAME_PIXELS {
        return Err(ConvertError::TooLarge);
    }
    from.rewind().map_err(ConvertError::Storage)?;
    let mut counted =
        Counted { inner: BufWriter::new(to), bytes: 0, hash: Sha256::new(), failed: None };
    // The input is hostile and a decoder's bug must not look like ours.
    let size =
        catch_unwind(AssertUnwindSafe(|| recode(from, picture.format, output, &mut counted)))
            .unwrap_or_else(|_| Err("the decoder panicked".into()));
    if size.is_ok() {
        counted.flush().map_err(ConvertError::Storage)?;
    }
    if let Some(error) = counted.failed.take() {
        return Err(ConvertError::Storage(error));
    }
    let (width, height) = size.map_err(ConvertError::Failed)?;
    let (bytes, sha256) = (counted.bytes, counted.hash.finalize().into());
    Ok(Picture { format: output.format, bytes, width, height, sha256 })
}

fn recode(
    from: &File,
    format: Format,
    output: Output,
    to: &mut impl Write,
) -> Result<(u32, u32), String> {
    let (picture, profile) = read_whole(from, format)?;
    let size = (picture.width(), picture.height());
    match output.format {
        Format::Png => {
            let encoder =
                PngEncoder::new_with_quality(to, CompressionType::Fast, FilterType::Adaptive);
            written(encoder, profile, &eight_bits(picture))
        }
        Format::Jpeg => {
            // The encoder knows no 0.
            let encoder = JpegEncoder::new_with_quality(to, output.compression.clamp(1, 100));
            written(encoder, profile, &on_white(&picture).into())
        }
        Format::Webp => written(WebPEncoder::new_lossless(to), profile, &eight_bits(picture)),
    }
    .map_err(|error| error.to_string())?;
    Ok(size)
}

/// The whole frame, the right way up, and its colour profile. The file is read from where it stands.
pub(super) fn read_whole(
    from: &File,
    format: Format,
) -> Result<(DynamicImage, Option<Vec<u8>>), String> {
    let words = |error: ImageError| error.to_string();
    let known = match format {
        Format::Png => image::ImageFormat::Png,
        Format::Jpeg => image::ImageFormat::Jpeg,
        Format::Webp => image::ImageFormat::WebP,
    };
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(DECODER_BYTES);
    let mut reader = ImageReader::with_format(BufReader::new(from), known);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(words)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_FRAME_PIXELS {
        return Err("it has too many pixels".to_owned());
    }
    let profile = decoder.icc_profile().map_err(words)?;
    let orientation = decoder.orientation().map_err(words)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(words)?;
    picture.apply_orientation(orientation);
    Ok((picture, profile))
}

fn written(
    mut encoder: impl ImageEncoder,
    profile: Option<Vec<u8>>,
    picture: &DynamicImage,
) -> Result<(), ImageError> {
    if let Some(profile) = profile {
        // Without it the picture is still right, in sRGB's colours.
        let _ = encoder.set_icc_profile(profile);
    }
    let (width, height) = (picture.width(), picture.height());
    encoder.write_image(picture.as_bytes(), width, height, picture.color().into())
}

/// Samples of 8 bits, with transparency only where there is some.
fn eight_bits(picture: DynamicImage) -> DynamicImage {
    match picture {
        picture @ (DynamicImage::ImageRgb8(_) | DynamicImage::ImageRgba8(_)) => picture,
        picture if picture.color().has_alpha() => picture.into_rgba8().into(),
        picture => picture.into_rgb8().into(),
    }
}

pub(super) fn on_white(picture: &DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.to_rgb8();
    }
    let pixels = picture.to_rgba8();
    RgbImage::from_fn(pixels.width(), pixels.height(), |x, y| {
        let [red, green, blue, alpha] = pixels.get_pixel(x, y).0;
        Rgb([red, green, blue].map(|sample| over_white(sample, alpha)))
    })
}

fn over_white(sample: u8, alpha: u8) -> u8 {
    let (sample, alpha) = (u32::from(sample), u32::from(alpha));
    let mixed = (sample * alpha + 255 * (255 - alpha) + 127) / 255;
    u8::try_from(mixed).unwrap_or(u8::MAX)
}

/// Counts and hashes what passes, and remembers why it could not.
struct Counted<W> {
    inner: W,
    bytes: u64,
    hash: Sha256,
    failed: Option<io::Error>,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.inner.write(bytes) {
            Ok(count) => {
                self.bytes += count as u64;
                self.hash.update(&bytes[..count]);
                Ok(count)
            }
            Err(error) => {
                // The encoder wraps it in words of its own.
                let same = io::Error::from(error.kind());
                self.failed = Some(error);
                Err(same)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
