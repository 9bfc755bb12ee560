//! A caller's wait for a flight, up to the caller's limit.
//!
//! Most waits are over in less than a millisecond, and to set a timer and take it back would be a good part of what
//! they cost. So a wait with a limit that is far off sets its timer late, if it is still there then: the group's
//! **minder** wakes who waits, four times a second while anybody does, and a wait that is woken after a while sets a
//! timer for the rest of its time. A limit is met as exactly as with a timer from the start.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::clock;
use crate::entry::Value;
use crate::error::Error;
use crate::flight::{Landing, Wait};
use crate::time::Moment;

use super::inner::Inner;

/// How often the minder wakes who waits.
const MIND_EVERY: Duration = Duration::from_millis(250);
/// A limit that is further off is left to the minder: so far that it comes round several times before.
const FAR_OFF: Duration = Duration::from_secs(1);
/// Who has waited for so long sets a timer. The minder has come round again well before a limit that is far off.
const A_WHILE: Duration = Duration::from_millis(100);

/// Resolves with the flight's landing, or with a time-out.
pub(super) struct Within<'a, V: Value> {
    pub(super) group: &'a Arc<Inner<V>>,
    flight: Wait<V>,
    pub(super) limit: Duration,
    pub(super) started: Moment,
    is_minded: bool,
    timer: Option<BoxFuture<'static, ()>>,
}

impl<V: Value> Inner<V> {
    /// Waits for a flight, for so long from `started`.
    pub(super) fn landing_within(self: &Arc<Self>, flight: Wait<V>, limit: Duration, started: Moment) -> Within<'_, V> {
        Within { group: self, flight, limit, started, is_minded: false, timer: None }
    }

    /// Sees to it that somebody minds the waits.
    fn mind(self: &Arc<Self>) {
        if self.minded.load(Ordering::SeqCst) || self.minded.swap(true, Ordering::SeqCst) {
            return;
        }
        let group = Arc::clone(self);
        self.context.tasks.service(async move {
            let stopping = group.context.tasks.stopping().clone();
            while stopping.run_until_cancelled(clock::sleep(MIND_EVERY)).await.is_some() {
                if group.shards.wake_all() {
                    continue;
                }
                group.minded.store(false, Ordering::SeqCst);
                // A flight that began just before has found itself minded.
                if !group.shards.has_flights() || group.minded.swap(true, Ordering::SeqCst) {
                    return;
                }
            }
            // The last waits see to themselves.
            group.shards.wake_all();
        });
    }
}

impl<V: Value> Within<'_, V> {
    /// Whether it is time for a timer.
    fn wants_timer(&mut self) -> bool {
        if self.limit < FAR_OFF || self.flight.is_alone() || self.group.context.tasks.is_closed() {
            return true;
        }
        if !self.is_minded {
            self.is_minded = true;
            self.group.mind();
            return false;
        }
        self.group.now().since(self.started) >= A_WHILE
    }
}

impl<V: Value> Future for Within<'_, V> {
    type Output = Landing<V>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Landing<V>> {
        let wait = self.get_mut();
        if let Poll::Ready(landing) = wait.flight.poll_landing(context) {
            return Poll::Ready(landing);
        }
        if wait.timer.is_none() && wait.wants_timer() {
            let left = wait.limit.saturating_sub(wait.group.now().since(wait.started));
            wait.timer = Some(clock::sleep(left).boxed());
        }
        match wait.timer.as_mut().map(|timer| timer.poll_unpin(context)) {
            Some(Poll::Ready(())) => Poll::Ready(Err(Error::Timeout { limit: wait.limit })),
            _ => Poll::Pending,
        }
    }
}
