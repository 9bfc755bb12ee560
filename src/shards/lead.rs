//! The duty to land a flight: to let it begin, and to bring its end into the store and to who waits.
//!
//! That a flight was not voided, and the install of its value, are one critical section: see the shards.

use std::sync::Arc;

use crate::entry::Value;
use crate::error::{Error, LoadError};
#[cfg(feature = "test-util")]
use crate::flight::Landed;
use crate::flight::{Flight, Landing};
use crate::key::{HashedKey, KeyRef};
#[cfg(feature = "test-util")]
use crate::planted::{Bug, is_planted};
use crate::store::{Dropped, Entry, Place, Sought, Store};
use crate::time::Moment;
use crate::wakes::Wakes;

use super::lives::{Over, drop_old};
use super::{Kind, Shards};

/// What came of the wish to begin a load.
pub(crate) enum Begin<V: Value> {
    /// The loader is to be called.
    Go(Lead<V>),
    /// Not now: the flight is parked, and the landing of another flight of the key gives its lead back.
    /// Or not at all: the value was there, and the flight has landed.
    No,
}

/// Where to keep the value of a flight, and what it weighs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    pub(crate) place: Place,
    pub(crate) weight: usize,
}

/// The duty to land a flight. Dropped without a landing, it lands it with [`Error::Closed`]; by a panic (of the user's
/// `V::clone`, say), with a failed load.
#[derive(Debug)]
#[must_use = "dropping a lead fails everybody who waits for the flight"]
pub(crate) struct Lead<V: Value> {
    pub(super) shards: Arc<Shards<V>>,
    pub(super) flight: Arc<Flight<V>>,
    pub(super) kind: Kind,
    /// What was held for the key when the flight was started.
    pub(super) over: Over,
    pub(super) begun: bool,
    /// The count of removed tags when it began.
    pub(super) since: u64,
    /// What a planted bug serves if the load fails, whatever was removed since.
    #[cfg(feature = "test-util")]
    pub(super) remembered: Option<Landed<V>>,
    /// Cleared once the duty is done or handed on.
    pub(super) on_board: bool,
}

impl<V: Value> Lead<V> {
    pub(crate) fn flight(&self) -> &Arc<Flight<V>> {
        &self.flight
    }

    pub(crate) fn key(&self) -> &HashedKey {
        self.flight.key()
    }

    /// The key, and as the stores are searched for it.
    pub(super) fn sought(&self) -> (KeyRef<'_>, Sought<'_>) {
        (self.key().as_ref(), self.shards.sought(&self.key().key))
    }

    /// The count of removed tags when the flight began: what it brings is as old as that.
    pub(crate) fn since(&self) -> u64 {
        self.since
    }

    /// Lets a load begin: the loader is about to be called. The cache is looked at once more, so that a value that came
    /// while the load was queued is not loaded again.
    pub(crate) fn begin(mut self, place: Place, now: Moment) -> Begin<V> {
        debug_assert!(self.kind == Kind::Load && !self.begun, "fetches begin when they start");
        let shards = Arc::clone(&self.shards);
        let key = self.flight.key().clone();
        let sought = &shards.sought(&key.key);
        let mut dropped = Dropped::default();
        let mut shard = shards.exclusive(sought);
        shard.drop_removed((key.as_ref(), sought), &mut dropped);
        if let Some(hit) = shard.look(sought, place, |due| now < due).filter(|hit| self.is_met_by(hit)) {
            let landed = hit.landed(shard.tagged(sought));
            drop(shard);
            let next = self.land(Ok(landed), None).1;
            debug_assert!(next.is_none(), "nothing is parked behind a flight that can be joined");
            return Begin::No;
        }
        self.begun = shard.flights(Kind::Load).begin(&self.flight);
        self.since = self.shards.tags.now();
        drop(shard);
        if self.begun {
            return Begin::Go(self);
        }
        self.on_board = false;
        Begin::No
    }

