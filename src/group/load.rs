//! Loads: from a flight that waits for its turn to the value in the cache.
//!
//! A load runs in a task that the node owns, to its end or its limit, whoever waits or has left. It goes: line up →
//! turn → **begin** (the loader is called) → land. A get from inside a loader is not lined up: the turn of the load
//! that asks covers it, or two loaders that wait for one another's keys could use up all turns.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, MutexGuard, PoisonError};

use futures::FutureExt;
use tracing::Instrument;

use crate::clock;
use crate::entry::Value;
use crate::error::Error;
use crate::flight::{Flight, Landed, Landing, Wait};
use crate::key::{HashedKey, Key, KeyRef};
use crate::loader::{Inside, Loaded, panicked};
use crate::shards::{Begin, Demand, Kind, Lead, Look};
use crate::tasks::Work;
use crate::time::Moment;

use super::inner::{Inner, record_outcome};
use super::line::{Line, Queued};

/// The permit of one call of the loader.
struct Turn<V: Value> {
    group: Arc<Inner<V>>,
    /// Whether it was given out ahead of the line.
    ahead: bool,
    /// Whether the call came to its end.
    over: bool,
}

impl<V: Value> Drop for Turn<V> {
    fn drop(&mut self) {
        let mut line = self.group.line();
        if self.ahead {
            line.queue.give_back_ahead();
        } else {
            line.queue.give_back();
        }
        if self.over || std::thread::panicking() {
            drop(line);
            self.group.hand_out_turns();
        } else {
            // Dropped half-way: the node is cut short, or its runtime is gone. So is everything that waits.
            let doomed = line.queue.abandon();
            drop(line);
            drop(doomed);
        }
    }
}

/// What a look for a key that is to be loaded here led to.
pub(super) enum Boarded<V: Value> {
    Found(Landed<V>),
    /// A load that somebody else started.
    Joined(Wait<V>),
    /// A load that this look has started.
    Led(Wait<V>),
}

impl<V: Value> Boarded<V> {
    /// What was found, or what the load brings. Dropping the future strands nobody.
    pub(super) async fn landing(&mut self) -> Landing<V> {
        match self {
            Self::Found(found) => Ok(found.clone()),
            Self::Joined(wait) | Self::Led(wait) => wait.landing().await,
        }
    }

    /// What it waits for, or has waited for.
    pub(super) fn flight(&self) -> Option<Arc<Flight<V>>> {
        match self {
            Self::Found(_) => None,
            Self::Joined(wait) | Self::Led(wait) => Some(Arc::clone(wait.flight())),
        }
    }
}

impl<V: Value> Inner<V> {
    /// Looks for keys, joins their loads, or starts them: for whoever has to have them loaded here, whatever the
    /// placement says.
    pub(super) fn board_loads<'a>(
        self: &Arc<Self>,
        keys: impl Iterator<Item = (&'a HashedKey, Demand)>,
        outer: Option<&Arc<Inside>>,
    ) -> Vec<Boarded<V>> {
        let (view, now) = (self.context.peers.view_owned(), self.now());
        let mut leads = Vec::new();
        let boarded = keys.map(|(key, demand)| {
            match self.shards.look_or_join(key.as_ref(), view.place(key.hash), Kind::Load, demand, now) {
                Look::Found(found) => Boarded::Found(found),
                Look::PastSoft(found, lead) => {
                    leads.push(lead);
                    Boarded::Found(found)
                }
                Look::Joined(wait) => {
                    if outer.is_some() {
                        self.pull_ahead(key.as_ref());
                    }
                    Boarded::Joined(wait)
                }
                Look::Lead(lead, wait) => {
                    leads.push(lead);
                    Boarded::Led(wait)
                }
            }
        });
        let boarded = boarded.collect();
        if !leads.is_empty() {
            self.start_loads(leads, outer);
        }
        boarded
    }

