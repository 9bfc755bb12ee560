//! Lists of nodes: that differ, that change, that make no sense; and peers that are none of ours.

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/log.rs"]
mod log;

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use futures::future::join_all;
use peerage::{
    ConfigError, Group, Member as Listed, MemoryNetwork, Node, NodeBuilder, PeerState, SelfCheck, StartError,
};

use cluster::{Cluster, Member, Source, keys_ranked, ms, timed, until};

async fn member(builder: NodeBuilder, source: &Source) -> Member {
    Member::new(builder.start().await.unwrap(), source)
}

/// Whether a node cannot use a peer, for a reason that says all of these.
fn refuses(member: &Member, peer: &str, words: &[&str]) -> bool {
    match member.state_of(peer) {
        Some(PeerState::Refused { why }) => words.iter().all(|word| why.contains(word)),
        _ => false,
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_name_each_other_as_the_owner_load_once_each_and_never_wait_in_a_circle() {
    let (network, source) = (MemoryNetwork::new(), Source::default());
    // Each believes that the other takes nearly everything.
    let a = member(network.node("a:1").peers([Listed::new("b:1").weight(50)]), &source).await;
    let b = member(network.node("b:1").peers([Listed::new("a:1").weight(50)]), &source).await;
    until("they have met", || a.sees_up("b:1") && b.sees_up("a:1")).await;
    let crossed =
        |key: &String| *a.node.placement().owner_of(key) == *"b:1" && *b.node.placement().owner_of(key) == *"a:1";
    let keys: Vec<String> = (0..).map(|number| format!("key-{number}")).filter(crossed).take(50).collect();
    source.set_delay(ms(100));
    let gets = keys.iter().flat_map(|key| [(&a, key), (&b, key), (&a, key)]);
    for (value, took) in join_all(gets.map(|(member, key)| timed(member.group.get(key)))).await {
        value.unwrap();
        assert_eq!(took, ms(100), "one load, and no wait for anything else");
    }
    for key in &keys {
        assert_eq!((source.loads_on("a:1", key), source.loads_on("b:1", key)), (1, 1), "{key}");
    }
    for (here, there) in [(&a, "b:1"), (&b, "a:1")] {
        let stats = here.node.stats();
        let differing: Vec<_> = stats.disagreeing().collect();
        assert_eq!(differing.len(), 1);
        assert_eq!((differing[0].name.as_str(), differing[0].listed), (there, true));
        let differs = differing[0].differs.as_ref().unwrap();
        assert_eq!(differs.other_weight.len(), 2, "{differs:?}");
        assert_ne!(differing[0].fingerprint, Some(stats.fingerprint));
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_list_different_members_answer_within_one_load_and_show_who_differs() {
    let (network, source) = (MemoryNetwork::new(), Source::default());
    log::start();
    let a = member(network.node("a:1").peers(["a:1", "b:1"]), &source).await;
    let b = member(network.node("b:1").peers(["b:1", "c:1"]), &source).await;
    let c = member(network.node("c:1").peers(["a:1", "b:1", "c:1"]), &source).await;
    let all = [&a, &b, &c];
    until("they have met", || all.iter().all(|member| member.sees_all_up())).await;
    source.set_delay(ms(100));
    let keys: Vec<String> = (0..60).map(|number| format!("key-{number}")).collect();
    let gets = keys.iter().flat_map(|key| all.map(|member| (member, key)));
    for (value, took) in join_all(gets.map(|(member, key)| timed(member.group.get(key)))).await {
        value.unwrap();
        assert_eq!(took, ms(100));
    }
    for key in &keys {
        let owners: BTreeSet<_> = all.map(|member| member.node.placement().owner_of(key).to_string()).into();
        for member in all {
            let loads = source.loads_on(&member.name(), key);
            assert_eq!(loads, u64::from(owners.contains(&member.name())), "{key} on {}", member.name());
        }
    }
    let of = |member: &Member, name: &str| member.node.stats().disagreeing().find(|peer| peer.name == *name).cloned();
    let there = of(&a, "b:1").unwrap().differs.unwrap();
    assert_eq!((there.only_here.len(), there.only_there.len()), (1, 1), "{there:?}");
    assert_eq!((there.only_here[0].as_str(), there.only_there[0].as_str()), ("a:1", "c:1"));
    // a lists b, and b does not list a; so with c.
    for (here, stranger) in [(&b, "a:1"), (&a, "c:1")] {
        let stranger = of(here, stranger).unwrap();
        assert!(!stranger.listed && stranger.address.is_empty() && stranger.differs.is_some());
    }
    assert!(!log::says(&["lists other members"]), "a difference has to last");
    tokio::time::sleep(Duration::from_secs(20)).await;
    for peer in ["peer=a:1", "peer=b:1", "peer=c:1"] {
        assert!(log::says(&["lists other members", peer]), "{peer}");
    }
    // The lists are set right: nobody differs any more, and each node is shown once.
    for member in all {
        member.node.set_peers(["a:1", "b:1", "c:1"]).await.unwrap();
    }
    for member in all {
        let stats = member.node.stats();
        let names: BTreeSet<_> = stats.peers.iter().map(|peer| peer.name.clone()).collect();
        assert_eq!((names.len(), stats.peers.len()), (2, 2), "{:?}", stats.peers);
    }
    let agreed = || all.iter().all(|member| member.node.stats().disagreeing().count() == 0);
    let ((), took) = timed(until("they agree", agreed)).await;
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_set_at_once_from_eight_tasks_end_in_one_placement_and_its_connections() {
    let (network, source) = (MemoryNetwork::new(), Source::default());
    let own = "node-0:1";
    let others: Vec<String> = (1..=8).map(|number| format!("node-{number}:1")).collect();
    let mut peers = Vec::new();
    for address in &others {
        peers.push(network.node(address).alone().start().await.unwrap());
    }
    let node = member(network.node(own).alone(), &source).await;
    for seed in 0..8 {
        let mut rng = Rng::with_seed(seed);
        let mut last: Vec<String> = others.iter().filter(|_| rng.bool()).cloned().collect();
        last.push(others[rng.usize(0..8)].clone());
        let tasks = (0..8).map(|task| {
            let (node, others, mut last) = (node.node.clone(), others.clone(), last.clone());
            let mut rng = Rng::with_seed(seed * 100 + task);
            tokio::spawn(async move {
                for _ in 0..15 {
                    let listed: Vec<String> = (0..rng.usize(1..12)).map(|_| others[rng.usize(0..8)].clone()).collect();
                    node.set_peers(&listed).await.unwrap();
                }
                rng.shuffle(&mut last);
                // With or without itself, and some of it twice.
                last.extend((task % 2 == 0).then(|| String::from("node-0:1")));
                last.extend_from_within(..usize::from(task % 3 == 0));
                node.set_peers(&last).await.unwrap();
            })
        });
        // Gets go on meanwhile, on whatever placement there is.
        let asking = async {
            for number in 0..200 {
                node.group.get(&format!("key-{seed}-{number}")).await.unwrap();
            }
        };
        let (ended, ()) = futures::join!(join_all(tasks), asking);
        for task in ended {
            task.unwrap();
        }
        let elsewhere = MemoryNetwork::new();
        let fresh = elsewhere.node(own).peers(&last).start().await.unwrap();
        let (stats, expected) = (node.node.stats(), fresh.stats());
        assert_eq!((stats.fingerprint, &stats.members), (expected.fingerprint, &expected.members), "seed {seed}");
        for number in 0..500 {
            let key = format!("key-{number}");
            assert_eq!(node.node.placement().ranked_for(&key), fresh.placement().ranked_for(&key), "seed {seed}");
        }
        for name in &stats.members {
            assert_eq!(node.node.placement().slots_of(name.as_str()), fresh.placement().slots_of(name.as_str()));
        }
        let wanted: BTreeSet<String> = last.into_iter().collect();
        until("the connections are those of the list", || {
            let opened: Vec<String> =
                network.connections().into_iter().filter(|(from, _)| from == own).map(|(_, to)| to).collect();
            opened.len() == wanted.len() && opened.into_iter().collect::<BTreeSet<_>>() == wanted
        })
        .await;
        until("all of them answer", || node.sees_all_up()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_makes_no_sense_is_refused_and_the_one_before_stays() {
    let (network, source) = (MemoryNetwork::new(), Source::default());
    let node = member(network.node("a:1").peers(["a:1", "b:1"]), &source).await;
    let before = node.node.stats().fingerprint;
    let named = |address: &str, name: &str| Listed::new(address).named(name);
    for (case, list, wanted) in [
        ("empty", vec![], "alone"),
        ("no port", vec![Listed::new("b")], "host:port"),
        ("port 0", vec![Listed::new("b:0")], "host:port"),
        ("a sign in the port", vec![Listed::new("b:+1")], "host:port"),
        ("a URL", vec![Listed::new("http://b:1")], "host:port"),
        ("IPv6 without brackets", vec![Listed::new("::1:7400")], "host:port"),
        ("no name", vec![named("b:1", "")], "name"),
        ("a long name", vec![named("b:1", &"x".repeat(256))], "name"),
        ("no weight", vec![Listed::new("b:1").weight(0)], "weight"),
        ("too much weight", vec![Listed::new("b:1").weight(Listed::MAX_WEIGHT + 1)], "weight"),
        ("one name, two addresses", vec![named("b:1", "b"), named("b:2", "b")], "twice"),
        ("one node, two weights", vec![Listed::new("b:1"), Listed::new("b:1").weight(2)], "twice"),
        ("two names, one address", vec![named("b:1", "b"), named("b:1", "c")], "address of its own"),
        ("another self", vec![Listed::new("a:1").weight(2)], "built as"),
        ("self by another name", vec![named("a:1", "me")], "built as"),
    ] {
        let error = node.node.set_peers(list).await.expect_err(case);
        assert!(error.to_string().contains(wanted), "{case}: {error}");
        assert_eq!(node.node.stats().fingerprint, before, "{case}");
    }
    node.node.set_alone().await.unwrap();
    assert_eq!(node.node.stats().members.len(), 1);
    let unsaid = network.node("c:1").start().await.unwrap_err();
    assert!(matches!(unsaid, StartError::Config(ConfigError::NoPeers)), "{unsaid}");
    let empty = network.node("c:1").peers::<&str>([]).start().await.unwrap_err();
    assert!(matches!(empty, StartError::Config(ConfigError::NoPeers)), "{empty}");
    // What failed to start listens nowhere.
    assert_eq!(network.node("c:1").alone().start().await.unwrap().stats().members.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_local_node_takes_no_peers() {
    let node = Node::local();
    assert_eq!(node.set_peers(["a:1"]).await, Err(ConfigError::Local));
    assert_eq!(node.set_alone().await, Ok(()));
    assert_eq!((node.stats().self_check, node.stats().members.len()), (SelfCheck::NotNeeded, 1));
}

#[tokio::test(start_paused = true)]
async fn a_node_with_a_name_keeps_its_slice_when_its_address_changes() {
    let (network, source) = (MemoryNetwork::new(), Source::default());
    let list = |address: &str| [Listed::new(address).named("one"), Listed::new("b:1").named("two")];
    let one = member(network.node("a:1").name("one").peers(list("a:1")), &source).await;
    let two = member(network.node("b:1").name("two").peers(list("a:1")), &source).await;
    until("they have met", || two.sees_up("one")).await;
    let before = two.node.stats();
    let keys = keys_ranked(&two.node.placement(), &["one".to_string()], 20);
    assert!(one.node.shutdown(Duration::from_secs(1)).await.is_clean());
    let moved = member(network.node("a:2").name("one").peers(list("a:2")), &source).await;
    two.node.set_peers(list("a:2")).await.unwrap();
    let after = two.node.stats();
    assert_eq!((before.fingerprint, before.share.to_bits()), (after.fingerprint, after.share.to_bits()));
    assert_eq!(after.peers[0].address, "a:2");
    for key in &keys {
        assert_eq!(timed(two.group.get(key)).await.1, Duration::ZERO);
        assert_eq!(source.loads_on("one", key), 1);
    }
    assert_eq!(source.loads(), 20);
    assert_eq!(moved.group.stats().served.total(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_node_takes_as_much_of_the_keyspace_as_its_weight_says() {
    let network = MemoryNetwork::new();
    let list = [Listed::new("a:1"), Listed::new("b:1").weight(2), Listed::new("c:1").weight(4)];
    for (address, weight) in [("a:1", 1), ("b:1", 2), ("c:1", 4)] {
        let node = network.node(address).weight(weight).peers(list.clone()).start().await.unwrap();
        let fair = f64::from(weight) / 7.0;
        assert!((node.stats().share / fair - 1.0).abs() < 0.05, "{address}: {}", node.stats().share);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_of_another_cluster_is_refused_in_words_and_stood_in_for_at_once() {
    let (network, source) = (MemoryNetwork::new(), Source::default());
    log::start();
    let list = ["a:1", "b:1", "c:1"];
    let a = member(network.node("a:1").cluster("blue").peers(list), &source).await;
    let b = member(network.node("b:1").cluster("green").peers(list), &source).await;
    let c = member(network.node("c:1").cluster("blue").peers(list), &source).await;
    until("both sides say so", || refuses(&a, "b:1", &["blue", "green"]) && refuses(&b, "a:1", &["blue", "green"]))
        .await;
    assert!(log::says(&["refused", "blue", "green"]) && log::says(&["none of ours"]));
    until("the others have met", || a.sees_up("c:1") && c.sees_up("a:1") && !c.sees_up("b:1")).await;
    let keys = keys_ranked(&a.node.placement(), &["b:1".to_string(), "c:1".to_string()], 20);
    for key in &keys {
        assert_eq!(timed(a.group.get(key)).await.1, Duration::ZERO);
        assert_eq!((source.loads_of(key), source.loads_on("c:1", key)), (1, 1), "like one that cannot be reached");
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let connections = network.connections();
    assert!(connections.contains(&("a:1".into(), "b:1".into())), "the connection lives on: {connections:?}");
    assert!(refuses(&a, "b:1", &["green"]));
    // It is started anew as one of ours.
    assert!(b.node.shutdown(Duration::from_secs(1)).await.is_clean());
    let b = member(network.node("b:1").cluster("blue").peers(list), &source).await;
    until("it is taken back", || a.sees_up("b:1") && c.sees_up("b:1") && b.sees_all_up()).await;
}

/// Two nodes that have met, and keys that the second owns; what is logged is kept.
struct Pair {
    network: MemoryNetwork,
    source: Source,
    a: Member,
    b: Member,
    keys: Vec<String>,
}

impl Pair {
    async fn meet() -> Self {
        let (network, source) = (MemoryNetwork::new(), Source::default());
        log::start();
        let a = member(network.node("a:1").peers(["a:1", "b:1"]), &source).await;
        let b = member(network.node("b:1").peers(["a:1", "b:1"]), &source).await;
        until("they have met", || a.sees_all_up() && b.sees_all_up()).await;
        let keys = keys_ranked(&a.node.placement(), &["b:1".to_string()], 10);
        Self { network, source, a, b, keys }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_peer_cannot_serve_is_loaded_here_and_said_why() {
    let Pair { source, a, b, keys, .. } = Pair::meet().await;
    let build = |member: &Member, name: &str, schema: u32| -> Group<String> {
        member.node.group(name).schema(schema).loader(source.loader(&member.name())).build().unwrap()
    };
    let only_here = build(&a, "only here", 0);
    let (newer, _older) = (build(&a, "schema", 2), build(&b, "schema", 1));
    let text = build(&a, "bytes", 0);
    let bytes = |_| async { Ok::<_, std::io::Error>(vec![0xff_u8, 0xfe]) };
    let _bytes: Group<Vec<u8>> = b.node.group("bytes").loader(bytes).build().unwrap();
    for (case, group) in [("unknown group", &only_here), ("other schema", &newer), ("undecodable", &text)] {
        source.forget_loads();
        for key in &keys {
            let (value, took) = timed(group.get(key)).await;
            assert_eq!((value.unwrap(), took), (format!("{key}@0"), Duration::ZERO), "{case}");
            assert_eq!(source.loads_on("a:1", key), 1, "{case}");
        }
        let many = group.get_many((0..50).map(|number| format!("more-{number}"))).await;
        assert!(many.iter().all(Result::is_ok), "{case}");
        assert!(group.stats().fetches.loaded_here >= 10, "{case}");
        assert!(a.sees_up("b:1"), "{case}: the peer is well");
    }
    assert!(
        log::says(&["no group", "only here"]) && log::says(&["schema", "1", "2"]) && log::says(&["does not decode"])
    );
    // The connection serves other groups as before.
    source.forget_loads();
    a.group.get(&keys[0]).await.unwrap();
    assert_eq!(source.loads_on("b:1", &keys[0]), 1);
    // What the two cannot share they can still remove.
    newer.remove(&keys[0]).await.unwrap().everywhere().unwrap();
    let receipt = newer.insert(&keys[0], "v@1".into()).await.unwrap();
    assert!(!receipt.stored() && receipt.is_everywhere(), "{receipt:?}");
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_counts_every_refusal_and_says_so_once() {
    let Pair { network, source, a, b: _b, keys } = Pair::meet().await;
    let only_here: Group<String> = a.node.group("only here").loader(source.loader("a:1")).build().unwrap();
    for key in &keys[..5] {
        only_here.get(key).await.unwrap();
    }
    assert!(only_here.get_many(&keys[5..]).await.iter().all(Result::is_ok));
    let fetches = only_here.stats().fetches;
    assert_eq!((fetches.refused, fetches.loaded_here), (10, 10), "each key that was refused");
    assert_eq!(log::times(&["a peer refused: loading here", "only here", "b:1", "UnknownGroup"]), 1);
    assert_eq!(log::times(&["a peer refused: loading here"]), 1);
    // A peer that cannot be reached refuses nothing, and one that serves does not either.
    a.group.get(&keys[0]).await.unwrap();
    network.cut("a:1", "b:1");
    until("it is lost", || a.sees_down("b:1")).await;
    a.group.get(&keys[1]).await.unwrap();
    assert_eq!((a.group.stats().fetches.refused, only_here.stats().fetches.refused), (0, 10));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_started_again_at_once_is_used_again_within_about_a_second() {
    // Its goodbye is there at once; or after the end of its connections, and then perhaps after its return.
    for way in [0, 10, 100, 400] {
        for dropped in [false, true] {
            let mut cluster = Cluster::start(3).await;
            let keys = cluster.keys_ranked(&[0], 1);
            for other in ["node-2:1", "node-3:1"] {
                cluster.network.delay("node-1:1", other, ms(way));
            }
            let old = cluster.members.remove(0).node;
            if dropped {
                drop(old);
            } else {
                assert!(old.shutdown(Duration::from_secs(2)).await.is_clean());
            }
            let start_again = async {
                loop {
                    // The port is busy until the last run has let go of it.
                    match cluster.network.node("node-1:1").peers(["node-1:1", "node-2:1", "node-3:1"]).start().await {
                        Ok(node) => return node,
                        Err(error) => assert!(matches!(error, StartError::Bind { .. }), "{error}"),
                    }
                    tokio::task::yield_now().await;
                }
            };
            let again = Member::new(start_again.await, &cluster.source);
            // What is on its way stays as slow as it was.
            cluster.network.heal_all();
            let back = || cluster.members.iter().all(|member| member.sees_up("node-1:1"));
            let case = format!("{way} ms away, dropped: {dropped}");
            let ((), took) = timed(until("it is back", back)).await;
            // The first try may have been made over the slow way.
            assert!(took <= ms(1000 + 3 * way), "{case}: {took:?}");
            // And nothing that comes late takes it away again.
            let ((), took) = timed(async {
                for _ in 0..20 {
                    tokio::time::sleep(ms(100)).await;
                    for member in &cluster.members {
                        assert!(member.sees_up("node-1:1"), "{case}: {:?}", member.state_of("node-1:1"));
                    }
                }
            })
            .await;
            assert_eq!(took, ms(2000));
            cluster.members[0].group.get(&keys[0]).await.unwrap();
            assert_eq!(cluster.source.loads_on("node-1:1", &keys[0]), 1, "{case}");
            drop(again);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_node_at_a_peers_address_is_refused_by_name() {
    let (network, source) = (MemoryNetwork::new(), Source::default());
    let stranger = member(network.node("b:1").name("stranger").alone(), &source).await;
    let a = member(network.node("a:1").peers([Listed::new("b:1").named("friend")]), &source).await;
    until("it is told", || refuses(&a, "friend", &["b:1", "stranger"])).await;
    assert!(a.node.stats().peers.iter().any(|peer| peer.name == *"friend"));
    assert!(stranger.node.stats().disagreeing().any(|peer| peer.name == *"a:1" && !peer.listed), "it sees who calls");
    for number in 0..20 {
        assert_eq!(timed(a.group.get(&format!("key-{number}"))).await.1, Duration::ZERO);
    }
    assert_eq!(stranger.group.stats().served.total(), 0);
}

#[tokio::test(start_paused = true)]
async fn two_nodes_of_one_name_are_told_so() {
    let (network, source) = (MemoryNetwork::new(), Source::default());
    log::start();
    let _other = member(network.node("b:1").name("twin").alone(), &source).await;
    let one = member(network.node("a:1").name("twin").peers([Listed::new("b:1").named("b")]), &source).await;
    until("it is told", || refuses(&one, "b", &["two nodes", "twin"])).await;
    assert!(log::says(&["refused", "two nodes call themselves twin"]));
    one.group.get("k").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_leaves_the_list_loses_its_connection_and_its_keys() {
    let cluster = Cluster::start(3).await;
    let keys = cluster.keys_ranked(&[2], 30);
    for member in &cluster.members[..2] {
        member.node.set_peers(["node-1:1", "node-2:1"]).await.unwrap();
    }
    for key in &keys {
        cluster.members[0].group.get(key).await.unwrap();
        assert_eq!(cluster.source.loads_on("node-3:1", key), 0);
    }
    let to_third = |connections: &[(String, String)]| connections.iter().filter(|(_, to)| to == "node-3:1").count();
    until("nobody is connected to it", || to_third(&cluster.network.connections()) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_finds_out_whether_its_address_leads_to_it() {
    let right = Node::builder("127.0.0.1:0").alone().start().await.unwrap();
    until("it has reached itself", || right.stats().self_check == SelfCheck::Passed).await;
    // Nobody listens at port 1; and at the first node's address the first node does.
    let nowhere = Node::builder("127.0.0.1:1").bind("127.0.0.1:0").alone().start().await.unwrap();
    let elsewhere = Node::builder(right.address()).name("impostor").bind("127.0.0.1:0").alone().start().await.unwrap();
    let failed = |node: &Node, words: &str| match node.stats().self_check {
        SelfCheck::Failed { why } => why.contains(words),
        SelfCheck::Passed => panic!("{node:?} has not reached itself"),
        _ => false,
    };
    until("the one is told", || failed(&nowhere, "127.0.0.1:1")).await;
    until("the other too", || failed(&elsewhere, right.name().as_str())).await;
}
