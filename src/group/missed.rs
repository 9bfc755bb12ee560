//! A get of one key that was no hit: it goes its rounds until one brings what it asks for, or its limit has passed.
//!
//! A round looks once more, and if nothing is there it joins the key's flight or starts it, waits for that, and judges
//! what it brought. Nearly all gets go one round, and wait for one flight: their future is that wait. What is rarer (a
//! wish, a second round, a span that somebody listens to) is in a box.

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tracing::Instrument;

use crate::entry::{Source, Value};
use crate::error::Error;
use crate::flight::{Landed, Landing};
use crate::key::KeyRef;
use crate::loader::Inside;
use crate::route::Route;
use crate::shards::Demand;
use crate::stats::Tally;
use crate::time::Moment;

use super::get::{Asked, count, is_for_others, is_traced, own_limit};
use super::inner::{Inner, record_outcome};
use super::wait::Within;
use super::wish::{Judged, Wish};

/// A get of one key that was no hit.
pub(super) enum Missed<'a, V: Value> {
    /// It has ended, maybe before it was polled.
    Over(Option<Landing<V>>),
    /// Its first round, of a get that wishes for nothing: it waits for this flight.
    First {
        round: Round<'a, V>,
        /// How many tags had been removed when it started.
        since: u64,
        tally: Tally<'a>,
    },
    Long(BoxFuture<'a, Landing<V>>),
}

/// What a get asks for, from its first round to its last.
struct Errand {
    started: Moment,
    /// How many tags had been removed by then.
    since: u64,
    limit: Duration,
    wish: Wish,
    /// Whether the peers do not heed the wish, so that only a load here will do.
    here: bool,
    /// Whether it has been counted as one that joined a flight.
    has_joined: bool,
}

/// A wait for a flight; whether that was there already.
pub(super) struct Round<'a, V: Value> {
    landing: Within<'a, V>,
    joined: bool,
}

/// What a round began with.
enum Begun<'a, V: Value> {
    Found(Landed<V>),
    Waits(Round<'a, V>),
}

impl<'a, V: Value> Missed<'a, V> {
    /// A get that wishes for nothing, and has looked for its key.
    #[cold]
    pub(super) fn new(group: &'a Arc<Inner<V>>, key: KeyRef<'a>, limit: Option<Duration>) -> Self {
        let started = group.now();
        if is_traced() || !group.context.pulse.is_trusted(started) || group.context.check_runtime().is_err() {
            return Self::long(group, key, limit, Wish::default());
        }
        let tally = Tally::new(&group.gets);
        let limit = limit.unwrap_or(group.config.timeout);
        let mut errand = Errand::new(group, started, limit, Wish::default());
        let begun = group.check_caller(key).and_then(|key| group.begin_round(key, &mut errand, limit, started));
        let landing = match begun {
            Ok(Begun::Waits(round)) => return Self::First { round, since: errand.since, tally },
            Ok(Begun::Found(found)) => Ok(found),
            Err(error) => Err(error),
        };
        count(tally, &landing);
        Self::Over(Some(landing))
    }

    /// Any other get: one that has a wish has not looked for its key.
    pub(super) fn long(group: &'a Arc<Inner<V>>, key: KeyRef<'a>, limit: Option<Duration>, wish: Wish) -> Self {
        let limit = limit.unwrap_or(group.config.timeout);
        Self::Long(group.get_traced(key, limit, wish).boxed())
    }

    /// `key` is the one that it was made for.
    pub(super) fn poll(&mut self, key: &'a [u8], context: &mut Context<'_>) -> Poll<Landing<V>> {
        if let Self::First { round, since, tally } = self {
            let landing = ready!(round.landing.poll_unpin(context));
            if round.is_last(&landing, *since) {
                count(mem::take(tally), &landing);
                return Poll::Ready(landing.map_err(|error| own_limit(error, round.landing.limit)));
            }
            *self = mem::replace(self, Self::Over(None)).long_after(key);
        }
        match self {
            Self::Long(long) => long.poll_unpin(context),
            Self::Over(landing) => landing.take().map_or(Poll::Pending, Poll::Ready),
            Self::First { .. } => Poll::Pending,
        }
    }

    /// The first round has ended with what is not for this get: it goes another.
    #[cold]
    fn long_after(self, key: &'a [u8]) -> Self {
        let Self::First { round: Round { landing: Within { group, started, limit, .. }, joined }, since, tally } = self
        else {
            return self;
        };
        let errand = Errand { started, since, limit, wish: Wish::default(), here: false, has_joined: joined };
        Self::Long(
            async move {
                let landing = group.go_on(KeyRef::new(key), errand).await;
                count(tally, &landing);
                landing
            }
            .boxed(),
        )
    }
}

impl<V: Value> Round<'_, V> {
    /// Whether a get that wishes for nothing, and began when so many tags had been removed, ends with that.
    fn is_last(&self, landing: &Landing<V>, since: u64) -> bool {
        let Within { group, started, .. } = &self.landing;
        let is_removed = landing.as_ref().is_ok_and(|landed| group.is_removed_for(landed, since));
        !(is_removed || self.joined && is_for_others(landing, *started))
    }
}

