//! What Consul's errors mean in kv-core's terms ([clause W6](kv_core::contract::CLAUSES#W6)). Only this file reads their
//! texts.

use std::time::Duration;

use hyper::StatusCode;
use kv_core::Error;
use kv_core::backend::fate::Idempotence;

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

/// What an answer proves about the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// Nothing was applied. The call may succeed later or at another agent.
    NotApplied,
    /// Nothing was applied, because of who asks.
    Denied,
    /// Nothing was applied, and no repetition changes it.
    Malformed,
    /// Nothing. A write may have been applied.
    Nothing,
}

/// What Consul's own errors prove, by how their text begins. All other texts prove nothing, for example "leadership lost
/// while committing log", "raft is already shutdown", "EOF" and "stream closed".
///
/// Only the beginning counts, because keys and other servers' words can follow. What relays put before the text is
/// removed first.
const PROOFS: &[(&str, Proof)] = &[
    // Consul knows no leader, or the server that was asked is not one and refused before it wrote to its log.
    ("No cluster leader", Proof::NotApplied),
    ("node is not the leader", Proof::NotApplied),
    ("leadership transfer in progress", Proof::NotApplied),
    ("timed out enqueuing operation", Proof::NotApplied),
    ("Not ready to serve consistent reads", Proof::NotApplied),
    ("No known Consul servers", Proof::NotApplied),
    ("No path to datacenter", Proof::NotApplied),
    // The request never left this agent for another server.
    ("rpc error getting client", Proof::NotApplied),
    ("failed to get conn", Proof::NotApplied),
    ("lead thread didn't get connection", Proof::NotApplied),
    // The catalog does not know this agent's node yet, or any more: it has just joined, or is about to leave.
    ("Missing node registration", Proof::NotApplied),
    ("rate limit exceeded", Proof::NotApplied),
    ("Your IP is issuing too many concurrent connections", Proof::NotApplied),
    ("Permission denied", Proof::Denied),
    ("ACL not found", Proof::Denied),
    ("ACL support disabled", Proof::Denied),
    // The request makes no sense to this version of Consul.
    ("strconv.", Proof::Malformed),
    ("parsing ", Proof::Malformed),
    ("parse error", Proof::Malformed),
    ("Failed to parse", Proof::Malformed),
    ("Failed decoding", Proof::Malformed),
    ("Request decode failed", Proof::Malformed),
    ("invalid character", Proof::Malformed),
    ("unknown KV verb", Proof::Malformed),
    ("unknown operation", Proof::Malformed),
    ("UUID must be", Proof::Malformed),
    ("must be ", Proof::Malformed),
    ("Must provide", Proof::Malformed),
    ("Missing ", Proof::Malformed),
    ("Invalid ", Proof::Malformed),
    ("invalid ", Proof::Malformed),
];

/// What servers and agents put before the text of an error that they relay.
const RELAYED: &[&str] = &["rpc error making call: ", "rpc error: ", "raft apply failed: ", "apply failed: "];

/// An answer that is neither a success nor one that its call understands.
pub(crate) struct Reply<'a> {
    /// Host and port of the agent.
    pub(crate) agent: &'a str,
    pub(crate) status: StatusCode,
    /// Whether its headers are those of a text that is not packed. Consul's errors have no other form.
    pub(crate) is_plain: bool,
    pub(crate) body: &'a [u8],
    /// Of the request.
    pub(crate) idempotence: Idempotence,
    /// The length of the request's body.
    pub(crate) sent: usize,
    /// The length of the request's path and query.
    pub(crate) path: usize,
}

