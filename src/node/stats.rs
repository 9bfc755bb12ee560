//! A node as seen from outside.

use std::collections::BTreeMap;

use crate::member::NodeName;
use crate::peers::PeerStats;
use crate::stats::GroupStats;

/// A snapshot of a node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeStats {
    /// The node's name.
    pub name: NodeName,
    /// How peers reach it.
    pub address: String,
    /// The cluster's name.
    pub cluster: String,
    /// This run of the node.
    pub incarnation: u64,
    /// A fingerprint of the membership: nodes that list the same members have the same.
    pub fingerprint: u64,
    /// The members, in the order of their names, this node included.
    pub members: Vec<NodeName>,
    /// What part of the keyspace this node owns, from 0 to 1.
    pub share: f64,
    /// The other nodes, and how each is doing.
    pub peers: Vec<PeerStats>,
    /// Whether the node's own address leads to it.
    pub self_check: SelfCheck,
    /// What removals are kept for that not everybody is known to have applied yet: 65,536 keys at most, and beyond that
    /// whole groups. A number that stays means that some node cannot be reached.
    pub tombstones: u64,
    /// The node's groups, by name.
    pub groups: BTreeMap<String, GroupStats>,
}

impl NodeStats {
    /// The peers whose membership differs from ours, and those that take this node for a peer without being listed
    /// here.
    pub fn disagreeing(&self) -> impl Iterator<Item = &PeerStats> {
        self.peers.iter().filter(|peer| peer.differs.is_some() || !peer.listed)
    }
}

/// Whether the address that peers are told leads to the node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SelfCheck {
    /// A local node has no address.
    NotNeeded,
    /// Not known yet.
    Running,
    /// It does.
    Passed,
    /// It does not: peers cannot reach this node, and will load what it owns elsewhere.
    Failed {
        /// What happened instead.
        why: String,
    },
}
