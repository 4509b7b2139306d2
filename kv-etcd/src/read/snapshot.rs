//! A snapshot: every key under a prefix with its value, at one revision ([clause R2](kv_core::contract::CLAUSES#R2)).

use kv_core::backend::Snapshot;
use kv_core::{Result, Value};

use super::paging::{Pager, check_size, goes_on, next_key, shrink};
use crate::api::lock_entry::is_lock_entry;
use crate::api::page::{Entry, Page};
use crate::api::range::{Keys, Range, index, revision, signed};
use crate::api::values::Values;
use crate::error::Failed;

/// How many entries the first page asks for: most snapshots fit into it.
const FIRST_PAGE: i64 = 10_000;
/// The aim for the size of later pages, in bytes, as estimated from the entries before.
const PAGE_BYTES: usize = 8 << 20;

pub(super) async fn list(pager: &Pager, prefix: &str) -> Result<Snapshot> {
    loop {
        match try_list(pager, prefix).await {
            // The revision was compacted between two pages; a newer one can be read.
            Err(failed) if failed.is_compacted() => tracing::debug!("a snapshot was compacted while it was read"),
            result => return Ok(result?),
        }
    }
}

async fn try_list(pager: &Pager, prefix: &str) -> Result<Snapshot, Failed> {
    let (mut entries, mut keys, mut values) = (Vec::new(), Keys::default(), Values::default());
    let mut size = Size::default();
    let mut request = Range::prefix(prefix).request();
    request.limit = FIRST_PAGE;
    loop {
        let message = match pager.page(&request).await {
            Err(failed) if shrink(&mut request.limit, &failed) => continue,
            result => result?,
        };
        let mut last = None;
        let page = Page::read(&message, |entry| {
            last = Some(entry.key);
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
        let at = if request.revision == 0 { revision(page.header.as_ref())? } else { index(request.revision) };
        let Some(last) = last.filter(|_| page.more) else {
            keys.done();
            return Ok(Snapshot { entries, index: at });
        };
        goes_on(&request, last)?;
        request.limit = size.next_page();
        request.key = next_key(last);
        // Every page is from the revision of the first one.
        request.revision = signed(at);
    }
}

/// How much of a listing has come, whether it can be shown or not.
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

    /// How many keys the next page asks for.
    fn next_page(&self) -> i64 {
        let average = (self.bytes / self.keys.max(1)).max(1);
        i64::try_from((PAGE_BYTES / average).clamp(1, 100_000)).unwrap_or(FIRST_PAGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_as_many_keys_as_fit_also_where_none_can_be_shown() {
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
