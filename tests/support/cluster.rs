//! Clusters for tests: nodes on the in-process network, a source that counts its loads, and waiting on conditions.

#![allow(dead_code, reason = "each suite uses its part of it")]

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use peerage::{Error, Group, Key, MemoryNetwork, Node, PeerState, Placement, Receipt};
use tokio::task::JoinHandle;

/// Far more than anything here takes, also on a slow machine under load.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never came: {what}");
}

/// What came of a future, and how long it took.
#[expect(clippy::disallowed_methods, reason = "tests measure virtual time")]
pub(crate) async fn timed<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let start = tokio::time::Instant::now();
    let outcome = future.await;
    (outcome, start.elapsed())
}

/// Milliseconds.
pub(crate) fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A source of truth that counts who loads what. Clones are the same source. Its values are `key@version`.
#[derive(Clone, Default)]
pub(crate) struct Source(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    delay: Duration,
    versions: BTreeMap<String, u64>,
    /// By node and key.
    loads: BTreeMap<(String, String), u64>,
}

impl Source {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// How long a load takes from now on.
    pub(crate) fn set_delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// A loader for the node of that name.
    pub(crate) fn loader(
        &self,
        node: &str,
    ) -> impl Fn(Key) -> BoxFuture<'static, io::Result<String>> + Send + Sync + 'static {
        let (source, node) = (self.clone(), node.to_string());
        move |key| {
            let (source, node) = (source.clone(), node.clone());
            async move { Ok(source.load(&node, key.as_str().unwrap()).await) }.boxed()
        }
    }

    async fn load(&self, node: &str, key: &str) -> String {
        // The value is what the source has when the load begins.
        let (value, delay) = {
            let mut state = self.state();
            *state.loads.entry((node.to_string(), key.to_string())).or_default() += 1;
            (format!("{key}@{}", state.versions.get(key).copied().unwrap_or_default()), state.delay)
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        value
    }

    /// Changes a key at the source; its version from now on.
    pub(crate) fn change(&self, key: &str) -> u64 {
        let mut state = self.state();
        let version = state.versions.entry(key.to_string()).or_default();
        *version += 1;
        *version
    }

    /// Its version at the source now.
    pub(crate) fn version(&self, key: &str) -> u64 {
        self.state().versions.get(key).copied().unwrap_or_default()
    }

    /// Loads of a key, on any node.
    pub(crate) fn loads_of(&self, key: &str) -> u64 {
        self.state().loads.iter().filter(|((_, loaded), _)| loaded == key).map(|(_, count)| count).sum()
    }

    /// Loads of a key on one node.
    pub(crate) fn loads_on(&self, node: &str, key: &str) -> u64 {
        self.state().loads.get(&(node.to_string(), key.to_string())).copied().unwrap_or_default()
    }

    /// All loads.
    pub(crate) fn loads(&self) -> u64 {
        self.state().loads.values().sum()
    }

    /// Counts from zero again.
    pub(crate) fn forget_loads(&self) {
        self.state().loads.clear();
    }
}

/// The version in a value.
pub(crate) fn version(value: &str) -> u64 {
    value.rsplit_once('@').and_then(|(_, version)| version.parse().ok()).expect("a value is key@version")
}

/// A node with its one group.
pub(crate) struct Member {
    pub(crate) node: Node,
    pub(crate) group: Group<String>,
}

impl Member {
    pub(crate) fn new(node: Node, source: &Source) -> Self {
        let group = node.group("g").loader(source.loader(node.name().as_str())).build().unwrap();
        Self { node, group }
    }

    pub(crate) fn name(&self) -> String {
        self.node.name().to_string()
    }

    pub(crate) fn address(&self) -> String {
        self.node.address().to_string()
    }

    /// Asks for a key in a task of its own.
    pub(crate) fn ask(&self, key: &str) -> JoinHandle<Result<String, Error>> {
        let (group, key) = (self.group.clone(), key.to_string());
        tokio::spawn(async move { group.get(&key).await })
    }

    /// Removes a key in a task of its own.
    pub(crate) fn removes(&self, key: &str) -> JoinHandle<Result<Receipt, Error>> {
        let (group, key) = (self.group.clone(), key.to_string());
        tokio::spawn(async move { group.remove(&key).await })
    }

    /// How this node sees a peer.
    pub(crate) fn state_of(&self, peer: &str) -> Option<PeerState> {
        self.node.stats().peers.into_iter().find(|stats| stats.name == *peer).map(|stats| stats.state)
    }

    pub(crate) fn sees_up(&self, peer: &str) -> bool {
        self.state_of(peer) == Some(PeerState::Up)
    }

    pub(crate) fn sees_down(&self, peer: &str) -> bool {
        matches!(self.state_of(peer), Some(PeerState::Down { .. }))
    }

    /// Whether all its listed peers answer.
    pub(crate) fn sees_all_up(&self) -> bool {
        self.node.stats().peers.iter().filter(|peer| peer.listed).all(|peer| peer.state == PeerState::Up)
    }
}

/// A cluster on an in-process network, with nodes `node-1:1`, `node-2:1` and so on.
pub(crate) struct Cluster {
    pub(crate) network: MemoryNetwork,
    pub(crate) source: Source,
    pub(crate) members: Vec<Member>,
}

impl Cluster {
    /// Starts `count` nodes, all of which have reached one another.
    pub(crate) async fn start(count: usize) -> Self {
        let (network, source) = (MemoryNetwork::new(), Source::default());
        let nodes = network.start(count).await.unwrap();
        let members = nodes.into_iter().map(|node| Member::new(node, &source)).collect();
        let cluster = Self { network, source, members };
        cluster.until_whole().await;
        cluster
    }

    pub(crate) async fn until_whole(&self) {
        until("all nodes reach each other", || self.members.iter().all(Member::sees_all_up)).await;
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.members.iter().map(Member::address).collect()
    }

    pub(crate) fn placement(&self) -> Arc<Placement> {
        self.members[0].node.placement()
    }

    /// Keys whose ranking begins with these nodes, by index.
    pub(crate) fn keys_ranked(&self, first: &[usize], count: usize) -> Vec<String> {
        let names: Vec<String> = first.iter().map(|&index| self.members[index].name()).collect();
        keys_ranked(&self.placement(), &names, count)
    }

    /// Cuts one node off from all others.
    pub(crate) fn cut_off(&self, index: usize) {
        self.each_link(index, MemoryNetwork::cut);
    }

    /// Swallows all that goes to and from one node.
    pub(crate) fn black_hole(&self, index: usize) {
        self.each_link(index, MemoryNetwork::black_hole);
    }

    fn each_link(&self, index: usize, fault: impl Fn(&MemoryNetwork, &str, &str)) {
        let own = self.members[index].address();
        for other in self.addresses().iter().filter(|other| **other != own) {
            fault(&self.network, &own, other);
        }
    }

    /// Waits until all others hold one node for down.
    pub(crate) async fn until_down(&self, index: usize) {
        let name = self.members[index].name();
        let others = || self.members.iter().filter(|member| member.name() != name);
        until("the loss is noticed", || others().all(|member| member.sees_down(&name))).await;
    }
}

/// Keys whose ranking begins with these nodes, by name.
pub(crate) fn keys_ranked(placement: &Placement, first: &[String], count: usize) -> Vec<String> {
    let fits =
        |key: &String| placement.ranked_for(key).iter().zip(first).all(|(ranked, name)| *ranked == *name.as_str());
    (0..).map(|number| format!("key-{number}")).filter(fits).take(count).collect()
}
