//! The way of a get, for callers on this node: the cache, or else a flight, led or joined. How a get of one key goes on
//! from there is in `missed.rs`.
//!
//! Callers wait, others work: whatever a caller does, a load goes on. (A fetch that nobody waits for any more is given
//! up by the connection that it is on.) Every wait here ends with the caller's limit.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::join_all;
use tracing::{Instrument, Level, level_enabled};

use crate::entry::{Source, Value};
use crate::error::Error;
use crate::flight::{Landed, Landing, Wait};
use crate::key::{HashedKey, KeyRef, Seeded, is_too_long};
use crate::loader::Inside;
use crate::peers::View;
use crate::route::{Role, Route};
use crate::shards::{Demand, Hit, Kind, Lead, Look};
use crate::stats::Tally;
use crate::store::Told;
use crate::time::Moment;
use crate::token::Token;

use super::fetch::Terms;
use super::inner::{Inner, record_outcome};
use super::missed::Missed;
use super::wish::Wish;

/// What asking for a key led to.
pub(super) enum Asked<V: Value> {
    Found(Landed<V>),
    /// A flight to wait for; whether it was there already.
    Flight {
        flight: Wait<V>,
        joined: bool,
    },
}

/// A get of one key, for a caller; `answer` makes of what was found what the caller asked for.
///
/// A hit is answered at the first poll, and polling it becomes part of whoever polls. So that its answer need not even
/// lie in memory on its way there, nothing else writes to where it would: what comes later is handed over in `way`.
pub(super) struct Get<'a, V: Value, F, T> {
    group: &'a Arc<Inner<V>>,
    key: &'a [u8],
    /// The group's if none is given.
    limit: Option<Duration>,
    answer: F,
    way: Way<'a, V, T>,
}

/// How far a get has come.
enum Way<'a, V: Value, T> {
    /// It has not looked.
    Look,
    /// There was no hit.
    Missed(Missed<'a, V>),
    /// It has waited for its answer, which is there until it is taken.
    Answered(Option<Result<T, Error>>),
}

/// Nothing in it is pinned: a value may lie in it, and does so as in any other struct.
impl<V: Value, F, T> Unpin for Get<'_, V, F, T> {}

impl<V: Value, T, F: Fn(Option<V>, Told, Source) -> Result<T, Error>> Future for Get<'_, V, F, T> {
    type Output = Result<T, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let get = self.get_mut();
        if matches!(get.way, Way::Look) {
            if let Some(answer) = get.hit() {
                return Poll::Ready(answer);
            }
            ready!(get.miss(context));
        } else {
            ready!(get.wait(context));
        }
        match &mut get.way {
            Way::Answered(answer) => answer.take().map_or(Poll::Pending, Poll::Ready),
            Way::Look | Way::Missed(_) => Poll::Pending,
        }
    }
}

impl<'a, V: Value, T, F: Fn(Option<V>, Told, Source) -> Result<T, Error>> Get<'a, V, F, T> {
    pub(super) fn new(group: &'a Arc<Inner<V>>, key: &'a [u8], limit: Option<Duration>, answer: F) -> Self {
        Self { group, key, limit, answer, way: Way::Look }
    }

    /// With a wish, not any hit will do.
    pub(super) fn wishing(self, wish: Wish) -> Self {
        if !wish.is_any() {
            return self;
        }
        let long = Missed::long(self.group, KeyRef::new(self.key), self.limit, wish);
        Self { way: Way::Missed(long), ..self }
    }

    /// The answer if the key is here. This is all that a hit costs: no task, no allocation, no span unless somebody
    /// listens.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "an answer that comes by memory, twice, takes a tenth of a hit")]
    fn hit(&self) -> Option<Result<T, Error>> {
        let group = self.group;
        if is_traced() || group.context.tasks.is_closed() || is_too_long(self.key) {
            return None;
        }
        let (peers, sought) = (&group.context.peers, group.shards.sought(self.key));
        let shard = group.shards.shared(&sought);
        let found = shard.find(&sought, |slot| peers.place(slot), |due| group.context.may_be_served(due));
        let (found, place) = found?;
        // Should the value's clone panic, the get ends with that.
        let tally = Tally::new(&group.gets);
        let hit = Hit::new(&found, place);
        tally.counted();
        group.hits.one(place, hit.value.is_some());
        Some((self.answer)(hit.value, hit.told, place.into()))
    }

