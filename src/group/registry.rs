//! The groups of a node, by name, erased of their values' types: for what peers ask.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::coherence::Holders;
use crate::error::ConfigError;
use crate::key::Key;
use crate::message::{Insert, Refusal, Scope};
use crate::removals::Origin;
use crate::stats::GroupStats;
use crate::tags::TagHash;
use crate::transport::{Room, Served, Wanted};

/// How long a value lives, and after how long it is refreshed, if it has limits of its own.
pub(crate) type Limits = (Option<Duration>, Option<Duration>);

/// What an insert of a client's says of its value: its limits, and its tags.
pub(crate) type Terms = (Limits, Vec<TagHash>);

/// A group, as its node sees it when a peer asks.
pub(crate) trait Serve: Send + Sync {
    fn schema(&self) -> u32;

    /// Serves keys as their owner, whatever the placement says: from the cache, at once, or by a load on this node.
    /// Never forwards. What becomes of each key goes to `served`, with its place. Stops early, after at least one, when
    /// what is served at once is all that there is `room` for; says how many it has looked at.
    fn serve(
        self: Arc<Self>,
        wanted: &[Wanted],
        nested: bool,
        room: Room,
        served: &mut dyn FnMut(usize, Served),
    ) -> usize;

    /// Voids the flights that have begun and drops the entries, as a removal says.
    fn take_out(&self, scope: &Scope);

    /// Applies an insert of a client's; says whether the value was stored, rather than the key removed.
    fn install(&self, key: Key, value: Bytes, terms: Terms) -> Result<bool, Refusal>;

    /// Applies an insert of another node's, and takes the value that it offers; says whether that was stored, and
    /// whether the removal that comes with it may be acknowledged.
    fn take_offer(self: Arc<Self>, from: Origin, insert: Insert) -> BoxFuture<'static, (bool, bool)>;

    fn stats(&self) -> GroupStats;
}

impl Holders for Registry {
    fn take_out(&self, group: &str, scope: &Scope) {
        if let Some(group) = self.find(group) {
            group.take_out(scope);
        }
    }

    fn take_all_out(&self) {
        let groups: Vec<_> = self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for group in groups {
            group.take_out(&Scope::Group);
        }
    }
}

/// The groups of one node. They live as long as the node does.
#[derive(Default)]
pub(crate) struct Registry(RwLock<BTreeMap<Arc<str>, Arc<dyn Serve>>>);

impl Registry {
    pub(crate) fn add(&self, name: &Arc<str>, group: Arc<dyn Serve>) -> Result<(), ConfigError> {
        let mut groups = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if groups.contains_key(name) {
            return Err(ConfigError::DuplicateGroup { name: name.to_string() });
        }
        groups.insert(Arc::clone(name), group);
        Ok(())
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<dyn Serve>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(crate) fn stats(&self) -> BTreeMap<String, GroupStats> {
        let groups = self.0.read().unwrap_or_else(PoisonError::into_inner);
        groups.iter().map(|(name, group)| (name.to_string(), group.stats())).collect()
    }
}
