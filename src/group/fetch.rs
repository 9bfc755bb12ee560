//! Fetches: from a flight that another node's answer will land, to that answer, or to what is done without it.
//!
//! What an outcome means: an answer, whatever its kind, goes to the callers. A peer that cannot be reached is stood in
//! for by one other; if that one cannot be reached either, or if the peer is well but cannot serve this group, the key
//! is loaded here, in the table of loads, like any other load of this node.
//!
//! No task waits for an answer: whoever brings it, the driver of the connection, lands the fetch, each key by itself.
//! So what takes long is handed to a task from here.

use std::collections::BTreeMap;
use std::mem;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tracing::{Level, Span, level_enabled};

use crate::clock;
use crate::entry::{Source, Value};
use crate::error::Error;
use crate::flight::{Landed, Landing};
use crate::lifespan::Lifespan;
use crate::loader::Inside;
use crate::member::NodeName;
use crate::message::{After, Answer, Copy, GetTerms, Outcome, Refusal};
use crate::peers::{Peer, View};
use crate::planted::{Bug, is_planted};
use crate::route::{self, Next, Role, Route};
use crate::shards::{Demand, Keep, Lead};
use crate::store::Place;
use crate::tags::Tagged;
use crate::tasks::Work;
use crate::time::Moment;
use crate::transport::{Asker, CallError, Question};
use crate::wakes::Wakes;

use super::inner::{Inner, record_outcome};

/// One in so many fetched values is kept as a hot copy: a key that is asked for often gets there soon, one that is not
/// seldom does.
const KEEP_ONE_IN: f64 = 10.0;

/// A value of more bytes than this is decoded in a task of its own: who brings it brings others too.
const DECODED_ASIDE: usize = 64 << 10;

/// What a fetch is told by who starts it.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// How long each peer that is asked has at most.
    pub(super) limit: Duration,
    /// The load from inside of which the fetch was asked for.
    pub(super) outer: Option<Arc<Inside>>,
    /// What who started it is content with.
    pub(super) demand: Demand,
}

/// The way of a question to a peer.
struct Trip<V: Value> {
    view: Arc<View>,
    node: u32,
    role: Role,
    started: Moment,
    /// When it ends at the latest.
    until: Moment,
    sent: Moment,
    extras: Option<Arc<Extras<V>>>,
}

/// What few questions have beside their way; shared by the keys of one.
struct Extras<V: Value> {
    /// Work of the node, for as long as any of the keys is under way.
    _work: UnderWay<V>,
    outer: Option<Arc<Inside>>,
    demand: Demand,
    span: Span,
    /// Keys that the peer did not serve, and what to do about them: they gather for one turn of the runtime, so that
    /// those of a lost connection go elsewhere together.
    unserved: Mutex<Vec<(Next, Lead<V>)>>,
}

/// One key of a question, on its way: it comes back by itself.
///
/// **It is one small piece of memory**, although keys of one question have most of it in common: most questions are for
/// one key. It is made by who asks and given back by who brings the answer, on another thread. A common allocator
/// (glibc's) takes back small blocks without the lock of the thread's memory that they came from; with larger ones the
/// two threads waited for each other's lock, and were put to sleep and woken for it, at every tenth get.
struct Fetch<V: Value> {
    group: UnderWay<V>,
    trip: Trip<V>,
    lead: Lead<V>,
}

// (What planted bugs remember in a test build does not count.)
#[cfg(not(feature = "test-util"))]
const _: () = assert!(size_of::<Fetch<Bytes>>() <= 120, "larger than what counts as small");

/// The group of a fetch. If it `counts`, that is work of the node for as long as this is there: a question counts once,
/// however many keys it has.
struct UnderWay<V: Value> {
    group: Arc<Inner<V>>,
    counts: bool,
}

impl<V: Value> UnderWay<V> {
    fn new(group: &Arc<Inner<V>>, counts: bool) -> Self {
        if counts {
            group.context.tasks.begin();
        }
        Self { group: Arc::clone(group), counts }
    }
}

