//! What a placement promises: the published vectors, even shares, minimal movement.
//!
//! Shares and movement are measured over fixed sets of names, addresses and pods by turns, numbered and not chosen.
//! Each test prints what it measured.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of the vectors fit")]

use proptest::collection::btree_map;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// How many sets of names a cluster size is measured over.
const SETS: usize = 20;

/// The names of the nodes of a made-up cluster: addresses for even numbers, pods for odd ones.
fn names(set: usize, nodes: usize) -> Vec<(NodeName, u32)> {
    let name = |i: usize| match set % 2 {
        0 => format!("10.{set}.{i}.7:7400"),
        _ => format!("thumbnails-{i}.cache-{set}.svc:7400"),
    };
    sorted((0..nodes).map(|i| (NodeName::from(&name(i)), 1)).collect())
}

fn sorted(mut members: Vec<(NodeName, u32)>) -> Vec<(NodeName, u32)> {
    members.sort();
    members
}

fn weighted(listed: &[(&str, u32)]) -> Vec<(NodeName, u32)> {
    sorted(listed.iter().map(|&(name, weight)| (NodeName::from(name), weight)).collect())
}

fn owner_name(placement: &Placement, slot: Slot) -> &NodeName {
    &placement.names[placement.owner(slot)]
}

fn ranked_names(placement: &Placement, slot: Slot) -> Vec<&NodeName> {
    placement.ranked(slot).into_iter().map(|member| &placement.names[member]).collect()
}

fn shares(placement: &Placement) -> Vec<usize> {
    placement.names.iter().map(|name| placement.slots_of(name.as_str())).collect()
}

/// The largest share over the mean, for each set of names, in rising order.
fn largest_shares(nodes: usize) -> Vec<f64> {
    let largest = |set| *shares(&Placement::new(&names(set, nodes))).iter().max().unwrap();
    let mut ratios: Vec<f64> = (0..SETS).map(|set| (largest(set) * nodes) as f64 / SLOTS as f64).collect();
    ratios.sort_by(f64::total_cmp);
    ratios
}

fn assert_even_shares(nodes: usize, median_floor: f64, worst_floor: f64) {
    let ratios = largest_shares(nodes);
    let (median, worst) = (ratios[SETS / 2 - 1].midpoint(ratios[SETS / 2]), ratios[SETS - 1]);
    println!("{nodes} nodes: largest share over mean {median:.4} (median of {SETS} sets), {worst:.4} (worst)");
    assert!(median <= median_floor, "median {median:.4} is above {median_floor}");
    assert!(worst <= worst_floor, "worst {worst:.4} is above {worst_floor}");
}

#[test]
fn ten_nodes_share_evenly() {
    assert_even_shares(10, 1.03, 1.06);
}

#[test]
fn fifty_nodes_share_evenly() {
    assert_even_shares(50, 1.08, 1.13);
}

#[test]
fn a_hundred_nodes_share_evenly() {
    assert_even_shares(100, 1.11, 1.18);
}

#[test]
fn weights_are_shares() {
    for set in 0..4 {
        let mut members = names(set, 3);
        for ((_, weight), heavy) in members.iter_mut().zip([1, 2, 4]) {
            *weight = heavy;
        }
        let shares = shares(&Placement::new(&members));
        println!("set {set}: nodes of weights 1, 2 and 4 own {shares:?} slots");
        for (share, weight) in shares.into_iter().zip([1.0, 2.0, 4.0]) {
            let over_fair = share as f64 / (SLOTS as f64 * weight / 7.0);
            assert!((over_fair - 1.0).abs() <= 0.05, "weight {weight} has {over_fair:.3} of its fair share");
        }
    }
}

/// Adds one node to a cluster and checks, slot by slot, that only the newcomer gained, and the former owner is behind
/// it. Gives how much it gained, over its fair share.
fn join(set: usize, nodes: usize) -> f64 {
    let after = names(set, nodes + 1);
    let newcomer = after[set % (nodes + 1)].0.clone();
    let before: Vec<_> = after.iter().filter(|(name, _)| *name != newcomer).cloned().collect();
    let (before, after) = (Placement::new(&before), Placement::new(&after));
    let moved: Vec<Slot> = slots().filter(|&slot| owner_name(&before, slot) != owner_name(&after, slot)).collect();
    for &slot in &moved {
        assert_eq!(owner_name(&after, slot), &newcomer, "a slot moved between two old members");
    }
    // Ranking all is slow in a debug build: a few hundred slots tell.
    for &slot in moved.iter().step_by(1 + moved.len() / 300) {
        assert_eq!(ranked_names(&after, slot)[1], owner_name(&before, slot), "the former owner is not next");
    }
    (moved.len() * (nodes + 1)) as f64 / SLOTS as f64
}

