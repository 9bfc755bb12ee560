//! Entries past a limit: refreshes, failures, the sweep, and that not all come back at once.

use std::collections::BTreeMap;

use super::*;
use crate::config::GroupConfig;

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
        self.store.look(&key("a"), |_| Place::Main, now).is_some()
    }

    fn is_past_soft(&self, now: Moment) -> bool {
        self.store.past_soft(&key("a"), Place::Main, now).is_some()
    }
}

#[test]
fn an_entry_past_its_soft_limit_is_found_by_who_looks_for_that_until_a_refresh_begins() {
    let mut example = Example::with_room(4, 0);
    example.insert("a", tailed(1), Place::Main);
    assert!(example.is_served(at(6_399)) && !example.is_past_soft(at(6_399)));
    assert!(!example.is_served(at(6_400)) && example.is_past_soft(at(6_400)));
    assert!(example.store.peek(&key("a"), at(12_799)).is_some(), "a peek starts nothing");
    example.store.begin_refresh(&key("a"));
    assert!(example.is_served(at(12_799)) && !example.is_past_soft(at(12_799)));
    assert!(!example.is_served(at(12_800)) && !example.is_past_soft(at(12_800)), "not beyond its hard limit");
    let found = example.store.peek(&key("a"), second(9)).unwrap();
    assert_eq!(found.told().life().soft, second(0), "others are told that it has passed");
}

#[test]
fn after_each_failure_the_next_try_waits_longer_and_none_before_the_hard_limit_puts_that_off() {
    let mut example = Example::with_room(4, 0);
    example.insert("a", tailed(1), Place::Main);
    let mut now = at(6_400);
    let mut pauses = Vec::new();
    while now < at(12_800) {
        example.store.begin_refresh(&key("a"));
        let due = example.store.failed(&key("a"), now, 0.0).unwrap().due();
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
    while !example.store.missed(&key("a"), now, &mut example.dropped) {
        assert!(!example.is_served(now), "it is for the source to say, at {now:?}");
        let due = example.store.failed(&key("a"), now, 0.0).unwrap().due();
        assert!(due > now && due <= end && example.is_served(now), "{due:?}");
        (now, tries) = (due, tries + 1);
    }
    assert_eq!((now, tries), (end, 7), "a quarter of a second, a half, and so on");
    assert!(!example.store.holds(&key("a")) && example.store.failed(&key("a"), now, 0.0).is_none());
}

#[test]
fn what_came_in_is_as_new_and_what_is_no_longer_held_cannot_fail() {
    let mut example = Example::with_room(4, 0);
    for value in [1, 2] {
        example.insert("a", tailed(value), Place::Main);
        let due = example.store.failed(&key("a"), second(7), 0.0).unwrap().due();
        assert_eq!(due.since(second(7)).as_millis() / 50, 5, "the first of its failures");
    }
    example.store.not_refreshed(&key("a"), second(0), second(13), 0.0);
    assert!(!example.is_served(second(13)), "that nothing newer came is no reason to serve what is over");
    example.store.remove(&key("a"), &mut example.dropped);
    assert!(example.store.failed(&key("a"), second(7), 0.0).is_none());
    example.store.begin_refresh(&key("a"));
}

#[test]
fn an_entry_without_a_soft_limit_or_a_grace_knows_of_neither() {
    let mut example = Example::with_room(4, 0);
    example.insert("a", entry(1, 100), Place::Main);
    example.store.begin_refresh(&key("a"));
    example.store.failed(&key("a"), second(9), 0.0);
    assert!(example.is_served(second(9)) && !example.is_served(second(10)) && !example.is_past_soft(second(10)));
    assert!(example.store.failed(&key("a"), second(10), 0.0).is_none());
}

/// Sweeps the protected entries of main, a few at a time.
fn sweep(example: &mut Example, now: Moment) -> (usize, Vec<String>) {
    let (queue, mut seen, mut gone) = (QUEUES[0], 0, Vec::new());
    example.store.begin_sweep();
    let all = example.store.to_sweep(queue);
    while seen < all {
        let most = 3.min(all - seen);
        let told = |key: crate::key::KeyRef<'_>| gone.push(String::from_utf8_lossy(key.bytes).into_owned());
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
                example.store.insert(&sought(&bytes), SLOT, entry, Place::Main, &mut example.dropped);
                let ends = example.store.peek(&sought(&bytes), second(now)).unwrap().due();
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
