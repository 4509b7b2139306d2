//! Hostile servers: whatever they answer, each call ends in time with a suitable error and needs bounded memory, and
//! the client works again once the server does.

mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use kv_core::Error;
use server::{
    Server, TTL, answer, connect, does_no_harm, floods, good, in_a_second, read_request, soon, start, survives,
    works_again,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::sleep;

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nX-Consul-Index: 9\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test]
async fn a_body_without_end() {
    let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000)).repeat(8).into_bytes();
    let flood = move |stream, request| floods(stream, request, CHUNKED.to_owned(), chunk.clone());
    let (server, kv) = start().await;
    server.turn(flood.clone());
    let error = soon("get", kv.get("key")).await.expect_err("no value");
    assert!(matches!(error, Error::UnexpectedAnswer { .. } | Error::Unavailable { .. }), "{error:?}");
    // The bytes that are read of one value, and those in the buffers.
    let bytes = server.counts.bytes.load(Ordering::SeqCst);
    assert!(bytes < 64 << 20, "{bytes} bytes");
    works_again("a body", &server, &kv).await;
    survives("a body", flood).await;
}

#[tokio::test]
async fn impossible_lengths() {
    for length in ["18446744073709551615", "9223372036854775807", "1000000000000", "-1", "99999999999999999999", "x"] {
        let head = format!("HTTP/1.1 200 OK\r\nX-Consul-Index: 9\r\nContent-Length: {length}\r\n\r\n[");
        survives(length, move |stream, request| floods(stream, request, head.clone(), vec![b' '; 4096])).await;
    }
    for size in ["ffffffffffffffff", "7fffffffffffffff", "fffffffffffffffff", "-1", "x", ""] {
        let head = format!("{CHUNKED}{size}\r\n[");
        survives(size, move |stream, request| floods(stream, request, head.clone(), vec![b' '; 4096])).await;
    }
}

#[tokio::test]
async fn heads_without_end() {
    let pieces = [
        ("headers", "HTTP/1.1 200 OK\r\n", b"X-Header: value\r\n".repeat(100)),
        ("a header", "HTTP/1.1 200 OK\r\nX-Header: ", vec![b'x'; 4096]),
        ("a status line", "HTTP/1.1 200 ", vec![b'x'; 4096]),
        ("promises", "", b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100)),
        ("trailers", &format!("{CHUNKED}0\r\n"), b"X-Trailer: value\r\n".repeat(100)),
    ];
    for (what, head, piece) in pieces {
        let head = head.to_owned();
        survives(what, move |stream, request| floods(stream, request, head.clone(), piece.clone())).await;
    }
}

