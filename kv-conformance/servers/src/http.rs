//! The HTTP client for requests to servers.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::Value;

use crate::error::{Doing, Error};
use crate::tls::{self, Certificates};

/// The timeout of requests about all data of a store.
const LONG: Duration = Duration::from_secs(30);

/// Sends requests to the members of one cluster, each by its number.
#[derive(Debug)]
pub(crate) struct Http {
    client: Client,
    /// The base URL of each member, such as `https://127.0.0.1:PORT`.
    bases: Vec<String>,
}

impl Http {
    pub(crate) fn new(bases: Vec<String>, certificates: Option<&Certificates>) -> Result<Self, Error> {
        let tls = certificates.map_or_else(tls::no_tls, Certificates::client_config)?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .timeout(Duration::from_secs(2))
            // Connections are not reused, because a failure of one from before a fault would say nothing about the
            // server.
            .pool_max_idle_per_host(0)
            .build()
            .doing("cannot set up an HTTP client")?;
        Ok(Self { client, bases })
    }

    fn request(
        &self,
        member: usize,
        method: Method,
        path: &str,
        header: Option<(&str, &str)>,
    ) -> (String, RequestBuilder) {
        let url = format!("{}{path}", self.bases[member]);
        let request = self.client.request(method, &url);
        let request = if let Some((name, value)) = header { request.header(name, value) } else { request };
        (url, request)
    }

    /// Sends a request to a member, with an optional JSON body and header. Returns the status and the body.
    pub(crate) async fn ask(
        &self,
        member: usize,
        method: Method,
        path: &str,
        body: Option<&Value>,
        header: Option<(&str, &str)>,
    ) -> Result<(StatusCode, String), Error> {
        let (url, mut request) = self.request(member, method, path, header);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.doing(&url)?;
        let status = response.status();
        Ok((status, response.text().await.doing(&url)?))
    }

    /// Sends a request whose answer is JSON. Any status but success is an error.
    pub(crate) async fn ask_json(
        &self,
        member: usize,
        method: Method,
        path: &str,
        body: Option<&Value>,
        header: Option<(&str, &str)>,
    ) -> Result<Value, Error> {
        let (status, text) = self.ask(member, method, path, body, header).await?;
        if !status.is_success() {
            return Err(Error::new(format!("{path}: {status}: {}", text.trim())));
        }
        serde_json::from_str(&text).doing(format!("{path}: {text}"))
    }

    /// Sends a request whose body and answer are bytes. Any status but success is an error.
    pub(crate) async fn send(
        &self,
        member: usize,
        method: Method,
        path: &str,
        body: Bytes,
        header: Option<(&str, &str)>,
    ) -> Result<Bytes, Error> {
        let (url, request) = self.request(member, method, path, header);
        let response = request.body(body).timeout(LONG).send().await.doing(&url)?;
        let status = response.status();
        let answer = response.bytes().await.doing(&url)?;
        if !status.is_success() {
            return Err(Error::new(format!("{path}: {status}: {}", String::from_utf8_lossy(&answer).trim())));
        }
        Ok(answer)
    }

    /// How many files the members have open, with connections, according to their metrics at `path`.
    pub(crate) async fn open_files(
        &self,
        members: Range<usize>,
        path: &str,
        header: Option<(&str, &str)>,
    ) -> Result<usize, Error> {
        let mut open = 0;
        for member in members {
            let (_, text) = self.ask(member, Method::GET, path, None, header).await?;
            let open_files = text.lines().find_map(|line| line.strip_prefix("process_open_fds "));
            open += open_files
                .and_then(|number| number.trim().parse::<usize>().ok())
                .ok_or_else(|| Error::new(format!("{path} does not contain the number of open files: {text}")))?;
        }
        Ok(open)
    }
}
