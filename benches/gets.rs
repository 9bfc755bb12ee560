//! What a get costs: a hit, a miss with a loader that answers at once, a value from another node.
//!
//! `cargo bench --bench gets`. Two nodes of one process talk gRPC over loopback here, and share its cores: a remote get
//! pays for both of its ends.

use std::convert::Infallible;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use futures::FutureExt;
use futures::future::join_all;
use peerage::{Group, Key, Node, Placement};
use tokio::runtime::Runtime;

fn main() {
    divan::main();
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A group whose loader answers at once, with values of this many bytes.
fn group(node: &Node, value: usize) -> Group<Bytes> {
    let value = Bytes::from(vec![7; value]);
    let loader = move |_: Key| std::future::ready(Ok::<_, Infallible>(value.clone()));
    node.group("bench").hot_share(0.0).loader(loader).build().unwrap()
}

/// One hot key, 100 B, asked for by one thread and by two.
#[divan::bench(threads = [1, 2], sample_size = 1000)]
fn hit(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let _inside = runtime.enter();
    let group = group(&Node::local(), 100);
    runtime.block_on(group.get("key")).unwrap();
    bencher.bench(|| group.get(black_box("key")).now_or_never().unwrap().unwrap());
}

/// Sixty thousand keys in turn, 100 B.
#[divan::bench(threads = [1, 2], sample_size = 1000)]
fn hit_of_many_keys(bencher: Bencher<'_, '_>) {
    const KEYS: u64 = 60_000;
    let runtime = runtime();
    let _inside = runtime.enter();
    let group = group(&Node::local(), 100);
    for key in 0..KEYS {
        runtime.block_on(group.get(&key.to_be_bytes())).unwrap();
    }
    let next = AtomicU64::new(0);
    bencher.bench(|| {
        // A stride that is prime to the number of keys: neighbours are far apart.
        let key = next.fetch_add(7_919, Ordering::Relaxed) % KEYS;
        group.get(&key.to_be_bytes()).now_or_never().map(Result::unwrap)
    });
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
