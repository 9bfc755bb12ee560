//! The words of a removal: whose it is, and what it takes out.

use crate::key::Key;
use crate::member::NodeName;

/// One run of a node, from start to stop: a random number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Incarnation(pub(crate) u64);

/// Which removal it is: the origin's number, counted up from 1 in each of its incarnations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemovalId {
    pub(crate) origin: NodeName,
    pub(crate) incarnation: Incarnation,
    pub(crate) number: u64,
}

/// What a removal takes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Keys(Vec<Key>),
    /// Everything that bears this tag.
    Tag(Key),
    Group,
}
