//! Any steps, taken by a store and by a model of it.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::entry::MOST_USES;
use super::*;

/// What is done to the store and to the model.
#[derive(Clone, Debug)]
enum Step {
    Get(u8, Place),
    Peek(u8),
    Insert { key: u8, found: bool, weight: usize, life: u64, place: Place },
    Remove(u8),
    Clear,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || 0_u8..10;
    let place = || prop_oneof![2 => Just(Place::Main), 1 => Just(Place::Hot)];
    let weight = prop_oneof![9 => 0_usize..400, 2 => 400_usize..2000, 1 => Just(usize::MAX)];
    let insert = (key(), prop::bool::weighted(0.8), weight, 0_u64..20, place())
        .prop_map(|(key, found, weight, life, place)| Step::Insert { key, found, weight, life, place });
    let step = prop_oneof![
        30 => (key(), place()).prop_map(|(key, place)| Step::Get(key, place)),
        5 => key().prop_map(Step::Peek),
        30 => insert,
        5 => key().prop_map(Step::Remove),
        1 => Just(Step::Clear),
        5 => (1_u64..6).prop_map(Step::Wait),
    ];
    vec(step, 1..150)
}

/// Keys of several lengths, so that what a key costs matters.
fn key_bytes(key: u8) -> Vec<u8> {
    vec![key; usize::from(key) * 7]
}

/// What the model holds for a key. The value is named by its number.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Held {
    key: u8,
    value: Option<u32>,
    cost: usize,
    expires: Moment,
    place: Place,
    rank: Rank,
    uses: u8,
    asked: Place,
    /// When it took its place, as coarsely as the store tells.
    turn: u32,
}

/// The rules once more, without queues, tables or running sums: all entries in one row, in the order in which they took
/// their places. Only the ghosts and the balance are the real ones, which have tests of their own.
struct Model {
    budget: usize,
    hot_budget: usize,
    held: Vec<Held>,
    ghosts: Ghosts,
    balance: Balance,
    places_taken: u32,
    evictions: u64,
    expiries: u64,
    refusals: u64,
    let_go: Vec<u32>,
}

/// What is asked for room: who may have to give some.
#[derive(Clone, Copy, PartialEq)]
enum Among {
    Everybody,
    Copies,
}

fn trace_of(key: u8) -> u64 {
    scatter().hash(&key_bytes(key))
}

/// Where a slot lies: it must be the one that came with the key.
fn place_of(slot: Slot, key: u8, place: Place) -> Place {
    assert_eq!(slot, Slot(u16::from(key)));
    place
}

/// Up to what can be told in eleven bits and a number of zeros.
fn rounded(cost: usize) -> usize {
    let mut step = 1;
    while cost.div_ceil(step) > 2047 {
        step *= 2;
    }
    cost.div_ceil(step).saturating_mul(step)
}

impl Model {
    fn new(budget: usize, hot_budget: usize) -> Self {
        Self {
            budget,
            hot_budget,
            held: Vec::new(),
            ghosts: Ghosts::for_each_eight(REMEMBERED),
            balance: Balance::new(budget),
            places_taken: 0,
            evictions: 0,
            expiries: 0,
            refusals: 0,
            let_go: Vec::new(),
        }
    }

    fn find(&self, key: u8) -> Option<usize> {
        self.held.iter().position(|held| held.key == key)
    }

    fn bytes(&self, counts: impl Fn(&Held) -> bool) -> usize {
        self.held.iter().filter(|held| counts(held)).map(|held| held.cost).sum()
    }

    fn limit(&self, place: Place) -> usize {
        if place == Place::Main { self.budget } else { self.hot_budget }
    }

    fn has_protected_room(&self, cost: usize) -> bool {
        self.bytes(|held| held.rank == Rank::Protected) + cost <= self.balance.protected()
    }

    fn put(&mut self, held: Held) {
        self.places_taken += 1;
        self.held.push(Held { turn: self.places_taken >> TURN, ..held });
    }

