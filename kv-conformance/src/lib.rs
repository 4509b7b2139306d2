//! The contract of `kv-core` as executable cases.

#[cfg(feature = "servers")]
pub mod servers;
