use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::http::openai::json;

fn generation(body: &Value) -> Result<(Draft, Wish), ApiError> {
    read(Route::Generations, body)
}

fn read(route: Route, body: &Value) -> Result<(Draft, Wish), ApiError> {
    let dir = tempfile::tempdir().unwrap();
    json::read(route, 4, body.to_string().as_bytes(), &dir.path().join("job"))
}

#[track_caller]
fn param(read: Result<(Draft, Wish), ApiError>) -> &'static str {
    match read {
        Err(ApiError::Invalid { param, .. } | ApiError::BadReference { param, .. }) => param,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_said_is_automatic() {
    let (draft, wish) = generation(&json!({"prompt": "a kite"})).unwrap();
    assert_eq!(
        (draft.size.as_str(), draft.quality.as_str(), draft.background),
        ("auto", "auto", "auto")
    );
    assert_eq!(draft.output, Some(Output { format: Format::Png, compression: 100 }));
    assert_eq!((draft.count, draft.has_mask, draft.end_user), (1, false, None));
    assert_eq!(wish.response_format, ResponseFormat::B64Json);
    assert!(!wish.stream && wish.ignored.is_empty());
}

#[test]
fn null_and_empty_are_not_said_either() {
    let plain = generation(&json!({"prompt": "a kite"})).unwrap();
    let names = WORDS.map(|(name, _)| name);
    for nothing in [json!(null), json!("")] {
        let mut body = json!({"prompt": "a kite"});
        for name in names.iter().filter(|name| **name != "prompt") {
            body[*name] = nothing.clone();
        }
        assert_eq!(generation(&body).unwrap(), plain, "{nothing}");
    }
}

#[test]
fn words_are_mapped() {
    let of = |name: &str, value: Value| {
        let mut body = json!({"prompt": "a kite"});
        body[name] = value;
        generation(&body)
    };
    for (given, taken) in
        [("standard", "medium"), ("hd", "high"), ("max", "high"), ("low", "low"), ("auto", "auto")]
    {
        assert_eq!(of("quality", json!(given)).unwrap().0.quality, taken);
    }
    for (n, count) in [(json!(2), 2), (json!("3"), 3), (json!(4.0), 4)] {
        assert_eq!(of("n", n).unwrap().0.count, count);
    }
    for (stream, wanted) in [(json!(true), true), (json!("false"), false), (json!(false), false)] {
        assert_eq!(of("stream", stream).unwrap().1.stream, wanted);
    }
    assert_eq!(of("user", json!("me")).unwrap().0.end_user.as_deref(), Some("me"));
    assert_eq!(of("background", json!("transparent")).unwrap().0.background, "transparent");
}

#[test]
fn what_is_wrong_is_named() {
    for (name, value) in [
        ("prompt", json!("")),
        ("prompt", json!(" \n\t ")),
        ("prompt", json!("x".repeat(32_001))),
        ("prompt", json!(7)),
        ("model", json!("flux")),
        ("model", json!("m".repeat(200))),
        ("n", json!(0)),
        ("n", json!(5)),
        ("n", json!([1])),
        ("size", json!("12x12")),
        ("size", json!("1024")),
        ("size", json!(1024)),
        ("quality", json!("best")),
        ("background", json!("pink")),
        ("output_format", json!("gif")),
        ("output_compression", json!(101)),
        ("response_format", json!("bytes")),
        ("stream", json!("perhaps")),
        ("partial_images", json!(4)),
        ("user", json!("u".repeat(600))),
        ("style", json!({"a": 1})),
    ] {
        let mut body = json!({"prompt": "a kite"});
        body[name] = value.clone();
        assert_eq!(param(generation(&body)), name, "{value}");
    }
    assert_eq!(param(generation(&json!({}))), "prompt");
    let clear = json!({"prompt": "x", "background": "transparent", "output_format": "jpeg"});
    assert_eq!(param(generation(&clear)), "background");
}

#[test]
fn what_cannot_be_done_is_listed() {
    let body = json!({"prompt": "x", "style": "vivid", "moderation": "low", "partial_images": 2,
        "output_compression": 50, "input_fidelity": "high", "frame_count": 3, "anything": [{}]});
    let (_, wish) = generation(&body).unwrap();
    let mut ignored = wish.ignored;
    ignored.sort_unstable();
    let expected = [
        "frame_count",
        "input_fidelity",
        "moderation",
        "output_compression",
        "partial_images",
        "style",
    ];
    assert_eq!(ignored, expected);
    let jpeg = json!({"prompt": "x", "output_format": "jpeg", "output_compression": 50, "partial_images": 0});
    let (draft, wish) = generation(&jpeg).unwrap();
    assert!(wish.ignored.is_empty());
    assert_eq!(draft.output, Some(Output { format: Format::Jpeg, compression: 50 }));
}

#[test]
fn pictures_that_a_generation_does_not_take_are_listed() {
    let body = json!({"prompt": "x", "image": "data:,", "images": [{}], "mask": {"a": 1}});
    assert_eq!(generation(&body).unwrap().1.ignored, ["image", "mask"]);
    let nothing = json!({"prompt": "x", "image": null, "mask": null});
    assert!(generation(&nothing).unwrap().1.ignored.is_empty());
}

#[test]
fn dall_e_answers_with_urls_when_nothing_is_said() {
    let format = |body: &Value| generation(body).unwrap().1.response_format;
    assert_eq!(format(&json!({"prompt": "x", "model": "dall-e-3"})), ResponseFormat::Url);
    let b64 = json!({"prompt": "x", "model": "dall-e-3", "response_format": "b64_json"});
    assert_eq!(format(&b64), ResponseFormat::B64Json);
    assert_eq!(format(&json!({"prompt": "x", "model": "gpt-image-1"})), ResponseFormat::B64Json);
}

#[test]
fn pictures_in_json_in_every_form() {
    use base64::Engine as _;
    let (_, bytes) = &crate::images::samples::each()[0];
    let bare = base64::engine::general_purpose::STANDARD.encode(bytes);
    let url = format!("data:image/png;base64,{bare}");
    let edit = |body: Value| read(Route::Edits, &body);
    for images in [
        json!(url),
        json!(bare),
        json!([url, bare]),
        json!({"image_url": url}),
        json!([{"image_url": {"url": url, "detail": "high"}}, {"image_url": bare, "type": "image"}]),
    ] {
        for name in ["image", "images"] {
            let mut body = json!({"prompt": "x"});
            body[name] = images.clone();
            let count = images.as_array().map_or(1, Vec::len);
            assert_eq!(edit(body).unwrap().0.references.len(), count, "{images}");
        }
    }
    let masked =
        edit(json!({"prompt": "x", "images": [{"image_url": url}], "mask": {"image_url": url}}));
    let (draft, wish) = masked.unwrap();
    assert!(draft.has_mask && draft.references.len() == 2 && wish.ignored == ["mask"]);
    for (images, name) in [
        (json!([{"image_url": "https://example.com/a.png"}]), "image"),
        (json!([{"file_id": "file-1"}]), "image"),
        (json!([{}]), "image"),
        (json!([7]), "image"),
        (json!([{"image_url": ""}]), "image"),
        (json!([]), "image"),
        (json!(vec![url.clone(); 6]), "image"),
    ] {
        assert_eq!(param(edit(json!({"prompt": "x", "images": images}))), name, "{images}");
    }
    // A member that stands twice brings no more pictures than are allowed.
    let again = format!("\"image_url\":\"{url}\",").repeat(6);
    let body = format!("{{\"prompt\":\"x\",\"images\":[{{{again}\"a\":1}}]}}");
    let dir = tempfile::tempdir().unwrap();
    let read = json::read(Route::Edits, 4, body.as_bytes(), &dir.path().join("job"));
    assert_eq!(param(read), "image");
    assert!(!dir.path().join("job").exists());
}

proptest! {
    #[test]
    fn every_size_of_three_or_four_digits(width in 0_u32..20_000, height in 0_u32..20_000) {
        let size = format!("{width}x{height}");
        let digits = |side: u32| (3..=4).contains(&side.to_string().len());
        let read = generation(&json!({"prompt": "x", "size": size}));
        if digits(width) && digits(height) {
            let (draft, wish) = read.unwrap();
            prop_assert_eq!((&draft.size, &wish.size), (&size, &size));
        } else {
            prop_assert_eq!(param(read), "size");
        }
    }

    #[test]
    fn any_words_are_a_draft_or_name_their_field(
        size in "[0-9x×, auto]{0,12}", quality in "\\PC{0,12}", n in "\\PC{0,6}"
    ) {
        let body = json!({"prompt": "x", "size": size, "quality": quality, "n": n});
        if let Err(error) = generation(&body) {
            let named = matches!(error, ApiError::Invalid { param: "size" | "quality" | "n", .. });
            prop_assert!(named, "{error:?}");
        }
    }
}
