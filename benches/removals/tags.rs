//! A tag that a million keys bear is removed: what it costs in messages, how long it is in the way of a get, and that
//! nothing old is found afterwards.
//!
//! Each node is probed before, while the tag is removed and every key is looked for, and during the sweep that gives the
//! bytes back: hits by a thread of its own, misses by a task. The longest of them are told side by side, since on a
//! machine that does other things too they are mostly theirs.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use peerage::{Group, Key, Loaded, Node};

/// Keys that bear no tag: asked for on each node all the while, and there to stay.
const UNTAGGED: u64 = 1_000;
/// How often a node is probed for a hit, and for a miss.
const HIT_EVERY: Duration = Duration::from_micros(200);
const MISS_EVERY: Duration = Duration::from_millis(1);
/// So many keys of a node are asked for together.
const AT_ONCE: usize = 10_000;
/// No node's get may be held up for longer by a removal.
const LIMIT: Duration = Duration::from_millis(50);

/// What the loaders read: a version that all keys have.
type Source = Arc<AtomicU64>;

struct Cluster {
    nodes: Vec<Node>,
    groups: Vec<Group<Bytes>>,
    source: Source,
    /// The tagged keys, by owner.
    owned: Arc<Vec<Vec<String>>>,
}

/// Removes a tag of so many keys, and prints what came of it. Says whether no get was held up for too long.
pub(crate) async fn remove_tag_of(count: u64, before: Duration, is_swept: bool) -> bool {
    let began = Instant::now();
    let cluster = Cluster::start(count).await;
    println!("a tag of {count} keys on three nodes, loaded in {:.1} s", began.elapsed().as_secs_f64());

    let ((), quiet) = probed(&cluster, tokio::time::sleep(before)).await;
    let ((took, requests), during) = probed(&cluster, cluster.remove_and_look()).await;
    println!("removed everywhere in {:.2} ms, {requests:.1} requests a node", 1e3 * took.as_secs_f64());
    let got = cluster.get_some().await;
    println!("old values afterwards: none in {} looks and {got} gets", 3 * count);
    let sweeping = async {
        if is_swept {
            cluster.until_swept().await;
        }
    };
    let (began, ((), after)) = (Instant::now(), probed(&cluster, sweeping).await);
    println!("all bytes were given back {:.1} s later", began.elapsed().as_secs_f64());
    println!("| the longest get (ms) | before | during the removal and the looks | during the sweep |");
    println!("| --- | --- | --- | --- |");
    let all = [quiet, during, after];
    let row = |what: &str, [quiet, during, after]: [Duration; 3]| {
        let [quiet, during, after] = [quiet, during, after].map(|longest| 1e3 * longest.as_secs_f64());
        println!("| {what} | {quiet:.2} | {during:.2} | {after:.2} |");
    };
    row("a hit", all.map(|longest| longest.hit));
    row("a miss", all.map(|longest| longest.miss));
    println!("of {:?} hits and {:?} misses", all.map(|longest| longest.hits), all.map(|longest| longest.misses));
    let is_kept = [during, after].iter().all(|longest| longest.hit.max(longest.miss) <= LIMIT);
    if !is_kept {
        println!("TOO LONG: {LIMIT:?} is the most that a removal may cost, unless something else ran here");
    }
    is_kept
}

/// Does something while all nodes are probed.
async fn probed<T>(cluster: &Cluster, doing: impl Future<Output = T>) -> (T, Longest) {
    let probes = Probes::start(cluster);
    let done = doing.await;
    (done, probes.end().await)
}

impl Cluster {
    async fn start(count: u64) -> Self {
        let nodes = super::nodes(3).await;
        let source = Source::new(AtomicU64::new(1));
        let group = |node: &Node| {
            let source = Arc::clone(&source);
            let load = move |key: Key| {
                let version = source.load(Ordering::SeqCst);
                let loaded = Loaded::value(Bytes::copy_from_slice(&version.to_be_bytes()));
                let loaded = match key.as_bytes() {
                    key if key.starts_with(b"tagged") => loaded.tag("all"),
                    key if key.starts_with(b"absent") => Loaded::none(),
                    _ => loaded,
                };
                std::future::ready(Ok::<_, Infallible>(loaded))
            };
            let group = node.group("tags").capacity(1 << 30).max_queued_loads(AT_ONCE);
            group.not_found_time_to_live(Duration::ZERO).loader(load).build().expect("a group")
        };
        let groups: Vec<_> = nodes.iter().map(group).collect();
        let placement = nodes[0].placement();
        let mut owned = vec![Vec::new(); nodes.len()];
        for key in (0..count).map(|number| format!("tagged-{number}")) {
            let first = placement.ranked_for(&key).swap_remove(0);
            owned[nodes.iter().position(|node| *node.name() == first).expect("a member")].push(key);
        }
        let cluster = Self { nodes, groups, source, owned: Arc::new(owned) };
        for (group, keys) in cluster.groups.iter().zip(&*cluster.owned) {
            for some in keys.chunks(AT_ONCE) {
                assert!(group.get_many(some).await.iter().all(Result::is_ok), "all are loaded");
            }
        }
        assert_eq!(cluster.held(), count, "all of them are held");
        for group in &cluster.groups {
            // A key of another node is kept as a copy one time in ten: asked for until it is.
            for number in 0..UNTAGGED {
                while group.peek(&untagged(number)).is_none() {
                    group.get(&untagged(number)).await.expect("it is loaded");
                }
            }
        }
        cluster
    }

