//! The settings of an address and of the environment: endpoints, credentials and parameters (clauses
//! [A1](kv_core::contract::CLAUSES#A1) and [A2](kv_core::contract::CLAUSES#A2)).

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use kv_core::backend::{Address, Credentials, HostPort};
use kv_core::{Error, Result};

use crate::transport::tls::{self, Tls};

/// The name of this backend in errors and events.
pub(crate) const NAME: &str = "etcd";

/// etcd's default port for clients.
const PORT: u16 = 2379;

/// Everything that does not change while connected.
pub(crate) struct Config {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) credentials: Option<Credentials>,
    /// The request timeout of the address. It limits work in the background; calls have the timeout of their handle.
    pub(crate) timeout: Duration,
    /// The endpoint answers reads from its own state, which may be stale.
    pub(crate) serializable: bool,
}

/// One member's client address.
pub(crate) struct Endpoint {
    /// `host:port`, for `TcpStream::connect` and for errors.
    pub(crate) address: Arc<str>,
    /// The scheme and the authority of requests.
    pub(crate) origin: Uri,
    /// The settings of TLS, if the connection is encrypted.
    pub(crate) tls: Option<Tls>,
}

impl Config {
    pub(crate) fn read(address: &Address) -> Result<Self> {
        let encrypted = matches!(&*address.scheme, "etcds" | "https");
        for parameter in ["ca", "cert", "key", "server-name"] {
            if address.parameter(parameter).is_some() && !encrypted {
                return Err(tls::needed_by(parameter));
            }
        }
        let hosts = if address.hosts.is_empty() {
            default_hosts(address, encrypted)?
        } else {
            address.hosts.iter().map(|host| (host.clone(), encrypted)).collect()
        };
        // The files of certificates are read only if an endpoint uses TLS.
        let any_encrypted = hosts.iter().any(|(_, encrypted)| *encrypted);
        let client = if any_encrypted { Some(tls::client_config(address)?) } else { None };
        let server_name = address.parameter("server-name");
        let endpoints = hosts.into_iter().map(|(host, encrypted)| {
            let tls = client.as_ref().filter(|_| encrypted);
            Endpoint::new(&host, tls.map(|client| Tls::new(Arc::clone(client), server_name.unwrap_or(&host.host))))
        });
        Ok(Self {
            endpoints: endpoints.collect::<Result<_>>()?,
            credentials: credentials(address),
            timeout: address.timeout,
            serializable: serializable(address)?,
        })
    }
}

impl Endpoint {
    fn new(host: &HostPort, tls: Option<Result<Tls>>) -> Result<Self> {
        let address = host.with_port(PORT);
        let tls = tls.transpose()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let origin = Uri::builder().scheme(scheme).authority(address.as_str()).path_and_query("/").build();
        let origin = origin.map_err(|_| Error::invalid_address(format!("{address} is not a host and a port")))?;
        Ok(Self { address: address.into(), origin, tls })
    }
}

/// The endpoints of the environment, or else the local machine; each with whether it uses TLS.
fn default_hosts(address: &Address, encrypted: bool) -> Result<Vec<(HostPort, bool)>> {
    const VARIABLE: &str = "ETCDCTL_ENDPOINTS";
    let Some(list) = address.environment(VARIABLE) else {
        return Ok(vec![(HostPort { host: "127.0.0.1".to_owned(), port: None }, encrypted)]);
    };
    // etcd's own tools use TLS for an endpoint without a scheme if certificates are set.
    let certificates = ["ETCDCTL_CACERT", "ETCDCTL_CERT"].into_iter().any(|name| address.environment(name).is_some());
    let encrypted = encrypted || (address.scheme.is_empty() && certificates);
    let parse = |text: &str| {
        let (scheme, _) = text.split_once("://").unwrap_or(("", text));
        let encrypted = match scheme {
            "" => encrypted,
            "http" => false,
            "https" => true,
            _ => return Err(Error::invalid_address(format!("{VARIABLE} has an endpoint that is not http or https"))),
        };
        let text = if scheme.is_empty() { format!("http://{text}") } else { text.to_owned() };
        let parsed = Address::parse(text.trim_end_matches('/'), kv_core::Environment::default())
            .map_err(|error| Error::invalid_address(format!("{VARIABLE}: {error}")))?;
        let host = parsed.hosts.into_iter().next();
        host.map(|host| (host, encrypted)).ok_or_else(|| Error::invalid_address(format!("{VARIABLE} names no host")))
    };
    list.split(',').map(|text| parse(text.trim())).collect()
}

