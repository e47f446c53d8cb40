use std::{fs, os::unix::fs::PermissionsExt};

use super::*;
use crate::images::samples;

struct Folders {
    _root: tempfile::TempDir,
    candidate: std::path::PathBuf,
    generated: std::path::PathBuf,
}

impl Folders {
    fn with(bytes: &[u8]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let candidate = root.path().join("ig_1.png");
        let generated = root.path().join("generated");
        fs::create_dir(&generated).unwrap();
        fs::write(&candidate, bytes).unwrap();
        Self { _root: root, candidate, generated }
    }

    fn import(&self) -> Result<Imported, Rejected> {
        import(&self.candidate, &self.generated, "img_1", None)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.generated).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn rejected(bytes: &[u8]) -> Rejected {
    let folders = Folders::with(bytes);
    let rejected = folders.import().unwrap_err();
    assert_eq!(folders.names(), [""; 0], "something stayed");
    assert!(folders.candidate.exists());
    rejected
}

#[test]
fn every_format_gets_its_true_name() {
    for format in Format::ALL {
        let bytes = samples::encoded(format, 41, 29, 11);
        let folders = Folders::with(&bytes);
        let imported = folders.import().unwrap();
        let picture = &imported.picture;
        assert_eq!((picture.width, picture.height, picture.format), (41, 29, format));
        assert_eq!(picture.bytes, bytes.len() as u64);
        assert_eq!(picture.sha256[..], Sha256::digest(&bytes)[..]);
        assert_eq!(picture.sha256_hex().len(), 64);
        assert_eq!(imported.file_name, format!("img_1.{}", format.extension()));
        assert_eq!(folders.names(), std::slice::from_ref(&imported.file_name));
        let stored = folders.generated.join(&imported.file_name);
        assert_eq!(fs::read(&stored).unwrap(), bytes);
        assert_eq!(fs::metadata(stored).unwrap().permissions().mode() & 0o137, 0);
    }
}

#[test]
fn a_repeated_import_replaces_the_older_picture() {
    let folders = Folders::with(&samples::encoded(Format::Jpeg, 8, 8, 1));
    folders.import().unwrap();
    fs::write(&folders.candidate, samples::encoded(Format::Png, 9, 9, 1)).unwrap();
    folders.import().unwrap();
    folders.import().unwrap();
    assert_eq!(folders.names(), ["img_1.png"]);
}

#[test]
fn what_follows_the_picture_stays_behind() {
    let mut bytes = samples::encoded(Format::Png, 8, 8, 1);
    let length = bytes.len() as u64;
    bytes.extend(b"private words");
    assert_eq!(Folders::with(&bytes).import().unwrap().picture.bytes, length);
}

#[test]
fn no_picture_no_name() {
    assert!(matches!(rejected(b""), Rejected::Empty));
    assert!(matches!(rejected(b"I could not draw that, sorry."), Rejected::UnknownType));
    assert!(matches!(rejected(b"GIF89a\x01\0\x01\0\0\0\0;"), Rejected::UnknownType));
    assert!(matches!(rejected(&samples::animated_png()), Rejected::Animated));
    assert!(matches!(rejected(&samples::extended_webp(5, 5, 2)), Rejected::Animated));
    let large = samples::png_of(&[(b"IHDR", &samples::ihdr(30_000, 30_000))]);
    assert!(matches!(rejected(&large), Rejected::Dimensions { width: 30_000, .. }));
}

#[test]
fn truncated_candidates_are_refused() {
    for format in Format::ALL {
        let bytes = samples::encoded(format, 20, 20, 9);
        for end in [13, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
            assert!(matches!(rejected(&bytes[..end]), Rejected::Truncated), "{format:?} {end}");
        }
    }
}

#[test]
fn right_structure_around_wrong_pixels_is_refused() {
    // Checksums are right, but there is nothing in it to make 90 million pixels of.
    let bomb = samples::png_of(&[
        (b"IHDR", &samples::ihdr(9_000, 10_000)),
        (b"IDAT", b"\x78\x9c\x03\0\0\0\0\x01"),
        (b"IEND", b""),
    ]);
    assert!(matches!(rejected(&bomb), Rejected::Undecodable(_)));

    // More codes of one bit than there can be.
    let mut jpeg = samples::encoded(Format::Jpeg, 64, 64, 9);
    let table = jpeg.windows(2).position(|two| two == [0xff, 0xc4]).unwrap();
    jpeg[table + 5] = 0xff;
    assert!(matches!(rejected(&jpeg), Rejected::Undecodable(_)));

    let mut webp = samples::encoded(Format::Webp, 64, 64, 9);
    let end = webp.len();
    webp[end / 2..].fill(0xff);
    assert!(matches!(rejected(&webp), Rejected::Undecodable(_) | Rejected::Damaged(_)));
}

#[test]
fn a_frame_that_must_be_held_whole_has_a_tighter_limit() {
    let mut jpeg = samples::encoded(Format::Jpeg, 8, 8, 9);
    let frame = jpeg.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x20, 0, 0x20, 0]);
    assert!(matches!(rejected(&jpeg), Rejected::Dimensions { width: 8192, height: 8192 }));
}

