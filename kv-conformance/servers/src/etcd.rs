//! etcd: configuration, questions about its state, and users.

use std::net::Ipv4Addr;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kv_conformance::Census;
use reqwest::Method;
use serde_json::{Value, json};

use crate::credential::{Access, Credential};
use crate::error::Error;
use crate::http::Http;
use crate::options::Tls;
use crate::plan::Plan;
use crate::tls::{CA, CLIENT_CERTIFICATE, CLIENT_KEY, SERVER_CERTIFICATE, SERVER_KEY};

pub(crate) fn arguments(plan: &Plan<'_>, port: u16) -> Vec<String> {
    let name = |member: usize| format!("m{member}");
    let peer = |address: &Ipv4Addr| format!("http://{address}:2380");
    let members: Vec<String> =
        plan.peers.iter().enumerate().map(|(i, address)| format!("{}={}", name(i), peer(address))).collect();
    let scheme = if plan.options.tls == Tls::Off { "http" } else { "https" };
    let mut arguments = vec![
        format!("--name={}", name(plan.member)),
        "--data-dir=/data".to_owned(),
        format!("--listen-client-urls={scheme}://0.0.0.0:2379"),
        format!("--advertise-client-urls={scheme}://127.0.0.1:{port}"),
        // A member joins its peers' network after its start, so it cannot listen on that address only.
        "--listen-peer-urls=http://0.0.0.0:2380".to_owned(),
        format!("--initial-advertise-peer-urls={}", peer(&plan.peers[plan.member])),
        format!("--initial-cluster={}", members.join(",")),
        format!("--initial-cluster-token={}", plan.cluster),
    ];
    if plan.options.tls != Tls::Off {
        arguments.push(format!("--cert-file={SERVER_CERTIFICATE}"));
        arguments.push(format!("--key-file={SERVER_KEY}"));
    }
    if plan.options.tls == Tls::Mutual {
        arguments.push("--client-cert-auth".to_owned());
        arguments.push(format!("--trusted-ca-file={CA}"));
    }
    arguments
}

/// The environment of `etcdctl` in a member's container, so that it needs no options.
pub(crate) fn environment(tls: Tls) -> Vec<(&'static str, &'static str)> {
    match tls {
        Tls::Off => vec![("ETCDCTL_API", "3")],
        Tls::Server | Tls::Mutual => vec![
            ("ETCDCTL_API", "3"),
            ("ETCDCTL_ENDPOINTS", "https://127.0.0.1:2379"),
            ("ETCDCTL_CACERT", CA),
            ("ETCDCTL_CERT", CLIENT_CERTIFICATE),
            ("ETCDCTL_KEY", CLIENT_KEY),
        ],
    }
}

/// Whether a member serves. Its health check is a linearizable read.
pub(crate) async fn serves(http: &Http, member: usize) -> Result<bool, Error> {
    let answer = http.ask_json(member, Method::GET, "/health", None, None).await?;
    Ok(answer["health"] == "true")
}

pub(crate) async fn version(http: &Http) -> Result<String, Error> {
    let answer = http.ask_json(0, Method::GET, "/version", None, None).await?;
    Ok(answer["etcdserver"].as_str().unwrap_or("unknown").to_owned())
}

/// Logs in at a member and returns the header for further requests.
async fn login(http: &Http, member: usize, user: &Credential) -> Result<(&'static str, String), Error> {
    let Credential::User { name, password } = user else {
        return Err(Error::new("etcd has users, not tokens"));
    };
    let body = json!({"name": name, "password": password});
    let session = http.ask_json(member, Method::POST, "/v3/auth/authenticate", Some(&body), None).await?;
    Ok(("Authorization", session["token"].as_str().unwrap_or_default().to_owned()))
}

/// A member's own id and the id of the leader that it sees.
async fn status(http: &Http, member: usize, root: Option<&Credential>) -> Option<(String, String)> {
    let answer = post(http, member, "/v3/maintenance/status", &json!({}), root).await.ok()?;
    let id = |value: &Value| value.as_str().filter(|id| *id != "0").map(str::to_owned);
    Some((id(&answer["header"]["member_id"])?, id(&answer["leader"])?))
}

/// The number of the leader that each member sees; `None` if it sees none or does not answer.
pub(crate) async fn leaders(http: &Http, members: usize, root: Option<&Credential>) -> Vec<Option<usize>> {
    let seen = futures_util::future::join_all((0..members).map(|member| status(http, member, root))).await;
    seen.iter()
        .map(|status| {
            let (_, leader) = status.as_ref()?;
            seen.iter().position(|other| other.as_ref().is_some_and(|(id, _)| id == leader))
        })
        .collect()
}

