//! What peers ask of a group on this node.
//!
//! A request from a peer is served here, whatever the placement says: from the cache, or by a load of this node. It is
//! never forwarded, and it waits for loads only, never for a fetch. Whatever asks has other keys on the same stream: the
//! user's code that panics (a value's clone) fails its key, and no other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::entry::{Source, Value};
use crate::error::{Error, LoadError};
use crate::flight::{Flight, Landed, Landing};
use crate::key::{HashedKey, Key, KeyRef};
use crate::lifespan::Lifespan;
use crate::loader::Inside;
use crate::message::{After, Answer, Copy, Insert, Outcome, Refusal, RefusalKind, Scope};
use crate::removals::{Origin, Span};
use crate::shards::{Asked, Demand};
use crate::stats::{GroupStats, Tally};
use crate::tags::TagHash;
use crate::time::Moment;
use crate::transport::{Room, Served, Wanted};

use super::inner::Inner;
use super::load::Boarded;
use super::registry::{Serve, Terms};

/// A key that is not in the cache: its place among those that were asked for, how long it is waited for, and how old
/// its value may be.
type Missing = (usize, HashedKey, (Duration, Moment));

/// The group as its node's registry holds it.
pub(super) struct Serving<V: Value>(pub(super) Arc<Inner<V>>);

impl<V: Value> Serve for Serving<V> {
    fn schema(&self) -> u32 {
        self.0.config.schema
    }

    fn serve(
        self: Arc<Self>,
        wanted: &[Wanted],
        nested: bool,
        room: Room,
        served: &mut dyn FnMut(usize, Served),
    ) -> usize {
        self.0.serve(wanted, nested, room, served)
    }

    fn take_out(&self, scope: &Scope) {
        self.0.take_out(scope);
    }

    fn install(&self, key: Key, value: Bytes, terms: Terms) -> Result<bool, Refusal> {
        let stored = self.0.install_from_client(&HashedKey::new(key), &value, terms);
        stored.map_err(|error| match error {
            Error::Codec(error) => {
                Refusal::new(RefusalKind::Schema, format!("the value does not decode here: {error}"))
            }
            error => Refusal::new(RefusalKind::TooLarge, error.to_string()),
        })
    }

    fn take_offer(self: Arc<Self>, from: Origin, insert: Insert) -> BoxFuture<'static, (bool, bool)> {
        Arc::clone(&self.0).take_offer(from, insert)
    }

    fn stats(&self) -> GroupStats {
        self.0.stats()
    }
}

impl<V: Value> Inner<V> {
    /// What is in the cache is answered at once; the rest is boarded together, for a batch loader's sake.
    fn serve(
        self: &Arc<Self>,
        wanted: &[Wanted],
        nested: bool,
        room: Room,
        served: &mut dyn FnMut(usize, Served),
    ) -> usize {
        let received = self.now();
        if !self.context.pulse.is_trusted(received) {
            for (at, wanted) in wanted.iter().enumerate() {
                served(at, self.serve_when_trusted(wanted.clone(), nested, received));
            }
            return wanted.len();
        }
        let since = self.shards.tags().now();
        let (mut looked_at, mut missing, mut bytes) = (0, Vec::new(), 0);
        for (at, Wanted { key, time_limit, max_age, after }) in wanted.iter().enumerate() {
            if bytes > room.bytes || (missing.is_empty() && at >= room.answers.max(1)) {
                break;
            }
            looked_at += 1;
            if *after != After::default() {
                self.carry(KeyRef::new(key), &after.removed, received);
                if after.offered > 0 {
                    served(at, Served::Now(Ok(self.offered(after.offered, KeyRef::new(key)))));
                    continue;
                }
            }
            let oldest = max_age.map_or(Moment::START, |age| received.earlier(age));
            match self.answer_held(key, oldest, received) {
                Some(answer) => {
                    bytes += answer.value_len();
                    served(at, Served::Now(Ok(answer)));
                }
                None => missing.push((at, KeyRef::new(key).to_owned(), (*time_limit, oldest))),
            }
        }
        if !missing.is_empty() {
            self.serve_missing(missing, served, nested, (received, since));
        }
        looked_at
    }

