//! Requests whose popularity follows Zipf's law, made before anything is timed.

use super::caches::{CacheKey, key};

/// How steep: 0.99 is what YCSB takes.
const EXPONENT: f64 = 0.99;
/// How many requests before they repeat.
const REQUESTS: usize = 1 << 20;
/// Spreads the popular keys over those that were stored early and late; prime to the number of keys.
const STRIDE: u64 = 617_363;

/// Keys as they are asked for, each with its bytes: what is timed is the cache, not finding out whom to ask for.
pub fn requests(keys: u32) -> Vec<CacheKey> {
    let mut sum = 0.0;
    let cumulated: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += f64::from(rank).powf(-EXPONENT);
            sum
        })
        .collect();
    let mut dice = Dice(42);
    let requests = (0..REQUESTS).map(|_| {
        let point = dice.roll() * sum;
        let rank = cumulated.partition_point(|up_to| *up_to < point) as u64;
        key(u32::try_from(rank * STRIDE % u64::from(keys)).unwrap_or(0))
    });
    requests.collect()
}

/// The same numbers in every run: Steele, Lea and Flood's `SplitMix64` (OOPSLA 2014).
#[derive(Clone, Copy, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// Any number.
    pub fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// At least zero, less than one.
    pub fn roll(&mut self) -> f64 {
        (self.throw() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_popular_key_has_its_share() {
        let requests = requests(1_000);
        let share = requests.iter().filter(|of| **of == key(0)).count() as f64 / requests.len() as f64;
        let right = 1.0 / (1..=1_000).map(|rank| f64::from(rank).powf(-EXPONENT)).sum::<f64>();
        assert!((share / right - 1.0).abs() < 0.02, "{share} instead of {right}");
    }
}