    /// There was no hit: begins what has to be waited for.
    #[cold]
    #[inline(never)]
    fn miss(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let key = KeyRef::new(self.key);
        self.way = Way::Missed(Missed::new(self.group, key, self.limit));
        self.wait(context)
    }

    /// Waits until there is an answer.
    #[cold]
    #[inline(never)]
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Way::Missed(missed) = &mut self.way {
            let landing = ready!(missed.poll(self.key, context));
            let answer =
                landing.and_then(|Landed { value, life, source, .. }| (self.answer)(value, life.into(), source));
            self.way = Way::Answered(Some(answer));
        }
        Poll::Ready(())
    }
}

/// The new flights of one call, by where they go: one message to each peer, one query of a batch loader.
struct Departures<V: Value> {
    /// The membership that the whole call goes by.
    view: Arc<View>,
    /// The load from inside of which the call comes.
    inside: Option<Arc<Inside>>,
    now: Moment,
    loads: Vec<Lead<V>>,
    fetches: BTreeMap<(usize, Role), Vec<Lead<V>>>,
}

impl<V: Value> Inner<V> {
    /// Whoever asks for this key next gets nothing that is older than what the token stands for. Says since when that
    /// has been so; nothing if this node has applied it, because then it stays so.
    pub(super) fn honour(self: &Arc<Self>, token: &Token, key: KeyRef<'_>) -> Option<Moment> {
        let (now, span) = (self.now(), token.span());
        let coherence = &self.context.coherence;
        if coherence.has_applied(&span) {
            return None;
        }
        self.carry(key, std::slice::from_ref(&span), now);
        Some(coherence.carried_since(&self.name, key.bytes, &span).unwrap_or(now))
    }

    /// Whether what was found meanwhile, and was `born` then if it is a value, is no older than the token. What
    /// questions carry is soon forgotten: a stand-in that was asked late may not have been told.
    pub(super) fn has_honoured(
        &self,
        token: &Token,
        key: KeyRef<'_>,
        since: Option<Moment>,
        born: Option<Moment>,
    ) -> bool {
        let Some(since) = since else { return true };
        let carried = self.context.coherence.carried_since(&self.name, key.bytes, &token.span());
        carried == Some(since) || born.is_some_and(|born| born >= since)
    }

    /// Many keys, for a caller: the answers in the order of the keys. Keys that are asked for twice are worked on once.
    pub(super) async fn get_many(self: &Arc<Self>, keys: &[HashedKey], limit: Duration) -> Vec<Landing<V>> {
        let tallies: Vec<_> = keys.iter().map(|_| Tally::new(&self.gets)).collect();
        let empty = tracing::field::Empty;
        let span = tracing::trace_span!("group.get_many", group = %self.name, keys = keys.len(), outcome = empty);
        let landings = self.get_all(keys, limit).instrument(span.clone()).await;
        record_outcome(&span, if landings.iter().all(Result::is_ok) { "answered" } else { "error" });
        for (tally, landing) in tallies.into_iter().zip(&landings) {
            count(tally, landing);
        }
        landings.into_iter().map(|landing| landing.map_err(|error| own_limit(error, limit))).collect()
    }

    /// The part of a get that needs no wait: a hit, a miss, or the reason why not to go on.
    pub(super) fn look_for_caller(&self, key: KeyRef<'_>) -> Result<Option<Hit<V>>, Error> {
        Ok(self.look(self.check_caller(key)?))
    }

