//! What a removal returns: which nodes have applied it, now and later.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::coherence::Coherence;
use crate::member::NodeName;
use crate::removals::{Span, Standing, Why};
use crate::token::Token;

/// What became of one node in a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Told {
    /// The node has applied the removal and said so.
    Done,
    /// The node has not said that it applied the removal: it may hold an old value until it has, or until that value's
    /// life ends. It is told as soon as it can be reached, by whichever node reaches it, before any node asks it for a
    /// key.
    Pending {
        /// Why not, in words.
        why: String,
    },
    /// The node has left: it was listed when the removal began, and now nobody lists it, and nobody has a stream with
    /// it. Should it come back, it catches up before it serves anybody.
    Departed,
}

/// What a removal or an insert returns: which nodes have applied it.
///
/// ```
/// # use std::time::Duration;
/// # async fn example(group: peerage::Group<String>) -> Result<(), Box<dyn std::error::Error>> {
/// group.remove("user:42").await?.everywhere()?; // an error that names the nodes if any is pending
///
/// let receipt = group.remove("user:42").await?;
/// receipt.settled(Duration::from_secs(30)).await.everywhere()?; // gives those more time that are pending
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a receipt says which nodes may still hold the old value: check `everywhere()`"]
pub struct Receipt {
    coherence: Arc<Coherence>,
    /// In the order of their numbers; at least one.
    spans: Vec<Span>,
    told: BTreeMap<NodeName, bool>,
    stored: bool,
    nodes: BTreeMap<NodeName, Told>,
}

impl Receipt {
    /// `told` are those whom it was for when it began; `why_not` has a word for those that were tried in vain.
    pub(crate) fn new(
        coherence: Arc<Coherence>,
        spans: Vec<Span>,
        told: BTreeMap<NodeName, bool>,
        why_not: &BTreeMap<NodeName, String>,
    ) -> Self {
        let mut receipt = Self { coherence, spans, told, stored: false, nodes: BTreeMap::new() };
        receipt.look(why_not);
        receipt
    }

    fn look(&mut self, why_not: &BTreeMap<NodeName, String>) {
        let standings = self.coherence.standing(&self.spans, &self.told);
        let told = |(name, standing): (NodeName, Standing)| {
            let told = match standing {
                Standing::Done => Told::Done,
                Standing::Departed => Told::Departed,
                Standing::Pending(why) => {
                    Told::Pending { why: why_not.get(&name).cloned().unwrap_or_else(|| in_words(why)) }
                }
            };
            (name, told)
        };
        self.nodes = standings.into_iter().map(told).collect();
    }

    pub(crate) fn with_stored(mut self, stored: bool) -> Self {
        self.stored = stored;
        self
    }

    /// The removal's number on this node: counted up from 1 since the node started. (A removal of very many keys is
    /// several; it is the last one's.)
    #[must_use]
    pub fn number(&self) -> u64 {
        self.spans.last().map_or(0, |span| span.last)
    }

    /// Whether an insert was stored by the key's owner. If not, it acted as a removal. Always false for a removal.
    #[must_use]
    pub fn stored(&self) -> bool {
        self.stored
    }

    /// What lets a later get, on any node, ask for nothing that is older than this removal: see
    /// [`GetOptions::no_older_than`](crate::GetOptions::no_older_than).
    #[must_use]
    pub fn token(&self) -> Token {
        Token::new(&self.spans)
    }

    /// What became of each node, this one included, in the order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, &Told)> {
        self.nodes.iter()
    }

    /// Whether every node has applied the removal, or departed.
    #[must_use]
    pub fn is_everywhere(&self) -> bool {
        self.pending().next().is_none()
    }

    /// The nodes that have not said that they applied the removal.
    pub fn pending(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes.iter().filter(|(_, told)| matches!(told, Told::Pending { .. })).map(|(name, _)| name)
    }

    /// Waits until no node is pending any more, or for `limit`, and says how it stands then. A receipt resolves by
    /// itself: nodes are told as soon as they can be reached, whether or not anybody waits here.
    ///
    /// Cancel safety: the removal goes on all the same.
    pub async fn settled(mut self, limit: Duration) -> Self {
        let coherence = Arc::clone(&self.coherence);
        let settling = coherence.until(|| {
            self.look(&BTreeMap::new());
            self.is_everywhere()
        });
        // A time-out is no failure here: it is what the limit is for.
        let _ = tokio::time::timeout(limit, settling).await;
        self
    }

    /// Passes if every node has applied the removal, or departed.
    ///
    /// # Errors
    /// If any is pending, an error that names each and says why.
    pub fn everywhere(self) -> Result<(), NotEverywhere> {
        let pending: Vec<_> = self
            .nodes
            .into_iter()
            .filter_map(|(name, told)| match told {
                Told::Done | Told::Departed => None,
                Told::Pending { why } => Some((name, why)),
            })
            .collect();
        if pending.is_empty() { Ok(()) } else { Err(NotEverywhere { pending }) }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt")
            .field("number", &self.number())
            .field("stored", &self.stored)
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

fn in_words(why: Why) -> String {
    String::from(match why {
        Why::NeverHeard => "it has not been reached yet",
        Why::NotApplied => "it has not said that it applied the removal",
        Why::Lost => "nobody lists it, and its stream has closed before it said that it applied the removal",
        Why::Restarted => "it may have been started anew, and has not been heard since",
    })
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
