//! Observes the bytes from the server: whether it answers, and its GOAWAY.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::transport::health::Signs;

/// The bytes of a connection. It notes the frames of the server.
pub(super) struct Observed<T> {
    io: T,
    frames: Frames,
    signs: Arc<Signs>,
}

impl<T> Observed<T> {
    pub(super) fn new(io: T, signs: Arc<Signs>) -> Self {
        Self { io, frames: Frames::default(), signs }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Observed<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let Self { frames, signs, .. } = &mut *self;
        frames.pass(&buf.filled()[before..], signs);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Observed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The head of a frame: its length, type, flags and stream.
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;

/// How much of the current frame has been read.
#[derive(Default)]
struct Frames {
    head: [u8; HEAD],
    /// How many bytes of the head have been read.
    filled: usize,
    /// How many bytes of the payload are still to come.
    left: usize,
    /// The last stream that a GOAWAY names, and how many of its four bytes have been read.
    last_stream: u32,
    taken: usize,
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8], signs: &Signs) {
        if !bytes.is_empty() {
            signs.alive();
        }
        while let Some((byte, rest)) = bytes.split_first() {
            if self.filled < HEAD {
                self.head[self.filled] = *byte;
                self.filled += 1;
                bytes = rest;
                if self.filled == HEAD {
                    let [a, b, c, ..] = self.head;
                    self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                    (self.last_stream, self.taken) = (0, 0);
                }
            } else {
                let (payload, rest) = bytes.split_at(self.left.min(bytes.len()));
                self.payload(payload, signs);
                self.left -= payload.len();
                bytes = rest;
            }
            if self.filled == HEAD && self.left == 0 {
                self.filled = 0;
            }
        }
    }

    fn payload(&mut self, payload: &[u8], signs: &Signs) {
        match self.head[3] {
            DATA | HEADERS => signs.answers(),
            GOAWAY => {
                for byte in payload.iter().take(4 - self.taken) {
                    self.last_stream = self.last_stream << 8 | u32::from(*byte);
                    self.taken += 1;
                }
                if self.taken == 4 {
                    signs.goes_away(self.last_stream & 0x7fff_ffff);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn a_goaway_is_understood_in_pieces_of_any_size() {
        let bytes =
            [frame(4, &[]), frame(DATA, &[7; 300]), frame(GOAWAY, &[0, 0, 0, 5, 0, 0, 0, 0, b'x']), frame(6, &[0; 8])]
                .concat();
        for piece in [1, 2, 3, 9, 10, 13, 1000] {
            let (signs, mut frames) = (Signs::default(), Frames::default());
            assert!(!signs.is_unprocessed(7));
            for part in bytes.chunks(piece) {
                frames.pass(part, &signs);
            }
            assert!(signs.is_unprocessed(7) && !signs.is_unprocessed(5), "in pieces of {piece}");
            assert_eq!((frames.filled, frames.left), (0, 0));
        }
    }

    #[test]
    fn a_ping_is_a_sign_of_life_and_no_answer() {
        let (signs, mut frames) = (Signs::default(), Frames::default());
        frames.pass(&frame(6, &[0; 8]), &signs);
        let before = signs.seen();
        frames.pass(&frame(6, &[0; 8]), &signs);
        let pinged = signs.seen();
        assert!(before.bytes != pinged.bytes && before.answers == pinged.answers);
        frames.pass(&frame(HEADERS, &[0; 8]), &signs);
        assert_ne!(signs.seen().answers, pinged.answers);
    }
}
