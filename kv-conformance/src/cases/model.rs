//! Random sequences of operations against a plain map; a failing sequence is shrunk.

use std::collections::{BTreeMap, BTreeSet};

use kv_core::{Error, TxnBuilder, Value, WatchHistory};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, prop_oneof};
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::case::cases;
use crate::client::Client;
use crate::context::Context;
use crate::judge::{Completeness, judge_events};
use crate::outcome::{Broke, Keeps as _, Outcome, check, same};

cases! { "model":
    random_operations ["W1", "W2", "W3", "W4", "W5", "R1", "R2", "R3", "K2", "E2", "E3"]
        "Random sequences of all verbs have the same results and events as a plain map."
}

const SEQUENCES: u32 = 10;
const LONGEST: usize = 40;
/// How many shorter sequences are tried after a sequence has failed.
const CUTS: usize = 150;

async fn random_operations(cx: Context) -> Outcome {
    let runtime = tokio::runtime::Handle::current();
    // Proptest's values must stay on one thread.
    let running = tokio::task::spawn_blocking(move || {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&cx.seed().to_le_bytes());
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut runner = TestRunner::new_with_rng(Config { failure_persistence: None, ..Config::default() }, random);
        let mut directory = 0;
        let mut try_steps = |steps: &[Step]| {
            directory += 1;
            runtime.block_on(follow(&cx, &format!("try-{directory}"), steps))
        };
        for _ in 0..SEQUENCES * cx.effort() {
            let tree = vec(step(), 1..LONGEST).new_tree(&mut runner);
            let mut tree = tree.map_err(|reason| Broke { clause: None, what: reason.to_string() })?;
            if let Err(broke) = try_steps(&tree.current()) {
                return Err(shortest(&mut tree, broke, &mut try_steps));
            }
        }
        Ok(())
    });
    running.await.unwrap_or_else(|panic| Err(Broke { clause: None, what: panic.to_string() }))
}

/// Returns the failure of the shortest failing sequence that was found.
fn shortest(
    tree: &mut impl ValueTree<Value = Vec<Step>>,
    mut broke: Broke,
    try_steps: &mut impl FnMut(&[Step]) -> Outcome,
) -> Broke {
    let mut steps = tree.current();
    let mut cut = tree.simplify();
    for _ in 0..CUTS {
        if !cut {
            break;
        }
        cut = match try_steps(&tree.current()) {
            Err(shorter) => {
                (broke, steps) = (shorter, tree.current());
                tree.simplify()
            }
            Ok(()) => tree.complicate(),
        };
    }
    let steps: Vec<_> = steps.iter().map(|step| format!("\n  {step:?}")).collect();
    Broke { what: format!("{}\nafter these steps:{}", broke.what, steps.concat()), ..broke }
}

