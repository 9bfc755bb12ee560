//! One shard of the byte-bounded cache: what is held, what goes when room is needed, and what comes in.
//!
//! *Main* holds the entries that this node owns, *hot* its copies of keys that another node owns. Ownership is what the
//! placement says at the time of reading, so it comes with every call, and an entry that is met on the other side moves
//! over when its turn comes. Between any two calls:
//!
//! - main and hot together cost at most the budget, and hot at most its share of it;
//! - a key lies in at most one place;
//! - every byte is accounted for: what an entry cost when it came is what it gives back when it goes.
//!
//! An entry beyond its hard limit is only returned while a load that failed excuses it, and for no longer than its
//! grace. No value is dropped in here: [`Dropped`] carries them out.
//!
//! **A hit shares the store.** [`Store::look`] changes nothing but a mark on the entry, so any number of readers may
//! look at once. Whoever has the store to himself reads the marks when room is needed. What a look finds expired it
//! leaves where it is; [`Store::missed`] takes it out, and what nobody asks for any more, [`Store::sweep`].
//!
//! **Who stays.** An entry has a rank. What comes for the first time is on *probation*, in a queue that has a hundredth
//! of the room, or more while the [`balance`] finds that to be worth more. If it is used there it becomes *protected*; if
//! not it goes, and all that stays is a trace of its hash among the [`ghosts`]. A key that comes back while its trace is
//! there is protected at once. So keys that are asked for once, scans among them, pass through and leave the rest alone.
//! Before anything had to go, and when a store is to a quarter empty, nobody has to prove anything.
//!
//! Who becomes protected needs room among the protected: their queue is gone through from the oldest, and an entry that
//! was not used since its last turn goes, while one that was gives up a use and goes to the end of the queue. **After
//! [`PATIENCE`] used ones the newcomer is turned away**, on probation. That keeps a loop that is a little larger than
//! the cache from washing itself out: all of its keys are used once a round, and those that are there stay. Nor do the
//! protected give probation the room that the balance says it should have, but for such as are not used. It also bounds
//! what an insert costs.
//!
//! Main and hot have queues of their own, of both ranks, so that either can give room back when only it has too much;
//! where both might, the entry that has been longer in its place goes first, as if they were one: they compete by their
//! use. Hot's share is a limit, and not reserved for it.
//!
//! The parts are known: the two queues and the ghosts from 2Q (Johnson and Shasha, 1994), uses that are counted by hits
//! and taken off by a hand from the CLOCK family, the small first queue from S3-FIFO (Yang et al., 2023), the balance from
//! ARC (Megiddo and Modha, 2003). The hand that gives up is ours. `ARCHITECTURE.md` has what was measured.
//!
//! A store has no lock, no clock and no dice, and knows nothing of the placement, of loads or of codecs.

mod balance;
mod cost;
mod due;
mod entry;
mod ghosts;
mod held;
mod key;
mod life;
mod order;
mod sweep;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use entry::{Entry, Told};
pub(crate) use key::Sought;
pub(crate) use sweep::Swept;

use balance::Balance;
use cost::Cost;
use entry::Kept;
use ghosts::Ghosts;
use key::StoreKey;
use order::Order;

use crate::key::Slot;
use crate::scatter::Scatter;
use crate::tags::Tagged;
use crate::time::Moment;

/// How many used entries are passed by for one that wants to be protected, and how many are spared for one that comes.
const PATIENCE: usize = 3;
/// How many keys that left are remembered for each eight that are held. Measured: with fewer, popularity that shifts is
/// found out late; with more, keys are taken for popular that are asked for twice by chance.
const REMEMBERED: usize = 8;
/// When an entry took its place is told in 256s of entries: by so many bits less.
const TURN: u32 = 8;

/// Which side a key belongs to, as the placement says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// This node owns the key.
    Main,
    /// Another node does: what is held is a copy.
    Hot,
}

impl Place {
    const BOTH: &[Self] = &[Self::Main, Self::Hot];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    Probation,
    Protected,
}

/// An entry, as a look finds it.
#[derive(Debug)]
pub(crate) struct Found<'a, V> {
    kept: &'a Kept<V>,
    due: Moment,
}

