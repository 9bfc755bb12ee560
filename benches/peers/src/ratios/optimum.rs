//! What could have been reached by somebody who knows the future.
//!
//! For entries of equal size, [`belady`] is exactly the most: when room is needed, the entry whose next use is furthest
//! away goes (Belady, "A study of replacement algorithms for a virtual-storage computer", 1966), or the new one is not
//! kept at all, if that is it.
//!
//! For entries that differ in size the optimum is hard to compute. [`bound`] is a number that it cannot exceed: keeping
//! a key from one use to the next takes its size times that while; whoever spends the room of the whole trace on the
//! cheapest of these cannot be beaten, even though he may need more at one time than there is (the lower bound on
//! misses PFOO-L of Berger, Beckmann and Harchol-Balter, "Practical Bounds on Optimal Caching with Variable Object
//! Sizes", 2018).

use std::collections::BinaryHeap;

use super::{Ratio, Request, Tally, counted_from};

/// For each request, when the same key is asked for next.
fn next_uses(trace: &[Request]) -> Vec<usize> {
    let keys = trace.iter().map(|request| request.key as usize + 1).max().unwrap_or(0);
    let mut seen = vec![usize::MAX; keys];
    let mut next = vec![usize::MAX; trace.len()];
    for (now, request) in trace.iter().enumerate().rev() {
        next[now] = std::mem::replace(&mut seen[request.key as usize], now);
    }
    next
}

/// The most hits with room for so many entries of equal size.
pub fn belady(trace: &[Request], room: usize) -> Ratio {
    let next = next_uses(trace);
    let keys = trace.iter().map(|request| request.key as usize + 1).max().unwrap_or(0);
    // When each kept key is used next; those that were used meanwhile have an outdated place in the heap.
    let mut kept: Vec<Option<usize>> = vec![None; keys];
    let mut furthest: BinaryHeap<(usize, u32)> = BinaryHeap::new();
    let (mut held, mut tally) = (0, Tally::default());
    for (now, request) in trace.iter().enumerate() {
        let was = kept[request.key as usize].replace(next[now]);
        furthest.push((next[now], request.key));
        held += usize::from(was.is_none());
        while held > room {
            let (use_, key) = furthest.pop().expect("what is held is in the heap");
            if kept[key as usize] == Some(use_) {
                kept[key as usize] = None;
                held -= 1;
            }
        }
        if now >= counted_from(trace.len()) {
            tally.count(*request, was.is_some());
        }
    }
    tally.ratio()
}

/// Bounds that nobody can exceed with room for so many bytes: on hits by count, and on hits by byte.
pub fn bound(trace: &[Request], room: usize) -> Ratio {
    let next = next_uses(trace);
    let from = counted_from(trace.len());
    // From one use to the next: (what the while is worth by count, by byte), what it takes.
    let mut whiles: Vec<(u64, u64)> = Vec::new();
    let mut asked = Tally::default();
    for (now, request) in trace.iter().enumerate() {
        if now >= from {
            asked.count(*request, false);
        }
        if next[now] != usize::MAX && next[now] >= from {
            // Only what of it lies in the part that counts.
            whiles.push((u64::from(request.size), (next[now] - now.max(from)) as u64));
        }
    }
    let whole = room as u128 * (trace.len() - from) as u128;
    let spend = |whiles: &[(u64, u64)], worth: fn(u64) -> u64| {
        let (mut left, mut gained) = (whole, 0_u64);
        for (size, long) in whiles {
            let cost = u128::from(*size) * u128::from(*long);
            if cost > left {
                break;
            }
            left -= cost;
            gained += worth(*size);
        }
        gained as f64
    };
    whiles.sort_unstable_by_key(|(size, long)| u128::from(*size) * u128::from(*long));
    let by_count = spend(&whiles, |_| 1) / asked.requests as f64;
    whiles.sort_unstable_by_key(|(_, long)| *long);
    let by_byte = spend(&whiles, |size| size) / asked.bytes as f64;
    Ratio { by_count, by_byte }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(keys: &[u32]) -> Vec<Request> {
        keys.iter().map(|key| Request { key: *key, size: 1 }).collect()
    }

    #[test]
    fn a_loop_a_little_larger_than_the_room_hits_with_all_that_stays() {
        let keys: Vec<u32> = (0..12).cycle().take(12_000).collect();
        let ratio = belady(&trace(&keys), 10).by_count;
        assert!((ratio - 9.0 / 11.0).abs() < 0.02, "{ratio}");
    }

    #[test]
    fn the_bound_is_above_the_optimum_and_not_far() {
        let trace = super::super::traces::zipf(0.9, 200_000, 1);
        let (best, bound) = (belady(&trace, 10_000).by_count, bound(&trace, 10_000).by_count);
        assert!(bound >= best && bound < best + 0.05, "{best} {bound}");
    }
}
