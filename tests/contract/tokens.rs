//! Gets that carry a token: nothing older than what it stands for, wherever they are asked, whoever has heard of it.

use std::collections::BTreeSet;

use peerage::{GetOptions, Token};

use crate::cluster::{Cluster, Member, ms, timed, until, version};
use crate::{SECOND, cluster_with, copied, pending, versions};

async fn get_after(member: &Member, key: &str, token: &Token) -> u64 {
    let options = GetOptions::new().no_older_than(token.clone());
    version(&member.group.get_with(key, options).await.unwrap().into_value())
}

/// All nodes have copies; the last one changes keys and removes them, while nobody hears it. Its tokens.
async fn unheard(cluster: &Cluster, keys: &[String]) -> Vec<Token> {
    let remover = cluster.members.len() - 1;
    copied(&cluster.members[..remover], keys).await;
    cluster.cut_off(remover);
    cluster.until_down(remover).await;
    let mut tokens = Vec::new();
    for key in keys {
        cluster.source.change(key);
        let receipt = cluster.members[remover].group.remove(key).await.unwrap();
        assert_eq!(pending(&receipt).len(), remover);
        tokens.push(receipt.token());
    }
    tokens
}

#[tokio::test(start_paused = true)]
async fn a_get_with_a_token_finds_nothing_older_where_nobody_has_heard() {
    let cluster = Cluster::start(4).await;
    // The owner asks itself, the owner asks another, both ask who is neither; and who owns it is the remover.
    for (asker, owner) in [(0, 0), (0, 1), (1, 0), (2, 1), (0, 3)] {
        let keys = cluster.keys_ranked(&[owner], 5);
        let tokens = unheard(&cluster, &keys).await;
        for (key, token) in keys.iter().zip(&tokens) {
            let (fresh, asker) = (cluster.source.version(key), &cluster.members[asker]);
            assert_eq!(asker.group.peek(key).map(|value| version(&value)), Some(fresh - 1));
            assert_eq!(get_after(asker, key, token).await, fresh, "owner {owner}, asker {}", asker.name());
            // What it found serves those without a token, too.
            assert_eq!(version(&asker.group.get(key).await.unwrap()), fresh);
        }
        cluster.network.heal_all();
        cluster.until_whole().await;
        for key in &keys {
            let fresh = cluster.source.version(key);
            until("all have heard", || {
                let old = |member: &Member| member.group.peek(key).is_some_and(|value| version(&value) < fresh);
                !cluster.members.iter().any(old)
            })
            .await;
            assert_eq!(versions(&cluster.members, key).await, BTreeSet::from([fresh]));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_stands_for_all_keys_of_its_removal_and_for_those_before() {
    let cluster = Cluster::start(3).await;
    let keys = cluster.keys_ranked(&[1], 10);
    let tokens = unheard(&cluster, &keys).await;
    for key in &keys {
        assert_eq!(get_after(&cluster.members[0], key, tokens.last().unwrap()).await, 1, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_reaches_the_stand_in_though_the_owner_was_silent_for_long() {
    let cluster = Cluster::start(4).await;
    let keys = cluster.keys_ranked(&[0, 2], 20);
    copied(&cluster.members[2..3], &keys).await;
    let tokens = unheard(&cluster, &keys).await;
    // The owner falls silent; that shows after two seconds, and then its stand-in is asked, which has old copies.
    cluster.network.black_hole("node-1:1", "node-2:1");
    let asker = &cluster.members[1];
    let gets = keys.iter().zip(&tokens).map(|(key, token)| get_after(asker, key, token));
    let found: BTreeSet<_> = futures::future::join_all(gets).await.into_iter().collect();
    assert_eq!(found, BTreeSet::from([1]));
    assert!(asker.group.stats().fetches.stood_in > 0, "a stand-in was asked");
}

#[tokio::test(start_paused = true)]
async fn a_token_and_a_source_that_takes_long_are_one_load() {
    let cluster = Cluster::start(3).await;
    let keys = cluster.keys_ranked(&[0], 3);
    let tokens = unheard(&cluster, &keys).await;
    cluster.source.forget_loads();
    // Longer than what questions carry is remembered.
    cluster.source.set_delay(5 * SECOND);
    for (key, token) in keys.iter().zip(&tokens) {
        let (found, took) = timed(get_after(&cluster.members[1], key, token)).await;
        assert_eq!((found, took, cluster.source.loads_of(key)), (1, 5 * SECOND, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_get_with_a_token_does_not_join_a_flight_from_before() {
    let cluster = Cluster::start(3).await;
    let keys = cluster.keys_ranked(&[0], 1);
    let tokens = unheard(&cluster, &keys[..0]).await;
    assert!(tokens.is_empty());
    let key = &keys[0];
    cluster.source.set_delay(ms(500));
    let early = cluster.members[1].ask(key);
    tokio::time::sleep(ms(100)).await;
    cluster.source.change(key);
    let token = cluster.members[2].group.remove(key).await.unwrap().token();
    assert_eq!(get_after(&cluster.members[1], key, &token).await, 1);
    assert_eq!(version(&early.await.unwrap().unwrap()), 0);
    assert_eq!(versions(&cluster.members[..2], key).await, BTreeSet::from([1]), "what was voided was not kept");
}

#[tokio::test(start_paused = true)]
async fn a_made_up_token_costs_a_fetch_and_a_load_per_second() {
    let forged = {
        let elsewhere = Cluster::start(1).await;
        elsewhere.members[0].group.clear().await.unwrap().token()
    };
    for asker in [0, 1] {
        let cluster = cluster_with(2, |group| group.hot_share(0.0)).await;
        let key = &cluster.keys_ranked(&[0], 1)[0];
        let (member, owner) = (&cluster.members[asker], &cluster.members[0]);
        member.group.get(key).await.unwrap();
        for second in 1..=3 {
            for _ in 0..100 {
                assert_eq!(get_after(member, key, &forged).await, 0);
            }
            assert_eq!(cluster.source.loads_of(key), 1 + second, "asker {asker}");
            tokio::time::sleep(SECOND + ms(1)).await;
        }
        let stats = member.group.stats().fetches;
        assert_eq!(stats.keys, if asker == 0 { 0 } else { 301 }, "a get is a fetch at most");
        // Nothing of it is remembered for long.
        until("it is forgotten", || owner.node.stats().tombstones == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_goes_as_text_through_cookies_and_headers() {
    let cluster = Cluster::start(2).await;
    for receipt in [
        cluster.members[0].group.remove("k").await.unwrap(),
        cluster.members[1].group.clear().await.unwrap(),
        cluster.members[1].group.insert("k", String::from("k@0")).await.unwrap(),
    ] {
        let text = receipt.token().to_string();
        assert!(text.len() < 50 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        assert_eq!(text.parse::<Token>().unwrap(), receipt.token());
    }
    assert!("not a token".parse::<Token>().is_err() && "".parse::<Token>().is_err());
}