impl Reply<'_> {
    /// Whether Consul says it, and not a proxy in between. Consul's errors are a line of text; it gives 503 only for an
    /// exceeded rate limit, and never 502 or 504.
    fn is_consuls(&self) -> bool {
        let is_text = self.is_plain && !self.body.trim_ascii_start().starts_with(b"<");
        is_text
            && match self.status {
                StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => false,
                StatusCode::SERVICE_UNAVAILABLE => cause(&excerpt(self.body)).starts_with("rate limit exceeded"),
                status => status.is_client_error() || status.is_server_error(),
            }
    }

    fn proof(&self) -> Proof {
        if !self.is_consuls() {
            // By its definition nobody acts on a request that is answered like this.
            return if self.status == StatusCode::UNAUTHORIZED { Proof::Denied } else { Proof::Nothing };
        }
        let text = excerpt(self.body);
        let text = cause(&text);
        let known = PROOFS.iter().find(|(beginning, _)| text.starts_with(beginning)).map(|(_, proof)| *proof);
        known.unwrap_or(match self.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Proof::Denied,
            StatusCode::TOO_MANY_REQUESTS => Proof::NotApplied,
            status if status.is_client_error() => Proof::Malformed,
            _ => Proof::Nothing,
        })
    }

    /// What was answered, by whom, and what to do about it.
    fn said(&self) -> String {
        let (agent, status, text) = (self.agent, self.status.as_u16(), excerpt(self.body));
        if text.contains("HTTP request to an HTTPS server") {
            return format!("{agent} speaks TLS: write `consuls://` (or `https://`)");
        }
        if self.is_consuls() {
            return format!("Consul at {agent} answered {status}: {text}");
        }
        let what = match self.status {
            StatusCode::PAYLOAD_TOO_LARGE => format!(" (a request of {} bytes is too large for it)", self.sent),
            StatusCode::URI_TOO_LONG => format!(" (a path of {} bytes is too long for it)", self.path),
            status if status.is_redirection() => " (redirects are not followed)".to_owned(),
            _ => String::new(),
        };
        format!("not Consul, but something at or before {agent} answered {status}{what}: {text}")
    }
}

/// The error for an answer that is neither a success nor one that its call understands.
pub(crate) fn from_answer(reply: &Reply<'_>) -> Error {
    let said = reply.said();
    match reply.proof() {
        Proof::NotApplied => Error::unavailable(said),
        Proof::Denied => Error::permission_denied(said),
        Proof::Malformed => Error::unexpected_answer(said),
        // For a call that may be repeated it only matters whether that is of any use.
        Proof::Nothing if reply.idempotence.is_repeatable() => match reply.status {
            StatusCode::FORBIDDEN => Error::permission_denied(said),
            StatusCode::TOO_MANY_REQUESTS => Error::unavailable(said),
            status if status.is_server_error() => Error::unavailable(said),
            _ => Error::unexpected_answer(said),
        },
        Proof::Nothing => Error::indeterminate(said),
    }
}

/// The text of an error without what relays put before it.
fn cause(text: &str) -> &str {
    let relayed = RELAYED.iter().find_map(|before| text.strip_prefix(before));
    relayed.map_or(text, cause)
}

/// Whether it is Consul that refuses a request because of its size.
pub(crate) fn refuses_size(body: &[u8]) -> bool {
    let text = excerpt(body);
    ["Request body", "Value for key", "Transaction contains too many"].iter().any(|known| text.starts_with(known))
}

