//! Many keys at once: `get_many`, and loaders that take many keys in a call.

#![cfg(feature = "test-util")]

#[path = "support/counting.rs"]
mod counting;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use counting::{Cluster, Runs, is_idle, now};
use futures::future::join_all;
use peerage::{BatchLoader, BoxError, Error, Group, Key, LoadError, Loaded, Node};
use tokio::time::sleep;

const MS: Duration = Duration::from_millis(1);

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("key-{number}")).collect()
}

/// A batch loader of so many keys a call that takes a while, knows no key that ends with `!`, and fails for one that
/// ends with `?`.
fn batches(runs: &Runs, index: usize, node: &Node, per_call: usize) -> Group<String> {
    let runs = runs.clone();
    let loader = move |keys: Vec<Key>| {
        let running = runs.begin(index, keys.clone());
        async move {
            let _running = running;
            sleep(10 * MS).await;
            if keys.iter().any(|key| key.ends_with(b"?")) {
                return Err(LoadError::new("what?").with_code(3));
            }
            let known = keys.into_iter().filter(|key| !key.ends_with(b"!"));
            Ok(known.map(|key| (key.clone(), format!("value of {key}"))).collect::<Vec<_>>())
        }
    };
    node.group("g").batch_loader(per_call, loader).max_concurrent_loads(4).build().unwrap()
}

