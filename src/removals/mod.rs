//! Removals as plain state: what a node has applied, what others have, and what follows from it.
//!
//! [`Removals`] is the state of one incarnation of a node, for all groups together. It knows no store, no flight and no
//! socket: who holds it does what the answers say, in the order that the docs of each function state. The promise (no
//! get that starts after a removal is complete returns a value whose load began before the removal was called) rests on
//! four things:
//!
//! - what is **seen** here was dropped here, and flights that had begun were voided, before it was noted ([`Seen`]);
//! - whatever is seen here and has no tombstone here is seen by every peer that is asked
//!   ([`is_level`](Removals::is_level)); whatever has one travels with the question
//!   ([`covering`](Removals::covering));
//! - a tombstone stays until everybody has seen its removal ([`Tombstones`], [`Known`]);
//! - a record stays in the log until then, too, and who comes back after that is told to drop everything ([`Log`]).

mod carried;
mod known;
mod log;
mod planted;
mod record;
mod seen;
#[cfg(test)]
mod tests;
mod tombstones;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::key::Key;
use crate::member::NodeName;
use crate::removal::Scope;
use crate::time::Moment;

use self::carried::Carried;
pub(crate) use self::known::{Known, Link, Report, Tick, Why};
pub(crate) use self::log::{Lacking, Log, LogLimits};
pub(crate) use self::record::{Origin, Record, Span, What};
pub(crate) use self::seen::{MAX_ABOVE, Noted, Seen};
pub(crate) use self::tombstones::{TombstoneLimits, Tombstones};

/// So many incarnations have a line in the vector before the dead ones go.
const MAX_ORIGINS: usize = 1024;

/// The bounds of the state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) log: LogLimits,
    pub(crate) tombstones: TombstoneLimits,
    pub(crate) origins: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { log: LogLimits::default(), tombstones: TombstoneLimits::default(), origins: MAX_ORIGINS }
    }
}

/// How a node stands to a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Done,
    Pending(Why),
    /// It was told, and is now out of everybody's membership, with no stream open.
    Departed,
}

/// A removal of nothing that has to be complete, and out of the log, before lines of dead incarnations go: who was not
/// there then lacks it, and is behind the reach.
#[derive(Debug)]
struct Marker {
    /// Its number, of this node's.
    number: u64,
    /// Which lines were over when it was issued, and their last numbers: who has the marker has heard of those.
    over: BTreeMap<Origin, u64>,
}

/// All that one incarnation of a node knows of removals.
#[derive(Debug)]
pub(crate) struct Removals {
    me: Origin,
    limits: Limits,
    /// The last number issued.
    last: u64,
    seen: Seen,
    log: Log,
    known: Known,
    tombstones: Tombstones,
    /// Up to which number of an origin there may be no tombstones here although it was seen: what was complete, and
    /// what was adopted without records.
    bare: BTreeMap<Origin, u64>,
    carried: Carried,
    /// Whether anything has changed that could make a removal complete.
    has_news: bool,
    /// Up to where the removals of each origin were complete when that was last looked at.
    stable: BTreeMap<Origin, u64>,
    /// What has to be complete before lines of dead incarnations go.
    marker: Option<Marker>,
}

impl Removals {
    pub(crate) fn new(me: Origin, limits: Limits) -> Self {
        Self {
            known: Known::new(me.clone()),
            me,
            limits,
            last: 0,
            seen: Seen::default(),
            log: Log::new(limits.log),
            tombstones: Tombstones::new(limits.tombstones),
            bare: BTreeMap::new(),
            carried: Carried::default(),
            has_news: false,
            stable: BTreeMap::new(),
            marker: None,
        }
    }

    /// A new removal, called here and now. To be applied here like any other ([`begin`](Self::begin)), in the order of
    /// the numbers or not.
    pub(crate) fn issue(&mut self, group: Arc<str>, scope: Scope) -> Arc<Record> {
        self.last += 1;
        Arc::new(Record::one(Span::one(self.me.clone(), self.last), group, scope))
    }

    /// First step to apply a record: its tombstones, so that whatever is asked from now on carries it. If it is new,
    /// the holder then voids the flights that have begun and drops what is stored, and calls
    /// [`settle`](Self::settle). What is `Beyond` is dropped and voided, too, but neither settled nor acknowledged.
    pub(crate) fn begin(&mut self, record: &Record) -> Noted {
        let noted = self.look(&record.span);
        if noted != Noted::Known {
            self.tombstones.add(record);
        }
        noted
    }