fn credentials(address: &Address) -> Option<Credentials> {
    let mut credentials = address.credentials.clone().or_else(|| {
        let text = address.environment("ETCDCTL_USER")?;
        let (user, password) = text.split_once(':').unwrap_or((&text, ""));
        Some(Credentials { user: user.to_owned(), password: password.to_owned() })
    })?;
    if credentials.password.is_empty() {
        credentials.password = address.environment("ETCDCTL_PASSWORD").unwrap_or_default();
    }
    Some(credentials)
}

fn serializable(address: &Address) -> Result<bool> {
    match address.parameter("consistency") {
        None | Some("linearizable") => Ok(false),
        Some("serializable") => Ok(true),
        Some(_) => Err(Error::invalid_address("parameter `consistency` is neither `linearizable` nor `serializable`")),
    }
}

#[cfg(test)]
mod tests {
    use kv_core::Environment;

    use super::*;

    fn read<const N: usize>(address: &str, variables: [(&str, &str); N]) -> Result<Config> {
        Config::read(&Address::parse(address, Environment::from(variables))?)
    }

    fn origins(config: &Config) -> Vec<String> {
        config.endpoints.iter().map(|endpoint| endpoint.origin.to_string()).collect()
    }

    #[test]
    fn hosts_come_from_the_address_then_the_environment_then_the_default() {
        let environment = [("ETCDCTL_ENDPOINTS", "http://e:1, f:2")];
        assert_eq!(origins(&read("etcd://a,b:7/root", environment).expect("hosts")), ["http://a:2379/", "http://b:7/"]);
        assert_eq!(origins(&read("etcd://", environment).expect("environment")), ["http://e:1/", "http://f:2/"]);
        assert_eq!(origins(&read("", environment).expect("generic")), ["http://e:1/", "http://f:2/"]);
        assert_eq!(origins(&read("", []).expect("default")), ["http://127.0.0.1:2379/"]);
        assert!(read("", [("ETCDCTL_ENDPOINTS", "unix://socket")]).is_err());
    }

    #[test]
    fn credentials_of_the_address_win_over_those_of_the_environment() {
        let environment = [("ETCDCTL_USER", "root:secret")];
        let user = |address| read(address, environment).expect(address).credentials.expect("credentials");
        assert_eq!((&*user("etcd://a").user, &*user("etcd://a").password), ("root", "secret"));
        assert_eq!((&*user("etcd://me:mine@a").user, &*user("etcd://me:mine@a").password), ("me", "mine"));
        let split = read("etcd://a", [("ETCDCTL_USER", "root"), ("ETCDCTL_PASSWORD", "pw")]).expect("split");
        assert_eq!(split.credentials.expect("credentials").password, "pw");
        assert!(read("etcd://a", []).expect("none").credentials.is_none());
    }

    #[test]
    fn an_unusable_parameter_is_refused_by_its_name() {
        for (address, word) in [
            ("etcd://a?ca=/ca.pem", "`ca`"),
            ("etcd://a?consistency=weak", "`consistency`"),
            #[cfg(feature = "tls")]
            ("etcds://a?ca=/no/such/file.pem", "`ca`"),
            #[cfg(feature = "tls")]
            ("etcds://a?cert=/no/such/file.pem", "`key`"),
        ] {
            let error = read(address, []).err().expect(address).to_string();
            assert!(error.contains(word), "{address}: {error}");
        }
    }
    #[test]
    #[cfg(not(feature = "tls"))]
    fn without_the_feature_an_address_that_needs_tls_is_refused() {
        for result in [
            read("etcds://a", []),
            read("https://a", []),
            read("etcds://a?ca=/ca.pem", []),
            read("etcd://a?ca=/ca.pem", []),
            read("", [("ETCDCTL_ENDPOINTS", "https://a")]),
            read("", [("ETCDCTL_CACERT", "/ca.pem"), ("ETCDCTL_ENDPOINTS", "a")]),
        ] {
            let error = result.err().expect("it is refused");
            assert!(matches!(error, Error::InvalidAddress { .. }), "{error:?}");
            assert!(error.to_string().contains("feature `tls`"), "{error}");
        }
        assert_eq!(origins(&read("etcd://a", [("ETCDCTL_CACERT", "/ca.pem")]).expect("plain")), ["http://a:2379/"]);
    }
}