/// A loader of one key a call that does the same.
fn singles(runs: &Runs, index: usize, node: &Node) -> Group<String> {
    let runs = runs.clone();
    let loader = move |key: Key| {
        let running = runs.begin(index, [key.clone()]);
        async move {
            let _running = running;
            sleep(10 * MS).await;
            match key.last() {
                Some(b'?') => Err(LoadError::new("what?").with_code(3)),
                Some(b'!') => Ok(None),
                _ => Ok(Some(format!("value of {key}"))),
            }
        }
    };
    node.group("g").loader(loader).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn answers_come_in_the_order_of_the_keys_each_with_its_own_error() {
    for batch in [false, true] {
        let runs = Runs::default();
        let cluster =
            Cluster::start(
                3,
                |index, node| {
                    if batch { batches(&runs, index, node, 1) } else { singles(&runs, index, node) }
                },
            )
            .await;
        let mut asked: Vec<String> = keys(60).into_iter().rev().collect();
        for (place, mark) in [(3, "?"), (17, "!"), (18, "?"), (40, "!")] {
            asked[place].push_str(mark);
        }
        let long = "x".repeat(Key::MAX_LEN + 1);
        asked.insert(20, long.clone());
        asked.push(asked[0].clone());
        asked.push(asked[3].clone());
        asked.push(asked[17].clone());
        for (round, group) in cluster.groups.iter().enumerate() {
            let answers = group.get_many(&asked).await;
            assert_eq!(answers.len(), asked.len());
            for (key, answer) in asked.iter().zip(&answers) {
                match answer {
                    Ok(value) => assert_eq!(value, &format!("value of {key}")),
                    Err(Error::NotFound) => assert!(key.ends_with('!')),
                    Err(Error::Load(error)) => {
                        assert!(key.ends_with('?'));
                        assert_eq!((error.code(), error.message()), (3, "what?"));
                    }
                    Err(Error::KeyTooLong { len, limit }) => {
                        assert_eq!((*len, *limit, key), (long.len(), Key::MAX_LEN, &long));
                    }
                    Err(error) => panic!("{key}: {error}"),
                }
            }
            // All but the two failures are remembered.
            assert_eq!(runs.total(), 60 + 2 * round, "batch: {batch}");
            let gets = group.stats().gets;
            assert_eq!((gets.total(), gets.failed_load, gets.failed_other, gets.not_found), (64, 3, 1, 3));
        }
        cluster.idle().await;
        cluster.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_list_has_no_answers_and_asks_nobody() {
    let runs = Runs::default();
    let cluster = Cluster::start(2, |index, node| batches(&runs, index, node, 10)).await;
    let before = cluster.network.messages("node-1:1", "node-2:1").total();
    assert!(cluster.groups[0].get_many::<&str>([]).await.is_empty());
    assert_eq!(cluster.network.messages("node-1:1", "node-2:1").total(), before);
    assert_eq!((runs.calls(), cluster.groups[0].stats().gets.total()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_keys_of_three_nodes_are_one_message_and_one_query_for_each_owner() {
    let runs = Runs::default();
    let cluster = Cluster::start(3, |index, node| batches(&runs, index, node, 1000)).await;
    let keys = keys(1000);
    let start = now();
    let answers = cluster.groups[0].get_many(&keys).await;
    assert_eq!(now() - start, 10 * MS, "all owners are asked at once");
    for (key, answer) in keys.iter().zip(answers) {
        assert_eq!(answer.unwrap(), format!("value of {key}"));
    }
    for peer in ["node-2:1", "node-3:1"] {
        let sent = cluster.network.messages("node-1:1", peer);
        assert_eq!((sent.get, sent.get_many), (0, 1), "{peer}");
    }
    assert_eq!(cluster.network.messages("node-2:1", "node-3:1").get_many, 0, "nothing is forwarded");
    assert_eq!((runs.calls(), runs.total()), (3, 1000));
    for (index, group) in cluster.groups.iter().enumerate() {
        let owned = keys.iter().filter(|key| cluster.owner_of(key.as_bytes()) == index).count();
        assert_eq!((group.stats().loads.calls, group.stats().loads.started), (1, owned as u64));
        assert_eq!(runs.on(index), owned);
    }
    let fetches = cluster.groups[0].stats().fetches;
    assert_eq!((fetches.messages, fetches.keys), (2, 1000 - runs.on(0) as u64));
    // Again, from another node: its own keys are hits, the others one message each.
    assert!(cluster.groups[1].get_many(&keys).await.iter().all(Result::is_ok));
    assert_eq!(cluster.network.messages("node-2:1", "node-1:1").get_many, 1);
    assert_eq!(cluster.network.messages("node-2:1", "node-3:1").get_many, 1);
    assert_eq!(runs.calls(), 3);
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_misses_are_one_call_of_a_batch_loader() {
    for remote in [false, true] {
        let runs = Runs::default();
        let cluster = Cluster::start(2, |index, node| batches(&runs, index, node, 100)).await;
        let keys: Vec<String> = (0..100).map(|number| cluster.key_of(usize::from(remote), number)).collect();
        assert!(cluster.groups[0].get_many(&keys).await.iter().all(Result::is_ok));
        assert_eq!((runs.calls(), runs.total()), (1, 100));
    }
}

#[tokio::test(start_paused = true)]
async fn gets_that_arrive_together_ride_together() {
    let runs = Runs::default();
    let node = Node::local();
    let group = batches(&runs, 0, &node, 100);
    let keys = keys(50);
    let answers = join_all(keys.iter().map(|key| group.get(key))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!((runs.calls(), runs.total()), (1, 50));
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_all_calls_are_out_gathers_for_the_next_one() {
    let runs = Runs::default();
    let node = Node::local();
    let group = batches(&runs, 0, &node, 100);
    let mut asked = Vec::new();
    for (number, key) in keys(64).into_iter().enumerate() {
        let asking = group.clone();
        asked.push(tokio::spawn(async move { asking.get(&key).await }));
        // Each alone: the first four take the four permits, the others find none.
        while group.stats().flights <= number as u64 || runs.calls() < 4.min(number + 1) {
            tokio::task::yield_now().await;
        }
    }
    assert!(join_all(asked).await.into_iter().all(|answer| answer.unwrap().is_ok()));
    assert_eq!((runs.calls(), runs.total(), runs.most()), (5, 64, 4));
}

#[tokio::test(start_paused = true)]
async fn a_call_takes_no_more_keys_than_it_may_and_each_key_once() {
    for per_call in [1, 7, 64, 1000] {
        let runs = Runs::default();
        let node = Node::local();
        let counted = runs.clone();
        let loader = move |keys: Vec<Key>| {
            let running = counted.begin(0, keys.clone());
            async move {
                let _running = running;
                sleep(MS).await;
                assert!(keys.len() <= per_call, "{} keys in a call of {per_call}", keys.len());
                assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "distinct keys");
                Ok::<_, BoxError>(keys.into_iter().map(|key| (key.clone(), key.to_string())))
            }
        };
        let group = node.group("g").max_concurrent_loads(3).batch_loader(per_call, loader).build::<String>().unwrap();
        let mut asked = keys(500);
        asked.extend(keys(500));
        assert!(group.get_many(&asked).await.iter().all(Result::is_ok));
        assert_eq!((runs.calls(), runs.total()), (500_usize.div_ceil(per_call), 500));
        assert!(runs.most() <= 3);
        assert!(is_idle(&group.stats()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lone_miss_does_not_wait_for_others() {
    let runs = Runs::default();
    let node = Node::local();
    let group = batches(&runs, 0, &node, 1000);
    let start = now();
    group.get("lone").await.unwrap();
    assert_eq!(now() - start, 10 * MS, "the loader's own time and nothing else");
}

#[tokio::test(start_paused = true)]
async fn what_a_batch_does_not_find_is_not_found_and_what_was_not_asked_for_is_ignored() {
    let node = Node::local();
    let loader = |keys: Vec<Key>| async move {
        let mut found: HashMap<Key, Loaded<String>> = keys
            .into_iter()
            .filter(|key| key.starts_with(b"a"))
            .map(|key| (key.clone(), Loaded::value(key.to_string())))
            .collect();
        found.insert(Key::new("not asked for"), Loaded::value(String::from("surprise")));
        found.insert(Key::new("none"), Loaded::none());
        Ok::<_, BoxError>(found)
    };
    let group = node.group("g").batch_loader(10, loader).build::<String>().unwrap();
    let got = group.get_many(["a1", "b1", "none", "a2"]).await;
    assert_eq!(got[0].as_ref().unwrap(), "a1");
    assert!(matches!((&got[1], &got[2]), (Err(Error::NotFound), Err(Error::NotFound))));
    assert_eq!(got[3].as_ref().unwrap(), "a2");
    assert_eq!(group.peek("not asked for"), None);
    let stats = group.stats();
    assert_eq!((stats.loads.calls, stats.loads.found, stats.loads.not_found), (1, 2, 2));
    assert!(matches!(group.get("b1").await, Err(Error::NotFound)));
    assert_eq!(group.stats().loads.calls, 1, "that there is none is remembered");
}

#[tokio::test(start_paused = true)]
async fn a_failing_batch_fails_all_its_keys_and_no_others() {
    struct Broken(&'static str);
    impl BatchLoader<String> for Broken {
        async fn load_many(&self, keys: Vec<Key>) -> Result<HashMap<Key, Loaded<String>>, BoxError> {
            match self.0 {
                _ if keys[0].starts_with(b"fine") => {
                    Ok(keys.into_iter().map(|key| (key, Loaded::value(String::from("fine")))).collect())
                }
                "fails" => Err(LoadError::new("no table").with_code(9).into()),
                "panics" => panic!("no table"),
                _ => std::future::pending().await,
            }
        }
    }
    for how in ["fails", "panics", "hangs"] {
        let runs = Runs::default();
        let cluster = Cluster::start(2, |_, node| {
            let builder = node.group("g").batch_loader(10, Broken(how)).max_concurrent_loads(2);
            builder.load_timeout(Duration::from_secs(2)).build::<String>().unwrap()
        })
        .await;
        let mut asked: Vec<String> = (0..10).map(|number| cluster.key_of(0, number)).collect();
        let fine = (0..).map(|number| format!("fine-{number}")).filter(|key| cluster.owner_of(key.as_bytes()) == 0);
        asked.extend(fine.take(10));
        for group in cluster.groups.iter().rev() {
            let got = group.get_many(&asked).await;
            for got in &got[..10] {
                match got {
                    Err(Error::Load(error)) => assert!(how != "hangs" && error.message().contains("no table")),
                    Err(Error::LoadTimeout { .. }) => assert_eq!(how, "hangs"),
                    got => panic!("{how}: {got:?}"),
                }
            }
            assert!(got[10..].iter().all(|got| got.as_deref().is_ok_and(|value| value == "fine")), "{how}");
        }
        let loads = cluster.groups[0].stats().loads;
        assert_eq!((loads.calls, loads.failed, loads.found), (3, 20, 10), "{how}");
        assert_eq!(runs.total(), 0);
        cluster.idle().await;
        cluster.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn more_keys_than_fit_in_a_message_are_several_messages() {
    const MANY: usize = 100_000;
    let runs = Runs::default();
    let cluster = Cluster::start(2, |index, node| {
        let runs = runs.clone();
        let loader = move |keys: Vec<Key>| {
            let running = runs.begin(index, []);
            async move {
                let _running = running;
                Ok::<_, BoxError>(
                    keys.into_iter()
                        .map(|key| (key.clone(), Bytes::copy_from_slice(&key[key.len().saturating_sub(16)..]))),
                )
            }
        };
        node.group("g").batch_loader(4096, loader).build::<Bytes>().unwrap()
    })
    .await;
    // Beyond the count of keys in a message: 65,536 of one owner.
    let numbers = (0..).map(|number| format!("{number:016}")).filter(|key| cluster.owner_of(key.as_bytes()) == 1);
    let asked: Vec<String> = numbers.take(MANY).collect();
    let got = cluster.groups[0].get_many(&asked).await;
    assert_eq!(got.len(), MANY);
    for (key, got) in asked.iter().zip(got) {
        assert_eq!(got.unwrap(), key.as_bytes());
    }
    assert_eq!(cluster.network.messages("node-1:1", "node-2:1").get_many, 2);
    // Beyond the bytes of keys in a message: 4 MiB, here of the longest keys.
    let tail = |number: usize| format!("{}{number:016}", "x".repeat(Key::MAX_LEN - 16));
    let long: Vec<String> = (0..).map(tail).filter(|key| cluster.owner_of(key.as_bytes()) == 1).take(130).collect();
    let got = cluster.groups[0].get_many(&long).await;
    for (key, got) in long.iter().zip(got) {
        assert_eq!(got.unwrap(), key.as_bytes()[Key::MAX_LEN - 16..]);
    }
    assert_eq!(cluster.network.messages("node-1:1", "node-2:1").get_many, 2 + 3);
    assert_eq!(cluster.groups[0].stats().fetches.loaded_here, 0);
    // And removals of as many.
    cluster.groups[0].remove_many(&asked).await.unwrap().everywhere().unwrap();
    cluster.groups[0].remove_many(&long).await.unwrap().everywhere().unwrap();
    assert_eq!(cluster.network.messages("node-1:1", "node-2:1").remove, 2 + 3);
    assert_eq!(cluster.groups[1].stats().cache.main_entries, 0);
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn answers_larger_than_a_message_all_come() {
    let cluster = Cluster::start(2, |_, node| {
        let loader = |key: Key| async move { Ok::<_, BoxError>(Bytes::from(vec![key[key.len() - 1]; 3 << 20])) };
        node.group("g").loader(loader).build::<Bytes>().unwrap()
    })
    .await;
    let asked: Vec<String> = (0..12).map(|number| cluster.key_of(1, number)).collect();
    let got = cluster.groups[0].get_many(&asked).await;
    for (key, got) in asked.iter().zip(got) {
        let got = got.unwrap();
        assert_eq!((got.len(), got[0]), (3 << 20, key.as_bytes()[key.len() - 1]));
    }
    assert_eq!(cluster.groups[0].stats().fetches.loaded_here, 0);
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn many_join_the_flights_of_others_and_others_theirs() {
    let runs = Runs::default();
    let cluster = Cluster::start(3, |index, node| batches(&runs, index, node, 10)).await;
    let keys = keys(30);
    let asked = cluster.groups.iter().flat_map(|group| {
        let group = group.clone();
        let (one, many) = (group.clone(), keys.clone());
        let ones = keys.clone().into_iter().map(move |key| {
            let one = one.clone();
            tokio::spawn(async move { vec![(key.clone(), one.get(&key).await)] })
        });
        let many = tokio::spawn(async move {
            let got = group.get_many(&many).await;
            many.into_iter().zip(got).collect::<Vec<_>>()
        });
        ones.chain([many])
    });
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for answers in join_all(asked.collect::<Vec<_>>()).await {
        for (key, answer) in answers.unwrap() {
            assert_eq!(answer.unwrap(), format!("value of {key}"));
            *seen.entry(key).or_default() += 1;
        }
    }
    assert!(seen.values().all(|count| *count == 6));
    assert_eq!(runs.total(), 30);
    cluster.idle().await;
}

#[tokio::test(start_paused = true)]
async fn many_that_are_given_up_are_counted_and_leave_nothing_behind() {
    let runs = Runs::default();
    let cluster = Cluster::start(2, |index, node| batches(&runs, index, node, 10)).await;
    let keys = keys(100);
    for _ in 0..100 {
        assert!(futures::FutureExt::now_or_never(cluster.groups[0].get_many(&keys)).is_none());
    }
    cluster.idle().await;
    // A fetch that nobody waits for is given up, and with it a load that has not begun; a load here goes on.
    let own = keys.iter().filter(|key| cluster.owner_of(key.as_bytes()) == 0).count();
    assert!((own..=100).contains(&runs.total()) && runs.now() == 0, "{} loads of {own} and the peer's", runs.total());
    let gets = cluster.groups[0].stats().gets;
    assert_eq!((gets.abandoned, gets.total(), gets.joined), (10_000, 10_000, 9_900));
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_of_many_has_its_limit_whoever_started_the_flights() {
    let node = Node::local();
    let loader = |key: Key| async move {
        sleep(if &key[..] == b"slow" { 100 } else { 1 } * Duration::from_secs(1)).await;
        Ok::<_, BoxError>(key.to_string())
    };
    let builder = node.group("g").timeout(Duration::from_secs(3)).load_timeout(Duration::from_secs(200));
    let group = builder.loader(loader).build::<String>().unwrap();
    let start = now();
    let got = group.get_many(["quick", "slow"]).await;
    assert_eq!(now() - start, Duration::from_secs(3));
    assert_eq!(got[0].as_ref().unwrap(), "quick");
    assert!(matches!(got[1], Err(Error::Timeout { limit }) if limit == Duration::from_secs(3)));
}
