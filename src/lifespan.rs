//! From when to when a value is of use, as moments of this node.
//!
//! Up to its **soft** limit a value is simply served. Between that and the **hard** one it still is, while one load
//! brings its successor. Beyond the hard limit it is of no use, unless that load fails: then it is served for its
//! **grace**, rather than the failure. To other nodes all of this is told as durations.

use crate::time::Moment;

/// The life of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifespan {
    /// When the value came into being, as far as this node can tell: its load began no earlier.
    pub(crate) born: Moment,
    /// The first moment at which a successor should be loaded; [`Moment::NEVER`] if there is no such limit before the
    /// hard one.
    pub(crate) soft: Moment,
    /// The first moment at which it may not be served any more, but for its grace.
    pub(crate) hard: Moment,
    /// Whether it has a grace: the group's, counted from the hard limit.
    pub(crate) grace: bool,
}

impl Lifespan {
    /// A life with a hard limit and nothing else.
    pub(crate) fn new(born: Moment, hard: Moment) -> Self {
        Self { born, soft: Moment::NEVER, hard, grace: false }
    }

    /// Whether there is more to it than a hard limit.
    pub(crate) fn is_plain(&self) -> bool {
        self.soft >= self.hard && !self.grace
    }
}
