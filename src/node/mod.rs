//! The node: one process's membership of the cluster. It owns the tasks, and joins them.

mod builder;
mod core;
mod front;
mod stats;
#[cfg(feature = "test-util")]
mod testing;
#[cfg(test)]
mod tests;
mod wake;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::config::NodeConfig;
use crate::error::ConfigError;
use crate::group::{GroupBuilder, Home, Life};
use crate::member::{Member, NodeName};
use crate::membership::Members;
use crate::placement::Placement;
use crate::tasks::ShutdownReport;

use self::core::Core;
pub use builder::NodeBuilder;
pub use stats::{NodeStats, SelfCheck};

/// One process's membership of the cluster: its name, its listener, its peers, its groups.
///
/// A handle, cheap to clone. When the last handle of the node and of its groups is dropped, the node shuts down without
/// waiting; [`shutdown`](Self::shutdown) waits. Nothing is global: two nodes can live in one process.
#[derive(Clone)]
pub struct Node {
    pub(crate) core: Arc<Core>,
    life: Arc<Life>,
}

impl Node {
    /// Builds a node that peers reach at `address`, `host:port`.
    pub fn builder(address: impl AsRef<str>) -> NodeBuilder {
        NodeBuilder::new(address.as_ref())
    }

    /// A node without a port and without peers: a good cache for one process. To grow into a cluster, only this line
    /// changes.
    ///
    /// Its tasks run on the tokio runtime that it is made in, or else on the one that it is first used in.
    #[must_use]
    pub fn local() -> Self {
        let core = Core::new(Member::new("local"), NodeConfig::default(), None);
        // Outside of a runtime there is none to remember; the first call remembers its own.
        let _ = core.tasks().runtime();
        Self::of(core)
    }

    fn of(core: Arc<Core>) -> Self {
        let held = Arc::clone(&core);
        Self { core, life: Arc::new(Life::new(move || held.shutdown_aside())) }
    }

    /// Builds a group of this name: a keyspace with its own loader, which every node of the cluster has under the same
    /// name.
    pub fn group(&self, name: impl AsRef<str>) -> GroupBuilder {
        let home = Home {
            context: Arc::clone(&self.core.context),
            registry: Arc::clone(&self.core.registry),
            life: Arc::clone(&self.life),
        };
        GroupBuilder::new(home, name.as_ref())
    }

    /// Changes the list of the cluster's nodes, at any time, from any task. Like [`NodeBuilder::peers`], it may name
    /// this node or not, in any order, with repetitions. Of lists set at once, the last to be called stays. Peers that
    /// stay keep their connections; those that cannot be reached delay nothing.
    ///
    /// **Cancellation.** A dropped call has changed the list as a whole or not at all.
    ///
    /// # Errors
    /// If the list is empty or contradicts itself or this node, or the node is local or shut down. The list that was
    /// set before stays then.
    pub async fn set_peers<M: Into<Member>>(&self, peers: impl IntoIterator<Item = M>) -> Result<(), ConfigError> {
        let peers = peers.into_iter().map(Into::into).collect::<Vec<Member>>();
        if !self.core.has_port() {
            return Err(ConfigError::Local);
        }
        let members = Members::new(peers, self.core.context.peers.own())?;
        self.core.context.peers.set(members).await
    }

    /// Leaves the node without peers, as an empty list would if it were not refused.
    ///
    /// # Errors
    /// If the node is shut down.
    pub async fn set_alone(&self) -> Result<(), ConfigError> {
        let peers = &self.core.context.peers;
        peers.set(Members::alone(peers.own())).await
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        self.core.context.peers.own().name()
    }

    /// How peers reach the node: the address that it was built with, with the port that was free in the place of port
    /// 0.
    #[must_use]
    pub fn address(&self) -> &str {
        self.core.context.peers.own().address()
    }

    /// Who owns what now.
    #[must_use]
    pub fn placement(&self) -> Arc<Placement> {
        Arc::clone(self.core.context.peers.view().placement())
    }

    /// How the node, its peers and its groups are doing.
    #[must_use]
    pub fn stats(&self) -> NodeStats {
        let peers = &self.core.context.peers;
        let view = peers.view();
        let own = peers.own();
        let share = view.placement().slots_of(own.name().as_str()) as f64 / crate::key::SLOTS as f64;
        NodeStats {
            name: own.name().clone(),
            address: own.address().to_string(),
            cluster: peers.sender().cluster.to_string(),
            incarnation: peers.sender().incarnation.0,
            fingerprint: view.members().fingerprint(),
            members: view.members().iter().map(|member| member.name().clone()).collect(),
            share,
            peers: peers.stats(),
            self_check: self.core.self_check(),
            tombstones: self.core.context.coherence.tombstones() as u64,
            groups: self.core.registry.stats(),
        }
    }

    /// Shuts the node down: from here on every call but `peek` gets [`Error::Closed`](crate::Error::Closed), peers are
    /// told to turn elsewhere, what is in flight has `limit` to end, the rest is cut short, and the tasks of the node
    /// are joined. It returns within `limit` and a few seconds for connections to close. (What carries a connection is
    /// tonic's tasks. Those of the connections that peers opened are told to end, and do with their last answer; those
    /// of the node's own end once it has let go of them.)
    ///
    /// **Cancellation.** A dropped call has begun the shutdown; another one waits for the same end.
    pub async fn shutdown(&self, limit: Duration) -> ShutdownReport {
        self.core.shutdown(limit).await
    }

    /// A handle that does not keep the node running: for a loader that needs its node.
    #[must_use]
    pub fn downgrade(&self) -> WeakNode {
        WeakNode { core: Arc::downgrade(&self.core), life: Arc::downgrade(&self.life) }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("name", self.name()).field("address", &self.address()).finish_non_exhaustive()
    }
}

/// A handle of a node that does not keep it running. Made by [`Node::downgrade`].
#[derive(Clone)]
pub struct WeakNode {
    core: Weak<Core>,
    life: Weak<Life>,
}

impl WeakNode {
    /// The node, unless it has been shut down because the last handle is gone.
    #[must_use]
    pub fn upgrade(&self) -> Option<Node> {
        Some(Node { life: self.life.upgrade()?, core: self.core.upgrade()? })
    }
}

impl fmt::Debug for WeakNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakNode").finish_non_exhaustive()
    }
}
