//! Pictures that are real, small, and unlike each other. Used by the backend stand-in and by the
//! fake Codex.

use std::{
    fmt::Write as _,
    io::Cursor,
    sync::atomic::{AtomicU64, Ordering},
};

use image::{DynamicImage, ImageFormat, Rgb, RgbImage, RgbaImage};
use sha2::{Digest, Sha256};

/// What a picture shall look like.
#[derive(Clone, Debug)]
pub struct Kind {
    /// Width and height.
    pub size: (u32, u32),
    /// PNG, JPEG or WebP.
    pub format: ImageFormat,
    /// Pixels that do not compress: 1024x1024 makes about 3 MB as PNG.
    pub noise: bool,
    /// Left half opaque, right half transparent; PNG and WebP only.
    pub alpha: bool,
}

impl Default for Kind {
    fn default() -> Self {
        Self { size: (64, 64), format: ImageFormat::Png, noise: false, alpha: false }
    }
}

/// A picture unlike every other one of this process, and of any process with another `seed`.
pub fn unique(kind: &Kind, seed: &str) -> Vec<u8> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    of_seed(kind, &format!("{seed}#{}#{number}", std::process::id()))
}

/// The same bytes for the same `seed`: sixteen blocks coloured by its hash, or noise.
pub fn of_seed(kind: &Kind, seed: &str) -> Vec<u8> {
    let colours: Vec<u8> =
        (0..2u8).flat_map(|half| Sha256::digest(format!("{half}{seed}")).to_vec()).collect();
    let (width, height) = kind.size;
    let picture = if kind.noise {
        let mut pixels = vec![0; width as usize * height as usize * 3];
        noise(&colours, &mut pixels);
        RgbImage::from_raw(width, height, pixels).expect("three bytes a pixel")
    } else {
        RgbImage::from_fn(width, height, |x, y| {
            let block = (4 * (4 * y / height) + 4 * x / width) as usize * 3;
            Rgb([colours[block], colours[block + 1], colours[block + 2]])
        })
    };
    let picture = if kind.alpha && kind.format != ImageFormat::Jpeg {
        let mut clear: RgbaImage = DynamicImage::from(picture).into_rgba8();
        for (x, _, pixel) in clear.enumerate_pixels_mut() {
            pixel.0[3] = if x < width / 2 { 255 } else { 0 };
        }
        DynamicImage::from(clear)
    } else {
        DynamicImage::from(picture)
    };
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, kind.format).expect("a picture of our own can be written");
    bytes.into_inner()
}

/// Fills `pixels` with the output of xorshift64, seeded from `seed`.
fn noise(seed: &[u8], pixels: &mut [u8]) {
    let mut state = u64::from_le_bytes(seed[..8].try_into().expect("eight bytes")) | 1;
    for chunk in pixels.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
}

/// A true PNG whose header claims `width` x `height`: what a decoder without limits chokes on.
pub fn lying_png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = of_seed(&Kind::default(), "bomb");
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let sum = crc32fast::hash(&bytes[12..29]); // the chunk's name and data
    bytes[29..33].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Lower-case hex SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a string");
        hex
    })
}
