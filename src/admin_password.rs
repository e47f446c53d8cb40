//! The operator's password: set, or made where none is. It is hashed when somebody signs in for the
//! first time, never at start; from then on only its Argon2 hash is known, and that of a password
//! that was made here is kept in the store.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use argon2::{Algorithm, Argon2, Block, Params, PasswordHash, Version};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use subtle::ConstantTimeEq as _;
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit},
    task::spawn_blocking,
};

use crate::{
    config::{Config, Secret},
    state_dir::{self, Came},
    store::{Store, StoreError},
};

/// In bytes; more than any password manager makes, and what a sign-in's form has room for.
const LONGEST: usize = 1024;
/// The most memory that a hash of the operator's own may ask for, in KiB: 1 GiB.
const MOST_MEMORY: u32 = 1024 * 1024;
/// The most of memory times passes, in KiB: several seconds.
const MOST_WORK: u64 = 8 * MOST_MEMORY as u64;

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
    #[error("the password could not be hashed: {0}")]
    Hash(String),
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

/// Why a text cannot be `ADMIN_PASSWORD`, if so.
#[must_use]
pub fn refusal(text: &str) -> Option<&'static str> {
    if text.len() > LONGEST {
        return Some("longer than 1024 bytes");
    }
    if is_hash(text) {
        return Hash::parse(text).err();
    }
    if text.contains(char::is_control) {
        return Some("holds a control character, which no form can send");
    }
    // `$argon2id$v=19$m=1,t=1,p=1$…` without what begins with a dollar sign.
    let robbed = text.contains(",t=") && text.contains(",p=");
    robbed.then_some(
        "looks like an Argon2 hash whose dollar signs were taken for variables; put it in single \
         quotes in a shell, write $$ for each $ in a compose file",
    )
}

fn is_hash(text: &str) -> bool {
    text.starts_with("$argon2")
}

/// A hash as it is written, taken apart: what it costs, and what a password is compared with.
struct Hash {
    argon2: Argon2<'static>,
    salt: Vec<u8>,
    output: Vec<u8>,
}

impl Hash {
    fn parse(text: &str) -> Result<Self, &'static str> {
        const BROKEN: &str = "not a whole Argon2 hash ($argon2id$v=19$m=…,t=…,p=…$salt$hash)";
        let hash = PasswordHash::new(text).map_err(|_| BROKEN)?;
        let (Some(salt), Some(output)) = (hash.salt, hash.hash) else { return Err(BROKEN) };
        let algorithm = Algorithm::new(hash.algorithm.as_str()).map_err(|_| BROKEN)?;
        let version = hash.version.map_or(Ok(Version::default()), Version::try_from);
        let params = Params::try_from(&hash).map_err(|_| BROKEN)?;
        if params.m_cost() > MOST_MEMORY {
            return Err("an Argon2 hash that takes more than 1 GiB of memory to check");
        }
        if u64::from(params.m_cost()) * u64::from(params.t_cost()) > MOST_WORK {
            return Err("an Argon2 hash that takes too long to check");
        }
        let argon2 = Argon2::new(algorithm, version.map_err(|_| BROKEN)?, params);
        Ok(Self { argon2, salt: salt.to_vec(), output: output.as_bytes().to_vec() })
    }

    fn is_of(&self, password: &str) -> Result<bool, PasswordError> {
        let mut output = vec![0; self.output.len()];
        run(&self.argon2, password, &self.salt, &mut output)?;
        Ok(output.ct_eq(&self.output).into())
    }
}

/// Argon2 in memory that goes back to the system at once.
fn run(argon2: &Argon2, password: &str, salt: &[u8], out: &mut [u8]) -> Result<(), PasswordError> {
    /// glibc keeps a block below its largest threshold (`DEFAULT_MMAP_THRESHOLD_MAX`, 32 MiB) once
    /// one of its size was freed: the service would stay that much larger. What is reserved and not
    /// used costs nothing.
    const RESERVED: usize = 33 * 1024 * 1024 / Block::SIZE;
    let count = argon2.params().block_count();
    let mut blocks = Vec::new();
    blocks
        .try_reserve_exact(count.max(RESERVED))
        .map_err(|error| PasswordError::Hash(error.to_string()))?;
    blocks.resize(count, Block::new());
    argon2
        .hash_password_into_with_memory(password.as_bytes(), salt, out, &mut blocks)
        .map_err(|error| PasswordError::Hash(error.to_string()))
}

