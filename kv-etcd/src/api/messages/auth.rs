//! The service Auth.

use kv_core::backend::fate::Idempotence;
use prost::Message;

use super::call::{Call, calls, repeatable};

calls! {
    AuthenticateRequest => AuthenticateResponse, "/etcdserverpb.Auth/Authenticate", repeatable;
}

/// Not shown by `Debug`: one of its fields is a password.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct AuthenticateRequest {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) password: String,
}

/// Not shown by `Debug`: its field is a secret.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct AuthenticateResponse {
    #[prost(string, tag = "2")]
    pub(crate) token: String,
}

macro_rules! hidden {
    ($($secret:ty)*) => {
        $(impl std::fmt::Debug for $secret {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("(hidden)")
            }
        })*
    };
}

hidden! { AuthenticateRequest AuthenticateResponse }
