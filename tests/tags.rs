//! Removals of tags: everything that bears the tag is gone on every node, under the same promise as a key that is
//! removed, and nobody looks for it.

#[path = "support/cluster.rs"]
mod cluster;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use peerage::{BoxError, Error, Group, GroupBuilder, Key, Loaded};

use cluster::{Cluster, ms, until, version};

/// What bears "even" and what bears "odd", by the number at the key's end.
fn tag_of(key: &str) -> &'static str {
    let number: u64 = key.rsplit_once('-').expect("a key ends in a number").1.parse().unwrap();
    if number.is_multiple_of(2) { "even" } else { "odd" }
}

fn is_even(key: &str) -> bool {
    tag_of(key) == "even"
}

/// A group on each node whose values bear their tags.
struct Tagged {
    cluster: Cluster,
    groups: Vec<Group<String>>,
}

impl Tagged {
    async fn start(count: usize) -> Self {
        Self::start_with(count, |group| group).await
    }

    async fn start_with(count: usize, with: impl Fn(Builder) -> Builder) -> Self {
        let cluster = Cluster::start(count).await;
        let groups = cluster.members.iter().map(|member| {
            let load = cluster.source.loader(&member.name());
            let loader: Loader = Box::new(move |key| {
                let value = load(key.clone());
                async move { Ok(Loaded::value(value.await?).tag(tag_of(key.as_str().unwrap()))) }.boxed()
            });
            with(member.node.group("tagged")).loader(loader).build().unwrap()
        });
        Self { groups: groups.collect(), cluster }
    }

    /// All keys, asked for on all nodes, so that there are copies, and then changed at the source.
    async fn fill_and_change(&self, keys: &[String]) {
        for group in &self.groups {
            assert!(group.get_many(keys).await.iter().all(Result::is_ok));
        }
        for key in keys {
            assert_eq!(self.cluster.source.change(key), 1);
        }
    }

    fn ask(&self, index: usize, key: &str) -> tokio::task::JoinHandle<Result<String, Error>> {
        let (group, key) = (self.groups[index].clone(), key.to_string());
        tokio::spawn(async move { group.get(&key).await })
    }

    async fn remove(&self, index: usize, tag: &str) {
        self.groups[index].remove_tag(tag).await.unwrap().everywhere().unwrap();
    }
}

type Loader = Box<dyn Fn(Key) -> BoxFuture<'static, Result<Loaded<String>, BoxError>> + Send + Sync>;
type Builder = GroupBuilder;

fn keys(count: u64) -> Vec<String> {
    (0..count).map(|number| format!("key-{number}")).collect()
}

/// Keys of one owner that bear "even".
fn even_keys_of(cluster: &Cluster, owner: usize, count: usize) -> Vec<String> {
    cluster.keys_ranked(&[owner], 3 * count).into_iter().filter(|key| is_even(key)).take(count).collect()
}

