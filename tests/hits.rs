//! What a hit costs, and what the cache holds: allocations and bytes, as the allocator counts them on the test's
//! thread.

#![cfg(feature = "test-util")]

use std::hint::black_box;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use allocation_counter::measure;
use bytes::Bytes;
use peerage::{BoxError, Codec, CodecError, Error, GetOptions, Group, Key, Loaded, MemoryNetwork, Node, Source};

/// A runtime that does everything on the test's own thread, where allocations are counted.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Polls a future once.
fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    match poll_once(future) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a hit resolves at the first poll"),
    }
}

fn sized(size: usize) -> Bytes {
    Bytes::from(vec![7_u8; size])
}

/// A group whose loader brings a fresh kilobyte, or, for the key `none`, nothing.
fn group_on(node: &Node) -> Group<Bytes> {
    let loader = async |key: Key| Ok::<_, BoxError>((&key[..] != b"none").then(|| sized(1024)));
    node.group("g").time_to_live(Duration::from_secs(60)).loader(loader).build().unwrap()
}

/// That everything that is asked of the group for a key that it holds allocates nothing and needs no runtime.
fn hits_are_free(group: &Group<Bytes>, key: &str, none: Option<&str>, source: &Source) {
    let owned = (String::from(key), Bytes::copy_from_slice(key.as_bytes()), Key::new(key), key.as_bytes().to_vec());
    let hit = measure(|| {
        for _ in 0..100 {
            assert_eq!(ready(group.get(key)).unwrap().len(), 1024);
            assert_eq!(ready(group.get(&owned.0)).unwrap().len(), 1024);
            assert_eq!(ready(group.get(&owned.1)).unwrap().len(), 1024);
            assert_eq!(ready(group.get(&owned.2)).unwrap().len(), 1024);
            assert_eq!(ready(group.get(&owned.3)).unwrap().len(), 1024);
            assert_eq!(ready(group.get_opt(key)).unwrap().unwrap().len(), 1024);
            let entry = ready(group.get_with(key, GetOptions::new().timeout(Duration::from_secs(1)))).unwrap();
            assert_eq!(entry.source(), source);
            assert_eq!(entry.value().len(), 1024);
            assert_eq!(group.peek(key).unwrap().len(), 1024);
            if let Some(none) = none {
                assert!(ready(group.get_opt(none)).unwrap().is_none());
                assert!(matches!(ready(group.get(none)), Err(Error::NotFound)));
                assert!(group.peek(none).is_none());
            }
        }
    });
    assert_eq!((hit.count_total, hit.bytes_total), (0, 0), "{source:?}");
}

#[test]
fn a_hit_allocates_nothing_resolves_at_the_first_poll_and_needs_no_runtime() {
    let node = Node::local();
    let group = group_on(&node);
    let runtime = runtime();
    runtime.block_on(async {
        group.get("loaded").await.unwrap();
        group.insert("inserted", sized(1024)).await.unwrap().everywhere().unwrap();
        assert_eq!(group.get_opt("none").await.unwrap(), None);
    });
    // No runtime is entered from here on.
    assert!(tokio::runtime::Handle::try_current().is_err());
    hits_are_free(&group, "loaded", Some("none"), &Source::Main);
    hits_are_free(&group, "inserted", Some("none"), &Source::Main);
    // Within one it is the same.
    runtime.block_on(async { hits_are_free(&group, "loaded", Some("none"), &Source::Main) });
    let gets = group.stats().gets;
    assert_eq!((gets.main_hits, gets.not_found), (3 * 700, 3 * 200 + 1));
    assert_eq!(gets.total(), 3 * 900 + 2);
    let miss = measure(|| drop(black_box(runtime.block_on(group.get("never asked for")))));
    assert!(miss.count_total > 0, "the counter counts: a miss allocates");
}

#[test]
fn a_hit_on_a_copy_of_another_nodes_key_allocates_nothing() {
    let runtime = runtime();
    let (nodes, group, key) = runtime.block_on(async {
        let nodes = MemoryNetwork::new().start(2).await.unwrap();
        let groups: Vec<Group<Bytes>> = nodes.iter().map(group_on).collect();
        let placement = nodes[0].placement();
        let key =
            (0..1000).map(|number| format!("key-{number}")).find(|key| placement.owner_of(key) == nodes[1].name());
        let (group, key) = (groups[0].clone(), key.unwrap());
        // One in so many answers is kept.
        while group.peek(&key).is_none() {
            group.get(&key).await.unwrap();
        }
        (nodes, group, key)
    });
    hits_are_free(&group, &key, None, &Source::Hot);
    assert_eq!(group.stats().gets.hot_hits, 700);
    drop(nodes);
}

