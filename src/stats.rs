//! Plain counters, and snapshots of them.
//!
//! A get is counted once, when it ends, under the way in which it ended. How many gets there were is the sum of these:
//! so hits and misses add up to the gets in every snapshot, also while gets end.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::entry::Source;
use crate::error::Error;

/// So many threads can count without passing a cache line to and fro.
const STRIPES: usize = 4;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STRIPE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
}

/// A number that only grows. What is counted for every get is counted by all threads: each adds to a part that it
/// shares with few. (Measured: two threads spend half as much again on a fetch as one, most of it on lines that both
/// write.)
#[derive(Debug, Default)]
pub(crate) struct Counter([Stripe; STRIPES]);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Stripe(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        // A thread that is ending may have no stripe any more.
        let stripe = STRIPE.try_with(|stripe| *stripe).unwrap_or(0);
        self.0[stripe].0.fetch_add(count, Ordering::SeqCst);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    /// Counts one, and says whether it was the first; for counters that only this counts.
    pub(crate) fn first(&self) -> bool {
        self.0[0].0.fetch_add(1, Ordering::SeqCst) == 0
    }

    /// The sum: at least what had been counted before this was called, and at most what has been when it returns.
    pub(crate) fn get(&self) -> u64 {
        self.0.iter().map(|stripe| stripe.0.load(Ordering::SeqCst)).sum()
    }
}

/// Declares a public snapshot and the counters behind it, so that the two cannot drift apart.
macro_rules! counters {
    ($(#[$doc:meta])* $snapshot:ident of $counters:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $snapshot {
            $($(#[$field_doc])* pub $field: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct $counters {
            $(pub(crate) $field: Counter,)*
        }

        impl $counters {
            pub(crate) fn snapshot(&self) -> $snapshot {
                $snapshot { $($field: self.$field.get(),)* }
            }
        }
    };
}

counters! {
    /// How gets ended, one count for each. A get of many keys counts once for each key; a peek counts nowhere.
    Gets of GetCounters {
        /// A value from the main cache.
        main_hits,
        /// A value from the hot cache.
        hot_hits,
        /// A value from a peer.
        fetched,
        /// A value from the loader on this node.
        loaded,
        /// "There is none", remembered or new.
        not_found,
        /// The loader failed.
        failed_load,
        /// The load ran into its time limit.
        failed_load_timeout,
        /// The caller's time limit came first.
        failed_timeout,
        /// Too many loads at once.
        failed_busy,
        /// The node was shut down.
        failed_closed,
        /// Anything else: a key or value beyond the limits, a value without an encoding, a loader that asked for its
        /// own key.
        failed_other,
        /// The caller went away before there was an answer.
        abandoned,
        /// Of all the gets, those that waited for a flight that another one had started. They are counted above too.
        joined,
    }
}

impl Gets {
    /// All gets that have ended.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.hits() + self.misses()
    }

    /// Gets answered with a value from this node's own cache.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.main_hits + self.hot_hits
    }

    /// All the others.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.fetched + self.loaded + self.not_found + self.failed() + self.abandoned
    }

    /// Gets that ended with an error other than "there is none".
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed_load
            + self.failed_load_timeout
            + self.failed_timeout
            + self.failed_busy
            + self.failed_closed
            + self.failed_other
    }
}

impl GetCounters {
    /// Counts a get that ended with a value (or with "there is none", if `found` is false).
    #[inline]
    pub(crate) fn answered(&self, source: &Source, found: bool) {
        match source {
            _ if !found => self.not_found.one(),
            Source::Main => self.main_hits.one(),
            Source::Hot => self.hot_hits.one(),
            Source::Peer(_) => self.fetched.one(),
            Source::Loader => self.loaded.one(),
        }
    }

    /// Counts a get that ended with an error.
    pub(crate) fn failed(&self, error: &Error) {
        match error {
            Error::NotFound => self.not_found.one(),
            Error::Load(_) => self.failed_load.one(),
            Error::LoadTimeout { .. } => self.failed_load_timeout.one(),
            Error::Timeout { .. } => self.failed_timeout.one(),
            Error::Busy => self.failed_busy.one(),
            Error::Closed => self.failed_closed.one(),
            _ => self.failed_other.one(),
        }
    }
}

/// Counts one get exactly once, however it ends: a caller that goes away drops this, and is counted as abandoned.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Tally<'a>(Option<&'a GetCounters>);

impl<'a> Tally<'a> {
    pub(crate) fn new(counters: &'a GetCounters) -> Self {
        Self(Some(counters))
    }

    /// It is counted elsewhere.
    #[inline]
    pub(crate) fn counted(mut self) {
        self.0 = None;
    }

    pub(crate) fn answered(mut self, source: &Source, found: bool) {
        if let Some(counters) = self.0.take() {
            counters.answered(source, found);
        }
    }

