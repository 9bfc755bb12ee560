//! Which removals have been applied: a vector with one line for each origin.
//!
//! A line has a mark, up to which all have been applied, and the numbers above it that came out of turn. What must
//! hold: a number that is claimed here has been applied, in whole, by the node whose vector it is, in that node's
//! present incarnation. To forget a claim is always safe (what was applied may be applied again), to invent one never.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{Origin, Span};

/// How many numbers above the mark a line holds, but for the line of the node whose vector it is.
pub(crate) const MAX_ABOVE: usize = 1024;

/// What came of noting that something was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// It is in the vector now.
    New,
    /// It was there before.
    Known,
    /// It is too far above the mark to be remembered: it must not be claimed, and will come again.
    Beyond,
}

/// For each origin: what has been applied of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    lines: BTreeMap<Origin, Line>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Line {
    mark: u64,
    above: BTreeSet<u64>,
}

impl Line {
    /// What of `span` is not claimed fits above the mark, or joins it.
    fn has_room(&self, span: &Span) -> bool {
        let wanted = span.last - span.first + 1;
        span.first <= self.mark + 1 || wanted.saturating_add(self.above.len() as u64) <= MAX_ABOVE as u64
    }

    fn add(&mut self, first: u64, last: u64) {
        if first <= self.mark + 1 {
            self.mark = self.mark.max(last);
        } else {
            self.above.extend(first..=last);
        }
        while let Some(&lowest) = self.above.first() {
            if lowest > self.mark + 1 {
                break;
            }
            self.above.pop_first();
            self.mark = self.mark.max(lowest);
        }
    }

    fn has_all(&self, first: u64, last: u64) -> bool {
        let first = first.max(self.mark + 1);
        // The numbers above are few, a span may be long: counted, not walked.
        first > last || self.above.range(first..=last).count() as u64 == last - first + 1
    }
}

impl Seen {
    /// Notes that `span` has been applied.
    pub(crate) fn note(&mut self, span: &Span) -> Noted {
        let looked = self.look(span);
        if looked == Noted::New {
            self.claim(span);
        }
        looked
    }

    /// Claims `span`, which has been applied, however far it is above the mark.
    pub(crate) fn claim(&mut self, span: &Span) {
        self.lines.entry(span.origin.clone()).or_default().add(span.first, span.last);
    }

    /// What of this may be told to others, who hold no more above a mark: the lowest.
    pub(crate) fn told(&self) -> Self {
        let mut told = self.clone();
        for line in told.lines.values_mut() {
            if let Some(&beyond) = line.above.iter().nth(MAX_ABOVE) {
                line.above.split_off(&beyond);
            }
        }
        told
    }

    /// Whether [`note`](Self::note) could claim `span`.
    pub(crate) fn look(&self, span: &Span) -> Noted {
        let line = self.lines.get(&span.origin);
        match line {
            Some(line) if line.has_all(span.first, span.last) => Noted::Known,
            Some(line) if line.has_room(span) => Noted::New,
            None if Line::default().has_room(span) => Noted::New,
            _ => Noted::Beyond,
        }
    }

    /// Whether all of `span` has been applied.
    pub(crate) fn has_all(&self, span: &Span) -> bool {
        self.lines.get(&span.origin).is_some_and(|line| line.has_all(span.first, span.last))
    }

