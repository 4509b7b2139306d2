//! Closing a handle ([clause L12](kv_core::contract::CLAUSES#L12)).

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kv_core::{Error, Kv, Result};
use kv_memory::MemoryBackend;
use tokio::time::{Instant, sleep};

use super::TTL;
use super::scripted::{down, lost, made, scripted, settle};

fn left(result: Result<()>) -> Vec<String> {
    match result {
        Err(Error::LeftToLapse { keys, .. }) => keys,
        other => panic!("not everything can be given back: {other:?}"),
    }
}

fn is_closed<T>(result: Result<T>) -> bool {
    result.is_err_and(|error| matches!(error, Error::Closed { key } if key == "key"))
}

#[tokio::test(start_paused = true)]
async fn leases_of_clones_and_scoped_handles_are_given_back() -> Result<()> {
    let (kv, calls) = scripted([(1, Ok(())), (1, lost())]);
    let held = (kv.clone().lock("key", TTL).await?, kv.scoped("below")?.ephemeral_key("key", TTL).await?);
    kv.scoped("elsewhere")?.close().await?;
    assert_eq!(made(&calls), ["release", "release"]);
    assert!(held.0.renew().await.is_err_and(|error| error.is_lost()));
    assert!(held.1.set("").await.is_err_and(|error| error.is_lost()));
    assert!(held.0.unlock().await.is_err_and(|error| error.is_lost()));
    drop(held.1);
    settle().await;
    assert_eq!(made(&calls).len(), 2, "nothing is sent for a lease that was given back");
    assert!(is_closed(kv.lock("key", TTL).await));
    assert!(is_closed(kv.try_lock("key", TTL).await));
    assert!(is_closed(kv.ephemeral_key("key", TTL).await));
    kv.set("key", "reads and writes go on").await?;
    kv.close().await
}

#[tokio::test(start_paused = true)]
async fn closing_ends_with_the_request_timeout_and_names_what_is_left() -> Result<()> {
    let (kv, calls) = scripted([(60, Ok(())), (60, Ok(()))]);
    let lock = kv.lock("slow", TTL).await?;
    let key = kv.scoped("below")?.ephemeral_key("slow", TTL).await?;
    let began = Instant::now();
    let closed = kv.clone().with_timeout(Duration::from_secs(3)).close().await;
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    assert!(closed.as_ref().is_err_and(|error| error.to_string().contains("below/slow, slow")), "{closed:?}");
    assert_eq!(left(closed), ["below/slow", "slow"]);
    kv.close().await?;
    assert_eq!(made(&calls).len(), 4, "closing again tries again");
    drop((lock, key));
    settle().await;
    assert_eq!(made(&calls).len(), 4);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_release_that_is_refused_is_reported_with_its_reason() -> Result<()> {
    let (kv, calls) = scripted([(0, down())]);
    let lock = kv.lock("key", TTL).await?;
    let closed = kv.close().await;
    assert!(closed.as_ref().is_err_and(|error| error.to_string().contains("down")), "{closed:?}");
    assert_eq!(left(closed), ["key"]);
    // Nothing is sent any more. The lock stays in the store until its time to live has passed.
    drop(lock);
    settle().await;
    assert_eq!(made(&calls), ["release"]);
    assert_eq!(left(kv.close().await), ["key"]);
    sleep(TTL).await;
    kv.close().await
}

#[tokio::test(start_paused = true)]
async fn the_releases_of_dropped_handles_are_awaited() -> Result<()> {
    let (kv, calls) = scripted([(2, Ok(())), (0, down())]);
    let began = Instant::now();
    drop(kv.lock("key", TTL).await?);
    kv.close().await?;
    assert_eq!((made(&calls), began.elapsed()), (vec!["release"], Duration::from_secs(2)));
    // One that failed before is not forgotten while its lease may stand.
    let (kv, _) = scripted([(0, down())]);
    drop(kv.lock("key", TTL).await?);
    settle().await;
    assert_eq!(left(kv.close().await), ["key"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn waits_and_held_work_end() -> Result<()> {
    let (kv, _) = scripted([]);
    let lock = kv.lock("key", TTL).await?;
    let alive = Arc::new(());
    let witness = alive.clone();
    let holding = tokio::spawn(async move {
        let work = async move {
            std::future::pending::<()>().await;
            drop(witness);
        };
        lock.hold(work).await
    });
    let memory = Arc::new(MemoryBackend::new());
    let (mine, other) = (Kv::new(memory.clone()), Kv::new(memory));
    let held = other.lock("key", TTL).await?;
    let waiting = tokio::spawn({
        let mine = mine.clone();
        async move { mine.lock("key", TTL).await.map(drop) }
    });
    settle().await;
    kv.close().await?;
    mine.close().await?;
    assert!(holding.await.expect("no panic").is_err_and(|error| error.is_lost()));
    assert_eq!(Arc::strong_count(&alive), 1, "the work is gone");
    assert!(is_closed(waiting.await.expect("no panic")));
    held.unlock().await?;
    assert!(other.try_lock("key", TTL).await?.is_some(), "nobody waits");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_a_call_that_is_not_polled_no_longer_than_the_timeout() -> Result<()> {
    let memory = Arc::new(MemoryBackend::new());
    let (mine, other) = (Kv::new(memory.clone()), Kv::new(memory));
    let held = other.lock("key", TTL).await?;
    let mut waiting = Box::pin(mine.lock("key", TTL));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    assert_eq!(left(mine.close().await), ["key"]);
    drop(waiting);
    mine.close().await?;
    held.unlock().await
}

/// What is logged at warn level while `act` runs.
fn warnings(act: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl Write for Log {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").write(text)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, act);
    let text = log.0.lock().expect("not poisoned").clone();
    String::from_utf8(text).expect("text")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

#[test]
fn the_end_of_a_runtime_is_quiet() {
    let said = warnings(|| {
        let (kv, _) = scripted([(60, Ok(())), (60, Ok(()))]);
        let runtime = runtime();
        // One lock is released while the runtime ends, in a task that it drops; the other outside of it.
        let (half_way, outside) = runtime.block_on(async {
            let held = kv.lock("in a task", TTL).await.expect("a lock");
            tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(held);
            });
            let half_way = kv.lock("half-way", TTL).await.expect("a lock");
            (half_way, kv.lock("outside", TTL).await.expect("a lock"))
        });
        runtime.block_on(async {
            drop(half_way);
            settle().await;
        });
        drop(runtime);
        drop(outside);
    });
    assert_eq!(said, "");
}

#[test]
fn a_failed_release_is_reported_once() {
    let said = warnings(|| {
        let (kv, _) = scripted([(0, down())]);
        runtime().block_on(async {
            drop(kv.lock("key", TTL).await.expect("a lock"));
            sleep(Duration::from_secs(1)).await;
        });
    });
    assert_eq!(said.matches("lease left to lapse").count(), 1, "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn closing_is_quiet() {
    let said = warnings(|| {
        let (kv, _) = scripted([(0, down()), (0, lost())]);
        runtime().block_on(async {
            let held = (kv.lock("a", TTL).await.expect("a lock"), kv.lock("b", TTL).await.expect("a lock"));
            assert_eq!(left(kv.close().await).len(), 1);
            assert!(held.0.renew().await.is_err() && held.1.renew().await.is_err());
        });
    });
    assert_eq!(said, "");
}