    /// This process has stood still, and is about to hear what it missed: then the key is served as ever.
    #[cold]
    fn serve_when_trusted(self: &Arc<Self>, wanted: Wanted, nested: bool, received: Moment) -> Served {
        let group = Arc::clone(self);
        let answer = async move {
            group.context.until_trusted().await;
            let late = group.now().since(received);
            let mut outcome = None;
            group
                .serve(std::slice::from_ref(&wanted), nested, Room::UNLIMITED, &mut |_, served| outcome = Some(served));
            let answer = match outcome {
                Some(Served::Now(answer)) => answer,
                Some(Served::Later(answer)) => answer.await,
                None => Err(Refusal::new(RefusalKind::Invalid, "there is no answer")),
            };
            answer.map(|answer| Answer { held: answer.held + late, ..answer })
        };
        Served::Later(answer.boxed())
    }

    /// Boards the loads of what is not in the cache.
    fn serve_missing(
        self: &Arc<Self>,
        missing: Vec<Missing>,
        served: &mut dyn FnMut(usize, Served),
        nested: bool,
        (received, since): (Moment, u64),
    ) {
        let outer = nested.then(Inside::of_a_peer);
        let demands = missing.iter().map(|(_, key, (_, oldest))| (key, Demand::of_peer(*oldest)));
        let Ok(boarded) = catch_unwind(AssertUnwindSafe(|| self.board_loads(demands, outer.as_ref()))) else {
            return self.serve_apart(missing, served, nested, (received, since));
        };
        self.served.joined.add(boarded.iter().filter(|boarded| matches!(boarded, Boarded::Joined(_))).count() as u64);
        for ((at, key, (limit, oldest)), boarded) in missing.into_iter().zip(boarded) {
            // A client that names no limit gets the group's.
            let limit = if limit.is_zero() { self.config.timeout } else { limit };
            let outer = outer.clone();
            let passage =
                Passage { group: Arc::clone(self), key, oldest, since, outer, boarded: Some(boarded), flight: None };
            served(at, Served::Later(Self::serve_later(passage, limit, received).boxed()));
        }
    }

    /// The user's code has panicked for one of these: each is boarded by itself then.
    #[cold]
    fn serve_apart(
        self: &Arc<Self>,
        missing: Vec<Missing>,
        served: &mut dyn FnMut(usize, Served),
        nested: bool,
        asked: (Moment, u64),
    ) {
        match <[Missing; 1]>::try_from(missing) {
            Ok([(at, ..)]) => served(at, Served::Now(Ok(self.answer_panicked()))),
            Err(missing) => missing.into_iter().for_each(|one| self.serve_missing(vec![one], served, nested, asked)),
        }
    }

    /// The answer from the cache, if there is one, and it is not too old.
    fn answer_held(&self, key: &[u8], oldest: Moment, received: Moment) -> Option<Answer> {
        let look = || {
            let asked = self.shards.look_encoded(key, |slot| self.context.peers.place(slot), received)?;
            // The clock is not read anew for each: what looking at those before it takes counts as the way.
            (asked.hit.told.born() >= oldest).then(|| self.answer_asked(key, asked, received))
        };
        catch_unwind(AssertUnwindSafe(look)).unwrap_or_else(|_| Some(self.answer_panicked()))
    }

    #[cold]
    fn answer_panicked(&self) -> Answer {
        let error = panicked();
        Tally::new(&self.served).failed(&error);
        Answer { outcome: Outcome::Failed(error), held: Duration::ZERO }
    }

    /// The answer from the cache: the bytes that are kept, or else the value, encoded.
    fn answer_asked(&self, key: &[u8], asked: Asked<V>, now: Moment) -> Answer {
        let tally = Tally::new(&self.served);
        let encoded = match (&asked.hit.value, &asked.encoded) {
            (Some(_), Some(kept)) => Ok(Some(kept.clone())),
            (Some(value), None) => self.encode(value).map(Some).inspect(|bytes| {
                if let Some(bytes) = bytes.as_ref().filter(|_| self.keeps_encoded) {
                    self.shards.note_encoded(key, &asked, bytes);
                }
            }),
            (None, _) => Ok(None),
        };
        let outcome = match encoded {
            Ok(encoded) => {
                tally.answered(&asked.hit.place.into(), encoded.is_some());
                encoded.map_or(Outcome::NotFound, |value| {
                    let copy = copy_of(value, asked.hit.told.life(), self.config.grace, now);
                    let tags = asked.tagged.map_or_else(Vec::new, |tagged| tagged.tags().to_vec());
                    Outcome::Value(Copy { tags, ..copy })
                })
            }
            Err(error) => {
                tally.failed(&error);
                Outcome::Failed(error)
            }
        };
        Answer { outcome, held: Duration::ZERO }
    }

