//! Tables of flights, and those who wait for one.

use std::collections::hash_map::RandomState;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::key::KeyRef;

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
    flight.land(Err(Error::Busy), &mut Wakes::default());
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
        let landing = std::thread::spawn(move || flight.land(Err(Error::Busy), &mut Wakes::default()));
        assert!(matches!(runtime.block_on(wait.landing()), Err(Error::Busy)));
        landing.join().unwrap();
    }
}

#[tokio::test]
async fn the_first_landing_counts() {
    let (flight, mut wait) = flight();
    flight.land(Err(Error::Busy), &mut Wakes::default());
    flight.land(Err(Error::Closed), &mut Wakes::default());
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
        let landed = Landed::new(value, Lifespan::new(Moment::START, Moment::NEVER), Source::Loader);
        flight.land(Ok(landed), &mut Wakes::default());
        for wait in &mut waits {
            let landing = wait.poll_landing(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(landing, Poll::Ready(Ok(Landed { value: Some(_), .. }))));
        }
        assert_eq!(clones.load(Ordering::SeqCst), waiters - 1);
        drop(waits);
        assert_eq!(flight.state().awaited, 0);
    }
}

#[test]
fn what_a_flight_brought_is_encoded_once_for_all_peers() {
    let flight = start(&mut loads());
    let (times, all) = (AtomicUsize::new(0), std::sync::Barrier::new(8));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                all.wait();
                let encoded = flight.encoded(|| {
                    times.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    Ok(Bytes::from_static(b"value"))
                });
                assert_eq!(encoded.unwrap(), "value");
            });
        }
    });
    assert_eq!(times.into_inner(), 1);
}
