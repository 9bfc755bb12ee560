//! The group: a named keyspace with its own loader, codec, capacity and policies.
//!
//! [`Group`] is the face; behind it, one file for each way through: `get.rs` for callers, `load.rs` and `fetch.rs` for
//! the flights that they start, `serve.rs` for what peers ask, `remove.rs` for removals and `insert.rs` for inserts.

mod builder;
mod context;
mod fetch;
mod get;
mod inner;
mod insert;
mod lag;
mod line;
mod load;
mod missed;
mod offers;
mod planted;
mod registry;
mod remove;
mod serve;
mod sweep;
mod wait;
mod wish;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::entry::{Entry, Source, Value};
use crate::error::Error;
use crate::key::{AsKey, Key, KeyRef};
use crate::loader::Loaded;
use crate::message::Scope;
use crate::receipt::Receipt;
use crate::stats::GroupStats;
use crate::store::Told;
use crate::time::Moment;
use crate::token::Token;

pub(crate) use builder::Home;
pub use builder::{GroupBuilder, InBatches, LoadsInto, OneByOne};
pub(crate) use context::{Context, Life};
use get::Get;
use inner::Inner;
pub(crate) use planted::stores_unasked;
pub(crate) use registry::{Registry, Serve};
use wish::Wish;

/// A named keyspace, shared by all nodes that have a group of this name: a cache in front of a loader.
///
/// A handle, cheap to clone; any clone keeps the node running. Made by [`Node::group`](crate::Node::group).
///
/// **How long a get takes.** Every get ends within its limit (the group's `timeout`, or [`GetOptions::timeout`]). A
/// load ends within `load_queue_timeout` + `load_timeout`, or twice the latter if removals overtake it; a fetch from a
/// peer that is lost on the way costs about two seconds once, for all gets together.
///
/// **Cancellation.** Any future here can be dropped. What a dropped get has started goes on for those who joined it,
/// and fills the cache; a dropped removal is carried out all the same.
pub struct Group<V: Value> {
    inner: Arc<Inner<V>>,
    life: Arc<Life>,
}

impl<V: Value> Group<V> {
    fn new(inner: Arc<Inner<V>>, life: Arc<Life>) -> Self {
        Self { inner, life }
    }

