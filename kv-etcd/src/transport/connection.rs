//! One connection to one endpoint: TCP, TLS, HTTP/2, and a first call that checks the server.
//!
//! This module makes the connection itself. A tonic channel would reconnect on its own, and then it would be unknown
//! whether a request was sent ([clause W6](kv_core::contract::CLAUSES#W6)).

use std::error::Error as _;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use http::uri::PathAndQuery;
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::api::messages::{Call, RangeResponse, StatusRequest, StatusResponse};
use crate::api::range::Range;
use crate::config::Endpoint;
use crate::error::{FirstCall, Unreachable};
use crate::transport::health::{Health, Waiting};
use crate::transport::http2::{Driver, Sender, Volume, handshake};

/// The most bytes of one message. The decoder allocates them as soon as it knows the length, and the decoded message
/// may take many times as much. An answer over the limit is requested again in smaller parts.
const MESSAGE: usize = 64 << 20;

/// The key that is read to find out whether the cluster can serve, as etcd's own health check does.
pub(crate) const HEALTH: &str = "health";

/// A connection to an etcd member that had a leader when it was made.
pub(crate) struct Connection {
    sender: Sender,
    origin: http::Uri,
    /// The number of its endpoint, in the order of the configuration.
    pub(crate) endpoint: usize,
    /// The address of its endpoint, for errors.
    pub(crate) address: Arc<str>,
    driver: Driver,
    /// The calls of `ping`, if they were sent together with the first call.
    early_ping: Mutex<Option<EarlyPing>>,
}

struct EarlyPing {
    sent: Instant,
    answers: JoinHandle<Ping>,
}

/// What the calls of `ping` were answered.
pub(crate) struct Ping {
    pub(crate) read: Result<RangeResponse, Status>,
    pub(crate) status: Result<StatusResponse, Status>,
}

/// Sends calls on a new connection together with its first call, so that they cost no round trip of their own. Returns
/// the task to end if the connection is not used.
pub(crate) type Companions = Arc<dyn Fn(&Arc<Connection>) -> Option<AbortHandle> + Send + Sync>;

/// Ends a task when it is dropped.
struct EndsTask(Option<AbortHandle>);

impl Drop for EndsTask {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}

