//! Tombstones: what keeps late copies out until a removal is complete.
//!
//! A tombstone is there from before its removal is applied here until the removal is complete. While it is there, every
//! question for what it covers carries it. What must hold: it never just goes away. At the bounds a group's keys become
//! one tombstone of the whole group, and many groups one of everything.
//!
//! For one key only the highest number of each origin is kept. To apply a removal to a key is to keep the promise of
//! all earlier ones of the same origin, **for this key**: they were called before it, and what is loaded or fetched
//! from then on began after them all. A coarse tombstone has no such order, as its numbers are of many keys: there,
//! nothing less than the whole span will do.
//!
//! Who asks for a key does not know its tags, so the tombstone of a tag covers every key of its group. It is coarse from
//! the start: that one tag was removed says nothing of another one that was removed before.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::key::Key;

use super::record::{Origin, Record, Span, What};

/// What is booked for a tombstone of a key, besides the key.
const TOMBSTONE_BYTES: usize = 96;

/// The bounds of the tombstones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TombstoneLimits {
    /// Tombstones of keys.
    pub(crate) keys: usize,
    /// Their bytes.
    pub(crate) bytes: usize,
    /// Groups that have any.
    pub(crate) groups: usize,
}

impl Default for TombstoneLimits {
    fn default() -> Self {
        Self { keys: 64 << 10, bytes: 8 << 20, groups: 1 << 10 }
    }
}

/// The highest number of each origin.
type Highest = Vec<(Origin, u64)>;

/// For each origin the numbers from the first to the last.
type Spans = BTreeMap<Origin, (u64, u64)>;

fn raise(highest: &mut Highest, origin: &Origin, number: u64) {
    match highest.iter_mut().find(|(of, _)| of == origin) {
        Some((_, last)) => *last = number.max(*last),
        None => highest.push((origin.clone(), number)),
    }
}

fn widen(spans: &mut Spans, origin: &Origin, first: u64, last: u64) {
    let span = spans.entry(origin.clone()).or_insert((first, last));
    *span = (span.0.min(first), span.1.max(last));
}

fn in_highest(highest: &Highest) -> impl Iterator<Item = Span> {
    highest.iter().map(|(origin, number)| Span::one(origin.clone(), *number))
}

fn in_spans(spans: &Spans) -> impl Iterator<Item = Span> {
    spans.iter().map(|(origin, &(first, last))| Span { origin: origin.clone(), first, last })
}

/// All tombstones of a node.
#[derive(Debug)]
pub(crate) struct Tombstones {
    limits: TombstoneLimits,
    groups: BTreeMap<Arc<str>, Group>,
    everything: Spans,
    keys: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Group {
    keys: BTreeMap<Key, Highest>,
    /// Removals of the whole group.
    cleared: Highest,
    /// Removals of tags, and what tombstones of keys have become.
    coarse: Spans,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.cleared.is_empty() && self.coarse.is_empty()
    }

    fn coarsen(&mut self) {
        for (origin, number) in std::mem::take(&mut self.keys).into_values().flatten() {
            widen(&mut self.coarse, &origin, number, number);
        }
    }
}

fn bytes_of(key: &Key, highest: &Highest) -> usize {
    key.len() + highest.len() * TOMBSTONE_BYTES
}

impl Tombstones {
    pub(crate) fn new(limits: TombstoneLimits) -> Self {
        Self { limits, groups: BTreeMap::new(), everything: BTreeMap::new(), keys: 0, bytes: 0 }
    }

