//! A store is held against the sentences of its header, and then against a model: one plain row of entries.

use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::entry::{MOST_USES, overhead};
use super::*;

/// Counted by its owners, so that a test sees whether a store still holds one.
type Value = Arc<u32>;

/// What each entry of the examples costs: a short key, a weight of 100, and the bookkeeping.
const ONE: usize = 100 + overhead::<Value>();

fn second(n: u64) -> Moment {
    Moment::after_start(Duration::from_secs(n))
}

fn key(name: &str) -> KeyRef<'_> {
    KeyRef::new(name.as_bytes())
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
    /// Room for this many entries, all but one of them protected, and for how many hot ones among them.
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

    /// Asks for an entry for each letter.
    fn use_all(&mut self, names: &str, place: Place) {
        for name in names.chars().map(String::from) {
            assert!(self.get(&name, place).is_some(), "{name} is not there");
        }
    }

    fn get_at(&mut self, name: &str, place: Place, now: Moment) -> Option<Value> {
        let value = self.store.look(key(name), place, now).map(|found| found.value.cloned());
        if value.is_none() {
            self.store.missed(key(name), now, &mut self.dropped);
        }
        value.flatten()
    }

    /// The keys in main and in hot: the protected ones, a bar, those on probation; the oldest of each first.
    fn holds(&self) -> [String; 2] {
        [&self.store.main, &self.store.hot].map(|side| {
            let names = |rank| -> String {
                side.queue(rank).oldest_first().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect()
            };
            format!("{}|{}", names(Rank::Protected), names(Rank::Probation))
        })
    }
}

#[test]
fn what_is_asked_for_once_passes_through_and_leaves_the_rest_alone() {
    let mut example = Example::with_room(4, 0);
    example.add("abcd", Place::Main);
    assert_eq!(example.holds(), ["abc|d", "|"]);
    example.add("efgh", Place::Main);
    assert_eq!(example.holds(), ["abc|h", "|"]);
    assert_eq!(example.store.usage().evictions, 4);
}

#[test]
fn what_is_used_on_probation_becomes_protected() {
    let mut example = Example::with_room(4, 0);
    example.add("abcd", Place::Main);
    example.use_all("d", Place::Main);
    example.add("e", Place::Main);
    assert_eq!(example.holds(), ["bcd|e", "|"]);
}

#[test]
fn what_comes_back_while_its_trace_is_there_is_protected_at_once() {
    let mut example = Example::with_room(4, 0);
    example.add("abcded", Place::Main);
    assert_eq!(example.holds(), ["bcd|e", "|"]);
}

#[test]
fn a_used_entry_gives_up_a_use_and_stays() {
    let mut example = Example::with_room(4, 0);
    example.add("abcd", Place::Main);
    example.use_all("ad", Place::Main);
    example.add("e", Place::Main);
    assert_eq!(example.holds(), ["cad|e", "|"]);
    example.use_all("e", Place::Main);
    example.add("f", Place::Main);
    assert_eq!(example.holds(), ["ade|f", "|"], "the next to go is c, and then a, whose use is used up");
}

#[test]
fn who_finds_only_used_ones_is_turned_away() {
    let mut example = Example::with_room(4, 0);
    example.add("abcde", Place::Main);
    example.use_all("abc", Place::Main);
    example.add("d", Place::Main);
    assert_eq!(example.holds(), ["abc|d", "|"]);
    example.add("ed", Place::Main);
    assert_eq!(example.holds(), ["bce|d", "|"], "by then their uses are used up, and the first who is known gets in");
}

#[test]
fn a_loop_that_is_a_little_too_large_keeps_what_fits() {
    let names: Vec<String> = (0..120).map(|number| format!("key-{number}")).collect();
    let mut example = Example::with_room(100, 0);
    let mut hits = 0;
    for round in 0..20 {
        for name in &names {
            if example.get(name, Place::Main).is_some() {
                hits += u32::from(round >= 10);
            } else {
                example.insert(name, entry(0, 100), Place::Main);
            }
        }
    }
    assert!(hits >= 10 * 95, "{hits} of 1200, of which 1000 could be");
}

#[test]
fn what_was_proven_and_removed_or_expired_is_protected_when_it_comes_back() {
    for removed in [true, false] {
        let mut example = Example::with_room(4, 0);
        example.add("abcd", Place::Main);
        if removed {
            assert!(example.store.remove(key("a"), &mut example.dropped));
        } else {
            assert!(example.get_at("a", Place::Main, second(10)).is_none());
        }
        example.add("x", Place::Main);
        assert_eq!(example.holds(), ["bcx|d", "|"]);
        example.add("a", Place::Main);
        assert_eq!(example.holds(), ["cxa|d", "|"]);
    }
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
    let mut example = Example::with_room(4, 0);
    example.add("abcd", Place::Main);
    assert!(example.store.peek(key("d"), second(1)).is_some());
    assert!(example.store.peek(key("d"), second(10)).is_none(), "it has expired");
    example.add("e", Place::Main);
    assert_eq!(example.holds(), ["abc|e", "|"]);
    assert_eq!(example.store.usage().expiries, 0);
}