#[test]
fn a_newcomer_takes_its_share_from_everybody_and_nothing_else_moves() {
    for (nodes, tolerance) in [(3, 0.10), (10, 0.10), (25, 0.10), (50, 0.10), (100, 0.20)] {
        let gains: Vec<f64> = (0..2).map(|set| join(set, nodes)).collect();
        println!("{nodes} nodes and a newcomer: it gains {gains:.3?} of 1/{} of the slots", nodes + 1);
        assert!(gains.iter().all(|gain| (gain - 1.0).abs() <= tolerance), "{gains:?} is not within {tolerance}");
    }
}

#[test]
fn a_leaver_gives_each_slot_to_the_next_rank_and_nothing_else_moves() {
    for nodes in [2, 3, 10, 25] {
        let members = names(nodes, nodes);
        let (leaver, _) = &members[nodes / 2];
        let rest: Vec<_> = members.iter().filter(|(name, _)| name != leaver).cloned().collect();
        let (before, after) = (Placement::new(&members), Placement::new(&rest));
        for slot in slots() {
            let (was, is) = (owner_name(&before, slot), owner_name(&after, slot));
            if was == leaver {
                assert_eq!(is, ranked_names(&before, slot)[1]);
            } else {
                assert_eq!(is, was);
            }
        }
    }
}

/// Up to eight members of any weight; names are any text.
fn any_members() -> impl Strategy<Value = Vec<(NodeName, u32)>> {
    let weight = prop_oneof![1..=4u32, 1..=Member::MAX_WEIGHT];
    btree_map(".{1,12}", weight, 2..=8)
        .prop_map(|members| members.iter().map(|(name, weight)| (NodeName::from(name), *weight)).collect())
}

/// Ranking a slot is slow in a debug build: every 101st slot has to do.
fn some_slots() -> impl Iterator<Item = Slot> {
    slots().step_by(101)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_owner_is_the_first_rank(members in any_members()) {
        let placement = Placement::new(&members);
        for slot in some_slots() {
            let ranked = placement.ranked(slot);
            prop_assert_eq!(ranked[0], placement.owner(slot));
            let mut everybody = ranked;
            everybody.sort_unstable();
            prop_assert!(everybody.into_iter().eq(0..members.len()));
        }
    }

    #[test]
    fn a_leaver_changes_nobody_elses_order(members in any_members(), leaver in any::<prop::sample::Index>()) {
        let leaver = leaver.get(&members).0.clone();
        let rest: Vec<_> = members.iter().filter(|(name, _)| *name != leaver).cloned().collect();
        let (before, after) = (Placement::new(&members), Placement::new(&rest));
        for slot in some_slots() {
            let mut expected = ranked_names(&before, slot);
            expected.retain(|name| **name != leaver);
            prop_assert_eq!(ranked_names(&after, slot), expected);
        }
        for slot in slots() {
            let (was, is) = (owner_name(&before, slot), owner_name(&after, slot));
            prop_assert!(was == is || *was == leaver);
        }
    }

    #[test]
    fn a_heavier_node_only_gains(members in any_members(), grown in any::<prop::sample::Index>()) {
        let grown = grown.index(members.len());
        let mut heavier = members.clone();
        heavier[grown].1 = (heavier[grown].1 * 2).min(Member::MAX_WEIGHT);
        let (before, after) = (Placement::new(&members), Placement::new(&heavier));
        for slot in slots() {
            prop_assert!(after.owner(slot) == grown || after.owner(slot) == before.owner(slot));
        }
    }

    #[test]
    fn a_greater_lot_never_costs_more(a: u64, b: u64, shift in 0..64u32) {
        let (small, great) = (a.min(b) >> shift, a.max(b) >> shift);
        prop_assert!(cost(small) >= cost(great));
        prop_assert!(cost(great) >= cost(great.saturating_add(1)));
    }

    #[test]
    fn the_cost_is_the_logarithm(lot in 1u64.., shift in 0..64u32) {
        let lot = (lot >> shift).max(1);
        let exact = (64.0 - (lot as f64).log2()) * 2f64.powi(32);
        prop_assert!((cost(lot) as f64 - exact).abs() < 1.1, "{} instead of {exact}", cost(lot));
    }
}

