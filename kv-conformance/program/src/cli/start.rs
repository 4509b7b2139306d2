//! Stores that the program starts by itself.

use kv_conformance_servers::{Kind, Options, ServerFixture};
use kv_core::Registry;

/// Starts a store, as in `etcd` or `consul=IMAGE`, of so many members.
pub(super) async fn start(what: &str, members: usize) -> Result<ServerFixture, String> {
    let (store, image) = what.split_once('=').map_or((what, None), |(store, image)| (store, Some(image)));
    let kind = match store {
        "etcd" => Kind::Etcd,
        "consul" => Kind::Consul,
        _ => return Err("only `etcd` and `consul` can be started".to_owned()),
    };
    let registry = Registry::linked();
    let backend = registry.registrations().iter().find(|backend| backend.name == store);
    let backend = backend.ok_or_else(|| format!("this program was built without kv-{store}"))?;
    let options = image.map_or_else(Options::default, |image| Options::default().image(image));
    ServerFixture::start(kind, members, options, *backend).await.map_err(|error| error.to_string())
}
