//! What a job may ask for: the bounds to which the front keeps its callers, and the worker the front.

/// A prompt's bound, in characters.
pub const MAX_PROMPT_CHARS: usize = 32_000;
/// The same in bytes: a character has four at most.
pub const MAX_PROMPT_BYTES: u64 = MAX_PROMPT_CHARS as u64 * 4;
/// References of one job, a mask not counted.
pub const MAX_REFERENCES: usize = 5;
/// Pictures of one job, whatever the settings allow.
pub const MAX_COUNT: u32 = 10;

/// `auto` or `WIDTHxHEIGHT`, 3 to 4 digits each.
#[must_use]
pub fn is_size(size: &str) -> bool {
    let is_side = |side: &str| {
        matches!(side.len(), 3 | 4) && side.bytes().all(|digit| digit.is_ascii_digit())
    };
    size == "auto" || size.split_once('x').is_some_and(|(w, h)| is_side(w) && is_side(h))
}

/// One of the words for how much care is taken.
#[must_use]
pub fn is_quality(quality: &str) -> bool {
    matches!(quality, "low" | "medium" | "high" | "auto")
}

/// One of the words for what lies behind the picture.
#[must_use]
pub fn is_background(background: &str) -> bool {
    matches!(background, "auto" | "opaque" | "transparent")
}
