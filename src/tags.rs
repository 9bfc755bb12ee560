//! Tags: what an entry bears beside its key, and which removals of tags take it out.
//!
//! There is no way from a tag to its keys. An entry with tags carries their hashes, and the count of removals at which
//! its load, or fetch, began; [`RemovedTags`] has for each tag the count at its removal. Whoever finds the entry
//! compares the two. So a removal costs the same however many keys bear the tag.
//!
//! What must hold: an entry that was begun before a removal of one of its tags is taken out, whatever is forgotten. To
//! take out more than that is always sound: two tags of one hash, or a table that has become coarse, cost loads.
//!
//! The counts are a node's own. Hashes are the protocol's, so that they may travel.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::key::protocol_hash;

/// So many removed tags are remembered one by one.
const MOST_REMOVED: usize = 8192;

/// A value of more tags than this is taken out by the removal of any tag.
pub(crate) const MOST_TAGS: usize = 64;

/// What an entry's tags take beside themselves: two counts of references, the rest of a [`Tagged`].
const OVERHEAD: usize = 48;

/// A tag, as entries and messages carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TagHash(pub(crate) u64);

impl TagHash {
    pub(crate) fn of(tag: &[u8]) -> Self {
        Self(protocol_hash(tag))
    }
}

/// The tags of an entry, and when it was begun.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tagged {
    /// The count of removals when its load or fetch began.
    began: u64,
    /// Whether it counts as bearing whatever tag there is.
    is_any: bool,
    /// Each once; one more than [`MOST_TAGS`] if there are more.
    tags: Box<[TagHash]>,
}

impl Tagged {
    /// `None` without tags.
    pub(crate) fn new(began: u64, tags: &[TagHash]) -> Option<Arc<Self>> {
        if tags.is_empty() {
            return None;
        }
        let mut tags = tags.to_vec();
        tags.sort_unstable();
        tags.dedup();
        tags.truncate(MOST_TAGS + 1);
        Some(Arc::new(Self { began, is_any: tags.len() > MOST_TAGS, tags: tags.into() }))
    }

    /// For what has tags that are not known.
    pub(crate) fn unknown(began: u64) -> Arc<Self> {
        Arc::new(Self { began, is_any: true, tags: Box::default() })
    }

    pub(crate) fn began(&self) -> u64 {
        self.began
    }

    /// As they travel: a receiver sees by their number if there are too many.
    pub(crate) fn tags(&self) -> &[TagHash] {
        &self.tags
    }

    /// What they take, in bytes.
    pub(crate) fn cost(&self) -> usize {
        OVERHEAD + size_of_val(&*self.tags)
    }

    fn bears(&self, tag: TagHash) -> bool {
        self.is_any || self.tags.binary_search(&tag).is_ok()
    }
}

/// Whether a value with these tags bears this one.
pub(crate) fn bears(tags: &[TagHash], tag: TagHash) -> bool {
    Tagged::new(0, tags).is_some_and(|tagged| tagged.bears(tag))
}

/// Which tags have been removed, and when, by a count of the removals.
#[derive(Debug)]
pub(crate) struct RemovedTags {
    /// How many removals there were.
    now: u64,
    /// By tag: its last removal.
    at: BTreeMap<TagHash, u64>,
    /// Of the removals up to this one it is not known any more which tags they were of.
    forgotten: u64,
    most: usize,
}

impl Default for RemovedTags {
    fn default() -> Self {
        Self::new(MOST_REMOVED)
    }
}

impl RemovedTags {
    fn new(most: usize) -> Self {
        Self { now: 0, at: BTreeMap::new(), forgotten: 0, most }
    }

    /// A tag is removed: what bears it and has begun is out from now on. Returns the count.
    pub(crate) fn remove(&mut self, tag: TagHash) -> u64 {
        self.now += 1;
        self.at.insert(tag, self.now);
        if self.at.len() > self.most {
            self.coarsen();
        }
        self.now
    }

