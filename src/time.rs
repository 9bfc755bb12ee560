//! Time as the core sees it: a number that somebody hands in.
//!
//! A [`Moment`] counts nanoseconds since some time before the node's clock was made. It means nothing to another node:
//! what crosses the wire are durations. The one place that reads a clock is `clock.rs`.

use std::ops::Add;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A point in this node's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    /// Earlier than every other moment. (Clocks begin much later: what came into being before a clock was made has its
    /// moment too.)
    pub(crate) const START: Self = Self(0);

    /// Later than every other moment: what never comes.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    /// So many seconds after the start: few enough for their nanoseconds to fit.
    pub(crate) const fn from_secs(seconds: u64) -> Self {
        Self(seconds * 1_000_000_000)
    }

    /// So many milliseconds after the start.
    #[inline]
    pub(crate) const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// This moment, or so many microseconds later.
    #[inline]
    pub(crate) const fn later_by_micros(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros.saturating_mul(1_000)))
    }

    #[cfg(test)]
    pub(crate) fn after_start(elapsed: Duration) -> Self {
        Self(nanos(elapsed))
    }

    /// How long it was from `earlier` to this moment; nothing if it was not earlier.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// How long it is from `now` to this moment, or `None` if it never comes.
    pub(crate) fn left(self, now: Self) -> Option<Duration> {
        (self != Self::NEVER).then(|| self.since(now))
    }

    /// This moment, or as much earlier as `by` says, but not before the [start](Self::START).
    pub(crate) fn earlier(self, by: Duration) -> Self {
        if self == Self::NEVER { self } else { Self(self.0.saturating_sub(nanos(by))) }
    }
}

/// Saturates at [`Moment::NEVER`]: a life of a thousand years simply does not end.
impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

/// The first of the moments that it was told, since it was reset.
#[derive(Debug)]
pub(crate) struct Earliest(AtomicU64);

impl Default for Earliest {
    fn default() -> Self {
        Self(AtomicU64::new(Moment::NEVER.0))
    }
}

impl Earliest {
    pub(crate) fn lower(&self, moment: Moment) {
        // Most moments are later, and need not be written anywhere.
        if moment < self.get() {
            self.0.fetch_min(moment.0, Ordering::SeqCst);
        }
    }

    pub(crate) fn reset(&self) {
        self.0.store(Moment::NEVER.0, Ordering::SeqCst);
    }

    pub(crate) fn get(&self) -> Moment {
        Moment(self.0.load(Ordering::SeqCst))
    }
}

/// A moment that is only ever made later.
#[derive(Debug, Default)]
pub(crate) struct Latest(AtomicU64);

impl Latest {
    pub(crate) fn raise(&self, moment: Moment) {
        if self.get() < moment {
            self.0.fetch_max(moment.0, Ordering::SeqCst);
        }
    }

    pub(crate) fn get(&self) -> Moment {
        Moment(self.0.load(Ordering::SeqCst))
    }
}

/// A moment that one sets, again and again, and that many read.
#[derive(Debug)]
pub(crate) struct Until(AtomicU64);

impl Until {
    pub(crate) fn new(moment: Moment) -> Self {
        Self(AtomicU64::new(moment.0))
    }

    pub(crate) fn set(&self, moment: Moment) {
        self.0.store(moment.0, Ordering::Release);
    }

    #[inline]
    pub(crate) fn get(&self) -> Moment {
        Moment(self.0.load(Ordering::Acquire))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_stays_never() {
        assert_eq!(Moment::NEVER + Duration::from_secs(1), Moment::NEVER);
        assert_eq!(Moment::NEVER.earlier(Duration::from_secs(1)), Moment::NEVER);
        assert_eq!(Moment::NEVER.left(Moment::default()), None);
        assert_eq!(Moment::default() + Duration::MAX, Moment::NEVER);
    }

    #[test]
    fn a_moment_that_has_passed_has_nothing_left() {
        let now = Moment::after_start(Duration::from_secs(5));
        assert_eq!(Moment::after_start(Duration::from_secs(3)).left(now), Some(Duration::ZERO));
        assert_eq!((now + Duration::from_secs(2)).left(now), Some(Duration::from_secs(2)));
    }
}
