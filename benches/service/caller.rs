//! What a caller of the service needs.

use super::support::Service;

/// The header of the default key, in wrk's form.
pub fn bearer(service: &Service) -> Vec<String> {
    vec![format!("authorization: Bearer {}", service.default_key())]
}
