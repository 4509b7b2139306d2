//! Keys, prefixes and directories: clauses [K1](kv_core::contract::CLAUSES#K1) and [K2](kv_core::contract::CLAUSES#K2).

use std::collections::BTreeSet;

use kv_core::{Error, EventType};

use crate::case::cases;
use crate::context::Context;
use crate::outcome::{Keeps as _, Outcome, check, refused, same};

cases! { "keys":
    every_character_is_data ["K1"] "Keys with special characters of URLs, shells and paths round-trip exactly."
    similar_keys_are_different ["K1"] "Keys that differ in case, normalisation, encoding or order of segments are different keys."
    events_carry_exact_keys ["K1", "E2"] "Keys with characters that need encoding appear in events as written."
    invalid_keys_are_refused ["K1"] "Every verb refuses an invalid key, and nothing is written."
    invalid_prefixes_are_refused ["K1", "K2"] "Reads, watches and deletions refuse an invalid prefix or directory."
    the_longest_key ["K1"] "A key of exactly the limit works in every verb, and one byte more is refused."
    a_prefix_is_a_string ["K2"] "A prefix matches keys that begin with it, also within a segment."
    a_prefix_is_no_pattern ["K2"] "Special characters of patterns and ranges match only themselves in a prefix."
    a_directory_is_no_string ["K2", "W4"] "A directory means the keys below it, never a sibling whose name has it as a prefix."
    the_empty_prefix_is_everything ["K2"] "The empty prefix and the empty directory mean everything."
    a_dot_begins_a_prefix ["K2"] "A prefix may stop after a dot, where a key may not."
    a_key_may_be_a_directory_too ["K1", "R3"] "A key and the keys below it coexist, each with its own value."
    a_watched_prefix_is_a_string ["K2", "E1"] "A watch sees the keys that begin with its prefix, and no others."
}

/// Keys that an intermediate layer between client and store would most likely change.
const ODD_KEYS: &[&str] = &[
    " ",
    "a b",
    " a",
    "a ",
    "+",
    "a+b",
    "%",
    "%2F",
    "%2f",
    "%20",
    "%25",
    "%zz",
    "?",
    "a?b=c",
    "#",
    "a#b",
    "&",
    "a&b=c",
    ";",
    ":",
    "@",
    "a,b",
    "[0]",
    "{x}",
    "$HOME",
    "*",
    "'",
    "\"",
    "\\",
    "\\0",
    "|",
    "<>",
    "^",
    "`",
    "~",
    "!",
    "(",
    ".locks",
    "...",
    "a..b",
    ".a",
    "a.",
    "-",
    "_",
    "\t",
    "\n",
    "\r\n",
    "\u{1}",
    "\u{7f}",
    "é",
    "e\u{301}",
    "ключ/значение",
    "鍵/値",
    "🔑",
    "a\u{200b}",
    "\u{feff}a",
    "\u{10ffff}",
    "null",
    "true",
    "0",
    "a/b c/d+e/%66",
];

async fn every_character_is_data(cx: Context) -> Outcome {
    let (writer, reader) = (cx.client().await?, cx.client().await?);
    for key in ODD_KEYS {
        writer.set(key, *key).await.keeps("K1")?;
    }
    for key in ODD_KEYS {
        same!("K1", reader.get(key).await.keeps("K1")?.data, *key, "the value of {key:?}");
    }
    let listed = reader.get_all("").await?.values;
    let expected: BTreeSet<_> = ODD_KEYS.iter().map(|key| (*key).to_owned()).collect();
    same!("K1", listed.keys().cloned().collect::<BTreeSet<_>>(), expected, "the keys listed");
    for (key, value) in &listed {
        same!("K1", value.data, *key, "the value listed for {key:?}");
    }
    let children: Vec<_> = ODD_KEYS.iter().filter(|key| !key.contains('/')).collect();
    let shown = reader.keys("").await?;
    for key in children {
        check!("K1", shown.iter().any(|shown| shown == key), "{key:?} is not among the listed keys: {shown:?}");
    }
    for key in ODD_KEYS {
        writer.delete(key).await.keeps("K1")?;
        refused!("K1", reader.get(key).await, Error::NotFound { key: named } if named == key);
    }
    Ok(())
}

async fn similar_keys_are_different(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let keys = [
        "a", "A", "a ", "a%20", "a+", "é", "e\u{301}", "É", "x/y", "x%2Fy", "x%2fy", "x\\y", "y/x", "ß", "ss", "ı", "i",
    ];
    for key in keys {
        kv.update(key, key, 0).await.keeps("K1")?;
    }
    for key in keys {
        same!("K1", kv.get(key).await.keeps("K1")?.data, key, "the value of {key:?}");
    }
    Ok(())
}

