//! Building a group: its name, its options, its loader.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::codec::{Codec, Raw};
use crate::config::{GroupConfig, at_least};
use crate::entry::Value;
use crate::error::ConfigError;
use crate::loader::{Batch, BatchLoader, Load, Loader, One};

use super::Group;
use super::context::{Context, Life};
use super::inner::Inner;
use super::registry::Registry;
use super::serve::Serving;

/// The longest name of a group, in bytes.
const MAX_NAME_LEN: usize = 255;

/// Where a group will live.
pub(crate) struct Home {
    pub(crate) context: Arc<Context>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) life: Arc<Life>,
}

/// Builds a [`Group`]; made by [`Node::group`](crate::Node::group). All checks happen in [`build`](Self::build).
///
/// The loader, the codec, the capacity and the lives should be the same on every node of the cluster; the schema and
/// the codec must be.
#[must_use = "a builder does nothing until `build` is called"]
pub struct GroupBuilder<C = Raw, L = ()> {
    home: Home,
    name: String,
    config: GroupConfig,
    codec: C,
    loader: L,
}

/// A loader that takes one key a call, until the type of its values is known.
#[derive(Debug)]
pub struct OneByOne<L>(L);

/// A loader that takes many keys a call, until the type of its values is known.
#[derive(Debug)]
pub struct InBatches<L> {
    loader: L,
    per_call: usize,
}

/// What a group can be built with: a [`Loader`] or a [`BatchLoader`] of `V`, as given to the builder.
#[diagnostic::on_unimplemented(
    message = "the group has no loader of values of type `{V}`",
    label = "give it `.loader(..)` or `.batch_loader(..)`, which return such values"
)]
pub trait LoadsInto<V>: private::Erase<V> {}

mod private {
    use crate::loader::Load;

    pub trait Erase<V> {
        #[expect(private_interfaces, reason = "the trait is sealed: only this crate calls it")]
        fn erase(self) -> Box<dyn Load<V>>;
        fn per_call(&self) -> usize;
    }
}

impl<V: Value, L: Loader<V>> LoadsInto<V> for OneByOne<L> {}

impl<V: Value, L: Loader<V>> private::Erase<V> for OneByOne<L> {
    #[expect(private_interfaces, reason = "as above")]
    fn erase(self) -> Box<dyn Load<V>> {
        Box::new(One(self.0))
    }

    fn per_call(&self) -> usize {
        1
    }
}

impl<V: Value, L: BatchLoader<V>> LoadsInto<V> for InBatches<L> {}

impl<V: Value, L: BatchLoader<V>> private::Erase<V> for InBatches<L> {
    #[expect(private_interfaces, reason = "as above")]
    fn erase(self) -> Box<dyn Load<V>> {
        Box::new(Batch { loader: self.loader, per_call: self.per_call })
    }

    fn per_call(&self) -> usize {
        self.per_call
    }
}

impl<C, L> fmt::Debug for GroupBuilder<C, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupBuilder").field("name", &self.name).field("config", &self.config).finish_non_exhaustive()
    }
}

impl GroupBuilder {
    pub(crate) fn new(home: Home, name: &str) -> Self {
        Self { home, name: name.to_string(), config: GroupConfig::default(), codec: Raw, loader: () }
    }
}

impl<C, L> GroupBuilder<C, L> {
    /// How values become bytes for the wire. Default: [`Raw`], which carries `Bytes`, `Vec<u8>` and `String`.
    pub fn codec<D>(self, codec: D) -> GroupBuilder<D, L> {
        let Self { home, name, config, loader, .. } = self;
        GroupBuilder { home, name, config, codec, loader }
    }

    /// What fills a miss: a closure `Fn(Key) -> Future<Output = Result<T, E>>`, or a [`Loader`]. A group needs this or
    /// a [`batch_loader`](Self::batch_loader). A closure that uses something of its surroundings clones it for each
    /// call: `move |key: Key| { let db = db.clone(); async move { db.find(&key).await } }`. (An `async` closure that
    /// captures something is not a `Fn`.)
    pub fn loader<M>(self, loader: M) -> GroupBuilder<C, OneByOne<M>> {
        let Self { home, name, config, codec, .. } = self;
        GroupBuilder { home, name, config, codec, loader: OneByOne(loader) }
    }

