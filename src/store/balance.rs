//! How much of a store its entries on probation have: a hundredth, and more while what comes back says so.
//!
//! A [`Balance`] remembers for a while which keys went, and from which rank. A key that comes back soon after it went
//! from probation would still be there if probation had a little more room; one that went from the protected, if they
//! had. Each moves the wall by a little. While popularity stays as it is, the protected bring more, and the wall stays
//! where it began; when it shifts, those that were popular do not come back and those that will be do.
//!
//! That two memories say where a wall belongs is from ARC (Megiddo and Modha, 2003). There they are as long as the cache
//! is large, and here an eighth of that, as only a key that went lately speaks for a *little* more room: with long
//! ones a loop that no little more would help moves the wall all the same.

use super::ghosts::Ghosts;

/// What probation has at least: one in so many bytes.
const LEAST: usize = 100;
/// How far a key moves the wall: by the room of so many entries. Measured: with 1 popularity that shifts every 500,000
/// requests is found out too late, with 6 what does not shift loses a little.
const STEP: usize = 4;
/// How many keys each memory has for each eight that are held.
pub(super) const FOR_EACH_EIGHT: usize = 1;

/// The wall between the entries on probation and the protected ones.
#[derive(Debug)]
pub(super) struct Balance {
    budget: usize,
    probation: usize,
    from_probation: Ghosts,
    from_protected: Ghosts,
}

impl Balance {
    pub(super) fn new(budget: usize) -> Self {
        let [from_probation, from_protected] = [(); 2].map(|()| Ghosts::for_each_eight(FOR_EACH_EIGHT));
        Self { budget, probation: budget / LEAST, from_probation, from_protected }
    }

    /// What probation should have, in bytes.
    pub(super) fn probation(&self) -> usize {
        self.probation
    }

    /// What the protected may have, in bytes.
    pub(super) fn protected(&self) -> usize {
        self.budget - self.probation
    }

    /// A key went from probation, beside so many that are held.
    pub(super) fn went_from_probation(&mut self, hash: u64, held: usize) {
        self.from_probation.add(hash, held);
    }

    /// A key went from the protected, beside so many that are held.
    pub(super) fn went_from_protected(&mut self, hash: u64, held: usize) {
        self.from_protected.add(hash, held);
    }

    /// A key comes that was not held. An entry costs so much in the mean, and probation has so much by now.
    pub(super) fn comes(&mut self, hash: u64, mean: usize, on_probation: usize) {
        let least = self.budget / LEAST;
        // No step is large for the store, however few entries it holds.
        let step = mean.saturating_mul(STEP).min(least);
        // Who asks for more has used up what there is. If the protected give no room, asking more often changes nothing
        // now, and would take long to be taken back.
        if self.from_probation.take(hash) && on_probation + step >= self.probation {
            self.probation += step;
        }
        if self.from_protected.take(hash) {
            self.probation = self.probation.saturating_sub(step);
        }
        self.probation = self.probation.clamp(least, self.budget / 4 * 3);
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;
    use crate::key::Seeded;

    const BUDGET: usize = 100_000;
    const HELD: usize = 1000;
    const MEAN: usize = BUDGET / HELD;

    fn hash(number: u64) -> u64 {
        Seeded(3).hash_one(number)
    }

    #[test]
    fn it_begins_with_a_hundredth_and_is_never_below() {
        let mut balance = Balance::new(BUDGET);
        assert_eq!((balance.probation(), balance.protected()), (1000, 99_000));
        balance.went_from_protected(hash(1), HELD);
        balance.comes(hash(1), MEAN, 1000);
        assert_eq!(balance.probation(), 1000);
    }

    #[test]
    fn who_comes_back_moves_the_wall_once_and_strangers_do_not() {
        let mut balance = Balance::new(BUDGET);
        balance.went_from_probation(hash(1), HELD);
        for (number, probation) in [(2, 1000), (1, 1400), (1, 1400)] {
            balance.comes(hash(number), MEAN, 1000);
            assert_eq!(balance.probation(), probation);
        }
        balance.went_from_protected(hash(1), HELD);
        balance.comes(hash(1), MEAN, 1400);
        assert_eq!(balance.probation(), 1000);
    }

    #[test]
    fn room_that_is_not_used_up_is_not_added_to() {
        let mut balance = Balance::new(BUDGET);
        balance.went_from_probation(hash(1), HELD);
        balance.comes(hash(1), MEAN, 500);
        assert_eq!(balance.probation(), 1000);
    }

    #[test]
    fn who_went_long_ago_says_nothing() {
        let mut balance = Balance::new(BUDGET);
        for number in 0..HELD as u64 {
            balance.went_from_probation(hash(number), HELD);
        }
        for number in 0..HELD as u64 / 2 {
            balance.comes(hash(number), MEAN, BUDGET);
        }
        assert_eq!(balance.probation(), 1000);
        for number in HELD as u64 / 2..HELD as u64 {
            balance.comes(hash(number), MEAN, BUDGET);
        }
        let moved = (balance.probation() - 1000) / (STEP * MEAN);
        assert!((100..=160).contains(&moved), "{moved} of the last eighth");
    }

    #[test]
    fn the_protected_keep_a_quarter() {
        let mut balance = Balance::new(BUDGET);
        for number in 0..10_000 {
            balance.went_from_probation(hash(number), HELD);
            balance.comes(hash(number), MEAN, BUDGET);
        }
        assert_eq!(balance.protected(), BUDGET / 4);
    }

    #[test]
    fn a_step_is_small_for_the_store_whatever_an_entry_costs() {
        for (budget, mean) in [(0, 0), (1, 1), (BUDGET, BUDGET), (usize::MAX, usize::MAX)] {
            let mut balance = Balance::new(budget);
            let before = balance.probation();
            balance.went_from_probation(hash(1), 1);
            balance.comes(hash(1), mean, before);
            assert!(balance.probation() - before <= budget / LEAST);
        }
    }
}
