//! A server on loopback. It answers as a good etcd, or does to its calls or connections what a test wants.
#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::message::{self, framed};

pub(crate) type Act = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the server does with its clients.
#[derive(Clone)]
pub(crate) enum Mood {
    /// It answers as an empty etcd.
    Good,
    /// It speaks HTTP/2, and does this to each call.
    Call(OnCall),
    /// It does this to each connection.
    Connection(Arc<dyn Fn(TcpStream, Counts) -> Act + Send + Sync>),
}

type OnCall = Arc<dyn Fn(Call) -> Act + Send + Sync>;

impl Mood {
    /// Does it to every call but `Status`, with which a client checks a new connection.
    pub(crate) fn to_each_call<F: Future<Output = ()> + Send + 'static>(
        act: impl Fn(Call) -> F + Send + Sync + 'static,
    ) -> Self {
        Self::Call(Arc::new(move |call| if call.is_status() { good(call) } else { Box::pin(act(call)) }))
    }

    /// Does it to the calls of one method.
    pub(crate) fn to<F: Future<Output = ()> + Send + 'static>(
        method: &'static str,
        act: impl Fn(Call) -> F + Send + Sync + 'static,
    ) -> Self {
        Self::Call(Arc::new(move |call| if call.method() == method { Box::pin(act(call)) } else { good(call) }))
    }

    pub(crate) fn to_each_connection<F: Future<Output = ()> + Send + 'static>(
        act: impl Fn(TcpStream, Counts) -> F + Send + Sync + 'static,
    ) -> Self {
        Self::Connection(Arc::new(move |stream, counts| Box::pin(act(stream, counts))))
    }
}

/// What the server has counted.
#[derive(Clone, Default)]
pub(crate) struct Counts {
    /// Connections that were accepted.
    connections: Arc<AtomicUsize>,
    /// Requests of calls that may write, which arrived completely.
    writes: Arc<AtomicUsize>,
    /// Streams of watches that were opened.
    watches: Arc<AtomicUsize>,
    /// Bytes that were sent to clients.
    bytes: Arc<AtomicUsize>,
}

impl Counts {
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    pub(crate) fn watches(&self) -> usize {
        self.watches.load(Ordering::SeqCst)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }

    pub(crate) fn add_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) counts: Counts,
    mood: watch::Sender<Mood>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (mood, moods) = watch::channel(Mood::Good);
        let counts = Counts::default();
        let task = tokio::spawn(accept(listener, moods, counts.clone()));
        Self { address, counts, mood, task }
    }

    /// Ends all connections, and treats new ones in this way.
    pub(crate) fn turn(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, moods: watch::Receiver<Mood>, counts: Counts) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        counts.connections.fetch_add(1, Ordering::SeqCst);
        let (mut moods, counts) = (moods.clone(), counts.clone());
        let mood = moods.borrow_and_update().clone();
        connections.spawn(async move {
            let serving: Act = match mood {
                Mood::Good => Box::pin(serve(stream, Arc::new(good), counts)),
                Mood::Call(act) => Box::pin(serve(stream, act, counts)),
                Mood::Connection(act) => act(stream, counts),
            };
            tokio::select! {
                () = serving => {}
                _ = moods.changed() => {}
            }
        });
    }
}

/// Speaks HTTP/2.
async fn serve(stream: TcpStream, act: OnCall, counts: Counts) {
    let _ = stream.set_nodelay(true);
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut calls = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        calls.spawn(act(Call::new(request, respond, counts.clone())));
    }
}

/// One call.
pub(crate) struct Call {
    request: Request<RecvStream>,
    pub(crate) respond: SendResponse<Bytes>,
    pub(crate) counts: Counts,
    /// The bytes of the request that have arrived and are not a complete message yet.
    arrived: Vec<u8>,
}

impl Call {
    pub(crate) fn new(request: Request<RecvStream>, respond: SendResponse<Bytes>, counts: Counts) -> Self {
        Self { request, respond, counts, arrived: Vec::new() }
    }

    pub(crate) fn method(&self) -> &str {
        self.request.uri().path().rsplit('/').next().unwrap_or_default()
    }

