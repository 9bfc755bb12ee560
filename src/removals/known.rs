//! What this node knows of the others: who there is, and what each has applied.
//!
//! **Everybody** is whom this node lists or has a stream with, and whom those list or have streams with by their own
//! reports, and so on. A removal is **complete** when everybody has applied it, each in the incarnation that lives.
//! What carries the promise:
//!
//! - A report is taken as a whole: what a node had applied, and whom it listed and had streams with *at or after* that
//!   moment. So whoever could have got an old copy from it is named by the same report that says that it has none.
//! - A new incarnation starts from nothing. Which of two is the living one cannot be seen from random numbers, so all
//!   that are not known to be dead count. One is known to be dead when another of the same node answered a question
//!   that was asked after the one had been heard of.
//! - A node names whom it **met**, though it neither lists it nor has a stream with it any more: that makes nobody part
//!   of everybody, but tells of incarnations that others, who do list that node, have not heard of yet.
//! - Reports of third nodes are passed on as they are, never merged into one's own: a node that is gone would otherwise
//!   live for ever in what each heard of the other.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::member::NodeName;
use crate::removal::Incarnation;

use super::record::{Origin, Span};
use super::seen::{Noted, Seen};

/// So many nodes that are part of nobody's everybody are remembered.
const MAX_STRANGERS: usize = 1024;

/// So many dead incarnations of a node are remembered.
const MAX_DEAD: usize = 64;

/// A moment as this node counts them: each [`Known::tick`] is later than those before.
pub(crate) type Tick = u64;

/// What a node says of itself, or passes on of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) of: Origin,
    /// Counted up whenever the links change.
    pub(crate) version: u64,
    pub(crate) links: Arc<[Link]>,
    pub(crate) seen: Seen,
    /// Earlier incarnations of the same node, known to be dead by who passes it on.
    pub(crate) dead: Vec<Incarnation>,
}

/// One node, as another is linked with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) name: NodeName,
    /// The incarnation of the stream, or the one met last.
    pub(crate) incarnation: Option<Incarnation>,
    pub(crate) is_listed: bool,
    /// Whether there is a stream between the two, whoever opened it.
    pub(crate) is_open: bool,
}

impl Link {
    /// Whether who has this link counts that node among everybody.
    fn counts(&self) -> bool {
        self.is_listed || self.is_open
    }
}

/// Why a node is not known to have applied a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It was never heard of but by its name.
    NeverHeard,
    /// It has not said that it applied it.
    NotApplied,
    /// It may live in an incarnation that has not been heard.
    Restarted,
    /// Nobody lists it, and its stream has closed before it said that it applied it.
    Lost,
}

/// What is known of one incarnation.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) incarnation: Incarnation,
    version: u64,
    links: Arc<[Link]>,
    pub(super) seen: Seen,
    /// When the latest report came.
    heard: Tick,
}

#[derive(Debug, Default)]
pub(super) struct Peer {
    /// The incarnations that may live.
    pub(super) states: Vec<State>,
    dead: Vec<Incarnation>,
}

impl Peer {
    /// Says whether that is news.
    fn bury(&mut self, incarnation: Incarnation) -> bool {
        let states = self.states.len();
        self.states.retain(|state| state.incarnation != incarnation);
        let is_known = self.dead.contains(&incarnation);
        if !is_known {
            if self.dead.len() >= MAX_DEAD {
                self.dead.remove(0);
            }
            self.dead.push(incarnation);
        }
        !is_known || self.states.len() < states
    }

    fn state(&self, incarnation: Incarnation) -> Option<&State> {
        self.states.iter().find(|state| state.incarnation == incarnation)
    }
}

/// What this node knows of the others, and whom it is linked with itself.
#[derive(Debug)]
pub(crate) struct Known {
    me: Origin,
    pub(super) listed: BTreeSet<NodeName>,
    /// Streams of either direction, counted.
    open: BTreeMap<(NodeName, Incarnation), usize>,
    /// The incarnation met last, and when.
    met: BTreeMap<NodeName, (Incarnation, Tick)>,
    version: u64,
    pub(super) peers: BTreeMap<NodeName, Peer>,
    now: Tick,
    /// Empty when something has changed that it depends on.
    judgement: OnceCell<BTreeMap<NodeName, Judged>>,
}

/// What is known of one of everybody.
#[derive(Clone, Copy, Debug)]
struct Judged {
    /// Why what it has applied is not known, if it is not.
    unknown: Option<Why>,
    /// Whether it is one of everybody because of lists alone.
    is_listed: bool,
}

impl Known {
    pub(crate) fn new(me: Origin) -> Self {
        let (listed, open, met, peers) = Default::default();
        Self { me, listed, open, met, version: 1, peers, now: 0, judgement: OnceCell::new() }
    }

