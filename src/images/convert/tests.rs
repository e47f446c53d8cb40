use image::{GenericImageView as _, ImageFormat, Rgba, RgbaImage};
use proptest::prelude::*;

use super::*;
use crate::images::import;

/// A picture of this kind on the disk, converted: what became of it, and its pixels.
fn converted(
    source: &DynamicImage,
    from: ImageFormat,
    output: Output,
) -> (Picture, DynamicImage, bool) {
    let dir = tempfile::tempdir().unwrap();
    let candidate = dir.path().join("candidate");
    source.save_with_format(&candidate, from).unwrap();
    let imported = import(&candidate, dir.path(), "x", Some(output)).unwrap();
    let file = dir.path().join(&imported.file_name);
    assert_eq!(imported.file_name, format!("x.{}", output.format.extension()));
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(Format::sniff(&bytes), Some(output.format));
    assert_eq!(imported.picture.bytes, bytes.len() as u64);
    assert_eq!(imported.picture.sha256, <[u8; 32]>::from(Sha256::digest(&bytes)));
    (imported.picture, image::load_from_memory(&bytes).unwrap(), imported.opaque)
}

fn output(format: Format) -> Output {
    Output { format, compression: 100 }
}

fn picture() -> impl Strategy<Value = RgbaImage> {
    (1_u32..24, 1_u32..24).prop_flat_map(|(width, height)| {
        let length = (width * height * 4) as usize;
        proptest::collection::vec(any::<u8>(), length)
            .prop_map(move |bytes| RgbaImage::from_raw(width, height, bytes).unwrap())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn png_and_webp_keep_every_pixel(picture in picture()) {
        let source = DynamicImage::ImageRgba8(picture);
        let (known, there, _) = converted(&source, ImageFormat::Png, output(Format::Webp));
        prop_assert_eq!((known.width, known.height), source.dimensions());
        prop_assert_eq!(there.to_rgba8(), source.to_rgba8());
        let (_, back, _) = converted(&there, ImageFormat::WebP, output(Format::Png));
        prop_assert_eq!(back.to_rgba8(), source.to_rgba8());
    }

    #[test]
    fn whether_it_is_opaque_is_told_as_it_is(picture in picture()) {
        let opaque = picture.pixels().all(|pixel| pixel.0[3] == 255);
        let source = DynamicImage::ImageRgba8(picture);
        let (_, _, webp) = converted(&source, ImageFormat::Png, output(Format::Webp));
        prop_assert_eq!(webp, opaque);
        let (_, _, jpeg) = converted(&source, ImageFormat::Png, output(Format::Jpeg));
        prop_assert!(jpeg);
    }

    #[test]
    fn jpeg_is_near_where_the_picture_is_smooth(
        color in any::<[u8; 3]>(), alpha in any::<u8>(), side in 8_u32..40
    ) {
        let [red, green, blue] = color;
        let flat = RgbaImage::from_pixel(side, side, Rgba([red, green, blue, alpha]));
        let (_, there, _) = converted(&flat.into(), ImageFormat::Png, output(Format::Jpeg));
        let expected = color.map(|sample| over_white(sample, alpha));
        let got = there.to_rgb8().get_pixel(side / 2, side / 2).0;
        for (got, expected) in got.into_iter().zip(expected) {
            prop_assert!(got.abs_diff(expected) <= 3, "{got} for {expected}");
        }
    }
}

#[test]
fn sixteen_bits_and_grey_are_converted() {
    let grey =
        DynamicImage::ImageLuma16(image::ImageBuffer::from_pixel(9, 7, image::Luma([40_000])));
    for format in [Format::Jpeg, Format::Webp] {
        let (_, there, opaque) = converted(&grey, ImageFormat::Png, output(format));
        assert!(opaque && there.to_rgb8().get_pixel(3, 3).0[0].abs_diff(156) <= 2);
    }
}

#[test]
fn more_compression_is_less_quality_and_fewer_bytes() {
    let noise = crate::images::samples::pixels(64, 64, 7);
    let bytes = |compression| {
        let output = Output { format: Format::Jpeg, compression };
        converted(&noise.clone().into(), ImageFormat::Png, output).0.bytes
    };
    assert!(bytes(0) < bytes(50) && bytes(50) < bytes(100));
}

#[test]
fn a_full_disk_is_no_fault_of_the_picture() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.png");
    RgbImage::new(300, 300).save(&path).unwrap();
    let picture =
        Picture { format: Format::Png, bytes: 0, width: 300, height: 300, sha256: [0; 32] };
    let file = File::open(&path).unwrap();
    let failed = convert(&file, &picture, output(Format::Webp), &mut Full);
    assert!(matches!(failed, Err(ConvertError::Storage(_))), "{failed:?}");
}
