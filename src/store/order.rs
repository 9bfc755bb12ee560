//! Entries in the order in which they took their places.
//!
//! An [`Order`] is a queue that can be searched and that knows its bytes: after every call, [`Order::bytes`] is the sum
//! of the costs of its entries. It has no limit of its own, and it knows nothing of budgets, of time, or of other
//! queues.

use lru::LruCache;

use super::entry::Kept;
use super::key::{Search, Sought, StoreKey};
use crate::scatter::Scatter;

/// A queue of entries. It is the list of an LRU cache whose entries are never touched, only put in anew.
#[derive(Debug)]
pub(super) struct Order<V> {
    entries: LruCache<StoreKey, Kept<V>, Scatter>,
    bytes: usize,
    /// How many of them may have an end before they are asked for.
    mortal: usize,
    scatter: Scatter,
}

impl<V> Order<V> {
    pub(super) fn new(scatter: Scatter) -> Self {
        Self { entries: LruCache::unbounded_with_hasher(scatter), bytes: 0, mortal: 0, scatter }
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

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a hit is a tenth longer with a call for this")]
    pub(super) fn find(&self, key: &Sought<'_>) -> Option<&Kept<V>> {
        self.entries.peek(key as &dyn Search)
    }

    /// How many entries may have an end before they are asked for.
    pub(super) fn mortal(&self) -> usize {
        self.mortal
    }

    pub(super) fn find_mut(&mut self, key: &Sought<'_>) -> Option<&mut Kept<V>> {
        self.entries.peek_mut(key as &dyn Search)
    }

    pub(super) fn oldest(&self) -> Option<&Kept<V>> {
        self.entries.peek_lru().map(|(_, kept)| kept)
    }

    /// Puts an entry in as the newest. The key must not be in the queue: whoever puts has taken out what was there.
    pub(super) fn put(&mut self, key: StoreKey, kept: Kept<V>) {
        self.bytes += kept.cost();
        self.mortal += usize::from(kept.is_mortal());
        let replaced = self.entries.put(key, kept);
        debug_assert!(replaced.is_none(), "an entry was put over another");
    }

    pub(super) fn take(&mut self, key: &Sought<'_>) -> Option<Kept<V>> {
        let kept = self.entries.pop(key as &dyn Search)?;
        self.forget(&kept);
        Some(kept)
    }

    pub(super) fn take_oldest(&mut self) -> Option<(StoreKey, Kept<V>)> {
        let (key, kept) = self.entries.pop_lru()?;
        self.forget(&kept);
        Some((key, kept))
    }

    fn forget(&mut self, kept: &Kept<V>) {
        self.bytes -= kept.cost();
        self.mortal -= usize::from(kept.is_mortal());
    }

    /// Takes everything out at once, table and all, and leaves an empty queue.
    pub(super) fn take_all(&mut self) -> Self {
        let empty = Self::new(self.scatter);
        std::mem::replace(self, empty)
    }

    #[cfg(test)]
    pub(super) fn oldest_first(&self) -> impl Iterator<Item = (&[u8], &Kept<V>)> {
        self.entries.iter().rev().map(|(key, kept)| (key.bytes(), kept))
    }
}