    /// Last step: nothing of what the record takes out is here any more, so the vector may say so, and the log have it.
    pub(crate) fn settle(&mut self, record: &Arc<Record>) {
        if self.look(&record.span) == Noted::New {
            self.seen.claim(&record.span);
            self.log.push(record);
            self.has_news = true;
        }
    }

    fn look(&self, span: &Span) -> Noted {
        // A coarse record follows on what was forgotten or seen: the log has it as one piece.
        match self.seen.look(span) {
            Noted::New if !span.is_one() && span.first > self.seen.mark(&span.origin) + 1 => Noted::Beyond,
            // Nobody else can bring what was issued here: it is noted, however many are applied before one that takes
            // long.
            Noted::Beyond if span.origin == self.me => Noted::New,
            noted => noted,
        }
    }

    /// Whether this node has applied all of `span`.
    pub(crate) fn has_seen(&self, span: &Span) -> bool {
        self.seen.has_all(span)
    }

    /// Whether no question carries anything.
    pub(crate) fn is_quiet(&self) -> bool {
        self.tombstones.is_empty() && self.carried.is_empty()
    }

    /// How many tombstones there are.
    pub(crate) fn tombstones(&self) -> usize {
        self.tombstones.len()
    }

    /// Whether a node is known to have applied `span`, in every incarnation that may live.
    pub(crate) fn is_settled_at(&self, name: &NodeName, span: &Span) -> bool {
        !self.known.pending(span).contains_key(name)
    }

    /// What a question for this key to this incarnation of a peer has to carry. To be asked **after** the flight that
    /// asks has begun, where a removal can void it: a removal that comes later voids it, one that came before is here.
    pub(crate) fn covering(&self, group: &str, key: &[u8], peer: &Origin) -> Vec<Span> {
        let carried = self.carried.of(group, key).cloned();
        let spans = self.tombstones.covering(group, key).into_iter().chain(carried);
        spans.filter(|span| !self.known.has_applied(peer, span)).collect()
    }

    /// A question for a key carries these. If this returns true, the holder voids the key's flights that have begun and
    /// drops it, says so with [`carried_out`](Self::carried_out), and serves only then. From there on a question that
    /// carries the same finds it applied, for a second.
    #[must_use]
    pub(crate) fn carried(&mut self, group: &Arc<str>, key: &Key, spans: &[Span], now: Moment) -> bool {
        let unseen = spans.iter().filter(|span| !self.seen.has_all(span));
        self.carried.note(group, key, unseen, now)
    }

    /// The holder, to whom [`carried`](Self::carried) returned true with these at that moment, has dropped the key.
    pub(crate) fn carried_out(&mut self, group: &str, key: &Key, spans: &[Span], at: Moment) {
        self.carried.taken_out(group, key, spans, at);
    }

    /// Since when a key has been asked for with `span`, which a question has carried, without a break.
    pub(crate) fn carried_since(&self, group: &str, key: &[u8], span: &Span) -> Option<Moment> {
        self.carried.since(group, key, span)
    }

    /// Forgets what questions have carried and is over.
    pub(crate) fn forget_carried(&mut self, now: Moment) {
        self.carried.forget(now);
    }

    /// What this node says of itself in a hello.
    pub(crate) fn report(&self) -> Report {
        self.known.report(&self.seen)
    }

    /// What it says of third nodes to `peer`.
    pub(crate) fn relays(&self, peer: &Origin) -> Vec<Report> {
        self.known.relays(peer)
    }

    /// What an acknowledgement says: the version of this node's links.
    pub(crate) fn version(&self) -> u64 {
        self.known.version()
    }

    /// A moment, to be remembered with a question that leaves now.
    pub(crate) fn tick(&mut self) -> Tick {
        self.known.tick()
    }

    /// Takes in a report; see [`Known::heard`].
    pub(crate) fn heard(&mut self, report: &Report, asked: Option<Tick>) {
        self.has_news |= self.known.heard(report, asked);
    }

    /// The version of a peer's links that is known here; 0 if none is.
    pub(crate) fn version_of(&self, peer: &Origin) -> u64 {
        self.known.version_of(peer)
    }

    /// Takes in an acknowledgement; see [`Known::acknowledged`].
    pub(crate) fn acknowledged(&mut self, by: &Origin, version: u64, span: &Span) {
        self.has_news |= self.known.acknowledged(by, version, span);
    }

