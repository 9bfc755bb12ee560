//! A store is held against the sentences of its header, and then against a model: one plain row of entries.

use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::order::overhead;
use super::*;

/// Counted by its owners, so that a test sees whether a store still holds one.
type Value = Arc<u32>;

/// What each entry of the examples costs: a key of one letter, a weight of 100, and the bookkeeping.
const ONE: usize = cost_of(1, 100);

const fn cost_of(key_len: usize, weight: usize) -> usize {
    key_len + weight + overhead::<Value>()
}

fn second(n: u64) -> Moment {
    Moment::after_start(Duration::from_secs(n))
}

fn key(name: &str) -> HashedKey {
    KeyRef::new(name.as_bytes()).to_owned()
}

/// Lives from the first second to the tenth.
fn entry(value: u32, weight: usize) -> Entry<Value> {
    Entry { value: Some(Arc::new(value)), weight, born: second(0), expires: second(10) }
}

/// An example: a store that is asked in its first second, and what it has let go of.
struct Example {
    store: Store<Value>,
    dropped: Dropped<Value>,
}

impl Example {
    /// Room for this many entries, and for how many hot ones among them.
    fn with_room(all: usize, hot: usize) -> Self {
        Self { store: Store::new(all * ONE, hot * ONE, 7), dropped: Dropped::default() }
    }

    /// Inserts an entry for each letter.
    fn add(&mut self, names: &str, place: Place) {
        for name in names.chars().map(String::from) {
            assert!(self.insert(&name, entry(0, 100), place), "{name} was refused");
        }
    }

    fn insert(&mut self, name: &str, entry: Entry<Value>, place: Place) -> bool {
        self.store.insert(key(name), entry, place, &mut self.dropped)
    }

    fn get(&mut self, name: &str, place: Place) -> Option<Value> {
        self.get_at(name, place, second(1))
    }

    fn get_at(&mut self, name: &str, place: Place, now: Moment) -> Option<Value> {
        let key = KeyRef::new(name.as_bytes());
        let value = self.store.look(key, place, now).map(|found| found.value.cloned());
        if value.is_none() {
            self.store.missed(key, now, &mut self.dropped);
        }
        value.flatten()
    }

    /// The keys in main and in hot, the oldest first.
    fn holds(&self) -> [String; 2] {
        [&self.store.main, &self.store.hot]
            .map(|list| list.oldest_first().map(|(key, _)| key.key.to_string()).collect())
    }
}

#[test]
fn the_oldest_goes_first_and_what_was_used_is_spared_once() {
    let mut example = Example::with_room(3, 0);
    example.add("abc", Place::Main);
    assert!(example.get("a", Place::Main).is_some());
    example.add("d", Place::Main);
    assert_eq!(example.holds(), ["cad", ""]);
    example.add("ef", Place::Main);
    assert_eq!(example.holds(), ["def", ""]);
    assert_eq!(example.store.usage().evictions, 3);
}

#[test]
fn readers_share_a_store() {
    let mut example = Example::with_room(2, 0);
    example.add("ab", Place::Main);
    let look = |name: &str| example.store.look(KeyRef::new(name.as_bytes()), Place::Main, second(1));
    let (a, b) = (look("a"), look("b"));
    assert!(a.is_some() && b.is_some(), "both are held at once");
}

#[test]
fn a_peek_touches_nothing() {
    let mut example = Example::with_room(2, 0);
    example.add("ab", Place::Main);
    assert!(example.store.peek(KeyRef::new(b"a"), second(1)).is_some());
    assert!(example.store.peek(KeyRef::new(b"a"), second(10)).is_none(), "it has expired");
    assert_eq!(example.holds(), ["ab", ""]);
    assert_eq!(example.store.usage().expiries, 0);
}

#[test]
fn main_may_use_what_hot_leaves() {
    let mut example = Example::with_room(4, 2);
    example.add("abcd", Place::Main);
    assert_eq!(example.holds(), ["abcd", ""]);
}

#[test]
fn main_gives_hots_share_back_and_no_more() {
    let mut example = Example::with_room(4, 2);
    example.add("abcd", Place::Main);
    example.add("xyz", Place::Hot);
    assert_eq!(example.holds(), ["cd", "yz"]);
    assert_eq!(example.store.usage().evictions, 3);
}

#[test]
fn main_leaves_hot_alone_while_it_has_entries_of_its_own() {
    let mut example = Example::with_room(4, 2);
    example.add("xy", Place::Hot);
    example.add("abcd", Place::Main);
    assert_eq!(example.holds(), ["cd", "xy"]);
}