#[test]
fn main_may_use_what_hot_leaves() {
    let mut example = Example::with_room(4, 2);
    example.add("abcd", Place::Main);
    assert_eq!(example.holds(), ["abc|d", "|"]);
}

#[test]
fn copies_compete_with_main_by_their_use() {
    let mut example = Example::with_room(4, 2);
    example.add("abcd", Place::Main);
    example.add("xyz", Place::Hot);
    assert_eq!(example.holds(), ["abc|", "|z"], "like everything that is asked for once");
    example.use_all("z", Place::Hot);
    example.use_all("a", Place::Main);
    example.add("e", Place::Main);
    assert_eq!(example.holds(), ["ca|e", "z|"]);
}

#[test]
fn copies_keep_to_their_share_whatever_their_use() {
    let mut example = Example::with_room(6, 2);
    example.add("ab", Place::Main);
    example.add("xyz", Place::Hot);
    assert_eq!(example.holds(), ["ab|", "yz|"]);
    for _ in 0..5 {
        example.use_all("yz", Place::Hot);
    }
    example.add("x", Place::Hot);
    let usage = example.store.usage();
    assert_eq!((usage.main_entries, usage.hot_entries), (2, 2));
    assert!(example.get("x", Place::Hot).is_some(), "who comes is taken in");
}

#[test]
fn of_both_sides_the_entry_that_has_been_longer_in_its_place_goes_first() {
    let mut example = Example::with_room(2000, 2000);
    for (first, second) in [(Place::Hot, Place::Main), (Place::Main, Place::Hot)] {
        for (name, place) in [("first", first), ("second", second)] {
            for number in 0..2 << TURN {
                assert!(example.insert(&format!("{name}-{number}"), entry(0, 100), place));
            }
        }
        assert_eq!(example.store.side_of_oldest(Rank::Protected, Place::BOTH), Some(first));
        example.store.clear(&mut example.dropped);
    }
}

#[test]
fn an_entry_met_on_the_other_side_moves_over_when_its_turn_comes() {
    let mut example = Example::with_room(4, 2);
    example.add("abcd", Place::Main);
    example.use_all("ad", Place::Hot);
    assert_eq!(example.holds(), ["abc|d", "|"], "readers move nothing");
    example.add("e", Place::Main);
    assert_eq!(example.holds(), ["c|e", "ad|"]);
    let usage = example.store.usage();
    assert_eq!((usage.main_bytes, usage.hot_bytes), (2 * ONE as u64, 2 * ONE as u64));
    example.use_all("ae", Place::Main);
    example.use_all("cd", Place::Hot);
    example.add("f", Place::Main);
    assert_eq!(example.holds(), ["e|f", "ad|"], "c finds no room among the copies, and goes");
}

#[test]
fn an_entry_too_large_to_be_hot_is_served_from_main_and_ages_there() {
    for hot in [0, 1] {
        let mut example = Example::with_room(4, hot);
        assert!(example.insert("a", entry(0, 150), Place::Main));
        example.add("bc", Place::Main);
        example.use_all("a", Place::Hot);
        example.add("d", Place::Main);
        assert_eq!(example.holds(), ["bc|d", "|"]);
        assert_eq!(example.store.usage().refusals, 0);
    }
}

