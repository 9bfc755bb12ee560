//! A store is held against the sentences of its header, and then against a model: one plain row of entries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::entry::{MOST_USES, overhead};
use super::*;
use crate::config::GroupConfig;
use crate::lifespan::Lifespan;

/// Counted by its owners, so that a test sees whether a store still holds one.
type Value = Arc<u32>;

/// What each entry of the examples costs: a short key, a weight of 100, and the bookkeeping.
const ONE: usize = 100 + overhead::<Value>();

const GRACE: Duration = Duration::from_secs(20);

fn second(n: u64) -> Moment {
    Moment::after_start(Duration::from_secs(n))
}

fn key(name: &str) -> KeyRef<'_> {
    KeyRef::new(name.as_bytes())
}

/// Lives from the first second to the tenth.
fn entry(value: u32, weight: usize) -> Entry<Value> {
    Entry { value: Some(Arc::new(value)), weight, life: Lifespan::new(second(0), second(10)), tagged: None }
}

/// An example: a store that is asked in its first second, and what it has let go of.
struct Example {
    store: Store<Value>,
    dropped: Dropped<Value>,
}

impl Example {
    /// Room for this many entries, all but one of them protected, and for how many hot ones among them.
    fn with_room(all: usize, hot: usize) -> Self {
        Self { store: Store::new(all * ONE, hot * ONE, GRACE, 7), dropped: Dropped::default() }
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
        let value = self.store.look(key(name), place, now).map(|found| found.value().cloned());
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
    assert!(found.is_some_and(|found| found.value().is_none()));
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
    example.insert("e", Entry { life: Lifespan::new(second(0), second(1)), ..holding(5) }, Place::Hot); // evicts
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

fn at(millis: u64) -> Moment {
    Moment::after_start(Duration::from_millis(millis))
}

/// Lives from the first second for 12.8, is to be refreshed after half of that, and has a grace: lengths that are kept
/// as they are.
fn tailed(value: u32) -> Entry<Value> {
    let life = Lifespan { born: second(0), soft: at(6_400), hard: at(12_800), grace: true };
    Entry { life, ..entry(value, 100) }
}

impl Example {
    fn is_served(&self, now: Moment) -> bool {
        self.store.look(key("a"), Place::Main, now).is_some()
    }

    fn is_past_soft(&self, now: Moment) -> bool {
        self.store.past_soft(key("a"), Place::Main, now).is_some()
    }
}

#[test]
fn an_entry_past_its_soft_limit_is_found_by_who_looks_for_that_until_a_refresh_begins() {
    let mut example = Example::with_room(4, 0);
    example.insert("a", tailed(1), Place::Main);
    assert!(example.is_served(at(6_399)) && !example.is_past_soft(at(6_399)));
    assert!(!example.is_served(at(6_400)) && example.is_past_soft(at(6_400)));
    assert!(example.store.peek(key("a"), at(12_799)).is_some(), "a peek starts nothing");
    example.store.begin_refresh(key("a"));
    assert!(example.is_served(at(12_799)) && !example.is_past_soft(at(12_799)));
    assert!(!example.is_served(at(12_800)) && !example.is_past_soft(at(12_800)), "not beyond its hard limit");
    let found = example.store.peek(key("a"), second(9)).unwrap();
    assert_eq!(found.told().life().soft, second(0), "others are told that it has passed");
}

#[test]
fn after_each_failure_the_next_try_waits_longer_and_none_before_the_hard_limit_puts_that_off() {
    let mut example = Example::with_room(4, 0);
    example.insert("a", tailed(1), Place::Main);
    let mut now = at(6_400);
    let mut pauses = Vec::new();
    while now < at(12_800) {
        example.store.begin_refresh(key("a"));
        let due = example.store.failed(key("a"), now, 0.0).unwrap().due();
        pauses.push(due.since(now).as_millis() / 50);
        assert!(due <= at(12_800) && example.is_served(now) && !example.is_served(due));
        now = due;
    }
    assert_eq!(pauses[..4], [5, 10, 20, 40], "in twentieths of a second");
    assert_eq!((pauses.len(), now), (5, at(12_800)));
}

#[test]
fn a_failure_in_the_grace_excuses_the_old_value_for_a_pause_and_never_beyond_the_grace() {
    let (mut example, end) = (Example::with_room(4, 0), at(32_800));
    example.insert("a", tailed(1), Place::Main);
    let (mut now, mut tries) = (at(12_800), 0);
    while !example.store.missed(key("a"), now, &mut example.dropped) {
        assert!(!example.is_served(now), "it is for the source to say, at {now:?}");
        let due = example.store.failed(key("a"), now, 0.0).unwrap().due();
        assert!(due > now && due <= end && example.is_served(now), "{due:?}");
        (now, tries) = (due, tries + 1);
    }
    assert_eq!((now, tries), (end, 7), "a quarter of a second, a half, and so on");
    assert!(!example.store.holds(key("a")) && example.store.failed(key("a"), now, 0.0).is_none());
}

#[test]
fn what_came_in_is_as_new_and_what_is_no_longer_held_cannot_fail() {
    let mut example = Example::with_room(4, 0);
    for value in [1, 2] {
        example.insert("a", tailed(value), Place::Main);
        let due = example.store.failed(key("a"), second(7), 0.0).unwrap().due();
        assert_eq!(due.since(second(7)).as_millis() / 50, 5, "the first of its failures");
    }
    example.store.not_refreshed(key("a"), second(0), second(13), 0.0);
    assert!(!example.is_served(second(13)), "that nothing newer came is no reason to serve what is over");
    example.store.remove(key("a"), &mut example.dropped);
    assert!(example.store.failed(key("a"), second(7), 0.0).is_none());
    example.store.begin_refresh(key("a"));
}

#[test]
fn an_entry_without_a_soft_limit_or_a_grace_knows_of_neither() {
    let mut example = Example::with_room(4, 0);
    example.insert("a", entry(1, 100), Place::Main);
    example.store.begin_refresh(key("a"));
    example.store.failed(key("a"), second(9), 0.0);
    assert!(example.is_served(second(9)) && !example.is_served(second(10)) && !example.is_past_soft(second(10)));
    assert!(example.store.failed(key("a"), second(10), 0.0).is_none());
}

/// Sweeps the protected entries of main, a few at a time.
fn sweep(example: &mut Example, now: Moment) -> (usize, Vec<String>) {
    let (queue, mut seen, mut gone) = (QUEUES[0], 0, Vec::new());
    example.store.begin_sweep();
    let all = example.store.to_sweep(queue);
    while seen < all {
        let most = 3.min(all - seen);
        let told = |key: KeyRef<'_>| gone.push(String::from_utf8_lossy(key.bytes).into_owned());
        let swept = example.store.sweep(queue, most, (now, |_| false), &mut example.dropped, told);
        assert!(swept.seen <= most);
        seen += swept.seen;
    }
    (seen, gone)
}

#[test]
fn a_sweep_takes_out_what_is_over_and_leaves_the_rest_in_its_order() {
    let mut example = Example::with_room(20, 0);
    for (at, name) in "abcdefghij".chars().map(String::from).enumerate() {
        let life = Lifespan::new(second(0), if at % 3 == 0 { second(10) } else { Moment::NEVER });
        example.insert(&name, Entry { life, ..entry(0, 100) }, Place::Main);
    }
    assert_eq!(sweep(&mut example, second(9)), (10, vec![]));
    assert_eq!(example.holds(), ["abcdefghij|", "|"], "a whole round changes nothing");
    assert_eq!(sweep(&mut example, second(10)), (10, ["a", "d", "g", "j"].map(String::from).to_vec()));
    assert_eq!(example.holds(), ["bcefhi|", "|"]);
    let usage = example.store.usage();
    assert_eq!((usage.main_bytes, usage.expiries), (6 * ONE as u64, 4));
    assert_eq!(sweep(&mut example, second(99)), (0, vec![]), "nothing that is left has an end");
}

#[test]
fn a_sweep_tells_the_first_end_and_waits_for_a_grace() {
    let mut example = Example::with_room(20, 0);
    example.insert("a", tailed(1), Place::Main);
    example.insert("b", entry(1, 100), Place::Main);
    let mut swept = |now| example.store.sweep(QUEUES[0], 64, (now, |_| false), &mut example.dropped, |_| ());
    assert_eq!(swept(second(9)).next_end, second(10));
    assert_eq!(swept(second(32)).next_end, at(32_800));
    assert_eq!(swept(second(33)).next_end, Moment::NEVER);
}

#[test]
fn where_room_is_in_demand_a_sweep_stops_at_the_first_that_stays() {
    let mut example = Example::with_room(4, 0);
    example.add("abcd", Place::Main);
    example.insert("x", Entry { life: Lifespan::new(second(0), second(1)), ..entry(0, 100) }, Place::Main);
    assert_eq!(example.store.usage().evictions, 1);
    let before = example.holds();
    let swept = example.store.sweep(QUEUES[0], 64, (second(2), |_| false), &mut example.dropped, |_| ());
    assert_eq!((swept.seen, swept.next_end), (0, second(10)));
    assert_eq!(example.holds(), before);
}

/// A dice that is the same in every run.
fn dice(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as f64 / (1_u64 << 31) as f64
}

#[test]
fn keys_that_were_loaded_together_do_not_come_back_together() {
    const KEYS: u32 = 10_000;
    const LIFE: u64 = 100;
    let config = GroupConfig { jitter: 0.2, ..GroupConfig::default() };
    for is_soft in [false, true] {
        let (mut example, mut random) = (Example::with_room(KEYS as usize * 2, 0), 7);
        // By second, which keys are due then. All of them are asked for all the time.
        let mut due = BTreeMap::from([(0, (0..KEYS).collect::<Vec<_>>())]);
        let mut loads = Vec::new();
        for now in 0..5 * LIFE {
            let together = due.remove(&now).unwrap_or_default();
            loads.push(together.len() as u64);
            for number in together {
                let bytes = number.to_be_bytes();
                let end = second(now) + config.jittered(Duration::from_secs(LIFE), dice(&mut random));
                let (soft, hard) = if is_soft { (end, end + GRACE) } else { (Moment::NEVER, end) };
                let life = Lifespan { born: second(now), soft, hard, grace: false };
                let entry = Entry { life, ..entry(0, 100) };
                example.store.insert(KeyRef::new(&bytes), entry, Place::Main, &mut example.dropped);
                let ends = example.store.peek(KeyRef::new(&bytes), second(now)).unwrap().due();
                due.entry(ends.since(second(0)).as_secs() + 1).or_default().push(number);
            }
        }
        // Spread evenly over the fifth of their lives that the jitter has for it; and later on, over more.
        let even = u64::from(KEYS) * 5 / LIFE;
        let most = |from: u64| *loads[usize::try_from(from).unwrap()..].iter().max().unwrap();
        assert_eq!(loads[0], u64::from(KEYS));
        assert!((1..=3 * even).contains(&most(1)), "{} in a second, {even} would be even", most(1));
        assert!(most(4 * LIFE) < even, "{} in a second by then", most(4 * LIFE));
    }
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
        Self { store: Store::new(budget, hot_budget, GRACE, 7), model, now: Moment::default(), values: Vec::new() }
    }

    /// Takes both through one step, and compares what they answer.
    fn step(&mut self, step: &Step, dropped: &mut Dropped<Value>) -> Result<(), TestCaseError> {
        match *step {
            Step::Get(key, place) => {
                let bytes = key_bytes(key);
                let got = self.store.look(KeyRef::new(&bytes), place, self.now);
                let got = got.map(|found| (found.value().map(|value| **value), found.told().life().hard));
                if got.is_none() {
                    self.store.missed(KeyRef::new(&bytes), self.now, dropped);
                }
                prop_assert_eq!(got, self.model.get(key, place, self.now).map(|held| (held.value, held.expires)));
            }
            Step::Peek(key) => {
                let bytes = key_bytes(key);
                let got = self.store.peek(KeyRef::new(&bytes), self.now);
                let got = got.map(|found| (found.value().map(|value| **value), found.told().life().hard));
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
        let entry = Entry { value, weight, life: Lifespan::new(self.now, expires), tagged: None };
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
        prop_assert!(self.model.has_protected_room(0));
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
