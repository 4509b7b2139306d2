//! Consul: configuration, questions about its state, and tokens.

use std::net::Ipv4Addr;
use std::ops::Range;

use bytes::Bytes;
use kv_conformance::Census;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::credential::{Access, Credential};
use crate::error::{Doing, Error};
use crate::http::Http;
use crate::options::Tls;
use crate::plan::Plan;
use crate::tls::{CA, CLIENT_CERTIFICATE, CLIENT_KEY, SERVER_CERTIFICATE, SERVER_KEY};

const CONFIGURATION: &str = "/kv/consul.json";

pub(crate) fn arguments() -> Vec<String> {
    vec!["agent".to_owned(), format!("-config-file={CONFIGURATION}")]
}

/// The configuration file and its path in a member's container.
pub(crate) fn configuration(plan: &Plan<'_>, management: Option<&Credential>) -> Result<(String, Vec<u8>), Error> {
    let mut configuration = json!({
        "server": true,
        "bootstrap_expect": plan.peers.len(),
        "node_name": format!("m{}", plan.member),
        "data_dir": "/data",
        "client_addr": "0.0.0.0",
        // A member joins its peers' network after its start, so it cannot bind to that address only.
        "bind_addr": "0.0.0.0",
        "advertise_addr": plan.peers[plan.member],
        "retry_join": plan.peers.iter().filter(|peer| **peer != plan.peers[plan.member]).collect::<Vec<_>>(),
        "retry_interval": "250ms",
        "ports": { "dns": -1 },
        "disable_update_check": true,
        "leave_on_terminate": false,
        "log_level": "info",
        // Without this, the agent does not report its number of open files.
        "telemetry": { "prometheus_retention_time": "1h" },
        // Sessions end after up to twice their TTL. With the default minimum of ten seconds, each test of an expiry
        // would take 20 seconds.
        "session_ttl_min": "100ms",
        "performance": { "raft_multiplier": 1, "leave_drain_time": "1s" },
        "gossip_lan": { "probe_interval": "500ms", "probe_timeout": "250ms", "suspicion_mult": 3 },
        // A killed server comes back. Removing it would leave two servers, and then none may fail.
        // One that returns after it has left gets its vote after the stabilization time.
        "autopilot": { "cleanup_dead_servers": false, "server_stabilization_time": "2s" },
    });
    if plan.options.tls != Tls::Off {
        configuration["ports"] = json!({ "dns": -1, "http": -1, "https": 8501 });
        configuration["cert_file"] = json!(SERVER_CERTIFICATE);
        configuration["key_file"] = json!(SERVER_KEY);
        configuration["ca_file"] = json!(CA);
        configuration["verify_incoming_https"] = json!(plan.options.tls == Tls::Mutual);
    }
    if let Some(Credential::Token(token)) = management {
        configuration["acl"] = json!({
            "enabled": true,
            "default_policy": "deny",
            "tokens": { "master": token, "agent": token },
        });
    }
    let text = serde_json::to_vec_pretty(&configuration).doing("cannot write a configuration")?;
    Ok((CONFIGURATION.to_owned(), text))
}

/// The environment of the `consul` command in a member's container, so that it needs no options.
pub(crate) fn environment(tls: Tls) -> Vec<(&'static str, &'static str)> {
    match tls {
        Tls::Off => vec![],
        Tls::Server | Tls::Mutual => vec![
            ("CONSUL_HTTP_ADDR", "https://127.0.0.1:8501"),
            ("CONSUL_CACERT", CA),
            ("CONSUL_CLIENT_CERT", CLIENT_CERTIFICATE),
            ("CONSUL_CLIENT_KEY", CLIENT_KEY),
        ],
    }
}

fn header(token: Option<&Credential>) -> Option<(&str, &str)> {
    match token {
        Some(Credential::Token(token)) => Some(("X-Consul-Token", token)),
        _ => None,
    }
}

/// Whether a member serves: it knows all peers and answers a consistent read.
pub(crate) async fn serves(
    http: &Http,
    member: usize,
    members: usize,
    management: Option<&Credential>,
) -> Result<bool, Error> {
    let peers = http.ask_json(member, Method::GET, "/v1/status/peers", None, header(management)).await?;
    if peers.as_array().map_or(0, Vec::len) < members {
        return Err(Error::new(format!("it knows of these servers: {peers}")));
    }
    reads(http, member, management).await.map(|()| true)
}

/// Asks a member for a consistent read.
pub(crate) async fn reads(http: &Http, member: usize, management: Option<&Credential>) -> Result<(), Error> {
    let path = "/v1/kv/kv-conformance/ready?consistent";
    let (status, text) = http.ask(member, Method::GET, path, None, header(management)).await?;
    // A missing key is an answer as well.
    if status.is_success() || status == StatusCode::NOT_FOUND {
        return Ok(());
    }
    Err(Error::new(format!("a consistent read: {status}: {}", text.trim())))
}

pub(crate) async fn version(http: &Http, management: Option<&Credential>) -> Result<String, Error> {
    let answer = http.ask_json(0, Method::GET, "/v1/agent/self", None, header(management)).await?;
    Ok(answer["Config"]["Version"].as_str().unwrap_or("unknown").to_owned())
}

