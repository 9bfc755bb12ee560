//! Entries that are due: what is done about one that a look did not find, because its soft or its hard limit has
//! passed.

use super::{Dropped, Found, Place, Sought, Store};
use crate::time::Moment;

impl<V> Store<V> {
    /// The entry for `key` if it is due, but may still be served: a refresh is to begin.
    pub(crate) fn past_soft(&self, key: &Sought<'_>, place: Place, now: Moment) -> Option<Found<'_, V>> {
        let kept = self.find(key)?;
        let found = self.found(kept);
        if now < found.due || now >= kept.life().hard() {
            return None;
        }
        kept.note_use(place);
        Some(found)
    }

    /// A successor of what is held for `key` is about to be loaded: what is held is not due before its hard limit.
    pub(crate) fn begin_refresh(&mut self, key: &Sought<'_>) {
        if let Some(kept) = self.find_mut(key) {
            kept.begin_refresh();
        }
    }

    /// A load of `key` has failed: what is held for it is served, if it is within its limits or its grace, for a pause
    /// that is longer each time. `dice` is in `[0, 1)`.
    pub(crate) fn failed(&mut self, key: &Sought<'_>, now: Moment, dice: f64) -> Option<Found<'_, V>> {
        let grace = self.grace;
        let kept = self.find_mut(key)?;
        if now >= kept.life().end(grace) {
            return None;
        }
        kept.note_failure(now, dice);
        self.find(key).map(|kept| self.found(kept))
    }

    /// A refresh of `key` has brought nothing newer than what was `born` then: as if it had failed, but it is no reason
    /// to serve what has expired.
    pub(crate) fn not_refreshed(&mut self, key: &Sought<'_>, born: Moment, now: Moment, dice: f64) {
        if let Some(kept) = self.find_mut(key).filter(|kept| kept.life().born() <= born && now < kept.life().hard()) {
            kept.note_failure(now, dice);
        }
    }

    /// Whether anything is held for `key`, expired or not.
    pub(crate) fn holds(&self, key: &Sought<'_>) -> bool {
        self.find(key).is_some()
    }

    /// Tells the store that a key was asked for and a look found nothing. An entry whose grace is over, if it has one,
    /// is taken out. Says whether it was.
    pub(crate) fn missed(&mut self, key: &Sought<'_>, now: Moment, dropped: &mut Dropped<V>) -> bool {
        let is_over = self.find(key).is_some_and(|kept| now >= kept.life().end(self.grace));
        if is_over {
            self.expiries += 1;
            self.remove(key, dropped);
        }
        is_over
    }
}
