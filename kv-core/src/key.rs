//! The rules for keys, prefixes, directories and roots (clauses [K1](crate::contract::CLAUSES#K1) and
//! [K2](crate::contract::CLAUSES#K2)).

use crate::{Error, Result};

/// The segment below a lock's name at which a store may keep the lock (clauses [K1](crate::contract::CLAUSES#K1) and
/// [L10](crate::contract::CLAUSES#L10)).
const LOCK_SEGMENT: &[u8] = b".lock";

/// Refuses what is not a key ([clause K1](crate::contract::CLAUSES#K1)).
pub(crate) fn check_key(key: &str, max: usize) -> Result<()> {
    if key.is_empty() {
        return invalid(key, "a key is not empty");
    }
    check_length(key, max)?;
    check_segments(key, key)
}

/// Refuses what is not the beginning of any key ([clause K2](crate::contract::CLAUSES#K2)).
pub(crate) fn check_prefix(prefix: &str, max: usize) -> Result<()> {
    check_length(prefix, max)?;
    let (segments, last) = prefix.rsplit_once('/').map_or((None, prefix), |(before, last)| (Some(before), last));
    if let Some(segments) = segments {
        check_segments(prefix, segments)?;
    }
    // The last segment may be incomplete: `.` is the beginning of `.lock`. It may also be empty.
    if last.contains('\0') { invalid(prefix, "a NUL byte") } else { Ok(()) }
}

/// Refuses what is neither empty nor a key, with or without a `/` at its end; returns it without that `/`.
pub(crate) fn check_directory(directory: &str, max: usize) -> Result<&str> {
    if directory.is_empty() {
        return Ok(directory);
    }
    let bare = directory.strip_suffix('/').unwrap_or(directory);
    check_key(bare, max).map(|()| bare)
}

/// Refuses a path with a segment that no key has. Bytes suffice: in UTF-8, `/`, `.` and NUL are always single bytes.
fn check_segments(key: &str, path: &str) -> Result<()> {
    for segment in path.as_bytes().split(|byte| *byte == b'/') {
        match segment {
            b"" => return invalid(key, "a `/` at its beginning or end, or two together"),
            b"." | b".." => return invalid(key, "a segment `.` or `..`"),
            LOCK_SEGMENT => return invalid(key, "the segment `.lock`, which is reserved for locks"),
            segment if segment.contains(&0) => return invalid(key, "a NUL byte"),
            _ => {}
        }
    }
    Ok(())
}

fn check_length(key: &str, max: usize) -> Result<()> {
    if key.len() <= max {
        return Ok(());
    }
    // The whole key would hide the message.
    let beginning: String = key.chars().take(64).collect();
    Err(Error::InvalidKey {
        key: format!("{beginning}…"),
        reason: format!("its {} bytes are over the limit of {max}", key.len()),
    })
}

fn invalid<T>(key: &str, reason: &str) -> Result<T> {
    Err(Error::InvalidKey { key: key.to_owned(), reason: reason.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_paths_of_plain_segments() {
        for key in [
            "a",
            "a/b",
            "a b",
            "%2F",
            "+",
            "?#&=",
            "ключ/鍵",
            ".lock1",
            "a.lock",
            "lock",
            ".Lock",
            "a/...",
            "~",
            "\u{1}",
        ] {
            assert!(check_key(key, 64).is_ok(), "{key:?}");
        }
        for key in ["", "/", "/a", "a/", "a//b", ".", "..", "a/.", "../a", "a/../b", "a\0b", "\0"] {
            assert!(matches!(check_key(key, 64), Err(Error::InvalidKey { .. })), "{key:?}");
        }
    }

    #[test]
    fn the_segment_of_locks_is_reserved() {
        for key in [".lock", "a/.lock", ".lock/a", "a/.lock/b"] {
            let error = check_key(key, 64).expect_err(key).to_string();
            assert!(error.contains("reserved for locks"), "{error}");
            assert!(check_directory(key, 64).is_err(), "{key:?}");
        }
        assert!(check_prefix("a/.lock/", 64).is_err(), "no key begins with it");
        assert!(check_prefix("a/.lock", 64).is_ok(), "the beginning of `.lockfile`");
    }

    #[test]
    fn the_limit_counts_bytes_and_is_named() {
        assert!(check_key("éé", 4).is_ok());
        let error = check_key("ééé", 4).expect_err("six bytes");
        assert!(error.to_string().contains("6 bytes"), "{error}");
    }

    #[test]
    fn prefixes_may_stop_anywhere() {
        for prefix in ["", "a", "a/", "a/b", "a/.", "a/..", "."] {
            assert!(check_prefix(prefix, 64).is_ok(), "{prefix:?}");
        }
        for prefix in ["/", "a//", "//", "a/./b", "../", "a\0", "a\0/b"] {
            assert!(check_prefix(prefix, 64).is_err(), "{prefix:?}");
        }
    }

    #[test]
    fn directories_may_end_in_one_slash() {
        assert_eq!(check_directory("", 64).expect("root"), "");
        assert_eq!(check_directory("a/b/", 64).expect("slash"), "a/b");
        assert_eq!(check_directory("a/b", 64).expect("bare"), "a/b");
        for directory in ["/", "a//", "/a", "."] {
            assert!(check_directory(directory, 64).is_err(), "{directory:?}");
        }
    }
}