    fn line(&self) -> MutexGuard<'_, Line<V>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn line_lengths(&self) -> (u64, u64) {
        let line = self.line();
        (line.queue.turns_out() as u64, line.queue.len() as u64)
    }

    /// Starts loads: lines them up, or lets them run at once if a loader asks. Those for which there is no room land
    /// with [`Error::Busy`].
    pub(super) fn start_loads(self: &Arc<Self>, leads: Vec<Lead<V>>, outer: Option<&Arc<Inside>>) {
        let queued = leads.into_iter().map(|lead| Queued { lead, outer: outer.cloned() });
        if outer.is_some() {
            return self.run_at_once(queued.collect());
        }
        let now = self.now();
        let refused: Vec<_> = {
            let mut line = self.line();
            queued.filter_map(|load| line.queue.push(load, now).err()).collect()
        };
        self.land_busy(refused);
        self.hand_out_turns();
        self.watch_the_line();
    }

    /// A loader waits for this key. If its load is in line, it leaves the line and runs at once.
    pub(super) fn pull_ahead(self: &Arc<Self>, key: KeyRef<'_>) {
        let pulled = self.line().queue.pull(|load| {
            let queued = load.lead.key();
            queued.hash == key.hash && queued.key.as_bytes() == key.bytes
        });
        self.run_at_once(pulled.into_iter().collect());
    }

    /// Nobody may wait for this load any more: if so, and if it is still in line, it is not begun.
    pub(super) fn give_up_unawaited(&self, key: KeyRef<'_>) {
        let pulled = self.line().queue.pull(|load| {
            let queued = load.lead.key();
            queued.hash == key.hash && queued.key.as_bytes() == key.bytes && !load.lead.flight().is_awaited()
        });
        if let Some(load) = pulled {
            // Who joins it in this moment has time left, and goes round again.
            let (_, next) = load.lead.land(Err(Error::Timeout { limit: self.config.timeout }), None);
            debug_assert!(next.is_none(), "nothing is parked behind a flight that can be joined");
        }
    }

    fn run_at_once(self: &Arc<Self>, mut loads: Vec<Queued<V>>) {
        while !loads.is_empty() {
            let rest = loads.split_off(loads.len().min(self.loader.per_call()));
            if self.line().queue.give_turn_ahead() {
                let turn = Turn { group: Arc::clone(self), ahead: true, over: false };
                self.context.tasks.work(Work::Load, turn.spend(Some(loads)));
            } else {
                self.land_busy(loads);
            }
            loads = rest;
        }
    }

    /// Gives turns to what waits, as long as there are any.
    fn hand_out_turns(self: &Arc<Self>) {
        while self.line().queue.give_turn() {
            let turn = Turn { group: Arc::clone(self), ahead: false, over: false };
            let taken = if self.loader.per_call() == 1 { Some(self.line().queue.take()) } else { None };
            self.context.tasks.work(Work::Load, turn.spend(taken));
        }
    }

    /// Watches, while loads wait, that none waits for longer than it may.
    fn watch_the_line(self: &Arc<Self>) {
        {
            let mut line = self.line();
            if line.watched || line.queue.len() == 0 {
                return;
            }
            line.watched = true;
        }
        let group = Arc::clone(self);
        self.context.tasks.service(async move {
            while let Some(until) = group.next_expiry() {
                tokio::select! {
                    biased;
                    () = group.context.tasks.stopping().cancelled() => {
                        let doomed = group.line().queue.abandon();
                        return drop(doomed);
                    }
                    () = clock::sleep(until) => {}
                }
                let late = group.line().queue.expire(group.now());
                group.land_busy(late);
            }
        });
    }

    /// How long the first in line may still wait. If there is none, the watch is over.
    fn next_expiry(&self) -> Option<std::time::Duration> {
        let now = self.now();
        let mut line = self.line();
        let until = line.queue.next_expiry();
        line.watched = until.is_some();
        until.map(|until| until.since(now))
    }

    fn land_busy(&self, loads: Vec<Queued<V>>) {
        for load in loads {
            self.loads.busy.one();
            let (_, next) = load.lead.land(Err(Error::Busy), None);
            debug_assert!(next.is_none(), "nothing is parked behind a flight that can be joined");
        }
    }

    /// Runs loads to their end, and after them the flights that were parked until one of theirs ended.
    async fn run(self: Arc<Self>, mut loads: Vec<Queued<V>>) {
        while !loads.is_empty() {
            let begun = self.begin(loads);
            if begun.is_empty() {
                return;
            }
            loads = self.load(begun).await;
        }
    }

    /// Lets loads begin, but for those that find their value in the cache, and those that are parked.
    fn begin(&self, loads: Vec<Queued<V>>) -> Vec<Queued<V>> {
        let (view, now) = (self.context.peers.view(), self.now());
        let begun = loads.into_iter().filter_map(|Queued { lead, outer }| {
            let place = view.place(lead.key().hash);
            match lead.begin(place, now) {
                Begin::Go(lead) => Some(Queued { lead, outer }),
                Begin::No => None,
            }
        });
        begun.collect()
    }

    /// One call of the loader, and the landing of what it brought. Returns parked flights that may now begin.
    async fn load(self: &Arc<Self>, begun: Vec<Queued<V>>) -> Vec<Queued<V>> {
        let keys: Vec<HashedKey> = begun.iter().map(|load| load.lead.key().clone()).collect();
        let outer = distinct(begun.iter().filter_map(|load| load.outer.clone()));
        self.loads.started.add(keys.len() as u64);
        self.loads.refreshes.add(begun.iter().filter(|load| load.lead.refreshes()).count() as u64);
        self.loads.calls.one();
        let born = self.now();
        let span = tracing::debug_span!(
            "group.load",
            group = %self.name,
            keys = keys.len(),
            failed = tracing::field::Empty,
            outcome = tracing::field::Empty,
        );
        let results = self.call_loader(keys, outer).instrument(span.clone()).await;
        let failed = results.iter().filter(|result| result.is_err()).count();
        span.record("failed", failed);
        record_outcome(&span, if failed == 0 { "loaded" } else { "failed" });
        let landed = begun.into_iter().zip(results);
        landed.filter_map(|(load, result)| self.land_load(load.lead, result, born)).collect()
    }

    async fn call_loader(&self, keys: Vec<HashedKey>, outer: Vec<Arc<Inside>>) -> Vec<Result<Loaded<V>, Error>> {
        let count = keys.len();
        let plain: Vec<Key> = keys.iter().map(|key| key.key.clone()).collect();
        let inside = Arc::new(Inside { group: self.id, keys, outer });
        let limit = self.config.load_timeout;
        // A load does not panic, but what is dropped at its limit may.
        let call = async move { tokio::time::timeout(limit, inside.scope(self.loader.load(plain))).await };
        let error = match AssertUnwindSafe(call).catch_unwind().await {
            Ok(Ok(results)) => return results.into_iter().map(|result| result.map_err(Error::Load)).collect(),
            Ok(Err(_)) => Error::LoadTimeout { limit },
            Err(panic) => Error::Load(panicked(&*panic)),
        };
        (0..count).map(|_| Err(error.clone())).collect()
    }

    fn land_load(self: &Arc<Self>, lead: Lead<V>, result: Result<Loaded<V>, Error>, born: Moment) -> Option<Queued<V>> {
        // As the placement says now, not as it did when the load began.
        let place = self.context.peers.view().place(lead.key().hash);
        let settled = result.and_then(|loaded| self.settle(loaded, self.now(), (born, lead.since()), place));
        let (landing, keep): (Landing<V>, _) = match settled {
            Ok((mut landed, keep)) => {
                landed.life = self.lag.bounded(&lead.key().key, landed.life, self.now());
                (Ok(landed), keep)
            }
            Err(error) => (Err(error), None),
        };
        match &landing {
            Ok(landed) if landed.value.is_some() => self.loads.found.one(),
            Ok(_) => self.loads.not_found.one(),
            Err(_) => self.loads.failed.one(),
        }
        self.sweep_after(&landing, keep);
        let (voided, next) = lead.land(landing, keep);
        self.loads.voided.add(u64::from(voided));
        next.map(|lead| Queued { lead, outer: None })
    }
}

