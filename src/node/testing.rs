//! Nodes on an in-process network: what tests of services start.

use std::sync::Arc;

use crate::error::StartError;
use crate::memory::MemoryNetwork;
use crate::turns::Turns;

use super::{Node, NodeBuilder};

/// Starting nodes on it.
impl MemoryNetwork {
    /// Builds a node on this network. Addresses are any `host:port`; nothing outside of the process hears of them.
    pub fn node(&self, address: impl AsRef<str>) -> NodeBuilder {
        Node::builder(address).network(self)
    }

    /// Starts a cluster of `count` nodes, `node-1:1` to `node-{count}:1`, which all list one another. They are all
    /// there before the first of them looks for the others, so that none takes another for unreachable.
    ///
    /// # Errors
    /// If one of those addresses is taken, or there is no runtime.
    pub async fn start(&self, count: usize) -> Result<Vec<Node>, StartError> {
        let addresses: Vec<String> = (1..=count).map(|number| format!("node-{number}:1")).collect();
        let mut nodes = Vec::with_capacity(count);
        for address in &addresses {
            nodes.push(self.node(address).alone().start().await?);
        }
        for node in &nodes {
            node.set_peers(&addresses).await?;
        }
        Ok(nodes)
    }
}

impl Node {
    /// Whether it lists so many members and reaches them all, as far as it knows: its fingerprint, or why not.
    pub(crate) fn is_whole(&self, members: usize) -> Result<u64, String> {
        let peers = &self.core.context.peers;
        let view = peers.view();
        let listed = view.members().len();
        if listed != members {
            return Err(format!("it lists {listed} members of {members}"));
        }
        match view.peers().find(|peer| !peer.is_up()) {
            Some(peer) => Err(format!("{} is not up", peer.name())),
            None => Ok(view.members().fingerprint()),
        }
    }

    /// What its tasks need to run.
    pub(crate) fn turns(&self) -> Arc<Turns> {
        Arc::clone(&self.core.tasks().turns)
    }
}
