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
        let mut since_rest = 0;
        for shard in 0..self.shards.count() {
            let next_end = self.shards.sweep(shard, |seen| breathe(&mut since_rest, seen)).await;
            self.next_end.lower(next_end);
        }
    }
}

/// Between two goes of a round: lets everybody else go first. What the round gave back to the allocator, others may have
/// to tidy up when they ask for memory: so it does not give back too much at a time.
fn breathe(since_rest: &mut usize, seen: usize) -> impl Future<Output = ()> + use<> {
    // Through all queues and shards: no go but the last of a queue has to be of any certain length.
    *since_rest += seen;
    let rests = *since_rest >= BREATH;
    if rests {
        *since_rest = 0;
    }
    async move { if rests { clock::sleep(REST).await } else { tokio::task::yield_now().await } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BoxError;
    use crate::key::{HashedKey, Key};
    use crate::store::{Dropped, Entry, Place};
    use crate::{Group, Node};

    #[tokio::test(start_paused = true)]
    async fn a_round_rests_however_its_entries_are_spread_over_queues() {
        let loader = |_: Key| async { Ok::<_, BoxError>(String::new()) };
        let group: Group<String> =
            Node::local().group("g").capacity(32 << 20).loader(loader).build().expect("it is valid");
        let inner = &group.inner;
        let life = Lifespan::new(inner.now(), inner.now() + Duration::from_secs(3600));
        let mut keys = 0..;
        let mut put = |count: usize, place| {
            for key in keys.by_ref().take(count) {
                let entry = Entry { value: Some(String::new()), weight: 8, life, tagged: None };
                let key = HashedKey::new(Key::new(&format!("{key:05}")));
                inner.shards.insert(&key, entry, place, &mut Dropped::default());
            }
        };
        // What is left of the queues that are swept first, after goes of full length, are goes of all lengths.
        put(37 * inner.shards.count(), Place::Main);
        put(12_000, Place::Hot);
        assert!(inner.shards.usage().0.hot_entries > 10_000, "they have room");
        let began = inner.now();
        inner.sweep().await;
        let rests = u32::try_from(12_000 / (BREATH + 64)).expect("a few");
        let took = inner.now().since(began);
        assert!(took >= rests * REST, "only {took:?} of rest");
    }
}
