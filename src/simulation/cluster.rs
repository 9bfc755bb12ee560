//! A cluster of machines: their processes, the faults of the moment, and how the two fit.
//!
//! What is wrong is a set of faults. Whenever it changes, machines and links are made as the whole set wants them: so
//! faults can overlap in any way, and when the last is gone everything is well.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::clock::{self, Clock, sleep};
use crate::error::{ConfigError, StartError};
use crate::memory::{Condition, MemoryNetwork};
use crate::node::Node;
use crate::tasks::ShutdownReport;

use super::Fault;
use super::machine::{Machine, Process, Wanted};

/// How often a condition that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long nodes may take to find each other at the start.
const FIND_LIMIT: Duration = Duration::from_secs(10);

type Build<S> = Box<dyn Fn(&Node) -> Result<S, ConfigError> + Send + Sync>;

/// A cluster in a simulation: `S` is what a process of the service holds, such as its groups.
///
/// A handle; clones are the same cluster. Nodes are named by their numbers, from 0; node 0 is `node-1:1` to others.
pub struct Cluster<S> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    network: MemoryNetwork,
    clock: Clock,
    build: Build<S>,
    state: Mutex<State<S>>,
}

struct State<S> {
    machines: Vec<Machine<S>>,
    /// What is wrong now, in the order in which it went wrong.
    faults: BTreeMap<u64, Fault>,
    last_fault: u64,
    links: BTreeMap<(usize, usize), Condition>,
    /// Why a node could not be started again, in words.
    troubles: Vec<String>,
}

