//! Which slots this node owns, to be read at a glance.
//!
//! A hit asks for nothing of the membership but this one bit, and taking hold of the whole [`View`](super::View) for it
//! costs more than the rest of the question. So the bits are kept apart: one word is read, and nothing is written that
//! other readers would have to fetch again.
//!
//! While the membership changes, a reader may find some slots as they were and others as they will be. What it asks for
//! is only in which part of the cache an entry is to lie, and the next reader puts that right. Whoever decides where a
//! request goes asks the view.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::key::{SLOTS, Slot};
use crate::store::Place;

/// A bit for each slot.
#[derive(Debug)]
pub(super) struct Share(Box<[AtomicU64; SLOTS / BITS]>);

impl Share {
    pub(super) fn new(bits: &[u64]) -> Self {
        let share = Self(Box::new([const { AtomicU64::new(0) }; SLOTS / BITS]));
        share.set(bits);
        share
    }

    /// Goes by other owners from now on.
    pub(super) fn set(&self, bits: &[u64]) {
        debug_assert_eq!(bits.len(), self.0.len(), "as many words as there are");
        for (word, bits) in self.0.iter().zip(bits) {
            word.store(*bits, Ordering::Relaxed);
        }
    }

    /// The part of the cache that the keys of a slot belong to here.
    #[inline]
    pub(super) fn place(&self, slot: Slot) -> Place {
        let slot = slot.index();
        let word = self.0[slot / BITS].load(Ordering::Relaxed);
        if word >> (slot % BITS) & 1 == 1 { Place::Main } else { Place::Hot }
    }
}

/// The bits of the slots that a node owns.
pub(super) fn bits(owns: impl Fn(Slot) -> bool) -> Arc<[u64]> {
    let word = |first: u16| {
        let slots = (first..=u16::MAX).take(BITS).enumerate();
        slots.map(|(bit, slot)| u64::from(owns(Slot(slot))) << bit).sum()
    };
    (0..=u16::MAX).step_by(BITS).map(word).collect()
}

/// Slots to a word.
const BITS: usize = u64::BITS as usize;

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(share: &Share) -> Vec<u16> {
        (0..=u16::MAX).filter(|slot| share.place(Slot(*slot)) == Place::Main).collect()
    }

    #[test]
    fn each_slot_is_what_was_set_last() {
        let share = Share::new(&bits(|_| true));
        assert_eq!(owned(&share).len(), SLOTS);
        share.set(&bits(|slot| slot.0 % 7 == 3));
        assert_eq!(owned(&share), (0..=u16::MAX).filter(|slot| slot % 7 == 3).collect::<Vec<_>>());
        share.set(&bits(|_| false));
        assert!(owned(&share).is_empty());
    }
}
