//! A group's inside: what its handles share, and the small things that every way through it needs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tracing::Span;

use crate::clock;
use crate::codec::Codec;
use crate::config::GroupConfig;
use crate::entry::{Source, Value};
use crate::error::{CodecError, Error};
use crate::flight::Landed;
use crate::hits::Hits;
use crate::key::KeyRef;
use crate::lifespan::Lifespan;
use crate::loader::{Load, Loaded};
use crate::queue::Limits;
use crate::shards::{Hit, Keep, Shards};
use crate::stats::{FetchCounters, GetCounters, GroupStats, LoadCounters, RemovalCounters};
use crate::store::Place;
use crate::tags::Tagged;
use crate::time::{Earliest, Moment};

use super::context::Context;
use super::insert::Offered;
use super::lag::Lag;
use super::line::Line;
use super::offers::Offers;

/// The part of a group's capacity that keeps the bytes of values that peers ask for again and again.
const ENCODED_SHARE: f64 = 0.125;

/// What all handles of one group share. It is the node's; handles come and go.
pub(crate) struct Inner<V: Value> {
    pub(super) name: Arc<str>,
    /// Tells groups of one process apart, of whatever node and name.
    pub(super) id: u64,
    pub(super) config: GroupConfig,
    pub(super) context: Arc<Context>,
    codec: Box<dyn Codec<V>>,
    pub(super) loader: Box<dyn Load<V>>,
    pub(super) shards: Arc<Shards<V>>,
    /// Whether the shards keep encoded values for peers.
    pub(super) keeps_encoded: bool,
    pub(super) line: Mutex<Line<V>>,
    /// What this node offers to the owners of keys.
    pub(super) offers: Offers<Offered<V>>,
    /// What was removed so lately that the source may not know.
    pub(super) lag: Lag,
    /// Whether there is a task that minds the waits of callers.
    pub(super) minded: AtomicBool,
    /// Whether there is a task that sweeps the cache.
    pub(super) is_swept: AtomicBool,
    /// When the first of the entries has its end, as far as that is known.
    pub(super) next_end: Earliest,
    /// What callers asked and found here at once.
    pub(super) hits: Hits,
    /// What else callers asked.
    pub(super) gets: GetCounters,
    /// What peers asked.
    pub(super) served: GetCounters,
    pub(super) loads: LoadCounters,
    pub(super) fetches: FetchCounters,
    pub(super) removals: RemovalCounters,
}

impl<V: Value> Inner<V> {
    pub(super) fn new(
        name: Arc<str>,
        config: GroupConfig,
        context: Arc<Context>,
        codec: Box<dyn Codec<V>>,
        loader: Box<dyn Load<V>>,
    ) -> Self {
        let lag = config.source_lag;
        let limits = Limits {
            turns: config.max_concurrent_loads,
            per_turn: loader.per_call(),
            waiting: config.max_queued_loads,
            wait: config.load_queue_timeout,
        };
        // A node without a port has no peers that ask.
        let is_asked = context.peers.has_transport() && codec.keeps_encoded();
        let encoded_share = if is_asked { ENCODED_SHARE } else { 0.0 };
        let parts = (config.hot_share, encoded_share);
        let shards = Arc::new(Shards::new(config.capacity, parts, config.grace, context.clock, clock::random));
        Self {
            name,
            id: clock::random(),
            config,
            context,
            codec,
            loader,
            shards,
            keeps_encoded: is_asked,
            line: Mutex::new(Line::new(limits)),
            offers: Offers::default(),
            lag: Lag::new(lag),
            minded: AtomicBool::new(false),
            is_swept: AtomicBool::new(false),
            next_end: Earliest::default(),
            hits: Hits::new(),
            gets: GetCounters::default(),
            served: GetCounters::default(),
            loads: LoadCounters::default(),
            fetches: FetchCounters::default(),
            removals: RemovalCounters::default(),
        }
    }

    pub(super) fn now(&self) -> Moment {
        self.context.clock.now()
    }

    /// The key's entry in this node's cache.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a value that is handed up by copies costs as much as the look")]
    pub(super) fn look(&self, key: KeyRef<'_>) -> Option<Hit<V>> {
        let peers = &self.context.peers;
        self.shards.look(key.bytes, |slot| peers.place(slot), |due| self.context.may_be_served(due))
    }

