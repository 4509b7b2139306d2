//! The TCP proxy alone, in front of an echo server.

use std::io::ErrorKind;
use std::time::Duration;

use kv_conformance::chaos::proxy::{Counts, Cut, Proxy, RandomFaults};
use kv_conformance::testing::soon;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Starts an echo server and a proxy to it.
async fn echo() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    Proxy::start(address.to_string()).await.expect("a proxy")
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.endpoint()).await.expect("a connection")
}

/// Sends one byte and reads its echo, if there is one.
async fn say(stream: &mut TcpStream) -> std::io::Result<usize> {
    stream.write_all(b"a").await?;
    stream.read(&mut [0]).await
}

#[tokio::test]
async fn everything_passes_unharmed_at_first() {
    let proxy = echo().await;
    let sent: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let (mut from, mut to) = connect(&proxy).await.into_split();
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        to.write_all(&sent).await.expect("it takes everything");
        to.shutdown().await.expect("the end is sent");
    });
    let mut heard = Vec::new();
    soon("all of the echo, and its end", from.read_to_end(&mut heard)).await.expect("the whole echo");
    writing.await.expect("written");
    assert!(heard == expected, "{} bytes of {}", heard.len(), expected.len());
    let counts = soon("it is closed", proxy.wait_for(|counts| counts.open == 0)).await;
    assert_eq!(counts, Counts { connections: 1, most_open: 1, ..Counts::default() });
}

#[tokio::test]
async fn a_cut_ends_what_is_open_and_nothing_else() {
    let proxy = echo().await;
    for (cut, round) in [(Cut::Reset, 1), (Cut::Close, 2)] {
        let (mut one, mut other) = (connect(&proxy).await, connect(&proxy).await);
        for stream in [&mut one, &mut other] {
            assert_eq!(soon("an echo", say(stream)).await.expect("an echo"), 1);
        }
        proxy.cut(cut);
        for stream in [&mut one, &mut other] {
            let end = soon("the end", stream.read(&mut [0])).await;
            match cut {
                Cut::Reset => assert_eq!(end.expect_err("a reset").kind(), ErrorKind::ConnectionReset),
                Cut::Close => assert_eq!(end.expect("a close"), 0),
            }
        }
        let counts = soon("it is counted", proxy.wait_for(|counts| counts.cuts() == 2 * round)).await;
        assert_eq!((counts.connections, counts.open), (2 * round, 0));
    }
    assert_eq!((proxy.counts().resets, proxy.counts().closes), (2, 2));
    assert_eq!(soon("an echo", say(&mut connect(&proxy).await)).await.expect("a new connection"), 1);
}

#[tokio::test]
async fn a_stall_keeps_connections_and_passes_nothing_on() {
    let proxy = echo().await;
    let mut before = connect(&proxy).await;
    assert_eq!(soon("an echo", say(&mut before)).await.expect("an echo"), 1);
    proxy.stall();
    let mut during = connect(&proxy).await;
    let both = async { tokio::select!(heard = say(&mut before) => heard, heard = say(&mut during) => heard) };
    // There is nothing to await, because the test is that nothing happens.
    timeout(Duration::from_millis(300), both).await.expect_err("a byte was forwarded");
    proxy.heal();
    for stream in [&mut before, &mut during] {
        assert_eq!(soon("the echo", stream.read(&mut [0])).await.expect("it goes on"), 1);
    }
    assert_eq!(proxy.counts().cuts(), 0);
}

#[tokio::test]
async fn refusing_closes_connections_that_send_something() {
    let proxy = echo().await;
    let mut before = connect(&proxy).await;
    assert_eq!(soon("an echo", say(&mut before)).await.expect("an echo"), 1);
    proxy.refuse();
    let mut during = connect(&proxy).await;
    for stream in [&mut before, &mut during] {
        assert_eq!(soon("the end", say(stream)).await.expect("a close"), 0);
    }
    proxy.heal();
    assert_eq!(soon("an echo", say(&mut connect(&proxy).await)).await.expect("it forwards"), 1);
    let counts = proxy.counts();
    assert_eq!((counts.closes, counts.most_open), (2, 2));
}

