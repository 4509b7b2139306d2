//! A page of a listing, decoded in place. It may have very many entries, and only a few fields of each are needed.
//!
//! The generated decoder builds a message for each entry, with reference-counted parts that are dropped again. For
//! 10,000 entries that took longer than the rest of a listing.

use prost::Message as _;

use super::messages::ResponseHeader;

/// The fields of a page except its entries.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Page {
    pub(crate) header: Option<ResponseHeader>,
    /// Whether another page follows.
    pub(crate) more: bool,
}

/// One entry of a page.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) create_revision: i64,
    pub(crate) mod_revision: i64,
    pub(crate) value: &'a [u8],
    /// As in [`KeyValue`](super::messages::KeyValue): 0 in the answer to a range with `keys_only`.
    pub(crate) lease: i64,
}

impl Page {
    /// Decodes a `RangeResponse`, and calls `each` with its entries, until one call fails.
    pub(crate) fn read<'a, E: From<Malformed>>(
        message: &'a [u8],
        mut each: impl FnMut(Entry<'a>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut page = Self::default();
        let mut fields = Fields(message);
        while let Some(field) = fields.next()? {
            match field {
                (1, Content::Bytes(header)) => {
                    page.header.get_or_insert_default().merge(header).map_err(|_| Malformed)?;
                }
                (2, Content::Bytes(entry)) => each(Entry::read(entry)?)?,
                (3, Content::Number(more)) => page.more = more != 0,
                _ => {}
            }
        }
        Ok(page)
    }
}

impl<'a> Entry<'a> {
    /// Decodes a `KeyValue`.
    fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut entry = Self::default();
        let mut fields = Fields(message);
        while let Some(field) = fields.next()? {
            match field {
                (1, Content::Bytes(key)) => entry.key = key,
                (2, Content::Number(revision)) => entry.create_revision = revision.cast_signed(),
                (3, Content::Number(revision)) => entry.mod_revision = revision.cast_signed(),
                (5, Content::Bytes(value)) => entry.value = value,
                (6, Content::Number(lease)) => entry.lease = lease.cast_signed(),
                _ => {}
            }
        }
        Ok(entry)
    }
}

/// The bytes are not a message.
#[derive(Debug, PartialEq)]
pub(crate) struct Malformed;

/// The fields of a message that are not decoded yet: <https://protobuf.dev/programming-guides/encoding/>.
struct Fields<'a>(&'a [u8]);

enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// A field of another type, which is skipped.
    Other,
}

impl<'a> Fields<'a> {
    /// The number and the content of the next field.
    #[inline]
    fn next(&mut self) -> Result<Option<(u64, Content<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.number()?;
        let content = match tag & 7 {
            0 => Content::Number(self.number()?),
            1 => self.bytes(8).map(|_| Content::Other)?,
            2 => {
                let length = self.number()?;
                Content::Bytes(self.bytes(length)?)
            }
            5 => self.bytes(4).map(|_| Content::Other)?,
            _ => return Err(Malformed),
        };
        Ok(Some((tag >> 3, content)))
    }

    #[inline]
    fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for (place, byte) in self.0.iter().take(10).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * place);
            if *byte < 0x80 {
                self.0 = &self.0[place + 1..];
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    #[inline]
    fn bytes(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let split = usize::try_from(length).ok().and_then(|length| self.0.split_at_checked(length));
        let (bytes, rest) = split.ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &[u8]) -> Result<(Page, Vec<Entry<'_>>), Malformed> {
        let mut entries = Vec::new();
        let page = Page::read(message, |entry| {
            entries.push(entry);
            Ok(())
        })?;
        Ok((page, entries))
    }

    /// A header with revision 300, an entry `k` with revision 7 and value `v`, and `more`. Between them is an unknown
    /// field of each other type.
    const MESSAGE: &[u8] =
        b"\x0a\x03\x18\xac\x02\x79fixed-64\x12\x0d\x0a\x01k\x65four\x18\x07\x2a\x01v\x18\x01\x7a\x02no";

    #[test]
    fn unknown_fields_are_skipped() {
        let (page, entries) = read(MESSAGE).expect("a page");
        assert_eq!(
            page,
            Page { header: Some(ResponseHeader { revision: 300, ..ResponseHeader::default() }), more: true }
        );
        assert_eq!(entries, [Entry { key: b"k", mod_revision: 7, value: b"v", ..Entry::default() }]);
    }

    #[test]
    fn a_truncated_page_is_malformed() {
        let whole = [0, 5, 14, 29, 31];
        for end in 0..MESSAGE.len() {
            assert_eq!(read(&MESSAGE[..end]).is_ok(), whole.contains(&end), "{end}");
        }
        assert!(read(b"\x13").is_err(), "a group");
        assert!(read(&[0xff; 16]).is_err(), "a number without an end");
        assert!(read(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").is_err(), "longer than all there is");
    }

    #[test]
    fn decoding_ends_with_the_entry_that_is_refused() {
        let mut met = 0;
        let refused = Page::read(&b"\x12\x00".repeat(3), |_| {
            met += 1;
            if met == 2 { Err(Malformed) } else { Ok(()) }
        });
        assert_eq!(refused, Err(Malformed));
        assert_eq!(met, 2);
    }
}
