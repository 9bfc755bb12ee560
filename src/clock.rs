//! The one place that reads the time and rolls dice.
//!
//! Everything below takes time and randomness as arguments; `clippy.toml` bans reading them elsewhere. The time is
//! tokio's, so that a paused runtime pauses a whole node.

use std::time::Duration;

use tokio::time::Instant;

use crate::time::Moment;

/// A node's clock: monotonic, and untouched by jumps of the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the time")]
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Moment {
        Moment::after_start(self.start.elapsed())
    }
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

/// Waits for `duration`.
pub(crate) async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}
