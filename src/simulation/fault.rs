//! What can go wrong in a cluster, and what that means for its links.

use std::fmt;
use std::time::Duration;

use crate::memory::Condition;

/// Something that goes wrong. Nodes are named by their number in the [`Cluster`](super::Cluster), from 0.
///
/// A node is not at odds with itself: a fault between a node and the same node is none.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// Connections that `from` opened to `to` are reset, and new ones refused.
    Cut {
        /// Who cannot connect.
        from: usize,
        /// To whom.
        to: usize,
        /// Nor the other way round.
        both_ways: bool,
    },
    /// What `from` sends to `to` gets lost without a word, until connections notice the silence.
    Silence {
        /// Who is not heard.
        from: usize,
        /// By whom.
        to: usize,
        /// Nor the other way round.
        both_ways: bool,
    },
    /// Messages between the two take so long.
    Delay {
        /// One of the two.
        a: usize,
        /// The other.
        b: usize,
        /// One way.
        delay: Duration,
    },
    /// Some messages between the two are lost, and with each its connection.
    Loss {
        /// One of the two.
        a: usize,
        /// The other.
        b: usize,
        /// How many in a hundred.
        percent: u32,
        /// Which.
        seed: u64,
    },
    /// The connections between the two are reset, and can be opened again at once. It happens once.
    Reset {
        /// One of the two.
        a: usize,
        /// The other.
        b: usize,
    },
    /// The process stands still: it runs nothing and is not heard, and goes on later as if nothing had been.
    Pause {
        /// Which.
        node: usize,
    },
    /// The process is gone, with all that it had. It starts anew afterwards, as another incarnation.
    Crash {
        /// Which.
        node: usize,
    },
    /// The process is shut down in an orderly way, and starts anew afterwards.
    Restart {
        /// Which.
        node: usize,
        /// How long what is in flight gets to end.
        limit: Duration,
    },
    /// The node lists the cluster without some of its members.
    List {
        /// Whose list.
        node: usize,
        /// Who is not on it. The node itself always is.
        without: Vec<usize>,
    },
}

impl Fault {
    /// The node that is down while this lasts.
    pub(super) fn downs(&self) -> Option<usize> {
        match self {
            Self::Crash { node } | Self::Restart { node, .. } => Some(*node),
            _ => None,
        }
    }

    /// Adds what is wrong with one link because of this.
    pub(super) fn worsen(&self, way: (usize, usize), link: &mut Condition) {
        let is_way = |from: &usize, to: &usize| way == (*from, *to);
        let is_between = |a: &usize, b: &usize| is_way(a, b) || is_way(b, a);
        match self {
            Self::Cut { from, to, both_ways } => {
                link.refusing |= is_way(from, to) || (*both_ways && is_way(to, from));
            }
            Self::Silence { from, to, both_ways } => {
                link.silent |= is_way(from, to) || (*both_ways && is_way(to, from));
            }
            Self::Delay { a, b, delay } if is_between(a, b) => link.delay = link.delay.max(*delay),
            Self::Loss { a, b, percent, seed } if is_between(a, b) => {
                link.loss = Some((f64::from(*percent) / 100.0, if way.0 < way.1 { *seed } else { !seed }));
            }
            Self::Pause { node } => link.silent |= way.0 == *node || way.1 == *node,
            _ => {}
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = |both_ways: &bool| if *both_ways { "<->" } else { "->" };
        match self {
            Self::Cut { from, to, both_ways } => write!(f, "cut {from} {} {to}", arrow(both_ways)),
            Self::Silence { from, to, both_ways } => write!(f, "silence {from} {} {to}", arrow(both_ways)),
            Self::Delay { a, b, delay } => write!(f, "delay {a} <-> {b} by {delay:?}"),
            Self::Loss { a, b, percent, .. } => write!(f, "loss {a} <-> {b} of {percent} %"),
            Self::Reset { a, b } => write!(f, "reset {a} <-> {b}"),
            Self::Pause { node } => write!(f, "pause {node}"),
            Self::Crash { node } => write!(f, "crash {node}"),
            Self::Restart { node, limit } => write!(f, "restart {node} within {limit:?}"),
            Self::List { node, without } => write!(f, "{node} lists all but {without:?}"),
        }
    }
}