    async fn serve_later(mut passage: Passage<V>, limit: Duration, received: Moment) -> Result<Answer, Refusal> {
        let group = Arc::clone(&passage.group);
        let tally = Tally::new(&group.served);
        let landing = AssertUnwindSafe(tokio::time::timeout(limit, passage.landing())).catch_unwind().await;
        let landing = landing.map(|landing| landing.unwrap_or(Err(Error::Timeout { limit })));
        let flight = passage.flight.take();
        drop(passage);
        // Read before the value is encoded: what that takes has to count as the way, or the copy would outlive the
        // original.
        let now = group.now();
        let landing = landing.unwrap_or_else(|_| Err(panicked()));
        group.answer(landing, flight.as_deref(), tally, (received, now))
    }

    fn answer(
        &self,
        landing: Landing<V>,
        flight: Option<&Flight<V>>,
        tally: Tally<'_>,
        (received, now): (Moment, Moment),
    ) -> Result<Answer, Refusal> {
        let mut told = now;
        let landing = landing.and_then(|landed| {
            told = told_as_of(&landed, received, now);
            Ok((self.to_outcome(&landed, flight, told)?, landed))
        });
        let outcome = match landing {
            Ok((outcome, landed)) => {
                tally.answered(&landed.source, landed.value.is_some());
                outcome
            }
            // The load was cut short because this node shuts down: another node can do better.
            Err(Error::Closed) if self.context.tasks.is_closed() => return Err(draining()),
            Err(error) => {
                tally.failed(&error);
                Outcome::Failed(error)
            }
        };
        Ok(Answer { outcome, held: told.since(received) })
    }

    fn to_outcome(&self, landed: &Landed<V>, flight: Option<&Flight<V>>, now: Moment) -> Result<Outcome, Error> {
        let Some(value) = &landed.value else { return Ok(Outcome::NotFound) };
        // Once for all peers who wait for the flight.
        let encoded = match flight {
            Some(flight) if self.keeps_encoded => flight.encoded(|| self.encode(value)),
            _ => self.encode(value),
        }?;
        Ok(Outcome::Value(Copy {
            loaded: landed.source == Source::Loader,
            tags: landed.tagged.as_ref().map_or_else(Vec::new, |tagged| tagged.tags().to_vec()),
            ..copy_of(encoded, landed.life, self.config.grace, now)
        }))
    }

    /// Applies what a question carries to its key, unless it has been.
    pub(super) fn carry(self: &Arc<Self>, key: KeyRef<'_>, removed: &[Span], now: Moment) {
        if !removed.is_empty() {
            let key = Key::new(key.bytes);
            let take_out = || self.take_out(&Scope::Keys(vec![key.clone()]));
            self.context.coherence.carry(&self.name, &key, removed, now, take_out);
        }
    }

    /// Voids flights that have begun and drops entries, here.
    pub(super) fn take_out(self: &Arc<Self>, scope: &Scope) {
        self.removals.applied.one();
        self.offers.void(scope);
        self.lag.note(scope, self.now());
        match scope {
            Scope::Keys(keys) => {
                for key in keys {
                    self.shards.remove(HashedKey::new(key.clone()).as_ref());
                }
            }
            Scope::Tag(tag) => {
                self.shards.tags().remove(TagHash::of(tag));
                // What bears it is found out when it is looked for; what nobody looks for gives its bytes back later.
                self.sweep_removed();
            }
            Scope::Group => self.shards.clear(),
        }
    }
}

/// A peer's wait for a load. If it is dropped before the load has landed, and nobody else waits, the load is given up,
/// unless it has begun.
struct Passage<V: Value> {
    group: Arc<Inner<V>>,
    key: HashedKey,
    /// Nothing that was born earlier will do.
    oldest: Moment,
    /// The count of removed tags when it was asked for.
    since: u64,
    outer: Option<Arc<Inside>>,
    /// `None` once it has landed.
    boarded: Option<Boarded<V>>,
    /// What has brought the landing, unless it was found.
    flight: Option<Arc<Flight<V>>>,
}

