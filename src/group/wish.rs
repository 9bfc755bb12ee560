//! What a get asks for beside the key: how old the value may be, and from where it is to come.

use std::time::Duration;

use crate::entry::Source;
use crate::error::Error;
use crate::flight::{Landed, Landing};
use crate::shards::Demand;
use crate::time::Moment;

/// What [`GetOptions`](super::GetOptions) say about the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) max_age: Option<Duration>,
    /// From the node that owns the key, rather than from a copy here.
    pub(super) fresh: bool,
}

/// Whether what a flight brought is what was wished for.
pub(super) enum Judged<V> {
    Landing(Landing<V>),
    /// It was begun too early, or answered by who does not heed the wish.
    TooOld,
}

impl Wish {
    #[inline]
    pub(super) fn is_any(self) -> bool {
        self != Self::default()
    }

    /// What a get that started then is content with.
    pub(super) fn demand(self, started: Moment) -> Demand {
        let oldest = self.max_age.map_or(Moment::START, |age| started.earlier(age));
        // Where this node has to load what another one owns, nothing tells the owner's value but a new load.
        Demand { oldest, oldest_copy: if self.fresh { started } else { oldest }, of_peer: false }
    }

    /// An old value that came in the stead of a failed load is not what was wished for: then it is the failure.
    pub(super) fn judged<V>(self, landing: Landing<V>, demand: Demand) -> Judged<V> {
        let Ok(landed) = &landing else { return Judged::Landing(landing) };
        let is_copy = self.fresh && landed.source == Source::Hot && landed.life.born < demand.oldest_copy;
        if landed.life.born >= demand.oldest && !is_copy {
            return Judged::Landing(landing);
        }
        match landing {
            Ok(Landed { failed: Some(failed), .. }) => Judged::Landing(Err(Error::clone(&failed))),
            _ => Judged::TooOld,
        }
    }
}
