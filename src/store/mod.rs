//! One shard of the byte-bounded cache: what is held, in which of two lists, and what goes when room is needed.
//!
//! *Main* holds the entries that this node owns, *hot* its copies of keys that another node owns, each in the order in
//! which they came or were last spared. Ownership is what the placement says at the time of reading, so it comes with
//! every call, and an entry that is met in the other list moves over when its turn comes. Between any two calls:
//!
//! - main and hot together cost at most the budget, and hot at most its share of it;
//! - a key lies in at most one of the lists;
//! - every byte is accounted for: what an entry cost when it came is what it gives back when it goes.
//!
//! An expired entry is never returned, and no value is dropped in here: [`Dropped`] carries them out.
//!
//! **A hit shares the store.** [`Store::look`] changes nothing but a mark on the entry, so any number of readers may look
//! at once. Whoever has the store to himself reads the marks when room is needed: the oldest entry of a list goes, but
//! one that was used is spared once, as the newest of the list that it was last asked for in. What a look finds expired
//! it leaves where it is; [`Store::missed`] takes it out.
//!
//! **Who goes when room is needed.** Hot's share is its limit and its guarantee. A new hot copy first puts out the
//! oldest of the hot ones, until it fits the share; if the whole is still full, then main has grown into the share and
//! gives it back, oldest first. A new main entry puts out main's oldest, and hot's only once main is empty: only an
//! entry larger than all that hot leaves to main takes anything from hot.
//!
//! A store has no lock, no clock and no dice, and knows nothing of the placement, of loads or of codecs.

mod order;
#[cfg(test)]
mod tests;

pub(crate) use order::Entry;

use order::{Kept, Order, cost};

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

    /// What a use of an entry leaves on it.
    fn mark(self) -> u8 {
        match self {
            Self::Main => 1,
            Self::Hot => 2,
        }
    }

    fn of_mark(mark: u8) -> Self {
        if mark == Self::Hot.mark() { Self::Hot } else { Self::Main }
    }
}

/// A fresh entry, as a look finds it.
#[derive(Debug)]
pub(crate) struct Found<'a, V> {
    /// The value, or `None`: it is remembered that there is none.
    pub(crate) value: Option<&'a V>,
    /// When the value came into being, as far as this node can tell.
    pub(crate) born: Moment,
    /// The first moment at which the entry is of no use to anybody.
    pub(crate) expires: Moment,
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

    /// The fresh entry for `key`, in whichever list; that it was asked for is noted on it.
    ///
    /// Any number of readers may call this at once: it takes nothing out and moves nothing.
    pub(crate) fn look(&self, key: KeyRef<'_>, place: Place, now: Moment) -> Option<Found<'_, V>> {
        let kept = self.find(key, place, now)?;
        kept.touch(place.mark());
        Some(found(kept))
    }

    /// The fresh entry for `key`, in whichever list. Notes nothing.
    pub(crate) fn peek(&self, key: KeyRef<'_>, now: Moment) -> Option<Found<'_, V>> {
        self.find(key, Place::Main, now).map(found)
    }

    fn find(&self, key: KeyRef<'_>, place: Place, now: Moment) -> Option<&Kept<V>> {
        let kept = self.list(place).find(key).or_else(|| self.list(place.other()).find(key))?;
        kept.is_fresh(now).then_some(kept)
    }

    /// Tells the store that a key was asked for and a look found nothing. An entry that has expired is taken out.
    pub(crate) fn missed(&mut self, key: KeyRef<'_>, now: Moment, dropped: &mut Dropped<V>) {
        for place in [Place::Main, Place::Hot] {
            if self.list(place).find(key).is_some_and(|kept| !kept.is_fresh(now)) {
                self.expire(key, place, dropped);
            }
        }
    }

    /// Takes in an entry as the newest of its list, in place of what was held for the key. Says whether it
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
        let Some((_, kept)) = self.main.take(key).or_else(|| self.hot.take(key)) else { return false };
        dropped.values.extend(kept.entry.value);
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
            let Some((key, kept)) = self.list_mut(place).take_oldest() else { return };
            if let Some(entry) = self.spare(key, kept, place) {
                self.evictions += 1;
                dropped.values.extend(entry.value);
            }
        }
    }

    /// Puts an entry whose turn it is to go back as the newest, if it was used; otherwise hands it back.
    ///
    /// Each sparing uses up a use, so that a call spares no more entries than there were hits since they came.
    fn spare(&mut self, key: HashedKey, mut kept: Kept<V>, lay: Place) -> Option<Entry<V>> {
        let Some(place) = kept.take_touch().map(Place::of_mark) else { return Some(kept.entry) };
        let cost = cost(&key.key, &kept.entry);
        // What was asked for in the other list moves there if there is room: it is not worth another entry.
        if place != lay && place == Place::Hot && self.hot.bytes() + cost > self.hot_budget {
            return Some(kept.entry);
        }
        self.list_mut(place).put(key, kept.entry);
        None
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
        if let Some((_, kept)) = self.list_mut(place).take(key) {
            self.expiries += 1;
            dropped.values.extend(kept.entry.value);
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

fn found<V>(kept: &Kept<V>) -> Found<'_, V> {
    let Entry { value, born, expires, .. } = &kept.entry;
    Found { value: value.as_ref(), born: *born, expires: *expires }
}
