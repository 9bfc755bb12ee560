//! How many hits there were, counted by each thread on a line of its own.
//!
//! A hit is short enough for its counter to be felt: threads that add to one number pass its cache line to and fro, and
//! even one that nobody else asks for takes an atomic addition, a tenth of the whole hit. So a thread takes a **seat**,
//! which nobody else has until it ends, and counts there with a plain load and store. Threads beyond the seats share
//! one place more, and add.
//!
//! What a thread has counted stays when it ends: the next one on its seat goes on from there.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::stats::Gets;
use crate::store::Place;

/// The hits of one group.
#[derive(Debug)]
pub(crate) struct Hits {
    seats: Box<[Count]>,
    /// For who has no seat.
    standing: Count,
}

/// On lines of its own; they are fetched in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Count {
    main: AtomicU64,
    hot: AtomicU64,
    none: AtomicU64,
}

impl Count {
    fn of(&self, place: Place, found: bool) -> &AtomicU64 {
        match place {
            _ if !found => &self.none,
            Place::Main => &self.main,
            Place::Hot => &self.hot,
        }
    }
}

impl Hits {
    pub(crate) fn new() -> Self {
        /// Twice as many as threads can run at a time: some of them wait.
        const PER_CORE: usize = 2;
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self { seats: (0..cores * PER_CORE).map(|_| Count::default()).collect(), standing: Count::default() }
    }

    /// Counts a get that found an entry in this place, with a value or with "there is none".
    #[inline]
    pub(crate) fn one(&self, place: Place, found: bool) {
        match self.seats.get(seat()) {
            Some(count) => {
                let count = count.of(place, found);
                // Nobody else writes here while this thread lives.
                count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
            None => {
                self.standing.of(place, found).fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Adds the hits to what else was counted.
    pub(crate) fn add_to(&self, gets: &mut Gets) {
        for count in self.seats.iter().chain([&self.standing]) {
            gets.main_hits += count.main.load(Ordering::Relaxed);
            gets.hot_hits += count.hot.load(Ordering::Relaxed);
            gets.not_found += count.none.load(Ordering::Relaxed);
        }
    }
}

/// A thread's number, the lowest that was free; given back when the thread ends.
struct Seat(usize);

thread_local! {
    static SEAT: Seat = free().take();
}

/// The seat of this thread; none if the thread is ending and has given it back.
#[inline]
fn seat() -> usize {
    SEAT.try_with(|seat| seat.0).unwrap_or(usize::MAX)
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Whoever takes it next sees what was counted on it: the lock passes that on.
        free().given_back.push(Reverse(self.0));
    }
}

/// The seats that nobody has: those given back, and all from `next` on.
struct Free {
    given_back: BinaryHeap<Reverse<usize>>,
    next: usize,
}

impl Free {
    fn take(&mut self) -> Seat {
        Seat(self.given_back.pop().map_or_else(
            || {
                self.next += 1;
                self.next - 1
            },
            |Reverse(seat)| seat,
        ))
    }
}

fn free() -> MutexGuard<'static, Free> {
    static FREE: Mutex<Free> = Mutex::new(Free { given_back: BinaryHeap::new(), next: 0 });
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(hits: &Hits) -> (u64, u64, u64) {
        let mut gets = Gets::default();
        hits.add_to(&mut gets);
        (gets.main_hits, gets.hot_hits, gets.not_found)
    }

    #[test]
    fn each_hit_is_counted_once_whoever_counts_it_and_whether_or_not_there_is_a_seat() {
        const EACH: u64 = 10_000;
        for seats in [0, 1, 3, 64] {
            let hits = Hits { seats: (0..seats).map(|_| Count::default()).collect(), standing: Count::default() };
            // Threads that follow one another sit down where others sat.
            for _ in 0..3 {
                std::thread::scope(|scope| {
                    for _ in 0..8 {
                        scope.spawn(|| {
                            for _ in 0..EACH {
                                hits.one(Place::Main, true);
                            }
                            hits.one(Place::Hot, true);
                            hits.one(Place::Hot, false);
                        });
                    }
                });
            }
            assert_eq!(sum(&hits), (24 * EACH, 24, 24), "{seats} seats");
        }
    }

    #[test]
    fn no_two_threads_that_live_have_the_same_seat() {
        let barrier = std::sync::Barrier::new(16);
        let sit = || {
            let own = seat();
            barrier.wait();
            own
        };
        let seats: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(sit)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let distinct: std::collections::BTreeSet<_> = seats.iter().collect();
        assert_eq!(distinct.len(), 16, "{seats:?}");
    }
}