    /// What fills many misses in one call, of at most `per_call` keys: a closure
    /// `Fn(Vec<Key>) -> Future<Output = Result<I, E>>`, with `I` yielding pairs of a key and its value, or a
    /// [`BatchLoader`]. Misses that arrive together (all that a `get_many` misses, or what comes while all permits for
    /// loads are out) become one call; a lone miss does not wait.
    pub fn batch_loader<M>(self, per_call: usize, loader: M) -> GroupBuilder<C, InBatches<M>> {
        let Self { home, name, config, codec, .. } = self;
        GroupBuilder { home, name, config, codec, loader: InBatches { loader, per_call } }
    }

    /// The most that the group's cache takes on this node, in bytes: keys, values and bookkeeping. Default: 64 MiB; at
    /// least 4 KiB. It is never exceeded.
    ///
    /// **A value counts for what its codec says** ([`Codec::weight`]). Of `Bytes`, `Vec<u8>` and `String` that is what
    /// they take. Of other types it is the encoded length plus the size of `V`, unless told otherwise: where they take
    /// more in memory, as maps and small numbers do, so does the cache. [`Weighed`](crate::Weighed) puts that right.
    ///
    /// A `Bytes` that is a slice counts for its own length, and keeps all that it is a part of: hand out a copy of what
    /// is a small part of something large, by `Bytes::copy_from_slice`.
    ///
    /// The capacity is split over shards, each of a quarter of it at least, or of 4 MiB at least if that is less. An
    /// entry that is larger than a shard is handed out but not kept; how large one may be is told by
    /// [`CacheUsage::max_entry_bytes`](crate::CacheUsage::max_entry_bytes). It is an eighth less than a shard on a node
    /// that peers can ask, unless values are `Bytes`: that eighth keeps encoded values for those who ask again. Of
    /// copies it is the [`hot_share`](Self::hot_share) of that.
    pub fn capacity(mut self, bytes: usize) -> Self {
        self.config.capacity = bytes;
        self
    }

    /// The most of the capacity that copies of other nodes' keys may take, from 0.0 (nothing that was fetched is kept)
    /// to 1.0. Default: 0.25. It is a limit and no reserve: within it copies stay by their use, beside the entries that
    /// this node owns. Give less where loads are dear and the network is not: a copy saves a trip, and what has to make
    /// room for it may have saved a load.
    ///
    /// It is a share of each shard, so it also limits a single copy: one that is larger than this share of
    /// [`CacheUsage::max_entry_bytes`](crate::CacheUsage::max_entry_bytes) is handed out but not kept.
    pub fn hot_share(mut self, share: f64) -> Self {
        self.config.hot_share = share;
        self
    }

    /// How long a value may be served, from the end of its load, unless the loader says otherwise for this one.
    /// Default: until it is evicted or removed. **Always set it** where the source can change: it bounds how stale a
    /// value can get when all else fails.
    pub fn time_to_live(mut self, life: Duration) -> Self {
        self.config.time_to_live = Some(life);
        self
    }

    /// How long "there is none" is remembered. Default: 5 s; zero: not at all.
    pub fn not_found_time_to_live(mut self, life: Duration) -> Self {
        self.config.not_found_time_to_live = life;
        self
    }

    /// After how long a value is refreshed: its **soft limit**, from the end of its load, unless the loader says
    /// otherwise for this one ([`Loaded::refresh_after`](crate::Loaded::refresh_after)). Default: never. It must be
    /// above zero and less than [`time_to_live`](Self::time_to_live).
    ///
    /// From then on the value is still served at once, and the first get that meets it starts one load behind it: one
    /// in the whole cluster, since copies on other nodes ask the owner. So nobody waits for keys that are asked for,
    /// and what nobody asks for is not refreshed. If that load fails, the old value is served on, and the next load
    /// waits: a quarter of a second, then twice as long each time, up to 16 s. It is shortened as the life is (see
    /// [`jitter`](Self::jitter)), and kept to a part in 500.
    pub fn refresh_after(mut self, age: Duration) -> Self {
        self.config.refresh_after = Some(age);
        self
    }

    /// How long beyond its [`time_to_live`](Self::time_to_live) a value is served when its loads fail. Default: zero,
    /// not at all.
    ///
    /// Beyond its life a value is loaded again, and who asks waits for that. If the loader fails, runs into its limit,
    /// or cannot be called ([`Error::Busy`](crate::Error::Busy)), the old value is served instead of the error;
    /// [`Entry::age`](crate::Entry::age) tells how old it is, and its [`time_left`](crate::Entry::time_left) is zero.
    /// The next load waits: a quarter of a second at first, then twice as long each time, up to 16 s; meanwhile the old
    /// value is served at once. When the grace is over it is the error again. A loader that says that there is no value
    /// does not fail: the old one goes.
    ///
    /// Values stay in the cache for their grace, and can be evicted as any other. It counts in whole microseconds.
    pub fn grace(mut self, time: Duration) -> Self {
        self.config.grace = Duration::from_micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        self
    }

