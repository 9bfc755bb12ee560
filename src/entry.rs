//! What a get finds out besides the value: its age, what is left of its life, and where it came from.

use std::time::Duration;

use crate::member::NodeName;

/// A value as [`get_with`](crate::Group::get_with) returns it.
#[derive(Clone, Debug)]
pub struct Entry<V> {
    pub(crate) value: V,
    pub(crate) age: Duration,
    pub(crate) time_left: Option<Duration>,
    pub(crate) source: Source,
}

impl<V> Entry<V> {
    /// The value.
    pub fn value(&self) -> &V {
        &self.value
    }

    /// The value, by itself.
    pub fn into_value(self) -> V {
        self.value
    }

    /// How long ago the load of this value began (or its insert was made), wherever in the cluster that was.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.age
    }

    /// What was left of the value's life when it was found; `None` if it has no limit. Zero if it was served beyond it,
    /// in the stead of a load that failed ([`GroupBuilder::grace`](crate::GroupBuilder::grace)).
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.time_left
    }

    /// Where the value came from.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// This node's main cache: it owns the key.
    Main,
    /// This node's hot cache: another node owns the key.
    Hot,
    /// The peer of this name, from its cache or its loader.
    Peer(NodeName),
    /// The loader, on this node.
    Loader,
}

/// What a group can cache. A hit clones the value, under a lock that other hits share and that whoever changes anything
/// there waits for: the clone should be cheap (a reference count, as `Bytes` and `Arc<T>` have), may run on several
/// threads at once, and must not ask the group for anything.
pub trait Value: Clone + Send + Sync + 'static {}

impl<T: Clone + Send + Sync + 'static> Value for T {}
