//! The operator's password: set, or made where none is. It is hashed when somebody signs in for the
//! first time, never at start; from then on only its Argon2 hash is known, and that of a password
//! that was made here is kept in the store.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{
    sync::{Mutex, OwnedSemaphorePermit},
    task::spawn_blocking,
};

use crate::{
    config::{Config, Secret},
    password_hash::{self, HashError, LONGEST, PasswordHash},
    state_dir::{self, Access, Came},
    store::{Store, StoreError},
};

/// The file in `STATE_DIR` with a password that was made.
const FILE: &str = "admin-password";

/// 32 of them, 5 bits each, without those that look like others.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Why a password could not be made, found or compared.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// The file with the password cannot be read or made.
    #[error("{0}")]
    File(#[from] io::Error),
    /// The file with the password is gone or holds none.
    #[error("{0} holds no password; at the next start one is made")]
    NoPassword(PathBuf),
    /// Argon2 failed, for want of memory for one.
    #[error(transparent)]
    Hash(#[from] HashError),
}

/// A password of 125 random bits: five groups of five letters and digits.
pub fn random() -> Result<Secret, getrandom::Error> {
    let mut bytes = [0_u8; 25];
    getrandom::fill(&mut bytes)?;
    let mut text = String::with_capacity(29);
    for (at, byte) in bytes.into_iter().enumerate() {
        if at > 0 && at % 5 == 0 {
            text.push('-');
        }
        text.push(char::from(LETTERS[usize::from(byte % 32)]));
    }
    Ok(Secret::new(text))
}

/// What is known of the password beside the store.
enum Held {
    /// None was made; the store has the hash, or nobody can sign in.
    Nothing,
    /// Until somebody signs in for the first time.
    Plain(Secret),
    /// The same, in the file.
    InFile,
    Hashed(String),
}

/// The password that signs the operator in.
pub struct AdminPassword {
    /// It is `ADMIN_PASSWORD`; else one that was made.
    is_set: bool,
    held: Mutex<Held>,
    file: PathBuf,
}

/// A password that is right, and the hash that says so.
pub struct Verified(String);

impl AdminPassword {
    /// As the settings say; nothing is made or hashed yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let held = match config.admin_password.clone() {
            Some(secret) if password_hash::is_hash(secret.expose()) => {
                Held::Hashed(secret.expose().to_owned())
            }
            Some(secret) => Held::Plain(secret),
            None => Held::Nothing,
        };
        Self { is_set: config.admin_password.is_some(), held: held.into(), file: file_of(config) }
    }

    /// Sees to it that there is a password. One that is made now is given to be shown, when there
    /// is somebody at a terminal to see it; else it is in a file that the log names.
    pub async fn prepare(
        &self,
        store: &Store,
        on_terminal: bool,
    ) -> Result<Option<Secret>, PasswordError> {
        if self.is_set || store.admin_password().await?.is_some() {
            return Ok(None);
        }
        let mut held = self.held.lock().await;
        if on_terminal && !self.file.exists() {
            let password = random()?;
            *held = Held::Plain(password.clone());
            return Ok(Some(password));
        }
        let file = state_dir::private_file(
            &self.file,
            |content, _| password_in(content).is_some(),
            || {
                let password = random().map_err(io::Error::other)?;
                Ok(format!("{}\n", password.expose()).into_bytes())
            },
        )?;
        if file.access != Access::Owner {
            tracing::warn!(file = %self.file.display(), "others than its owner can read the file");
        }
        let made = file.came != Came::Found;
        tracing::info!(
            file = %self.file.display(), made, "the password of the admin pages is in this file"
        );
        *held = Held::InFile;
        Ok(None)
    }

    /// Is this the password? As slow for a wrong one as for the right one; it takes a place among
    /// those that are compared at once, and keeps it until it is done, whether or not anybody waits.
    pub async fn verify(
        &self,
        store: &Store,
        given: Secret,
        place: OwnedSemaphorePermit,
    ) -> Result<Option<Verified>, PasswordError> {
        let place = Arc::new(place);
        let known = if self.is_set { None } else { store.admin_password().await? };
        let known = match known {
            Some(hash) => hash,
            None => self.held(&place).await?,
        };
        let hash = known.clone();
        let is_right = blocking(move || {
            let _place = place;
            let hash =
                PasswordHash::parse(&hash).map_err(|why| HashError::Failed(why.to_owned()))?;
            Ok(hash.is_of(given.expose())?)
        });
        Ok(is_right.await?.then_some(Verified(known)))
    }

    /// The hash of what is held; made of the plain text the first time, which is forgotten then.
    async fn held(&self, place: &Arc<OwnedSemaphorePermit>) -> Result<String, PasswordError> {
        let mut held = self.held.lock().await;
        let (place, file) = (Arc::clone(place), self.file.clone());
        let plain = match &*held {
            Held::Hashed(hash) => return Ok(hash.clone()),
            Held::Nothing => return Err(PasswordError::NoPassword(file)),
            Held::Plain(password) => Some(password.clone()),
            Held::InFile => None,
        };
        let made = blocking(move || {
            let _place = place;
            Ok(password_hash::make(plain.map_or_else(|| read(&file), Ok)?.expose())?)
        });
        let made = made.await?;
        *held = Held::Hashed(made.clone());
        Ok(made)
    }

    /// Keeps the hash of a password that was made, now that somebody has signed in with it. False
    /// when it is no longer the password: another was made meanwhile.
    pub async fn keep(&self, store: &Store, verified: Verified) -> Result<bool, PasswordError> {
        if self.is_set {
            return Ok(true);
        }
        if store.set_admin_password(&verified.0, false).await? {
            tracing::info!("the hash of the admin pages' password is in the database now");
            if self.file.exists() {
                tracing::info!(file = %self.file.display(), "the file can be deleted");
            }
            return Ok(true);
        }
        Ok(store.admin_password().await? == Some(verified.0))
    }
}

