//! Promise: the operator signs in with the password and stays signed in for as long as was said,
//! wherever the service is restarted meanwhile; and signs out, here or everywhere, at once.

#![allow(clippy::unwrap_used, reason = "a broken test is a failed test")]

mod support;

use support::{
    Browser, Setup,
    admin::{PASSWORD, USER},
};

#[test]
fn the_right_password_opens_the_pages() {
    let service = Setup::admin().start();
    let mut browser = Browser::new(&service);
    assert!(!browser.is_signed_in());
    let page = browser.get("/admin/login").expect(200).text();
    for words in ["<h1>Sign in</h1>", ">User name<", ">Password<", "Stay signed in for 30 days"] {
        assert!(page.contains(words), "{words} in {page}");
    }
    let reply = browser.sign_in(PASSWORD).expect(303);
    assert_eq!(reply.header("location"), Some("/admin"));
    assert!(browser.is_signed_in());
    assert_eq!(browser.get("/admin/login").expect(303).header("location"), Some("/admin"));
    assert_eq!(USER, "admin");
}