    pub(crate) fn list(&mut self, names: impl IntoIterator<Item = NodeName>) {
        self.known.list(names);
        self.has_news = true;
    }

    pub(crate) fn open(&mut self, peer: &Origin) {
        self.known.open(peer);
        self.has_news = true;
    }

    pub(crate) fn close(&mut self, peer: &Origin) {
        self.known.close(peer);
        self.has_news = true;
    }

    /// What `peer` lacks, by its report (which was [`heard`](Self::heard)): about `bytes` of it. A peer that was not
    /// heard yet lacks everything.
    pub(crate) fn lacking(&self, peer: &Origin, bytes: usize) -> Lacking {
        let nothing = Seen::default();
        self.log.lacking(self.known.seen(peer).unwrap_or(&nothing), bytes)
    }

    /// Whether `peer` may be asked: it has seen all that was seen here and has no tombstone here. False when this node
    /// has adopted what the peer, in turn, does not know.
    pub(crate) fn is_level(&self, peer: &Origin) -> bool {
        let Some(seen) = self.known.seen(peer) else { return self.bare.is_empty() };
        self.bare.iter().all(|(origin, bare)| seen.reaches(origin, *bare))
    }

    /// Whether a hello has made this node and `peer` even: each has what the other had then, and they are level. `had`
    /// is what had been seen here when the hello left; the answer, which has been taken in, said that the peer had seen
    /// `has` and that this node lacked `lacked`.
    ///
    /// What either applies later is not waited for: there may always be more. Nor need it be. Since the hello each
    /// counts the other among everybody, so none of that is complete before both have applied it, and until it is, its
    /// tombstone travels with the questions between the two.
    pub(crate) fn is_even(&self, peer: &Origin, had: &Seen, has: &Seen, lacked: &Lacking) -> bool {
        // Vectors forget lines of the dead, each node's in its own time: whoever is known to lack nothing is even though
        // its vector has fewer lines.
        let claims_it = self.known.seen(peer).is_some_and(|claimed| claimed.covers(had));
        let has_told = claims_it || self.lacking(peer, 0) == Lacking::Nothing;
        let was_told = *lacked == Lacking::Nothing || self.seen.covers(has);
        was_told && has_told && self.is_level(peer)
    }

    /// First step for one who is behind another's reach: from now on, only peers that know as much are asked. The
    /// holder then voids all flights that have begun, drops everything in all groups, and calls
    /// [`adopt`](Self::adopt).
    pub(crate) fn begin_adopting(&mut self, reaches: &[(Origin, u64)]) {
        for (origin, reach) in reaches {
            let bare = self.bare.entry(origin.clone()).or_default();
            *bare = (*bare).max(*reach);
        }
    }

    /// Last step: nothing is held here, so everything up to the reaches may be claimed.
    pub(crate) fn adopt(&mut self, reaches: &[(Origin, u64)]) {
        self.has_news = true;
        for (origin, reach) in reaches {
            if self.seen.mark(origin) < *reach {
                self.seen.adopt(origin, *reach);
                self.log.adopt(origin, *reach);
            }
        }
    }

    /// Whether there is nobody else.
    pub(crate) fn is_alone(&self) -> bool {
        self.known.is_alone()
    }

    /// Whom a removal that begins now is for: everybody else, and whether it is there because of lists.
    pub(crate) fn told(&self) -> BTreeMap<NodeName, bool> {
        self.known.told()
    }

    /// How everybody stands to a removal: this node, those whom it was for when it began, and who has come since. Who
    /// is not listed any more has departed; who never was, and is gone, may come back, or go on somewhere else.
    pub(crate) fn standing(&self, span: &Span, told: &BTreeMap<NodeName, bool>) -> BTreeMap<NodeName, Standing> {
        let pending = self.known.pending(span);
        let here = if self.seen.has_all(span) { Standing::Done } else { Standing::Pending(Why::NotApplied) };
        let gone = told.iter().filter(|(name, _)| !self.known.is_one_of_everybody(name)).map(|(name, &is_listed)| {
            let standing = match is_listed {
                true => Standing::Departed,
                false if self.known.has_any_applied(name, span) => Standing::Done,
                false => Standing::Pending(Why::Lost),
            };
            (name.clone(), standing)
        });
        let standing = |name: &NodeName| pending.get(name).map_or(Standing::Done, |why| Standing::Pending(*why));
        let mut standings: BTreeMap<_, _> = gone.collect();
        standings.extend(self.known.everybody().map(|name| (name.clone(), standing(name))));
        standings.insert(self.me.name.clone(), here);
        standings
    }

