//! The caches that are compared, each behind the same face.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use foyer_memory::{Cache as Foyer, CacheBuilder, EvictionConfig, LfuConfig, LruConfig, S3FifoConfig};
use lru::LruCache;
use peerage::{Codec, CodecError, GetOptions, Group, Key, Node, Source};
use tokio::runtime::Runtime;

use super::{Cache, Request};

/// How much a cache may hold.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// The sum of the sizes.
    pub size: usize,
    /// About how many entries that is.
    pub entries: usize,
}

/// How a cache is made.
pub type Make = fn(Room) -> Box<dyn Cache>;

/// All of them, by name.
#[expect(clippy::default_trait_access, reason = "foyer does not export the type of Sieve's options")]
pub const ALL: [(&str, Make); 8] = [
    ("peerage", |room| Box::new(Peerage::new(room))),
    ("moka", |room| Box::new(Moka::new(room))),
    ("quick_cache", |room| Box::new(Quick::new(room))),
    ("foyer s3fifo", |room| Box::new(FoyerOf::new(room, S3FifoConfig::default()))),
    ("foyer lfu", |room| Box::new(FoyerOf::new(room, LfuConfig::default()))),
    ("foyer lru", |room| Box::new(FoyerOf::new(room, LruConfig::default()))),
    ("foyer sieve", |room| Box::new(FoyerOf::new(room, EvictionConfig::Sieve(Default::default())))),
    ("lru", |room| Box::new(Plain::new(room))),
];

/// Plain LRU, by the crate `lru`.
struct Plain {
    entries: LruCache<u32, u32>,
    held: usize,
    room: usize,
}

impl Plain {
    fn new(room: Room) -> Self {
        Self { entries: LruCache::unbounded(), held: 0, room: room.size }
    }
}

impl Cache for Plain {
    fn request(&mut self, Request { key, size }: Request) -> bool {
        if self.entries.get(&key).is_some() {
            return true;
        }
        self.entries.put(key, size);
        self.held += size as usize;
        while self.held > self.room {
            let Some((_, size)) = self.entries.pop_lru() else { break };
            self.held -= size as usize;
        }
        false
    }
}

/// `moka::sync`: W-TinyLFU.
struct Moka(moka::sync::Cache<u32, u32>);

impl Moka {
    fn new(room: Room) -> Self {
        Self(moka::sync::Cache::builder().max_capacity(room.size as u64).weigher(|_, size| *size).build())
    }
}

impl Cache for Moka {
    fn request(&mut self, Request { key, size }: Request) -> bool {
        let hit = self.0.get(&key).is_some();
        if !hit {
            self.0.insert(key, size);
            // What it puts off for later is done now, or it would hold more than it may.
            self.0.run_pending_tasks();
        }
        hit
    }
}

/// Entries weigh what their values do.
#[derive(Clone)]
struct BySize;

impl quick_cache::Weighter<u32, u32> for BySize {
    fn weight(&self, _: &u32, size: &u32) -> u64 {
        u64::from(*size)
    }
}

/// `quick_cache`: a modified CLOCK-Pro.
struct Quick(quick_cache::sync::Cache<u32, u32, BySize>);

impl Quick {
    fn new(room: Room) -> Self {
        Self(quick_cache::sync::Cache::with_weighter(room.entries, room.size as u64, BySize))
    }
}

impl Cache for Quick {
    fn request(&mut self, Request { key, size }: Request) -> bool {
        let hit = self.0.get(&key).is_some();
        if !hit {
            self.0.insert(key, size);
        }
        hit
    }
}

/// `foyer-memory`, which has several policies.
struct FoyerOf(Foyer<u32, u32>);

impl FoyerOf {
    fn new(room: Room, policy: impl Into<EvictionConfig>) -> Self {
        let cache = CacheBuilder::new(room.size).with_shards(1).with_eviction_config(policy);
        Self(cache.with_weighter(|_, size: &u32| *size as usize).build())
    }
}

impl Cache for FoyerOf {
    fn request(&mut self, Request { key, size }: Request) -> bool {
        let hit = self.0.get(&key).is_some();
        if !hit {
            self.0.insert(key, size);
        }
        hit
    }
}

/// A group of a node alone.
struct Peerage {
    runtime: Runtime,
    group: Group<Weight>,
    /// What the next value to be loaded weighs.
    next: Arc<AtomicU32>,
    _node: Node,
}

/// A value that is nothing but its size. The codec says that it weighs that much.
#[derive(Clone)]
struct Weight;

struct BySizeOf(Arc<AtomicU32>);

impl Codec<Weight> for BySizeOf {
    fn encode(&self, _: &Weight) -> Result<Bytes, CodecError> {
        Ok(Bytes::new())
    }

    fn decode(&self, _: Bytes) -> Result<Weight, CodecError> {
        Ok(Weight)
    }

    fn weight(&self, _: &Weight, _: usize) -> usize {
        self.0.load(Ordering::Relaxed) as usize
    }
}

impl Peerage {
    /// As much capacity as the entries of the others take, and the bookkeeping of all of them, as the group itself
    /// counts it: the others are not asked to count theirs.
    fn new(room: Room) -> Self {
        let mut probe = Self::with_capacity(1 << 20);
        probe.request(Request { key: 0, size: 0 });
        let bookkeeping = usize::try_from(probe.group.stats().cache.main_bytes).expect("an entry is small");
        Self::with_capacity(room.size + room.entries * bookkeeping)
    }

    fn with_capacity(bytes: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let node = Node::local();
        let next = Arc::new(AtomicU32::new(0));
        let loader = |_: Key| async { Ok::<_, Infallible>(Weight) };
        let group = node.group("ratios").capacity(bytes).codec(BySizeOf(Arc::clone(&next)));
        let group = group.loader(loader).build().expect("a group of its own");
        Self { runtime, group, next, _node: node }
    }
}

impl Cache for Peerage {
    fn request(&mut self, Request { key, size }: Request) -> bool {
        self.next.store(size, Ordering::Relaxed);
        let key = key.to_le_bytes();
        let get = self.group.get_with(&key, GetOptions::new());
        *self.runtime.block_on(get).expect("the loader never fails").source() != Source::Loader
    }
}
