//! Members that announce their addresses, and a router that follows the set of members.
//!
//! ```text
//! cargo run --example service_registry [ADDRESS]
//! ```
//!
//! A member is an ephemeral key. It disappears when the member leaves, or after its time to live when the member
//! crashes.

use std::collections::BTreeMap;
use std::time::Duration;

use kv_core::{EphemeralKey, EventType, Kv, Listing, Result, Watch};
use tokio::sync::oneshot;

use kv_consul as _;
use kv_etcd as _;
use kv_memory as _;

#[tokio::main]
async fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let kv = kv_core::connect(&address).await?.scoped(&format!("service-registry-{}", std::process::id()))?;
    let outcome = run(&kv).await;
    // Also after an error, what is still held is given back before the process ends.
    kv.close().await?;
    outcome
}

async fn run(kv: &Kv) -> Result<()> {
    let (members, changes) = kv.observe("members/").await?;
    let routing = tokio::spawn(route(members, changes));

    let (stop, stopped) = oneshot::channel();
    let graceful = register(kv, "anna", "10.0.0.1:80").await?;
    let serving = tokio::spawn(async move {
        // `hold` renews the key while the member serves. If the key is lost, `hold` stops the service.
        let _ = graceful.hold(stopped).await?;
        graceful.destroy().await
    });
    let crashing = register(kv, "berta", "10.0.0.2:80").await?;

    // One member leaves, and one crashes, so that its key is no longer renewed.
    let _ = stop.send(());
    serving.await.expect("serving does not panic")?;
    std::mem::forget(crashing);

    routing.await.expect("routing does not panic")?;
    kv.delete_tree("").await
}

async fn register(kv: &Kv, name: &str, serves_at: &str) -> Result<EphemeralKey> {
    let ttl = kv.limits().min_ttl.max(Duration::from_secs(1));
    let member = kv.ephemeral_key(&format!("members/{name}"), ttl).await?;
    member.set(serves_at.to_owned()).await?;
    Ok(member)
}

/// Follows the members until two have appeared and disappeared.
async fn route(listing: Listing, mut changes: Watch) -> Result<()> {
    let text = |data: &[u8]| String::from_utf8_lossy(data).into_owned();
    let mut members: BTreeMap<String, String> =
        listing.values.into_iter().map(|(key, value)| (key, text(&value.data))).collect();
    let mut left = 0;
    while left < 2 {
        let Some(event) = changes.next().await.transpose()? else { break };
        match event.event_type {
            EventType::Delete => {
                left += 1;
                members.remove(&event.key);
            }
            EventType::Create | EventType::Update => {
                members.insert(event.key, text(&event.data));
            }
        }
        // A member that has not announced its address yet gets no traffic.
        let ready: Vec<_> = members.iter().filter(|(_, at)| !at.is_empty()).collect();
        println!("routing to {ready:?}");
    }
    println!("everybody left");
    Ok(())
}
