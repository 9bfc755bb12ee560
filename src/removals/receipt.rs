//! What a removal returns: which nodes have applied it, and which have not said so.

use std::collections::BTreeMap;
use std::fmt;

use crate::member::NodeName;

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

    #[test]
    fn a_receipt_names_who_is_pending() {
        let away = Told::Pending { why: "away".into() };
        let nodes = BTreeMap::from([(NodeName::from("a"), Told::Done), (NodeName::from("b"), away)]);
        let receipt = Receipt { number: 1, stored: false, nodes };
        assert!(!receipt.is_everywhere());
        assert_eq!(receipt.everywhere().unwrap_err().to_string(), "the removal is pending on b (away)");
    }
}
