//! What an entry costs: the bytes that are counted for it.

use super::balance;
use super::entry::{Entry, Kept};
use super::ghosts::Trace;
use super::held::Held;
use super::key::{StoreKey, heap_bytes};

/// Bytes, in two: eleven bits and how often they are doubled. It is what an entry takes, rounded up by a part in a
/// thousand at most; below 2 KiB it is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cost(u16);

const NUMBER_BITS: u32 = 11;
const NUMBERS: usize = 1 << NUMBER_BITS;
const MOST_DOUBLED: u32 = u16::BITS - NUMBER_BITS;

impl Cost {
    /// What a store counts for an entry: its key, its value, and what it takes to keep them. They are counted as they
    /// are asked for from the allocator, so that the number is the same whatever allocator there is. `None` if that is
    /// more than can be told, as with a codec that says so.
    pub(super) fn of<V>(key: &[u8], entry: &Entry<V>) -> Option<Self> {
        // Whatever the codec says, and even without a value, the room for one lies in the entry's block.
        let value = entry.weight.max(size_of::<V>());
        let tags = Held::<V>::cost_of(entry.tagged.as_ref());
        let sum = value.saturating_add(heap_bytes(key.len())).saturating_add(overhead::<V>()).saturating_add(tags);
        Self::up(sum)
    }

    fn up(bytes: usize) -> Option<Self> {
        let doubled = doubled(bytes);
        let number = bytes.div_ceil(1_usize.checked_shl(doubled)?);
        let (number, doubled) = if number == NUMBERS { (number / 2, doubled + 1) } else { (number, doubled) };
        let code = u16::try_from(number).ok()? | u16::try_from(doubled).ok()?.checked_shl(NUMBER_BITS)?;
        (doubled < 1 << MOST_DOUBLED).then_some(Self(code))
    }

    pub(super) fn bytes(self) -> usize {
        (usize::from(self.0) % NUMBERS) << (self.0 >> NUMBER_BITS)
    }
}

/// How often a number of eleven bits is doubled to come to so many bytes.
fn doubled(bytes: usize) -> u32 {
    (usize::BITS - bytes.leading_zeros()).saturating_sub(NUMBER_BITS)
}

/// The most that an entry may take of so many bytes to cost no more than that.
pub(super) fn most_within(bytes: usize) -> usize {
    let doubled = doubled(bytes);
    bytes >> doubled << doubled
}

/// What an entry costs beyond a long key and the weight of its value, which includes the room for a `V`.
pub(super) const fn overhead<V>() -> usize {
    let block = size_of::<(StoreKey, Kept<V>, Links)>() - size_of::<V>();
    block + TABLE_SHARE + GHOSTS_SHARE
}

/// A list's links to the neighbours: previous and next.
type Links = [usize; 2];

/// A hash table spends two pointers and a control byte on a bucket, and as it grows fills between 7/16 and 7/8 of them:
/// an entry has 8/7 to 16/7 buckets to itself. Tables double all at once, but what entries cost should not: this is the
/// mean over all sizes.
pub(super) const TABLE_SHARE: usize = (2 * size_of::<usize>() + 1) * 33 / 20;

/// What an entry pays for the traces of those that left, rounded down: a store that was never full has none.
const GHOSTS_SHARE: usize = (super::REMEMBERED + 2 * balance::FOR_EACH_EIGHT) * size_of::<Trace>() / 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_no_less_than_the_bytes_and_hardly_more() {
        let around = |doubled: u32| [(1_usize << doubled) - 1, 1 << doubled, (1 << doubled) + 1];
        for bytes in (0..41).flat_map(around).chain([0, 2047, 2049, 123_456_789]) {
            let cost = Cost::up(bytes).unwrap().bytes();
            assert!(cost >= bytes && cost - bytes <= bytes / 1024, "{cost} for {bytes}");
            assert!(bytes > 2048 || cost == bytes, "{cost} for {bytes}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_nothing() {
        assert_eq!(Cost::up((NUMBERS - 1) << 31).unwrap().bytes(), (NUMBERS - 1) << 31);
        assert_eq!(Cost::up(((NUMBERS - 1) << 31) + 1), None);
        assert_eq!(Cost::up(usize::MAX), None);
    }

    #[test]
    fn the_most_within_a_budget_costs_no_more_and_one_byte_more_does() {
        for budget in [0, 1, 2047, 2048, 2049, 65_537, 1 << 20, (1 << 20) + 1000, (4 << 30) - 1] {
            let most = most_within(budget);
            assert!(Cost::up(most).unwrap().bytes() == most && most <= budget, "{most} of {budget}");
            assert!(Cost::up(most + 1).unwrap().bytes() > budget, "{most} of {budget}");
        }
    }
}
