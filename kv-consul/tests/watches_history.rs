//! Watches of a store whose history is replaced, and of keys that a token may not read (clause E8). Needs Docker.

mod support;

use std::fmt::Write as _;

use kv_conformance_servers::{Access, Cluster, Credential, Options};
use kv_core::{Error, Event, EventType, Kv, Watch};
use support::{connect, soon, start};

async fn next(watch: &mut Watch) -> Event {
    soon("an event", watch.next()).await.expect("the watch goes on").expect("an event")
}

/// Returns the error that ends a watch. No event may come before it.
async fn end(watch: &mut Watch) -> Error {
    soon("the end of the watch", watch.next()).await.expect("it ends with an error").expect_err("no event")
}

async fn run(cluster: &Cluster, command: &[&str]) -> String {
    let output = cluster.exec(0, command).await.expect("the command runs");
    assert_eq!(output.code, 0, "{command:?}: {output:?}");
    output.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_snapshot_is_noticed() {
    let cluster = start(Options::default()).await;
    let (kv, other) = (connect(&cluster.address()).await, connect(&cluster.address()).await);
    kv.set("r/deleted", "old").await.expect("a write");
    kv.set("r/updated", "old").await.expect("a write");
    run(&cluster, &["consul", "snapshot", "save", "/tmp/snapshot"]).await;
    kv.delete("r/deleted").await.expect("a deletion");
    kv.set("r/created", "new").await.expect("a write");
    let index = kv.set("s/created", "new").await.expect("a write");
    let listed = kv.get_all("r/").await.expect("a listing").index;
    let after = kv.set("r/updated", "new").await.expect("a write");
    let mut watch = kv.watch("r/", 0).await.expect("a watch");
    let mut resumed = other.watch("r/", after).await.expect("nothing has happened since");
    let mut created = kv.watch("s/", 0).await.expect("a watch");

    run(&cluster, &["consul", "snapshot", "restore", "/tmp/snapshot"]).await;
    // The restored entries have smaller indices than those that the watch has shown.
    for watch in [&mut watch, &mut resumed] {
        let error = end(watch).await;
        assert!(matches!(error, Error::Compacted { after: seen, .. } if seen >= after), "{error:?}");
    }
    let event = next(&mut created).await;
    assert_eq!((event.key.as_str(), event.event_type), ("s/created", EventType::Delete));
    assert!(event.index > index, "{event:?}");
    // An index from before the restore is in the store's future. After a write to another key, it is not.
    for _ in 0..2 {
        let result = kv.watch("r/", after).await.map(drop);
        assert!(matches!(result, Err(Error::Compacted { after: said, .. }) if said == after), "{result:?}");
        kv.set("elsewhere", "1").await.expect("a write");
    }
    let mut from_a_listing = kv.watch("r/", listed).await.expect("that listing is remembered");
    let error = end(&mut from_a_listing).await;
    assert!(matches!(error, Error::Compacted { .. }), "{error:?}");
    let (listing, mut observed) = kv.observe("r/").await.expect("an observation");
    assert_eq!(listing.values.into_keys().collect::<Vec<_>>(), ["r/deleted", "r/updated"]);
    let index = kv.set("r/updated", "newer").await.expect("a write");
    assert_eq!(next(&mut observed).await.index, index);
    cluster.stop().await;
}

fn token(credential: &Credential) -> String {
    match credential {
        Credential::Token(token) => token.clone(),
        other => panic!("no token: {other:?}"),
    }
}

/// Creates a token with these rules, and returns it.
async fn with_rules(cluster: &Cluster, name: &str, rules: &str) -> Credential {
    let admin = format!("-token={}", token(cluster.admin().expect("an administrator")));
    run(cluster, &["consul", "acl", "policy", "create", &admin, "-name", name, "-rules", rules]).await;
    let made = run(cluster, &["consul", "acl", "token", "create", &admin, "-policy-name", name]).await;
    let secret = made.lines().find_map(|line| line.strip_prefix("SecretID:")).expect("a token");
    Credential::Token(secret.trim().to_owned())
}

async fn change_rules(cluster: &Cluster, name: &str, rules: &str) {
    let admin = format!("-token={}", token(cluster.admin().expect("an administrator")));
    run(cluster, &["consul", "acl", "policy", "update", &admin, "-name", name, "-rules", rules]).await;
}

fn denied<T: std::fmt::Debug>(what: &str, result: &Result<T, Error>) {
    assert!(matches!(result, Err(Error::PermissionDenied { .. })), "{what}: {result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_permission_is_no_deletion() {
    let cluster = start(Options::default().access_control()).await;
    let admin: Kv = connect(&cluster.address_as(cluster.admin().expect("an administrator"))).await;
    admin.set("app/key", "1").await.expect("a write");
    admin.set("own/key", "1").await.expect("a write");
    let both = r#"key_prefix "app/" { policy = "read" } key_prefix "own/" { policy = "read" }"#;
    let reader = connect(&cluster.address_as(&with_rules(&cluster, "reader", both).await)).await;
    let mut app = reader.watch("app/", 0).await.expect("a watch");
    let mut own = reader.watch("own/", 0).await.expect("a watch");
    let mut key = reader.watch("own/key", 0).await.expect("a watch");

    change_rules(&cluster, "reader", r#"key_prefix "own/" { policy = "read" }"#).await;
    // A write makes the query answer. A watch that may still read shows it, and also deletions.
    admin.set("app/other", "1").await.expect("a write");
    admin.delete("own/key").await.expect("a deletion");
    for watch in [&mut own, &mut key] {
        let event = next(watch).await;
        assert_eq!((event.key.as_str(), event.event_type), ("own/key", EventType::Delete));
    }
    let ended = async {
        loop {
            // The query that was open still shows the other key, which the token could read at that time.
            match app.next().await.expect("it ends with an error") {
                Ok(event) => assert_eq!((event.key.as_str(), event.event_type), ("app/other", EventType::Create)),
                Err(error) => return error,
            }
        }
    };
    let error = soon("the end of the watch", ended).await;
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    denied("get", &reader.get("app/key").await);
    for prefix in ["app/", "app/key", "none/"] {
        denied("get_all", &reader.get_all(prefix).await);
        denied("watch", &reader.watch(prefix, 0).await.map(drop));
        denied("observe", &reader.observe(prefix).await.map(drop));
    }
    denied("keys", &reader.keys("app").await);
    // The prefix is empty, and the token may read it.
    assert!(reader.get_all("own/").await.expect("a listing").values.is_empty());
    assert!(reader.keys("own").await.expect("a directory").is_empty());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_deleted_ends_its_watches() {
    let cluster = start(Options::default().access_control()).await;
    let admin = connect(&cluster.address_as(cluster.admin().expect("an administrator"))).await;
    admin.set("app/key", "1").await.expect("a write");
    let credential = cluster.grant("app/", Access::Read).await.expect("a token");
    let reader = connect(&cluster.address_as(&credential)).await;
    let mut watch = reader.watch("app/", 0).await.expect("a watch");
    let manage = format!("-token={}", token(cluster.admin().expect("an administrator")));
    let own = format!("-token={}", token(&credential));
    let read = run(&cluster, &["consul", "acl", "token", "read", &own, "-self"]).await;
    let accessor = read.lines().find_map(|line| line.strip_prefix("AccessorID:")).expect("an accessor").trim();
    run(&cluster, &["consul", "acl", "token", "delete", &manage, "-id", accessor]).await;
    let error = end(&mut watch).await;
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    cluster.stop().await;
}

/// More watches than a handle has queries, each on a prefix of its own. The token may not list a prefix that covers
/// them all.
#[tokio::test(flavor = "multi_thread")]
async fn many_watches_of_a_token_that_may_list_each_prefix_alone() {
    const WATCHES: usize = 60;
    let options = Options::default().access_control().argument("-hcl=acl { enable_key_list_policy = true }");
    let cluster = start(options).await;
    let admin = connect(&cluster.address_as(cluster.admin().expect("an administrator"))).await;
    let mut rules = String::new();
    for number in 0..WATCHES {
        write!(rules, r#"key_prefix "app/{number:02}/" {{ policy = "list" }} "#).expect("a string");
    }
    let reader = connect(&cluster.address_as(&with_rules(&cluster, "reader", &rules).await)).await;
    denied("get_all", &reader.get_all("app/").await);
    let mut watches = Vec::new();
    for number in 0..WATCHES {
        watches.push(reader.watch(&format!("app/{number:02}/"), 0).await.expect("a watch"));
    }
    for round in ["1", "2"] {
        for number in 0..WATCHES {
            admin.set(&format!("app/{number:02}/key"), round).await.expect("a write");
        }
        for (number, watch) in watches.iter_mut().enumerate() {
            let event = next(watch).await;
            assert_eq!((event.key, &event.data[..]), (format!("app/{number:02}/key"), round.as_bytes()));
        }
    }
    cluster.stop().await;
}
