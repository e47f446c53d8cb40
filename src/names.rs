//! Names that are exactly ours: of jobs, and of the files and folders that belong to them. Whatever
//! bears another is not touched, and what another process says becomes a name only by these types.

use std::{fmt, path::Path};

use uuid::Uuid;

use crate::images::{Format, TEMPORARY_PREFIX};

/// What a thumbnail's name has behind its picture's.
const THUMBNAIL: &str = ".jpg";

/// The start of each job's id.
const ID_PREFIX: &str = "img_";
/// The length of ours, with 32 digits.
const ID_LENGTH: usize = 36;
/// That of the Python original's, with 24.
const ORIGINAL_ID_LENGTH: usize = 28;

/// The longest label of a login that is believed, in bytes.
const LONGEST_LABEL: usize = 255;

/// The public id of a job, ours or the original's; as a file name it is no other than itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JobId(String);

impl JobId {
    /// A fresh, unguessable one: `img_` and 32 lower-case hex digits, 122 bits of them random.
    #[must_use]
    pub fn fresh() -> Self {
        Self(format!("{ID_PREFIX}{}", Uuid::new_v4().simple()))
    }

    /// None for what is no job's id.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        is_job_id(text).then(|| Self(text.to_owned()))
    }

    /// The id itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<Path> for JobId {
    fn as_ref(&self) -> &Path {
        self.0.as_ref()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a job's picture in the folder of generated files: `<id>.png`, `<id>_2.webp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PictureName(String);

impl PictureName {
    /// None unless it is a name that a picture of this job can have.
    #[must_use]
    pub fn parse(text: &str, job: &JobId) -> Option<Self> {
        (owner_of_picture(text)? == job.as_str()).then(|| Self(text.to_owned()))
    }

    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<Path> for PictureName {
    fn as_ref(&self) -> &Path {
        self.0.as_ref()
    }
}

/// The name of a reference in its job's folder of references: `0.png`, `1.jpg`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceName(String);

impl ReferenceName {
    /// None for what no reference is called.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (index, extension) = text.split_once('.')?;
        Format::of_extension(extension)?;
        (index == "0" || is_number(index)).then(|| Self(text.to_owned()))
    }
}

impl AsRef<Path> for ReferenceName {
    fn as_ref(&self) -> &Path {
        self.0.as_ref()
    }
}

/// Is this a job's id, ours (32 digits) or the original's (24)? Nothing else is looked up.
#[must_use]
pub fn is_job_id(text: &str) -> bool {
    matches!(text.len(), ID_LENGTH | ORIGINAL_ID_LENGTH)
        && text.strip_prefix(ID_PREFIX).is_some_and(is_hex)
}

/// Is this the id of a job that this service made? What the original left is not tidied up.
pub(crate) fn is_own_job_id(text: &str) -> bool {
    text.len() == ID_LENGTH && is_job_id(text)
}

/// Could a login be called so? Which there are is for the settings to say.
#[must_use]
pub fn is_label(text: &str) -> bool {
    (1..=LONGEST_LABEL).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The job whose picture a file of exactly this name would be, if this service made it.
pub(crate) fn job_of_picture(file: &str) -> Option<&str> {
    owner_of_picture(file).filter(|job| is_own_job_id(job))
}

fn owner_of_picture(file: &str) -> Option<&str> {
    let (stem, extension) = file.split_once('.')?;
    Format::of_extension(extension)?;
    // The id has a `_` itself, with more behind it than a number.
    let job = match stem.rsplit_once('_') {
        Some((job, number)) if is_number(number) => job,
        _ => stem,
    };
    is_job_id(job).then_some(job)
}

fn is_number(digits: &str) -> bool {
    (1..=2).contains(&digits.len())
        && !digits.starts_with('0')
        && digits.bytes().all(|digit| digit.is_ascii_digit())
}

/// The picture whose thumbnail a file of exactly this name would be: `<id>.png.jpg`.
pub(crate) fn picture_of_thumbnail(file: &str) -> Option<&str> {
    let picture = file.strip_suffix(THUMBNAIL)?;
    job_of_picture(picture).map(|_| picture)
}

/// The name of a picture's thumbnail.
pub(crate) fn thumbnail_of(picture: &PictureName) -> String {
    format!("{}{THUMBNAIL}", picture.as_str())
}

/// Is this the name of a picture that is being imported?
pub(crate) fn is_temporary(file: &str) -> bool {
    file.strip_prefix(TEMPORARY_PREFIX).is_some_and(|digits| digits.len() == 32 && is_hex(digits))
}

fn is_hex(digits: &str) -> bool {
    digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
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
        let picture = PictureName::parse(&format!("{ID}_2.webp"), &JobId(ID.into())).unwrap();
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

    #[test]
    fn what_another_process_says_is_a_name_of_ours_or_none() {
        const ORIGINAL: &str = "img_0123456789abcdef01234567";
        const OURS: &str = "img_0123456789abcdef0123456789abcdef";
        assert!(is_job_id(JobId::fresh().as_str()) && is_own_job_id(JobId::fresh().as_str()));
        for id in [ORIGINAL, OURS] {
            let job = JobId::parse(id).unwrap();
            assert_eq!(Path::new("/work").join(&job), Path::new(&format!("/work/{id}")));
            for name in ["", "_1", "_10"] {
                assert!(PictureName::parse(&format!("{id}{name}.png"), &job).is_some());
            }
            let other = if id == OURS { ORIGINAL } else { OURS };
            for name in
                ["/etc/x.png", "../x.png", "x.png", ".png", "", &format!("{other}.png"), "\0.png"]
            {
                assert!(PictureName::parse(name, &job).is_none(), "{name}");
            }
        }
        for id in [
            "",
            "img_",
            "/etc",
            "..",
            "img_0123456789abcdef0123456789abcde",
            "img_0123456789ABCDEF01234567",
        ] {
            assert!(JobId::parse(id).is_none(), "{id}");
            assert!(JobId::parse(&format!("{OURS}{id}")).is_none() || id.is_empty(), "{id}");
        }
        for (name, is_one) in [
            ("0.png", true),
            ("12.webp", true),
            ("00.png", false),
            ("100.png", false),
            ("-1.png", false),
            ("/0.png", false),
            ("../0.png", false),
            ("0.png/0.png", false),
            ("0.png\0", false),
            ("0.svg", false),
            ("", false),
        ] {
            assert_eq!(ReferenceName::parse(name).is_some(), is_one, "{name}");
        }
        for (label, is_one) in
            [("codex", true), ("a b", true), ("", false), ("a\nb", false), ("\u{1b}[2J", false)]
        {
            assert_eq!(is_label(label), is_one, "{label:?}");
        }
    }
}
