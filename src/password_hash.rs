//! Passwords at rest: Argon2 hashes, as PHC strings. Knows neither settings nor the store.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use subtle::ConstantTimeEq as _;

/// In bytes; more than any password manager makes, and what a sign-in's form has room for.
pub const LONGEST: usize = 1024;
/// The most memory that a hash of the operator's own may ask for, in KiB: 1 GiB.
const MOST_MEMORY: u32 = 1024 * 1024;
/// The most of memory times passes, in KiB: several seconds.
const MOST_WORK: u64 = 8 * MOST_MEMORY as u64;

/// Why a password could not be hashed.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// The system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// Argon2 failed, for want of memory for one.
    #[error("the password could not be hashed: {0}")]
    Failed(String),
}

/// Why a text cannot be `ADMIN_PASSWORD`, if so.
#[must_use]
pub fn refusal(text: &str) -> Option<&'static str> {
    if text.len() > LONGEST {
        return Some("longer than 1024 bytes");
    }
    if is_hash(text) {
        return PasswordHash::parse(text).err();
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

/// Is it meant to be a hash?
#[must_use]
pub fn is_hash(text: &str) -> bool {
    text.starts_with("$argon2")
}

/// A hash as it is written, taken apart: what it costs, and what a password is compared with.
pub struct PasswordHash {
    argon2: Argon2<'static>,
    salt: Vec<u8>,
    output: Vec<u8>,
}

impl PasswordHash {
    /// Of a PHC string; the error is why it can't be one, in words for the operator.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const BROKEN: &str = "not a whole Argon2 hash ($argon2id$v=19$m=…,t=…,p=…$salt$hash)";
        let hash = argon2::PasswordHash::new(text).map_err(|_| BROKEN)?;
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

    /// Is it of this password? Slow on purpose, and as slow for a wrong one.
    pub fn is_of(&self, password: &str) -> Result<bool, HashError> {
        let mut output = vec![0; self.output.len()];
        run(&self.argon2, password, &self.salt, &mut output)?;
        Ok(output.ct_eq(&self.output).into())
    }
}

/// Argon2 in memory that goes back to the system at once.
fn run(argon2: &Argon2, password: &str, salt: &[u8], out: &mut [u8]) -> Result<(), HashError> {
    /// glibc keeps a block below its largest threshold (`DEFAULT_MMAP_THRESHOLD_MAX`, 32 MiB) once
    /// one of its size was freed: the service would stay that much larger. What is reserved and not
    /// used costs nothing.
    const RESERVED: usize = 33 * 1024 * 1024 / Block::SIZE;
    let count = argon2.params().block_count();
    let mut blocks = Vec::new();
    blocks
        .try_reserve_exact(count.max(RESERVED))
        .map_err(|error| HashError::Failed(error.to_string()))?;
    blocks.resize(count, Block::new());
    argon2
        .hash_password_into_with_memory(password.as_bytes(), salt, out, &mut blocks)
        .map_err(|error| HashError::Failed(error.to_string()))
}

/// Hashes a password at the library's own costs, which are OWASP's (Argon2id, 19 MiB, two passes).
/// Slow on purpose.
pub fn make(password: &str) -> Result<String, HashError> {
    let mut salt = [0_u8; 16];
    getrandom::fill(&mut salt)?;
    let argon2 = Argon2::default();
    let mut output = [0_u8; Params::DEFAULT_OUTPUT_LEN];
    run(&argon2, password, &salt, &mut output)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf hunter42 | argon2 saltsalt -id -t 1 -k 64 -p 1 -e`
    fn small_hash(costs: &str) -> String {
        let salt = STANDARD_NO_PAD.encode(b"saltsalt");
        let parse = format!("$argon2id$v=19${costs}${salt}${}", STANDARD_NO_PAD.encode([0; 32]));
        let Ok(hash) = PasswordHash::parse(&parse) else { return parse };
        let mut output = [0; 32];
        run(&hash.argon2, "hunter42", &hash.salt, &mut output).unwrap();
        format!("$argon2id$v=19${costs}${salt}${}", STANDARD_NO_PAD.encode(output))
    }

    #[test]
    fn a_hash_that_is_set_must_be_whole_and_cheap_enough() {
        let good = small_hash("m=64,t=1,p=1");
        assert_eq!(refusal(&good), None);
        assert!(PasswordHash::parse(&good).unwrap().is_of("hunter42").unwrap());
        // Of another library: Argon2's reference, by the test vectors of argon2 0.6.
        let other = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$\
                     CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(PasswordHash::parse(other).unwrap().is_of("password").unwrap());
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
}