impl<V: Value> Passage<V> {
    async fn landing(&mut self) -> Landing<V> {
        loop {
            let Some(boarded) = &mut self.boarded else { return Err(Error::Closed) };
            let landing = boarded.landing().await;
            self.flight = boarded.flight();
            self.boarded = None;
            match landing {
                Ok(landed) if landed.life.born >= self.oldest && !self.group.is_removed_for(&landed, self.since) => {
                    return Ok(landed);
                }
                Ok(Landed { failed: Some(failed), .. }) => return Err(Error::clone(&failed)),
                Err(error) => return Err(error),
                // A load that had begun too early, or before a removal of what it bears: the next one has not.
                Ok(_) => {
                    let again = std::iter::once((&self.key, Demand::of_peer(self.oldest)));
                    self.boarded = self.group.board_loads(again, self.outer.as_ref()).pop();
                }
            }
        }
    }
}

impl<V: Value> Drop for Passage<V> {
    fn drop(&mut self) {
        // This wait ends first, and does not count.
        if self.boarded.take().is_some() {
            self.group.give_up_unawaited(self.key.as_ref());
        }
    }
}

/// The moment as of which a peer is told of what landed: now; or, if its life was over before the answer leaves (this
/// process stood still), the end of it. Nothing is left then, and nothing could say since when: so what has gone by since
/// counts as the way, and who asked after that end, and waits for the same answer, can tell.
fn told_as_of<V>(landed: &Landed<V>, received: Moment, now: Moment) -> Moment {
    // One that is served in its grace is over for everybody, and what its grace has left is told.
    if landed.failed.is_some() { now } else { now.min(landed.life.hard.max(received)) }
}

/// A value of this life as it is told to a peer, from the cache and without tags; `grace` is the group's.
fn copy_of(value: Bytes, life: Lifespan, grace: Duration, now: Moment) -> Copy {
    let grace = life.grace.then_some(grace);
    let Lifespan { born, soft, hard, .. } = life;
    Copy {
        value,
        age: now.since(born),
        left: hard.left(now),
        until_refresh: if soft < hard { soft.left(now) } else { None },
        grace: grace.map_or(Duration::ZERO, |grace| (hard + grace).since(hard.max(now))),
        loaded: false,
        tags: Vec::new(),
    }
}

fn panicked() -> Error {
    Error::Load(LoadError::new("the value's code panicked"))
}

