//! Removals as plain state: their numbers, the order in which nodes are told, and the receipt.
//!
//! A removal tells every listed node once about each key, **the key's owner before all others**. Why: a node that has
//! dropped its copy may ask the owner for the key right away. Were the owner told later, that node would get the old
//! value, keep it, and nobody would tell it again. Told first, the owner has nothing old to give.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::key::Key;
use crate::member::NodeName;
use crate::message::{Incarnation, RemovalId, Scope};

/// Numbers the removals of one incarnation of this node, counted up from 1.
#[derive(Debug)]
pub(crate) struct Numbers {
    origin: NodeName,
    incarnation: Incarnation,
    last: AtomicU64,
}

impl Numbers {
    pub(crate) fn new(origin: NodeName, incarnation: Incarnation) -> Self {
        Self { origin, incarnation, last: AtomicU64::new(0) }
    }

    pub(crate) fn next(&self) -> RemovalId {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        RemovalId { origin: self.origin.clone(), incarnation: self.incarnation, number }
    }
}

/// Whom to tell what, in two stages; nodes are named by their index in the placement.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Round {
    /// First: each owner, its own keys.
    pub(crate) owners: BTreeMap<usize, Scope>,
    /// Then: each node, the keys that others own.
    pub(crate) others: BTreeMap<usize, Scope>,
}

impl Round {
    /// A removal of `keys` from all of `nodes` nodes.
    pub(crate) fn of_keys(keys: &[Key], nodes: usize, owner: impl Fn(&Key) -> usize) -> Self {
        let placed: Vec<(usize, &Key)> = keys.iter().map(|key| (owner(key), key)).collect();
        let stage = |is_told: &dyn Fn(usize, usize) -> bool| {
            (0..nodes)
                .filter_map(|node| {
                    let told = placed.iter().filter(|(owner, _)| is_told(node, *owner));
                    let keys: Vec<Key> = told.map(|(_, key)| (*key).clone()).collect();
                    (!keys.is_empty()).then_some((node, Scope::Keys(keys)))
                })
                .collect()
        };
        Self { owners: stage(&|node, owner| node == owner), others: stage(&|node, owner| node != owner) }
    }

    /// A removal of a whole group: every node is an owner of some of it and holds copies of the rest, so each is told
    /// twice.
    pub(crate) fn of_group(nodes: usize) -> Self {
        let everybody = || (0..nodes).map(|node| (node, Scope::Group)).collect();
        Self { owners: everybody(), others: everybody() }
    }
}

/// What became of one node in a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Told {
    /// The node has applied the removal and said so.
    Done,
    /// The node has not said that it applied the removal: it may hold an old value until its life ends.
    Pending {
        /// Why not, in words.
        why: String,
    },
}

/// What a removal or an insert returns: which nodes have applied it.
///
/// ```
/// # async fn example(group: peerage::Group<String>) -> Result<(), Box<dyn std::error::Error>> {
/// group.remove("user:42").await?.everywhere()?; // an error that names the nodes if any is pending
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a receipt says which nodes may still hold the old value: check `everywhere()`"]
pub struct Receipt {
    pub(crate) number: u64,
    pub(crate) stored: bool,
    pub(crate) nodes: BTreeMap<NodeName, Told>,
}

impl Receipt {
    /// The removal's number on this node: counted up from 1 since the node started.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether an insert was stored by the key's owner. If not, it acted as a removal. Always false for a removal.
    #[must_use]
    pub fn stored(&self) -> bool {
        self.stored
    }

    /// What became of each node, this one included, in the order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, &Told)> {
        self.nodes.iter()
    }

    /// Whether every node has applied the removal.
    #[must_use]
    pub fn is_everywhere(&self) -> bool {
        self.pending().next().is_none()
    }

    /// The nodes that have not said that they applied the removal.
    pub fn pending(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes.iter().filter(|(_, told)| **told != Told::Done).map(|(name, _)| name)
    }

    /// Passes if every node has applied the removal.
    ///
    /// # Errors
    /// If any is pending, an error that names each and says why.
    pub fn everywhere(self) -> Result<(), NotEverywhere> {
        let pending: Vec<_> = self
            .nodes
            .into_iter()
            .filter_map(|(name, told)| match told {
                Told::Done => None,
                Told::Pending { why } => Some((name, why)),
            })
            .collect();
        if pending.is_empty() { Ok(()) } else { Err(NotEverywhere { pending }) }
    }
}

/// Some nodes have not said that they applied a removal: each may hold an old value until its life ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotEverywhere {
    pending: Vec<(NodeName, String)>,
}

impl NotEverywhere {
    /// The nodes that are pending, and why.
    pub fn pending(&self) -> impl Iterator<Item = (&NodeName, &str)> {
        self.pending.iter().map(|(name, why)| (name, why.as_str()))
    }
}

impl fmt::Display for NotEverywhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the removal is pending on ")?;
        for (index, (name, why)) in self.pending.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name} ({why})")?;
        }
        Ok(())
    }
}

impl std::error::Error for NotEverywhere {}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> Scope {
        Scope::Keys(names.iter().map(|name| Key::new(*name)).collect())
    }

    #[test]
    fn the_owner_is_told_before_all_others() {
        let listed = [Key::new("a"), Key::new("b")];
        let round = Round::of_keys(&listed, 3, |key| usize::from(*key == Key::new("b")));
        assert_eq!(round.owners, BTreeMap::from([(0, keys(&["a"])), (1, keys(&["b"]))]));
        assert_eq!(round.others, BTreeMap::from([(0, keys(&["b"])), (1, keys(&["a"])), (2, keys(&["a", "b"]))]));
    }

    #[test]
    fn a_node_alone_is_told_once() {
        let round = Round::of_keys(&[Key::new("a")], 1, |_| 0);
        assert_eq!((round.owners.len(), round.others.len()), (1, 0));
    }

    #[test]
    fn a_receipt_names_who_is_pending() {
        let away = Told::Pending { why: "away".into() };
        let nodes = BTreeMap::from([(NodeName::from("a"), Told::Done), (NodeName::from("b"), away)]);
        let receipt = Receipt { number: 1, stored: false, nodes };
        assert!(!receipt.is_everywhere());
        assert_eq!(receipt.everywhere().unwrap_err().to_string(), "the removal is pending on b (away)");
    }
}
