//! Several agents, some of which do not serve: which calls move on to another agent, and when a call is repeated.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kv_core::Error;
use support::fake::{Then, WRITTEN, answer, closed, connect, fake, good, nothing};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const TTL: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_next_agent_is_asked() {
    // Nothing was sent to the first agent, and the second one applies nothing without a leader. So a write is repeated,
    // too.
    let leaderless = fake(|_| answer("500 Internal Server Error", "", "No cluster leader")).await;
    for bad in [closed().await, leaderless] {
        let kv = connect(&format!("consul://{bad},{}", good().await)).await;
        assert_eq!(kv.set("key", "1").await.expect("a write at the second agent"), 9);
    }
    // A read is repeated at another agent if one does not answer.
    let silent = fake(|_| Then::Hang).await;
    let kv = connect(&format!("consul://{silent},{}?timeout=2s", good().await)).await;
    assert!(kv.get("key").await.is_err_and(|error| error.is_key_not_found()));
}

#[tokio::test]
async fn a_write_that_was_sent_is_not_repeated() {
    let cuts = fake(|line| if line.contains("/v1/txn") { Then::Cut } else { nothing() }).await;
    let address = format!("consul://{cuts},{}", good().await);
    // Agents are asked in random order, so the test connects until the broken one comes first.
    let kv = loop {
        let kv = connect(&address).await;
        match kv.set("key", "1").await {
            Ok(_) => {}
            Err(Error::Indeterminate { .. }) => break kv,
            Err(error) => panic!("{error:?}"),
        }
    };
    assert_eq!(kv.set("key", "1").await.expect("the next write begins with the next agent"), 9);
}

/// A port forwarder before a dead agent behaves like this.
#[tokio::test]
async fn an_agent_that_accepts_and_cuts_is_asked_last() {
    let cuts = fake(|line| if line.contains("/v1/txn") { Then::Cut } else { nothing() }).await;
    let kv = connect(&format!("consul://{cuts},{},{}", good().await, good().await)).await;
    let mut writing = tokio::task::JoinSet::new();
    for task in 0..8 {
        let kv = kv.clone();
        writing.spawn(async move {
            let mut lost = 0;
            for number in 0..100 {
                match kv.set(&format!("{task}/{number}"), "1").await {
                    Ok(_) => {}
                    Err(Error::Indeterminate { .. }) => lost += 1,
                    Err(error) => panic!("{error:?}"),
                }
            }
            lost
        });
    }
    let lost: usize = writing.join_all().await.into_iter().sum();
    // Only the writes that were in flight when the agent was first asked.
    assert!(lost <= 8, "{lost} writes of unknown outcome");
}

