//! Why Consul did not apply a transaction.

use super::table::{PROOFS, Proof};

/// The meaning of Consul's text about one operation of a transaction that was not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The token does not permit it.
    Denied,
    /// A check failed, or another session holds the lock.
    Check,
    /// The key cannot be locked yet: the session of its last holder ended a short time ago.
    Delayed,
    /// The session does not exist any more.
    NoSession,
    /// Anything else. No repetition changes it.
    Malformed,
}

/// Reads one of `Errors[].What` of a transaction that was not applied.
pub(crate) fn refusal(what: &str) -> Refusal {
    let text = unquoted(what);
    if PROOFS.iter().any(|(beginning, proof)| *proof == Proof::Denied && text.contains(beginning)) {
        Refusal::Denied
    } else if text.contains("lock delay") {
        Refusal::Delayed
    } else if text.starts_with("invalid session") {
        Refusal::NoSession
    } else if is_one_of(&text, &["check", "exist", "already held", "isn't held", "is stale"]) {
        Refusal::Check
    } else {
        Refusal::Malformed
    }
}

/// A text without its quoted part, because a key may contain any words.
fn unquoted(text: &str) -> String {
    match (text.find('"'), text.rfind('"')) {
        (Some(first), Some(last)) if first < last => [&text[..first], &text[last + 1..]].concat(),
        _ => text.to_owned(),
    }
}

fn is_one_of(text: &str, texts: &[&str]) -> bool {
    texts.iter().any(|one| text.contains(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_a_transaction_has_its_meaning() {
        for (what, meaning) in [
            (r#"failed index check for key "l", current modify index 16 != 3"#, Refusal::Check),
            (r#"failed to check index, key "nol" doesn't exist"#, Refusal::Check),
            (r#"failed session check for key "l", current session "0e0d" != "82dd""#, Refusal::Check),
            (r#"failed to check session, key "nol" doesn't exist"#, Refusal::Check),
            (r#"key "l" exists"#, Refusal::Check),
            (r#"failed to lock key "l", lock is already held"#, Refusal::Check),
            (r#"failed to lock key "l" due to lock delay until 2026-01-01"#, Refusal::Delayed),
            (r#"invalid session "82ddfd6b""#, Refusal::NoSession),
            ("Permission denied", Refusal::Denied),
            (r#"key "Permission denied" exists"#, Refusal::Check),
            (r#"unknown KV verb "chekc""#, Refusal::Malformed),
            ("Must provide key", Refusal::Malformed),
        ] {
            assert_eq!(refusal(what), meaning, "{what}");
        }
    }
}
