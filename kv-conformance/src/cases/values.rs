//! Values: clause [K3](kv_core::contract::CLAUSES#K3).

use bytes::Bytes;
use kv_core::{Error, EventType, Value};

use crate::case::cases;
use crate::context::Context;
use crate::outcome::{Keeps as _, Outcome, check, refused, same};

cases! { "values":
    any_bytes ["K3"] "Values of all bytes, of invalid text and of special characters of formats round-trip exactly."
    empty_is_not_absent ["K3"] "An empty value exists: it is read, listed, compared and deleted like any other."
    empty_events ["K3", "E2"] "Writing an empty value is a creation or an update, and not a deletion."
    the_largest_value ["K3"] needs [SmallLimits] "A value of exactly the limit round-trips through every way of writing it."
    a_value_too_large ["K3"] needs [SmallLimits] "Every verb refuses a value one byte over the limit, and the old value stays."
}

async fn any_bytes(cx: Context) -> Outcome {
    let (writer, reader) = (cx.client().await?, cx.client().await?);
    let values: Vec<Vec<u8>> = vec![
        (0..=255).collect(),
        vec![0],
        vec![0xff, 0xfe, 0x80],
        b"null".to_vec(),
        b"\"\"".to_vec(),
        b"\r\n\r\n".to_vec(),
        b"a=b&c=%41+d".to_vec(),
        b"AA==".to_vec(),
        vec![0; 10_000],
    ];
    let mut events = reader.watch("", 0).await?;
    for (number, value) in values.iter().enumerate() {
        let key = format!("value-{number}");
        writer.set(&key, value.clone()).await.keeps("K3")?;
        same!("K3", reader.get(&key).await.keeps("K3")?.data, *value, "the value of {key}");
        same!("K3", events.next("E1").await?.data, *value, "the value in the event of {key}");
    }
    let listed = reader.get_all("").await?.values;
    for (number, value) in values.iter().enumerate() {
        let listed = listed.get(&format!("value-{number}")).map(|value| &value.data[..]);
        same!("K3", listed, Some(&value[..]), "the listed value-{number}");
    }
    Ok(())
}

async fn empty_is_not_absent(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    refused!("K3", kv.get("empty").await, Error::NotFound { key } if key == "empty");
    let created = kv.update("empty", "", 0).await.keeps("K3")?;
    same!("K3", other.get("empty").await.keeps("K3")?, Value::new("", created), "an empty value");
    let listed = other.get_all("").await?.values;
    same!("K3", listed.get("empty"), Some(&Value::new("", created)), "a listed empty value");
    same!("K3", other.keys("").await?, ["empty"], "the keys shown");
    refused!("K3", other.update("empty", "x", 0).await, Error::Conflict { .. });
    let written = other.set("empty", "").await?;
    check!("K3", written > created, "an empty value written over itself kept index {created}");
    refused!("K3", kv.remove("empty", 0).await, Error::Conflict { .. });
    kv.remove("empty", written).await.keeps("K3")?;
    refused!("K3", other.get("empty").await, Error::NotFound { .. });
    Ok(())
}

async fn empty_events(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("", 0).await?;
    let created = kv.set("empty", "").await?;
    events.expect(EventType::Create, "empty", "", created).await?;
    let written = kv.set("empty", "x").await?;
    events.expect(EventType::Update, "empty", "x", written).await?;
    let emptied = kv.set("empty", "").await?;
    events.expect(EventType::Update, "empty", "", emptied).await?;
    kv.delete("empty").await?;
    events.expect_deletion("empty", emptied).await?;
    Ok(())
}

/// Bytes that no compression or truncation leaves unchanged.
fn bytes(length: usize, seed: u8) -> Bytes {
    // 251 is prime, so that no power of two repeats it.
    let bytes: Vec<u8> = (0..=250_u8).cycle().map(|byte| byte ^ seed).take(length).collect();
    bytes.into()
}

async fn the_largest_value(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let limit = cx.limits().value_bytes;
    let mut events = other.watch("", 0).await?;
    let values = [bytes(limit, 0), bytes(limit, 1), bytes(limit, 2)];
    let index = kv.set("large", values[0].clone()).await.keeps("K3")?;
    check!("K3", other.get("large").await?.data == values[0], "the value that was set came back changed");
    check!("K3", events.next("E1").await?.data == values[0], "the event carries another value");
    let index = kv.update("large", values[1].clone(), index).await.keeps("K3")?;
    check!("K3", other.get("large").await?.data == values[1], "the value of an update came back changed");
    let transaction = kv.kv().txn().check("large", index).set("large", values[2].clone());
    if limit + 5 <= cx.limits().txn_bytes {
        kv.commit(transaction).await.keeps("K3")?;
        check!("K3", other.get("large").await?.data == values[2], "the value of a transaction came back changed");
    }
    let lease = kv.ephemeral_key("leased", cx.long_ttl()).await?;
    kv.call("set the ephemeral key", lease.set(values[0].clone())).await.keeps("K3")?;
    let listed = other.get_all("leased").await?.values;
    let listed = listed.get("leased").map(|value| &value.data);
    check!("K3", listed == Some(&values[0]), "the value of an ephemeral key came back changed");
    kv.call("destroy the ephemeral key", lease.destroy()).await?;
    Ok(())
}

async fn a_value_too_large(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let limit = cx.limits().value_bytes;
    let large = bytes(limit + 1, 0);
    let index = kv.set("old", "old").await?;
    let lease = kv.ephemeral_key("leased", cx.long_ttl()).await?;
    let before = other.get_all("").await?.values;

    let set = kv.set("old", large.clone()).await;
    refused!("K3", set, Error::ValueTooLarge { key, bytes, max } if key == "old" && *bytes == limit + 1 && *max == limit);
    refused!("K3", kv.set("new", large.clone()).await, Error::ValueTooLarge { .. });
    refused!("K3", kv.update("old", large.clone(), index).await, Error::ValueTooLarge { .. });
    refused!("K3", kv.update("new", large.clone(), 0).await, Error::ValueTooLarge { .. });
    let transaction = kv.kv().txn().set("first", "1").set("old", large.clone());
    refused!("K3", kv.commit(transaction).await, Error::ValueTooLarge { .. });
    let leased = kv.call("set the ephemeral key", lease.set(large)).await;
    refused!("K3", leased, Error::ValueTooLarge { .. });

    same!("K3", other.get_all("").await?.values, before, "what is stored after all of them were refused");
    kv.call("destroy the ephemeral key", lease.destroy()).await?;
    Ok(())
}
