//! One shard of the byte-bounded cache: what is held, in which of two lists, and what goes when room is needed.
//!
//! *Main* holds the entries that this node owns, *hot* its copies of keys that another node owns, each in the order of
//! use. Ownership is what the placement says at the time of reading, so it comes with every call, and an entry that is
//! met in the other list moves over. Between any two calls:
//!
//! - main and hot together cost at most the budget, and hot at most its share of it;
//! - a key lies in at most one of the lists;
//! - every byte is accounted for: what an entry cost when it came is what it gives back when it goes.
//!
//! An expired entry is never returned, and no value is dropped in here: [`Dropped`] carries them out.
//!
//! **Who goes when room is needed.** Hot's share is its limit and its guarantee. A new hot copy first puts out the
//! least recently used of the hot ones, until it fits the share; if the whole is still full, then main has grown into
//! the share and gives it back, least recently used first. A new main entry puts out main's least recently used, and
//! hot's only once main is empty: only an entry larger than all that hot leaves to main takes anything from hot.
//!
//! A store has no lock, no clock and no dice, and knows nothing of the placement, of loads or of codecs.

mod order;
#[cfg(test)]
mod tests;

pub(crate) use order::Entry;

use order::{Order, cost};

use crate::key::{HashedKey, KeyRef};
use crate::time::Moment;

/// Which list a key belongs in, as the placement says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// This node owns the key.
    Main,
    /// Another node does: what is held is a copy.
    Hot,
}

impl Place {
    fn other(self) -> Self {
        match self {
            Self::Main => Self::Hot,
            Self::Hot => Self::Main,
        }
    }
}

/// Values that a store let go of, for the caller to drop once it has unlocked: they are the user's, and what their
/// `Drop` does must not happen under a lock of ours. It allocates only when there is something to carry.
#[derive(Debug)]
#[must_use = "what it holds is dropped with it: keep it until the store is unlocked"]
pub(crate) struct Dropped<V> {
    values: Vec<V>,
    /// Whole lists, from [`Store::clear`].
    lists: Vec<Order<V>>,
}

impl<V> Default for Dropped<V> {
    fn default() -> Self {
        Self { values: Vec::new(), lists: Vec::new() }
    }
}

/// What a store holds, and what it did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) main_bytes: u64,
    pub(crate) main_entries: u64,
    pub(crate) hot_bytes: u64,
    pub(crate) hot_entries: u64,
    /// Entries put out to make room, whether or not they had expired: nobody had looked.
    pub(crate) evictions: u64,
    /// Entries found expired by a get, and taken out.
    pub(crate) expiries: u64,
    /// Entries not taken in because they cost more than their list may ever hold.
    pub(crate) refusals: u64,
}

/// One shard of the cache.
#[derive(Debug)]
pub(crate) struct Store<V> {
    main: Order<V>,
    hot: Order<V>,
    budget: usize,
    hot_budget: usize,
    evictions: u64,
    expiries: u64,
    refusals: u64,
}

impl<V> Store<V> {
    /// An empty store for `budget` bytes, of which hot copies have at most `hot_budget`; 0 switches them off.
    ///
    /// The `seed` scatters the keys in the tables. It must not be the one by which keys were sorted into shards: all
    /// keys of a shard would agree in bits that are meant to tell them apart.
    pub(crate) fn new(budget: usize, hot_budget: usize, seed: u64) -> Self {
        Self {
            main: Order::new(seed),
            hot: Order::new(seed),
            budget,
            hot_budget: hot_budget.min(budget),
            evictions: 0,
            expiries: 0,
            refusals: 0,
        }
    }

    /// Whether a list could hold the entry, if it held nothing else.
    pub(crate) fn fits(&self, key: KeyRef<'_>, entry: &Entry<V>, place: Place) -> bool {
        cost(key.bytes, entry) <= self.limit(place)
    }

    /// The fresh entry for `key`, which becomes the most recently used of its list.
    ///
    /// One that lies in the other list moves to `place` first. If it is too large for hot's whole share, it stays in
    /// main and is served from there, but that does not count as a use: it ages and goes.
    pub(crate) fn get(
        &mut self,
        key: KeyRef<'_>,
        place: Place,
        now: Moment,
        dropped: &mut Dropped<V>,
    ) -> Option<&Entry<V>> {
        match self.list_mut(place).touch(key) {
            None => self.get_from_other(key, place, now, dropped),
            // Just touched, it is the newest: a second look for it needs no second search.
            Some(entry) if entry.is_fresh(now) => self.list(place).newest(),
            Some(_) => {
                self.expire(key, place, dropped);
                None
            }
        }
    }

