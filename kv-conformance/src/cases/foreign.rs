//! Ephemeral keys that other clients write: clauses [L2](kv_core::contract::CLAUSES#L2) and
//! [L2b](kv_core::contract::CLAUSES#L2b).

use kv_core::{EphemeralKey, Error, ForeignWrite, Value};

use crate::case::cases;
use crate::client::{Client, is_deletion};
use crate::context::Context;
use crate::outcome::{Keeps as _, Outcome, check, refused, same};

cases! { "foreign":
    renewed_after_a_foreign_write ["L2b"] "After another client's write of any kind, renewing the key has the outcome that the limits state."
    set_after_a_foreign_write ["L2b", "L2"] "After another client's write, the holder's write has the outcome that the limits state."
    destroyed_after_a_foreign_write ["L2b", "L2"] "After another client's write, destroying the key has the outcome that the limits state."
    dropped_after_a_foreign_write ["L2b", "L7"] "After another client's write, dropping the handle has the outcome that the limits state."
    lapsed_after_a_foreign_write ["L2b", "L1"] "After another client's write, the end of the key's time to live has the outcome that the limits state."
    a_foreign_write_concerns_one_key ["L2b", "L2"] "A write of one ephemeral key does not touch another of the same holder."
    a_refused_foreign_write_changes_nothing ["L2b", "W2"] "A refused write of another client leaves the key with its holder."
    lost_to_every_deletion ["L2b", "L2"] "Whichever way another client deletes the key, its holder has lost it, and does not restore it."
    a_later_key_of_the_same_name_stays ["L2b", "L2"] "A key that another client creates in place of a deleted ephemeral key outlives the lease of the first key."
}

/// How another client may write a key.
#[derive(Debug, Clone, Copy)]
enum Write {
    Set,
    Update,
    Transaction,
    /// By the holder's own client, but not through the handle.
    ByTheHolder,
}

impl Write {
    const ALL: [Self; 4] = [Self::Set, Self::Update, Self::Transaction, Self::ByTheHolder];

    /// Writes `theirs`.
    async fn apply(self, kv: &Client, other: &Client, key: &str) -> Outcome<u64> {
        let index = match self {
            Self::Set => other.set(key, "theirs").await,
            Self::Update => other.update(key, "theirs", other.get(key).await?.index).await,
            Self::Transaction => {
                let transaction = other.kv().txn().set(key, "theirs").set("beside", "1");
                other.commit(transaction).await.map(Option::unwrap_or_default)
            }
            Self::ByTheHolder => kv.set(key, "theirs").await,
        };
        index.keeps("L2b")
    }
}

/// An ephemeral key with the value `mine` over which `theirs` was written.
async fn overwritten(cx: &Context, kv: &Client, other: &Client, write: Write) -> Outcome<(EphemeralKey, Value)> {
    let lease = kv.ephemeral_key("leased", cx.long_ttl()).await?;
    kv.call("set it", lease.set("mine")).await?;
    let index = write.apply(kv, other, "leased").await?;
    let value = Value::new("theirs", index);
    same!("L2b", other.get("leased").await?, value, "the key after {write:?}");
    Ok((lease, value))
}

fn detaches(cx: &Context) -> bool {
    cx.limits().foreign_write == ForeignWrite::Detaches
}

async fn renewed_after_a_foreign_write(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    for write in Write::ALL {
        let (lease, value) = overwritten(&cx, &kv, &other, write).await?;
        let renewed = kv.call("renew it", lease.renew()).await;
        if detaches(&cx) {
            refused!("L2b", renewed, Error::Lost { key } if key == "leased");
        } else {
            renewed.keeps("L2b")?;
        }
        same!("L2b", other.get("leased").await.keeps("L2b")?, value, "the key after {write:?} and the renewal");
        other.delete("leased").await?;
    }
    Ok(())
}

async fn set_after_a_foreign_write(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    for write in Write::ALL {
        let (lease, theirs) = overwritten(&cx, &kv, &other, write).await?;
        let written = kv.call("set it again", lease.set("mine again")).await;
        let expected = if detaches(&cx) {
            refused!("L2b", written, Error::Lost { key } if key == "leased");
            theirs
        } else {
            Value::new("mine again", written.keeps("L2b")?)
        };
        same!("L2b", other.get("leased").await.keeps("L2b")?, expected, "the key after {write:?} and the holder's");
        other.delete("leased").await?;
    }
    Ok(())
}

async fn destroyed_after_a_foreign_write(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    for write in Write::ALL {
        let (lease, theirs) = overwritten(&cx, &kv, &other, write).await?;
        let destroyed = kv.call("destroy it", lease.destroy()).await;
        if detaches(&cx) {
            refused!("L2b", destroyed, Error::Lost { key } if key == "leased");
            same!("L2b", other.get("leased").await.keeps("L2b")?, theirs, "the other's key");
            other.delete("leased").await?;
        } else {
            destroyed.keeps("L2b")?;
            refused!("L2b", other.get("leased").await, Error::NotFound { .. });
        }
    }
    Ok(())
}

