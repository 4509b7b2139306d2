//! The settings from the address and the environment: clauses [A1](kv_core::contract::CLAUSES#A1) and
//! [A2](kv_core::contract::CLAUSES#A2).

use std::ops::RangeInclusive;
use std::time::Duration;

use hyper::header::HeaderValue;
use kv_core::backend::{Address, HostPort};
use kv_core::{Error, Result};

use crate::api::path;

/// The name of this backend in addresses, errors and events.
pub(crate) const NAME: &str = "consul";

/// Consul's own default port.
const PORT: u16 = 8500;

/// The longest lock delay that Consul enforces. Consul stores a longer one, but ignores it.
const MAX_LOCK_DELAY: Duration = Duration::from_secs(60);

/// The most connections of a handle to an agent, unless the address says otherwise. An agent takes 200 from one address
/// (`limits.http_max_conns_per_client`), so six processes on one machine fit.
const CONNECTIONS: usize = 32;

/// The numbers of connections that an address may ask for: at least one for each purpose, and at most what an agent
/// accepts.
const CONNECTIONS_ALLOWED: RangeInclusive<usize> = 4..=10_000;

/// The consistency of reads that are not part of a watch or lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consistency {
    /// The leader asks a quorum whether it is still the leader.
    Consistent,
    /// The leader trusts its lease.
    Default,
    /// Any server answers.
    Stale,
}

impl Consistency {
    /// The query parameter that asks for it.
    pub(crate) fn parameter(self) -> &'static str {
        match self {
            Self::Consistent => "consistent",
            Self::Default => "",
            Self::Stale => "stale",
        }
    }
}

/// The PEM files that configure TLS.
#[derive(Debug, Clone, Default)]
#[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "a build without TLS has no use for files"))]
pub(crate) struct TlsFiles {
    /// The authorities to trust instead of the system's.
    pub(crate) ca: Option<String>,
    /// The client's certificate, followed by its chain.
    pub(crate) cert: Option<String>,
    /// The private key of the client's certificate.
    pub(crate) key: Option<String>,
}

/// The settings of an address, completed from the environment.
pub(crate) struct Config {
    /// The agents, at least one.
    pub(crate) hosts: Vec<HostPort>,
    /// `None` for plain text.
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) server_name: Option<String>,
    /// Both headers are marked as sensitive, so that nothing prints them.
    pub(crate) token: Option<HeaderValue>,
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) datacenter: Option<String>,
    pub(crate) consistency: Consistency,
    pub(crate) lock_delay: Duration,
    /// The most connections to an agent.
    pub(crate) connections: usize,
}

impl Config {
    pub(crate) fn read(address: &Address) -> Result<Self> {
        path::check_root(&address.root)?;
        let (hosts, secure) = hosts(address)?;
        for parameter in ["ca", "cert", "key", "server-name"] {
            if address.parameter(parameter).is_some() && !secure {
                return Err(tls_needed_by(parameter));
            }
        }
        let lock_delay = address.duration("lock-delay")?.unwrap_or_default();
        if lock_delay > MAX_LOCK_DELAY {
            return Err(Error::invalid_address(format!("parameter `lock-delay` is over {MAX_LOCK_DELAY:?}")));
        }
        let consistency = match address.parameter("consistency") {
            None | Some("consistent") => Consistency::Consistent,
            Some("default") => Consistency::Default,
            Some("stale") => Consistency::Stale,
            Some(_) => {
                let what = "parameter `consistency` is none of `consistent`, `default` and `stale`";
                return Err(Error::invalid_address(what));
            }
        };
        Ok(Self {
            hosts,
            tls: secure.then(|| tls_files(address)).transpose()?,
            server_name: address.setting("server-name", "CONSUL_TLS_SERVER_NAME").filter(|_| secure),
            token: token(address)?,
            authorization: authorization(address)?,
            datacenter: address.parameter("datacenter").map(str::to_owned),
            consistency,
            lock_delay,
            connections: connections(address)?,
        })
    }
}

fn connections(address: &Address) -> Result<usize> {
    let Some(text) = address.parameter("connections") else { return Ok(CONNECTIONS) };
    let number = text.parse().ok().filter(|number| CONNECTIONS_ALLOWED.contains(number));
    number.ok_or_else(|| {
        let (least, most) = (CONNECTIONS_ALLOWED.start(), CONNECTIONS_ALLOWED.end());
        Error::invalid_address(format!("parameter `connections` is no number from {least} to {most}"))
    })
}

