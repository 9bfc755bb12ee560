//! What peers ask of a group on this node.
//!
//! A request from a peer is served here, whatever the placement says: from the cache, or by a load of this node. It is
//! never forwarded, and it waits for loads only, never for a fetch.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};

use crate::entry::{Source, Value};
use crate::error::Error;
use crate::flight::{Landed, Landing};
use crate::key::{HashedKey, Key};
use crate::loader::{Inside, Loaded};
use crate::message::{Answer, Copy, Outcome, Refusal, RefusalKind, Scope};
use crate::stats::{GroupStats, Tally};
use crate::time::Moment;

use super::inner::Inner;
use super::load::Boarded;
use super::registry::Serve;

/// The group as its node's registry holds it.
pub(super) struct Served<V: Value>(pub(super) Arc<Inner<V>>);

impl<V: Value> Serve for Served<V> {
    fn schema(&self) -> u32 {
        self.0.config.schema
    }

    fn serve(&self, keys: Vec<Key>, time_limit: Duration, nested: bool) -> BoxFuture<'_, Result<Vec<Answer>, Refusal>> {
        self.0.serve(keys, time_limit, nested).boxed()
    }

    fn apply(&self, scope: &Scope) {
        self.0.removals.applied.one();
        self.0.apply(scope);
    }

    fn install(&self, key: Key, value: Bytes, time_to_live: Option<Duration>) -> Result<bool, Refusal> {
        self.0.install_from_peer(&HashedKey::new(key), &value, time_to_live)
    }

    fn stats(&self) -> GroupStats {
        self.0.stats()
    }
}

impl<V: Value> Inner<V> {
    async fn serve(
        self: &Arc<Self>,
        keys: Vec<Key>,
        time_limit: Duration,
        nested: bool,
    ) -> Result<Vec<Answer>, Refusal> {
        let received = self.now();
        // A client that names no limit gets the group's.
        let time_limit = if time_limit.is_zero() { self.config.timeout } else { time_limit };
        let tallies: Vec<_> = keys.iter().map(|_| Tally::new(&self.served)).collect();
        let landings = self.serve_all(keys, time_limit, nested).await;
        let mut answers = Vec::with_capacity(landings.len());
        for (tally, landing) in tallies.into_iter().zip(landings) {
            // Read before the value is encoded: what that takes has to count as the way, or the copy would outlive the
            // original.
            let now = self.now();
            let landing = landing.and_then(|landed| Ok((self.to_outcome(&landed, now)?, landed)));
            let outcome = match landing {
                Ok((outcome, landed)) => {
                    tally.answered(&landed.source, landed.value.is_some());
                    outcome
                }
                // The load was cut short because this node shuts down: another node can do better.
                Err(Error::Closed) if self.context.tasks.is_closed() => return Err(draining()),
                Err(error) => {
                    tally.failed(&error);
                    Outcome::Failed(error)
                }
            };
            answers.push(Answer { outcome, held: now.since(received) });
        }
        Ok(answers)
    }

    async fn serve_all(self: &Arc<Self>, keys: Vec<Key>, time_limit: Duration, nested: bool) -> Vec<Landing<V>> {
        let outer = nested.then(Inside::of_a_peer);
        let keys: Vec<_> = keys.into_iter().map(HashedKey::new).collect();
        let boarded = self.board_loads(keys.iter(), outer.as_ref());
        self.served.joined.add(boarded.iter().filter(|boarded| matches!(boarded, Boarded::Joined(_))).count() as u64);
        let landings = boarded.into_iter().map(async |boarded| {
            let landing = tokio::time::timeout(time_limit, boarded.landing()).await;
            landing.unwrap_or(Err(Error::Timeout { limit: time_limit }))
        });
        join_all(landings).await
    }

    fn to_outcome(&self, landed: &Landed<V>, now: Moment) -> Result<Outcome, Error> {
        let Some(value) = &landed.value else { return Ok(Outcome::NotFound) };
        Ok(Outcome::Value(Copy {
            value: self.encode(value)?,
            age: now.since(landed.born),
            left: landed.expires.left(now),
            loaded: landed.source == Source::Loader,
        }))
    }

    /// Takes out what a removal says, here.
    pub(super) fn apply(&self, scope: &Scope) {
        match scope {
            Scope::Keys(keys) => {
                for key in keys {
                    self.shards.remove(HashedKey::new(key.clone()).as_ref());
                }
            }
            Scope::Group => self.shards.clear(),
        }
    }

    /// Another node's insert. Only the owner keeps the value; to anybody else it is a removal.
    fn install_from_peer(
        &self,
        key: &HashedKey,
        value: &Bytes,
        time_to_live: Option<Duration>,
    ) -> Result<bool, Refusal> {
        // Copied, because a slice would keep the whole message that it came in alive.
        let (value, _) = self
            .decode(Bytes::copy_from_slice(value))
            .map_err(|error| Refusal::new(RefusalKind::Schema, format!("the value does not decode here: {error}")))?;
        let loaded = Loaded { value: Some(value), time_to_live };
        let stored =
            self.install(key, loaded).map_err(|error| Refusal::new(RefusalKind::TooLarge, error.to_string()))?;
        self.removals.stored.add(u64::from(stored));
        Ok(stored)
    }
}

fn draining() -> Refusal {
    Refusal::new(RefusalKind::Draining, "the node is shutting down")
}