#[test]
fn the_future_of_a_get_is_small() {
    let group = group_on(&Node::local());
    assert!(size_of_val(&group.get("k")) <= 192, "it is part of every future that awaits it");
}

#[test]
fn a_miss_outside_of_a_runtime_is_an_error_in_words() {
    let node = Node::local();
    let group = group_on(&node);
    assert!(matches!(ready(group.get("k")), Err(Error::NoRuntime)));
    assert!(matches!(ready(group.get_many(["k"])).remove(0), Err(Error::NoRuntime)));
    assert_eq!((group.stats().flights, group.stats().gets.total()), (0, 2));
}

/// What a group of so many entries of this size, with so many tags if they are loaded, holds: by its own count, and by
/// the allocator's.
fn held(entries: usize, size: usize, tags: usize, insert: bool) -> (f64, f64) {
    let runtime = runtime();
    let node = Node::local();
    let loader = move |_: Key| async move {
        let names = (0..tags).map(|number| number.to_string());
        Ok::<_, BoxError>(Loaded::value(sized(size)).tags(names))
    };
    let group: Group<Bytes> = node.group("g").capacity(1 << 30).loader(loader).build().unwrap();
    // Once first, so that what is made once and kept is not counted.
    runtime.block_on(async { group.get("first").await.unwrap() });
    let held = measure(|| {
        runtime.block_on(async {
            for number in 0..entries {
                let key = format!("{number:016}");
                if insert {
                    group.insert(&key, sized(size)).await.unwrap().everywhere().unwrap();
                } else {
                    group.get(&key).await.unwrap();
                }
            }
        });
    });
    let cache = group.stats().cache;
    assert_eq!((cache.main_entries, cache.evictions), (entries as u64 + 1, 0));
    let own = cache.main_bytes * entries as u64 / (entries as u64 + 1);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    (own as f64, held.bytes_current as f64)
}

#[test]
fn the_bytes_that_are_reported_are_those_that_the_allocator_holds() {
    // Tables double all at once: between doublings an entry's part of them is twice as large or half as large.
    for (entries, size, tags, insert) in [
        (40_000, 100, 0, false),
        (54_000, 100, 0, false),
        (60_000, 100, 0, false),
        (40_000, 1024, 0, false),
        (40_000, 100, 1, false),
        (40_000, 100, 5, false),
        (40_000, 100, 0, true),
        (40_000, 1024, 0, true),
    ] {
        let (own, held) = held(entries, size, tags, insert);
        let ratio = own / held;
        let case = format!("{entries} entries of {size} bytes with {tags} tags");
        assert!((0.95..=1.05).contains(&ratio), "{case}: {own} reported, {held} held: {ratio:.3}");
    }
}

/// What a group says that it holds, of what the allocator says.
fn share_reported(group: &Group<Bytes>, held: i64) -> f64 {
    let cache = group.stats().cache;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let share = (cache.main_bytes + cache.hot_bytes) as f64 / held as f64;
    share
}

#[test]
fn few_large_entries_in_place_of_many_small_ones_take_what_is_reported() {
    const BUDGET: usize = 16 << 20;
    let runtime = runtime();
    let node = Node::local();
    let loader = async |key: Key| Ok::<_, BoxError>(sized(if key.starts_with(b"large") { 20_000 } else { 0 }));
    let group: Group<Bytes> = node.group("g").capacity(BUDGET).loader(loader).build().unwrap();
    let get = async |key: String| drop(group.get(&key).await.unwrap());
    runtime.block_on(get(String::from("first")));
    let all = |keys: &mut dyn Iterator<Item = String>| {
        runtime.block_on(async {
            for key in keys {
                get(key).await;
            }
        });
    };
    let small = measure(|| all(&mut (0..200_000).map(|number| format!("{number:016}"))));
    // Once is not enough to stay.
    let large = measure(|| all(&mut (0..3).flat_map(|_| (0..600).map(|number| format!("large-{number}")))));
    let share = share_reported(&group, small.bytes_current + large.bytes_current);
    assert!((0.95..=1.05).contains(&share), "{share:.3} is reported: {:?}", group.stats().cache);
}

