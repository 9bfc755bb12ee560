//! The group's sweeper: gives back the bytes of what has expired, or was removed by a tag, and nobody asks for.
//!
//! It is a task that is there while anything in the cache has an end, and that sleeps until the first of them. A round
//! goes through the shards a few entries at a time, and lets everybody else go first in between.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock;
use crate::entry::Value;
use crate::flight::Landing;
use crate::lifespan::Lifespan;
use crate::shards::Keep;
use crate::time::Moment;

use super::inner::Inner;

/// After so many entries a round rests, for so long.
const BREATH: usize = 1024;
const REST: Duration = Duration::from_millis(1);
/// Rounds do not follow each other faster.
const AT_LEAST: Duration = Duration::from_secs(1);
/// And what came in meanwhile, with an earlier end, waits for no longer.
const AT_MOST: Duration = Duration::from_secs(10);

impl<V: Value> Inner<V> {
    /// Something is about to be kept, if it is: the sweeper is to know of its end.
    pub(super) fn sweep_after(self: &Arc<Self>, landing: &Landing<V>, keep: Option<Keep>) {
        if let (Ok(landed), Some(_)) = (landing, keep) {
            self.sweep_at(&landed.life);
        }
    }

    /// Something with such a life is about to be kept.
    pub(super) fn sweep_at(self: &Arc<Self>, life: &Lifespan) {
        let end = if life.grace { life.hard + self.config.grace } else { life.hard };
        self.sweep_by(end);
    }

    /// A tag was removed: what bears it is to give its bytes back, at leisure.
    pub(super) fn sweep_removed(self: &Arc<Self>) {
        self.sweep_by(self.now() + AT_MOST);
    }

    fn sweep_by(self: &Arc<Self>, end: Moment) {
        if end == Moment::NEVER {
            return;
        }
        self.next_end.lower(end);
        if self.is_swept.load(Ordering::SeqCst) || self.is_swept.swap(true, Ordering::SeqCst) {
            return;
        }
        let group = Arc::clone(self);
        self.context.tasks.service(async move {
            let stopping = group.context.tasks.stopping().clone();
            stopping.run_until_cancelled(group.keep_sweeping()).await;
        });
    }

    async fn keep_sweeping(&self) {
        loop {
            let end = self.next_end.get();
            if end == Moment::NEVER {
                self.is_swept.store(false, Ordering::SeqCst);
                // What came in just before has found the sweeper still there.
                if self.next_end.get() == Moment::NEVER || self.is_swept.swap(true, Ordering::SeqCst) {
                    return;
                }
                continue;
            }
            clock::sleep(end.since(self.now()).clamp(AT_LEAST, AT_MOST)).await;
            if self.now() >= self.next_end.get() {
                self.sweep().await;
            }
        }
    }

    /// One round.
    async fn sweep(&self) {
        // What comes in from here on is told, or seen.
        self.next_end.reset();
        for shard in 0..self.shards.count() {
            let next_end = self.shards.sweep(shard, breathe).await;
            self.next_end.lower(next_end);
        }
    }
}

/// Between two goes of a round: lets everybody else go first. What the round gave back to the allocator, others may have
/// to tidy up when they ask for memory: so it does not give back too much at a time.
async fn breathe(swept: usize) {
    if swept.is_multiple_of(BREATH) {
        return clock::sleep(REST).await;
    }
    tokio::task::yield_now().await;
}
