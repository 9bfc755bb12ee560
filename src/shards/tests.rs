//! Flights and removals in any order, against a model: what may be kept, who is woken, and that every lead lands.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::error::Error;
use crate::flight::Flight;
use crate::key::Key;
use crate::lifespan::Lifespan;

const KEYS: usize = 2;

const ENDLESS: Lifespan = Lifespan { born: Moment::START, soft: Moment::NEVER, hard: Moment::NEVER, grace: false };

/// What may happen. Numbers pick one of the leads that there are.
#[derive(Clone, Copy, Debug)]
enum Step {
    Join(usize, Kind),
    Begin(usize),
    Land(usize),
    Fail(usize),
    Abandon(usize),
    Insert(usize),
    Remove(usize),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..KEYS).prop_map(|key| Step::Join(key, Kind::Load)),
        3 => (0..KEYS).prop_map(|key| Step::Join(key, Kind::Fetch)),
        6 => any::<usize>().prop_map(Step::Begin),
        4 => any::<usize>().prop_map(Step::Land),
        1 => any::<usize>().prop_map(Step::Fail),
        1 => any::<usize>().prop_map(Step::Abandon),
        1 => (0..KEYS).prop_map(Step::Insert),
        3 => (0..KEYS).prop_map(Step::Remove),
        1 => Just(Step::Clear),
    ]
}

/// A lead, and at which version of its key it began.
struct Led {
    lead: Lead<u64>,
    key: usize,
    began: Option<u64>,
}

/// Who waits, since which version of the key.
struct Waiter {
    flight: Arc<Flight<u64>>,
    key: usize,
    since: u64,
}

/// Shards, and who leads and waits. Each key has a version, which removals and inserts raise; the value of a load
/// is the version at which it began.
struct World {
    shards: Arc<Shards<u64>>,
    versions: [u64; KEYS],
    led: Vec<Led>,
    parked: Vec<Arc<Flight<u64>>>,
    waiters: Vec<Waiter>,
}

fn key(number: usize) -> HashedKey {
    HashedKey::new(Key::new(&number.to_string()))
}

fn landed(version: u64) -> Landed<u64> {
    Landed::new(Some(version), ENDLESS, Source::Loader)
}

