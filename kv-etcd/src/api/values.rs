//! Values, copied out of the messages that they arrived in.
//!
//! A value that shares the memory of its message keeps the whole message in memory: one of 200 bytes can keep a page of
//! 60 MB.

use bytes::{Bytes, BytesMut};

/// The most bytes that one value may keep in memory besides its own, unless it is a large part of its message.
const CHUNK: usize = 64 << 10;
/// A value may share the memory of its message if it is at least this fraction of it: a quarter.
const SHARE: usize = 4;

/// Copies values out of large messages. Small values share chunks.
#[derive(Default)]
pub(crate) struct Values {
    /// The unused rest of the current chunk for small values.
    chunk: BytesMut,
}

impl Values {
    /// A copy of a value from a message of this many bytes; `None` if the value may share the message's memory.
    ///
    /// It may if the message is small, or if the value is a large part of it. So a value keeps at most 64 KiB or four
    /// times its own size in memory, and small listings are not copied.
    pub(crate) fn copy(&mut self, value: &[u8], message: usize) -> Option<Bytes> {
        if message <= CHUNK || value.len() >= message / SHARE {
            return None;
        }
        if value.len() >= CHUNK / SHARE {
            return Some(Bytes::copy_from_slice(value));
        }
        if self.chunk.capacity() - self.chunk.len() < value.len() {
            self.chunk = BytesMut::with_capacity(CHUNK);
        }
        self.chunk.extend_from_slice(value);
        Some(self.chunk.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_within(part: &[u8], whole: &[u8]) -> bool {
        whole.as_ptr_range().contains(&part.as_ptr())
    }

    #[test]
    fn a_small_value_does_not_keep_a_large_message_in_memory() {
        let message = vec![7; 1 << 20];
        let mut values = Values::default();
        for size in [1, 200, CHUNK / SHARE, message.len() / SHARE - 1] {
            let value = &message[100..100 + size];
            let copy = values.copy(value, message.len()).expect("a copy");
            assert_eq!(copy, value);
            assert!(!is_within(&copy, &message), "{size}");
        }
        assert_eq!(values.copy(&message[..message.len() / SHARE], message.len()), None);
        assert_eq!(values.copy(&message[..1], CHUNK), None);
    }

    #[test]
    fn small_values_share_a_chunk() {
        let mut values = Values::default();
        let copies: Vec<Bytes> = (0..CHUNK / 100).map(|_| values.copy(&[1; 100], 1 << 20).expect("a copy")).collect();
        let apart = copies.windows(2).filter(|pair| pair[0].as_ptr_range().end != pair[1].as_ptr()).count();
        assert_eq!(apart, 0, "one chunk holds them all");
    }
}
