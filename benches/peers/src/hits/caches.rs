//! The caches, each behind the same three calls.
//!
//! All keep keys of 16 bytes, as keys of any length, and `Bytes` of 100, and have room for more than they are given.
//! groupcache takes text for keys, and gets the same bytes as such.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use tokio::runtime::Handle;

/// What the caches are asked for.
pub type CacheKey = [u8; 16];

type BoxedKey = Box<[u8]>;

/// The hash that peerage and `quick_cache` have by themselves, for those that would take a slower one.
type Hash = foldhash::quality::RandomState;

const THERE: &str = "all that is asked for is there";

/// By name, ours first.
pub const NAMES: [&str; 9] =
    ["peerage", "peerage, an hour", "HashMap", "quick_cache", "lru", "foyer", "moka sync", "groupcache", "moka future"];

/// The key with this number.
pub fn key(number: u32) -> CacheKey {
    let mut key = *b"entry-0000000000";
    let mut rest = number;
    for digit in key[6..].iter_mut().rev() {
        *digit = b'0' + rest.rem_euclid(10).to_le_bytes()[0];
        rest /= 10;
    }
    key
}

fn value() -> Bytes {
    Bytes::from(vec![7; 100])
}

/// A cache under test.
pub trait Cache: Send + Sync {
    /// As in [`NAMES`].
    fn name(&self) -> &'static str;

    /// Stores the first so many keys.
    fn fill(&self, entries: u32);

    /// Gets one key after the other, as long as there are turns; how many gets it was.
    fn ask(&self, turns: Turns<'_>) -> u64;

    /// How many entries there are, and their bytes, as the cache itself says.
    fn says(&self) -> (u64, Option<u64>);
}

/// A cache by its name, empty, with room for so many entries and half as many again.
pub fn open(name: &str, entries: u32, runtime: &Handle) -> Result<Box<dyn Cache>> {
    let room = entries as usize * 3 / 2;
    let entered = runtime.enter();
    let cache = match name {
        "peerage" => peerage("peerage", entries, None, runtime)?,
        "peerage, an hour" => peerage("peerage, an hour", entries, Some(Duration::from_secs(3_600)), runtime)?,
        "HashMap" => hash_map(),
        "quick_cache" => quick_cache(room),
        "lru" => lru(room)?,
        "foyer" => foyer(room),
        "moka sync" => moka_sync(room as u64),
        "moka future" => moka_future(room as u64, runtime),
        "groupcache" => groupcache(runtime),
        _ => bail!("there is no cache {name}"),
    };
    drop(entered);
    Ok(cache)
}

/// A cache with plain calls. The closures capture nothing and are types of their own, so that the loop is one function.
struct Plain<C, P, G, S> {
    name: &'static str,
    cache: C,
    put: P,
    get: G,
    says: S,
}

impl<C, P, G, S> Cache for Plain<C, P, G, S>
where
    C: Send + Sync,
    P: Fn(&C, BoxedKey, Bytes) + Send + Sync,
    G: Fn(&C, &[u8]) -> Option<Bytes> + Send + Sync,
    S: Fn(&C) -> u64 + Send + Sync,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn fill(&self, entries: u32) {
        (0..entries).for_each(|number| (self.put)(&self.cache, key(number).into(), value()));
    }

    fn ask(&self, mut turns: Turns<'_>) -> u64 {
        while let Some(key) = turns.next() {
            black_box((self.get)(&self.cache, key).expect(THERE));
        }
        turns.gets
    }

    fn says(&self) -> (u64, Option<u64>) {
        ((self.says)(&self.cache), None)
    }
}

/// A cache whose gets are futures: one `block_on` around the whole loop, which each writes as its users would (an async
/// closure around each get would be one more future, and its answer be moved once more). It is filled some keys at a
/// time.
struct Awaited<C, P, G, S> {
    name: &'static str,
    cache: C,
    put: P,
    ask: G,
    says: S,
    runtime: Handle,
}

impl<C, P, G, S> Cache for Awaited<C, P, G, S>
where
    C: Send + Sync,
    P: AsyncFn(&C, &[CacheKey]) + Send + Sync,
    G: AsyncFn(&C, &mut Turns<'_>) + Send + Sync,
    S: Fn(&C) -> (u64, Option<u64>) + Send + Sync,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn fill(&self, entries: u32) {
        self.runtime.block_on(async {
            let mut numbers = 0..entries;
            while !numbers.is_empty() {
                let some: Vec<_> = numbers.by_ref().take(1_000).map(key).collect();
                (self.put)(&self.cache, &some).await;
            }
        });
    }

    fn ask(&self, mut turns: Turns<'_>) -> u64 {
        self.runtime.block_on(async {
            (self.ask)(&self.cache, &mut turns).await;
            turns.gets
        })
    }

    fn says(&self) -> (u64, Option<u64>) {
        (self.says)(&self.cache)
    }
}

