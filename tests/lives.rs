//! Lives that end: refreshes behind the callers, old values where a load fails, copies that outlive nothing, gets that
//! say how old is too old, and bytes that come back by themselves. Time is paused: what takes time takes it exactly.

#![cfg(feature = "test-util")]

mod support {
    pub(crate) mod cluster;
}

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use peerage::{Error, GetOptions, Group, GroupBuilder, Key, Loaded, MemoryNetwork, Node, Placement, Source};
use support::cluster::{ms, timed, until};
use tokio::time::{advance, sleep};

const SECOND: Duration = Duration::from_secs(1);

/// A source whose values are numbers that count its loads, and that can be told to fail. Clones are the same.
#[derive(Clone, Default)]
struct Counting(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    delay: Duration,
    fails: bool,
    has_none: bool,
    loads: BTreeMap<String, u64>,
}

impl Counting {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }

    fn loads_of(&self, key: &str) -> u64 {
        self.0.lock().unwrap().loads.get(key).copied().unwrap_or_default()
    }

    async fn load(self, key: Key) -> Result<Option<String>, &'static str> {
        let (number, delay) = {
            let mut state = self.0.lock().unwrap();
            let delay = state.delay;
            let loads = state.loads.entry(key.as_str().unwrap().to_string()).or_default();
            *loads += 1;
            (*loads, delay)
        };
        // A load that takes no time yields nothing, so that it has begun and ended with the get that waits for it.
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let state = self.0.lock().unwrap();
        if state.fails { Err("the source is down") } else { Ok((!state.has_none).then(|| number.to_string())) }
    }

    /// A group whose lives are exact.
    fn group(&self, node: &Node, lives: impl Fn(GroupBuilder) -> GroupBuilder) -> Group<String> {
        let source = self.clone();
        lives(node.group("g").jitter(0.0)).loader(move |key: Key| source.clone().load(key)).build().unwrap()
    }
}

/// Asks until this node has a copy: one answer in so many is kept.
async fn copied(group: &Group<String>, key: &str) {
    while group.peek(key).is_none() {
        group.get(key).await.unwrap();
    }
}

/// A key, and which of the nodes owns it.
fn owned_by(node: &Node) -> String {
    let placement = node.placement();
    (0..10_000).map(|number| format!("key-{number}")).find(|key| placement.owner_of(key) == node.name()).unwrap()
}

/// Fifty gets at once on each group: what they brought, and how long it took all of them.
async fn fifty_each(groups: &[Group<String>], key: &str) -> (Vec<Result<String, Error>>, Duration) {
    let gets = groups.iter().flat_map(|group| (0..50).map(|_| group.get(key)));
    timed(join_all(gets)).await
}

fn soft(builder: GroupBuilder) -> GroupBuilder {
    builder.time_to_live(600 * SECOND).refresh_after(60 * SECOND)
}

/// Three nodes; the first owns the key, and the other two have copies of it.
async fn with_copies(lives: fn(GroupBuilder) -> GroupBuilder) -> (Vec<Node>, Vec<Group<String>>, String, Counting) {
    let source = Counting::default();
    let nodes = MemoryNetwork::new().start(3).await.unwrap();
    let groups: Vec<_> = nodes.iter().map(|node| source.group(node, lives)).collect();
    let key = owned_by(&nodes[0]);
    for group in &groups {
        copied(group, &key).await;
    }
    assert_eq!(source.loads_of(&key), 1);
    (nodes, groups, key, source)
}

