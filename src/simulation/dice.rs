//! Chance that has a seed.

use fastrand::Rng;

/// Dice that fall the same way for the same seed, on every machine.
#[derive(Clone, Debug)]
pub struct Dice(Rng);

impl Dice {
    /// Dice of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { self.0.usize(..end) }
    }

    /// A number from `first` to `last`, both included; `first` if there is none.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        if last <= first { first } else { self.0.u64(first..=last) }
    }

    /// Whether something happens that does with this probability, between 0 and 1.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.0.f64() < probability
    }
}
