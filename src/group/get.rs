//! The way of a get, for callers on this node: the cache, or else a flight, led or joined.
//!
//! Callers wait, tasks work: whatever a caller does, the flights go on. Every wait here ends with the caller's limit.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tracing::Instrument;

use crate::entry::{Source, Value};
use crate::error::Error;
use crate::flight::{Flight, Landed, Landing};
use crate::key::{HashedKey, KeyRef};
use crate::loader::Inside;
use crate::peers::View;
use crate::route::{Role, Route};
use crate::shards::{Kind, Lead, Look};
use crate::stats::Tally;

use super::fetch::Terms;
use super::inner::Inner;

/// What asking for a key led to.
enum Asked<V: Value> {
    Found(Landed<V>),
    /// A flight to wait for; whether it was there already.
    Flight {
        flight: Arc<Flight<V>>,
        joined: bool,
    },
}

/// The new flights of one call, by where they go: one message to each peer, one query of a batch loader.
struct Departures<V: Value> {
    /// The membership that the whole call goes by.
    view: Arc<View>,
    loads: Vec<Lead<V>>,
    fetches: BTreeMap<(usize, Role), Vec<Lead<V>>>,
}

impl<V: Value> Inner<V> {
    /// One key, for a caller. A hit takes no task and no allocation, and resolves at the first poll.
    pub(super) async fn get(self: &Arc<Self>, key: KeyRef<'_>, limit: Duration) -> Landing<V> {
        let tally = Tally::new(&self.gets);
        let span = tracing::trace_span!("group.get", group = %self.name, outcome = tracing::field::Empty);
        let landing = match self.look_for_caller(key) {
            Ok(Some(found)) => Ok(found),
            Ok(None) => self.get_missing(key, limit, false).instrument(span.clone()).await,
            Err(error) => Err(error),
        };
        span.record("outcome", outcome(&landing));
        count(tally, &landing);
        landing
    }

    /// Many keys, for a caller: the answers in the order of the keys. Keys that are asked for twice are worked on once.
    pub(super) async fn get_many(self: &Arc<Self>, keys: &[HashedKey], limit: Duration) -> Vec<Landing<V>> {
        let tallies: Vec<_> = keys.iter().map(|_| Tally::new(&self.gets)).collect();
        let empty = tracing::field::Empty;
        let span = tracing::trace_span!("group.get_many", group = %self.name, keys = keys.len(), outcome = empty);
        let landings = self.get_all(keys, limit).instrument(span.clone()).await;
        span.record("outcome", if landings.iter().all(Result::is_ok) { "answered" } else { "error" });
        for (tally, landing) in tallies.into_iter().zip(&landings) {
            count(tally, landing);
        }
        landings
    }

    /// The part of a get that needs no wait: a hit, a miss, or the reason why not to go on.
    fn look_for_caller(&self, key: KeyRef<'_>) -> Result<Option<Landed<V>>, Error> {
        // A load that was in flight when the node was shut down has its time to end, and may need other keys for that.
        self.context.check_open().or_else(|closed| Inside::current().map(drop).ok_or(closed))?;
        Ok(self.look(key.check()?))
    }

    /// The part of a get that waits. `has_joined` says whether it has been counted as one that joined a flight.
    async fn get_missing(self: &Arc<Self>, key: KeyRef<'_>, limit: Duration, has_joined: bool) -> Landing<V> {
        self.context.check_runtime()?;
        let mut has_joined = has_joined;
        let asked = async {
            loop {
                let mut departures = self.departures();
                let asked = self.ask(key, &mut departures)?;
                self.depart(departures, limit);
                let (flight, joined) = match asked {
                    Asked::Found(found) => return Ok(found),
                    Asked::Flight { flight, joined } => (flight, joined),
                };
                if joined && !mem::replace(&mut has_joined, true) {
                    self.gets.joined.one();
                }
                let landing = flight.landing().await;
                if !(joined && is_others_limit(&landing)) {
                    return landing;
                }
            }
        };
        let landing = tokio::time::timeout(limit, asked).await;
        landing.unwrap_or(Err(Error::Timeout { limit }))
    }

    async fn get_all(self: &Arc<Self>, keys: &[HashedKey], limit: Duration) -> Vec<Landing<V>> {
        let mut departures = self.departures();
        // By key: its first position, and what asking for it led to.
        let mut distinct: HashMap<&HashedKey, usize> = HashMap::with_capacity(keys.len());
        let mut asked = Vec::with_capacity(keys.len());
        let mut places = Vec::with_capacity(keys.len());
        for key in keys {
            let place = *distinct.entry(key).or_insert_with(|| {
                asked.push(self.ask_for_caller(key.as_ref(), &mut departures));
                asked.len() - 1
            });
            places.push(place);
        }
        self.depart(departures, limit);
        let landings = join_all(asked.into_iter().map(|asked| self.landing_of(asked, limit))).await;
        places.into_iter().map(|place| landings[place].clone()).collect()
    }

