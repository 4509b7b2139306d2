//! Tests of the suite's own instruments: every fault takes effect and heals, access control and TLS exclude clients,
//! and nothing is left behind. Needs Docker.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kv_conformance::testing::{PATIENCE, soon};
use kv_conformance_servers::{
    Access, CLUSTER_LABEL, Cluster, Credential, Kind, OWNER_LABEL, Options, Output, Tls, Tool, this_process,
};
use reqwest::{Certificate, Client, Identity, StatusCode};
use serde_json::{Value, json};
use testcontainers::bollard::Docker;
use testcontainers::bollard::query_parameters::{ListContainersOptionsBuilder, ListNetworksOptionsBuilder};
use testcontainers::core::client::docker_client_instance;

async fn start(kind: Kind, members: usize, options: Options) -> Cluster {
    Cluster::start(kind, members, options).await.unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test]
async fn etcd_keeps_its_data_over_a_crash() {
    keeps_data_over_a_crash(Kind::Etcd).await;
}

#[tokio::test]
async fn consul_keeps_its_data_over_a_crash() {
    keeps_data_over_a_crash(Kind::Consul).await;
}

async fn keeps_data_over_a_crash(kind: Kind) {
    let cluster = start(kind, 1, Options::default()).await;
    write(&cluster, 0, "k", "kept").await;
    let before = cluster.address();
    cluster.kill(0).await.expect("kill");
    assert!(!cluster.serves(0).await, "a killed server serves");
    cluster.start_again(0).await.expect("start again");
    assert_eq!(cluster.address(), before);
    assert_eq!(read(&cluster, 0, "k").await, "kept");
    cluster.isolate(0).await.expect_err("a single server has no peers");
    cluster.stop().await;
}

#[tokio::test]
async fn faults_of_an_etcd_cluster_take_effect_and_heal() {
    faults_bite_and_heal(Kind::Etcd).await;
}

#[tokio::test]
async fn faults_of_a_consul_cluster_take_effect_and_heal() {
    faults_bite_and_heal(Kind::Consul).await;
}

async fn faults_bite_and_heal(kind: Kind) {
    let cluster = start(kind, 3, Options::default()).await;
    let leader = cluster.await_leader(None).await.expect("a leader");
    write(&cluster, leader, "k", "1").await;

    cluster.pause(leader).await.expect("pause");
    assert!(!cluster.serves(leader).await, "a paused member serves");
    let second = cluster.await_leader(Some(leader)).await.expect("another leader while the first is paused");
    write(&cluster, second, "k", "2").await;
    cluster.resume(leader).await.expect("resume");
    cluster.await_all().await.expect("all serve after the pause");
    assert_eq!(read(&cluster, leader, "k").await, "2");

    let second = cluster.await_leader(None).await.expect("a leader");
    cluster.isolate(second).await.expect("isolate");
    let third = cluster.await_leader(Some(second)).await.expect("another leader while the second is cut off");
    assert!(!cluster.serves(second).await, "a member without peers serves linearizable reads");
    TcpStream::connect(&cluster.endpoints()[second]).expect("a member without peers accepts clients");
    write(&cluster, third, "k", "3").await;
    cluster.rejoin(second).await.expect("rejoin");
    cluster.await_all().await.expect("all serve after the partition");
    assert_eq!(read(&cluster, second, "k").await, "3");

    let third = cluster.await_leader(None).await.expect("a leader");
    cluster.kill(third).await.expect("kill");
    let fourth = cluster.await_leader(Some(third)).await.expect("another leader after the third was killed");
    write(&cluster, fourth, "k", "4").await;
    cluster.start_again(third).await.expect("start again");
    assert_eq!(read(&cluster, third, "k").await, "4");

    for member in 0..3 {
        cluster.kill(member).await.expect("kill");
    }
    cluster.start_all_again().await.expect("start all again");
    assert_eq!(read(&cluster, 0, "k").await, "4");
    cluster.stop().await;
}

#[tokio::test]
async fn etcd_speaks_tls_to_clients_that_trust_it() {
    speaks_tls(Kind::Etcd, "/health").await;
}

#[tokio::test]
async fn consul_speaks_tls_to_clients_that_trust_it() {
    speaks_tls(Kind::Consul, "/v1/status/leader").await;
}

