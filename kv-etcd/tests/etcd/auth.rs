//! Users, passwords and tokens that lapse.

use kv_conformance_servers::{Access, Credential, Options};
use kv_core::Error;

use crate::support::{connect, servers, soon, try_connect, until};

fn protected() -> Options {
    Options::default().access_control()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_user_is_refused_without_telling_the_password() {
    let cluster = servers(1, protected()).await;
    let admin = cluster.admin().expect("an administrator").clone();
    let Credential::User { name, .. } = &admin else { panic!("etcd has users") };
    let wrong = cluster.address().replace("://", &format!("://{name}:wr0ng-passw0rd@"));
    for address in [cluster.address(), wrong] {
        let error = try_connect(&address).await.expect_err("it is protected");
        assert!(matches!(error, Error::PermissionDenied { .. }), "{error}");
        let told = format!("{error} {error:?}");
        assert!(!told.contains("passw0rd"), "{told}");
    }
    let kv = connect(&cluster.address_as(&admin)).await;
    kv.set("key", "value").await.expect("a write");
    assert!(!format!("{kv:?}").contains("pass"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_few_permissions_can_use_them() {
    let cluster = servers(1, protected()).await;
    let admin = connect(&cluster.address_as(cluster.admin().expect("an administrator"))).await;
    let user = cluster.grant("app/", Access::Read).await.expect("a user");
    // The user may not read the key of `ping`, and yet `ping` succeeds.
    let kv = connect(&cluster.address_as(&user)).await;
    admin.set("app/key", "value").await.expect("a write");
    let mut watch = kv.watch("app/", 0).await.expect("a watch");
    assert_eq!(kv.get("app/key").await.expect("a value").data, "value");
    assert_eq!(kv.keys("app").await.expect("a listing"), ["app/key"]);
    let denied = [
        kv.get("other").await.map(drop),
        kv.get_all("").await.map(drop),
        kv.set("app/key", "").await.map(drop),
        kv.watch("", 0).await.map(drop),
        kv.watch("other", 5).await.map(drop),
        kv.lock("app/lock", std::time::Duration::from_secs(10)).await.map(drop),
    ];
    for result in denied {
        let error = result.expect_err("not permitted");
        assert!(matches!(error, Error::PermissionDenied { .. }), "{error}");
    }
    // The watch continues, although others on the same stream were refused.
    admin.set("app/key", "again").await.expect("a write");
    let event = soon("an event", watch.next()).await.expect("the watch goes on").expect("an event");
    assert_eq!(event.data, "again");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_server_forgot_is_renewed() {
    let cluster = servers(1, protected()).await;
    let kv = connect(&cluster.address_as(cluster.admin().expect("an administrator"))).await;
    let mut watch = kv.watch("w/", 0).await.expect("a watch");
    kv.set("w/a", "").await.expect("a write");
    // The server keeps simple tokens in memory, so a restart forgets them.
    cluster.kill(0).await.expect("a fault");
    cluster.start_again(0).await.expect("a healed fault");
    until("a write", || async { kv.set("w/b", "").await.is_ok() }).await;
    let mut other = kv.watch("w/", 0).await.expect("another watch");
    kv.set("w/c", "").await.expect("a write");
    for key in ["w/a", "w/b", "w/c"] {
        let event = soon("an event", watch.next()).await.expect("the watch goes on").expect("an event");
        assert_eq!(event.key, key);
    }
    assert_eq!(soon("an event", other.next()).await.expect("the watch goes on").expect("an event").key, "w/c");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_lapsed_is_renewed() {
    let cluster = servers(1, protected().argument("--auth-token-ttl=1")).await;
    let kv = connect(&cluster.address_as(cluster.admin().expect("an administrator"))).await;
    let mut watch = kv.watch("w/", 0).await.expect("a watch");
    for key in ["w/a", "w/b"] {
        // Only time makes a token lapse. Using it would show whether it has lapsed, but each use extends it.
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        // A stream keeps the token with which it was opened.
        let mut other = kv.watch("w/", 0).await.expect("another watch");
        kv.set(key, "").await.expect("a write");
        for watch in [&mut watch, &mut other] {
            assert_eq!(soon("an event", watch.next()).await.expect("the watch goes on").expect("an event").key, key);
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_token_is_renewed_when_it_lapses_and_when_the_users_change() {
    let signed = "--auth-token=jwt,priv-key=/jwt.key,sign-method=HS256,ttl=2s";
    let options = protected().file("/jwt.key", "the key that signs tokens in this test").argument(signed);
    let cluster = servers(1, options).await;
    let kv = connect(&cluster.address_as(cluster.admin().expect("an administrator"))).await;
    let mut watch = kv.watch("w/", 0).await.expect("a watch");
    // The rounds together last longer than a token. Each adds a user, which makes all tokens stale.
    for number in 0..5 {
        cluster.grant(&format!("app-{number}/"), Access::Read).await.expect("a user");
        let key = format!("w/{number}");
        let mut other = kv.watch("w/", 0).await.expect("another watch");
        kv.set(&key, "").await.expect("a write");
        for watch in [&mut watch, &mut other] {
            assert_eq!(soon("an event", watch.next()).await.expect("the watch goes on").expect("an event").key, key);
        }
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    }
    cluster.stop().await;
}
