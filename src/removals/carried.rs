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

/// Which, and when it was applied to the key.
type Noted = (Span, Moment);

/// Removals that questions have carried.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    keys: BTreeMap<Arc<str>, BTreeMap<Key, Vec<Noted>>>,
    count: usize,
}

impl Carried {
    /// Notes that a question carries `span`; says whether it is new, so that the key is to be dropped.
    pub(crate) fn note(&mut self, group: &Arc<str>, key: &Key, span: &Span, now: Moment) -> bool {
        let spans = self.keys.entry(Arc::clone(group)).or_default().entry(key.clone()).or_default();
        if let Some((_, at)) = spans.iter_mut().find(|(known, _)| known == span) {
            if now.since(*at) < REMEMBERED {
                return false;
            }
            *at = now;
            return true;
        }
        spans.push((span.clone(), now));
        self.count += 1;
        if self.count > MOST {
            self.forget(now);
        }
        true
    }

    /// What is remembered for a key.
    pub(crate) fn of(&self, group: &str, key: &[u8]) -> impl Iterator<Item = &Span> {
        self.noted(group, key).map(|(span, _)| span)
    }

    /// When `span` was applied to the key, if that is remembered.
    pub(crate) fn since(&self, group: &str, key: &[u8], span: &Span) -> Option<Moment> {
        self.noted(group, key).find(|(known, _)| known == span).map(|(_, at)| *at)
    }

    fn noted(&self, group: &str, key: &[u8]) -> impl Iterator<Item = &Noted> {
        self.keys.get(group).and_then(|keys| keys.get(key)).into_iter().flatten()
    }

    /// Forgets what is over, and everything if that is not enough.
    pub(crate) fn forget(&mut self, now: Moment) {
        self.count = 0;
        self.keys.retain(|_, keys| {
            keys.retain(|_, spans| {
                spans.retain(|(_, at)| now.since(*at) < REMEMBERED);
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
        let news = [0, 1, 999, 1000, 1500].map(|millis| carried.note(&group, &key, &span(1), at(millis)));
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
    fn it_is_bounded_whatever_is_carried() {
        let (mut carried, group) = (Carried::default(), Arc::from("users"));
        for number in 1..10 * MOST as u64 {
            assert!(carried.note(&group, &Key::new(&number.to_string()), &span(number), Moment::START));
            assert!(carried.count <= MOST);
        }
    }
}
