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

/// A removal that a question for a key has carried.
#[derive(Debug)]
struct Noted {
    span: Span,
    at: Moment,
    /// Whether the key has been dropped since.
    is_out: bool,
}

/// Removals that questions have carried.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    keys: BTreeMap<Arc<str>, BTreeMap<Key, Vec<Noted>>>,
    count: usize,
}

impl Carried {
    /// Notes that a question carries `span`; says whether the key is to be dropped, because that is new, or because
    /// whoever noted it has yet to.
    pub(crate) fn note(&mut self, group: &Arc<str>, key: &Key, span: &Span, now: Moment) -> bool {
        let spans = self.keys.entry(Arc::clone(group)).or_default().entry(key.clone()).or_default();
        if let Some(noted) = spans.iter_mut().find(|noted| noted.span == *span) {
            if now.since(noted.at) < REMEMBERED {
                return !noted.is_out;
            }
            (noted.at, noted.is_out) = (now, false);
            return true;
        }
        spans.push(Noted { span: span.clone(), at: now, is_out: false });
        self.count += 1;
        if self.count > MOST {
            self.forget(now);
        }
        true
    }

    /// The key has been dropped by who noted these at that moment.
    pub(crate) fn taken_out(&mut self, group: &str, key: &Key, spans: &[Span], at: Moment) {
        let noted = self.keys.get_mut(group).and_then(|keys| keys.get_mut(key)).into_iter().flatten();
        noted.filter(|noted| noted.at == at && spans.contains(&noted.span)).for_each(|noted| noted.is_out = true);
    }

    /// What is remembered for a key.
    pub(crate) fn of(&self, group: &str, key: &[u8]) -> impl Iterator<Item = &Span> {
        self.noted(group, key).map(|noted| &noted.span)
    }

    /// When `span` was noted for the key, if that is remembered.
    pub(crate) fn since(&self, group: &str, key: &[u8], span: &Span) -> Option<Moment> {
        self.noted(group, key).find(|noted| noted.span == *span).map(|noted| noted.at)
    }

    fn noted(&self, group: &str, key: &[u8]) -> impl Iterator<Item = &Noted> {
        self.keys.get(group).and_then(|keys| keys.get(key)).into_iter().flatten()
    }

    /// Forgets what is over, and everything if that is not enough.
    pub(crate) fn forget(&mut self, now: Moment) {
        self.count = 0;
        self.keys.retain(|_, keys| {
            keys.retain(|_, spans| {
                spans.retain(|noted| now.since(noted.at) < REMEMBERED);
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
            let is_news = carried.note(&group, &key, &span(1), at(millis));
            carried.taken_out(&group, &key, &[span(1)], at(millis));
            is_news
        });
        assert_eq!(news, [true, false, false, true, false]);
        assert!(carried.note(&group, &key, &span(2), at(1500)), "another removal");
        assert!(carried.note(&group, &Key::new("l"), &span(1), at(1500)), "another key");
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
        assert!(carried.note(&group, &key, &span(1), first));
        assert!(carried.note(&group, &key, &span(1), second), "the first has not dropped it yet");
        assert!(carried.note(&group, &key, &span(1), again), "a second has passed");
        carried.taken_out(&group, &key, &[span(1)], first);
        assert!(carried.note(&group, &key, &span(1), again), "what was dropped before may have come back since");
        carried.taken_out(&group, &key, &[span(1)], again);
        assert!(!carried.note(&group, &key, &span(1), again));
    }

    #[test]
    fn it_is_bounded_whatever_is_carried() {
        let (mut carried, group) = (Carried::default(), Arc::from("users"));
        for number in 1..10 * MOST as u64 {
            assert!(carried.note(&group, &Key::new(&number.to_string()), &span(number), Moment::START));
            assert!(carried.count <= MOST);
        }
    }
}
