//! What is held for a key: as it comes in, and as it is kept.
//!
//! A kept entry spends 16 bytes on all that is not the key or the value: its life, its cost, its slot, when it took its
//! place, and what readers note on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::Place;
use super::cost::Cost;
use super::held::Held;
use super::life::{MOST_TRIES, Packed, pause};
use crate::key::Slot;
use crate::lifespan::Lifespan;
use crate::tags::Tagged;
use crate::time::Moment;

/// What is to be held for a key.
#[derive(Debug)]
pub(crate) struct Entry<V> {
    /// The value, or `None`: it is remembered that there is none.
    pub(crate) value: Option<V>,
    /// What the codec says that the value weighs, in bytes; 0 without a value. The room for a `V` is part of it.
    pub(crate) weight: usize,
    pub(crate) life: Lifespan,
    /// Its tags, if it has any.
    pub(crate) tagged: Option<Arc<Tagged>>,
}

/// How often an entry can have been used, as far as its store can tell. With more, what was popular once takes longer
/// to go; with one, what is popular goes too easily.
pub(super) const MOST_USES: u8 = 2;
/// The bits of a mark that count uses; the one above says where the entry was last asked for. What is above those is
/// only written by who has the store to himself: how often a successor was to be loaded.
const USES: u8 = 0b11;
const AS_HOT: u8 = 0b100;
const TRIES: u8 = 0b11_1000;
const ONE_TRY: u8 = 0b1000;

/// The life of an entry as it is told to others, perhaps still packed: a hit seldom wants to know.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Told {
    Packed {
        life: Packed,
        /// Whether a successor was to be loaded.
        is_tried: bool,
    },
    Known(Lifespan),
}

impl From<Lifespan> for Told {
    fn from(life: Lifespan) -> Self {
        Self::Known(life)
    }
}

impl Told {
    #[inline]
    pub(crate) fn born(self) -> Moment {
        match self {
            Self::Packed { life, .. } => life.born(),
            Self::Known(life) => life.born,
        }
    }

    #[inline]
    pub(crate) fn hard(self) -> Moment {
        match self {
            Self::Packed { life, .. } => life.hard(),
            Self::Known(life) => life.hard,
        }
    }

    #[inline]
    pub(crate) fn life(self) -> Lifespan {
        match self {
            Self::Packed { life, .. } if !life.is_tailed() => Lifespan::new(life.born(), life.hard()),
            Self::Packed { life, is_tried } => tailed(life, is_tried),
            Self::Known(life) => life,
        }
    }
}

/// The life of an entry whose successor was to be loaded is past its soft limit, whenever the next try is.
#[cold]
fn tailed(life: Packed, is_tried: bool) -> Lifespan {
    let (born, hard, due) = (life.born(), life.hard(), life.due());
    let soft = match is_tried {
        true => born,
        false if due < hard => due,
        false => Moment::NEVER,
    };
    Lifespan { born, soft, hard, grace: life.has_grace() }
}

/// An entry as a store keeps it.
#[derive(Debug)]
pub(super) struct Kept<V> {
    pub(super) held: Held<V>,
    /// The life's word; its byte is below, where it takes what alignment leaves.
    word: u64,
    cost: Cost,
    /// Of its key: so a hit can ask who owns it, and needs no hash of the wire for that.
    slot: Slot,
    /// When the entry took its place in its list, by a count that goes round: see [`Kept::took_its_place_before`].
    pub(super) turn: u16,
    /// Readers share the store, so this is all that a hit may write; and it writes only what it would change, so that a
    /// key that everybody asks for is a line that everybody reads.
    mark: AtomicU8,
    tail: u8,
}

impl<V> Kept<V> {
    pub(super) fn new(entry: Entry<V>, cost: Cost, slot: Slot) -> Self {
        let Packed { word, tail } = Packed::new(&entry.life);
        let Entry { value, tagged, .. } = entry;
        Self { held: Held::new(value, tagged), word, cost, slot, turn: 0, mark: AtomicU8::new(0), tail }
    }

