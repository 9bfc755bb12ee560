//! What other nodes believe about the membership, and how it differs from what we do.
//!
//! Nodes that differ can load a key twice, never loop; a difference that lasts means that somebody's list is wrong. So
//! it is shown in the statistics at once, and logged when it has lasted.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::member::NodeName;
use crate::membership::{Differences, Members, PeerState};
use crate::message::Hello;
use crate::time::Moment;

use super::PeerStats;

/// A difference that has lasted for this long is logged: longer than a rolling change of everybody's list should take
/// to reach two nodes.
const LASTING: Duration = Duration::from_secs(10);
/// A node that is not listed here is forgotten when it has not said hello for this long (it does so twice as often).
const FORGOTTEN_AFTER: Duration = Duration::from_secs(75);
/// So many nodes that are not listed here are remembered at most.
const MOST_STRANGERS: usize = 32;

/// The membership that another node goes by, as it last said.
#[derive(Debug)]
pub(super) struct Belief {
    pub(super) fingerprint: u64,
    members: Vec<(NodeName, u32)>,
    heard: Moment,
    /// Since when it has differed from ours, without a break.
    pub(super) differs_since: Option<(Moment, Logged)>,
}

/// Whether a difference has been logged.
pub(super) type Logged = bool;

impl Belief {
    pub(super) fn new(hello: &Hello, now: Moment) -> Self {
        Self { fingerprint: hello.fingerprint, members: hello.members.clone(), heard: now, differs_since: None }
    }

    /// Compares it with ours; `since` is what the belief before this one said. Logs a difference that has lasted, once.
    pub(super) fn compare(&mut self, ours: &Members, since: Option<(Moment, Logged)>, now: Moment, of: &NodeName) {
        let Some(differences) = self.differences(ours) else { return };
        let (since, mut logged) = since.unwrap_or((now, false));
        if !logged && now.since(since) >= LASTING {
            tracing::warn!(peer = %of, ?differences, "peer lists other members than this node, and has for a while");
            logged = true;
        }
        self.differs_since = Some((since, logged));
    }

    /// How it differs from ours, if it does.
    pub(super) fn differences(&self, ours: &Members) -> Option<Differences> {
        (self.fingerprint != ours.fingerprint()).then(|| ours.differences(&self.members))
    }
}

/// Nodes that take this one for a peer, and are not listed here.
#[derive(Debug, Default)]
pub(super) struct Strangers(Mutex<HashMap<NodeName, Belief>>);

impl Strangers {
    pub(super) fn heard(&self, hello: &Hello, ours: &Members, now: Moment) {
        let mut strangers = self.lock();
        strangers.retain(|_, belief| now.since(belief.heard) < FORGOTTEN_AFTER);
        let name = &hello.sender.name;
        if hello.draining {
            strangers.remove(name);
            return;
        }
        if strangers.len() < MOST_STRANGERS || strangers.contains_key(name) {
            let since = strangers.remove(name).and_then(|belief| belief.differs_since);
            let mut belief = Belief::new(hello, now);
            belief.compare(ours, since, now, name);
            strangers.insert(name.clone(), belief);
        }
    }

    /// Forgets those that are listed.
    pub(super) fn forget(&self, listed: &Members) {
        self.lock().retain(|name, _| listed.index_of(name).is_none());
    }

    pub(super) fn stats(&self, ours: &Members, now: Moment) -> Vec<PeerStats> {
        let strangers = self.lock();
        let known = strangers.iter().filter(|(_, belief)| now.since(belief.heard) < FORGOTTEN_AFTER);
        let mut stats: Vec<_> = known
            .map(|(name, belief)| PeerStats {
                name: name.clone(),
                address: String::new(),
                listed: false,
                state: PeerState::Connecting,
                down_for: None,
                latency: None,
                requests: 0,
                failures: 0,
                fingerprint: Some(belief.fingerprint),
                differs: belief.differences(ours),
            })
            .collect();
        stats.sort_by(|a, b| a.name.cmp(&b.name));
        stats
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeName, Belief>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
