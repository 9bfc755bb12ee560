//! Processes that stand still and go on as if nothing had been: what they tell and serve when they are awake again. In
//! simulations, where time goes on meanwhile.

#![cfg(feature = "test-util")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use peerage::simulation::{Cluster, Fault, run};
use peerage::{BoxError, ConfigError, Group, GroupBuilder, Key, Node};
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
