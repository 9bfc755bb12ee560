//! What a get costs: a hit, a miss with a loader that answers at once, a value from another node.
//!
//! `cargo bench --bench gets`. Two nodes of one process talk gRPC over loopback here, and share its cores: a remote get
//! pays for both of its ends.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Ready;
use std::hint::black_box;
use std::pin::pin;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use futures::FutureExt;
use futures::future::join_all;
use peerage::{Error, GetOptions, Group, Key, Node, Placement};
use tokio::runtime::Runtime;

fn main() {
    divan::main();
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A group whose loader answers at once, with values of this many bytes.
fn group(node: &Node, value: usize) -> Group<Bytes> {
    node.group("bench").hot_share(0.0).loader(load(value)).build().unwrap()
}

fn load(value: usize) -> impl Fn(Key) -> Ready<Result<Bytes, Infallible>> {
    move |_| std::future::ready(Ok(Bytes::from(vec![7; value])))
}

/// The value of a get that is a hit.
fn ready<T>(get: impl Future<Output = Result<T, Error>>) -> T {
    match pin!(get).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer.unwrap(),
        Poll::Pending => panic!("a hit resolves at the first poll"),
    }
}

/// One hot key, 100 B, asked for by one thread, by two, by eight.
#[divan::bench(threads = [1, 2, 8], sample_size = 1000)]
fn hit(bencher: Bencher<'_, '_>) {
    hit_of(bencher, None, |group, key| ready(group.get(key)));
}

/// The same of a value whose life has an end.
#[divan::bench(threads = [1, 2, 8], sample_size = 1000)]
fn hit_with_a_life(bencher: Bencher<'_, '_>) {
    hit_of(bencher, Some(Duration::from_secs(3600)), |group, key| ready(group.get(key)));
}

#[divan::bench(sample_size = 1000)]
fn hit_opt(bencher: Bencher<'_, '_>) {
    hit_of(bencher, None, |group, key| ready(group.get_opt(key)));
}

#[divan::bench(sample_size = 1000)]
fn hit_with(bencher: Bencher<'_, '_>) {
    hit_of(bencher, None, |group, key| ready(group.get_with(key, GetOptions::new())));
}

#[divan::bench(sample_size = 1000)]
fn peek(bencher: Bencher<'_, '_>) {
    hit_of(bencher, None, Group::peek);
}

fn hit_of<T>(bencher: Bencher<'_, '_>, life: Option<Duration>, get: impl Fn(&Group<Bytes>, &str) -> T + Sync) {
    let runtime = runtime();
    let _inside = runtime.enter();
    let node = Node::local();
    let builder = node.group("bench").loader(load(100));
    let builder = if let Some(life) = life { builder.time_to_live(life) } else { builder };
    let group: Group<Bytes> = builder.build().unwrap();
    runtime.block_on(group.get("key")).unwrap();
    bencher.bench(|| get(&group, black_box("key")));
}

/// A hundred keys, of 100 B each, in one `get_many`.
#[divan::bench(sample_size = 100)]
fn hit_many(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let _inside = runtime.enter();
    let group = group(&Node::local(), 100);
    let keys: Vec<String> = (0..100).map(|number| format!("key {number}")).collect();
    runtime.block_on(group.get_many(&keys));
    bencher.counter(ItemsCount::new(keys.len())).bench(|| group.get_many(&keys).now_or_never());
}

/// A million keys of 100 B, some of them popular (Zipf 0.99): memory itself sets the pace.
#[divan::bench(threads = [1, 2, 8], sample_size = 1000)]
fn hit_of_a_million(bencher: Bencher<'_, '_>) {
    static MILLION: LazyLock<Million> = LazyLock::new(Million::new);
    thread_local! {
        static TURN: Cell<usize> = Cell::new(fastrand::usize(..Million::ASKED));
    }
    let million = &*MILLION;
    bencher.bench(|| {
        let turn = TURN.get();
        TURN.set(turn + 1);
        ready(million.group.get(&million.asked[turn % Million::ASKED]))
    });
}

struct Million {
    group: Group<Bytes>,
    /// Which keys are asked for, one after the other.
    asked: Vec<[u8; 16]>,
    _runtime: Runtime,
}

impl Million {
    const KEYS: usize = 1_000_000;
    const ASKED: usize = 1 << 20;
    const SKEW: f64 = 0.99;

