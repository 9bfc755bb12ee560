//! Hellos while others remove all the time: a peer that comes back is up soon, and hellos are said now and then.

#![cfg(feature = "test-util")]

#[path = "support/cluster.rs"]
mod cluster;

use std::time::Duration;

use futures::future::join_all;
use tokio::task::JoinHandle;

use cluster::{Cluster, Member, Source, ms, timed};

const SECOND: Duration = Duration::from_secs(1);

/// So many call removals on each node but the first, without a pause.
const REMOVERS: usize = 6;

/// Three nodes on links that take their time, of which the second and the third remove.
struct Busy {
    cluster: Cluster,
    removers: Vec<JoinHandle<()>>,
}

impl Busy {
    async fn start() -> Self {
        let cluster = Cluster::start(3).await;
        slow_down(&cluster);
        let removers = cluster.members[1..].iter().flat_map(|member| {
            (0..REMOVERS).map(|number| {
                let group = member.group.clone();
                tokio::spawn(async move {
                    // Not all in step.
                    tokio::time::sleep(ms(7) * u32::try_from(number).unwrap()).await;
                    loop {
                        let _receipt = group.remove(&format!("key-{number}")).await.unwrap();
                    }
                })
            })
        });
        Self { removers: removers.collect(), cluster }
    }

    /// Hellos that any node has said to any other.
    fn hellos(&self) -> u64 {
        let addresses = self.cluster.addresses();
        let ways = addresses.iter().flat_map(|from| addresses.iter().map(move |to| (from, to)));
        ways.map(|(from, to)| self.cluster.network.messages(from, to).hello).sum()
    }

    /// Watches the nodes for that long: nobody loses anybody.
    async fn stays_whole(&self, time: Duration) {
        let failures = |member: &Member| member.node.stats().peers.iter().map(|peer| peer.failures).sum::<u64>();
        let lost = || self.cluster.members.iter().map(failures).sum::<u64>();
        let before = lost();
        tokio::time::sleep(time).await;
        assert!(self.cluster.members.iter().all(Member::sees_all_up));
        assert_eq!(lost(), before, "connections were lost");
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.removers.iter().for_each(JoinHandle::abort);
    }
}

fn slow_down(cluster: &Cluster) {
    let addresses = cluster.addresses();
    for (index, one) in addresses.iter().enumerate() {
        addresses[..index].iter().for_each(|other| cluster.network.delay(one, other, ms(20)));
    }
}

#[tokio::test(start_paused = true)]
async fn hellos_are_said_now_and_then_while_there_is_always_a_removal_under_way() {
    let busy = Busy::start().await;
    tokio::time::sleep(SECOND).await;
    let before = busy.hellos();
    busy.stays_whole(5 * SECOND).await;
    let said = busy.hellos() - before;
    // Six ways, once a second, with one more for what that has brought; and maybe once more for what was begun.
    assert!((6 * 4..=6 * 6 * 2).contains(&said), "{said} hellos in five seconds");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_cut_off_is_up_soon_though_others_remove_all_the_time() {
    let busy = Busy::start().await;
    let cluster = &busy.cluster;
    cluster.cut_off(0);
    cluster.until_down(0).await;
    tokio::time::sleep(3 * SECOND).await;
    let before = busy.hellos();
    cluster.network.heal_all();
    slow_down(cluster);
    let ((), took) = timed(cluster.until_whole()).await;
    assert!(took <= ms(1_300), "the pause between tries is a second at most: {took:?}");
    busy.stays_whole(3 * SECOND).await;
    let said = busy.hellos() - before;
    // Twice a second each way for four seconds and a bit, and a few for each of four new connections.
    assert!(said <= 6 * 5 * 2 + 4 * 4, "{said} hellos");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_anew_is_up_soon_though_others_remove_all_the_time() {
    let mut busy = Busy::start().await;
    drop(busy.cluster.members.remove(0));
    tokio::time::sleep(3 * SECOND).await;
    let before = busy.hellos();
    let all = ["node-1:1", "node-2:1", "node-3:1"];
    let node = busy.cluster.network.node("node-1:1").peers(all).start().await.unwrap();
    busy.cluster.members.push(Member::new(node, &Source::default()));
    let ((), took) = timed(busy.cluster.until_whole()).await;
    assert!(took <= ms(1_300), "{took:?}");
    busy.stays_whole(3 * SECOND).await;
    let said = busy.hellos() - before;
    assert!(said <= 6 * 5 * 2 + 4 * 4, "{said} hellos");
    // Those that are under way end, and the nodes are level.
    busy.removers.iter().for_each(JoinHandle::abort);
    let removed = busy.cluster.members.iter().map(|member| member.group.remove("k"));
    for receipt in join_all(removed).await {
        receipt.unwrap().everywhere().unwrap();
    }
}
