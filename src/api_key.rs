//! API keys as text: `cimg_`, a secret, and in new keys a checksum. What is stored is their
//! SHA-256; what people are shown is a handle.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

/// What every key begins with.
const PREFIX: &str = "cimg_";

/// 32 random bytes in URL-safe base64.
const SECRET_LENGTH: usize = 43;

/// CRC-32 in base 62: lets a mistyped key be refused without a look-up.
const CHECKSUM_LENGTH: usize = 6;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key that was just made. Its text is shown once and kept nowhere.
pub struct NewKey {
    /// The key's own id, `key_` and 12 hex digits; says nothing about the secret.
    pub id: String,
    /// The whole key.
    pub text: String,
}

/// Makes a key of 256 random bits.
///
/// # Errors
/// When the system has no random numbers to give.
pub fn generate() -> Result<NewKey, getrandom::Error> {
    let mut secret = [0_u8; 32];
    getrandom::fill(&mut secret)?;
    let mut id = [0_u8; 6];
    getrandom::fill(&mut id)?;
    let body = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
    let checksum = checksum(&body);
    Ok(NewKey { id: format!("key_{}", hex(&id)), text: body + &checksum })
}

/// The name that somebody gives a key, without blanks around it; None when it can't be one. Names
/// have 1 to 100 characters, none of them a control character.
#[must_use]
pub fn checked_name(name: &str) -> Option<&str> {
    let name = name.trim();
    let fits = (1..=100).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    fits.then_some(name)
}

/// Could this be a key? Refuses what was mistyped; keys of the original have no checksum and
/// pass by their form alone.
#[must_use]
pub fn is_well_formed(key: &str) -> bool {
    let Some(rest) = key.strip_prefix(PREFIX) else { return false };
    if !rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
        return false;
    }
    match rest.len() {
        SECRET_LENGTH => true,
        length if length == SECRET_LENGTH + CHECKSUM_LENGTH => {
            let (body, sum) = key.split_at(PREFIX.len() + SECRET_LENGTH);
            sum == checksum(body)
        }
        _ => false,
    }
}

/// Hex SHA-256 of the whole key: what is stored and looked up.
#[must_use]
pub fn hash(key: &str) -> String {
    hex(&Sha256::digest(key.as_bytes()))
}

/// What people are shown: the prefix and four characters of the secret.
#[must_use]
pub fn handle(key: &str) -> String {
    format!("{}…", key.chars().take(PREFIX.len() + 4).collect::<String>())
}

fn checksum(body: &str) -> String {
    let mut rest = crc32fast::hash(body.as_bytes());
    let mut digits = [b'0'; CHECKSUM_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_verifies_and_a_mistyped_one_does_not() {
        let key = generate().unwrap().text;
        assert!(is_well_formed(&key), "{key}");
        for at in PREFIX.len()..key.len() {
            let mut typo = key.clone().into_bytes();
            typo[at] = if typo[at] == b'x' { b'y' } else { b'x' };
            assert!(!is_well_formed(std::str::from_utf8(&typo).unwrap()));
        }
    }

    #[test]
    fn a_key_of_the_original_is_accepted_by_its_form() {
        assert!(is_well_formed("cimg_Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE"));
        assert!(!is_well_formed("cimg_Zm9vYmFy"));
        assert!(!is_well_formed("sk-Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE"));
    }

    #[test]
    fn the_hash_is_that_of_the_original() {
        // printf cimg_test | sha256sum
        assert_eq!(
            hash("cimg_test"),
            "7bc7b9f830168dc6d718e59190aaad65e8847a8c1305bdf3f17cbee9af226ae8"
        );
    }
}
