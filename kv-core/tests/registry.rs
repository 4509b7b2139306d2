//! How an address finds its backend, and the errors if it does not (clauses [A1](kv_core::contract::CLAUSES#A1) and
//! [A3](kv_core::contract::CLAUSES#A3)).

use std::sync::Arc;

use kv_core::{Environment, Error, Registration, Registry};
use kv_memory::MemoryBackend;

/// A backend that answers only at `http://alive`; its error names the host.
const PICKY: Registration = Registration {
    name: "picky",
    schemes: &["picky", "pickys"],
    parameters: &["token"],
    named: false,
    generic_http: true,
    connect: |address| {
        Box::pin(async move {
            let host = address.hosts.first().map(|host| host.host.clone());
            match host.or_else(|| address.environment("PICKY_ADDR")).as_deref() {
                Some("alive") => Ok(Arc::new(MemoryBackend::new()) as Arc<dyn kv_core::backend::Backend>),
                Some("silent") => std::future::pending().await,
                at => Err(Error::unavailable(format!("nobody at {at:?}"))),
            }
        })
    },
};
const DEAF: Registration = Registration {
    name: "deaf",
    schemes: &["deaf"],
    connect: |_| Box::pin(std::future::ready(Err(Error::unexpected_answer("not my kind")))),
    ..PICKY
};

#[tokio::test]
async fn an_explicit_registry_needs_no_linking() {
    let registry = Registry::new().with(kv_memory::REGISTRATION);
    let kv = registry.connect("memory:///app").await.expect("memory");
    assert_eq!((kv.backend_name(), kv.root()), ("memory", "app/"));
}

#[tokio::test]
async fn linked_backends_are_found() {
    let names: Vec<_> = Registry::linked().registrations().iter().map(|one| one.name).collect();
    assert_eq!(names, ["memory"]);
    assert!(kv_core::connect("MEMORY://").await.is_ok(), "schemes have no case");
}

#[tokio::test]
async fn an_unknown_scheme_names_the_known_ones_and_the_cause() {
    let registry = Registry::new().with(PICKY).with(DEAF);
    let error = registry.connect("etcds://h").await.expect_err("unknown");
    assert!(
        matches!(&error, Error::UnknownScheme { scheme, known } if scheme == "etcds" && known == &["deaf", "picky", "pickys"])
    );
    assert!(error.to_string().contains("use kv_etcd as _;"), "{error}");
}

#[tokio::test]
async fn two_backends_of_one_scheme_are_both_named() {
    let registry = Registry::new().with(PICKY).with(Registration { name: "double", ..PICKY });
    for address in ["picky://alive", "http://alive", "other://h"] {
        let error = registry.connect(address).await.expect_err("duplicate").to_string();
        assert!(error.contains("`double`") && error.contains("`picky`"), "{error}");
    }
}

#[tokio::test]
async fn an_unknown_parameter_is_named_with_the_known_ones() {
    let error = Registry::new().with(PICKY).connect("picky://alive?tokn=secret").await.expect_err("unknown");
    let text = error.to_string();
    assert!(text.contains("`tokn`") && text.contains("picky") && text.contains("timeout, token"), "{text}");
    assert!(!format!("{error:?}").contains("secret"));
}

#[tokio::test]
async fn a_generic_address_tries_each_backend_in_order_and_shows_the_error_of_each() {
    let registry = Registry::new().with(PICKY).with(DEAF).with(kv_memory::REGISTRATION);
    assert!(registry.connect("http://alive").await.is_ok());
    for address in ["http://dead", "https://dead", ""] {
        let error = registry.connect(address).await.expect_err("nobody");
        let Error::NoneAnswered { attempts } = &error else { panic!("{error}") };
        let names: Vec<_> = attempts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["deaf", "picky"], "memory does not speak HTTP");
        assert!(error.to_string().contains("not my kind") && error.to_string().contains("nobody at"), "{error}");
    }
    let environment = Environment::from([("PICKY_ADDR", "alive")]);
    assert!(registry.with_environment(environment).connect("").await.is_ok(), "its default comes from there");

    let error = Registry::new().connect("http://h").await.expect_err("nobody").to_string();
    assert!(error.contains("no registered backend speaks HTTP"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_does_not_delay_a_generic_address() {
    let began = tokio::time::Instant::now();
    let error = Registry::new().with(PICKY).connect("http://silent").await.expect_err("silent");
    assert!(error.to_string().contains("no answer within 2s"), "{error}");
    let error = Registry::new().with(PICKY).connect("picky://silent?timeout=100ms").await.expect_err("silent");
    assert!(error.is_retryable() && error.to_string().contains("picky connect"), "{error}");
    assert!(began.elapsed().as_secs() < 3);
}
