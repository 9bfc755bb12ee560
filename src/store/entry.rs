//! What is held for a key: as it comes in, as it is kept, and what it costs.
//!
//! A kept entry spends 16 bytes on all that is not the key or the value: its life, its cost, when it took its place,
//! and what readers note on it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::Place;
use super::key::{StoreKey, heap_bytes};
use crate::time::Moment;

/// What is to be held for a key.
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

/// The bytes that a store counts for an entry: its key, its value, and what it takes to keep them. They are counted as
/// they are asked for from the allocator, so that the number is the same whatever allocator there is.
pub(super) fn cost<V>(key: &[u8], entry: &Entry<V>) -> usize {
    // Whatever the codec says, and even without a value, the room for one lies in the entry's block.
    let value = entry.weight.max(size_of::<V>());
    value.saturating_add(heap_bytes(key.len())).saturating_add(overhead::<V>())
}

/// What an entry costs beyond a long key and the weight of its value, which includes the room for a `V`.
pub(super) const fn overhead<V>() -> usize {
    let block = size_of::<(StoreKey, Kept<V>, Links)>() - size_of::<V>();
    block + TABLE_SHARE + super::ghosts::SHARE
}

/// A list's links to the neighbours: previous and next.
type Links = [usize; 2];

/// A hash table spends two pointers and a control byte on a bucket, and as it grows fills between 7/16 and 7/8 of them:
/// an entry has 8/7 to 16/7 buckets to itself. Tables double all at once, but what entries cost should not: this is the
/// mean over all sizes.
const TABLE_SHARE: usize = (2 * size_of::<usize>() + 1) * 33 / 20;

/// How often an entry can have been used, as far as its store can tell. With more, what was popular once takes longer
/// to go; with one, what is popular goes too easily.
pub(super) const MOST_USES: u8 = 2;
/// The bits of a mark that count uses; the one above says where the entry was last asked for.
const USES: u8 = 0b11;
const AS_HOT: u8 = 0b100;

/// An entry as a store keeps it.
#[derive(Debug)]
pub(super) struct Kept<V> {
    pub(super) value: Option<V>,
    life: Life,
    cost: u32,
    /// When the entry took its place in its list, by a count that goes round: see [`Kept::took_its_place_before`].
    pub(super) turn: u16,
    /// Readers share the store, so this is all that a hit may write; and it writes only what it would change, so that a
    /// key that everybody asks for is a line that everybody reads.
    mark: AtomicU8,
}

impl<V> Kept<V> {
    pub(super) fn new(entry: Entry<V>, cost: u32) -> Self {
        let life = Life::new(entry.born, entry.expires);
        Self { value: entry.value, life, cost, turn: 0, mark: AtomicU8::new(0) }
    }

    pub(super) fn cost(&self) -> usize {
        self.cost as usize
    }

    pub(super) fn born(&self) -> Moment {
        self.life.born()
    }

    pub(super) fn expires(&self) -> Moment {
        self.life.expires()
    }

    pub(super) fn is_fresh(&self, now: Moment) -> bool {
        now < self.expires()
    }

    /// Notes that the entry was asked for, and as what.
    pub(super) fn note_use(&self, place: Place) {
        // Relaxed: it is read by whoever has the store to himself, and a use that is lost to another at the same time
        // is no loss.
        let mark = self.mark.load(Ordering::Relaxed);
        let uses = ((mark & USES) + 1).min(MOST_USES);
        let noted = uses | if place == Place::Hot { AS_HOT } else { 0 };
        if noted != mark {
            self.mark.store(noted, Ordering::Relaxed);
        }
    }

    pub(super) fn is_used(&self) -> bool {
        self.mark.load(Ordering::Relaxed) & USES > 0
    }

    /// Takes one use off, if there is one, and says where the entry was last asked for.
    pub(super) fn use_up(&mut self) -> Option<Place> {
        let mark = self.mark.get_mut();
        if *mark & USES == 0 {
            return None;
        }
        *mark -= 1;
        Some(if *mark & AS_HOT == 0 { Place::Main } else { Place::Hot })
    }

