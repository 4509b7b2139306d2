//! A snapshot: every key under a prefix with its value, at one revision ([clause R2](kv_core::contract::CLAUSES#R2)).

use kv_core::Value;
use kv_core::backend::Snapshot;

use super::paging::{Pager, check_size, next_key, until_complete};
use crate::api::lock_entry::is_lock_entry;
use crate::api::messages::RangeRequest;
use crate::api::page::Entry;
use crate::api::range::{Keys, Range, index};
use crate::api::values::Values;
use crate::error::Failed;

/// How many entries the first page has at most. Most snapshots fit into it.
const FIRST_PAGE: i64 = 10_000;
/// The intended size of later pages, in bytes, estimated from the entries so far.
const PAGE_BYTES: usize = 8 << 20;

pub(super) async fn list(pager: &Pager, prefix: &str) -> Result<Snapshot, Failed> {
    until_complete(|| try_list(pager, prefix)).await
}

async fn try_list(pager: &Pager, prefix: &str) -> Result<Snapshot, Failed> {
    let (mut entries, mut keys, mut values) = (Vec::new(), Keys::default(), Values::default());
    let mut size = Size::default();
    let mut listing = pager.pages(RangeRequest { limit: FIRST_PAGE, ..Range::prefix(prefix).request() });
    loop {
        let message = listing.fetch().await?;
        let last = listing.read(&message, |entry| {
            size.add(&entry);
            if is_lock_entry(entry.key, entry.lease) {
                return Ok(());
            }
            if let Some(key) = keys.text(entry.key) {
                let data = values.copy(entry.value, message.len()).unwrap_or_else(|| message.slice_ref(entry.value));
                entries.push((key.to_owned(), Value { data, index: index(entry.mod_revision) }));
            }
            check_size(size.bytes + entries.len() * size_of::<(String, Value)>())
        })?;
        let Some(last) = last else {
            keys.done();
            return Ok(Snapshot { entries, index: index(listing.revision()) });
        };
        listing.go_on(next_key(last), size.next_page());
    }
}

/// The size of a listing so far, including entries that are not shown.
#[derive(Default)]
struct Size {
    bytes: usize,
    keys: usize,
}

impl Size {
    fn add(&mut self, entry: &Entry<'_>) {
        self.bytes += entry.key.len() + entry.value.len();
        self.keys += 1;
    }

    /// How many entries the next page should have.
    fn next_page(&self) -> i64 {
        let average = (self.bytes / self.keys.max(1)).max(1);
        i64::try_from((PAGE_BYTES / average).clamp(1, 100_000)).unwrap_or(FIRST_PAGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_filled_even_if_no_entry_can_be_shown() {
        for key in [&b"ab"[..], b"a\xff"] {
            let mut size = Size::default();
            for _ in 0..20_000 {
                size.add(&Entry { key, value: &[0; 1022], ..Entry::default() });
            }
            assert_eq!(size.next_page(), 8 << 10);
        }
        assert_eq!(Size::default().next_page(), 100_000);
    }
}
