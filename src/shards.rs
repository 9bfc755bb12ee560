//! The store and the flights of a group, under their locks.
//!
//! The keyspace is split over shards; each has a part of the byte budget, the flights of its keys, and one lock for
//! both. **That the lock is one for both is what makes removals sound:** the look whether a flight was voided and the
//! install of its value happen in one critical section, as do the look into the store and the joining of a flight.
//! Sections are short and call no user code but `V::clone`; values that are taken out are dropped after the lock is.
//!
//! A hit changes nothing but a mark on the entry, so hits share the lock; everything else has it alone. A value's
//! `clone` that asks the group is forbidden: one that came back to its own shard would wait for itself as soon as
//! somebody waits there to have the lock alone, who in turn waits for the first hit to end.

mod asked;
mod lead;
mod lives;
mod tags;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::clock::{self, Clock};
use crate::entry::{Source, Value};
use crate::flight::{Flights, Join, Landed, Wait};
use crate::key::{HashedKey, KeyRef, Seeded, Slot};
use crate::planted::{Bug, is_planted};
use crate::scatter::Scatter;
use crate::stats::CacheUsage;
use crate::store::{Dropped, Entry, Found, Place, Sought, Store, Told};
use crate::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use crate::tags::Tagged;
use crate::time::Moment;

pub(crate) use asked::Asked;
use asked::{Kept, Large, Parts};
pub(crate) use lead::{Begin, Keep, Lead};
pub(crate) use lives::Demand;
use lives::Over;
pub(crate) use tags::TagClock;

/// At most two loads of a key run on a node: a voided one and its successor.
const LOADS_OF_A_KEY: usize = 2;
/// Fetches need no such limit: a voided one costs its peer nothing that its successor would not.
const FETCHES_OF_A_KEY: usize = usize::MAX;

/// A shard is not made smaller than this for the sake of more shards: its size limits the largest entry that is kept.
const SMALLEST_SHARD: usize = 4 << 20;
/// But for a small group, which has a few all the same: so that no lock is shared by all keys.
const FEW_SHARDS: usize = 4;
const SMALLEST_OF_FEW: usize = 64 << 10;
/// So many shards for each core, that two threads seldom want the same one.
const SHARDS_PER_CORE: usize = 4;

/// A time at which nothing is due: whether it still is not, is asked of whoever looks, as only an entry whose life has
/// a limit is worth reading the clock for.
const EARLIEST: Moment = Moment::START;

/// The two kinds of flight, each with a table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Load,
    Fetch,
}

#[derive(Debug)]
pub(crate) struct Shard<V> {
    store: Store<V>,
    /// For what peers ask, if values are worth it.
    encoded: Option<Kept>,
    /// How often what the store has of a key was changed.
    changes: u64,
    loads: Flights<V, Seeded>,
    fetches: Flights<V, Seeded>,
    /// The same for all shards.
    tags: Arc<TagClock>,
}

impl<V> Shard<V> {
    fn flights(&mut self, kind: Kind) -> &mut Flights<V, Seeded> {
        match kind {
            Kind::Load if !is_planted(Bug::OneTable) => &mut self.loads,
            _ => &mut self.fetches,
        }
    }
}

impl<V: Value> Shard<V> {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a value that is handed up by copies costs as much as the look")]
    fn look(&self, key: &Sought<'_>, place: Place, is_fresh: impl FnOnce(Moment) -> bool) -> Option<Hit<V>> {
        self.find(key, |_| place, is_fresh).map(|(found, place)| Hit::new(&found, place))
    }

    /// The entry of a key, if nothing is to be done but to serve it, and the place of its slot.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a value that is handed up by copies costs as much as the look")]
    pub(crate) fn find(
        &self,
        key: &Sought<'_>,
        place: impl FnOnce(Slot) -> Place,
        is_fresh: impl FnOnce(Moment) -> bool,
    ) -> Option<(Found<'_, V>, Place)> {
        let (found, place) = self.store.look(key, place, EARLIEST)?;
        let found = self.tags.sift(found)?;
        is_fresh(found.due()).then_some((found, place))
    }

    /// Takes out what is held for a key, if a removal of a tag has: for who is about to do more than serve it.
    fn drop_removed(&mut self, (key, sought): (KeyRef<'_>, &Sought<'_>), dropped: &mut Dropped<V>) {
        if self.tags.now() > 0 && self.tags.takes_out(self.store.tagged(sought).map(Arc::as_ref)) {
            self.change(key);
            self.store.remove(sought, dropped);
        }
    }

