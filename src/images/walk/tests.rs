use super::*;
use crate::images::samples;
use proptest::prelude::*;

/// Walks over the bytes in portions of the given lengths, over and over.
fn walk(bytes: &[u8], portions: &[usize]) -> Result<(usize, Shape), Flaw> {
    let mut walk = Walk::new(Format::sniff(bytes).ok_or(Flaw::Damaged("unknown"))?);
    let mut rest = bytes;
    let mut belongs = 0;
    for portion in portions.iter().cycle() {
        let (now, later) = rest.split_at((*portion).min(rest.len()));
        belongs += walk.feed(now)?;
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    Ok((belongs, walk.finish()?))
}

fn whole(bytes: &[u8]) -> Result<(usize, Shape), Flaw> {
    walk(bytes, &[usize::MAX])
}

fn every_sample() -> Vec<Vec<u8>> {
    let mut samples: Vec<_> =
        Format::ALL.iter().map(|format| samples::encoded(*format, 23, 17, 5)).collect();
    samples.push(samples::extended_webp(23, 17, 0));
    samples
}

#[test]
fn every_format_is_measured() {
    for sample in every_sample() {
        let (belongs, shape) = whole(&sample).unwrap();
        assert_eq!((belongs, shape.width, shape.height), (sample.len(), 23, 17));
        assert!(!shape.animated);
    }
}

#[test]
fn truncated_anywhere_is_noticed() {
    for sample in every_sample() {
        for end in Format::SNIFF_BYTES..sample.len() {
            assert!(whole(&sample[..end]).is_err(), "{end} of {}", sample.len());
        }
    }
}

#[test]
fn what_follows_the_end_does_not_belong() {
    for sample in every_sample() {
        let mut longer = sample.clone();
        longer.extend(b"something else");
        assert_eq!(whole(&longer).unwrap().0, sample.len());
        assert_eq!(walk(&longer, &[3]).unwrap().0, sample.len());
    }
}

#[test]
fn every_flipped_bit_of_a_png_is_noticed() {
    let sample = samples::encoded(Format::Png, 9, 7, 3);
    for bit in 0..sample.len() * 8 {
        let mut flipped = sample.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(whole(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn enormous_claims_are_refused_by_the_header() {
    for (width, height) in [(16_385, 1), (1, 16_385), (16_384, 16_384), (0, 5), (5, 0)] {
        let bomb = samples::png_of(&[(b"IHDR", &samples::ihdr(width, height))]);
        assert_eq!(whole(&bomb), Err(Flaw::Dimensions(width, height)));
    }
    let mut jpeg = b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03".to_vec();
    jpeg.extend([0; 9]);
    assert_eq!(whole(&jpeg), Err(Flaw::Dimensions(65_535, 65_535)));
    let mut webp = b"RIFF\xff\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0".to_vec();
    webp.extend([0xff; 6]);
    assert_eq!(whole(&webp), Err(Flaw::Dimensions(1 << 24, 1 << 24)));
}

#[test]
fn animations_are_told() {
    assert!(whole(&samples::animated_png()).unwrap().1.animated);
    assert!(whole(&samples::extended_webp(5, 5, 0x02)).unwrap().1.animated);
}

#[test]
fn nonsense_in_order_is_refused() {
    let header = samples::ihdr(4, 4);
    let none: &[u8] = &[];
    for chunks in [
        vec![(b"IEND", none)],
        vec![(b"IDAT", none), (b"IHDR", &header[..]), (b"IEND", none)],
        vec![(b"IHDR", &header[..]), (b"IHDR", &header[..])],
        vec![(b"IHDR", &header[..]), (b"IEND", none)],
        vec![(b"IHDR", &header[..12])],
    ] {
        assert!(matches!(whole(&samples::png_of(&chunks)), Err(Flaw::Damaged(_))));
    }
    for jpeg in [
        &b"\xff\xd8\xff\xd9________"[..],
        b"\xff\xd8\xff\xe0\0\x01________",
        b"\xff\xd8\xff\xe0\0\x02________",
        b"\xff\xd8\xff\xda\0\x08________",
        b"\xff\xd8\xff\xd8________",
        b"\xff\xd8\xff\xc0\0\x05________",
    ] {
        assert!(matches!(whole(jpeg), Err(Flaw::Damaged(_))), "{jpeg:x?}");
    }
    for webp in [
        &b"RIFF\x03\0\0\0WEBP____"[..],
        b"RIFF\x04\0\0\0WEBP____",
        b"RIFF\x08\0\0\0WEBP____",
        b"RIFF\xff\xff\xff\xffWEBP____",
        b"RIFF\x40\0\0\0WEBPVP8 \xff\0\0\0____",
        b"RIFF\x40\0\0\0WEBPXMP \x08\0\0\0____",
    ] {
        assert!(matches!(whole(webp), Err(Flaw::Damaged(_))), "{webp:x?}");
    }
}

proptest! {
    #[test]
    fn portions_make_no_difference(
        portions in prop::collection::vec(1_usize..400, 1..20),
        index in 0_usize..4,
    ) {
        let sample = &every_sample()[index];
        prop_assert_eq!(walk(sample, &portions), whole(sample));
    }

    #[test]
    fn garbage_never_panics(
        head in 0_usize..3,
        mut bytes in prop::collection::vec(any::<u8>(), 12..600),
        portion in 1_usize..50,
    ) {
        let starts = [&b"\x89PNG\r\n\x1a\n"[..], b"\xff\xd8\xff", b"RIFF\x80\0\0\0WEBPVP8X"];
        bytes.splice(..starts[head].len().min(bytes.len()), starts[head].iter().copied());
        let _ = walk(&bytes, &[portion]);
    }

    #[test]
    fn changed_bytes_never_panic(index in 0_usize..4, at in any::<prop::sample::Index>(), to: u8) {
        let mut sample = every_sample()[index].clone();
        let at = at.index(sample.len());
        sample[at] = to;
        let _ = walk(&sample, &[7]);
    }
}
