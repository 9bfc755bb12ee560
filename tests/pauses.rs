//! Processes that stand still and go on as if nothing had been: what they tell and serve when they are awake again. In
//! simulations, where time goes on meanwhile.

#![cfg(feature = "test-util")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use peerage::simulation::{Cluster, Fault, run};
use peerage::{BoxError, ConfigError, Error, GetOptions, Group, GroupBuilder, Key, Node, PeerState};
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A source whose value is the number of its changes so far. Clones are the same source.
#[derive(Clone, Default)]
struct Source {
    version: Arc<AtomicU64>,
    delay: Duration,
}

impl Source {
    fn change(&self) -> u64 {
        self.version.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn group(&self, node: &Node, lives: impl Fn(GroupBuilder) -> GroupBuilder) -> Result<Group<String>, ConfigError> {
        let source = self.clone();
        let loader = move |_: Key| {
            let source = source.clone();
            async move {
                let version = source.version.load(Ordering::SeqCst);
                sleep(source.delay).await;
                Ok::<_, BoxError>(version.to_string())
            }
        };
        lives(node.group("g")).loader(loader).build()
    }
}

/// Nodes that have found each other, with a group each.
async fn cluster(
    nodes: usize,
    source: &Source,
    lives: impl Fn(GroupBuilder) -> GroupBuilder + Copy + Send + Sync + 'static,
) -> Cluster<Group<String>> {
    let source = source.clone();
    Cluster::start(nodes, move |node| source.group(node, lives)).await.unwrap()
}

/// A key that a node owns.
fn owned_by(cluster: &Cluster<Group<String>>, node: usize) -> String {
    let node = cluster.node(node).unwrap();
    let is_own = |key: &String| node.placement().owner_of(key) == node.name();
    (0..1_000).map(|number| format!("key-{number}")).find(is_own).unwrap()
}

/// Has every node keep a copy of a key: one answer in so many is kept.
async fn copied(cluster: &Cluster<Group<String>>, key: &str) {
    for node in 0..cluster.len() {
        let group = cluster.service(node).unwrap();
        while group.peek(key).is_none() {
            group.get(key).await.unwrap();
        }
    }
}

/// The ways to ask for a key.
#[derive(Clone, Copy, Debug)]
enum Way {
    Get,
    Many,
    With,
    Peek,
}

impl Way {
    const ALL: [Self; 4] = [Self::Get, Self::Many, Self::With, Self::Peek];

    /// Asks in the process of a node; nothing if a peek finds nothing.
    async fn ask(self, group: Group<String>, key: String) -> Option<Result<String, Error>> {
        Some(match self {
            Self::Get => group.get(&key).await,
            Self::Many => group.get_many([&key]).await.remove(0),
            Self::With => group.get_with(&key, GetOptions::new()).await.map(peerage::Entry::into_value),
            Self::Peek => Ok(group.peek(&key)?),
        })
    }
}

fn a_minute(group: GroupBuilder) -> GroupBuilder {
    group.time_to_live(60 * SECOND)
}

#[test]
fn who_goes_on_after_a_pause_serves_nothing_from_before_a_removal() {
    for (seed, way) in (1..).zip(Way::ALL) {
        run(seed, async || {
            let source = Source::default();
            let cluster = cluster(3, &source, a_minute).await;
            for owner in 0..3 {
                let key = owned_by(&cluster, owner);
                copied(&cluster, &key).await;
                cluster.inject(Fault::Pause { node: 0 }, 3 * SECOND);
                // These are the first to run when the process goes on.
                let ask = || cluster.on(0, |group| way.ask(group, key.clone())).unwrap();
                let first: Vec<_> = (0..10).map(|_| ask()).collect();
                let now = source.change();
                let removed = cluster.service(1).unwrap().remove(&key).await.unwrap();
                assert_eq!(removed.pending().count(), 1, "the one that stands still");
                for first in first {
                    match first.await.unwrap().unwrap() {
                        Some(answer) => assert_eq!(answer.unwrap(), now.to_string(), "{way:?}, owned by {owner}"),
                        None => assert!(matches!(way, Way::Peek)),
                    }
                }
                removed.settled(10 * SECOND).await.everywhere().unwrap();
                cluster.heal(10 * SECOND).await.unwrap();
            }
        });
    }
}

#[test]
fn what_was_not_removed_is_there_after_a_pause_and_loaded_by_nobody() {
    run(1, async || {
        let source = Source::default();
        let cluster = cluster(3, &source, a_minute).await;
        let key = owned_by(&cluster, 0);
        copied(&cluster, &key).await;
        source.change();
        cluster.inject(Fault::Pause { node: 0 }, 10 * SECOND);
        let first = cluster.on(0, async move |group| group.get(&key).await.unwrap()).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), "0");
        let took = cluster.now();
        assert!(took < 11 * SECOND, "it took until {took:?}");
    });
}

