use std::fmt::Write as _;

use futures_util::stream;
use proptest::prelude::*;

use super::*;
use crate::http::intake::form::boundary_of as boundary;
use crate::images::{Format, samples};

const BOUNDARY: &str = "----x1";

/// A part: its head behind the name, and its body.
struct Part(&'static str, &'static str, Vec<u8>);

fn word_part(name: &'static str, value: &str) -> Part {
    Part(name, "", value.as_bytes().to_vec())
}

fn file_part(name: &'static str, bytes: Vec<u8>) -> Part {
    Part(name, "; filename=\"a.bin\"\r\nContent-Type: application/octet-stream", bytes)
}

fn form(parts: &[Part]) -> Vec<u8> {
    let mut body = Vec::new();
    for Part(name, head, value) in parts {
        let mut text = String::new();
        let disposition = "Content-Disposition: form-data";
        write!(text, "--{BOUNDARY}\r\n{disposition}; name=\"{name}\"{head}\r\n\r\n").unwrap();
        body.extend(text.into_bytes());
        body.extend(value);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{BOUNDARY}--\r\n").into_bytes());
    body
}

/// What became of a body that comes in portions of this size, and how many files it left.
fn take(route: Route, body: &[u8], cut: usize) -> (Result<(Draft, Wish), ApiError>, usize) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("job");
    let portions: Vec<io::Result<Bytes>> =
        body.chunks(cut.max(1)).map(|portion| Ok(Bytes::copy_from_slice(portion))).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let body = stream::iter(portions);
    let result = runtime.block_on(read_here(route, 4, BOUNDARY.to_owned(), body, &folder));
    let files = std::fs::read_dir(folder).map_or(0, Iterator::count);
    (result, files)
}

fn edit(parts: &[Part]) -> Result<(Draft, Wish), ApiError> {
    take(Route::Edits, &form(parts), 1000).0
}

fn whole() -> Vec<Part> {
    let files = samples::each();
    vec![
        word_part("prompt", "make it night"),
        word_part("n", "2"),
        word_part("stream", "true"),
        word_part("model", ""),
        Part("size", "\r\nContent-Type: text/plain; charset=utf-8", b"512x768".to_vec()),
        word_part("svg[model]", "x"),
        file_part("image[]", files[0].1.clone()),
        file_part("mask", files[1].1.clone()),
        file_part("unknown", vec![7; 5000]),
    ]
}

fn summary(read: &Result<(Draft, Wish), ApiError>) -> String {
    match read {
        Ok((draft, wish)) => {
            // The files' names tell in which order they came.
            let pictures: Vec<_> =
                draft.references.iter().map(|reference| reference.picture.clone()).collect();
            format!(
                "{} {} {} {} {} {pictures:?} {wish:?}",
                draft.prompt, draft.count, draft.size, draft.quality, draft.has_mask
            )
        }
        Err(error) => format!("{error:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_order_of_parts_in_any_portions(
        order in Just((0..9_usize).collect::<Vec<_>>()).prop_shuffle(), cut in 1_usize..3000
    ) {
        let expected = edit(&whole());
        prop_assert!(expected.is_ok(), "{:?}", expected);
        let mut parts: Vec<Option<Part>> = whole().into_iter().map(Some).collect();
        let shuffled: Vec<Part> = order.iter().map(|at| parts[*at].take().unwrap()).collect();
        let (read, files) = take(Route::Edits, &form(&shuffled), cut);
        prop_assert_eq!(files, 2);
        prop_assert_eq!(summary(&read), summary(&expected));
        let hash = |read: &Result<(Draft, Wish), ApiError>| read.as_ref().unwrap().0.hash("r", &[]);
        prop_assert_eq!(hash(&read), hash(&expected));
    }

    #[test]
    fn garbage_is_an_error_and_leaves_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut body = form(&whole());
        body.truncate(body.len() / 2);
        body.extend(bytes);
        let (read, files) = take(Route::Edits, &body, 77);
        prop_assert!(read.is_err() && files == 0, "{read:?}");
    }
}

#[test]
fn all_names_of_images_and_every_format() {
    let files = samples::each();
    let names = ["image", "image[]", "image[0]", "images", "images[]"];
    let mut parts = vec![word_part("prompt", "x")];
    parts.extend(
        names
            .iter()
            .zip(files.iter().cycle())
            .map(|(name, (_, bytes))| file_part(name, bytes.clone())),
    );
    let (draft, wish) = edit(&parts).unwrap();
    assert_eq!((draft.references.len(), draft.has_mask, draft.count), (5, false, 1));
    assert!(wish.ignored.is_empty() && !wish.stream);
    let formats: Vec<Format> = draft.references.iter().map(|one| one.picture.format).collect();
    assert!(Format::ALL.iter().all(|format| formats.contains(format)));
    // One more is one too many, in whatever field.
    for name in ["image[]", "mask"] {
        let more = file_part(name, files[0].1.clone());
        let mut parts = vec![word_part("prompt", "x"), more];
        parts.extend(names.iter().map(|name| file_part(name, files[0].1.clone())));
        let error = edit(&parts).unwrap_err();
        assert!(matches!(error, ApiError::Invalid { .. }), "{name}: {error:?}");
    }
}

