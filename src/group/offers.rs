//! Values that this node offers to their owners: an insert of a key that another node owns.
//!
//! Nothing is stored that was not asked for. An insert is a removal that comes with an offer; the owner applies the
//! removal, and asks for the value. A removal that is applied here meanwhile voids the offer, one that is applied there
//! voids what the owner has asked: so no value is stored that is older than a removal that both have applied.
//!
//! Values are the user's, and their `Drop` may ask for a removal, which voids offers: none is dropped under the lock.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::key::HashedKey;
use crate::message::Scope;
use crate::tags::{TagHash, bears};

/// A value that is offered, until a removal makes nothing of it.
#[derive(Debug)]
struct Offer<T> {
    key: HashedKey,
    tags: Vec<TagHash>,
    value: Option<T>,
}

/// What this node offers, by the numbers of the inserts.
#[derive(Debug)]
pub(super) struct Offers<T>(Mutex<BTreeMap<u64, Offer<T>>>);

impl<T> Default for Offers<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Offers<T> {
    /// Offers a value; to be taken back with [`end`](Self::end).
    pub(super) fn begin(&self, number: u64, key: HashedKey, tags: Vec<TagHash>, value: T) {
        let offer = Offer { key, tags, value: Some(value) };
        let before = self.offers().insert(number, offer);
        drop(before);
    }

    pub(super) fn end(&self, number: u64) {
        let ended = self.offers().remove(&number);
        drop(ended);
    }

    /// A removal: what is offered of that is not, any more.
    pub(super) fn void(&self, scope: &Scope) {
        let voided = self.take_out(scope);
        drop(voided);
    }

    fn take_out(&self, scope: &Scope) -> Vec<T> {
        let mut offers = self.offers();
        if offers.is_empty() {
            return Vec::new();
        }
        let is_meant = |offer: &Offer<T>| match scope {
            Scope::Keys(keys) => keys.contains(&offer.key.key),
            Scope::Tag(tag) => bears(&offer.tags, TagHash::of(tag)),
            Scope::Group => true,
        };
        offers.values_mut().filter(|offer| is_meant(offer)).filter_map(|offer| offer.value.take()).collect()
    }

    /// Does something with an offered value, if it still is: no removal comes in between. What `take` carries with it
    /// is dropped, if it is not called, after the lock is.
    pub(super) fn with<R>(&self, number: u64, key: &[u8], take: impl FnOnce(&T) -> R) -> Option<R> {
        let offers = self.offers();
        let offer = offers.get(&number).filter(|offer| offer.key.key.as_bytes() == key)?;
        let value = offer.value.as_ref()?;
        Some(take(value))
    }

    fn offers(&self) -> MutexGuard<'_, BTreeMap<u64, Offer<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Weak};

    use super::*;
    use crate::key::Key;

    #[test]
    fn an_offer_is_there_until_a_removal_of_its_key_or_a_tag_or_its_end() {
        let (offers, key) = (Offers::default(), |name: &str| HashedKey::new(Key::new(name)));
        for (number, name) in [(1, "a"), (2, "b"), (3, "a")] {
            offers.begin(number, key(name), vec![TagHash::of(format!("tag {number}").as_bytes())], number);
        }
        let there = || [1, 2, 3].map(|number| offers.with(number, if number == 2 { b"b" } else { b"a" }, |&it| it));
        assert_eq!(there(), [Some(1), Some(2), Some(3)]);
        assert_eq!(offers.with(1, b"b", |_| ()), None, "another key");
        offers.end(3);
        offers.void(&Scope::Keys(vec![Key::new("a")]));
        assert_eq!(there(), [None, Some(2), None]);
        offers.void(&Scope::Tag(Key::new("tag 1")));
        assert_eq!(there(), [None, Some(2), None], "gone already");
        offers.begin(1, key("a"), vec![TagHash::of(b"tag 1")], 1);
        offers.void(&Scope::Tag(Key::new("tag 1")));
        assert_eq!(there(), [None, Some(2), None]);
        offers.void(&Scope::Group);
        assert_eq!(there(), [None, None, None]);
    }

    /// A value whose `Drop` needs the offers.
    struct Needy(Weak<Offers<Needy>>, Arc<AtomicUsize>);

    impl Drop for Needy {
        fn drop(&mut self) {
            let Some(offers) = self.0.upgrade() else { return };
            assert!(offers.0.try_lock().is_ok(), "dropped under the lock");
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn no_value_is_dropped_under_the_lock() {
        let (offers, dropped) = (Arc::new(Offers::default()), Arc::default());
        let key = || HashedKey::new(Key::new("k"));
        let needy = || Needy(Arc::downgrade(&offers), Arc::clone(&dropped));
        let offer = |number| offers.begin(number, key(), vec![TagHash::of(b"t")], needy());
        let gone = || dropped.swap(0, Ordering::SeqCst);
        (1..=2).for_each(offer);
        offer(1);
        assert_eq!(gone(), 1, "offered over");
        offers.end(1);
        assert_eq!(gone(), 1, "ended");
        for scope in [Scope::Keys(vec![Key::new("k")]), Scope::Tag(Key::new("t")), Scope::Group] {
            (3..=4).for_each(offer);
            offers.void(&scope);
            assert_eq!(gone(), if scope == Scope::Keys(vec![Key::new("k")]) { 3 } else { 2 }, "{scope:?}");
        }
        let carried = needy();
        assert!(offers.with(3, b"k", move |_| drop(carried)).is_none());
        assert_eq!(gone(), 1, "what was to be put in its place");
    }
}