/// The requests round and round, with a look now and then at whether that was enough.
pub struct Turns<'a> {
    requests: &'a [CacheKey],
    at: usize,
    stop: &'a AtomicBool,
    most: u64,
    next_look: u64,
    gets: u64,
}

impl<'a> Turns<'a> {
    /// From a place on, until told to stop.
    pub fn until(stop: &'a AtomicBool, requests: &'a [CacheKey], from: usize) -> Self {
        Self { requests, at: from, stop, most: u64::MAX, next_look: 0, gets: 0 }
    }

    /// Each of them once.
    pub fn once(requests: &'a [CacheKey]) -> Self {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Self { most: requests.len() as u64, ..Self::until(&NEVER, requests, 0) }
    }

    #[inline]
    fn next(&mut self) -> Option<&'a CacheKey> {
        if self.gets == self.next_look && self.is_over() {
            return None;
        }
        self.gets += 1;
        if self.at >= self.requests.len() {
            self.at = 0;
        }
        self.at += 1;
        Some(black_box(&self.requests[self.at - 1]))
    }

    #[inline]
    fn is_over(&mut self) -> bool {
        self.next_look = self.most.min(self.gets + 256);
        self.gets == self.most || self.stop.load(Ordering::Relaxed)
    }
}

/// The whole library: `Group::get` on one node. Entries live for ever, as those of the others do, or for some time.
fn peerage(name: &'static str, entries: u32, life: Option<Duration>, runtime: &Handle) -> Result<Box<dyn Cache>> {
    let node = peerage::Node::local();
    let load = |keys: Vec<peerage::Key>| {
        let values: Vec<_> = keys.into_iter().map(|key| (key, value())).collect();
        std::future::ready(Ok::<_, Infallible>(values))
    };
    let capacity = (entries as usize * 1_024).max(64 << 20);
    let group = node.group("hits").capacity(capacity);
    let group = if let Some(life) = life { group.time_to_live(life) } else { group };
    let group: peerage::Group<Bytes> = group.batch_loader(1_000, load).build()?;
    Ok(Box::new(Awaited {
        name,
        cache: (group, node),
        put: async |(group, _): &(peerage::Group<Bytes>, _), keys: &[CacheKey]| drop(group.get_many(keys).await),
        ask: async |(group, _): &(peerage::Group<Bytes>, _), turns: &mut Turns<'_>| {
            while let Some(key) = turns.next() {
                black_box(group.get(key).await.expect(THERE));
            }
        },
        says: |(group, _): &(peerage::Group<Bytes>, _)| {
            let usage = group.stats().cache;
            (usage.main_entries, Some(usage.main_bytes))
        },
        runtime: runtime.clone(),
    }))
}

/// The floor: a plain map behind one lock.
fn hash_map() -> Box<dyn Cache> {
    type Map = RwLock<HashMap<BoxedKey, Bytes, Hash>>;
    Box::new(Plain {
        name: "HashMap",
        cache: Map::default(),
        put: |map: &Map, key, value| drop(map.write().unwrap().insert(key, value)),
        get: |map: &Map, key: &[u8]| map.read().unwrap().get(key).cloned(),
        says: |map: &Map| map.read().unwrap().len() as u64,
    })
}

fn quick_cache(room: usize) -> Box<dyn Cache> {
    type Quick = quick_cache::sync::Cache<BoxedKey, Bytes>;
    Box::new(Plain {
        name: "quick_cache",
        cache: Quick::new(room),
        put: |cache: &Quick, key, value| cache.insert(key, value),
        get: |cache: &Quick, key: &[u8]| cache.get(key),
        says: |cache: &Quick| cache.len() as u64,
    })
}