    /// The next of a rank: the one that took its place first, and of main if that cannot be told.
    fn next(&self, rank: Rank, among: Among) -> Option<usize> {
        let may = |held: &Held| held.rank == rank && (among == Among::Everybody || held.place == Place::Hot);
        let row = self.held.iter().enumerate().filter(|(_, held)| may(held));
        row.min_by_key(|(at, held)| (held.turn, held.place == Place::Hot, *at)).map(|(at, _)| at)
    }

    fn turn(&mut self, rank: Rank, among: Among, reserved: usize, patience: &mut usize) -> bool {
        let Some(at) = self.next(rank, among) else { return false };
        let Held { key, cost, uses, .. } = self.held[at];
        let mut becomes = rank;
        if rank == Rank::Probation && *patience > 0 && uses > 0 {
            let is_welcome = self.make_protected_room(cost + reserved, &mut { PATIENCE });
            becomes = if is_welcome { Rank::Protected } else { Rank::Probation };
        }
        let mut held = self.held.remove(self.find(key).expect("only protected entries went"));
        let moves = held.asked != held.place && held.asked == Place::Hot;
        let has_place = !moves || self.bytes(|held| held.place == Place::Hot) + held.cost <= self.hot_budget;
        if *patience > 0 && held.uses > 0 && has_place {
            *patience -= 1;
            (held.uses, held.place, held.rank) = (held.uses - 1, held.asked, becomes);
            self.put(held);
        } else {
            self.evictions += 1;
            let (trace, beside) = (trace_of(held.key), self.held.len());
            if rank == Rank::Probation {
                self.ghosts.add(trace, beside);
                self.balance.went_from_probation(trace, beside);
            } else {
                self.balance.went_from_protected(trace, beside);
            }
            self.let_go.extend(held.value);
        }
        true
    }

    fn make_protected_room(&mut self, cost: usize, patience: &mut usize) -> bool {
        while !self.has_protected_room(cost) {
            if *patience == 0 || cost > self.balance.protected() {
                return false;
            }
            self.turn(Rank::Protected, Among::Everybody, 0, patience);
        }
        true
    }

    /// Whether an entry of the protected went that was not used.
    fn gives_way(&mut self, patience: &mut usize) -> bool {
        let before = self.evictions;
        while *patience > 0 && self.evictions == before {
            if !self.turn(Rank::Protected, Among::Everybody, 0, patience) {
                return false;
            }
        }
        self.evictions > before
    }

    fn evict(&mut self, among: Among, reserved: usize, patience: &mut usize) {
        let _ = self.turn(Rank::Probation, among, reserved, patience)
            || self.turn(Rank::Protected, among, reserved, patience);
    }

    fn get(&mut self, key: u8, place: Place, now: Moment) -> Option<Held> {
        let at = self.find(key)?;
        if now >= self.held[at].expires {
            self.expiries += 1;
            self.remove(key);
            return None;
        }
        let held = &mut self.held[at];
        (held.uses, held.asked) = (MOST_USES.min(held.uses + 1), place);
        Some(*held)
    }

    fn insert(&mut self, held: Held) -> bool {
        self.remove(held.key);
        if held.cost > self.limit(held.place) {
            self.refusals += 1;
            self.let_go.extend(held.value);
            return false;
        }
        let cost = held.cost;
        let on_probation = |held: &Held| held.rank == Rank::Probation;
        let mean = self.bytes(|_| true) / self.held.len().max(1);
        self.balance.comes(trace_of(held.key), mean, self.bytes(on_probation));
        let is_known = self.ghosts.take(trace_of(held.key));
        let room = if self.evictions == 0 { self.budget } else { self.budget / 4 * 3 };
        let is_roomy = self.bytes(|_| true) + cost <= room && self.has_protected_room(cost);
        let mut patience = PATIENCE;
        let is_protected = is_roomy || is_known && self.make_protected_room(cost, &mut patience);
        let (rank, reserved) = if is_protected { (Rank::Protected, cost) } else { (Rank::Probation, 0) };
        let mut spared = PATIENCE;
        while self.bytes(|_| true) + cost > self.budget {
            let is_short = self.bytes(on_probation) < self.balance.probation();
            if !is_short || !self.gives_way(&mut patience) {
                self.evict(Among::Everybody, reserved, &mut spared);
            }
        }
        while held.place == Place::Hot && self.bytes(|held| held.place == Place::Hot) + cost > self.hot_budget {
            self.evict(Among::Copies, reserved, &mut spared);
        }
        self.put(Held { rank, ..held });
        true
    }

