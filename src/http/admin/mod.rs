//! The admin pages: signing in, and the place where the other pages will be.

mod secret;
mod session;
mod sign_in;
mod throttle;

use axum::{
    Router,
    extract::State,
    http::HeaderValue,
    middleware::map_response_with_state,
    response::{IntoResponse, Response},
    routing::get,
};

use self::{
    page::{Page, Place, TroublePage},
    session::Operator,
    sign_in::SignIn,
    trouble::Trouble,
};
use super::App;
use crate::{config::Config, store::Store};

/// What the pages have beside the API's world.
pub(super) struct Admin {
    pub(super) sign_in: SignIn,
}

impl Admin {
    /// Nothing is hashed and nobody is asked yet.
    pub(super) fn new(config: &Config, store: &Store) -> Self {
        Self { sign_in: SignIn::new(config, store.clone()) }
    }
}

/// Every page, in its middleware.
pub(super) fn router(app: &App, config: &Config) -> Router<App> {
    Router::new()
        .merge(sign_in::router())
        .route("/admin", get(overview))
        .route("/admin/{*other}", axum::routing::any(no_page))
        .layer(sign_in::csrf(config))
        .layer(map_response_with_state(app.clone(), finish))
}

async fn overview(operator: Operator, State(app): State<App>) -> Result<Response, Trouble> {
    let _ = operator.session;
    let page = Page::new(&app, Place::Elsewhere);
    page::html(axum::http::StatusCode::OK, &TroublePage { page, words: String::new() })
}

async fn no_page(_: Operator) -> Trouble {
    Trouble::NotFound
}

/// Makes a page of a trouble.
async fn finish(State(app): State<App>, mut response: Response) -> Response {
    if let Some(trouble) = response.extensions_mut().remove::<Trouble>() {
        let page = Page::new(&app, Place::Elsewhere);
        let (status, title, words) = trouble.words();
        response = page::html(status, &TroublePage { page: page.titled(title), words })
            .unwrap_or_else(|_| status.into_response());
    }
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(axum::http::header::CACHE_CONTROL, no_store);
    response
}

mod page {
    use askama::Template;
    use axum::{
        http::{HeaderValue, StatusCode, header},
        response::{IntoResponse, Response},
    };

    use super::{
        App,
        texts::{ENGLISH, Texts},
        trouble::Trouble,
    };

    #[derive(Clone, Copy)]
    pub(super) enum Place {
        Elsewhere,
    }

    pub(super) struct Page {
        pub(super) t: &'static Texts,
        pub(super) base: String,
        pub(super) title: String,
        pub(super) signed_in: bool,
    }

    impl Page {
        pub(super) fn new(app: &App, place: Place) -> Self {
            let Place::Elsewhere = place;
            Self {
                t: &ENGLISH,
                base: format!("{}/admin", app.admin_url_prefix),
                title: "Overview".to_owned(),
                signed_in: true,
            }
        }

        pub(super) fn titled(mut self, title: &str) -> Self {
            title.clone_into(&mut self.title);
            self
        }
    }

    pub(super) fn html(status: StatusCode, template: &impl Template) -> Result<Response, Trouble> {
        let mut response = template.render()?.into_response();
        *response.status_mut() = status;
        let kind = HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        Ok(response)
    }

    pub(super) fn see_other(app: &App, path: &str) -> Response {
        let mut response = StatusCode::SEE_OTHER.into_response();
        let target = format!("{}/admin{path}", app.admin_url_prefix);
        super::super::respond::set(response.headers_mut(), header::LOCATION, &target);
        response
    }

    #[derive(Template)]
    #[template(path = "trouble.html")]
    pub(super) struct TroublePage {
        pub(super) page: Page,
        pub(super) words: String,
    }
}

mod texts {
    pub(super) struct Texts {
        pub(super) lang: &'static str,
        pub(super) product: &'static str,
        pub(super) sign_in: &'static str,
        pub(super) user_name: &'static str,
        pub(super) password: &'static str,
        pub(super) remember: &'static str,
        pub(super) wrong_sign_in: &'static str,
        pub(super) no_form: &'static str,
        pub(super) form_too_large: &'static str,
        pub(super) form_broken: &'static str,
    }

    pub(super) static ENGLISH: Texts = Texts {
        lang: "en",
        product: "codex-image-service",
        // Sign in
        sign_in: "Sign in",
        user_name: "User name",
        password: "Password",
        remember: "Stay signed in for 30 days",
        wrong_sign_in: "The user name or the password is wrong.",
        no_form: "Signing in needs a form: application/x-www-form-urlencoded.",
        form_too_large: "The form is larger than a user name and a password can be.",
        form_broken: "The form is not whole: it needs a user name and a password.",
    };

    #[allow(clippy::unused_self, reason = "another language says it otherwise")]
    impl Texts {
        /// When there were too many failures.
        pub(super) fn too_many_tries(&self, seconds: u64) -> String {
            let plural = if seconds == 1 { "" } else { "s" };
            format!("There were too many tries. Try again in {seconds} second{plural}.")
        }

        /// When a browser would drop the cookie.
        pub(super) fn only_https(&self, url: &str) -> String {
            format!("PUBLIC_BASE_URL begins with https, so this works over https alone: {url}")
        }
    }
}

mod trouble {
    use axum::{
        http::StatusCode,
        response::{IntoResponse, Response},
    };

    use crate::store::StoreError;

    #[derive(Clone, Debug)]
    pub(super) enum Trouble {
        NotFound,
        CrossSite,
        Broken,
    }

    impl Trouble {
        pub(super) fn words(&self) -> (StatusCode, &'static str, String) {
            match self {
                Self::NotFound => (StatusCode::NOT_FOUND, "Not found", String::new()),
                Self::CrossSite => (
                    StatusCode::FORBIDDEN,
                    "Refused",
                    "The request came from another site, or its origin can't be told.".to_owned(),
                ),
                Self::Broken => {
                    (StatusCode::INTERNAL_SERVER_ERROR, "Something broke", String::new())
                }
            }
        }
    }

    impl IntoResponse for Trouble {
        fn into_response(self) -> Response {
            let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
            response.extensions_mut().insert(self);
            response
        }
    }

    impl From<StoreError> for Trouble {
        fn from(error: StoreError) -> Self {
            tracing::error!(%error, "the store failed under an admin page");
            Self::Broken
        }
    }

    impl From<askama::Error> for Trouble {
        fn from(error: askama::Error) -> Self {
            tracing::error!(%error, "a page could not be written");
            Self::Broken
        }
    }
}
