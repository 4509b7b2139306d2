//! What Consul's answers and the transport's failures mean in kv-core's terms. Only this file reads error texts.

use std::time::Duration;

use hyper::StatusCode;
use kv_core::Error;
use kv_core::backend::fate::Idempotence;

/// The error for a failure of the transport. It depends on whether the request had been sent.
///
/// The URL is left out: it contains the key, and perhaps secrets that an operator put there.
pub(crate) fn transport(error: reqwest::Error, idempotence: Idempotence) -> Error {
    let error = error.without_url();
    let reason = chain(&error);
    let mapped = if error.is_builder() || error.is_connect() {
        Error::unavailable(reason)
    } else if idempotence.is_repeatable() && is_gibberish(&error) {
        Error::unexpected_answer(reason)
    } else {
        idempotence.unknown(reason)
    };
    mapped.with_source(error)
}

/// An error and its sources.
fn all<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// Whether the answer is not HTTP.
fn is_gibberish(error: &(dyn std::error::Error + 'static)) -> bool {
    all(error)
        .filter_map(|one| one.downcast_ref::<hyper::Error>())
        .any(|one| one.is_parse() && !one.is_incomplete_message())
}

/// An error and its sources, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    for one in all(error) {
        let more = one.to_string();
        // Some errors repeat the text of their source.
        if !text.ends_with(&more) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&more);
        }
    }
    text
}

/// How many bytes of an answer can matter for an excerpt.
pub(crate) const EXCERPT: usize = 4 * QUOTED;

/// How many characters an excerpt has at most.
const QUOTED: usize = 200;

/// The part of an error's text that is quoted. A server may send anything, of any length.
pub(crate) fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(EXCERPT)]);
    let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(QUOTED).collect();
    if line.is_empty() { "nothing".to_owned() } else { line }
}

/// Texts that prove that nothing was applied, and that the call may succeed later or at another agent.
///
/// "leadership lost while committing log" and "rpc error making call: EOF" are not among them: such a write may have
/// been applied.
const NOT_APPLIED: &[&str] = &[
    "No cluster leader",
    "node is not the leader",
    "leadership transfer in progress",
    "timed out enqueuing operation",
    "Not ready to serve consistent reads",
    "No known Consul servers",
    "No path to datacenter",
    "failed to get conn",
    // The RPC never left this agent.
    "rpc error getting client",
    "lead thread didn't get connection",
    // The catalog does not know this agent's node yet, or any more: it has just joined, or is about to leave.
    "Missing node registration",
    "rate limit",
];

/// Texts of answers that no repetition changes.
const MALFORMED: &[&str] = &[
    "strconv",
    "parsing",
    "parse error",
    "invalid character",
    "unknown KV verb",
    "unknown operation",
    "must be",
    "Must provide",
    "Missing ",
    "Invalid ",
    "invalid ",
];

/// Texts of refusals, whatever their status code.
const DENIED: &[&str] = &["Permission denied", "ACL not found", "ACL support disabled"];

/// The error for an answer that is neither a success nor one that its call understands.
pub(crate) fn from_answer(status: StatusCode, body: &[u8], idempotence: Idempotence) -> Error {
    let text = excerpt(body);
    let said = format!("Consul answered {}: {text}", status.as_u16());
    let text = unquoted(&text);
    // These come from a proxy. What Consul did does not depend on the words of a proxy's page.
    if matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) {
        return idempotence.unknown(said);
    }
    if is_one_of(&text, DENIED) {
        return Error::permission_denied(said);
    }
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::permission_denied(said),
        StatusCode::TOO_MANY_REQUESTS => Error::unavailable(said),
        status if status.is_redirection() => {
            Error::unexpected_answer(format!("redirected with {}, which is not followed", status.as_u16()))
        }
        status if status.is_server_error() => {
            if is_one_of(&text, NOT_APPLIED) {
                Error::unavailable(said)
            } else if is_one_of(&text, MALFORMED) {
                Error::unexpected_answer(said)
            } else {
                idempotence.unknown(said)
            }
        }
        _ => Error::unexpected_answer(said),
    }
}