    /// Forgets the older half. What was begun before any of those is out, whatever its tags.
    fn coarsen(&mut self) {
        let mut counts: Vec<u64> = self.at.values().copied().collect();
        let middle = counts.len() / 2;
        let (_, &mut forgotten, _) = counts.select_nth_unstable(middle);
        self.forgotten = forgotten;
        self.at.retain(|_, at| *at > forgotten);
    }

    /// Whether a removal since it was begun takes an entry out.
    pub(crate) fn takes_out(&self, tagged: &Tagged) -> bool {
        let began = tagged.began;
        if began >= self.now {
            return false;
        }
        began < self.forgotten
            || tagged.is_any
            || tagged.tags.iter().any(|tag| self.at.get(tag).is_some_and(|at| *at > began))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tagged(began: u64, tags: &[u64]) -> Arc<Tagged> {
        let tags: Vec<TagHash> = tags.iter().copied().map(TagHash).collect();
        Tagged::new(began, &tags).expect("there are tags")
    }

    #[test]
    fn an_entry_is_out_if_one_of_its_tags_was_removed_since_it_was_begun() {
        let mut removed = RemovedTags::default();
        let entry = tagged(0, &[1, 2]);
        assert!(!removed.takes_out(&entry));
        assert_eq!(removed.remove(TagHash(3)), 1);
        assert!(!removed.takes_out(&entry), "another tag");
        assert_eq!(removed.remove(TagHash(2)), 2);
        assert!(removed.takes_out(&entry) && removed.takes_out(&tagged(1, &[2])));
        assert!(!removed.takes_out(&tagged(2, &[1, 2, 3])), "begun after it");
    }

    #[test]
    fn what_has_too_many_tags_is_taken_out_by_any() {
        let many: Vec<u64> = (0..1000).collect();
        let mut removed = RemovedTags::default();
        removed.remove(TagHash(5000));
        assert!(removed.takes_out(&tagged(0, &many)) && !removed.takes_out(&tagged(1, &many)));
        assert!(!removed.takes_out(&tagged(0, &many[..MOST_TAGS])));
        let again = Tagged::new(0, tagged(0, &many).tags()).unwrap();
        assert!(removed.takes_out(&again), "also once it has travelled");
        assert!(bears(again.tags(), TagHash(5000)) && !bears(&again.tags()[1..], TagHash(5000)));
    }

    #[test]
    fn a_tag_that_is_named_twice_counts_once_and_none_is_nothing() {
        assert_eq!(tagged(0, &[2, 1, 2]).tags(), [TagHash(1), TagHash(2)]);
        assert_eq!(Tagged::new(0, &[]), None);
        assert_eq!(tagged(0, &[1, 2]).cost(), OVERHEAD + 16);
    }

    proptest! {
        #[test]
        fn nothing_that_was_removed_stays_however_small_the_table(
            removals in prop::collection::vec(0..20_u64, 0..60),
            entries in prop::collection::vec((0..60_u64, prop::collection::vec(0..20_u64, 1..4)), 0..20),
        ) {
            let (mut small, mut exact) = (RemovedTags::new(4), RemovedTags::new(100));
            for (number, tag) in (1..).zip(&removals) {
                prop_assert_eq!((small.remove(TagHash(*tag)), exact.remove(TagHash(*tag))), (number, number));
                prop_assert!(small.at.len() <= 4);
            }
            for (began, tags) in entries {
                let entry = tagged(began, &tags);
                let began = usize::try_from(began).unwrap().min(removals.len());
                let is_out = removals[began..].iter().any(|tag| tags.contains(tag));
                prop_assert_eq!(exact.takes_out(&entry), is_out);
                prop_assert!(small.takes_out(&entry) || !is_out);
                prop_assert!(!small.takes_out(&entry) || began < removals.len(), "what is new stays");
            }
        }
    }
}
