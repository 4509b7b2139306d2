//! Credentials of clients, and their permissions.

use std::fmt;

use crate::kind::Kind;
use crate::random::random;

/// The credential of a client at a server with access control.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// A user of etcd.
    User {
        /// The user's name.
        name: String,
        /// The user's password.
        password: String,
    },
    /// A token of Consul.
    Token(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { name, .. } => f.debug_struct("User").field("name", name).finish_non_exhaustive(),
            Self::Token(_) => f.debug_tuple("Token").finish_non_exhaustive(),
        }
    }
}

/// The permission of a granted credential below its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Read and write, with sessions.
    Write,
}

/// Creates a credential of this name, with a random password or token.
pub(crate) fn credential(kind: Kind, name: &str) -> Credential {
    match kind {
        Kind::Etcd => Credential::User { name: name.to_owned(), password: format!("pass/{}", random()) },
        Kind::Consul => {
            let (first, second) = (random(), random());
            let uuid =
                format!("{}-{}-4{}-8{}-{}", &first[..8], &first[8..12], &first[13..], &second[1..4], &second[4..]);
            Credential::Token(uuid)
        }
    }
}