    /// Whether everybody has applied `span`, this node among them.
    #[cfg(test)]
    pub(crate) fn is_complete(&self, span: &Span) -> bool {
        self.seen.has_all(span) && self.known.pending(span).is_empty()
    }

    /// After news: lets go of the tombstones and records that are complete.
    pub(crate) fn drain(&mut self) {
        if !std::mem::take(&mut self.has_news) {
            return;
        }
        let stable = self.known.stable(&self.seen);
        // While a node is away nothing becomes complete, however much is acknowledged, and the tombstones are many.
        if stable != self.stable {
            self.let_go_of(&stable);
            self.stable.clone_from(&stable);
        }
        self.forget_origins(&stable);
    }

    /// Lets go of what is complete.
    fn let_go_of(&mut self, stable: &BTreeMap<Origin, u64>) {
        for (origin, &mark) in stable.iter().filter(|(_, mark)| **mark > 0) {
            let bare = self.bare.entry(origin.clone()).or_default();
            *bare = mark.max(*bare);
        }
        let is_complete = |span: &Span| stable.get(&span.origin).is_some_and(|mark| span.last <= *mark);
        self.tombstones.drain(&is_complete);
        self.log.forget(stable);
    }

    /// What fills the holes that dead origins have left: a removal that nobody has, while a later one of the same
    /// origin was told. The holder applies these like any other record, after [`drain`](Self::drain); they reach the
    /// others through the log.
    ///
    /// A filler takes out everything, as nobody knows what the lost removal took out. To claim its number is right
    /// then, whoever else still has it: it was called before now, and everything is dropped now. Without fillers the
    /// mark would stay below the hole for ever, and with it what is in the log and the tombstones.
    pub(crate) fn fillers(&self) -> Vec<Arc<Record>> {
        let is_lost =
            |hole: &Span| !self.known.is_around(&hole.origin) && self.known.is_lacked_by_all(&hole.origin, hole.first);
        let holes = self.seen.holes().filter(is_lost);
        holes.map(|span| Arc::new(Record { span, what: What::Everything })).collect()
    }

    /// Beyond the bound, lines of dead incarnations go, all of whose removals are complete.
    ///
    /// With a line goes the means to see that somebody lacks what is of it: one who was away all the time, and comes
    /// back with old copies. Hence a removal of nothing is issued first. Once everybody has it, the log forgets it, and
    /// so it is this node's own line that shows who was not there.
    fn forget_origins(&mut self, stable: &BTreeMap<Origin, u64>) {
        let excess = self.seen.len().saturating_sub(self.limits.origins);
        if excess == 0 {
            self.marker = None;
            return;
        }
        let Some(marker) = &self.marker else {
            let over: BTreeMap<_, _> = self.origins_over(stable).collect();
            if !over.is_empty() {
                let nothing = self.issue(Arc::from(""), Scope::Keys(Vec::new()));
                self.settle(&nothing);
                self.marker = Some(Marker { number: nothing.span.last, over });
            }
            return;
        };
        if stable.get(&self.me).is_none_or(|mark| *mark < marker.number) {
            return;
        }
        // Who has the marker need not have what came of an origin after it.
        let as_then = self.origins_over(stable).filter(|(origin, mark)| marker.over.get(origin) == Some(mark));
        let over: Vec<Origin> = as_then.take(excess).map(|(origin, _)| origin).collect();
        let (me, number) = (self.me.clone(), marker.number);
        self.marker = None;
        if over.is_empty() {
            return;
        }
        self.log.adopt(&me, number);
        for origin in over {
            self.seen.forget(&origin);
            self.log.forget_origin(&origin);
            self.bare.remove(&origin);
        }
    }

    /// The dead incarnations all of whose removals are complete, each with its last number.
    fn origins_over(&self, stable: &BTreeMap<Origin, u64>) -> impl Iterator<Item = (Origin, u64)> {
        let is_over = |(origin, mark): &(&Origin, &u64)| {
            **mark == self.seen.highest(origin) && !self.known.is_around(origin) && !self.tombstones.has_any_of(origin)
        };
        stable.iter().filter(is_over).map(|(origin, mark)| (origin.clone(), *mark))
    }
}