    /// Requests between the nodes. (Hellos, of which there is one a second at most, are not counted.)
    fn requests(&self) -> u64 {
        self.nodes.iter().flat_map(|node| node.stats().peers).map(|peer| peer.requests).sum()
    }

    /// Entries of keys that the nodes own.
    fn held(&self) -> u64 {
        let held = |group: &Group<Bytes>| group.stats().cache.main_entries;
        self.groups.iter().map(held).sum()
    }

    /// Removes the tag, and looks for every tagged key on every node. Says how long the removal took, and the requests
    /// for each node.
    async fn remove_and_look(&self) -> (Duration, f64) {
        let before = self.requests();
        self.source.fetch_add(1, Ordering::SeqCst);
        let began = Instant::now();
        self.groups[0].remove_tag("all").await.expect("the node runs").everywhere().expect("all are there");
        let took = began.elapsed();
        let requests = (self.requests() - before) as f64 / self.nodes.len() as f64;
        for group in &self.groups {
            let (group, owned) = (group.clone(), Arc::clone(&self.owned));
            // A look waits for nothing, so a million of them are no task.
            let looking = tokio::task::spawn_blocking(move || {
                owned.iter().flatten().all(|key| group.peek(key).is_none_or(|value| is_new(&value)))
            });
            assert!(looking.await.expect("no panic"), "an old value");
        }
        (took, requests)
    }

    /// Asks each node for some tagged keys, its own and those of others.
    async fn get_some(&self) -> usize {
        let asking = self.groups.iter().enumerate().map(async |(node, group)| {
            let some = self.owned.iter().flat_map(|keys| keys.iter().skip(node).step_by(300));
            let values = group.get_many(some).await;
            assert!(values.iter().all(|value| value.as_ref().is_ok_and(is_new)), "an old value, or none");
            values.len()
        });
        join_all(asking).await.into_iter().sum()
    }

    /// Waits until what was removed has given its bytes back: what is left are new values, and keys without a tag.
    async fn until_swept(&self) {
        let began = Instant::now();
        let most = self.owned.iter().map(Vec::len).sum::<usize>() as u64 / 20 + UNTAGGED;
        while self.held() > most {
            assert!(began.elapsed() < Duration::from_secs(60), "{} entries are still held", self.held());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn is_new(value: &Bytes) -> bool {
    **value == 2_u64.to_be_bytes()
}

fn untagged(number: u64) -> String {
    format!("untagged-{number}")
}

/// The longest of each kind, and how many there were.
#[derive(Clone, Copy, Default)]
struct Longest {
    hit: Duration,
    hits: u64,
    miss: Duration,
    misses: u64,
}

/// Who asks each node all the while.
struct Probes {
    is_over: Arc<AtomicBool>,
    hits: Vec<thread::JoinHandle<(Duration, u64)>>,
    misses: Vec<tokio::task::JoinHandle<(Duration, u64)>>,
}

impl Probes {
    fn start(cluster: &Cluster) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (mut hits, mut misses) = (Vec::new(), Vec::new());
        for (group, own) in cluster.groups.iter().zip(&*cluster.owned) {
            let (to_hit, over) = (group.clone(), Arc::clone(&is_over));
            hits.push(thread::spawn(move || probe_hits(&to_hit, &over)));
            // Loaded by the node itself: a shard's lock, a flight, a loader. Nothing is kept.
            let placement = cluster.nodes[0].placement();
            let owner = placement.ranked_for(&own[0]).swap_remove(0);
            let is_own = |key: &String| placement.ranked_for(key)[0] == owner;
            let own = (0..).map(|number| format!("absent-{number}")).filter(is_own).take(1_000).collect();
            misses.push(tokio::spawn(probe_misses(group.clone(), own, Arc::clone(&is_over))));
        }
        Self { is_over, hits, misses }
    }

    async fn end(self) -> Longest {
        self.is_over.store(true, Ordering::Relaxed);
        let mut longest = Longest::default();
        for (longest_of, count) in join_all(self.misses).await.into_iter().map(|probe| probe.expect("no panic")) {
            (longest.miss, longest.misses) = (longest.miss.max(longest_of), longest.misses + count);
        }
        for (longest_of, count) in self.hits.into_iter().map(|probe| probe.join().expect("no panic")) {
            (longest.hit, longest.hits) = (longest.hit.max(longest_of), longest.hits + count);
        }
        longest
    }
}

fn probe_hits(group: &Group<Bytes>, is_over: &AtomicBool) -> (Duration, u64) {
    let keys: Vec<String> = (0..UNTAGGED).map(untagged).collect();
    let (mut longest, mut count) = (Duration::ZERO, 0);
    for key in keys.iter().cycle() {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        group.get(key).now_or_never().expect("a hit is ready at once").expect("it is there");
        (longest, count) = (longest.max(began.elapsed()), count + 1);
        thread::sleep(HIT_EVERY);
    }
    (longest, count)
}

async fn probe_misses(group: Group<Bytes>, keys: Vec<String>, is_over: Arc<AtomicBool>) -> (Duration, u64) {
    let (mut longest, mut count) = (Duration::ZERO, 0);
    for key in keys.iter().cycle() {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        assert!(group.get_opt(key).await.expect("the loader says so").is_none());
        (longest, count) = (longest.max(began.elapsed()), count + 1);
        tokio::time::sleep(MISS_EVERY).await;
    }
    (longest, count)
}
