//! Gets of keys that other nodes own, many at a time: each answered as soon as it is there, each given up when nobody
//! waits for it any more, and each wait as long as its caller said.
//!
//! Over gRPC on loopback time is real: there, tests wait for conditions. In memory it is paused, and exact.

#![cfg(feature = "test-util")]

#[path = "support/counting.rs"]
mod counting;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use peerage::{BoxError, Error, GetOptions, Group, Key, Node};
use tokio::sync::{Semaphore, watch};

use counting::{Cluster, Runs, is_idle, now, settled, until};

const SECOND: Duration = Duration::from_secs(1);

/// What loaders of a test wait for: those of keys that begin with `slow`, until it is opened.
#[derive(Clone)]
struct Gate(watch::Sender<bool>);

impl Gate {
    fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    fn open(&self) {
        self.0.send_replace(true);
    }

    async fn pass(&self, key: &Key) {
        if key.starts_with(b"slow") {
            self.0.subscribe().wait_for(|open| *open).await.expect("the test holds the gate");
        }
    }
}

/// What all nodes of a test have in common.
#[derive(Clone)]
struct Source {
    runs: Runs,
    gate: Gate,
    /// How many loads run at a time on a node.
    turns: usize,
    timeout: Duration,
}

impl Source {
    fn new() -> Self {
        Self { runs: Runs::default(), gate: Gate::new(), turns: 64, timeout: 60 * SECOND }
    }

    /// A group whose values say which key they are of; without hot copies, so that each get of another's key is a
    /// fetch.
    fn group(&self, index: usize, node: &Node) -> Group<String> {
        let (runs, gate) = (self.runs.clone(), self.gate.clone());
        let loader = move |key: Key| {
            let (running, gate) = (runs.begin(index, [key.clone()]), gate.clone());
            async move {
                gate.pass(&key).await;
                drop(running);
                Ok::<_, BoxError>(format!("value of {key}"))
            }
        };
        let group = node.group("g").hot_share(0.0).timeout(self.timeout).load_timeout(3600 * SECOND);
        group.load_queue_timeout(3600 * SECOND).max_concurrent_loads(self.turns).loader(loader).build().unwrap()
    }
}

/// Nodes on loopback, and one group on each.
struct Real {
    nodes: Vec<Node>,
    groups: Vec<Group<String>>,
}

impl Real {
    async fn start(count: usize, source: &Source) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(Node::builder("127.0.0.1:0").alone().start().await.unwrap());
        }
        let groups = nodes.iter().enumerate().map(|(index, node)| source.group(index, node)).collect();
        let addresses: Vec<_> = nodes.iter().map(|node| node.address().to_owned()).collect();
        for node in &nodes {
            node.set_peers(&addresses).await.unwrap();
        }
        settled(&nodes).await;
        Self { nodes, groups }
    }

    /// Keys with this beginning that a node owns.
    fn keys_of(&self, node: usize, beginning: &str, count: usize) -> Vec<String> {
        let placement = self.nodes[0].placement();
        let keys = (0..).map(|number| format!("{beginning}-{number}"));
        keys.filter(|key| placement.owner_of(key.as_bytes()) == self.nodes[node].name()).take(count).collect()
    }

    async fn idle(&self) {
        until("nothing in flight", || self.groups.iter().all(|group| is_idle(&group.stats()))).await;
    }

    async fn end(self) {
        for node in &self.nodes {
            assert!(node.shutdown(60 * SECOND).await.is_clean());
        }
    }
}

/// The same in memory, where time is paused.
async fn in_memory(count: usize, source: &Source) -> Cluster<String> {
    Cluster::start(count, |index, node| source.group(index, node)).await
}

fn keys_of(cluster: &Cluster<String>, node: usize, beginning: &str, count: usize) -> Vec<String> {
    let keys = (0..).map(|number| format!("{beginning}-{number}"));
    keys.filter(|key| cluster.owner_of(key.as_bytes()) == node).take(count).collect()
}

