//! The one place that reads the time and rolls dice, and that asks what the machine is like.
//!
//! Everything below takes time and randomness as arguments; `clippy.toml` bans reading them elsewhere. The time is
//! tokio's, so that a paused runtime pauses a whole node. In a simulation the dice fall as its seed says, and the
//! machine is always the same one.

use std::num::NonZeroUsize;
use std::time::Duration;

use foldhash::SharedSeed;
use tokio::time::Instant;

use crate::time::Moment;

/// The moment at which a clock is made. There are four years before it: a value that another node gave, and that is
/// older than this one, has an age all the same.
pub(crate) const MADE: Moment = Moment::from_secs(1 << 27);

/// A node's clock: monotonic, and untouched by jumps of the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    #[cfg(target_os = "linux")]
    last_tick: i64,
    start: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the time")]
    pub(crate) fn start() -> Self {
        Self {
            // Before the start: so what is counted from it is never less than it should be.
            #[cfg(target_os = "linux")]
            last_tick: last_tick(),
            start: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Moment {
        MADE + self.start.elapsed()
    }

    /// A moment that has not been passed, for a tenth of what it takes to know which one it is.
    ///
    /// The kernel notes the time at each of its ticks, on the timeline that tokio's clock has too; the last note is one
    /// to ten milliseconds old. So now is certainly before a second after it: a machine that was stopped and goes on
    /// may be late with one tick, not with a hundred.
    ///
    /// **It knows nothing of a time that is turned by hand**, as tests can do with tokio's.
    #[cfg(target_os = "linux")]
    #[inline]
    pub(crate) fn latest(&self) -> Moment {
        const LAG: Duration = Duration::from_secs(1);
        MADE + Duration::from_nanos((last_tick() - self.last_tick).unsigned_abs()) + LAG
    }

    /// A moment that has not been passed: elsewhere there is nothing to be had for less than the time itself.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn latest(&self) -> Moment {
        Moment::NEVER
    }
}

/// The kernel's last tick, in nanoseconds since some moment before it started.
#[cfg(target_os = "linux")]
#[inline]
fn last_tick() -> i64 {
    use rustix::time::{ClockId, clock_gettime};

    let tick = clock_gettime(ClockId::MonotonicCoarse);
    tick.tv_sec * 1_000_000_000 + tick.tv_nsec
}

/// How long the machine has been asleep since it was started, as far as that can be told: time that [`Clock`] does not
/// count. In a simulation machines do not sleep.
#[cfg(target_os = "linux")]
pub(crate) fn asleep() -> Duration {
    use rustix::time::{ClockId, Timespec, clock_gettime};

    if is_simulated() {
        return Duration::ZERO;
    }
    let nanos = |time: Timespec| i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    // In this order: a process that is stopped between the two takes that for less sleep, and at the next look for more.
    let (all, awake) = (nanos(clock_gettime(ClockId::Boottime)), nanos(clock_gettime(ClockId::Monotonic)));
    Duration::from_nanos(u64::try_from(all - awake).unwrap_or(0))
}

/// How long the machine has been asleep: elsewhere there is nothing to ask.
#[cfg(not(target_os = "linux"))]
pub(crate) const fn asleep() -> Duration {
    Duration::ZERO
}

/// A random number in `[0, 1)`, for jitter and for sampling.
#[expect(clippy::disallowed_methods, reason = "the one place that rolls dice")]
pub(crate) fn dice() -> f64 {
    fastrand::f64()
}

/// A random number, for incarnations and for the seeds of tables.
#[expect(clippy::disallowed_methods, reason = "the one place that rolls dice")]
pub(crate) fn random() -> u64 {
    fastrand::u64(..)
}

/// What the hashes of all tables of this process share. In a simulation always the same, so that a seed means the same
/// run; and in a test.
pub(crate) fn table_seeds() -> &'static SharedSeed {
    if is_simulated() || cfg!(test) { SharedSeed::global_fixed() } else { SharedSeed::global_random() }
}

/// How many cores there are to share the work. In a simulation always the same, so that a seed means the same run on
/// every machine.
pub(crate) fn cores() -> usize {
    if is_simulated() { 2 } else { std::thread::available_parallelism().map_or(1, NonZeroUsize::get) }
}

/// Whether this thread simulates: what would be left to other threads is done at once then.
#[cfg(not(feature = "test-util"))]
pub(crate) const fn is_simulated() -> bool {
    false
}

#[cfg(feature = "test-util")]
pub(crate) use simulated::{Simulated, is_simulated};

/// Chance that has a seed.
#[cfg(feature = "test-util")]
mod simulated {
    use std::cell::Cell;

    thread_local! {
        static SIMULATED: Cell<bool> = const { Cell::new(false) };
    }

    /// Whether this thread simulates: what would be left to other threads is done at once then.
    pub(crate) fn is_simulated() -> bool {
        SIMULATED.get()
    }

    /// While it lives, this thread simulates: its dice fall as a seed says.
    #[derive(Debug)]
    pub(crate) struct Simulated {
        /// Where the dice of the thread were.
        before: u64,
    }

    impl Simulated {
        /// # Panics
        /// If the thread simulates already: the two would roll the same dice.
        pub(crate) fn from_seed(seed: u64) -> Self {
            assert!(!SIMULATED.replace(true), "a simulation cannot run inside of another");
            let before = fastrand::get_seed();
            fastrand::seed(seed);
            Self { before }
        }
    }

    impl Drop for Simulated {
        fn drop(&mut self) {
            fastrand::seed(self.before);
            SIMULATED.set(false);
        }
    }
}

/// Waits for `duration`.
pub(crate) async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_that_it_can_be_is_later_than_it_is_and_not_by_much() {
        let clock = Clock::start();
        let mut now = clock.now();
        while now < MADE + Duration::from_millis(50) {
            let latest = clock.latest();
            now = clock.now();
            assert!(now < latest, "{now:?} is later than {latest:?}");
            let is_near = latest.since(now) < Duration::from_secs(2);
            assert!(is_near || cfg!(not(target_os = "linux")), "{latest:?} tells next to nothing at {now:?}");
        }
    }
}
