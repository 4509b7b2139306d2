//! Transactions: clause [W5](kv_core::contract::CLAUSES#W5).

use std::collections::BTreeSet;

use kv_core::{Error, TxnBuilder, Value};

use crate::case::cases;
use crate::client::Client;
use crate::context::Context;
use crate::outcome::{Keeps as _, Outcome, check, refused, same};

cases! { "transactions":
    all_at_one_index ["W5"] "What a transaction sets has the index that it returned, and what it deletes is gone."
    none_if_a_check_fails ["W5"] "If one check of many fails, nothing is applied, and the error names its key."
    checks_of_absence ["W5"] "A check of index 0 holds for a key that does not exist, and for no other."
    checks_compare_indices ["W5"] "A check holds for the current index only, also on keys that the transaction does not write."
    a_checked_key_may_be_written ["W5", "W2"] "A check and a write of one key make a compare-and-swap."
    checks_alone ["W5"] "A transaction of checks alone reports whether they hold, and changes nothing."
    deletions_alone ["W5"] "A transaction that only deletes returns no index."
    trees_in_transactions ["W5", "W4"] "A tree is deleted together with other writes, or not at all."
    nothing_at_all ["W5"] "An empty transaction succeeds."
    one_key_twice_is_refused ["W5"] "A transaction that writes a key twice, by name or by its tree, is refused as a whole."
    as_many_operations_as_allowed ["W5"] needs [SmallLimits] "A transaction of exactly the limit is applied, and one more is refused as a whole."
    as_many_bytes_as_allowed ["W5"] needs [SmallTransactions] "A transaction of exactly the limit in bytes is applied, and one more is refused as a whole."
    a_conflict_leaves_no_trace ["W5", "W2", "W3"] "A refused transaction has no effect on indices, listings and watches."
}

async fn all_at_one_index(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let gone = kv.set("gone", "1").await?;
    let kept = kv.set("kept", "1").await?;
    let transaction = kv.kv().txn().check("gone", gone).set("a", "1").set("b", "").delete("gone").delete("never");
    let index = kv.commit(transaction).await.keeps("W5")?;
    check!("W5", index > Some(kept), "after index {kept} the transaction returned {index:?}");
    let index = index.unwrap_or_default();
    let values = other.get_all("").await?.values;
    let expected = [("a", Value::new("1", index)), ("b", Value::new("", index)), ("kept", Value::new("1", kept))];
    let expected = expected.map(|(key, value)| (key.to_owned(), value));
    same!("W5", values.into_iter().collect::<Vec<_>>(), expected, "what is stored after the transaction");
    Ok(())
}

/// Requires that the transaction fails with a conflict on this key and changes nothing.
async fn conflicts(client: &Client, transaction: TxnBuilder, at: &str) -> Outcome {
    let before = client.get_all("").await?.values;
    refused!("W5", client.commit(transaction).await, Error::Conflict { key } if key == at);
    same!("W5", client.get_all("").await?.values, before, "what is stored after a refused transaction");
    Ok(())
}

async fn none_if_a_check_fails(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let (a, b) = (kv.set("a", "1").await?, kv.set("b", "1").await?);
    kv.set("t/x", "1").await?;
    let writes = |transaction: TxnBuilder| transaction.set("a", "2").set("new", "2").delete("b").delete_tree("t");
    conflicts(&kv, writes(kv.kv().txn().check("a", a).check("b", b + 1)), "b").await?;
    conflicts(&kv, writes(kv.kv().txn().check("a", b).check("b", b)), "a").await?;
    conflicts(&kv, writes(kv.kv().txn().check("a", a).check("b", b).check("c", 1)), "c").await?;
    conflicts(&kv, writes(kv.kv().txn().check("a", a).check("b", b).check("t/x", 0)), "t/x").await?;
    let transaction = writes(kv.kv().txn().check("a", a).check("b", b).check("c", 0));
    kv.commit(transaction).await.keeps("W5")?;
    let left: Vec<_> = kv.get_all("").await?.values.into_keys().collect();
    same!("W5", left, ["a", "new"], "what is stored once every check held");
    Ok(())
}

