//! Owners that are killed, go silent, come back; links that flap or work one way: about one load per key, and nobody
//! waits for the same dead peer twice.

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/sockets.rs"]
mod sockets;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use futures::future::join_all;
use peerage::{Error, GetOptions, MemoryNetwork, Node, PeerState};

use cluster::{Cluster, Member, Source, keys_ranked, ms, timed, until};
use sockets::{Process, Proxy};

/// Asks all of `members` for all `keys` at once: the answers, and how long all of them took.
async fn ask_all<'a>(members: impl IntoIterator<Item = &'a Member>, keys: &[String]) -> Duration {
    let gets = members.into_iter().flat_map(|member| keys.iter().map(|key| (member.group.clone(), key.clone())));
    let gets = gets.map(async |(group, key)| {
        assert!(group.get(&key).await.unwrap().starts_with(&format!("{key}@")));
    });
    timed(join_all(gets)).await.1
}

#[tokio::test(start_paused = true)]
async fn when_an_owner_is_cut_off_all_nodes_send_its_key_to_the_same_stand_in() {
    let cluster = Cluster::start(5).await;
    let keys = cluster.keys_ranked(&[0, 1], 20);
    cluster.cut_off(0);
    cluster.until_down(0).await;
    let took = ask_all(&cluster.members[1..], &keys).await;
    assert_eq!(took, Duration::ZERO, "nobody waits for a peer that is known to be down");
    for key in &keys {
        assert_eq!(cluster.source.loads_of(key), 1, "{key}");
        assert_eq!(cluster.source.loads_on("node-2:1", key), 1, "the next rank stands in for {key}");
    }
    // And again, as often as one likes: the stand-in keeps what it loaded.
    ask_all(&cluster.members[1..], &keys).await;
    assert_eq!(cluster.source.loads(), 20);
}

