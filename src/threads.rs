//! Threads that meet: flights, removals and their state, in orders that a scheduler makes up.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test --lib threads::`. Each test runs thousands of schedules, chosen at random with
//! few switches (PCT: Burckhardt, Kothari, Musuvathi and Nagarakatte, 2010) and without bound; one that fails is printed,
//! to be replayed. What is judged: a value whose load began before a removal is not found after it.

use std::sync::Arc;
use std::time::Duration;

use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;

use crate::clock::Clock;
use crate::coherence::{Coherence, Holders};
use crate::entry::Source;
use crate::flight::Landed;
use crate::key::{HashedKey, Key};
use crate::lifespan::Lifespan;
use crate::member::NodeName;
use crate::message::{Incarnation, Scope};
use crate::removals::{Origin, Span};
use crate::shards::{Begin, Demand, Keep, Kind, Lead, Look, Shards};
use crate::store::Place;
use crate::time::Moment;

const NOW: Moment = Moment::from_secs(1 << 27);

/// A source whose value is a version, a node's shards before it, and their removals.
struct World {
    source: AtomicU64,
    shards: Arc<Shards<u64>>,
    key: HashedKey,
}

/// What the state of removals sees of the world: taken apart, so that it holds no circle.
struct Held(Arc<World>);

impl Holders for Held {
    fn take_out(&self, _group: &str, scope: &Scope) {
        match scope {
            Scope::Keys(_) => self.0.shards.remove(self.0.key.as_ref()),
            _ => self.0.shards.clear(),
        }
    }

    fn take_all_out(&self) {
        self.0.shards.clear();
    }
}

impl World {
    fn new() -> Arc<Self> {
        let shards = Shards::new(1 << 16, (0.5, 0.0), Duration::ZERO, Clock::start(), || 7);
        let key = HashedKey::new(Key::new("k"));
        Arc::new(Self { source: AtomicU64::new(1), shards: Arc::new(shards), key })
    }

    fn board(&self, kind: Kind) -> Option<Lead<u64>> {
        match self.shards.look_or_join(self.key.as_ref(), Place::Main, kind, Demand::NONE, NOW) {
            Look::Lead(lead, _) => Some(lead),
            _ => None,
        }
    }

    fn land(lead: Lead<u64>, version: u64) {
        let life = Lifespan::new(NOW, Moment::NEVER);
        let landed = Landed::new(Some(version), life, Source::Loader);
        drop(lead.land(Ok(landed), Some(Keep { place: Place::Main, weight: 8 })));
    }

    /// A load: the source is asked once it has begun.
    fn load(&self) {
        let Some(lead) = self.board(Kind::Load) else { return };
        if let Begin::Go(lead) = lead.begin(Place::Main, NOW) {
            let version = self.source.load(Ordering::SeqCst);
            thread::yield_now();
            Self::land(lead, version);
        }
    }

    /// What is here, if anything, is no older than that.
    fn check(&self, version: u64) {
        if let Some(found) = self.shards.peek(self.key.as_ref(), |_| true) {
            assert!(found >= version, "version {found} is here, after the removal of all before {version}");
        }
    }
}

/// A world, and the removals of a node that takes them out of it for as long as the holders are there.
fn coherent() -> (Arc<World>, Arc<dyn Holders>, Arc<Coherence>) {
    let world = World::new();
    let holders: Arc<dyn Holders> = Arc::new(Held(Arc::clone(&world)));
    let coherence = Arc::new(Coherence::new(origin("a"), Arc::downgrade(&holders)));
    (world, holders, coherence)
}

fn try_out(test: impl Fn() + Send + Sync + Copy + 'static) {
    shuttle::check_random(test, 4_000);
    shuttle::check_pct(test, 4_000, 3);
}