// Many keys.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_keys_of_three_nodes_are_a_message_to_each_and_a_load_for_each() {
    let source = Source::new();
    let cluster = Real::start(3, &source).await;
    let keys: Vec<String> = (0..1000).map(|number| format!("key-{number}")).collect();
    for round in 0..2 {
        let values = cluster.groups[0].get_many(&keys).await;
        for (key, value) in keys.iter().zip(values) {
            assert_eq!(value.unwrap(), format!("value of {key}"));
        }
        let fetches = cluster.groups[0].stats().fetches;
        let own =
            keys.iter().filter(|key| cluster.nodes[0].placement().owner_of(key.as_bytes()) == cluster.nodes[0].name());
        let others = 1000 - own.count() as u64;
        assert_eq!((fetches.messages, fetches.keys), (2 * (round + 1), others * (round + 1)));
        assert_eq!(source.runs.total(), 1000, "one load for each key, where it is owned");
    }
    // Some are asked for twice, in another order, by everybody at once.
    let twice: Vec<&String> = keys.iter().rev().chain(&keys).collect();
    let all = join_all(cluster.groups.iter().map(|group| group.get_many(&twice))).await;
    for values in all {
        assert!(twice.iter().zip(values).all(|(key, value)| value.unwrap() == format!("value of {key}")));
    }
    assert_eq!(source.runs.total(), 1000);
    cluster.idle().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_load_does_not_hold_up_hits_on_the_same_stream() {
    let source = Source { turns: 200, ..Source::new() };
    let cluster = Real::start(2, &source).await;
    let (slow, quick) = (cluster.keys_of(1, "slow", 100), cluster.keys_of(1, "quick", 100));
    let waiting = tokio::spawn({
        let (group, both) = (cluster.groups[0].clone(), [&slow[..], &quick[..]].concat());
        async move { group.get_many(&both).await }
    });
    until("all the slow loads run", || source.runs.now() == 100).await;
    // Those of the same call that were quick have landed: who asks for them now waits for nothing.
    for key in &quick {
        assert_eq!(cluster.groups[0].get(key).await.unwrap(), format!("value of {key}"));
    }
    assert!(cluster.groups[0].get_many(&quick).await.into_iter().all(|value| value.is_ok()));
    assert!(!waiting.is_finished() && source.runs.now() == 100);
    source.gate.open();
    assert!(waiting.await.unwrap().into_iter().all(|value| value.is_ok()));
    assert_eq!(source.runs.total(), 200);
    cluster.end().await;
}