impl<'a, V> Found<'a, V> {
    /// The value, or `None`: it is remembered that there is none.
    #[inline]
    pub(crate) fn value(&self) -> Option<&'a V> {
        self.kept.held.value()
    }

    #[inline]
    pub(crate) fn told(&self) -> Told {
        self.kept.told()
    }

    /// Its tags, if it has any. Whether one of them was removed since is not for a store to know.
    #[inline]
    pub(crate) fn tagged(&self) -> Option<&'a Arc<Tagged>> {
        self.kept.tagged()
    }

    /// The first moment at which more is to be done than to serve it: its hard limit, or its soft one, or the end of a
    /// pause after a load that failed.
    #[inline]
    pub(crate) fn due(&self) -> Moment {
        self.due
    }

    /// The first moment at which it may not be served: the hard limit, or, beyond that, the end of a pause.
    #[inline]
    pub(crate) fn end(&self) -> Moment {
        self.kept.life().hard().max(self.due)
    }
}

/// Values that a store let go of, for the caller to drop once it has unlocked: they are the user's, and what their
/// `Drop` does must not happen under a lock of ours. It allocates only when there is something to carry.
#[derive(Debug)]
#[must_use = "what it holds is dropped with it: keep it until the store is unlocked"]
pub(crate) struct Dropped<V> {
    values: Vec<V>,
    /// Whole queues, from [`Store::clear`].
    queues: Vec<Order<V>>,
}

impl<V> Dropped<V> {
    /// One with room for so many values, for who is about to lock: to carry these asks for no memory under the lock.
    /// (The sweep still gives back, and asks for, the queue's node of each entry that stays.)
    pub(crate) fn with_room(values: usize) -> Self {
        Self { values: Vec::with_capacity(values), ..Self::default() }
    }
}

impl<V> Default for Dropped<V> {
    fn default() -> Self {
        Self { values: Vec::new(), queues: Vec::new() }
    }
}

/// What a store holds, and what it did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// With what tables take for entries that have left.
    pub(crate) main_bytes: u64,
    pub(crate) main_entries: u64,
    pub(crate) hot_bytes: u64,
    pub(crate) hot_entries: u64,
    /// Entries put out to make room, whether or not they had expired: nobody had looked.
    pub(crate) evictions: u64,
    /// Entries found expired, by a get or by a sweep, and taken out.
    pub(crate) expiries: u64,
    /// Entries not taken in because they cost more than their side may ever hold.
    pub(crate) refusals: u64,
}

/// One of the queues of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queue(Place, Rank);

/// All of them.
pub(crate) const QUEUES: [Queue; 4] = [
    Queue(Place::Main, Rank::Protected),
    Queue(Place::Main, Rank::Probation),
    Queue(Place::Hot, Rank::Protected),
    Queue(Place::Hot, Rank::Probation),
];

/// Main, or hot: its two queues.
#[derive(Debug)]
struct Side<V> {
    probation: Order<V>,
    protected: Order<V>,
}

impl<V> Side<V> {
    fn new(scatter: Scatter) -> Self {
        Self { probation: Order::new(scatter), protected: Order::new(scatter) }
    }

    fn bytes(&self) -> usize {
        self.probation.bytes() + self.protected.bytes()
    }

    fn len(&self) -> usize {
        self.probation.len() + self.protected.len()
    }

    fn queue(&self, rank: Rank) -> &Order<V> {
        match rank {
            Rank::Probation => &self.probation,
            Rank::Protected => &self.protected,
        }
    }

    fn queue_mut(&mut self, rank: Rank) -> &mut Order<V> {
        match rank {
            Rank::Probation => &mut self.probation,
            Rank::Protected => &mut self.protected,
        }
    }

    /// The entry, and whether it had proven itself.
    fn take(&mut self, key: &Sought<'_>) -> Option<(Kept<V>, bool)> {
        if let Some(kept) = self.protected.take(key) {
            return Some((kept, true));
        }
        let kept = self.probation.take(key)?;
        let is_used = kept.is_used();
        Some((kept, is_used))
    }
}

/// One shard of the cache.
#[derive(Debug)]
pub(crate) struct Store<V> {
    main: Side<V>,
    hot: Side<V>,
    ghosts: Ghosts,
    balance: Balance,
    budget: usize,
    hot_budget: usize,
    grace: Duration,
    scatter: Scatter,
    /// What the tables take for entries that have left, as it was counted last.
    left: usize,
    /// How many evictions there were when it was last swept.
    swept_after: u64,
    /// How many entries took a place, going round.
    places_taken: u32,
    evictions: u64,
    expiries: u64,
    refusals: u64,
}