    fn remove(&mut self, key: u8) -> bool {
        let Some(at) = self.find(key) else { return false };
        let held = self.held.remove(at);
        if held.rank == Rank::Protected || held.uses > 0 {
            self.ghosts.add(trace_of(key), self.held.len());
        }
        self.let_go.extend(held.value);
        true
    }

    fn usage(&self) -> Usage {
        let entries = |place| self.held.iter().filter(|held| held.place == place).count() as u64;
        Usage {
            main_bytes: self.bytes(|held| held.place == Place::Main) as u64,
            main_entries: entries(Place::Main),
            hot_bytes: self.bytes(|held| held.place == Place::Hot) as u64,
            hot_entries: entries(Place::Hot),
            evictions: self.evictions,
            expiries: self.expiries,
            refusals: self.refusals,
        }
    }
}

/// A store and its model, taken through the same steps.
struct Pair {
    store: Store<Value>,
    model: Model,
    now: Moment,
    /// Every value that ever went in, by its number.
    values: Vec<Value>,
}

impl Pair {
    fn new(budget: usize, hot_budget: usize) -> Self {
        let model = Model::new(budget, hot_budget.min(budget));
        Self {
            store: Store::new(budget, hot_budget, GRACE, scatter()),
            model,
            now: Moment::default(),
            values: Vec::new(),
        }
    }

    /// Takes both through one step, and compares what they answer.
    fn step(&mut self, step: &Step, dropped: &mut Dropped<Value>) -> Result<(), TestCaseError> {
        match *step {
            Step::Get(key, place) => {
                let bytes = key_bytes(key);
                let got = self.store.look(&sought(&bytes), |slot| place_of(slot, key, place), self.now);
                let got = got.map(|(found, _)| (found.value().map(|value| **value), found.told().life().hard));
                if got.is_none() {
                    self.store.missed(&sought(&bytes), self.now, dropped);
                }
                prop_assert_eq!(got, self.model.get(key, place, self.now).map(|held| (held.value, held.expires)));
            }
            Step::Peek(key) => {
                let bytes = key_bytes(key);
                let got = self.store.peek(&sought(&bytes), self.now);
                let got = got.map(|found| (found.value().map(|value| **value), found.told().life().hard));
                let held = self.model.held.iter().find(|held| held.key == key && self.now < held.expires);
                prop_assert_eq!(got, held.map(|held| (held.value, held.expires)));
            }
            Step::Insert { key, found, weight, life, place } => {
                self.insert(key, found, weight, life, place, dropped)?;
            }
            Step::Remove(key) => {
                let removed = self.store.remove(&sought(&key_bytes(key)), dropped);
                prop_assert_eq!(removed, self.model.remove(key));
            }
            Step::Clear => {
                self.store.clear(dropped);
                self.model.let_go.extend(self.model.held.drain(..).filter_map(|held| held.value));
            }
            Step::Wait(seconds) => self.now = self.now + Duration::from_secs(seconds),
        }
        Ok(())
    }