    fn get_from_other(
        &mut self,
        key: KeyRef<'_>,
        place: Place,
        now: Moment,
        dropped: &mut Dropped<V>,
    ) -> Option<&Entry<V>> {
        let found = self.list(place.other()).peek(key)?;
        if !found.is_fresh(now) {
            self.expire(key, place.other(), dropped);
            return None;
        }
        if cost(key.bytes, found) > self.limit(place) {
            return self.list(place.other()).peek(key);
        }
        let (key, entry) = self.list_mut(place.other()).take(key)?;
        self.put(key, entry, place, dropped);
        self.list(place).newest()
    }

    /// The fresh entry for `key`, in whichever list. Touches nothing.
    pub(crate) fn peek(&self, key: KeyRef<'_>, now: Moment) -> Option<&Entry<V>> {
        self.main.peek(key).or_else(|| self.hot.peek(key)).filter(|entry| entry.is_fresh(now))
    }

    /// Takes in an entry as the most recently used of its list, in place of what was held for the key. Says whether it
    /// did.
    ///
    /// An entry that costs more than its list may ever hold is refused. What was held for the key goes all the same: an
    /// old value must not outlive the new one.
    pub(crate) fn insert(&mut self, key: HashedKey, entry: Entry<V>, place: Place, dropped: &mut Dropped<V>) -> bool {
        self.remove(key.as_ref(), dropped);
        if cost(&key.key, &entry) > self.limit(place) {
            self.refusals += 1;
            dropped.values.extend(entry.value);
            return false;
        }
        self.put(key, entry, place, dropped);
        true
    }

    /// Takes out what is held for `key`, fresh or not. Says whether there was anything.
    pub(crate) fn remove(&mut self, key: KeyRef<'_>, dropped: &mut Dropped<V>) -> bool {
        let Some((_, entry)) = self.main.take(key).or_else(|| self.hot.take(key)) else { return false };
        dropped.values.extend(entry.value);
        true
    }

    /// Takes everything out, in the same short time however much it is.
    pub(crate) fn clear(&mut self, dropped: &mut Dropped<V>) {
        for list in [&mut self.main, &mut self.hot] {
            if !list.is_empty() {
                dropped.lists.push(list.take_all());
            }
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            main_bytes: self.main.bytes() as u64,
            main_entries: self.main.len() as u64,
            hot_bytes: self.hot.bytes() as u64,
            hot_entries: self.hot.len() as u64,
            evictions: self.evictions,
            expiries: self.expiries,
            refusals: self.refusals,
        }
    }

    /// Makes room and puts the entry in. It must be within the list's limit, and its key in neither list.
    fn put(&mut self, key: HashedKey, entry: Entry<V>, place: Place, dropped: &mut Dropped<V>) {
        self.make_room(cost(&key.key, &entry), place, dropped);
        self.list_mut(place).put(key, entry);
    }

    fn make_room(&mut self, cost: usize, place: Place, dropped: &mut Dropped<V>) {
        while let Some(place) = self.next_to_go(cost, place) {
            let Some((_, entry)) = self.list_mut(place).take_oldest() else { return };
            self.evictions += 1;
            dropped.values.extend(entry.value);
        }
    }

    /// Which list's oldest entry has to go for one of this cost to come, or `None` if there is room for it.
    fn next_to_go(&self, cost: usize, place: Place) -> Option<Place> {
        if place == Place::Hot && self.hot.bytes() > self.hot_budget - cost {
            Some(Place::Hot)
        } else if self.main.bytes() + self.hot.bytes() <= self.budget - cost {
            None
        } else if self.main.is_empty() {
            Some(Place::Hot)
        } else {
            Some(Place::Main)
        }
    }

    /// Takes out an entry that was found expired.
    fn expire(&mut self, key: KeyRef<'_>, place: Place, dropped: &mut Dropped<V>) {
        if let Some((_, entry)) = self.list_mut(place).take(key) {
            self.expiries += 1;
            dropped.values.extend(entry.value);
        }
    }

    /// The most that a list may hold.
    fn limit(&self, place: Place) -> usize {
        match place {
            Place::Main => self.budget,
            Place::Hot => self.hot_budget,
        }
    }

    fn list(&self, place: Place) -> &Order<V> {
        match place {
            Place::Main => &self.main,
            Place::Hot => &self.hot,
        }
    }

    fn list_mut(&mut self, place: Place) -> &mut Order<V> {
        match place {
            Place::Main => &mut self.main,
            Place::Hot => &mut self.hot,
        }
    }
}
