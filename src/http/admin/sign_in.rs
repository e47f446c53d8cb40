use super::App;
use crate::{config::Config, store::Store};
use axum::Router;
use tower_http::csrf::CsrfLayer;
pub(super) struct SignIn;
impl SignIn {
    pub(super) fn new(_: &Config, _: Store) -> Self {
        Self
    }
}
pub(super) fn router() -> Router<App> {
    Router::new()
}
pub(super) fn csrf(_: &Config) -> CsrfLayer {
    CsrfLayer::new()
}
