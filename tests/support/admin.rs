//! A browser at the admin pages: keeps cookies by the rules that matter here, follows nothing by
//! itself, sends what a real one sends with a form of the page's own.

use super::{Reply, Service};

/// The user and password of [`signing_in`](super::Setup::admin).
pub const USER: &str = "admin";
pub const PASSWORD: &str = "correct horse battery staple";

/// A browser with its cookies.
pub struct Browser<'a> {
    service: &'a Service,
    /// `ADMIN_URL_PREFIX`: put before every path.
    prefix: String,
    /// Name and value.
    pub cookies: Vec<(String, String)>,
}

impl<'a> Browser<'a> {
    /// One that has never been here.
    pub fn new(service: &'a Service) -> Self {
        Self { service, prefix: String::new(), cookies: Vec::new() }
    }

    /// The same at a service with a prefix.
    pub fn under(service: &'a Service, prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..Self::new(service) }
    }

    /// One that is signed in with [`PASSWORD`].
    #[track_caller]
    pub fn signed_in(service: &'a Service) -> Self {
        let mut browser = Self::new(service);
        browser.sign_in(PASSWORD).expect(303);
        assert!(browser.cookie("codex_image_session").is_some());
        browser
    }

    /// Sends the form of the sign-in.
    pub fn sign_in(&mut self, password: &str) -> Reply {
        self.post("/admin/login", &[("username", USER), ("password", password)])
    }

    /// GET of a page.
    pub fn get(&mut self, path: &str) -> Reply {
        let headers = [("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "navigate")];
        self.request("GET", path, &headers, None)
    }

    /// POST of a form.
    pub fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let headers = [
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-mode", "navigate"),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        self.request("POST", path, &headers, Some(form(fields).as_bytes()))
    }

    /// Any request with the cookies and no header that is not given; keeps the answer's cookies.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Reply {
        let cookies: Vec<_> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = cookies.join("; ");
        let mut all = headers.to_vec();
        if !cookies.is_empty() {
            all.push(("cookie", &cookies));
        }
        let path = format!("{}{path}", self.prefix);
        let reply = self.service.request_bare(method, &path, &all, body);
        for set in reply.headers.iter().filter(|(name, _)| name == "set-cookie") {
            self.keep(&set.1);
        }
        reply
    }

    fn keep(&mut self, set: &str) {
        let (pair, attributes) = set.split_once(';').unwrap_or((set, ""));
        let (name, value) = pair.split_once('=').expect("a cookie");
        self.forget(name);
        if !attributes.split(';').any(|attribute| attribute.trim() == "Max-Age=0") {
            self.cookies.push((name.to_owned(), value.to_owned()));
        }
    }

    /// The value of a cookie.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        self.cookies.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Drops a cookie.
    pub fn forget(&mut self, name: &str) {
        self.cookies.retain(|(known, _)| known != name);
    }

    /// Is a page shown, or the way to the sign-in?
    #[track_caller]
    pub fn is_signed_in(&mut self) -> bool {
        let reply = self.get("/admin");
        match reply.status {
            200 => true,
            303 => {
                let to = format!("{}/admin/login", self.prefix);
                assert_eq!(reply.header("location"), Some(to.as_str()));
                false
            }
            _ => panic!("{reply:?}"),
        }
    }
}

/// Fields as `application/x-www-form-urlencoded`.
pub fn form(fields: &[(&str, &str)]) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(fields).finish()
}
