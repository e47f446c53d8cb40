//! Names that are exactly ours: whatever bears another is not touched.

use crate::images::{Format, TEMPORARY_PREFIX};

/// What a thumbnail's name has behind its picture's.
const THUMBNAIL: &str = ".jpg";

/// The job whose picture a file of exactly this name would be: `<id>.png`, `<id>_2.webp`.
pub(super) fn job_of_picture(file: &str) -> Option<&str> {
    let (stem, extension) = file.split_once('.')?;
    Format::of_extension(extension)?;
    let (job, number) = stem.split_at_checked(ID_LENGTH)?;
    let is_number = |digits: &str| {
        (1..=2).contains(&digits.len())
            && !digits.starts_with('0')
            && digits.bytes().all(|digit| digit.is_ascii_digit())
    };
    let is_ours = number.is_empty() || number.strip_prefix('_').is_some_and(is_number);
    (is_ours && is_job_id(job)).then_some(job)
}

/// The picture whose thumbnail a file of exactly this name would be: `<id>.png.jpg`.
pub(super) fn picture_of_thumbnail(file: &str) -> Option<&str> {
    let picture = file.strip_suffix(THUMBNAIL)?;
    job_of_picture(picture).map(|_| picture)
}

/// The name of a picture's thumbnail.
pub(super) fn thumbnail_of(picture: &str) -> String {
    format!("{picture}{THUMBNAIL}")
}

/// Is this the name of a picture that is being imported?
pub(super) fn is_temporary(file: &str) -> bool {
    file.strip_prefix(TEMPORARY_PREFIX).is_some_and(is_hex)
}

/// `img_` and 32 digits.
const ID_LENGTH: usize = 36;

/// Is this a job of ours? Those of the Python original have 24 digits.
pub(super) fn is_job_id(text: &str) -> bool {
    text.strip_prefix("img_").is_some_and(is_hex)
}

fn is_hex(digits: &str) -> bool {
    digits.len() == 32 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_exactly_ours_are() {
        const ID: &str = "img_0123456789abcdef0123456789abcdef";
        for name in ["", "_2", "_10"] {
            for extension in ["png", "jpg", "webp"] {
                assert_eq!(job_of_picture(&format!("{ID}{name}.{extension}")), Some(ID));
            }
        }
        assert!(is_temporary(".tmp-0123456789abcdef0123456789abcdef"));
        let picture = format!("{ID}_2.webp");
        assert_eq!(picture_of_thumbnail(&thumbnail_of(&picture)), Some(picture.as_str()));
        for other in ["", ".png", ".jpg", ".png.jpg.jpg", ".png.jpg~", ".gif.jpg", ".png.jpeg"] {
            assert_eq!(picture_of_thumbnail(&format!("{ID}{other}")), None, "{other}");
        }
        for other in [
            "img_holiday.jpg",
            // The Python original's.
            "img_0123456789abcdef01234567.png",
            "img_0123456789abcdef01234567_2.png",
            "img_0123456789ABCDEF0123456789abcdef.png",
            "img_0123456789abcdef0123456789abcdef",
            "img_0123456789abcdef0123456789abcdef.gif",
            "img_0123456789abcdef0123456789abcdef.png.bak",
            "img_0123456789abcdef0123456789abcdef_.png",
            "img_0123456789abcdef0123456789abcdef_02.png",
            "img_0123456789abcdef0123456789abcdef_100.png",
            "img_0123456789abcdef0123456789abcdef-2.png",
            "img_0123456789abcdef0123456789abcdeé.png",
            ".tmp-notes",
            ".tmp-img_0123456789abcdef0123456789abcdef",
            ".codex-image-service",
            "",
        ] {
            assert_eq!(job_of_picture(other), None, "{other}");
            assert!(!is_temporary(other), "{other}");
        }
    }
}