    /// Which of two entries has been longer where it is. A count that has gone half round is mistaken for a new one,
    /// which does no harm: it only says who goes first.
    pub(super) fn took_its_place_before(&self, other: &Self) -> bool {
        self.turn.wrapping_sub(other.turn) > u16::MAX / 2
    }
}

/// From when to when an entry lives, in eight bytes: the millisecond in which it was born, and how long it lives in
/// tenths of milliseconds, as a number of 19 bits and how often that is doubled. Both are rounded down, so that an
/// entry is never younger than it says, and never lives longer than it may. It loses no more than the rounding of its
/// birth, a tenth of a millisecond and a part of its life in 250,000.
#[derive(Clone, Copy, Debug)]
struct Life(u64);

impl Life {
    const LENGTH_BITS: u32 = 24;
    const NUMBER_BITS: u32 = 19;
    /// A tenth of a millisecond, in microseconds.
    const TENTH: u64 = 100;
    /// The length that never ends.
    const ENDLESS: u64 = (1 << Self::LENGTH_BITS) - 1;
    const LONGEST_BORN: u64 = (1 << (64 - Self::LENGTH_BITS)) - 1;

    fn new(born: Moment, expires: Moment) -> Self {
        let since_start = u64::try_from(born.since(Moment::default()).as_millis()).unwrap_or(u64::MAX);
        let born = since_start.min(Self::LONGEST_BORN) << Self::LENGTH_BITS;
        let rounded = Self(born);
        let length = expires.left(rounded.born()).map_or(Self::ENDLESS, Self::pack);
        Self(born | length)
    }

    fn pack(length: Duration) -> u64 {
        let tenths = u64::try_from(length.as_micros() / u128::from(Self::TENTH)).unwrap_or(u64::MAX);
        let doubled = (u64::BITS - tenths.leading_zeros()).saturating_sub(Self::NUMBER_BITS);
        let packed = (u64::from(doubled) << Self::NUMBER_BITS) | (tenths >> doubled);
        packed.min(Self::ENDLESS - 1)
    }

    fn born(self) -> Moment {
        Moment::after_start(Duration::from_millis(self.0 >> Self::LENGTH_BITS))
    }

    fn expires(self) -> Moment {
        let length = self.0 & Self::ENDLESS;
        if length == Self::ENDLESS {
            return Moment::NEVER;
        }
        let number = length & ((1 << Self::NUMBER_BITS) - 1);
        let tenths = number << (length >> Self::NUMBER_BITS);
        self.born() + Duration::from_micros(tenths.saturating_mul(Self::TENTH))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn life(born: Duration, length: Duration) -> (Moment, Moment, Life) {
        let born = Moment::after_start(born);
        (born, born + length, Life::new(born, born + length))
    }

    #[test]
    fn lives_of_whole_seconds_are_kept_to_the_nanosecond() {
        for seconds in [0, 1, 5, 10, 60, 300, 3600, 86_400] {
            let (born, expires, life) = life(HOUR, Duration::from_secs(seconds));
            assert_eq!((life.born(), life.expires()), (born, expires), "{seconds} s");
        }
    }

    #[test]
    fn a_life_without_end_has_none_and_a_very_long_one_has() {
        let (born, _, endless) = life(HOUR, Duration::MAX);
        assert_eq!((endless.born(), endless.expires()), (born, Moment::NEVER));
        let century = HOUR * 24 * 365 * 100;
        let (_, expires, long) = life(HOUR, century);
        assert!(long.expires() <= expires && long.expires() > Moment::after_start(century));
    }

    proptest! {
        #[test]
        fn an_entry_is_never_younger_nor_lives_longer_than_it_may(
            born in 0_u64..1 << 59,
            length in prop_oneof![0_u64..1 << 20, 0_u64..1 << 40, 0_u64..1 << 58],
        ) {
            let (born, expires, life) = life(Duration::from_nanos(born), Duration::from_nanos(length));
            prop_assert!(life.born() <= born && life.expires() <= expires);
            prop_assert!(born.since(life.born()) < Duration::from_millis(1));
            let lost = expires.since(life.expires());
            let most = Duration::from_micros(1100) + Duration::from_nanos(length) / 250_000;
            prop_assert!(lost <= most, "{:?} of {:?}", lost, length);
        }
    }
}
