//! Addresses, secrets, errors and the request timeout: clauses [A1](kv_core::contract::CLAUSES#A1) to
//! [A6](kv_core::contract::CLAUSES#A6).

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use kv_core::{Error, Registry};
use tokio::net::TcpListener;

use crate::case::cases;
use crate::context::Context;
use crate::outcome::{Broke, Keeps as _, Outcome, check, refused, same};

cases! { "addresses":
    the_root_is_the_path ["A1", "K4"] needs [Address] "The path of an address is the root of its keys, encoded or not."
    unreadable_addresses_are_refused ["A1"] needs [Address] "An address that cannot be read is an error that says what is wrong with it."
    unknown_parameters_are_named ["A1"] needs [Address] "A parameter that the backend does not know is an error that names it and those it knows."
    a_scheme_has_one_backend ["A1"] needs [Address] "Two backends for one scheme are an error that names both."
    the_timeout_is_a_parameter ["A1", "A6"] needs [Address] "The request timeout is taken from the address, and a wrong one is refused."
    the_environment_completes_it ["A2"] needs [Environment] "What the address leaves open is taken from the native tools' variables."
    unknown_schemes_are_explained ["A3"] needs [Address] "A scheme without a backend is an error with the registered ones and the likely cause."
    secrets_stay_secret ["A4"] needs [Address] "Neither errors nor debug output show a password or a token of the address."
    failures_are_the_same_variants ["A5"] "The same failure is the same variant on every store, and the predicates agree with it."
    ping_answers ["A6"] "A store that serves answers a ping."
    a_closed_port_is_unavailable ["A5", "A6"] needs [Server] "Connecting to a port without a listener fails in time with a retryable error."
    a_silent_server_is_not_waited_for ["A6"] needs [Server] "Connecting to a server that does not answer ends with the request timeout."
    a_server_of_another_kind_is_an_error ["A5", "A6"] needs [Server] "Connecting to a server of another kind fails in time with a typed error."
}

fn address(cx: &Context) -> Outcome<(Registry, String)> {
    cx.fixture().address().ok_or_else(|| Broke::new("A1", "the fixture has no address"))
}

/// The address with more path and more parameters.
fn extended(address: &str, path: &str, parameters: &str) -> String {
    let (before, query) = address.split_once('?').unwrap_or((address, ""));
    // A slash always follows the host, also where no host is named.
    let after_scheme = before.split_once("://").map_or(before, |(_, rest)| rest);
    let has_path = after_scheme.contains('/');
    let separator = if path.is_empty() || (has_path && before.ends_with('/')) { "" } else { "/" };
    let all = [query, parameters].map(str::to_owned).into_iter().filter(|one| !one.is_empty()).collect::<Vec<_>>();
    let mark = if all.is_empty() { "" } else { "?" };
    format!("{before}{separator}{path}{mark}{}", all.join("&"))
}

/// Splits an address into its scheme and the rest.
fn scheme(address: &str) -> Outcome<(&str, &str)> {
    address.split_once("://").ok_or_else(|| Broke::new("A1", "the fixture's address has no scheme"))
}

async fn the_root_is_the_path(cx: Context) -> Outcome {
    let (registry, address) = address(&cx)?;
    let kv = cx.client().await?;
    let directory = cx.directory();
    for (written, root) in [("app", "app"), ("app/", "app"), ("a%20b+c/%64", "a b+c/d"), ("é", "é"), ("%C3%A9", "é")]
    {
        let rooted = registry.connect(&extended(&address, &format!("{directory}/{written}"), "")).await.keeps("A1")?;
        let index = rooted.set("key", written).await?;
        let complete = format!("{root}/key");
        let found = kv.get(&complete).await.keeps("A1")?;
        same!("A1", (&found.data[..], found.index), (written.as_bytes(), index), "what is at {complete:?}");
        let listed: Vec<_> = rooted.get_all("").await?.values.into_keys().collect();
        same!("K4", listed, ["key"], "what the address with the root {written:?} lists");
    }
    Ok(())
}