    /// Lands the flight: takes it out of the table, keeps its value if `keep` says where and no removal has voided it,
    /// and wakes who waits. Returns whether it was voided, and the lead of a parked flight of the key that may now
    /// begin.
    ///
    /// If it failed and there is an old value that may be served in its stead, that is what it brings.
    pub(crate) fn land(self, landing: Landing<V>, keep: Option<Keep>) -> (bool, Option<Self>) {
        self.land_among(landing, keep, &mut Wakes::default())
    }

    /// The same for one of many: who waits is to be woken with others.
    pub(crate) fn land_among(
        mut self,
        landing: Landing<V>,
        keep: Option<Keep>,
        wakes: &mut Wakes,
    ) -> (bool, Option<Self>) {
        let landing = self.relieved(landing);
        self.set_down(landing, keep, wakes)
    }

    /// Where to keep what the flight brought. What was loaded here and is too large for the share of copies is kept
    /// among the main entries: a stand-in that kept nothing would load for every get.
    fn place_of(&self, store: &Store<V>, sought: &Sought<'_>, entry: &Entry<V>, place: Place) -> Place {
        let fits = self.kind == Kind::Fetch || store.fits(sought, entry, place);
        if fits { place } else { Place::Main }
    }

    fn set_down(&mut self, landing: Landing<V>, keep: Option<Keep>, wakes: &mut Wakes) -> (bool, Option<Self>) {
        let mut dropped = Dropped::default();
        // Cloned first: a clone is the user's code, and if it panics the flight is still on board, and lands as failed.
        let mut kept = match (&landing, keep) {
            (Ok(landed), Some(keep)) => {
                let (value, tagged) = (landed.value.clone(), landed.tagged.clone());
                Some((Entry { value, weight: keep.weight, life: landed.life, tagged }, keep.place))
            }
            _ => None,
        };
        self.on_board = false;
        let (key, sought) = &self.sought();
        let ended = {
            let mut shard = self.shards.exclusive(sought);
            let mut ended = shard.flights(self.kind).end(&self.flight, self.begun);
            // Nobody knew what it would bear when the tag was removed.
            let tagged = landing.as_ref().ok().and_then(|landed| landed.tagged.as_deref());
            let is_removed = kept.is_some() && shard.tags.takes_out(tagged);
            ended.voided |= is_removed;
            #[cfg(feature = "test-util")]
            if is_planted(Bug::TwoLocks) {
                drop(shard);
                (0..100).for_each(|_| std::thread::yield_now());
                shard = self.shards.exclusive(sought);
            }
            // Taken rather than matched: what is not kept must be dropped outside of the lock.
            let kept = if ended.voided { None } else { kept.take() };
            if let Some((entry, place)) = kept {
                let place = self.place_of(&shard.store, sought, &entry, place);
                shard.change(*key);
                shard.store.insert(sought, key.hash.slot(), entry, place, &mut dropped);
                if self.flight.is_for_peers() {
                    shard.will_be_encoded(*key);
                }
            } else if is_removed {
                // Nor does anything come to refresh what is there.
                drop_old(&mut shard, (*key, sought), &mut dropped);
            } else if !ended.voided {
                self.leave_or_drop_old(&mut shard, sought, &landing, &mut dropped);
            }
            ended
        };
        self.flight.land(landing, wakes);
        let next = ended.next.map(|flight| Self {
            shards: Arc::clone(&self.shards),
            flight,
            kind: self.kind,
            over: Over::nothing(self.over.place),
            begun: false,
            since: self.since,
            #[cfg(feature = "test-util")]
            remembered: None,
            on_board: true,
        });
        (ended.voided, next)
    }
}

impl<V: Value> Drop for Lead<V> {
    fn drop(&mut self) {
        if self.on_board {
            let why = if std::thread::panicking() {
                Error::Load(LoadError::new("the value's code panicked"))
            } else {
                Error::Closed
            };
            // A lead of a parked flight that comes back is dropped here too, and lands the same way.
            drop(self.set_down(Err(why), None, &mut Wakes::default()));
        }
    }
}