#[test]
fn a_picture_without_a_file_name_is_one() {
    let (_, bytes) = &samples::each()[0];
    let part = Part("image", "\r\nContent-Type: image/png", bytes.clone());
    assert_eq!(edit(&[word_part("prompt", "x"), part]).unwrap().0.references.len(), 1);
}

#[test]
fn a_file_that_nobody_chose_is_none_and_an_empty_one_is_refused() {
    let chosen = || file_part("image", samples::each()[0].1.clone());
    let none =
        Part("mask", "; filename=\"\"\r\nContent-Type: application/octet-stream", Vec::new());
    let (draft, _) = edit(&[word_part("prompt", "x"), chosen(), none]).unwrap();
    assert!(!draft.has_mask);
    let empty = edit(&[word_part("prompt", "x"), chosen(), file_part("image", Vec::new())]);
    let Err(ApiError::BadReference { param, place, .. }) = empty else { panic!("{empty:?}") };
    assert_eq!((param, place.as_str()), ("image", "image[1]"));
}

#[test]
fn what_is_wrong_is_named() {
    let picture = || file_part("image", samples::each()[0].1.clone());
    let with = |part: Part| match edit(&[word_part("prompt", "x"), picture(), part]) {
        Err(ApiError::Invalid { param, .. } | ApiError::BadReference { param, .. }) => param,
        other => panic!("{other:?}"),
    };
    assert_eq!(with(word_part("n", "5")), "n");
    assert_eq!(with(word_part("n", "two")), "n");
    assert_eq!(with(word_part("size", "big")), "size");
    assert_eq!(with(file_part("markup", vec![1])), "markup");
    assert_eq!(with(file_part("mask", vec![1; 50])), "mask");
    assert_eq!(with(word_part("stream", "maybe")), "stream");
    let none = edit(&[word_part("prompt", "x")]);
    assert!(matches!(none, Err(ApiError::Invalid { param: "image", .. })), "{none:?}");
    let nul = edit(&[word_part("prompt", "a\0b"), picture()]);
    assert!(matches!(nul, Err(ApiError::BadText("prompt"))), "{nul:?}");
    let latin = Part("prompt", "", b"caf\xe9".to_vec());
    assert!(matches!(edit(&[latin, picture()]), Err(ApiError::NotUtf8("prompt"))));
}

#[test]
fn pictures_of_generations_are_not_read() {
    let parts = [word_part("prompt", "x"), file_part("image", vec![1; 50])];
    let (read, files) = take(Route::Generations, &form(&parts), 100);
    assert!(read.is_ok() && files == 0);
}

#[test]
fn large_pictures_that_come_at_once_are_read_as_they_are() {
    let noise = |seed| samples::encoded(Format::Png, 1100, 1000, seed);
    let large = [noise(1), noise(2), noise(3)];
    assert!(large[0].len() > 3_000_000);
    for cut in [64 * 1024, 63 * 1024 + 1, usize::MAX] {
        let mut parts: Vec<Part> =
            large.iter().map(|bytes| file_part("image[]", bytes.clone())).collect();
        parts.push(word_part("prompt", "x"));
        let (read, files) = take(Route::Edits, &form(&parts), cut);
        assert_eq!(read.unwrap().0.references.len(), 3);
        assert_eq!(files, 3);
    }
}

#[test]
fn a_head_without_end_and_parts_without_end_are_refused() {
    let endless = format!("--{BOUNDARY}\r\nX-Long: {}", "a".repeat(1024 * 1024));
    let (read, _) = take(Route::Edits, endless.as_bytes(), 8 * 1024);
    assert!(matches!(read, Err(ApiError::BadForm(_))), "{read:?}");
    let many: Vec<Part> = (0..200).map(|_| word_part("x", "")).collect();
    assert!(matches!(edit(&many), Err(ApiError::BadForm(_))));
}

#[test]
fn a_content_type_is_a_form_or_not() {
    assert_eq!(boundary("multipart/form-data; boundary=abc").unwrap().unwrap(), "abc");
    assert_eq!(boundary("Multipart/Form-Data; boundary=\"a b\"").unwrap().unwrap(), "a b");
    assert!(boundary("multipart/form-data").unwrap().is_err());
    assert!(boundary("application/json").is_none() && boundary("").is_none());
}