/// The limit in bytes that a refusal because of size names: `max size: 512 bytes` or `(600 > 512 bytes)`.
pub(crate) fn size_limit(text: &str) -> Option<usize> {
    let number = |text: &str| {
        let (digits, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
        if rest.starts_with(" bytes") { digits.parse().ok() } else { None }
    };
    let after = |mark: &str| number(text.rsplit_once(mark)?.1);
    after("max size: ").or_else(|| after(" > "))
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

    fn reply(status: u16, text: &str, idempotence: Idempotence) -> Reply<'_> {
        let status = StatusCode::from_u16(status).expect("a status");
        Reply { agent: "h:8500", status, is_plain: true, body: text.as_bytes(), idempotence, sent: 700, path: 80 }
    }

    fn of(status: u16, text: &str, idempotence: Idempotence) -> Error {
        from_answer(&reply(status, text, idempotence))
    }

    #[test]
    fn a_write_that_was_certainly_not_applied_is_unavailable() {
        for text in [
            "No cluster leader",
            "rpc error making call: No cluster leader",
            "rpc error making call: node is not the leader",
            "raft apply failed: node is not the leader",
            "rpc error making call: raft apply failed: leadership transfer in progress",
            "rpc error getting client: failed to get conn: dial tcp 10.0.0.1:8300: connect: connection refused",
            "timed out enqueuing operation",
            "rpc error getting client: failed to get conn: rpc error: lead thread didn't get connection",
            "rpc error making call: rpc error: failed to get conn: EOF",
            "apply failed: Missing node registration",
        ] {
            assert!(matches!(of(500, text, Idempotence::Once), Error::Unavailable { .. }), "{text}");
        }
    }

    #[test]
    fn an_exceeded_rate_limit_applied_nothing() {
        for (status, text) in [
            (429, ""),
            (429, "rate limit exceeded, try again later or against a different server"),
            (429, "Your IP is issuing too many concurrent connections, please rate limit your calls"),
            (503, "rpc error making call: rate limit exceeded for operation that can only be performed by the leader"),
            (500, "rpc error making call: rate limit exceeded, try again later or against a different server"),
        ] {
            assert!(matches!(of(status, text, Idempotence::Once), Error::Unavailable { .. }), "{status} {text}");
        }
    }

    #[test]
    fn an_unknown_outcome_is_indeterminate_only_for_a_write() {
        for text in [
            "leadership lost while committing log",
            "raft apply failed: leadership lost while committing log",
            "rpc error making call: EOF",
            "rpc error making call: stream closed",
            "raft is already shutdown",
            "",
            "upstream reset: No cluster leader",
        ] {
            assert!(matches!(of(500, text, Idempotence::Once), Error::Indeterminate { .. }), "{text}");
            assert!(matches!(of(500, text, Idempotence::Repeatable), Error::Unavailable { .. }), "{text}");
        }
    }

    #[test]
    fn what_a_proxy_answers_proves_nothing_whatever_its_words() {
        let words = ["Bad Gateway", "invalid or incomplete response", "No cluster leader", "Permission denied"];
        for (status, text) in [502, 503, 504].into_iter().flat_map(|status| words.map(|text| (status, text))) {
            assert!(matches!(of(status, text, Idempotence::Once), Error::Indeterminate { .. }), "{status} {text}");
            assert!(matches!(of(status, text, Idempotence::Repeatable), Error::Unavailable { .. }), "{status} {text}");
        }
        for (status, text) in
            [400, 403, 404, 413, 414, 429, 500].into_iter().flat_map(|status| words.map(|text| (status, text)))
        {
            let page = format!("<html>{text}</html>");
            let packed = Reply { is_plain: false, ..reply(status, text, Idempotence::Once) };
            for error in [of(status, &page, Idempotence::Once), from_answer(&packed)] {
                assert!(matches!(error, Error::Indeterminate { .. }), "{status} {text}: {error:?}");
                assert!(error.to_string().contains("not Consul, but something at or before h:8500"), "{error}");
            }
        }
        assert!(matches!(of(303, "", Idempotence::Once), Error::Indeterminate { .. }));
        assert!(matches!(of(401, "<html>", Idempotence::Once), Error::PermissionDenied { .. }));
    }

    #[test]
    fn a_read_that_no_repetition_helps_is_not_repeated() {
        for status in [301, 404, 413, 414] {
            let error = of(status, "<html>", Idempotence::Repeatable);
            assert!(matches!(error, Error::UnexpectedAnswer { .. }), "{status}: {error:?}");
        }
        assert!(of(414, "<html>", Idempotence::Repeatable).to_string().contains("a path of 80 bytes"));
        assert!(of(413, "<html>", Idempotence::Once).to_string().contains("a request of 700 bytes"));
        let tls = of(400, "Client sent an HTTP request to an HTTPS server.", Idempotence::Repeatable);
        assert!(matches!(&tls, Error::UnexpectedAnswer { .. }) && tls.to_string().contains("consuls://"), "{tls}");
    }

    #[test]
    fn an_error_that_no_repetition_changes_is_not_retryable() {
        for text in ["strconv.ParseUint: parsing \"abc\": invalid syntax", "UUID must be 36 characters"] {
            assert!(matches!(of(500, text, Idempotence::Once), Error::UnexpectedAnswer { .. }), "{text}");
        }
        assert!(matches!(of(400, "Bad request", Idempotence::Repeatable), Error::UnexpectedAnswer { .. }));
    }

    #[test]
    fn refusals_are_recognized_by_their_text_too() {
        assert!(matches!(of(403, "", Idempotence::Once), Error::PermissionDenied { .. }));
        assert!(matches!(of(403, "ACL not found", Idempotence::Once), Error::PermissionDenied { .. }));
        let relayed = "rpc error making call: Permission denied: token with AccessorID 'a' lacks permission";
        assert!(matches!(of(500, relayed, Idempotence::Once), Error::PermissionDenied { .. }));
    }

    #[test]
    fn the_limit_is_read_from_a_refusal_because_of_size() {
        let of_value = r#"Value for key "a > 9 bytes" is too large (600 > 512 bytes)"#;
        assert_eq!(size_limit(of_value), Some(512));
        let of_body = "Request body(524300 bytes) too large, max size: 524288 bytes. See https://consul.io.";
        assert_eq!(size_limit(of_body), Some(524_288));
        assert_eq!(size_limit("Transaction contains too many operations (65 > 64)"), None);
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