    /// By what part of itself a life is shortened at most, at random, so that entries that were loaded together do not
    /// expire together, nor are refreshed together: a soft limit is shortened by the same part. From 0.0 to 1.0.
    /// Default: 0.1.
    pub fn jitter(mut self, part: f64) -> Self {
        self.config.jitter = part;
        self
    }

    /// How long a get waits, whatever for; [`GetOptions::timeout`](crate::GetOptions::timeout) sets it for one get.
    /// Default: 15 s. What the get has started goes on after that.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.config.timeout = limit;
        self
    }

    /// How long one call of the loader may take, from when it is called. Default: 10 s. Its future is dropped then.
    pub fn load_timeout(mut self, limit: Duration) -> Self {
        self.config.load_timeout = limit;
        self
    }

    /// How long a load may wait for its turn. Default: 5 s. Who waits for it gets [`Error::Busy`](crate::Error::Busy)
    /// then.
    pub fn load_queue_timeout(mut self, limit: Duration) -> Self {
        self.config.load_queue_timeout = limit;
        self
    }

    /// How many calls of the loader run at a time on this node; more wait in order. Default: 64; at least 1. A get from
    /// inside a loader takes no permit of its own.
    pub fn max_concurrent_loads(mut self, count: usize) -> Self {
        self.config.max_concurrent_loads = count;
        self
    }

    /// How many loads may wait for their turn. Default: 10,000. Beyond it, callers get
    /// [`Error::Busy`](crate::Error::Busy) at once.
    pub fn max_queued_loads(mut self, count: usize) -> Self {
        self.config.max_queued_loads = count;
        self
    }

    /// How long a removal or an insert waits for those who are told of it, all at once, and then for those of whom it
    /// hears only through these. Default: 1 s. Who has not answered by then is pending in the receipt; who is known to
    /// be down is not waited for.
    pub fn removal_timeout(mut self, limit: Duration) -> Self {
        self.config.removal_timeout = limit;
        self
    }

    /// By how much the source may lag behind its writers: a replica, a cache in front of it, a transaction that commits
    /// after the removal. Default: zero. What a load brings that begins so soon after a removal of its key is served,
    /// and kept no longer than this, without a grace: then it is loaded again. (A node that was started anew in between
    /// does not know of the removal.)
    pub fn source_lag(mut self, lag: Duration) -> Self {
        self.config.source_lag = lag;
        self
    }

    /// A number for the layout of the group's values. Default: 0. Change it when the layout changes: nodes of different
    /// schemas load for themselves instead of decoding each other's values.
    pub fn schema(mut self, schema: u32) -> Self {
        self.config.schema = schema;
        self
    }

    /// Builds the group and puts it on the node: from now on peers can ask for its keys. It lives as long as the node.
    ///
    /// # Errors
    /// If an option cannot be, the node has a group of that name, or is shut down.
    pub fn build<V: Value>(self) -> Result<Group<V>, ConfigError>
    where
        C: Codec<V>,
        L: LoadsInto<V>,
    {
        self.check::<V>()?;
        let Self { home: Home { context, registry, life }, name, config, codec, loader } = self;
        let name: Arc<str> = Arc::from(name);
        let inner = Arc::new(Inner::new(Arc::clone(&name), config, context, Box::new(codec), loader.erase()));
        registry.add(&name, Arc::new(Serving(Arc::clone(&inner))))?;
        Ok(Group::new(inner, life))
    }

    fn check<V: Value>(&self) -> Result<(), ConfigError>
    where
        L: LoadsInto<V>,
    {
        if self.home.context.tasks.is_closed() {
            return Err(ConfigError::Closed);
        }
        if self.name.is_empty() || self.name.len() > MAX_NAME_LEN {
            let value = format!("{:?}", self.name);
            return Err(ConfigError::InvalidOption { option: "a group's name", value, advice: "give 1 to 255 bytes" });
        }
        at_least("per_call", self.loader.per_call(), 1, "give at least 1")?;
        self.config.check()
    }
}