impl World {
    fn new() -> Self {
        let shards = Arc::new(Shards::new(1 << 20, (0.5, 0.0), Duration::ZERO, Clock::start(), || 7));
        Self { shards, versions: [0; KEYS], led: Vec::new(), parked: Vec::new(), waiters: Vec::new() }
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Join(key, kind) => self.join(key, kind)?,
            Step::Begin(pick) => {
                let fits = |led: &Led| led.lead.kind == Kind::Load && led.began.is_none();
                if let Some(led) = self.pick(pick, fits) {
                    self.begin(led)?;
                }
            }
            Step::Land(pick) => {
                if let Some(led) = self.pick(pick, |led| led.began.is_some()) {
                    self.land(led)?;
                }
            }
            Step::Fail(pick) => {
                if let Some(led) = self.pick(pick, |_| true) {
                    let next = led.lead.land(Err(Error::Busy), None).1;
                    self.comes_back(next, led.key)?;
                }
            }
            Step::Abandon(pick) => {
                drop(self.pick(pick, |_| true));
                self.parked.retain(|flight| flight.landing().is_none());
            }
            Step::Insert(number) => {
                self.versions[number] += 1;
                let value = Some(self.versions[number]);
                let entry = Entry { value, weight: 8, life: ENDLESS, tagged: None };
                prop_assert!(self.shards.insert(&key(number), entry, Place::Main, &mut Dropped::default()));
            }
            Step::Remove(number) => {
                self.versions[number] += 1;
                self.shards.remove(key(number).as_ref());
            }
            Step::Clear => {
                self.versions.iter_mut().for_each(|version| *version += 1);
                self.shards.clear();
            }
        }
        Ok(())
    }

    fn pick(&mut self, number: usize, fits: impl Fn(&Led) -> bool) -> Option<Led> {
        let places: Vec<usize> = (0..self.led.len()).filter(|place| fits(&self.led[*place])).collect();
        (!places.is_empty()).then(|| self.led.remove(places[number % places.len()]))
    }

    fn join(&mut self, number: usize, kind: Kind) -> Result<(), TestCaseError> {
        let version = self.versions[number];
        let flight =
            match self.shards.look_or_join(key(number).as_ref(), Place::Main, kind, Demand::NONE, Moment::default()) {
                Look::Found(found) => {
                    prop_assert_eq!(found.value, Some(version));
                    return Ok(());
                }
                Look::Joined(wait) => {
                    let flight = Arc::clone(wait.flight());
                    let is_it = |other: &Arc<Flight<u64>>| Arc::ptr_eq(other, &flight);
                    let led = self.led.iter().find(|led| is_it(led.lead.flight()));
                    prop_assert!(led.is_some() || self.parked.iter().any(is_it), "nobody leads it");
                    let began = led.and_then(|led| led.began);
                    prop_assert!(began.is_none_or(|began| began == version), "it was voided");
                    flight
                }
                Look::PastSoft(..) => return Err(TestCaseError::fail("nothing here has a soft limit")),
                Look::Lead(lead, _) => {
                    let flight = Arc::clone(lead.flight());
                    self.led.push(Led { began: (kind == Kind::Fetch).then_some(version), lead, key: number });
                    flight
                }
            };
        self.waiters.push(Waiter { flight, key: number, since: version });
        Ok(())
    }

    fn begin(&mut self, Led { lead, key, .. }: Led) -> Result<(), TestCaseError> {
        let flight = Arc::clone(lead.flight());
        let running = self.running(key);
        match lead.begin(Place::Main, Moment::default()) {
            Begin::Go(lead) => {
                prop_assert!(running < LOADS_OF_A_KEY);
                self.led.push(Led { lead, key, began: Some(self.versions[key]) });
            }
            Begin::No if flight.landing().is_some() => {}
            Begin::No => {
                prop_assert_eq!(running, LOADS_OF_A_KEY, "it need not be parked");
                self.parked.push(flight);
            }
        }
        Ok(())
    }

    fn land(&mut self, Led { lead, key, began }: Led) -> Result<(), TestCaseError> {
        let version = began.unwrap();
        let place = if lead.kind == Kind::Load { Place::Main } else { Place::Hot };
        let (voided, next) = lead.land(Ok(landed(version)), Some(Keep { place, weight: 8 }));
        prop_assert_eq!(voided, version < self.versions[key]);
        self.comes_back(next, key)
    }

    fn comes_back(&mut self, next: Option<Lead<u64>>, key: usize) -> Result<(), TestCaseError> {
        let Some(lead) = next else { return Ok(()) };
        let place = self.parked.iter().position(|flight| Arc::ptr_eq(flight, lead.flight()));
        prop_assert!(place.is_some(), "it was not parked");
        self.parked.remove(place.unwrap());
        self.led.push(Led { lead, key, began: None });
        Ok(())
    }

    fn running(&self, key: usize) -> usize {
        let runs = |led: &&Led| led.key == key && led.lead.kind == Kind::Load && led.began.is_some();
        self.led.iter().filter(runs).count()
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for (number, version) in self.versions.iter().enumerate() {
            let kept = self.shards.peek(key(number).as_ref(), |_| true);
            prop_assert!(kept.is_none_or(|kept| kept == *version), "{:?} is older than {}", kept, version);
            prop_assert!(self.running(number) <= LOADS_OF_A_KEY);
        }
        let led = |flight: &Arc<Flight<u64>>| self.led.iter().any(|led| Arc::ptr_eq(led.lead.flight(), flight));
        for Waiter { flight, key, since } in &self.waiters {
            let landing = flight.landing();
            let is_ahead = led(flight) || self.parked.iter().any(|parked| Arc::ptr_eq(parked, flight));
            prop_assert_eq!(landing.is_none(), is_ahead, "a waiter of {} is stranded, or was told too soon", key);
            if let Some(Ok(landed)) = landing {
                prop_assert!(landed.value.unwrap() >= *since, "older than what was promised when it came");
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), TestCaseError> {
        while let Some(led) = self.led.pop() {
            if led.began.is_some() {
                self.land(led)?;
            } else {
                self.begin(led)?;
            }
            self.check()?;
        }
        prop_assert!(self.parked.is_empty(), "left behind");
        prop_assert_eq!(self.shards.usage().1, 0, "left behind");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn whatever_happens_two_loads_run_nothing_stale_is_kept_and_everybody_lands(steps in vec(step(), 0..80)) {
        let mut world = World::new();
        for step in steps {
            world.step(step)?;
            world.check()?;
        }
        world.end()?;
    }
}

/// How often, of so many times, a value stays that was loaded before a removal that came from another thread just when
/// it landed.
#[cfg(feature = "test-util")]
fn stays_after_removal(times: usize, bug: Option<crate::planted::Bug>) -> usize {
    use std::sync::Barrier;

    let stays = |_: &usize| {
        let (shards, start) = (World::new().shards, Barrier::new(2));
        let place = Place::Main;
        let look = shards.look_or_join(key(0).as_ref(), place, Kind::Load, Demand::NONE, Moment::START);
        let Look::Lead(lead, _wait) = look else { panic!("the first look leads") };
        let Begin::Go(lead) = lead.begin(place, Moment::START) else { panic!("nothing is in its way") };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                shards.remove(key(0).as_ref());
            });
            let _bug = bug.map(crate::planted::plant);
            start.wait();
            let _ = lead.land(Ok(landed(1)), Some(Keep { place, weight: 1 }));
        });
        shards.peek(key(0).as_ref(), |_| true).is_some()
    };
    (0..times).filter(stays).count()
}