#[tokio::test(start_paused = true)]
async fn past_its_soft_limit_a_value_is_served_at_once_everywhere_and_loaded_once_behind() {
    let (_nodes, groups, key, source) = with_copies(soft).await;
    source.set(|state| state.delay = 5 * SECOND);
    let fifty = |expected: &'static str, when: &'static str| {
        let (groups, key) = (groups.clone(), key.clone());
        async move {
            let (values, took) = fifty_each(&groups, &key).await;
            assert_eq!(took, Duration::ZERO, "{when}: nobody waits");
            assert!(values.iter().all(|value| value.as_ref().unwrap() == expected), "{when}: {values:?}");
        }
    };
    advance(59 * SECOND).await;
    fifty("1", "before").await;
    assert_eq!(source.loads_of(&key), 1);
    advance(SECOND).await;
    let asked_before: u64 = groups.iter().map(|group| group.stats().fetches.keys).sum();
    for _ in 0..80 {
        fifty("1", "while it is loaded").await;
        sleep(ms(50)).await;
    }
    assert_eq!(source.loads_of(&key), 2, "one load in the cluster, however many copies and callers there are");
    let asked: u64 = groups.iter().map(|group| group.stats().fetches.keys).sum();
    assert!((2..=10).contains(&(asked - asked_before)), "{} questions of two copies", asked - asked_before);
    sleep(SECOND + ms(1)).await;
    assert_eq!(groups[0].peek(&key).as_deref(), Some("2"));
    // The copies ask again now and then.
    for group in &groups {
        until("the copies are refreshed", || group.get(&key).now_or_never().unwrap().unwrap() == "2").await;
    }
    fifty("2", "afterwards").await;
    assert_eq!(source.loads_of(&key), 2);
    let refreshes: Vec<_> = groups.iter().map(|group| group.stats().loads.refreshes).collect();
    assert_eq!(refreshes, [1, 0, 0]);
    let fetches: u64 = groups.iter().map(|group| group.stats().fetches.keys).sum();
    sleep(50 * SECOND).await;
    fifty("2", "until the next one").await;
    assert_eq!(groups.iter().map(|group| group.stats().fetches.keys).sum::<u64>(), fetches);
}