#[test]
fn costs_at_the_ends() {
    assert_eq!(cost(u64::MAX), 1, "above zero, so that a weight always counts");
    assert_eq!(cost(1), 64 << 32);
    assert_eq!(cost(0), cost(1));
    assert_eq!(cost(1 << 63), 1 << 32);
}

#[test]
fn the_order_of_listing_is_irrelevant() {
    let listed = ["c:1", "a:1", "b:1", "é:1"];
    let mut reversed = listed;
    reversed.reverse();
    assert_eq!(Placement::of(listed), Placement::of(reversed));
}

#[test]
fn a_lone_node_owns_everything() {
    let placement = Placement::new(&weighted(&[("a", 3)]));
    assert_eq!(placement.slots_of("a"), SLOTS);
    assert_eq!(placement.slots_of("b"), 0);
    assert_eq!(placement.ranked_for("any key"), ["a"]);
}

#[test]
fn equal_draws_are_ordered_by_weight_then_by_name() {
    let draw = |lot, weight, member| Draw { lot, weight, member };
    for (case, first, second) in [
        ("a greater lot", draw(9, 1, 1), draw(8, 1, 0)),
        ("a greater weight", draw(8, 2, 1), draw(8, 1, 0)),
        ("the name", draw(8, 1, 0), draw(8, 1, 1)),
        ("equal costs of different lots", draw(1, 1, 1), draw(0, 1, 0)),
        ("a cost of half for half of the weight, and so a greater lot", draw(1 << 63, 1, 1), draw(1 << 62, 2, 0)),
    ] {
        assert!(by_rank(&first, &second).is_lt(), "{case}");
        assert!(by_rank(&second, &first).is_gt(), "{case}");
    }
}

/// The vectors that other implementations are checked against.
fn vectors() -> Value {
    serde_json::from_str(include_str!("../../proto/peerage/v1/placement-vectors.json")).unwrap()
}

fn hex(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap(), 16).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

/// A key is given as text, as hexadecimal bytes, or as a text and how often to repeat it.
fn key(value: &Value) -> Vec<u8> {
    if let Some(text) = value["text"].as_str() {
        return text.repeat(value["times"].as_u64().unwrap_or(1) as usize).into_bytes();
    }
    let digits = value["hex"].as_str().unwrap();
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
}

fn vector_members(membership: &Value) -> Vec<(NodeName, u32)> {
    let member = |m: &Value| (NodeName::from(m["name"].as_str().unwrap()), number(&m["weight"]) as u32);
    list(&membership["members"]).iter().map(member).collect()
}

#[test]
fn the_vectors_steps_are_ours() {
    let vectors = vectors();
    for case in list(&vectors["slot_hashes"]) {
        assert_eq!(slot_hash(Slot(number(&case["slot"]) as u16)), hex(&case["hash"]), "{case}");
    }
    for case in list(&vectors["costs"]) {
        assert_eq!(cost(hex(&case["lot"])), number(&case["cost"]), "{case}");
    }
    for case in list(&vectors["keys"]) {
        let hash = KeyHash::of(&key(case));
        assert_eq!((hash.0, u64::from(hash.slot().0)), (hex(&case["hash"]), number(&case["slot"])), "{case}");
    }
}

#[test]
fn the_vectors_memberships_rank_as_ours_do() {
    let vectors = vectors();
    for membership in list(&vectors["memberships"]) {
        let members = vector_members(membership);
        for ((name, _), given) in members.iter().zip(list(&membership["members"])) {
            assert_eq!(protocol_hash(name.as_str().as_bytes()), hex(&given["hash"]), "{name}");
        }
        let placement = Placement::new(&members);
        for (case, want) in list(&vectors["keys"]).iter().zip(list(&membership["ranked"])) {
            let ranked = placement.ranked_for(&key(case));
            assert!(
                ranked.iter().map(NodeName::as_str).eq(list(want).iter().map(|name| name.as_str().unwrap())),
                "{case}"
            );
            assert_eq!(placement.owner_of(&key(case)), &ranked[0]);
        }
        let table: Vec<u8> = placement.owners.iter().flat_map(|owner| owner.to_le_bytes()).collect();
        assert_eq!(protocol_hash(&table), hex(&membership["table"]), "the table of {:?}", placement.names);
    }
}