#[test]
fn no_load_brings_back_what_was_removed() {
    try_out(|| {
        let world = World::new();
        let loaders: Vec<_> = (0..2)
            .map(|_| {
                let world = Arc::clone(&world);
                thread::spawn(move || world.load())
            })
            .collect();
        for version in [2, 3] {
            world.source.store(version, Ordering::SeqCst);
            world.shards.remove(world.key.as_ref());
            world.check(version);
        }
        for loader in loaders {
            loader.join().unwrap();
        }
        world.check(3);
    });
}

#[test]
fn no_load_brings_back_what_was_cleared_or_replaced() {
    try_out(|| {
        let world = World::new();
        let loader = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.load())
        };
        let remover = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.source.fetch_add(1, Ordering::SeqCst);
                world.shards.remove(world.key.as_ref());
            })
        };
        let version = world.source.fetch_add(1, Ordering::SeqCst) + 1;
        world.shards.clear();
        world.check(version);
        loader.join().unwrap();
        remover.join().unwrap();
        world.check(3);
    });
}

/// A fetch begins, and looks then for what its question has to carry: either a removal that is applied meanwhile voids
/// it, or the question carries it, so that the peer drops what it has.
#[test]
fn a_removal_voids_a_fetch_or_travels_with_its_question() {
    try_out(|| {
        let (world, _holders, coherence) = coherent();
        let peer = origin("b");
        // Somebody else is there who has not applied it: the tombstone stays.
        coherence.list([peer.name.clone()]);
        let group: Arc<str> = Arc::from("g");
        // The peer's copy.
        let theirs = world.source.load(Ordering::SeqCst);
        let fetcher = {
            let (world, coherence, group) = (Arc::clone(&world), Arc::clone(&coherence), Arc::clone(&group));
            thread::spawn(move || {
                let Some(lead) = world.board(Kind::Fetch) else { return };
                let carried = coherence.covering(&group, &world.key.key, &peer);
                let answer = if carried.is_empty() { theirs } else { world.source.load(Ordering::SeqCst) };
                World::land(lead, answer);
            })
        };
        world.source.store(2, Ordering::SeqCst);
        coherence.remove(&group, Scope::Keys(vec![world.key.key.clone()]));
        world.check(2);
        fetcher.join().unwrap();
        world.check(2);
    });
}

/// Two threads apply the same removals, out of their order: each counts as applied once what it takes out is out.
#[test]
fn what_is_acknowledged_is_out() {
    try_out(|| {
        let (world, holders, coherence) = coherent();
        let elsewhere = Coherence::new(origin("b"), Arc::downgrade(&holders));
        let group: Arc<str> = Arc::from("g");
        let keys = || Scope::Keys(vec![world.key.key.clone()]);
        let records = [elsewhere.issue(&group, keys()), elsewhere.issue(&group, keys())];
        world.load();
        world.source.store(2, Ordering::SeqCst);
        let apply = |order: [usize; 2]| {
            let (world, coherence, records) = (Arc::clone(&world), Arc::clone(&coherence), records.clone());
            thread::spawn(move || {
                for at in order {
                    assert!(coherence.apply(&records[at]));
                    world.check(2);
                }
            })
        };
        for thread in [apply([0, 1]), apply([1, 0])] {
            thread.join().unwrap();
        }
    });
}

/// Two questions carry the same removal, ahead of its turn: neither is answered with what it takes out.
#[test]
fn what_questions_carry_is_out_before_either_is_answered() {
    try_out(|| {
        let (world, _holders, coherence) = coherent();
        let span = Span::one(origin("b"), 1);
        world.load();
        world.source.store(2, Ordering::SeqCst);
        let questions = [(); 2].map(|()| {
            let (world, coherence, span) = (Arc::clone(&world), Arc::clone(&coherence), span.clone());
            thread::spawn(move || {
                let (group, key) = (Arc::from("g"), &world.key.key);
                let take_out = || world.shards.remove(world.key.as_ref());
                coherence.carry(&group, key, std::slice::from_ref(&span), NOW, take_out);
                world.check(2);
            })
        });
        for question in questions {
            question.join().unwrap();
        }
    });
}

fn origin(name: &str) -> Origin {
    Origin::new(NodeName::from(name), Incarnation(1))
}