/// Each of them once. (The loads of a batch have often been asked for from inside of the same one.)
fn distinct(all: impl Iterator<Item = Arc<Inside>>) -> Vec<Arc<Inside>> {
    let mut distinct: Vec<Arc<Inside>> = Vec::new();
    for inside in all {
        if !distinct.iter().any(|other| Arc::ptr_eq(other, &inside)) {
            distinct.push(inside);
        }
    }
    distinct
}

impl<V: Value> Turn<V> {
    /// Takes what waits, unless it has been taken, and runs it.
    async fn spend(mut self, taken: Option<Vec<Queued<V>>>) {
        let loads = match taken {
            Some(loads) => loads,
            None => {
                // A batch: let those that arrive together line up first. This is one turn of the runtime, not a wait.
                tokio::task::yield_now().await;
                let loads = self.group.line().queue.take();
                self.group.hand_out_turns();
                loads
            }
        };
        Arc::clone(&self.group).run(loads).await;
        self.over = true;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::BoxError;
    use crate::{Node, WeakGroup};

    /// How many loads are met by whoever asks whether one of them is that of a key.
    fn met(inside: &Inside) -> usize {
        1 + inside.outer.iter().map(|outer| met(outer)).sum::<usize>()
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_knows_each_load_that_it_was_asked_for_from_inside_of_once() {
        const LEVELS: usize = 5;
        let node = Node::local();
        let own: Arc<std::sync::OnceLock<WeakGroup<String>>> = Arc::default();
        let (itself, most) = (Arc::clone(&own), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&most);
        let loader = move |keys: Vec<Key>| {
            let (group, seen) = (itself.get().and_then(WeakGroup::upgrade).unwrap(), Arc::clone(&seen));
            async move {
                seen.fetch_max(met(&Inside::current().unwrap()), Ordering::SeqCst);
                let level = keys[0].as_bytes()[0];
                if usize::from(level) < LEVELS {
                    group
                        .get_many((0..10).map(|number| [level + 1, number]))
                        .await
                        .into_iter()
                        .try_for_each(|got| got.map(drop))?;
                }
                Ok::<_, BoxError>(keys.into_iter().map(|key| (key, String::new())).collect::<Vec<_>>())
            }
        };
        let group = node.group("g").batch_loader(10, loader).build().unwrap();
        assert!(own.set(group.downgrade()).is_ok());
        assert!(group.get_many((0..10).map(|number| [1, number])).await.iter().all(Result::is_ok));
        assert_eq!(
            most.load(Ordering::SeqCst),
            LEVELS,
            "as many as there are levels, and not ten times as many on each"
        );
    }
}