/// Hashes a password at the library's own costs, which are OWASP's (Argon2id, 19 MiB, two passes).
/// Slow on purpose.
pub fn hash(password: &Secret) -> Result<String, PasswordError> {
    let mut salt = [0_u8; 16];
    getrandom::fill(&mut salt)?;
    let argon2 = Argon2::default();
    let mut output = [0_u8; Params::DEFAULT_OUTPUT_LEN];
    run(&argon2, password.expose(), &salt, &mut output)?;
    let params = argon2.params();
    Ok(format!(
        "$argon2id$v=19$m={},t={},p={}${}${}",
        params.m_cost(),
        params.t_cost(),
        params.p_cost(),
        STANDARD_NO_PAD.encode(salt),
        STANDARD_NO_PAD.encode(output)
    ))
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
            Some(secret) if is_hash(secret.expose()) => Held::Hashed(secret.expose().to_owned()),
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
        if !file.is_private {
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
            let hash = Hash::parse(&hash).map_err(|why| PasswordError::Hash(why.to_owned()))?;
            hash.is_of(given.expose())
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
            hash(&plain.map_or_else(|| read(&file), Ok)?)
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
    spawn_blocking(work).await.unwrap_or_else(|error| Err(PasswordError::Hash(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf hunter42 | argon2 saltsalt -id -t 1 -k 64 -p 1 -e`
    fn small_hash(costs: &str) -> String {
        let salt = STANDARD_NO_PAD.encode(b"saltsalt");
        let parse = format!("$argon2id$v=19${costs}${salt}${}", STANDARD_NO_PAD.encode([0; 32]));
        let Ok(hash) = Hash::parse(&parse) else { return parse };
        let mut output = [0; 32];
        run(&hash.argon2, "hunter42", &hash.salt, &mut output).unwrap();
        format!("$argon2id$v=19${costs}${salt}${}", STANDARD_NO_PAD.encode(output))
    }

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
        let text = hash(&password).unwrap();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        assert_eq!(refusal(&text), None);
        let hash = Hash::parse(&text).unwrap();
        assert!(hash.is_of(password.expose()).unwrap());
        assert!(!hash.is_of("hunter42").unwrap());
    }

    #[test]
    fn a_hash_that_is_set_must_be_whole_and_cheap_enough() {
        let good = small_hash("m=64,t=1,p=1");
        assert_eq!(refusal(&good), None);
        assert!(Hash::parse(&good).unwrap().is_of("hunter42").unwrap());
        // Of another library: Argon2's reference, by the test vectors of argon2 0.6.
        let other = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$\
                     CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(Hash::parse(other).unwrap().is_of("password").unwrap());
        for (broken, why) in [
            (&good[..good.len() - 30], "whole"),
            ("$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ", "whole"),
            ("$argon2id", "whole"),
            ("$argon2x$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA", "whole"),
            (&good.replace("p=1", "p=0"), "whole"),
            (&good.replace("m=64", "m=1"), "whole"),
            (&good.replace("m=64", "m=1048577"), "1 GiB"),
            (&good.replace("t=1", "t=4000000000"), "too long"),
            (&good.replace("m=64,t=1", "m=1048576,t=9"), "too long"),
            ("=19=64,t=1,p=1", "dollar"),
            (&"x".repeat(1025), "1024"),
            ("two\nlines", "control"),
        ] {
            assert!(refusal(broken).is_some_and(|said| said.contains(why)), "{broken}");
        }
        for plain in ["correct horse", "$2b$12$abc", "argon2id", "$"] {
            assert_eq!(refusal(plain), None, "{plain}");
        }
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
