use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::{BoxError, ConfigError, Group, Key, Node};

const SECOND: Duration = Duration::from_secs(1);

fn group(node: &Node) -> Result<Group<String>, ConfigError> {
    node.group("g").loader(|key: Key| async move { Ok::<_, BoxError>(key.to_string()) }).build()
}

async fn cluster() -> Cluster<Group<String>> {
    Cluster::start(3, group).await.unwrap()
}

#[test]
fn the_same_seed_gives_the_same_nodes_and_another_one_others() {
    let incarnations = |seed| {
        run(seed, async || {
            let cluster = cluster().await;
            (0..3).map(|node| cluster.node(node).unwrap().stats().incarnation).collect::<Vec<_>>()
        })
    };
    assert_eq!(incarnations(1), incarnations(1));
    assert_ne!(incarnations(1), incarnations(2));
}

#[test]
fn a_node_that_crashed_comes_back_as_another_one_without_what_it_had() {
    run(1, async || {
        let cluster = cluster().await;
        let incarnation = |cluster: &Cluster<_>| cluster.node(0).map(|node| node.stats().incarnation);
        let (first, group) = (incarnation(&cluster), cluster.service(0).unwrap());
        group.get("k").await.unwrap();
        let cut_short = cluster.on(0, |_| std::future::pending::<()>()).unwrap();
        drop(group);
        cluster.inject(Fault::Crash { node: 0 }, SECOND);
        assert!(cluster.node(0).is_none() && cluster.on(0, |_| std::future::ready(())).is_none());
        assert_eq!(cut_short.await.unwrap(), None);
        assert!(cluster.until(10 * SECOND, Cluster::is_whole).await);
        assert!(cluster.now() >= SECOND);
        assert_ne!(incarnation(&cluster), first);
        assert_eq!(cluster.service(0).unwrap().stats().gets.total(), 0);
    });
}

#[test]
fn a_process_that_stands_still_runs_nothing_and_loses_nothing() {
    run(1, async || {
        let cluster = cluster().await;
        let ran = Arc::new(Mutex::new(Vec::new()));
        let (noted, watched) = (Arc::clone(&ran), cluster.clone());
        cluster.inject(Fault::Pause { node: 0 }, 5 * SECOND);
        let running = cluster.on(0, move |_| async move { noted.lock().unwrap().push(watched.now()) }).unwrap();
        tokio::time::sleep(4 * SECOND).await;
        assert!(ran.lock().unwrap().is_empty());
        let others = cluster.node(1).unwrap().stats();
        assert!(others.peers.iter().any(|peer| peer.state != crate::PeerState::Up), "nobody noticed: {others:?}");
        assert_eq!(running.await.unwrap(), Some(()));
        assert!(ran.lock().unwrap()[0] >= 5 * SECOND);
        cluster.heal(10 * SECOND).await.unwrap();
    });
}

#[test]
fn faults_overlap_and_each_ends_by_itself() {
    run(1, async || {
        let cluster = cluster().await;
        let count = |cluster: &Cluster<_>| cluster.network().connections().len();
        let all = count(&cluster);
        cluster.inject(Fault::Cut { from: 0, to: 1, both_ways: false }, SECOND);
        cluster.inject(Fault::Cut { from: 0, to: 1, both_ways: true }, 3 * SECOND);
        assert_eq!(count(&cluster), all - 2);
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!((count(&cluster), cluster.faults().len()), (all - 2, 1));
        cluster.inject(Fault::List { node: 2, without: vec![0, 2] }, 10 * SECOND);
        assert_eq!(cluster.list_of(2).unwrap(), [1, 2]);
        assert!(!cluster.is_whole());
        cluster.heal(10 * SECOND).await.unwrap();
        assert_eq!(cluster.list_of(2).unwrap(), [0, 1, 2]);
    });
}

#[test]
fn a_restart_waits_for_the_loads_in_flight_and_a_crash_does_not() {
    fn slow(node: &Node) -> Result<Group<String>, ConfigError> {
        let loader = |_: Key| async {
            tokio::time::sleep(SECOND / 2).await;
            Ok::<_, BoxError>(String::new())
        };
        node.group("g").loader(loader).build()
    }
    for (fault, loaded) in [(Fault::Restart { node: 0, limit: SECOND }, true), (Fault::Crash { node: 0 }, false)] {
        run(1, async || {
            let cluster = Cluster::start(1, slow).await.unwrap();
            let load = cluster.on(0, async |group| group.get("k").await.is_ok()).unwrap();
            tokio::time::sleep(SECOND / 10).await;
            cluster.inject(fault.clone(), SECOND);
            assert_eq!(load.await.unwrap(), loaded.then_some(true), "{fault}");
            assert!(cluster.until(10 * SECOND, Cluster::is_whole).await);
        });
    }
}

#[test]
fn a_story_is_as_short_as_it_can_be() {
    let events: Vec<u32> = (0..100).collect();
    let mut asked = 0;
    let short = shrink(&events, |events| {
        asked += 1;
        events.contains(&3) && events.contains(&50) && events.contains(&51)
    });
    assert_eq!(short, [3, 50, 51]);
    assert!(asked < 200, "it took {asked} runs");
    assert!(shrink(&events, |_| true).is_empty());
}