#[test]
fn only_an_entry_too_large_for_what_hot_leaves_puts_hot_copies_out() {
    let mut example = Example::with_room(4, 2);
    example.add("xy", Place::Hot);
    example.add("ab", Place::Main);
    assert!(example.insert("c", entry(0, 100 + 2 * ONE), Place::Main));
    assert_eq!(example.holds(), ["c", "y"]);
}

#[test]
fn an_entry_met_in_the_other_list_moves_over_when_its_turn_comes() {
    let mut example = Example::with_room(4, 2);
    example.add("abcd", Place::Main);
    for name in ["a", "b", "c"] {
        assert!(example.get(name, Place::Hot).is_some());
    }
    assert_eq!(example.holds(), ["abcd", ""], "readers move nothing");
    example.add("e", Place::Main);
    assert_eq!(example.holds(), ["de", "ab"], "hot keeps to its share");
    assert!(example.get("b", Place::Main).is_some());
    example.add("xyz", Place::Hot);
    assert_eq!(example.holds(), ["eb", "yz"]);
    let usage = example.store.usage();
    assert_eq!((usage.main_bytes, usage.hot_bytes), (2 * ONE as u64, 2 * ONE as u64));
}

#[test]
fn an_entry_too_large_to_be_hot_is_served_from_main_and_ages_there() {
    for hot in [0, 1] {
        let mut example = Example::with_room(4, hot);
        assert!(example.insert("a", entry(0, 200), Place::Main));
        example.add("b", Place::Main);
        assert!(example.get("a", Place::Hot).is_some());
        assert_eq!(example.holds(), ["ab", ""]);
        assert_eq!(example.store.usage().refusals, 0);
        assert!(example.insert("c", entry(0, 100 + 2 * ONE), Place::Main));
        assert_eq!(example.holds(), ["bc", ""]);
    }
}

#[test]
fn with_no_share_hot_copies_are_switched_off() {
    let mut example = Example::with_room(4, 0);
    assert!(!example.insert("a", entry(0, 0), Place::Hot));
    assert_eq!(example.store.usage(), Usage { refusals: 1, ..Usage::default() });
}

#[test]
fn a_refused_entry_still_puts_out_what_it_would_have_replaced() {
    for weight in [100 + 4 * ONE, usize::MAX] {
        let mut example = Example::with_room(4, 2);
        example.add("ab", Place::Main);
        assert!(!example.insert("a", entry(0, weight), Place::Main));
        assert_eq!(example.holds(), ["b", ""]);
        assert_eq!(example.store.usage().refusals, 1);
    }
}

#[test]
fn an_entry_that_fits_to_the_byte_is_taken() {
    let mut example = Example::with_room(4, 2);
    assert!(example.insert("a", entry(0, 100 + 3 * ONE), Place::Main));
    assert!(!example.insert("a", entry(0, 101 + 3 * ONE), Place::Main));
    assert!(example.insert("a", entry(0, 100 + ONE), Place::Hot));
    assert!(!example.insert("a", entry(0, 101 + ONE), Place::Hot));
}

#[test]
fn an_insert_replaces_in_whichever_list_the_old_entry_lies() {
    for place in [Place::Main, Place::Hot] {
        let mut example = Example::with_room(4, 2);
        assert!(example.insert("a", entry(1, 100), place));
        assert!(example.insert("a", entry(2, 50), Place::Hot));
        assert_eq!(example.holds(), ["", "a"]);
        assert_eq!(example.get("a", Place::Hot).as_deref(), Some(&2));
        let usage = example.store.usage();
        assert_eq!((usage.hot_bytes, usage.evictions), (cost_of(1, 50) as u64, 0));
    }
}

#[test]
fn an_entry_found_expired_is_taken_out_and_counted() {
    for (lies, asked) in [(Place::Main, Place::Main), (Place::Main, Place::Hot), (Place::Hot, Place::Main)] {
        let mut example = Example::with_room(4, 2);
        example.add("a", lies);
        assert!(example.get_at("a", lies, second(9)).is_some());
        assert!(example.get_at("a", asked, second(10)).is_none());
        assert_eq!(example.store.usage(), Usage { expiries: 1, ..Usage::default() });
    }
}

#[test]
fn a_not_found_is_remembered_at_the_price_of_the_room_for_a_value() {
    let mut example = Example::with_room(4, 2);
    let nothing = Entry { value: None, weight: 0, ..entry(0, 0) };
    assert!(example.insert("a", nothing, Place::Main));
    let found = example.store.look(KeyRef::new(b"a"), Place::Main, second(1));
    assert!(found.is_some_and(|found| found.value.is_none()));
    assert_eq!(example.store.usage().main_bytes, cost_of(1, size_of::<Value>()) as u64);
}

