//! What the handles of locks and ephemeral keys add to any backend: the local deadline, renewal while holding, release
//! in the background (clauses [L2](kv_core::contract::CLAUSES#L2), [L6](kv_core::contract::CLAUSES#L6),
//! [L7](kv_core::contract::CLAUSES#L7) and [L8](kv_core::contract::CLAUSES#L8)), and what `close` gives back
//! ([clause L12](kv_core::contract::CLAUSES#L12)). The clock is tokio's, paused.

mod close;
mod scripted;

use std::sync::Arc;
use std::time::Duration;

use kv_core::{Error, Result};
use tokio::time::{Instant, sleep, sleep_until};

use scripted::{down, lost, made, scripted, settle};

const TTL: Duration = Duration::from_secs(30);
const ALMOST_TTL: Duration = Duration::from_millis(29_999);

#[tokio::test(start_paused = true)]
async fn a_lapsed_handle_sends_nothing() -> Result<()> {
    let (kv, calls) = scripted([]);
    let key = kv.ephemeral_key("key", TTL).await?;
    sleep(ALMOST_TTL).await;
    key.renew().await?;
    sleep(ALMOST_TTL).await;
    key.set("").await?;
    sleep(TTL).await;
    assert_eq!(made(&calls), ["renew", "set"]);
    for result in [key.renew().await, key.set("").await.map(drop), key.hold(async {}).await] {
        assert!(matches!(&result, Err(Error::Lost { key }) if key == "key"), "{result:?}");
    }
    assert_eq!(made(&calls), ["renew", "set"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_time_to_live_counts_from_when_the_renewal_began() -> Result<()> {
    let (kv, _) = scripted([(4, Ok(()))]);
    let lock = kv.lock("key", TTL).await?;
    sleep(Duration::from_secs(10)).await;
    let began = Instant::now();
    lock.renew().await?;
    assert_eq!(began.elapsed(), Duration::from_secs(4));
    sleep_until(began + TTL).await;
    assert!(lock.renew().await.is_err_and(|error| error.is_lost()));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn hold_outlasts_failures_of_renewal_within_the_time_to_live() -> Result<()> {
    let (kv, calls) = scripted([(1, down()), (60, Ok(())), (0, down()), (0, Ok(()))]);
    let lock = kv.lock("key", TTL).await?;
    let began = Instant::now();
    lock.hold(sleep(TTL)).await?;
    assert_eq!(began.elapsed(), TTL);
    assert!(made(&calls).len() >= 4 && made(&calls).iter().all(|call| *call == "renew"), "{:?}", made(&calls));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn hold_drops_the_future_once_the_lease_is_lost() -> Result<()> {
    // Either the store reports the loss at the first renewal, or no renewal succeeds.
    let told = scripted([(0, lost())]);
    let untold = scripted((0..1000).map(|_| (1, down())));
    for ((kv, _), seconds) in [(told, 10), (untold, 30)] {
        let lock = kv.lock("key", TTL).await?;
        let began = Instant::now();
        let alive = Arc::new(());
        let witness = alive.clone();
        let result = lock.hold(async move {
            std::future::pending::<()>().await;
            drop(witness);
        });
        assert!(result.await.is_err_and(|error| error.is_lost()));
        assert_eq!(began.elapsed(), Duration::from_secs(seconds));
        assert_eq!(Arc::strong_count(&alive), 1, "the future is gone");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn nothing_renews_after_hold() -> Result<()> {
    let (kv, calls) = scripted([]);
    let lock = kv.lock("key", TTL).await?;
    assert_eq!(lock.hold(async { 5 }).await?, 5);
    assert!(tokio::time::timeout(Duration::from_secs(11), lock.hold(std::future::pending::<()>())).await.is_err());
    assert_eq!(made(&calls), ["renew"]);
    sleep(TTL * 3).await;
    assert_eq!(made(&calls), ["renew"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_dropped_handle_is_released_in_the_background() -> Result<()> {
    let (kv, calls) = scripted([]);
    drop(kv.lock("key", TTL).await?);
    drop(kv.ephemeral_key("key", TTL).await?);
    settle().await;
    assert_eq!(made(&calls), ["release", "release"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_dropped_handle_has_time_to_be_released_even_if_calls_have_little() -> Result<()> {
    let (kv, _) = scripted([(1, Ok(()))]);
    drop(kv.clone().with_timeout(Duration::from_millis(1)).lock("key", TTL).await?);
    sleep(Duration::from_secs(2)).await;
    // It reports what is left to the time to live.
    kv.close().await
}

#[tokio::test(start_paused = true)]
async fn a_release_that_fails_or_is_dropped_is_repeated_once() -> Result<()> {
    let (kv, calls) = scripted([(0, down()), (0, Ok(())), (60, Ok(())), (0, Ok(())), (0, lost())]);
    assert!(kv.lock("key", TTL).await?.unlock().await.is_err_and(|error| error.is_retryable()));
    settle().await;
    assert_eq!(made(&calls), ["release"; 2]);
    let lock = kv.lock("key", TTL).await?;
    assert!(tokio::time::timeout(Duration::from_secs(1), lock.unlock()).await.is_err());
    settle().await;
    assert_eq!(made(&calls), ["release"; 4]);
    // A lease that the store calls lost is not released again.
    assert!(kv.lock("key", TTL).await?.unlock().await.is_err_and(|error| error.is_lost()));
    settle().await;
    assert_eq!(made(&calls), ["release"; 5]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_error_of_a_late_call_depends_on_whether_it_may_be_repeated() -> Result<()> {
    let (kv, _) = scripted([(60, Ok(())), (60, Ok(())), (60, Ok(()))]);
    let key = kv.clone().with_timeout(Duration::from_secs(3)).ephemeral_key("key", TTL).await?;
    let renewed = key.renew().await.expect_err("late");
    assert!(renewed.is_retryable(), "renewing twice is harmless: {renewed}");
    assert!(renewed.to_string().contains("scripted renew \"key\": no answer within 3s"), "{renewed}");
    assert!(matches!(key.set("").await, Err(Error::Indeterminate { .. })));
    assert!(matches!(key.destroy().await, Err(Error::Indeterminate { .. })));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn times_to_live_are_rounded_up_and_bounded_before_anything_is_sent() -> Result<()> {
    let (kv, _) = scripted([]);
    for (asked, granted) in [(2, 10), (10, 10), (11, 20)] {
        let key = kv.ephemeral_key("key", Duration::from_secs(asked)).await?;
        assert_eq!(key.ttl(), Duration::from_secs(granted));
    }
    for ttl in [Duration::ZERO, Duration::from_secs(1), Duration::MAX] {
        let refused = kv.lock("key", ttl).await.map(drop);
        assert!(matches!(refused, Err(Error::InvalidTtl { ttl: told, .. }) if told == ttl), "{refused:?}");
    }
    Ok(())
}