/// The error for a TLS parameter in an address that does not use TLS.
fn tls_needed_by(parameter: &str) -> Error {
    if cfg!(feature = "tls") {
        Error::invalid_address(format!("parameter `{parameter}` needs TLS: write `consuls://`"))
    } else {
        tls_missing(&format!("parameter `{parameter}`"))
    }
}

fn tls_missing(what: &str) -> Error {
    Error::invalid_address(format!("{what} needs kv-consul's feature `tls`, which this program is built without"))
}

/// The files that the address and the environment name.
fn tls_files(address: &Address) -> Result<TlsFiles> {
    if cfg!(not(feature = "tls")) {
        return Err(tls_missing("TLS"));
    }
    if address.environment("CONSUL_HTTP_SSL_VERIFY").is_some_and(|value| is_false(&value)) {
        let what = "CONSUL_HTTP_SSL_VERIFY turns verification off, which is not supported: name the authority in `ca`";
        return Err(Error::invalid_address(what));
    }
    Ok(TlsFiles {
        ca: address.setting("ca", "CONSUL_CACERT"),
        cert: address.setting("cert", "CONSUL_CLIENT_CERT"),
        key: address.setting("key", "CONSUL_CLIENT_KEY"),
    })
}

/// The agents, and whether they use TLS.
fn hosts(address: &Address) -> Result<(Vec<HostPort>, bool)> {
    let secure = matches!(&*address.scheme, "consuls" | "https");
    if !address.hosts.is_empty() {
        let hosts = address.hosts.iter().map(|host| with_port(host, PORT)).collect();
        return Ok((hosts, secure));
    }
    let wanted = address.environment("CONSUL_HTTP_SSL").is_some_and(|value| is_true(&value));
    let Some(text) = address.environment("CONSUL_HTTP_ADDR") else {
        let host = HostPort { host: "127.0.0.1".to_owned(), port: Some(PORT) };
        return Ok((vec![host], secure || wanted));
    };
    let wrong = |why: &str| Error::invalid_address(format!("CONSUL_HTTP_ADDR {why}"));
    let (scheme, rest) = text.split_once("://").unwrap_or(("", &text));
    match scheme {
        "" | "http" | "https" => {}
        "unix" => return Err(wrong("names a Unix socket, which is not supported: name a host and port")),
        _ => return Err(wrong("has a scheme that is neither http nor https")),
    }
    let rest = rest.split('/').next().unwrap_or_default();
    let parsed = Address::parse(&format!("consul://{rest}"), kv_core::Environment::from([]))
        .map_err(|_| wrong("is not a host and port"))?;
    if parsed.hosts.is_empty() || parsed.credentials.is_some() {
        return Err(wrong("is not a host and port"));
    }
    // The native tools use the scheme's own port here, and Consul's if there is no scheme.
    let port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => PORT,
    };
    let hosts = parsed.hosts.iter().map(|host| with_port(host, port)).collect();
    Ok((hosts, secure || wanted || scheme == "https"))
}

fn with_port(host: &HostPort, port: u16) -> HostPort {
    HostPort { host: host.host.clone(), port: host.port.or(Some(port)) }
}

fn token(address: &Address) -> Result<Option<HeaderValue>> {
    let from_file = || {
        let Some(path) = address.environment("CONSUL_HTTP_TOKEN_FILE") else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::invalid_address(format!("CONSUL_HTTP_TOKEN_FILE cannot be read: {error}")))?;
        Ok(Some(text.trim().to_owned()))
    };
    let token = match address.setting("token", "CONSUL_HTTP_TOKEN") {
        Some(token) => Some(token),
        None => from_file()?,
    };
    token.map(|token| secret(&token, "the token")).transpose()
}

fn authorization(address: &Address) -> Result<Option<HeaderValue>> {
    use base64::Engine as _;
    let given = address.credentials.as_ref().map(|given| format!("{}:{}", given.user, given.password));
    let Some(text) = given.or_else(|| address.environment("CONSUL_HTTP_AUTH")) else { return Ok(None) };
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    secret(&format!("Basic {encoded}"), "the user name and password").map(Some)
}

fn secret(text: &str, what: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Error::invalid_address(format!("{what} cannot stand in an HTTP header")))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether Go's `strconv.ParseBool`, which the native tools use, reads it as true.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// Whether Go's `strconv.ParseBool` reads it as false.
fn is_false(text: &str) -> bool {
    matches!(text, "0" | "f" | "F" | "false" | "FALSE" | "False")
}

