//! Any key comes back as itself and any value as it was, whichever way it goes, with every codec, for as long as it
//! lives and no longer.

#![cfg(feature = "test-util")]
#![allow(clippy::unchecked_time_subtraction, reason = "the times are chosen so that none is below zero")]

#[path = "support/counting.rs"]
mod counting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use counting::{Cluster, Runs, now, pass, settled, until};
use futures::FutureExt;
use peerage::{
    BoxError, Codec, CodecError, Entry, Error, GetOptions, Group, Key, Loaded, MemoryNetwork, Node, Prost, Raw, Shared,
    Source, Value,
};
use tokio::sync::Semaphore;
use tokio::time::{advance, sleep};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MIB: usize = 1 << 20;

/// Two nodes that talk over gRPC.
async fn over_grpc<V: Value>(build: impl Fn(usize, &Node) -> Group<V>) -> (Vec<Node>, Vec<Group<V>>) {
    let mut nodes = Vec::new();
    for _ in 0..2 {
        // Under load, a connection may take its time.
        let builder = Node::builder("127.0.0.1:0").alone().connect_timeout(60 * SECOND).keep_alive_timeout(60 * SECOND);
        nodes.push(builder.start().await.unwrap());
    }
    let groups = nodes.iter().enumerate().map(|(index, node)| build(index, node)).collect();
    let addresses: Vec<String> = nodes.iter().map(|node| node.address().to_string()).collect();
    for node in &nodes {
        node.set_peers(&addresses).await.unwrap();
    }
    settled(&nodes).await;
    (nodes, groups)
}

fn index_of_owner(nodes: &[Node], key: &[u8]) -> usize {
    let placement = nodes[0].placement();
    nodes.iter().position(|node| node.name() == placement.owner_of(key)).unwrap()
}

/// Keys that something might stumble over.
fn odd_keys() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = [
        "",
        " ",
        "  ",
        " a ",
        "+",
        "a+b",
        "/",
        "//",
        "a/b",
        ".",
        "..",
        "../..",
        "%2F",
        "%",
        "%00",
        "?a=b&c#d",
        "\\",
        "\"",
        "'",
        "\0",
        "a\0b",
        "\n",
        "\r\n",
        "\t",
        "\u{feff}",
        "é",
        "e\u{301}",
        "名前",
        "🦀",
        "👩‍👩‍👧",
        "\u{10ffff}",
        "null",
        "key:",
        "-bin",
        "grpc-status",
    ]
    .iter()
    .map(|key| key.as_bytes().to_vec())
    .collect();
    keys.extend([vec![0xff], vec![0xc3, 0x28], vec![0, 0xff, 0], (0..=255).collect(), vec![0; 100]]);
    keys.extend([vec![b'k'; Key::MAX_LEN - 1], vec![b'k'; Key::MAX_LEN], vec![0xff; Key::MAX_LEN]]);
    // The 64 KiB end up somewhere; these end up everywhere.
    keys.extend((0..8_u8).map(|last| [vec![0xfe; Key::MAX_LEN - 1], vec![last]].concat()));
    keys
}

fn echo(_: usize, node: &Node) -> Group<Bytes> {
    // A loader of the key's own bytes behind a mark, so that no value is mistaken for a key.
    let loader = |key: Key| async move { Ok::<_, BoxError>(Bytes::from([b"=", key.as_bytes()].concat())) };
    node.group("odd/groups +%2F\0🦀").loader(loader).build().unwrap()
}