impl<V: Value> Deref for UnderWay<V> {
    type Target = Arc<Inner<V>>;

    fn deref(&self) -> &Arc<Inner<V>> {
        &self.group
    }
}

impl<V: Value> Drop for UnderWay<V> {
    fn drop(&mut self) {
        if self.counts {
            self.group.context.tasks.end(Work::Fetch);
        }
    }
}

impl<V: Value> Clone for Trip<V> {
    fn clone(&self) -> Self {
        Self { view: Arc::clone(&self.view), extras: self.extras.clone(), ..*self }
    }
}

impl<V: Value> Asker for Fetch<V> {
    fn patience(&self) -> Option<Duration> {
        let left = self.trip.until.since(self.group.now());
        let is_wanted = self.lead.flight().is_awaited() || self.lead.refreshes();
        (!left.is_zero() && is_wanted).then_some(left)
    }

    fn take(self: Box<Self>, answer: Result<&mut Answer, CallError>, wakes: &mut Wakes) {
        // The user's code is in this: a codec, a clone. What panics drops its lead, which fails that key and no other.
        let _ = catch_unwind(AssertUnwindSafe(|| self.take_answer(answer, wakes)));
    }
}

impl<V: Value> Fetch<V> {
    fn take_answer(self, answer: Result<&mut Answer, CallError>, wakes: &mut Wakes) {
        match answer {
            Ok(answer) if answer.value_len() > DECODED_ASIDE => {
                let (group, mut answer) = (Arc::clone(&self.group), answer.take());
                let landing = async move { self.land_answer(&mut answer, &mut Wakes::default()) };
                group.context.tasks.work(Work::Fetch, landing);
            }
            Ok(answer) => self.land_answer(answer, wakes),
            Err(error) => self.land_unanswered(&error, wakes),
        }
    }

    /// Lands a key that has an answer. If that does not decode, the key is loaded here.
    fn land_answer(self, answer: &mut Answer, wakes: &mut Wakes) {
        let Self { group, trip, lead } = self;
        // What was not spent at the peer was spent on the way, and the copy aged on it.
        let now = wakes.came(&group.context.clock);
        let way = now.since(trip.sent).saturating_sub(answer.held);
        trip.peer().note_way(way);
        trip.record("answered");
        let peer = trip.peer().name();
        match &mut answer.outcome {
            Outcome::Value(copy) => match group.receive(peer, copy, now.earlier(way), &lead) {
                Ok((mut landed, keep)) => {
                    if trip.is_heeded(copy.age, answer.held) {
                        // What was born no earlier than that was not, however long the way may have been.
                        landed.life.born = landed.life.born.max(trip.demand().oldest);
                    }
                    group.land_fetch(lead, Ok(landed), keep, wakes);
                }
                Err(error) => {
                    // Once for all: what does not decode here will not tomorrow.
                    if group.fetches.undecoded.first() {
                        tracing::warn!(group = %group.name, %peer, %error, "a peer's value does not decode");
                    }
                    trip.turn_elsewhere(group, Next::LoadHere, lead);
                }
            },
            Outcome::NotFound => {
                let none = group.none_at(peer, lead.since());
                group.land_fetch(lead, Ok(none), None, wakes);
            }
            Outcome::Failed(error) => group.land_fetch(lead, Err(mem::replace(error, Error::Closed)), None, wakes),
        }
    }

