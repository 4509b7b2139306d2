//! What Consul's answers and the transport's failures mean in `kv-core`'s terms: the one place where texts are read.

use std::time::Duration;

use hyper::StatusCode;
use kv_core::Error;

/// What a failure after sending leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A read, or a write that may be made again without changing the outcome.
    Repeatable,
    /// A write, to be sent at most once.
    Once,
}

impl Kind {
    /// The call was sent, and what became of it is not known.
    fn unknown(self, reason: String) -> Error {
        match self {
            Self::Repeatable => Error::unavailable(reason),
            Self::Once => Error::indeterminate(reason),
        }
    }

    /// No answer came in time.
    pub(crate) fn late(self, limit: Duration) -> Error {
        self.unknown(format!("no answer within {limit:?}"))
    }
}

/// Says of a failure of the transport whether the request had been sent.
///
/// Its URL is left out: it holds the key, and may hold what else an operator put in there.
pub(crate) fn transport(error: reqwest::Error, kind: Kind) -> Error {
    let error = error.without_url();
    let reason = chain(&error);
    let mapped = if error.is_builder() || error.is_connect() {
        Error::unavailable(reason)
    } else if kind == Kind::Repeatable && is_gibberish(&error) {
        Error::unexpected_answer(reason)
    } else {
        kind.unknown(reason)
    };
    mapped.with_source(error)
}

/// An error and those below it.
fn all<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// Whether what came back is not HTTP.
fn is_gibberish(error: &(dyn std::error::Error + 'static)) -> bool {
    all(error)
        .filter_map(|one| one.downcast_ref::<hyper::Error>())
        .any(|one| one.is_parse() && !one.is_incomplete_message())
}

/// An error and those below it, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    for one in all(error) {
        let more = one.to_string();
        // Some errors repeat the one below them.
        if !text.ends_with(&more) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&more);
        }
    }
    text
}

/// As many bytes of an answer are looked at for what is quoted of it.
pub(crate) const EXCERPT: usize = 4 * QUOTED;

/// As many characters are quoted.
const QUOTED: usize = 200;

/// What of an error's text is quoted: a server may send anything, of any length.
pub(crate) fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(EXCERPT)]);
    let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(QUOTED).collect();
    if line.is_empty() { "nothing".to_owned() } else { line }
}

/// Texts of answers that prove that nothing was applied, and that the call may succeed later or elsewhere.
///
/// "leadership lost while committing log" and "rpc error making call: EOF" are missing here for good reason: what
/// they report may be applied all the same.
const NOT_APPLIED: &[&str] = &[
    "No cluster leader",
    "node is not the leader",
    "leadership transfer in progress",
    "timed out enqueuing operation",
    "Not ready to serve consistent reads",
    "No known Consul servers",
    "No path to datacenter",
    "failed to get conn",
    "rate limit",
];

/// Texts of answers that no repetition can change.
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

/// Texts of refusals, with which status code ever they come.
const DENIED: &[&str] = &["Permission denied", "ACL not found", "ACL support disabled"];

/// The meaning of an answer that is neither success nor one that its call understands.
pub(crate) fn from_answer(status: StatusCode, body: &[u8], kind: Kind) -> Error {
    let text = excerpt(body);
    let said = format!("Consul answered {}: {text}", status.as_u16());
    let text = unquoted(&text);
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
                kind.unknown(said)
            }
        }
        _ => Error::unexpected_answer(said),
    }
}

/// Why Consul did not apply a transaction: what its text about one of the operations means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The token may not do this.
    Denied,
    /// A check did not hold, or the key is locked by another.
    Check,
    /// The key may not be locked yet, since the session of its last holder ended a short while ago.
    Delayed,
    /// The session does not exist any more.
    NoSession,
    /// Anything else; no repetition changes it.
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

/// A text without what stands in quotes: a key may hold any words.
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

    fn of(status: u16, text: &str, kind: Kind) -> Error {
        from_answer(StatusCode::from_u16(status).expect("a status"), text.as_bytes(), kind)
    }

    #[test]
    fn what_was_certainly_not_applied_is_unavailable() {
        for text in [
            "No cluster leader",
            "rpc error making call: No cluster leader",
            "rpc error making call: node is not the leader",
            "rpc error getting client: failed to get conn: dial tcp 10.0.0.1:8300: connect: connection refused",
            "timed out enqueuing operation",
        ] {
            assert!(matches!(of(500, text, Kind::Once), Error::Unavailable { .. }), "{text}");
        }
        assert!(matches!(of(429, "", Kind::Once), Error::Unavailable { .. }));
    }

    #[test]
    fn what_may_have_been_applied_is_indeterminate_for_a_write_only() {
        for text in ["leadership lost while committing log", "rpc error making call: EOF", "", "upstream reset"] {
            assert!(matches!(of(500, text, Kind::Once), Error::Indeterminate { .. }), "{text}");
            assert!(matches!(of(500, text, Kind::Repeatable), Error::Unavailable { .. }), "{text}");
        }
        assert!(matches!(of(502, "Bad Gateway", Kind::Once), Error::Indeterminate { .. }));
    }

    #[test]
    fn what_no_repetition_changes_is_not_retryable() {
        for text in ["strconv.ParseUint: parsing \"abc\": invalid syntax", "UUID must be 36 characters"] {
            assert!(matches!(of(500, text, Kind::Once), Error::UnexpectedAnswer { .. }), "{text}");
        }
        assert!(matches!(of(400, "Bad request", Kind::Repeatable), Error::UnexpectedAnswer { .. }));
        assert!(matches!(of(301, "", Kind::Once), Error::UnexpectedAnswer { .. }));
    }

    #[test]
    fn refusals_are_told_by_text_as_well() {
        assert!(matches!(of(403, "", Kind::Once), Error::PermissionDenied { .. }));
        assert!(matches!(of(403, "ACL not found", Kind::Once), Error::PermissionDenied { .. }));
        let relayed = "rpc error making call: Permission denied";
        assert!(matches!(of(500, relayed, Kind::Once), Error::PermissionDenied { .. }));
    }

    #[test]
    fn refusals_of_transactions_are_told_apart() {
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
    fn bounds_of_a_ttl_are_read_from_the_refusal() {
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
    fn excerpts_are_short_and_of_one_line() {
        assert_eq!(excerpt(b" a\nb "), "a b");
        assert_eq!(excerpt(b""), "nothing");
        assert!(excerpt(&vec![b'x'; 1 << 20]).len() <= 200);
    }
}