#[test]
fn keys_that_share_a_hash_are_kept_apart() {
    let mut example = Example::with_room(4, 2);
    let [a, b] = [b"a", b"b"].map(|bytes| KeyRef { bytes, hash: KeyRef::new(b"same").hash });
    example.store.insert(a.to_owned(), entry(1, 100), Place::Main, &mut example.dropped);
    assert!(example.store.peek(b, second(1)).is_none());
    assert!(!example.store.remove(b, &mut example.dropped));
    assert!(example.store.remove(a, &mut example.dropped));
}

#[test]
fn no_value_is_dropped_by_the_store() {
    let mut example = Example::with_room(2, 1);
    let values: Vec<Value> = (0..6).map(Arc::new).collect();
    let holding = |n: usize| Entry { value: Some(values[n].clone()), ..entry(0, 100) };
    example.insert("a", holding(0), Place::Main);
    example.insert("a", holding(1), Place::Main); // replaces
    example.insert("b", holding(2), Place::Hot);
    example.insert("c", holding(3), Place::Main); // evicts
    example.insert("d", Entry { weight: 100 * ONE, ..holding(4) }, Place::Main); // is refused
    example.insert("e", Entry { expires: second(1), ..holding(5) }, Place::Hot); // evicts
    assert!(example.get("e", Place::Hot).is_none()); // finds it expired
    example.store.remove(KeyRef::new(b"c"), &mut example.dropped);
    example.add("fg", Place::Hot);
    example.store.clear(&mut example.dropped);

    assert_eq!(example.holds(), ["", ""]);
    assert!(values.iter().all(|value| Arc::strong_count(value) == 2), "each is still held");
    drop(example.dropped);
    assert!(values.iter().all(|value| Arc::strong_count(value) == 1), "each was let go of once");
}

#[test]
fn a_cleared_store_begins_anew_and_keeps_its_counters() {
    let mut example = Example::with_room(1, 0);
    example.add("ab", Place::Main);
    example.store.clear(&mut example.dropped);
    assert_eq!(example.store.usage(), Usage { evictions: 1, ..Usage::default() });
    example.add("c", Place::Main);
    assert_eq!(example.holds(), ["c", ""]);
}

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
#[derive(Clone, Debug, PartialEq)]
struct Held {
    key: u8,
    value: Option<u32>,
    cost: usize,
    expires: Moment,
    place: Place,
    used: Option<Place>,
}

/// The rules once more, without lists, tables or running sums: all entries in one row, the oldest first.
#[derive(Default)]
struct Model {
    budget: usize,
    hot_budget: usize,
    held: Vec<Held>,
    evictions: u64,
    expiries: u64,
    refusals: u64,
    let_go: Vec<u32>,
}

impl Model {
    fn find(&self, key: u8) -> Option<usize> {
        self.held.iter().position(|held| held.key == key)
    }

    fn bytes(&self, place: Option<Place>) -> usize {
        self.held.iter().filter(|held| place.is_none_or(|place| held.place == place)).map(|held| held.cost).sum()
    }

    fn limit(&self, place: Place) -> usize {
        if place == Place::Main { self.budget } else { self.hot_budget }
    }

    fn let_go(&mut self, at: usize) {
        self.let_go.extend(self.held.remove(at).value);
    }

    /// Takes the turn of the first entry of a list. Says whether there was one.
    fn turn(&mut self, place: Place) -> bool {
        let Some(at) = self.held.iter().position(|held| held.place == place) else { return false };
        let Held { used, cost, .. } = self.held[at];
        let has_room = |hot: &Self| hot.bytes(Some(Place::Hot)) + cost <= hot.hot_budget;
        match used {
            Some(used) if used == place || used == Place::Main || has_room(self) => {
                let held = Held { place: used, used: None, ..self.held.remove(at) };
                self.held.push(held);
            }
            _ => {
                self.evictions += 1;
                self.let_go(at);
            }
        }
        true
    }

    fn put(&mut self, held: Held) {
        while self.bytes(None) + held.cost > self.budget
            || held.place == Place::Hot && self.bytes(Some(Place::Hot)) + held.cost > self.hot_budget
        {
            let hot_first = held.place == Place::Hot && self.bytes(Some(Place::Hot)) + held.cost > self.hot_budget;
            let _ = !hot_first && self.turn(Place::Main) || self.turn(Place::Hot);
        }
        self.held.push(held);
    }

    fn get(&mut self, key: u8, place: Place, now: Moment) -> Option<Held> {
        let at = self.find(key)?;
        if now >= self.held[at].expires {
            self.expiries += 1;
            self.let_go(at);
            return None;
        }
        self.held[at].used = Some(place);
        Some(self.held[at].clone())
    }