    /// Does what is to be done about a key without an answer.
    fn land_unanswered(self, error: &CallError, wakes: &mut Wakes) {
        let Self { group, trip, lead } = self;
        let next = match error {
            CallError::Unreachable(why) => {
                trip.peer().was_not_reached(why);
                trip.record("unreachable");
                Next::StandIn
            }
            CallError::Refused(refusal) => {
                trip.peer().note_refusal(refusal);
                let next = route::after_refusal(refusal.kind);
                if next == Next::LoadHere {
                    group.note_refusal(trip.peer().name(), refusal);
                }
                trip.record(if next == Next::StandIn { "unreachable" } else { "refused" });
                next
            }
            CallError::Busy => {
                trip.record("busy");
                return group.land_fetch(lead, Err(Error::Busy), None, wakes);
            }
            CallError::GivenUp => {
                trip.record("timeout");
                return group.land_fetch(lead, Err(Error::Timeout { limit: trip.limit() }), None, wakes);
            }
        };
        tracing::debug!(parent: &trip.span(), %error, ?next, "peer did not serve");
        trip.turn_elsewhere(group, next, lead);
    }
}

impl<V: Value> Inner<V> {
    /// Fetches keys whose route leads to `node`, all with one question to it. No task waits for the answers: whoever
    /// brings them lands them.
    pub(super) fn start_fetch(
        self: &Arc<Self>,
        view: &Arc<View>,
        (node, role): (usize, Role),
        leads: impl ExactSizeIterator<Item = Lead<V>>,
        terms: Terms,
        now: Moment,
    ) {
        let Some(peer) = view.peer(node) else {
            // A route never leads to this node itself; if one did, this would be what to do.
            return self.load_instead_aside(leads.collect(), terms);
        };
        // One that nobody listens to is not free: where tracing also writes logs, it is asked whether it should.
        let span = if level_enabled!(Level::DEBUG) {
            tracing::debug_span!(
                "peer.fetch",
                group = %self.name,
                peer = %peer.name(),
                keys = leads.len(),
                outcome = tracing::field::Empty,
            )
        } else {
            Span::none()
        };
        let (until, Terms { outer, demand, .. }) = (now + terms.limit, terms);
        let is_plain = leads.len() == 1 && outer.is_none() && demand == Demand::NONE && span.is_disabled();
        let may_be_asked = peer.has_an_outcome();
        let extras = (!is_plain || !may_be_asked).then(|| {
            let unserved = Mutex::default();
            Arc::new(Extras { _work: UnderWay::new(self, true), outer, demand, span, unserved })
        });
        let node = u32::try_from(node).unwrap_or(u32::MAX);
        let mut trip = Trip { view: Arc::clone(view), node, role, started: now, until, sent: now, extras };
        if role == Role::StandIn {
            self.fetches.stood_in.add(leads.len() as u64);
        }
        if may_be_asked {
            return trip.ask(self, peer, leads);
        }
        let leads: Vec<_> = leads.collect();
        let group = Arc::clone(self);
        self.context.tasks.service_until_cut(async move {
            let left = trip.until.since(group.now());
            match tokio::time::timeout(left, trip.peer().until_tried()).await {
                Ok(()) => {
                    trip.sent = group.now();
                    let view = Arc::clone(&trip.view);
                    if let Some(peer) = view.peer(trip.node as usize) {
                        trip.ask(&group, peer, leads.into_iter());
                    }
                }
                Err(_) => land_all(leads, &Error::Timeout { limit: trip.limit() }),
            }
        });
    }

    /// A peer's word that there is no value. It is remembered there, not here; nor are its tags known here, so that it is
    /// for nobody who came after the removal of any.
    fn none_at(&self, peer: &NodeName, since: u64) -> Landed<V> {
        let now = self.now();
        let none = Landed::new(None, Lifespan::new(now, now), Source::Peer(peer.clone()));
        Landed { tagged: Some(Tagged::unknown(since)), ..none }
    }