async fn checks_of_absence(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    kv.set("there", "").await?;
    kv.set("below/it", "1").await?;
    conflicts(&kv, kv.kv().txn().check("there", 0).set("x", "1"), "there").await?;
    let transaction = kv.kv().txn().check("absent", 0).check("below", 0).set("x", "1");
    kv.commit(transaction).await.keeps("W5")?;
    conflicts(&kv, kv.kv().txn().check("absent", 7).set("x", "2"), "absent").await?;
    kv.delete("there").await?;
    let transaction = kv.kv().txn().check("there", 0).set("there", "again");
    kv.commit(transaction).await.keeps("W5")?;
    Ok(())
}

async fn checks_compare_indices(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let old = kv.set("watched", "same").await?;
    let new = other.set("watched", "same").await?;
    conflicts(&kv, kv.kv().txn().check("watched", old).set("x", "1"), "watched").await?;
    conflicts(&kv, kv.kv().txn().check("watched", new + 1).set("x", "1"), "watched").await?;
    conflicts(&kv, kv.kv().txn().check("watched", u64::MAX).set("x", "1"), "watched").await?;
    let transaction = kv.kv().txn().check("watched", new).set("x", "1");
    kv.commit(transaction).await.keeps("W5")?;
    same!("W5", kv.get("watched").await?.index, new, "the index of a key that was only checked");
    Ok(())
}

async fn a_checked_key_may_be_written(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let transaction = kv.kv().txn().check("a", 0).set("a", "1");
    let created = kv.commit(transaction).await.keeps("W5")?.unwrap_or_default();
    conflicts(&kv, kv.kv().txn().check("a", 0).set("a", "2"), "a").await?;
    let transaction = kv.kv().txn().check("a", created).set("a", "2");
    let updated = kv.commit(transaction).await.keeps("W5")?.unwrap_or_default();
    same!("W2", kv.get("a").await?, Value::new("2", updated), "the key after the swap");
    conflicts(&kv, kv.kv().txn().check("a", created).delete("a"), "a").await?;
    let transaction = kv.kv().txn().check("a", updated).delete("a");
    kv.commit(transaction).await.keeps("W5")?;
    refused!("W5", kv.get("a").await, Error::NotFound { .. });
    Ok(())
}

async fn checks_alone(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let index = kv.set("a", "1").await?;
    let transaction = kv.kv().txn().check("a", index).check("b", 0);
    same!("W5", kv.commit(transaction).await.keeps("W5")?, None, "the index of a transaction without writes");
    conflicts(&kv, kv.kv().txn().check("a", index).check("b", index), "b").await?;
    same!("W5", kv.get("a").await?, Value::new("1", index), "the key that was checked");
    Ok(())
}

async fn deletions_alone(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let index = kv.set("a", "1").await?;
    kv.set("t/b", "1").await?;
    let transaction = kv.kv().txn().check("a", index).delete("a").delete_tree("t").delete("never");
    same!("W5", kv.commit(transaction).await.keeps("W5")?, None, "the index of a transaction that sets nothing");
    check!("W5", kv.get_all("").await?.values.is_empty(), "what the transaction deleted is still there");
    Ok(())
}

async fn trees_in_transactions(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let keys = ["t", "t/a", "t/b/c", "tx", "t-"];
    for key in keys {
        kv.set(key, "1").await?;
    }
    conflicts(&kv, kv.kv().txn().check("tx", 0).delete_tree("t").set("moved", "1"), "tx").await?;
    let transaction = kv.kv().txn().delete_tree("t").set("moved", "1").set("u/t", "1");
    let index = kv.commit(transaction).await.keeps("W5")?.unwrap_or_default();
    let values = kv.get_all("").await?.values;
    let left: Vec<_> = values.keys().collect();
    same!("W4", left, ["moved", "t-", "tx", "u/t"], "what is left");
    same!("W5", values.get("moved").map(|value| value.index), Some(index), "the index of what was set");
    Ok(())
}

async fn nothing_at_all(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let transaction = kv.kv().txn();
    same!("W5", kv.commit(transaction).await.keeps("W5")?, None, "the index of an empty transaction");
    Ok(())
}

async fn one_key_twice_is_refused(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    kv.set("a", "1").await?;
    let before = kv.get_all("").await?.values;
    let begin = || kv.kv().txn().set("first", "x");
    for (transaction, twice) in [
        (begin().set("a", "2").set("a", "3"), "a"),
        (begin().set("a", "2").delete("a"), "a"),
        (begin().delete("a").delete("a"), "a"),
        (begin().delete_tree("a").set("a", "2"), "a"),
        (begin().set("t/u/v", "2").delete_tree("t"), "t/u/v"),
        (begin().delete_tree(""), "first"),
    ] {
        refused!("W5", kv.commit(transaction).await, Error::OverlappingWrites { key } if key == twice);
    }
    same!("W5", kv.get_all("").await?.values, before, "what is stored after all of them were refused");
    let transaction = begin().delete_tree("t").set("tu", "2").delete("a");
    kv.commit(transaction).await.keeps("W5")?;
    Ok(())
}

