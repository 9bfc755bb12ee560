//! Who stays and who goes, on both sides; what is held and what it costs.

use super::*;

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

/// Asks for keys, and puts in what is missing. Says how many of those that count were there.
fn hits(example: &mut Example, asked: impl IntoIterator<Item = (String, usize, bool)>) -> usize {
    let mut hits = 0;
    for (name, weight, counts) in asked {
        if example.get(&name, Place::Main).is_some() {
            hits += usize::from(counts);
        } else {
            example.insert(&name, entry(0, weight), Place::Main);
        }
    }
    hits
}

#[test]
fn large_ones_that_are_asked_for_once_leave_the_rest_alone_too() {
    const ROUNDS: usize = 50;
    let mut example = Example::with_room(1000, 0);
    // Half of what there is room for is asked for again and again, and before each of them a stranger, some of which are
    // larger than probation.
    let mut asked = (0..ROUNDS * 500).flat_map(|number| {
        let weight = if number % 50 == 0 { 30 * ONE } else { 100 };
        [(format!("once-{number}"), weight, false), (format!("again-{}", number * 7 % 500), 100, true)]
    });
    let _ = hits(&mut example, asked.by_ref().take(ROUNDS * 500));
    let hits = hits(&mut example, asked);
    assert!(hits >= ROUNDS * 500 / 2 * 97 / 100, "{hits} of {}", ROUNDS * 500 / 2);
}

#[test]
fn where_what_is_new_is_what_is_asked_for_again_it_has_more_room() {
    const KEYS: usize = 20_000;
    let mut example = Example::with_room(1000, 0);
    // Each is asked for three times: in its turn, and when 80 others and 80 more have had theirs.
    let mut asked =
        (160..160 + KEYS).flat_map(|now| [now, now - 80, now - 160]).map(|key| (key.to_string(), 100, true));
    let early = hits(&mut example, asked.by_ref().take(3 * 1000));
    let _ = hits(&mut example, asked.by_ref().take(3 * KEYS / 2));
    let late = hits(&mut example, asked.by_ref().take(3 * 1000));
    assert!(late >= 1950, "two of three could be: {late} of 3000, and {early} at the beginning");
}

#[test]
fn what_was_proven_and_removed_or_expired_is_protected_when_it_comes_back() {
    for removed in [true, false] {
        let mut example = Example::with_room(4, 0);
        example.add("abcd", Place::Main);
        if removed {
            assert!(example.store.remove(&key("a"), &mut example.dropped));
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
    let look = |name: &str| example.store.look(&sought(name.as_bytes()), |_| Place::Main, second(1));
    let (a, b) = (look("a"), look("b"));
    assert!(a.is_some() && b.is_some(), "both are held at once");
}

#[test]
fn a_peek_touches_nothing() {
    let mut example = Example::with_room(4, 0);
    example.add("abcd", Place::Main);
    assert!(example.store.peek(&key("d"), second(1)).is_some());
    assert!(example.store.peek(&key("d"), second(10)).is_none(), "it has expired");
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
    let found = example.store.look(&key("a"), |_| Place::Main, second(1));
    assert!(found.is_some_and(|(found, _)| found.value().is_none()));
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
    example.store.remove(&key("c"), &mut example.dropped);
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