    /// A copy that a peer sent, `at` the moment it was as old as it says. One in so many is kept, and what takes over
    /// from an older copy; but for those that have hardly any life left: their owner is about to have a newer one.
    fn receive(
        &self,
        peer: &NodeName,
        copy: &mut Copy,
        at: Moment,
        lead: &Lead<V>,
    ) -> Result<(Landed<V>, Option<Keep>), Error> {
        let lasts = copy.left != Some(Duration::ZERO) && copy.until_refresh != Some(Duration::ZERO);
        let keep = lasts && self.config.hot_share > 0.0 && (lead.succeeds() || clock::dice() * KEEP_ONE_IN < 1.0);
        // What is kept is copied first: a slice would keep the whole message that it came in alive.
        let bytes = if keep { Bytes::copy_from_slice(&copy.value) } else { mem::take(&mut copy.value) };
        let tagged = if is_planted(Bug::TagsStayHome) { None } else { Tagged::new(lead.since(), &copy.tags) };
        let (value, weight) = self.decode(bytes)?;
        let end = |left: Option<Duration>| left.map_or(Moment::NEVER, |left| at + left);
        let grace = self.config.grace;
        let life = Lifespan {
            born: at.earlier(copy.age),
            soft: end(copy.until_refresh),
            hard: end(if is_planted(Bug::FreshLife) { self.config.time_to_live } else { copy.left }),
            // The group's own, which is the same on all nodes, or else none: never a longer one than the original has.
            grace: !grace.is_zero() && copy.grace >= grace,
        };
        let landed = Landed { tagged, ..Landed::new(Some(value), life, Source::Peer(peer.clone())) };
        Ok((landed, keep.then_some(Keep { place: Place::Hot, weight })))
    }

    fn land_fetch(self: &Arc<Self>, lead: Lead<V>, landing: Landing<V>, keep: Option<Keep>, wakes: &mut Wakes) {
        self.sweep_after(&landing, keep);
        let (voided, next) = lead.land_among(landing, keep, wakes);
        if voided {
            self.fetches.voided.one();
        }
        debug_assert!(next.is_none(), "fetches are never parked");
    }

    /// Sends keys that a peer did not serve elsewhere, those that go to the same node together.
    fn send_elsewhere(self: &Arc<Self>, trip: &Trip<V>, unserved: Vec<(Next, Lead<V>)>) {
        let mut here = Vec::new();
        let mut there: BTreeMap<usize, Vec<Lead<V>>> = BTreeMap::new();
        for (next, lead) in unserved {
            let route = match next {
                Next::StandIn if trip.role == Role::Owner => trip.view.stand_in(lead.key().hash),
                _ => Route::Load,
            };
            match route {
                Route::Load => here.push(lead),
                Route::Fetch(node, _) => there.entry(node).or_default().push(lead),
            }
        }
        for (node, leads) in there {
            self.start_fetch(&trip.view, (node, Role::StandIn), leads.into_iter(), trip.terms(), self.now());
        }
        if !here.is_empty() {
            self.load_instead_aside(here, trip.terms());
        }
    }

    fn load_instead_aside(self: &Arc<Self>, leads: Vec<Lead<V>>, terms: Terms) {
        let group = Arc::clone(self);
        self.context.tasks.work(Work::Fetch, async move { group.load_instead(&terms, leads).await });
    }