/// How many echoes each connection received before it was ended.
async fn lives(proxy: &Proxy, connections: usize) -> Vec<usize> {
    let mut lives = Vec::new();
    for _ in 0..connections {
        let mut stream = connect(proxy).await;
        let mut echoes = 0;
        while let Ok(1..) = soon("an echo or the end", say(&mut stream)).await {
            echoes += 1;
        }
        lives.push(echoes);
    }
    lives
}

#[tokio::test(flavor = "multi_thread")]
async fn random_faults_are_of_every_kind_and_repeated_by_their_seed() {
    // Bytes alone end a connection here. None lives long enough to end by its age.
    let age = Duration::from_secs(100_000);
    let faults = RandomFaults { bytes: 60, age, pause: Duration::from_millis(2), ..RandomFaults::seeded(5) };
    let (one, same, other) = (echo().await, echo().await, echo().await);
    one.hurt_at_random(faults);
    same.hurt_at_random(faults);
    other.hurt_at_random(RandomFaults { seed: 6, ..faults });
    let first = lives(&one, 60).await;
    assert_eq!(first, lives(&same, 60).await);
    assert_ne!(first, lives(&other, 60).await);

    let counts = soon("all are ended", one.wait_for(|counts| counts.cuts() == 60)).await;
    let Counts { connections, open, resets, closes, truncations, stalls, delays, .. } = counts;
    assert_eq!((connections, open, resets + closes + truncations), (60, 0, 60));
    assert!([resets, closes, truncations, stalls, delays].iter().all(|count| *count > 0), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_connection_has_passed_on_a_part() {
    let proxy = echo().await;
    let age = Duration::from_secs(100_000);
    proxy.hurt_at_random(RandomFaults { bytes: 5000, age, pause: Duration::ZERO, ..RandomFaults::seeded(9) });
    let sent: Vec<u8> = (0..250_u32).flat_map(u32::to_le_bytes).collect();
    let mut parts = 0;
    while proxy.counts().truncations < 20 {
        let mut stream = connect(&proxy).await;
        let heard = loop {
            let mut heard = Vec::new();
            // The connection is closed or reset. The echoes before that are still in the buffer.
            if stream.write_all(&sent).await.is_ok() {
                let mut answer = (&mut stream).take(sent.len() as u64);
                let _ = soon("an echo or the end", answer.read_to_end(&mut heard)).await;
            }
            if heard.len() < sent.len() {
                break heard;
            }
            assert!(heard == sent, "an echo of something else");
        };
        assert!(sent.starts_with(&heard), "{} bytes of something else", heard.len());
        parts += usize::from(!heard.is_empty());
    }
    assert!(parts > 0, "no piece was forwarded in part");
}

#[tokio::test]
async fn connections_that_carry_nothing_grow_too_old() {
    let proxy = echo().await;
    let mut quiet = connect(&proxy).await;
    assert_eq!(soon("an echo", say(&mut quiet)).await.expect("an echo"), 1);
    proxy.hurt_at_random(RandomFaults { age: Duration::from_millis(50), ..RandomFaults::seeded(1) });
    assert!(matches!(soon("the end", quiet.read(&mut [0])).await, Ok(0) | Err(_)));
    assert_eq!(soon("it is counted", proxy.wait_for(|counts| counts.cuts() == 1)).await.truncations, 0);
}

#[tokio::test]
async fn no_server_behind_it_is_a_reset() {
    let proxy = Proxy::start("127.0.0.1:1").await.expect("a proxy");
    let mut stream = connect(&proxy).await;
    let error = soon("the end", stream.read(&mut [0])).await.expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn dropping_it_ends_its_connections() {
    let proxy = echo().await;
    let endpoint = proxy.endpoint().to_owned();
    let mut stream = connect(&proxy).await;
    assert_eq!(soon("an echo", say(&mut stream)).await.expect("an echo"), 1);
    drop(proxy);
    assert!(matches!(soon("the end", stream.read(&mut [0])).await, Ok(0) | Err(_)));
    let error = TcpStream::connect(&endpoint).await.expect_err("no listener is left");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}