/// Why Consul did not apply a transaction: the meaning of its text about one of the operations.
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
    if is_one_of(&text, DENIED) {
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

/// The bounds in `Invalid Session TTL '5000000000', must be between [10s=24h0m0s]`.
pub(crate) fn ttl_bounds(text: &str) -> Option<(Duration, Duration)> {
    let (_, after) = text.split_once("Session TTL")?.1.split_once('[')?;
    let (min, max) = after.split_once(']')?.0.split_once('=')?;
    Some((go_duration(min)?, go_duration(max)?))
}

/// Reads a duration as Go prints it, such as `24h0m0s` or `1.5s`; to the millisecond.
pub(crate) fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let seconds = match &after[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?)?;
        rest = &after[unit..];
    }
    Some(total)
}

fn is_one_of(text: &str, texts: &[&str]) -> bool {
    texts.iter().any(|one| text.contains(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, text: &str, idempotence: Idempotence) -> Error {
        from_answer(StatusCode::from_u16(status).expect("a status"), text.as_bytes(), idempotence)
    }

    #[test]
    fn a_write_that_was_certainly_not_applied_is_unavailable() {
        for text in [
            "No cluster leader",
            "rpc error making call: No cluster leader",
            "rpc error making call: node is not the leader",
            "rpc error getting client: failed to get conn: dial tcp 10.0.0.1:8300: connect: connection refused",
            "timed out enqueuing operation",
            "rpc error getting client: failed to get conn: rpc error: lead thread didn't get connection",
            "apply failed: Missing node registration",
        ] {
            assert!(matches!(of(500, text, Idempotence::Once), Error::Unavailable { .. }), "{text}");
        }
        assert!(matches!(of(429, "", Idempotence::Once), Error::Unavailable { .. }));
    }

    #[test]
    fn an_unknown_outcome_is_indeterminate_only_for_a_write() {
        for text in ["leadership lost while committing log", "rpc error making call: EOF", "", "upstream reset"] {
            assert!(matches!(of(500, text, Idempotence::Once), Error::Indeterminate { .. }), "{text}");
            assert!(matches!(of(500, text, Idempotence::Repeatable), Error::Unavailable { .. }), "{text}");
        }
        for text in ["Bad Gateway", "the upstream sent an invalid header", "No cluster leader", "Permission denied"] {
            assert!(matches!(of(502, text, Idempotence::Once), Error::Indeterminate { .. }), "{text}");
        }
    }

    #[test]
    fn an_error_that_no_repetition_changes_is_not_retryable() {
        for text in ["strconv.ParseUint: parsing \"abc\": invalid syntax", "UUID must be 36 characters"] {
            assert!(matches!(of(500, text, Idempotence::Once), Error::UnexpectedAnswer { .. }), "{text}");
        }
        assert!(matches!(of(400, "Bad request", Idempotence::Repeatable), Error::UnexpectedAnswer { .. }));
        assert!(matches!(of(301, "", Idempotence::Once), Error::UnexpectedAnswer { .. }));
    }

    #[test]
    fn refusals_are_recognized_by_their_text_too() {
        assert!(matches!(of(403, "", Idempotence::Once), Error::PermissionDenied { .. }));
        assert!(matches!(of(403, "ACL not found", Idempotence::Once), Error::PermissionDenied { .. }));
        let relayed = "rpc error making call: Permission denied";
        assert!(matches!(of(500, relayed, Idempotence::Once), Error::PermissionDenied { .. }));
    }

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

    #[test]
    fn the_bounds_of_a_ttl_are_read_from_the_refusal() {
        let text = "Invalid Session TTL '5000000000', must be between [10s=24h0m0s]";
        assert_eq!(ttl_bounds(text), Some((Duration::from_secs(10), Duration::from_secs(86_400))));
        assert_eq!(ttl_bounds("No cluster leader"), None);
        assert_eq!(go_duration("1m0.5s"), Some(Duration::from_millis(60_500)));
        for text in ["10", "s", "1d", "-1s", "1e9h", "."] {
            assert_eq!(go_duration(text), None, "{text}");
        }
        assert_eq!(go_duration("0s"), Some(Duration::ZERO));
    }

    #[test]
    fn excerpts_are_short_and_have_one_line() {
        assert_eq!(excerpt(b" a\nb "), "a b");
        assert_eq!(excerpt(b""), "nothing");
        assert!(excerpt(&vec![b'x'; 1 << 20]).len() <= 200);
    }
}