#[test]
fn only_regular_files_are_opened() {
    let folders = Folders::with(&samples::encoded(Format::Png, 8, 8, 1));
    let link = folders.candidate.with_file_name("link.png");
    std::os::unix::fs::symlink(&folders.candidate, &link).unwrap();
    let pipe = folders.candidate.with_file_name("pipe.png");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
    let missing = folders.candidate.with_file_name("missing.png");
    let import = |path: &Path| import(path, &folders.generated, "img_1", None).unwrap_err();

    assert!(matches!(import(&link), Rejected::Link));
    assert!(matches!(import(&pipe), Rejected::NotAFile));
    assert!(matches!(import(&folders.generated), Rejected::NotAFile));
    assert!(matches!(import(&missing), Rejected::Unreadable(_)));
    assert_eq!(folders.names(), [""; 0]);
}

#[test]
fn too_large_is_told_without_reading() {
    let folders = Folders::with(b"");
    let file = fs::File::create(&folders.candidate).unwrap();
    file.set_len(MAX_IMPORT_BYTES + 1).unwrap();
    assert!(matches!(folders.import(), Err(Rejected::TooLarge)));
}

#[test]
fn stems_are_names() {
    let folders = Folders::with(&samples::encoded(Format::Png, 8, 8, 1));
    for stem in ["", "../x", "a.b", ".hidden", "ü"] {
        let result = import(&folders.candidate, &folders.generated, stem, None);
        assert!(matches!(result, Err(Rejected::Storage(_))), "{stem}");
    }
}

/// Not a test but a measurement: `cargo test --release --lib import_cost -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn import_cost() {
    let noise = samples::encoded(Format::Png, 1024, 1024, 77);
    let mut flat = Vec::new();
    let gradient = image::RgbImage::from_fn(1024, 1024, |x, y| {
        image::Rgb([x.to_le_bytes()[0], y.to_le_bytes()[0] / 4, 128])
    });
    image::DynamicImage::from(gradient)
        .write_to(&mut io::Cursor::new(&mut flat), image::ImageFormat::Png)
        .unwrap();
    let jpeg = samples::encoded(Format::Jpeg, 1024, 1024, 77);
    let webp = samples::encoded(Format::Webp, 1024, 1024, 77);
    for (what, bytes) in [("gradient", flat), ("noise", noise), ("jpeg", jpeg), ("webp", webp)] {
        let folders = Folders::with(&bytes);
        let mut times: Vec<_> = (0..31)
            .map(|_| {
                let start = std::time::Instant::now();
                folders.import().unwrap();
                let whole = start.elapsed();
                let file = fs::File::open(&folders.candidate).unwrap();
                let start = std::time::Instant::now();
                pixels::decode(&file, Format::sniff(&bytes).unwrap()).unwrap();
                (whole, start.elapsed())
            })
            .collect();
        times.sort();
        let (whole, decode) = times[15];
        println!("{what}: {} bytes, import {whole:?}, of which decoding {decode:?}", bytes.len());
    }
}
