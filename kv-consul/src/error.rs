//! The meaning of Consul's errors in kv-core's terms ([clause W6](kv_core::contract::CLAUSES#W6)). Only this module reads
//! their texts.

mod bounds;
mod refusal;
mod table;

use hyper::StatusCode;
use kv_core::Error;
use kv_core::backend::fate::Idempotence;

pub(crate) use self::bounds::{go_duration, refuses_size, size_limit, ttl_bounds};
pub(crate) use self::refusal::{Refusal, refusal};
use self::table::{Proof, cause, proof};

/// The most bytes of an answer that an excerpt can use.
pub(crate) const EXCERPT: usize = 4 * QUOTED;

/// The most characters of an excerpt.
const QUOTED: usize = 200;

/// The part of an error's text that is quoted. It is short and has one line, because a server may send anything.
pub(crate) fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(EXCERPT)]);
    let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(QUOTED).collect();
    if line.is_empty() { "nothing".to_owned() } else { line }
}

/// An answer that is neither a success nor one that its call understands.
pub(crate) struct Reply<'a> {
    /// Host and port of the agent.
    pub(crate) agent: &'a str,
    pub(crate) status: StatusCode,
    /// Whether its headers are those of uncompressed text, which is the only form of Consul's errors.
    pub(crate) is_plain: bool,
    pub(crate) body: &'a [u8],
    /// The idempotence of the request.
    pub(crate) idempotence: Idempotence,
    /// The length of the request's body.
    pub(crate) sent: usize,
    /// The length of the request's path and query.
    pub(crate) path: usize,
}

impl Reply<'_> {
    /// Whether the answer is Consul's own, and not that of a proxy in between. Consul's errors are a line of text. It
    /// answers 503 only for an exceeded rate limit, and never 502 or 504.
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
            // By the definition of 401, the request was not carried out.
            return if self.status == StatusCode::UNAUTHORIZED { Proof::Denied } else { Proof::Nothing };
        }
        let text = excerpt(self.body);
        proof(&text).unwrap_or(match self.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Proof::Denied,
            StatusCode::TOO_MANY_REQUESTS => Proof::NotApplied,
            status if status.is_client_error() => Proof::Malformed,
            _ => Proof::Nothing,
        })
    }

    /// The text of the error: the answer, its sender, and how to fix it.
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
        // For a repeatable call, it only matters whether a repetition can succeed.
        Proof::Nothing if reply.idempotence.is_repeatable() => match reply.status {
            StatusCode::FORBIDDEN => Error::permission_denied(said),
            StatusCode::TOO_MANY_REQUESTS => Error::unavailable(said),
            status if status.is_server_error() => Error::unavailable(said),
            _ => Error::unexpected_answer(said),
        },
        Proof::Nothing => Error::indeterminate(said),
    }
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
    fn excerpts_are_short_and_have_one_line() {
        assert_eq!(excerpt(b" a\nb "), "a b");
        assert_eq!(excerpt(b""), "nothing");
        assert!(excerpt(&vec![b'x'; 1 << 20]).len() <= 200);
    }
}