    /// A new moment. Taken when a question leaves, it says in [`heard`](Self::heard) how fresh its answer is.
    pub(crate) fn tick(&mut self) -> Tick {
        self.now += 1;
        self.now
    }

    /// From now on, these are listed.
    pub(crate) fn list(&mut self, names: impl IntoIterator<Item = NodeName>) {
        self.judgement.take();
        self.listed = names.into_iter().filter(|name| *name != self.me.name).collect();
        self.version += 1;
    }

    /// A stream with this incarnation is there: from before the first question on it until after the last.
    pub(crate) fn open(&mut self, peer: &Origin) {
        self.judgement.take();
        *self.open.entry((peer.name.clone(), peer.incarnation)).or_default() += 1;
        let now = self.tick();
        self.met.insert(peer.name.clone(), (peer.incarnation, now));
        self.version += 1;
        self.forget_strangers();
    }

    pub(crate) fn close(&mut self, peer: &Origin) {
        self.judgement.take();
        let key = (peer.name.clone(), peer.incarnation);
        if let Some(count) = self.open.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&key);
            }
        }
        self.version += 1;
    }

    /// What this node says of itself: `seen` is what it has applied by now.
    pub(crate) fn report(&self, seen: &Seen) -> Report {
        let (of, links) = (self.me.clone(), self.links());
        Report { of, version: self.version, links: links.into(), seen: seen.told(), dead: Vec::new() }
    }

    /// Counted up whenever the links change: an acknowledgement says it instead of them.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    fn links(&self) -> Vec<Link> {
        let link = |name: &NodeName, incarnation, is_open| {
            let is_listed = self.listed.contains(name);
            Link { name: name.clone(), incarnation, is_listed, is_open }
        };
        let open = self.open.keys().map(|(name, incarnation)| link(name, Some(*incarnation), true));
        let met = self.met.iter().map(|(name, (incarnation, _))| (name, *incarnation));
        let met = met.filter(|(name, incarnation)| !self.open.contains_key(&((*name).clone(), *incarnation)));
        let met = met.map(|(name, incarnation)| link(name, Some(incarnation), false));
        let unmet = self.listed.iter().filter(|name| !self.met.contains_key(*name));
        open.chain(met).chain(unmet.map(|name| link(name, None, false))).collect()
    }

    /// What others are to be told of third nodes: those that `peer` has no stream with itself.
    pub(crate) fn relays(&self, peer: &Origin) -> Vec<Report> {
        let links = self.state(peer).map(|state| Arc::clone(&state.links)).unwrap_or_default();
        let others = self.peers.iter().filter(|(name, _)| **name != peer.name && self.is_one_of_everybody(name));
        let is_met = |of: &Origin| {
            links.iter().any(|link| link.is_open && link.name == of.name && link.incarnation == Some(of.incarnation))
        };
        others
            .flat_map(|(name, Peer { states, dead })| {
                states.iter().map(move |state| Report {
                    of: Origin::new(name.clone(), state.incarnation),
                    version: state.version,
                    links: Arc::clone(&state.links),
                    seen: state.seen.clone(),
                    dead: dead.clone(),
                })
            })
            .filter(|report| !is_met(&report.of))
            .collect()
    }

    /// Takes in a report. `asked` is given if it came from the node itself, in answer to what left at that moment. Says
    /// whether there was any news in it: most reports repeat what is known.
    pub(crate) fn heard(&mut self, report: &Report, asked: Option<Tick>) -> bool {
        if report.of.name == self.me.name {
            return false;
        }
        let now = self.tick();
        let peer = self.peers.entry(report.of.name.clone()).or_default();
        let mut is_judged_anew = report.dead.iter().fold(false, |is_new, &dead| peer.bury(dead) | is_new);
        let mut has_more = false;
        if !peer.dead.contains(&report.of.incarnation) {
            let Report { of, version, links, seen, .. } = report;
            match peer.states.iter_mut().find(|state| state.incarnation == of.incarnation) {
                Some(state) => {
                    if *version >= state.version && state.links != *links {
                        state.links = Arc::clone(links);
                        is_judged_anew = true;
                    }
                    state.version = state.version.max(*version);
                    // Whichever is the later report: in one incarnation, what was applied stays so.
                    has_more = state.seen.merge(seen);
                    state.heard = now;
                }
                None => {
                    let (incarnation, version, links) = (of.incarnation, *version, Arc::clone(links));
                    peer.states.push(State { incarnation, version, links, seen: seen.clone(), heard: now });
                    is_judged_anew = true;
                }
            }
            if let Some(asked) = asked {
                is_judged_anew |= self.confirm(&report.of, asked);
            }
        }
        if is_judged_anew {
            self.judgement.take();
            self.forget_strangers();
        }
        is_judged_anew || has_more
    }

    /// The incarnation that answers what was asked at a moment has outlived all others heard of before that moment.
    /// Says whether that is news.
    fn confirm(&mut self, of: &Origin, asked: Tick) -> bool {
        let of_it = |link: &&Link| link.name == of.name && link.incarnation.is_some();
        let heard_then = self.peers.values().flat_map(|peer| &peer.states).filter(|state| state.heard <= asked);
        let mut others: Vec<Incarnation> =
            heard_then.flat_map(|state| state.links.iter().filter(of_it)).filter_map(|link| link.incarnation).collect();
        others.extend(self.met.get(&of.name).filter(|(_, at)| *at <= asked).map(|(incarnation, _)| *incarnation));
        let peer = self.peers.entry(of.name.clone()).or_default();
        others.extend(peer.states.iter().filter(|state| state.heard <= asked).map(|state| state.incarnation));
        let mut is_new = false;
        for other in others.into_iter().filter(|other| *other != of.incarnation) {
            is_new |= peer.bury(other);
        }
        if self.met.get(&of.name).is_some_and(|(incarnation, _)| peer.dead.contains(incarnation)) {
            let now = self.now;
            self.met.insert(of.name.clone(), (of.incarnation, now));
            self.version += 1;
            is_new = true;
        }
        is_new
    }

    /// The version of a node's links that is known here; 0 if none is.
    pub(crate) fn version_of(&self, of: &Origin) -> u64 {
        self.state(of).map_or(0, |state| state.version)
    }

    /// A node says that it has applied `span`, while its links were those of `version`. If those are not known here,
    /// nothing is learnt: its next report will say it. Says whether anything was.
    pub(crate) fn acknowledged(&mut self, by: &Origin, version: u64, span: &Span) -> bool {
        let peer = self.peers.entry(by.name.clone()).or_default();
        let state = peer.states.iter_mut().find(|state| state.incarnation == by.incarnation);
        let state = state.filter(|state| state.version == version);
        state.is_some_and(|state| state.seen.note(span) == Noted::New)
    }

    fn state(&self, of: &Origin) -> Option<&State> {
        self.peers.get(&of.name)?.state(of.incarnation)
    }

    /// Whether this incarnation is known to have applied `span`.
    pub(crate) fn has_applied(&self, peer: &Origin, span: &Span) -> bool {
        self.state(peer).is_some_and(|state| state.seen.has_all(span))
    }

    /// What this incarnation is known to have applied.
    pub(crate) fn seen(&self, peer: &Origin) -> Option<&Seen> {
        self.state(peer).map(|state| &state.seen)
    }

    /// Everybody but this node.
    pub(crate) fn everybody(&self) -> impl Iterator<Item = &NodeName> {
        self.judgement().keys()
    }

    pub(crate) fn is_one_of_everybody(&self, name: &NodeName) -> bool {
        self.judgement().contains_key(name)
    }

    /// Whether there is nobody else.
    pub(crate) fn is_alone(&self) -> bool {
        self.judgement().is_empty()
    }

    /// What is known of everybody: worked out anew when links or incarnations have changed, not for each removal.
    fn judgement(&self) -> &BTreeMap<NodeName, Judged> {
        self.judgement.get_or_init(|| self.judge())
    }

    /// Those nodes, those whom they are linked with in that way, and so on.
    fn follow(&self, mut nodes: BTreeSet<NodeName>, by: impl Fn(&Link) -> bool) -> BTreeSet<NodeName> {
        let mut to_follow: Vec<NodeName> = nodes.iter().cloned().collect();
        while let Some(name) = to_follow.pop() {
            let states = self.peers.get(&name).into_iter().flat_map(|peer| &peer.states);
            for link in states.flat_map(|state| state.links.iter()).filter(|link| by(link)) {
                if link.name != self.me.name && nodes.insert(link.name.clone()) {
                    to_follow.push(link.name.clone());
                }
            }
        }
        nodes
    }

    /// Everybody but this node, and whether it is there because of lists alone: this node's, or one of a node that is
    /// there so. The others are there because of a stream somewhere.
    pub(crate) fn told(&self) -> BTreeMap<NodeName, bool> {
        self.judgement().iter().map(|(name, judged)| (name.clone(), judged.is_listed)).collect()
    }

    /// Whether an incarnation of this node is known to have applied `span`.
    pub(crate) fn has_any_applied(&self, name: &NodeName, span: &Span) -> bool {
        self.peers.get(name).is_some_and(|peer| peer.states.iter().any(|state| state.seen.has_all(span)))
    }

    fn judge(&self) -> BTreeMap<NodeName, Judged> {
        let mut direct = self.listed.clone();
        direct.extend(self.open.keys().map(|(name, _)| name.clone()));
        let everybody = self.follow(direct, Link::counts);
        let listed = self.follow(self.listed.clone(), |link| link.is_listed);
        let restarted = self.restarted(&everybody);
        let judge = |name: NodeName| {
            let is_unheard = self.peers.get(&name).is_none_or(|peer| peer.states.is_empty());
            let unknown =
                if is_unheard { Some(Why::NeverHeard) } else { restarted.contains(&name).then_some(Why::Restarted) };
            let is_listed = listed.contains(&name);
            (name, Judged { unknown, is_listed })
        };
        everybody.into_iter().map(judge).collect()
    }

    /// Of these, who may live in an incarnation that has not been heard.
    fn restarted(&self, everybody: &BTreeSet<NodeName>) -> BTreeSet<NodeName> {
        let open = self.open.keys().map(|(of, incarnation)| (of, *incarnation));
        let met = self.met.iter().map(|(of, (incarnation, _))| (of, *incarnation));
        let mut named: BTreeSet<(&NodeName, Incarnation)> = open.chain(met).collect();
        for states in everybody.iter().filter_map(|name| self.peers.get(name)).map(|peer| &peer.states) {
            for link in states.iter().flat_map(|state| state.links.iter()) {
                named.extend(link.incarnation.map(|incarnation| (&link.name, incarnation)));
            }
        }
        let is_unknown = |(name, incarnation): &(&NodeName, Incarnation)| {
            self.peers
                .get(*name)
                .is_none_or(|peer| !peer.dead.contains(incarnation) && peer.state(*incarnation).is_none())
        };
        let unknown = named.into_iter().filter(|(name, _)| everybody.contains(*name)).filter(is_unknown);
        unknown.map(|(name, _)| name.clone()).collect()
    }

    /// Everybody, each with what all its incarnations that may live have applied; or why that is not known.
    fn judged(&self) -> impl Iterator<Item = (&NodeName, Result<&[State], Why>)> {
        self.judgement().iter().map(|(name, judged)| {
            let states = self.peers.get(name).map_or(&[][..], |peer| &peer.states);
            (name, judged.unknown.map_or(Ok(states), Err))
        })
    }

    /// Of everybody but this node: who is not known to have applied `span`, and why.
    pub(crate) fn pending(&self, span: &Span) -> BTreeMap<NodeName, Why> {
        let why = |judged: Result<&[State], Why>| match judged {
            Err(why) => Some(why),
            Ok(states) => (!states.iter().all(|state| state.seen.has_all(span))).then_some(Why::NotApplied),
        };
        self.judged().filter_map(|(name, judged)| Some((name.clone(), why(judged)?))).collect()
    }

    /// For each origin in `seen`, this node's own vector: up to which number removals are complete.
    pub(crate) fn stable(&self, seen: &Seen) -> BTreeMap<Origin, u64> {
        let judged: Result<Vec<&[State]>, Why> = self.judged().map(|(_, judged)| judged).collect();
        let Ok(judged) = judged else { return BTreeMap::new() };
        let lowest = |origin: &Origin| {
            let marks = judged.iter().flat_map(|states| states.iter()).map(|state| state.seen.mark(origin));
            marks.chain([seen.mark(origin)]).min().unwrap_or(0)
        };
        seen.origins().map(|origin| (origin.clone(), lowest(origin))).collect()
    }

    /// Whether an incarnation is part of everybody, as far as is known: if not, it will not pass on what it issued.
    pub(crate) fn is_around(&self, origin: &Origin) -> bool {
        *origin == self.me || self.state(origin).is_some() && self.is_one_of_everybody(&origin.name)
    }

    /// Whether all of everybody are known, and none of them has applied number `number` of `origin` in its turn.
    pub(crate) fn is_lacked_by_all(&self, origin: &Origin, number: u64) -> bool {
        let span = Span::one(origin.clone(), number);
        let lacks = |judged: Result<&[State], Why>| {
            judged.is_ok_and(|states| !states.iter().any(|state| state.seen.has_all(&span)))
        };
        self.judged().all(|(_, judged)| lacks(judged))
    }

    fn forget_strangers(&mut self) {
        if self.peers.len().max(self.met.len()) <= MAX_STRANGERS {
            return;
        }
        let everybody: BTreeSet<NodeName> = self.everybody().cloned().collect();
        let mut strangers: Vec<(Tick, NodeName)> = self
            .met
            .iter()
            .filter(|(name, _)| !everybody.contains(*name))
            .map(|(name, (_, at))| (*at, name.clone()))
            .collect();
        strangers.sort();
        self.judgement.take();
        let excess = self.met.len().saturating_sub(MAX_STRANGERS);
        for (_, name) in strangers.into_iter().take(excess) {
            self.met.remove(&name);
        }
        self.peers.retain(|name, _| everybody.contains(name) || self.met.contains_key(name));
    }
}
