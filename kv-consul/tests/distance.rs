//! An agent 100 ms away, with thousands of callers. Needs Docker.

mod support;

use std::time::Duration;

use kv_conformance::chaos::distance::Distance;
use kv_conformance_servers::Options;
use kv_core::{Error, Kv};
use support::{Proxy, connect, soon, start};
use tokio::task::JoinSet;
use tokio::time::timeout;

const CALLERS: usize = 4000;
const CALLS: usize = 5;
const ROUND_TRIP: Duration = Duration::from_millis(100);

/// The most connections of a handle, unless its address says otherwise.
const CONNECTIONS: usize = 32;

/// Makes the calls of all callers, each one after the other, and returns how many failed, with an example.
async fn crowd<F>(kv: &Kv, call: impl Fn(Kv, String) -> F + Clone + Send + 'static) -> (usize, Option<Error>)
where
    F: Future<Output = kv_core::Result<()>> + Send + 'static,
{
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (kv, call) = (kv.clone(), call.clone());
        callers.spawn(async move {
            let mut failures = Vec::new();
            for _ in 0..CALLS {
                failures.extend(call(kv.clone(), format!("k/{caller}")).await.err());
            }
            failures
        });
    }
    let failures: Vec<Error> = soon("every answer", callers.join_all()).await.into_iter().flatten().collect();
    (failures.len(), failures.into_iter().next())
}

#[tokio::test(flavor = "multi_thread")]
async fn none_of_thousands_of_callers_times_out_and_few_connections_serve_them() {
    let cluster = start(Options::default().in_memory()).await;
    let relay = Distance::to(&cluster.endpoints()[0], ROUND_TRIP).await.expect("a relay");
    let counting = Proxy::start(relay.endpoint()).await;
    let kv = connect(&format!("consul://{}", counting.endpoint)).await;
    let written = crowd(&kv, |kv, key| async move { kv.set(&key, "value").await.map(drop) }).await;
    assert!(written.0 == 0, "{written:?}");
    let read = crowd(&kv, |kv, key| async move { kv.get(&key).await.map(drop) }).await;
    assert!(read.0 == 0, "{read:?}");
    // Nor do those who ask for what is not there.
    let absent = crowd(&kv, |kv, key| async move {
        match kv.get(&format!("absent/{key}")).await {
            Err(Error::NotFound { .. }) => Ok(()),
            result => result.map(drop),
        }
    });
    let absent = absent.await;
    assert!(absent.0 == 0, "{absent:?}");
    let (requests, connections) = (counting.requests(), counting.most_connections());
    println!("{requests} requests on {connections} connections for {} calls", 3 * CALLERS * CALLS);
    assert!(requests < 3 * CALLERS * CALLS / 16, "{requests} requests");
    assert!(connections <= CONNECTIONS, "{connections} connections");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_that_give_up_cost_the_others_nothing() {
    let cluster = start(Options::default().in_memory()).await;
    let relay = Distance::to(&cluster.endpoints()[0], ROUND_TRIP).await.expect("a relay");
    let kv = connect(&format!("consul://{}", relay.endpoint())).await;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS as u64 {
        let kv = kv.clone();
        callers.spawn(async move {
            // Some are dropped in the queue, some on their way, and some when the answer comes.
            let dropped = format!("dropped/{caller}");
            let _ = timeout(Duration::from_millis(caller % 120), kv.set(&dropped, "")).await;
            let _ = timeout(Duration::from_millis(caller % 120), kv.get(&dropped)).await;
            kv.set(&format!("k/{caller}"), "value").await.map(drop)
        });
    }
    let results = soon("every answer", callers.join_all()).await;
    assert!(results.iter().all(Result::is_ok), "{:?}", results.iter().find(|result| result.is_err()));
    cluster.stop().await;
}
