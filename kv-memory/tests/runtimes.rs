//! One store in several runtimes: none depends on another one being driven, or on any task
//! ([clause S1](kv_core::contract::CLAUSES#S1)).

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use kv_core::{EventType, Kv, Result};
use kv_memory::MemoryBackend;
use tokio::runtime::{Builder, Runtime};

/// Short, because the tests wait for it to lapse.
const TTL: Duration = Duration::from_millis(50);

/// Upper bound; reached only when the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

fn private() -> Kv {
    Kv::new(Arc::new(MemoryBackend::new()))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// Runs a future in a runtime, for a limited time.
fn within<T>(runtime: &Runtime, future: impl Future<Output = T>) -> T {
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("in time") })
}

#[test]
fn leases_lapse_after_the_runtime_that_took_them_is_gone() -> Result<()> {
    let kv = private();
    let gone = runtime();
    let lock = within(&gone, kv.lock("lock", TTL))?;
    drop(gone);
    let next = within(&runtime(), kv.lock("lock", PATIENCE))?;
    assert!(next.token() > lock.token());
    Ok(())
}

#[test]
fn leases_lapse_although_the_runtime_that_took_them_is_idle() -> Result<()> {
    let kv = private();
    let (idle, other) = (runtime(), runtime());
    let lock = within(&idle, kv.lock("lock", TTL))?;
    let member = within(&idle, kv.ephemeral_key("member", TTL))?;
    let mut watch = within(&other, kv.watch("member", 0))?;
    let gone = within(&other, watch.next()).expect("the watch goes on")?;
    assert_eq!((gone.event_type, &*gone.key), (EventType::Delete, "member"));
    let next = within(&other, kv.lock("lock", PATIENCE))?;
    assert!(next.token() > lock.token());
    assert!(within(&other, member.renew()).is_err_and(|error| error.is_lost()));
    Ok(())
}

#[test]
fn a_lapsed_key_is_gone_for_the_next_reader() -> Result<()> {
    let kv = private();
    let idle = runtime();
    let _member = within(&idle, kv.ephemeral_key("dir/member", TTL))?;
    std::thread::sleep(2 * TTL);
    let other = runtime();
    assert!(within(&other, kv.get("dir/member")).is_err_and(|error| error.is_key_not_found()));
    assert!(within(&other, kv.keys("dir"))?.is_empty());
    assert!(within(&other, kv.get_all(""))?.values.is_empty());
    within(&other, kv.update("dir/member", kv_core::Value::new("mine", 0)))?;
    Ok(())
}

#[test]
fn a_watch_that_waits_learns_of_a_lease_taken_later_in_another_runtime() -> Result<()> {
    let kv = private();
    let mut watch = within(&runtime(), kv.watch("member", 0))?;
    let waiting = std::thread::spawn(move || {
        within(&runtime(), async {
            let types = [watch.next().await, watch.next().await];
            types.map(|event| event.expect("the watch goes on").expect("no failure").event_type)
        })
    });
    let idle = runtime();
    // It waits for the longer one when the shorter one is taken.
    let _longer = within(&idle, kv.ephemeral_key("other", PATIENCE))?;
    let _member = within(&idle, kv.ephemeral_key("member", TTL))?;
    assert_eq!(waiting.join().expect("no panic"), [EventType::Create, EventType::Delete]);
    Ok(())
}

#[test]
fn a_lock_passes_from_one_runtime_to_another() -> Result<()> {
    let kv = private();
    let first = runtime();
    let held = within(&first, kv.lock("lock", PATIENCE))?;
    let waiting = {
        let kv = kv.clone();
        let (queued, is_queued) = std::sync::mpsc::channel();
        let waiting = std::thread::spawn(move || {
            within(&runtime(), async {
                let mut wait = std::pin::pin!(kv.lock("lock", PATIENCE));
                assert!(futures_util::poll!(&mut wait).is_pending());
                queued.send(()).expect("the test waits");
                wait.await.map(|lock| lock.token())
            })
        });
        is_queued.recv().expect("it queues");
        waiting
    };
    let token = held.token();
    within(&first, held.unlock())?;
    assert!(waiting.join().expect("no panic")? > token);
    Ok(())
}

#[test]
fn a_waiter_whose_runtime_is_idle_delays_the_next_for_its_time_to_live_only() -> Result<()> {
    let kv = private();
    let (idle, other) = (runtime(), runtime());
    let held = within(&other, kv.lock("lock", PATIENCE))?;
    let mut waiter = Box::pin(kv.lock("lock", TTL));
    within(&idle, async { assert!(futures_util::poll!(&mut waiter).is_pending()) });
    let token = held.token();
    within(&other, held.unlock())?;
    let next = within(&other, kv.lock("lock", PATIENCE))?;
    assert_eq!(next.token(), token + 2, "the idle waiter had its turn");
    drop(waiter);
    within(&other, next.renew())
}

#[test]
fn calls_that_need_not_wait_need_no_time_driver_and_no_runtime() -> Result<()> {
    let kv = private();
    let timeless = Builder::new_current_thread().build().expect("a runtime");
    let member = timeless.block_on(kv.ephemeral_key("member", PATIENCE))?;
    let lock = timeless.block_on(kv.lock("lock", PATIENCE))?;
    assert!(timeless.block_on(kv.try_lock("lock", PATIENCE))?.is_none());
    timeless.block_on(lock.unlock())?;

    let now = "the store answers at once";
    kv.set("a", "1").now_or_never().expect(now)?;
    assert_eq!(kv.get("a").now_or_never().expect(now)?.data, "1");
    assert_eq!(kv.get_all("").now_or_never().expect(now)?.values.len(), 2);
    let lock = kv.try_lock("lock", PATIENCE).now_or_never().expect(now)?.expect("it is free");
    lock.renew().now_or_never().expect(now)?;
    let other = kv.ephemeral_key("other", PATIENCE).now_or_never().expect(now)?;
    other.destroy().now_or_never().expect(now)?;
    drop((lock, member));
    assert!(kv.try_lock("lock", PATIENCE).now_or_never().expect(now)?.is_some(), "dropped without a runtime");
    assert!(kv.get("member").now_or_never().expect(now).is_err_and(|error| error.is_key_not_found()));
    Ok(())
}
