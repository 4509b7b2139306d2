//! One connection to one endpoint: TCP, TLS, HTTP/2, and the first call that proves it.
//!
//! The connection is made here rather than by a channel that reconnects in secret, so that it is known of every
//! request whether it was sent (clause W6).

use std::error::Error as _;
use std::marker::PhantomData;
use std::sync::Arc;

use http::uri::PathAndQuery;
use prost::Message as _;
use tokio::net::TcpStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::api::messages::{Call, StatusRequest};
use crate::config::Endpoint;
use crate::error::{Attempt, Unreachable};
use crate::transport::health::{Health, Waiting};
use crate::transport::http2::{Driver, Sender, Volume, handshake};

/// The most bytes of one message: memory for it is set aside as soon as its length is known, and what it says may take
/// many times as much. What etcd sends at a time is either small or asked for in smaller parts when it is refused.
const MESSAGE: usize = 64 << 20;

/// A connection to an etcd member that had a leader when it was made.
pub(crate) struct Connection {
    sender: Sender,
    origin: http::Uri,
    /// Which of the configured endpoints it leads to.
    pub(crate) endpoint: usize,
    /// That endpoint, as errors name it.
    pub(crate) address: Arc<str>,
    driver: Driver,
}

impl Connection {
    /// Connects, and asks the member who leads. `worked_before`: an earlier connection to the endpoint worked.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        index: usize,
        volume: Volume,
        worked_before: bool,
    ) -> Result<Self, Unreachable> {
        let tcp = TcpStream::connect(&*endpoint.address).await;
        let tcp = tcp.map_err(|error| Unreachable::for_now(format!("cannot connect: {error}")))?;
        tcp.set_nodelay(true).map_err(|error| Unreachable::for_now(error.to_string()))?;
        let (sender, driver) = match &endpoint.tls {
            Some(tls) => handshake(tls.handshake(tcp).await?, volume).await,
            None => handshake(tcp, volume).await,
        }
        .map_err(|error| Unreachable::for_now(format!("HTTP/2 could not be begun: {error}")))?;
        let (origin, address) = (endpoint.origin.clone(), Arc::clone(&endpoint.address));
        let mut connection = Self { sender, origin, endpoint: index, address, driver };
        match connection.prove().await {
            Ok(true) => Ok(connection),
            Ok(false) => Err(Unreachable::for_now("it has no leader")),
            Err(status) => {
                let ended = connection.driver.reason().await;
                let encrypted = endpoint.tls.is_some();
                let attempt = Attempt { ended: ended.as_deref(), encrypted, worked_before };
                Err(Unreachable::from_first_call(&status, &attempt))
            }
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

    /// Waits until the server is in this state, or in a worse one.
    pub(crate) async fn worsens_to(&self, health: Health) {
        self.driver.worsens_to(health).await;
    }

    /// Notes that an answer is due on a stream, until the guard is dropped.
    pub(crate) fn expect_answer(&self) -> Waiting {
        self.driver.expect_answer()
    }

    /// One request, one answer.
    pub(crate) async fn unary<C: Call>(
        &self,
        request: Arc<C>,
        token: Option<AsciiMetadataValue>,
    ) -> Result<C::Answer, Status> {
        let mut grpc = self.grpc(self.sender.clone()).await?;
        let path = PathAndQuery::from_static(C::METHOD);
        let answer = grpc.unary(with_metadata(request, token), path, Kept(PhantomData)).await?;
        Ok(answer.into_inner())
    }

    /// A stream of requests, a stream of answers.
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
        let mut grpc = self.grpc(self.sender.for_streams()).await?;
        let path = PathAndQuery::from_static(method);
        let answer = grpc.streaming(with_metadata(requests, token), path, ProstCodec::<Q, A>::default()).await?;
        Ok(answer.into_inner())
    }

    async fn grpc(&self, sender: Sender) -> Result<Grpc<Sender>, Status> {
        let mut grpc = Grpc::with_origin(sender, self.origin.clone()).max_decoding_message_size(MESSAGE);
        grpc.ready().await.map_err(Status::from_error)?;
        Ok(grpc)
    }

    /// Whether it is an etcd member that has a leader, for only that is worth sending to. A server that does not
    /// answer shows here, before any request is at stake.
    async fn prove(&self) -> Result<bool, Status> {
        match self.unary(Arc::new(StatusRequest {}), None).await {
            Ok(member) if member.is_learner => {
                Err(Status::unavailable("it is a learner, which does not serve clients"))
            }
            Ok(member) => Ok(member.leader != 0),
            // It is etcd all right, and keeps its status to those who are logged in.
            Err(status) if status.source().is_some() => Err(status),
            Err(status) if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated) => Ok(true),
            Err(status) if status.message().ends_with("user name is empty") => Ok(true),
            Err(status) => Err(status),
        }
    }
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
    // A member cut off from its cluster refuses at once instead of letting the caller wait.
    request.metadata_mut().insert("hasleader", AsciiMetadataValue::from_static("true"));
    if let Some(token) = token {
        request.metadata_mut().insert("token", token);
    }
    request
}