async fn any_key_comes_back_as_itself(nodes: &[Node], groups: &[Group<Bytes>]) {
    let keys = odd_keys();
    let value = |key: &[u8]| Bytes::from([b"=", key].concat());
    for index in 0..nodes.len() {
        assert!(keys.iter().any(|key| index_of_owner(nodes, key) == index), "node {index} owns none of the keys");
    }
    for asker in groups {
        for key in &keys {
            assert_eq!(asker.get(key).await.unwrap(), value(key), "{}", key.escape_ascii());
        }
        for (key, got) in keys.iter().zip(asker.get_many(&keys).await) {
            assert_eq!(got.unwrap(), value(key), "{}", key.escape_ascii());
        }
    }
    for asker in groups {
        for key in &keys {
            let owner = &groups[index_of_owner(nodes, key)];
            assert_eq!(owner.peek(key), Some(value(key)), "{}", key.escape_ascii());
            let receipt = asker.insert(key, Bytes::from_static(b"inserted")).await.unwrap();
            assert!(receipt.stored() && receipt.is_everywhere());
            assert_eq!(owner.peek(key).unwrap(), "inserted");
            assert_eq!(asker.get(key).await.unwrap(), "inserted", "{}", key.escape_ascii());
            asker.remove(key).await.unwrap().everywhere().unwrap();
            assert!(groups.iter().all(|group| group.peek(key).is_none()), "{}", key.escape_ascii());
            assert_eq!(asker.get(key).await.unwrap(), value(key), "{}", key.escape_ascii());
        }
    }
    for asker in groups {
        asker.remove_many(&keys).await.unwrap().everywhere().unwrap();
        assert!(keys.iter().all(|key| groups.iter().all(|group| group.peek(key).is_none())));
        let loads: u64 = groups.iter().map(|group| group.stats().loads.found).sum();
        asker.get_many(&keys).await.into_iter().for_each(|got| drop(got.unwrap()));
        let later: u64 = groups.iter().map(|group| group.stats().loads.found).sum();
        assert_eq!(later - loads, keys.len() as u64, "each was gone and is loaded once: no two are taken for the same");
    }
    let long = vec![b'k'; Key::MAX_LEN + 1];
    for asker in groups {
        let too_long = |error| matches!(error, Error::KeyTooLong { len, limit } if (len, limit) == (65_537, 65_536));
        assert!(too_long(asker.get(&long).await.unwrap_err()));
        assert!(too_long(asker.get_opt(&long).await.unwrap_err()));
        assert!(too_long(asker.get_with(&long, GetOptions::new()).await.unwrap_err()));
        assert!(too_long(asker.insert(&long, Bytes::new()).await.unwrap_err()));
        assert!(too_long(asker.remove(&long).await.unwrap_err()));
        assert_eq!(asker.peek(&long), None);
        let mut got = asker.get_many([&keys[0], &long, &keys[1]]).await;
        assert!(too_long(got.remove(1).unwrap_err()) && got.iter().all(Result::is_ok));
        // A removal that contains one removes nothing.
        assert!(too_long(asker.remove_many([&keys[0], &long]).await.unwrap_err()));
        assert!(groups[index_of_owner(nodes, &keys[0])].peek(&keys[0]).is_some());
    }
    for group in groups {
        let stats = group.stats();
        assert_eq!(
            (stats.fetches.loaded_here, stats.fetches.stood_in, stats.gets.failed() - stats.gets.failed_other),
            (0, 0, 0)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn any_key_comes_back_as_itself_on_the_in_process_network() {
    let cluster = Cluster::start(2, echo).await;
    any_key_comes_back_as_itself(&cluster.nodes, &cluster.groups).await;
    cluster.end().await;
}

#[tokio::test]
async fn any_key_comes_back_as_itself_over_grpc() {
    let (nodes, groups) = over_grpc(echo).await;
    any_key_comes_back_as_itself(&nodes, &groups).await;
}

/// A loader of as many bytes as the key says, after its first colon.
fn sized(_: usize, node: &Node) -> Group<Bytes> {
    let loader = |key: Key| async move {
        let size = key.as_str().unwrap().split(':').nth(1).unwrap().parse()?;
        Ok::<_, BoxError>(patterned(size))
    };
    node.group("g")
        .capacity(room_for_16_mib())
        .timeout(300 * SECOND)
        .removal_timeout(300 * SECOND)
        .loader(loader)
        .build()
        .unwrap()
}

/// A capacity of which every shard has room for a value of 16 MiB, main or hot, however many cores there are.
fn room_for_16_mib() -> usize {
    let shards = std::thread::available_parallelism().unwrap().get() * 4;
    shards.next_power_of_two() * 160 * MIB
}

fn patterned(size: usize) -> Bytes {
    let mut value = vec![0_u8; size];
    for (place, byte) in value.iter_mut().enumerate().step_by(997) {
        *byte = u8::try_from(place % 251).unwrap();
    }
    if let Some(last) = value.last_mut() {
        *last = 0xee;
    }
    value.into()
}

async fn any_value_up_to_16_mib_arrives_whole(nodes: &[Node], groups: &[Group<Bytes>]) {
    let key_of = |owner: usize, size: usize, from: usize| {
        let keys = (from..).map(|number| format!("{number}:{size}"));
        keys.into_iter().find(|key| index_of_owner(nodes, key.as_bytes()) == owner).unwrap()
    };
    for size in [0, 1, 100, 65_535, MIB, 5 * MIB + 200_000, 16 * MIB] {
        for owner in 0..2 {
            let (key, inserted, value) = (key_of(owner, size, 0), key_of(owner, size, 1000), patterned(size));
            for group in groups {
                assert!(group.get(&key).await.unwrap() == value, "{size} bytes");
                let receipt = group.insert(&inserted, value.clone()).await.unwrap();
                assert!(receipt.stored(), "{size} bytes");
                let got = group.get_many([&key, &inserted]).await;
                assert!(got.into_iter().all(|got| got.unwrap() == value), "{size} bytes");
            }
            assert_eq!(groups[owner].peek(&inserted).unwrap().len(), size);
        }
    }
    // With the longest key too.
    let pad = "0".repeat(Key::MAX_LEN - 20);
    let long = (1000..9999)
        .map(|number| format!("{pad}{number}:{:0>15}", 16 * MIB))
        .find(|key| index_of_owner(nodes, key.as_bytes()) == 0);
    let long = long.unwrap();
    assert_eq!(long.len(), Key::MAX_LEN);
    assert_eq!(groups[1].get(&long).await.unwrap().len(), 16 * MIB);
    assert!(groups[1].insert(&long, patterned(16 * MIB)).await.unwrap().stored());
    let loads: u64 = groups.iter().map(|group| group.stats().loads.found).sum();
    assert_eq!(loads, 2 * 7 + 1, "each was loaded once, by its owner");
    for owner in 0..2 {
        let key = key_of(owner, 16 * MIB + 1, 0);
        for group in groups {
            let too_large = |error| matches!(error, Error::ValueTooLarge { len, limit } if (len, limit) == (16 * MIB + 1, 16 * MIB));
            assert!(too_large(group.get(&key).await.unwrap_err()));
            assert!(too_large(group.insert(&key, patterned(16 * MIB + 1)).await.unwrap_err()));
            assert!(groups.iter().all(|group| group.peek(&key).is_none()));
        }
        let loads = groups[owner].stats().loads;
        assert_eq!(loads.failed, 2, "the owner loaded for each that asked, and nobody else did");
    }
    assert!(groups.iter().all(|group| group.stats().fetches.loaded_here == 0 && group.stats().cache.refusals == 0));
}

#[tokio::test(start_paused = true)]
async fn any_value_up_to_16_mib_arrives_whole_on_the_in_process_network() {
    let cluster = Cluster::start(2, sized).await;
    any_value_up_to_16_mib_arrives_whole(&cluster.nodes, &cluster.groups).await;
    cluster.end().await;
}

#[tokio::test]
async fn any_value_up_to_16_mib_arrives_whole_over_grpc() {
    let (nodes, groups) = over_grpc(sized).await;
    any_value_up_to_16_mib_arrives_whole(&nodes, &groups).await;
}

#[tokio::test(start_paused = true)]
async fn a_value_larger_than_a_shard_is_handed_out_and_not_kept() {
    let cluster = Cluster::start(2, |_, node| {
        let loader = |_: Key| async { Ok::<_, BoxError>(patterned(MIB)) };
        node.group("g").capacity(MIB / 2).loader(loader).build::<Bytes>().unwrap()
    })
    .await;
    let key = cluster.key_of(0, 0);
    for group in &cluster.groups {
        assert_eq!(group.get(&key).await.unwrap().len(), MIB);
        assert!(!group.insert(&key, patterned(MIB)).await.unwrap().stored());
    }
    let stats = cluster.groups[0].stats();
    assert_eq!((stats.loads.found, stats.cache.main_entries, stats.cache.refusals), (2, 0, 4));
    // A small group has four shards.
    assert_eq!(stats.cache.max_entry_bytes, MIB as u64 / 8);
}

/// The largest entry that a group of values of this type keeps on the node.
fn largest<V>(node: &Node, capacity: usize) -> usize
where
    V: Value + Default,
    Raw: Codec<V>,
{
    let loader = |_: Key| async { Ok::<_, BoxError>(V::default()) };
    let group = node.group(format!("{capacity} {}", std::any::type_name::<V>())).capacity(capacity).loader(loader);
    usize::try_from(group.build::<V>().unwrap().stats().cache.max_entry_bytes).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_largest_entry_is_a_shard_without_what_is_set_aside_for_encoded_values() {
    let (alone, nodes) = (Node::local(), MemoryNetwork::new().start(2).await.unwrap());
    for capacity in [MIB, 4 * MIB, 16 * MIB] {
        assert_eq!(largest::<Bytes>(&nodes[0], capacity), capacity / 4);
        assert_eq!(largest::<Vec<u8>>(&nodes[0], capacity), capacity / 4 * 7 / 8);
        assert_eq!(largest::<Vec<u8>>(&alone, capacity), capacity / 4);
    }
    for capacity in [100_000, MIB / 2, 20 * MIB, 32 * MIB, 64 * MIB, 100 * MIB, 1 << 30] {
        let shard = (capacity / 4).min(4 * MIB);
        // What an entry costs is rounded, by a part in a thousand at most.
        let least = shard - shard / 1000;
        assert!(largest::<Bytes>(&nodes[0], capacity) >= least, "{capacity}");
        assert!(largest::<String>(&nodes[0], capacity) >= least * 7 / 8, "{capacity}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_kept_up_to_the_hot_share_of_the_largest_entry() {
    let cluster = Cluster::start(2, |_, node| {
        let loader = |key: Key| async move { Ok::<_, BoxError>(patterned(key.as_str().unwrap().len() << 10)) };
        node.group("g").capacity(4 * MIB).hot_share(0.25).loader(loader).build::<Bytes>().unwrap()
    })
    .await;
    let group = &cluster.groups[0];
    assert_eq!(group.stats().cache.max_entry_bytes, MIB as u64);
    let key_of_length = |length: usize| {
        let mut keys = (0..1000).map(|number| format!("{number:0>length$}"));
        keys.find(|key| index_of_owner(&cluster.nodes, key.as_bytes()) == 1).unwrap()
    };
    // One in so many answers is kept.
    let fits = key_of_length(250);
    while group.peek(&fits).is_none() {
        assert_eq!(group.get(&fits).await.unwrap().len(), 250 << 10);
    }
    assert_eq!(group.stats().cache.refusals, 0);
    let too_large = key_of_length(260);
    while group.stats().cache.refusals == 0 {
        assert_eq!(group.get(&too_large).await.unwrap().len(), 260 << 10);
        assert!(group.peek(&too_large).is_none());
    }
    cluster.end().await;
}

/// That values of a type cross the wire with a codec, one loaded and one inserted.
async fn crosses<V, C>(codec: C, first: V, second: V)
where
    V: Value + PartialEq + std::fmt::Debug,
    C: Codec<V> + Clone,
{
    let runs = Runs::default();
    let cluster = Cluster::start(2, |index, node| {
        let (value, runs) = (first.clone(), runs.clone());
        let loader = move |key: Key| {
            runs.begin(index, [key]);
            let value = value.clone();
            async move { Ok::<_, BoxError>(Loaded::value(value)) }
        };
        node.group("g").codec(codec.clone()).loader(loader).build::<V>().unwrap()
    })
    .await;
    for owner in 0..2 {
        let key = cluster.key_of(owner, 0);
        for group in &cluster.groups {
            assert_eq!(group.get(&key).await.unwrap(), first);
            assert_eq!(group.get_many([&key, &key]).await.pop().unwrap().unwrap(), first);
        }
        for group in &cluster.groups {
            assert!(group.insert(&key, second.clone()).await.unwrap().stored());
            for group in &cluster.groups {
                assert_eq!(group.get(&key).await.unwrap(), second);
            }
        }
    }
    assert_eq!((runs.on(0), runs.on(1)), (1, 1), "nothing had to be loaded again elsewhere");
}

#[derive(Clone, PartialEq, prost::Message)]
struct Airport {
    #[prost(string, tag = "1")]
    code: String,
    #[prost(double, optional, tag = "2")]
    latitude: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    near: Vec<Airport>,
}

fn airport(code: &str) -> Airport {
    let near = Airport { code: format!("near {code}"), latitude: None, near: Vec::new() };
    Airport { code: String::from(code), latitude: Some(-0.0), near: vec![near] }
}

/// Numbers, big end first: a codec of the user's own.
#[derive(Clone)]
struct BigEndian;

impl Codec<u32> for BigEndian {
    fn encode(&self, value: &u32) -> Result<Bytes, CodecError> {
        Ok(Bytes::copy_from_slice(&value.to_be_bytes()))
    }

    fn decode(&self, bytes: Bytes) -> Result<u32, CodecError> {
        Ok(u32::from_be_bytes(bytes[..].try_into().map_err(CodecError::new)?))
    }
}

#[tokio::test(start_paused = true)]
async fn every_codec_carries_its_values() {
    crosses(Raw, Bytes::new(), Bytes::from_static(b"\0\xff")).await;
    crosses(Raw, Vec::new(), vec![0_u8, 255]).await;
    crosses(Raw, String::new(), String::from("naïve 🦀\0")).await;
    crosses(Shared(Raw), Arc::new(String::from("a")), Arc::new(String::new())).await;
    crosses(Prost, Airport::default(), airport("ZRH")).await;
    crosses(Shared(Prost), Arc::new(airport("ZRH")), Arc::new(Airport::default())).await;
    crosses(BigEndian, 0, u32::MAX).await;
    crosses(Shared(BigEndian), Arc::new(7), Arc::new(8)).await;
}

#[cfg(feature = "postcard")]
#[tokio::test(start_paused = true)]
async fn postcard_carries_its_values() {
    crosses(peerage::Postcard, (), ()).await;
    crosses(peerage::Postcard, (1_u64, Some(String::from("x"))), (u64::MAX, None)).await;
    crosses(Shared(peerage::Postcard), Arc::new(vec![1.5_f64]), Arc::new(Vec::new())).await;
}

#[cfg(feature = "json")]
#[tokio::test(start_paused = true)]
async fn json_carries_its_values() {
    crosses(peerage::Json, serde_json::Value::Null, serde_json::json!({ "a": [1, null, "é"] })).await;
    crosses(Shared(peerage::Json), Arc::new(vec![Some(1)]), Arc::new(vec![None])).await;
}

/// A codec that goes wrong as it is told to.
#[derive(Clone)]
struct Faulty {
    fault: &'static str,
    decodes: Arc<AtomicUsize>,
}

impl Faulty {
    fn go_wrong(&self, here: &str) -> Result<(), CodecError> {
        assert!(self.fault != format!("{here} panics"), "a codec that panics");
        if self.fault == format!("{here} fails") { Err(CodecError::new("a codec that fails")) } else { Ok(()) }
    }
}

impl Codec<u32> for Faulty {
    fn encode(&self, value: &u32) -> Result<Bytes, CodecError> {
        self.go_wrong("encode")?;
        BigEndian.encode(value)
    }

    fn decode(&self, bytes: Bytes) -> Result<u32, CodecError> {
        self.decodes.fetch_add(1, Ordering::SeqCst);
        self.go_wrong("decode")?;
        BigEndian.decode(bytes)
    }

    fn encoded_len(&self, _: &u32) -> Result<usize, CodecError> {
        self.go_wrong("measure").map(|()| 4)
    }

    fn weight(&self, _: &u32, encoded_len: usize) -> usize {
        assert!(self.fault != "weight panics", "a codec that panics");
        encoded_len + 4
    }
}

#[tokio::test(start_paused = true)]
async fn a_codec_that_fails_or_panics_fails_its_value_and_nothing_else() {
    for (fault, owner_gets, other_gets) in [
        ("encode fails", true, false),
        ("encode panics", true, false),
        ("measure fails", false, false),
        ("measure panics", false, false),
        ("weight panics", false, false),
        // What does not decode is loaded where it was asked for.
        ("decode fails", true, true),
        ("decode panics", true, true),
    ] {
        let runs = Runs::default();
        let decodes = Arc::<AtomicUsize>::default();
        let cluster = Cluster::start(2, |index, node| {
            let runs = runs.clone();
            let loader = move |key: Key| {
                runs.begin(index, [key]);
                async { Ok::<_, BoxError>(7) }
            };
            let codec = Faulty { fault, decodes: Arc::clone(&decodes) };
            node.group("g").codec(codec).loader(loader).build::<u32>().unwrap()
        })
        .await;
        let key = cluster.key_of(0, 0);
        for (group, gets) in cluster.groups.iter().zip([owner_gets, other_gets]) {
            for _ in 0..2 {
                match group.get(&key).await {
                    Ok(value) => assert!(gets && value == 7, "{fault}"),
                    Err(Error::Codec(error)) => {
                        assert!(!gets && error.to_string().contains("codec"), "{fault}: {error}");
                    }
                    Err(error) => panic!("{fault}: {error}"),
                }
            }
        }
        let decoding = fault.starts_with("decode");
        assert_eq!(runs.on(1), usize::from(decoding), "{fault}: loaded elsewhere once, and kept");
        assert_eq!(runs.on(0), if owner_gets { 1 } else { 4 }, "{fault}");
        assert_eq!(decodes.load(Ordering::SeqCst), usize::from(decoding), "{fault}");
        for group in &cluster.groups {
            let inserted = group.insert(&key, 8).await;
            match fault {
                "decode fails" | "decode panics" => assert!(inserted.is_ok()),
                "encode fails" | "encode panics" => assert!(matches!(inserted, Err(Error::Codec(_))), "{fault}"),
                _ => {}
            }
        }
        cluster.idle().await;
        cluster.end().await;
    }
}

/// A group whose loader brings what it is told, counted.
fn living(
    runs: &Runs,
    index: usize,
    node: &Node,
    lives: fn(&Key) -> Loaded<String>,
) -> peerage::GroupBuilder<Raw, peerage::OneByOne<impl peerage::Loader<String> + use<>>> {
    let runs = runs.clone();
    let loader = move |key: Key| {
        let loaded = lives(&key);
        let running = runs.begin(index, [key]);
        async move {
            let _running = running;
            sleep(SECOND).await;
            Ok::<_, BoxError>(loaded)
        }
    };
    node.group("g").jitter(0.0).loader(loader)
}

async fn entry(group: &Group<String>, key: &str) -> Entry<String> {
    group.get_with(key, GetOptions::new()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_value_lives_exactly_as_long_as_the_group_says_or_the_loader_for_this_one() {
    let runs = Runs::default();
    let node = Node::local();
    let lives = |key: &Key| {
        let loaded = Loaded::value(String::from("v"));
        match key.as_str().unwrap() {
            "brief" => loaded.time_to_live(5 * SECOND),
            "long" => loaded.time_to_live(100 * SECOND),
            "never" => loaded.time_to_live(Duration::ZERO),
            "brief none" => Loaded::none().time_to_live(5 * SECOND),
            "never none" => Loaded::none().time_to_live(Duration::ZERO),
            "none" => Loaded::none(),
            _ => loaded,
        }
    };
    let builder = living(&runs, 0, &node, lives).time_to_live(20 * SECOND).not_found_time_to_live(10 * SECOND);
    let group = builder.build::<String>().unwrap();
    for (key, life) in [("usual", 20), ("brief", 5), ("long", 100), ("none", 10), ("brief none", 5)] {
        let life = life * SECOND;
        let found = !key.ends_with("none");
        let before = runs.total();
        assert_eq!(group.get_opt(key).await.unwrap().is_some(), found, "{key}");
        advance(life - MS).await;
        assert_eq!(group.get_opt(key).await.unwrap().is_some(), found, "{key}");
        assert_eq!(group.peek(key).is_some(), found, "{key}");
        if found {
            let entry = entry(&group, key).await;
            assert_eq!(
                (entry.time_left(), entry.age()),
                (Some(MS), life - MS + SECOND),
                "{key}: it ages from the load's beginning"
            );
        }
        assert_eq!(runs.total(), before + 1, "{key}: up to the last millisecond");
        advance(MS).await;
        assert_eq!(group.peek(key), None, "{key}");
        assert_eq!(group.get_opt(key).await.unwrap().is_some(), found, "{key}");
        assert_eq!(runs.total(), before + 2, "{key}: and not at its end");
    }
    for key in ["never", "never none"] {
        let before = runs.total();
        let (first, second) = tokio::join!(group.get_opt(key), group.get_opt(key));
        assert_eq!(first.unwrap(), second.unwrap(), "{key}: who waits for it gets it");
        assert_eq!((runs.total(), group.peek(key)), (before + 1, None), "{key}");
        let _ = group.get_opt(key).await;
        assert_eq!(runs.total(), before + 2, "{key}");
    }
    assert!(group.stats().cache.expiries >= 5, "found by gets; and some that nobody asked for again, by the sweep");
}

#[tokio::test(start_paused = true)]
async fn a_value_without_a_limit_stays_and_a_not_found_without_a_life_does_not() {
    let runs = Runs::default();
    let node = Node::local();
    let lives = |key: &Key| if &key[..] == b"none" { Loaded::none() } else { Loaded::value(String::from("v")) };
    let group = living(&runs, 0, &node, lives).not_found_time_to_live(Duration::ZERO).build::<String>().unwrap();
    group.get("k").await.unwrap();
    advance(1000 * 24 * 3600 * SECOND).await;
    assert_eq!(entry(&group, "k").await.time_left(), None);
    assert_eq!(runs.total(), 1);
    for _ in 0..3 {
        assert!(matches!(group.get("none").await, Err(Error::NotFound)));
    }
    assert_eq!(runs.total(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_insert_lives_as_long_as_the_groups_values() {
    let runs = Runs::default();
    let cluster = Cluster::start(2, |index, node| {
        living(&runs, index, node, |_| Loaded::value(String::from("loaded")))
            .time_to_live(10 * SECOND)
            .build::<String>()
            .unwrap()
    })
    .await;
    for owner in 0..2 {
        let key = cluster.key_of(owner, 0);
        for group in &cluster.groups {
            let start = now();
            assert!(group.insert(&key, String::from("inserted")).await.unwrap().stored());
            pass(10 * SECOND - MS).await;
            assert_eq!(cluster.groups[owner].peek(&key).unwrap(), "inserted");
            assert!(now() - start < 10 * SECOND);
            advance(MS).await;
            assert_eq!(cluster.groups[owner].peek(&key), None);
        }
    }
    assert_eq!(runs.total(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_insert_takes_a_life_of_its_own_along_to_the_owner() {
    let runs = Runs::default();
    let cluster = Cluster::start(2, |index, node| {
        living(&runs, index, node, |_| Loaded::value(String::from("loaded"))).time_to_live(10 * SECOND).build().unwrap()
    })
    .await;
    for owner in 0..2 {
        let key = cluster.key_of(owner, 0);
        for group in &cluster.groups {
            for life in [3 * SECOND, 60 * SECOND] {
                let inserted = Loaded::value(String::from("inserted")).time_to_live(life);
                assert!(group.insert_with(&key, inserted).await.unwrap().stored());
                pass(life - MS).await;
                assert_eq!(cluster.groups[owner].peek(&key).as_deref(), Some("inserted"), "{life:?}");
                advance(MS).await;
                assert_eq!(cluster.groups[owner].peek(&key), None, "{life:?}");
            }
            // A life of nothing is none: not stored, and what was there is gone.
            assert!(group.insert(&key, String::from("before")).await.unwrap().stored());
            let dead = Loaded::value(String::from("dead")).time_to_live(Duration::ZERO);
            let receipt = group.insert_with(&key, dead).await.unwrap();
            assert!(!receipt.stored() && receipt.is_everywhere());
            assert_eq!(cluster.groups[owner].peek(&key), None);
        }
    }
    assert_eq!(runs.total(), 0);
}

#[tokio::test(start_paused = true)]
async fn to_insert_that_there_is_none_is_to_remove() {
    let runs = Runs::default();
    let cluster = Cluster::start(2, |index, node| {
        living(&runs, index, node, |_| Loaded::value(String::from("loaded"))).build::<String>().unwrap()
    })
    .await;
    for owner in 0..2 {
        let key = cluster.key_of(owner, 0);
        for group in &cluster.groups {
            assert!(group.insert(&key, String::from("inserted")).await.unwrap().stored());
            let before = (runs.total(), group.stats().removals);
            let receipt = group.insert_with(&key, Loaded::none()).await.unwrap();
            assert!(!receipt.stored() && receipt.is_everywhere(), "{receipt:?}");
            assert!(cluster.groups.iter().all(|group| group.peek(&key).is_none()));
            // It is not remembered that there is none: the next get loads.
            assert_eq!(group.get(&key).await.unwrap(), "loaded");
            assert_eq!(runs.total(), before.0 + 1);
            let removals = group.stats().removals;
            assert_eq!(removals.removals + removals.inserts, before.1.removals + before.1.inserts + 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn jitter_shortens_lives_by_up_to_its_part_and_never_lengthens_them() {
    let node = Node::local();
    let loader = |key: Key| async move { Ok::<_, BoxError>((&key[..] != b"none").then(|| String::from("v"))) };
    let builder = node.group("g").jitter(0.25).time_to_live(100 * SECOND).not_found_time_to_live(100 * SECOND);
    let group = builder.loader(loader).build::<String>().unwrap();
    let mut lives = Vec::new();
    for number in 0..400 {
        lives.push(entry(&group, &format!("key-{number}")).await.time_left().unwrap());
    }
    assert!(lives.iter().all(|life| (75 * SECOND..=100 * SECOND).contains(life)), "{lives:?}");
    // Of 400, some fall in the first and the last tenth, but for one time in 10^18.
    assert!(lives.iter().any(|life| *life < 78 * SECOND) && lives.iter().any(|life| *life > 97 * SECOND));
    let mean = lives.iter().sum::<Duration>() / 400;
    assert!((85 * SECOND..90 * SECOND).contains(&mean), "{mean:?}");
}

#[tokio::test(start_paused = true)]
async fn a_copy_never_outlives_the_original() {
    for way in [Duration::ZERO, 50 * MS] {
        let runs = Runs::default();
        let cluster = Cluster::start(2, |index, node| {
            living(&runs, index, node, |_| Loaded::value(String::from("v")))
                .time_to_live(20 * SECOND)
                .build::<String>()
                .unwrap()
        })
        .await;
        cluster.network.delay("node-1:1", "node-2:1", way);
        let (key, owner, other) = (cluster.key_of(0, 0), &cluster.groups[0], &cluster.groups[1]);
        let loaded = entry(other, &key).await;
        assert_eq!(loaded.source(), &Source::Peer(cluster.nodes[0].name().clone()));
        let end = now() + owner_left(owner, &key).await;
        let mut asked = 0;
        while other.peek(&key).is_none() {
            advance(10 * MS).await;
            let copy = entry(other, &key).await;
            let left = copy.time_left().unwrap();
            assert!(
                now() + left <= end && now() + left + 2 * way >= end,
                "{left:?} left, {:?} before the end",
                end - now()
            );
            assert!(copy.age() + left <= 21 * SECOND + way && copy.age() + left + 2 * way >= 21 * SECOND);
            asked += 1;
            assert!(asked < 140, "one in ten is kept");
        }
        let copy = entry(other, &key).await;
        assert_eq!(copy.source(), &Source::Hot);
        let left = copy.time_left().unwrap();
        assert!(now() + left <= end && now() + left + 2 * way >= end);
        pass(left - MS).await;
        assert_eq!(other.peek(&key).unwrap(), "v");
        advance(MS).await;
        assert_eq!(other.peek(&key), None, "the copy is gone");
        assert_eq!(runs.total(), 1);
        pass(end - now()).await;
        assert_eq!(owner.peek(&key), None, "and so is the original");
        let again = entry(other, &key).await;
        assert_eq!((again.age() <= SECOND + 2 * way, runs.total()), (true, 2));
    }
}

async fn owner_left(owner: &Group<String>, key: &str) -> Duration {
    let entry = entry(owner, key).await;
    assert_eq!(entry.source(), &Source::Main);
    entry.time_left().unwrap()
}

/// A codec that takes its time, which a paused clock sees.
#[derive(Clone)]
struct Slow(Arc<AtomicBool>);

impl Codec<String> for Slow {
    fn encode(&self, value: &String) -> Result<Bytes, CodecError> {
        if self.0.load(Ordering::SeqCst) {
            let _ = advance(SECOND).now_or_never();
        }
        Raw.encode(value)
    }

    fn decode(&self, bytes: Bytes) -> Result<String, CodecError> {
        if self.0.load(Ordering::SeqCst) {
            let _ = advance(SECOND).now_or_never();
        }
        Raw.decode(bytes)
    }

    fn encoded_len(&self, value: &String) -> Result<usize, CodecError> {
        Ok(value.len())
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_does_not_outlive_the_original_for_the_time_that_its_codec_takes() {
    let slow = Arc::<AtomicBool>::default();
    let cluster = Cluster::start(2, |_, node| {
        let loader = |_: Key| async { Ok::<_, BoxError>(String::from("v")) };
        let builder = node.group("g").codec(Slow(Arc::clone(&slow))).jitter(0.0).time_to_live(60 * SECOND);
        builder.loader(loader).build::<String>().unwrap()
    })
    .await;
    let (key, owner, other) = (cluster.key_of(0, 0), &cluster.groups[0], &cluster.groups[1]);
    owner.get(&key).await.unwrap();
    let end = now() + owner_left(owner, &key).await;
    slow.store(true, Ordering::SeqCst);
    for _ in 0..10 {
        let copy = entry(other, &key).await;
        assert!(
            now() + copy.time_left().unwrap() <= end,
            "{:?} left, {:?} before the end",
            copy.time_left(),
            end - now()
        );
        assert!(copy.age() + copy.time_left().unwrap() <= 60 * SECOND + SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_value_without_a_limit_has_none_and_a_not_found_is_never_copied() {
    let loads = Arc::<AtomicU64>::default();
    let cluster = Cluster::start(2, |_, node| {
        let loads = Arc::clone(&loads);
        let loader = move |key: Key| {
            loads.fetch_add(1, Ordering::SeqCst);
            async move { Ok::<_, BoxError>((!key.ends_with(b"0")).then(|| String::from("v"))) }
        };
        node.group("g").jitter(0.0).loader(loader).build::<String>().unwrap()
    })
    .await;
    let found =
        (1..10_000).map(|number| format!("key-{number}1")).find(|key| cluster.owner_of(key.as_bytes()) == 0).unwrap();
    let none =
        (1..10_000).map(|number| format!("key-{number}0")).find(|key| cluster.owner_of(key.as_bytes()) == 0).unwrap();
    let other = &cluster.groups[1];
    while other.peek(&found).is_none() {
        assert_eq!(entry(other, &found).await.time_left(), None);
    }
    assert_eq!(entry(other, &found).await.time_left(), None);
    for _ in 0..100 {
        assert_eq!(other.get_opt(&none).await.unwrap(), None);
    }
    assert_eq!(loads.load(Ordering::SeqCst), 2);
    assert_eq!(other.stats().cache.hot_entries, 1);
    advance(5 * SECOND).await;
    // Over for the owner, over for everybody.
    assert_eq!(other.get_opt(&none).await.unwrap(), None);
    assert_eq!(loads.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn hot_copies_are_switched_off_by_a_share_of_nothing() {
    let cluster = Cluster::start(2, |_, node| {
        let loader = |_: Key| async { Ok::<_, BoxError>(String::from("v")) };
        node.group("g").hot_share(0.0).loader(loader).build::<String>().unwrap()
    })
    .await;
    let key = cluster.key_of(0, 0);
    for _ in 0..200 {
        assert_eq!(cluster.groups[1].get(&key).await.unwrap(), "v");
    }
    let stats = cluster.groups[1].stats();
    assert_eq!((stats.gets.fetched, stats.cache.hot_entries, stats.cache.hot_bytes), (200, 0, 0));
}

/// Counts how often it encodes.
struct Counted(Arc<AtomicUsize>);

impl Codec<String> for Counted {
    fn encode(&self, value: &String) -> Result<Bytes, CodecError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Bytes::from(value.clone()))
    }

    fn decode(&self, bytes: Bytes) -> Result<String, CodecError> {
        String::from_utf8(bytes.into()).map_err(CodecError::new)
    }

    fn encoded_len(&self, value: &String) -> Result<usize, CodecError> {
        Ok(value.len())
    }
}

#[tokio::test(start_paused = true)]
async fn what_peers_ask_for_again_and_again_is_encoded_twice_and_again_when_it_changes() {
    let (encodes, version) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let cluster = Cluster::start(2, |_, node| {
        let version = Arc::clone(&version);
        let loader = move |key: Key| {
            let version = version.load(Ordering::SeqCst);
            async move { Ok::<_, BoxError>(format!("{key} at {version}")) }
        };
        node.group("g").codec(Counted(Arc::clone(&encodes))).hot_share(0.0).loader(loader).build().unwrap()
    })
    .await;
    let key = (0..100).map(|n| format!("k{n}")).find(|key| cluster.owner_of(key.as_bytes()) == 1).unwrap();
    let (asker, owner) = (&cluster.groups[0], &cluster.groups[1]);
    for change in 0..3 {
        version.store(change, Ordering::SeqCst);
        match change {
            0 => {}
            1 => asker.remove(&key).await.unwrap().everywhere().unwrap(),
            _ => owner.insert(&key, format!("{key} at {change}")).await.unwrap().everywhere().unwrap(),
        }
        // What an insert encodes for itself does not count.
        encodes.store(0, Ordering::SeqCst);
        for _ in 0..10 {
            assert_eq!(asker.get(&key).await.unwrap(), format!("{key} at {change}"));
        }
        assert_eq!(encodes.load(Ordering::SeqCst), 2, "change {change}");
        let cache = owner.stats().cache;
        assert!(cache.encoded_bytes > 0 && asker.stats().cache.encoded_bytes == 0, "{cache:?}");
    }
    owner.clear().await.unwrap().everywhere().unwrap();
    assert_eq!(owner.stats().cache.encoded_bytes, 0);
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_many_peers_wait_for_is_encoded_once_for_all_and_once_more_for_all_who_come_later() {
    let (encodes, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let cluster = Cluster::start(8, |_, node| {
        let gate = Arc::clone(&gate);
        let loader = move |key: Key| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await?.forget();
                Ok::<_, BoxError>("x".repeat(key.to_string().parse()?))
            }
        };
        node.group("g").codec(Counted(Arc::clone(&encodes))).hot_share(0.0).loader(loader).build().unwrap()
    })
    .await;
    let (owner, peers) = cluster.groups.split_first().unwrap();
    for size in [1_usize, 1 << 10] {
        let lens = (size << 10)..(size + 1) << 10;
        let key = lens.map(|len| len.to_string()).find(|key| cluster.owner_of(key.as_bytes()) == 0).unwrap();
        let joined = owner.stats().served.joined;
        let gets: Vec<_> = peers
            .iter()
            .map(|group| {
                let (group, key) = (group.clone(), key.clone());
                tokio::spawn(async move { group.get(&key).await.unwrap().len() })
            })
            .collect();
        until("all wait for one load", || owner.stats().served.joined == joined + 6).await;
        encodes.store(0, Ordering::SeqCst);
        gate.add_permits(1);
        for get in gets {
            assert_eq!(get.await.unwrap().to_string(), key);
        }
        assert_eq!(encodes.load(Ordering::SeqCst), 1, "{key}");
        for group in peers.iter().chain(peers) {
            group.get(&key).await.unwrap();
        }
        assert_eq!(encodes.load(Ordering::SeqCst), 2, "{key}");
        assert_eq!(owner.stats().loads.calls, if size == 1 { 1 } else { 2 });
    }
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn large_values_are_encoded_twice_too_and_their_bytes_are_counted() {
    const CAPACITY: usize = 64 << 20;
    let encodes = Arc::new(AtomicUsize::new(0));
    let cluster = Cluster::start(2, |_, node| {
        let loader = |key: Key| async move { Ok::<_, BoxError>("x".repeat(key.to_string().parse()?)) };
        let group = node.group("g").codec(Counted(Arc::clone(&encodes))).hot_share(0.0).capacity(CAPACITY);
        group.loader(loader).build().unwrap()
    })
    .await;
    let (asker, owner) = (&cluster.groups[0], &cluster.groups[1]);
    let lens: Vec<usize> = [1, 60, 100, 300, 1 << 10, 3 << 10]
        .map(|size| {
            (size << 10..(size + 1) << 10).find(|len| cluster.owner_of(len.to_string().as_bytes()) == 1).unwrap()
        })
        .into();
    for len in &lens {
        owner.get(&len.to_string()).await.unwrap();
        encodes.store(0, Ordering::SeqCst);
        for _ in 0..10 {
            assert_eq!(asker.get(&len.to_string()).await.unwrap().len(), *len);
        }
        assert_eq!(encodes.load(Ordering::SeqCst), 2, "{len}");
    }
    for len in &lens {
        asker.get(&len.to_string()).await.unwrap();
    }
    assert_eq!(encodes.load(Ordering::SeqCst), 2, "all are kept at the same time");
    let (cache, sum) = (owner.stats().cache, lens.iter().sum::<usize>() as u64);
    assert!((sum..sum + 2000).contains(&cache.encoded_bytes), "{cache:?}");
    assert!(cache.main_bytes + cache.encoded_bytes <= CAPACITY as u64);
    let last = lens[lens.len() - 1];
    asker.remove(&last.to_string()).await.unwrap().everywhere().unwrap();
    assert!(owner.stats().cache.encoded_bytes < cache.encoded_bytes - last as u64);
    owner.clear().await.unwrap().everywhere().unwrap();
    assert_eq!(owner.stats().cache.encoded_bytes, 0);
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_older_than_its_node_says_so() {
    let network = MemoryNetwork::new();
    let build = |node: &Node| -> Group<String> {
        node.group("g").loader(|_: Key| async { Ok::<_, BoxError>(String::from("old")) }).build().unwrap()
    };
    let old = network.node("old:1").alone().start().await.unwrap();
    let groups = [build(&old)];
    let lists = ["old:1", "new:1"];
    old.set_peers(lists).await.unwrap();
    let owned = |key: &String| *old.placement().owner_of(key) == "old:1";
    let key = (0..100).map(|number| number.to_string()).find(owned).unwrap();
    groups[0].get(&key).await.unwrap();
    sleep(60 * SECOND).await;
    let new = network.node("new:1").peers(lists).start().await.unwrap();
    let group = build(&new);
    let entry = group.get_with(&key, GetOptions::new()).await.unwrap();
    assert_eq!((entry.age(), entry.source()), (60 * SECOND, &Source::Peer("old:1".into())));
}
