//! Fetches: from a flight that another node's answer will land, to that answer, or to what is done without it.
//!
//! What an outcome means: an answer, whatever its kind, goes to the callers. A peer that cannot be reached is stood in
//! for by one other; if that one cannot be reached either, or if the peer is well but cannot serve this group, the key
//! is loaded here, in the table of loads, like any other load of this node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tracing::Instrument;

use crate::clock;
use crate::entry::{Source, Value};
use crate::error::Error;
use crate::flight::{Landed, Landing};
use crate::key::Key;
use crate::loader::Inside;
use crate::member::NodeName;
use crate::message::{Answer, Ask, Copy, Get, GetMany, GetTerms, Outcome, Refusal, RefusalKind, Reply};
use crate::peers::{Peer, View};
use crate::route::{self, Next, Role, Route};
use crate::shards::{Keep, Lead};
use crate::store::Place;
use crate::tasks::Work;
use crate::time::Moment;
use crate::transport::CallError;
use crate::wire;

use super::inner::Inner;

/// One in so many fetched values is kept as a hot copy: a key that is asked for often gets there soon, one that is not
/// seldom does.
const KEEP_ONE_IN: f64 = 10.0;

/// What a fetch is told by who starts it.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// When the fetch ends at the latest, from its start.
    pub(super) limit: Duration,
    /// The load from inside of which the fetch was asked for.
    pub(super) outer: Option<Arc<Inside>>,
}

/// A fetch of some keys from one peer, on its way.
#[derive(Clone)]
struct Trip {
    view: Arc<View>,
    node: usize,
    role: Role,
    terms: Terms,
    started: Moment,
}

impl<V: Value> Inner<V> {
    /// Starts a fetch of keys whose route leads to `node`.
    pub(super) fn start_fetch(
        self: &Arc<Self>,
        view: &Arc<View>,
        node: usize,
        role: Role,
        leads: Vec<Lead<V>>,
        terms: &Terms,
    ) {
        let (view, terms) = (Arc::clone(view), terms.clone());
        self.embark(&Trip { view, node, role, terms, started: self.now() }, leads);
    }

    /// One message for all keys, but for those that do not fit in one.
    fn embark(self: &Arc<Self>, trip: &Trip, leads: Vec<Lead<V>>) {
        if trip.role == Role::StandIn {
            self.fetches.stood_in.add(leads.len() as u64);
        }
        for leads in wire::split_keys(leads, |lead| &lead.key().key) {
            self.context.tasks.work(Work::Fetch, Arc::clone(self).fetch(trip.clone(), leads));
        }
    }

    async fn fetch(self: Arc<Self>, trip: Trip, leads: Vec<Lead<V>>) {
        let Some(peer) = trip.view.peer(trip.node).cloned() else {
            // A route never leads to this node itself; if one did, this would be what to do.
            return self.load_instead(&trip, leads).await;
        };
        let span = tracing::debug_span!(
            "peer.fetch",
            group = %self.name,
            peer = %peer.name(),
            keys = leads.len(),
            outcome = tracing::field::Empty,
        );
        let sent = self.now();
        let left = trip.terms.limit.saturating_sub(sent.since(trip.started));
        let asked = self.ask_peer(&peer, &leads, self.get_terms(&trip.terms, left));
        let asked = tokio::time::timeout(left, asked).instrument(span.clone()).await;
        match asked {
            Ok(Ok(answers)) => {
                span.record("outcome", "answered");
                self.land_answers(&trip, peer.name(), leads, answers, sent).await;
            }
            Ok(Err(error)) => {
                let next = match &error {
                    CallError::Unreachable(_) => Next::StandIn,
                    CallError::Refused(refusal) => route::after_refusal(refusal.kind),
                };
                if let (Next::LoadHere, CallError::Refused(refusal)) = (next, &error) {
                    self.note_refusal(peer.name(), refusal);
                }
                span.record("outcome", if next == Next::StandIn { "unreachable" } else { "refused" });
                tracing::debug!(parent: &span, %error, ?next, "peer did not serve");
                self.turn_elsewhere(&trip, next, leads).await;
            }
            Err(_) => {
                span.record("outcome", "timeout");
                land_all(leads, &Error::Timeout { limit: trip.terms.limit });
            }
        }
    }

    fn get_terms(&self, terms: &Terms, time_limit: Duration) -> GetTerms {
        let nested = terms.outer.is_some();
        GetTerms { group: Arc::clone(&self.name), schema: self.config.schema, time_limit, nested }
    }

    /// One message with all the keys; one answer for each, in their order.
    async fn ask_peer(&self, peer: &Peer, leads: &[Lead<V>], terms: GetTerms) -> Result<Vec<Answer>, CallError> {
        self.fetches.messages.one();
        self.fetches.keys.add(leads.len() as u64);
        let keys: Vec<Key> = leads.iter().map(|lead| lead.key().key.clone()).collect();
        let ask = match <[Key; 1]>::try_from(keys) {
            Ok([key]) => Ask::Get(Get { terms, key }),
            Err(keys) => Ask::GetMany(GetMany { terms, keys }),
        };
        match peer.call(self.context.peers.request(ask)).await? {
            Reply::Get(answer) if leads.len() == 1 => Ok(vec![answer]),
            Reply::GetMany(answers) if leads.len() == answers.len() => Ok(answers),
            _ => Err(Refusal::new(RefusalKind::Invalid, "the reply does not fit the request").into()),
        }
    }