#[cfg(test)]
mod tests {
    use kv_core::Environment;

    use super::*;

    fn read<const N: usize>(address: &str, environment: [(&str, &str); N]) -> Result<Config> {
        Config::read(&Address::parse(address, Environment::from(environment))?)
    }

    fn hosts_of(config: &Config) -> Vec<String> {
        config.hosts.iter().map(|host| host.with_port(0)).collect()
    }

    #[test]
    fn the_address_takes_precedence_over_the_environment() {
        let environment = [("CONSUL_HTTP_ADDR", "https://h:1"), ("CONSUL_HTTP_SSL", "true")];
        let config = read("consul://a,b:2/app", environment).expect("valid");
        assert_eq!(hosts_of(&config), ["a:8500", "b:2"]);
        assert!(config.tls.is_none());
    }

    #[test]
    #[cfg(feature = "tls")]
    fn the_address_or_the_environment_asks_for_tls() {
        assert!(read("consuls://a", []).expect("valid").tls.is_some());
        assert!(read("", [("CONSUL_HTTP_ADDR", "https://h:1")]).expect("valid").tls.is_some());
        assert!(read("", [("CONSUL_HTTP_SSL", "1")]).expect("valid").tls.is_some());
        let by_environment = read("consul://?server-name=n", [("CONSUL_HTTP_SSL", "1")]).expect("valid");
        assert_eq!(by_environment.server_name.as_deref(), Some("n"));
    }

    #[test]
    #[cfg(not(feature = "tls"))]
    fn an_address_that_needs_tls_names_the_feature() {
        for result in [
            read("consuls://a", []),
            read("https://a", []),
            read("consuls://a?ca=/ca.pem", []),
            read("consul://a?ca=/ca.pem", []),
            read("", [("CONSUL_HTTP_ADDR", "https://h:1")]),
            read("", [("CONSUL_HTTP_SSL", "1")]),
        ] {
            let error = result.err().expect("it is refused");
            assert!(matches!(error, Error::InvalidAddress { .. }), "{error:?}");
            assert!(error.to_string().contains("feature `tls`"), "{error}");
        }
        assert!(read("consul://a", [("CONSUL_CACERT", "/ca.pem")]).expect("plain").tls.is_none());
    }

    #[test]
    fn the_environment_completes_the_address() {
        let of = |text| read("", [("CONSUL_HTTP_ADDR", text)]);
        assert_eq!(hosts_of(&read("", []).expect("valid")), ["127.0.0.1:8500"]);
        assert_eq!(hosts_of(&of("10.0.0.1").expect("valid")), ["10.0.0.1:8500"]);
        assert_eq!(hosts_of(&of("h:1").expect("valid")), ["h:1"]);
        assert_eq!(hosts_of(&of("http://h").expect("valid")), ["h:80"]);
        for text in ["unix:///run/consul", "ftp://h", "h:x", "u:p@h:1", "http://"] {
            assert!(matches!(of(text), Err(Error::InvalidAddress { .. })), "{text}");
        }
    }

    #[test]
    fn secrets_are_marked_as_sensitive() {
        let config = read("consul://u:pass@a?token=hidden", []).expect("valid");
        for value in [config.token, config.authorization] {
            let value = value.expect("given");
            assert_eq!(format!("{value:?}"), "Sensitive");
        }
        let error = read("consul://a?token=%0ahidden", []).err().expect("refused").to_string();
        assert!(!error.contains("hidden"), "{error}");
        let config = read("consul://a", [("CONSUL_HTTP_TOKEN", "t")]).expect("valid");
        assert_eq!(config.token.expect("given"), "t");
    }

    #[test]
    fn unsupported_settings_are_refused() {
        for address in [
            "consul://a/a//b",
            "consul://a?consistency=weak",
            "consul://a?lock-delay=61s",
            "consul://a?ca=/ca.pem",
            "consul://a?connections=3",
            "consul://a?connections=many",
        ] {
            let result = read(address, []);
            assert!(matches!(result, Err(Error::InvalidAddress { .. })), "{address}");
        }
        let insecure = read("consuls://a", [("CONSUL_HTTP_SSL_VERIFY", "false")]);
        assert!(matches!(insecure, Err(Error::InvalidAddress { .. })));
    }
}
