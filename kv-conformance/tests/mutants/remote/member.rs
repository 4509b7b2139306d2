//! A member of a store that is reached through endpoints: it lets calls pass, or does not.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Said by a member to each connection, so that a client knows that somebody listens before it sends a write.
pub(super) const HELLO: u8 = b'h';
pub(super) const PASSES: u8 = b'y';
/// The member cannot serve now; nothing was applied.
pub(super) const REFUSES: u8 = b'n';

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Serves,
    /// It answers that it cannot serve, as without a leader.
    Refuses,
    /// Its connections are open, and it answers nothing.
    Hangs,
    /// Its connections end.
    Down,
}

pub(super) struct Member {
    pub(super) endpoint: String,
    mood: watch::Sender<Mood>,
    accepting: JoinHandle<()>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Member {
    pub(super) async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = listener.local_addr()?.to_string();
        let (mood, moods) = watch::channel(Mood::Serves);
        Ok(Self { endpoint, mood, accepting: tokio::spawn(accept(listener, moods)) })
    }

    pub(super) fn turn(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub(super) fn serves(&self) -> bool {
        *self.mood.borrow() == Mood::Serves
    }
}

async fn accept(listener: TcpListener, moods: watch::Receiver<Mood>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                let (serving, mut ending) = (serve(stream, moods.clone()), moods.clone());
                connections.spawn(async move {
                    tokio::select! {
                        _ = serving => {}
                        _ = ending.wait_for(|mood| *mood == Mood::Down) => {}
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers each line, which names the key of a call.
async fn serve(mut stream: TcpStream, mut moods: watch::Receiver<Mood>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut answer = HELLO;
    let mut piece = [0; 1024];
    loop {
        let Ok(_) = moods.wait_for(|mood| *mood != Mood::Hangs).await else { return Ok(()) };
        stream.write_all(&[answer]).await?;
        loop {
            let length = stream.read(&mut piece).await?;
            if length == 0 {
                return Ok(());
            }
            if piece[..length].ends_with(b"\n") {
                break;
            }
        }
        let Ok(mood) = moods.wait_for(|mood| *mood != Mood::Hangs).await else { return Ok(()) };
        answer = if *mood == Mood::Serves { PASSES } else { REFUSES };
    }
}