/// Sends a request to the JSON gateway, as root if there is access control.
async fn post(http: &Http, member: usize, path: &str, body: &Value, root: Option<&Credential>) -> Result<Value, Error> {
    let token = match root {
        // A new login each time: tests may configure short-lived tokens.
        Some(root) => Some(login(http, member, root).await?),
        None => None,
    };
    let header = token.as_ref().map(|(name, value)| (*name, value.as_str()));
    http.ask_json(member, Method::POST, path, Some(body), header).await
}

/// The number of keys, with the revision.
async fn count(http: &Http, member: usize, root: Option<&Credential>) -> Result<Value, Error> {
    let (key, range_end) = range("");
    let everything = json!({"key": STANDARD.encode(key), "range_end": STANDARD.encode(range_end), "count_only": true});
    post(http, member, "/v3/kv/range", &everything, root).await
}

/// Compacts the history up to the current revision.
pub(crate) async fn compact(http: &Http, member: usize, root: Option<&Credential>) -> Result<(), Error> {
    let counted = count(http, member, root).await?;
    let body = json!({"revision": counted["header"]["revision"]});
    post(http, member, "/v3/kv/compaction", &body, root).await.map(drop)
}

/// Makes the leader hand its leadership to another member.
pub(crate) async fn transfer_leader(
    http: &Http,
    leader: usize,
    to: usize,
    root: Option<&Credential>,
) -> Result<(), Error> {
    let (target, _) = status(http, to, root).await.ok_or_else(|| Error::new("a member does not report its id"))?;
    let body = json!({"targetID": target});
    post(http, leader, "/v3/maintenance/transfer-leadership", &body, root).await.map(drop)
}

/// Makes a member return the space that its data no longer needs.
pub(crate) async fn defragment(http: &Http, member: usize, root: Option<&Credential>) -> Result<(), Error> {
    post(http, member, "/v3/maintenance/defragment", &json!({}), root).await.map(drop)
}

pub(crate) async fn census(http: &Http, members: Range<usize>, root: Option<&Credential>) -> Result<Census, Error> {
    let counted = count(http, members.start, root).await?;
    let keys = counted["count"].as_str().and_then(|count| count.parse().ok()).unwrap_or_default();
    let leases = post(http, members.start, "/v3/lease/leases", &json!({}), root).await?;
    let leases = leases["leases"].as_array().map_or(0, Vec::len);
    let connections = http.open_files(members, "/metrics", None).await?;
    Ok(Census { connections, leases, keys })
}

/// Creates the root user and enables authentication.
pub(crate) async fn enable_access_control(http: &Http, root: &Credential) -> Result<(), Error> {
    let Credential::User { name, password } = root else {
        return Err(Error::new("etcd has users, not tokens"));
    };
    let steps = [
        ("role/add", json!({"name": "root"})),
        ("user/add", json!({"name": name, "password": password})),
        ("user/grant", json!({"user": name, "role": "root"})),
        ("enable", json!({})),
    ];
    for (step, body) in steps {
        http.ask_json(0, Method::POST, &format!("/v3/auth/{step}"), Some(&body), None).await?;
    }
    Ok(())
}

/// Creates a user with the permission `access` below `prefix`.
pub(crate) async fn grant(
    http: &Http,
    root: &Credential,
    granted: &Credential,
    prefix: &str,
    access: Access,
) -> Result<(), Error> {
    let Credential::User { name, password } = granted else {
        return Err(Error::new("etcd has users, not tokens"));
    };
    let (header, token) = login(http, 0, root).await?;
    let kind = match access {
        Access::Read => "READ",
        Access::Write => "READWRITE",
    };
    let (key, range_end) = range(prefix);
    let permission = json!({"permType": kind, "key": STANDARD.encode(key), "range_end": STANDARD.encode(range_end)});
    let steps = [
        ("role/add", json!({"name": name})),
        ("role/grant", json!({"name": name, "perm": permission})),
        ("user/add", json!({"name": name, "password": password})),
        ("user/grant", json!({"user": name, "role": name})),
    ];
    for (step, body) in steps {
        let path = format!("/v3/auth/{step}");
        http.ask_json(0, Method::POST, &path, Some(&body), Some((header, &token))).await?;
    }
    Ok(())
}

/// Removes the role from a user.
pub(crate) async fn revoke(http: &Http, root: &Credential, granted: &Credential) -> Result<(), Error> {
    let Credential::User { name, .. } = granted else {
        return Err(Error::new("etcd has users, not tokens"));
    };
    let body = json!({"name": name, "role": name});
    post(http, 0, "/v3/auth/user/revoke", &body, Some(root)).await.map(drop)
}

/// The half-open range of all keys that begin with a prefix, in etcd's form.
fn range(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    let start = prefix.as_bytes().to_vec();
    let mut end = start.clone();
    match end.last_mut() {
        // UTF-8 has no byte 0xff, so there is no carry.
        Some(last) => *last += 1,
        None => return (vec![0], vec![0]),
    }
    (start, end)
}