#[derive(Debug, Clone)]
enum Step {
    Get(&'static str),
    GetAll(&'static str),
    Keys(&'static str),
    Set(&'static str, u8),
    Update(&'static str, u8, At),
    Delete(&'static str),
    Remove(&'static str, At),
    DeleteTree(&'static str),
    Txn(Vec<(&'static str, At)>, Vec<Write>),
}

/// The index that a step compares with.
#[derive(Debug, Clone, Copy)]
enum At {
    Current,
    /// An earlier index of the key, or one from before its deletion.
    Old,
    Zero,
    Future,
}

#[derive(Debug, Clone)]
enum Write {
    Set(&'static str, u8),
    Delete(&'static str),
    DeleteTree(&'static str),
}

fn step() -> impl Strategy<Value = Step> {
    let key = || select(vec!["a", "a/b", "a/b/c", "a/bc", "ab", "b", "b/c d", "é"]);
    let directory = || select(vec!["", "a", "a/", "a/b", "ab", "b", "none"]);
    let at = || prop_oneof![5 => Just(At::Current), 2 => Just(At::Old), 2 => Just(At::Zero), 1 => Just(At::Future)];
    // There are few values, so that some are repeated. 0 is the empty value.
    let data = || 0..4_u8;
    let write = prop_oneof![
        4 => (key(), data()).prop_map(|(key, data)| Write::Set(key, data)),
        2 => key().prop_map(Write::Delete),
        1 => directory().prop_map(Write::DeleteTree),
    ];
    prop_oneof![
        2 => key().prop_map(Step::Get),
        2 => select(vec!["", "a", "a/", "a/b", "ab", "b", "none", "é"]).prop_map(Step::GetAll),
        2 => directory().prop_map(Step::Keys),
        5 => (key(), data()).prop_map(|(key, data)| Step::Set(key, data)),
        5 => (key(), data(), at()).prop_map(|(key, data, at)| Step::Update(key, data, at)),
        2 => key().prop_map(Step::Delete),
        3 => (key(), at()).prop_map(|(key, at)| Step::Remove(key, at)),
        1 => directory().prop_map(Step::DeleteTree),
        4 => (vec((key(), at()), 0..3), vec(write, 0..4)).prop_map(|(checks, writes)| Step::Txn(checks, writes)),
    ]
}

/// What the store should hold.
#[derive(Default)]
struct Model {
    values: BTreeMap<String, Value>,
    /// For each key, an index that it had and no longer has.
    old: BTreeMap<String, u64>,
    newest: u64,
}

impl Model {
    fn index(&self, key: &str, at: At) -> u64 {
        match at {
            At::Current => self.values.get(key).map_or(0, |value| value.index),
            At::Old => self.old.get(key).copied().unwrap_or(1),
            At::Zero => 0,
            At::Future => self.newest + 1_000_000,
        }
    }

    fn holds(&self, key: &str, index: u64) -> bool {
        self.values.get(key).map_or(0, |value| value.index) == index
    }

    fn set(&mut self, key: &str, data: u8, index: u64) {
        self.delete(key);
        self.values.insert(key.to_owned(), Value::new(bytes(data), index));
        self.newest = self.newest.max(index);
    }

    fn delete(&mut self, key: &str) {
        if let Some(value) = self.values.remove(key) {
            self.old.insert(key.to_owned(), value.index);
        }
    }

    fn delete_tree(&mut self, directory: &str) {
        for key in self.values.keys().filter(|key| is_in_tree(key, directory)).cloned().collect::<Vec<_>>() {
            self.delete(&key);
        }
    }

    fn children(&self, directory: &str) -> Vec<String> {
        let bare = directory.trim_end_matches('/');
        let below = if bare.is_empty() { String::new() } else { format!("{bare}/") };
        let child = |key: &String| {
            let rest = key.strip_prefix(&below)?;
            Some(rest.find('/').map_or_else(|| key.clone(), |slash| key[..=below.len() + slash].to_owned()))
        };
        self.values.keys().filter_map(child).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

fn is_in_tree(key: &str, directory: &str) -> bool {
    let bare = directory.trim_end_matches('/');
    bare.is_empty() || key == bare || key.strip_prefix(bare).is_some_and(|rest| rest.starts_with('/'))
}

fn bytes(data: u8) -> Vec<u8> {
    vec![b'x'; data.into()]
}

async fn follow(cx: &Context, directory: &str, steps: &[Step]) -> Outcome {
    let (kv, watcher) = (cx.client().await?.scoped(directory)?, cx.client().await?.scoped(directory)?);
    let (begin, mut events) = watcher.observe("").await.keeps("E6")?;
    let mut model = Model::default();
    for step in steps {
        take(&kv, &mut model, step).await?;
    }
    let last = kv.set("last", "last").await?;
    let after = watcher.get_all("").await?.values;
    let mut read = Vec::new();
    while read.last().is_none_or(|event: &kv_core::Event| event.index != last) {
        read.push(events.next("E3").await?);
    }
    let completeness = match cx.limits().watch_history {
        WatchHistory::Every => Completeness::Every,
        WatchHistory::Latest => Completeness::Latest,
    };
    judge_events(&begin.values, &read, &[], &after, completeness)?;
    after
        .into_iter()
        .filter(|(key, _)| key != "last")
        .eq(model.values.clone())
        .then_some(())
        .ok_or_else(|| Broke::new("R2", format!("at the end the map holds {:?}", model.values)))
}

/// Takes one step in the store and in the model, and compares the results.
async fn take(kv: &Client, model: &mut Model, step: &Step) -> Outcome {
    match step {
        Step::Get(key) => match (kv.get(key).await, model.values.get(*key)) {
            (Ok(value), Some(expected)) => same!("R1", value, *expected, "the value of {key:?}"),
            (Err(Error::NotFound { .. }), None) => {}
            (result, expected) => check!("R1", false, "{key:?} is {expected:?}, but get says {result:?}"),
        },
        Step::GetAll(prefix) => {
            let listed = kv.get_all(prefix).await.keeps("R2")?.values;
            let expected = model.values.iter().filter(|(key, _)| key.starts_with(prefix));
            let expected: BTreeMap<_, _> = expected.map(|(key, value)| (key.clone(), value.clone())).collect();
            let clause = if listed.keys().eq(expected.keys()) { "R2" } else { "K2" };
            same!(clause, listed, expected, "what begins with {prefix:?}");
        }
        Step::Keys(directory) => {
            let keys = kv.keys(directory).await.keeps("R3")?;
            same!("R3", keys, model.children(directory), "the children of {directory:?}");
        }
        Step::Set(key, data) => {
            let index = kv.set(key, bytes(*data)).await.keeps("W1")?;
            check!("W1", index > model.newest, "after index {} came {index}", model.newest);
            model.set(key, *data, index);
        }
        Step::Update(key, data, at) => {
            let index = model.index(key, *at);
            match (kv.update(key, bytes(*data), index).await, model.holds(key, index)) {
                (Ok(written), true) => {
                    check!("W1", written > model.newest, "after index {} came {written}", model.newest);
                    model.set(key, *data, written);
                }
                (Err(Error::Conflict { .. }), false) => {}
                (result, holds) => {
                    check!("W2", false, "whether {key:?} is at {index}: {holds}; the update says {result:?}");
                }
            }
        }
        Step::Delete(key) => {
            kv.delete(key).await.keeps("W3")?;
            model.delete(key);
        }
        Step::Remove(key, at) => {
            let index = model.index(key, *at);
            match (kv.remove(key, index).await, model.holds(key, index)) {
                (Ok(()), true) => model.delete(key),
                (Err(Error::Conflict { .. }), false) => {}
                (result, holds) => {
                    check!("W3", false, "whether {key:?} is at {index}: {holds}; the removal says {result:?}");
                }
            }
        }
        Step::DeleteTree(directory) => {
            kv.delete_tree(directory).await.keeps("W4")?;
            model.delete_tree(directory);
        }
        Step::Txn(checks, writes) => transact(kv, model, checks, writes).await?,
    }
    Ok(())
}

async fn transact(kv: &Client, model: &mut Model, checks: &[(&'static str, At)], writes: &[Write]) -> Outcome {
    let mut transaction: TxnBuilder = kv.kv().txn();
    let mut failing = Vec::new();
    for (key, at) in checks {
        let index = model.index(key, *at);
        if !model.holds(key, index) {
            failing.push(*key);
        }
        transaction = transaction.check(key, index);
    }
    for write in writes {
        transaction = match write {
            Write::Set(key, data) => transaction.set(key, bytes(*data)),
            Write::Delete(key) => transaction.delete(key),
            Write::DeleteTree(directory) => transaction.delete_tree(directory),
        };
    }
    let sets = writes.iter().any(|write| matches!(write, Write::Set(..)));
    match kv.commit(transaction).await {
        Err(Error::OverlappingWrites { .. }) if overlap(writes) => {}
        Err(Error::Conflict { key }) if failing.contains(&&*key) => {}
        Ok(index) if failing.is_empty() && !overlap(writes) && index.is_some() == sets => {
            let index = index.unwrap_or_default();
            check!("W1", !sets || index > model.newest, "after index {} came {index}", model.newest);
            for write in writes {
                match write {
                    Write::Set(key, data) => model.set(key, *data, index),
                    Write::Delete(key) => model.delete(key),
                    Write::DeleteTree(directory) => model.delete_tree(directory),
                }
            }
        }
        result => check!("W5", false, "these checks fail: {failing:?}; the transaction says {result:?}"),
    }
    Ok(())
}

/// Whether two of the writes touch the same key.
fn overlap(writes: &[Write]) -> bool {
    let touches = |write: &Write, other: &Write| match (write, other) {
        (Write::DeleteTree(directory), Write::Set(key, _) | Write::Delete(key)) => is_in_tree(key, directory),
        (Write::DeleteTree(one), Write::DeleteTree(other)) => is_in_tree(other.trim_end_matches('/'), one),
        (Write::Set(one, _) | Write::Delete(one), Write::Set(other, _) | Write::Delete(other)) => one == other,
        (Write::Set(..) | Write::Delete(_), Write::DeleteTree(_)) => false,
    };
    let mut pairs = (0..writes.len()).flat_map(|at| (0..writes.len()).map(move |other| (at, other)));
    pairs.any(|(at, other)| at != other && touches(&writes[at], &writes[other]))
}
