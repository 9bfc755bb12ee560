//! Questions of an exchange that have been read and not been looked at.
//!
//! Nearly all are looked at as soon as they have come, and that costs nothing here. Those that have to wait, because
//! large values before them wait to be sent, are **kept**, which is bounded in bytes: and then a key is copied out of
//! the frame that it came in, as it would hold all of that.

use std::collections::{HashSet, VecDeque};
use std::mem;

use bytes::Bytes;

use crate::message::GetTerms;
use crate::removals::Span;
use crate::transport::Wanted;

/// So many bytes of questions of one stream may be kept: all that a peer of ours has under way, if their keys are no
/// longer than a hundred bytes or so.
const MOST_BYTES: usize = 16 << 20;

/// About what an allocation takes beside what is in it.
const ALLOCATION: usize = 16;

/// The questions, in the order in which they came: first those that are kept.
#[derive(Default)]
pub(super) struct Backlog {
    sections: VecDeque<Section>,
    /// Of what is kept.
    bytes: usize,
}

/// Questions that have their terms in common.
pub(super) struct Section {
    terms: GetTerms,
    ids: Vec<u64>,
    wanted: Vec<Wanted>,
    looked_at: usize,
    /// 0 until it is kept.
    bytes: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }

    /// Puts questions at the end, if there are any: what asks nothing is bounded by nothing.
    pub(super) fn push(&mut self, section: Section) {
        if !section.is_over() {
            self.sections.push_back(section);
        }
    }

    /// Takes the first out.
    pub(super) fn take(&mut self) -> Option<Section> {
        let section = self.sections.pop_front()?;
        self.bytes -= section.bytes;
        Some(section)
    }

    /// Puts back what is left of the first.
    pub(super) fn put_back(&mut self, section: Section) {
        if !section.is_over() {
            self.bytes += section.bytes;
            self.sections.push_front(section);
        }
    }

    /// Keeps what has come. Takes out those that there is no room for, and gives their ids.
    pub(super) fn keep(&mut self) -> Vec<u64> {
        let mut beyond = Vec::new();
        let kept = self.sections.partition_point(|section| section.bytes > 0);
        for section in self.sections.range_mut(kept..) {
            beyond.extend(section.keep(MOST_BYTES - self.bytes));
            self.bytes += section.bytes;
        }
        if !beyond.is_empty() {
            self.sections.retain(|section| !section.is_over());
        }
        beyond
    }

    /// Takes out what is not wanted any more, and gives the ids of that.
    pub(super) fn give_up(&mut self, unwanted: &HashSet<u64>) -> Vec<u64> {
        let given_up = self.sections.iter_mut().flat_map(|section| section.give_up(unwanted)).collect();
        self.sections.retain(|section| !section.is_over());
        self.bytes = self.sections.iter().map(|section| section.bytes).sum();
        given_up
    }

    /// How many questions are left in each section.
    #[cfg(test)]
    pub(super) fn lens(&self) -> Vec<usize> {
        self.sections.iter().map(|section| section.rest().1.len()).collect()
    }
}

impl Section {
    /// Questions with these ids, in the same order.
    pub(super) fn new(terms: GetTerms, ids: Vec<u64>, wanted: Vec<Wanted>) -> Self {
        Self { terms, ids, wanted, looked_at: 0, bytes: 0 }
    }

    /// What has not been looked at.
    pub(super) fn rest(&self) -> (&GetTerms, &[u64], &[Wanted]) {
        (&self.terms, &self.ids[self.looked_at..], &self.wanted[self.looked_at..])
    }

    /// So many more have been.
    pub(super) fn looked_at(&mut self, count: usize) {
        self.looked_at += count;
    }

    fn is_over(&self) -> bool {
        self.looked_at >= self.wanted.len()
    }

    /// Keeps what there is room for, and gives the ids of the rest.
    fn keep(&mut self, room: usize) -> Vec<u64> {
        let mut bytes = self.own_bytes();
        let beyond = self.take_out(|_, wanted| {
            let with = bytes + bytes_of(wanted);
            let fits = with <= room;
            bytes = if fits { with } else { bytes };
            !fits
        });
        for Wanted { key, .. } in &mut self.wanted {
            *key = Bytes::copy_from_slice(key);
        }
        self.bytes = if self.is_over() { 0 } else { bytes };
        beyond
    }

    fn give_up(&mut self, unwanted: &HashSet<u64>) -> Vec<u64> {
        let given_up = self.take_out(|id, _| unwanted.contains(&id));
        if self.bytes > 0 {
            self.bytes = self.own_bytes() + self.wanted.iter().map(bytes_of).sum::<usize>();
        }
        given_up
    }