async fn events_carry_exact_keys(cx: Context) -> Outcome {
    let (writer, watcher) = (cx.client().await?, cx.client().await?);
    let mut events = watcher.watch("", 0).await?;
    for key in ["a b+c%2Fd?e#f", "ключ/🔑", "\n", "%"] {
        let index = writer.set(key, "1").await?;
        let event = events.next("E1").await?;
        same!("K1", event.key, key, "the key of the event of writing it");
        same!("E2", (event.event_type, event.index), (EventType::Create, index), "the event of writing {key:?}");
    }
    Ok(())
}

async fn invalid_keys_are_refused(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    kv.set("a", "1").await?;
    let before = kv.get_all("").await?.values;
    let ttl = cx.long_ttl();
    for key in ["", "/", "/a", "a/", "a//b", "//", ".", "..", "./a", "a/.", "a/../b", "../a", "a\0", "\0"] {
        refused!("K1", kv.get(key).await, Error::InvalidKey { key: named, .. } if named == key);
        refused!("K1", kv.set(key, "x").await, Error::InvalidKey { key: named, .. } if named == key);
        refused!("K1", kv.update(key, "x", 0).await, Error::InvalidKey { .. });
        refused!("K1", kv.delete(key).await, Error::InvalidKey { .. });
        refused!("K1", kv.remove(key, 0).await, Error::InvalidKey { .. });
        refused!("K1", kv.ephemeral_key(key, ttl).await, Error::InvalidKey { .. });
        refused!("K1", kv.lock(key, ttl).await, Error::InvalidKey { .. });
        refused!("K1", kv.try_lock(key, ttl).await, Error::InvalidKey { .. });
        let transaction = kv.kv().txn().set("b", "x").set(key, "x");
        refused!("K1", kv.commit(transaction).await, Error::InvalidKey { .. });
        let transaction = kv.kv().txn().check(key, 0).set("b", "x");
        refused!("K1", kv.commit(transaction).await, Error::InvalidKey { .. });
    }
    same!("K1", kv.get_all("").await?.values, before, "what is stored after all of them were refused");
    Ok(())
}

async fn invalid_prefixes_are_refused(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    kv.set("a/b", "1").await?;
    for prefix in ["/", "//", "/a", "a//", "a//b", "./", "../", "a/../", "a\0"] {
        refused!("K2", kv.get_all(prefix).await, Error::InvalidKey { key, .. } if key == prefix);
        refused!("K2", kv.watch(prefix, 0).await, Error::InvalidKey { .. });
        refused!("K2", kv.observe(prefix).await, Error::InvalidKey { .. });
    }
    for directory in ["/", "//", "/a", "a//", "a//b", ".", "..", "./", "a/..", "a\0"] {
        refused!("K2", kv.keys(directory).await, Error::InvalidKey { .. });
        refused!("K2", kv.delete_tree(directory).await, Error::InvalidKey { .. });
    }
    kv.get("a/b").await.keeps("K2")?;
    Ok(())
}

async fn the_longest_key(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let limit = kv.kv().limits().key_bytes;
    check!("K1", limit > 0, "no key at all is allowed below {:?}", kv.kv().root());
    // Multi-byte characters distinguish a limit in bytes from a limit in characters.
    let longest = format!("{}{}", "é".repeat(limit / 2), "x".repeat(limit % 2));
    let index = kv.set(&longest, "1").await.keeps("K1")?;
    same!("K1", kv.get(&longest).await.keeps("K1")?.index, index, "the index of the longest key");
    same!("K1", kv.get_all(&longest).await.keeps("K1")?.values.len(), 1, "the keys listed by the longest prefix");
    let shown = kv.keys("").await.keeps("K1")?;
    same!("K1", shown, std::slice::from_ref(&longest), "the keys shown");
    kv.remove(&longest, index).await.keeps("K1")?;
    let lease = kv.ephemeral_key(&longest, cx.long_ttl()).await.keeps("K1")?;
    kv.call("destroy the ephemeral key", lease.destroy()).await.keeps("K1")?;

    let longer = format!("{longest}x");
    refused!("K1", kv.set(&longer, "1").await, Error::InvalidKey { .. });
    refused!("K1", kv.get(&longer).await, Error::InvalidKey { .. });
    refused!("K1", kv.get_all(&longer).await, Error::InvalidKey { .. });
    same!("K1", kv.get_all("").await?.values.len(), 0, "the number of keys after the longer one was refused");
    Ok(())
}

/// Writes the keys, each with itself as its value.
async fn write_all(kv: &crate::client::Client, keys: &[&str]) -> Outcome {
    for key in keys {
        kv.set(key, (*key).to_owned()).await?;
    }
    Ok(())
}

async fn listed(kv: &crate::client::Client, prefix: &str) -> Outcome<Vec<String>> {
    Ok(kv.get_all(prefix).await.keeps("K2")?.values.into_keys().collect())
}

