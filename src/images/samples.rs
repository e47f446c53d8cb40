//! Pictures for the tests of this room.

use std::io::Cursor;

use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat, RgbImage};

use super::Format;

/// A small picture with some structure, and noise where `noise` is not 0.
pub fn pixels(width: u32, height: u32, noise: u32) -> RgbImage {
    let mut state = noise;
    RgbImage::from_fn(width, height, |x, y| {
        if noise != 0 {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
        }
        let [a, b, c, _] = state.to_le_bytes();
        let low = |number: u32| number.to_le_bytes()[0];
        image::Rgb([low(x * 5) ^ a, low(y * 3) ^ b, low(x + y) ^ c])
    })
}

pub fn encoded(format: Format, width: u32, height: u32, noise: u32) -> Vec<u8> {
    let format = match format {
        Format::Png => ImageFormat::Png,
        Format::Jpeg => ImageFormat::Jpeg,
        Format::Webp => ImageFormat::WebP,
    };
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(pixels(width, height, noise)).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// PNG chunks with right checksums.
pub fn png_of(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in chunks {
        let mut crc = crc32fast::Hasher::new();
        crc.update(*kind);
        crc.update(data);
        png.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        png.extend(*kind);
        png.extend(*data);
        png.extend(crc.finalize().to_be_bytes());
    }
    png
}

/// A PNG header.
pub fn ihdr(width: u32, height: u32) -> Vec<u8> {
    let mut data = Vec::new();
    data.extend(width.to_be_bytes());
    data.extend(height.to_be_bytes());
    data.extend([8, 2, 0, 0, 0]);
    data
}

/// Two frames.
pub fn animated_png() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 4, 4);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_animated(2, 0).unwrap();
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[1; 48]).unwrap();
    writer.write_image_data(&[2; 48]).unwrap();
    writer.finish().unwrap();
    bytes
}

/// An extended WebP of one lossless picture, as writers with metadata make it.
pub fn extended_webp(width: u32, height: u32, flags: u8) -> Vec<u8> {
    let mut plain = Vec::new();
    image::codecs::webp::WebPEncoder::new_lossless(&mut plain)
        .write_image(&pixels(width, height, 7), width, height, ExtendedColorType::Rgb8)
        .unwrap();
    let mut chunks = b"VP8X\x0a\0\0\0".to_vec();
    chunks.extend([flags, 0, 0, 0]);
    chunks.extend(&(width - 1).to_le_bytes()[..3]);
    chunks.extend(&(height - 1).to_le_bytes()[..3]);
    chunks.extend(&plain[12..]);
    chunks.extend(b"XMP \x03\0\0\0abc\0");
    let mut webp = b"RIFF".to_vec();
    webp.extend(u32::try_from(chunks.len() + 4).unwrap().to_le_bytes());
    webp.extend(b"WEBP");
    webp.extend(chunks);
    webp
}

/// One of every format, each unlike the others.
pub fn each() -> [(Format, Vec<u8>); 3] {
    [(Format::Png, 1), (Format::Jpeg, 2), (Format::Webp, 3)]
        .map(|(format, noise)| (format, encoded(format, 40, 30, noise)))
}
