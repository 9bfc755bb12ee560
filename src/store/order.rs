//! Entries in the order in which they took their places.
//!
//! An [`Order`] is a queue that can be searched and that knows its bytes: after every call, [`Order::bytes`] is the sum
//! of the costs of its entries. It has no limit of its own, and it knows nothing of budgets, of time, or of other
//! queues.
//!
//! **A table does not stay as large as it ever was.** It is made smaller when half of its entries have left, which
//! spreads what that takes over many that leave; [`Order::left_bytes`] tells what it is too large by then.

use std::num::NonZeroUsize;

use lru::LruCache;

use super::cost::TABLE_SHARE;
use super::entry::Kept;
use super::key::{Search, Sought, StoreKey};
use crate::scatter::Scatter;

/// The table of a queue of so few is not worth a word.
const FEW: usize = 64;

/// A queue of entries. It is the list of an LRU cache whose entries are never touched, only put in anew.
#[derive(Debug)]
pub(super) struct Order<V> {
    entries: LruCache<StoreKey, Kept<V>, Scatter>,
    bytes: usize,
    /// How many entries there were at most since the table was last made smaller.
    most: usize,
    /// How many of them may have an end before they are asked for.
    mortal: usize,
    scatter: Scatter,
}

impl<V> Order<V> {
    pub(super) fn new(scatter: Scatter) -> Self {
        Self { entries: LruCache::unbounded_with_hasher(scatter), bytes: 0, most: 0, mortal: 0, scatter }
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

    /// What its table takes for entries that have left.
    pub(super) fn left_bytes(&self) -> usize {
        self.most.saturating_sub(self.len().max(FEW)) * TABLE_SHARE
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
        self.most = self.most.max(self.len());
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
        if self.len() < self.most / 2 && self.most > FEW {
            self.give_back();
        }
    }

    /// Makes the table as small as it may be. That is what a limit does to it; no entry is beyond this one.
    fn give_back(&mut self) {
        self.most = self.len();
        self.entries.resize(NonZeroUsize::MIN.saturating_add(self.most));
        self.entries.resize(NonZeroUsize::MAX);
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

#[cfg(test)]
mod tests {
    use allocation_counter::measure;

    use super::super::cost::Cost;
    use super::super::entry::Entry;
    use super::*;
    use crate::key::Slot;
    use crate::lifespan::Lifespan;
    use crate::time::Moment;

    fn put(order: &mut Order<u64>, number: usize) {
        let life = Lifespan::new(Moment::default(), Moment::NEVER);
        let entry = Entry { value: Some(1), weight: size_of::<u64>(), life, tagged: None };
        let key = number.to_le_bytes();
        let cost = Cost::of(&key, &entry).expect("it is small");
        order.put(StoreKey::new(&key), Kept::new(entry, cost, Slot(0)));
    }

    #[test]
    fn a_table_that_was_large_is_counted_until_it_is_given_back() {
        // The most that a table of this many buckets takes before it grows.
        const MOST: usize = (1 << 16) / 8 * 7;
        let mut order = Order::new(Scatter::fixed(1));
        let mut held = 0;
        let mut check = |order: &Order<u64>, change: allocation_counter::AllocationInfo| {
            held += change.bytes_current;
            // An eighth for what a table may have more buckets than in the mean, and the marks of what went.
            let (held, bytes) =
                (usize::try_from(held).expect("more was taken than given back"), order.bytes() + order.left_bytes());
            assert!(held <= bytes + bytes / 8 + FEW * TABLE_SHARE, "{held} bytes are held, and {bytes} counted");
        };
        let filled = measure(|| (0..MOST).for_each(|number| put(&mut order, number)));
        check(&order, filled);
        while !order.is_empty() {
            let taken = measure(|| {
                for _ in 0..100 {
                    drop(order.take_oldest());
                }
            });
            check(&order, taken);
        }
        assert_eq!((order.bytes(), order.left_bytes()), (0, 0));
    }
}