    /// Whether there are none: what nearly every question finds.
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.everything.is_empty()
    }

    /// The tombstones of all that `record` takes out.
    pub(crate) fn add(&mut self, record: &Record) {
        let Span { origin, first, last } = &record.span;
        match &record.what {
            What::One { group, scope: crate::removal::Scope::Keys(keys) } => {
                for key in keys {
                    self.raise(group, key, origin, *last);
                }
            }
            What::One { group, scope: crate::removal::Scope::Group } => {
                // Who has applied this one has dropped the whole group: tombstones of its keys are covered by it, as
                // far as they are of the same origin and earlier.
                let into = self.groups.entry(Arc::clone(group)).or_default();
                raise(&mut into.cleared, origin, *last);
            }
            What::One { group, scope: crate::removal::Scope::Tag(_) } => {
                widen(&mut self.groups.entry(Arc::clone(group)).or_default().coarse, origin, *first, *last);
            }
            What::Groups(groups) => {
                for group in groups {
                    widen(&mut self.groups.entry(Arc::clone(group)).or_default().coarse, origin, *first, *last);
                }
            }
            What::Everything => widen(&mut self.everything, origin, *first, *last),
        }
        self.keep_to_limits();
    }

    fn raise(&mut self, group: &Arc<str>, key: &Key, origin: &Origin, number: u64) {
        let keys = &mut self.groups.entry(Arc::clone(group)).or_default().keys;
        let highest = keys.entry(key.clone()).or_default();
        let (before, was_new) = (bytes_of(key, highest), highest.is_empty());
        raise(highest, origin, number);
        self.bytes += bytes_of(key, highest) - if was_new { 0 } else { before };
        self.keys += usize::from(was_new);
    }

    fn keep_to_limits(&mut self) {
        while self.keys > self.limits.keys || self.bytes > self.limits.bytes {
            let Some(group) = self.groups.values_mut().max_by_key(|group| group.keys.len()) else { break };
            self.keys -= group.keys.len();
            self.bytes -= group.keys.iter().map(|(key, highest)| bytes_of(key, highest)).sum::<usize>();
            group.coarsen();
        }
        if self.groups.len() > self.limits.groups {
            (self.keys, self.bytes) = (0, 0);
            for mut group in std::mem::take(&mut self.groups).into_values() {
                group.coarsen();
                let cleared = group.cleared.into_iter().map(|(origin, number)| (origin, (number, number)));
                for (origin, (first, last)) in cleared.chain(group.coarse) {
                    widen(&mut self.everything, &origin, first, last);
                }
            }
        }
    }

    /// The removals that cover a key.
    pub(crate) fn covering(&self, group: &str, key: &[u8]) -> Vec<Span> {
        let mut spans: Vec<Span> = in_spans(&self.everything).collect();
        if let Some(group) = self.groups.get(group) {
            spans.extend(group.keys.get(key).into_iter().flat_map(in_highest));
            spans.extend(in_highest(&group.cleared).chain(in_spans(&group.coarse)));
        }
        spans
    }

    /// Takes away the tombstones of removals that are complete.
    pub(crate) fn drain(&mut self, is_complete: &dyn Fn(&Span) -> bool) {
        let is_live = |span: Span| !is_complete(&span);
        let live_highest = |(origin, number): &(Origin, u64)| is_live(Span::one(origin.clone(), *number));
        let live_spans = |origin: &Origin, &mut (first, last): &mut (u64, u64)| {
            is_live(Span { origin: origin.clone(), first, last })
        };
        let (mut count, mut bytes) = (0, 0);
        self.groups.retain(|_, group| {
            group.keys.retain(|key, highest| {
                highest.retain(live_highest);
                let stays = !highest.is_empty();
                if stays {
                    count += 1;
                    bytes += bytes_of(key, highest);
                }
                stays
            });
            group.cleared.retain(live_highest);
            group.coarse.retain(live_spans);
            !group.is_empty()
        });
        self.everything.retain(live_spans);
        (self.keys, self.bytes) = (count, bytes);
    }

    /// Whether any is of `origin`.
    pub(crate) fn has_any_of(&self, origin: &Origin) -> bool {
        let is_in = |highest: &Highest| highest.iter().any(|(of, _)| of == origin);
        self.everything.contains_key(origin)
            || self.groups.values().any(|group| {
                is_in(&group.cleared) || group.coarse.contains_key(origin) || group.keys.values().any(is_in)
            })
    }

    /// How many there are, those of keys and those of more.
    pub(crate) fn len(&self) -> usize {
        let of_groups = self.groups.values().map(|group| group.cleared.len() + group.coarse.len());
        self.keys + of_groups.sum::<usize>() + self.everything.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::member::NodeName;
    use crate::removal::{Incarnation, Scope};

    const SMALL: TombstoneLimits = TombstoneLimits { keys: 4, bytes: 100_000, groups: 3 };

    fn origin() -> Origin {
        Origin::new(NodeName::from("a"), Incarnation(1))
    }

    fn record(number: u64, group: &str, keys: Option<&[u64]>) -> Record {
        let scope = keys.map_or(Scope::Group, |keys| Scope::Keys(keys.iter().map(|key| name(*key)).collect()));
        Record::one(Span::one(origin(), number), Arc::from(group), scope)
    }

    fn name(key: u64) -> Key {
        Key::new(&key.to_string())
    }

    fn stands_for(spans: &[Span], number: u64) -> bool {
        spans.iter().any(|span| span.last >= number)
    }

    #[test]
    fn a_key_keeps_the_highest_number_and_is_covered_by_its_group() {
        let mut tombstones = Tombstones::new(SMALL);
        assert!(tombstones.is_empty());
        tombstones.add(&record(1, "users", Some(&[7])));
        tombstones.add(&record(3, "users", Some(&[7, 8])));
        tombstones.add(&record(2, "users", None));
        let number = |span: Span| (span.first, span.last);
        let covering = tombstones.covering("users", &name(7)).into_iter().map(number).collect::<Vec<_>>();
        assert_eq!(covering, [(3, 3), (2, 2)]);
        assert!(tombstones.covering("prices", &name(7)).is_empty());
        tombstones.drain(&|span| span.last == 3);
        assert_eq!(tombstones.covering("users", &name(7)), [Span::one(origin(), 2)]);
        tombstones.drain(&|_| true);
        assert!(tombstones.is_empty());
    }

    #[test]
    fn a_coarse_tombstone_covers_every_key_of_its_group() {
        let mut tombstones = Tombstones::new(SMALL);
        for number in 1..=5 {
            tombstones.add(&record(number, "users", Some(&[number])));
        }
        assert_eq!(tombstones.len(), 1, "coarsened");
        assert_eq!(tombstones.covering("users", &name(9)), [Span { origin: origin(), first: 1, last: 5 }]);
    }

    #[test]
    fn a_tag_covers_every_key_of_its_group_until_all_its_removals_are_complete() {
        let tag = |number, tag| Record::one(Span::one(origin(), number), Arc::from("users"), Scope::Tag(Key::new(tag)));
        let mut tombstones = Tombstones::new(SMALL);
        tombstones.add(&tag(2, "team:7"));
        tombstones.add(&tag(5, "team:8"));
        let both = Span { origin: origin(), first: 2, last: 5 };
        assert_eq!(tombstones.covering("users", &name(9)), [both], "the later one does not stand for the earlier one");
        assert!(tombstones.covering("prices", &name(9)).is_empty());
        tombstones.drain(&|span| span.last <= 4);
        assert!(!tombstones.is_empty());
        tombstones.drain(&|span| span.last <= 5);
        assert!(tombstones.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

        #[test]
        fn a_tombstone_never_goes_away_before_its_removal_is_complete(
            removals in vec((0_usize..5, vec(0_u64..6, 0..4), 0_u64..3), 1..60)
        ) {
            let mut tombstones = Tombstones::new(SMALL);
            let groups = ["a", "b", "c", "d", "e"];
            let (mut live, mut stable) = (Vec::new(), 0);
            for (number, (group, keys, moved)) in (1..).zip(removals) {
                tombstones.add(&record(number, groups[group], (!keys.is_empty()).then_some(&keys[..])));
                live.push((number, group, keys));
                stable = (stable + moved).min(number);
                tombstones.drain(&|span| span.last <= stable);
                live.retain(|(number, ..)| *number > stable);
                for (number, group, keys) in &live {
                    for key in (0..6).filter(|key| keys.is_empty() || keys.contains(key)) {
                        let covering = tombstones.covering(groups[*group], &name(key));
                        prop_assert!(stands_for(&covering, *number), "{} for {} in {:?}", number, key, covering);
                    }
                }
                prop_assert_eq!(live.is_empty(), tombstones.is_empty());
                prop_assert!(tombstones.keys <= SMALL.keys && tombstones.groups.len() <= SMALL.groups);
                let keys = tombstones.groups.values().flat_map(|group| &group.keys);
                let (count, bytes) = keys.fold((0, 0), |(n, sum), (key, highest)| (n + 1, sum + bytes_of(key, highest)));
                prop_assert_eq!((count, bytes), (tombstones.keys, tombstones.bytes));
            }
        }
    }
}