    pub(crate) fn is_status(&self) -> bool {
        self.method() == "Status"
    }

    /// Reads the whole request of a unary call, or the first message of a stream.
    pub(crate) async fn read(&mut self) {
        let streams = matches!(self.method(), "Watch" | "LeaseKeepAlive");
        let writes = matches!(self.method(), "Put" | "Txn" | "DeleteRange");
        if self.method() == "Watch" {
            self.counts.watches.fetch_add(1, Ordering::SeqCst);
        }
        let body = self.request.body_mut();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            if streams {
                return;
            }
        }
        if writes {
            self.counts.writes.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The next message of the request; `None` after the last one. Dropping the future loses no byte.
    pub(crate) async fn message(&mut self) -> Option<Vec<u8>> {
        /// The flag for compression and the length.
        const HEAD: usize = 5;
        loop {
            if let [_, a, b, c, d, ..] = *self.arrived {
                let end = HEAD + usize::try_from(u32::from_be_bytes([a, b, c, d])).expect("a length");
                if self.arrived.len() >= end {
                    let rest = self.arrived.split_off(end);
                    return Some(std::mem::replace(&mut self.arrived, rest).split_off(HEAD));
                }
            }
            let body = self.request.body_mut();
            let data = body.data().await?.ok()?;
            let _ = body.flow_control().release_capacity(data.len());
            self.arrived.extend_from_slice(&data);
        }
    }

    /// Waits until the client has ended the request.
    pub(crate) async fn ended(&mut self) {
        let body = self.request.body_mut();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
        }
    }

    /// Begins an answer.
    pub(crate) fn begin(&mut self) -> Answer {
        let response = Response::builder().header("content-type", "application/grpc");
        let response = response.body(()).expect("a response");
        Answer { stream: self.respond.send_response(response, false).ok(), counts: self.counts.clone() }
    }

    /// Answers with one message and success.
    pub(crate) async fn answer(mut self, message: &[u8]) {
        self.read().await;
        let mut answer = self.begin();
        answer.send(framed(message)).await;
        answer.finish(0, "");
    }
}

/// An answer that is being sent.
pub(crate) struct Answer {
    stream: Option<SendStream<Bytes>>,
    counts: Counts,
}

impl Answer {
    /// Sends bytes as fast as the client accepts them; `false` if it accepts no more.
    pub(crate) async fn send(&mut self, bytes: impl Into<Bytes>) -> bool {
        let mut bytes = bytes.into();
        let Some(stream) = &mut self.stream else { return false };
        while !bytes.is_empty() {
            stream.reserve_capacity(bytes.len());
            let Some(Ok(capacity)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return false };
            let part = bytes.split_to(capacity.min(bytes.len()));
            self.counts.add_bytes(part.len());
            if stream.send_data(part, false).is_err() {
                return false;
            }
        }
        true
    }

    pub(crate) fn finish(&mut self, status: u16, message: &str) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.into());
        trailers.insert("grpc-message", HeaderValue::from_str(message).expect("a header"));
        self.trailers(trailers);
    }

    pub(crate) fn trailers(&mut self, trailers: HeaderMap) {
        if let Some(stream) = &mut self.stream {
            let _ = stream.send_trailers(trailers);
        }
    }

    /// Ends the stream without a status.
    pub(crate) fn end(&mut self) {
        if let Some(stream) = &mut self.stream {
            let _ = stream.send_data(Bytes::new(), true);
        }
    }

    pub(crate) fn reset(&mut self, reason: Reason) {
        if let Some(stream) = &mut self.stream {
            stream.send_reset(reason);
        }
    }
}

/// Answers as an empty etcd.
pub(crate) fn good(call: Call) -> Act {
    Box::pin(async move {
        match call.method() {
            "Watch" => watch_nothing(call).await,
            method => {
                let message = message::of_an_empty_store(method);
                call.answer(&message).await;
            }
        }
    })
}

async fn watch_nothing(mut call: Call) {
    call.read().await;
    let mut answer = call.begin();
    answer.send(framed(&message::watch_created(1, 3))).await;
    call.ended().await;
}
