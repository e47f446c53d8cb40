//! Style, script and icon: in the program, under names that hold a digest of their content, so that
//! a browser keeps them for ever and an update is seen at once.

use std::sync::LazyLock;

use axum::{
    Router,
    body::Bytes,
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use sha2::{Digest, Sha256};

use super::{App, trouble::Trouble};
use crate::images;

/// A file of the pages.
struct Asset {
    name: String,
    media_type: &'static str,
    content: &'static [u8],
}

impl Asset {
    fn new(stem: &str, extension: &str, media_type: &'static str, content: &'static [u8]) -> Self {
        let digest = images::hex(&Sha256::digest(content)[..6]);
        Self { name: format!("{stem}-{digest}.{extension}"), media_type, content }
    }
}

static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new(
        "style",
        "css",
        "text/css; charset=utf-8",
        include_bytes!("../../../templates/style.css"),
    )
});
static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    let content = include_bytes!("../../../templates/app.js");
    Asset::new("app", "js", "text/javascript; charset=utf-8", content)
});
static ICON: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("icon", "svg", "image/svg+xml", include_bytes!("../../../templates/icon.svg"))
});

/// `/admin/assets/{name}`; nobody needs to be signed in.
pub(super) fn router() -> Router<App> {
    Router::new().route("/admin/assets/{name}", get(serve))
}

/// The names, to be linked: style, script, icon.
pub(super) fn names() -> (&'static str, &'static str, &'static str) {
    (&STYLE.name, &SCRIPT.name, &ICON.name)
}

async fn serve(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let all = [&STYLE, &SCRIPT, &ICON];
    let Some(asset) = all.into_iter().find(|asset| asset.name == name) else {
        return Trouble::NoAsset.into_response();
    };
    let mut response = if headers.contains_key(header::IF_NONE_MATCH) {
        // Its name says that it is the same.
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Bytes::from_static(asset.content).into_response()
    };
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.media_type));
    let for_ever = HeaderValue::from_static("public, max-age=31536000, immutable");
    answer.insert(header::CACHE_CONTROL, for_ever);
    answer.insert(header::ETAG, HeaderValue::from_static("\"same\""));
    response
}