    /// The tags of what is held for a key.
    fn tagged(&self, key: &Sought<'_>) -> Option<Arc<Tagged>> {
        self.store.tagged(key).cloned()
    }

    fn void(&mut self, key: KeyRef<'_>) {
        self.loads.void(key);
        self.fetches.void(key);
    }

    /// The store is about to have another value of a key, or none: what was encoded is not its value any more.
    fn change(&mut self, key: KeyRef<'_>) {
        self.changes += 1;
        if let Some(encoded) = &mut self.encoded {
            encoded.forget(key);
        }
    }
}

/// What a look into the cache found: as small as it can be, since a hit is mostly what is moved about.
#[derive(Debug)]
pub(crate) struct Hit<V> {
    pub(crate) value: Option<V>,
    pub(crate) told: Told,
    pub(crate) place: Place,
}

impl<V: Clone> Hit<V> {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a value that is handed up by copies costs as much as the look")]
    pub(crate) fn new(found: &Found<'_, V>, place: Place) -> Self {
        Self { value: found.value().cloned(), told: found.told(), place }
    }
}

impl From<Place> for Source {
    fn from(place: Place) -> Self {
        match place {
            Place::Main => Self::Main,
            Place::Hot => Self::Hot,
        }
    }
}

impl<V> Hit<V> {
    /// As what a flight lands with. A hit does not know its tags, which who looks for a peer, or lands a flight with
    /// it, has to bring.
    pub(crate) fn landed(self, tagged: Option<Arc<Tagged>>) -> Landed<V> {
        let source = self.place.into();
        let life = self.told.life();
        Landed { tagged, ..Landed::new(self.value, life, source) }
    }
}

/// For a caller, who looked just now.
impl<V> From<Hit<V>> for Landed<V> {
    fn from(hit: Hit<V>) -> Self {
        hit.landed(None)
    }
}

/// What a look into the cache led to.
pub(crate) enum Look<V: Value> {
    Found(Landed<V>),
    /// A value that is past its soft limit, and a new flight, to lead behind it.
    PastSoft(Landed<V>, Lead<V>),
    /// Somebody else's flight, to wait for.
    Joined(Wait<V>),
    /// A new flight, to lead and to wait for.
    Lead(Lead<V>, Wait<V>),
}

/// The shards of one group.
#[derive(Debug)]
pub(crate) struct Shards<V> {
    shards: Box<[RwLock<Shard<V>>]>,
    /// Of all shards.
    large: Option<Arc<Large>>,
    /// Says which shard a key is in, and where in its tables.
    scatter: Scatter,
    largest: usize,
    clock: Clock,
    tags: Arc<TagClock>,
}

impl<V: Value> Shards<V> {
    /// Shards for `capacity` bytes, of which hot entries may take `hot_share`. `random` gives the seeds of this
    /// process.
    ///
    /// `encoded_share` is the part of the capacity that keeps encoded values for peers; 0 if they are not worth it. The
    /// `clock` is read when a load has failed, and only then.
    pub(crate) fn new(
        capacity: usize,
        (hot_share, encoded_share): (f64, f64),
        grace: Duration,
        clock: Clock,
        random: impl Fn() -> u64,
    ) -> Self {
        let few = (capacity / SMALLEST_OF_FEW).clamp(1, FEW_SHARDS);
        let affordable = (capacity / SMALLEST_SHARD).max(few);
        // The largest power of two that is affordable, so that a shard is picked by a mask.
        let count = (clock::cores() * SHARDS_PER_CORE).next_power_of_two().min(1 << affordable.ilog2());
        let parts = Parts::of(part(capacity / count, encoded_share), count);
        let budget = capacity / count - parts.of_a_shard;
        let hot_budget = part(budget, hot_share);
        let tags = Arc::<TagClock>::default();
        let scatter = Scatter::new(random(), clock::table_seeds());
        let large = (parts.large > 0).then(|| Arc::new(Large::new(parts.large, random())));
        let shard = || {
            RwLock::new(Shard {
                store: Store::new(budget, hot_budget, grace, scatter),
                encoded: large.as_ref().map(|large| Kept::new(parts.small, large, random())),
                changes: 0,
                loads: Flights::new(LOADS_OF_A_KEY, Seeded(random())),
                fetches: Flights::new(FETCHES_OF_A_KEY, Seeded(random())),
                tags: Arc::clone(&tags),
            })
        };
        Self {
            shards: (0..count).map(|_| shard()).collect(),
            large,
            largest: Store::<V>::largest(budget),
            scatter,
            clock,
            tags,
        }
    }

