//! Promise: a page that the operator allowed can call the API from a browser, others cannot.
#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use support::Setup;

const PAGE: &str = "https://app.example";

#[test]
fn a_preflight_names_the_header_with_the_key() {
    let service = Setup::painter().set("CORS_ALLOW_ORIGINS", PAGE).start();
    let asked = [
        ("origin", PAGE),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    let reply = service.request("OPTIONS", "/v1/images/generate", &asked, None).expect(200);
    let allowed = reply.header("access-control-allow-headers").unwrap().to_lowercase();
    // For browsers a `*` would not cover it.
    assert!(allowed.split(',').any(|name| name.trim() == "authorization"), "{allowed}");
    assert!(allowed.split(',').any(|name| name.trim() == "content-type"), "{allowed}");
    assert_eq!(reply.header("access-control-allow-origin"), Some(PAGE));
    assert!(reply.header("x-request-id").is_some(), "a preflight is a request, too");
}

#[test]
fn answers_can_be_read_by_the_allowed_page_only() {
    let service = Setup::painter().set("CORS_ALLOW_ORIGINS", PAGE).start();
    let reply = service.get_from(PAGE);
    assert_eq!(reply.header("access-control-allow-origin"), Some(PAGE));
    let exposed = reply.header("access-control-expose-headers").unwrap();
    assert!(exposed.contains("x-request-id") && exposed.contains("x-job-id"), "{exposed}");
    let reply = service.get_from("https://other.example");
    assert_eq!(reply.header("access-control-allow-origin"), None);
}

#[test]
fn without_the_setting_no_page_may_call() {
    let service = Setup::painter().start();
    assert_eq!(service.get_from(PAGE).header("access-control-allow-origin"), None);
}

trait GetFrom {
    fn get_from(&self, origin: &str) -> support::http::Reply;
}

impl GetFrom for support::service::Service {
    fn get_from(&self, origin: &str) -> support::http::Reply {
        self.request("GET", "/health", &[("origin", origin)], None).expect(200)
    }
}
