//! `.env`, read as the Python original reads it: `NAME=value` a line, quotes taken off, nothing
//! substituted (a `$` in a password is a `$`), lines without `=` skipped. What Docker Compose adds
//! is understood too: `export ` in front, and ` #` after an unquoted value starts a comment.
//!
//! A parser of its own because dotenvy, the usual choice, has had no release since 2023 and
//! substitutes `$NAME`, which would silently change the passwords of existing files.

/// The pairs of the file in their order; of two with one name the first holds, as in the original.
pub(super) fn parse(text: &str) -> Vec<(String, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut pairs: Vec<(String, String)> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.split_once('=') else { continue };
        let name = name.trim();
        let name = name
            .strip_prefix("export")
            .filter(|rest| rest.starts_with(char::is_whitespace))
            .map_or(name, str::trim_start);
        if !name.is_empty() && pairs.iter().all(|(known, _)| known != name) {
            pairs.push((name.to_owned(), unquoted(value.trim()).to_owned()));
        }
    }
    pairs
}

/// The value without its quotes, or without the comment behind it.
fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote)
            && let Some(end) = closing(inner, quote)
        {
            return &inner[..end];
        }
    }
    let comment = value
        .char_indices()
        .find(|&(at, c)| c == '#' && (at == 0 || value[..at].ends_with(char::is_whitespace)));
    comment.map_or(value, |(at, _)| value[..at].trim_end())
}

/// The last quote that has nothing or a comment behind it; a quote inside the value is none.
fn closing(inner: &str, quote: char) -> Option<usize> {
    inner.rmatch_indices(quote).map(|(at, _)| at).find(|&at| {
        let rest = &inner[at + quote.len_utf8()..];
        rest.is_empty()
            || (rest.starts_with(char::is_whitespace) && rest.trim_start().starts_with('#'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> (String, String) {
        let mut pairs = parse(line);
        assert_eq!(pairs.len(), 1, "{line}");
        pairs.remove(0)
    }

    #[test]
    fn values_lose_quotes_and_comments_only() {
        for (line, name, value) in [
            ("A=1", "A", "1"),
            ("  A = 1  ", "A", "1"),
            ("A=", "A", ""),
            ("A=''", "A", ""),
            ("A=\"x y\"", "A", "x y"),
            ("A='x # y'", "A", "x # y"),
            ("A=\"x\" # why", "A", "x"),
            ("A=\"say \"hi\"\"", "A", "say \"hi\""),
            ("A=x # why", "A", "x"),
            ("A=# why", "A", ""),
            ("A=x#y", "A", "x#y"),
            ("A=$HOME${X}\\n", "A", "$HOME${X}\\n"),
            ("A=b=c", "A", "b=c"),
            ("A=\"open", "A", "\"open"),
            ("export A=1", "A", "1"),
            ("export\tA=1", "A", "1"),
            ("exported=1", "exported", "1"),
            ("\u{feff}A=1\r\n", "A", "1"),
        ] {
            assert_eq!(one(line), (name.to_owned(), value.to_owned()), "{line:?}");
        }
    }

    #[test]
    fn what_is_no_pair_is_skipped_and_the_first_of_two_holds() {
        assert!(parse("\n# A=1\nA\n=1\n   \n").is_empty());
        assert_eq!(one("A=1\nA=2"), ("A".to_owned(), "1".to_owned()));
    }
}
