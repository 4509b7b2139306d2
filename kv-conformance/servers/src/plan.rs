//! The plan of one member: everything that it is started from.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use crate::credential::Credential;
use crate::kind::Kind;
use crate::options::Options;

/// The configuration of one member.
pub(crate) struct Plan<'a> {
    pub(crate) kind: Kind,
    pub(crate) image: &'a str,
    pub(crate) cluster: &'a str,
    pub(crate) labels: &'a HashMap<String, String>,
    pub(crate) member: usize,
    /// Every member's address among its peers.
    pub(crate) peers: &'a [Ipv4Addr],
    /// The network of the mapped port, if it is not Docker's default.
    pub(crate) network: Option<&'a str>,
    pub(crate) options: &'a Options,
    pub(crate) admin: Option<&'a Credential>,
    /// Files that the options do not name, such as certificates.
    pub(crate) files: &'a [(String, Vec<u8>)],
}