/// The number of the leader that each member sees; `None` if it sees none or does not answer.
pub(crate) async fn leaders(http: &Http, peers: &[Ipv4Addr]) -> Vec<Option<usize>> {
    let asked = (0..peers.len()).map(|member| http.ask_json(member, Method::GET, "/v1/status/leader", None, None));
    let position = |answer: &Value| {
        let (address, _port) = answer.as_str()?.rsplit_once(':')?;
        peers.iter().position(|peer| peer.to_string() == address)
    };
    let answers = futures_util::future::join_all(asked).await;
    answers.into_iter().map(|answer| position(&answer.ok()?)).collect()
}

pub(crate) async fn census(http: &Http, members: Range<usize>, token: Option<&Credential>) -> Result<Census, Error> {
    let count = async |path: &str| {
        let (status, text) = http.ask(members.start, Method::GET, path, None, header(token)).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(0);
        }
        let listed: Vec<Value> = serde_json::from_str(&text).doing(format!("{path}: {text}"))?;
        Ok::<_, Error>(listed.len())
    };
    let keys = count("/v1/kv/?keys&consistent").await?;
    let leases = count("/v1/session/list?consistent").await?;
    let connections = http.open_files(members.clone(), "/v1/agent/metrics?format=prometheus", header(token)).await?;
    Ok(Census { connections, leases, keys })
}

/// Makes an isolated member and its peers reconnect now, because they retry rarely.
pub(crate) async fn join(http: &Http, member: usize, peers: &[Ipv4Addr], management: Option<&Credential>) -> bool {
    for peer in peers.iter().enumerate().filter(|(other, _)| *other != member).map(|(_, peer)| peer) {
        let path = format!("/v1/agent/join/{peer}");
        let answer = http.ask(member, Method::PUT, &path, None, header(management)).await;
        if answer.is_ok_and(|(status, _)| status.is_success()) {
            return true;
        }
    }
    false
}

/// Makes a member leave the cluster and end. The connection may end with it, so there may be no answer.
pub(crate) async fn leave(http: &Http, member: usize, management: Option<&Credential>) {
    let _ = http.ask(member, Method::PUT, "/v1/agent/leave", None, header(management)).await;
}

/// Whether all members are present and have a vote. A member that returns gets its vote after a while.
pub(crate) async fn all_vote(http: &Http, member: usize, members: usize, management: Option<&Credential>) -> bool {
    let path = "/v1/operator/raft/configuration?stale";
    let answer = http.ask_json(member, Method::GET, path, None, header(management)).await.unwrap_or_default();
    let servers = answer["Servers"].as_array().map(Vec::as_slice).unwrap_or_default();
    servers.len() == members && servers.iter().all(|server| server["Voter"] == true)
}

/// Creates a token with the permission `access` below `prefix`.
pub(crate) async fn grant(
    http: &Http,
    management: &Credential,
    name: &str,
    prefix: &str,
    access: Access,
) -> Result<Credential, Error> {
    let quoted = json!(prefix);
    let rules = match access {
        Access::Read => format!("key_prefix {quoted} {{ policy = \"read\" }}"),
        Access::Write => {
            format!("key_prefix {quoted} {{ policy = \"write\" }} session_prefix \"\" {{ policy = \"write\" }}")
        }
    };
    let header = header(Some(management));
    let policy = json!({"Name": name, "Rules": rules});
    http.ask_json(0, Method::PUT, "/v1/acl/policy", Some(&policy), header).await?;
    let token = json!({"Description": name, "Policies": [{"Name": name}]});
    let made = http.ask_json(0, Method::PUT, "/v1/acl/token", Some(&token), header).await?;
    match made["SecretID"].as_str() {
        Some(secret) => Ok(Credential::Token(secret.to_owned())),
        None => Err(Error::new("Consul created a token without a secret id")),
    }
}

/// Removes all policies from a token.
pub(crate) async fn revoke(http: &Http, management: &Credential, granted: &Credential) -> Result<(), Error> {
    let own = http.ask_json(0, Method::GET, "/v1/acl/token/self", None, header(Some(granted))).await?;
    let id = own["AccessorID"].as_str().ok_or_else(|| Error::new("a token has no accessor id"))?;
    let body = json!({"AccessorID": id, "Policies": []});
    let path = format!("/v1/acl/token/{id}");
    http.ask_json(0, Method::PUT, &path, Some(&body), header(Some(management))).await.map(drop)
}

/// A snapshot of the store.
pub(crate) async fn save(http: &Http, management: Option<&Credential>) -> Result<Bytes, Error> {
    http.send(0, Method::GET, "/v1/snapshot", Bytes::new(), header(management)).await
}

/// Restores the store from a snapshot.
pub(crate) async fn restore(http: &Http, snapshot: Bytes, management: Option<&Credential>) -> Result<(), Error> {
    http.send(0, Method::PUT, "/v1/snapshot", snapshot, header(management)).await.map(drop)
}