    fn insert(&mut self, held: Held) -> bool {
        self.remove(held.key);
        let fits = held.cost <= self.limit(held.place);
        if fits {
            self.put(held);
        } else {
            self.refusals += 1;
            self.let_go.extend(held.value);
        }
        fits
    }

    fn remove(&mut self, key: u8) -> bool {
        let found = self.find(key);
        found.inspect(|at| self.let_go(*at)).is_some()
    }

    fn usage(&self) -> Usage {
        let entries = |place| self.held.iter().filter(|held| held.place == place).count() as u64;
        Usage {
            main_bytes: self.bytes(Some(Place::Main)) as u64,
            main_entries: entries(Place::Main),
            hot_bytes: self.bytes(Some(Place::Hot)) as u64,
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
        let model = Model { budget, hot_budget: hot_budget.min(budget), ..Model::default() };
        Self { store: Store::new(budget, hot_budget, 7), model, now: Moment::default(), values: Vec::new() }
    }

    /// Takes both through one step, and compares what they answer.
    fn step(&mut self, step: &Step, dropped: &mut Dropped<Value>) -> Result<(), TestCaseError> {
        match *step {
            Step::Get(key, place) => {
                let bytes = key_bytes(key);
                let got = self.store.look(KeyRef::new(&bytes), place, self.now);
                let got = got.map(|found| (found.value.map(|value| **value), found.expires));
                if got.is_none() {
                    self.store.missed(KeyRef::new(&bytes), self.now, dropped);
                }
                prop_assert_eq!(got, self.model.get(key, place, self.now).map(|held| (held.value, held.expires)));
            }
            Step::Peek(key) => {
                let got = self.store.peek(KeyRef::new(&key_bytes(key)), self.now);
                let got = got.map(|found| (found.value.map(|value| **value), found.expires));
                let held = self.model.held.iter().find(|held| held.key == key && self.now < held.expires);
                prop_assert_eq!(got, held.map(|held| (held.value, held.expires)));
            }
            Step::Insert { key, found, weight, life, place } => {
                let value = found.then(|| self.new_value());
                let expires = self.now + Duration::from_secs(life);
                let key_len = key_bytes(key).len();
                let cost = key_len.saturating_add(weight.max(size_of::<Value>())).saturating_add(overhead::<Value>());
                let held = Held { key, value: value.as_deref().copied(), cost, expires, place, used: None };
                let entry = Entry { value, weight, born: self.now, expires };
                let key = KeyRef::new(&key_bytes(key)).to_owned();
                prop_assert_eq!(self.store.insert(key, entry, place, dropped), self.model.insert(held));
            }
            Step::Remove(key) => {
                let removed = self.store.remove(KeyRef::new(&key_bytes(key)), dropped);
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

    fn new_value(&mut self) -> Value {
        let value = Arc::new(u32::try_from(self.values.len()).expect("a test has few values"));
        self.values.push(value.clone());
        value
    }

    /// Walks both lists: the same entries in the same order as the model's, and every byte is accounted for.
    fn check_lists(&self) -> Result<(), TestCaseError> {
        for place in [Place::Main, Place::Hot] {
            let list = self.store.list(place);
            let held = || self.model.held.iter().filter(|held| held.place == place);
            let walked: Vec<_> = list
                .oldest_first()
                .map(|(key, kept)| (key.key.to_vec(), kept.entry.value.as_deref().copied()))
                .collect();
            prop_assert_eq!(walked, held().map(|held| (key_bytes(held.key), held.value)).collect::<Vec<_>>());
            let bytes: usize = list.oldest_first().map(|(key, kept)| cost(&key.key, &kept.entry)).sum();
            prop_assert_eq!(bytes, list.bytes());
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
        let in_lists = dropped.lists.iter().flat_map(Order::oldest_first);
        let in_lists = in_lists.filter_map(|(_, kept)| kept.entry.value.as_ref());
        let mut dropped: Vec<u32> = dropped.values.iter().chain(in_lists).map(|value| **value).collect();
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
    fn a_store_does_what_its_model_does(budget in 0_usize..2500, hot_budget in 0_usize..1500, steps in steps()) {
        let mut pair = Pair::new(budget, hot_budget);
        for step in &steps {
            let mut dropped = Dropped::default();
            pair.step(step, &mut dropped)?;
            pair.check_lists()?;
            pair.check_usage()?;
            pair.check_dropped(&dropped)?;
            drop(dropped);
            pair.check_owners()?;
        }
        drop(pair.store);
        prop_assert!(pair.values.iter().all(|value| Arc::strong_count(value) == 1));
    }
}
