//! What can be wrong with a connection.

/// What is wrong with a connection.
pub(super) enum Fault {
    /// It may work later.
    Broken(String),
    /// This is not an agent, or not with this address. No repetition changes it.
    Wrong(String),
    /// The agent wants to know who asks. No repetition changes it.
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "only TLS asks for a certificate"))]
    Denied(String),
}
