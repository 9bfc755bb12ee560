//! The same in small over gRPC on loopback: copies, tokens, and a receipt that settles when a silent peer is back. Time
//! is real here: what is waited for is a condition.

use std::collections::BTreeSet;

use futures::future::join_all;
use peerage::{GetOptions, Member as Listed, Node};

use crate::cluster::{Member, Source, keys_ranked, until, version};
use crate::sockets::Proxy;
use crate::{SECOND, change_all, copied, pending, versions};

/// Three nodes that reach each other through proxies, which can fall silent.
struct Real {
    source: Source,
    proxies: Vec<Proxy>,
    members: Vec<Member>,
}

impl Real {
    async fn start() -> Self {
        let names = ["a", "b", "c"];
        let (source, proxies) = (Source::default(), join_all(names.map(|_| Proxy::start())).await);
        let mut members = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            // A node is not to be found at its own proxy's address: the list leaves it out.
            let others = (0..3).filter(|other| *other != index);
            let listed: Vec<_> =
                others.map(|other| Listed::new(proxies[other].address()).named(names[other])).collect();
            let node = Node::builder("127.0.0.1:0").name(name).peers(listed).start().await.unwrap();
            proxies[index].lead_to(node.address());
            members.push(Member::new(node, &source));
        }
        let real = Self { source, proxies, members };
        real.until_whole().await;
        real
    }

    async fn until_whole(&self) {
        until("all nodes reach each other", || self.members.iter().all(Member::sees_all_up)).await;
    }

    fn keys_of(&self, owner: &str, count: usize) -> Vec<String> {
        keys_ranked(&self.members[0].node.placement(), &[owner.to_string()], count)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc_nobody_serves_what_was_removed() {
    let cluster = Real::start().await;
    let keys: Vec<String> = ["a", "b", "c"].iter().flat_map(|owner| cluster.keys_of(owner, 5)).collect();
    for remover in 0..3_usize {
        copied(&cluster.members, &keys).await;
        change_all(&cluster.source, &keys);
        let removed = cluster.members[remover].group.remove_many(&keys).await.unwrap();
        removed.settled(60 * SECOND).await.everywhere().unwrap();
        for key in &keys {
            let fresh = cluster.source.version(key);
            assert_eq!(versions(&cluster.members, key).await, BTreeSet::from([fresh]), "remover {remover}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc_a_silent_peer_is_pending_heeds_a_token_and_settles_the_receipt_when_it_is_back() {
    let cluster = Real::start().await;
    let keys: Vec<String> = ["a", "b", "c"].iter().flat_map(|owner| cluster.keys_of(owner, 3)).collect();
    copied(&cluster.members, &keys).await;
    // Nothing gets to the third node, nor from it to the others.
    for proxy in &cluster.proxies {
        proxy.fall_silent();
    }
    until("the silence is noticed", || cluster.members.iter().all(|member| !member.sees_up("c"))).await;
    until("the silence is noticed", || !cluster.members[2].sees_up("a") && !cluster.members[2].sees_up("b")).await;
    change_all(&cluster.source, &keys);
    let removed = cluster.members[0].group.remove_many(&keys).await.unwrap();
    assert!(pending(&removed).contains(&"c"), "{removed:?}");
    let token = removed.token().to_string().parse().unwrap();
    let after = GetOptions::new().no_older_than(token);
    for key in &keys {
        let third = &cluster.members[2].group;
        assert_eq!(third.peek(key).map(|value| version(&value)), Some(0), "it has not heard of it");
        assert_eq!(version(&third.get_with(key, after.clone()).await.unwrap().into_value()), 1);
    }
    for proxy in &cluster.proxies {
        proxy.speak();
    }
    removed.settled(60 * SECOND).await.everywhere().unwrap();
    for key in &keys {
        assert_eq!(versions(&cluster.members, key).await, BTreeSet::from([1]));
    }
}
