//! Sources that lag: for a while after a removal, what is loaded may still be what was removed.
//!
//! A replica may be behind, a transaction not committed yet. So what a load brings that began within the group's
//! `source_lag` after a removal of its key is served, but kept no longer than that: by then another load can do better.
//! Removals are remembered for the lag, and no longer; at the bound all keys count as removed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::key::Key;
use crate::lifespan::Lifespan;
use crate::message::Scope;
use crate::time::Moment;

/// So many keys are remembered.
const MOST_KEYS: usize = 16_384;

/// The removals of one group, for as long as its source may lag.
#[derive(Debug)]
pub(super) struct Lag {
    lag: Duration,
    removed: Mutex<Removed>,
}

#[derive(Debug, Default)]
struct Removed {
    keys: HashMap<Key, Moment>,
    /// The last removal of all keys.
    all: Option<Moment>,
}

impl Lag {
    /// Zero: the source does not lag.
    pub(super) fn new(lag: Duration) -> Self {
        Self { lag, removed: Mutex::default() }
    }

    /// A removal is applied.
    pub(super) fn note(&self, scope: &Scope, now: Moment) {
        if self.lag.is_zero() {
            return;
        }
        let mut removed = self.removed();
        let Scope::Keys(keys) = scope else {
            removed.all = Some(now);
            removed.keys.clear();
            return;
        };
        removed.keys.extend(keys.iter().map(|key| (key.clone(), now)));
        if removed.keys.len() > MOST_KEYS {
            let lag = self.lag;
            removed.keys.retain(|_, at| now < *at + lag);
            if removed.keys.len() > MOST_KEYS / 2 {
                removed.all = Some(now);
                removed.keys.clear();
            }
        }
    }

    /// The life of what a load brought, which may be what was removed: no longer than the source may lag.
    pub(super) fn bounded(&self, key: &Key, life: Lifespan, now: Moment) -> Lifespan {
        if self.lag.is_zero() {
            return life;
        }
        let removed = self.removed();
        let at = removed.keys.get(key).copied().max(removed.all);
        if at.is_none_or(|at| life.born >= at + self.lag) {
            return life;
        }
        let hard = life.hard.min(now + self.lag);
        // No grace: it would be a grace for what should not be there.
        Lifespan { soft: if life.soft < hard { life.soft } else { Moment::NEVER }, hard, grace: false, ..life }
    }

    fn removed(&self) -> MutexGuard<'_, Removed> {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::START + Duration::from_secs(seconds)
    }

    fn hard_after(lag: &Lag, key: &str, born: u64) -> Moment {
        lag.bounded(&Key::new(key), Lifespan::new(at(born), Moment::NEVER), at(born)).hard
    }

    #[test]
    fn what_is_loaded_soon_after_a_removal_is_kept_for_the_lag() {
        let lag = Lag::new(Duration::from_secs(10));
        lag.note(&Scope::Keys(vec![Key::new("k")]), at(100));
        assert_eq!(hard_after(&lag, "k", 101), at(111));
        assert_eq!(hard_after(&lag, "k", 109), at(119));
        assert_eq!(hard_after(&lag, "k", 110), Moment::NEVER, "by then the source has caught up");
        assert_eq!(hard_after(&lag, "l", 101), Moment::NEVER, "another key");
        lag.note(&Scope::Group, at(200));
        assert_eq!((hard_after(&lag, "l", 201), hard_after(&lag, "l", 210)), (at(211), Moment::NEVER));
        let short = Lifespan::new(at(201), at(205));
        assert_eq!(lag.bounded(&Key::new("k"), short, at(201)), short, "shorter than the lag anyway");
    }

    #[test]
    fn many_removals_count_for_all_keys() {
        let lag = Lag::new(Duration::from_secs(10));
        for number in 0..=MOST_KEYS {
            lag.note(&Scope::Keys(vec![Key::new(&number.to_string())]), at(100));
        }
        assert!(lag.removed().keys.len() <= MOST_KEYS);
        assert_eq!(hard_after(&lag, "never removed", 101), at(111), "rather one load too many than an old value");
    }

    #[test]
    fn a_source_that_does_not_lag_costs_nothing() {
        let lag = Lag::new(Duration::ZERO);
        lag.note(&Scope::Group, at(100));
        assert_eq!((lag.removed().all, hard_after(&lag, "k", 101)), (None, Moment::NEVER));
    }
}
