//! One flight per key: one load or one fetch in progress, shared by everybody who waits for the key.
//!
//! A [`Flights`] (`flight/table.rs`) is a table of what can be joined, as plain state under its shard's lock; loads and
//! fetches have a table each. That there are two is what keeps nodes from waiting in a circle: a request from a peer
//! joins loads only, and a load never waits for a peer.
//!
//! A flight **begins** when the loader is called (or the message sent), not when it is queued. A removal **voids** what
//! has begun: it can no longer be joined, and its value will not be kept. Who comes later starts a successor. At most
//! two loads of one key run, a voided one and its successor; where a third would begin it is **parked**, and who comes
//! later waits for that one. A flight that has not begun needs no voiding: what it will load is new.
//!
//! A flight always **lands**: whoever leads it lands it with an outcome, or with [`Error::Closed`] by dropping the
//! lead.

mod table;
#[cfg(test)]
mod tests;

use std::mem;
use std::sync::{Arc, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::entry::Source;
use crate::error::Error;
use crate::key::HashedKey;
use crate::lifespan::Lifespan;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::tags::Tagged;
use crate::time::{Latest, Moment};
use crate::wakes::Wakes;

pub(crate) use table::{Flights, Join};

/// What a flight brought: a value, or that there is none, and how long it lives.
#[derive(Clone, Debug)]
pub(crate) struct Landed<V> {
    pub(crate) value: Option<V>,
    pub(crate) life: Lifespan,
    pub(crate) source: Source,
    /// Why the load failed in whose stead the old value is served.
    pub(crate) failed: Option<Arc<Error>>,
    /// What it bears, and when it was begun.
    pub(crate) tagged: Option<Arc<Tagged>>,
}

impl<V> Landed<V> {
    pub(crate) fn new(value: Option<V>, life: Lifespan, source: Source) -> Self {
        Self { value, life, source, failed: None, tagged: None }
    }
}

/// How a flight ended.
pub(crate) type Landing<V> = Result<Landed<V>, Error>;

/// One load or one fetch in progress.
#[derive(Debug)]
pub(crate) struct Flight<V> {
    key: HashedKey,
    state: Mutex<State<V>>,
    /// Whether a loader waits for it.
    hurried: AtomicBool,
    /// Whether it was voided: it is in no table any more, where those who look after flights would find it.
    alone: AtomicBool,
    /// Who waits for it wants nothing that was born earlier.
    oldest: Latest,
    /// Whether a peer waits for it, or has.
    peers: AtomicBool,
    /// What it brought, as bytes for them.
    encoded: OnceLock<Box<Result<Bytes, Error>>>,
}

/// What those who wait and who lands it share.
#[derive(Debug)]
struct State<V> {
    outcome: Outcome<V>,
    /// How many wait.
    awaited: usize,
    sleepers: Sleepers,
}

/// How a flight has ended, if it has. Nobody comes to wait for one that has landed: it is in no table any more.
#[derive(Debug)]
enum Outcome<V> {
    None,
    /// For the only one who waits, who takes it.
    Sole(Landing<V>),
    /// For many, who clone it, each for himself: it is not done under the lock, since a clone may take its time.
    Shared(Arc<Landing<V>>),
}

/// Who is to be woken by the landing, each at a place of its own. Most flights have one sleeper, which has room without
/// an allocation.
#[derive(Debug, Default)]
struct Sleepers {
    first: Option<Waker>,
    others: Vec<Option<Waker>>,
    /// How often all were woken: who was noted before that is noted no more.
    round: u64,
}

/// Where among the sleepers somebody is noted: 0 is the first, and in which round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    at: usize,
    round: u64,
}

impl<V> Flight<V> {
    /// A flight that somebody waits for from the start.
    fn awaited(key: HashedKey) -> (Arc<Self>, Wait<V>) {
        let state = State { outcome: Outcome::None, awaited: 1, sleepers: Sleepers::default() };
        let flight = Arc::new(Self {
            key,
            state: Mutex::new(state),
            hurried: AtomicBool::new(false),
            alone: AtomicBool::new(false),
            oldest: Latest::default(),
            peers: AtomicBool::new(false),
            encoded: OnceLock::new(),
        });
        let wait = Wait { flight: Arc::clone(&flight), place: None, waits: true };
        (flight, wait)
    }

    pub(crate) fn key(&self) -> &HashedKey {
        &self.key
    }

