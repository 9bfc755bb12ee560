//! Loaders that are counted, clusters of them, and conditions to wait for.

#![allow(dead_code, reason = "each test crate uses its part of it")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use peerage::{Group, GroupStats, Key, MemoryNetwork, Node, PeerState, Value};
use tokio::time::Instant;

/// What the loaders of a cluster did: how often they ran, where, for which key, and how many at a time.
#[derive(Clone, Default)]
pub(crate) struct Runs(Arc<Mutex<Counts>>);

#[derive(Default)]
struct Counts {
    calls: usize,
    now: usize,
    most: usize,
    of_key: BTreeMap<(usize, Key), OfKey>,
    order: Vec<Key>,
}

#[derive(Default)]
struct OfKey {
    total: usize,
    now: usize,
    most: usize,
}

/// Held by a loader while it runs; dropped with its future, however that ends.
pub(crate) struct Running {
    runs: Runs,
    node: usize,
    keys: Vec<Key>,
}

impl Runs {
    /// A loader of this node begins.
    pub(crate) fn begin(&self, node: usize, keys: impl IntoIterator<Item = Key>) -> Running {
        let keys: Vec<Key> = keys.into_iter().collect();
        let mut counts = self.counts();
        counts.calls += 1;
        counts.now += 1;
        counts.most = counts.most.max(counts.now);
        for key in &keys {
            counts.order.push(key.clone());
            let of_key = counts.of_key.entry((node, key.clone())).or_default();
            of_key.total += 1;
            of_key.now += 1;
            of_key.most = of_key.most.max(of_key.now);
        }
        Running { runs: self.clone(), node, keys }
    }

    /// How often keys were loaded, on all nodes.
    pub(crate) fn total(&self) -> usize {
        self.counts().order.len()
    }

    /// How often a loader was called, on all nodes.
    pub(crate) fn calls(&self) -> usize {
        self.counts().calls
    }

    /// How often keys were loaded on this node.
    pub(crate) fn on(&self, node: usize) -> usize {
        self.counts().of_key.iter().filter(|((on, _), _)| *on == node).map(|(_, of_key)| of_key.total).sum()
    }

    /// How many loaders run now.
    pub(crate) fn now(&self) -> usize {
        self.counts().now
    }

    /// How many loaders ran at a time.
    pub(crate) fn most(&self) -> usize {
        self.counts().most
    }

    /// How many loads of one key ran at a time on one node.
    pub(crate) fn most_of_a_key(&self) -> usize {
        self.counts().of_key.values().map(|of_key| of_key.most).max().unwrap_or(0)
    }

    /// The keys, in the order in which their loads began.
    pub(crate) fn order(&self) -> Vec<Key> {
        self.counts().order.clone()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut counts = self.runs.counts();
        counts.now -= 1;
        for key in &self.keys {
            counts.of_key.get_mut(&(self.node, key.clone())).unwrap().now -= 1;
        }
    }
}

/// Nodes of one cluster on an in-process network, and one group on each.
pub(crate) struct Cluster<V: Value> {
    pub(crate) network: MemoryNetwork,
    pub(crate) nodes: Vec<Node>,
    pub(crate) groups: Vec<Group<V>>,
}

impl<V: Value> Cluster<V> {
    /// Starts the nodes, builds a group on each, and waits until all have met.
    pub(crate) async fn start(count: usize, build: impl Fn(usize, &Node) -> Group<V>) -> Self {
        let network = MemoryNetwork::new();
        let nodes = network.start(count).await.unwrap();
        let groups = nodes.iter().enumerate().map(|(index, node)| build(index, node)).collect();
        settled(&nodes).await;
        Self { network, nodes, groups }
    }

    /// The index of the key's owner.
    pub(crate) fn owner_of(&self, key: &[u8]) -> usize {
        let placement = self.nodes[0].placement();
        let owner = placement.owner_of(key);
        self.nodes.iter().position(|node| node.name() == owner).unwrap()
    }

    /// The `number`th key that this node owns.
    pub(crate) fn key_of(&self, node: usize, number: usize) -> String {
        let keys = (0..).map(|number| format!("key-{number}"));
        keys.filter(|key| self.owner_of(key.as_bytes()) == node).nth(number).unwrap()
    }

    /// Waits until no node has anything in flight.
    pub(crate) async fn idle(&self) {
        until("nothing in flight", || self.groups.iter().all(|group| is_idle(&group.stats()))).await;
    }

    /// Every node ends with nothing cut short.
    pub(crate) async fn end(self) {
        for node in &self.nodes {
            assert!(node.shutdown(Duration::from_secs(60)).await.is_clean());
        }
    }
}

/// Whether a group has nothing in flight.
pub(crate) fn is_idle(stats: &GroupStats) -> bool {
    stats.flights == 0 && stats.loads_running == 0 && stats.loads_queued == 0
}

/// Waits until all nodes have met: from then on the placement decides who is asked.
pub(crate) async fn settled(nodes: &[Node]) {
    let met = |node: &Node| node.stats().peers.iter().all(|peer| peer.state == PeerState::Up);
    until("all nodes have met", || nodes.iter().all(met)).await;
}

/// Waits for a condition; gives up after a time that only a mistake takes.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let limit = tokio::time::timeout(Duration::from_secs(600), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    limit.await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

/// The time of the runtime, which tests pause.
#[expect(clippy::disallowed_methods, reason = "tests compare times of a paused clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Lets time go by, exactly so much. In steps: a jump of two seconds is what a process finds that has stood still.
pub(crate) async fn pass(mut time: Duration) {
    const STEP: Duration = Duration::from_millis(500);
    while time > STEP {
        tokio::time::advance(STEP).await;
        time -= STEP;
    }
    tokio::time::advance(time).await;
}