async fn dropped_after_a_foreign_write(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let (lease, theirs) = overwritten(&cx, &kv, &other, Write::Set).await?;
    let mut events = other.watch("leased", 0).await?;
    drop(lease);
    if !detaches(&cx) {
        return is_deletion(&events.next("L2b").await?, "leased", theirs.index);
    }
    // The reads that follow show whether the release removed the other client's key.
    for _ in 0..5 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        same!("L2b", other.get("leased").await.keeps("L2b")?, theirs, "the other's key");
    }
    Ok(())
}

async fn lapsed_after_a_foreign_write(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("leased", 0).await?;
    // A key that no other client writes lapses at the same time, and shows when that is.
    let _lease = kv.ephemeral_key("leased", cx.ttl()).await?;
    let _witness = kv.ephemeral_key("leased too", cx.ttl()).await?;
    let index = other.set("leased", "theirs").await.keeps("L2b")?;
    let mut gone = Vec::new();
    while !gone.contains(&"leased too".to_owned()) || !(detaches(&cx) || gone.contains(&"leased".to_owned())) {
        let event = events.next_within("L2b", cx.expiry()).await?;
        if event.event_type == kv_core::EventType::Delete {
            gone.push(event.key);
        }
    }
    if detaches(&cx) {
        let value = Value::new("theirs", index);
        same!("L2b", other.get("leased").await.keeps("L2b")?, value, "the key that was written, after its time");
    } else {
        refused!("L2b", other.get("leased").await, Error::NotFound { .. });
    }
    Ok(())
}

async fn a_foreign_write_concerns_one_key(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let first = kv.ephemeral_key("first", cx.long_ttl()).await?;
    let second = kv.ephemeral_key("second", cx.long_ttl()).await?;
    other.set("first", "theirs").await?;
    let index = kv.call("set the second", second.set("mine")).await.keeps("L2b")?;
    drop(first);
    kv.call("renew the second", second.renew()).await.keeps("L2b")?;
    same!("L2b", other.get("second").await.keeps("L2b")?, Value::new("mine", index), "the second key");
    kv.call("destroy the second", second.destroy()).await.keeps("L2b")
}

async fn a_refused_foreign_write_changes_nothing(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lease = kv.ephemeral_key("leased", cx.long_ttl()).await?;
    let index = kv.call("set it", lease.set("mine")).await?;
    refused!("W2", other.update("leased", "theirs", 0).await, Error::Conflict { .. });
    refused!("W2", other.update("leased", "theirs", index - 1).await, Error::Conflict { .. });
    refused!("W3", other.remove("leased", index - 1).await, Error::Conflict { .. });
    let transaction = other.kv().txn().check("leased", 0).set("leased", "theirs");
    refused!("W5", other.commit(transaction).await, Error::Conflict { .. });
    kv.call("renew it", lease.renew()).await.keeps("L2b")?;
    same!("L2b", other.get("leased").await?, Value::new("mine", index), "the key after writes that were refused");
    kv.call("destroy it", lease.destroy()).await.keeps("L2b")
}

async fn lost_to_every_deletion(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    for how in ["delete", "remove", "delete_tree", "txn"] {
        let lease = kv.ephemeral_key("dir/leased", cx.long_ttl()).await?;
        match how {
            "delete" => other.delete("dir/leased").await,
            "remove" => other.remove("dir/leased", other.get("dir/leased").await?.index).await,
            "delete_tree" => other.delete_tree("dir").await,
            _ => other.commit(other.kv().txn().delete("dir/leased").set("beside", "1")).await.map(drop),
        }
        .keeps("L2b")?;
        refused!("L2", kv.call("renew it", lease.renew()).await, Error::Lost { key } if key == "dir/leased");
        refused!("L2", kv.call("set it", lease.set("mine")).await, Error::Lost { .. });
        refused!("L2", kv.call("destroy it", lease.destroy()).await, Error::Lost { .. });
        refused!("L2", other.get("dir/leased").await, Error::NotFound { .. });
    }
    Ok(())
}

async fn a_later_key_of_the_same_name_stays(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("witness", 0).await?;
    let lease = kv.ephemeral_key("leased", cx.ttl()).await?;
    let _witness = kv.ephemeral_key("witness", cx.ttl()).await?;
    other.delete("leased").await?;
    let index = other.set("leased", "theirs").await?;
    drop(lease);
    // The second key lapses at the same time as the lease of the first one.
    let created = events.next("E1").await?;
    is_deletion(&events.next_within("L1", cx.expiry()).await?, "witness", created.index)?;
    let value = other.get("leased").await.keeps("L2b")?;
    check!("L2b", value == Value::new("theirs", index), "the key that took its place is {value:?}");
    Ok(())
}
