//! What flights and the lives of entries have to do with each other: who is content with what is held, what becomes of
//! an old value when its successor does not come, and the sweep.
//!
//! That an old value is served because a load failed is decided when it has failed, by what is in the store then, and
//! only by a flight that was not voided: a removal in between has taken the value out, or has voided the flight.

use crate::clock;
use crate::entry::{Source, Value};
use crate::flight::{Landed, Landing};
use crate::key::KeyRef;
use crate::store::{Dropped, Place, QUEUES, Sought, Swept};
use crate::tags::Tagged;
use crate::time::Moment;

use super::{Hit, Kind, Lead, Shard, Shards, write};

/// So many entries are swept in one go, under the shard's lock.
const SWEPT_AT_ONCE: usize = 64;

/// What a get is content with: nothing that was born earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Wherever it comes from.
    pub(crate) oldest: Moment,
    /// If it is here, and another node owns the key.
    pub(crate) oldest_copy: Moment,
    /// It is a peer's, who wants the value's bytes.
    pub(crate) of_peer: bool,
}

impl Demand {
    /// Whatever is there.
    pub(crate) const NONE: Self = Self { oldest: Moment::START, oldest_copy: Moment::START, of_peer: false };

    pub(crate) fn of_peer(oldest: Moment) -> Self {
        Self { oldest, oldest_copy: oldest, of_peer: true }
    }

    /// As far as it is about what lies in this place.
    pub(super) fn of(self, place: Place) -> Moment {
        match place {
            Place::Main => self.oldest,
            Place::Hot => self.oldest_copy,
        }
    }

    pub(super) fn is_met_by<V>(self, hit: &Hit<V>) -> bool {
        hit.told.born() >= self.of(hit.place)
    }
}

/// What was held for the key of a flight when that was started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Over {
    pub(super) place: Place,
    /// Anything, also what has expired.
    is_held: bool,
    /// When the value was born that is served until its successor comes.
    refreshed: Option<Moment>,
}

impl Over {
    pub(super) fn nothing(place: Place) -> Self {
        Self { place, is_held: false, refreshed: None }
    }

    pub(super) fn of<V>(place: Place, is_held: bool, past_soft: Option<&Hit<V>>) -> Self {
        Self { place, is_held, refreshed: past_soft.map(|hit| hit.told.born()) }
    }
}

impl<V: Value> Shard<V> {
    pub(super) fn past_soft(&self, key: &Sought<'_>, place: Place, now: Moment) -> Option<Hit<V>> {
        let found = self.tags.sift(self.store.past_soft(key, place, now)?)?;
        Some(Hit::new(&found, place))
    }
}

impl<V: Value> Lead<V> {
    /// Whether the flight goes on though nobody waits for it: what it brings is for the cache.
    pub(crate) fn refreshes(&self) -> bool {
        self.over.refreshed.is_some()
    }

    /// Whether what the flight brings has a place in the cache already, to take over from an older value.
    pub(crate) fn succeeds(&self) -> bool {
        self.over.is_held
    }

    /// Whether a hit makes the load needless: it is what those who wait for it want, and not what it is to refresh.
    pub(super) fn is_met_by(&self, hit: &Hit<V>) -> bool {
        let born = hit.told.born();
        born >= self.flight.oldest() && self.over.refreshed.is_none_or(|old| born > old)
    }

