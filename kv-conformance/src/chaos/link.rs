//! A relay between clients and one server that can limit the rate of bytes, or withhold everything.

use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// The most bytes that are passed on at a time.
const PIECE: usize = 16 << 10;
/// The receive buffer of a connection to the server. It is small, so that bytes wait in the relay and not in the
/// system.
const BUFFER: u32 = 64 << 10;

/// What the relay does with bytes at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Passes everything on at once.
    Open,
    /// All that is sent takes its turn: so many bytes a second in each direction, of all connections together.
    Narrow(u32),
    /// Reads and keeps what clients send, and passes nothing on in either direction.
    Deaf,
}

/// A relay to one server on a port of 127.0.0.1. Its connections end when it is dropped.
#[derive(Debug)]
pub(crate) struct Link {
    endpoint: String,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    state: watch::Sender<State>,
    /// Everything that clients have sent, in the order of arrival.
    heard: Mutex<Vec<u8>>,
    /// When the line is free again, for what clients send and for what servers send.
    free: [Mutex<Instant>; 2],
}

const UP: usize = 0;
const DOWN: usize = 1;

impl Link {
    /// Listens on a free port for connections to `server`, a `host:port`.
    ///
    /// # Errors
    /// The error of the operating system, if it cannot listen.
    pub(crate) fn start(server: String) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(BUFFER)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(1024)?;
        let endpoint = listener.local_addr()?.to_string();
        let shared = Arc::new(Shared {
            state: watch::Sender::new(State::Open),
            heard: Mutex::default(),
            free: [Mutex::new(Instant::now()), Mutex::new(Instant::now())],
        });
        let accepting = tokio::spawn(accept(listener, server, shared.clone()));
        Ok(Self { endpoint, shared, accepting })
    }

    /// The endpoint for clients, `127.0.0.1:port`.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Changes the state, also for open connections.
    pub(crate) fn set(&self, state: State) {
        self.shared.state.send_replace(state);
    }

    /// Whether clients have sent these bytes.
    pub(crate) fn has_heard(&self, bytes: &[u8]) -> bool {
        let heard = self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.windows(bytes.len()).any(|window| window == bytes)
    }

    /// Forgets what clients have sent so far.
    pub(crate) fn forget(&self) {
        self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, server: String, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                connections.spawn(connect(client, server.clone(), shared.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Relays one connection until one of its ends closes it.
async fn connect(client: TcpStream, server: String, shared: Arc<Shared>) -> io::Result<()> {
    let address = tokio::net::lookup_host(server).await?.next().ok_or(io::ErrorKind::NotFound)?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_recv_buffer_size(BUFFER)?;
    let server = socket.connect(address).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::try_join!(upstream(from_client, to_server, &shared), downstream(from_server, to_client, &shared)).map(drop)
}

async fn upstream(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let state = *shared.state.borrow();
        match state {
            State::Narrow(rate) => tokio::time::sleep_until(shared.turn(UP, length, rate)).await,
            State::Open | State::Deaf => {
                shared.heard.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&piece[..length]);
            }
        }
        if state != State::Deaf {
            to.write_all(&piece[..length]).await?;
        }
    }
}

async fn downstream(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let state = *shared.state.borrow();
        match state {
            State::Open => {}
            State::Narrow(rate) => tokio::time::sleep_until(shared.turn(DOWN, length, rate)).await,
            State::Deaf => {
                let mut states = shared.state.subscribe();
                let _ = states.wait_for(|state| *state != State::Deaf).await;
            }
        }
        to.write_all(&piece[..length]).await?;
    }
}

impl Shared {
    /// When so many bytes have passed, after all those before them in the same direction.
    fn turn(&self, direction: usize, length: usize, rate: u32) -> Instant {
        let mut free = self.free[direction].lock().unwrap_or_else(PoisonError::into_inner);
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        *free = (*free).max(Instant::now()) + Duration::from_secs(1) * length / rate.max(1);
        *free
    }
}