    /// Which tags have been removed.
    pub(crate) fn tags(&self) -> &TagClock {
        &self.tags
    }

    /// The entry of a key, without looking at flights; shared with other hits.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a value that is handed up by copies costs as much as the look")]
    pub(crate) fn look(
        &self,
        key: &[u8],
        place: impl FnOnce(Slot) -> Place,
        is_fresh: impl FnOnce(Moment) -> bool,
    ) -> Option<Hit<V>> {
        let sought = self.sought(key);
        self.shared(&sought).find(&sought, place, is_fresh).map(|(found, place)| Hit::new(&found, place))
    }

    /// The entry of a key that is past its soft limit, where no flight can be started.
    pub(crate) fn past_soft(&self, key: KeyRef<'_>, place: Place, now: Moment) -> Option<Hit<V>> {
        let sought = self.sought(key.bytes);
        self.shared(&sought).past_soft(&sought, place, now)
    }

    /// The entry of a key, touching nothing.
    pub(crate) fn peek(&self, key: KeyRef<'_>, is_fresh: impl FnOnce(Moment) -> bool) -> Option<V> {
        let sought = self.sought(key.bytes);
        let shard = self.shared(&sought);
        let found = shard.tags.sift(shard.store.peek(&sought, EARLIEST)?)?;
        found.value().filter(|_| is_fresh(found.end())).cloned()
    }

    /// The entry of a key, or else its flight: one look, so that no race between the two loads twice. An entry past its
    /// soft limit is served, and who finds it first leads the flight that brings its successor.
    pub(crate) fn look_or_join(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        place: Place,
        kind: Kind,
        demand: Demand,
        now: Moment,
    ) -> Look<V> {
        let mut dropped = Dropped::default();
        let sought = &self.sought(key.bytes);
        let mut shard = self.exclusive(sought);
        #[cfg(feature = "test-util")]
        let remembered = is_planted(Bug::GraceOfTheFlight)
            .then(|| shard.store.peek(sought, EARLIEST).map(|found| Landed::from(Hit::new(&found, place))))
            .flatten()
            .filter(|landed| landed.value.is_some() && landed.life.grace);
        // Most who come here find nothing, whatever they look for: one look tells them.
        let (mut is_held, mut past_soft) = (shard.store.holds(sought), None);
        if is_held {
            shard.drop_removed((key, sought), &mut dropped);
            if let Some(hit) = shard.look(sought, place, |due| now < due).filter(|hit| demand.is_met_by(hit)) {
                let tagged = shard.tagged(sought);
                return Look::Found(hit.landed(tagged));
            }
            past_soft = shard.past_soft(sought, place, now).filter(|hit| demand.is_met_by(hit));
            shard.store.missed(sought, now, &mut dropped);
            is_held = shard.store.holds(sought);
        }
        let over = Over::of(place, is_held, past_soft.as_ref());
        let tagged = past_soft.as_ref().and_then(|_| shard.tagged(sought));
        let flights = shard.flights(kind);
        if kind == Kind::Fetch && demand.oldest > Moment::START {
            flights.void_unless(key, demand.oldest);
        }
        // A fetch does not queue: it begins with its message, which is about to be sent.
        let begins = kind == Kind::Fetch;
        let (new, wait) = match flights.join(key, begins) {
            Join::Joined(wait) => (None, wait),
            Join::New(flight, wait) => (Some(flight), wait),
        };
        wait.flight().demand(if kind == Kind::Load { demand.of(place) } else { demand.oldest });
        if demand.of_peer {
            wait.flight().await_for_peer();
        }
        if past_soft.is_some() {
            shard.store.begin_refresh(sought);
        }
        drop(shard);
        let (shards, since) = (Arc::clone(self), self.tags.now());
        let lead = new.map(|flight| Lead {
            shards,
            flight,
            kind,
            over,
            begun: begins,
            since,
            #[cfg(feature = "test-util")]
            remembered,
            on_board: true,
        });
        match (past_soft, lead) {
            (Some(hit), Some(lead)) => Look::PastSoft(hit.landed(tagged), lead),
            (Some(hit), None) => Look::Found(hit.landed(tagged)),
            (None, Some(lead)) => Look::Lead(lead, wait),
            (None, None) => Look::Joined(wait),
        }
    }

