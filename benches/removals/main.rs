//! What removals cost: one, on a cluster that is idle; a thousand a second, to those who read meanwhile; that of a tag
//! which a million keys bear.
//!
//! `cargo bench --bench removals`. The nodes of one process talk gRPC over loopback here, and share its cores: all ends
//! are paid for. What is compared is measured by turns, in one run, and told as a median of the ratios. The whole run
//! fails if a removal held up a get for too long.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the time")]

mod tags;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use peerage::{Group, Key, Node, Told};

/// Keys that are read; others are removed, as many again.
const KEYS: u64 = 10_000;
/// Who reads, on each node.
const READERS: u64 = 4;
const A_SECOND: u64 = 1_000;

struct Options {
    rounds: usize,
    round: Duration,
    /// Keys that bear the tag.
    tagged: u64,
    is_whole: bool,
}

impl Options {
    /// `--test`, which cargo knows, is a moment of everything.
    fn parse() -> Self {
        if std::env::args().any(|argument| argument == "--test") {
            Self { rounds: 1, round: Duration::from_millis(50), tagged: 10_000, is_whole: false }
        } else {
            Self { rounds: 9, round: Duration::from_millis(700), tagged: 1_000_000, is_whole: true }
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    println!("| nodes | a removal, everywhere (µs) | a second, one after the other | with 64 under way |");
    println!("| --- | --- | --- | --- |");
    for nodes in [1, 3, 5, 10] {
        let groups = cluster(nodes).await;
        let alone = per_second(&groups[0], 1, &options).await;
        let many = per_second(&groups[0], 64, &options).await;
        println!("| {nodes} | {:.0} | {alone:.0} | {many:.0} |", 1e6 / alone);
    }
    println!();
    println!(
        "reads a second on three nodes, with {A_SECOND} removals a second for without: medians of the rounds' ratios"
    );
    let groups = cluster(3).await;
    for (what, of_readers) in [("of other keys", KEYS), ("of the keys that are read", 0)] {
        let (ratio, removed) = reads_beside_removals(&groups, of_readers, &options).await;
        println!("removals {what}: {ratio:.2} ({removed:.0} removals a second)");
    }
    drop(groups);
    println!();
    println!("a removal on two nodes while a third is away (µs), by the tombstones that are kept for that one");
    for tombstones in [100, 10_000, 50_000] {
        println!("{tombstones}: {:.0}", while_one_is_away(tombstones, &options).await);
    }
    println!();
    let is_quick = tags::remove_tag_of(options.tagged, options.round * 7, options.is_whole).await;
    // A moment of everything is there to see that it runs, on a machine that may be busy with other things.
    if is_quick || !options.is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Nodes that list each other.
async fn nodes(count: usize) -> Vec<Node> {
    let starting = (0..count).map(|_| Node::builder("127.0.0.1:0").alone().start());
    let nodes: Vec<Node> = join_all(starting).await.into_iter().map(|node| node.expect("loopback")).collect();
    let addresses: Vec<String> = nodes.iter().map(|node| node.address().to_owned()).collect();
    join_all(nodes.iter().map(|node| node.set_peers(&addresses))).await;
    nodes
}

async fn cluster(count: usize) -> Vec<Group<Bytes>> {
    let groups: Vec<_> = nodes(count).await.iter().map(bench_group).collect();
    // Whoever is asked has been met.
    for group in &groups {
        join_all((0..200).map(|number| async move { group.get(&key(number)).await.expect("it is loaded") })).await;
    }
    groups
}

fn bench_group(node: &Node) -> Group<Bytes> {
    let load = |_: Key| std::future::ready(Ok::<_, std::convert::Infallible>(Bytes::from(vec![7; 1024])));
    node.group("bench").loader(load).build().expect("a group")
}

fn key(number: u64) -> String {
    format!("key-{number}")
}

async fn per_second(group: &Group<Bytes>, under_way: u64, options: &Options) -> f64 {
    let (began, count) = (Instant::now(), AtomicU64::new(0));
    let count = &count;
    let remover = |number: u64| async move {
        while began.elapsed() < options.round {
            let count = count.fetch_add(1, Ordering::Relaxed);
            let receipt = group.remove(&key(KEYS + number * KEYS + count % KEYS)).await.expect("the node runs");
            receipt.everywhere().expect("all are there");
        }
    };
    join_all((0..under_way).map(remover)).await;
    count.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}

/// How long a removal takes while a node that is listed is never there, and so many removals wait for it already.
async fn while_one_is_away(tombstones: u64, options: &Options) -> f64 {
    let nodes = nodes(2).await;
    let away = "127.0.0.1:9";
    let addresses: Vec<&str> = nodes.iter().map(Node::address).chain([away]).collect();
    join_all(nodes.iter().map(|node| node.set_peers(&addresses))).await;
    let groups: Vec<_> = nodes.iter().map(bench_group).collect();
    // In parts: more of them at once would be one removal of the whole group.
    for number in 0..tombstones / 100 {
        let keys: Vec<String> = (number * 100..(number + 1) * 100).map(key).collect();
        drop(groups[0].remove_many(&keys).await.expect("the node runs"));
    }
    assert!(nodes[0].stats().tombstones >= tombstones, "they wait for the one that is away");
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < options.round {
        let receipt = groups[0].remove(&key(tombstones + count)).await.expect("the node runs");
        let pending = receipt.nodes().filter(|(_, told)| matches!(told, Told::Pending { .. })).count();
        assert_eq!(pending, 1, "the other one is there");
        count += 1;
    }
    began.elapsed().as_secs_f64() * 1e6 / count as f64
}

/// Reads with removals, over reads without; and how many removals there were in a second.
async fn reads_beside_removals(groups: &[Group<Bytes>], first: u64, options: &Options) -> (f64, f64) {
    let (mut ratios, mut removed) = (Vec::new(), Vec::new());
    // The first fills the caches. After that each kind goes first every other time.
    round(groups, None, options).await;
    for at in 0..options.rounds {
        let mut without = 0.0;
        if at.is_multiple_of(2) {
            (without, _) = round(groups, None, options).await;
        }
        let (with, count) = round(groups, Some(first), options).await;
        if !at.is_multiple_of(2) {
            (without, _) = round(groups, None, options).await;
        }
        ratios.push(with / without);
        removed.push(count);
    }
    (median(&mut ratios), median(&mut removed))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Reads and removals a second.
async fn round(groups: &[Group<Bytes>], removals_from: Option<u64>, options: &Options) -> (f64, f64) {
    let (reads, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let readers = groups.iter().enumerate().flat_map(|(node, group)| {
        let (reads, is_over) = (&reads, &is_over);
        (0..READERS).map(move |reader| {
            let (group, reads, is_over) = (group.clone(), Arc::clone(reads), Arc::clone(is_over));
            tokio::spawn(async move {
                let mut number = (node as u64 * READERS + reader) * 977;
                while !is_over.load(Ordering::Relaxed) {
                    number = (number + 7919) % KEYS;
                    group.get(&key(number)).await.expect("all are there");
                    reads.fetch_add(1, Ordering::Relaxed);
                    // A hit yields to nobody.
                    if number.is_multiple_of(64) {
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
    });
    let readers: Vec<_> = readers.collect();
    let began = Instant::now();
    let mut removals = 0;
    let mut removers = groups.iter().cycle();
    match removals_from {
        None => tokio::time::sleep(options.round).await,
        Some(first) => {
            let mut due = tokio::time::interval(Duration::from_millis(1_000 / (A_SECOND / 10)));
            let mut waiting = Vec::new();
            while began.elapsed() < options.round {
                due.tick().await;
                for _ in 0..10 {
                    let group = removers.next().expect("there is one").clone();
                    let number = first + removals % KEYS;
                    waiting.push(tokio::spawn(async move {
                        let receipt = group.remove(&key(number)).await.expect("the node runs");
                        receipt.settled(Duration::from_secs(30)).await.everywhere().expect("all are there");
                    }));
                    removals += 1;
                }
            }
            for removal in waiting {
                removal.await.expect("no panic");
            }
        }
    }
    let took = began.elapsed().as_secs_f64();
    is_over.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.expect("no panic");
    }
    (reads.load(Ordering::Relaxed) as f64 / took, removals as f64 / took)
}