/// Some proxies do this without announcing it. A write on a connection that is just being closed is indeterminate.
#[tokio::test]
async fn an_agent_that_closes_after_each_answer_loses_few_writes() {
    const WRITES: usize = 200;
    let closes = fake(|line| {
        let usual = if line.contains("/v1/txn") { answer("200 OK", "", WRITTEN) } else { nothing() };
        let Then::Answer(text) = usual else { unreachable!("it answers") };
        Then::AnswerAndCut(text)
    });
    let kv = connect(&format!("consul://{}", closes.await)).await;
    let mut lost = 0;
    for number in 0..WRITES {
        match kv.set("key", number.to_string()).await {
            Ok(_) => {}
            Err(Error::Indeterminate { .. }) => lost += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(lost <= 2, "{lost} of {WRITES} writes are indeterminate");
}

#[tokio::test]
async fn a_call_that_was_not_applied_is_repeated_until_it_is() {
    for text in [
        "No cluster leader",
        "rpc error getting client: failed to get conn: dial tcp 10.0.0.1:8300: connect: connection refused",
        "rpc error getting client: failed to get conn: rpc error: lead thread didn't get connection",
        "rpc error getting client: stream closed",
        "raft apply failed: leadership transfer in progress",
        "rpc error making call: rate limit exceeded, try again later or against a different server",
        "Missing node registration",
    ] {
        let failures = Arc::new(AtomicUsize::new(0));
        let counted = failures.clone();
        let server = fake(move |line| match line {
            line if line.contains(".kv-ping") || line.contains("agent/self") => nothing(),
            // Each kind of request fails as often as during an election.
            _ if counted.fetch_add(1, Ordering::SeqCst) % 8 != 7 => answer("500 Internal Server Error", "", text),
            line if line.contains("/v1/txn") => answer("200 OK", "", r#"{"Results":[{"KV":{"ModifyIndex":9}}]}"#),
            line if line.contains("/session/create") => answer("200 OK", "", r#"{"ID":"00000000-0001"}"#),
            _ => nothing(),
        });
        let kv = connect(&format!("consul://{}?timeout=30s", server.await)).await;
        assert_eq!(kv.set("key", "1").await.expect(text), 9);
        assert!(kv.get("key").await.is_err_and(|error| error.is_key_not_found()), "{text}");
        let _member = kv.ephemeral_key("member", TTL).await.expect(text);
        assert!(failures.load(Ordering::SeqCst) >= 32, "{text}");
    }
}

/// A read that hangs at one agent while the others cannot serve yet.
#[tokio::test]
async fn a_read_that_hangs_at_one_agent_is_answered_by_another() {
    let silent = fake(|line| if line.contains("agent/self") { nothing() } else { Then::Hang }).await;
    // It serves only after the silent agent was asked as the last one of a round.
    let asked = Arc::new(AtomicUsize::new(0));
    let late = fake(move |line| match line {
        line if line.contains("agent/self") => nothing(),
        _ if asked.fetch_add(1, Ordering::SeqCst) < 2 => answer("500 Internal Server Error", "", "No cluster leader"),
        _ => nothing(),
    });
    let kv = connect(&format!("consul://{silent},{}?timeout=60s", late.await)).await;
    let began = Instant::now();
    assert!(kv.get("key").await.is_err_and(|error| error.is_key_not_found()));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

/// A slow agent is not abandoned, because the others may take as long.
#[tokio::test]
async fn a_slow_answer_is_awaited() {
    let slow = || async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = vec![0; 64 << 10];
                    while stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                        tokio::time::sleep(Duration::from_secs(3)).await;
                        let Then::Answer(text) = nothing() else { return };
                        let _ = stream.write_all(text.as_bytes()).await;
                    }
                });
            }
        });
        address
    };
    let kv = connect(&format!("consul://{},{}?timeout=30s", slow().await, slow().await)).await;
    let error = kv.with_timeout(Duration::from_secs(10)).get("key").await.expect_err("nothing is there");
    assert!(error.is_key_not_found(), "{error:?}");
}

/// An agent that accepts connections and requests, and answers nothing.
#[tokio::test]
async fn callers_that_give_up_find_another_agent() {
    let (silent, good) = (fake(|_| Then::Hang).await, good().await);
    let kv = connect(&format!("consul://{silent},{good}?timeout=30s")).await;
    for what in ["get", "set"] {
        let mut row = 0;
        let serving = async {
            while row < 10 {
                let call = async {
                    match what {
                        "get" => kv.get("key").await.is_err_and(|error| error.is_key_not_found()),
                        _ => kv.set("key", "1").await.is_ok(),
                    }
                };
                let served = tokio::time::timeout(Duration::from_millis(60), call).await;
                row = if served == Ok(true) { row + 1 } else { 0 };
            }
        };
        support::soon(what, serving).await;
    }
}

/// A port forwarder before a dead agent behaves like this, while the other agents have no leader.
#[tokio::test]
async fn a_write_does_not_meet_a_broken_agent_while_others_cannot_serve() {
    let cuts = fake(|line| if line.contains("agent/self") { nothing() } else { Then::Cut }).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let electing = |asked: Arc<AtomicUsize>| {
        fake(move |line| match line {
            line if line.contains("/v1/txn") && asked.fetch_add(1, Ordering::SeqCst) % 40 < 30 => {
                answer("500 Internal Server Error", "", "No cluster leader")
            }
            line if line.contains("/v1/txn") => answer("200 OK", "", r#"{"Results":[{"KV":{"ModifyIndex":9}}]}"#),
            _ => nothing(),
        })
    };
    let (one, other) = (electing(asked.clone()).await, electing(asked.clone()).await);
    let kv = connect(&format!("consul://{cuts},{one},{other}?timeout=60s")).await;
    let mut unknown = 0;
    for number in 0..20 {
        match kv.set(&format!("key/{number}"), "1").await {
            Ok(_) => {}
            Err(Error::Indeterminate { .. }) => unknown += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(unknown <= 1, "{unknown} writes were sent to an agent that was known to be broken");
}