    /// About how many bytes it takes without its questions.
    fn own_bytes(&self) -> usize {
        size_of::<Self>() + 3 * ALLOCATION + self.terms.group.len()
    }

    /// Takes questions out of those that have not been looked at, and gives their ids.
    fn take_out(&mut self, mut is_out: impl FnMut(u64, &Wanted) -> bool) -> Vec<u64> {
        let asked = mem::take(&mut self.ids).into_iter().zip(mem::take(&mut self.wanted));
        let left = asked.skip(mem::take(&mut self.looked_at));
        let (out, left): (Vec<_>, Vec<_>) = left.partition(|(id, wanted)| is_out(*id, wanted));
        (self.ids, self.wanted) = left.into_iter().unzip();
        out.into_iter().map(|(id, _)| id).collect()
    }
}

/// About how many bytes a question takes.
fn bytes_of(wanted: &Wanted) -> usize {
    let removed =
        wanted.after.removed.iter().map(|span| size_of::<Span>() + ALLOCATION + span.origin.name.as_str().len());
    size_of::<(u64, Wanted)>() + ALLOCATION + wanted.key.len() + removed.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::key::Key;
    use crate::member::NodeName;
    use crate::message::{After, Incarnation};
    use crate::removals::Origin;

    /// Questions for one key, with the removals that they carry.
    fn questions(ids: Range<u64>, key: &Bytes, removed: &[Span]) -> Section {
        let (group, after) = (Arc::from("g"), After { removed: removed.to_vec(), offered: 0 });
        let terms = GetTerms { group, schema: 0, time_limit: Duration::MAX, nested: false, max_age: None };
        let wanted = Wanted { key: key.clone(), time_limit: Duration::MAX, max_age: None, after };
        Section::new(terms, ids.clone().collect(), ids.map(|_| wanted.clone()).collect())
    }

    fn key(len: usize) -> Bytes {
        Bytes::from(vec![b'k'; len])
    }

    /// What there was no room for of so many questions.
    fn beyond(count: u64, key: &Bytes, removed: &[Span]) -> usize {
        let mut backlog = Backlog::default();
        backlog.push(questions(0..count, key, removed));
        backlog.keep().len()
    }

    #[test]
    fn a_question_that_is_kept_does_not_hold_the_frame_that_it_came_in() {
        let mut backlog = Backlog::default();
        let frame = key(1000);
        backlog.push(questions(0..3, &frame.slice(500..503), &[]));
        assert!(!frame.is_unique(), "what is about to be looked at is not copied");
        assert!(backlog.keep().is_empty());
        assert!(frame.is_unique());
        let kept = backlog.take().expect("it was kept");
        assert!(kept.rest().1 == [0, 1, 2] && kept.rest().2.iter().all(|wanted| wanted.key == "kkk"));
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes() {
        let origin = Origin::new(NodeName::from(&"n".repeat(NodeName::MAX_LEN)), Incarnation(1));
        let removed = vec![Span::one(origin, 1); 1000];
        assert_eq!(beyond(1 << 16, &key(100), &[]), 0, "as much as a peer has under way");
        assert_eq!(beyond(1000, &key(Key::MAX_LEN), &[]), 1000 - MOST_BYTES / Key::MAX_LEN + 1);
        assert!((900..1000).contains(&beyond(1000, &key(1), &removed)), "removals count, and the names in them");
        let mut alone = Backlog::default();
        (0..1 << 17).for_each(|id| alone.push(questions(id..id + 1, &key(1), &[])));
        assert!(alone.keep().len() > 1 << 16, "so do what questions have in common");
    }

    #[test]
    fn there_is_room_again_for_what_was_looked_at_or_given_up() {
        let key = key(Key::MAX_LEN);
        let mut backlog = Backlog::default();
        for ids in [0..100, 100..200, 200..300] {
            backlog.push(questions(ids, &key, &[]));
        }
        assert_eq!(backlog.keep(), (255..300).collect::<Vec<_>>(), "those that came last");
        assert!(backlog.keep().is_empty() && backlog.lens() == [100, 100, 55]);
        let mut first = backlog.take().expect("it was kept");
        first.looked_at(40);
        backlog.put_back(first);
        let unwanted: HashSet<u64> = (30..150).collect();
        assert_eq!(backlog.give_up(&unwanted), (40..150).collect::<Vec<_>>());
        assert_eq!(backlog.lens(), [50, 55]);
        backlog.push(questions(300..500, &key, &[]));
        assert_eq!(backlog.keep(), (450..500).collect::<Vec<_>>());
        while let Some(mut section) = backlog.take() {
            section.looked_at(section.rest().1.len());
            backlog.put_back(section);
        }
        assert!(backlog.is_empty() && backlog.bytes == 0);
    }
}
