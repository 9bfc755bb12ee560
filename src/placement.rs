//! Who owns each slot, and who comes next.
//!
//! A [`Placement`] follows from the names and weights of a membership alone, and never changes. It is weighted
//! rendezvous hashing: every node draws a lot in every slot, and the slot belongs to the node whose lot is best for its
//! weight. The whole rule, with test vectors for other implementations, is in `proto/peerage/v1/placement.md`.
//!
//! What must hold:
//!
//! - The same members make the same table, bit for bit, on every platform. Hence integers only, no seed, and members
//!   that come sorted by name.
//! - Which of two nodes ranks first in a slot depends on those two alone. Hence movement is minimal: a node that joins
//!   or leaves never changes the order of the others.
//!
//! A placement knows nothing of addresses, connections or health: an owner that cannot be reached is still the owner.

use std::cmp::{Ordering, Reverse};
use std::fmt;

use crate::key::{AsKey, KeyHash, SLOTS, Slot, protocol_hash};
use crate::member::{Member, NodeName};

/// The most nodes that a cluster can have. Twice as many would still fit the table; it is building it that takes time:
/// a lot for each node in each slot.
pub(crate) const MAX_MEMBERS: usize = 10_000;

/// Which node owns a key, and which nodes come next.
///
/// The owner is looked up in a table of 128 KiB; the ranks behind it are worked out when they are asked for. Who owns a
/// key depends on the nodes' names and weights, never on which of them can be reached.
#[derive(Clone, PartialEq, Eq)]
pub struct Placement {
    /// In the order given: by name.
    names: Vec<NodeName>,
    /// The heaviest first, equally heavy ones by name: the order that [`winner`] relies on.
    entrants: Vec<Entrant>,
    /// For each slot, its owner's place in `names`.
    owners: Box<[u16]>,
    /// How many slots each of `names` owns.
    owned: Box<[u32]>,
}

impl Placement {
    /// Works out the table for `members`: 1 to [`MAX_MEMBERS`] of them, in the order of their names, no name twice.
    pub(crate) fn new(members: &[(NodeName, u32)]) -> Self {
        debug_assert!((1..=MAX_MEMBERS).contains(&members.len()), "{} members", members.len());
        debug_assert!(members.is_sorted_by(|(a, _), (b, _)| a < b), "members out of order, or one of them twice");
        let names = members.iter().map(|(name, _)| name.clone()).collect();
        let mut entrants: Vec<Entrant> = members.iter().zip(0..).map(Entrant::new).collect();
        entrants.sort_by_key(|entrant| Reverse(entrant.weight));
        let owners: Box<[u16]> = slots().filter_map(|slot| winner(entrants.iter(), slot)).collect();
        let mut owned = vec![0; members.len()].into_boxed_slice();
        owners.iter().for_each(|&owner| owned[usize::from(owner)] += 1);
        Self { names, entrants, owners, owned }
    }

    /// The slot's owner, as its place among the members.
    pub(crate) fn owner(&self, slot: Slot) -> usize {
        usize::from(self.owners[slot.index()])
    }

    /// All members, as their places, in the order in which they rank in the slot. The owner is the first.
    pub(crate) fn ranked(&self, slot: Slot) -> Vec<usize> {
        let slot_hash = slot_hash(slot);
        let mut draws: Vec<Draw> = self.entrants.iter().map(|entrant| entrant.draw(slot_hash)).collect();
        draws.sort_unstable_by(by_rank);
        draws.iter().map(|draw| usize::from(draw.member)).collect()
    }

    /// The node that owns `key`.
    #[must_use]
    pub fn owner_of(&self, key: &(impl AsKey + ?Sized)) -> &NodeName {
        &self.names[self.owner(KeyHash::of(key.as_key()).slot())]
    }

    /// All nodes in the order in which they would own `key` if those before them left: the owner first.
    #[must_use]
    pub fn ranked_for(&self, key: &(impl AsKey + ?Sized)) -> Vec<NodeName> {
        let slot = KeyHash::of(key.as_key()).slot();
        self.ranked(slot).into_iter().map(|member| self.names[member].clone()).collect()
    }

    /// How many of the 65,536 slots the node owns: its share of the keyspace. A node that is no member owns none.
    #[must_use]
    pub fn slots_of(&self, name: &str) -> usize {
        let place = self.names.binary_search_by(|listed| listed.as_str().cmp(name));
        place.map_or(0, |member| self.owned[member] as usize)
    }
}

/// Leaves out the table: nobody reads 65,536 numbers.
impl fmt::Debug for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placement").field("names", &self.names).finish_non_exhaustive()
    }
}