    fn ask_for_caller(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        departures: &mut Departures<V>,
    ) -> Result<(HashedKey, Asked<V>), Error> {
        let asked = match self.look_for_caller(key)? {
            Some(found) => Asked::Found(found),
            None => {
                self.context.check_runtime()?;
                self.ask(key, departures)?
            }
        };
        Ok((key.to_owned(), asked))
    }

    /// The landing of one of many keys.
    async fn landing_of(self: &Arc<Self>, asked: Result<(HashedKey, Asked<V>), Error>, limit: Duration) -> Landing<V> {
        let (key, flight, joined) = match asked? {
            (_, Asked::Found(found)) => return Ok(found),
            (key, Asked::Flight { flight, joined }) => (key, flight, joined),
        };
        self.gets.joined.add(u64::from(joined));
        let started = self.now();
        let landing = tokio::time::timeout(limit, flight.landing()).await;
        let landing = landing.unwrap_or(Err(Error::Timeout { limit }));
        if joined && is_others_limit(&landing) {
            let left = limit.saturating_sub(self.now().since(started));
            // Whatever it waits for now, the caller's limit is the one that it was given.
            return self.get_missing(key.as_ref(), left, true).await.map_err(|error| match error {
                Error::Timeout { .. } => Error::Timeout { limit },
                other => other,
            });
        }
        landing
    }

    /// Looks for a key, or joins its flight, or starts one, to depart with the others of the call.
    fn ask(self: &Arc<Self>, key: KeyRef<'_>, departures: &mut Departures<V>) -> Result<Asked<V>, Error> {
        let inside = Inside::current();
        if inside.as_ref().is_some_and(|inside| inside.loads(self.id, key.bytes)) {
            return Err(Error::Recursive);
        }
        let view = &departures.view;
        let route = view.route(key.hash);
        let kind = match route {
            Route::Load => Kind::Load,
            Route::Fetch(..) => Kind::Fetch,
        };
        match self.shards.look_or_join(key, view.place(key.hash), kind, self.now()) {
            Look::Found(found) => Ok(Asked::Found(found)),
            Look::Joined(flight) => {
                if inside.is_some() {
                    flight.hurry();
                    self.pull_ahead(key);
                }
                Ok(Asked::Flight { flight, joined: true })
            }
            Look::Lead(lead) => {
                let flight = Arc::clone(lead.flight());
                match route {
                    Route::Load => departures.loads.push(lead),
                    Route::Fetch(peer, role) => departures.fetches.entry((peer, role)).or_default().push(lead),
                }
                Ok(Asked::Flight { flight, joined: false })
            }
        }
    }

    /// Sends the new flights on their way.
    fn depart(self: &Arc<Self>, departures: Departures<V>, limit: Duration) {
        let Departures { view, loads, fetches } = departures;
        let inside = Inside::current();
        if !loads.is_empty() {
            self.start_loads(loads, inside.as_ref());
        }
        // Others may join the flight who wait for longer than this caller: it takes the longer of the two limits.
        let terms = Terms { limit: limit.max(self.config.timeout), outer: inside };
        for ((peer, role), leads) in fetches {
            self.start_fetch(&view, peer, role, leads, &terms);
        }
    }

    fn departures(&self) -> Departures<V> {
        Departures { view: self.context.peers.view_owned(), loads: Vec::new(), fetches: BTreeMap::new() }
    }
}

/// Whether a flight ended with the time limit of whoever started it: who joined it may still have time, and goes round
/// again.
fn is_others_limit<V>(landing: &Landing<V>) -> bool {
    matches!(landing, Err(Error::Timeout { .. }))
}

fn count<V>(tally: Tally<'_>, landing: &Landing<V>) {
    match landing {
        Ok(landed) => tally.answered(&landed.source, landed.value.is_some()),
        Err(error) => tally.failed(error),
    }
}

fn outcome<V>(landing: &Landing<V>) -> &'static str {
    match landing {
        Ok(landed) if landed.value.is_none() => "not_found",
        Ok(landed) => match landed.source {
            Source::Main => "main_hit",
            Source::Hot => "hot_hit",
            Source::Peer(_) => "fetched",
            Source::Loader => "loaded",
        },
        Err(_) => "error",
    }
}
