//! The removed tags of a group, under a lock of their own.
//!
//! A removal writes the table first and the count after it, and what begins reads the count: so whatever has read an
//! earlier count, and bears the tag, is found in the table as soon as the removal has returned. The lock is taken with
//! a shard's held, never the other way round. An entry that was begun after the last removal is told by the count
//! alone, one without tags asks nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::store::Found;
use crate::tags::{RemovedTags, TagHash, Tagged};

/// Which tags of a group have been removed.
#[derive(Debug, Default)]
pub(crate) struct TagClock {
    removed: RwLock<RemovedTags>,
    now: AtomicU64,
}

impl TagClock {
    /// How many removals of tags there were: to be read when a load, a fetch or a get begins.
    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    /// Takes out whatever bears the tag and has begun.
    pub(crate) fn remove(&self, tag: TagHash) {
        let mut removed = self.removed.write().unwrap_or_else(PoisonError::into_inner);
        let now = removed.remove(tag);
        self.now.store(now, Ordering::SeqCst);
    }

    /// Whether a removal of a tag has taken something out since it was begun.
    pub(crate) fn takes_out(&self, tagged: Option<&Tagged>) -> bool {
        tagged.is_some_and(|tagged| self.takes_tagged_out(tagged))
    }

    /// Whether something is too old for who began at a count: a tag of it was removed after it was begun, and, as far
    /// as is known, before that count.
    pub(crate) fn is_too_old(&self, tagged: Option<&Tagged>, since: u64) -> bool {
        tagged.is_some_and(|tagged| tagged.began() < since && self.takes_tagged_out(tagged))
    }

    #[cold]
    #[inline(never)]
    fn takes_tagged_out(&self, tagged: &Tagged) -> bool {
        let is_new = tagged.began() >= self.now();
        !is_new && self.removed.read().unwrap_or_else(PoisonError::into_inner).takes_out(tagged)
    }

    /// What a look has found, unless a removal of a tag has taken it out.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "an entry without tags is to pay for one comparison")]
    pub(super) fn sift<'a, V>(&self, found: Found<'a, V>) -> Option<Found<'a, V>> {
        match found.tagged() {
            Some(tagged) if self.takes_tagged_out(tagged) => None,
            _ => Some(found),
        }
    }
}
