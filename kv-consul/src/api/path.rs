//! Keys as paths of Consul's HTTP API. Consul cleans paths as file systems do.

use kv_core::{Error, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// All characters that a path encodes. `/` separates segments in keys as it does in paths.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The path of a key or prefix below `/v1/kv/`.
pub(crate) fn kv(key: &str) -> String {
    let mut path = String::with_capacity("/v1/kv/".len() + key.len());
    path.push_str("/v1/kv/");
    path.extend(utf8_percent_encode(key, ENCODED));
    path
}

/// Encodes the value of a query parameter.
pub(crate) fn parameter(name: &str, value: &str) -> String {
    format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))
}

/// The longest leading part of a prefix whose path Consul accepts unchanged.
///
/// Consul would turn `a/.` into `a/`, and `a/..` into nothing. It answers a path with an unprintable character with 400
/// unless the agent's `disable_http_unprintable_char_filter` is set.
pub(crate) fn queryable(prefix: &str) -> &str {
    let prefix = prefix.find(|c| !is_printable(c)).map_or(prefix, |end| &prefix[..end]);
    let last = prefix.rfind('/').map_or(0, |slash| slash + 1);
    if matches!(&prefix[last..], "." | "..") { &prefix[..last] } else { prefix }
}

/// Whether a path can name a key or prefix.
pub(crate) fn is_queryable(key: &str) -> bool {
    queryable(key).len() == key.len()
}

/// Whether Go counts a character as printable: letters, marks, numbers, punctuation, symbols, and the one space.
///
/// A false "no" costs a slower read; a false "yes" costs a 400. So of the characters that are neither letters nor
/// numbers, only blocks that are printable as a whole are listed.
fn is_printable(c: char) -> bool {
    match c {
        '\u{80}'..='\u{a0}' | '\u{ad}' => false,
        // ASCII, Latin punctuation, combining accents, general punctuation, currencies, arrows and mathematics, CJK
        // punctuation, emoji.
        ' '..='~'
        | '\u{a1}'..='\u{ff}'
        | '\u{300}'..='\u{36f}'
        | '\u{2010}'..='\u{2027}'
        | '\u{2030}'..='\u{205e}'
        | '\u{20a0}'..='\u{20bf}'
        | '\u{2190}'..='\u{23ff}'
        | '\u{3001}'..='\u{303f}'
        | '\u{1f300}'..='\u{1f64f}' => true,
        other => other.is_alphanumeric(),
    }
}

/// Refuses a root whose keys could not be read, because Consul redirects to the cleaned path.
pub(crate) fn check_root(root: &str) -> Result<()> {
    let Some(bare) = root.strip_suffix('/') else { return Ok(()) };
    match bare.split('/').find(|segment| matches!(*segment, "" | "." | "..")) {
        None => Ok(()),
        Some("") => Err(Error::invalid_address("the root begins with `/` or contains `//`, which Consul rewrites")),
        Some(segment) => {
            Err(Error::invalid_address(format!("the root has a segment `{segment}`, which Consul rewrites")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_of_a_segment_is_data() {
        assert_eq!(kv("a b/%2F+?#&é"), "/v1/kv/a%20b/%252F%2B%3F%23%26%C3%A9");
        assert_eq!(kv("d/.lock"), "/v1/kv/d/.lock");
        assert_eq!(parameter("dc", "a&b/c"), "dc=a%26b%2Fc");
    }

    #[test]
    fn a_prefix_that_consul_would_clean_is_read_through_its_parent() {
        for (prefix, asked) in [("", ""), ("a", "a"), ("a/", "a/"), ("a/.", "a/"), ("a/..", "a/"), (".", "")] {
            assert_eq!(queryable(prefix), asked);
        }
        for (prefix, asked) in
            [("a/\tb", "a/"), ("a\u{7f}", "a"), ("a/.\n", "a/"), ("é\u{200b}", "é"), ("a\u{a0}", "a")]
        {
            assert_eq!(queryable(prefix), asked);
            assert!(!is_queryable(prefix));
        }
        for prefix in ["a/...", "a/.b", "a/b.", "a b", "e\u{301}", "鍵/値", "🔑", "€/ключ"] {
            assert_eq!(queryable(prefix), prefix);
        }
    }

    #[test]
    fn roots_that_consul_rewrites_are_refused() {
        for root in ["", "app/", "a/b/", ".a/", "a b/"] {
            assert!(check_root(root).is_ok(), "{root:?}");
        }
        for root in ["/", "/app/", "a//b/", "a//", "./", "../", "a/./b/", "a/../"] {
            assert!(matches!(check_root(root), Err(Error::InvalidAddress { .. })), "{root:?}");
        }
    }
}
