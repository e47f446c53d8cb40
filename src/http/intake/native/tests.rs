use std::io;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::images::{Format, samples};

/// Hands out at most so many bytes at a time.
struct Cut<'a>(&'a [u8], usize);

impl Read for Cut<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.1.min(buffer.len());
        self.0.read(&mut buffer[..most])
    }
}

/// What became of a body, and how many files it left.
fn take(body: &[u8], cut: usize) -> (Result<Draft, ApiError>, usize) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("job");
    let result = read(Cut(body, cut), &folder);
    let files = std::fs::read_dir(folder).map_or(0, Iterator::count);
    (result, files)
}

fn draft(body: &Value) -> Result<Draft, ApiError> {
    take(body.to_string().as_bytes(), usize::MAX).0
}

fn count_of(count: &Value) -> Option<u32> {
    draft(&json!({"prompt": "x", "count": count})).ok().map(|draft| draft.count)
}

#[test]
fn counts_in_every_form() {
    for (text, expected) in [
        ("1", Some(1)),
        ("4", Some(4)),
        ("0", None),
        ("5", None),
        ("-1", None),
        ("2.0", Some(2)),
        ("2.000", Some(2)),
        ("2.5", None),
        ("\"3\"", Some(3)),
        ("\"3.0\"", Some(3)),
        ("\" 3\"", Some(3)),
        ("\"\"", None),
        ("\".0\"", None),
        ("\"three\"", None),
        ("true", None),
        ("null", None),
        ("99999999999999999999999", None),
    ] {
        let body = format!(r#"{{"prompt":"x","count":{text}}}"#);
        let found = take(body.as_bytes(), usize::MAX).0.ok().map(|draft| draft.count);
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn references_are_written_and_counted() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let picture = STANDARD.encode(samples::encoded(Format::Png, 12, 9, 0));
    let body = json!({
        "reference_images_base64": [picture, picture], "prompt": "x", "count": 4, "z": {"a": [1]},
    });
    let body = body.to_string();
    for cut in [1, 2, 3, 5, 1000, usize::MAX] {
        let (draft, files) = take(body.as_bytes(), cut);
        let draft = draft.unwrap();
        assert_eq!((draft.count, draft.references.len(), files), (1, 2, 2));
        let names: Vec<&str> = draft.references.iter().map(|r| r.file_name.as_str()).collect();
        assert_eq!(names, ["0.png", "1.png"]);
    }
    // Broken off anywhere, nothing stays.
    for length in (0..body.len()).step_by(7) {
        let (result, files) = take(&body.as_bytes()[..length], usize::MAX);
        assert!(matches!(result, Err(ApiError::Malformed(_))) && files == 0, "{length}");
    }
}

proptest! {
    #[test]
    fn sizes(size in "(auto|AUTO|[0-9]{1,5}[xX×]?[0-9]{0,5}|\\PC{0,12})") {
        let sides: Vec<&str> = size.split('x').collect();
        let allowed = size == "auto"
            || (sides.len() == 2
                && sides.iter().all(|side| {
                    (3..=4).contains(&side.len()) && side.chars().all(|c| c.is_ascii_digit())
                }));
        let draft = draft(&json!({"prompt": "x", "size": size}));
        prop_assert_eq!(draft.is_ok(), allowed);
        if let Ok(draft) = draft {
            prop_assert_eq!(draft.size, size);
        }
    }

    #[test]
    fn counts(number in any::<i64>()) {
        let expected = u32::try_from(number).ok().filter(|count| (1..=4).contains(count));
        prop_assert_eq!(count_of(&json!(number)), expected);
        prop_assert_eq!(count_of(&json!(number.to_string())), expected);
    }

    #[test]
    fn prompts_arrive_as_they_were_sent(prompt in any::<String>(), cut in 1_usize..40) {
        let body = json!({ "prompt": prompt }).to_string();
        let (draft, _) = take(body.as_bytes(), cut);
        let fine = !prompt.trim().is_empty() && !prompt.contains('\0');
        prop_assert_eq!(draft.is_ok(), fine);
        if let Ok(draft) = draft {
            prop_assert_eq!(draft.prompt, prompt);
        }
    }

    #[test]
    fn any_bytes_end_in_an_answer(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        object in any::<bool>(),
    ) {
        let body = if object { [b"{\"prompt\":\"x\",", &bytes[..]].concat() } else { bytes };
        let (result, files) = take(&body, usize::MAX);
        if result.is_err() {
            prop_assert_eq!(files, 0);
        }
    }

    #[test]
    fn flipped_bits_end_in_an_answer(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let picture = STANDARD.encode(samples::encoded(Format::Png, 12, 9, 0));
        let body = json!({"prompt": "x", "reference_images_base64": [picture]}).to_string();
        let mut body = body.into_bytes();
        let at = at.index(body.len());
        body[at] ^= 1 << bit;
        let (result, files) = take(&body, usize::MAX);
        prop_assert!(result.is_ok() || files == 0);
        // The same flip, in pieces, is the same answer.
        let pieces = take(&body, 3).0;
        prop_assert_eq!(result.is_ok(), pieces.is_ok());
    }
}
