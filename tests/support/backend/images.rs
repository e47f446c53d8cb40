//! The Images API of the stand-in: counts, waits, draws.

use std::time::Instant;

use axum::{Json, http::StatusCode, response::IntoResponse};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    ImageRequest, Reference, Shared, answers,
    options::{Mode, Options},
    server::{Answer, Call, HangUp, bad_request},
};
use crate::support::pictures;

/// An image request that is not answered yet; ends also when the client goes away.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn new(shared: &'a Shared) -> Self {
        let mut state = shared.lock();
        state.images_open += 1;
        state.images_peak = state.images_peak.max(state.images_open);
        Self(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.lock().images_open -= 1;
    }
}

/// Answers `/images/generations` and `/images/edits`.
pub async fn image(shared: &Shared, call: Call) -> Answer {
    let Call { account, body, options, .. } = call;
    let prompt = body["prompt"].as_str().unwrap_or_default();
    let background = body["background"].as_str().unwrap_or_default();
    let images = body["images"].as_array().map_or(&[][..], Vec::as_slice);
    let urls = images.iter().map(|image| image["image_url"].as_str().unwrap_or_default());
    let references = match references(urls) {
        Ok(references) => references,
        Err(why) => return Ok(bad_request(why)),
    };
    if call.path.ends_with("/edits") == references.is_empty() {
        return Ok(bad_request("references belong to edits, and to nothing else"));
    }
    let _open = Open::new(shared);
    let number = charge(shared, &options, &account, &body, references);
    tokio::time::sleep(options.image_latency).await;
    let mut held = shared.held.subscribe();
    held.wait_for(|held| !held).await.map_err(|_| HangUp)?;
    if options.kept {
        shared.kept.subscribe().wait_for(|kept| !kept).await.map_err(|_| HangUp)?;
    }
    match options.mode {
        Mode::ImageDrop => return Err(HangUp),
        Mode::Image500 => {
            let body = answers::error("the stand-in fails on purpose", "server_error", "error");
            return Ok((StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response());
        }
        Mode::ImageLimit => {
            let headers = answers::image_limit_headers(&options);
            let body = Json(answers::limit_reached(&options));
            return Ok((StatusCode::TOO_MANY_REQUESTS, headers, body).into_response());
        }
        Mode::Moderated => {
            let words = "Your request was rejected by the safety system.";
            let body = answers::error(words, "image_generation_user_error", "moderation_blocked");
            return Ok((StatusCode::BAD_REQUEST, Json(body)).into_response());
        }
        _ => {}
    }
    let mut kind = options.picture.clone();
    kind.alpha |= background == "transparent";
    let data = match options.mode {
        Mode::Empty => json!([]),
        Mode::BadBase64 => json!([{"b64_json": "this is *not* base64"}]),
        Mode::Garbage => {
            json!([{"b64_json": STANDARD.encode("these bytes are no picture ".repeat(9))}])
        }
        _ => {
            let picture = pictures::unique(&kind, prompt);
            note_picture(shared, number, &picture);
            json!([{"b64_json": STANDARD.encode(picture)}])
        }
    };
    let format = kind.format.extensions_str()[0];
    Ok(Json(json!({
        "created": answers::now(), "data": data,
        "background": if kind.alpha { "transparent" } else { "opaque" },
        "quality": body["quality"], "output_format": format,
        "size": format!("{}x{}", kind.size.0, kind.size.1),
        "usage": {"input_tokens": 20, "output_tokens": 1000, "total_tokens": 1020},
    }))
    .into_response())
}

/// Notes what would have been paid for; gives its number.
pub fn charge(
    shared: &Shared,
    options: &Options,
    account: &str,
    body: &Value,
    references: Vec<Reference>,
) -> usize {
    let word = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    let mut state = shared.lock();
    let number = state.images.len();
    state.images.push(ImageRequest {
        number,
        at: Instant::now(),
        job: options.job.clone(),
        account: account.to_owned(),
        prompt: word("prompt"),
        background: word("background"),
        references,
        picture: None,
    });
    number
}

/// Notes which picture was made for the request; it may have been forgotten meanwhile.
pub fn note_picture(shared: &Shared, number: usize, picture: &[u8]) {
    if let Some(image) = shared.lock().images.get_mut(number) {
        image.picture = Some(pictures::sha256(picture));
    }
}

/// The pictures of an edit, each of which must be a `data:` URL in base64.
pub fn references<'a>(urls: impl Iterator<Item = &'a str>) -> Result<Vec<Reference>, &'static str> {
    let read = urls.map(|url| {
        let url = url.strip_prefix("data:").ok_or("an image that is no data: URL")?;
        let (mime, text) = url.split_once(";base64,").ok_or("an image that is not base64")?;
        let bytes = STANDARD.decode(text).map_err(|_| "an image that is not base64")?;
        let sha256 = pictures::sha256(&bytes);
        Ok(Reference { mime: mime.to_owned(), sha256, len: bytes.len() })
    });
    read.collect()
}