impl<V> Store<V> {
    /// An empty store for `budget` bytes, of which hot copies have at most `hot_budget`; 0 switches them off. The
    /// `grace` is that of the entries that have one.
    ///
    /// The `scatter` spreads the keys over the tables. Stores may share one, so that a key can be [`Sought`] before it
    /// is known in which. Keys that are sorted into stores by it must be by bits from the middle: all keys of a store
    /// agree in those, and the others are meant to tell them apart.
    pub(crate) fn new(budget: usize, hot_budget: usize, grace: Duration, scatter: Scatter) -> Self {
        Self {
            main: Side::new(scatter),
            hot: Side::new(scatter),
            ghosts: Ghosts::for_each_eight(REMEMBERED),
            balance: Balance::new(budget),
            budget,
            hot_budget: hot_budget.min(budget),
            grace,
            scatter,
            left: 0,
            swept_after: 0,
            places_taken: 0,
            evictions: 0,
            expiries: 0,
            refusals: 0,
        }
    }

    /// The most that an entry may cost in a store of this budget.
    pub(crate) fn largest(budget: usize) -> usize {
        cost::most_within(budget)
    }

    /// Whether a side could hold the entry, if the store held nothing else.
    pub(crate) fn fits(&self, key: &Sought<'_>, entry: &Entry<V>, place: Place) -> bool {
        Cost::of(key.bytes(), entry).is_some_and(|cost| cost.bytes() <= self.limit(place))
    }

    /// The entry for `key`, on whichever side, if it is not due; that it was asked for is noted on it, and as what: the
    /// `place` of its slot.
    ///
    /// Any number of readers may call this at once: it takes nothing out and moves nothing.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a hit is a tenth longer with a call for this")]
    pub(crate) fn look(
        &self,
        key: &Sought<'_>,
        place: impl FnOnce(Slot) -> Place,
        now: Moment,
    ) -> Option<(Found<'_, V>, Place)> {
        let kept = self.find(key)?;
        let found = self.found(kept);
        if now >= found.due {
            return None;
        }
        let place = place(kept.slot());
        kept.note_use(place);
        Some((found, place))
    }

