//! What a client sees when it loses the permission to read. Needs Docker.

use std::time::Duration;

use futures_util::future::join_all;
use kv_conformance::testing::soon;
use kv_conformance_servers::{Access, Cluster, Credential, Kind, Options};
use kv_core::{EphemeralKey, Error, Registration, Registry};

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

/// Clause S2: etcd ends the whole stream of renewals when it denies one of them (since 3.5.28 and 3.6.10).
#[tokio::test]
async fn a_renewal_that_is_denied_fails_no_other() {
    const TTL: Duration = Duration::from_secs(300);
    let cluster = Cluster::start(Kind::Etcd, 1, Options::default().access_control()).await.expect("a server");
    let user = cluster.grant("dir/", Access::Write).await.expect("a credential");
    let (Credential::User { name, .. }, Some(Credential::User { name: root, password })) = (&user, cluster.admin())
    else {
        panic!("etcd has users")
    };
    let login = format!("{root}:{password}");
    let role = async |change: &[&str]| {
        let command = [&["etcdctl", "--user", &login, "role"], change].concat();
        let changed = cluster.exec(0, &command).await.expect("the command runs");
        assert_eq!(changed.code, 0, "{changed:?}");
    };
    role(&["grant-permission", name, "readwrite", "apart"]).await;
    let kv = Registry::new().with(kv_etcd::REGISTRATION).connect(&cluster.address_as(&user)).await.expect("a client");
    let apart = kv.ephemeral_key("apart", TTL).await.expect("a permitted key");
    let keys = join_all((0..10).map(|number| {
        let (kv, key) = (&kv, format!("dir/{number}"));
        async move { kv.ephemeral_key(&key, TTL).await.expect("a permitted key") }
    }));
    let keys = keys.await;
    let lock = kv.lock("dir/lock", TTL).await.expect("a permitted lock");
    role(&["revoke-permission", name, "apart"]).await;
    for round in 0..5 {
        let renewing = join_all(keys.iter().map(EphemeralKey::renew));
        let (renewed, held, denied) =
            soon("renewals", async { tokio::join!(renewing, lock.renew(), apart.renew()) }).await;
        assert!(renewed.iter().all(Result::is_ok) && held.is_ok(), "round {round}: {renewed:?}, {held:?}");
        assert!(matches!(denied, Err(Error::PermissionDenied { .. })), "round {round}: {denied:?}");
        let another = kv.lock("dir/another", TTL).await.expect("a permitted lock");
        another.unlock().await.expect("unlocked");
    }
    lock.unlock().await.expect("unlocked");
    cluster.stop().await;
}