#[test]
#[cfg(feature = "test-util")]
fn a_removal_never_comes_between_the_look_whether_a_flight_was_voided_and_the_install() {
    assert_eq!(stays_after_removal(1_000, None), 0);
    assert!(stays_after_removal(1_000, Some(crate::planted::Bug::TwoLocks)) > 0, "with two locks it would");
}

#[test]
fn keys_of_one_shard_still_differ_in_the_bits_that_its_tables_look_at() {
    let shards = Shards::<u64>::new(32 << 20, (0.5, 0.0), Duration::ZERO, Clock::start(), || 7);
    let count = shards.count();
    assert!(count > 1, "nothing is sorted");
    // By shard: how many keys have each value of the low seven bits, and of the top seven.
    let mut seen = vec![[[0_usize; 128]; 2]; count];
    for number in 0..count * 128 * 64 {
        let key = number.to_string();
        let sought = shards.sought(key.as_bytes());
        let at = shards.shards.iter().position(|shard| std::ptr::eq(shard, shards.shard(&sought))).unwrap();
        for (counts, bits) in seen[at].iter_mut().zip([sought.hash() & 127, sought.hash() >> 57]) {
            counts[usize::try_from(bits).unwrap()] += 1;
        }
    }
    for counts in seen.iter().flatten() {
        assert!(counts.iter().all(|count| (24..=120).contains(count)), "{counts:?}");
    }
}

#[test]
fn bytes_are_kept_of_the_value_that_is_there_and_of_no_other() {
    let shards = Shards::<u64>::new(1 << 20, (0.5, 0.125), Duration::ZERO, Clock::start(), || 7);
    let insert = |value| {
        let entry = Entry { value: Some(value), weight: 8, life: ENDLESS, tagged: None };
        assert!(shards.insert(&key(0), entry, Place::Main, &mut Dropped::default()));
    };
    let look = || shards.look_encoded(b"0", |_| Place::Main, Moment::START).unwrap();
    for len in [10, 90_000] {
        let bytes = bytes::Bytes::from(vec![1; len]);
        insert(1);
        for _ in 0..2 {
            let asked = look();
            assert_eq!(asked.encoded, None, "the second time is what counts");
            shards.note_encoded(b"0", &asked, &bytes);
        }
        let asked = look();
        assert_eq!(asked.encoded.as_ref(), Some(&bytes));
        insert(2);
        assert_eq!(look().encoded, None, "these are of the value before");
        for _ in 0..2 {
            shards.note_encoded(b"0", &asked, &bytes);
        }
        assert_eq!((look().encoded, shards.usage().0.encoded_bytes), (None, 0));
    }
}