// Callers who go away.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_nobody_waits_for_any_more_is_not_begun_and_one_that_has_begun_is_kept() {
    let source = Source { turns: 1, ..Source::new() };
    let cluster = Real::start(2, &source).await;
    let keys = cluster.keys_of(1, "slow", 4);
    let ask = |key: &str| {
        let (group, key) = (cluster.groups[0].clone(), key.to_owned());
        tokio::spawn(async move { group.get(&key).await })
    };
    let begun = ask(&keys[0]);
    until("it has begun", || source.runs.now() == 1).await;
    let left: Vec<_> = keys[1..3].iter().map(|key| ask(key)).collect();
    let stays = ask(&keys[3]);
    until("they are in line", || cluster.groups[1].stats().loads_queued == 3).await;
    // One of them has somebody else who waits for it, at the owner itself.
    let joined = tokio::spawn({
        let (group, key) = (cluster.groups[1].clone(), keys[2].clone());
        async move { group.get(&key).await }
    });
    until("it is joined", || cluster.groups[1].stats().gets.joined == 1 || cluster.groups[1].stats().flights == 4)
        .await;
    tokio::task::yield_now().await;
    begun.abort();
    for left in left {
        left.abort();
    }
    until("the one that nobody wants has left the line", || cluster.groups[1].stats().loads_queued == 2).await;
    source.gate.open();
    assert_eq!(joined.await.unwrap().unwrap(), format!("value of {}", keys[2]));
    assert_eq!(stays.await.unwrap().unwrap(), format!("value of {}", keys[3]));
    cluster.idle().await;
    assert!(!source.runs.order().contains(&Key::new(&keys[1])), "nobody wanted it");
    assert_eq!(cluster.groups[1].peek(&keys[0]), Some(format!("value of {}", keys[0])), "it is kept all the same");
    assert_eq!(source.runs.total(), 3);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_a_fetch_keeps_it_alive_when_the_first_has_left() {
    let source = Source { turns: 1, ..Source::new() };
    let cluster = Real::start(2, &source).await;
    let keys = cluster.keys_of(1, "slow", 3);
    let ask = |key: &str| {
        let (group, key) = (cluster.groups[0].clone(), key.to_owned());
        tokio::spawn(async move { group.get(&key).await })
    };
    let running = ask(&keys[0]);
    until("it runs", || source.runs.now() == 1).await;
    let (first, unwanted) = (ask(&keys[1]), ask(&keys[2]));
    until("they are in line", || cluster.groups[1].stats().loads_queued == 2).await;
    let joiner = ask(&keys[1]);
    // The joiner joins the fetch, on the node that asks.
    until("somebody has joined", || cluster.groups[0].stats().flights == 3 && !joiner.is_finished()).await;
    tokio::task::yield_now().await;
    let in_time = cluster.groups[0].get_with(&keys[1], GetOptions::new().timeout(Duration::from_millis(1))).await;
    assert!(matches!(in_time, Err(Error::Timeout { .. })));
    first.abort();
    unwanted.abort();
    until("what nobody wants has left the line", || cluster.groups[1].stats().loads_queued == 1).await;
    source.gate.open();
    assert_eq!(joiner.await.unwrap().unwrap(), format!("value of {}", keys[1]));
    running.await.unwrap().unwrap();
    assert_eq!(source.runs.total(), 2);
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_load_keeps_its_place_in_line_when_its_first_has_left_and_another_still_waits() {
    let source = Source { turns: 1, timeout: SECOND, ..Source::new() };
    let cluster = in_memory(2, &source).await;
    let keys = keys_of(&cluster, 1, "slow", 4);
    let get = |node: usize, key: &str, limit: Duration| {
        let (group, key) = (cluster.groups[node].clone(), key.to_owned());
        tokio::spawn(async move { group.get_with(&key, GetOptions::new().timeout(limit)).await.map(drop) })
    };
    let in_line = |count| {
        let owner = &cluster.groups[1];
        until("they are in line", move || owner.stats().loads_queued == count)
    };
    let runs = get(1, &keys[0], 60 * SECOND);
    until("it runs", || source.runs.now() == 1).await;
    let (first, joiner) = (get(0, &keys[1], SECOND), get(0, &keys[1], 60 * SECOND));
    in_line(1).await;
    // Of this one nobody has more time than who asked first.
    let unwanted = get(0, &keys[2], 2 * SECOND);
    in_line(2).await;
    let last = get(1, &keys[3], 60 * SECOND);
    in_line(3).await;
    for left in [first, unwanted] {
        assert!(matches!(left.await.unwrap(), Err(Error::Timeout { .. })));
    }
    in_line(2).await;
    source.gate.open();
    for got in [runs, joiner, last] {
        got.await.unwrap().unwrap();
    }
    let order = [0, 1, 3].map(|number| Key::new(&keys[number]));
    assert_eq!(source.runs.order(), order, "who came first is loaded first, and nobody for nobody");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_a_node_asked_for_which_is_gone_is_not_begun() {
    let source = Source { turns: 1, ..Source::new() };
    let mut cluster = Real::start(2, &source).await;
    let keys = cluster.keys_of(1, "slow", 3);
    let runs = tokio::spawn({
        let (group, key) = (cluster.groups[1].clone(), keys[0].clone());
        async move { group.get(&key).await }
    });
    until("it runs", || source.runs.now() == 1).await;
    let node = cluster.nodes.remove(0);
    let asked = tokio::spawn({
        let (group, keys) = (cluster.groups.remove(0), keys[1..].to_vec());
        async move { group.get_many(&keys).await }
    });
    until("they are in line", || cluster.groups[0].stats().loads_queued == 2).await;
    assert_eq!(node.shutdown(Duration::ZERO).await.fetches_cut, 1);
    assert!(asked.await.unwrap().iter().all(|got| matches!(got, Err(Error::Closed))));
    until("they have left the line", || cluster.groups[0].stats().loads_queued == 0).await;
    source.gate.open();
    runs.await.unwrap().unwrap();
    assert_eq!(source.runs.total(), 1);
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn thousands_of_gets_that_are_dropped_leave_nothing_behind() {
    let source = Source { turns: 10_000, ..Source::new() };
    let cluster = in_memory(2, &source).await;
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (own, others) = (keys_of(&cluster, 0, "slow", 50), keys_of(&cluster, 1, "slow", 50));
    for _ in 0..50 {
        let gets: Vec<_> = own.iter().chain(&others).map(|key| cluster.groups[0].get(key)).collect();
        assert!(join_all(gets).now_or_never().is_none());
        let many = cluster.groups[0].get_many(own.iter().chain(&others));
        assert!(many.now_or_never().is_none());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until("all loads run", || source.runs.now() == 100).await;
    assert_eq!(cluster.groups[0].stats().gets.abandoned, 50 * 200);
    // The fetches are given up; what has begun goes on, and is kept.
    until("the fetches are over", || cluster.groups[0].stats().flights == 50).await;
    source.gate.open();
    cluster.idle().await;
    assert_eq!(source.runs.total(), 100);
    assert!(others.iter().all(|key| cluster.groups[1].peek(key).is_some()));
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    until("their tasks are over", || tasks() <= before).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc_thousands_of_gets_that_are_dropped_leave_nothing_behind_either() {
    let source = Source { turns: 1, ..Source::new() };
    let cluster = Real::start(2, &source).await;
    let keys = cluster.keys_of(1, "slow", 2000);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let gets: Vec<_> = keys.iter().map(|key| cluster.groups[0].get(key)).collect();
    assert!(join_all(gets).now_or_never().is_none());
    until("all are given up but the one that runs", || {
        cluster.groups[0].stats().flights == 0 && cluster.groups[1].stats().loads_queued == 0
    })
    .await;
    source.gate.open();
    cluster.idle().await;
    assert!(source.runs.total() <= 1, "{} loads for nobody", source.runs.total());
    // The one that watches the line looks when the first would have been in it for too long.
    until("their tasks are over", || tasks() <= before + 1).await;
    cluster.end().await;
}

// Shutdowns, and changes of the membership.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_shut_down_cuts_its_fetches_short_and_says_how_many() {
    let source = Source::new();
    let cluster = Real::start(3, &source).await;
    let (one, other) = (cluster.keys_of(1, "slow", 20), cluster.keys_of(2, "slow", 1));
    let many = tokio::spawn({
        let (group, keys) = (cluster.groups[0].clone(), one.clone());
        async move { group.get_many(&keys).await }
    });
    let single = tokio::spawn({
        let (group, key) = (cluster.groups[0].clone(), other[0].clone());
        async move { group.get(&key).await }
    });
    until("the loads run", || source.runs.now() == 21).await;
    let report = tokio::time::timeout(20 * SECOND, cluster.nodes[0].shutdown(Duration::from_millis(50))).await.unwrap();
    assert_eq!((report.loads_cut, report.fetches_cut, report.removals_cut), (0, 2, 0), "one for each message");
    assert!(many.await.unwrap().iter().all(|value| matches!(value, Err(Error::Closed))));
    assert!(matches!(single.await.unwrap(), Err(Error::Closed)));
    source.gate.open();
    until("the others are idle", || cluster.groups[1..].iter().all(|group| is_idle(&group.stats()))).await;
    for node in &cluster.nodes[1..] {
        assert!(node.shutdown(60 * SECOND).await.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_is_shut_down_gives_what_it_has_begun_and_hands_on_the_rest() {
    let source = Source { turns: 10, ..Source::new() };
    let cluster = Real::start(3, &source).await;
    let keys = cluster.keys_of(1, "slow", 30);
    let asked = tokio::spawn({
        let (group, keys) = (cluster.groups[0].clone(), keys.clone());
        async move { group.get_many(&keys).await }
    });
    until("the first loads run", || source.runs.now() == 10 && cluster.groups[1].stats().loads_queued == 20).await;
    let owner = cluster.nodes[1].clone();
    let leaving = tokio::spawn(async move { owner.shutdown(30 * SECOND).await });
    until("it says goodbye", || {
        let peers = cluster.nodes[0].stats().peers;
        peers.iter().any(|peer| peer.state == peerage::PeerState::Draining)
    })
    .await;
    source.gate.open();
    for (key, value) in keys.iter().zip(asked.await.unwrap()) {
        assert_eq!(value.unwrap(), format!("value of {key}"), "no get fails because a node leaves");
    }
    leaving.await.unwrap();
    assert!(source.runs.total() <= 60);
    cluster.idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_outlive_a_change_of_the_membership() {
    let source = Source::new();
    let cluster = Real::start(3, &source).await;
    let keys = cluster.keys_of(1, "slow", 50);
    let asked = tokio::spawn({
        let (group, keys) = (cluster.groups[0].clone(), keys.clone());
        async move { group.get_many(&keys).await }
    });
    until("the loads run", || source.runs.now() == 50).await;
    // For the one that asks, the owner is no peer any more; and then it is one again.
    cluster.nodes[0].set_peers([cluster.nodes[2].address()]).await.unwrap();
    assert_eq!(cluster.nodes[0].stats().peers.iter().filter(|peer| peer.listed).count(), 1);
    let addresses: Vec<_> = cluster.nodes.iter().map(|node| node.address().to_owned()).collect();
    cluster.nodes[0].set_peers(&addresses).await.unwrap();
    settled(&cluster.nodes).await;
    source.gate.open();
    for (key, value) in keys.iter().zip(asked.await.unwrap()) {
        assert_eq!(value.unwrap(), format!("value of {key}"));
    }
    assert_eq!(source.runs.total(), 50, "they were asked on the connection that was, and answered on it");
    cluster.idle().await;
    cluster.end().await;
}

// Limits.

/// Around the second from which on a wait has no timer of its own at first, and where that one's rounds are.
const LIMITS_MS: [u64; 14] = [1, 100, 249, 250, 251, 500, 999, 1000, 1001, 1100, 1249, 1250, 1251, 10_000];

#[tokio::test(start_paused = true)]
async fn a_get_ends_when_its_limit_says_and_not_later() {
    let source = Source::new();
    let cluster = in_memory(2, &source).await;
    // All at once, each on a flight of its own and all on one, on this node's loads and on fetches.
    let mut gets = Vec::new();
    for limit in LIMITS_MS.map(Duration::from_millis) {
        for node in 0..2 {
            let own = keys_of(&cluster, node, &format!("slow-{limit:?}"), 1).remove(0);
            for key in [own, keys_of(&cluster, node, "slow", 1).remove(0)] {
                let group = cluster.groups[0].clone();
                gets.push(tokio::spawn(async move {
                    let start = now();
                    let got = group.get_with(&key, GetOptions::new().timeout(limit)).await;
                    (limit, got.map(drop), now() - start)
                }));
            }
        }
        // Whatever the others are at.
        tokio::time::sleep(Duration::from_millis(37)).await;
    }
    for get in gets {
        let (limit, got, took) = get.await.unwrap();
        assert!(matches!(got, Err(Error::Timeout { limit: told }) if told == limit), "{limit:?}: {got:?}");
        assert_eq!(took, limit);
    }
    source.gate.open();
    cluster.idle().await;
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_get_whose_flight_a_removal_has_voided_ends_when_its_limit_says_too() {
    for limit in LIMITS_MS.map(Duration::from_millis) {
        for remove_after in
            [0, 1, 90, 240, 260, 600].map(Duration::from_millis).into_iter().filter(|after| *after < limit)
        {
            let source = Source::new();
            let cluster = in_memory(2, &source).await;
            for node in 0..2 {
                let key = keys_of(&cluster, node, "slow", 1).remove(0);
                let start = now();
                let get = cluster.groups[0].get_with(&key, GetOptions::new().timeout(limit));
                let removal = async {
                    tokio::time::sleep(remove_after).await;
                    cluster.groups[0].remove(&key).await.unwrap()
                };
                let (got, _) = futures::join!(async { (get.await, now() - start) }, removal);
                assert!(matches!(got.0, Err(Error::Timeout { limit: told }) if told == limit), "{:?}", got.0);
                assert_eq!(got.1, limit, "removed after {remove_after:?}");
            }
            source.gate.open();
            cluster.idle().await;
            cluster.end().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn many_gets_of_one_call_end_when_the_groups_limit_says() {
    for limit in LIMITS_MS.map(Duration::from_millis) {
        let source = Source { timeout: limit, ..Source::new() };
        let cluster = in_memory(3, &source).await;
        let keys: Vec<String> = (0..60).map(|number| format!("slow-{number}")).chain(["quick".into()]).collect();
        let start = now();
        let removal = async {
            tokio::time::sleep(limit / 2).await;
            cluster.groups[0].remove_many(&keys[..20]).await.unwrap()
        };
        let (got, _) = futures::join!(async { (cluster.groups[0].get_many(&keys).await, now() - start) }, removal);
        assert_eq!(got.1, limit);
        let slow = &got.0[..60];
        assert!(
            slow.iter().all(|value| matches!(value, Err(Error::Timeout { limit: told }) if *told == limit)),
            "{slow:?}"
        );
        source.gate.open();
        cluster.idle().await;
        cluster.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_joins_a_flight_with_more_time_than_its_starter_waits_for_as_long_as_it_may() {
    let source = Source { timeout: SECOND, ..Source::new() };
    let cluster = in_memory(2, &source).await;
    for node in 0..2 {
        let key = keys_of(&cluster, node, "slow", 1).remove(0);
        let first = cluster.groups[0].get_with(&key, GetOptions::new().timeout(2 * SECOND));
        let second = cluster.groups[0].get_with(&key, GetOptions::new().timeout(7 * SECOND));
        let start = now();
        let first = async { (first.await.map(drop), now() - start) };
        let second = async { (second.await.map(drop), now() - start) };
        let ((first, first_took), (second, second_took)) = futures::join!(first, second);
        assert!(matches!(first, Err(Error::Timeout { limit }) if limit == 2 * SECOND));
        assert!(matches!(second, Err(Error::Timeout { limit }) if limit == 7 * SECOND), "{second:?}");
        assert_eq!((first_took, second_took), (2 * SECOND, 7 * SECOND));
    }
    source.gate.open();
    cluster.idle().await;
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_landing_is_not_late_for_those_who_have_been_woken_in_vain() {
    let source = Source::new();
    let cluster = in_memory(2, &source).await;
    let key = keys_of(&cluster, 1, "slow", 1).remove(0);
    let gets: Vec<_> = (0..200)
        .map(|_| {
            let (group, key) = (cluster.groups[0].clone(), key.clone());
            tokio::spawn(async move { (group.get(&key).await, now()) })
        })
        .collect();
    // Ten rounds of whoever looks after waits.
    tokio::time::sleep(Duration::from_millis(2_600)).await;
    let open = now();
    source.gate.open();
    for get in gets {
        let (got, at) = get.await.unwrap();
        assert_eq!((got.unwrap(), at), (format!("value of {key}"), open));
    }
    cluster.end().await;
}

// Values.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_all_sizes_come_whole_and_removals_pass_them() {
    let mut nodes = Vec::new();
    for _ in 0..2 {
        nodes.push(Node::builder("127.0.0.1:0").alone().start().await.unwrap());
    }
    let loads = Arc::new(AtomicUsize::new(0));
    let groups: Vec<Group<Bytes>> = nodes
        .iter()
        .map(|node| {
            let loads = Arc::clone(&loads);
            let loader = move |key: Key| {
                loads.fetch_add(1, Ordering::SeqCst);
                let len = key.as_str().and_then(|key| key.split('-').next()?.parse().ok()).unwrap();
                async move { Ok::<_, BoxError>(sized(len)) }
            };
            node.group("g").hot_share(0.0).capacity(256 << 20).loader(loader).build().unwrap()
        })
        .collect();
    let addresses: Vec<_> = nodes.iter().map(|node| node.address().to_owned()).collect();
    for node in &nodes {
        node.set_peers(&addresses).await.unwrap();
    }
    settled(&nodes).await;
    let keys_of = |len: usize, count: usize| {
        let (placement, name) = (nodes[0].placement(), nodes[1].name().clone());
        (0..)
            .map(move |number| format!("{len}-{number}"))
            .filter(move |key| placement.owner_of(key.as_bytes()) == &name)
            .take(count)
    };
    let sizes = [0, 1, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 1 << 20, 16 << 20];
    let mixed: Vec<(usize, String)> =
        sizes.into_iter().flat_map(|len| keys_of(len, 2).map(move |key| (len, key))).collect();
    let values = groups[0].get_many(mixed.iter().map(|(_, key)| key)).await;
    for ((len, key), value) in mixed.iter().zip(values) {
        assert!(value.unwrap() == sized(*len), "{key}");
    }
    // And back, as inserts: the owner keeps what it was given.
    for len in sizes {
        let key = keys_of(len, 1).next().unwrap();
        let value = Bytes::from(vec![b'i'; len]);
        let receipt = groups[0].insert(&key, value.clone()).await.unwrap();
        assert!(receipt.stored() && receipt.everywhere().is_ok(), "{len}");
        assert!(groups[0].get(&key).await.unwrap() == value, "{len}");
    }
    let large: Vec<String> = keys_of(2 << 20, 60).collect();
    let through = Arc::new(Semaphore::new(0));
    let waits: Vec<_> = large
        .iter()
        .map(|key| {
            let (group, key, through) = (groups[0].clone(), key.clone(), Arc::clone(&through));
            tokio::spawn(async move {
                assert_eq!(group.get(&key).await.unwrap().len(), 2 << 20);
                through.add_permits(1);
            })
        })
        .collect();
    until("one is through", || through.available_permits() > 0).await;
    assert!(groups[0].remove("any").await.unwrap().everywhere().is_ok());
    assert!(through.available_permits() < 60, "the removal waited for the values");
    for wait in waits {
        wait.await.unwrap();
    }
    for node in &nodes {
        assert!(node.shutdown(60 * SECOND).await.is_clean());
    }
}

fn sized(len: usize) -> Bytes {
    (0..=250_u8).collect::<Vec<_>>().repeat(len / 251 + 1)[..len].to_vec().into()
}

#[tokio::test(start_paused = true)]
async fn a_fetch_is_cut_short_once_also_if_its_peer_has_never_been_tried() {
    let network = peerage::MemoryNetwork::new();
    network.black_hole("node-1:1", "node-2:1");
    let node = network.node("node-1:1").peers(["node-1:1", "node-2:1"]).start().await.unwrap();
    let group = Source::new().group(0, &node);
    let owner_of = |key: &String| node.placement().owner_of(key.as_bytes()) == "node-2:1";
    let key = (0..1000).map(|number| format!("key-{number}")).find(owner_of).unwrap();
    let get = tokio::spawn(async move { group.get(&key).await });
    tokio::task::yield_now().await;
    let report = node.shutdown(Duration::from_millis(1)).await;
    assert_eq!((report.loads_cut, report.fetches_cut, report.removals_cut), (0, 1, 0));
    assert!(matches!(get.await.unwrap(), Err(Error::Closed)));
}