#[tokio::test(start_paused = true)]
async fn a_loader_can_say_when_its_value_is_to_be_refreshed() {
    let node = Node::local();
    let loads = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&loads);
    let loader = move |key: Key| {
        *counted.lock().unwrap() += 1;
        let loaded = Loaded::value(key.as_str().unwrap().to_string());
        std::future::ready(Ok::<_, Error>(match key.as_str() {
            Some("brief") => loaded.refresh_after(5 * SECOND),
            // It would be over before.
            Some("too late") => loaded.time_to_live(5 * SECOND).refresh_after(5 * SECOND),
            _ => loaded,
        }))
    };
    let group: Group<String> = node.group("g").jitter(0.0).refresh_after(60 * SECOND).loader(loader).build().unwrap();
    for (key, seconds, takes_it) in [("brief", 5, true), ("usual", 60, true), ("too late", 5, false)] {
        *loads.lock().unwrap() = 0;
        group.get(key).await.unwrap();
        advance(ms(seconds * 1000 - 500)).await;
        group.get(key).await.unwrap();
        tokio::task::yield_now().await;
        assert_eq!(*loads.lock().unwrap(), 1, "{key}: not before");
        advance(ms(500)).await;
        assert_eq!(group.get(key).now_or_never().is_some(), takes_it, "{key}");
        until("the load behind it has landed", || group.stats().flights == 0).await;
        assert_eq!(*loads.lock().unwrap(), 2, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_loaded_together_is_not_refreshed_together() {
    const KEYS: u64 = 10_000;
    const SOFT: u32 = 100;
    let (source, node) = (Counting::default(), Node::local());
    let lives = |group: GroupBuilder| group.refresh_after(SOFT * SECOND).time_to_live(1_000 * SECOND).jitter(0.2);
    let group = source.group(&node, lives);
    let keys: Vec<String> = (0..KEYS).map(|number| format!("key-{number}")).collect();
    let loads = || source.0.lock().unwrap().loads.values().sum::<u64>();
    // Each key is asked for once a second.
    let mut by_second = Vec::new();
    for second in 0..=SOFT {
        // Before the jitter has anything due, nobody need ask.
        if second == 0 || second >= SOFT * 4 / 5 {
            let before = loads();
            assert!(group.get_many(&keys).await.iter().all(Result::is_ok));
            until("the refreshes are over", || group.stats().loads_running + group.stats().loads_queued == 0).await;
            by_second.push(loads() - before);
        }
        sleep(SECOND).await;
    }
    let (first, reloads) = by_second.split_first().unwrap();
    assert_eq!((*first, reloads.iter().sum::<u64>()), (KEYS, KEYS), "all are loaded, and all are refreshed by then");
    // The fifth of their lives that the jitter has for it.
    let even = KEYS * 5 / u64::from(SOFT);
    let most = *reloads.iter().max().unwrap();
    assert!(most <= 3 * even, "{most} in a second, {even} would be even: {reloads:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_costs_no_caller_anything_and_is_tried_again_later_each_time() {
    let (source, node) = (Counting::default(), Node::local());
    let group = source.group(&node, |builder| builder.time_to_live(100 * SECOND).refresh_after(20 * SECOND));
    group.get("k").await.unwrap();
    source.set(|state| (state.fails, state.delay) = (true, ms(10)));
    let mut tries = Vec::new();
    for second in 0..100 * 10 {
        let before = source.loads_of("k");
        let (value, took) = timed(group.get("k")).await;
        assert_eq!((value.unwrap().as_str(), took), ("1", Duration::ZERO), "after {second} tenths of seconds");
        sleep(ms(100)).await;
        if source.loads_of("k") > before {
            tries.push(second / 10);
        }
    }
    let pauses: Vec<_> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(tries.len() <= 12 && tries[0] <= 20, "{tries:?}");
    // In whole seconds, each of which may be told for one less or more.
    assert!(pauses.is_sorted_by(|a, b| *a <= b + 1 || *a >= 14), "{pauses:?}");
    assert!(matches!(group.get("k").await, Err(Error::Load(_))), "there is no grace");
}

fn graced(builder: GroupBuilder) -> GroupBuilder {
    builder.time_to_live(10 * SECOND).grace(120 * SECOND)
}

#[tokio::test(start_paused = true)]
async fn when_the_source_fails_the_old_value_is_served_through_its_grace_and_then_the_error() {
    let (source, node) = (Counting::default(), Node::local());
    let group = source.group(&node, graced);
    assert_eq!(group.get("k").await.unwrap(), "1");
    source.set(|state| (state.fails, state.delay) = (true, ms(200)));
    advance(10 * SECOND).await;
    assert_eq!(group.peek("k"), None, "its life is over");
    let (values, took) = fifty_each(std::slice::from_ref(&group), "k").await;
    assert!(values.iter().all(|value| value.as_ref().unwrap() == "1"), "{values:?}");
    assert_eq!((took, source.loads_of("k")), (ms(200), 2), "it is for the source to say, once");
    let entry = group.get_with("k", GetOptions::new()).await.unwrap();
    assert_eq!((entry.age(), entry.time_left()), (10 * SECOND + ms(200), Some(Duration::ZERO)));
    let mut served = Duration::ZERO;
    while served < 119 * SECOND {
        assert_eq!(group.get("k").await.unwrap(), "1", "after {served:?}");
        sleep(ms(50)).await;
        served = group.get_with("k", GetOptions::new()).await.unwrap().age().saturating_sub(10 * SECOND);
    }
    let tries = source.loads_of("k") - 2;
    assert!((9..=14).contains(&tries), "{tries} loads in two minutes, for five thousand gets");
    sleep(2 * SECOND).await;
    assert!(matches!(group.get("k").await, Err(Error::Load(_))), "the grace is over");
    assert!(matches!(group.get("k").await, Err(Error::Load(_))));
    source.set(|state| state.fails = false);
    assert_ne!(group.get("k").await.unwrap(), "1");
}

#[tokio::test(start_paused = true)]
async fn other_nodes_are_served_the_old_value_too_and_do_not_load() {
    let (_nodes, groups, key, source) = with_copies(graced).await;
    source.set(|state| state.fails = true);
    advance(10 * SECOND).await;
    for _ in 0..10 {
        let (values, _) = fifty_each(&groups, &key).await;
        assert!(values.iter().all(|value| value.as_ref().unwrap() == "1"), "{values:?}");
    }
    assert_eq!(source.loads_of(&key), 2);
    let entry = groups[1].get_with(&key, GetOptions::new()).await.unwrap();
    assert!(entry.age() >= 10 * SECOND && entry.time_left() == Some(Duration::ZERO), "{entry:?}");
    advance(120 * SECOND).await;
    for group in &groups {
        assert!(matches!(group.get(&key).await, Err(Error::Load(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_removed_is_not_served_in_its_grace_whenever_that_was() {
    let (source, node) = (Counting::default(), Node::local());
    let group = source.group(&node, graced);
    for when in ["in the grace", "while the load is under way"] {
        group.get("k").await.unwrap();
        source.set(|state| (state.fails, state.delay) = (true, SECOND));
        advance(11 * SECOND).await;
        let asked = group.clone();
        let waiting = tokio::spawn(async move { asked.get("k").await });
        if when == "in the grace" {
            assert!(waiting.await.unwrap().is_ok());
            assert!(group.get("k").await.is_ok());
            group.remove("k").await.unwrap().everywhere().unwrap();
        } else {
            let before = source.loads_of("k");
            until("the load has begun", || source.loads_of("k") > before).await;
            group.remove("k").await.unwrap().everywhere().unwrap();
            assert!(waiting.await.unwrap().is_err(), "the removal came first");
        }
        assert!(matches!(group.get("k").await, Err(Error::Load(_))), "{when}");
        source.set(|state| (state.fails, state.delay) = (false, Duration::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_has_no_value_any_more_does_not_fail() {
    for remembered in [Duration::ZERO, SECOND] {
        let (source, node) = (Counting::default(), Node::local());
        let group = source.group(&node, |builder| graced(builder).not_found_time_to_live(remembered));
        group.get("k").await.unwrap();
        source.set(|state| state.has_none = true);
        advance(11 * SECOND).await;
        assert_eq!(group.get_opt("k").await.unwrap(), None);
        source.set(|state| state.fails = true);
        advance(2 * SECOND).await;
        assert!(matches!(group.get_opt("k").await, Err(Error::Load(_))), "what was old is gone");
    }
}

/// Four nodes in a row, each of which holds the one before it for the owner of the key.
async fn chain(network: &MemoryNetwork, source: &Counting) -> (Vec<Node>, Vec<Group<String>>, String) {
    let names: Vec<String> = (1..=4).map(|number| format!("node-{number}:1")).collect();
    let pairs: Vec<_> = names.windows(2).collect();
    let leads_along =
        |key: &String| pairs.iter().all(|pair| Placement::of(pair.iter()).unwrap().owner_of(key) == pair[0].as_str());
    let key = (0..10_000).map(|number| format!("key-{number}")).find(leads_along).unwrap();
    let mut nodes = Vec::new();
    for name in &names {
        nodes.push(network.node(name).alone().start().await.unwrap());
    }
    for (node, pair) in nodes[1..].iter().zip(&pairs) {
        node.set_peers(pair.iter()).await.unwrap();
    }
    let lives = |builder: GroupBuilder| graced(builder).refresh_after(6 * SECOND);
    let groups = nodes.iter().map(|node| source.group(node, lives)).collect();
    (nodes, groups, key)
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_copy_of_a_copy_outlives_nothing() {
    let (network, source) = (MemoryNetwork::new(), Counting::default());
    let (nodes, groups, key) = chain(&network, &source).await;
    for pair in nodes.windows(2) {
        network.delay(pair[0].address(), pair[1].address(), ms(20));
    }
    groups[0].get(&key).await.unwrap();
    let mut last = groups[0].get_with(&key, GetOptions::new()).await.unwrap();
    for (number, group) in groups.iter().enumerate().skip(1) {
        sleep(ms(500)).await;
        copied(group, &key).await;
        let copy = group.get_with(&key, GetOptions::new()).await.unwrap();
        assert_eq!((copy.source(), copy.value().as_str()), (&Source::Hot, "1"), "node {number}");
        assert!(copy.age() >= last.age() + ms(500) && copy.time_left() < last.time_left(), "{copy:?} of {last:?}");
        assert!(copy.age() + copy.time_left().unwrap() <= 10 * SECOND, "{copy:?}");
        last = copy;
    }
    assert_eq!(source.loads_of(&key), 1);
    // Each is to be refreshed, and is over, no later than the one that it is a copy of.
    let age = groups[0].get_with(&key, GetOptions::new()).await.unwrap().age();
    let to_soft = (6 * SECOND).saturating_sub(age);
    // Time that goes by. To jump so far is what a process finds that has stood still.
    sleep(to_soft).await;
    source.set(|state| state.fails = true);
    for group in groups[1..].iter().rev() {
        let before = group.stats().fetches.keys;
        assert_eq!(group.get(&key).now_or_never().unwrap().unwrap(), "1");
        assert_eq!(group.stats().fetches.keys, before + 1, "it asks for a newer one, and nobody waits");
    }
    until("those that came of it have failed", || groups.iter().all(|group| group.stats().flights == 0)).await;
    let left = groups[0].get_with(&key, GetOptions::new()).await.unwrap().time_left().unwrap();
    sleep(left).await;
    for (number, group) in groups.iter().enumerate() {
        assert_eq!(group.peek(&key), None, "node {number}: all of them are over");
    }
    // With nobody to ask, each serves its own for the grace, and no longer.
    for node in &nodes {
        nodes.iter().filter(|other| other.name() != node.name()).for_each(|other| {
            network.cut(node.address(), other.address());
        });
    }
    sleep(119 * SECOND).await;
    for group in &groups {
        assert_eq!(group.get(&key).await.unwrap(), "1");
    }
    sleep(2 * SECOND).await;
    for group in &groups {
        assert!(matches!(group.get(&key).await, Err(Error::Load(_))), "the original's grace is over");
    }
}

#[tokio::test(start_paused = true)]
async fn an_inserted_value_lives_from_when_it_was_offered_however_long_its_way_was() {
    let (network, source) = (MemoryNetwork::new(), Counting::default());
    let nodes = network.start(2).await.unwrap();
    let lives = |group: GroupBuilder| group.time_to_live(2 * SECOND);
    let groups: Vec<_> = nodes.iter().map(|node| source.group(node, lives)).collect();
    let key = owned_by(&nodes[0]);
    // The hellos of the start are over.
    sleep(SECOND).await;
    network.delay(nodes[0].address(), nodes[1].address(), ms(100));
    // The offer, the question for the value, the value, and that it is stored: the owner has asked after 100 ms.
    let (receipt, took) = timed(groups[1].insert(&key, String::from("inserted"))).await;
    assert!(receipt.unwrap().stored() && took < ms(500), "{took:?}");
    sleep(ms(2_050).saturating_sub(took)).await;
    assert_eq!(groups[0].peek(&key).as_deref(), Some("inserted"));
    sleep(ms(100)).await;
    assert_eq!(groups[0].peek(&key), None);
}

fn within(seconds: u32) -> GetOptions {
    GetOptions::new().max_age(seconds * SECOND)
}

#[tokio::test(start_paused = true)]
async fn a_get_that_says_how_old_is_too_old_gets_nothing_older() {
    let (_nodes, groups, key, source) = with_copies(|builder| builder).await;
    for (number, group) in (1..).zip(&groups) {
        advance(10 * SECOND).await;
        let (entry, took) = timed(group.get_with(&key, within(10))).await;
        assert_eq!((entry.unwrap().into_value(), took), (number.to_string(), Duration::ZERO), "as old as it may be");
        advance(ms(1)).await;
        let gets = (0..50).map(|_| group.get_with(&key, within(10)));
        for entry in join_all(gets).await {
            let entry = entry.unwrap();
            assert_eq!(entry.value().as_str(), (number + 1).to_string());
            assert!(entry.age() <= SECOND, "{entry:?}");
        }
        assert_eq!(source.loads_of(&key), number + 1, "one load for all, at the owner");
        // What is here now is the new one, or nothing.
        assert!(group.peek(&key).is_none_or(|value| value == (number + 1).to_string()));
        for group in &groups {
            group.remove(&key).await.unwrap().everywhere().unwrap();
        }
        source.set(|state| *state.loads.get_mut(&key).unwrap() = number);
        for group in &groups {
            copied(group, &key).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_began_too_early_is_followed_by_another() {
    let (_nodes, groups, key, source) = with_copies(|builder| builder).await;
    source.set(|state| state.delay = 8 * SECOND);
    for (number, group) in (1..).step_by(2).zip(&groups) {
        advance(SECOND).await;
        let (asked, asked_key) = (group.clone(), key.clone());
        let early = tokio::spawn(async move { asked.get_with(&asked_key, within(0)).await });
        sleep(5 * SECOND).await;
        let (entries, took) = timed(join_all((0..50).map(|_| group.get_with(&key, within(4))))).await;
        for entry in entries {
            let entry = entry.unwrap();
            assert!(entry.age() <= 12 * SECOND, "{entry:?}");
            assert_eq!(entry.into_value(), (number + 2).to_string());
        }
        assert_eq!((took, source.loads_of(&key)), (11 * SECOND, number + 2));
        assert_eq!(early.await.unwrap().unwrap().into_value(), (number + 1).to_string());
        // One that began early enough is joined.
        let (asked, asked_key) = (group.clone(), key.clone());
        let early = tokio::spawn(async move { asked.get_with(&asked_key, within(0)).await });
        sleep(5 * SECOND).await;
        assert_eq!(group.get_with(&key, within(5)).await.unwrap().into_value(), (number + 3).to_string());
        early.await.unwrap().unwrap();
        source.set(|state| *state.loads.get_mut(&key).unwrap() = number + 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_get_that_takes_nothing_old_gets_the_error_though_there_is_a_grace() {
    let (_nodes, groups, key, source) = with_copies(graced).await;
    source.set(|state| state.fails = true);
    advance(SECOND).await;
    for group in &groups {
        assert!(matches!(group.get_with(&key, within(0)).await, Err(Error::Load(_))));
        assert_eq!(group.get(&key).await.unwrap(), "1");
    }
    advance(11 * SECOND).await;
    for group in &groups {
        assert!(matches!(group.get_with(&key, within(10)).await, Err(Error::Load(_))));
        assert_eq!(group.get_with(&key, within(60)).await.unwrap().into_value(), "1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fresh_get_is_answered_by_the_owner_whatever_copy_there_is() {
    let source = Counting::default();
    let network = MemoryNetwork::new();
    let nodes = network.start(2).await.unwrap();
    let groups: Vec<_> = nodes.iter().map(|node| source.group(node, |builder| builder)).collect();
    let key = owned_by(&nodes[0]);
    copied(&groups[1], &key).await;
    network.cut(nodes[0].address(), nodes[1].address());
    let receipt = groups[0].insert(&key, String::from("inserted")).await.unwrap();
    assert!(receipt.stored() && receipt.everywhere().is_err(), "the copy is still there");
    network.heal(nodes[0].address(), nodes[1].address());
    assert_eq!(groups[1].get(&key).await.unwrap(), "1");
    let fresh = || groups[1].get_with(&key, GetOptions::new().fresh());
    until("the owner is back", || {
        fresh().now_or_never();
        nodes[1].stats().peers.iter().all(|peer| peer.state == peerage::PeerState::Up)
    })
    .await;
    let entry = fresh().await.unwrap();
    assert_eq!((entry.value().as_str(), entry.source()), ("inserted", &Source::Peer(nodes[0].name().clone())));
    assert_eq!(groups[0].get_with(&key, GetOptions::new().fresh()).await.unwrap().source(), &Source::Main);
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_gives_its_bytes_back_though_nobody_asks() {
    let (source, node) = (Counting::default(), Node::local());
    let group = source.group(&node, |builder| graced(builder).refresh_after(SECOND));
    let endless = node.group("endless").loader(|_: Key| async { Ok::<_, Error>(String::from("v")) });
    let endless: Group<String> = endless.build().unwrap();
    for number in 0..5_000 {
        group.get(&format!("key-{number}")).await.unwrap();
        endless.get(&format!("key-{number}")).await.unwrap();
    }
    sleep(100 * SECOND).await;
    assert_eq!(group.stats().cache.main_entries, 5_000, "they are kept for their grace");
    sleep(45 * SECOND).await;
    let cache = group.stats().cache;
    assert_eq!((cache.main_entries, cache.main_bytes, cache.expiries), (0, 0, 5_000));
    assert_eq!(endless.stats().cache.main_entries, 5_000);
    // And again, with what comes later.
    group.get("later").await.unwrap();
    sleep(145 * SECOND).await;
    assert_eq!(group.stats().cache.main_entries, 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_lagging_source_brings_after_a_removal_is_served_and_not_kept_for_long() {
    let lagging = |builder: GroupBuilder| builder.time_to_live(600 * SECOND).source_lag(5 * SECOND);
    let (_nodes, groups, key, source) = with_copies(lagging).await;
    groups[1].remove(&key).await.unwrap().everywhere().unwrap();
    // Loaded by the owner, and copied: neither lives for longer than the source may lag.
    for group in &groups {
        copied(group, &key).await;
    }
    assert_eq!(source.loads_of(&key), 2, "it is kept meanwhile");
    sleep(5 * SECOND).await;
    assert!(groups.iter().all(|group| group.peek(&key).is_none()), "by now the source may have the new one");
    for group in &groups {
        copied(group, &key).await;
    }
    assert_eq!(source.loads_of(&key), 3);
    sleep(500 * SECOND).await;
    assert!(groups.iter().all(|group| group.peek(&key).is_some()), "that one has the life that it was given");
}

#[tokio::test(start_paused = true)]
async fn who_inserts_another_nodes_key_does_not_trust_its_lagging_source_either() {
    let lagging = |builder: GroupBuilder| builder.time_to_live(600 * SECOND).source_lag(60 * SECOND);
    let network = MemoryNetwork::new();
    let nodes = network.start(2).await.unwrap();
    let groups: Vec<_> = nodes.iter().map(|node| Counting::default().group(node, lagging)).collect();
    let key = owned_by(&nodes[0]);
    network.cut(nodes[0].address(), nodes[1].address());
    let receipt = groups[1].insert(&key, String::from("new")).await.unwrap();
    assert!(!receipt.is_everywhere() && !receipt.stored(), "{receipt:?}");
    let entry = groups[1].get_with(&key, GetOptions::new()).await.unwrap();
    assert_eq!((entry.source(), entry.time_left()), (&Source::Loader, Some(60 * SECOND)));
}