/// The crate lru behind 64 mutexes. A key is hashed twice: for its shard, and in there.
fn lru(room: usize) -> Result<Box<dyn Cache>> {
    const SHARDS: usize = 64;
    type Shard = Mutex<lru::LruCache<BoxedKey, Bytes>>;
    type Sharded = (Vec<Shard>, foldhash::fast::RandomState);
    fn shard<'a>((shards, seed): &'a Sharded, key: &[u8]) -> &'a Shard {
        &shards[usize::try_from(seed.hash_one(key) >> 48).unwrap_or(0) % SHARDS]
    }
    let room = NonZeroUsize::try_from(room.div_ceil(SHARDS) * 2)?;
    let shards = (0..SHARDS).map(|_| {
        // Grows as it is filled; `new` would take the memory for all of its room at once.
        let mut shard = lru::LruCache::unbounded();
        shard.resize(room);
        Mutex::new(shard)
    });
    Ok(Box::new(Plain {
        name: "lru",
        cache: (shards.collect(), foldhash::fast::RandomState::default()),
        put: |sharded: &Sharded, key: BoxedKey, value| {
            drop(shard(sharded, &key).lock().unwrap().put(key, value));
        },
        get: |sharded: &Sharded, key: &[u8]| shard(sharded, key).lock().unwrap().get(key).cloned(),
        says: |(shards, _): &Sharded| shards.iter().map(|shard| shard.lock().unwrap().len() as u64).sum(),
    }))
}

/// foyer's cache in memory, S3-FIFO.
fn foyer(room: usize) -> Box<dyn Cache> {
    type Foyer = foyer_memory::Cache<BoxedKey, Bytes, Hash>;
    let config = foyer_memory::S3FifoConfig::default();
    let builder = foyer_memory::CacheBuilder::new(room).with_hash_builder(Hash::default());
    Box::new(Plain {
        name: "foyer",
        cache: builder.with_eviction_config(config).build(),
        put: |cache: &Foyer, key, value| drop(cache.insert(key, value)),
        get: |cache: &Foyer, key: &[u8]| cache.get(key).map(|entry| entry.value().clone()),
        says: |cache: &Foyer| cache.entries() as u64,
    })
}

fn moka_sync(room: u64) -> Box<dyn Cache> {
    type Moka = moka::sync::Cache<BoxedKey, Bytes, Hash>;
    let builder = moka::sync::Cache::builder().max_capacity(room);
    Box::new(Plain {
        name: "moka sync",
        cache: builder.build_with_hasher(Hash::default()),
        put: |cache: &Moka, key, value| cache.insert(key, value),
        get: |cache: &Moka, key: &[u8]| cache.get(key),
        says: |cache: &Moka| {
            cache.run_pending_tasks();
            cache.entry_count()
        },
    })
}

fn moka_future(room: u64, runtime: &Handle) -> Box<dyn Cache> {
    type Moka = moka::future::Cache<BoxedKey, Bytes, Hash>;
    let builder = moka::future::Cache::builder().max_capacity(room);
    Box::new(Awaited {
        name: "moka future",
        cache: builder.build_with_hasher(Hash::default()),
        put: async |cache: &Moka, keys: &[CacheKey]| {
            for key in keys {
                cache.insert(BoxedKey::from(*key), value()).await;
            }
        },
        ask: async |cache: &Moka, turns: &mut Turns<'_>| {
            while let Some(key) = turns.next() {
                black_box(cache.get(&key[..]).await.expect(THERE));
            }
        },
        says: |cache: &Moka| (cache.entry_count(), None),
        runtime: runtime.clone(),
    })
}

struct Loader;

#[async_trait::async_trait]
impl groupcache::ValueLoader for Loader {
    type Value = Bytes;

    async fn load(&self, _: &str) -> Result<Bytes, Box<dyn Error + Send + Sync>> {
        Ok(value())
    }
}

/// The crate groupcache, whole, alone: every key is its own.
fn groupcache(runtime: &Handle) -> Box<dyn Cache> {
    type Whole = groupcache::Groupcache<Bytes>;
    fn text(key: &CacheKey) -> &str {
        std::str::from_utf8(key).unwrap_or_default()
    }
    let alone = groupcache::GroupcachePeer::from_socket(([127, 0, 0, 1], 1).into());
    Box::new(Awaited {
        name: "groupcache",
        cache: Whole::builder(alone, Loader).build(),
        put: async |cache: &Whole, keys: &[CacheKey]| {
            for key in keys {
                drop(cache.get(text(key)).await);
            }
        },
        ask: async |cache: &Whole, turns: &mut Turns<'_>| {
            while let Some(key) = turns.next() {
                black_box(cache.get(text(key)).await.expect(THERE));
            }
        },
        says: |_: &Whole| (0, None),
        runtime: runtime.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_is_each_of_them_once() {
        let requests: Vec<_> = (0..1_000).map(key).collect();
        let mut turns = Turns::once(&requests);
        let asked: Vec<_> = std::iter::from_fn(|| turns.next().copied()).collect();
        assert_eq!(asked, requests);
        assert_eq!(turns.gets, 1_000);
    }

    #[test]
    fn keys_are_sixteen_bytes_of_text() {
        assert_eq!(&key(0), b"entry-0000000000");
        assert_eq!(&key(1_234_567), b"entry-0001234567");
    }
}