    /// The value of a key: from this node's cache, from the node that owns the key, or from the loader there.
    ///
    /// A hit allocates nothing and resolves at the first poll.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the loader says that there is none; see [`Error`] for the rest.
    pub fn get<'a>(&'a self, key: &'a (impl AsKey + ?Sized)) -> impl Future<Output = Result<V, Error>> + Send {
        self.one(key.as_key(), None, |value, _, _| value.ok_or_else(|| Error::NotFound))
    }

    /// The value of a key, or `None` if there is none.
    ///
    /// # Errors
    /// As [`get`](Self::get), but for [`Error::NotFound`].
    pub fn get_opt<'a>(
        &'a self,
        key: &'a (impl AsKey + ?Sized),
    ) -> impl Future<Output = Result<Option<V>, Error>> + Send {
        self.one(key.as_key(), None, |value, _, _| Ok(value))
    }

    /// The value of a key with its age, what is left of its life, and where it came from.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_with(&self, key: &(impl AsKey + ?Sized), options: GetOptions) -> Result<Entry<V>, Error> {
        let key = key.as_key();
        let Some(token) = &options.no_older_than else {
            return self.entry(key, options.timeout, options.wish).await.map(|(entry, _)| entry);
        };
        let limit = options.timeout.unwrap_or(self.inner.config.timeout);
        let started = self.inner.now();
        let mut asked_before = false;
        loop {
            let honour = self.inner.honour(token, KeyRef::new(key).check()?);
            let left = limit.saturating_sub(self.inner.now().since(started));
            if left.is_zero() {
                return Err(Error::Timeout { limit });
            }
            let found = self.entry(key, Some(left), options.wish).await;
            let born = match &found {
                Ok((_, born)) => Some(*born),
                Err(Error::NotFound) => None,
                Err(Error::Timeout { .. }) => return Err(Error::Timeout { limit }),
                Err(error) => return Err(error.clone()),
            };
            // A peer does not tell since when there is none. Who was asked again has been told from the beginning.
            let is_told_none = born.is_none() && asked_before;
            if is_told_none || self.inner.has_honoured(token, KeyRef::new(key), honour, born) {
                return found.map(|(entry, _)| entry);
            }
            asked_before = true;
        }
    }

    /// The value of a key as `get_with` tells it, and when its load began.
    async fn entry(&self, key: &[u8], limit: Option<Duration>, wish: Wish) -> Result<(Entry<V>, Moment), Error> {
        let get = self.one(key, limit, |value, told, source| {
            let now = self.inner.now();
            let value = value.ok_or(Error::NotFound)?;
            let (age, time_left) = (now.since(told.born()), told.hard().left(now));
            Ok((Entry { value, age, time_left, source }, told.born()))
        });
        get.wishing(wish).await
    }

    #[inline]
    fn one<'a, T, F>(&'a self, key: &'a [u8], limit: Option<Duration>, answer: F) -> Get<'a, V, F, T>
    where
        F: Fn(Option<V>, Told, Source) -> Result<T, Error>,
    {
        Get::new(&self.inner, key, limit, answer)
    }

    /// The values of many keys, in the order of the keys, each with its own error. One message goes to each node that
    /// owns some of them, and is answered when the slowest of its keys is. More misses at once than the group lets wait
    /// for their loads ([`max_queued_loads`](GroupBuilder::max_queued_loads)) get [`Error::Busy`].
    pub fn get_many<K: AsKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> impl Future<Output = Vec<Result<V, Error>>> + Send {
        let keys: Vec<_> = keys.into_iter().map(|key| KeyRef::new(key.as_key()).to_owned()).collect();
        async move {
            let landings = self.inner.get_many(&keys, self.inner.config.timeout).await;
            landings.into_iter().map(|landing| landing?.value.ok_or(Error::NotFound)).collect()
        }
    }

    /// The value of a key if this node's cache has it, within its time to live. Never loads, never waits, touches
    /// neither order nor counters.
    #[must_use]
    pub fn peek(&self, key: &(impl AsKey + ?Sized)) -> Option<V> {
        let key = KeyRef::new(key.as_key()).check().ok()?;
        self.inner.shards.peek(key, |end| self.inner.context.may_be_served(end))
    }

    /// Puts a value in the cache of the key's owner, and takes the key out of all others: a removal that comes with an
    /// offer, for which the owner asks.
    ///
    /// It keeps the promise of [`remove`](Self::remove), for whatever was loaded before. If the owner does not take the
    /// value at once, or a removal of the key comes in between, nobody does ([`Receipt::stored`]). The order of two
    /// inserts of one key is the owner's; to make the cluster see a change, prefer `remove`.
    ///
    /// # Errors
    /// If the key is too long, or the value has no encoding or too long a one; or the node is shut down. Nothing was
    /// changed then.
    pub fn insert(&self, key: &(impl AsKey + ?Sized), value: V) -> impl Future<Output = Result<Receipt, Error>> + Send {
        self.insert_with(key, Loaded::value(value))
    }

    /// The same with what a loader could have returned: a value with a time to live of its own, or "there is none",
    /// which acts as a removal. A life begins with the call, or the way of one message later, and not when the owner
    /// has got the value.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub fn insert_with(
        &self,
        key: &(impl AsKey + ?Sized),
        loaded: Loaded<V>,
    ) -> impl Future<Output = Result<Receipt, Error>> + Send {
        let key = KeyRef::new(key.as_key()).check().map(KeyRef::to_owned);
        async move { self.inner.insert(key?, loaded).await }
    }

    /// Takes a key out of every cache of the cluster.
    ///
    /// When every node is done by the receipt (as it is returned, or after [`settled`](Receipt::settled)), no get that
    /// starts later, on any node, returns a value whose load began before this call: whatever the nodes list, whomever
    /// they hold for the key's owner, and whatever was under way. (A call begins when its future is first polled.)
    ///
    /// All nodes are told at once. It returns when all have applied it, or else after the group's
    /// [`removal_timeout`](GroupBuilder::removal_timeout), which counts from the call and for all waits together. Those
    /// known to be down are not waited for. They are pending in the receipt, and are told as soon as anybody
    /// reaches them, also by others if this node is gone by then. The [`token`](Receipt::token) of the receipt lets a
    /// single get ask for nothing older at once, on whichever node.
    ///
    /// Remove after the change is committed at the source: a load that begins after the removal may find what the
    /// source had before the commit.
    ///
    /// # Errors
    /// If the key is too long or the node is shut down.
    pub fn remove(&self, key: &(impl AsKey + ?Sized)) -> impl Future<Output = Result<Receipt, Error>> + Send {
        self.remove_many([key.as_key()])
    }

    /// Takes many keys out, as [`remove`](Self::remove) does one: in one message to each node, or a few if they are
    /// very many. What is remembered of them has a bound, too: beyond it, it is the group as a whole.
    ///
    /// # Errors
    /// If a key is too long or the node is shut down. Nothing was removed then.
    pub fn remove_many<K: AsKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> impl Future<Output = Result<Receipt, Error>> + Send {
        let keys = keys.into_iter().map(|key| KeyRef::new(key.as_key()).check().map(|key| Key::new(key.bytes)));
        let keys: Result<Vec<Key>, Error> = keys.collect();
        async move { self.inner.remove(Scope::Keys(keys?)).await }
    }

    /// Takes out everything that bears a tag ([`Loaded::tag`]), on every node, as [`remove`](Self::remove) does one key.
    ///
    /// Nobody looks for what bears the tag: so it takes as long for a million keys as for one, and what is out gives its
    /// bytes back when it is next asked for, or within seconds. A load that is under way when the tag is removed, and
    /// brings a value that bears it, is not kept, and goes to nobody who asked later.
    ///
    /// Until everybody has applied it, a key of the group that one node asks of another is loaded anew there, whether
    /// or not it bears the tag, if that node has not heard of the removal.
    ///
    /// A group remembers some thousands of removed tags one by one. Beyond that, what bears any tag and is older than
    /// the oldest of those is loaded anew, too.
    ///
    /// # Errors
    /// If the tag is longer than a key may be or the node is shut down.
    pub fn remove_tag(&self, tag: &(impl AsKey + ?Sized)) -> impl Future<Output = Result<Receipt, Error>> + Send {
        let tag = KeyRef::new(tag.as_key()).check().map(|tag| Key::new(tag.bytes));
        async move { self.inner.remove(Scope::Tag(tag?)).await }
    }

    /// Takes everything in the group out, as [`remove`](Self::remove) does one key: also what is being loaded, and keys
    /// that nobody has thought of.
    ///
    /// # Errors
    /// If the node is shut down.
    pub fn clear(&self) -> impl Future<Output = Result<Receipt, Error>> + Send {
        self.inner.remove(Scope::Group)
    }

    /// The group's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// What callers and peers asked of this node, how it was answered, and what the cache holds.
    #[must_use]
    pub fn stats(&self) -> GroupStats {
        self.inner.stats()
    }

    /// A handle that does not keep the node running: for a loader that asks its own group.
    #[must_use]
    pub fn downgrade(&self) -> WeakGroup<V> {
        WeakGroup { inner: Arc::downgrade(&self.inner), life: Arc::downgrade(&self.life) }
    }
}

