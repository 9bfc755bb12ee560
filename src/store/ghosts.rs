//! Which keys left not long ago: a memory of hashes, not of keys.
//!
//! [`Ghosts`] remembers so many keys for each eight that the store holds, in two bytes each: buckets of 16, the newest
//! first; who comes into a full bucket puts out its oldest. It can be wrong both ways, seldom: of 4,000 keys that were
//! never here it takes one for known, and what is too old for a queue may still be in a bucket that few came to.
//! Nothing but the place of an entry hangs on it.

const BUCKET: usize = 16;

/// A part of a hash, never 0: that is an empty place.
pub(super) type Trace = u16;

/// A memory of keys by their hashes.
#[derive(Debug)]
pub(super) struct Ghosts {
    buckets: Vec<[Trace; BUCKET]>,
    for_each_eight: usize,
}

impl Ghosts {
    /// A memory of so many keys for each eight that are held. It takes no room until there is one to remember.
    pub(super) fn for_each_eight(for_each_eight: usize) -> Self {
        Self { buckets: Vec::new(), for_each_eight }
    }

    /// Remembers a key, beside so many that are held. When it has grown far too small or too large for that, it begins
    /// anew: that happens once for each doubling of what is held.
    pub(super) fn add(&mut self, hash: u64, held: usize) {
        let wanted = (held * self.for_each_eight / 8).div_ceil(BUCKET).max(1);
        if wanted > self.buckets.len() * 2 || wanted * 4 < self.buckets.len() {
            self.buckets = vec![[0; BUCKET]; wanted];
        }
        let (bucket, trace) = self.place(hash);
        let bucket = &mut self.buckets[bucket];
        bucket.rotate_right(1);
        bucket[0] = trace;
    }

    /// Forgets a key, and says whether it was remembered.
    pub(super) fn take(&mut self, hash: u64) -> bool {
        if self.buckets.is_empty() {
            return false;
        }
        let (bucket, trace) = self.place(hash);
        let bucket = &mut self.buckets[bucket];
        let Some(at) = bucket.iter().position(|there| *there == trace) else { return false };
        // The older ones move up: a gap would put an old one out before its time.
        bucket[at..].rotate_left(1);
        bucket[BUCKET - 1] = 0;
        true
    }

    fn place(&self, hash: u64) -> (usize, Trace) {
        let bucket = ((hash >> 32) * self.buckets.len() as u64) >> 32;
        #[expect(clippy::cast_possible_truncation, reason = "a bucket's number, and the low bits")]
        let (bucket, trace) = (bucket as usize, hash as Trace);
        (bucket, trace.max(1))
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;
    use crate::key::Seeded;

    fn hash(number: u64) -> u64 {
        Seeded(3).hash_one(number)
    }

    #[test]
    fn what_left_is_remembered_once() {
        let mut ghosts = Ghosts::for_each_eight(8);
        assert!(!ghosts.take(hash(1)), "an empty memory");
        ghosts.add(hash(1), 100);
        assert!(!ghosts.take(hash(2)));
        assert!(ghosts.take(hash(1)));
        assert!(!ghosts.take(hash(1)));
    }

    #[test]
    fn the_last_to_leave_are_remembered_as_many_as_are_held() {
        const HELD: u64 = 10_000;
        let mut ghosts = Ghosts::for_each_eight(8);
        for number in 0..20 * HELD {
            ghosts.add(hash(number), 10_000);
        }
        let mut remembered =
            |from: u64, to: u64| (20 * HELD - to..20 * HELD - from).filter(|number| ghosts.take(hash(*number))).count();
        let all = remembered(0, 20 * HELD);
        assert!((9_900..=10_200).contains(&all), "{all} are remembered");
    }

    #[test]
    fn the_longer_ago_the_less_likely_it_is_remembered() {
        let mut ghosts = Ghosts::for_each_eight(8);
        for number in 0..100_000 {
            ghosts.add(hash(number), 10_000);
        }
        let mut share = |from: u64| (from..from + 2000).filter(|number| ghosts.take(hash(*number))).count();
        let [old, middling, new] = [100_000 - 20_000, 100_000 - 11_000, 100_000 - 5000].map(&mut share);
        assert!(old < 100 && (600..1400).contains(&middling) && new > 1900, "{old} {middling} {new} of 2000");
    }

    #[test]
    fn strangers_are_seldom_taken_for_known() {
        let mut ghosts = Ghosts::for_each_eight(8);
        for number in 0..100_000 {
            ghosts.add(hash(number), 10_000);
        }
        let known = (1_000_000..1_100_000).filter(|number| ghosts.take(hash(*number))).count();
        assert!(known < 60, "{known} of 100,000");
    }

    #[test]
    fn memory_follows_what_is_held() {
        let mut ghosts = Ghosts::for_each_eight(8);
        let mut bytes = |held: usize| {
            ghosts.add(hash(1), held);
            ghosts.buckets.len() * size_of::<[Trace; BUCKET]>()
        };
        assert_eq!(bytes(0), 32);
        let full = bytes(100_000);
        assert!(full <= 100_000 * 2 + 32, "{full}");
        assert_eq!(bytes(150_000), full, "not at every change");
        assert!(bytes(300_000) > full);
        assert!(bytes(10_000) <= 10_000 * 2 + 32);
    }
}