    fn new() -> Self {
        let runtime = runtime();
        let _inside = runtime.enter();
        let group = Node::local().group("bench").capacity(1 << 30).loader(load(100)).build().unwrap();
        let mut keys: Vec<[u8; 16]> = (0..Self::KEYS as u128).map(u128::to_be_bytes).collect();
        for keys in keys.chunks(1_000) {
            runtime.block_on(group.get_many(keys));
        }
        let mut random = fastrand::Rng::with_seed(7);
        // The popular ones are not those that came first.
        random.shuffle(&mut keys);
        let sums = (1..=Self::KEYS).scan(0.0, |sum, rank| {
            *sum += (rank as f64).powf(-Self::SKEW);
            Some(*sum)
        });
        let sums: Vec<f64> = sums.collect();
        let asked = (0..Self::ASKED).map(|_| {
            let lot = random.f64() * sums[Self::KEYS - 1];
            keys[sums.partition_point(|sum| *sum < lot)]
        });
        let asked = asked.collect();
        Self { group, asked, _runtime: runtime }
    }
}

/// A new key each time, and a loader that answers at once: the flight, its task, and the way back. On two threads, most
/// of it is the kernel waking them.
#[divan::bench(args = ["one thread", "two threads"], sample_size = 100)]
fn miss(bencher: Bencher<'_, '_>, threads: &str) {
    let one = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let runtime = if threads == "one thread" { one() } else { runtime() };
    let _inside = runtime.enter();
    let group = group(&Node::local(), 100);
    let next = AtomicU64::new(0);
    bencher.bench(|| {
        let key = next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        runtime.block_on(group.get(&key)).unwrap()
    });
}

/// Two nodes, and a key that the second owns and has.
struct Pair {
    asking: Group<Bytes>,
    keys: Vec<String>,
    _nodes: [Node; 2],
    _owning: Group<Bytes>,
}

impl Pair {
    async fn start(value: usize, keys: usize) -> Self {
        let [one, two] = [(), ()].map(|()| async { Node::builder("127.0.0.1:0").alone().start().await.unwrap() });
        let nodes = [one.await, two.await];
        let [asking, owning] = nodes.each_ref().map(|node| group(node, value));
        let addresses = nodes.each_ref().map(Node::address);
        for node in &nodes {
            node.set_peers(addresses).await.unwrap();
        }
        let placement = nodes[0].placement();
        let owned = (0..).map(|n| format!("key {n}")).filter(|key| placement.owner_of(key) == nodes[1].name());
        let keys: Vec<_> = owned.take(keys).collect();
        for key in &keys {
            asking.get(key).await.unwrap();
        }
        Self { asking, keys, _nodes: nodes, _owning: owning }
    }
}

/// One at a time, by size of the value.
#[divan::bench(args = [100, 1 << 10, 16 << 10, 1 << 20])]
fn remote(bencher: Bencher<'_, '_>, value: usize) {
    let runtime = runtime();
    let pair = runtime.block_on(Pair::start(value, 1));
    bencher.bench(|| runtime.block_on(pair.asking.get(&pair.keys[0])).unwrap());
}

/// So many keys of 1 KiB at once, each in a get of its own.
#[divan::bench(args = [16, 64, 256])]
fn remote_at_once(bencher: Bencher<'_, '_>, count: usize) {
    let runtime = runtime();
    let pair = runtime.block_on(Pair::start(1 << 10, count));
    bencher.counter(ItemsCount::new(count)).bench(|| {
        let gets = pair.keys.iter().map(|key| pair.asking.get(key));
        runtime.block_on(join_all(gets))
    });
}

/// The same in one `get_many`.
#[divan::bench(args = [16, 64, 256])]
fn remote_many(bencher: Bencher<'_, '_>, count: usize) {
    let runtime = runtime();
    let pair = runtime.block_on(Pair::start(1 << 10, count));
    bencher.counter(ItemsCount::new(count)).bench(|| runtime.block_on(pair.asking.get_many(&pair.keys)));
}

/// The table for so many nodes; built aside when the membership changes.
#[divan::bench(args = [3, 10, 100])]
fn placement(bencher: Bencher<'_, '_>, nodes: usize) {
    let members: Vec<_> = (0..nodes).map(|node| format!("10.0.0.{node}:7400")).collect();
    bencher.bench(|| Placement::of(&members).unwrap());
}

/// The owner of a key, its hash included.
#[divan::bench]
fn owner(bencher: Bencher<'_, '_>) {
    let members: Vec<_> = (0..100).map(|node| format!("10.0.0.{node}:7400")).collect();
    let placement = Placement::of(&members).unwrap();
    bencher.bench(|| placement.owner_of(black_box("user:42")).as_str().len());
}