impl<V: Value> Clone for Group<V> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), life: Arc::clone(&self.life) }
    }
}

impl<V: Value> fmt::Debug for Group<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// A handle of a group that does not keep its node running. Made by [`Group::downgrade`].
pub struct WeakGroup<V: Value> {
    inner: Weak<Inner<V>>,
    life: Weak<Life>,
}

impl<V: Value> WeakGroup<V> {
    /// The group, unless its node has been shut down because the last handle is gone.
    #[must_use]
    pub fn upgrade(&self) -> Option<Group<V>> {
        Some(Group { life: self.life.upgrade()?, inner: self.inner.upgrade()? })
    }
}

impl<V: Value> Clone for WeakGroup<V> {
    fn clone(&self) -> Self {
        Self { inner: Weak::clone(&self.inner), life: Weak::clone(&self.life) }
    }
}

impl<V: Value> fmt::Debug for WeakGroup<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakGroup").finish_non_exhaustive()
    }
}

/// How one get differs from the group's usual way.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct GetOptions {
    timeout: Option<Duration>,
    wish: Wish,
    no_older_than: Option<Token>,
}

impl GetOptions {
    /// As the group usually does.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long this get waits, instead of the group's `timeout`.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// How old the value may be when the get starts, at most; its age counts from when its load began. Default: as old
    /// as its limits allow. Where there is only an older one it is loaded anew (by the key's owner, as ever), and a
    /// load that began too early is waited for and followed by another one. Zero: what was loaded since.
    ///
    /// If that load fails it is the error, also within the group's [`grace`](GroupBuilder::grace). "There is none" has
    /// an age as well.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.wish.max_age = Some(age);
        self
    }

    /// The value that the key's owner has, in its cache or from its loader, rather than a copy on this node. Default: a
    /// copy will do. A fetch that is under way is joined. While the owner cannot be reached it is what its stand-in
    /// has, as for any get, or what this node loads then.
    pub fn fresh(mut self) -> Self {
        self.wish.fresh = true;
        self
    }

    /// Answers with nothing that is older than the removal that the token stands for, whether or not this node, or the
    /// key's owner, has heard of it: what is older is dropped first, here and there.
    ///
    /// A token that nobody can confirm (made up, or of a node that is gone) costs a fetch for each get, and a load at
    /// most once per key and second. That is for one and the same token: tokens that differ cost a load **each**,
    /// however often the key was just loaded. See [`Token`] for what to do about those of strangers.
    pub fn no_older_than(mut self, token: Token) -> Self {
        self.no_older_than = Some(token);
        self
    }
}
