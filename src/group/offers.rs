//! Values that this node offers to their owners: an insert of a key that another node owns.
//!
//! Nothing is stored that was not asked for. An insert is a removal that comes with an offer; the owner applies the
//! removal, and asks for the value. A removal that is applied here meanwhile voids the offer, one that is applied there
//! voids what the owner has asked: so no value is stored that is older than a removal that both have applied.

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
        self.offers().insert(number, Offer { key, tags, value: Some(value) });
    }

    pub(super) fn end(&self, number: u64) {
        self.offers().remove(&number);
    }

    /// A removal: what is offered of that is not, any more.
    pub(super) fn void(&self, scope: &Scope) {
        let mut offers = self.offers();
        if offers.is_empty() {
            return;
        }
        match scope {
            Scope::Keys(keys) => {
                for offer in offers.values_mut().filter(|offer| keys.contains(&offer.key.key)) {
                    offer.value = None;
                }
            }
            Scope::Tag(tag) => {
                let tag = TagHash::of(tag);
                for offer in offers.values_mut().filter(|offer| bears(&offer.tags, tag)) {
                    offer.value = None;
                }
            }
            Scope::Group => offers.values_mut().for_each(|offer| offer.value = None),
        }
    }

    /// Does something with an offered value, if it still is: no removal comes in between.
    pub(super) fn with<R>(&self, number: u64, key: &[u8], take: impl FnOnce(&T) -> R) -> Option<R> {
        let offers = self.offers();
        let offer = offers.get(&number).filter(|offer| offer.key.key.as_bytes() == key)?;
        offer.value.as_ref().map(take)
    }

    fn offers(&self) -> MutexGuard<'_, BTreeMap<u64, Offer<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
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
}