#[test]
fn what_has_expired_gives_its_tables_back_too() {
    const ENTRIES: usize = 100_000;
    let runtime = runtime();
    let node = Node::local();
    let loader = async |_: Key| Ok::<_, BoxError>(sized(0));
    let life = Duration::from_secs(5);
    let group: Group<Bytes> = node.group("g").time_to_live(life).loader(loader).build().unwrap();
    let get = async |key: String| drop(group.get(&key).await.unwrap());
    runtime.block_on(get(String::from("first")));
    let all = async {
        for number in 0..ENTRIES {
            get(format!("{number:016}")).await;
        }
    };
    let full = measure(|| runtime.block_on(all));
    let gone = measure(|| {
        runtime.block_on(async {
            while group.stats().cache.main_entries > 0 {
                tokio::time::sleep(life).await;
            }
        });
    });
    assert_eq!(group.stats().cache.main_bytes, 0);
    let left = full.bytes_current + gone.bytes_current;
    assert!(left < full.bytes_current / 20, "{left} of {} bytes are still held", full.bytes_current);
}

#[test]
fn a_million_keys_through_a_small_group_leave_no_more_than_its_budget_and_a_little() {
    const BUDGET: usize = 16 << 20;
    /// What a node and a runtime keep, and the tables of flights and of the line at their largest.
    const CONSTANT: usize = 1 << 20;
    let held = measure(|| {
        let runtime = runtime();
        let node = Node::local();
        let loader = async |key: Key| Ok::<_, BoxError>(Loaded::value(Bytes::copy_from_slice(&[key[15]; 100])));
        let group: Group<Bytes> = node.group("g").capacity(BUDGET).loader(loader).build().unwrap();
        let held = measure(|| {
            runtime.block_on(async {
                let mut keys = (0..1_000_000).map(|number| format!("{number:016}"));
                loop {
                    let batch: Vec<String> = keys.by_ref().take(100).collect();
                    if batch.is_empty() {
                        break;
                    }
                    assert!(group.get_many(&batch).await.iter().all(Result::is_ok));
                    let cache = group.stats().cache;
                    assert!(cache.main_bytes + cache.hot_bytes <= BUDGET as u64, "the budget is never exceeded");
                }
            });
        });
        let cache = group.stats().cache;
        assert_eq!(cache.main_entries + cache.evictions, 1_000_000);
        assert!(cache.main_bytes > BUDGET as u64 * 9 / 10, "and is used: {cache:?}");
        let held = usize::try_from(held.bytes_current).unwrap();
        assert!(held <= BUDGET * 13 / 10 + CONSTANT, "{held} bytes are held");
        assert!(held >= BUDGET / 2, "{held} bytes are held: the allocator's count is at fault");
        runtime.block_on(async { assert!(node.shutdown(Duration::from_secs(1)).await.is_clean()) });
        drop((group, node));
    });
    assert!(held.bytes_current < 64 << 10, "{} bytes are left when the node is gone", held.bytes_current);
}

