//! Addresses: `scheme://[user:password@]host[:port][,host…][/root][?parameter=value&…]`
//! ([clause A1](crate::contract::CLAUSES#A1)).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use url::Host;

use crate::{Environment, Error, Result};

/// The request timeout of an address that names none.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The parts of an address, as a backend receives them.
///
/// Every part may percent-encode any byte; `+` means itself. The root is the path without its first `/`, with a `/`
/// added at its end if it is missing. Neither `Debug` nor an error shows a password or the value of a parameter.
///
/// ```
/// # use kv_core::{Environment, backend::Address};
/// let address = Address::parse("etcd://a:2379,b/app?timeout=2s", Environment::default())?;
/// assert_eq!(address.scheme, "etcd");
/// assert_eq!(address.hosts.len(), 2);
/// assert_eq!(address.hosts[0].with_port(2379), "a:2379");
/// assert_eq!(address.root, "app/");
/// # Ok::<(), kv_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Address {
    /// The scheme, in lower case; empty in the empty address.
    pub scheme: String,
    /// The hosts, in order; if the address names none, the backend uses its default.
    pub hosts: Vec<HostPort>,
    /// The user to log in as, if the address names one.
    pub credentials: Option<Credentials>,
    /// What every key begins with: empty, or any string that ends in `/`.
    pub root: String,
    /// The request timeout ([clause A6](crate::contract::CLAUSES#A6)).
    pub timeout: Duration,
    /// The parameters but `timeout`, by name.
    parameters: BTreeMap<String, String>,
    /// Where settings come from that the address leaves open.
    environment: Environment,
}

/// A host, with its port if one was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    pub host: String,
    /// The port, if the address names one.
    pub port: Option<u16>,
}

impl HostPort {
    /// `host:port`, with the given port if the address names none.
    pub fn with_port(&self, default: u16) -> String {
        format!("{}:{}", self.host, self.port.unwrap_or(default))
    }
}

/// What stands between the scheme and the path, beside the credentials.
#[derive(Clone, Copy)]
enum Authority {
    Hosts,
    Name,
}

/// A user name and a password; `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user name.
    pub user: String,
    /// The password; empty if none was given.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

impl Address {
    /// Parses an address; the empty one is valid and names nothing.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`] naming the part that is wrong, never quoting what may be a secret.
    pub fn parse(text: &str, environment: Environment) -> Result<Self> {
        Self::parse_as(text, environment, Authority::Hosts)
    }

