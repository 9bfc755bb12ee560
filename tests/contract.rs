//! The contract of removals, one test for each way in which an old value could get out: after a removal has returned
//! with everybody done, or its receipt has settled so, no get that starts later, on any node, returns a value whose load
//! began before. In memory with paused time; `contract/weather.rs` has what links and nodes do meanwhile,
//! `contract/tokens.rs` gets that carry tokens, `contract/grpc.rs` the same in small over gRPC.

#![cfg(feature = "test-util")]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "contract/grpc.rs"]
mod grpc;
#[path = "support/sockets.rs"]
mod sockets;
#[path = "contract/tokens.rs"]
mod tokens;
#[path = "contract/weather.rs"]
mod weather;

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use peerage::{GroupBuilder, MemoryNetwork, Receipt};

use cluster::{Cluster, Member, Source, keys_ranked, ms, until, version};

const SECOND: Duration = Duration::from_secs(1);

/// The ways to take keys out. An insert brings what the source has by then.
const WAYS: [Way; 4] = [Way::Remove, Way::RemoveMany, Way::Clear, Way::Insert];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Remove,
    RemoveMany,
    Clear,
    Insert,
}

impl Way {
    /// Takes the keys out, all at once.
    async fn take_out(self, member: &Member, keys: &[String], source: &Source) -> Vec<Receipt> {
        let receipts = match self {
            Self::Remove => join_all(keys.iter().map(|key| member.group.remove(key))).await,
            Self::RemoveMany => vec![member.group.remove_many(keys).await],
            Self::Clear => vec![member.group.clear().await],
            Self::Insert => {
                let insert =
                    async |key: &String| member.group.insert(key, format!("{key}@{}", source.version(key))).await;
                join_all(keys.iter().map(insert)).await
            }
        };
        receipts.into_iter().map(Result::unwrap).collect()
    }
}

/// A cluster whose groups are built in a way of their own.
async fn cluster_with(count: usize, options: impl Fn(GroupBuilder) -> GroupBuilder) -> Cluster {
    let (network, source) = (MemoryNetwork::new(), Source::default());
    let nodes = network.start(count).await.unwrap();
    let member = |node: peerage::Node| {
        let loader = source.loader(node.name().as_str());
        Member { group: options(node.group("g")).loader(loader).build().unwrap(), node }
    };
    let members = nodes.into_iter().map(member).collect();
    let cluster = Cluster { network, source, members };
    cluster.until_whole().await;
    cluster
}

/// Asks until all these nodes have a copy: one answer in so many is kept.
async fn copied<'a>(members: impl IntoIterator<Item = &'a Member>, keys: &[String]) {
    for member in members {
        for key in keys {
            while member.group.peek(key).is_none() {
                member.group.get(key).await.unwrap();
            }
        }
    }
}

/// What a get finds on each of these nodes.
async fn versions<'a>(members: impl IntoIterator<Item = &'a Member>, key: &str) -> BTreeSet<u64> {
    let gets = members.into_iter().map(async |member| version(&member.group.get(key).await.unwrap()));
    join_all(gets).await.into_iter().collect()
}

fn pending(receipt: &Receipt) -> Vec<&str> {
    receipt.pending().map(peerage::NodeName::as_str).collect()
}

fn change_all(source: &Source, keys: &[String]) {
    for key in keys {
        source.change(key);
    }
}