async fn a_prefix_is_a_string(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    write_all(&kv, &["a", "a/b", "a/bc", "ab", "abc/d", "b", "ba", "A"]).await?;
    same!("K2", listed(&kv, "a").await?, ["a", "a/b", "a/bc", "ab", "abc/d"], "what begins with \"a\"");
    same!("K2", listed(&kv, "a/").await?, ["a/b", "a/bc"], "what begins with \"a/\"");
    same!("K2", listed(&kv, "a/b").await?, ["a/b", "a/bc"], "what begins with \"a/b\"");
    same!("K2", listed(&kv, "ab").await?, ["ab", "abc/d"], "what begins with \"ab\"");
    same!("K2", listed(&kv, "abc/").await?, ["abc/d"], "what begins with \"abc/\"");
    check!("K2", listed(&kv, "abcd").await?.is_empty(), "something begins with \"abcd\"");
    check!("K2", listed(&kv, "a/b/").await?.is_empty(), "something begins with \"a/b/\"");
    Ok(())
}

async fn a_prefix_is_no_pattern(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let keys = ["x", "x*", "x*y", "xy", "x%", "x%25", "x_", "x?", "x[a]", "xa", "x\u{10ffff}", "x\u{10ffff}z", "y"];
    write_all(&kv, &keys).await?;
    for prefix in ["x*", "x%", "x_", "x?", "x[", "x\u{10ffff}", "*", "%", ".", "\u{10ffff}"] {
        let mut expected: Vec<_> = keys.iter().filter(|key| key.starts_with(prefix)).map(ToString::to_string).collect();
        expected.sort_unstable();
        same!("K2", listed(&kv, prefix).await?, expected, "what begins with {prefix:?}");
    }
    Ok(())
}

async fn a_directory_is_no_string(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let siblings = ["dx", "dx/a", "d-", "d.", "d0", "D", "c", "e"];
    write_all(&kv, &["d", "d/a", "d/b/c"]).await?;
    write_all(&kv, &siblings).await?;
    same!("K2", kv.keys("d").await.keeps("K2")?, ["d/a", "d/b/"], "the children of \"d\"");
    let mut expected: Vec<_> = siblings.iter().map(ToString::to_string).collect();
    expected.sort_unstable();
    kv.delete_tree("d").await.keeps("W4")?;
    let left = listed(&kv, "").await?;
    for key in &expected {
        check!("K2", left.contains(key), "{key:?} was deleted with the directory \"d\"");
    }
    same!("W4", left, expected, "what is left after the deletion of the directory \"d\"");
    Ok(())
}

async fn the_empty_prefix_is_everything(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = kv.watch("", 0).await.keeps("K2")?;
    let index = other.set("z/y/x", "1").await?;
    events.expect(EventType::Create, "z/y/x", "1", index).await?;
    other.set(" ", "2").await?;
    same!("K2", listed(&kv, "").await?, [" ", "z/y/x"], "what the empty prefix lists");
    same!("K2", kv.keys("").await.keeps("K2")?, [" ", "z/"], "the children of the empty directory");
    kv.delete_tree("").await.keeps("K2")?;
    check!("K2", listed(&other, "").await?.is_empty(), "deleting the empty directory left something");
    Ok(())
}

async fn a_dot_begins_a_prefix(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    write_all(&kv, &[".locks", "..a", "a", "d/.locks", "d/x"]).await?;
    same!("K2", listed(&kv, ".").await?, ["..a", ".locks"], "what begins with a dot");
    same!("K2", listed(&kv, "..").await?, ["..a"], "what begins with two dots");
    same!("K2", listed(&kv, "d/.").await?, ["d/.locks"], "what begins with \"d/.\"");
    Ok(())
}

async fn a_key_may_be_a_directory_too(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    write_all(&kv, &["foo", "foo/bar", "foo/bar/baz"]).await?;
    for key in ["foo", "foo/bar", "foo/bar/baz"] {
        same!("K1", kv.get(key).await.keeps("K1")?.data, key, "the value of {key:?}");
    }
    same!("R3", kv.keys("").await?, ["foo", "foo/"], "the children of the root");
    same!("R3", kv.keys("foo").await?, ["foo/bar", "foo/bar/"], "the children of \"foo\"");
    kv.delete("foo/bar").await?;
    same!("K1", kv.get("foo/bar/baz").await.keeps("K1")?.data, "foo/bar/baz", "the value below a deleted key");
    same!("R3", kv.keys("foo").await?, ["foo/bar/"], "the children of \"foo\" after a key of it was deleted");
    Ok(())
}

async fn a_watched_prefix_is_a_string(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut string = kv.watch("a", 0).await?;
    let mut directory = kv.watch("a/", 0).await?;
    for key in ["b", "a", "A", "ab", "a0", "a/b"] {
        let index = other.set(key, "1").await?;
        for (prefix, events) in [("a", &mut string), ("a/", &mut directory)] {
            if key.starts_with(prefix) {
                let event = events.next("E1").await?;
                same!("K2", (&*event.key, event.index), (key, index), "the next event under {prefix:?}");
            }
        }
    }
    Ok(())
}
