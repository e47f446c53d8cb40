use super::{App, trouble::Trouble};
use crate::store::admin::SessionId;
use axum::{extract::FromRequestParts, http::request::Parts};
pub(super) struct Operator {
    pub(super) session: SessionId,
}
impl FromRequestParts<App> for Operator {
    type Rejection = Trouble;
    async fn from_request_parts(_: &mut Parts, _: &App) -> Result<Self, Trouble> {
        Ok(Self { session: [0; 32] })
    }
}
