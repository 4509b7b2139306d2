//! The messages of etcd's API that this crate uses, a file for each service.
//!
//! Names and field numbers are those of the published API: <https://etcd.io/docs/latest/dev-guide/api_reference_v3/>.
//! In an answer, fields that are not declared here are skipped. In a request, they have their default, zero.

mod auth;
mod call;
mod kv;
mod lease;
mod maintenance;
mod watch;

pub(crate) use self::auth::*;
pub(crate) use self::call::Call;
pub(crate) use self::kv::*;
pub(crate) use self::lease::*;
pub(crate) use self::maintenance::*;
pub(crate) use self::watch::*;
