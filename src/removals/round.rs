//! The order in which nodes are told, and the numbers that removals bear.
//!
//! A removal tells every listed node once about each key, **the key's owner before all others**. Why: a node that has
//! dropped its copy may ask the owner for the key right away. Were the owner told later, that node would get the old
//! value, keep it, and nobody would tell it again. Told first, the owner has nothing old to give.

use std::collections::BTreeMap;
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
}
