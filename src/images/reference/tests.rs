use std::fs;

use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE};
use proptest::prelude::*;

use super::*;
use crate::images::samples;

/// Feeds the text in portions of the given lengths, over and over.
fn receive(text: &[u8], portions: &[usize]) -> Result<(Reference, Vec<u8>), BadReference> {
    let dir = tempfile::tempdir().unwrap();
    let result = (|| {
        let mut writer = ReferenceWriter::create(dir.path(), 2)?;
        let mut rest = text;
        for portion in portions.iter().cycle() {
            let (now, later) = rest.split_at((*portion).min(rest.len()));
            if writer.write_all(now).is_err() {
                break;
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        let reference = writer.finish()?;
        let bytes = fs::read(dir.path().join(&reference.file_name)).unwrap();
        Ok((reference, bytes))
    })();
    let files = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, usize::from(result.is_ok()), "a refused reference leaves nothing");
    result
}

fn whole(text: &str) -> Result<(Reference, Vec<u8>), BadReference> {
    receive(text.as_bytes(), &[usize::MAX])
}

#[test]
fn every_format_in_every_dress() {
    for format in Format::ALL {
        let bytes = samples::encoded(format, 31, 33, 3);
        let plain = BASE64_STANDARD.encode(&bytes);
        let lines: Vec<_> = plain.as_bytes().chunks(76).map(String::from_utf8_lossy).collect();
        for text in [
            plain.clone(),
            BASE64_STANDARD_NO_PAD.encode(&bytes),
            BASE64_URL_SAFE.encode(&bytes),
            format!("data:image/png;base64,{plain}"),
            format!(" DATA:image/x;charset=utf-8;Base64,{plain}\n"),
            format!("\r\n{}\r\n", lines.join("\r\n")),
            format!("{plain}==="),
        ] {
            let (reference, stored) = whole(&text).unwrap();
            assert_eq!(stored, bytes);
            assert_eq!(reference.file_name, format!("2.{}", format.extension()));
            assert_eq!((reference.picture.width, reference.picture.height), (31, 33));
            assert_eq!(reference.picture.bytes, bytes.len() as u64);
            assert_eq!(reference.picture.sha256[..], Sha256::digest(&bytes)[..]);
        }
    }
}

#[test]
fn each_refusal_has_its_reason() {
    let png = samples::encoded(Format::Png, 200, 200, 3);
    let plain = BASE64_STANDARD.encode(&png);
    let encode = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    assert!(matches!(whole(""), Err(BadReference::Empty)));
    assert!(matches!(whole(" \n"), Err(BadReference::Empty)));
    assert!(matches!(whole("===="), Err(BadReference::Empty)));
    assert!(matches!(whole("data:image/png;base64,"), Err(BadReference::Empty)));
    assert!(matches!(whole("data:image/png;base64"), Err(BadReference::NotBase64)));
    assert!(matches!(whole("data:text/plain,hello"), Err(BadReference::NotBase64)));
    assert!(matches!(whole("https://example.org/a.png"), Err(BadReference::NotBase64)));
    assert!(matches!(whole("A"), Err(BadReference::NotBase64)));
    assert!(matches!(whole(&format!("{plain}=A")), Err(BadReference::NotBase64)));
    assert!(matches!(whole(&plain.replace('A', "Ä")), Err(BadReference::NotBase64)));
    assert!(matches!(whole("data"), Err(BadReference::UnknownType)));
    assert!(matches!(whole(&encode(b"GIF89a, or something")), Err(BadReference::UnknownType)));
    assert!(matches!(whole(&plain[..plain.len() / 2]), Err(BadReference::Truncated)));
    let mut damaged = png.clone();
    damaged[png.len() / 2] ^= 1;
    assert!(matches!(whole(&encode(&damaged)), Err(BadReference::Damaged(_))));
    let bomb = samples::png_of(&[(b"IHDR", &samples::ihdr(20_000, 20_000))]);
    assert!(matches!(whole(&encode(&bomb)), Err(BadReference::Dimensions { width: 20_000, .. })));
}

#[test]
fn too_large_stops_early() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ReferenceWriter::create(dir.path(), 0).unwrap();
    // A header and then a chunk that never ends.
    let mut head = samples::png_of(&[(b"IHDR", &samples::ihdr(100, 100))]);
    head.extend(b"\x7f\xff\xff\xffIDAT");
    // Whole groups of symbols, so that more text may follow.
    head.resize(head.len().next_multiple_of(3), 0);
    writer.write_all(BASE64_STANDARD.encode(head).as_bytes()).unwrap();
    let portion = [b'A'; 4096];
    let most = MAX_REFERENCE_BYTES / 3072 + 16;
    let portions = (0..most).take_while(|_| writer.write_all(&portion).is_ok()).count() as u64;
    assert!(portions < most, "it never stopped");
    assert!(matches!(writer.finish(), Err(BadReference::TooLarge)));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_unknown_type_is_told_by_the_first_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ReferenceWriter::create(dir.path(), 0).unwrap();
    assert!(writer.write_all(b"R0lGODlhAQABAAAAACw=").is_err());
    assert!(writer.write_all(b"R0lGODlhAQABAAAAACw=").is_err());
    assert!(matches!(writer.finish(), Err(BadReference::UnknownType)));
}

#[test]
fn an_unfinished_reference_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ReferenceWriter::create(dir.path(), 0).unwrap();
    writer.write_all(b"iVBORw0KGgo").unwrap();
    assert!(dir.path().join("0.part").exists());
    drop(writer);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn words_for_the_caller_hold_no_path() {
    let missing = ReferenceWriter::create(Path::new("/nowhere/at/all"), 0).err().unwrap();
    assert_eq!(missing.to_string(), "The reference image could not be stored.");
    assert_eq!(BadReference::TooLarge.to_string(), "The reference image is larger than 10 MiB.");
}

proptest! {
    #[test]
    fn portions_make_no_difference(
        portions in prop::collection::vec(1_usize..300, 1..12),
        format in prop::sample::select(&Format::ALL[..]),
        noise in 1_u32..1000,
        url in any::<bool>(),
    ) {
        let bytes = samples::encoded(format, 40, 30, noise);
        let mut text = if url { "data:image/png;base64,".to_owned() } else { String::new() };
        BASE64_STANDARD.encode_string(&bytes, &mut text);
        let (reference, stored) = receive(text.as_bytes(), &portions).unwrap();
        prop_assert_eq!(stored, bytes);
        prop_assert_eq!(reference, whole(&text).unwrap().0);
    }

    #[test]
    fn truncated_anywhere_is_refused(
        format in prop::sample::select(&Format::ALL[..]),
        end in any::<prop::sample::Index>(),
    ) {
        let bytes = samples::encoded(format, 40, 30, 5);
        let text = BASE64_STANDARD.encode(&bytes[..end.index(bytes.len())]);
        prop_assert!(whole(&text).is_err());
    }

    #[test]
    fn garbage_is_refused(text in prop::collection::vec(any::<u8>(), 0..300), portion in 1_usize..9) {
        prop_assert!(receive(&text, &[portion]).is_err());
    }
}