fn draining() -> Refusal {
    Refusal::new(RefusalKind::Draining, "the node is shutting down")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::future::join_all;

    use super::*;
    use crate::error::BoxError;
    use crate::{Codec, CodecError, Group, Node};

    fn wanted(keys: &[&'static str]) -> Vec<Wanted> {
        let wanted = |key: &&'static str| Wanted {
            key: Bytes::from_static(key.as_bytes()),
            time_limit: Duration::MAX,
            max_age: None,
            after: After::default(),
        };
        keys.iter().map(wanted).collect()
    }

    /// How many keys are served in one go, of which so many at once.
    async fn served(group: &Group<Bytes>, keys: &[&'static str], answers: usize) -> (usize, usize) {
        let room = Room { answers, ..Room::UNLIMITED };
        let (mut places, mut at_once, mut later) = (Vec::new(), 0, Vec::new());
        let count = group.inner.serve(&wanted(keys), false, room, &mut |at, served| {
            places.push(at);
            match served {
                Served::Now(answer) => at_once += usize::from(answer.is_ok()),
                Served::Later(answer) => later.push(answer),
            }
        });
        places.sort_unstable();
        assert_eq!(places, (0..count).collect::<Vec<_>>(), "what has been looked at is served once");
        assert!(join_all(later).await.iter().all(Result::is_ok));
        (count, at_once)
    }

    #[tokio::test]
    async fn hits_stop_where_there_is_no_more_room_and_loads_are_asked_for_together() {
        let calls: Arc<Mutex<Vec<usize>>> = Arc::default();
        let called = Arc::clone(&calls);
        let loader = move |keys: Vec<Key>| {
            called.lock().unwrap().push(keys.len());
            async move { Ok::<_, BoxError>(keys.into_iter().map(|key| (key, Bytes::new())).collect::<Vec<_>>()) }
        };
        let node = Node::local();
        let group = node.group("g").batch_loader(10, loader).build().unwrap();
        assert_eq!(served(&group, &["a", "b", "c"], 1).await, (3, 0), "these have to be loaded");
        assert_eq!(served(&group, &["a", "b", "c"], 2).await, (2, 2));
        assert_eq!(served(&group, &["a", "b", "c"], 0).await, (1, 1), "one at least");
        assert_eq!(served(&group, &["a", "d", "b", "e"], 1).await, (1, 1));
        assert_eq!(served(&group, &["d", "b", "e"], 1).await, (3, 1));
        assert_eq!(*calls.lock().unwrap(), [3, 2], "as few calls as without a limit");
    }

    /// Panics when it is cloned, while it is told to.
    struct Fragile(Arc<AtomicBool>);

    impl Clone for Fragile {
        fn clone(&self) -> Self {
            assert!(!self.0.load(Ordering::SeqCst), "cloned");
            Self(Arc::clone(&self.0))
        }
    }

    struct FragileCodec;

    impl Codec<Fragile> for FragileCodec {
        fn encode(&self, _: &Fragile) -> Result<Bytes, CodecError> {
            Ok(Bytes::new())
        }

        fn decode(&self, _: Bytes) -> Result<Fragile, CodecError> {
            Ok(Fragile(Arc::default()))
        }
    }

    /// A group in which the value of one key, "bad", panics when it is cloned, while it is told to.
    fn fragile() -> (Group<Fragile>, Arc<AtomicBool>) {
        let panics = Arc::<AtomicBool>::default();
        let bad = Arc::clone(&panics);
        let loader = move |key: Key| {
            let panics = if key == Key::new("bad") { Arc::clone(&bad) } else { Arc::default() };
            async move { Ok::<_, BoxError>(Fragile(panics)) }
        };
        let group = Node::local().group("g").codec(FragileCodec).refresh_after(Duration::from_secs(60)).loader(loader);
        (group.build().unwrap(), panics)
    }

    /// Asks for keys as a peer does; each has a place for its answer, which may have to be waited for.
    fn asked(group: &Group<Fragile>, keys: &[&'static str]) -> Vec<Option<Served>> {
        let mut all: Vec<_> = keys.iter().map(|_| None).collect();
        let count = group.inner.serve(&wanted(keys), false, Room::UNLIMITED, &mut |at, served| {
            assert!(all[at].replace(served).is_none(), "it is served once");
        });
        assert_eq!(count, keys.len());
        all
    }

    /// Whether each has a value; or else it has failed.
    async fn have_values(all: Vec<Option<Served>>) -> Vec<bool> {
        let mut have = Vec::new();
        for served in all {
            let answer = match served.expect("each is served") {
                Served::Now(answer) => answer,
                Served::Later(answer) => answer.await,
            };
            match answer.unwrap().outcome {
                Outcome::Value(_) => have.push(true),
                Outcome::Failed(Error::Load(_)) => have.push(false),
                other => panic!("{other:?}"),
            }
        }
        have
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_that_panics_when_it_is_cloned_fails_its_key_and_no_other() {
        let (group, panics) = fragile();
        assert_eq!(have_values(asked(&group, &["a", "bad", "b"])).await, [true; 3]);
        panics.store(true, Ordering::SeqCst);
        assert_eq!(have_values(asked(&group, &["a", "bad", "b"])).await, [true, false, true]);
        // Past their soft limit, they are found where they would be loaded.
        tokio::time::sleep(Duration::from_secs(70)).await;
        assert_eq!(have_values(asked(&group, &["a", "bad", "b"])).await, [true, false, true]);
        panics.store(false, Ordering::SeqCst);
        assert_eq!(have_values(asked(&group, &["a", "bad", "b"])).await, [true; 3]);
    }

    #[tokio::test]
    async fn nor_does_one_that_many_wait_for() {
        let (group, panics) = fragile();
        let waiting = asked(&group, &["bad", "bad", "a", "bad"]);
        while group.stats().flights > 0 {
            tokio::task::yield_now().await;
        }
        panics.store(true, Ordering::SeqCst);
        // The last has the value itself.
        assert_eq!(have_values(waiting).await, [false, false, true, true]);
    }
}
