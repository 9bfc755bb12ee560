//! What links and nodes do while something is removed: links that are cut, nodes that others believe in, come new, come
//! back, are started anew, or never return.

use std::collections::BTreeSet;

use futures::FutureExt;
use futures::future::join_all;
use peerage::{MemoryNetwork, Told};

use crate::cluster::{Cluster, Member, Source, keys_ranked, ms, timed, until, version};
use crate::{SECOND, WAYS, change_all, copied, pending, versions};

/// Ends a node that nobody can reach any more: nothing of what it says on that occasion is heard.
async fn kill(cluster: &Cluster, index: usize) {
    cluster.cut_off(index);
    let report = cluster.members[index].node.shutdown(SECOND).await;
    assert!(report.is_clean(), "{report:?}");
}

/// Starts a node anew, with nothing in it.
async fn start_anew(cluster: &mut Cluster, index: usize) {
    let address = cluster.members[index].address();
    let node = cluster.network.node(&address).peers(cluster.addresses()).start().await.unwrap();
    cluster.members[index] = Member::new(node, &cluster.source);
}

/// An insert has its number before its task runs, and so before all of the removals are applied: more than a vector
/// holds out of turn. A peer that was away is told of every one all the same.
#[tokio::test(start_paused = true)]
async fn however_many_removals_overtake_another_one_a_peer_that_comes_back_hears_of_all() {
    let cluster = Cluster::start(2).await;
    let [remover, peer] = &cluster.members[..] else { unreachable!() };
    let keys = cluster.keys_ranked(&[1], 1200);
    join_all(keys.iter().map(|key| peer.group.get(key))).await;
    cluster.cut_off(1);
    cluster.until_down(1).await;
    change_all(&cluster.source, &keys);
    let insert = remover.group.insert("another", String::from("value@0")).boxed();
    let removals = keys.iter().map(|key| remover.group.remove(key).boxed());
    let receipts = join_all([insert].into_iter().chain(removals)).await;
    assert!(keys.iter().all(|key| peer.group.peek(key).is_some()), "it has not heard of any");
    cluster.network.heal_all();
    cluster.until_whole().await;
    for receipt in receipts {
        let receipt = receipt.unwrap().settled(SECOND).await;
        assert!(receipt.is_everywhere(), "{receipt:?}");
    }
    assert!(keys.iter().all(|key| peer.group.peek(key).is_none()));
    until("no tombstone is left", || remover.node.stats().tombstones == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_was_cut_off_serves_nothing_old_within_a_second_of_being_back() {
    for way in WAYS {
        let cluster = Cluster::start(4).await;
        let keys: Vec<String> = (0..4).flat_map(|owner| cluster.keys_ranked(&[owner], 3)).collect();
        copied(&cluster.members, &keys).await;
        cluster.cut_off(2);
        cluster.until_down(2).await;
        change_all(&cluster.source, &keys);
        let receipts = way.take_out(&cluster.members[0], &keys, &cluster.source).await;
        for receipt in &receipts {
            assert_eq!(pending(receipt), ["node-3:1"], "{way:?}");
        }
        let cut_off = &cluster.members[2].group;
        assert!(keys.iter().all(|key| cut_off.peek(key).is_some()), "it has not heard of it");
        cluster.network.heal_all();
        let is_clean = || keys.iter().all(|key| cut_off.peek(key).is_none_or(|value| version(&value) == 1));
        let ((), took) = timed(until("it has caught up", is_clean)).await;
        assert!(took <= SECOND, "{way:?}: {took:?}");
        for key in &keys {
            assert_eq!(versions(&cluster.members, key).await, BTreeSet::from([1]), "{way:?}");
        }
        for receipt in receipts {
            receipt.settled(10 * SECOND).await.everywhere().unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_is_cut_off_is_named_and_gives_nobody_anything_old_when_it_is_back() {
    for way in WAYS {
        let cluster = Cluster::start(4).await;
        let keys = cluster.keys_ranked(&[0], 5);
        copied(&cluster.members, &keys).await;
        cluster.cut_off(0);
        cluster.until_down(0).await;
        change_all(&cluster.source, &keys);
        let mut receipts = way.take_out(&cluster.members[1], &keys, &cluster.source).await;
        let others = &cluster.members[1..];
        for receipt in &receipts {
            let done = receipt.nodes().filter(|(_, told)| **told == Told::Done).count();
            assert_eq!((pending(receipt), done), (vec!["node-1:1"], 3), "everybody else is done");
            assert!(!receipt.stored());
        }
        for key in &keys {
            assert_eq!(versions(others, key).await, BTreeSet::from([1]), "{way:?}, while it is away");
        }
        cluster.network.heal_all();
        // From the first moment on that others reach it.
        for _ in 0..150 {
            for key in &keys {
                assert_eq!(versions(others, key).await, BTreeSet::from([1]), "{way:?}, when it is back");
            }
            tokio::time::sleep(ms(10)).await;
        }
        for receipt in receipts.drain(..) {
            receipt.settled(10 * SECOND).await.everywhere().unwrap();
        }
        for key in &keys {
            assert_eq!(versions(&cluster.members, key).await, BTreeSet::from([1]), "{way:?}, at last");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stand_in_that_others_believe_in_gives_nobody_anything_old() {
    for remover in 0..3 {
        let cluster = Cluster::start(3).await;
        let keys = cluster.keys_ranked(&[0, 2], 20);
        // The second node cannot reach the owner, and asks the third; both keep copies.
        cluster.network.cut("node-1:1", "node-2:1");
        until("the loss is noticed", || cluster.members[1].sees_down("node-1:1")).await;
        copied(&cluster.members, &keys).await;
        change_all(&cluster.source, &keys);
        let removed = cluster.members[remover].group.remove_many(&keys).await.unwrap();
        // Who cannot be told is told by the third, and the receipt hears of that by the same way.
        let ((), took) = timed(async { removed.settled(10 * SECOND).await.everywhere().unwrap() }).await;
        assert!(took <= 3 * SECOND, "remover {remover}: {took:?}");
        for key in &keys {
            assert_eq!(versions(&cluster.members, key).await, BTreeSet::from([1]), "remover {remover}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_that_the_remover_does_not_list_is_pending_until_it_has_caught_up() {
    let (network, source) = (MemoryNetwork::new(), Source::default());
    let mut members = Vec::new();
    for (address, peers) in [("a:1", &["a:1", "b:1"][..]), ("b:1", &["a:1", "b:1"]), ("c:1", &["b:1", "c:1"])] {
        let node = network.node(address).peers(peers.iter().copied()).start().await.unwrap();
        members.push(Member::new(node, &source));
    }
    let cluster = Cluster { network, source, members };
    cluster.until_whole().await;
    // Keys that the newcomer has from the one node that it lists.
    let keys = keys_ranked(&cluster.members[2].node.placement(), &[String::from("b:1")], 20);
    copied(&cluster.members, &keys).await;
    // A newcomer that can be reached is waited for, and done; one that cannot is pending, by its name.
    for cut in [false, true] {
        if cut {
            cluster.network.black_hole("b:1", "c:1");
        }
        change_all(&cluster.source, &keys);
        let fresh = cluster.source.version(&keys[0]);
        let removed = cluster.members[0].group.remove_many(&keys).await.unwrap();
        let expected: &[&str] = if cut { &["c:1"] } else { &[] };
        assert_eq!(pending(&removed), expected, "on return");
        assert_eq!(removed.is_everywhere(), !cut);
        cluster.network.heal_all();
        let settled = removed.settled(60 * SECOND).await;
        assert_eq!(settled.nodes().map(|(name, _)| name.to_string()).collect::<Vec<_>>(), ["a:1", "b:1", "c:1"]);
        settled.everywhere().unwrap();
        for key in &keys {
            assert_eq!(versions(&cluster.members, key).await, BTreeSet::from([fresh]), "cut {cut}");
        }
        copied(&cluster.members, &keys).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_remover_has_told_others_pass_on() {
    for way in WAYS {
        let cluster = Cluster::start(4).await;
        // None of the remover's own: an insert would leave those with it.
        let keys: Vec<String> = (1..4).flat_map(|owner| cluster.keys_ranked(&[owner], 3)).collect();
        copied(&cluster.members, &keys).await;
        cluster.cut_off(3);
        cluster.until_down(3).await;
        change_all(&cluster.source, &keys);
        for receipt in way.take_out(&cluster.members[0], &keys, &cluster.source).await {
            assert_eq!(pending(&receipt), ["node-4:1"], "{way:?}");
        }
        kill(&cluster, 0).await;
        for other in ["node-2:1", "node-3:1"] {
            cluster.network.heal("node-4:1", other);
        }
        let was_cut_off = &cluster.members[3].group;
        let is_clean = || keys.iter().all(|key| was_cut_off.peek(key).is_none_or(|value| version(&value) == 1));
        let ((), took) = timed(until("others pass it on", is_clean)).await;
        assert!(took <= SECOND, "{way:?}: {took:?}");
        for key in &keys {
            assert_eq!(versions(&cluster.members[1..], key).await, BTreeSet::from([1]), "{way:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_peer_is_done_when_it_is_back_and_takes_nothing_old_from_who_has_not_heard() {
    let mut cluster = Cluster::start(4).await;
    // Theirs is the node that has not heard.
    let keys = cluster.keys_ranked(&[3], 20);
    copied(&cluster.members, &keys).await;
    cluster.cut_off(3);
    cluster.until_down(3).await;
    kill(&cluster, 1).await;
    cluster.until_down(1).await;
    change_all(&cluster.source, &keys);
    let removed = cluster.members[0].group.remove_many(&keys).await.unwrap();
    assert_eq!(pending(&removed), ["node-2:1", "node-4:1"]);
    // It is back, and reaches all; the owner of the keys is still away for all others.
    for other in ["node-1:1", "node-3:1", "node-4:1"] {
        cluster.network.heal("node-2:1", other);
    }
    start_anew(&mut cluster, 1).await;
    for _ in 0..100 {
        for key in &keys {
            let found = versions(&cluster.members[..3], key).await;
            assert_eq!(found, BTreeSet::from([1]));
        }
        tokio::time::sleep(ms(10)).await;
    }
    let settled = removed.settled(10 * SECOND).await;
    settled.everywhere().unwrap();
    for key in &keys {
        assert_eq!(versions(&cluster.members, key).await, BTreeSet::from([1]));
    }
}