async fn speaks_tls(kind: Kind, path: &str) {
    let cluster = start(kind, 1, Options::default().tls(Tls::Mutual)).await;
    let certificates = cluster.certificates().expect("certificates");
    let (ca, certificate, key) = (certificates.ca(), certificates.client_certificate(), certificates.client_key());
    let address = cluster.address();
    let query = format!("?ca={}&cert={}&key={}", ca.display(), certificate.display(), key.display());
    assert_eq!(address, format!("{kind}s://{}{query}", cluster.endpoints()[0]));

    let url = format!("https://{}{path}", cluster.endpoints()[0]);
    let named = url.replace("127.0.0.1", "localhost");
    let known = client(Some(&ca), Some((&certificate, &key)));
    assert!(known.get(&url).send().await.expect("by address").status().is_success());
    assert!(known.get(&named).send().await.expect("by name").status().is_success());
    client(None, Some((&certificate, &key))).get(&url).send().await.expect_err("a client that does not trust it");
    client(Some(&ca), None).get(&url).send().await.expect_err("a client that shows no certificate");
    // The tools in the container need no options.
    write(&cluster, 0, "k", "v").await;
    assert_eq!(read(&cluster, 0, "k").await, "v");
    cluster.stop().await;

    let cluster = start(kind, 1, Options::default().tls(Tls::Server)).await;
    let ca = cluster.certificates().expect("certificates").ca();
    let url = format!("https://{}{path}", cluster.endpoints()[0]);
    assert!(client(Some(&ca), None).get(&url).send().await.expect("without a certificate").status().is_success());
    cluster.stop().await;
    assert!(!ca.exists(), "certificates outlive their cluster");
}