#[test]
fn a_large_newcomer_is_taken_in_whatever_the_others_use() {
    let mut example = Example::with_room(8, 0);
    example.add("abcdefgh", Place::Main);
    for _ in 0..3 {
        example.use_all("abcdefgh", Place::Main);
    }
    assert!(example.insert("x", entry(0, 100 + 4 * ONE), Place::Main));
    assert!(example.get("x", Place::Main).is_some());
    assert!(example.insert("y", entry(0, 100 + 7 * ONE), Place::Main));
    assert_eq!(example.store.usage().main_entries, 1);
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
        assert_eq!(example.holds(), ["b|", "|"]);
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
fn an_insert_replaces_on_whichever_side_the_old_entry_lies() {
    for place in [Place::Main, Place::Hot] {
        let mut example = Example::with_room(4, 2);
        assert!(example.insert("a", entry(1, 100), place));
        assert!(example.insert("a", entry(2, 50), Place::Hot));
        assert_eq!(example.holds(), ["|", "a|"]);
        assert_eq!(example.get("a", Place::Hot).as_deref(), Some(&2));
        let usage = example.store.usage();
        assert_eq!((usage.hot_bytes, usage.evictions), ((ONE - 50) as u64, 0));
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
    let found = example.store.look(key("a"), Place::Main, second(1));
    assert!(found.is_some_and(|found| found.value.is_none()));
    assert_eq!(example.store.usage().main_bytes, (size_of::<Value>() + overhead::<Value>()) as u64);
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
    example.store.remove(key("c"), &mut example.dropped);
    example.add("fg", Place::Hot);
    example.store.clear(&mut example.dropped);

    assert_eq!(example.holds(), ["|", "|"]);
    assert!(values.iter().all(|value| Arc::strong_count(value) == 2), "each is still held");
    drop(example.dropped);
    assert!(values.iter().all(|value| Arc::strong_count(value) == 1), "each was let go of once");
}

#[test]
fn a_cleared_store_begins_anew_and_keeps_its_counters() {
    let mut example = Example::with_room(2, 0);
    example.add("abc", Place::Main);
    example.store.clear(&mut example.dropped);
    assert_eq!(example.store.usage(), Usage { evictions: 1, ..Usage::default() });
    example.add("d", Place::Main);
    assert_eq!(example.holds(), ["d|", "|"]);
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
/// their places. Only the ghosts are the real ones, which have tests of their own.
#[derive(Default)]
struct Model {
    budget: usize,
    hot_budget: usize,
    held: Vec<Held>,
    ghosts: Ghosts,
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
    Seeded(7).hash_one(KeyRef::new(&key_bytes(key)).hash.0)
}

impl Model {
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
        self.bytes(|held| held.rank == Rank::Protected) + cost <= self.budget - self.budget / PROBATION
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
        if rank == Rank::Probation && *patience > 0 && uses > 0 && self.make_protected_room(cost + reserved) {
            becomes = Rank::Protected;
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
            if rank == Rank::Probation {
                self.ghosts.add(trace_of(held.key), self.held.len());
            }
            self.let_go.extend(held.value);
        }
        true
    }

    fn make_protected_room(&mut self, cost: usize) -> bool {
        let mut patience = PATIENCE;
        while !self.has_protected_room(cost) {
            if patience == 0 || !self.has_room_when_empty(cost) {
                return false;
            }
            self.turn(Rank::Protected, Among::Everybody, 0, &mut patience);
        }
        true
    }

    fn has_room_when_empty(&self, cost: usize) -> bool {
        cost <= self.budget - self.budget / PROBATION
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
        let is_known = self.ghosts.take(trace_of(held.key));
        let is_roomy = self.bytes(|_| true) + cost <= self.budget && self.has_protected_room(cost);
        let is_protected = is_roomy || is_known && self.make_protected_room(cost);
        let (rank, reserved) = if is_protected { (Rank::Protected, cost) } else { (Rank::Probation, 0) };
        let mut patience = PATIENCE;
        while self.bytes(|_| true) + cost > self.budget {
            self.evict(Among::Everybody, reserved, &mut patience);
        }
        while held.place == Place::Hot && self.bytes(|held| held.place == Place::Hot) + cost > self.hot_budget {
            self.evict(Among::Copies, reserved, &mut patience);
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
                let bytes = key_bytes(key);
                let got = self.store.peek(KeyRef::new(&bytes), self.now);
                let got = got.map(|found| (found.value.map(|value| **value), found.expires));
                let held = self.model.held.iter().find(|held| held.key == key && self.now < held.expires);
                prop_assert_eq!(got, held.map(|held| (held.value, held.expires)));
            }
            Step::Insert { key, found, weight, life, place } => {
                self.insert(key, found, weight, life, place, dropped)?;
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
            cost: weight.max(size_of::<Value>()).saturating_add(long).saturating_add(overhead::<Value>()),
            expires,
            place,
            rank: Rank::Probation,
            uses: 0,
            asked: place,
            turn: 0,
        };
        let entry = Entry { value, weight, born: self.now, expires };
        let before = self.store.places_taken;
        prop_assert_eq!(self.store.insert(KeyRef::new(&bytes), entry, place, dropped), self.model.insert(held));
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
                let value = |kept: &Kept<Value>| kept.value.as_deref().copied();
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
        prop_assert!(self.model.has_protected_room(0));
        Ok(())
    }

    /// What the store has let go of since the last check is what the model has.
    fn check_dropped(&mut self, dropped: &Dropped<Value>) -> Result<(), TestCaseError> {
        let in_queues = dropped.queues.iter().flat_map(Order::oldest_first).filter_map(|(_, kept)| kept.value.as_ref());
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
