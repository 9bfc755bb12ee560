//! Who belongs to a cluster, as a list names it.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// A node's name. It defaults to the node's address; what owns which slot depends on names (and weights) alone, so a
/// node that is given a name keeps its slice of the keyspace when its address changes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 255;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: AsRef<str> + ?Sized> From<&T> for NodeName {
    fn from(name: &T) -> Self {
        Self(Arc::from(name.as_ref()))
    }
}

impl AsRef<str> for NodeName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for NodeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for NodeName {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for NodeName {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// One node in the list of a cluster's nodes: how it is reached, what it is called, how much of the keyspace it takes.
///
/// Text turns into a member by itself: `"10.0.0.1:7400"` is the member of that address and that name, of weight 1.
///
/// ```
/// use peerage::Member;
///
/// let big = Member::new("10.0.0.2:7400").named("cache-2").weight(4);
/// # let _ = big;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    pub(crate) name: NodeName,
    pub(crate) address: Arc<str>,
    pub(crate) weight: u32,
}

impl Member {
    /// The largest weight.
    pub const MAX_WEIGHT: u32 = 1 << 16;

    /// The node at `address` (`host:port`), named after it, of weight 1.
    #[must_use]
    pub fn new(address: impl AsRef<str>) -> Self {
        let address = address.as_ref();
        Self { name: NodeName::from(address), address: Arc::from(address), weight: 1 }
    }

    /// Gives the node a name of its own, so that it keeps its slice of the keyspace when its address changes. It must
    /// be the name that the node itself was built with.
    #[must_use]
    pub fn named(mut self, name: impl AsRef<str>) -> Self {
        self.name = NodeName::from(name.as_ref());
        self
    }

    /// How much of the keyspace the node takes, relative to the others: 1 (the default) to [`Member::MAX_WEIGHT`]. It
    /// must be the weight that the node itself was built with.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// The node's address.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl<T: AsRef<str>> From<T> for Member {
    fn from(address: T) -> Self {
        Self::new(address)
    }
}