fn slots() -> impl Iterator<Item = Slot> {
    const { assert!(SLOTS == u16::MAX as usize + 1, "every u16 is a slot") };
    (0..=u16::MAX).map(Slot)
}

/// A member, as far as the draw is concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entrant {
    hash: u64,
    weight: u32,
    /// Its place among the members, which is the order of the names.
    member: u16,
}

impl Entrant {
    fn new(((name, weight), member): (&(NodeName, u32), u16)) -> Self {
        // Above the limit the costs below could overflow; without weight a node could never be compared.
        debug_assert!((1..=Member::MAX_WEIGHT).contains(weight), "weight {weight} of {name}");
        Self { hash: protocol_hash(name.as_str().as_bytes()), weight: *weight, member }
    }

    /// Mixing is a bijection: in no slot do two nodes draw the same lot, unless their names have the same hash.
    fn draw(self, slot_hash: u64) -> Draw {
        Draw { lot: mix(self.hash ^ slot_hash), weight: self.weight, member: self.member }
    }
}

/// What a member drew in one slot.
struct Draw {
    lot: u64,
    weight: u32,
    member: u16,
}

/// Orders by cost per weight, the lesser first; then by lot, the greater first; then by name.
///
/// A lot is as good as a random number; its [`cost`], over the weight, is then exponentially distributed with the
/// weight as its rate, and the least of such numbers falls to each node with a probability of its weight over the sum
/// of the weights.
fn by_rank(a: &Draw, b: &Draw) -> Ordering {
    // A greater lot never costs more, so between equal weights the lots alone decide, and no logarithm is needed.
    let by_cost = if a.weight == b.weight {
        Ordering::Equal
    } else {
        // Cross-multiplied, a division avoided: at most 2^38 times 2^16.
        (cost(a.lot) * u64::from(b.weight)).cmp(&(cost(b.lot) * u64::from(a.weight)))
    };
    by_cost.then(b.lot.cmp(&a.lot)).then(a.member.cmp(&b.member))
}

/// The place of the entrant that ranks first in the slot, if there is any. They come by falling weight, then by name.
///
/// Whoever is at least as heavy and drew at least as great a lot ranks before. So, going from heavy to light, only a
/// lot greater than all before it can win, which makes this a search for the greatest number that seldom stops to
/// compare.
fn winner<'a>(mut entrants: impl Iterator<Item = &'a Entrant>, slot: Slot) -> Option<u16> {
    let slot_hash = slot_hash(slot);
    let mut best = entrants.next()?.draw(slot_hash);
    let mut greatest_lot = best.lot;
    for entrant in entrants {
        let draw = entrant.draw(slot_hash);
        if draw.lot > greatest_lot {
            greatest_lot = draw.lot;
            if by_rank(&draw, &best).is_lt() {
                best = draw;
            }
        }
    }
    Some(best.member)
}

/// The slot's output, counted from 0, of the generator SplitMix64 with seed 0.
fn slot_hash(slot: Slot) -> u64 {
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
    mix(GAMMA.wrapping_mul(u64::from(slot.0) + 1))
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) with the
/// constants of the thirteenth mixer in Stafford's "Better bit mixing" (2011). It permutes the 64-bit numbers.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// -log2(`lot` / 2^64) in units of 2^-32, rounded up: 1 to 2^38. The lot 0, which has no logarithm, costs what 1 does.
fn cost(lot: u64) -> u64 {
    (64 << LOG2_DIGITS) - log2(lot.max(1))
}

/// How many binary digits a logarithm has after the point.
const LOG2_DIGITS: u32 = 32;

/// log2(`x`) in units of 2^-32, rounded down, by repeated squaring. It never falls while `x` grows, in spite of the
/// rounding: each step keeps two numbers in order until their digits differ, and then the greater has the greater
/// digit.
fn log2(x: u64) -> u64 {
    debug_assert!(x > 0, "zero has no logarithm");
    let shift = x.leading_zeros();
    let mut log = u64::from(63 - shift);
    // A number of at least 1 and below 2, in units of 2^-63.
    let mut rest = x << shift;
    for _ in 0..LOG2_DIGITS {
        // Squaring doubles the logarithm: the next digit is whether the square has reached 2. If so, it is halved.
        let square = ((u128::from(rest) * u128::from(rest)) >> 64) as u64;
        let digit = square >> 63;
        rest = square << (1 - digit);
        log = (log << 1) | digit;
    }
    log
}

#[cfg(test)]
mod tests;