#[tokio::test]
async fn etcd_refuses_clients_without_credentials() {
    let cluster = start(Kind::Etcd, 1, Options::default().access_control().argument("--auth-token-ttl=3")).await;
    let base = format!("http://{}", cluster.endpoints()[0]);
    let http = client(None, None);
    let post = async |path: &str, token: &str, body: Value| {
        let request = http.post(format!("{base}{path}")).header("Authorization", token).json(&body);
        let response = request.send().await.expect("an answer");
        (response.status(), response.json::<Value>().await.expect("JSON"))
    };
    let login = async |credential: &Credential| match credential {
        Credential::User { name, password } => {
            let (status, answer) = post("/v3/auth/authenticate", "", json!({"name": name, "password": password})).await;
            assert_eq!(status, StatusCode::OK);
            answer["token"].as_str().expect("a token").to_owned()
        }
        other => panic!("{other:?}"),
    };
    // "app/k" and "web/k" in base64.
    let (inside, outside) = (json!({"key": "YXBwL2s="}), json!({"key": "d2ViL2s="}));

    assert_ne!(post("/v3/kv/range", "", inside.clone()).await.0, StatusCode::OK, "without credentials");
    let root = login(cluster.admin().expect("an admin")).await;
    assert_eq!(post("/v3/kv/range", &root, outside.clone()).await.0, StatusCode::OK);
    let reader = cluster.grant("app/", Access::Read).await.expect("grant");
    let token = login(&reader).await;
    assert_eq!(post("/v3/kv/range", &token, inside.clone()).await.0, StatusCode::OK);
    assert_ne!(post("/v3/kv/range", &token, outside).await.0, StatusCode::OK, "outside its prefix");
    assert_ne!(post("/v3/kv/put", &token, inside.clone()).await.0, StatusCode::OK, "a reader writes");
    let writer = cluster.grant("app/", Access::Write).await.expect("grant");
    let written_by = login(&writer).await;
    assert_eq!(post("/v3/kv/put", &written_by, inside.clone()).await.0, StatusCode::OK);
    assert!(!cluster.address_as(&writer).trim_start_matches("etcd://").contains('/'), "a password is not a path");

    // The token lapses, and the user is not known until the next login.
    let deadline = Instant::now() + PATIENCE;
    while post("/v3/kv/range", &token, json!({"key": "YXBwL2s="})).await.0 == StatusCode::OK {
        assert!(Instant::now() < deadline, "the token does not lapse");
        // Each use extends the token, so it is not used for longer than its time to live.
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    cluster.stop().await;
}

#[tokio::test]
async fn consul_refuses_clients_without_credentials() {
    let cluster = start(Kind::Consul, 1, Options::default().access_control()).await;
    let base = format!("http://{}/v1/kv", cluster.endpoints()[0]);
    let http = client(None, None);
    let put = async |key: &str, credential: &Credential| {
        let Credential::Token(token) = credential else { panic!("{credential:?}") };
        let request = http.put(format!("{base}/{key}")).header("X-Consul-Token", token).body("v");
        request.send().await.expect("an answer").status()
    };
    let get = async |key: &str, credential: &Credential| {
        let Credential::Token(token) = credential else { panic!("{credential:?}") };
        let request = http.get(format!("{base}/{key}?consistent")).header("X-Consul-Token", token);
        request.send().await.expect("an answer").status()
    };
    let admin = cluster.admin().expect("an admin").clone();
    let anonymous = http.put(format!("{base}/app/k")).body("v").send().await.expect("an answer").status();
    assert_eq!(anonymous, StatusCode::FORBIDDEN);
    assert_eq!(put("app/k", &admin).await, StatusCode::OK);
    let reader = cluster.grant("app/", Access::Read).await.expect("grant");
    assert_eq!(get("app/k", &reader).await, StatusCode::OK);
    assert_eq!(put("app/k", &reader).await, StatusCode::FORBIDDEN);
    let writer = cluster.grant("app/", Access::Write).await.expect("grant");
    assert_eq!(put("app/k", &writer).await, StatusCode::OK);
    assert_eq!(put("web/k", &writer).await, StatusCode::FORBIDDEN);
    assert!(cluster.address_as(&writer).contains("?token="));
    cluster.stop().await;
}

#[tokio::test]
async fn native_lock_commands_hold_until_they_end() {
    // Without a command, `etcdctl lock` prints the key that it holds. With a command, it ends only when the command
    // does.
    let etcd: &[&str] = &["etcdctl", "lock", "job"];
    let consul: &[&str] = &["consul", "lock", "job", "echo job is held; sleep 600"];
    for (kind, command) in [(Kind::Etcd, etcd), (Kind::Consul, consul)] {
        let cluster = start(kind, 1, Options::default()).await;
        let mut first = cluster.spawn(0, command).await.expect("spawn");
        assert!(line(&mut first).await.starts_with("job"));
        let mut second = cluster.spawn(0, command).await.expect("spawn");
        let waiting = tokio::time::timeout(Duration::from_millis(500), second.line()).await;
        assert!(waiting.is_err(), "two hold one lock: {waiting:?}");
        first.signal("TERM").await.expect("signal");
        let ended = soon("it ends", first.wait()).await.expect("wait");
        assert!(line(&mut second).await.starts_with("job"), "after {ended:?}");
        let Output { code, stderr, .. } = cluster.exec(0, &["sh", "-c", "echo no >&2; exit 3"]).await.expect("exec");
        assert_eq!((code, stderr.as_str()), (3, "no\n"));
        cluster.stop().await;
    }
}

#[tokio::test]
async fn stopping_and_dropping_leave_nothing() {
    let cluster = start(Kind::Etcd, 3, Options::default()).await;
    let label = format!("{CLUSTER_LABEL}={}", cluster.name());
    assert_eq!(count(&label).await, (3, 2));
    cluster.pause(0).await.expect("pause");
    cluster.kill(1).await.expect("kill");
    cluster.isolate(2).await.expect("isolate");
    cluster.stop().await;
    assert_eq!(count(&label).await, (0, 0));

    let cluster = start(Kind::Etcd, 1, Options::default()).await;
    let label = format!("{CLUSTER_LABEL}={}", cluster.name());
    let panicked = tokio::spawn(async move {
        let _cluster = cluster;
        panic!("on purpose: a cluster is dropped by a panic");
    });
    panicked.await.expect_err("a panic");
    assert_eq!(count(&label).await, (0, 0));

    let cluster = start(Kind::Etcd, 1, Options::default()).await;
    let label = format!("{CLUSTER_LABEL}={}", cluster.name());
    std::thread::spawn(move || drop(cluster)).join().expect("dropping outside a runtime");
    assert_eq!(count(&label).await, (0, 0));

    Cluster::start(Kind::Etcd, 1, Options::default().argument("--no-such-flag")).await.expect_err("a bad flag");
    let running: Vec<_> = owned(&format!("{OWNER_LABEL}={}", this_process())).await;
    assert!(!running.iter().any(|command| command.contains("no-such-flag")), "{running:?}");
}

#[tokio::test]
async fn a_run_that_is_ended_leaves_nothing_for_long() {
    let (mut killed, left) = hold();
    assert_eq!(count(&left).await, (1, 0));
    killed.kill().expect("kill");
    killed.wait().expect("wait");

    let (mut ended, other) = hold();
    assert_eq!(count(&left).await, (0, 0), "the next run removes what a killed one left");
    let kill = Command::new("kill").args(["-TERM", &ended.id().to_string()]).status().expect("kill");
    assert!(kill.success());
    assert_eq!(ended.wait().expect("wait").code(), Some(128 + 15));
    assert_eq!(count(&other).await, (0, 0), "a process that is asked to end cleans up");
}

/// Runs [`holding_a_cluster`] in a process of its own. Returns the process and the label of its cluster.
fn hold() -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "holding_a_cluster", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program runs");
    let output = BufReader::new(child.stdout.take().expect("its output"));
    let mut lines = output.lines().map(|line| line.expect("a line"));
    // The output of the test runner may precede it on the line.
    let name = lines.find_map(|line| line.split_once("cluster=").map(|(_, name)| name.to_owned()));
    (child, format!("{CLUSTER_LABEL}={}", name.expect("a cluster")))
}

