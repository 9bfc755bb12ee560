//! A model of a cluster in plain code, to hunt for runs that break the promise.
//!
//! Every node is a [`Removals`] with a map for a store; connections are queues of values. A seed decides what happens
//! next: a message arrives, a connection breaks (with what is on it, and each end notices at its own time), a node is
//! killed and starts anew, a list changes, a get or a removal begins, a load ends. Every value that a get returns is
//! judged: **no get that starts after a removal is complete returns a value whose load began before it was called**.
//!
//! Excused are nodes that were no part of everybody at some time between the call and the end of a removal, until they
//! have seen it: such a node is *departed*, and nobody can have told it. Values that came from those are excused only
//! at a node that has not seen the removal either, a new one that met nobody else yet.

#![allow(clippy::needless_for_each, clippy::match_same_arms, reason = "short events read better in one line")]

mod cluster;
mod judge;
mod named;

use cluster::{Bug, Cluster, Size};

/// How many seeds each size is run with.
const SEEDS: u64 = 400;

/// How many events a run has, before all is mended.
const EVENTS: usize = 500;

/// Runs a seed; one that fails is run again, to tell what happened.
fn run(seed: u64, size: Size, bug: Option<Bug>) -> Result<judge::Counts, String> {
    let run = |is_told| {
        let mut cluster = Cluster::new(seed, size, bug, is_told);
        cluster.run(EVENTS).and_then(|()| cluster.heal()).map(|()| cluster.counts())
    };
    run(false).map_err(|_| format!("seed {seed}, {size:?}: {}", run(true).expect_err("a seed replays")))
}

#[test]
fn no_run_breaks_the_promise_and_all_of_them_drain() {
    for size in [Size::Small, Size::Tight] {
        let mut total = judge::Counts::default();
        for seed in 0..SEEDS {
            total.add(&run(seed, size, None).unwrap_or_else(|why| panic!("{why}")));
        }
        println!("{size:?}: {total:?}");
        assert!(total.judged > 10 * SEEDS, "too few answers were judged: {total:?}");
        assert!(total.completed > 2 * SEEDS && total.restarts > SEEDS && total.lists > SEEDS, "{total:?}");
        assert!(size != Size::Tight || total.adoptions > SEEDS / 10, "{total:?}");
    }
}

#[test]
fn every_planted_bug_is_found() {
    let mut unseen = Vec::new();
    for bug in Bug::ALL {
        let tries = (0..SEEDS).flat_map(|seed| [(seed, Size::Small), (seed, Size::Tight)]);
        let found = tries.into_iter().find_map(|(seed, size)| run(seed, size, Some(bug)).err());
        println!("{bug:?}: {}", found.clone().unwrap_or_default().lines().next().unwrap_or_default());
        unseen.extend(found.is_none().then_some(bug));
    }
    assert!(unseen.is_empty(), "nobody notices {unseen:?}");
}