/// The time of a runtime of several threads cannot be turned, and a life is told by a rough clock as long as that will
/// do: so it takes time to see that it ends when it should.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_life_ends_when_it_should_where_the_rough_clock_is_read() {
    const LIFE: Duration = Duration::from_millis(1300);
    #[expect(clippy::disallowed_methods, reason = "the time itself is looked at")]
    let now = std::time::Instant::now;
    // Outside of a runtime, where it cannot be known yet on which kind it will run.
    let node = std::thread::spawn(Node::local).join().unwrap();
    let loader = async |_: Key| Ok::<_, BoxError>(sized(1));
    let group: Group<Bytes> = node.group("g").time_to_live(LIFE).jitter(0.0).loader(loader).build().unwrap();
    let before = now();
    group.get("k").await.unwrap();
    let after = now();
    loop {
        let asked = now();
        if group.peek("k").is_none() {
            assert!(now() - before >= LIFE, "it ended too soon");
            break;
        }
        assert!(asked - after < LIFE, "it is still there {:?} after it was loaded", asked - after);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[cfg(feature = "postcard")]
#[test]
fn values_that_are_weighed_stay_within_the_capacity_however_short_their_encoding_is() {
    use peerage::{Postcard, Weighed};

    const CAPACITY: usize = 4 << 20;
    let (runtime, node) = (runtime(), Node::local());
    let codec = Weighed(Postcard, |numbers: &Vec<u64>| numbers.capacity() * size_of::<u64>());
    let loader = async |_: Key| Ok::<_, BoxError>(vec![0_u64; 1000]);
    let group: Group<Vec<u64>> = node.group("g").capacity(CAPACITY).codec(codec).loader(loader).build().unwrap();
    runtime.block_on(async { group.get("first").await.unwrap() });
    let held = measure(|| {
        runtime.block_on(async {
            for number in 0..2000 {
                group.get(&format!("{number:016}")).await.unwrap();
            }
        });
    });
    let (cache, held) = (group.stats().cache, usize::try_from(held.bytes_current).unwrap());
    assert!(cache.evictions > 0 && held <= CAPACITY * 11 / 10, "{held} bytes are held: {cache:?}");
}

/// Where a clone waits while it is shut: that is under the lock of the clone's key.
struct Gate {
    is_shut: Mutex<bool>,
    opened: Condvar,
    waiting: mpsc::Sender<()>,
}

impl Gate {
    fn pass(&self) {
        let mut is_shut = self.is_shut.lock().unwrap();
        if *is_shut {
            self.waiting.send(()).unwrap();
        }
        while *is_shut {
            is_shut = self.opened.wait(is_shut).unwrap();
        }
    }

    fn shut(&self, shut: bool) {
        *self.is_shut.lock().unwrap() = shut;
        self.opened.notify_all();
    }
}

struct Gated(Option<Arc<Gate>>);

impl Clone for Gated {
    fn clone(&self) -> Self {
        if let Some(gate) = &self.0 {
            gate.pass();
        }
        Self(self.0.clone())
    }
}

struct NoBytes;

impl Codec<Gated> for NoBytes {
    fn encode(&self, _: &Gated) -> Result<Bytes, CodecError> {
        Ok(Bytes::new())
    }

    fn decode(&self, _: Bytes) -> Result<Gated, CodecError> {
        Ok(Gated(None))
    }
}

#[test]
fn a_hit_takes_no_lock_that_all_keys_share() {
    /// Long enough for any machine: it is waited for in full only if the test fails.
    const LONG: Duration = Duration::from_secs(60);
    let (waiting, waits) = mpsc::channel();
    let gate = Arc::new(Gate { is_shut: Mutex::new(false), opened: Condvar::new(), waiting });
    let runtime = runtime();
    let node = Node::local();
    let held = Arc::clone(&gate);
    let loader = move |key: Key| {
        let gate = (&key[..] == b"held").then(|| Arc::clone(&held));
        async move { Ok::<_, BoxError>(Gated(gate)) }
    };
    // A small group: it has a few shards all the same.
    let group: Group<Gated> = node.group("g").capacity(1 << 20).codec(NoBytes).loader(loader).build().unwrap();
    let others: Vec<String> = (0..32).map(|number| format!("key-{number}")).collect();
    for key in others.iter().map(String::as_str).chain(["held"]) {
        runtime.block_on(group.get(key)).unwrap_or_else(|error| panic!("{key}: {error}"));
    }
    let (done, ends) = mpsc::channel();
    let hit = |key: String| {
        let (group, done) = (group.clone(), done.clone());
        std::thread::spawn(move || {
            ready(group.get(&key)).unwrap();
            done.send(key).unwrap();
        })
    };
    gate.shut(true);
    let mut threads = vec![hit(String::from("held"))];
    waits.recv_timeout(LONG).expect("a hit waits in its clone");
    threads.push(hit(String::from("held")));
    waits.recv_timeout(LONG).expect("so does another of the same key: the first does not keep it from its clone");
    threads.extend(others.into_iter().map(hit));
    let first = ends.recv_timeout(LONG);
    gate.shut(false);
    for thread in threads {
        thread.join().unwrap();
    }
    assert_ne!(first.expect("some keys have another lock"), "held");
}
