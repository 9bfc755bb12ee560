//! Values as the bytes that peers were sent, so that what is asked for again and again is not encoded again each time.
//!
//! Plain state, within bytes of its own that are taken from the group's capacity: a table beside each shard's store, and
//! one for what is too large for these. A value's bytes are kept when they are made for the second time: most values are
//! asked for by few. What must hold: the bytes are those of the value in the store, so whoever changes what the store
//! has of a key says so here; and what is counted is never more than the budget.

use bytes::Bytes;
use lru::LruCache;

use crate::key::{HashedKey, KeyRef, Probe, Seeded};

/// What an entry takes besides its key and its bytes, about: the list's node, a table's bucket, two blocks' counts.
const OVERHEAD: usize = 144;

/// A table of kept bytes.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// In the order in which they came; without bytes, those that were encoded once.
    entries: LruCache<HashedKey, Option<Bytes>, Seeded>,
    bytes: usize,
    budget: usize,
    /// The most that an entry may cost.
    largest: usize,
}

impl Encoded {
    /// A table that keeps what costs no more than `largest`.
    pub(crate) fn new(budget: usize, largest: usize, seed: u64) -> Self {
        Self { entries: LruCache::unbounded_with_hasher(Seeded(seed)), bytes: 0, budget, largest: largest.min(budget) }
    }

    /// The bytes of the key's value, if they are kept.
    pub(crate) fn get(&self, key: KeyRef<'_>) -> Option<Bytes> {
        self.entries.peek(&key as &dyn Probe).cloned().flatten()
    }

    /// The key's value was encoded. Says whether it had been before: then the bytes are worth keeping.
    pub(crate) fn note(&mut self, key: KeyRef<'_>) -> bool {
        let is_known = self.entries.contains(&key as &dyn Probe);
        if !is_known {
            self.put(key, None);
        }
        is_known
    }

    /// Whether so many bytes of the key's value may be kept here.
    pub(crate) fn fits(&self, key: KeyRef<'_>, encoded_len: usize) -> bool {
        cost(key.bytes.len(), encoded_len) <= self.largest
    }

    /// Keeps the bytes of the key's value: a copy of them, as a slice would keep all that it is a part of, while a whole
    /// is counted as it is.
    pub(crate) fn keep(&mut self, key: KeyRef<'_>, encoded: Bytes) {
        self.put(key, Some(encoded));
    }

    fn put(&mut self, key: KeyRef<'_>, encoded: Option<Bytes>) {
        self.forget(key);
        let len = encoded.as_ref().map_or(0, Bytes::len);
        if !self.fits(key, len) {
            return;
        }
        let cost = cost(key.bytes.len(), len);
        while self.bytes + cost > self.budget {
            let Some((oldest, encoded)) = self.entries.pop_lru() else { break };
            self.bytes -= cost_of(oldest.as_ref(), encoded.as_ref());
        }
        self.bytes += cost;
        self.entries.put(key.to_owned(), encoded);
    }

    /// The store has another value of this key now, or none.
    pub(crate) fn forget(&mut self, key: KeyRef<'_>) {
        if let Some(encoded) = self.entries.pop(&key as &dyn Probe) {
            self.bytes -= cost_of(key, encoded.as_ref());
        }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// How many bytes are taken.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn cost(key_len: usize, encoded_len: usize) -> usize {
    OVERHEAD + key_len + encoded_len
}

fn cost_of(key: KeyRef<'_>, encoded: Option<&Bytes>) -> usize {
    cost(key.bytes.len(), encoded.map_or(0, Bytes::len))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(bytes: &[u8]) -> KeyRef<'_> {
        KeyRef::new(bytes)
    }

    #[test]
    fn the_second_time_counts_and_a_change_forgets() {
        let mut encoded = Encoded::new(10_000, 10_000, 1);
        assert!(!encoded.note(key(b"k")));
        assert_eq!(encoded.get(key(b"k")), None);
        assert!(encoded.note(key(b"k")));
        encoded.keep(key(b"k"), Bytes::from_static(b"the value"));
        assert_eq!(encoded.get(key(b"k")), Some(Bytes::from_static(b"the value")));
        encoded.forget(key(b"k"));
        assert_eq!((encoded.get(key(b"k")), encoded.bytes()), (None, 0));
        assert!(!encoded.note(key(b"k")), "it is another value, encoded once");
        encoded.clear();
        assert_eq!(encoded.bytes(), 0);
    }

    #[test]
    fn what_fits_is_kept_up_to_the_last_byte() {
        let most = 10_000 - OVERHEAD - 1;
        for (largest, len, is_kept) in [(10_000, most, true), (10_000, most + 1, false), (2_500, 3_000, false)] {
            let mut encoded = Encoded::new(10_000, largest, 1);
            assert_eq!(encoded.fits(key(b"k"), len), is_kept);
            encoded.keep(key(b"k"), vec![0; len].into());
            assert_eq!(encoded.get(key(b"k")).is_some(), is_kept, "{len} of {largest}");
        }
    }

    proptest! {
        #[test]
        fn what_is_counted_is_there_and_never_more_than_the_budget(
            steps in prop::collection::vec((0..20_u8, 0..3000_usize, 0..3), 0..200),
        ) {
            let mut encoded = Encoded::new(8_000, 2_000, 1);
            for (number, len, step) in steps {
                match step {
                    0 => encoded.forget(key(&[number])),
                    1 => drop(encoded.note(key(&[number]))),
                    _ => encoded.keep(key(&[number]), vec![number; len].into()),
                }
                let counted: usize = encoded.entries.iter().map(|(key, bytes)| cost_of(key.as_ref(), bytes.as_ref())).sum();
                prop_assert_eq!(encoded.bytes(), counted);
                prop_assert!(counted <= 8_000);
            }
        }
    }
}