    /// Whether all that `other` claims is claimed here.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let nothing = Line::default();
        other.lines.iter().all(|(origin, theirs)| {
            let line = self.lines.get(origin).unwrap_or(&nothing);
            line.has_all(1, theirs.mark) && theirs.above.iter().all(|&number| line.has_all(number, number))
        })
    }

    /// Up to which number all of `origin` have been applied.
    pub(crate) fn mark(&self, origin: &Origin) -> u64 {
        self.lines.get(origin).map_or(0, |line| line.mark)
    }

    /// The highest number of `origin` that has been applied.
    pub(crate) fn highest(&self, origin: &Origin) -> u64 {
        self.lines.get(origin).map_or(0, |line| line.above.last().copied().unwrap_or(line.mark))
    }

    /// The numbers right above each mark that are missing, where later ones are there.
    pub(crate) fn holes(&self) -> impl Iterator<Item = Span> {
        self.lines.iter().filter_map(|(origin, line)| {
            let next = *line.above.first()?;
            Some(Span { origin: origin.clone(), first: line.mark + 1, last: next - 1 })
        })
    }

    /// Claims all that `other` claims: two reports of one node, or what a node adopts after it has dropped everything.
    /// Says whether that was more than before.
    pub(crate) fn merge(&mut self, other: &Self) -> bool {
        let mut is_more = false;
        for (origin, theirs) in &other.lines {
            if self.mark(origin) < theirs.mark {
                self.adopt(origin, theirs.mark);
                is_more = true;
            }
            for &number in &theirs.above {
                is_more |= self.note(&Span::one(origin.clone(), number)) == Noted::New;
            }
        }
        is_more
    }

    /// Claims everything of `origin` up to `mark`.
    pub(crate) fn adopt(&mut self, origin: &Origin, mark: u64) {
        if mark > 0 {
            self.lines.entry(origin.clone()).or_default().add(1, mark);
        }
    }

    /// Whether everything of `origin` up to `mark` has been applied.
    pub(crate) fn reaches(&self, origin: &Origin, mark: u64) -> bool {
        self.mark(origin) >= mark
    }

    /// Each line: whose, its mark, and the numbers above it.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&Origin, u64, impl Iterator<Item = u64>)> {
        self.lines.iter().map(|(origin, line)| (origin, line.mark, line.above.iter().copied()))
    }

    pub(crate) fn origins(&self) -> impl Iterator<Item = &Origin> {
        self.lines.keys()
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(crate) fn forget(&mut self, origin: &Origin) {
        self.lines.remove(origin);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::member::NodeName;
    use crate::removal::Incarnation;

    fn origin(incarnation: u64) -> Origin {
        Origin::new(NodeName::from("a"), Incarnation(incarnation))
    }

    fn span(incarnation: u64, first: u64, last: u64) -> Span {
        Span { origin: origin(incarnation), first, last }
    }

    #[test]
    fn the_mark_moves_over_what_came_out_of_turn() {
        let mut seen = Seen::default();
        assert_eq!([2, 3, 1, 1].map(|n| seen.note(&span(1, n, n))), [Noted::New, Noted::New, Noted::New, Noted::Known]);
        assert_eq!((seen.mark(&origin(1)), seen.mark(&origin(2))), (3, 0), "another incarnation starts from nothing");
    }

    #[test]
    fn what_is_too_far_above_the_mark_is_not_claimed() {
        let mut seen = Seen::default();
        for number in 0..MAX_ABOVE as u64 {
            assert_eq!(seen.note(&span(1, 10 + 2 * number, 10 + 2 * number)), Noted::New);
        }
        assert_eq!((seen.look(&span(1, 5, 5)), seen.note(&span(1, 5, 5))), (Noted::Beyond, Noted::Beyond));
        assert!(!seen.has_all(&span(1, 5, 5)));
        assert_eq!(seen.note(&span(1, 1, 9)), Noted::New, "what joins the mark always has room");
        assert_eq!(seen.mark(&origin(1)), 10);
    }

    #[test]
    fn what_is_claimed_all_the_same_is_not_told_before_the_mark_is_near() {
        let mut seen = Seen::default();
        let numbers = 2..=3 * MAX_ABOVE as u64;
        numbers.clone().for_each(|number| seen.claim(&span(1, number, number)));
        let has_all = |seen: &Seen, last| seen.has_all(&span(1, 2, last));
        assert!(has_all(&seen, *numbers.end()) && seen.mark(&origin(1)) == 0);
        let (told, near) = (seen.told(), 1 + MAX_ABOVE as u64);
        assert!(has_all(&told, near) && !has_all(&told, near + 1));
        seen.claim(&span(1, 1, 1));
        assert_eq!((seen.mark(&origin(1)), seen.told().mark(&origin(1))), (*numbers.end(), *numbers.end()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

        #[test]
        fn a_vector_claims_what_a_set_of_numbers_would(
            spans in vec((1_u64..3, 1_u64..40, 0_u64..4), 0..60), merged in vec((1_u64..3, 1_u64..40, 0_u64..4), 0..20)
        ) {
            let (mut seen, mut other, mut model) = (Seen::default(), Seen::default(), BTreeSet::new());
            for (spans, seen) in [(&spans, &mut seen), (&merged, &mut other)] {
                for &(line, first, more) in spans {
                    let span = span(line, first, first + more);
                    let looked = seen.look(&span);
                    prop_assert_eq!(seen.note(&span), looked);
                    model.extend((first..=first + more).map(|number| (line, number)));
                }
            }
            let is_covered = merged.iter().all(|&(line, first, more)| seen.has_all(&span(line, first, first + more)));
            prop_assert_eq!(seen.covers(&other), is_covered);
            seen.merge(&other);
            prop_assert!(seen.covers(&other));
            for line in 1..3 {
                for first in 1..45 {
                    for last in first..45 {
                        let all = (first..=last).all(|number| model.contains(&(line, number)));
                        prop_assert_eq!(seen.has_all(&span(line, first, last)), all, "{}..={} of {}", first, last, line);
                    }
                }
                let mark = (1..100).take_while(|&number| model.contains(&(line, number))).count() as u64;
                prop_assert_eq!(seen.mark(&origin(line)), mark);
                let highest = model.iter().filter(|(of, _)| *of == line).map(|(_, number)| *number).max();
                prop_assert_eq!(seen.highest(&origin(line)), highest.unwrap_or(0));
            }
        }
    }
}