impl Errand {
    fn new<V: Value>(group: &Inner<V>, started: Moment, limit: Duration, wish: Wish) -> Self {
        Self { started, since: group.shards.tags().now(), limit, wish, here: false, has_joined: false }
    }

    fn demand(&self) -> Demand {
        self.wish.demand(self.started)
    }

    /// What is left of the limit.
    fn left(&self, now: Moment) -> Result<Duration, Error> {
        let left = self.limit.saturating_sub(now.since(self.started));
        if left.is_zero() { Err(Error::Timeout { limit: self.limit }) } else { Ok(left) }
    }

    /// What the get ends with; none if it goes another round.
    fn judged<V: Value>(&mut self, group: &Inner<V>, landing: Landing<V>, joined: bool) -> Option<Landing<V>> {
        match self.wish.judged(landing, self.demand()) {
            Judged::TooOld => {
                self.here |= !joined;
                None
            }
            Judged::Landing(Ok(landed)) if group.is_removed_for(&landed, self.since) => None,
            Judged::Landing(landing) if joined && is_for_others(&landing, self.started) => None,
            Judged::Landing(landing) => Some(landing.map_err(|error| own_limit(error, self.limit))),
        }
    }
}

impl<V: Value> Inner<V> {
    /// All of a get, in a span if somebody listens.
    async fn get_traced(self: &Arc<Self>, key: KeyRef<'_>, limit: Duration, wish: Wish) -> Landing<V> {
        let tally = Tally::new(&self.gets);
        let span = tracing::trace_span!("group.get", group = %self.name, outcome = tracing::field::Empty);
        // If nobody listens, it was looked for already.
        let is_plain = is_traced() && !wish.is_any();
        let looked = if is_plain { self.look_for_caller(key) } else { self.check_caller(key).map(|_| None) };
        let landing = match looked {
            Ok(Some(hit)) => Ok(hit.into()),
            Ok(None) if span.is_disabled() => self.get_missing(key, limit, wish, false).await,
            Ok(None) => self.get_missing(key, limit, wish, false).instrument(span.clone()).await,
            Err(error) => Err(error),
        };
        record_outcome(&span, outcome(&landing));
        count(tally, &landing);
        landing
    }

    /// The part of a get that waits. `has_joined` says whether it has been counted as one that joined a flight.
    pub(super) async fn get_missing(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        limit: Duration,
        wish: Wish,
        has_joined: bool,
    ) -> Landing<V> {
        let started = self.now();
        let mut errand = Errand { has_joined, ..Errand::new(self, started, limit, wish) };
        if let Err(error) = self.context.check_runtime() {
            return self.hit_without_runtime(key, wish).map(Landed::from).ok_or(error);
        }
        let (mut now, mut left) = (started, limit);
        if !self.context.pulse.is_trusted(started) {
            left = self.trusted_within(limit).await?;
            now = self.now();
        }
        match self.go_round(key, &mut errand, left, now).await {
            Some(landing) => landing,
            None => self.go_on(key, errand).await,
        }
    }

    /// Goes as many more rounds as it takes.
    async fn go_on(self: &Arc<Self>, key: KeyRef<'_>, mut errand: Errand) -> Landing<V> {
        loop {
            let now = self.now();
            let left = errand.left(now)?;
            if let Some(landing) = self.go_round(key, &mut errand, left, now).await {
                return landing;
            }
        }
    }

    /// One round; none if another is to follow.
    async fn go_round(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        errand: &mut Errand,
        left: Duration,
        now: Moment,
    ) -> Option<Landing<V>> {
        let Round { landing, joined } = match self.begin_round(key, errand, left, now) {
            Ok(Begun::Waits(round)) => round,
            Ok(Begun::Found(found)) => return Some(Ok(found)),
            Err(error) => return Some(Err(error)),
        };
        errand.judged(self, landing.await, joined)
    }

    /// The part of a round that needs no wait: the key is found here, or there is a flight to wait for.
    fn begin_round(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        errand: &mut Errand,
        left: Duration,
        now: Moment,
    ) -> Result<Begun<'_, V>, Error> {
        let (inside, demand) = (Inside::current(), errand.demand());
        let view = self.context.peers.view();
        let route = if errand.here { Route::Load } else { view.route(key.hash) };
        let asked = self.ask(key, (&view, route), inside.as_ref(), demand, now, |lead| match route {
            Route::Load => self.start_loads(vec![lead], inside.as_ref()),
            Route::Fetch(node, role) => {
                let terms = self.terms(left, inside.clone(), demand);
                self.start_fetch(&view, (node, role), std::iter::once(lead), terms, now);
            }
        })?;
        let (flight, joined) = match asked {
            Asked::Found(found) => return Ok(Begun::Found(found)),
            Asked::Flight { flight, joined } => (flight, joined),
        };
        if joined && !mem::replace(&mut errand.has_joined, true) {
            self.gets.joined.one();
        }
        Ok(Begun::Waits(Round { landing: self.landing_within(flight, left, now), joined }))
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
