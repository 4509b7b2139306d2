//! Addresses: what is accepted, what is refused, and what is never shown (clauses
//! [A1](kv_core::contract::CLAUSES#A1), [A2](kv_core::contract::CLAUSES#A2) and [A4](kv_core::contract::CLAUSES#A4)).

use std::time::Duration;

use kv_core::backend::{Address, HostPort};
use kv_core::{Environment, Error, Result};

fn parse(text: &str) -> Result<Address> {
    Address::parse(text, Environment::from([("NAME", "from the environment"), ("EMPTY", "")]))
}

#[test]
fn every_part_is_read() -> Result<()> {
    let address = parse("ETCD://us%40er:p%3A%2Fw@a,b:1,[::1]:2379,10.0.0.1/team/app?timeout=250ms&ca=%2Ftmp%2Fca+1&x")?;
    assert_eq!(address.scheme, "etcd");
    let host = |host: &str, port| HostPort { host: host.to_owned(), port };
    let hosts = [host("a", None), host("b", Some(1)), host("[::1]", Some(2379)), host("10.0.0.1", None)];
    assert_eq!(address.hosts, hosts);
    assert_eq!(address.hosts[0].with_port(2379), "a:2379");
    assert_eq!(address.hosts[2].with_port(1), "[::1]:2379");
    let credentials = address.credentials.as_ref().expect("credentials");
    assert_eq!((credentials.user.as_str(), credentials.password.as_str()), ("us@er", "p:/w"));
    assert_eq!(address.root, "team/app/");
    assert_eq!(address.timeout, Duration::from_millis(250));
    assert_eq!(address.parameter("ca"), Some("/tmp/ca+1"), "a plus means itself");
    assert_eq!(address.parameter("x"), Some(""));
    assert_eq!(address.parameter_names().collect::<Vec<_>>(), ["ca", "x"]);
    Ok(())
}

#[test]
fn the_root_is_the_path_without_its_first_slash() -> Result<()> {
    for (text, root) in [
        ("etcd://h", ""),
        ("etcd://h/", ""),
        ("etcd://h/app", "app/"),
        ("etcd://h/app/", "app/"),
        ("etcd://h//registry", "/registry/"),
        ("etcd://h//", "/"),
        ("etcd://h/a%20b%3f", "a b?/"),
        ("etcd:///app", "app/"),
        ("etcd://h?timeout=1s", ""),
    ] {
        assert_eq!(parse(text)?.root, root, "{text}");
    }
    Ok(())
}

#[test]
fn a_named_store_may_have_any_name() -> Result<()> {
    let name = |text| Address::parse_named(text, Environment::from([])).map(|address| address.hosts);
    for (text, expected) in [
        ("memory://test.1", "test.1"),
        ("memory://crate::x", "crate::x"),
        ("memory://1", "1"),
        ("memory://0.0.0.1", "0.0.0.1"),
        ("memory://Test/root", "Test"),
        ("memory://a%2Fb,c:1?x=1", "a/b,c:1"),
    ] {
        assert_eq!(name(text)?, [HostPort { host: expected.to_owned(), port: None }], "{text}");
    }
    assert_eq!(name("memory://")?, []);
    assert!(name("memory://%zz").is_err());
    Ok(())
}

#[test]
fn parts_that_an_address_leaves_out_are_empty() -> Result<()> {
    for text in ["", "etcd://", "etcd:///"] {
        let address = parse(text)?;
        assert!(address.hosts.is_empty() && address.credentials.is_none() && address.root.is_empty(), "{text}");
        assert_eq!(address.timeout, Duration::from_secs(5));
    }
    Ok(())
}

#[test]
fn parameters_win_over_the_environment() -> Result<()> {
    let address = parse("etcd://h?name=given")?;
    assert_eq!(address.setting("name", "NAME").as_deref(), Some("given"));
    assert_eq!(address.setting("other", "NAME").as_deref(), Some("from the environment"));
    assert_eq!(address.setting("other", "EMPTY"), None, "an empty variable is none");
    assert_eq!(address.setting("other", "PATH"), None, "the process's environment is not asked");
    Ok(())
}

#[test]
fn durations_and_numbers_are_read_with_their_units() -> Result<()> {
    let address = parse("etcd://h?a=5s&b=1500ms&c=2m&d=1h&e=7&f=0s")?;
    let seconds = |name| address.duration(name).map(|duration| duration.map(|duration| duration.as_secs_f64()));
    assert_eq!(seconds("a")?, Some(5.0));
    assert_eq!(seconds("b")?, Some(1.5));
    assert_eq!(seconds("c")?, Some(120.0));
    assert_eq!(seconds("d")?, Some(3600.0));
    assert_eq!(seconds("f")?, Some(0.0));
    assert_eq!(seconds("none")?, None);
    assert_eq!(address.number("e")?, Some(7));
    for (name, duration) in [("e", true), ("a", false)] {
        let error = if duration { address.duration(name).map(drop) } else { address.number(name).map(drop) };
        assert!(error.is_err_and(|error| error.to_string().contains(&format!("`{name}`"))));
    }
    Ok(())
}

#[test]
fn an_invalid_address_is_refused_and_the_part_is_named() {
    for (text, part) in [
        ("127.0.0.1:2379", "scheme"),
        ("://h", "scheme"),
        ("1etcd://h", "scheme"),
        ("etcd:h", "scheme"),
        ("etcd://h#x", "`#`"),
        ("etcd://h,,g", "host 2"),
        ("etcd://h,", "host 2"),
        ("etcd://:2379", "host 1"),
        ("etcd://h:0", "port"),
        ("etcd://h:65536", "port"),
        ("etcd://h:x", "port"),
        ("etcd://h:", "port"),
        ("etcd://a b", "host 1"),
        ("etcd://[::1", "host 1"),
        ("etcd://%zz", "a host"),
        ("etcd://h/%zz", "the root"),
        ("etcd://h/%f", "the root"),
        ("etcd://h/%", "the root"),
        ("etcd://h/%ff", "UTF-8"),
        ("etcd://h/a%00b", "NUL"),
        ("etcd://u%zz:p@h", "the user name"),
        ("etcd://u:%zz@h", "the password"),
        ("etcd://h?ca=%zz", "`ca`"),
        ("etcd://h?c%zz=1", "the name of a parameter"),
        ("etcd://h?ca=1&ca=2", "twice"),
        ("etcd://h?timeout=1s&timeout=2s", "`timeout` is given twice"),
        ("etcd://h?timeout=0s", "`timeout`"),
        ("etcd://h?timeout=5", "`timeout`"),
        ("etcd://h?timeout=-5s", "`timeout`"),
        ("etcd://h?timeout=99999999999999999999s", "`timeout`"),
        ("etcd://h?timeout=18446744073709551615h", "`timeout`"),
    ] {
        match parse(text) {
            Err(Error::InvalidAddress { reason }) => assert!(reason.contains(part), "{text}: {reason}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn no_secret_is_shown() {
    // Not even if the password is not escaped, so that a part of it looks like another part of the address.
    for text in [
        "etcd://user:secret@h?token=secret",
        "etcd://user:secret/part@h",
        "etcd://user:se?secret=1@h",
        "etcd://user:12?secret@h",
        "etcd://user:secret@h:secret",
        "user:secret@h",
        "etcd://user:%zzsecret@h",
        "etcd://h?token=%zzsecret",
        "etcd://user:secret#@h",
    ] {
        let shown = match parse(text) {
            Ok(address) => format!("{address:?} {:?}", address.credentials),
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(!shown.contains("secret"), "{text}: {shown}");
    }
}
