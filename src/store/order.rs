//! Entries in the order of their use, and what they cost.
//!
//! An [`Order`] is an LRU list that knows the bytes it holds: after every call, [`Order::bytes`] is the sum of [`cost`]
//! over its entries. It has no limit of its own, and it knows nothing of budgets, of time, or of other lists.

use std::sync::atomic::{AtomicU8, Ordering};

use lru::LruCache;

use crate::key::{HashedKey, KeyRef, Probe, Seeded};
use crate::time::Moment;

/// What is held for a key.
#[derive(Debug)]
pub(crate) struct Entry<V> {
    /// The value, or `None`: it is remembered that there is none.
    pub(crate) value: Option<V>,
    /// What the codec says that the value weighs, in bytes; 0 without a value. The room for a `V` is part of it.
    pub(crate) weight: usize,
    /// When the value came into being, as far as this node can tell.
    pub(crate) born: Moment,
    /// The first moment at which the entry is of no use to anybody.
    pub(crate) expires: Moment,
}

/// An entry as a store holds it, with what readers note on it.
#[derive(Debug)]
pub(super) struct Kept<V> {
    pub(super) entry: Entry<V>,
    /// Whether it was asked for since it was put in or last spared, and as what: one of the constants below. Readers
    /// share the store, so this is all that a hit may write; and it writes only what it would change, so that a key
    /// that everybody asks for is a line that everybody reads.
    touch: AtomicU8,
}

const UNTOUCHED: u8 = 0;

impl<V> Kept<V> {
    fn new(entry: Entry<V>) -> Self {
        Self { entry, touch: AtomicU8::new(UNTOUCHED) }
    }

    pub(super) fn is_fresh(&self, now: Moment) -> bool {
        now < self.entry.expires
    }

    /// Notes a use. `mark` is the caller's, and not 0.
    pub(super) fn touch(&self, mark: u8) {
        // Relaxed: it is read under the exclusive lock, and a use that is lost to another at the same time is no loss.
        if self.touch.load(Ordering::Relaxed) != mark {
            self.touch.store(mark, Ordering::Relaxed);
        }
    }

    /// The mark of the last use since this was last asked, if there was one.
    pub(super) fn take_touch(&mut self) -> Option<u8> {
        let mark = std::mem::replace(self.touch.get_mut(), UNTOUCHED);
        (mark != UNTOUCHED).then_some(mark)
    }
}

/// The bytes that a store counts for an entry: its key, its value, and what it takes to keep them.
pub(super) fn cost<V>(key: &[u8], entry: &Entry<V>) -> usize {
    // Whatever the codec says, and even without a value, the room for one lies in the entry's block.
    let value = entry.weight.max(size_of::<V>());
    value.saturating_add(key.len()).saturating_add(overhead::<V>())
}

/// What an entry costs beyond the bytes of its key and the weight of its value, which includes the room for a `V`.
pub(super) const fn overhead<V>() -> usize {
    let block = size_of::<(HashedKey, Kept<V>, Links)>() - size_of::<V>();
    block + BLOCK_EXTRA + KEY_COUNTS + BLOCK_EXTRA + TABLE_SHARE
}

/// A list's links to the neighbours: previous and next.
type Links = [usize; 2];

/// The reference counts, strong and weak, that lie before the bytes of a shared key.
const KEY_COUNTS: usize = 2 * size_of::<usize>();

/// A hash table spends two pointers and a control byte on a bucket, and as it grows fills between 7/16 and 7/8 of them:
/// an entry has 8/7 to 16/7 buckets to itself. Tables double all at once, but what entries cost should not: this is the
/// mean over all sizes.
const TABLE_SHARE: usize = (2 * size_of::<usize>() + 1) * 33 / 20;

/// What an allocator keeps of a block beyond what it was asked for: from nothing to 23 bytes, by its kind and the size.
const BLOCK_EXTRA: usize = 8;

/// An LRU list that knows its bytes.
#[derive(Debug)]
pub(super) struct Order<V> {
    entries: LruCache<HashedKey, Kept<V>, Seeded>,
    bytes: usize,
    seed: u64,
}

impl<V> Order<V> {
    pub(super) fn new(seed: u64) -> Self {
        Self { entries: LruCache::unbounded_with_hasher(Seeded(seed)), bytes: 0, seed }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn find(&self, key: KeyRef<'_>) -> Option<&Kept<V>> {
        self.entries.peek(&key as &dyn Probe)
    }

    /// Puts an entry in as the newest. The key must not be in the list: whoever puts has taken out what was there.
    pub(super) fn put(&mut self, key: HashedKey, entry: Entry<V>) {
        self.bytes += cost(&key.key, &entry);
        let replaced = self.entries.put(key, Kept::new(entry));
        debug_assert!(replaced.is_none(), "an entry was put over another");
    }

    pub(super) fn take(&mut self, key: KeyRef<'_>) -> Option<(HashedKey, Kept<V>)> {
        let taken = self.entries.pop_entry(&key as &dyn Probe);
        self.uncount(taken)
    }

    pub(super) fn take_oldest(&mut self) -> Option<(HashedKey, Kept<V>)> {
        let taken = self.entries.pop_lru();
        self.uncount(taken)
    }

    fn uncount(&mut self, taken: Option<(HashedKey, Kept<V>)>) -> Option<(HashedKey, Kept<V>)> {
        let (key, kept) = taken?;
        self.bytes -= cost(&key.key, &kept.entry);
        Some((key, kept))
    }

    /// Takes everything out at once, table and all, and leaves an empty list.
    pub(super) fn take_all(&mut self) -> Self {
        let empty = Self::new(self.seed);
        std::mem::replace(self, empty)
    }

    #[cfg(test)]
    pub(super) fn oldest_first(&self) -> impl Iterator<Item = (&HashedKey, &Kept<V>)> {
        self.entries.iter().rev()
    }
}
