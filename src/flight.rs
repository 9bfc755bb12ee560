//! One flight per key: one load or one fetch in progress, shared by everybody who waits for the key.
//!
//! A [`Flights`] is a table of what can be joined, as plain state under its shard's lock; loads and fetches have a
//! table each. That there are two is what keeps nodes from waiting in a circle: a request from a peer joins loads only,
//! and a load never waits for a peer.
//!
//! A flight **begins** when the loader is called (or the message sent), not when it is queued. A removal **voids** what
//! has begun: it can no longer be joined, and its value will not be kept. Who comes later starts a successor. At most
//! two loads of one key run, a voided one and its successor; where a third would begin it is **parked**, and who comes
//! later waits for that one. A flight that has not begun needs no voiding: what it will load is new.
//!
//! A flight always **lands**: whoever leads it lands it with an outcome, or with [`Error::Closed`] by dropping the
//! lead.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::mem;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::entry::Source;
use crate::error::Error;
use crate::key::{HashedKey, KeyRef, Probe};
use crate::lifespan::Lifespan;
use crate::planted::{Bug, is_planted};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::tags::Tagged;
use crate::time::{Latest, Moment};

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

    /// Lands the flight, and wakes who waits. The first landing counts.
    pub(crate) fn land(&self, landing: Landing<V>) {
        let sleepers = {
            let mut state = self.state();
            if !matches!(state.outcome, Outcome::None) {
                return;
            }
            let is_shared = state.awaited > 1;
            state.outcome = if is_shared { Outcome::Shared(Arc::new(landing)) } else { Outcome::Sole(landing) };
            state.sleepers.take()
        };
        wake(sleepers);
    }

    /// Wakes who waits, though there is nothing to be had yet.
    pub(crate) fn wake_all(&self) {
        let sleepers = self.state().sleepers.take();
        wake(sleepers);
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

/// Those to be woken, of one round.
type Round = (Option<Waker>, Vec<Option<Waker>>);

fn wake((first, others): Round) {
    first.into_iter().chain(others.into_iter().flatten()).for_each(Waker::wake);
}

impl Sleepers {
    /// Begins a new round, and gives those of the one before.
    fn take(&mut self) -> Round {
        self.round += 1;
        (self.first.take(), mem::take(&mut self.others))
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
            let landing = match &state.outcome {
                Outcome::Shared(landing) if state.awaited > 1 => Outcome::Shared(Arc::clone(landing)),
                _ => mem::replace(&mut state.outcome, Outcome::None),
            };
            if matches!(landing, Outcome::None) {
                state.sleepers.note(&mut self.place, context.waker());
                return Poll::Pending;
            }
            state.awaited -= 1;
            self.waits = false;
            landing
        };
        let landing = match landing {
            Outcome::Sole(landing) => return Poll::Ready(landing),
            Outcome::Shared(landing) => landing,
            Outcome::None => return Poll::Pending,
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

/// What a table knows of one key.
#[derive(Debug)]
struct Berth<V> {
    /// What who comes now joins.
    joinable: Option<Arc<Flight<V>>>,
    /// Whether that one has begun.
    begun: bool,
    /// Whether that one wanted to begin and may not yet.
    parked: bool,
    /// How many flights of this key have begun and not ended, voided ones included.
    running: usize,
}

impl<V> Default for Berth<V> {
    fn default() -> Self {
        Self { joinable: None, begun: false, parked: false, running: 0 }
    }
}

/// The flights of one shard, of one kind.
#[derive(Debug)]
pub(crate) struct Flights<V, S> {
    berths: HashMap<HashedKey, Berth<V>, S>,
    /// How many flights of one key may run at a time.
    most_running: usize,
}

/// A flight to wait for.
#[derive(Debug)]
pub(crate) enum Join<V> {
    /// One that somebody else leads.
    Joined(Wait<V>),
    /// A new one: who asked leads it.
    New(Arc<Flight<V>>, Wait<V>),
}

/// What the end of a flight means for its table.
#[derive(Debug)]
pub(crate) struct Ended<V> {
    /// Whether the flight was voided: its value must not be kept.
    pub(crate) voided: bool,
    /// A parked flight of the same key that may now begin.
    pub(crate) next: Option<Arc<Flight<V>>>,
}

impl<V, S: BuildHasher> Flights<V, S> {
    pub(crate) fn new(most_running: usize, hasher: S) -> Self {
        Self { berths: HashMap::with_hasher(hasher), most_running }
    }

    /// Joins the key's flight, or starts one, which begins with that or later.
    pub(crate) fn join(&mut self, key: KeyRef<'_>, begins: bool) -> Join<V> {
        debug_assert!(!begins || self.most_running == usize::MAX, "what may have to be parked begins by itself");
        if let Some(flight) = self.berth(key).and_then(|berth| berth.joinable.as_ref()) {
            return Join::Joined(flight.wait());
        }
        let key = key.to_owned();
        let (flight, wait) = Flight::awaited(key.clone());
        let berth = self.berths.entry(key).or_default();
        berth.joinable = Some(Arc::clone(&flight));
        berth.begun = begins;
        berth.running += usize::from(begins);
        Join::New(flight, wait)
    }

    /// Lets a flight begin, unless as many of its key run as may. If not, it is parked: the end of one of those gives
    /// it back.
    pub(crate) fn begin(&mut self, flight: &Arc<Flight<V>>) -> bool {
        let most_running = self.most_running;
        let Some(berth) = self.berth(flight.key.as_ref()) else { return false };
        debug_assert!(berth.holds(flight) && !berth.begun, "only what can be joined and has not begun begins");
        let begins = berth.running < most_running;
        berth.begun = begins;
        berth.parked = !begins;
        berth.running += usize::from(begins);
        begins
    }

    /// Voids the key's flight if it has begun.
    pub(crate) fn void(&mut self, key: KeyRef<'_>) {
        if let Some(berth) = self.berth(key) {
            berth.void();
        }
    }

    /// Voids the key's flight if it has begun without the demand for what was born no earlier.
    pub(crate) fn void_unless(&mut self, key: KeyRef<'_>, oldest: Moment) {
        let is_less = |flight: &Arc<Flight<V>>| flight.oldest() < oldest;
        if let Some(berth) = self.berth(key).filter(|berth| berth.joinable.as_ref().is_some_and(is_less)) {
            berth.void();
        }
    }

    /// Voids every flight that has begun.
    pub(crate) fn void_all(&mut self) {
        self.berths.values_mut().for_each(Berth::void);
    }

    /// Takes a flight out of the table. `begun` says whether it had begun.
    pub(crate) fn end(&mut self, flight: &Arc<Flight<V>>, begun: bool) -> Ended<V> {
        let most_running = self.most_running;
        let key = flight.key.as_ref();
        let Some(berth) = self.berth(key) else { return Ended { voided: true, next: None } };
        berth.running -= usize::from(begun);
        let held = berth.holds(flight);
        let voided = !held || flight.is_voided();
        if held {
            *berth = Berth { running: berth.running, ..Berth::default() };
        }
        let may_begin = berth.parked && berth.running < most_running;
        let next = if may_begin { berth.joinable.clone() } else { None };
        berth.parked &= !may_begin;
        if berth.joinable.is_none() && berth.running == 0 {
            self.berths.remove(&key as &dyn Probe);
        }
        Ended { voided, next }
    }

    /// How many keys have a flight.
    pub(crate) fn len(&self) -> usize {
        self.berths.len()
    }

    /// The flights that can be joined.
    pub(crate) fn joinable(&self) -> impl Iterator<Item = &Arc<Flight<V>>> {
        self.berths.values().filter_map(|berth| berth.joinable.as_ref())
    }

    fn berth(&mut self, key: KeyRef<'_>) -> Option<&mut Berth<V>> {
        self.berths.get_mut(&key as &dyn Probe)
    }
}

impl<V> Berth<V> {
    fn holds(&self, flight: &Arc<Flight<V>>) -> bool {
        self.joinable.as_ref().is_some_and(|joinable| Arc::ptr_eq(joinable, flight))
    }

    fn void(&mut self) {
        if self.begun {
            if is_planted(Bug::VoidedIsJoined) {
                return self.joinable.iter().for_each(|flight| flight.alone.store(true, Ordering::SeqCst));
            }
            self.begun = false;
            if let Some(flight) = self.joinable.take() {
                // Who waits for it has to look after itself from here on, and is told.
                flight.alone.store(true, Ordering::SeqCst);
                flight.wake_all();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::hash_map::RandomState;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const KEY: &[u8] = b"k";

    fn loads() -> Flights<u32, RandomState> {
        Flights::new(2, RandomState::new())
    }

    fn start(flights: &mut Flights<u32, RandomState>) -> Arc<Flight<u32>> {
        match flights.join(KeyRef::new(KEY), false) {
            Join::New(flight, _) => flight,
            Join::Joined(_) => panic!("there is a flight already"),
        }
    }

    fn joined(flights: &mut Flights<u32, RandomState>) -> Arc<Flight<u32>> {
        match flights.join(KeyRef::new(KEY), false) {
            Join::Joined(wait) => Arc::clone(&wait.flight),
            Join::New(..) => panic!("there is no flight"),
        }
    }

    #[test]
    fn everybody_joins_the_one_flight_and_it_leaves_nothing_behind() {
        let mut flights = loads();
        let flight = start(&mut flights);
        assert!(Arc::ptr_eq(&joined(&mut flights), &flight));
        assert!(flights.begin(&flight));
        assert!(Arc::ptr_eq(&joined(&mut flights), &flight), "also once it has begun");
        let ended = flights.end(&flight, true);
        assert!(!ended.voided && ended.next.is_none());
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn a_removal_voids_what_has_begun_and_the_next_caller_starts_a_successor() {
        let mut flights = loads();
        let old = start(&mut flights);
        assert!(flights.begin(&old));
        flights.void(KeyRef::new(KEY));
        let successor = start(&mut flights);
        assert!(flights.begin(&successor), "a voided one and its successor may run together");
        assert!(flights.end(&old, true).voided);
        assert!(Arc::ptr_eq(&joined(&mut flights), &successor), "the end of the voided one leaves its successor alone");
        assert!(!flights.end(&successor, true).voided);
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn what_has_not_begun_needs_no_voiding() {
        let mut flights = loads();
        let queued = start(&mut flights);
        flights.void_all();
        assert!(Arc::ptr_eq(&joined(&mut flights), &queued));
        assert!(flights.begin(&queued));
        assert!(!flights.end(&queued, true).voided);
    }

    #[test]
    fn a_third_load_of_a_key_waits_for_one_of_the_two_that_run() {
        let mut flights = loads();
        let first = start(&mut flights);
        assert!(flights.begin(&first));
        flights.void(KeyRef::new(KEY));
        let second = start(&mut flights);
        assert!(flights.begin(&second));
        flights.void(KeyRef::new(KEY));
        let third = start(&mut flights);
        assert!(!flights.begin(&third), "two run");
        flights.void(KeyRef::new(KEY));
        assert!(Arc::ptr_eq(&joined(&mut flights), &third), "who comes later waits for the one that has not begun");
        let next = flights.end(&first, true).next.expect("one of two has ended: the parked one may begin");
        assert!(Arc::ptr_eq(&next, &third));
        assert!(flights.begin(&third));
        assert!(flights.end(&second, true).next.is_none(), "it is given back once");
        assert!(!flights.end(&third, true).voided);
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn a_flight_that_never_begins_ends_too() {
        let mut flights = loads();
        let flight = start(&mut flights);
        flights.end(&flight, false);
        assert_eq!(flights.len(), 0);
        assert!(matches!(flights.join(KeyRef::new(KEY), false), Join::New(..)));
    }

    fn flight() -> (Arc<Flight<u32>>, Wait<u32>) {
        Flight::awaited(HashedKey::new(crate::key::Key::new("k")))
    }

    fn polled(wait: &mut Wait<u32>) -> Poll<Landing<u32>> {
        wait.poll_landing(&mut Context::from_waker(Waker::noop()))
    }

    /// Who counts how often it was woken.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl std::task::Wake for Counting {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn each_sleeper_is_woken_whoever_comes_and_goes_before() {
        let (flight, wait) = flight();
        let mut waits: Vec<_> = std::iter::once(wait).chain((0..4).map(|_| flight.wait())).collect();
        let counts: Vec<Arc<Counting>> = (0..8).map(|_| Arc::default()).collect();
        let poll = |wait: &mut Wait<u32>, who: usize| {
            wait.poll_landing(&mut Context::from_waker(&Waker::from(Arc::clone(&counts[who])))).is_ready()
        };
        for (who, wait) in waits.iter_mut().enumerate() {
            assert!(!poll(wait, who) && !poll(wait, who), "also polled twice");
        }
        drop((waits.remove(4), waits.remove(0)));
        // Woken without a landing, all come again, and two more, who must not take their places.
        flight.wake_all();
        let mut newcomers = [flight.wait(), flight.wait()];
        assert!(!poll(&mut newcomers[0], 5));
        for (who, wait) in (1..).zip(&mut waits) {
            assert!(!poll(wait, who));
        }
        assert!(!poll(&mut newcomers[1], 6));
        assert_eq!(flight.state().awaited, 5);
        flight.land(Err(Error::Busy));
        let woken: Vec<_> = counts.iter().map(|count| count.0.load(Ordering::SeqCst)).collect();
        assert_eq!(woken, [0, 2, 2, 2, 0, 1, 1, 0]);
        assert!(matches!(polled(&mut newcomers[0]), Poll::Ready(Err(Error::Busy))));
    }

    #[test]
    fn a_landing_between_two_polls_is_not_missed() {
        // Many times, on two threads: whoever sleeps is woken, or finds the landing.
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for _ in 0..2000 {
            let (flight, mut wait) = flight();
            let landing = std::thread::spawn(move || flight.land(Err(Error::Busy)));
            assert!(matches!(runtime.block_on(wait.landing()), Err(Error::Busy)));
            landing.join().unwrap();
        }
    }

    #[tokio::test]
    async fn the_first_landing_counts() {
        let (flight, mut wait) = flight();
        flight.land(Err(Error::Busy));
        flight.land(Err(Error::Closed));
        assert!(matches!(wait.landing().await, Err(Error::Busy)));
    }

    /// A value that counts how often it is cloned.
    #[derive(Debug)]
    struct Cloned(Arc<AtomicUsize>);

    impl Clone for Cloned {
        fn clone(&self) -> Self {
            self.0.fetch_add(1, Ordering::SeqCst);
            Self(Arc::clone(&self.0))
        }
    }

    #[test]
    fn whoever_is_the_last_to_have_a_landing_takes_it() {
        for waiters in [1, 2, 5] {
            let (flight, wait) = Flight::awaited(HashedKey::new(crate::key::Key::new("k")));
            let mut waits: Vec<_> = std::iter::once(wait).chain((1..waiters).map(|_| flight.wait())).collect();
            let clones = Arc::new(AtomicUsize::new(0));
            let value = Some(Cloned(Arc::clone(&clones)));
            flight.land(Ok(Landed::new(value, Lifespan::new(Moment::START, Moment::NEVER), Source::Loader)));
            for wait in &mut waits {
                let landing = wait.poll_landing(&mut Context::from_waker(Waker::noop()));
                assert!(matches!(landing, Poll::Ready(Ok(Landed { value: Some(_), .. }))));
            }
            assert_eq!(clones.load(Ordering::SeqCst), waiters - 1);
            drop(waits);
            assert_eq!(flight.state().awaited, 0);
        }
    }
}
