//! What questions have carried: removals that were applied to one key, ahead of their turn.
//!
//! A question may carry a removal that this node has not heard of in any other way: one that is on its way, or one that
//! a token stands for, which may be made up. The key is dropped, and for a second the same is not done again: so a key
//! is loaded at most once a second for that. For as long as it is remembered here it travels with this node's own
//! questions, like one that has a tombstone; so no old copy comes in meanwhile. To forget it is always safe: the next
//! question that carries it drops the key again. That is why the memory may be bounded, and forged tokens cost little.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::record::Span;
use crate::key::Key;
use crate::time::Moment;

/// For so long it is remembered.
const REMEMBERED: Duration = Duration::from_secs(1);

/// So many are remembered.
const MOST: usize = 4096;

/// So many of one key: they travel with each of this node's questions for it.
const MOST_OF_A_KEY: usize = 256;

/// When a question for a key has carried a removal.
#[derive(Debug)]
struct Noted {
    at: Moment,
    /// Whether the key has been dropped since.
    is_out: bool,
}

/// What is remembered for one key.
type OfKey = BTreeMap<Span, Noted>;

/// Removals that questions have carried.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    keys: BTreeMap<Arc<str>, BTreeMap<Key, OfKey>>,
    count: usize,
}

impl Carried {
    /// Notes that a question carries `spans`; says whether the key is to be dropped, because one of them is new, or
    /// because whoever noted it has yet to.
    pub(crate) fn note<'a>(
        &mut self,
        group: &Arc<str>,
        key: &Key,
        spans: impl IntoIterator<Item = &'a Span>,
        now: Moment,
    ) -> bool {
        let mut spans = spans.into_iter().peekable();
        if spans.peek().is_none() {
            return false;
        }
        let noted = self.keys.entry(Arc::clone(group)).or_default().entry(key.clone()).or_default();
        self.count -= noted.len();
        // All are noted, whatever came of those before.
        let is_to_drop = spans.fold(false, |is_to_drop, span| is_to_drop | note(noted, span, now));
        self.count += noted.len();
        if self.count > MOST {
            self.forget(now);
        }
        is_to_drop
    }

    /// The key has been dropped by who noted these at that moment.
    pub(crate) fn taken_out(&mut self, group: &str, key: &Key, spans: &[Span], at: Moment) {
        let Some(noted) = self.keys.get_mut(group).and_then(|keys| keys.get_mut(key)) else { return };
        for span in spans {
            if let Some(noted) = noted.get_mut(span).filter(|noted| noted.at == at) {
                noted.is_out = true;
            }
        }
    }

    /// What is remembered for a key.
    pub(crate) fn of(&self, group: &str, key: &[u8]) -> impl Iterator<Item = &Span> {
        self.noted(group, key).into_iter().flat_map(BTreeMap::keys)
    }

    /// When `span` was noted for the key, if that is remembered.
    pub(crate) fn since(&self, group: &str, key: &[u8], span: &Span) -> Option<Moment> {
        self.noted(group, key)?.get(span).map(|noted| noted.at)
    }

    fn noted(&self, group: &str, key: &[u8]) -> Option<&OfKey> {
        self.keys.get(group)?.get(key)
    }

    /// Forgets what is over, and everything if that is not enough.
    pub(crate) fn forget(&mut self, now: Moment) {
        self.count = 0;
        self.keys.retain(|_, keys| {
            keys.retain(|_, spans| {
                spans.retain(|_, noted| now.since(noted.at) < REMEMBERED);
                self.count += spans.len();
                !spans.is_empty()
            });
            !keys.is_empty()
        });
        if self.count > MOST / 2 {
            self.keys.clear();
            self.count = 0;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Notes one; says whether the key is to be dropped because of it.
fn note(noted: &mut OfKey, span: &Span, now: Moment) -> bool {
    if let Some(noted) = noted.get_mut(span)
        && now.since(noted.at) < REMEMBERED
    {
        return !noted.is_out;
    }
    if noted.len() >= MOST_OF_A_KEY {
        noted.clear();
    }
    noted.insert(span.clone(), Noted { at: now, is_out: false });
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::NodeName;
    use crate::removal::Incarnation;
    use crate::removals::Origin;

    fn span(number: u64) -> Span {
        Span::one(Origin::new(NodeName::from("a"), Incarnation(1)), number)
    }

    #[test]
    fn what_is_carried_again_is_new_again_after_a_second() {
        let (mut carried, group, key) = (Carried::default(), Arc::from("users"), Key::new("k"));
        let at = |millis| Moment::START + Duration::from_millis(millis);
        let news = [0, 1, 999, 1000, 1500].map(|millis| {
            let is_news = carried.note(&group, &key, [&span(1)], at(millis));
            carried.taken_out(&group, &key, &[span(1)], at(millis));
            is_news
        });
        assert_eq!(news, [true, false, false, true, false]);
        assert!(carried.note(&group, &key, [&span(2)], at(1500)), "another removal");
        assert!(carried.note(&group, &Key::new("l"), [&span(1)], at(1500)), "another key");
        assert_eq!(carried.of(&group, &key).count(), 2);
        carried.forget(at(2400));
        assert_eq!((carried.of(&group, &key).count(), carried.is_empty()), (1, false));
        carried.forget(at(2500));
        assert!(carried.is_empty());
    }

    #[test]
    fn whoever_meets_it_before_the_key_is_dropped_drops_it_too() {
        let (mut carried, group, key) = (Carried::default(), Arc::from("users"), Key::new("k"));
        let (first, second, again) =
            (Moment::from_secs(1), Moment::from_secs(1) + REMEMBERED / 2, Moment::from_secs(2));
        assert!(carried.note(&group, &key, [&span(1)], first));
        assert!(carried.note(&group, &key, [&span(1)], second), "the first has not dropped it yet");
        assert!(carried.note(&group, &key, [&span(1)], again), "a second has passed");
        carried.taken_out(&group, &key, &[span(1)], first);
        assert!(carried.note(&group, &key, [&span(1)], again), "what was dropped before may have come back since");
        carried.taken_out(&group, &key, &[span(1)], again);
        assert!(!carried.note(&group, &key, [&span(1)], again));
    }

    #[test]
    fn it_is_bounded_whatever_is_carried() {
        let (mut carried, group) = (Carried::default(), Arc::from("users"));
        for number in 1..10 * MOST as u64 {
            assert!(carried.note(&group, &Key::new(&number.to_string()), [&span(number)], Moment::START));
            assert!(carried.count <= MOST);
        }
    }

    #[test]
    fn one_key_is_bounded_too_and_what_is_forgotten_is_news_again() {
        let (mut carried, group, key) = (Carried::default(), Arc::from("users"), Key::new("k"));
        let spans: Vec<_> = (1..10 * MOST_OF_A_KEY as u64).map(span).collect();
        for _ in 0..2 {
            assert!(carried.note(&group, &key, &spans, Moment::START));
            carried.taken_out(&group, &key, &spans, Moment::START);
            assert!(carried.of(&group, &key).count() <= MOST_OF_A_KEY, "what this node's own questions carry");
            assert_eq!(carried.of(&group, &key).count(), carried.count);
        }
        assert!(!carried.note(&group, &key, [], Moment::START), "nothing is no news");
        assert!(!carried.note(&group, &key, spans.last(), Moment::START), "the last are remembered");
    }
}