    /// The landing; or, if that is a failure of the source, the old value, if there is one within its limits or its
    /// grace. From here on the next load of the key waits, longer each time.
    pub(super) fn relieved(&self, landing: Landing<V>) -> Landing<V> {
        let Err(error) = landing else { return landing };
        #[cfg(feature = "test-util")]
        if let Some(old) = self.remembered.clone().filter(|_| error.is_of_the_source()) {
            return Ok(Landed { failed: Some(error.into()), ..old });
        }
        let (now, dice) = (self.shards.clock.now(), clock::dice());
        let (key, sought) = self.sought();
        let mut dropped = Dropped::default();
        let mut shard = self.shards.exclusive(&sought);
        if self.flight.is_voided() {
            return Err(error);
        }
        if !error.is_of_the_source() {
            self.wait_to_refresh(&mut shard, &sought);
            return Err(error);
        }
        shard.drop_removed((key, &sought), &mut dropped);
        // It is a hit of the place that the key had when it was asked for.
        match shard.store.failed(&sought, now, dice).filter(|found| found.value().is_some()) {
            Some(found) => {
                let tagged = found.tagged().cloned();
                Ok(Landed { failed: Some(error.into()), ..Hit::new(&found, self.over.place).landed(tagged) })
            }
            None => Err(error),
        }
    }

    /// What the flight brought is not kept. Does it mean that what is held is of no use any more?
    pub(super) fn leave_or_drop_old(
        &self,
        shard: &mut Shard<V>,
        sought: &Sought<'_>,
        landing: &Landing<V>,
        dropped: &mut Dropped<V>,
    ) {
        let Ok(landed) = landing else { return };
        let key = (self.key().as_ref(), sought);
        match &landed.source {
            _ if !self.over.is_held || landed.failed.is_some() => {}
            // The source has something else now, though not to be kept; or nothing.
            Source::Loader if self.kind == Kind::Load => drop_old(shard, key, dropped),
            Source::Peer(_) if landed.value.is_none() => drop_old(shard, key, dropped),
            // The owner has nothing newer yet; or nobody was there to be asked.
            _ => self.wait_to_refresh(shard, sought),
        }
    }

    /// If what is held is still what was to be refreshed, the next try waits.
    fn wait_to_refresh(&self, shard: &mut Shard<V>, sought: &Sought<'_>) {
        if let Some(born) = self.over.refreshed {
            shard.store.not_refreshed(sought, born, self.shards.clock.now(), clock::dice());
        }
    }
}

pub(super) fn drop_old<V: Value>(
    shard: &mut Shard<V>,
    (key, sought): (KeyRef<'_>, &Sought<'_>),
    dropped: &mut Dropped<V>,
) {
    shard.change(key);
    shard.store.remove(sought, dropped);
}

impl<V: Value> Shards<V> {
    /// How many shards there are to sweep.
    pub(crate) fn count(&self) -> usize {
        self.shards.len()
    }

    /// Sweeps one shard, a few entries at a time; between two goes whoever else wants the lock has it, and `pause` is
    /// waited for, which is told how many entries were looked at in the one before. Says when the first of the entries
    /// that stay has its end, as far as that was seen.
    pub(crate) async fn sweep<P: Future<Output = ()>>(
        &self,
        shard: usize,
        mut pause: impl FnMut(usize) -> P,
    ) -> Moment {
        let mut next_end = Moment::NEVER;
        write(&self.shards[shard]).store.begin_sweep();
        for queue in QUEUES {
            let mut left = write(&self.shards[shard]).store.to_sweep(queue);
            while left > 0 {
                let now = self.clock.now();
                let most = left.min(SWEPT_AT_ONCE);
                // An allocator may do at the next request what it has put off while a million small blocks came back.
                let mut dropped = Dropped::with_room(most);
                let Swept { seen, next_end: end } = {
                    let mut shard = write(&self.shards[shard]);
                    let Shard { store, encoded, tags, .. } = &mut *shard;
                    let is_out = |tagged: &Tagged| tags.takes_out(Some(tagged));
                    store.sweep(queue, most, (now, is_out), &mut dropped, |key| {
                        if let Some(encoded) = encoded {
                            encoded.forget(key);
                        }
                    })
                };
                drop(dropped);
                next_end = next_end.min(end);
                left -= seen;
                pause(seen).await;
                if seen < most {
                    // The rest is left as it is, unless there is none: it may have an end at any time.
                    next_end = next_end.min(now);
                    break;
                }
            }
        }
        next_end
    }
}