async fn unreadable_addresses_are_refused(cx: Context) -> Outcome {
    let (registry, address) = address(&cx)?;
    let (scheme, rest) = scheme(&address)?;
    // In the address of an embedded store, any name may be in place of the host.
    let is_name = registry.registrations().iter().any(|one| one.named && one.schemes.contains(&scheme));
    let hosts = [format!("{scheme}://a b/"), format!("{scheme}://host:99999/"), format!("{scheme}://,/")];
    let wrong = [
        extended(&address, "%zz", ""),
        extended(&address, "%", ""),
        extended(&address, "a%ff", ""),
        extended(&address, "a%00b", ""),
        extended(&address, "", "timeout=soon"),
        extended(&address, "", "timeout=0s"),
        format!("{address}#fragment"),
        format!("no-scheme{rest}"),
        format!("{scheme}:{rest}"),
        "://".to_owned(),
    ];
    for wrong in wrong.into_iter().chain(hosts.into_iter().filter(|_| !is_name)) {
        let refused = registry.connect(&wrong).await;
        refused!("A1", refused, Error::InvalidAddress { reason } if !reason.is_empty());
    }
    Ok(())
}

async fn unknown_parameters_are_named(cx: Context) -> Outcome {
    let (registry, address) = address(&cx)?;
    let refused = registry.connect(&extended(&address, "", "no-such-thing=1")).await;
    refused!(
        "A1",
        refused,
        Error::UnknownParameter { parameter, known, .. }
            if parameter == "no-such-thing" && known.iter().any(|known| known == "timeout")
    );
    Ok(())
}

async fn a_scheme_has_one_backend(cx: Context) -> Outcome {
    let (registry, address) = address(&cx)?;
    let (scheme, _) = scheme(&address)?;
    let twice = registry.registrations().iter().find(|one| one.schemes.contains(&scheme)).copied();
    let Some(twice) = twice else { return Err(Broke::new("A1", "no backend serves the fixture's scheme")) };
    let doubled = registry.clone().with(twice).connect(&address).await;
    refused!("A1", doubled, Error::DuplicateScheme { first, second, .. } if first == twice.name && second == twice.name);
    Ok(())
}

async fn the_timeout_is_a_parameter(cx: Context) -> Outcome {
    let (registry, address) = address(&cx)?;
    let kv = registry.connect(&extended(&address, "", "timeout=9s")).await.keeps("A1")?;
    kv.ping().await.keeps("A6")?;
    for wrong in ["timeout=9", "timeout=s", "timeout=-1s", "timeout=1d", "timeout="] {
        refused!("A1", registry.connect(&extended(&address, "", wrong)).await, Error::InvalidAddress { .. });
    }
    Ok(())
}

async fn the_environment_completes_it(cx: Context) -> Outcome {
    let (registry, _) = address(&cx)?;
    let Some((environment, bare)) = cx.fixture().environment() else {
        return Err(Broke::new("A2", "the fixture has no environment"));
    };
    let kv = cx.client().await?;
    let index = kv.set("key", "1").await?;
    let registry = registry.with_environment(environment);
    let completed = registry.connect(&extended(&bare, cx.directory(), "")).await.keeps("A2")?;
    same!("A2", completed.get("key").await.keeps("A2")?.index, index, "the index read through the environment");
    Ok(())
}

async fn unknown_schemes_are_explained(cx: Context) -> Outcome {
    let (registry, address) = address(&cx)?;
    let (scheme, _) = scheme(&address)?;
    let unknown = registry.connect("no-such-store://host").await;
    refused!(
        "A3",
        unknown,
        Error::UnknownScheme { scheme: named, known } if named == "no-such-store" && known.iter().any(|known| known == scheme)
    );
    let text = unknown.map_or_else(|error| error.to_string(), |kv| format!("{kv:?}"));
    check!("A3", text.contains(scheme) && text.contains("use kv_"), "the message does not explain: {text}");
    refused!("A3", Registry::new().connect(&address).await, Error::UnknownScheme { known, .. } if known.is_empty());
    Ok(())
}

async fn secrets_stay_secret(cx: Context) -> Outcome {
    const SECRETS: [&str; 3] = ["hunter2", "hunter3", "hunter/2"];
    let (registry, address) = address(&cx)?;
    let (scheme, rest) = scheme(&address)?;
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let [password, token, slashed] = SECRETS;
    let mut shown = Vec::new();
    for text in [
        format!("{scheme}://user:{password}@{rest}"),
        format!("{scheme}://user:{password}@{}", extended(rest, "%zz", "")),
        format!("{scheme}://user:{slashed}@{rest}"),
        format!("{scheme}://user:{password}@127.0.0.1:1/?timeout=300ms"),
        extended(&address, "", &format!("token={token}")),
        extended(&address, "", &format!("token={token}&timeout=x")),
        format!("no-such-store://user:{password}@host"),
    ] {
        match registry.connect(&text).await {
            Ok(kv) => shown.push(format!("{kv:?} {:?}", kv.get("absent").await)),
            Err(error) => shown.push(format!("{error} {error:?}")),
        }
        if let Ok(parsed) = kv_core::backend::Address::parse(&text, kv_core::Environment::from([("TOKEN", token)])) {
            shown.push(format!("{parsed:?} {:?}", parsed.credentials));
        }
    }
    for text in shown {
        let secret = SECRETS.iter().find(|secret| text.contains(*secret));
        check!("A4", secret.is_none(), "{secret:?} is shown in {text}");
    }
    Ok(())
}