    pub(super) fn check_caller<'a>(&self, key: KeyRef<'a>) -> Result<KeyRef<'a>, Error> {
        // A load that was in flight when the node was shut down has its time to end, and may need other keys for that.
        self.context.check_open().or_else(|closed| Inside::current().map(drop).ok_or(closed))?;
        key.check()
    }

    /// Waits until what is held may be served; what is left of the limit then.
    #[cold]
    pub(super) async fn trusted_within(&self, limit: Duration) -> Result<Duration, Error> {
        let started = self.now();
        let waited = tokio::time::timeout(limit, self.context.until_trusted()).await;
        waited.map_err(|_| Error::Timeout { limit })?;
        Ok(limit.saturating_sub(self.now().since(started)))
    }

    async fn get_all(self: &Arc<Self>, keys: &[HashedKey], limit: Duration) -> Vec<Landing<V>> {
        let mut limit = limit;
        if !self.context.pulse.is_trusted(self.now()) {
            match self.trusted_within(limit).await {
                Ok(left) => limit = left,
                Err(error) => return keys.iter().map(|_| Err(error.clone())).collect(),
            }
        }
        let since = self.shards.tags().now();
        let mut departures = self.departures();
        // By key: its place among those that differ; by that, what is known of it at once.
        let mut distinct = HashMap::with_capacity_and_hasher(keys.len(), Seeded(self.id));
        let mut landings = Vec::with_capacity(keys.len());
        let mut flights = Vec::new();
        let places = keys.iter().map(|key| {
            *distinct.entry(key).or_insert_with(|| {
                let place = landings.len();
                landings.push(match self.ask_for_caller(key.as_ref(), &mut departures) {
                    Ok(Asked::Found(found)) => Some(Ok(found)),
                    Ok(Asked::Flight { flight, joined }) => {
                        flights.push((place, key, flight, joined));
                        None
                    }
                    Err(error) => Some(Err(error)),
                });
                place
            })
        });
        let places: Vec<usize> = places.collect();
        self.depart(departures, limit);
        let waits = flights.into_iter().map(|(place, key, flight, joined)| async move {
            (place, self.landing_of(key.as_ref(), (flight, joined), since, limit).await)
        });
        for (place, landing) in join_all(waits).await {
            landings[place] = Some(landing);
        }
        let landing = |landing: Option<Landing<V>>| landing.unwrap_or(Err(Error::Closed));
        if landings.len() == keys.len() {
            return landings.into_iter().map(landing).collect();
        }
        places.into_iter().map(|place| landing(landings[place].clone())).collect()
    }

    fn ask_for_caller(self: &Arc<Self>, key: KeyRef<'_>, departures: &mut Departures<V>) -> Result<Asked<V>, Error> {
        if let Some(hit) = self.look_for_caller(key)? {
            return Ok(Asked::Found(hit.into()));
        }
        if let Err(error) = self.context.check_runtime() {
            return self.hit_without_runtime(key, Wish::default()).map(|hit| Asked::Found(hit.into())).ok_or(error);
        }
        let Departures { view, inside, now, loads, fetches } = departures;
        let route = view.route(key.hash);
        self.ask(key, (view, route), inside.as_ref(), Demand::NONE, *now, |lead| match route {
            Route::Load => loads.push(lead),
            Route::Fetch(node, role) => fetches.entry((node, role)).or_default().push(lead),
        })
    }

    /// The landing of one of many keys.
    async fn landing_of(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        (flight, joined): (Wait<V>, bool),
        since: u64,
        limit: Duration,
    ) -> Landing<V> {
        self.gets.joined.add(u64::from(joined));
        let started = self.now();
        let landing = self.landing_within(flight, limit, started).await;
        let is_removed = landing.as_ref().is_ok_and(|landed| self.is_removed_for(landed, since));
        if is_removed || joined && is_for_others(&landing, started) {
            let left = limit.saturating_sub(self.now().since(started));
            // Whatever it waits for now, the caller's limit is the one that it was given.
            return self.get_missing(key, left, Wish::default(), joined).await.map_err(|error| own_limit(error, limit));
        }
        landing
    }

    /// Whether what a flight brought is for those alone who came before a removal, which took it out by a tag: whoever
    /// began at a later count goes round again.
    pub(super) fn is_removed_for(&self, landed: &Landed<V>, since: u64) -> bool {
        self.shards.tags().is_too_old(landed.tagged.as_deref(), since)
    }

    /// Looks for a key, or joins its flight, or starts one, which is then to depart on that route.
    #[inline]
    pub(super) fn ask(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        (view, route): (&View, Route),
        inside: Option<&Arc<Inside>>,
        demand: Demand,
        now: Moment,
        depart: impl FnOnce(Lead<V>),
    ) -> Result<Asked<V>, Error> {
        if inside.is_some_and(|inside| inside.loads(self.id, key.bytes)) {
            return Err(Error::Recursive);
        }
        let kind = match route {
            Route::Load => Kind::Load,
            Route::Fetch(..) => Kind::Fetch,
        };
        Ok(match self.shards.look_or_join(key, view.place(key.hash), kind, demand, now) {
            Look::Found(found) => Asked::Found(found),
            Look::PastSoft(found, lead) => {
                depart(lead);
                Asked::Found(found)
            }
            Look::Joined(flight) => {
                if inside.is_some() {
                    flight.hurry();
                    self.pull_ahead(key);
                }
                Asked::Flight { flight, joined: true }
            }
            Look::Lead(lead, flight) => {
                depart(lead);
                Asked::Flight { flight, joined: false }
            }
        })
    }

    /// Sends the new flights on their way.
    fn depart(self: &Arc<Self>, departures: Departures<V>, limit: Duration) {
        let Departures { view, inside, now, loads, fetches } = departures;
        if !loads.is_empty() {
            self.start_loads(loads, inside.as_ref());
        }
        let terms = self.terms(limit, inside, Demand::NONE);
        for (to, leads) in fetches {
            self.start_fetch(&view, to, leads.into_iter(), terms.clone(), now);
        }
    }

    /// Others may join the fetch who wait for longer than this caller, and a load that left its line for the caller's
    /// limit would lose its place. So the limit is no caller's, but longer than the owner can take: for one load, and for
    /// another if that had begun too early. A fetch that nobody waits for is given up before.
    pub(super) fn terms(&self, limit: Duration, inside: Option<Arc<Inside>>, demand: Demand) -> Terms {
        let longest = self.config.longest_load().saturating_mul(2);
        Terms { limit: limit.max(self.config.timeout).max(longest), outer: inside, demand }
    }

    /// A value past its soft limit, where nothing can be started behind it.
    pub(super) fn hit_without_runtime(&self, key: KeyRef<'_>, wish: Wish) -> Option<Hit<V>> {
        if wish.is_any() {
            return None;
        }
        self.shards.past_soft(key, self.context.peers.place(key.hash.slot()), self.now())
    }

    fn departures(&self) -> Departures<V> {
        Departures {
            view: self.context.peers.view_owned(),
            inside: Inside::current(),
            now: self.now(),
            loads: Vec::new(),
            fetches: BTreeMap::new(),
        }
    }
}

/// A time-out, whoever's it was, told with the caller's limit.
pub(super) fn own_limit(error: Error, limit: Duration) -> Error {
    match error {
        Error::Timeout { .. } => Error::Timeout { limit },
        other => other,
    }
}

/// Whether somebody listens to the spans of gets, as far as that can be told at a glance.
#[inline]
pub(super) fn is_traced() -> bool {
    level_enabled!(Level::TRACE)
}

/// Whether what a flight ended with is for those alone who were there before: the time limit of whoever started it, or
/// a copy that was good when it was asked for, and no more when this caller `started`. Who joined it then goes round
/// again.
pub(super) fn is_for_others<V>(landing: &Landing<V>, started: Moment) -> bool {
    match landing {
        // One that is served in its grace is over for everybody.
        Ok(landed) => landed.failed.is_none() && landed.life.hard < started,
        Err(error) => matches!(error, Error::Timeout { .. }),
    }
}

pub(super) fn count<V>(tally: Tally<'_>, landing: &Landing<V>) {
    match landing {
        Ok(landed) => tally.answered(&landed.source, landed.value.is_some()),
        Err(error) => tally.failed(error),
    }
}
