//! Values as the bytes that peers were sent, so that what is asked for again and again is not encoded again each time.
//!
//! Plain state beside a shard's store, within bytes of its own that are taken from the group's capacity. A value's
//! bytes are kept when they are made for the second time: most values are asked for by few. What must hold: the bytes
//! are those of the value in the store, so whoever changes what the store has of a key says so here; and what is
//! counted is never more than the budget.

use bytes::Bytes;
use lru::LruCache;

use crate::key::{HashedKey, KeyRef, Probe, Seeded};

/// What an entry takes besides its key and its bytes, about: the list's node, a table's bucket, two blocks' counts.
const OVERHEAD: usize = 144;

/// The kept bytes of one shard.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// In the order in which they came; without bytes, those that were encoded once.
    entries: LruCache<HashedKey, Option<Bytes>, Seeded>,
    bytes: usize,
    budget: usize,
}

impl Encoded {
    pub(crate) fn new(budget: usize, seed: u64) -> Self {
        Self { entries: LruCache::unbounded_with_hasher(Seeded(seed)), bytes: 0, budget }
    }

    /// The bytes of the key's value, if they are kept.
    pub(crate) fn get(&self, key: KeyRef<'_>) -> Option<Bytes> {
        self.entries.peek(&key as &dyn Probe).cloned().flatten()
    }

    /// The key's value was encoded, as these bytes. The second time they are kept.
    pub(crate) fn note(&mut self, key: KeyRef<'_>, encoded: &Bytes) {
        let known = self.forget(key);
        // A slice would keep all that it is a part of; a whole is counted as it is.
        let encoded = known.then(|| Bytes::copy_from_slice(encoded));
        let cost = cost(key.bytes.len(), encoded.as_ref());
        if cost > self.budget / 4 {
            return;
        }
        while self.bytes + cost > self.budget {
            let Some((oldest, encoded)) = self.entries.pop_lru() else { break };
            self.bytes -= self::cost(oldest.key.len(), encoded.as_ref());
        }
        self.bytes += cost;
        self.entries.put(key.to_owned(), encoded);
    }

    /// The store has another value of this key now, or none. Says whether there was anything.
    pub(crate) fn forget(&mut self, key: KeyRef<'_>) -> bool {
        let Some(encoded) = self.entries.pop(&key as &dyn Probe) else { return false };
        self.bytes -= cost(key.bytes.len(), encoded.as_ref());
        true
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

fn cost(key_len: usize, encoded: Option<&Bytes>) -> usize {
    OVERHEAD + key_len + encoded.map_or(0, Bytes::len)
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
        let mut encoded = Encoded::new(10_000, 1);
        let bytes = Bytes::from_static(b"the value");
        encoded.note(key(b"k"), &bytes);
        assert_eq!(encoded.get(key(b"k")), None);
        encoded.note(key(b"k"), &bytes);
        assert_eq!(encoded.get(key(b"k")), Some(bytes.clone()));
        encoded.forget(key(b"k"));
        assert_eq!((encoded.get(key(b"k")), encoded.bytes()), (None, 0));
        encoded.note(key(b"k"), &bytes);
        assert_eq!(encoded.get(key(b"k")), None, "it is another value, encoded once");
        encoded.clear();
        assert_eq!(encoded.bytes(), 0);
    }

    proptest! {
        #[test]
        fn what_is_counted_is_there_and_never_more_than_the_budget(
            steps in prop::collection::vec((0..20_u8, 0..3000_usize, any::<bool>()), 0..200),
        ) {
            let mut encoded = Encoded::new(8_000, 1);
            for (number, len, forget) in steps {
                if forget {
                    encoded.forget(key(&[number]));
                } else {
                    encoded.note(key(&[number]), &Bytes::from(vec![number; len]));
                }
                let counted: usize = encoded.entries.iter().map(|(key, bytes)| cost(key.key.len(), bytes.as_ref())).sum();
                prop_assert_eq!(encoded.bytes(), counted);
                prop_assert!(counted <= 8_000);
            }
        }
    }
}