    pub(crate) fn failed(mut self, error: &Error) {
        if let Some(counters) = self.0.take() {
            counters.failed(error);
        }
    }
}

impl Drop for Tally<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(counters) = self.0 {
            counters.abandoned.one();
        }
    }
}

counters! {
    /// What this node's loader did.
    Loads of LoadCounters {
        /// Keys that the loader was called with.
        started,
        /// Of those keys, the ones whose old value was served meanwhile: it had passed its soft limit.
        refreshes,
        /// Calls of the loader; fewer than keys only with a batch loader.
        calls,
        /// Keys that ended with a value.
        found,
        /// Keys that the source does not have.
        not_found,
        /// Keys whose load failed, panicked, ran into its limit, or brought a value that cannot be kept.
        failed,
        /// Of all the loads that ended, those that a removal overtook: their value went to who waited and was not kept.
        voided,
        /// Loads that were refused or timed out while they waited for their turn.
        busy,
    }
}

counters! {
    /// What this node asked of its peers for this group.
    Fetches of FetchCounters {
        /// Times that a peer was asked: once for all the keys of a `get_many` that have the same owner.
        messages,
        /// Keys asked for.
        keys,
        /// Keys asked of a stand-in, because the owner could not be reached.
        stood_in,
        /// Keys that were loaded here although another node owns them, because that node and its stand-in could not
        /// serve them.
        loaded_here,
        /// Keys that a peer refused though it was well: it has no such group, or another schema, or the value is too
        /// large.
        refused,
        /// Values of peers that did not decode here: another layout under the same schema.
        undecoded,
        /// Of all the fetches that ended, those that a removal overtook: their value went to who waited and was not
        /// kept.
        voided,
    }
}

counters! {
    /// Removals and inserts.
    Removals of RemovalCounters {
        /// Calls of `remove`, `remove_many` and `clear` on this node.
        removals,
        /// Calls of `insert` on this node.
        inserts,
        /// Removals of other nodes that this one applied.
        applied,
        /// Inserts of other nodes that this one stored.
        stored,
        /// Times that a node was still pending when a removal or an insert on this node returned.
        pending,
    }
}

/// What a group's cache on this node holds, and what it gave up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheUsage {
    /// Entries in the main cache: keys that this node owns.
    pub main_entries: u64,
    /// Bytes in the main cache: keys, values and bookkeeping.
    pub main_bytes: u64,
    /// Entries in the hot cache: copies of keys that other nodes own.
    pub hot_entries: u64,
    /// Bytes in the hot cache.
    pub hot_bytes: u64,
    /// Bytes of encoded values that are kept for peers that ask again.
    pub encoded_bytes: u64,
    /// Entries that had to go because room was needed.
    pub evictions: u64,
    /// Entries that had outlived their time, and their grace: met by a get, or by the sweep.
    pub expiries: u64,
    /// Entries that were not kept because they are larger than a shard of the cache allows: than `max_entry_bytes`, or,
    /// as copies of other nodes' keys, than the [`hot_share`](crate::GroupBuilder::hot_share) of that.
    pub refusals: u64,
    /// What a shard of the cache holds: an entry that is larger, with its key and bookkeeping, is not kept. If such are
    /// common, give the group more capacity: shards grow with it up to 16 MiB, and again beyond some 16 MiB for each
    /// core; between the two there are more of them.
    pub max_entry_bytes: u64,
}

/// A snapshot of one group on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupStats {
    /// What callers on this node asked, and how it was answered.
    pub gets: Gets,
    /// What peers asked of this node, and how it was answered. Nothing here was fetched: a request is forwarded once.
    pub served: Gets,
    /// What the loader did.
    pub loads: Loads,
    /// What this node asked of its peers.
    pub fetches: Fetches,
    /// Removals and inserts.
    pub removals: Removals,
    /// What the cache holds.
    pub cache: CacheUsage,
    /// Loads that run now. (A batch of a batch loader is one.)
    pub loads_running: u64,
    /// Loads that wait for their turn now.
    pub loads_queued: u64,
    /// Flights of this group now: keys that somebody loads or fetches, or waits to load.
    pub flights: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_counts_for_any_number_of_threads() {
        let counter = Counter::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * STRIPES {
                scope.spawn(|| (0..1000).for_each(|_| counter.one()));
            }
        });
        assert_eq!(counter.get(), 2000 * STRIPES as u64);
    }

    #[test]
    fn a_get_is_counted_once_however_it_ends() {
        let counters = GetCounters::default();
        Tally::new(&counters).answered(&Source::Main, true);
        Tally::new(&counters).answered(&Source::Main, false);
        Tally::new(&counters).failed(&Error::Busy);
        drop(Tally::new(&counters));
        let gets = counters.snapshot();
        assert_eq!((gets.main_hits, gets.not_found, gets.failed_busy, gets.abandoned), (1, 1, 1, 1));
        assert_eq!(gets.total(), 4);
    }
}
