//! Logins for the tests of this room.

use std::sync::Arc;

use super::Logins;
use crate::config::{Live, LoginHome};

/// A login file that will do.
pub(super) const AUTH: &str = r#"{"auth_mode":"chatgpt","tokens":{"access_token":"a"}}"#;

/// Logins with these files, in folders called by their numbers.
pub(super) fn logins(auth: &[Option<&str>]) -> (tempfile::TempDir, Arc<Logins>) {
    let dir = tempfile::tempdir().unwrap();
    let mut homes = Vec::new();
    for (n, auth) in auth.iter().enumerate() {
        let path = dir.path().join(n.to_string());
        std::fs::create_dir(&path).unwrap();
        if let Some(auth) = auth {
            std::fs::write(path.join("auth.json"), auth).unwrap();
        }
        homes.push(LoginHome { label: n.to_string(), path });
    }
    (dir, Logins::new(&homes, Arc::new(|_| {}), Live::default()))
}