#[tokio::test(start_paused = true)]
async fn gets_in_flight_when_the_owner_is_cut_off_are_answered_by_one_more_load() {
    let cluster = Cluster::start(4).await;
    cluster.source.set_delay(ms(300));
    let key = cluster.keys_ranked(&[0, 1], 1);
    let gets = ask_all(&cluster.members[1..], &key);
    let cut = async {
        tokio::time::sleep(ms(100)).await;
        cluster.cut_off(0);
    };
    let (took, ()) = futures::join!(gets, cut);
    assert_eq!(took, ms(400), "100 ms at the owner, then a load of the stand-in");
    assert_eq!(cluster.source.loads_on("node-1:1", &key[0]), 1);
    assert_eq!(cluster.source.loads_on("node-2:1", &key[0]), 1);
    assert_eq!(cluster.source.loads(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_is_shut_down_hands_its_keys_to_the_stand_in_without_a_failed_get() {
    let mut cluster = Cluster::start(4).await;
    let keys = cluster.keys_ranked(&[0, 1], 10);
    cluster.source.set_delay(ms(200));
    let leaver = cluster.members.remove(0);
    let before = ask_all(&cluster.members, &keys);
    let leave = async {
        tokio::time::sleep(ms(50)).await;
        let report = leaver.node.shutdown(Duration::from_secs(5)).await;
        assert!(report.is_clean(), "{report:?}");
    };
    let (took, ()) = futures::join!(before, leave);
    assert_eq!(took, ms(200), "a node that leaves answers what it has begun");
    assert_eq!(cluster.source.loads(), 10);
    let took = ask_all(&cluster.members, &keys).await;
    assert!(took <= ms(200), "{took:?}");
    for key in &keys {
        assert!(cluster.source.loads_of(key) <= 2, "{key}");
        assert!(cluster.source.loads_on("node-2:1", key) <= 1, "{key}");
        assert_eq!(cluster.source.loads_on("node-3:1", key) + cluster.source.loads_on("node-4:1", key), 0, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_noticed_within_two_seconds_and_paid_for_once() {
    let cluster = Cluster::start(4).await;
    let keys = cluster.keys_ranked(&[0, 2], 10);
    cluster.black_hole(0);
    let took = ask_all(&cluster.members[1..], &keys).await;
    assert!(took <= Duration::from_secs(2), "{took:?}");
    assert!(took > Duration::from_secs(1), "the loss could not be known at once: {took:?}");
    for key in &keys {
        assert_eq!((cluster.source.loads_of(key), cluster.source.loads_on("node-3:1", key)), (1, 1), "{key}");
    }
    // From now on it is known.
    let more = cluster.keys_ranked(&[0, 1], 50);
    for key in &more {
        assert_eq!(ask_all(&cluster.members[1..], std::slice::from_ref(key)).await, Duration::ZERO);
        // Tries to reach it go on meanwhile; no get pays for them.
        tokio::time::sleep(ms(97)).await;
    }
    assert!(more.iter().all(|key| cluster.source.loads_of(key) == 1));
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_is_back_serves_again_without_a_restart_of_anybody() {
    for silent in [false, true] {
        let cluster = Cluster::start(3).await;
        let keys = cluster.keys_ranked(&[0], 10);
        if silent {
            cluster.black_hole(0);
        } else {
            cluster.cut_off(0);
        }
        cluster.until_down(0).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        cluster.network.heal_all();
        let ((), took) = timed(cluster.until_whole()).await;
        assert!(took <= ms(2100), "the pause between tries is a second at most, and a try ends within one: {took:?}");
        ask_all(&cluster.members[1..], &keys).await;
        for key in &keys {
            assert_eq!((cluster.source.loads_of(key), cluster.source.loads_on("node-1:1", key)), (1, 1), "{key}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_was_killed_and_started_anew_serves_again() {
    let mut cluster = Cluster::start(3).await;
    let keys = cluster.keys_ranked(&[0], 10);
    ask_all(&cluster.members, &keys).await;
    cluster.cut_off(0);
    drop(cluster.members.remove(0));
    let others = &cluster.members;
    until("the loss is noticed", || others.iter().all(|member| member.sees_down("node-1:1"))).await;
    ask_all(others, &keys).await;
    assert!(keys.iter().all(|key| cluster.source.loads_of(key) <= 2), "one load by the owner, one by the stand-in");
    tokio::time::sleep(Duration::from_secs(30)).await;
    cluster.network.heal_all();
    let all = ["node-1:1", "node-2:1", "node-3:1"];
    let node = cluster.network.node("node-1:1").peers(all).start().await.unwrap();
    let back = Member::new(node, &cluster.source);
    until("the owner is back", || others.iter().all(Member::sees_all_up)).await;
    cluster.source.forget_loads();
    // Copies that others kept may answer; who loads is the owner, once.
    ask_all(others.iter().chain([&back]), &keys).await;
    for key in &keys {
        assert_eq!((cluster.source.loads_of(key), cluster.source.loads_on("node-1:1", key)), (1, 1), "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_loader_is_not_a_dead_peer() {
    let (network, source) = (MemoryNetwork::new(), Source::default());
    source.set_delay(Duration::from_secs(30));
    let nodes = network.start(3).await.unwrap();
    let build = |node: Node| {
        let builder = node.group("g").timeout(Duration::from_secs(60)).load_timeout(Duration::from_secs(60));
        let group = builder.loader(source.loader(node.name().as_str())).build().unwrap();
        Member { node, group }
    };
    let members: Vec<Member> = nodes.into_iter().map(build).collect();
    let key = &keys_ranked(&members[0].node.placement(), &["node-1:1".to_string()], 1)[0];
    let patient = timed(members[1].group.get(key));
    let hasty = timed(members[2].group.get_with(key, GetOptions::new().timeout(Duration::from_secs(5))));
    let ((patient, long), (hasty, brief)) = futures::join!(patient, hasty);
    assert_eq!((patient.unwrap(), long), (format!("{key}@0"), Duration::from_secs(30)));
    assert!(matches!(hasty, Err(Error::Timeout { limit }) if limit == Duration::from_secs(5)), "{hasty:?}");
    assert_eq!(brief, Duration::from_secs(5), "a caller waits for its own limit");
    assert_eq!(source.loads(), 1);
    for member in &members[1..] {
        let owner = member.node.stats().peers.into_iter().find(|peer| peer.name == *"node-1:1").unwrap();
        assert_eq!((owner.state, owner.failures), (PeerState::Up, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn peers_that_never_existed_delay_nothing() {
    let (network, source) = (MemoryNetwork::new(), Source::default());
    let (node, took) = timed(network.node("a:1").peers(["a:1", "nobody:1", "noone:1"]).start()).await;
    assert_eq!(took, Duration::ZERO);
    let member = Member::new(node.unwrap(), &source);
    for number in 0..100 {
        assert_eq!(timed(member.group.get(&format!("key-{number}"))).await.1, Duration::ZERO);
    }
    assert_eq!(source.loads(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_silent_from_the_start_costs_the_connect_limit_once() {
    let (network, source) = (MemoryNetwork::new(), Source::default());
    network.black_hole("a:1", "b:1");
    let (node, took) = timed(network.node("a:1").peers(["a:1", "b:1"]).start()).await;
    assert_eq!(took, Duration::ZERO);
    let member = Member::new(node.unwrap(), &source);
    let keys = keys_ranked(&member.node.placement(), &["b:1".to_string()], 20);
    assert!(ask_all([&member], &keys[..10]).await <= Duration::from_secs(1));
    assert_eq!(ask_all([&member], &keys[10..]).await, Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(10)).await;
    member.group.clear().await.unwrap().everywhere().expect_err("the peer is down");
    assert_eq!(ask_all([&member], &keys).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn with_two_of_five_nodes_down_each_key_is_still_loaded_once() {
    let cluster = Cluster::start(5).await;
    cluster.cut_off(0);
    cluster.black_hole(1);
    cluster.until_down(0).await;
    let alive = &cluster.members[2..];
    until("both losses are noticed", || alive.iter().all(|member| member.sees_down("node-2:1"))).await;
    let both = [cluster.keys_ranked(&[0, 1, 3], 10), cluster.keys_ranked(&[1, 0, 3], 10)].concat();
    assert_eq!(ask_all(alive, &both).await, Duration::ZERO);
    for key in &both {
        assert_eq!((cluster.source.loads_of(key), cluster.source.loads_on("node-4:1", key)), (1, 1), "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_stand_in_that_fails_too_is_followed_by_a_load_of_ones_own() {
    let cluster = Cluster::start(4).await;
    cluster.source.set_delay(ms(100));
    let key = &cluster.keys_ranked(&[0, 1, 2, 3], 1);
    // Both are lost in one moment, and only one of them is known to be.
    cluster.cut_off(0);
    let get = ask_all(&cluster.members[3..], key);
    let cut = async {
        tokio::time::sleep(ms(50)).await;
        cluster.cut_off(1);
    };
    let (took, ()) = futures::join!(get, cut);
    assert_eq!(took, ms(150), "at most one stand-in is asked");
    assert_eq!(cluster.source.loads_on("node-4:1", &key[0]), 1);
    assert_eq!(cluster.members[3].group.stats().fetches.loaded_here, 1);
}

#[tokio::test(start_paused = true)]
async fn every_key_that_a_stand_in_is_asked_for_is_counted_also_when_the_owner_is_known_to_be_down() {
    let cluster = Cluster::start(4).await;
    let keys = cluster.keys_ranked(&[0, 1], 20);
    cluster.cut_off(0);
    cluster.until_down(0).await;
    let group = &cluster.members[2].group;
    for key in &keys[..10] {
        group.get(key).await.unwrap();
    }
    assert!(group.get_many(&keys[10..]).await.iter().all(Result::is_ok));
    let fetches = group.stats().fetches;
    assert_eq!((fetches.stood_in, fetches.keys, fetches.messages, fetches.loaded_here), (20, 20, 11, 0));
    assert!(keys.iter().all(|key| cluster.source.loads_on("node-2:1", key) == 1));
}

#[tokio::test(start_paused = true)]
async fn one_stand_in_is_asked_and_no_second_one_also_when_the_owner_is_known_to_be_down() {
    let cluster = Cluster::start(4).await;
    let key = &cluster.keys_ranked(&[0, 1, 2, 3], 1);
    cluster.cut_off(0);
    cluster.until_down(0).await;
    // The stand-in is silent, and nobody knows it yet.
    cluster.black_hole(1);
    let took = ask_all(&cluster.members[3..], key).await;
    assert!(took > Duration::from_secs(1) && took <= Duration::from_secs(2), "the stand-in was asked: {took:?}");
    assert_eq!((cluster.source.loads_on("node-4:1", &key[0]), cluster.source.loads()), (1, 1));
    let fetches = cluster.members[3].group.stats().fetches;
    assert_eq!((fetches.stood_in, fetches.loaded_here), (1, 1));
    assert_eq!(cluster.members[2].group.stats().served.total(), 0, "the third rank was not asked");
}

#[tokio::test(start_paused = true)]
async fn a_stand_in_keeps_what_is_too_large_for_its_share_of_copies() {
    const SIZE: usize = 800 << 10;
    let (network, source) = (MemoryNetwork::new(), Source::default());
    let nodes = network.start(3).await.unwrap();
    let build = |node: Node| {
        let counted = source.loader(node.name().as_str());
        let loader = move |key| {
            let counted = counted(key);
            async move { counted.await.map(|value| value + &" ".repeat(SIZE)) }
        };
        // One shard, of which copies may take half a mebibyte.
        let group = node.group("g").capacity(4 << 20).loader(loader).build().unwrap();
        Member { node, group }
    };
    let cluster = Cluster { network, members: nodes.into_iter().map(build).collect(), source: source.clone() };
    cluster.until_whole().await;
    let key = &cluster.keys_ranked(&[0, 1], 1)[0];
    cluster.cut_off(0);
    cluster.until_down(0).await;
    for _ in 0..50 {
        assert!(cluster.members[2].group.get(key).await.unwrap().len() > SIZE);
    }
    assert_eq!((source.loads_on("node-2:1", key), source.loads()), (1, 1));
    // What was fetched, and not loaded, keeps to the share.
    let cache = cluster.members[2].group.stats().cache;
    assert_eq!((cache.main_entries, cache.hot_entries), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn no_get_pays_for_a_peer_that_reaches_us_and_is_not_reached() {
    for silent in [false, true] {
        let cluster = Cluster::start(3).await;
        let theirs = cluster.keys_ranked(&[0], 40);
        let ours = cluster.keys_ranked(&[1], 40);
        if silent {
            // Its requests arrive here, ours never get there.
            cluster.network.black_hole_one_way("node-2:1", "node-1:1");
        } else {
            cluster.network.cut_one_way("node-2:1", "node-1:1");
        }
        until("it is lost", || cluster.members[1].sees_down("node-1:1")).await;
        for (theirs, ours) in theirs.iter().zip(&ours) {
            let inbound = cluster.members[0].group.get(ours);
            let (_, took) = futures::join!(inbound, ask_all(&cluster.members[1..2], std::slice::from_ref(theirs)));
            assert_eq!(took, Duration::ZERO, "silent: {silent}");
            assert!(!cluster.members[1].sees_up("node-1:1"));
            tokio::time::sleep(ms(53)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn flapping_links_fail_no_get() {
    let cluster = Cluster::start(3).await;
    let keys = cluster.keys_ranked(&[0], 200);
    let flapping = async {
        for _ in 0..40 {
            tokio::time::sleep(ms(70)).await;
            cluster.cut_off(0);
            tokio::time::sleep(ms(130)).await;
            cluster.network.heal_all();
        }
    };
    let gets = async {
        for key in &keys {
            let took = ask_all(&cluster.members[1..], std::slice::from_ref(key)).await;
            assert_eq!(took, Duration::ZERO);
            tokio::time::sleep(ms(31)).await;
        }
    };
    futures::join!(flapping, gets);
    for key in &keys {
        assert!(cluster.source.loads_of(key) <= 2, "{key}: once at the owner, once at its stand-in");
    }
    cluster.until_whole().await;
}

/// A cluster over gRPC: each node in a runtime of its own, reached through a proxy. They are called `a`, `b`, `c`, ...
struct RealCluster {
    source: Source,
    proxies: Vec<Proxy>,
    processes: Vec<Process>,
}

impl RealCluster {
    async fn start(count: usize) -> Self {
        let source = Source::default();
        let proxies = join_all((0..count).map(|_| Proxy::start())).await;
        let mut cluster = Self { source, proxies, processes: Vec::new() };
        for index in 0..count {
            let process = Process::start(cluster.builder(index), &cluster.source);
            cluster.proxies[index].lead_to(process.member().node.address());
            cluster.processes.push(process);
        }
        cluster.until_whole().await;
        cluster
    }

    fn name(index: usize) -> String {
        ["a", "b", "c", "d"][index].to_string()
    }

    /// The list leaves out the node itself, which is not to be found at its proxy's address.
    fn builder(&self, index: usize) -> peerage::NodeBuilder {
        let listed = self.proxies.iter().enumerate().filter(|(other, _)| *other != index);
        let listed = listed.map(|(other, proxy)| peerage::Member::new(proxy.address()).named(Self::name(other)));
        Node::builder("127.0.0.1:0").name(Self::name(index)).peers(listed.collect::<Vec<_>>())
    }

    fn members(&self) -> Vec<&Member> {
        self.processes.iter().filter_map(|process| process.member.as_ref()).collect()
    }

    async fn until_whole(&self) {
        until("all nodes reach each other", || self.members().iter().all(|member| member.sees_all_up())).await;
    }

    async fn until_down(&self, index: usize) {
        let name = Self::name(index);
        let others = self.members().into_iter().filter(|member| member.name() != name).collect::<Vec<_>>();
        until("the loss is noticed", || others.iter().all(|member| member.sees_down(&name))).await;
    }

    fn keys_ranked(&self, first: &[usize], count: usize) -> Vec<String> {
        let names: Vec<String> = first.iter().map(|&index| Self::name(index)).collect();
        keys_ranked(&self.members()[0].node.placement(), &names, count)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc_a_killed_owner_costs_about_one_load_per_key_and_comes_back() {
    let mut cluster = RealCluster::start(4).await;
    let keys = cluster.keys_ranked(&[0, 1], 30);
    // A load that never ends by itself is in flight on the owner when it dies.
    cluster.source.set_delay(Duration::from_secs(600));
    let group = cluster.members()[2].group.clone();
    let doomed = tokio::spawn({
        let key = keys[0].clone();
        async move { group.get(&key).await }
    });
    until("the load is in flight", || cluster.source.loads_on("a", &keys[0]) == 1).await;
    cluster.source.set_delay(Duration::ZERO);
    cluster.processes[0].kill();
    assert_eq!(doomed.await.unwrap().unwrap(), format!("{}@0", keys[0]), "answered by the stand-in");
    cluster.until_down(0).await;
    cluster.source.forget_loads();
    ask_all(cluster.members(), &keys[1..]).await;
    for key in &keys[1..] {
        assert_eq!((cluster.source.loads_of(key), cluster.source.loads_on("b", key)), (1, 1), "{key}");
    }
    // It comes back at another port behind its address; nobody else is started anew.
    let process = Process::start(cluster.builder(0), &cluster.source);
    cluster.proxies[0].lead_to(process.member().node.address());
    cluster.processes[0] = process;
    cluster.until_whole().await;
    let fresh = cluster.keys_ranked(&[0, 1], 60).split_off(30);
    ask_all(cluster.members(), &fresh).await;
    for key in &fresh {
        assert_eq!((cluster.source.loads_of(key), cluster.source.loads_on("a", key)), (1, 1), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc_a_silent_owner_is_noticed_stood_in_for_and_taken_back() {
    let cluster = RealCluster::start(3).await;
    let keys = cluster.keys_ranked(&[0, 1], 40);
    cluster.proxies[0].fall_silent();
    // Asked before anybody can know: all are answered, by one load of the stand-in each.
    let members = cluster.members();
    ask_all(members[1..].iter().copied(), &keys[..20]).await;
    cluster.until_down(0).await;
    // The silent node hears nobody through its proxy, but it reaches the others: they must not believe that it is back.
    ask_all(members[1..].iter().copied(), &keys[20..]).await;
    for key in &keys {
        assert_eq!((cluster.source.loads_of(key), cluster.source.loads_on("b", key)), (1, 1), "{key}");
    }
    cluster.proxies[0].speak();
    cluster.until_whole().await;
    let fresh = cluster.keys_ranked(&[0, 1], 60).split_off(40);
    ask_all(members.iter().copied(), &fresh).await;
    for key in &fresh {
        assert_eq!((cluster.source.loads_of(key), cluster.source.loads_on("a", key)), (1, 1), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc_a_slow_loader_is_not_a_dead_peer() {
    let cluster = RealCluster::start(2).await;
    let key = &cluster.keys_ranked(&[0], 1)[0];
    // Longer than it takes to notice silence.
    cluster.source.set_delay(Duration::from_secs(4));
    let members = cluster.members();
    assert_eq!(members[1].group.get(key).await.unwrap(), format!("{key}@0"));
    assert_eq!((cluster.source.loads(), cluster.source.loads_on("a", key)), (1, 1));
    let owner = members[1].node.stats().peers.into_iter().find(|peer| peer.name == *"a").unwrap();
    assert_eq!((owner.state, owner.failures), (PeerState::Up, 0));
}

/// How slow a link may become.
const MOST_DELAY: Duration = Duration::from_millis(300);

/// A cluster of five to which anything may happen.
struct Chaos {
    seed: u64,
    network: MemoryNetwork,
    source: Source,
    addresses: Vec<String>,
    keys: Vec<String>,
    /// With its incarnation; `None` while it is dead.
    nodes: Vec<RefCell<Option<(u64, Member)>>>,
    /// How many gets each incarnation was asked.
    asked: RefCell<BTreeMap<u64, u64>>,
}

impl Chaos {
    async fn new(seed: u64) -> Self {
        let (network, source) = (MemoryNetwork::new(), Source::default());
        let addresses: Vec<String> = (1..=5).map(|number| format!("node-{number}:1")).collect();
        let nodes = addresses.iter().map(|_| RefCell::default()).collect();
        let keys = (0..40).map(|number| format!("key-{number}")).collect();
        let chaos = Self { seed, network, source, addresses, keys, nodes, asked: RefCell::default() };
        for index in 0..chaos.addresses.len() {
            chaos.start(index).await;
        }
        chaos
    }

    async fn start(&self, index: usize) {
        let node = self.network.node(&self.addresses[index]).peers(&self.addresses).start().await.unwrap();
        let incarnation = node.stats().incarnation;
        *self.nodes[index].borrow_mut() = Some((incarnation, Member::new(node, &self.source)));
    }

    /// All its links are cut, and it ends where it stands.
    async fn kill(&self, index: usize) {
        let Some((incarnation, member)) = self.nodes[index].take() else { return };
        for other in self.addresses.iter().filter(|other| **other != self.addresses[index]) {
            self.network.cut(&self.addresses[index], other);
        }
        self.check_counts(incarnation, &member);
        member.node.shutdown(Duration::ZERO).await;
    }

    /// Hits and misses add up to the gets that have ended.
    fn check_counts(&self, incarnation: u64, member: &Member) {
        let asked = self.asked.borrow().get(&incarnation).copied().unwrap_or_default();
        let counted = member.group.stats().gets.total();
        assert_eq!(counted, asked, "seed {}: {}", self.seed, member.name());
    }

    async fn one_fault(&self, rng: &mut Rng) {
        let (one, other) = (rng.usize(0..5), rng.usize(0..5));
        let (a, b) = (&self.addresses[one], &self.addresses[other]);
        match rng.u32(0..100) {
            0..15 => self.network.cut(a, b),
            15..25 => self.network.cut_one_way(a, b),
            25..40 => self.network.black_hole(a, b),
            40..50 => self.network.black_hole_one_way(a, b),
            50..70 => self.network.heal(a, b),
            70..75 => self.network.heal_all(),
            75..80 => self.network.delay(a, b, rng.u32(0..=100) * MOST_DELAY / 100),
            80..86 => self.kill(one).await,
            86..94 => {
                if self.nodes[one].borrow().is_none() {
                    self.addresses.iter().for_each(|other| self.network.heal(&self.addresses[one], other));
                    self.start(one).await;
                }
            }
            _ => {
                let node = self.nodes[one].borrow().as_ref().map(|(_, member)| member.node.clone());
                let listed: Vec<_> = self.addresses.iter().filter(|_| rng.bool()).chain([a]).cloned().collect();
                if let Some(node) = node {
                    node.set_peers(listed).await.unwrap();
                }
            }
        }
    }

    async fn faults(&self) {
        let mut rng = Rng::with_seed(self.seed);
        for _ in 0..80 {
            tokio::time::sleep(ms(rng.u64(0..800))).await;
            self.one_fault(&mut rng).await;
        }
    }

    async fn worker(&self, number: u64) {
        let mut rng = Rng::with_seed(self.seed * 1000 + number);
        for _ in 0..150 {
            tokio::time::sleep(ms(rng.u64(0..400))).await;
            let node = &self.nodes[rng.usize(0..5)];
            let asked = node.borrow().as_ref().map(|(incarnation, member)| (*incarnation, member.group.clone()));
            let Some((incarnation, group)) = asked else { continue };
            let key = &self.keys[rng.usize(0..self.keys.len())];
            if rng.u32(0..10) == 0 {
                let (receipt, took) = timed(group.remove(key)).await;
                assert!(took <= Duration::from_secs(2), "seed {}: a removal took {took:?}", self.seed);
                let _ = receipt.map(|receipt| receipt.is_everywhere());
                continue;
            }
            let (value, took) = timed(group.get(key)).await;
            *self.asked.borrow_mut().entry(incarnation).or_default() += 1;
            let context = format!("seed {}: {key} after {took:?}", self.seed);
            match value {
                Ok(value) => assert_eq!(value, format!("{key}@0"), "{context}"),
                Err(Error::Closed) => assert!(matches!(group.get(key).await, Err(Error::Closed)), "{context}: it runs"),
                Err(error) => panic!("{context}: {error}"),
            }
            // Twice the silence (owner, then stand-in), a connect, delays and loads: far within the group's 15 s.
            assert!(took <= Duration::from_secs(8), "{context}");
        }
    }

    /// Everything is mended; from here on all is as if nothing had happened.
    async fn check_healed(&self) {
        self.network.heal_all();
        // What was sent before that still crosses as slowly, and what follows it on its connection not before it.
        tokio::time::sleep(MOST_DELAY).await;
        for index in 0..5 {
            let node = self.nodes[index].borrow().as_ref().map(|(_, member)| member.node.clone());
            match node {
                Some(node) => node.set_peers(&self.addresses).await.unwrap(),
                None => self.start(index).await,
            }
        }
        let (incarnations, members): (Vec<u64>, Vec<Member>) =
            self.nodes.iter().map(|node| node.take().unwrap()).unzip();
        until("all is mended", || members.iter().all(Member::sees_all_up)).await;
        until("nobody differs", || members.iter().all(|member| member.node.stats().disagreeing().count() == 0)).await;
        for (incarnation, member) in incarnations.into_iter().zip(&members) {
            self.check_counts(incarnation, member);
            assert_eq!(member.group.stats().flights, 0, "seed {}: nothing is left in flight", self.seed);
        }
        members[0].group.clear().await.unwrap().everywhere().unwrap();
        self.source.forget_loads();
        assert!(ask_all(&members, &self.keys).await <= ms(50), "seed {}", self.seed);
        for key in &self.keys {
            let owner = members[0].node.placement().owner_of(key).to_string();
            let loads = (self.source.loads_of(key), self.source.loads_on(&owner, key));
            assert_eq!(loads, (1, 1), "seed {}: {key} is loaded by its owner, once", self.seed);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_gets_are_answered_in_time_and_in_the_end_all_is_as_before() {
    for seed in 0..30 {
        let chaos = Chaos::new(seed).await;
        chaos.source.set_delay(ms(50));
        let workers = join_all((0..10).map(|number| chaos.worker(number)));
        futures::join!(workers, chaos.faults());
        chaos.check_healed().await;
    }
}

// In real time: a node that asks without a pause leaves a paused clock where it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_drains_behind_a_lost_connection_is_not_greeted_without_a_pause() {
    let cluster = Cluster::start(2).await;
    let [asking, draining] = &cluster.members[..] else { unreachable!() };
    cluster.source.set_delay(ms(600_000));
    let load = draining.ask(&cluster.keys_ranked(&[1], 1)[0]);
    until("the load runs", || cluster.source.loads() == 1).await;
    let node = draining.node.clone();
    let shutdown = tokio::spawn(async move { node.shutdown(ms(600_000)).await });
    let (from, to) = (asking.address(), draining.address());
    let hellos = || cluster.network.messages(&from, &to).hello;
    let is_draining = || asking.state_of(&draining.name()) == Some(PeerState::Draining);
    until("it has said goodbye", is_draining).await;
    let before = hellos();
    cluster.network.reset(&from, &to);
    until("it is found to be draining", || is_draining() && hellos() > before).await;
    assert!(hellos() <= before + 2, "{} hellos", hellos() - before);
    shutdown.abort();
    load.abort();
}
