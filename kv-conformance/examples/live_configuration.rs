//! Configuration that a running service follows: a snapshot at the start, and every change from then on.
//!
//! ```text
//! cargo run --example live_configuration [ADDRESS]
//! ```
//!
//! `observe` has no gap between the two, so no change is missed, whenever the service starts.

use std::collections::BTreeMap;

use kv_core::{Error, EventType, Kv, Result};
use tokio::sync::watch;

use kv_consul as _;
use kv_etcd as _;
use kv_memory as _;

/// The settings of the service: the keys below `config/`, without that prefix.
type Settings = BTreeMap<String, String>;

#[tokio::main]
async fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let kv = kv_core::connect(&address).await?.scoped(&format!("live-configuration-{}", std::process::id()))?;
    kv.set("config/port", "8080").await?;
    kv.set("config/log", "info").await?;

    let (publish, settings) = watch::channel(Settings::new());
    let following = tokio::spawn(follow(kv.clone(), publish));
    let mut seen = settings.clone();
    let serving = tokio::spawn(serve(settings));

    // An operator on another machine changes two settings together, removes one, and stops the example with the last
    // one.
    let mut until = async |condition: fn(&Settings) -> bool| {
        seen.wait_for(condition).await.map(drop).expect("the settings are followed");
    };
    until(|settings| settings.len() == 2).await;
    kv.txn().set("config/port", "9090").set("config/log", "debug").commit().await?;
    until(|settings| settings.values().any(|value| value == "debug")).await;
    kv.delete("config/log").await?;
    until(|settings| settings.len() == 1).await;
    kv.set("config/stop", "now").await?;

    serving.await.expect("serving does not panic");
    following.abort();
    kv.delete_tree("").await
}

/// Keeps the settings up to date while the service runs.
async fn follow(kv: Kv, publish: watch::Sender<Settings>) -> Result<()> {
    let short = |key: &str| key.trim_start_matches("config/").to_owned();
    loop {
        let (listing, mut changes) = kv.observe("config/").await?;
        let text = |data: &[u8]| String::from_utf8_lossy(data).into_owned();
        publish.send_replace(listing.values.iter().map(|(key, value)| (short(key), text(&value.data))).collect());
        while let Some(event) = changes.next().await {
            match event {
                Ok(event) => publish.send_modify(|settings| {
                    match event.event_type {
                        EventType::Delete => settings.remove(&short(&event.key)),
                        EventType::Create | EventType::Update => settings.insert(short(&event.key), text(&event.data)),
                    };
                }),
                // The store no longer has the changes in between. A fresh snapshot contains their results.
                Err(Error::Compacted { .. }) => break,
                Err(error) => return Err(error),
            }
        }
    }
}

/// A service that always uses the latest settings and is woken by each change.
async fn serve(mut settings: watch::Receiver<Settings>) {
    while settings.changed().await.is_ok() {
        let settings = settings.borrow_and_update();
        println!("working with {:?}", *settings);
        if settings.contains_key("stop") {
            println!("stopped by configuration");
            return;
        }
    }
}