#[tokio::test]
#[ignore = "another test runs it in a process that it ends"]
async fn holding_a_cluster() {
    let cluster = start(Kind::Etcd, 1, Options::default()).await;
    println!("cluster={}", cluster.name());
    std::future::pending::<()>().await;
}

async fn line(tool: &mut Tool) -> String {
    let line = soon("a line", tool.line()).await.expect("output");
    line.unwrap_or_else(|| panic!("{tool:?} has ended"))
}

async fn write(cluster: &Cluster, member: usize, key: &str, value: &str) {
    let pair = [key, value];
    let command = match cluster.kind() {
        Kind::Etcd => [["etcdctl", "put"].as_slice(), &pair].concat(),
        Kind::Consul => [["consul", "kv", "put"].as_slice(), &pair].concat(),
    };
    let output = cluster.exec(member, &command).await.expect("exec");
    assert_eq!(output.code, 0, "{command:?}: {output:?}");
}

async fn read(cluster: &Cluster, member: usize, key: &str) -> String {
    let command = match cluster.kind() {
        Kind::Etcd => vec!["etcdctl", "get", "--print-value-only", key],
        Kind::Consul => vec!["consul", "kv", "get", key],
    };
    let output = cluster.exec(member, &command).await.expect("exec");
    assert_eq!(output.code, 0, "{command:?}: {output:?}");
    output.stdout.trim_end().to_owned()
}

fn client(ca: Option<&Path>, identity: Option<(&Path, &Path)>) -> Client {
    // This fails if another test has already installed the provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let pem = |path: &Path| std::fs::read(path).expect("a PEM file");
    let trusted = ca.map(|ca| Certificate::from_pem(&pem(ca)).expect("a certificate"));
    let mut builder = Client::builder().tls_certs_only(trusted).no_proxy();
    if let Some((certificate, key)) = identity {
        let both = [pem(certificate), pem(key)].concat();
        builder = builder.identity(Identity::from_pem(&both).expect("an identity"));
    }
    builder.build().expect("a client")
}

async fn engine() -> Docker {
    docker_client_instance().await.expect("Docker")
}

fn filter(label: &str) -> HashMap<&'static str, Vec<String>> {
    HashMap::from([("label", vec![label.to_owned()])])
}

/// How many containers and networks have a label.
async fn count(label: &str) -> (usize, usize) {
    let networks = ListNetworksOptionsBuilder::new().filters(&filter(label)).build();
    let networks = engine().await.list_networks(Some(networks)).await.expect("networks");
    (owned(label).await.len(), networks.len())
}

/// The commands of all containers that have a label.
async fn owned(label: &str) -> Vec<String> {
    let containers = ListContainersOptionsBuilder::new().all(true).filters(&filter(label)).build();
    let containers = engine().await.list_containers(Some(containers)).await.expect("containers");
    containers.into_iter().filter_map(|container| container.command).collect()
}
