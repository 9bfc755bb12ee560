//! The pulse of a process: whether it has stood still, and until when what it holds may be served.
//!
//! A process that is stopped (by a signal, a debugger, a hypervisor, a lid that is shut) does not hear of removals, its
//! peers stop waiting for it, and when it goes on it knows nothing of all that. So what a node holds is trusted until a
//! moment, which is put off with each beat; whoever looks into the store holds that moment against the time that it
//! reads anyway. A process that goes on finds the moment passed, before any of its tasks has noticed.
//!
//! Nothing here reads a clock, and what is done about a process that stood still is up to who minds the pulse
//! (`node/wake.rs`).

use std::pin::pin;
use std::time::Duration;

use tokio::sync::Notify;

use crate::time::{Moment, Until};

/// How often the pulse beats.
pub(crate) const BEAT: Duration = Duration::from_millis(250);

/// A process has stood still if there was no beat for so long: as long as it takes peers to notice silence.
pub(crate) const STILL: Duration = Duration::from_secs(2);

/// Until when a node's store is trusted.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// [`Moment::NEVER`]: for ever; [`Moment::START`]: not now.
    until: Until,
    renewed: Notify,
}

impl Pulse {
    /// One of a node that needs none: with nobody else there are no removals to be missed.
    pub(crate) fn of_nobody() -> Self {
        Self { until: Until::new(Moment::NEVER), renewed: Notify::new() }
    }

    /// Until when, as far as is known now.
    #[inline]
    pub(crate) fn trusted_until(&self) -> Moment {
        self.until.get()
    }

    #[inline]
    pub(crate) fn is_trusted(&self, now: Moment) -> bool {
        now < self.trusted_until()
    }

    /// From now on the store is trusted for as long as until the next beats, and no longer.
    pub(crate) fn beat(&self, now: Moment) {
        self.trust_until(now + STILL);
    }

    /// From now on it is not trusted.
    pub(crate) fn stop(&self) {
        self.until.set(Moment::START);
    }

    /// Nobody minds the pulse any more: the node is about to end.
    pub(crate) fn end(&self) {
        self.trust_until(Moment::NEVER);
    }

    /// Resolves when the store is trusted.
    pub(crate) async fn until_trusted(&self, now: impl Fn() -> Moment) {
        loop {
            // Listened for before it is looked at: a beat in between is not missed.
            let mut renewed = pin!(self.renewed.notified());
            renewed.as_mut().enable();
            if self.is_trusted(now()) {
                return;
            }
            renewed.await;
        }
    }

    fn trust_until(&self, moment: Moment) {
        self.until.set(moment);
        self.renewed.notify_waiters();
    }
}

/// What the last beat saw of the clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Last {
    pub(crate) beat: Moment,
    /// How long the machine has been asleep, in all.
    pub(crate) asleep: Duration,
}

/// What there was between two beats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Between {
    /// Nothing of note.
    Steady,
    /// The process stood still for so long, and its clock went on.
    Still(Duration),
    /// The machine slept for so long, and the clock that lives are counted by stood still, too.
    Asleep(Duration),
}

impl Last {
    /// Another beat, and what there was before it.
    pub(crate) fn next(&mut self, beat: Moment, asleep: Duration) -> Between {
        let before = std::mem::replace(self, Self { beat, asleep });
        let (awake, asleep) = (beat.since(before.beat), asleep.saturating_sub(before.asleep));
        if asleep >= STILL {
            Between::Asleep(awake + asleep)
        } else if awake + asleep >= STILL {
            Between::Still(awake + asleep)
        } else {
            Between::Steady
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const fn at(seconds: u64) -> Moment {
        Moment::from_secs(seconds)
    }

    #[test]
    fn a_beat_that_is_late_tells_what_there_was() {
        const S: fn(u64) -> Duration = Duration::from_secs;
        for (what, awake, asleep, between) in [
            ("a usual beat", 0, 0, Between::Steady),
            ("a late one", 1, 0, Between::Steady),
            ("a nap", 0, 1, Between::Steady),
            ("as late as counts", 2, 0, Between::Still(S(2))),
            ("both together", 1, 1, Between::Still(S(2))),
            ("a lid that was shut", 0, 3_600, Between::Asleep(S(3_600))),
        ] {
            let mut last = Last { beat: at(10), asleep: S(7) };
            assert_eq!(last.next(at(10 + awake), S(7 + asleep)), between, "{what}");
            assert_eq!(last.next(at(10 + awake), S(7 + asleep)), Between::Steady, "{what} is told once");
        }
    }

    #[test]
    fn what_is_held_is_trusted_from_beat_to_beat() {
        let pulse = Pulse::of_nobody();
        assert!(pulse.is_trusted(at(1_000_000)));
        pulse.beat(at(10));
        assert!(pulse.is_trusted(at(11)) && !pulse.is_trusted(at(12)), "it lasts for two seconds");
        pulse.stop();
        assert!(!pulse.is_trusted(at(10)));
        assert!(pulse.until_trusted(|| at(20)).now_or_never().is_none());
        pulse.beat(at(20));
        assert!(pulse.until_trusted(|| at(21)).now_or_never().is_some());
        pulse.end();
        assert!(pulse.is_trusted(at(1_000_000)));
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_the_beat() {
        let pulse = Pulse::of_nobody();
        pulse.stop();
        let waits = pulse.until_trusted(|| at(1));
        let ((), ()) = tokio::join!(waits, async { pulse.beat(at(1)) });
    }
}
