//! The faults of a connection.

/// A fault of a connection.
pub(super) enum Fault {
    /// The connection broke or could not be made. A later one may work.
    Broken(String),
    /// This is not an agent, or the address is wrong for it. No repetition changes it.
    Wrong(String),
    /// The agent requires a credential. No repetition changes it.
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "only TLS asks for a certificate"))]
    Denied(String),
}