    /// Lands fetches by loads of this node. The loads keep their values themselves, as copies of keys that others own.
    async fn load_instead(self: &Arc<Self>, terms: &Terms, leads: Vec<Lead<V>>) {
        self.fetches.loaded_here.add(leads.len() as u64);
        let keys = leads.iter().map(|lead| (lead.key(), terms.demand));
        let boarded = self.board_loads(keys, terms.outer.as_ref());
        // A loader may have joined the fetch since it began: what the fetch now waits for must not stand in line behind
        // that loader.
        for lead in leads.iter().filter(|lead| lead.flight().is_hurried()) {
            self.pull_ahead(lead.key().as_ref());
        }
        let landings = leads.into_iter().zip(boarded).map(async |(lead, mut boarded)| {
            let landing = boarded.landing().await;
            self.land_fetch(lead, landing, None, &mut Wakes::default());
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

impl<V: Value> Trip<V> {
    fn limit(&self) -> Duration {
        self.until.since(self.started)
    }

    fn demand(&self) -> Demand {
        self.extras.as_ref().map_or(Demand::NONE, |extras| extras.demand)
    }

    fn terms(&self) -> Terms {
        let outer = self.extras.as_ref().and_then(|extras| extras.outer.clone());
        Terms { limit: self.limit(), outer, demand: self.demand() }
    }

    fn span(&self) -> Span {
        self.extras.as_ref().map_or_else(Span::none, |extras| extras.span.clone())
    }

    /// How old a value may be by the time the question is there, if that is limited.
    fn max_age(&self) -> Option<Duration> {
        let oldest = self.demand().oldest;
        (oldest > Moment::START).then(|| self.sent.since(oldest))
    }

    /// Whether the peer has heeded that: what it answered was no older when the question came. (One of an earlier
    /// version does not know of it.)
    fn is_heeded(&self, age: Duration, held: Duration) -> bool {
        // All three were rounded to microseconds; and how long it held the question may be any number.
        let most = |age: Duration| age.saturating_add(held).saturating_add(Duration::from_micros(2));
        self.max_age().is_some_and(|asked| age <= most(asked))
    }

    fn peer(&self) -> &Peer {
        // There is one: it was looked at before the trip began.
        self.view.peer(self.node as usize).map_or_else(|| unreachable!("a trip leads to a peer"), Arc::as_ref)
    }

    /// Asks the peer that it leads to.
    fn ask(self, group: &Arc<Inner<V>>, peer: &Peer, leads: impl ExactSizeIterator<Item = Lead<V>>) {
        group.fetches.messages.one();
        group.fetches.keys.add(leads.len() as u64);
        let terms = GetTerms {
            group: Arc::clone(&group.name),
            schema: group.config.schema,
            time_limit: self.until.since(self.sent),
            nested: self.extras.as_ref().is_some_and(|extras| extras.outer.is_some()),
            max_age: self.max_age(),
        };
        let counts = self.extras.is_none();
        let (mut left, mut trip) = (leads.len(), Some(self));
        let mut questions = leads.map(|lead| {
            let key = lead.key().key.clone();
            // Looked for now that the flight has begun: a removal that is applied from here on voids it.
            let coherence = &group.context.coherence;
            let is_loud = coherence.is_loud() && !is_planted(Bug::RemovalStaysHome);
            let removed = if is_loud { coherence.covering(&group.name, &key, &peer.run()) } else { Vec::new() };
            let after = After { removed, offered: 0 };
            // The last takes it along; most are the last.
            left -= 1;
            let trip = if left == 0 { trip.take() } else { trip.clone() };
            let trip = trip.unwrap_or_else(|| unreachable!("there are no more leads than there were"));
            Question { key, after, asker: Box::new(Fetch { group: UnderWay::new(group, counts), trip, lead }) }
        });
        peer.ask(group.context.peers.sender(), terms, &mut questions);
    }

    fn record(&self, outcome: &'static str) {
        if let Some(extras) = &self.extras {
            record_outcome(&extras.span, outcome);
        }
    }

    /// Sends a key elsewhere, with those of its question that fail in the same turn of the runtime.
    fn turn_elsewhere(self, group: UnderWay<V>, next: Next, lead: Lead<V>) {
        let mut unserved = vec![(next, lead)];
        if let Some(extras) = &self.extras {
            let mut gathered = extras.unserved();
            gathered.append(&mut unserved);
            if gathered.len() > 1 {
                return;
            }
        }
        let context = Arc::clone(&group.context);
        context.tasks.service_until_cut(async move {
            tokio::task::yield_now().await;
            if let Some(extras) = &self.extras {
                unserved = mem::take(&mut *extras.unserved());
            }
            group.send_elsewhere(&self, unserved);
        });
    }
}

impl<V: Value> Extras<V> {
    fn unserved(&self) -> MutexGuard<'_, Vec<(Next, Lead<V>)>> {
        self.unserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn land_all<V: Value>(leads: Vec<Lead<V>>, error: &Error) {
    for lead in leads {
        let _ = lead.land(Err(error.clone()), None);
    }
}