    /// A loader waits for this flight: whatever it comes to wait for must not stand in line behind that loader.
    pub(crate) fn hurry(&self) {
        self.hurried.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::SeqCst)
    }

    /// Somebody waits for it who wants nothing that was born earlier. A flight that has begun brings what it brings.
    pub(crate) fn demand(&self, oldest: Moment) {
        self.oldest.raise(oldest);
    }

    /// The strictest of the demands.
    pub(crate) fn oldest(&self) -> Moment {
        self.oldest.get()
    }

    /// A peer waits for it: what it brings will be encoded.
    pub(crate) fn await_for_peer(&self) {
        self.peers.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_for_peers(&self) -> bool {
        self.peers.load(Ordering::SeqCst)
    }

    /// What it brought, as bytes: made by the first of the peers who wait for it, for all of them. Who comes meanwhile
    /// waits on its thread, for no longer than to make them would take.
    pub(crate) fn encoded(&self, encode: impl FnOnce() -> Result<Bytes, Error>) -> Result<Bytes, Error> {
        self.encoded.get_or_init(|| Box::new(encode())).as_ref().clone()
    }

    /// Whether it was voided.
    pub(crate) fn is_voided(&self) -> bool {
        self.alone.load(Ordering::SeqCst)
    }

    /// Whether anybody waits for it.
    pub(crate) fn is_awaited(&self) -> bool {
        self.state().awaited > 0
    }

    /// One more waits. Only for a flight that is in a table, whose lock is held.
    fn wait(self: &Arc<Self>) -> Wait<V> {
        self.state().awaited += 1;
        Wait { flight: Arc::clone(self), place: None, waits: true }
    }

    /// Lands the flight; who waits is to be woken. The first landing counts.
    pub(crate) fn land(&self, landing: Landing<V>, wakes: &mut Wakes) {
        let mut state = self.state();
        if !matches!(state.outcome, Outcome::None) {
            return;
        }
        let is_shared = state.awaited > 1;
        state.outcome = if is_shared { Outcome::Shared(Arc::new(landing)) } else { Outcome::Sole(landing) };
        state.sleepers.take(wakes);
    }

    /// Wakes who waits, though there is nothing to be had yet.
    pub(crate) fn wake_all(&self) {
        // Woken once the lock is free.
        let mut wakes = Wakes::default();
        self.state().sleepers.take(&mut wakes);
    }

    /// Whether it has landed and the landing has not been taken.
    #[cfg(test)]
    pub(crate) fn landing(&self) -> Option<Landing<V>>
    where
        V: Clone,
    {
        match &self.state().outcome {
            Outcome::None => None,
            Outcome::Sole(landing) => Some(landing.clone()),
            Outcome::Shared(landing) => Some((**landing).clone()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<V>> {
        // A waker is the runtime's code; whatever state it leaves behind by a panic is sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sleepers {
    /// Begins a new round; those of the one before are to be woken.
    fn take(&mut self, wakes: &mut Wakes) {
        self.round += 1;
        if let Some(first) = self.first.take() {
            wakes.add(first);
        }
        mem::take(&mut self.others).into_iter().flatten().for_each(|other| wakes.add(other));
    }

    /// Notes whom to wake, at the place that it had before, if it has one.
    fn note(&mut self, place: &mut Option<Place>, waker: &Waker) {
        let round = self.round;
        let at = match place.filter(|place| place.round == round) {
            Some(Place { at, .. }) => at,
            None if self.first.is_none() => 0,
            None => {
                self.others.push(None);
                self.others.len()
            }
        };
        *place = Some(Place { at, round });
        match self.noted(at) {
            Some(Some(known)) => known.clone_from(waker),
            Some(unknown) => *unknown = Some(waker.clone()),
            None => {}
        }
    }

    fn noted(&mut self, at: usize) -> Option<&mut Option<Waker>> {
        match at.checked_sub(1) {
            None => Some(&mut self.first),
            Some(at) => self.others.get_mut(at),
        }
    }

    fn forget(&mut self, place: Place) {
        if place.round != self.round {
            return;
        }
        if let Some(noted) = self.noted(place.at) {
            *noted = None;
        }
        while self.others.last().is_some_and(Option::is_none) {
            self.others.pop();
        }
    }
}

/// Somebody's wait for a flight: it counts as awaited for as long as this is there. Dropping it strands nobody: the
/// flight goes on.
#[derive(Debug)]
#[must_use = "a flight that nobody waits for may be given up"]
pub(crate) struct Wait<V> {
    flight: Arc<Flight<V>>,
    place: Option<Place>,
    /// Until it has the landing.
    waits: bool,
}

impl<V> Wait<V> {
    pub(crate) fn flight(&self) -> &Arc<Flight<V>> {
        &self.flight
    }

    /// A loader waits here: see [`Flight::hurry`].
    pub(crate) fn hurry(&self) {
        self.flight.hurry();
    }

    /// Whether the flight is in no table any more, so that nobody who looks after flights will find it.
    pub(crate) fn is_alone(&self) -> bool {
        self.flight.alone.load(Ordering::SeqCst)
    }
}

impl<V: Clone> Wait<V> {
    /// Waits for the landing. It is had once.
    pub(crate) async fn landing(&mut self) -> Landing<V> {
        std::future::poll_fn(|context| self.poll_landing(context)).await
    }

    pub(crate) fn poll_landing(&mut self, context: &mut Context<'_>) -> Poll<Landing<V>> {
        let landing = {
            let mut state = self.flight.state();
            if matches!(state.outcome, Outcome::None) {
                state.sleepers.note(&mut self.place, context.waker());
                return Poll::Pending;
            }
            state.awaited -= 1;
            self.waits = false;
            match &state.outcome {
                Outcome::Shared(landing) if state.awaited > 0 => Arc::clone(landing),
                _ => match mem::replace(&mut state.outcome, Outcome::None) {
                    Outcome::Sole(landing) => return Poll::Ready(landing),
                    Outcome::Shared(landing) => landing,
                    Outcome::None => return Poll::Pending,
                },
            }
        };
        // Whoever is the last to have it takes it, and spares the clone.
        Poll::Ready(Arc::try_unwrap(landing).unwrap_or_else(|landing| (*landing).clone()))
    }
}

impl<V> Drop for Wait<V> {
    fn drop(&mut self) {
        if !self.waits {
            return;
        }
        let mut state = self.flight.state();
        state.awaited -= 1;
        if let Some(place) = self.place {
            state.sleepers.forget(place);
        }
    }
}