    fn insert(
        &mut self,
        key: u8,
        found: bool,
        weight: usize,
        life: u64,
        place: Place,
        dropped: &mut Dropped<Value>,
    ) -> Result<(), TestCaseError> {
        let value = found.then(|| self.new_value());
        let expires = self.now + Duration::from_secs(life);
        let bytes = key_bytes(key);
        let long = if bytes.len() > 22 { bytes.len() } else { 0 };
        let held = Held {
            key,
            value: value.as_deref().copied(),
            cost: rounded(weight.max(size_of::<Value>()).saturating_add(long).saturating_add(overhead::<Value>())),
            expires,
            place,
            rank: Rank::Probation,
            uses: 0,
            asked: place,
            turn: 0,
        };
        let entry = Entry { value, weight, life: Lifespan::new(self.now, expires), tagged: None };
        let before = self.store.places_taken;
        prop_assert_eq!(
            self.store.insert(&sought(&bytes), Slot(u16::from(key)), entry, place, dropped),
            self.model.insert(held)
        );
        let moved = self.store.places_taken - before;
        // The newcomer, those that it and those that are spared for it pass by, and those that are spared.
        prop_assert!(moved as usize <= 1 + PATIENCE + PATIENCE * (1 + PATIENCE), "an insert moved {}", moved);
        Ok(())
    }

    fn new_value(&mut self) -> Value {
        let value = Arc::new(u32::try_from(self.values.len()).expect("a test has few values"));
        self.values.push(value.clone());
        value
    }

    /// Walks all queues: the same entries in the same order as the model's, and every byte is accounted for.
    fn check_queues(&self) -> Result<(), TestCaseError> {
        for place in [Place::Main, Place::Hot] {
            for rank in [Rank::Protected, Rank::Probation] {
                let queue = self.store.side(place).queue(rank);
                let held = self.model.held.iter().filter(|held| held.place == place && held.rank == rank);
                let value = |kept: &Kept<Value>| kept.held.value().map(|value| **value);
                let walked: Vec<_> = queue.oldest_first().map(|(key, kept)| (key.to_vec(), value(kept))).collect();
                prop_assert_eq!(walked, held.map(|held| (key_bytes(held.key), held.value)).collect::<Vec<_>>());
                let bytes: usize = queue.oldest_first().map(|(_, kept)| kept.cost()).sum();
                prop_assert_eq!(bytes, queue.bytes());
            }
        }
        Ok(())
    }

    fn check_usage(&self) -> Result<(), TestCaseError> {
        let usage = self.store.usage();
        prop_assert_eq!(usage, self.model.usage());
        prop_assert!(usage.main_bytes + usage.hot_bytes <= self.model.budget as u64);
        prop_assert!(usage.hot_bytes <= self.model.hot_budget as u64);
        Ok(())
    }

    /// What the store has let go of since the last check is what the model has.
    fn check_dropped(&mut self, dropped: &Dropped<Value>) -> Result<(), TestCaseError> {
        let in_queues = dropped.queues.iter().flat_map(Order::oldest_first).filter_map(|(_, kept)| kept.held.value());
        let mut dropped: Vec<u32> = dropped.values.iter().chain(in_queues).map(|value| **value).collect();
        dropped.sort_unstable();
        self.model.let_go.sort_unstable();
        prop_assert_eq!(dropped, std::mem::take(&mut self.model.let_go));
        Ok(())
    }

    /// Each value is owned by the test, and by the store if it should be.
    fn check_owners(&self) -> Result<(), TestCaseError> {
        for value in &self.values {
            let held = self.model.held.iter().any(|held| held.value == Some(**value));
            prop_assert_eq!(Arc::strong_count(value), 1 + usize::from(held), "value {}", value);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn a_store_does_what_its_model_does(budget in 0_usize..4000, hot_budget in 0_usize..2500, steps in steps()) {
        let mut pair = Pair::new(budget, hot_budget);
        for step in &steps {
            let mut dropped = Dropped::default();
            pair.step(step, &mut dropped)?;
            pair.check_queues()?;
            pair.check_usage()?;
            pair.check_dropped(&dropped)?;
            drop(dropped);
            pair.check_owners()?;
        }
        drop(pair.store);
        prop_assert!(pair.values.iter().all(|value| Arc::strong_count(value) == 1));
    }
}
