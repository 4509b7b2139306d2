//! What the texts of Consul's errors prove.

/// What an answer proves about the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// Nothing was applied. The call may succeed later or at another agent.
    NotApplied,
    /// Nothing was applied, because the token does not permit it.
    Denied,
    /// Nothing was applied, and no repetition changes it.
    Malformed,
    /// Nothing. A write may have been applied.
    Nothing,
}

/// What Consul's own errors prove, by the beginning of their text. All other texts prove nothing, for example
/// "leadership lost while committing log", "raft is already shutdown", "EOF" and "stream closed".
///
/// Only the beginning counts, because keys and texts of other servers can follow. The prefixes of relays are removed
/// first.
pub(super) const PROOFS: &[(&str, Proof)] = &[
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
    // The catalog does not contain this agent's node: it has just joined, or is about to leave.
    ("Missing node registration", Proof::NotApplied),
    ("rate limit exceeded", Proof::NotApplied),
    ("Your IP is issuing too many concurrent connections", Proof::NotApplied),
    ("Permission denied", Proof::Denied),
    ("ACL not found", Proof::Denied),
    ("ACL support disabled", Proof::Denied),
    // This version of Consul does not understand the request.
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

/// The prefixes that servers and agents put before the text of an error that they relay.
const RELAYED: &[&str] = &["rpc error making call: ", "rpc error: ", "raft apply failed: ", "apply failed: "];

/// What the text of an error proves, if it is known.
pub(super) fn proof(text: &str) -> Option<Proof> {
    let text = cause(text);
    PROOFS.iter().find(|(beginning, _)| text.starts_with(beginning)).map(|(_, proof)| *proof)
}

/// The text of an error without the prefixes of relays.
pub(super) fn cause(text: &str) -> &str {
    let relayed = RELAYED.iter().find_map(|before| text.strip_prefix(before));
    relayed.map_or(text, cause)
}