async fn as_many_operations_as_allowed(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let limit = cx.limits().txn_ops;
    let keys: Vec<String> = (0..limit).map(|number| format!("k{number}")).collect();
    let all = |kv: &Client| keys.iter().fold(kv.kv().txn(), |transaction, key| transaction.set(key, "1"));
    refused!(
        "W5",
        kv.call("commit one operation too many", all(&kv).check("a", 0).commit()).await,
        Error::TxnTooLarge { operations, max_operations, .. } if *operations == limit + 1 && *max_operations == limit
    );
    refused!("W5", kv.call("commit another", all(&kv).delete("a").commit()).await, Error::TxnTooLarge { .. });
    check!("W5", kv.get_all("").await?.values.is_empty(), "what was refused is stored");

    let index = kv.call("commit as many as allowed", all(&kv).commit()).await.keeps("W5")?;
    let values = kv.get_all("").await?.values;
    same!("W5", values.len(), limit, "the number of keys");
    let indices: BTreeSet<_> = values.values().map(|value| Some(value.index)).collect();
    same!("W5", indices, BTreeSet::from([index]), "the indices of one transaction");
    let checks = values.iter().fold(kv.kv().txn(), |transaction, (key, value)| transaction.check(key, value.index));
    kv.call("commit as many checks as allowed", checks.commit()).await.keeps("W5")?;
    let deletions = keys.iter().fold(kv.kv().txn(), |transaction, key| transaction.delete(key));
    kv.call("commit as many deletions as allowed", deletions.commit()).await.keeps("W5")?;
    check!("W5", kv.get_all("").await?.values.is_empty(), "what was deleted is stored");
    Ok(())
}

async fn as_many_bytes_as_allowed(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let limits = cx.limits();
    // Keys count in full, with the root. Values of half the allowed size leave room for one more byte.
    let key_bytes = kv.kv().root().len() + 4;
    let count = limits.txn_bytes / (limits.value_bytes / 2 + key_bytes) + 1;
    let (each, rest) = ((limits.txn_bytes / count) - key_bytes, limits.txn_bytes % count);
    let build = |extra: usize| {
        (0..count).fold(kv.kv().txn(), |transaction, number| {
            let more = if number == 0 { rest + extra } else { 0 };
            transaction.set(&format!("{number:04}"), vec![b'x'; each + more])
        })
    };
    let (allowed, refused) = (limits.txn_bytes, kv.call("commit one byte too many", build(1).commit()).await);
    refused!("W5", refused, Error::TxnTooLarge { bytes, max_bytes, .. } if *bytes == allowed + 1 && *max_bytes == allowed);
    check!("W5", kv.get_all("").await?.values.is_empty(), "what was refused is stored");
    kv.call("commit as many bytes as allowed", build(0).commit()).await.keeps("W5")?;
    same!("W5", kv.get_all("").await?.values.len(), count, "the number of keys");
    Ok(())
}

async fn a_conflict_leaves_no_trace(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let index = kv.set("a", "1").await?;
    let mut events = other.watch("", 0).await?;
    refused!("W2", kv.update("a", "x", 0).await, Error::Conflict { .. });
    refused!("W2", kv.update("a", "x", index + 1).await, Error::Conflict { .. });
    refused!("W2", kv.update("b", "x", index).await, Error::Conflict { .. });
    refused!("W3", kv.remove("a", 0).await, Error::Conflict { .. });
    refused!("W3", kv.remove("a", index + 1).await, Error::Conflict { .. });
    let transaction = kv.kv().txn().check("a", index).check("b", 1).set("c", "x").delete("a");
    refused!("W5", kv.commit(transaction).await, Error::Conflict { .. });
    let last = kv.set("last", "1").await?;
    let event = events.next("E1").await?;
    same!("W5", (&*event.key, event.index), ("last", last), "the first event after refused writes");
    same!("W5", kv.get("a").await?, Value::new("1", index), "the key after refused writes");
    Ok(())
}