/// Where the password is that was made for this service, if it was written to a file.
#[must_use]
pub fn file_of(config: &Config) -> PathBuf {
    config.state_dir.join(FILE)
}

fn read(file: &Path) -> Result<Secret, PasswordError> {
    match std::fs::read(file) {
        Ok(content) => password_in(&content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    }
    .ok_or_else(|| PasswordError::NoPassword(file.to_owned()))
}

/// The first line; a power cut may leave zeros.
fn password_in(content: &[u8]) -> Option<Secret> {
    let line = std::str::from_utf8(content).ok()?.lines().next()?.trim_end();
    let is_one = !line.is_empty() && line.len() <= LONGEST && !line.contains(char::is_control);
    is_one.then(|| Secret::new(line.to_owned()))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
) -> Result<T, PasswordError> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(HashError::Failed(error.to_string()).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_password_has_125_bits_and_verifies() {
        let password = random().unwrap();
        assert_eq!(password.expose().len(), 29);
        assert!(
            password
                .expose()
                .split('-')
                .all(|group| group.len() == 5
                    && group.bytes().all(|letter| LETTERS.contains(&letter)))
        );
        assert_ne!(password.expose(), random().unwrap().expose());
        let text = password_hash::make(password.expose()).unwrap();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        assert_eq!(password_hash::refusal(&text), None);
        let hash = PasswordHash::parse(&text).unwrap();
        assert!(hash.is_of(password.expose()).unwrap());
        assert!(!hash.is_of("hunter42").unwrap());
    }

    #[test]
    fn a_file_holds_one_line() {
        let found = |content: &[u8]| password_in(content).map(|secret| secret.expose().to_owned());
        assert_eq!(found(b"secret\r\nmore").as_deref(), Some("secret"));
        assert_eq!(found(b"two words").as_deref(), Some("two words"));
        for nothing in [&b""[..], b"\nsecret", b"\0\0\0", b"\xff"] {
            assert_eq!(found(nothing), None);
        }
    }
}