impl<S: Clone + Send + Sync + 'static> Cluster<S> {
    /// Starts so many nodes, which list one another, and waits until they have found each other. `build` makes of a
    /// node what the service makes of it when it starts; it is called for each start of each node.
    ///
    /// # Errors
    /// If `build` fails, or nodes do not find each other.
    pub async fn start(
        nodes: usize,
        build: impl Fn(&Node) -> Result<S, ConfigError> + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let (network, mut machines) = (MemoryNetwork::new(), Vec::with_capacity(nodes));
        let everybody: Vec<usize> = (0..nodes).collect();
        for number in 1..=nodes {
            let address = format!("node-{number}:1");
            let node = network.node(&address).alone().start().await?;
            let process = Process::new(node.clone(), build(&node)?, everybody.clone());
            machines.push(Machine { address, process: Some(process), is_changing: false });
        }
        for node in machines.iter().filter_map(|machine| Some(machine.process.as_ref()?.node.clone())) {
            node.set_peers(machines.iter().map(|machine| machine.address.as_str())).await?;
        }
        let (faults, links) = (BTreeMap::new(), BTreeMap::new());
        let state = Mutex::new(State { machines, faults, last_fault: 0, links, troubles: Vec::new() });
        let clock = Clock::start();
        let cluster = Self { shared: Arc::new(Shared { network, clock, build: Box::new(build), state }) };
        cluster.until(FIND_LIMIT, Self::is_whole).await;
        Ok(cluster)
    }

    /// How long the cluster has been running, in its own time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.shared.clock.now().since(clock::MADE)
    }

    /// The network that it runs on.
    #[must_use]
    pub fn network(&self) -> &MemoryNetwork {
        &self.shared.network
    }

    /// How many nodes there are, running or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state().machines.len()
    }

    /// Whether it has no nodes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A node, unless it is down.
    #[must_use]
    pub fn node(&self, node: usize) -> Option<Node> {
        Some(self.state().machines.get(node)?.process.as_ref()?.node.clone())
    }

    /// What the service has made of a node, unless it is down.
    #[must_use]
    pub fn service(&self, node: usize) -> Option<S> {
        Some(self.state().machines.get(node)?.process.as_ref()?.service.clone())
    }

    /// Runs something in the process of a node: it stands still with it, and when the process is gone it is dropped,
    /// and comes to `None`. `None` at once if the node is down.
    pub fn on<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        node: usize,
        run: impl FnOnce(S) -> F,
    ) -> Option<JoinHandle<Option<T>>> {
        let (service, gone, turns) = {
            let state = self.state();
            let process = state.machines.get(node)?.process.as_ref()?;
            (process.service.clone(), process.gone.clone(), process.node.turns())
        };
        Some(tokio::spawn(gone.run_until_cancelled_owned(turns.gate(run(service)))))
    }

    /// Something goes wrong for so long.
    pub fn inject(&self, fault: Fault, lasting: Duration) {
        if let Fault::Reset { a, b } = fault {
            let addresses = |state: &State<S>| {
                Some((state.machines.get(a)?.address.clone(), state.machines.get(b)?.address.clone()))
            };
            if let Some((a, b)) = addresses(&self.state()) {
                self.shared.network.reset(&a, &b);
            }
            return;
        }
        let id = {
            let mut state = self.state();
            state.last_fault += 1;
            let id = state.last_fault;
            state.faults.insert(id, fault);
            id
        };
        self.adapt();
        let cluster = self.clone();
        tokio::spawn(async move {
            sleep(lasting).await;
            cluster.state().faults.remove(&id);
            cluster.adapt();
        });
    }

    /// What is wrong now.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        self.state().faults.values().cloned().collect()
    }

    /// The members that a node was last told to list, itself included; `None` if it is down.
    #[must_use]
    pub fn list_of(&self, node: usize) -> Option<Vec<usize>> {
        Some(self.state().machines.get(node)?.process.as_ref()?.listed().to_vec())
    }

    /// Whether all nodes run, list the same members, and know that they reach each other.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole().is_ok()
    }

    /// Ends all faults, and waits until the cluster is whole.
    ///
    /// # Errors
    /// If it is not within `limit`: what is wrong, in words.
    pub async fn heal(&self, limit: Duration) -> Result<(), String> {
        self.state().faults.clear();
        self.adapt();
        self.until(limit, Self::is_whole).await;
        self.whole()
    }

    /// Waits until something holds of the cluster, at most for `limit`; says whether it does.
    pub async fn until(&self, limit: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let started = self.now();
        while !holds(self) {
            if self.now().saturating_sub(started) >= limit {
                return false;
            }
            sleep(LOOK_EVERY).await;
        }
        true
    }

    /// Shuts down all nodes that run, at the same time.
    pub async fn shutdown(&self, limit: Duration) -> Vec<ShutdownReport> {
        let nodes: Vec<Node> = (0..self.len()).filter_map(|node| self.node(node)).collect();
        futures::future::join_all(nodes.iter().map(|node| node.shutdown(limit))).await
    }

    fn whole(&self) -> Result<(), String> {
        let state = self.state();
        if let Some(trouble) = state.troubles.first() {
            return Err(trouble.clone());
        }
        let (machines, mut first) = (state.machines.len(), None);
        for (number, machine) in state.machines.iter().enumerate() {
            let Some(process) = &machine.process else { return Err(format!("node {number} is down")) };
            let fingerprint = process.node.is_whole(machines).map_err(|why| format!("node {number}: {why}"))?;
            if *first.get_or_insert(fingerprint) != fingerprint {
                return Err(format!("node {number} lists other members than node 0"));
            }
        }
        Ok(())
    }

    /// Makes machines and links as the faults of the moment want them.
    fn adapt(&self) {
        for node in 0..self.len() {
            self.adapt_machine(node);
        }
        let changed = self.state().changed_links();
        for (from, to, link) in changed {
            self.shared.network.make(&from, &to, &link);
        }
    }

    fn adapt_machine(&self, node: usize) {
        let mut state = self.state();
        let wanted = Wanted::of(&state.faults.values(), node, state.machines.len());
        let machine = &mut state.machines[node];
        match (wanted.down, &mut machine.process) {
            (Some(end), Some(_)) => {
                let process = machine.process.take();
                machine.is_changing = true;
                if matches!(end, super::machine::End::Crash) {
                    self.shared.network.unplug(&machine.address);
                }
                let cluster = self.clone();
                tokio::spawn(async move {
                    if let Some(process) = process {
                        process.end(end).await;
                    }
                    cluster.settled(node);
                });
            }
            (None, None) if !machine.is_changing => {
                machine.is_changing = true;
                let cluster = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = cluster.start_again(node, wanted.list).await {
                        cluster.state().troubles.push(format!("node {node} does not start: {error}"));
                    }
                    cluster.settled(node);
                });
            }
            (None, Some(process)) => {
                process.be_still(wanted.still);
                if process.is_to_list(&wanted.list) {
                    let node = process.node.clone();
                    let addresses = state.addresses(&wanted.list);
                    // It fails if the node shuts down: then its list does not matter any more.
                    tokio::spawn(async move { node.set_peers(addresses).await });
                }
            }
            _ => {}
        }
    }

    /// A process has ended or started: what is wanted of the machine may have changed since.
    fn settled(&self, node: usize) {
        self.state().machines[node].is_changing = false;
        self.adapt_machine(node);
    }

    async fn start_again(&self, node: usize, list: Vec<usize>) -> Result<(), StartError> {
        let (address, peers) = {
            let state = self.state();
            (state.machines[node].address.clone(), state.addresses(&list))
        };
        self.shared.network.plug_in(&address);
        let started = self.shared.network.node(&address).peers(peers).start().await?;
        let service = (self.shared.build)(&started)?;
        self.state().machines[node].process = Some(Process::new(started, service, list));
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> State<S> {
    fn addresses(&self, list: &[usize]) -> Vec<String> {
        list.iter().map(|node| self.machines[*node].address.clone()).collect()
    }

    /// The links that are to be otherwise than they are, and how.
    fn changed_links(&mut self) -> Vec<(String, String, Condition)> {
        let mut changed = Vec::new();
        for from in 0..self.machines.len() {
            for to in (0..self.machines.len()).filter(|to| *to != from) {
                let mut link = Condition::default();
                self.faults.values().for_each(|fault| fault.worsen((from, to), &mut link));
                let is = self.links.entry((from, to)).or_default();
                if *is != link {
                    is.clone_from(&link);
                    changed.push((self.machines[from].address.clone(), self.machines[to].address.clone(), link));
                }
            }
        }
        changed
    }
}

impl<S> Clone for Cluster<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S> fmt::Debug for Cluster<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("network", &self.shared.network).finish_non_exhaustive()
    }
}
