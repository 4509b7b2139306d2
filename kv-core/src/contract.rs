//! The contract that every backend keeps, clause by clause.
//!
//! [`CLAUSES`] holds the clauses as data: the conformance suite names them when a case fails. Where stores differ,
//! the difference is stated in [`Limits`](crate::Limits).

/// One numbered promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clause {
    /// Its number, such as `K1`.
    pub id: &'static str,
    /// What is promised.
    pub sentence: &'static str,
}

macro_rules! clauses {
    ($($id:literal $sentence:literal)*) => {
        /// Every clause, in order.
        ///
        $(#[doc = concat!("- <a id=\"", $id, "\"></a>**", $id, "** ", $sentence, "\n")])*
        pub const CLAUSES: &[Clause] = &[$(Clause { id: $id, sentence: $sentence }),*];
    };
}

clauses! {
    "K1" "A key is a `/`-separated path of non-empty UTF-8 segments, without `.`, `..` or NUL, at most `Limits::key_bytes` long; the segment `.lock` is reserved for locks. Anything else is `InvalidKey` before a byte is sent. Inside a segment every character is data and round-trips exactly. A store's foreign keys are listed as they are."
    "K2" "A prefix or directory may be empty. A prefix matches as a string; a directory `d` means the keys below `d/`, never a sibling `dx`."
    "K3" "A value is any bytes, empty included, at most `Limits::value_bytes`; a larger one is `ValueTooLarge`, and the old value stands. Empty and absent are never confused."
    "K4" "With a root every key is relative to it, in results, events and errors too, and nothing outside the root can be named."
    "R1" "Reads are linearizable: a read that starts after a write returned sees it, from any client."
    "R2" "`get_all` is one snapshot, never a mixture of states; its index is that point in history, usable as `after` of `watch`."
    "R3" "`keys(d)` lists each child once, and never `d` itself, whatever foreign programs left there; `d` with and without a `/` at its end mean the same; an absent directory is empty."
    "W1" "Indices are positive and never decrease; every write of a key raises that key's index, one that repeats the value included; a `get` right after a write returns the index that the write returned."
    "W2" "`update` with index 0 creates or fails with `Conflict`; with index n it succeeds only if the key exists and has that index; on `Conflict` nothing changed. Of concurrent updates from one index exactly one wins."
    "W3" "`remove(k, n)` deletes only a key that exists with index n; `remove(k, 0)` succeeds on an absent key and is a `Conflict` on a present one."
    "W4" "`delete_tree(d)` atomically removes the key `d` and all below `d/`, never `dx`; `\"\"` removes everything under the root."
    "W5" "In a transaction all checks hold and all operations are applied at one index, or none and `Conflict` with the key. One over the limits is `TxnTooLarge`, and one that writes a key twice is `OverlappingWrites`, with nothing sent."
    "W6" "A write whose fate is not known is `Indeterminate`; what was certainly not applied is `Unavailable`. Once a byte of a write has left, only a refusal that the store makes before it applies anything is such a certainty: an answer of something in between, or an error that the store may give after applying, is none. Such a write is never silently repeated unless that cannot change the outcome."
    "E1" "After `watch` returns, no later event is missed. `after` 0: only later events; otherwise every event with a greater index; history that is gone is `Compacted`, never a silent gap."
    "E2" "Type, key, data and index of an event are right: Create for a key that did not exist, Update for one that did, Delete with empty data and the index of the deletion. Indices never go backwards, events of one commit come together, and each comes once."
    "E3" "Where `Limits::watch_history` is `Every`, each change is delivered. Where it is `Latest`, changes of one key may be merged, the last state is always delivered, and a key deleted and created again gives Delete, then Create."
    "E4" "A watch survives disconnects, restarts, leader changes and the loss of its endpoint without loss or repetition. Only a permanent failure ends it, with an `Err` as its last item."
    "E5" "A slow consumer costs bounded memory."
    "E6" "`observe` has no gap and no overlap between its listing and its events."
    "E8" "A store whose history was replaced, or whose record of deletions was forgotten, gives the whole difference as events or `Compacted`: never silence, never a part of it. Losing the permission to read is `PermissionDenied`, never a deletion."
    "L1" "`ephemeral_key` creates the key, with the value given or else empty, or fails with `Conflict` if it exists. The key vanishes, with a Delete event, once its time to live lapses without renewal: at most `Limits::expiry_lag` after, and not before, unless the member that granted it has left and `Limits::member_leave` is `EndsLeases`."
    "L2" "`set` of an ephemeral key renews, then writes; after expiry or theft it is `Lost`, and nothing is written; `renew` likewise. `destroy` removes the key now; on a lost key it is `Lost` and touches nothing of another's."
    "L2b" "Other clients may read, list, watch and delete an ephemeral key. What a plain write by another client does to it has one outcome, which `Limits::foreign_write` states. The holder writes through its handle."
    "L3" "A time to live outside the store's bounds is `InvalidTtl` with the bounds; finer ones are rounded up, and `ttl()` tells what was granted."
    "L4" "A lock has at most one holder as the store sees it; a crashed holder's lock passes on after its time to live plus `Limits::expiry_lag`. `lock` waits, and dropping it leaves nothing behind; `try_lock` does not wait. A lock and a key of the same name are independent of one another."
    "L5" "`token()` is a fencing token: strictly greater for each later holder of the same key. Writes guarded by `held` are refused by the store, with `Lost`, once the lock has passed on."
    "L6" "A handle whose time to live has lapsed by its own clock, counted from when the last successful renewal began, reports `Lost` without asking anyone. That clock also counts the time for which the machine was suspended."
    "L7" "`unlock` frees the lock at once; on a lost lock it is `Lost`. Dropping a handle frees it in the background."
    "L8" "`hold` runs a future while renewing; if the lease is lost the future is dropped and the result is `Lost`; nothing runs on after it."
    "L9" "A store's native tools take part, under the same name: their locks and this one's exclude one another."
    "L10" "A lock is no key: reads, listings and watches show nothing of it, held or waited for, and writes, deletions and ephemeral keys at its name neither see nor touch it. Data at or below its name neither blocks the lock nor joins its queue. `delete_tree` at or above its name ends it: the handle is `Lost`, guarded writes are refused, and the next waiter goes on."
    "L12" "`close` returns when everything that the handle and its clones hold or wait for has been given back, or when a bound has passed, and says which. A process that ends without it leaves its leases to their time to live."
    "L13" "Waiters for a lock are served in turn. Where `Limits::lock_order` is `Asked`, that is the order in which they asked; where it is `PerHandle`, those of one handle are served in their order, and between handles none is passed over for ever."
    "A1" "An address names scheme, hosts, credentials, root and parameters; what cannot be read is `InvalidAddress`, and an unknown parameter is an error that names it."
    "A2" "What the address leaves open comes from the environment variables that the store's native tools read."
    "A3" "An unknown scheme is an error that names the registered ones and the likely cause."
    "A4" "Secrets appear in no `Debug`, error, log or span. TLS verifies, and nothing turns that off silently."
    "A5" "Errors are one type for all backends, each variant one thing that a caller does differently. The source error is kept, and an error of a call that an endpoint did not answer names the endpoint."
    "A6" "Every call but `lock` ends within the request timeout. `ping` succeeds only if the store can serve."
    "S1" "A handle works from any number of async runtimes, at once or one after the other: nothing that is made in one depends on another. What belonged to a runtime that has ended ends with an `Err`, never silently."
    "S2" "What one caller does (cancel calls, be refused, send or read large values, be slow) neither fails nor holds up another caller's calls, watches, renewals and locks, beyond sharing the bandwidth."
    "S3" "A call's own timeout is the only one that counts. However short it is, the handle recovers as soon as any endpoint serves."
    "S5" "A rolling restart or upgrade, a leader transfer, defragmentation, compaction, a snapshot, or an agent that leaves and comes back costs callers time, never an error that more patience would have spared. Only a write that was in flight when its member went away may be `Indeterminate`."
}

/// The sentence of a clause.
///
/// ```
/// assert!(kv_core::contract::sentence("R3").is_some_and(|sentence| sentence.contains("keys")));
/// ```
pub fn sentence(id: &str) -> Option<&'static str> {
    CLAUSES.iter().find(|clause| clause.id == id).map(|clause| clause.sentence)
}