    /// What a load (or an insert) brought at that moment, as it will be cached and handed out: how long it lives,
    /// counted from then, and what it weighs. Its age counts from `born`, when its load began, and `since` is how many
    /// tags had been removed by that time.
    pub(super) fn settle(
        &self,
        loaded: Loaded<V>,
        at: Moment,
        (born, since): (Moment, u64),
        place: Place,
    ) -> Result<(Landed<V>, Option<Keep>), Error> {
        let (weight, usual) = match &loaded.value {
            Some(value) => (self.weigh(value)?, self.config.time_to_live),
            None => (0, Some(self.config.not_found_time_to_live)),
        };
        let dice = clock::dice();
        // Both limits by the same part: the time between them is there for the refresh.
        let end =
            |length: Option<Duration>| length.map_or(Moment::NEVER, |length| at + self.config.jittered(length, dice));
        let hard = loaded.time_to_live.or(usual);
        let life = match &loaded.value {
            None => Lifespan::new(born, end(hard)),
            Some(_) => {
                let soft = loaded.refresh_after.or(self.config.refresh_after);
                let soft = soft.filter(|soft| hard.is_none_or(|hard| *soft < hard));
                Lifespan {
                    born,
                    soft: end(soft),
                    hard: end(hard),
                    grace: hard.is_some() && !self.config.grace.is_zero(),
                }
            }
        };
        let lives = hard != Some(Duration::ZERO);
        let tagged = Tagged::new(since, &loaded.tags);
        let landed = Landed { tagged, ..Landed::new(loaded.value, life, Source::Loader) };
        Ok((landed, lives.then_some(Keep { place, weight })))
    }

    /// What a value weighs; an error if it is too large for the cluster.
    fn weigh(&self, value: &V) -> Result<usize, Error> {
        let (len, weight) = self.guarded(|codec| {
            let len = codec.encoded_len(value)?;
            Ok((len, codec.weight(value, len)))
        })?;
        self.check_len(len)?;
        Ok(weight)
    }

    /// The value as bytes for the wire.
    pub(super) fn encode(&self, value: &V) -> Result<Bytes, Error> {
        let bytes = self.guarded(|codec| codec.encode(value))?;
        self.check_len(bytes.len())?;
        Ok(bytes)
    }

    /// The value that a peer sent, and what it weighs.
    pub(super) fn decode(&self, bytes: Bytes) -> Result<(V, usize), Error> {
        let len = bytes.len();
        self.guarded(|codec| {
            let value = codec.decode(bytes)?;
            let weight = codec.weight(&value, len);
            Ok((value, weight))
        })
    }

    fn check_len(&self, len: usize) -> Result<(), Error> {
        let limit = self.context.max_value_bytes;
        if len > limit { Err(Error::ValueTooLarge { len, limit }) } else { Ok(()) }
    }

    /// Calls the user's codec. A panic in it is an error of that value, and nothing else.
    fn guarded<T>(&self, call: impl FnOnce(&dyn Codec<V>) -> Result<T, CodecError>) -> Result<T, Error> {
        catch_unwind(AssertUnwindSafe(|| call(self.codec.as_ref())))
            .unwrap_or_else(|_| Err(CodecError::new("the codec panicked")))
            .map_err(Error::Codec)
    }

    pub(super) fn stats(&self) -> GroupStats {
        let (cache, flights) = self.shards.usage();
        let (loads_running, loads_queued) = self.line_lengths();
        let mut gets = self.gets.snapshot();
        self.hits.add_to(&mut gets);
        GroupStats {
            gets,
            served: self.served.snapshot(),
            loads: self.loads.snapshot(),
            fetches: self.fetches.snapshot(),
            removals: self.removals.snapshot(),
            cache,
            loads_running,
            loads_queued,
            flights,
        }
    }
}

/// Tells how what a span is of has ended. Where nobody listens nothing is looked up: the field would be, by its name.
pub(super) fn record_outcome(span: &Span, outcome: &'static str) {
    if !span.is_disabled() {
        span.record("outcome", outcome);
    }
}