/// Keys of all owners, never used before.
fn fresh_keys(pools: &mut [Vec<String>], count: usize) -> Vec<String> {
    pools.iter_mut().flat_map(|pool| pool.split_off(pool.len() - count)).collect()
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_out_and_however_nobody_serves_what_was_loaded_before() {
    for copies in [true, false] {
        let cluster = cluster_with(3, |group| group.hot_share(if copies { 0.5 } else { 0.0 })).await;
        let mut pools = [0, 1, 2].map(|owner| cluster.keys_ranked(&[owner], 60));
        for remover in 0..3 {
            for way in WAYS {
                for many in [false, true] {
                    let keys = fresh_keys(&mut pools, 2);
                    if copies {
                        copied(&cluster.members, &keys).await;
                    } else {
                        join_all(keys.iter().map(|key| versions(&cluster.members, key))).await;
                    }
                    change_all(&cluster.source, &keys);
                    for receipt in way.take_out(&cluster.members[remover], &keys, &cluster.source).await {
                        receipt.everywhere().unwrap();
                    }
                    for member in &cluster.members {
                        let case = format!("{way:?} by {remover}, copies {copies}, on {}", member.name());
                        let old = |key: &&String| member.group.peek(key).is_some_and(|value| version(&value) < 1);
                        assert_eq!(keys.iter().find(old), None, "{case}");
                        if many {
                            for value in member.group.get_many(&keys).await {
                                assert_eq!(version(&value.unwrap()), 1, "{case}");
                            }
                        } else {
                            for key in &keys {
                                assert_eq!(version(&member.group.get(key).await.unwrap()), 1, "{case}");
                            }
                        }
                    }
                    let inserted = way == Way::Insert;
                    assert!(keys.iter().all(|key| cluster.source.loads_of(key) == if inserted { 1 } else { 2 }));
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_had_begun_reaches_nobody_who_asks_later() {
    for way in WAYS {
        for remover in 0..3 {
            let cluster = Cluster::start(3).await;
            let keys = cluster.keys_ranked(&[0], 5);
            cluster.source.set_delay(ms(500));
            let early = keys.iter().flat_map(|key| cluster.members.iter().map(move |member| member.ask(key)));
            let early: Vec<_> = early.collect();
            tokio::time::sleep(ms(100)).await;
            assert_eq!(cluster.source.loads(), 5, "in flight");
            change_all(&cluster.source, &keys);
            for receipt in way.take_out(&cluster.members[remover], &keys, &cluster.source).await {
                receipt.everywhere().unwrap();
            }
            let late = join_all(keys.iter().map(|key| versions(&cluster.members, key))).await;
            assert!(late.into_iter().all(|versions| versions == BTreeSet::from([1])), "{way:?} by {remover}");
            for value in join_all(early).await {
                value.unwrap().unwrap();
            }
            // Nor when it has landed.
            for member in &cluster.members {
                let kept = keys.iter().filter_map(|key| member.group.peek(key));
                assert!(kept.into_iter().all(|value| version(&value) == 1), "{way:?} by {remover}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_held_back_on_the_wire_is_not_kept_and_answers_nobody_else() {
    for way in WAYS {
        for remover in 0..3 {
            let cluster = Cluster::start(3).await;
            // Of so many answers some would be kept.
            let keys = cluster.keys_ranked(&[0], 60);
            join_all(keys.iter().map(|key| cluster.members[0].group.get(key))).await;
            cluster.network.delay("node-1:1", "node-2:1", ms(200));
            let early: Vec<_> = keys.iter().map(|key| cluster.members[1].ask(key)).collect();
            tokio::time::sleep(ms(300)).await;
            change_all(&cluster.source, &keys);
            let receipts = way.take_out(&cluster.members[remover], &keys, &cluster.source).await;
            for receipt in receipts {
                receipt.everywhere().unwrap();
            }
            let late = join_all(keys.iter().map(|key| versions(&cluster.members, key))).await;
            assert!(late.into_iter().all(|versions| versions == BTreeSet::from([1])), "{way:?} by {remover}");
            for value in join_all(early).await {
                assert_eq!(version(&value.unwrap().unwrap()), 0, "who asked before gets what was then");
            }
            let kept = keys.iter().filter_map(|key| cluster.members[1].group.peek(key));
            assert!(kept.into_iter().all(|value| version(&value) == 1), "{way:?} by {remover}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_removal_overtakes_an_insert_at_every_moment_of_it() {
    let (mut stored, mut refused) = (0, 0);
    for remover in 0..3 {
        for moment in (0..=350).step_by(25) {
            let cluster = Cluster::start(3).await;
            let key = &cluster.keys_ranked(&[0], 1)[0];
            // Told at 100 ms, asked for at 200 ms, there at 300 ms.
            cluster.network.delay("node-1:1", "node-2:1", ms(100));
            let inserting = {
                let (group, key) = (cluster.members[1].group.clone(), key.clone());
                tokio::spawn(async move { group.insert(&key, format!("{key}@0")).await.unwrap() })
            };
            tokio::time::sleep(ms(moment)).await;
            cluster.source.change(key);
            let removed = cluster.members[remover].group.remove(key).await.unwrap();
            removed.settled(10 * SECOND).await.everywhere().unwrap();
            let case = format!("remover {remover}, at {moment} ms");
            let now = versions(&cluster.members, key).await;
            assert_eq!(now, BTreeSet::from([1]), "{case}");
            let inserted = inserting.await.unwrap();
            stored += usize::from(inserted.stored());
            refused += usize::from(!inserted.stored());
            inserted.settled(10 * SECOND).await.everywhere().unwrap();
            assert_eq!(versions(&cluster.members, key).await, BTreeSet::from([1]), "later, {case}");
        }
    }
    assert!(stored > 0 && refused > 10, "{stored} stored, {refused} not");
}

#[tokio::test(start_paused = true)]
async fn a_former_owner_drops_what_it_owned_whoever_knows_that_it_does_not() {
    let [a, b, c] = ["node-1:1", "node-2:1", "node-3:1"];
    for knows in [true, false] {
        let cluster = Cluster::start(3).await;
        let later = cluster.keys_ranked(&[2], 50);
        for member in &cluster.members[..2] {
            member.node.set_peers([a, b]).await.unwrap();
        }
        let earlier: BTreeSet<_> =
            keys_ranked(&cluster.members[0].node.placement(), &[a.to_string()], 200).into_iter().collect();
        let key = later.iter().find(|key| earlier.contains(*key)).expect("a third of them is the first node's");
        for member in &cluster.members[..2] {
            member.group.get(key).await.unwrap();
        }
        cluster.members[1].node.set_peers([a, b, c]).await.unwrap();
        if knows {
            cluster.members[0].node.set_peers([a, b, c]).await.unwrap();
        }
        cluster.until_whole().await;
        assert_eq!(cluster.members[0].group.peek(key), Some(format!("{key}@0")), "it owned the key");
        cluster.source.change(key);
        let removed = cluster.members[1].group.remove(key).await.unwrap();
        removed.settled(10 * SECOND).await.everywhere().unwrap();
        assert_eq!(versions(&cluster.members, key).await, BTreeSet::from([1]), "knows {knows}");
    }
}

#[tokio::test(start_paused = true)]
async fn very_many_keys_do_not_leave_a_tombstone_each() {
    let count = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
    let cluster = Cluster::start(3).await;
    cluster.cut_off(2);
    cluster.until_down(2).await;
    let keys: Vec<String> = (0..count).map(|number| format!("{number}")).collect();
    let few = keys[..30].to_vec();
    copied(&cluster.members[..2], &few).await;
    change_all(&cluster.source, &few);
    let removed = cluster.members[0].group.remove_many(&keys).await.unwrap();
    assert_eq!(pending(&removed), ["node-3:1"]);
    for member in &cluster.members[..2] {
        let stats = member.node.stats();
        assert!((1..=65_536).contains(&stats.tombstones), "{} tombstones", stats.tombstones);
    }
    for key in &few {
        assert_eq!(versions(&cluster.members[..2], key).await, BTreeSet::from([1]));
    }
    // And once everybody has applied it, none.
    cluster.network.heal_all();
    removed.settled(10 * SECOND).await.everywhere().unwrap();
    for key in &few {
        assert_eq!(versions(&cluster.members, key).await, BTreeSet::from([1]));
    }
    until("no tombstone is left", || cluster.members.iter().all(|member| member.node.stats().tombstones == 0)).await;
}
