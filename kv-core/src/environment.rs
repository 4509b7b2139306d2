//! Environment variables as a value, so that a test can supply its own.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a backend looks up what the address leaves open ([clause A2](crate::contract::CLAUSES#A2)): the process's
/// environment, or a fixed map.
///
/// ```
/// # use kv_core::Environment;
/// let environment = Environment::from([("CONSUL_HTTP_ADDR", "10.0.0.1:8500")]);
/// assert_eq!(environment.get("CONSUL_HTTP_ADDR").as_deref(), Some("10.0.0.1:8500"));
/// assert_eq!(environment.get("HOME"), None);
/// ```
#[derive(Clone, Default)]
pub struct Environment {
    /// None stands for the environment of the process.
    fixed: Option<Arc<BTreeMap<String, String>>>,
}

impl Environment {
    /// The environment of this process; the default.
    pub fn of_process() -> Self {
        Self { fixed: None }
    }

    /// The value of a variable; an empty one counts as absent, as for the stores' own tools.
    pub fn get(&self, name: &str) -> Option<String> {
        let value = match &self.fixed {
            Some(variables) => variables.get(name).cloned(),
            None => std::env::var(name).ok(),
        };
        value.filter(|value| !value.is_empty())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self { fixed: Some(Arc::new(variables.collect())) }
    }
}

impl std::fmt::Debug for Environment {
    /// Shows no variable: some hold tokens and passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.fixed.is_some() { "Environment(fixed)" } else { "Environment(process)" })
    }
}