    /// The entry for `key`, on whichever side, if it may be served, due or not. Notes nothing.
    pub(crate) fn peek(&self, key: &Sought<'_>, now: Moment) -> Option<Found<'_, V>> {
        let found = self.found(self.find(key)?);
        (now < found.end()).then_some(found)
    }

    #[inline]
    fn found<'a>(&self, kept: &'a Kept<V>) -> Found<'a, V> {
        Found { kept, due: kept.due(self.grace) }
    }

    /// Most of what is asked for is protected, and most of what is protected is main: that search is part of the
    /// caller, the others are not.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a hit is a tenth longer with a call for this")]
    fn find(&self, key: &Sought<'_>) -> Option<&Kept<V>> {
        match self.main.protected.find(key) {
            Some(kept) => Some(kept),
            None => self.find_elsewhere(key),
        }
    }

    #[inline(never)]
    fn find_elsewhere(&self, key: &Sought<'_>) -> Option<&Kept<V>> {
        let found = self.hot.protected.find(key).or_else(|| self.main.probation.find(key));
        found.or_else(|| self.hot.probation.find(key))
    }

    fn find_mut(&mut self, key: &Sought<'_>) -> Option<&mut Kept<V>> {
        let mut queues = QUEUES.into_iter();
        let Queue(place, rank) =
            queues.find(|Queue(place, rank)| self.side(*place).queue(*rank).find(key).is_some())?;
        self.side_mut(place).queue_mut(rank).find_mut(key)
    }

    /// Takes in an entry in place of what was held for the key. Says whether it did.
    ///
    /// An entry that costs more than its side may ever hold is refused. What was held for the key goes all the same: an
    /// old value must not outlive the new one.
    pub(crate) fn insert(
        &mut self,
        key: &Sought<'_>,
        slot: Slot,
        entry: Entry<V>,
        place: Place,
        dropped: &mut Dropped<V>,
    ) -> bool {
        self.remove(key, dropped);
        self.count_tables();
        let Some(cost) = Cost::of(key.bytes(), &entry).filter(|cost| cost.bytes() <= self.limit(place)) else {
            self.refusals += 1;
            dropped.values.extend(entry.value);
            return false;
        };
        self.balance.comes(key.hash(), self.bytes() / self.len().max(1), self.probation_bytes());
        let mut patience = PATIENCE;
        let rank = self.rank_of(key.hash(), cost.bytes(), &mut patience, dropped);
        self.make_room(cost.bytes(), place, rank, patience, dropped);
        self.put(key.to_stored(), Kept::new(entry, cost, slot), place, rank);
        true
    }

    /// Takes out what is held for `key`, fresh or not. Says whether there was anything.
    ///
    /// That the key had proven itself is remembered: its next value does not begin on probation.
    pub(crate) fn remove(&mut self, key: &Sought<'_>, dropped: &mut Dropped<V>) -> bool {
        let Some((kept, is_proven)) = self.main.take(key).or_else(|| self.hot.take(key)) else { return false };
        if is_proven {
            self.ghosts.add(key.hash(), self.len());
        }
        self.count_tables();
        dropped.values.extend(kept.held.into_value());
        true
    }

    /// The tags of what is held for a key.
    pub(crate) fn tagged(&self, key: &Sought<'_>) -> Option<&Arc<Tagged>> {
        self.find(key)?.tagged()
    }

    /// Takes everything out, in the same short time however much it is.
    pub(crate) fn clear(&mut self, dropped: &mut Dropped<V>) {
        for side in [&mut self.main, &mut self.hot] {
            for queue in [&mut side.probation, &mut side.protected] {
                if !queue.is_empty() {
                    dropped.queues.push(queue.take_all());
                }
            }
        }
        self.count_tables();
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            main_bytes: (self.main.bytes() + self.left) as u64,
            main_entries: self.main.len() as u64,
            hot_bytes: self.hot.bytes() as u64,
            hot_entries: self.hot.len() as u64,
            evictions: self.evictions,
            expiries: self.expiries,
            refusals: self.refusals,
        }
    }

    /// The rank of a newcomer. While there is room for everybody nobody has to prove anything.
    fn rank_of(&mut self, trace: u64, cost: usize, patience: &mut usize, dropped: &mut Dropped<V>) -> Rank {
        let is_known = self.ghosts.take(trace);
        let is_welcome = is_known && self.make_protected_room(cost, patience, dropped);
        if is_welcome || self.is_roomy(cost) { Rank::Protected } else { Rank::Probation }
    }

    /// Whether there is room for everybody. What a large entry leaves when it goes is not: whoever came then would have
    /// a place of those that had to prove themselves.
    fn is_roomy(&self, cost: usize) -> bool {
        let room = if self.evictions == 0 { self.budget } else { self.budget / 4 * 3 };
        self.bytes() + cost <= room && self.protected_bytes() + cost <= self.balance.protected()
    }

    /// Makes room among the protected, if that takes no more than patience allows. Says whether there is.
    fn make_protected_room(&mut self, cost: usize, patience: &mut usize, dropped: &mut Dropped<V>) -> bool {
        let room = self.balance.protected();
        if cost > room {
            return false;
        }
        while self.protected_bytes() > room - cost {
            if *patience == 0 || !self.turn(Rank::Protected, Place::BOTH, 0, patience, dropped) {
                return false;
            }
        }
        true
    }

    /// Makes room for a newcomer of this rank: within the budget, and within hot's share if it is a copy. The patience
    /// is what is left of the protected's: they give to probation what the balance says, if they have it to give.
    fn make_room(&mut self, cost: usize, place: Place, rank: Rank, mut patience: usize, dropped: &mut Dropped<V>) {
        let reserved = if rank == Rank::Protected { cost } else { 0 };
        let mut spared = PATIENCE;
        while self.bytes() > self.budget - cost {
            let is_short = self.probation_bytes() < self.balance.probation();
            if !(is_short && self.give_way(&mut patience, dropped)) {
                self.evict(Place::BOTH, reserved, &mut spared, dropped);
            }
            self.count_tables();
        }
        // An entry that moves over may have come to hot just now, so this comes second; it leaves the sum as it is, or
        // less.
        while place == Place::Hot && self.hot.bytes() > self.hot_budget - cost {
            self.evict(&[Place::Hot], reserved, &mut spared, dropped);
        }
    }

    /// One of the protected goes, if one is found that was not used. Says whether it did.
    fn give_way(&mut self, patience: &mut usize, dropped: &mut Dropped<V>) -> bool {
        let before = self.evictions;
        while *patience > 0 && self.turn(Rank::Protected, Place::BOTH, 0, patience, dropped) {
            if self.evictions > before {
                return true;
            }
        }
        false
    }

    /// The oldest entry on probation has its turn, or if there is none the oldest of the protected.
    fn evict(&mut self, places: &[Place], reserved: usize, patience: &mut usize, dropped: &mut Dropped<V>) {
        let _ = self.turn(Rank::Probation, places, reserved, patience, dropped)
            || self.turn(Rank::Protected, places, reserved, patience, dropped);
    }

    /// The turn of the oldest entry of a rank: it goes; or, if it was used and there is patience left, it gives up a
    /// use and takes a new place, where it was last asked for and protected if there is room beside what is reserved.
    /// Says whether there was such an entry.
    fn turn(
        &mut self,
        rank: Rank,
        places: &[Place],
        reserved: usize,
        patience: &mut usize,
        dropped: &mut Dropped<V>,
    ) -> bool {
        let Some(place) = self.side_of_oldest(rank, places) else { return false };
        let oldest = self.side(place).queue(rank).oldest();
        let rises = oldest.filter(|kept| rank == Rank::Probation && *patience > 0 && kept.is_used()).map(Kept::cost);
        // While the entry still lies where it does: those that move over to hot must not take the room that it has
        // there.
        let is_protected = match rises {
            Some(cost) => self.make_protected_room(cost + reserved, &mut { PATIENCE }, dropped),
            None => rank == Rank::Protected,
        };
        let Some((key, mut kept)) = self.side_mut(place).queue_mut(rank).take_oldest() else { return false };
        let asked = if *patience > 0 { kept.use_up() } else { None };
        let Some(place) = asked.and_then(|asked| self.place_of(&kept, place, asked)) else {
            self.let_go(&key, kept, rank, dropped);
            return true;
        };
        *patience -= 1;
        self.put(key, kept, place, if is_protected { Rank::Protected } else { Rank::Probation });
        true
    }

    /// Where an entry goes that lay in one place and was last asked for in another: there, if there is room. It is not
    /// worth another entry.
    fn place_of(&self, kept: &Kept<V>, lay: Place, asked: Place) -> Option<Place> {
        let fits = asked == lay || asked == Place::Main || self.hot.bytes() + kept.cost() <= self.hot_budget;
        fits.then_some(asked)
    }

    fn let_go(&mut self, key: &StoreKey, kept: Kept<V>, rank: Rank, dropped: &mut Dropped<V>) {
        self.evictions += 1;
        let (hash, held) = (self.scatter.hash(key.bytes()), self.len());
        match rank {
            Rank::Probation => {
                self.ghosts.add(hash, held);
                self.balance.went_from_probation(hash, held);
            }
            Rank::Protected => self.balance.went_from_protected(hash, held),
        }
        dropped.values.extend(kept.held.into_value());
    }

    fn put(&mut self, key: StoreKey, mut kept: Kept<V>, place: Place, rank: Rank) {
        self.places_taken = self.places_taken.wrapping_add(1);
        #[expect(clippy::cast_possible_truncation, reason = "it goes round")]
        let turn = (self.places_taken >> TURN) as u16;
        kept.turn = turn;
        self.side_mut(place).queue_mut(rank).put(key, kept);
    }

    /// The side whose oldest entry of the rank has been longest in its place.
    fn side_of_oldest(&self, rank: Rank, places: &[Place]) -> Option<Place> {
        let oldest = |place: Place| self.side(place).queue(rank).oldest().map(|kept| (place, kept));
        let candidates = places.iter().copied().filter_map(oldest);
        let oldest = candidates.reduce(|a, b| if b.1.took_its_place_before(a.1) { b } else { a });
        oldest.map(|(place, _)| place)
    }

    fn bytes(&self) -> usize {
        self.main.bytes() + self.hot.bytes() + self.left
    }

    /// It is a number of its own, and not asked for each time: an entry that moves from one queue to another leaves a
    /// place there, and what is held must not become more by that.
    fn count_tables(&mut self) {
        let left = |Queue(place, rank): Queue| self.side(place).queue(rank).left_bytes();
        self.left = QUEUES.into_iter().map(left).sum();
    }

    fn len(&self) -> usize {
        self.main.len() + self.hot.len()
    }

    fn protected_bytes(&self) -> usize {
        self.main.protected.bytes() + self.hot.protected.bytes()
    }

    fn probation_bytes(&self) -> usize {
        self.main.probation.bytes() + self.hot.probation.bytes()
    }

    /// The most that a side may hold.
    fn limit(&self, place: Place) -> usize {
        match place {
            Place::Main => self.budget,
            Place::Hot => self.hot_budget,
        }
    }

    fn side(&self, place: Place) -> &Side<V> {
        match place {
            Place::Main => &self.main,
            Place::Hot => &self.hot,
        }
    }

    fn side_mut(&mut self, place: Place) -> &mut Side<V> {
        match place {
            Place::Main => &mut self.main,
            Place::Hot => &mut self.hot,
        }
    }
}
