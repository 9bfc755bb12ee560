//! The hash by which the tables of one process find keys: in which shard, in which bucket.
//!
//! The hash of the wire is SipHash, as all nodes have to agree on it and as it decides who owns a key. A hit need not
//! know that: it asks a table of its own process. So it asks by a hash that takes a fifth of the time for a short key,
//! and that nobody outside can work out: foldhash, under seeds that are rolled as a process starts, and for each group.
//!
//! Of its two functions it is the better one. The faster leaves keys that differ by a number together in the top bits,
//! by which a table tells the keys of a bucket apart.
//!
//! **Its resistance to chosen keys is what tables in Rust usually have** (`hashbrown` goes by foldhash unless told): who
//! does not know the seeds cannot choose keys that meet. Whoever can time a very large number of gets might come to
//! know them; what that would gain is that gets of the chosen keys become slow.

use std::hash::{BuildHasher, Hasher};

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;

/// A hash with its seeds: one of its own, and those that all tables of the process share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scatter {
    seed: u64,
    shared: &'static SharedSeed,
}

impl Scatter {
    pub(crate) fn new(seed: u64, shared: &'static SharedSeed) -> Self {
        Self { seed, shared }
    }

    /// By this seed alone, the same in every run.
    #[cfg(test)]
    pub(crate) fn fixed(seed: u64) -> Self {
        Self::new(seed, SharedSeed::global_fixed())
    }

    /// What a key becomes. Tables use the low bits and the top seven, ghosts the low and the high half, shards those in
    /// the middle.
    #[inline]
    pub(crate) fn hash(self, key: &[u8]) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.seed, self.shared);
        hasher.write(key);
        hasher.finish()
    }
}

impl BuildHasher for Scatter {
    type Hasher = Scattering;

    #[inline]
    fn build_hasher(&self) -> Scattering {
        Scattering { by: *self, hash: 0 }
    }
}

/// Takes a key's bytes, or the `u64` that [`Scatter::hash`] made of them before.
#[derive(Debug)]
pub(crate) struct Scattering {
    by: Scatter,
    hash: u64,
}

impl Hasher for Scattering {
    #[inline]
    fn write(&mut self, key: &[u8]) {
        self.hash = self.by.hash(key);
    }

    #[inline]
    fn write_u64(&mut self, hash: u64) {
        self.hash = hash;
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a table, a shard or the ghosts look at.
    const PARTS: [fn(u64) -> u64; 4] =
        [|hash| hash >> 57, |hash| hash & 127, |hash| hash >> 32 & 127, |hash| hash >> 50 & 127];

    /// How many of so many keys have each value of a part.
    fn spread(part: fn(u64) -> u64, keys: impl Iterator<Item = Vec<u8>>) -> Vec<usize> {
        let scatter = Scatter::fixed(7);
        let mut counts = vec![0; 128];
        keys.for_each(|key| counts[usize::try_from(part(scatter.hash(&key))).unwrap()] += 1);
        counts
    }

    #[test]
    fn keys_that_differ_by_a_number_differ_in_every_part_that_is_looked_at() {
        for part in PARTS {
            for prefix in ["", "user:", "entry-00000", "a prefix beyond sixteen bytes:"] {
                let counts = spread(part, (0..128 * 64).map(|number| format!("{prefix}{number:06}").into_bytes()));
                assert!(counts.iter().all(|count| (24..=110).contains(count)), "{prefix}: {counts:?}");
            }
        }
    }

    #[test]
    fn numbers_in_bytes_spread_too() {
        for part in PARTS {
            let counts = spread(part, (0..128 * 64_u64).map(|number| number.to_be_bytes().to_vec()));
            assert!(counts.iter().all(|count| (24..=110).contains(count)), "{counts:?}");
        }
    }

    #[test]
    fn keys_that_meet_under_one_seed_part_under_another() {
        let meet = |seed, key: &u32| Scatter::fixed(seed).hash(&key.to_be_bytes()).trailing_zeros() >= 8;
        let chosen: Vec<u32> = (0..100_000).filter(|key| meet(1, key)).collect();
        let still = chosen.iter().filter(|key| meet(2, key)).count();
        assert!(chosen.len() > 200 && still < 20, "{still} of {} meet again", chosen.len());
    }

    #[test]
    fn a_hash_that_is_brought_along_is_the_one_that_would_be_made() {
        let scatter = Scatter::fixed(3);
        let (mut made, mut brought) = (scatter.build_hasher(), scatter.build_hasher());
        made.write(b"key");
        brought.write_u64(scatter.hash(b"key"));
        assert_eq!(made.finish(), brought.finish());
    }
}
