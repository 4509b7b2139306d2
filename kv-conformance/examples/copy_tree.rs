//! Copies everything below one address to another store, in transactions as large as that store takes, and verifies.
//!
//! ```text
//! cargo run --example copy_tree FROM TO
//! cargo run --example copy_tree etcd://127.0.0.1/app consul://127.0.0.1/app
//! ```
//!
//! With one address or none, it copies generated keys from an embedded store, as a demonstration.

use indicatif::{ProgressBar, ProgressStyle};
use kv_core::{Kv, Listing, Result, connect};

use kv_consul as _;
use kv_etcd as _;
use kv_memory as _;

#[tokio::main]
async fn main() -> Result<()> {
    let mut addresses = std::env::args().skip(1);
    let (first, second) = (addresses.next(), addresses.next());
    let demonstration = second.is_none();
    let (from, to) = match (first, second) {
        (Some(from), Some(to)) => (connect(&from).await?, connect(&to).await?),
        (to, _) => {
            let to = connect(to.as_deref().unwrap_or("memory://")).await?;
            (sample().await?, to.scoped(&format!("copy-tree-{}", std::process::id()))?)
        }
    };

    let source = from.get_all("").await?;
    println!("{} keys to copy from {} to {}", source.values.len(), from.backend_name(), to.backend_name());
    copy(&source, &to).await?;
    let differing = differences(&source, &to.get_all("").await?);
    println!("verified: {differing} of {} keys differ", source.values.len());
    if demonstration {
        to.delete_tree("").await?;
    }
    Ok(())
}

async fn copy(source: &Listing, to: &Kv) -> Result<()> {
    let limits = to.limits();
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} keys, {per_sec}, {eta} left");
    let bar = ProgressBar::new(source.values.len() as u64);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));

    let (mut txn, mut keys, mut bytes) = (to.txn(), 0, 0);
    for (key, value) in &source.values {
        let size = to.root().len() + key.len() + value.data.len();
        if keys == limits.txn_ops || (keys > 0 && bytes + size > limits.txn_bytes) {
            std::mem::replace(&mut txn, to.txn()).commit().await?;
            bar.inc(keys as u64);
            (keys, bytes) = (0, 0);
        }
        txn = txn.set(key, value.data.clone());
        (keys, bytes) = (keys + 1, bytes + size);
    }
    txn.commit().await?;
    bar.finish();
    Ok(())
}

/// Counts the keys of the source that are not in the copy with the same data. Other keys of the copy do not count.
fn differences(source: &Listing, copy: &Listing) -> usize {
    let same = |key: &String, data| copy.values.get(key).is_some_and(|value| value.data == data);
    source.values.iter().filter(|(key, value)| !same(key, &value.data)).count()
}

async fn sample() -> Result<Kv> {
    let kv = connect("memory://").await?;
    for number in 0..1000 {
        kv.set(&format!("service-{}/instance-{number}", number % 7), format!("10.0.{}.{}", number / 256, number % 256))
            .await?;
    }
    Ok(kv)
}