#[test]
fn who_goes_on_and_reaches_nobody_serves_its_own_callers_after_a_moment() {
    run(1, async || {
        let cluster = cluster(3, &Source::default(), a_minute).await;
        let key = owned_by(&cluster, 0);
        copied(&cluster, &key).await;
        let since = cluster.now();
        for other in 1..3 {
            cluster.inject(Fault::Silence { from: 0, to: other, both_ways: true }, 60 * SECOND);
        }
        cluster.inject(Fault::Pause { node: 0 }, 10 * SECOND);
        let first = cluster.on(0, async move |group| group.get(&key).await.unwrap()).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), "0");
        let took = cluster.now().saturating_sub(since);
        assert!(took <= ms(11_250), "it took {took:?}");
    });
}

#[test]
fn a_get_that_cannot_wait_until_the_peers_are_heard_ends_at_its_limit() {
    run(1, async || {
        let cluster = cluster(2, &Source::default(), a_minute).await;
        let key = owned_by(&cluster, 0);
        copied(&cluster, &key).await;
        cluster.inject(Fault::Silence { from: 0, to: 1, both_ways: true }, 60 * SECOND);
        cluster.inject(Fault::Pause { node: 0 }, 10 * SECOND);
        let limit = ms(50);
        let options = GetOptions::new().timeout(limit);
        let first = cluster.on(0, async move |group| group.get_with(&key, options).await.unwrap_err()).unwrap();
        assert!(matches!(first.await.unwrap(), Some(Error::Timeout { limit: told }) if told == limit));
    });
}

#[test]
fn who_asks_one_that_goes_on_is_answered_when_that_has_caught_up() {
    run(1, async || {
        let source = Source::default();
        let cluster = cluster(3, &source, a_minute).await;
        let key = owned_by(&cluster, 0);
        cluster.service(0).unwrap().get(&key).await.unwrap();
        // Too short for the others to notice that it was silent, and just long enough for itself.
        let just = ms(1_990);
        cluster.inject(Fault::Pause { node: 0 }, just);
        let now = source.change();
        let removed = cluster.service(1).unwrap().remove(&key).await.unwrap();
        assert_eq!(removed.pending().count(), 1);
        for node in 1..3 {
            let asked = cluster.service(node).unwrap();
            assert_eq!(asked.get(&key).await.unwrap(), now.to_string());
        }
        let is_up = |peer: &peerage::PeerStats| peer.state == PeerState::Up;
        assert!(cluster.node(1).unwrap().stats().peers.iter().all(is_up), "nobody was lost");
    });
}

#[test]
fn who_joins_late_gets_nothing_that_was_over_though_its_answer_was_held_up() {
    run(1, async || {
        let source = Source { delay: ms(500), ..Source::default() };
        let cluster = cluster(2, &source, |group| group.time_to_live(ms(300)).jitter(0.0)).await;
        let key = owned_by(&cluster, 1);
        let ask = |key: &str| {
            let key = key.to_string();
            cluster.on(0, |group| async move { group.get(&key).await.unwrap() }).unwrap()
        };
        let early = ask(&key);
        sleep(ms(250)).await;
        // The load ends after half a second, its value is over at 0.8 s, and the answer leaves at 1.25 s. (What carries a
        // question runs with its asker here.)
        cluster.inject(Fault::Pause { node: 0 }, SECOND);
        source.change();
        let late = ask(&key);
        assert_eq!((early.await.unwrap().unwrap(), late.await.unwrap().unwrap()), ("0".into(), "1".into()));
    });
}

#[test]
fn who_goes_on_leaves_a_connection_on_which_nothing_comes_for_a_new_one() {
    run(1, async || {
        let source = Source::default();
        let cluster = cluster(2, &source, a_minute).await;
        let key = owned_by(&cluster, 0);
        copied(&cluster, &key).await;
        let since = cluster.now();
        // Too short for anybody to notice the silence, so the connections stay. What is sent on them takes for ever,
        // also when the process goes on; what is sent on new ones after that does not.
        let just = ms(1_990);
        cluster.inject(Fault::Pause { node: 0 }, just);
        cluster.inject(Fault::Delay { a: 0, b: 1, delay: 60 * SECOND }, just + ms(290));
        let first = cluster.on(0, |group| async move { group.get(&key).await.unwrap() }).unwrap();
        let now = source.change();
        cluster.service(1).unwrap().clear().await.unwrap().everywhere().unwrap_err();
        assert_eq!(first.await.unwrap().unwrap(), now.to_string());
        let took = cluster.now().saturating_sub(since);
        assert!(took < just + SECOND, "it took {took:?}");
    });
}