    /// Parses an address whose authority is the name of a store: `memory://NAME/root`.
    ///
    /// The name is decoded and otherwise kept as it is, whatever characters it has: it is the only host, without a
    /// port.
    ///
    /// ```
    /// # use kv_core::Environment;
    /// # use kv_core::backend::Address;
    /// let address = Address::parse_named("memory://my_crate::tests/app", Environment::default())?;
    /// assert_eq!(address.hosts[0].host, "my_crate::tests");
    /// assert_eq!(address.root, "app/");
    /// # Ok::<(), kv_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_named(text: &str, environment: Environment) -> Result<Self> {
        Self::parse_as(text, environment, Authority::Name)
    }

    fn parse_as(text: &str, environment: Environment, kind: Authority) -> Result<Self> {
        let mut address = Self {
            scheme: String::new(),
            hosts: Vec::new(),
            credentials: None,
            root: String::new(),
            timeout: DEFAULT_TIMEOUT,
            parameters: BTreeMap::new(),
            environment,
        };
        if text.is_empty() {
            return Ok(address);
        }
        let (scheme, rest) = text
            .split_once("://")
            .filter(|(scheme, _)| is_scheme(scheme))
            .ok_or_else(|| Error::invalid_address("it does not begin with a scheme, as in `etcd://host:2379/root`"))?;
        address.scheme = scheme.to_ascii_lowercase();
        if rest.contains('#') {
            return Err(Error::invalid_address("it contains `#`: write `%23`"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        address.parse_authority(authority, kind)?;
        address.root = decode(path, "the root")?;
        if address.root.contains('\0') {
            return Err(Error::invalid_address("the root contains a NUL byte"));
        }
        if !address.root.is_empty() && !address.root.ends_with('/') {
            address.root.push('/');
        }
        address.parse_query(query)?;
        Ok(address)
    }

    /// The value of a parameter of the address.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The names of the parameters, `timeout` excepted, sorted.
    pub fn parameter_names(&self) -> impl Iterator<Item = &str> {
        self.parameters.keys().map(String::as_str)
    }

    /// The value of an environment variable ([clause A2](crate::contract::CLAUSES#A2)).
    pub fn environment(&self, variable: &str) -> Option<String> {
        self.environment.get(variable)
    }

    /// The value of a parameter, or else of an environment variable ([clause A2](crate::contract::CLAUSES#A2)).
    pub fn setting(&self, parameter: &str, variable: &str) -> Option<String> {
        self.parameter(parameter).map(str::to_owned).or_else(|| self.environment(variable))
    }

    /// A parameter that is a duration: a whole number with a unit, `ms`, `s`, `m` or `h`.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`] naming the parameter.
    pub fn duration(&self, parameter: &str) -> Result<Option<Duration>> {
        self.parameter(parameter).map(|text| parse_duration(text, parameter)).transpose()
    }

    /// A parameter that is a whole number.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`] naming the parameter.
    pub fn number(&self, parameter: &str) -> Result<Option<u64>> {
        let parse = |text: &str| {
            text.parse().map_err(|_| Error::invalid_address(format!("parameter `{parameter}` is not a whole number")))
        };
        self.parameter(parameter).map(parse).transpose()
    }

    fn parse_authority(&mut self, authority: &str, kind: Authority) -> Result<()> {
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(credentials), hosts),
            None => (None, authority),
        };
        if let Some(text) = credentials {
            let (user, password) = text.split_once(':').unwrap_or((text, ""));
            let (user, password) = (decode(user, "the user name")?, decode(password, "the password")?);
            self.credentials = Some(Credentials { user, password });
        }
        if !hosts.is_empty() {
            self.hosts = match kind {
                Authority::Hosts => {
                    hosts.split(',').enumerate().map(|(i, host)| parse_host(host, i + 1)).collect::<Result<_>>()?
                }
                Authority::Name => vec![HostPort { host: decode(hosts, "the name")?, port: None }],
            };
        }
        Ok(())
    }

    fn parse_query(&mut self, query: &str) -> Result<()> {
        let mut timeout = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // The name is not quoted: it may be the rest of a password that contains an unescaped `?`.
            if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
                return Err(Error::invalid_address(
                    "the name of a parameter has other characters than letters, digits, `-`, `_`",
                ));
            }
            let value = decode(value, &format!("parameter `{name}`"))?;
            let before = match name {
                "timeout" => timeout.replace(value),
                _ => self.parameters.insert(name.to_owned(), value),
            };
            if before.is_some() {
                return Err(Error::invalid_address(format!("parameter `{name}` is given twice")));
            }
        }
        if let Some(timeout) = timeout {
            self.timeout = parse_duration(&timeout, "timeout")?;
            if self.timeout.is_zero() {
                return Err(Error::invalid_address("parameter `timeout` is zero"));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    /// Shows the names of parameters, not their values: a token may be among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address")
            .field("scheme", &self.scheme)
            .field("hosts", &self.hosts)
            .field("root", &self.root)
            .field("parameters", &self.parameters.keys())
            .finish_non_exhaustive()
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// No message quotes the host: it may be part of a password that contains an unescaped `/`.
fn parse_host(text: &str, position: usize) -> Result<HostPort> {
    let hint = "if the password holds `/`, `?`, `#`, `,`, `:` or `@`, percent-encode it";
    let wrong = |what: &str| Error::invalid_address(format!("host {position} {what}; {hint}"));
    // The last colon, unless it is inside the brackets of an IPv6 address.
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    if host.is_empty() {
        return Err(wrong("is empty"));
    }
    let host = Host::parse(&decode(host, "a host")?).map_err(|_| wrong("is neither a name nor an IP address"))?;
    let port = port.map(|port| port.parse().ok().filter(|port| *port != 0)).map_or(Ok(None), |port| {
        port.map(Some).ok_or_else(|| wrong("has a port that is not a number from 1 to 65535"))
    })?;
    Ok(HostPort { host: host.to_string(), port })
}

/// Decodes percent-encoding strictly: `%zz` is an error, and so are bytes that are not UTF-8.
fn decode(text: &str, what: &str) -> Result<String> {
    let valid = text.split('%').skip(1).all(|after| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if !valid {
        return Err(Error::invalid_address(format!("{what} has a `%` without two hexadecimal digits after it")));
    }
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| Error::invalid_address(format!("{what} is not UTF-8 once decoded")))
}

fn parse_duration(text: &str, parameter: &str) -> Result<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let millis = match &text[digits..] {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let number = text[..digits].parse::<u64>().ok();
    millis.zip(number).and_then(|(millis, number)| number.checked_mul(millis)).map(Duration::from_millis).ok_or_else(
        || Error::invalid_address(format!("parameter `{parameter}` is not a duration such as `500ms`, `5s` or `2m`")),
    )
}