async fn failures_are_the_same_variants(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    kv.set("a", "1").await?;
    let lock = kv.lock("lock", cx.long_ttl()).await?;
    let guarded = kv.kv().txn().held(&lock).set("b", "1");
    kv.call("unlock", lock.unlock()).await?;
    let failures = [
        ("a missing key", kv.get("absent").await.map(drop), [true, false, false]),
        ("a conflict", kv.update("a", "2", 0).await.map(drop), [false, true, false]),
        ("a conflict of a removal", kv.remove("absent", 5).await, [false, true, false]),
        ("a lost lock", kv.commit(guarded).await.map(drop), [false, false, true]),
        ("a key that is none", kv.set("/", "").await.map(drop), [false, false, false]),
    ];
    for (what, failure, expected) in failures {
        let Err(error) = failure else { return Err(Broke::new("A5", format!("{what} is no error"))) };
        let predicates = [error.is_key_not_found(), error.is_conflict(), error.is_lost()];
        same!("A5", predicates, expected, "whether {what} is not found, a conflict, lost");
        check!("A5", !error.is_retryable(), "{what} is retryable: {error:?}");
        check!("A5", !error.to_string().contains(cx.directory()), "{what} shows the root: {error}");
    }
    Ok(())
}

async fn ping_answers(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    for _ in 0..3 {
        kv.call("ping", kv.kv().ping()).await.keeps("A6")?;
    }
    Ok(())
}

/// Connects with a request timeout of a second, and fails if that takes more than a few seconds.
async fn connect_in_time(cx: &Context, port: u16) -> Outcome<Error> {
    let (registry, address) = address(cx)?;
    let (scheme, _) = scheme(&address)?;
    let target = format!("{scheme}://127.0.0.1:{port}/?timeout=1s");
    cx.note(format_args!("connect to {target}"));
    let began = Instant::now();
    let connecting = tokio::time::timeout(cx.patience(), registry.connect(&target)).await;
    let took = began.elapsed();
    check!("A6", took < Duration::from_secs(1) + cx.patience() / 2, "connecting took {took:?} of the second it had");
    match connecting {
        Ok(Err(error)) => Ok(error),
        Ok(Ok(kv)) => Err(Broke::new("A6", format!("connecting succeeded, although no store is there: {kv:?}"))),
        Err(_elapsed) => Err(Broke::new("A6", "connecting did not end")),
    }
}

async fn a_closed_port_is_unavailable(cx: Context) -> Outcome {
    // A port that was free a moment ago.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.and_then(|listener| listener.local_addr());
    let port = free.map_err(|error| Broke::new("A6", error.to_string()))?.port();
    let error = connect_in_time(&cx, port).await?;
    check!("A5", error.is_retryable(), "the error of a port without a listener is {error:?}");
    Ok(())
}

async fn a_silent_server_is_not_waited_for(cx: Context) -> Outcome {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.map_err(|error| Broke::new("A6", error.to_string()))?;
    let port = listener.local_addr().map_err(|error| Broke::new("A6", error.to_string()))?.port();
    let error = connect_in_time(&cx, port).await?;
    drop(listener);
    check!("A5", error.is_retryable(), "the error of a server that does not answer is {error:?}");
    Ok(())
}

async fn a_server_of_another_kind_is_an_error(cx: Context) -> Outcome {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.map_err(|error| Broke::new("A6", error.to_string()))?;
    let port = listener.local_addr().map_err(|error| Broke::new("A6", error.to_string()))?.port();
    let stranger = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        while let Ok((mut connection, _)) = listener.accept().await {
            let _ = connection.write_all(b"220 mail.example.org ESMTP\r\n").await;
        }
    });
    let error = connect_in_time(&cx, port).await;
    stranger.abort();
    let error = error?;
    let typed = matches!(error, Error::Unavailable { .. } | Error::UnexpectedAnswer { .. });
    check!("A5", typed, "the error of a server of another kind is {error:?}");
    Ok(())
}
