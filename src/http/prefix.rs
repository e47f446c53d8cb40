//! The path under which a proxy shows the service. Some proxies take it off before they pass a
//! request on, some do not: both forms are answered. Where the prefix begins as a route of ours
//! does, what is left without it decides.

use axum::{
    Router,
    extract::Request,
    http::{Uri, uri::PathAndQuery},
};
use tower::{ServiceExt as _, service_fn};

/// The routes as they are and below `prefix`, which is empty or begins with a slash and ends with
/// none.
pub(super) fn both_forms(router: Router, prefix: &str) -> Router {
    if prefix.is_empty() {
        return router;
    }
    let prefix: std::sync::Arc<str> = prefix.into();
    Router::new().fallback_service(service_fn(move |mut request: Request| {
        if let Some(uri) = without(request.uri(), &prefix) {
            *request.uri_mut() = uri;
        }
        router.clone().oneshot(request)
    }))
}

/// What the paths of our routes begin with. `/admin` is no prefix: nobody could tell which it is.
const FIRST: [&str; 10] = [
    "",
    "admin",
    "generated",
    "health",
    "images",
    "metrics",
    "models",
    "openapi.json",
    "ready",
    "v1",
];

/// The address without the prefix; None when it does not lie below it.
fn without(uri: &Uri, prefix: &str) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().strip_prefix(prefix)?;
    let first = uri.path().get(prefix.len()..)?.trim_start_matches('/').split('/').next()?;
    if !FIRST.contains(&first) {
        return None;
    }
    let rest = match rest.bytes().next() {
        Some(b'/') => PathAndQuery::try_from(rest),
        None => PathAndQuery::try_from("/"),
        Some(b'?') => PathAndQuery::try_from(format!("/{rest}")),
        // Only the beginning of another name.
        Some(_) => return None,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(rest.ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_are_taken_off_and_only_once() {
        for (path, expected) in [
            ("/images/admin/keys?a=b", Some("/admin/keys?a=b")),
            ("/images", Some("/")),
            ("/images/", Some("/")),
            ("/images?x", Some("/?x")),
            ("/images/images/generations", Some("/images/generations")),
            ("/images/v1/images/jobs", Some("/v1/images/jobs")),
            // A route of ours, as a proxy that took the prefix off passes it on.
            ("/images/generations", None),
            ("/imagesadmin", None),
            ("/admin", None),
            ("/Images/admin", None),
            ("//images/admin", None),
        ] {
            let uri: Uri = path.parse().unwrap();
            let taken = without(&uri, "/images").map(|uri| uri.to_string());
            assert_eq!(taken.as_deref(), expected, "{path}");
        }
    }
}