    /// Lands what has an answer. What has one that does not decode is loaded here.
    async fn land_answers(
        self: &Arc<Self>,
        trip: &Trip,
        peer: &NodeName,
        leads: Vec<Lead<V>>,
        answers: Vec<Answer>,
        sent: Moment,
    ) {
        let mut undecoded = Vec::new();
        for (lead, answer) in leads.into_iter().zip(answers) {
            // What was not spent at the peer was spent on the way, and the copy aged on it.
            let way = self.now().since(sent).saturating_sub(answer.held);
            match answer.outcome {
                Outcome::Value(copy) => match self.receive(peer, copy, self.now().earlier(way)) {
                    Ok((landed, keep)) => self.land_fetch(lead, Ok(landed), keep),
                    Err(error) => {
                        // Once for all: what does not decode here will not tomorrow.
                        if self.fetches.undecoded.first() {
                            tracing::warn!(group = %self.name, %peer, %error, "a peer's value does not decode");
                        }
                        undecoded.push(lead);
                    }
                },
                Outcome::NotFound => self.land_fetch(lead, Ok(self.none_at(peer)), None),
                Outcome::Failed(error) => self.land_fetch(lead, Err(error), None),
            }
        }
        if !undecoded.is_empty() {
            self.load_instead(trip, undecoded).await;
        }
    }

    /// A peer's word that there is no value. It is remembered there, not here.
    fn none_at(&self, peer: &NodeName) -> Landed<V> {
        let now = self.now();
        Landed { value: None, born: now, expires: now, source: Source::Peer(peer.clone()) }
    }

    /// A copy that a peer sent, `at` the moment it was as old as it says. One in so many is kept.
    fn receive(&self, peer: &NodeName, copy: Copy, at: Moment) -> Result<(Landed<V>, Option<Keep>), Error> {
        let keep = self.config.hot_share > 0.0 && clock::dice() * KEEP_ONE_IN < 1.0;
        // What is kept is copied first: a slice would keep the whole message that it came in alive.
        let bytes = if keep { Bytes::copy_from_slice(&copy.value) } else { copy.value };
        let (value, weight) = self.decode(bytes)?;
        let landed = Landed {
            value: Some(value),
            born: at.earlier(copy.age),
            expires: copy.left.map_or(Moment::NEVER, |left| at + left),
            source: Source::Peer(peer.clone()),
        };
        Ok((landed, keep.then_some(Keep { place: Place::Hot, weight })))
    }

    fn land_fetch(&self, lead: Lead<V>, landing: Landing<V>, keep: Option<Keep>) {
        let (voided, next) = lead.land(landing, keep);
        self.fetches.voided.add(u64::from(voided));
        debug_assert!(next.is_none(), "fetches are never parked");
    }

    /// What to do about keys that a peer did not serve.
    async fn turn_elsewhere(self: &Arc<Self>, trip: &Trip, next: Next, leads: Vec<Lead<V>>) {
        if next == Next::LoadHere || trip.role == Role::StandIn {
            return self.load_instead(trip, leads).await;
        }
        let mut here = Vec::new();
        let mut there: BTreeMap<usize, Vec<Lead<V>>> = BTreeMap::new();
        for lead in leads {
            match trip.view.stand_in(lead.key().hash) {
                Route::Load => here.push(lead),
                Route::Fetch(node, _) => there.entry(node).or_default().push(lead),
            }
        }
        for (node, leads) in there {
            self.embark(&Trip { node, role: Role::StandIn, ..trip.clone() }, leads);
        }
        if !here.is_empty() {
            self.load_instead(trip, here).await;
        }
    }

    /// Lands fetches by loads of this node. The loads keep their values themselves, as copies of keys that others own.
    async fn load_instead(self: &Arc<Self>, trip: &Trip, leads: Vec<Lead<V>>) {
        self.fetches.loaded_here.add(leads.len() as u64);
        let boarded = self.board_loads(leads.iter().map(Lead::key), trip.terms.outer.as_ref());
        // A loader may have joined the fetch since it began: what the fetch now waits for must not stand in line behind
        // that loader.
        for lead in leads.iter().filter(|lead| lead.flight().is_hurried()) {
            self.pull_ahead(lead.key().as_ref());
        }
        let landings = leads.into_iter().zip(boarded).map(async |(lead, boarded)| {
            let landing = boarded.landing().await;
            self.land_fetch(lead, landing, None);
        });
        join_all(landings).await;
    }

    /// A peer that is well does not serve this group, or this value: counted, and said once.
    fn note_refusal(&self, peer: &NodeName, refusal: &Refusal) {
        if self.fetches.refused.first() {
            let kind = refusal.kind;
            tracing::warn!(group = %self.name, %peer, ?kind, why = %refusal, "a peer refused: loading here");
        }
    }
}

fn land_all<V: Value>(leads: Vec<Lead<V>>, error: &Error) {
    for lead in leads {
        let _ = lead.land(Err(error.clone()), None);
    }
}