#[tokio::test(start_paused = true)]
async fn what_bears_a_tag_is_gone_on_every_node_and_all_else_stays() {
    for remover in 0..3 {
        let tagged = Tagged::start(3).await;
        let keys = keys(300);
        tagged.fill_and_change(&keys).await;
        let peeked = || -> Vec<Vec<Option<String>>> {
            tagged.groups.iter().map(|group| keys.iter().map(|key| group.peek(key)).collect()).collect()
        };
        let before = peeked();
        assert!(before.iter().flatten().flatten().count() > keys.len(), "there are copies beside the owners' values");
        tagged.remove(remover, "even").await;
        for (group, (before, after)) in tagged.groups.iter().zip(before.iter().zip(peeked())) {
            for ((key, before), after) in keys.iter().zip(before).zip(after) {
                assert_eq!(after.as_ref(), before.as_ref().filter(|_| !is_even(key)), "{key}, remover {remover}");
            }
            let values = group.get_many(&keys).await.into_iter().map(|value| version(&value.unwrap()));
            for (key, version) in keys.iter().zip(values) {
                assert_eq!(version, u64::from(is_even(key)), "{key}, remover {remover}");
            }
            for key in &keys {
                assert_eq!(version(&group.get(key).await.unwrap()), u64::from(is_even(key)));
            }
        }
        for key in &keys {
            assert_eq!(tagged.cluster.source.loads_of(key), 1 + u64::from(is_even(key)), "{key}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_in_flight_that_brings_the_tag_is_not_kept_and_goes_to_nobody_who_asks_later() {
    for (remover, asker) in (0..3).flat_map(|remover| (0..3).map(move |asker| (remover, asker))) {
        let tagged = Tagged::start(3).await;
        let key = &even_keys_of(&tagged.cluster, 0, 1)[0];
        tagged.cluster.source.set_delay(ms(500));
        let early = tagged.ask(asker, key);
        tokio::time::sleep(ms(100)).await;
        assert_eq!(tagged.cluster.source.loads_on("node-1:1", key), 1);
        assert_eq!(tagged.cluster.source.change(key), 1);
        tagged.remove(remover, "even").await;
        assert!(!early.is_finished(), "the removal waits for no load");
        let one = join_all(tagged.groups.iter().map(async |group| group.get(key).await));
        let many = join_all(tagged.groups.iter().map(async |group| group.get_many([key]).await.remove(0)));
        let (one, many) = futures::join!(one, many);
        for value in one.into_iter().chain(many) {
            assert_eq!(version(&value.unwrap()), 1, "remover {remover}, asker {asker}");
        }
        assert_eq!(version(&early.await.unwrap().unwrap()), 0, "who asked before may get what was then");
        tokio::time::sleep(ms(1000)).await;
        for group in &tagged.groups {
            assert_eq!(version(&group.get(key).await.unwrap()), 1);
        }
        assert_eq!(tagged.cluster.source.loads_of(key), 2, "the load that came too early, and one more");
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_in_flight_that_brings_another_tag_is_for_everybody() {
    let tagged = Tagged::start(3).await;
    let key = &even_keys_of(&tagged.cluster, 0, 1)[0];
    tagged.cluster.source.set_delay(ms(500));
    let early = tagged.ask(1, key);
    tokio::time::sleep(ms(100)).await;
    tagged.remove(2, "odd").await;
    for value in join_all(tagged.groups.iter().map(|group| group.get(key))).await {
        assert_eq!(version(&value.unwrap()), 0);
    }
    early.await.unwrap().unwrap();
    assert_eq!((tagged.cluster.source.loads_of(key), tagged.groups[0].peek(key).is_some()), (1, true));
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_held_back_on_the_wire_is_not_kept_nor_for_who_asks_later() {
    for remover in 0..3 {
        let tagged = Tagged::start(3).await;
        // One in ten copies is kept, by chance: of so many, some would be.
        let keys = even_keys_of(&tagged.cluster, 0, 100);
        for key in &keys {
            tagged.groups[0].get(key).await.unwrap();
        }
        tagged.cluster.network.delay("node-1:1", "node-2:1", ms(200));
        let early: Vec<_> = keys.iter().map(|key| tagged.ask(1, key)).collect();
        tokio::time::sleep(ms(300)).await; // the old values are half-way back
        for key in &keys {
            assert_eq!(tagged.cluster.source.change(key), 1);
        }
        let group = tagged.groups[remover].clone();
        let removal = tokio::spawn(async move { group.remove_tag("even").await.unwrap().everywhere() });
        let applied = || tagged.groups[1].stats().removals.applied > 0;
        until("the asker has applied it", applied).await;
        // These join the fetches that are on their way back.
        let late: Vec<_> = keys.iter().map(|key| tagged.ask(1, key)).collect();
        let (late_early, late) = futures::join!(join_all(early), join_all(late));
        assert!(late_early.into_iter().all(|value| version(&value.unwrap().unwrap()) == 0));
        for value in late {
            assert_eq!(version(&value.unwrap().unwrap()), 1, "remover {remover}");
        }
        removal.await.unwrap().unwrap();
        for key in &keys {
            assert_ne!(tagged.groups[1].peek(key), Some(format!("{key}@0")), "remover {remover}");
        }
        for value in tagged.groups[1].get_many(&keys).await {
            assert_eq!(version(&value.unwrap()), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_takes_along_a_removal_that_its_owner_has_not_heard_of() {
    let tagged = Tagged::start(3).await;
    let keys = even_keys_of(&tagged.cluster, 0, 2);
    for key in &keys {
        tagged.groups[0].get(key).await.unwrap();
        tagged.cluster.source.change(key);
    }
    tagged.cluster.network.delay("node-3:1", "node-1:1", ms(400));
    let group = tagged.groups[2].clone();
    let removal = tokio::spawn(async move { group.remove_tag("even").await });
    until("the asker has applied it", || tagged.groups[1].stats().removals.applied > 0).await;
    assert_eq!(version(&tagged.groups[1].get(&keys[0]).await.unwrap()), 1);
    assert!(tagged.groups[0].peek(&keys[1]).is_some(), "the owner has not heard of it");
    removal.await.unwrap().unwrap().everywhere().unwrap();
    assert_eq!(tagged.groups[0].peek(&keys[1]), None);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_kept_for_peers_go_with_the_value() {
    let tagged = Tagged::start_with(2, |group| group.hot_share(0.0)).await;
    let key = &even_keys_of(&tagged.cluster, 0, 1)[0];
    for _ in 0..5 {
        assert_eq!(version(&tagged.groups[1].get(key).await.unwrap()), 0);
    }
    tagged.cluster.source.change(key);
    tagged.remove(1, "even").await;
    for _ in 0..5 {
        assert_eq!(version(&tagged.groups[1].get(key).await.unwrap()), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_insert_bears_its_tags_whoever_owns_the_key_and_whoever_removes() {
    for (inserter, remover) in (0..3).flat_map(|inserter| (0..3).map(move |remover| (inserter, remover))) {
        let tagged = Tagged::start(3).await;
        let key = &even_keys_of(&tagged.cluster, 0, 1)[0];
        let inserted = Loaded::value("inserted@7".to_string()).tags(["blue", "green"]);
        let receipt = tagged.groups[inserter].insert_with(key, inserted).await.unwrap();
        assert!(receipt.stored());
        tagged.remove(remover, "even").await;
        assert_eq!(tagged.groups[0].peek(key).as_deref(), Some("inserted@7"), "it does not bear that one");
        tagged.remove(remover, "green").await;
        assert_eq!(tagged.groups[0].peek(key), None, "inserter {inserter}, remover {remover}");
        assert_eq!(version(&tagged.groups[1].get(key).await.unwrap()), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stand_in_keeps_no_promise_less() {
    let tagged = Tagged::start(3).await;
    let key = &tagged.cluster.keys_ranked(&[0, 1], 20).into_iter().find(|key| is_even(key)).unwrap();
    tagged.cluster.cut_off(0);
    tagged.cluster.until_down(0).await;
    assert_eq!(version(&tagged.groups[2].get(key).await.unwrap()), 0);
    assert!(tagged.groups[1].peek(key).is_some(), "the stand-in has it");
    tagged.cluster.source.change(key);
    let receipt = tagged.groups[2].remove_tag("even").await.unwrap();
    assert_eq!(receipt.pending().count(), 1, "the owner");
    assert_eq!(tagged.groups[1].peek(key), None);
    for asker in [1, 2] {
        assert_eq!(version(&tagged.groups[asker].get(key).await.unwrap()), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_value_is_not_served_for_a_failed_load_once_its_tag_is_removed() {
    let cluster = Cluster::start(1).await;
    let fails = Arc::new(AtomicBool::new(false));
    let failing = Arc::clone(&fails);
    let loader = move |_: Key| {
        let fails = failing.load(Ordering::SeqCst);
        async move {
            tokio::time::sleep(ms(200)).await;
            if fails { Err("gone") } else { Ok(Loaded::value("v".to_string()).tag("t")) }
        }
    };
    let group = cluster.members[0].node.group("grace").time_to_live(ms(1000)).grace(Duration::from_secs(60));
    let group: Group<String> = group.loader(loader).build().unwrap();
    assert_eq!(group.get("k").await.unwrap(), "v");
    fails.store(true, Ordering::SeqCst);
    tokio::time::sleep(ms(2000)).await;
    assert_eq!(group.get("k").await.unwrap(), "v", "in its grace");
    tokio::time::sleep(ms(5000)).await;
    let early = group.clone();
    let early = tokio::spawn(async move { early.get("k").await });
    tokio::time::sleep(ms(100)).await;
    group.remove_tag("t").await.unwrap().everywhere().unwrap();
    // Nobody has looked since, when the load that was under way fails.
    assert!(matches!(early.await.unwrap(), Err(Error::Load(_))));
    assert!(matches!(group.get("k").await, Err(Error::Load(_))));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_brings_a_removed_tag_leaves_nothing_behind() {
    let tagged = Tagged::start_with(1, |group| group.refresh_after(ms(1000))).await;
    let key = &even_keys_of(&tagged.cluster, 0, 1)[0];
    let group = &tagged.groups[0];
    group.get(key).await.unwrap();
    tagged.cluster.source.set_delay(ms(500));
    tokio::time::sleep(ms(2000)).await;
    group.get(key).await.unwrap();
    tokio::time::sleep(ms(100)).await;
    assert_eq!(tagged.cluster.source.loads_of(key), 2, "the refresh has begun");
    tagged.cluster.source.change(key);
    tagged.remove(0, "even").await;
    assert_eq!(version(&group.get(key).await.unwrap()), 1);
}

#[tokio::test(start_paused = true)]
async fn that_there_is_none_can_be_tagged() {
    let cluster = Cluster::start(2).await;
    let there = Arc::new(AtomicBool::new(false));
    let groups = cluster.members.iter().map(|member| {
        let there = Arc::clone(&there);
        let loader = move |_: Key| {
            let value = there.load(Ordering::SeqCst).then(|| "v".to_string());
            async move {
                tokio::time::sleep(ms(300)).await;
                Ok::<_, BoxError>(Loaded::from(value).tag("list"))
            }
        };
        member.node.group("none").loader(loader).build().unwrap()
    });
    let groups: Vec<Group<String>> = groups.collect();
    let key = cluster.keys_ranked(&[0], 1).remove(0);
    let (group, asked) = (groups[1].clone(), key.clone());
    let early = tokio::spawn(async move { group.get_opt(&asked).await });
    tokio::time::sleep(ms(100)).await;
    there.store(true, Ordering::SeqCst);
    groups[1].remove_tag("list").await.unwrap().everywhere().unwrap();
    assert_eq!(groups[1].get_opt(&key).await.unwrap().as_deref(), Some("v"), "it has joined a fetch that brings none");
    assert_eq!(early.await.unwrap().unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn beyond_its_bound_the_table_takes_out_more_and_never_less() {
    const MORE_THAN_FIT: u64 = 8193;
    let tagged = Tagged::start(3).await;
    let keys = keys(30);
    tagged.fill_and_change(&keys).await;
    tagged.remove(0, "even").await;
    let others: Vec<String> = (0..MORE_THAN_FIT).map(|number| format!("other {number}")).collect();
    for some in others.chunks(512) {
        let removals = some.iter().map(|tag| tagged.groups[1].remove_tag(tag));
        for receipt in join_all(removals).await {
            receipt.unwrap().everywhere().unwrap();
        }
    }
    for group in &tagged.groups {
        let left: Vec<_> = keys.iter().filter(|key| group.peek(*key).is_some()).collect();
        assert!(left.is_empty(), "the removal is forgotten, and these come back: {left:?}");
    }
    for group in &tagged.groups {
        let values = group.get_many(&keys).await;
        assert!(values.iter().all(|value| version(value.as_ref().unwrap()) == 1));
    }
    tagged.remove(2, "one more").await;
    for key in &keys {
        assert_eq!(version(&tagged.groups[0].get(key).await.unwrap()), 1);
        assert_eq!(tagged.cluster.source.loads_of(key), 2, "what was begun later stays");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tag_of_many_keys_costs_as_few_messages_as_of_one_and_no_scan() {
    const COUNT: u32 = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
    let even: Vec<String> = (0..COUNT).map(|number| format!("key-{}", 2 * number)).collect();
    let tagged = Tagged::start_with(3, |group| group.capacity(1 << 30).max_queued_loads(even.len())).await;
    let placement = tagged.cluster.placement();
    let owner = |key: &str| {
        let owner = placement.ranked_for(key)[0].to_string();
        tagged.cluster.members.iter().position(|member| member.name() == owner).unwrap()
    };
    for (index, group) in tagged.groups.iter().enumerate() {
        let own: Vec<&String> = even.iter().filter(|key| owner(key) == index).collect();
        for some in own.chunks(10_000) {
            assert!(group.get_many(some.iter().copied()).await.iter().all(Result::is_ok));
        }
    }
    let held = || tagged.groups.iter().map(|group| group.stats().cache.main_entries).sum::<u64>();
    assert_eq!(held(), even.len() as u64);
    let addresses = tagged.cluster.addresses();
    let messages = || -> u64 {
        let pairs = addresses.iter().flat_map(|from| addresses.iter().map(move |to| (from, to)));
        pairs.map(|(from, to)| tagged.cluster.network.messages(from, to).total()).sum()
    };
    let before = messages();
    tagged.remove(0, "even").await;
    assert!(messages() - before <= 4 * 3, "{} messages", messages() - before);
    assert_eq!(held(), even.len() as u64, "nothing was looked at");
    for group in &tagged.groups {
        assert!(even.iter().all(|key| group.peek(key).is_none()), "and nothing is there");
    }
    until("the bytes are given back", || held() == 0).await;
    assert!(tagged.groups.iter().all(|group| group.stats().cache.main_bytes == 0));
}