    /// Puts an entry in the place of whatever is there, and voids the key's flights: their values are older. Says
    /// whether it was kept. What has to go is the caller's to drop, who may hold a lock.
    pub(crate) fn insert(&self, key: &HashedKey, entry: Entry<V>, place: Place, dropped: &mut Dropped<V>) -> bool {
        let (key, sought) = (key.as_ref(), self.sought(&key.key));
        let mut shard = self.exclusive(&sought);
        shard.void(key);
        shard.change(key);
        shard.store.insert(&sought, key.hash.slot(), entry, place, dropped)
    }

    /// Takes a key out, and voids its flights.
    pub(crate) fn remove(&self, key: KeyRef<'_>) {
        let mut dropped = Dropped::default();
        let sought = self.sought(key.bytes);
        let mut shard = self.exclusive(&sought);
        shard.void(key);
        shard.change(key);
        shard.store.remove(&sought, &mut dropped);
    }

    /// Takes everything out, and voids all flights; one shard after the other.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let mut dropped = Dropped::default();
            let mut shard = write(shard);
            shard.loads.void_all();
            shard.fetches.void_all();
            shard.changes += 1;
            if let Some(encoded) = &mut shard.encoded {
                encoded.clear();
            }
            shard.store.clear(&mut dropped);
        }
    }

    /// Wakes everybody who waits for a flight, but for those of voided ones. Says whether there are flights.
    pub(crate) fn wake_all(&self) -> bool {
        let mut any = false;
        for shard in &self.shards {
            let flights: Vec<_> = {
                let shard = read(shard);
                shard.loads.joinable().chain(shard.fetches.joinable()).cloned().collect()
            };
            any |= !flights.is_empty();
            for flight in flights {
                flight.wake_all();
            }
        }
        any
    }

    /// Whether there are flights that can be joined.
    pub(crate) fn has_flights(&self) -> bool {
        let mut shards = self.shards.iter().map(read);
        shards.any(|shard| shard.loads.joinable().chain(shard.fetches.joinable()).next().is_some())
    }

    /// What the stores hold, and how many flights there are.
    pub(crate) fn usage(&self) -> (CacheUsage, u64) {
        let mut sum = CacheUsage { max_entry_bytes: self.largest as u64, ..CacheUsage::default() };
        sum.encoded_bytes = self.large.as_ref().map_or(0, |large| large.bytes()) as u64;
        let mut flights = 0;
        for shard in &self.shards {
            let shard = read(shard);
            let usage = shard.store.usage();
            sum.main_entries += usage.main_entries;
            sum.main_bytes += usage.main_bytes;
            sum.hot_entries += usage.hot_entries;
            sum.hot_bytes += usage.hot_bytes;
            sum.encoded_bytes += shard.encoded.as_ref().map_or(0, Kept::bytes_of_small) as u64;
            sum.evictions += usage.evictions;
            sum.expiries += usage.expiries;
            sum.refusals += usage.refusals;
            flights += (shard.loads.len() + shard.fetches.len()) as u64;
        }
        (sum, flights)
    }
}

impl<V> Shards<V> {
    #[inline]
    fn shard(&self, key: &Sought<'_>) -> &RwLock<Shard<V>> {
        // By bits from the middle: the tables of a store go by those at both ends.
        let middle = (key.hash() >> 32) as usize;
        &self.shards[middle & (self.shards.len() - 1)]
    }

    /// The key as the stores are searched for it.
    #[inline]
    pub(crate) fn sought<'a>(&self, key: &'a [u8]) -> Sought<'a> {
        Sought::new(key, self.scatter)
    }

    #[inline]
    pub(crate) fn shared(&self, key: &Sought<'_>) -> RwLockReadGuard<'_, Shard<V>> {
        read(self.shard(key))
    }

    fn exclusive(&self, key: &Sought<'_>) -> RwLockWriteGuard<'_, Shard<V>> {
        write(self.shard(key))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a `usize`")]
fn part(whole: usize, share: f64) -> usize {
    (whole as f64 * share) as usize
}

/// A panic under the lock can only come from the user's `V::clone`, and leaves the shard whole.
#[inline]
fn read<V>(shard: &RwLock<Shard<V>>) -> RwLockReadGuard<'_, Shard<V>> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<V>(shard: &RwLock<Shard<V>>) -> RwLockWriteGuard<'_, Shard<V>> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}