    #[inline]
    pub(super) fn life(&self) -> Packed {
        Packed { word: self.word, tail: self.tail }
    }

    fn change_life(&mut self, change: impl FnOnce(&mut Packed)) {
        let mut life = self.life();
        change(&mut life);
        (self.word, self.tail) = (life.word, life.tail);
    }

    #[inline]
    pub(super) fn tagged(&self) -> Option<&Arc<Tagged>> {
        self.held.tagged()
    }

    pub(super) fn cost(&self) -> usize {
        self.cost.bytes()
    }

    #[inline]
    pub(super) fn slot(&self) -> Slot {
        self.slot
    }

    #[inline]
    pub(super) fn told(&self) -> Told {
        Told::Packed { life: self.life(), is_tried: self.tries() > 0 }
    }

    /// When more is to be done than to serve it.
    #[inline]
    pub(super) fn due(&self, grace: Duration) -> Moment {
        let life = self.life();
        if life.is_tailed() { self.tailed_due(grace) } else { life.hard() }
    }

    #[cold]
    fn tailed_due(&self, grace: Duration) -> Moment {
        // What was put off is due a little later than it should be: but not later than it may be.
        self.life().due().min(self.life().end(grace))
    }

    /// Whether it may come to be of no use before anybody asks for it: by the time, or by the removal of a tag.
    pub(super) fn is_mortal(&self) -> bool {
        self.tagged().is_some() || self.life().hard() != Moment::NEVER
    }

    #[inline]
    fn tries(&self) -> u8 {
        (self.mark.load(Ordering::Relaxed) & TRIES) / ONE_TRY
    }

    /// A successor is about to be loaded. Until that has landed this entry is served up to its hard limit.
    pub(super) fn begin_refresh(&mut self) {
        self.note_tries(self.tries().max(1));
        self.change_life(Packed::put_off_to_hard);
    }

    /// The load of a successor has failed: the next one waits, longer each time.
    pub(super) fn note_failure(&mut self, now: Moment, dice: f64) {
        let tries = self.tries().max(1);
        let was_served = now < self.life().hard();
        self.note_tries((tries + 1).min(MOST_TRIES));
        self.change_life(|life| life.put_off(now + pause(tries, dice)));
        // Not beyond the hard limit: a load is to say whether there is a reason for that.
        if was_served && self.life().due() > self.life().hard() {
            self.change_life(Packed::put_off_to_hard);
        }
    }

    fn note_tries(&mut self, tries: u8) {
        let mark = self.mark.get_mut();
        *mark = (*mark & !TRIES) | (tries * ONE_TRY);
    }

    /// Notes that the entry was asked for, and as what.
    pub(super) fn note_use(&self, place: Place) {
        // Relaxed: it is read by whoever has the store to himself, and a use that is lost to another at the same time
        // is no loss.
        let mark = self.mark.load(Ordering::Relaxed);
        let place = if place == Place::Hot { AS_HOT } else { 0 };
        if mark & (USES | AS_HOT) != MOST_USES | place {
            let uses = ((mark & USES) + 1).min(MOST_USES);
            self.mark.store(mark & TRIES | uses | place, Ordering::Relaxed);
        }
    }

    pub(super) fn is_used(&self) -> bool {
        self.mark.load(Ordering::Relaxed) & USES > 0
    }

    /// Takes one use off, if there is one, and says where the entry was last asked for.
    pub(super) fn use_up(&mut self) -> Option<Place> {
        let mark = self.mark.get_mut();
        if *mark & USES == 0 {
            return None;
        }
        *mark -= 1;
        Some(if *mark & AS_HOT == 0 { Place::Main } else { Place::Hot })
    }

    /// Which of two entries has been longer where it is. A count that has gone half round is mistaken for a new one,
    /// which does no harm: it only says who goes first.
    pub(super) fn took_its_place_before(&self, other: &Self) -> bool {
        self.turn.wrapping_sub(other.turn) > u16::MAX / 2
    }
}
