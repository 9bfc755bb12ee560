//! The table of the flights of one shard, of one kind: which can be joined, and which run.
//!
//! It is plain state under its shard's lock. What a removal voids is not joined any more, and is told so.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::key::{HashedKey, KeyRef};
use crate::planted::{Bug, is_planted};
use crate::sync::atomic::Ordering;
use crate::time::Moment;

use super::{Flight, Wait};

/// What a table knows of one key.
#[derive(Debug)]
struct Berth<V> {
    key: HashedKey,
    /// What who comes now joins.
    joinable: Option<Arc<Flight<V>>>,
    /// Whether that one has begun.
    begun: bool,
    /// Whether that one wanted to begin and may not yet.
    parked: bool,
    /// How many flights of this key have begun and not ended, voided ones included.
    running: usize,
}

/// The flights of one shard, of one kind.
#[derive(Debug)]
pub(crate) struct Flights<V, S> {
    /// Searched once for whatever is done to a key.
    berths: HashTable<Berth<V>>,
    hasher: S,
    /// How many flights of one key may run at a time.
    most_running: usize,
}

/// A flight to wait for.
#[derive(Debug)]
pub(crate) enum Join<V> {
    /// One that somebody else leads.
    Joined(Wait<V>),
    /// A new one: who asked leads it.
    New(Arc<Flight<V>>, Wait<V>),
}

/// What the end of a flight means for its table.
#[derive(Debug)]
pub(crate) struct Ended<V> {
    /// Whether the flight was voided: its value must not be kept.
    pub(crate) voided: bool,
    /// A parked flight of the same key that may now begin.
    pub(crate) next: Option<Arc<Flight<V>>>,
}

impl<V, S: BuildHasher> Flights<V, S> {
    pub(crate) fn new(most_running: usize, hasher: S) -> Self {
        Self { berths: HashTable::new(), hasher, most_running }
    }

    /// Joins the key's flight, or starts one, which begins with that or later.
    pub(crate) fn join(&mut self, key: KeyRef<'_>, begins: bool) -> Join<V> {
        debug_assert!(!begins || self.most_running == usize::MAX, "what may have to be parked begins by itself");
        let hasher = &self.hasher;
        let entry =
            self.berths.entry(hash(hasher, key), |berth| berth.is_of(key), |berth| hash(hasher, berth.key.as_ref()));
        let key = match &entry {
            Entry::Occupied(berth) => match &berth.get().joinable {
                Some(flight) => return Join::Joined(flight.wait()),
                None => berth.get().key.clone(),
            },
            Entry::Vacant(_) => key.to_owned(),
        };
        let (flight, wait) = Flight::awaited(key.clone());
        let berth = entry.or_insert_with(|| Berth::new(key)).into_mut();
        berth.joinable = Some(Arc::clone(&flight));
        berth.begun = begins;
        berth.running += usize::from(begins);
        Join::New(flight, wait)
    }

    /// Lets a flight begin, unless as many of its key run as may. If not, it is parked: the end of one of those gives
    /// it back.
    pub(crate) fn begin(&mut self, flight: &Arc<Flight<V>>) -> bool {
        let most_running = self.most_running;
        let Some(berth) = self.berth(flight.key.as_ref()) else { return false };
        debug_assert!(berth.holds(flight) && !berth.begun, "only what can be joined and has not begun begins");
        let begins = berth.running < most_running;
        berth.begun = begins;
        berth.parked = !begins;
        berth.running += usize::from(begins);
        begins
    }

    /// Voids the key's flight if it has begun.
    pub(crate) fn void(&mut self, key: KeyRef<'_>) {
        if let Some(berth) = self.berth(key) {
            berth.void();
        }
    }

    /// Voids the key's flight if it has begun without the demand for what was born no earlier.
    pub(crate) fn void_unless(&mut self, key: KeyRef<'_>, oldest: Moment) {
        let is_less = |flight: &Arc<Flight<V>>| flight.oldest() < oldest;
        if let Some(berth) = self.berth(key).filter(|berth| berth.joinable.as_ref().is_some_and(is_less)) {
            berth.void();
        }
    }

    /// Voids every flight that has begun.
    pub(crate) fn void_all(&mut self) {
        self.berths.iter_mut().for_each(Berth::void);
    }

    /// Takes a flight out of the table. `begun` says whether it had begun.
    pub(crate) fn end(&mut self, flight: &Arc<Flight<V>>, begun: bool) -> Ended<V> {
        let most_running = self.most_running;
        let key = flight.key.as_ref();
        let Ok(mut entry) = self.berths.find_entry(hash(&self.hasher, key), |berth| berth.is_of(key)) else {
            return Ended { voided: true, next: None };
        };
        let berth = entry.get_mut();
        berth.running -= usize::from(begun);
        let held = berth.holds(flight);
        let voided = !held || flight.is_voided();
        if held {
            (berth.joinable, berth.begun, berth.parked) = (None, false, false);
        }
        let may_begin = berth.parked && berth.running < most_running;
        let next = if may_begin { berth.joinable.clone() } else { None };
        berth.parked &= !may_begin;
        if berth.joinable.is_none() && berth.running == 0 {
            entry.remove();
        }
        Ended { voided, next }
    }

    /// How many keys have a flight.
    pub(crate) fn len(&self) -> usize {
        self.berths.len()
    }

    /// The flights that can be joined.
    pub(crate) fn joinable(&self) -> impl Iterator<Item = &Arc<Flight<V>>> {
        self.berths.iter().filter_map(|berth| berth.joinable.as_ref())
    }

    fn berth(&mut self, key: KeyRef<'_>) -> Option<&mut Berth<V>> {
        self.berths.find_mut(hash(&self.hasher, key), |berth| berth.is_of(key))
    }
}

fn hash(hasher: &impl BuildHasher, key: KeyRef<'_>) -> u64 {
    hasher.hash_one(key.hash.0)
}

impl<V> Berth<V> {
    fn new(key: HashedKey) -> Self {
        Self { key, joinable: None, begun: false, parked: false, running: 0 }
    }

    fn is_of(&self, key: KeyRef<'_>) -> bool {
        self.key.hash == key.hash && self.key.key.as_bytes() == key.bytes
    }

    fn holds(&self, flight: &Arc<Flight<V>>) -> bool {
        self.joinable.as_ref().is_some_and(|joinable| Arc::ptr_eq(joinable, flight))
    }

    fn void(&mut self) {
        if self.begun {
            if is_planted(Bug::VoidedIsJoined) {
                return self.joinable.iter().for_each(|flight| flight.alone.store(true, Ordering::SeqCst));
            }
            self.begun = false;
            if let Some(flight) = self.joinable.take() {
                // Who waits for it has to look after itself from here on, and is told.
                flight.alone.store(true, Ordering::SeqCst);
                flight.wake_all();
            }
        }
    }
}
