//! What a client sees when it loses the permission to read. Needs Docker.

use kv_conformance::testing::soon;
use kv_conformance_servers::{Access, Cluster, Kind, Options};
use kv_core::{Error, Registration, Registry};

#[tokio::test]
async fn etcd_reports_a_lost_permission() {
    permission_taken_away(Kind::Etcd, kv_etcd::REGISTRATION).await;
}

#[tokio::test]
async fn consul_reports_a_lost_permission() {
    permission_taken_away(Kind::Consul, kv_consul::REGISTRATION).await;
}

/// Clause E8: a lost permission is `PermissionDenied`, never an empty answer or a deletion.
async fn permission_taken_away(kind: Kind, backend: Registration) {
    let cluster = Cluster::start(kind, 1, Options::default().access_control()).await.expect("a server");
    let registry = Registry::new().with(backend);
    let reader = cluster.grant("dir/", Access::Write).await.expect("a credential");
    let kv = registry.connect(&cluster.address_as(&reader)).await.expect("a client");
    for key in ["dir/a", "dir/b"] {
        kv.set(key, "1").await.expect("a permitted write");
    }
    let mut watch = kv.watch("dir/", 0).await.expect("a permitted watch");
    let (listing, mut observed) = kv.observe("dir/").await.expect("a permitted observation");
    assert_eq!(listing.values.len(), 2);

    cluster.revoke(&reader).await.expect("revoke");
    // etcd checks the permission when a watch is opened. The restart makes the client open it again.
    cluster.restart(0).await.expect("restart");
    for watch in [&mut watch, &mut observed] {
        let item = soon("the end of a watch", watch.next()).await;
        assert!(matches!(item, Some(Err(Error::PermissionDenied { .. }))), "{kind}: a watch gave {item:?}");
        let last = soon("nothing after an error", watch.next()).await;
        assert!(last.is_none(), "{kind}: after the error came {last:?}");
    }
    let denied = |result: kv_core::Result<()>, what: &str| {
        assert!(matches!(result, Err(Error::PermissionDenied { .. })), "{kind}: {what} gave {result:?}");
    };
    denied(kv.get("dir/a").await.map(drop), "get");
    denied(kv.get_all("dir/").await.map(drop), "get_all");
    denied(kv.keys("dir").await.map(drop), "keys");
    denied(kv.observe("dir/").await.map(drop), "observe");
    denied(kv.set("dir/a", "2").await.map(drop), "set");
    cluster.stop().await;
}
