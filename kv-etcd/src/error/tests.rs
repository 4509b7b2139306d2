//! The error for each failure.

use super::*;

fn failed(status: Status, idempotence: Idempotence) -> Failed {
    Failed::at(&Arc::from("a:1"), idempotence, status)
}

fn name(failed: Failed) -> &'static str {
    match failed.into() {
        Error::Unavailable { .. } => "unavailable",
        Error::Indeterminate { .. } => "indeterminate",
        Error::PermissionDenied { .. } => "denied",
        Error::StorageFull { .. } => "full",
        Error::UnexpectedAnswer { .. } => "unexpected",
        other => panic!("{other}"),
    }
}

#[test]
fn a_write_of_unknown_fate_is_indeterminate_and_a_refused_one_is_not() {
    let table = [
        (Code::Unavailable, "etcdserver: no leader", "unavailable", "unavailable"),
        (Code::Unavailable, "etcdserver: leader changed", "indeterminate", "unavailable"),
        (Code::Unavailable, "etcdserver: request timed out", "indeterminate", "unavailable"),
        (Code::Unavailable, "etcdserver: server stopped", "indeterminate", "unavailable"),
        (Code::Unavailable, "etcdserver: rpc not supported for learner", "unavailable", "unavailable"),
        (Code::FailedPrecondition, "etcdserver: rpc not supported for learner", "unavailable", "unavailable"),
        (Code::DeadlineExceeded, "context deadline exceeded", "indeterminate", "unavailable"),
        (Code::ResourceExhausted, "etcdserver: too many requests", "unavailable", "unavailable"),
        (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", "indeterminate", "full"),
        (Code::ResourceExhausted, "grpc: received message larger than max", "unexpected", "unexpected"),
        // The answer was too large: the transaction was applied.
        (Code::ResourceExhausted, "grpc: trying to send message larger than max", "indeterminate", "unexpected"),
        (Code::ResourceExhausted, "rate limited", "indeterminate", "unexpected"),
        (Code::InvalidArgument, "etcdserver: request is too large", "unexpected", "unexpected"),
        (Code::InvalidArgument, "etcdserver: user name is empty", "denied", "denied"),
        (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password", "denied", "denied"),
        (Code::Unauthenticated, "etcdserver: invalid auth token", "denied", "denied"),
        (Code::PermissionDenied, "etcdserver: permission denied", "denied", "denied"),
        (Code::PermissionDenied, "RBAC: access denied", "indeterminate", "denied"),
        (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision", "unavailable", "unavailable"),
        (Code::Unimplemented, "unknown service etcdserverpb.KV", "unexpected", "unexpected"),
        (Code::Unimplemented, "Content is compressed with `gzip` which isn't supported", "indeterminate", "unexpected"),
        (Code::Unknown, "raft proposal dropped", "unavailable", "unavailable"),
        (Code::Unknown, "raft: stopped", "indeterminate", "unavailable"),
        (Code::Unknown, "lease: unknown error(not a primary lessor)", "unavailable", "unavailable"),
        (Code::Internal, "what a proxy makes up", "indeterminate", "unexpected"),
    ];
    for (code, message, write, read) in table {
        for (idempotence, expected) in [(Idempotence::Once, write), (Idempotence::Repeatable, read)] {
            let got = name(failed(Status::new(code, message), idempotence));
            assert_eq!(got, expected, "{code:?} {message}, {idempotence:?}");
        }
    }
}

#[test]
fn a_broken_connection_is_no_answer() {
    let cut = |idempotence| failed(Status::from_error(std::io::Error::other("reset").into()), idempotence);
    assert_eq!(name(cut(Idempotence::Once)), "indeterminate");
    assert_eq!(name(cut(Idempotence::Repeatable)), "unavailable");
    assert!(!cut(Idempotence::Once).is_worth_another_attempt());
    assert!(cut(Idempotence::Repeatable).is_worth_another_attempt());
}

#[test]
fn a_request_that_was_not_processed_was_not_applied() {
    let refused = || {
        let status = Status::from_error(NotSent(h2::Reason::REFUSED_STREAM.into()).into());
        failed(status, Idempotence::Once)
    };
    assert_eq!(name(refused()), "unavailable");
    assert!(refused().is_worth_another_attempt() && refused().is_of_the_endpoint());
}

#[test]
fn a_page_of_a_proxy_proves_nothing_and_is_named() {
    for (status, read) in [(502, "unavailable"), (503, "unavailable"), (413, "unexpected"), (200, "unexpected")] {
        let page = |idempotence| {
            let status = http::StatusCode::from_u16(status).expect("a status");
            let page = NotGrpc { status, kind: Some("text/html".to_owned()) };
            failed(Status::from_error(page.into()), idempotence)
        };
        assert_eq!(name(page(Idempotence::Once)), "indeterminate");
        assert_eq!(name(page(Idempotence::Repeatable)), read);
        let text = Error::from(page(Idempotence::Once)).to_string();
        assert!(text.contains(&status.to_string()) && text.contains("text/html") && text.contains("a:1"), "{text}");
    }
}

#[test]
fn a_full_store_says_what_to_do() {
    let full = Status::resource_exhausted("etcdserver: mvcc: database space exceeded");
    let error = Error::from(failed(full, Idempotence::Once));
    assert!(!error.is_retryable() && error.to_string().contains("the store is full"), "{error}");
}

#[test]
fn a_failure_that_proves_that_nothing_was_applied_is_worth_another_attempt() {
    for (status, of_the_endpoint) in [
        (Status::unavailable("etcdserver: no leader"), true),
        (Status::unknown("raft proposal dropped"), false),
        (Status::resource_exhausted("etcdserver: too many requests"), false),
    ] {
        let failed = failed(status, Idempotence::Once);
        assert!(failed.is_worth_another_attempt());
        assert_eq!(failed.is_of_the_endpoint(), of_the_endpoint, "{failed:?}");
    }
    let changed = failed(Status::unavailable("etcdserver: leader changed"), Idempotence::Once);
    assert!(!changed.is_worth_another_attempt());
}
