//! One flight per key: however many ask, whatever becomes of them, and whatever the loader does, the loader runs as
//! often as it must and no more, everybody gets an answer within the limits, and nothing is left behind.

#![cfg(feature = "test-util")]

#[path = "support/counting.rs"]
mod counting;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use counting::{Cluster, Runs, is_idle, now, until};
use fastrand::Rng;
use futures::FutureExt;
use futures::future::join_all;
use peerage::{
    BoxError, Codec, CodecError, Error, GetOptions, Group, GroupBuilder, Key, LoadError, MemoryNetwork, Node, OneByOne,
    PeerState, Raw, WeakGroup,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

type Answer = Result<String, Error>;

/// A get in a task of its own.
fn ask(group: &Group<String>, key: &str) -> JoinHandle<Answer> {
    let (group, key) = (group.clone(), key.to_string());
    tokio::spawn(async move { group.get(&key).await })
}

/// So many gets of a key on each node, all at once.
fn ask_everywhere(cluster: &Cluster<String>, key: &str, count: usize) -> Vec<JoinHandle<Answer>> {
    cluster.groups.iter().flat_map(|group| (0..count).map(|_| ask(group, key))).collect()
}

async fn answers(asked: Vec<JoinHandle<Answer>>) -> Vec<Answer> {
    join_all(asked).await.into_iter().map(Result::unwrap).collect()
}

/// Three nodes whose loaders wait for so long and then do what they are told.
async fn cluster_that(
    runs: &Runs,
    load_time: Duration,
    outcome: impl Fn(usize, &Key) -> Result<String, BoxError> + Clone + Send + Sync + 'static,
) -> Cluster<String> {
    Cluster::start(3, |index, node| {
        let (runs, outcome) = (runs.clone(), outcome.clone());
        let loader = move |key: Key| {
            let (running, outcome) = (runs.begin(index, [key.clone()]), outcome.clone());
            async move {
                let _running = running;
                sleep(load_time).await;
                outcome(index, &key)
            }
        };
        node.group("g").loader(loader).build().unwrap()
    })
    .await
}

fn value_of(key: &Key) -> String {
    format!("value of {key}")
}

/// A group whose loader waits for so long.
fn slow<'a>(
    runs: &Runs,
    node: &'a Node,
    load_time: Duration,
) -> GroupBuilder<Raw, OneByOne<impl peerage::Loader<String> + use<'a>>> {
    let runs = runs.clone();
    node.group("g").loader(move |key: Key| {
        let running = runs.begin(0, [key.clone()]);
        async move {
            let _running = running;
            sleep(load_time).await;
            Ok::<_, BoxError>(value_of(&key))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn three_hundred_who_ask_at_once_on_three_nodes_share_one_load_on_the_owner() {
    let runs = Runs::default();
    let cluster = cluster_that(&runs, 200 * MS, |node, key| Ok(format!("{key} from {node}"))).await;
    let start = now();
    for owner in 0..3 {
        let key = cluster.key_of(owner, 0);
        let answers = answers(ask_everywhere(&cluster, &key, 100)).await;
        assert_eq!(answers.len(), 300);
        assert!(answers.iter().all(|answer| answer.as_ref().unwrap() == &format!("{key} from {owner}")));
        assert_eq!((runs.on(owner), runs.total()), (1, owner + 1), "one load, on the owner");
    }
    assert_eq!(now() - start, 600 * MS, "each took one load's time");
    for group in &cluster.groups {
        let gets = group.stats().gets;
        assert_eq!((gets.total(), gets.joined, gets.loaded, gets.fetched), (300, 297, 100, 200));
    }
    cluster.idle().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_thousand_keys_asked_for_by_eight_threads_on_three_nodes_are_loaded_once_each() {
    const KEYS: usize = 1000;
    const TASKS: usize = 4;
    let runs = Runs::default();
    let cluster = Cluster::start(3, |index, node| {
        let runs = runs.clone();
        let loader = move |key: Key| {
            let running = runs.begin(index, [key.clone()]);
            async move {
                let _running = running;
                match key.len() % 3 {
                    0 => {}
                    1 => tokio::task::yield_now().await,
                    _ => sleep(u32::from(key[key.len() - 1] % 3) * MS).await,
                }
                Ok::<_, BoxError>(format!("{key} from {index}"))
            }
        };
        node.group("g").loader(loader).build::<String>().unwrap()
    })
    .await;
    let mut tasks = Vec::new();
    for (seed, group) in cluster
        .groups
        .iter()
        .enumerate()
        .flat_map(|(node, group)| (0..TASKS).map(move |task| (node * TASKS + task, group.clone())))
    {
        tasks.push(tokio::spawn(async move {
            let mut keys: Vec<usize> = (0..KEYS).collect();
            // Half of the tasks go the same way, so that they meet at every key; the others meet them anywhere.
            if seed % 2 == 0 {
                Rng::with_seed(seed as u64).shuffle(&mut keys);
            }
            let mut answers = Vec::new();
            for chunk in keys.chunks(20) {
                let asked =
                    chunk.iter().map(async |number| (*number, group.get(&format!("key-{number}")).await.unwrap()));
                answers.extend(join_all(asked).await);
            }
            answers
        }));
    }
    for answers in join_all(tasks).await {
        for (number, answer) in answers.unwrap() {
            let key = format!("key-{number}");
            assert_eq!(answer, format!("{key} from {}", cluster.owner_of(key.as_bytes())));
        }
    }
    assert_eq!(runs.total(), KEYS, "loads are the distinct keys");
    for group in &cluster.groups {
        assert_eq!(group.stats().gets.total(), (KEYS * TASKS) as u64);
    }
    cluster.idle().await;
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_first_caller_that_gives_up_strands_nobody() {
    let runs = Runs::default();
    let cluster = cluster_that(&runs, 100 * MS, |_, key| Ok(value_of(key))).await;
    for (number, first) in cluster.groups.iter().enumerate() {
        let key = cluster.key_of(0, number);
        let first = ask(first, &key);
        until("the load has begun", || runs.total() == number + 1).await;
        let others = ask_everywhere(&cluster, &key, 10);
        tokio::task::yield_now().await;
        first.abort();
        assert!(answers(others).await.into_iter().all(|answer| answer.unwrap() == format!("value of {key}")));
        assert_eq!(runs.total(), number + 1);
    }
    let abandoned: Vec<u64> = cluster.groups.iter().map(|group| group.stats().gets.abandoned).collect();
    assert_eq!(abandoned, [1, 1, 1]);
    cluster.idle().await;
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_load_of_a_lone_caller_that_gives_up_fills_the_cache() {
    let runs = Runs::default();
    let cluster = cluster_that(&runs, 100 * MS, |_, key| Ok(value_of(key))).await;
    for (number, asker) in cluster.groups.iter().enumerate() {
        let key = cluster.key_of(0, number);
        let lone = ask(asker, &key);
        until("the load has begun", || runs.total() == number + 1).await;
        lone.abort();
        cluster.idle().await;
        assert_eq!(cluster.groups[0].peek(&key), Some(format!("value of {key}")), "it is there without a caller");
        asker.get(&key).await.unwrap();
        assert_eq!(runs.total(), number + 1, "and is not loaded again");
    }
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_reaches_everybody_with_its_code_and_its_message_and_is_not_kept() {
    let runs = Runs::default();
    let fail = |_, _: &Key| Err(LoadError::new("no such table").with_code(7).into());
    let cluster = cluster_that(&runs, 100 * MS, fail).await;
    let key = cluster.key_of(1, 0);
    for round in 1..=2 {
        let answers = answers(ask_everywhere(&cluster, &key, 10)).await;
        assert_eq!(answers.len(), 30);
        for answer in answers {
            let Err(Error::Load(error)) = answer else { panic!("a failure, not {answer:?}") };
            assert_eq!((error.code(), error.message()), (7, "no such table"));
        }
        assert_eq!((runs.on(1), runs.total()), (round, round), "the owner ran it, and nobody ran it again");
    }
    for group in &cluster.groups {
        assert_eq!((group.stats().gets.failed_load, group.stats().gets.total()), (20, 20));
    }
    assert_eq!(cluster.groups[1].stats().loads.failed, 2);
    cluster.idle().await;
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn any_error_of_a_loader_keeps_its_source_on_the_node_where_it_ran() {
    let runs = Runs::default();
    let cluster = cluster_that(&runs, MS, |_, _| Err(std::io::Error::other("disk on fire").into())).await;
    let key = cluster.key_of(0, 0);
    for (index, group) in cluster.groups.iter().enumerate() {
        let Err(Error::Load(error)) = group.get(&key).await else { panic!("a failure") };
        assert_eq!((error.code(), error.message()), (0, "disk on fire"));
        assert_eq!(std::error::Error::source(&error).is_some(), index == 0);
    }
    cluster.end().await;
}

/// An error that cannot be printed.
#[derive(Debug)]
struct Unprintable;

impl std::fmt::Display for Unprintable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("this error has no words")
    }
}

impl std::error::Error for Unprintable {}

#[tokio::test(start_paused = true)]
async fn a_loader_that_panics_fails_its_waiters_and_nothing_else() {
    for (case, words) in [("call", "at once"), ("poll", "half-way"), ("print", "no words")] {
        let runs = Runs::default();
        let cluster = Cluster::start(3, |index, node| {
            let runs = runs.clone();
            let loader = move |key: Key| {
                let running = runs.begin(index, [key.clone()]);
                assert!(case != "call" || key.ends_with(b"fine"), "at once");
                async move {
                    let _running = running;
                    sleep(100 * MS).await;
                    if key.ends_with(b"fine") {
                        return Ok(value_of(&key));
                    }
                    assert!(case != "poll", "half-way");
                    Err(BoxError::from(Unprintable))
                }
            };
            node.group("g").max_concurrent_loads(1).loader(loader).build::<String>().unwrap()
        })
        .await;
        let key = cluster.key_of(2, 0);
        let fine =
            (0..1000).map(|number| format!("{number} fine")).find(|key| cluster.owner_of(key.as_bytes()) == 2).unwrap();
        for round in 1..=2 {
            let failing = ask_everywhere(&cluster, &key, 10);
            tokio::task::yield_now().await;
            let queued = ask_everywhere(&cluster, &fine, 1);
            for answer in answers(failing).await {
                let Err(Error::Load(error)) = answer else { panic!("{case}: a failure, not {answer:?}") };
                assert!(error.message().contains("panicked") && error.message().contains(words), "{case}: {error}");
            }
            assert!(answers(queued).await.iter().all(Result::is_ok), "{case}: what waited in line is loaded");
            assert_eq!(runs.total(), round + 1, "{case}");
        }
        assert_eq!(runs.on(2), 3, "{case}");
        cluster.idle().await;
        cluster.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_future_that_panics_when_it_is_dropped_fails_its_waiters_and_nothing_else() {
    struct Grenade(bool);
    impl Drop for Grenade {
        fn drop(&mut self) {
            assert!(!self.0, "dropped");
        }
    }
    let node = Node::local();
    let loader = async |key: Key| {
        let _grenade = Grenade(&key[..] == b"bad");
        sleep(if &key[..] == b"bad" { 60 * SECOND } else { SECOND }).await;
        Ok::<_, BoxError>(value_of(&key))
    };
    let group: Group<String> =
        node.group("g").max_concurrent_loads(1).load_queue_timeout(60 * SECOND).loader(loader).build().unwrap();
    let (bad, good) = (ask(&group, "bad"), ask(&group, "good"));
    let bad = bad.await.unwrap();
    assert!(matches!(bad, Err(Error::Load(_) | Error::LoadTimeout { .. })), "{bad:?}");
    assert_eq!(good.await.unwrap().unwrap(), "value of good", "what waited in line is loaded");
    assert!(is_idle(&group.stats()));
}

#[tokio::test(start_paused = true)]
async fn a_load_that_never_ends_ends_with_its_limit_for_everybody() {
    let runs = Runs::default();
    let cluster = Cluster::start(3, |index, node| {
        let runs = runs.clone();
        let loader = move |key: Key| {
            let running = runs.begin(index, [key]);
            async move {
                let _running = running;
                std::future::pending::<Result<String, BoxError>>().await
            }
        };
        node.group("g").load_timeout(2 * SECOND).loader(loader).build::<String>().unwrap()
    })
    .await;
    let key = cluster.key_of(1, 0);
    let start = now();
    for answer in answers(ask_everywhere(&cluster, &key, 10)).await {
        assert!(matches!(answer, Err(Error::LoadTimeout { limit }) if limit == 2 * SECOND), "{answer:?}");
    }
    assert_eq!(now() - start, 2 * SECOND);
    assert_eq!((runs.on(1), runs.total(), runs.now()), (1, 1, 0), "one run, and its future was dropped");
    assert!(cluster.groups.iter().all(|group| group.stats().gets.failed_load_timeout == 10));
    cluster.idle().await;
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_load_that_takes_longer_than_any_caller_waits_still_fills_the_cache() {
    let runs = Runs::default();
    let cluster = Cluster::start(3, |index, node| {
        let runs = runs.clone();
        let loader = move |key: Key| {
            let running = runs.begin(index, [key.clone()]);
            async move {
                let _running = running;
                sleep(5 * SECOND).await;
                Ok::<_, BoxError>(value_of(&key))
            }
        };
        node.group("g").timeout(SECOND).loader(loader).build::<String>().unwrap()
    })
    .await;
    let key = cluster.key_of(0, 0);
    for _ in 0..4 {
        let start = now();
        for answer in answers(ask_everywhere(&cluster, &key, 10)).await {
            assert!(matches!(answer, Err(Error::Timeout { limit }) if limit == SECOND), "{answer:?}");
        }
        assert_eq!(now() - start, SECOND);
    }
    cluster.idle().await;
    assert_eq!(cluster.groups[0].peek(&key), Some(format!("value of {key}")));
    let start = now();
    assert!(answers(ask_everywhere(&cluster, &key, 10)).await.iter().all(Result::is_ok));
    assert_eq!(now() - start, Duration::ZERO);
    assert_eq!((runs.on(0), runs.total()), (1, 1));
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn each_caller_has_a_limit_of_its_own() {
    let runs = Runs::default();
    let cluster = cluster_that(&runs, 8 * SECOND, |_, key| Ok(value_of(key))).await;
    let key = cluster.key_of(0, 0);
    for group in &cluster.groups {
        let start = now();
        let limits = [SECOND, 9 * SECOND, 3 * SECOND, Duration::ZERO];
        let gets = limits.map(|limit| {
            group.get_with(&key, GetOptions::new().timeout(limit)).map(move |got| (limit, got, now() - start))
        });
        for (limit, got, took) in join_all(gets).await {
            match got {
                Err(Error::Timeout { limit: told }) => assert_eq!((told, took), (limit, limit)),
                got => assert!(limit == 9 * SECOND && took == 8 * SECOND, "{limit:?} {took:?}: {:?}", got.map(|_| ())),
            }
        }
        group.remove(&key).await.unwrap().everywhere().unwrap();
    }
    assert_eq!(runs.total(), 3);
    cluster.idle().await;
    cluster.end().await;
}

/// What get from inside a loader saw.
type Seen = Arc<Mutex<Vec<(String, Answer)>>>;

/// Nodes with one permit for loads each, whose loaders ask the group for another key where the map says so.
async fn asking(
    runs: &Runs,
    seen: &Seen,
    permits: usize,
    count: usize,
    asks: impl Fn(&Key) -> Option<String> + Clone + Send + Sync + 'static,
) -> Cluster<String> {
    Cluster::start(count, |index, node| {
        let own: Arc<OnceLock<WeakGroup<String>>> = Arc::default();
        let (runs, seen, asks, itself) = (runs.clone(), Arc::clone(seen), asks.clone(), Arc::clone(&own));
        let loader = move |key: Key| {
            let (running, seen, next) = (runs.begin(index, [key.clone()]), Arc::clone(&seen), asks(&key));
            let group = itself.get().and_then(WeakGroup::upgrade).unwrap();
            async move {
                let _running = running;
                sleep(100 * MS).await;
                let Some(next) = next else { return Ok(value_of(&key)) };
                let got = group.get(&next).await;
                seen.lock().unwrap().push((key.to_string(), got.clone()));
                Ok::<_, Error>(format!("{key} with {}", got?))
            }
        };
        let group = node.group("g").max_concurrent_loads(permits).loader(loader).build::<String>().unwrap();
        own.set(group.downgrade()).ok().unwrap();
        group
    })
    .await
}

/// `first` → `second` → …; the last asks for nothing.
fn chain(keys: &[String]) -> impl Fn(&Key) -> Option<String> + Clone + Send + Sync + 'static {
    let keys = keys.to_vec();
    move |key| {
        let position = keys.iter().position(|own| own.as_bytes() == key.as_bytes())?;
        keys.get(position + 1).cloned()
    }
}

/// The numbers of keys, by who of `count` nodes owns them: worked out before the loaders are made.
async fn keys_owned_by(count: usize, owners: &[usize]) -> Vec<String> {
    let cluster = Cluster::start(count, |_, node| {
        node.group("g").loader(async |_: Key| Ok::<_, BoxError>(String::new())).build::<String>().unwrap()
    })
    .await;
    owners.iter().enumerate().map(|(number, owner)| cluster.key_of(*owner, number)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_loader_may_ask_its_own_group_although_it_holds_the_only_permit() {
    for owners in [[0, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 2], [2, 2, 1]] {
        let keys = keys_owned_by(3, &owners).await;
        let (runs, seen) = (Runs::default(), Seen::default());
        let cluster = asking(&runs, &seen, 1, 3, chain(&keys)).await;
        let start = now();
        for answer in answers(ask_everywhere(&cluster, &keys[0], 5)).await {
            assert_eq!(
                answer.unwrap(),
                format!("{} with {} with value of {}", keys[0], keys[1], keys[2]),
                "{owners:?}"
            );
        }
        assert_eq!(now() - start, 300 * MS, "{owners:?}: nobody waited for a permit");
        assert_eq!(runs.total(), 3, "{owners:?}");
        cluster.idle().await;
        cluster.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_loader_pulls_what_it_asks_for_out_of_the_line() {
    for owners in [[0, 0], [0, 1]] {
        let keys = keys_owned_by(2, &owners).await;
        let (runs, seen) = (Runs::default(), Seen::default());
        let cluster = asking(&runs, &seen, 1, 2, chain(&keys)).await;
        let blocker = cluster.key_of(owners[1], 9);
        let first = ask(&cluster.groups[0], &keys[0]);
        until("the load has begun", || runs.total() == 1).await;
        // It stands in line behind the first, or behind another load of the other node, when the first load asks for
        // it.
        let others = [ask(&cluster.groups[owners[1]], &blocker), ask(&cluster.groups[owners[1]], &keys[1])];
        assert_eq!(first.await.unwrap().unwrap(), format!("{} with value of {}", keys[0], keys[1]), "{owners:?}");
        for other in others {
            other.await.unwrap().unwrap();
        }
        assert_eq!(runs.total(), 3, "{owners:?}");
        cluster.idle().await;
        cluster.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_loader_that_asks_for_a_key_of_a_dead_owner_takes_no_second_permit() {
    let keys = keys_owned_by(2, &[0, 1]).await;
    let (runs, seen) = (Runs::default(), Seen::default());
    let cluster = asking(&runs, &seen, 1, 2, chain(&keys)).await;
    cluster.network.cut("node-1:1", "node-2:1");
    let answer = cluster.groups[0].get(&keys[0]).await;
    assert_eq!(answer.unwrap(), format!("{} with value of {}", keys[0], keys[1]));
    assert_eq!((runs.on(0), runs.total()), (2, 2));
    cluster.idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_loader_that_asks_for_a_key_of_an_unwilling_owner_takes_no_second_permit() {
    // The owner is well, but does not have the group.
    let network = MemoryNetwork::new();
    let nodes = network.start(2).await.unwrap();
    counting::settled(&nodes).await;
    let keys = keys_owned_by(2, &[0, 1]).await;
    let own: Arc<OnceLock<WeakGroup<String>>> = Arc::default();
    let (itself, asks) = (Arc::clone(&own), chain(&keys));
    let loader = move |key: Key| {
        let group = itself.get().and_then(WeakGroup::upgrade).unwrap();
        let next = asks(&key);
        async move {
            match next {
                Some(next) => group.get(&next).await,
                None => Ok(value_of(&key)),
            }
        }
    };
    let group = nodes[0].group("g").max_concurrent_loads(1).loader(loader).build::<String>().unwrap();
    own.set(group.downgrade()).ok().unwrap();
    assert_eq!(group.get(&keys[0]).await.unwrap(), format!("value of {}", keys[1]));
}

#[tokio::test(start_paused = true)]
async fn a_loader_that_joins_a_fetch_that_comes_to_load_here_does_not_wait_behind_itself() {
    // It asks while the fetch is on its way to be refused, or when the load in its place stands in line.
    for (asks_after, answered_after) in [(50 * MS, 200 * MS), (500 * MS, 500 * MS)] {
        let network = MemoryNetwork::new();
        let nodes = network.start(2).await.unwrap();
        counting::settled(&nodes).await;
        let keys = keys_owned_by(2, &[0, 1]).await;
        // The owner of the second key is well, and does not have the group. There and back is 200 ms.
        network.delay("node-1:1", "node-2:1", 100 * MS);
        let own: Arc<OnceLock<WeakGroup<String>>> = Arc::default();
        let (itself, asks, runs) = (Arc::clone(&own), chain(&keys), Runs::default());
        let counted = runs.clone();
        let loader = move |key: Key| {
            let group = itself.get().and_then(WeakGroup::upgrade).unwrap();
            let (running, next) = (counted.begin(0, [key.clone()]), asks(&key));
            async move {
                let _running = running;
                let Some(next) = next else { return Ok(value_of(&key)) };
                sleep(asks_after).await;
                group.get(&next).await
            }
        };
        let group = nodes[0].group("g").max_concurrent_loads(1).loader(loader).build::<String>().unwrap();
        own.set(group.downgrade()).ok().unwrap();
        let start = now();
        let outer = ask(&group, &keys[0]);
        until("it has the only permit", || runs.total() == 1).await;
        let plain = ask(&group, &keys[1]);
        for answer in [outer, plain] {
            assert_eq!(answer.await.unwrap().unwrap(), format!("value of {}", keys[1]), "after {asks_after:?}");
        }
        let took = now() - start;
        assert!(took >= answered_after && took < answered_after + 50 * MS, "after {asks_after:?}: {took:?}");
        assert_eq!((runs.total(), group.stats().loads.busy, group.stats().fetches.refused), (2, 0, 1));
        assert!(is_idle(&group.stats()));
    }
}

/// A value whose next clone panics, if it is told to.
struct Fragile(String, Arc<AtomicBool>);

impl Clone for Fragile {
    fn clone(&self) -> Self {
        assert!(!self.1.swap(false, Ordering::SeqCst), "cloned");
        Self(self.0.clone(), Arc::clone(&self.1))
    }
}

struct FragileCodec;

impl Codec<Fragile> for FragileCodec {
    fn encode(&self, value: &Fragile) -> Result<Bytes, CodecError> {
        Ok(Bytes::copy_from_slice(value.0.as_bytes()))
    }

    fn decode(&self, bytes: Bytes) -> Result<Fragile, CodecError> {
        Ok(Fragile(String::from_utf8(bytes.to_vec()).map_err(CodecError::new)?, Arc::default()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_panics_when_it_is_cloned_fails_its_waiters_and_nothing_else() {
    let runs = Runs::default();
    let cluster = Cluster::start(2, |index, node| {
        let runs = runs.clone();
        let loader = move |key: Key| {
            let running = runs.begin(index, [key.clone()]);
            // The first load of all brings a value whose first clone panics: that for the cache, when it lands.
            let bad = Arc::new(AtomicBool::new(runs.total() == 1));
            async move {
                let _running = running;
                sleep(100 * MS).await;
                Ok::<_, BoxError>(Fragile(value_of(&key), bad))
            }
        };
        node.group("g").max_concurrent_loads(1).codec(FragileCodec).loader(loader).build::<Fragile>().unwrap()
    })
    .await;
    let keys: Vec<String> = (0..5).map(|number| cluster.key_of(0, number)).collect();
    let ask = |group: &Group<Fragile>, key: &str| {
        let (group, key) = (group.clone(), key.to_string());
        tokio::spawn(async move { group.get(&key).await.map(|value| value.0) })
    };
    let failing: Vec<_> = cluster.groups.iter().map(|group| ask(group, &keys[0])).collect();
    until("the load has begun", || runs.total() == 1).await;
    let queued: Vec<_> = keys[1..]
        .iter()
        .flat_map(|key| cluster.groups.iter().map(|group| ask(group, key)).collect::<Vec<_>>())
        .collect();
    for answer in answers(failing).await {
        assert!(matches!(answer, Err(Error::Load(_))), "{answer:?}");
    }
    for answer in answers(queued).await {
        assert!(answer.is_ok(), "what waits in line goes on: {answer:?}");
    }
    assert_eq!((runs.on(0), runs.total()), (5, 5), "nobody turned elsewhere");
    // Its node is not taken for one that shuts down.
    let peers = cluster.nodes[1].stats().peers;
    assert!(peers.iter().all(|peer| peer.state == PeerState::Up), "{peers:?}");
    let fetches = cluster.groups[1].stats().fetches;
    assert_eq!((fetches.stood_in, fetches.loaded_here), (0, 0));
    // And the key is none the worse for it.
    for group in &cluster.groups {
        assert_eq!(group.get(&keys[0]).await.unwrap().0, format!("value of {}", keys[0]));
    }
    cluster.idle().await;
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_loader_that_asks_for_its_own_key_is_told_so_at_once() {
    for (owners, dead) in [([0, 0], false), ([0, 0], true), ([0, 1], true)] {
        let mut keys = keys_owned_by(2, &owners).await;
        for through in [1, 2] {
            // The key asks for itself; or for another, which asks for the key.
            let mut asked = keys[..through].to_vec();
            asked.push(keys[0].clone());
            let (runs, seen) = (Runs::default(), Seen::default());
            let asks = {
                let asked = asked.clone();
                move |key: &Key| {
                    let position = asked.iter().position(|own| own.as_bytes() == key.as_bytes())?;
                    asked.get(position + 1).cloned()
                }
            };
            let cluster = asking(&runs, &seen, 1, 2, asks).await;
            if dead {
                cluster.network.cut("node-1:1", "node-2:1");
            }
            let start = now();
            let answer = cluster.groups[0].get(&keys[0]).await;
            assert!(matches!(answer, Err(Error::Load(_))), "{answer:?}");
            assert!(now() - start < SECOND, "{owners:?} through {through}: {:?}", now() - start);
            let first = seen.lock().unwrap().remove(0);
            assert!(matches!(first.1, Err(Error::Recursive)), "{first:?}");
            assert_eq!(runs.total(), through);
            cluster.idle().await;
        }
        keys.clear();
    }
}

#[tokio::test(start_paused = true)]
async fn two_loaders_that_ask_for_one_anothers_keys_end_with_their_limit() {
    for owners in [[0, 0], [0, 1]] {
        let keys = keys_owned_by(2, &owners).await;
        let (runs, seen) = (Runs::default(), Seen::default());
        let (a, b) = (keys[0].clone(), keys[1].clone());
        let asks = move |key: &Key| Some(if key.as_bytes() == a.as_bytes() { b.clone() } else { a.clone() });
        let cluster = asking(&runs, &seen, 2, 2, asks).await;
        let start = now();
        let both = answers(keys.iter().map(|key| ask(&cluster.groups[0], key)).collect()).await;
        assert!(both.iter().all(Result::is_err), "{owners:?}: {both:?}");
        assert!(now() - start <= 10 * SECOND + MS, "{owners:?}: within the load's limit, not {:?}", now() - start);
        assert_eq!(runs.total(), 2, "{owners:?}");
        cluster.idle().await;
        cluster.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn so_many_loads_that_loaders_ask_for_run_as_may_wait_and_are_counted() {
    const ASKED: usize = 25;
    const MAY: usize = 10;
    let node = Node::local();
    let (own, runs): (Arc<OnceLock<WeakGroup<String>>>, _) = (Arc::default(), Runs::default());
    let (itself, counted) = (Arc::clone(&own), runs.clone());
    let loader = move |key: Key| {
        let (group, running) = (itself.get().and_then(WeakGroup::upgrade).unwrap(), counted.begin(0, [key.clone()]));
        async move {
            let _running = running;
            sleep(100 * MS).await;
            if &key[..] != b"outer" {
                return Ok(value_of(&key));
            }
            let got = group.get_many((0..ASKED).map(|number| format!("inner-{number}"))).await;
            for (number, got) in got.iter().enumerate() {
                assert_eq!(got.is_ok(), number < MAY, "{number}: {got:?}");
                assert!(got.is_ok() || matches!(got, Err(Error::Busy)), "{number}: {got:?}");
            }
            Ok::<_, BoxError>(got.iter().filter(|got| got.is_ok()).count().to_string())
        }
    };
    let group = node.group("g").max_concurrent_loads(1).max_queued_loads(MAY).loader(loader).build::<String>().unwrap();
    own.set(group.downgrade()).ok().unwrap();
    // More than once: what is given out is given back.
    for round in 1..=3 {
        let outer = ask(&group, "outer");
        until("they run", || group.stats().loads_running > 1).await;
        let stats = group.stats();
        assert_eq!((stats.loads_running, stats.loads_queued), (1 + MAY as u64, 0), "round {round}");
        assert_eq!(outer.await.unwrap().unwrap(), MAY.to_string(), "round {round}");
        assert!(is_idle(&group.stats()), "round {round}: {:?}", group.stats());
        assert_eq!((group.stats().loads.busy, runs.most()), ((ASKED - MAY) as u64 * round, 1 + MAY));
        group.clear().await.unwrap().everywhere().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn batch_loaders_that_ask_for_batches_make_one_call_a_level() {
    const LEVELS: usize = 5;
    const KEYS: usize = 50;
    let level = |level: usize| (0..KEYS).map(move |number| format!("{level}:{number}"));
    for capped in [KEYS, 7] {
        let node = Node::local();
        let (own, runs): (Arc<OnceLock<WeakGroup<String>>>, _) = (Arc::default(), Runs::default());
        let (itself, counted) = (Arc::clone(&own), runs.clone());
        let loader = move |keys: Vec<Key>| {
            let group = itself.get().and_then(WeakGroup::upgrade).unwrap();
            let running = counted.begin(0, keys.clone());
            async move {
                let _running = running;
                let own: usize = keys[0].as_str().unwrap().split(':').next().unwrap().parse()?;
                if own + 1 < LEVELS {
                    group.get_many(level(own + 1)).await.into_iter().collect::<Result<Vec<_>, _>>()?;
                }
                Ok::<_, BoxError>(keys.into_iter().map(|key| (key.clone(), value_of(&key))).collect::<Vec<_>>())
            }
        };
        let builder = node.group("g").max_concurrent_loads(1).max_queued_loads(1000);
        let group = builder.batch_loader(capped, loader).build::<String>().unwrap();
        own.set(group.downgrade()).ok().unwrap();
        for got in group.get_many(level(0)).await {
            got.unwrap();
        }
        assert_eq!((runs.total(), runs.most_of_a_key()), (LEVELS * KEYS, 1), "each key once");
        assert_eq!(runs.calls(), LEVELS * KEYS.div_ceil(capped), "as few calls as may be");
        assert!(is_idle(&group.stats()));
    }
}

/// Waits until a group is idle, and no more tasks live than did before.
async fn back_to(tasks: usize, groups: &[Group<String>]) {
    let metrics = tokio::runtime::Handle::current().metrics();
    let quiet = || groups.iter().all(|group| is_idle(&group.stats()));
    until("nothing is left", || quiet() && metrics.num_alive_tasks() <= tasks).await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_cancelled_gets_leave_nothing_behind() {
    const GETS: usize = 25_000;
    for (asker, distinct) in [(0, true), (0, false), (1, true), (1, false)] {
        let runs = Runs::default();
        let cluster = Cluster::start(2, |index, node| {
            let runs = runs.clone();
            let loader = move |key: Key| {
                let running = runs.begin(index, [key]);
                async move {
                    let _running = running;
                    sleep(MS).await;
                    Err::<String, _>(BoxError::from("not kept"))
                }
            };
            let builder = node.group("g").max_queued_loads(GETS).max_concurrent_loads(1000);
            builder.load_queue_timeout(60 * SECOND).timeout(60 * SECOND).loader(loader).build().unwrap()
        })
        .await;
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let group = &cluster.groups[asker];
        let keys = (0..).map(|number| format!("key-{number}")).filter(|key| cluster.owner_of(key.as_bytes()) == 0);
        let keys: Vec<String> = keys.take(if distinct { GETS } else { 1 }).collect();
        for key in keys.iter().cycle().take(GETS) {
            assert!(group.get(key).now_or_never().is_none(), "a get that has begun is dropped");
        }
        assert_eq!(group.stats().flights, keys.len() as u64);
        back_to(tasks, &cluster.groups).await;
        let stats = group.stats();
        assert_eq!((stats.gets.abandoned, stats.gets.total()), (GETS as u64, GETS as u64));
        assert_eq!(stats.gets.joined, (GETS - keys.len()) as u64);
        assert_eq!(runs.now(), 0);
        if asker == 0 {
            assert_eq!(runs.total(), keys.len(), "a load goes on without callers, once for each key");
        } else {
            // A fetch that nobody waits for is given up, and with it a load that has not begun.
            assert!(runs.total() <= keys.len(), "{} loads", runs.total());
        }
        cluster.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn gets_cancelled_while_they_wait_in_line_leave_nothing_behind() {
    let runs = Runs::default();
    let node = Node::local();
    let group: Group<String> = slow(&runs, &node, SECOND)
        .max_concurrent_loads(2)
        .max_queued_loads(100)
        .load_queue_timeout(SECOND / 2)
        .build()
        .unwrap();
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    for number in 0..1000 {
        let got = group.get(&format!("key-{number}")).now_or_never();
        assert_eq!(got.is_some(), number >= 102, "{number}");
        assert!(got.is_none_or(|got| matches!(got, Err(Error::Busy))));
    }
    back_to(tasks, std::slice::from_ref(&group)).await;
    let stats = group.stats();
    assert_eq!((stats.gets.abandoned, stats.gets.failed_busy, stats.gets.total()), (102, 898, 1000));
    assert_eq!((stats.loads.busy, runs.total()), (998, 2));
}

#[tokio::test(start_paused = true)]
async fn as_many_loads_run_as_may_and_the_others_wait_in_order() {
    for permits in [1, 2, 7] {
        let runs = Runs::default();
        let node = Node::local();
        let group = slow(&runs, &node, 10 * MS).max_concurrent_loads(permits).build::<String>().unwrap();
        let keys: Vec<String> = (0..70).map(|number| format!("key-{number}")).collect();
        let start = now();
        let asked: Vec<_> = keys.iter().map(|key| ask(&group, key)).collect();
        until("all have asked", || group.stats().loads_queued == 70 - permits as u64).await;
        assert_eq!(group.stats().loads_running, permits as u64);
        assert!(answers(asked).await.iter().all(Result::is_ok));
        assert_eq!(runs.most(), permits);
        assert_eq!(runs.order(), keys.iter().map(Key::new).collect::<Vec<_>>());
        assert_eq!(now() - start, 10 * MS * u32::try_from(70 / permits).unwrap());
        assert!(is_idle(&group.stats()));
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_line_for_too_long_gets_busy_and_its_loader_is_never_called() {
    let runs = Runs::default();
    let node = Node::local();
    let builder = slow(&runs, &node, 4 * SECOND).max_concurrent_loads(1);
    let group = builder.load_queue_timeout(3 * SECOND).build::<String>().unwrap();
    let start = now();
    let first = ask(&group, "first");
    tokio::task::yield_now().await;
    let late = ask(&group, "late");
    sleep(2 * SECOND).await;
    let in_time = ask(&group, "in time");
    let joined = ask(&group, "late");
    for late in [late, joined] {
        let late = late.await.unwrap();
        assert!(matches!(late, Err(Error::Busy)), "{late:?}");
        assert_eq!(now() - start, 3 * SECOND);
    }
    first.await.unwrap().unwrap();
    in_time.await.unwrap().unwrap();
    assert_eq!(runs.order(), [Key::new("first"), Key::new("in time")]);
    let stats = group.stats();
    assert_eq!((stats.loads.busy, stats.gets.failed_busy), (1, 2));
    // Busy is not remembered.
    ask(&group, "late").await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn beyond_the_line_a_caller_gets_busy_at_once_on_every_node() {
    let runs = Runs::default();
    let cluster = Cluster::start(2, |_, node| {
        slow(&runs, node, SECOND).max_concurrent_loads(1).max_queued_loads(2).build::<String>().unwrap()
    })
    .await;
    let keys: Vec<String> = (0..5).map(|number| cluster.key_of(0, number)).collect();
    let fits: Vec<_> = keys[..3].iter().map(|key| ask(&cluster.groups[1], key)).collect();
    until("the line is full", || cluster.groups[0].stats().loads_queued == 2).await;
    let start = now();
    for group in &cluster.groups {
        for key in &keys[3..] {
            assert!(matches!(group.get(key).await, Err(Error::Busy)));
        }
    }
    assert_eq!(now() - start, Duration::ZERO);
    let many = cluster.groups[1].get_many(&keys).await;
    assert!(many[..3].iter().all(Result::is_ok) && many[3..].iter().all(|got| matches!(got, Err(Error::Busy))));
    assert!(answers(fits).await.iter().all(Result::is_ok));
    assert_eq!(runs.total(), 3);
    cluster.idle().await;
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_a_load_counts_from_its_call_not_from_when_it_was_asked_for() {
    let runs = Runs::default();
    let node = Node::local();
    let builder = slow(&runs, &node, 3 * SECOND).max_concurrent_loads(1).load_timeout(4 * SECOND);
    let group = builder.load_queue_timeout(20 * SECOND).timeout(60 * SECOND).build::<String>().unwrap();
    let asked = ["a", "b", "c", "d", "e"].map(|key| ask(&group, key));
    assert!(answers(asked.into()).await.iter().all(Result::is_ok), "each was in line for up to 12 s");
    assert_eq!(runs.total(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_value_that_comes_while_a_load_is_in_line_is_not_loaded_again() {
    let runs = Runs::default();
    let node = Node::local();
    let group = slow(&runs, &node, SECOND).max_concurrent_loads(1).build::<String>().unwrap();
    let first = ask(&group, "first");
    tokio::task::yield_now().await;
    let second = ask(&group, "second");
    tokio::task::yield_now().await;
    group.insert("second", String::from("inserted")).await.unwrap().everywhere().unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(second.await.unwrap().unwrap(), "inserted");
    assert_eq!(runs.total(), 1);
    assert!(is_idle(&group.stats()));
}

#[tokio::test(start_paused = true)]
async fn two_loads_of_a_key_run_at_a_time_and_a_third_waits_for_one_of_them() {
    let runs = Runs::default();
    let node = Node::local();
    let gate = Arc::new(Notify::new());
    let (opened, counted) = (Arc::clone(&gate), runs.clone());
    let loader = move |key: Key| {
        let (running, opened) = (counted.begin(0, [key]), Arc::clone(&opened));
        let number = counted.total();
        async move {
            let _running = running;
            opened.notified().await;
            Ok::<_, BoxError>(number.to_string())
        }
    };
    let group = node.group("g").loader(loader).build::<String>().unwrap();
    let mut asked = Vec::new();
    for _ in 0..5 {
        asked.push(ask(&group, "k"));
        sleep(MS).await;
        group.remove("k").await.unwrap().everywhere().unwrap();
    }
    assert_eq!((runs.total(), runs.now()), (2, 2));
    // The first is let go, then whoever waits longest.
    for _ in 0..3 {
        gate.notify_one();
        sleep(MS).await;
    }
    let answers = answers(asked).await;
    let answers: Vec<String> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers, ["1", "2", "3", "3", "3"], "who came later waited for the one that had not begun");
    assert_eq!((runs.total(), runs.most_of_a_key()), (3, 2));
    assert_eq!(group.get("k").await.unwrap(), "3", "its value was kept: no removal came after it began");
    assert_eq!(group.stats().loads.voided, 2);
    assert!(is_idle(&group.stats()));
}

/// What a random test does and knows.
struct Chaos {
    runs: Runs,
    /// For each key, the version at the source; a loader reads it when it is called.
    source: Vec<AtomicU64>,
    /// For each key, the version that every later get must be no older than.
    floor: Vec<AtomicU64>,
    gets: Vec<AtomicU64>,
}

const CHAOS_KEYS: usize = 4;

impl Chaos {
    fn new() -> Arc<Self> {
        let counters = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self {
            runs: Runs::default(),
            source: counters(CHAOS_KEYS),
            floor: counters(CHAOS_KEYS),
            gets: counters(3),
        })
    }

    fn group(self: &Arc<Self>, index: usize, node: &Node) -> Group<String> {
        let chaos = Arc::clone(self);
        let loader = move |key: Key| {
            let running = chaos.runs.begin(index, [key.clone()]);
            let version = chaos.source[usize::from(key[0])].load(Ordering::SeqCst);
            let mut dice = Rng::with_seed(version + index as u64);
            async move {
                let _running = running;
                sleep(dice.u32(0..4) * MS).await;
                match dice.u32(0..8) {
                    0 => Err(BoxError::from("no luck")),
                    1 => Ok(None),
                    _ => Ok(Some(version.to_string())),
                }
            }
        };
        let builder = node.group("g").max_concurrent_loads(2).not_found_time_to_live(2 * MS).time_to_live(10 * MS);
        builder.loader(loader).build().unwrap()
    }

    async fn play(self: Arc<Self>, node: usize, group: Group<String>, seed: u64) {
        let mut dice = Rng::with_seed(seed);
        for _ in 0..30 {
            let number = dice.usize(0..CHAOS_KEYS);
            let key = [u8::try_from(number).unwrap()];
            let floor = self.floor[number].load(Ordering::SeqCst);
            let check = |got: Result<String, Error>| match got {
                Ok(version) => assert!(version.parse::<u64>().unwrap() >= floor, "{version} is older than {floor}"),
                Err(error) => {
                    assert!(matches!(error, Error::NotFound | Error::Load(_) | Error::Timeout { .. }), "{error}");
                }
            };
            match dice.u32(0..10) {
                0..4 => {
                    self.gets[node].fetch_add(1, Ordering::SeqCst);
                    check(group.get(&key).await);
                }
                4..6 => {
                    self.gets[node].fetch_add(1, Ordering::SeqCst);
                    // Given up by its caller, or by its limit.
                    let _ = tokio::time::timeout(dice.u32(0..3) * MS, group.get(&key)).await;
                }
                6 => {
                    self.gets[node].fetch_add(1, Ordering::SeqCst);
                    let options = GetOptions::new().timeout(dice.u32(0..5) * MS);
                    check(group.get_with(&key, options).await.map(peerage::Entry::into_value));
                }
                7 => {
                    self.gets[node].fetch_add(3, Ordering::SeqCst);
                    let mut got = group.get_many([key, [0], key]).await;
                    check(got.remove(2));
                    check(got.remove(0));
                }
                8 => {
                    let version = self.source[number].fetch_add(1, Ordering::SeqCst) + 1;
                    if group.remove(&key).await.unwrap().is_everywhere() {
                        self.floor[number].fetch_max(version, Ordering::SeqCst);
                    }
                }
                _ => sleep(dice.u32(0..4) * MS).await,
            }
        }
    }

    async fn run(seed: u64) {
        let chaos = Self::new();
        let cluster = Cluster::start(3, |index, node| chaos.group(index, node)).await;
        let mut players = Vec::new();
        for (node, group) in cluster.groups.iter().enumerate() {
            for player in 0..12 {
                let seed = seed * 100 + (node * 12 + player) as u64;
                players.push(tokio::spawn(Arc::clone(&chaos).play(node, group.clone(), seed)));
            }
        }
        for player in players {
            player.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
        cluster.idle().await;
        assert!(chaos.runs.most_of_a_key() <= 2, "seed {seed}");
        let mut started = 0;
        for (group, gets) in cluster.groups.iter().zip(&chaos.gets) {
            let stats = group.stats();
            assert_eq!(stats.gets.total(), gets.load(Ordering::SeqCst), "seed {seed}: {stats:?}");
            let loads = stats.loads;
            assert_eq!(loads.started, loads.found + loads.not_found + loads.failed, "seed {seed}: {loads:?}");
            assert_eq!(stats.fetches.loaded_here, 0, "seed {seed}");
            started += loads.started;
        }
        assert_eq!(started, chaos.runs.total() as u64, "seed {seed}");
        let asked: u64 = cluster.groups.iter().map(|group| group.stats().fetches.keys).sum();
        let served: u64 = cluster.groups.iter().map(|group| group.stats().served.total()).sum();
        assert_eq!(asked, served, "seed {seed}: what was asked of peers was served by them");
        cluster.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_is_asked_removed_and_given_up_the_counts_add_up_and_nothing_is_left() {
    for seed in 0..8 {
        Chaos::run(seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_holds_on_several_threads() {
    for seed in 0..3 {
        Chaos::run(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_when_a_life_is_over_does_not_get_what_somebody_asked_for_before() {
    let nodes = MemoryNetwork::new().start(2).await.unwrap();
    let runs = Arc::new(AtomicU64::new(0));
    let build = |node: &Node| {
        let runs = Arc::clone(&runs);
        let loader = move |key: Key| {
            let run = runs.fetch_add(1, Ordering::SeqCst);
            async move {
                sleep(if key.as_bytes().starts_with(b"slow") { 3 * SECOND } else { Duration::ZERO }).await;
                Ok::<_, BoxError>(run.to_string())
            }
        };
        node.group("g").time_to_live(SECOND).jitter(0.0).hot_share(0.0).loader(loader).build().unwrap()
    };
    let groups: Vec<Group<String>> = nodes.iter().map(build).collect();
    let placement = nodes[0].placement();
    let theirs = |prefix| (0..100).map(|n| format!("{prefix}-{n}")).find(|key| *placement.owner_of(key) == "node-2:1");
    let (brief, slow) = (theirs("brief").unwrap(), theirs("slow").unwrap());
    assert_eq!(groups[1].get(&brief).await.unwrap(), "0");
    // The copy of the one crosses together with the other, which is loaded first.
    let (group, keys) = (groups[0].clone(), [brief.clone(), slow]);
    let both = tokio::spawn(async move { group.get_many(keys).await });
    sleep(2 * SECOND).await;
    let late = ask(&groups[0], &brief);
    assert_eq!(both.await.unwrap()[0].as_deref().unwrap(), "0", "it was good when it was asked for");
    assert_eq!(late.await.unwrap().unwrap(), "2", "its life was over before this one asked");
}
