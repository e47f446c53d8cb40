//! What signs the cookies: a random id and its HMAC-SHA256, so that a made-up cookie is refused
//! before anybody asks the database. The keys come of the session secret together with the user
//! name and the password that is set: who changes one of them voids every cookie.

use std::{io, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac};
use sha2::{Digest as _, Sha256};

use crate::{
    config::{Config, Secret},
    state_dir::{self, Access, Came},
};

/// 32 random bytes: what a cookie is about.
pub(super) type Id = [u8; 32];
type Key = [u8; 32];
/// 32 bytes of id and 32 of HMAC in URL-safe base64.
const COOKIE_LENGTH: usize = 86;
/// The file in `STATE_DIR` with a session secret that was made.
const FILE: &str = "session-secret";
const SECRET_BYTES: usize = 32;

/// A key of its own for each cookie: none passes for another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Session,
    /// Of this generation: a cookie of another is void.
    Device(i64),
}

/// What the keys come of.
pub(super) struct Origin {
    secret: Option<Secret>,
    /// Digest of user name and password.
    account: [u8; 32],
    file: PathBuf,
}

/// The keys.
pub(super) struct Keys {
    session: Key,
    device: Key,
}

impl Origin {
    pub(super) fn new(config: &Config) -> Self {
        let password = config.admin_password.as_ref().map_or("", Secret::expose);
        let mut account = Sha256::new();
        // The length keeps "ab" and "c" apart from "a" and "bc".
        account.update((config.admin_username.len() as u64).to_be_bytes());
        account.update(config.admin_username.as_bytes());
        account.update(password.as_bytes());
        Self {
            secret: config.admin_session_secret.clone(),
            account: account.finalize().into(),
            file: config.state_dir.join(FILE),
        }
    }

    /// The keys; without a secret in the settings one is read or made.
    pub(super) fn keys(&self) -> io::Result<Keys> {
        let secret: Key = match &self.secret {
            Some(secret) => Sha256::digest(secret.expose()),
            None => Sha256::digest(self.kept_secret()?),
        }
        .into();
        let key = |purpose: &[u8]| mac(&secret, &[purpose, &self.account].concat());
        Ok(Keys { session: key(b"session"), device: key(b"device") })
    }

    /// One that is broken is not worth a service that does not start: another is made, and the
    /// operator signs in again. One of ours that others could read is kept: some volumes set all
    /// modes at each mount (Kubernetes' `fsGroup`), and who knows it has no session yet, for those
    /// are in the store.
    fn kept_secret(&self) -> io::Result<Vec<u8>> {
        let kept = state_dir::private_file(
            &self.file,
            |content, access| {
                // Zeros are what a power cut may leave.
                let is_whole = content.len() == SECRET_BYTES && content != [0; SECRET_BYTES];
                is_whole && access != Access::Foreign
            },
            || {
                let mut secret = vec![0; SECRET_BYTES];
                getrandom::fill(&mut secret).map_err(io::Error::other)?;
                Ok(secret)
            },
        )?;
        if kept.came == Came::Replaced {
            tracing::warn!(
                file = %self.file.display(),
                "the session secret was broken, or not ours and open to others; there is another \
                 now, and whoever was signed in signs in again"
            );
        }
        if kept.access == Access::Wide {
            let narrowed = kept.narrow();
            tracing::warn!(
                file = %self.file.display(), ?narrowed,
                "others than its owner could read the session secret"
            );
        }
        Ok(kept.content)
    }
}

impl Keys {
    fn of(&self, purpose: Purpose) -> Key {
        match purpose {
            Purpose::Session => self.session,
            Purpose::Device(generation) => mac(&self.device, &generation.to_be_bytes()),
        }
    }

    /// The cookie of an id.
    pub(super) fn sign(&self, purpose: Purpose, id: &Id) -> String {
        URL_SAFE_NO_PAD.encode([*id, mac(&self.of(purpose), id)].concat())
    }

    /// The id of a cookie that was signed here.
    pub(super) fn verified(&self, purpose: Purpose, cookie: &[u8]) -> Option<Id> {
        let mut bytes = [0; 64];
        // Nothing of another length is even decoded.
        if cookie.len() != COOKIE_LENGTH {
            return None;
        }
        URL_SAFE_NO_PAD.decode_slice(cookie, &mut bytes).ok()?;
        let (id, tag) = bytes.split_first_chunk::<32>()?;
        let expected = hasher(&self.of(purpose)).chain_update(id);
        // In constant time.
        expected.verify_slice(tag).ok()?;
        Some(*id)
    }
}

/// A new id.
pub(super) fn new_id() -> Result<Id, getrandom::Error> {
    let mut id = Id::default();
    getrandom::fill(&mut id)?;
    Ok(id)
}

fn hasher(key: &Key) -> Hmac<Sha256> {
    // As HMAC itself fills up a key that is shorter than SHA-256's block.
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    Hmac::new(&block.into())
}

fn mac(key: &Key, message: &[u8]) -> [u8; 32] {
    hasher(key).chain_update(message).finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(secret: &str, account: u8) -> Keys {
        let secret = Some(Secret::new(secret.to_owned()));
        Origin { secret, account: [account; 32], file: PathBuf::new() }.keys().unwrap()
    }

    #[test]
    fn a_cookie_is_good_for_its_own_purpose_and_keys_alone() {
        let (ours, id) = (keys("secret", 1), new_id().unwrap());
        let cookie = ours.sign(Purpose::Session, &id);
        assert_eq!(cookie.len(), COOKIE_LENGTH);
        assert_eq!(ours.verified(Purpose::Session, cookie.as_bytes()), Some(id));
        assert_eq!(ours.verified(Purpose::Device(0), cookie.as_bytes()), None);
        let device = ours.sign(Purpose::Device(1), &id);
        for (generation, found) in [(0, None), (1, Some(id)), (2, None)] {
            assert_eq!(ours.verified(Purpose::Device(generation), device.as_bytes()), found);
        }
        for other in [keys("another", 1), keys("secret", 2)] {
            assert_eq!(other.verified(Purpose::Session, cookie.as_bytes()), None);
        }
    }

    #[test]
    fn no_other_text_passes() {
        let ours = keys("secret", 1);
        let cookie = ours.sign(Purpose::Session, &new_id().unwrap()).into_bytes();
        for at in 0..cookie.len() {
            for other in [b'A', b'B', b'=', b' ', 0xff] {
                let mut forged = cookie.clone();
                forged[at] = other;
                let passes = ours.verified(Purpose::Session, &forged).is_some();
                assert_eq!(passes, forged == cookie, "{at}");
            }
        }
        for length in (0..cookie.len()).chain([87, 88, 100_000]) {
            let mut forged = cookie.clone();
            forged.resize(length, b'A');
            assert_eq!(ours.verified(Purpose::Session, &forged), None);
        }
    }
}
