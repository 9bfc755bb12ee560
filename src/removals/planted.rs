//! What planted bugs do to the state: see `planted.rs` of the crate. Nothing else has a use for any of this.

use std::collections::BTreeSet;

use crate::member::NodeName;
use crate::removal::Scope;

use super::known::Known;
use super::log::Log;
use super::record::{Origin, Record, What};
use super::seen::Seen;
use super::{Removals, Tombstones};

impl Removals {
    /// No question carries anything that has been removed so far.
    pub(crate) fn drop_tombstones(&mut self) {
        self.tombstones = Tombstones::new(self.limits.tombstones);
    }

    /// Whether another node's clear has a smaller number than one that has been applied here.
    pub(crate) fn outnumbers(&self, record: &Record) -> bool {
        record.span.origin != self.me && record.clears().is_some_and(|group| self.log.has_larger_clear(group, record))
    }

    /// Whom this node lists itself, and this node.
    pub(crate) fn own_list(&self) -> BTreeSet<NodeName> {
        self.known.own_list().chain([&self.me.name]).cloned().collect()
    }

    /// What any incarnation of a node is known to have applied.
    pub(crate) fn seen_by_any(&self, name: &NodeName) -> Seen {
        self.known.seen_by_any(name)
    }

    /// Takes an incarnation to have applied this, too.
    pub(crate) fn presume(&mut self, of: &Origin, seen: &Seen) {
        self.known.presume(of, seen);
        self.has_news = true;
    }
}

impl Known {
    fn own_list(&self) -> impl Iterator<Item = &NodeName> {
        self.listed.iter()
    }

    fn seen_by_any(&self, name: &NodeName) -> Seen {
        let mut sum = Seen::default();
        let states = self.peers.get(name).into_iter().flat_map(|peer| &peer.states);
        for state in states {
            sum.merge(&state.seen);
        }
        sum
    }

    fn presume(&mut self, of: &Origin, seen: &Seen) {
        let states = self.peers.get_mut(&of.name).into_iter().flat_map(|peer| &mut peer.states);
        for state in states.filter(|state| state.incarnation == of.incarnation) {
            state.seen.merge(seen);
        }
    }
}

impl Log {
    fn has_larger_clear(&self, group: &str, record: &Record) -> bool {
        let mut larger = self.records().filter(|it| it.span.last >= record.span.last && it.span != record.span);
        larger.any(|it| it.clears() == Some(group))
    }
}

impl Record {
    /// The group that it clears.
    fn clears(&self) -> Option<&str> {
        match &self.what {
            What::One { group, scope: Scope::Group } => Some(group),
            _ => None,
        }
    }
}