#[tokio::test]
async fn an_answer_a_byte_at_a_time() {
    let answers = [answer("200 OK", "X-Consul-Index: 9\r\n", &" ".repeat(4096)), format!("{CHUNKED}1000\r\n")];
    for text in answers {
        survives("drips", move |mut stream, _| {
            let text = text.clone();
            async move {
                for byte in text.bytes().chain(std::iter::repeat(b' ')) {
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_millis(100)).await;
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn json_of_the_wrong_kind() {
    let deep = "[".repeat(200_000);
    let entry = |fields: &str| format!(r#"[{{"Key":"key","CreateIndex":1,"ModifyIndex":1{fields}}}]"#);
    let bodies = [
        String::new(),
        "null".to_owned(),
        "[null]".to_owned(),
        "{}".to_owned(),
        "7".to_owned(),
        r#""text""#.to_owned(),
        "[".to_owned(),
        r#"[{"Key":7,"CreateIndex":1,"ModifyIndex":1}]"#.to_owned(),
        r#"[{"Key":"\ud800","CreateIndex":1,"ModifyIndex":1}]"#.to_owned(),
        r#"[{"Key":"key","CreateIndex":-1,"ModifyIndex":1}]"#.to_owned(),
        r#"[{"Key":"key","CreateIndex":1,"ModifyIndex":18446744073709551616}]"#.to_owned(),
        r#"[{"Key":"key","CreateIndex":1,"ModifyIndex":1e400}]"#.to_owned(),
        r#"{"Results":[{"KV":{"ModifyIndex":-1}}]}"#.to_owned(),
        r#"{"Results":{},"Errors":7}"#.to_owned(),
        r#"{"ID":7}"#.to_owned(),
        r#"{"ID":"../../kv/key?recurse"}"#.to_owned(),
        format!(r#"{{"ID":"{}"}}"#, "0".repeat(1 << 20)),
        entry(r#","Value":"not base64""#),
        entry(r#","Value":7"#),
        entry(r#","Value":["AA=="]"#),
        entry(r#","Flags":-1"#),
        entry(&format!(r#","More":{deep}"#)),
        format!("{}{}", deep, "]".repeat(200_000)),
        deep.replace('[', r#"{"KV":"#),
    ];
    for body in bodies {
        let (shown, text) =
            (body.chars().take(80).collect::<String>(), answer("200 OK", "X-Consul-Index: 9\r\n", &body));
        let errors = does_no_harm(&shown, move |mut stream, _| {
            let text = text.clone();
            async move { drop(stream.write_all(text.as_bytes()).await) }
        });
        let errors = errors.await;
        // A write whose answer makes no sense may have been applied.
        let set = errors.iter().find(|(call, _)| *call == "set");
        let is_typed =
            |error: &Error| matches!(error, Error::Indeterminate { .. }) || error.to_string().contains("was applied");
        assert!(set.is_none_or(|(_, error)| is_typed(error)), "{shown}: {set:?}");
    }
}

#[tokio::test]
async fn impossible_indices() {
    for index in ["18446744073709551615", "18446744073709551616", "-1", "0", "x", "", "1\r\nX-Consul-Index: 2"] {
        for (status, body) in
            [("404 Not Found", ""), ("200 OK", r#"[{"Key":"key","CreateIndex":1,"ModifyIndex":18446744073709551615}]"#)]
        {
            let text = answer(status, &format!("X-Consul-Index: {index}\r\n"), body);
            let act = move |mut stream: TcpStream, _| {
                let text = text.clone();
                async move { drop(stream.write_all(text.as_bytes()).await) }
            };
            does_no_harm(index, act.clone()).await;
            // A watch that began with such an index works once the server behaves.
            let (server, kv) = start().await;
            server.turn(act);
            let watch = soon("a watch", kv.watch("", 0)).await;
            works_again(index, &server, &kv).await;
            drop(watch);
        }
    }
}

#[tokio::test]
async fn compressed_answers_are_neither_requested_nor_unpacked() {
    let (server, kv) = start().await;
    let _ = kv.get("key").await;
    let head = server.counts.last.lock().expect("no panic").to_lowercase();
    assert!(!head.contains("accept-encoding"), "{head}");
    // `[]`, compressed by gzip.
    let packed = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\x8b\x8e\x05\0\x29\xbb\x4c\x0d\x02\0\0\0";
    let errors = does_no_harm("gzip", move |mut stream, _| async move {
        let head = format!(
            "HTTP/1.1 200 OK\r\nX-Consul-Index: 9\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            packed.len()
        );
        let _ = stream.write_all(&[head.as_bytes(), packed].concat()).await;
    })
    .await;
    assert!(matches!(&errors[0], ("get", Error::UnexpectedAnswer { .. })), "{errors:?}");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Server::start().await;
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let text =
            answer(status, &format!("Location: http://{}/v1/kv/key\r\nX-Consul-Index: 9\r\n", elsewhere.address), "");
        survives(status, move |mut stream, _| {
            let text = text.clone();
            async move { drop(stream.write_all(text.as_bytes()).await) }
        })
        .await;
    }
    assert_eq!(elsewhere.counts.requests.load(Ordering::SeqCst), 0, "the token was sent to another server");
}

#[tokio::test]
async fn a_query_that_never_blocks_is_not_repeated_in_a_busy_loop() {
    let number = Arc::new(AtomicUsize::new(10));
    // The same index, growing ones without a change, shrinking ones, and errors.
    for what in ["same", "greater", "smaller", "error", "cut"] {
        let (server, kv) = start().await;
        let watch = soon("a watch", kv.watch("", 0)).await.expect("a good server");
        let number = number.clone();
        server.turn(move |mut stream: TcpStream, _| {
            let index = match what {
                "greater" => number.fetch_add(1, Ordering::SeqCst),
                "smaller" => 1_000_000 - number.fetch_add(1, Ordering::SeqCst),
                _ => 7,
            };
            let text = match what {
                "error" => answer("500 Internal Server Error", "", "No cluster leader"),
                "cut" => String::new(),
                _ => answer("404 Not Found", &format!("X-Consul-Index: {index}\r\nConnection: close\r\n"), ""),
            };
            async move { drop(stream.write_all(text.as_bytes()).await) }
        });
        let requests = in_a_second(&server.counts.requests).await;
        assert!((1..80).contains(&requests), "{what}: {requests} requests in a second");
        drop(watch);
        works_again(what, &server, &kv).await;
    }
}

#[tokio::test]
async fn refusals_of_unknown_operations_end() {
    let (server, kv) = start().await;
    server.turn(|mut stream, request| async move {
        loop {
            let text = answer("409 Conflict", "", r#"{"Errors":[{"OpIndex":77777,"What":"failed index check"}]}"#);
            let next = async {
                stream.write_all(text.as_bytes()).await.ok()?;
                read_request(&mut stream).await
            };
            if next.await.is_none() {
                return;
            }
            request.counts.requests.fetch_add(1, Ordering::SeqCst);
        }
    });
    // So many writes at a time that they share transactions.
    let keys: Vec<String> = (0..50).map(|number| format!("key/{number}")).collect();
    let results = soon("the writes", join_all(keys.iter().map(|key| kv.set(key, "value")))).await;
    for result in results {
        let error = result.expect_err("a refusal");
        assert!(matches!(error, Error::UnexpectedAnswer { .. } | Error::Indeterminate { .. }), "{error:?}");
    }
    // Nothing continues in the background.
    soon("quiet", async { while in_a_second(&server.counts.requests).await > 0 {} }).await;
    works_again("refusals", &server, &kv).await;
}

#[tokio::test]
async fn a_lock_that_is_both_taken_and_free_is_not_tried_in_a_busy_loop() {
    let (server, kv) = start().await;
    server.turn(|mut stream, mut request| async move {
        loop {
            let text = match request.line() {
                line if line.contains("/v1/txn") => {
                    answer("409 Conflict", "", r#"{"Errors":[{"OpIndex":0,"What":"key already exists"}]}"#)
                }
                _ => good(&request),
            };
            let next = async {
                stream.write_all(text.as_bytes()).await.ok()?;
                read_request(&mut stream).await
            };
            let Some(head) = next.await else { return };
            request.counts.requests.fetch_add(1, Ordering::SeqCst);
            request.head = head;
        }
    });
    let locking = tokio::spawn({
        let kv = kv.clone();
        // The first attempt may use the connection that has just been closed.
        async move { while kv.lock("key", TTL).await.is_err() {} }
    });
    let requests = in_a_second(&server.counts.requests).await;
    assert!((1..400).contains(&requests), "{requests} requests in a second");
    locking.abort();
    works_again("a lock", &server, &kv).await;
}

#[tokio::test]
async fn writes_without_an_answer_delay_no_others() {
    let server = Server::start().await;
    // Longer than this test waits, so that no write times out before the others are done.
    let kv = connect(&server, "10m").await;
    let came = Arc::new(AtomicUsize::new(0));
    let counter = came.clone();
    server.turn(move |mut stream, mut request| {
        let came = counter.clone();
        async move {
            loop {
                if request.line().contains("/v1/txn") && came.fetch_add(1, Ordering::SeqCst) < 2 {
                    return std::future::pending().await;
                }
                let next = async {
                    stream.write_all(good(&request).as_bytes()).await.ok()?;
                    read_request(&mut stream).await
                };
                let Some(head) = next.await else { return };
                request.head = head;
            }
        }
    });
    // A read is sent again if its connection has just been closed; a write is not.
    let _ = soon("a new connection", kv.get("key")).await;
    let mut writing = Vec::new();
    for number in 0..3 {
        // One after the other, so that no two travel together.
        soon("those before it are sent", async {
            while came.load(Ordering::SeqCst) < number {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        let kv = kv.clone();
        writing.push(tokio::spawn(async move { kv.set(&format!("{number}"), "").await }));
    }
    soon("the third", async {
        while writing.iter().filter(|task| task.is_finished()).count() < 1 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    for done in writing.extract_if(.., |task| task.is_finished()) {
        done.await.expect("no panic").expect("an index");
    }
    assert_eq!(writing.len(), 2, "two were never answered");
    writing.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_leader_that_has_not_caught_up_ends_no_lease() {
    let server = Server::start().await;
    let kv = connect(&server, "30s").await;
    let member = kv.ephemeral_key("key", TTL).await.expect("a lease");
    for (known, is_lost) in [(r#"[{"ID":"00000000-0000-0000-0000-000000000001"}]"#, false), ("[]", true)] {
        server.turn(move |mut stream, mut request| async move {
            loop {
                let text = match request.line() {
                    line if line.contains("/session/renew") => {
                        answer("404 Not Found", "", "Session id '00000000-0000-0000-0000-000000000001' not found")
                    }
                    line if line.contains("/session/info") => answer("200 OK", "", known),
                    _ => good(&request),
                };
                let next = async {
                    stream.write_all(text.as_bytes()).await.ok()?;
                    read_request(&mut stream).await
                };
                let Some(head) = next.await else { return };
                request.head = head;
            }
        });
        let error = soon("renew", member.renew()).await.expect_err("not renewed");
        assert_eq!(error.is_lost(), is_lost, "{error:?}");
        assert_eq!(error.is_retryable(), !is_lost, "{error:?}");
    }
}