impl Connection {
    /// Connects, and checks that the member has a leader. `worked_before`: an earlier connection to it worked.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        index: usize,
        volume: Volume,
        worked_before: bool,
        companions: &Companions,
    ) -> Result<Arc<Self>, Unreachable> {
        let tcp = TcpStream::connect(&*endpoint.address).await;
        let tcp = tcp.map_err(|error| Unreachable::for_now(format!("cannot connect: {error}")))?;
        tcp.set_nodelay(true).map_err(|error| Unreachable::for_now(error.to_string()))?;
        let (sender, driver) = match &endpoint.tls {
            Some(tls) => handshake(tls.handshake(tcp).await?, volume).await,
            None => handshake(tcp, volume).await,
        }
        .map_err(|error| Unreachable::for_now(format!("HTTP/2 could not be started: {error}")))?;
        let (origin, address) = (endpoint.origin.clone(), Arc::clone(&endpoint.address));
        let early_ping = Mutex::default();
        let connection = Arc::new(Self { sender, origin, endpoint: index, address, driver, early_ping });
        let mut companion = EndsTask(companions(&connection));
        match connection.prove().await {
            Ok(true) => {
                companion.0 = None;
                Ok(connection)
            }
            Ok(false) => Err(Unreachable::for_now("it has no leader")),
            Err(status) => {
                let ended = connection.driver.reason().await;
                let encrypted = endpoint.tls.is_some();
                let attempt = FirstCall { ended: ended.as_deref(), encrypted, worked_before };
                Err(Unreachable::from_first_call(&status, &attempt))
            }
        }
    }

    /// Sends what `ping` asks. The answers are waited for by whoever pings first.
    pub(crate) fn ping_early(self: &Arc<Self>) {
        // The task must not keep the connection alive.
        let (sent, sender, origin) = (Instant::now(), self.sender.clone(), self.origin.clone());
        let pinging = tokio::spawn(async move {
            let (sender, origin) = (&sender, &origin);
            let (read, status) = tokio::join!(
                unary(sender, origin, Arc::new(Range::key(HEALTH).request()), None),
                unary(sender, origin, Arc::new(StatusRequest {}), None)
            );
            Ping { read, status }
        });
        let early = EarlyPing { sent, answers: pinging };
        *self.early_ping.lock().unwrap_or_else(PoisonError::into_inner) = Some(early);
    }

    /// The answers to [`ping_early`](Self::ping_early), once. None if they are older than the call that asks, or if the
    /// connection gets into the state `left_at` first.
    pub(crate) async fn early_ping(&self, asked: Instant, left_at: Health) -> Option<Ping> {
        let early = self.early_ping.lock().unwrap_or_else(PoisonError::into_inner).take();
        let EarlyPing { answers, .. } = early.filter(|early| early.sent >= asked)?;
        tokio::select! {
            biased;
            answers = answers => answers.ok(),
            () = self.worsens_to(left_at) => None,
        }
    }

    /// Whether it has ended, and takes no more requests.
    pub(crate) fn is_closed(&self) -> bool {
        self.driver.has_ended()
    }

    /// How many requests the server takes at once.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.sender.most_in_flight()
    }

    pub(crate) fn health(&self) -> Health {
        self.driver.health()
    }

    /// Waits until the server is in this state or in a worse one.
    pub(crate) async fn worsens_to(&self, health: Health) {
        self.driver.worsens_to(health).await;
    }

    /// Notes that the server owes an answer on a stream, until the guard is dropped.
    pub(crate) fn expect_answer(&self) -> Waiting {
        self.driver.expect_answer()
    }

    /// Sends one request and returns its one answer.
    pub(crate) async fn unary<C: Call>(
        &self,
        request: Arc<C>,
        token: Option<AsciiMetadataValue>,
    ) -> Result<C::Answer, Status> {
        unary(&self.sender, &self.origin, request, token).await
    }

    /// Sends a stream of requests and returns the stream of answers.
    pub(crate) async fn stream<Q, A>(
        &self,
        method: &'static str,
        requests: impl futures_core::Stream<Item = Q> + Send + 'static,
        token: Option<AsciiMetadataValue>,
    ) -> Result<Streaming<A>, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = grpc(self.sender.for_streams(), &self.origin).await?;
        let path = PathAndQuery::from_static(method);
        let answer = grpc.streaming(with_metadata(requests, token), path, ProstCodec::<Q, A>::default()).await?;
        Ok(answer.into_inner())
    }

    /// Whether it is an etcd member that has a leader, for only that is worth sending to. A server that does not
    /// answer shows here, before any request is at stake.
    async fn prove(&self) -> Result<bool, Status> {
        match self.unary(Arc::new(StatusRequest {}), None).await {
            Ok(member) if member.is_learner => {
                Err(Status::unavailable("it is a learner, which does not serve clients"))
            }
            Ok(member) => Ok(member.leader != 0),
            // The server is etcd, and shows its status only after a login.
            Err(status) if status.source().is_some() => Err(status),
            Err(status) if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated) => Ok(true),
            Err(status) if status.message().ends_with("user name is empty") => Ok(true),
            Err(status) => Err(status),
        }
    }
}

async fn unary<C: Call>(
    sender: &Sender,
    origin: &http::Uri,
    request: Arc<C>,
    token: Option<AsciiMetadataValue>,
) -> Result<C::Answer, Status> {
    let mut grpc = grpc(sender.clone(), origin).await?;
    let path = PathAndQuery::from_static(C::METHOD);
    let answer = grpc.unary(with_metadata(request, token), path, Kept(PhantomData)).await?;
    Ok(answer.into_inner())
}

async fn grpc(sender: Sender, origin: &http::Uri) -> Result<Grpc<Sender>, Status> {
    let mut grpc = Grpc::with_origin(sender, origin.clone()).max_decoding_message_size(MESSAGE);
    grpc.ready().await.map_err(Status::from_error)?;
    Ok(grpc)
}

/// Encodes a request that its caller keeps, for it may have to be sent again.
struct Kept<C>(PhantomData<C>);

impl<C: Call> Codec for Kept<C> {
    type Encode = Arc<C>;
    type Decode = C::Answer;
    type Encoder = Self;
    type Decoder = <ProstCodec<C::Message, C::Answer> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        Self(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<C::Message, C::Answer>::default().decoder()
    }
}

impl<C: Call> Encoder for Kept<C> {
    type Item = Arc<C>;
    type Error = Status;

    fn encode(&mut self, request: Self::Item, buffer: &mut EncodeBuf<'_>) -> Result<(), Self::Error> {
        request.message().encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

fn with_metadata<T>(message: T, token: Option<AsciiMetadataValue>) -> Request<T> {
    let mut request = Request::new(message);
    // With this, a member without a leader refuses the request at once.
    request.metadata_mut().insert("hasleader", AsciiMetadataValue::from_static("true"));
    if let Some(token) = token {
        request.metadata_mut().insert("token", token);
    }
    request
}
