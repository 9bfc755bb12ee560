//! The cluster: nodes, connections, and what a seed makes of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::super::{
    Lacking, Limits, LogLimits, Noted, Origin, Record, Removals, Report, Span, Tick, TombstoneLimits, What,
};
use super::judge::{Called, Counts, Started, Value};
use crate::key::Key;
use crate::member::NodeName;
use crate::removal::{Incarnation, Scope};
use crate::time::Moment;

const KEYS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// Bounds that are never met.
    Small,
    /// Bounds so low that everything coarsens and is forgotten.
    Tight,
}

/// What can be done wrong on purpose, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    NothingTravels,
    OnlyTheCallersList,
    AcknowledgementsSurvive,
    FlightsAreNotVoided,
    LinksAreNotReported,
}

impl Bug {
    pub(super) const ALL: [Self; 5] = [
        Self::NothingTravels,
        Self::OnlyTheCallersList,
        Self::AcknowledgementsSurvive,
        Self::FlightsAreNotVoided,
        Self::LinksAreNotReported,
    ];
}

/// What a hello or its reply carries besides.
#[derive(Clone, Debug)]
struct News {
    report: Report,
    relays: Vec<Report>,
    lacking: Lacking,
}

#[derive(Clone, Debug)]
enum Message {
    Hello(News, Tick),
    HelloReply(News, Tick),
    /// With the version of the receiver's links that is known.
    Remove(Arc<Record>, u64, Tick),
    /// With the version of the links, and what the node says of itself if another was known.
    Acknowledged(u64, Option<Report>, Span, Tick),
    Get(u64, usize, Vec<Span>),
    Answer(u64, Value),
}

/// A connection, as the dialler and the other end see it.
#[derive(Debug)]
struct Connection {
    ends: [Origin; 2],
    nodes: [usize; 2],
    /// What is on its way to each end.
    queues: [VecDeque<Message>; 2],
    /// Whether an end counts it among its streams.
    is_counted: [bool; 2],
    /// Whether an end has noticed that it is over.
    is_gone: [bool; 2],
    is_broken: bool,
    /// Whether the dialler may ask.
    is_up: bool,
    /// When the other end replied last, by its own ticks.
    replied: Option<Tick>,
}

#[derive(Clone, Copy, Debug)]
enum Waiter {
    Get(u64),
    Peer { connection: u64, fetch: u64 },
}

#[derive(Debug)]
struct Flight {
    key: usize,
    /// A load that began then, or a fetch over that connection.
    kind: Kind,
    is_voided: bool,
    waiters: Vec<Waiter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Load { began: u64 },
    Fetch { connection: u64 },
}

#[derive(Debug)]
struct Node {
    removals: Removals,
    me: Origin,
    list: BTreeSet<usize>,
    store: BTreeMap<usize, Value>,
    flights: BTreeMap<u64, Flight>,
}

impl Node {
    fn void_and_drop(&mut self, key: Option<usize>, voids: bool) {
        let is_hit = |of: usize| key.is_none_or(|key| key == of);
        self.store.retain(|of, _| !is_hit(*of));
        for flight in self.flights.values_mut().filter(|flight| voids && is_hit(flight.key)) {
            flight.is_voided = true;
        }
    }

    fn apply(&mut self, record: &Arc<Record>, voids: bool) -> Noted {
        let noted = self.removals.begin(record);
        if noted != Noted::Known {
            match &record.what {
                What::One { scope: Scope::Keys(keys), .. } => {
                    keys.iter().for_each(|key| self.void_and_drop(Some(number(key)), voids));
                }
                _ => self.void_and_drop(None, voids),
            }
            self.removals.settle(record);
        }
        noted
    }
}

fn key(number: usize) -> Key {
    Key::new(&number.to_string())
}

fn number(key: &Key) -> usize {
    key.as_str().unwrap().parse().unwrap()
}

fn group() -> Arc<str> {
    Arc::from("users")
}

fn name(node: usize) -> NodeName {
    NodeName::from(&format!("n{node}"))
}

#[derive(Debug)]
pub(super) struct Cluster {
    random: u64,
    limits: Limits,
    bug: Option<Bug>,
    now: u64,
    ids: u64,
    nodes: Vec<Option<Node>>,
    lists: Vec<BTreeSet<usize>>,
    connections: BTreeMap<u64, Connection>,
    cut: BTreeSet<(usize, usize)>,
    removals: Vec<Called>,
    /// The gets that wait.
    gets: BTreeMap<u64, Started>,
    counts: Counts,
    /// Who has just applied a removal, and of what.
    eager: Option<(usize, usize)>,
    /// Whether little goes wrong, so that more is under way.
    is_calm: bool,
    /// Whether what happens is written down.
    is_told: bool,
    trace: Vec<String>,
}

impl Cluster {
    pub(super) fn new(seed: u64, size: Size, bug: Option<Bug>, is_told: bool) -> Self {
        let log = LogLimits { records: 3, bytes: 4000, recent: 1 };
        let tombstones = TombstoneLimits { keys: 2, bytes: 4000, groups: 2 };
        let limits = match size {
            Size::Small => Limits::default(),
            Size::Tight => Limits { log, tombstones, origins: 6 },
        };
        let mut cluster = Self {
            random: seed,
            limits,
            bug,
            now: 0,
            ids: 0,
            nodes: Vec::new(),
            lists: Vec::new(),
            connections: BTreeMap::new(),
            cut: BTreeSet::new(),
            removals: Vec::new(),
            gets: BTreeMap::new(),
            counts: Counts::default(),
            eager: None,
            is_calm: false,
            is_told,
            trace: Vec::new(),
        };
        cluster.is_calm = cluster.below(2) == 0;
        let count = 2 + cluster.below(3);
        for node in 0..count {
            let list = (0..count).filter(|_| cluster.below(4) > 0).chain([node]).collect();
            cluster.lists.push(list);
            cluster.nodes.push(None);
        }
        for node in 0..count {
            if cluster.below(5) > 0 {
                cluster.start(node);
            }
        }
        if cluster.is_calm {
            (0..count * count).for_each(|pair| cluster.connect_if_listed(pair / count, pair % count));
        }
        cluster
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts.clone()
    }

    /// A number below `bound`, by the seed (`SplitMix64`).
    fn below(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len())].clone()) }
    }

    fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    fn note(&mut self, event: impl FnOnce() -> String) {
        if self.is_told {
            let event = format!("{:4} {}", self.now, event());
            self.trace.push(event);
        }
    }

    fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].is_some()).collect()
    }

    fn node(&mut self, node: usize) -> &mut Node {
        self.nodes[node].as_mut().expect("it runs")
    }

    /// Whether this end of a connection lives and has not noticed an end of it.
    fn has_end(&self, id: u64, end: usize) -> bool {
        self.connections.get(&id).is_some_and(|connection| {
            let lives = self.nodes[connection.nodes[end]].as_ref().is_some_and(|node| node.me == connection.ends[end]);
            lives && !connection.is_gone[end]
        })
    }

    // ---- what happens

    pub(super) fn run(&mut self, events: usize) -> Result<(), String> {
        for _ in 0..events {
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        self.now += 1;
        // Who has just applied a removal is often asked right away: that is where late copies come from.
        if let Some((node, of)) = self.eager.take().filter(|(node, _)| self.nodes[*node].is_some())
            && self.below(2) == 0
        {
            self.get(node, of)?;
        }
        match self.below(100) {
            0..40 => self.deliver_any()?,
            40..53 => self.get_any()?,
            53..58 => self.remove_any(),
            58..66 => self.land_any()?,
            66..72 => self.evict_any(),
            72..78 => self.connect_any(),
            78..82 => self.hello_any(),
            82..88 => self.deliver_any()?,
            88..90 => self.start_any(),
            90..93 => self.notice_any(),
            _ if self.is_calm && self.below(4) > 0 => self.deliver_any()?,
            93..96 => self.break_any(),
            96..98 => self.kill_any(),
            98 => self.list_any(),
            _ => self.cut_any(),
        }
        self.look_at_receipts();
        Ok(())
    }

    fn start(&mut self, node: usize) {
        self.counts.restarts += 1;
        let incarnation = Incarnation(self.below(1 << 30) as u64);
        let me = Origin::new(name(node), incarnation);
        let mut removals = Removals::new(me.clone(), self.limits);
        let list = self.lists[node].clone();
        removals.list(list.iter().map(|other| name(*other)));
        self.note(|| format!("n{node} starts as {incarnation:?}, lists {list:?}"));
        self.nodes[node] = Some(Node { removals, me, list, store: BTreeMap::new(), flights: BTreeMap::new() });
    }

    fn start_any(&mut self) {
        let down: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].is_none()).collect();
        if let Some(node) = self.pick(&down) {
            self.start(node);
        }
    }

    fn kill_any(&mut self) {
        let Some(node) = self.pick(&self.running()) else { return };
        self.note(|| format!("n{node} is killed"));
        self.nodes[node] = None;
        for called in self.removals.iter_mut().filter(|called| called.by == node && called.is_open()) {
            called.lost = true;
        }
        let of_it: Vec<u64> =
            self.connections.iter().filter(|(_, c)| c.nodes.contains(&node)).map(|(id, _)| *id).collect();
        of_it.into_iter().for_each(|id| self.break_one(id));
    }

    fn list_any(&mut self) {
        let node = self.below(self.nodes.len());
        let list: BTreeSet<usize> = (0..self.nodes.len()).filter(|_| self.below(4) > 0).collect();
        self.set_list(node, list);
    }

    fn set_list(&mut self, node: usize, mut list: BTreeSet<usize>) {
        self.counts.lists += 1;
        list.insert(node);
        self.note(|| format!("n{node} lists {list:?}"));
        self.lists[node].clone_from(&list);
        if let Some(of) = &mut self.nodes[node] {
            of.list.clone_from(&list);
            of.removals.list(list.iter().map(|other| name(*other)));
            let dialled = self.connections.iter().filter(|(_, c)| c.nodes[0] == node && !list.contains(&c.nodes[1]));
            let dialled: Vec<u64> = dialled.map(|(id, _)| *id).collect();
            dialled.into_iter().for_each(|id| self.break_one(id));
        }
    }

    fn cut_any(&mut self) {
        let (a, b) = (self.below(self.nodes.len()), self.below(self.nodes.len()));
        if a != b {
            self.cut_or_mend(a, b);
        }
    }

    fn cut_or_mend(&mut self, a: usize, b: usize) {
        let link = (a.min(b), a.max(b));
        if !self.cut.remove(&link) {
            self.cut.insert(link);
            self.note(|| format!("n{a} and n{b} are cut off from each other"));
            let over = |c: &Connection| c.nodes == [a, b] || c.nodes == [b, a];
            let over: Vec<u64> = self.connections.iter().filter(|(_, c)| over(c)).map(|(id, _)| *id).collect();
            over.into_iter().for_each(|id| self.break_one(id));
        }
    }

    fn break_any(&mut self) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        if let Some(id) = self.pick(&ids) {
            self.break_one(id);
        }
    }

    fn break_one(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| !connection.is_broken) else { return };
        connection.is_broken = true;
        self.counts.breaks += 1;
        // What is in the buffers of an end is still read there, or some of it.
        for end in 0..2 {
            let length = self.connections[&id].queues[end].len();
            let kept = self.below(length + 1);
            self.connections.get_mut(&id).unwrap().queues[end].truncate(kept);
        }
        let nodes = self.connections[&id].nodes;
        self.note(|| format!("connection {id} ({nodes:?}) breaks"));
    }

    fn notice_any(&mut self) {
        let broken: Vec<u64> = self.connections.iter().filter(|(_, c)| c.is_broken).map(|(id, _)| *id).collect();
        let Some(id) = self.pick(&broken) else { return };
        let end = self.below(2);
        self.notice(id, end);
    }

    fn notice(&mut self, id: u64, end: usize) {
        let is_there = self.has_end(id, end);
        let connection = self.connections.get_mut(&id).unwrap();
        connection.is_gone[end] = true;
        let (node, other) = (connection.nodes[end], connection.ends[1 - end].clone());
        let was_counted = std::mem::take(&mut connection.is_counted[end]);
        if connection.is_gone == [true, true] {
            self.connections.remove(&id);
        }
        if !is_there {
            return;
        }
        self.note(|| format!("n{node} notices the end of connection {id}"));
        if was_counted {
            self.node(node).removals.close(&other);
        }
        let flights = &mut self.node(node).flights;
        let failed = flights.extract_if(.., |_, flight| flight.kind == Kind::Fetch { connection: id });
        let failed: Vec<Flight> = failed.map(|(_, flight)| flight).collect();
        for flight in failed {
            for waiter in flight.waiters {
                self.load(node, flight.key, waiter);
            }
        }
    }

    // ---- connections

    fn connect_any(&mut self) {
        let Some(node) = self.pick(&self.running()) else { return };
        let others: Vec<usize> = self.lists[node].iter().copied().filter(|other| *other != node).collect();
        if let Some(other) = self.pick(&others) {
            self.connect(node, other);
        }
    }

    fn connect_if_listed(&mut self, node: usize, other: usize) {
        if node != other && self.nodes[node].is_some() && self.lists[node].contains(&other) {
            self.connect(node, other);
        }
    }

    fn connect(&mut self, node: usize, other: usize) {
        let is_dialled = self.connections.iter().any(|(id, c)| c.nodes == [node, other] && self.has_end(*id, 0));
        let is_cut = self.cut.contains(&(node.min(other), node.max(other)));
        if is_dialled || is_cut || self.nodes[other].is_none() {
            return;
        }
        let ends = [self.node(node).me.clone(), self.node(other).me.clone()];
        let id = self.next_id();
        self.note(|| format!("n{node} dials n{other}: connection {id}"));
        let connection = Connection {
            ends,
            nodes: [node, other],
            queues: Default::default(),
            is_counted: [false, false],
            is_gone: [false, false],
            is_broken: false,
            is_up: false,
            replied: None,
        };
        self.connections.insert(id, connection);
        self.hello(id);
    }

    fn hello_any(&mut self) {
        let ids: Vec<u64> = self.connections.keys().copied().filter(|id| self.has_end(*id, 0)).collect();
        if let Some(id) = self.pick(&ids) {
            self.hello(id);
        }
    }

    fn hello(&mut self, id: u64) {
        let news = self.news(id, 0);
        let node = self.connections[&id].nodes[0];
        let asked = self.node(node).removals.tick();
        self.send(id, 0, Message::Hello(news, asked));
    }

    /// What this end has to tell the other.
    fn news(&mut self, id: u64, end: usize) -> News {
        let (node, peer) = (self.connections[&id].nodes[end], self.connections[&id].ends[1 - end].clone());
        let is_heard = self.connections[&id].is_counted[end];
        let report = self.report(node);
        let removals = &self.node(node).removals;
        let lacking = if is_heard { removals.lacking(&peer, 300) } else { Lacking::Nothing };
        News { report, relays: removals.relays(&peer), lacking }
    }

    fn report(&mut self, node: usize) -> Report {
        let bug = self.bug;
        let mut report = self.node(node).removals.report();
        if bug == Some(Bug::LinksAreNotReported) {
            report.links = Arc::new([]);
        }
        report
    }

    fn send(&mut self, id: u64, from: usize, message: Message) {
        if let Some(connection) = self.connections.get_mut(&id).filter(|connection| !connection.is_broken) {
            connection.queues[1 - from].push_back(message);
        }
    }

    fn deliver_any(&mut self) -> Result<(), String> {
        let ends = self.connections.keys().flat_map(|id| [(*id, 0), (*id, 1)]);
        let ends: Vec<(u64, usize)> =
            ends.filter(|(id, end)| self.has_end(*id, *end) && !self.connections[id].queues[*end].is_empty()).collect();
        let Some((id, end)) = self.pick(&ends) else { return Ok(()) };
        self.deliver(id, end)
    }

    fn deliver(&mut self, id: u64, end: usize) -> Result<(), String> {
        let connection = self.connections.get_mut(&id).unwrap();
        let Some(message) = connection.queues[end].pop_front() else { return Ok(()) };
        let (node, peer) = (connection.nodes[end], connection.ends[1 - end].clone());
        self.note(|| format!("n{node} gets from {:?} on {id}: {}", peer.name, brief(&message)));
        match message {
            Message::Hello(news, asked) => {
                let replied = self.connections[&id].replied;
                self.take_in(id, 1, &news, replied);
                let reply = self.news(id, 1);
                let tick = self.node(node).removals.tick();
                self.connections.get_mut(&id).unwrap().replied = Some(tick);
                self.send(id, 1, Message::HelloReply(reply, asked));
            }
            Message::HelloReply(news, asked) => {
                self.take_in(id, 0, &news, Some(asked));
                let lacks_nothing = self.node(node).removals.lacking(&peer, 300) == Lacking::Nothing;
                if news.lacking == Lacking::Nothing && lacks_nothing {
                    self.connections.get_mut(&id).unwrap().is_up = true;
                } else {
                    self.hello(id);
                }
            }
            Message::Remove(record, known, asked) => {
                let of = match &record.what {
                    What::One { scope: Scope::Keys(keys), .. } => keys.first().map_or(0, number),
                    _ => self.below(KEYS),
                };
                self.eager = Some((node, of));
                let voids = self.bug != Some(Bug::FlightsAreNotVoided);
                if self.node(node).apply(&record, voids) != Noted::Beyond {
                    let version = self.node(node).removals.version();
                    let report = (version != known).then(|| self.report(node));
                    self.send(id, 1, Message::Acknowledged(version, report, record.span.clone(), asked));
                }
            }
            Message::Acknowledged(version, report, span, asked) => {
                let removals = &mut self.node(node).removals;
                report.inspect(|report| removals.heard(report, Some(asked)));
                removals.acknowledged(&peer, version, &span);
            }
            Message::Get(fetch, of, spans) => self.serve(id, fetch, of, &spans),
            Message::Answer(fetch, value) => return self.land(node, fetch, value),
        }
        if self.below(2) == 0 {
            self.drain(node);
        }
        Ok(())
    }

    /// An event is a tenth of a second: what a question carries is remembered for ten.
    fn moment(&self) -> Moment {
        Moment::START + Duration::from_millis(100 * self.now)
    }

    fn drain(&mut self, node: usize) {
        let now = self.moment();
        let (node, mut filled) = (self.node(node), 0);
        node.removals.forget_carried(now);
        node.removals.drain();
        for filler in node.removals.fillers() {
            node.apply(&filler, true);
            filled += 1;
        }
        self.counts.filled += filled;
    }

    /// Takes in what a hello or its reply says.
    fn take_in(&mut self, id: u64, end: usize, news: &News, asked: Option<Tick>) {
        let (node, peer) = (self.connections[&id].nodes[end], self.connections[&id].ends[1 - end].clone());
        let is_new = !std::mem::replace(&mut self.connections.get_mut(&id).unwrap().is_counted[end], true);
        let (bug, mut adopted) = (self.bug, 0);
        let node = self.node(node);
        if is_new {
            node.removals.open(&peer);
        }
        for report in &news.relays {
            node.removals.heard(report, None);
        }
        node.removals.heard(&news.report, asked);
        match &news.lacking {
            Lacking::Nothing => {}
            Lacking::Records(records) => {
                let voids = bug != Some(Bug::FlightsAreNotVoided);
                for record in records {
                    node.apply(record, voids);
                }
            }
            Lacking::BehindReach(reaches) => {
                node.removals.begin_adopting(reaches);
                node.void_and_drop(None, true);
                node.removals.adopt(reaches);
                adopted = 1;
            }
        }
        self.counts.adoptions += adopted;
    }

    // ---- gets

    fn get_any(&mut self) -> Result<(), String> {
        let Some(node) = self.pick(&self.running()) else { return Ok(()) };
        let of = self.below(KEYS);
        self.get(node, of)
    }

    fn get(&mut self, node: usize, of: usize) -> Result<(), String> {
        let id = self.next_id();
        let now = self.now;
        let all = 0..self.removals.len();
        let outside = all.clone().filter(|called| self.is_outside(node, *called)).collect();
        let has_seen =
            |called: &usize| self.nodes[node].as_ref().unwrap().removals.has_seen(&self.removals[*called].span);
        let unseen = all.filter(|called| !has_seen(called)).collect();
        self.gets.insert(id, Started { at: now, outside, unseen });
        if let Some(value) = self.node(node).store.get(&of).cloned() {
            self.note(|| format!("n{node} has k{of} (began {})", value.began));
            return self.judge(node, of, id, &value);
        }
        let members: Vec<usize> = self.lists[node].iter().copied().collect();
        // The owner, or now and then a stand-in.
        let owner = if self.below(3) == 0 { self.pick(&members).unwrap() } else { members[of % members.len()] };
        let asks = |c: &Connection| c.nodes == [node, owner] && c.is_up;
        let over = self.connections.iter().find(|(id, c)| asks(c) && self.has_end(**id, 0)).map(|(id, _)| *id);
        let over = over.filter(|id| {
            let peer = &self.connections[id].ends[1];
            self.nodes[node].as_ref().unwrap().removals.is_level(peer)
        });
        match over {
            Some(connection) => self.fetch(node, of, connection, id),
            None => self.load(node, of, Waiter::Get(id)),
        }
        Ok(())
    }

    fn fetch(&mut self, node: usize, of: usize, connection: u64, get: u64) {
        let is_fetch = |kind| matches!(kind, Kind::Fetch { .. });
        if self.join(node, of, Waiter::Get(get), is_fetch) {
            return;
        }
        let id = self.next_id();
        let peer = self.connections[&connection].ends[1].clone();
        let travels = self.bug != Some(Bug::NothingTravels);
        let node = self.node(node);
        let flight =
            Flight { key: of, kind: Kind::Fetch { connection }, is_voided: false, waiters: vec![Waiter::Get(get)] };
        node.flights.insert(id, flight);
        let spans = node.removals.covering(&group(), &key(of), &peer);
        self.send(connection, 0, Message::Get(id, of, if travels { spans } else { Vec::new() }));
    }

    fn load(&mut self, node: usize, of: usize, waiter: Waiter) {
        if self.join(node, of, waiter, |kind| matches!(kind, Kind::Load { .. })) {
            return;
        }
        let (id, began) = (self.next_id(), self.now);
        let flight = Flight { key: of, kind: Kind::Load { began }, is_voided: false, waiters: vec![waiter] };
        self.node(node).flights.insert(id, flight);
        self.note(|| format!("n{node} begins to load k{of}"));
    }

    fn join(&mut self, node: usize, of: usize, waiter: Waiter, fits: impl Fn(Kind) -> bool) -> bool {
        let mut flights = self.node(node).flights.values_mut();
        let flight = flights.find(|flight| flight.key == of && !flight.is_voided && fits(flight.kind));
        flight.map(|flight| flight.waiters.push(waiter)).is_some()
    }

    fn serve(&mut self, connection: u64, fetch: u64, of: usize, spans: &[Span]) {
        self.counts.carried += u64::from(!spans.is_empty());
        let node = self.connections[&connection].nodes[1];
        let now = self.moment();
        let server = self.node(node);
        if server.removals.carried(&group(), &key(of), spans, now) {
            server.void_and_drop(Some(of), true);
        }
        match server.store.get(&of).cloned() {
            Some(value) => self.answer(node, Waiter::Peer { connection, fetch }, &value),
            None => self.load(node, of, Waiter::Peer { connection, fetch }),
        }
    }

    fn answer(&mut self, node: usize, waiter: Waiter, value: &Value) {
        let Waiter::Peer { connection, fetch } = waiter else { return };
        let excused = (0..self.removals.len()).filter(|called| self.is_outside(node, *called));
        let excused = value.excused.iter().copied().chain(excused).collect();
        if self.has_end(connection, 1) {
            self.send(connection, 1, Message::Answer(fetch, Value { began: value.began, excused }));
        }
    }

    fn land_any(&mut self) -> Result<(), String> {
        let Some(node) = self.pick(&self.running()) else { return Ok(()) };
        let loads = self.node(node).flights.iter().filter(|(_, flight)| matches!(flight.kind, Kind::Load { .. }));
        let loads: Vec<u64> = loads.map(|(id, _)| *id).collect();
        let Some(id) = self.pick(&loads) else { return Ok(()) };
        let Kind::Load { began } = self.node(node).flights[&id].kind else { return Ok(()) };
        self.land(node, id, Value { began, excused: BTreeSet::new() })
    }

    fn land(&mut self, node: usize, id: u64, value: Value) -> Result<(), String> {
        let Some(flight) = self.node(node).flights.remove(&id) else { return Ok(()) };
        let (of, voided) = (flight.key, flight.is_voided);
        self.note(|| format!("n{node} lands k{of} (began {}, voided: {voided})", value.began));
        for waiter in flight.waiters {
            match waiter {
                Waiter::Get(get) => self.judge(node, of, get, &value)?,
                Waiter::Peer { .. } => self.answer(node, waiter, &value),
            }
        }
        if !voided {
            self.node(node).store.insert(of, value);
        }
        Ok(())
    }

    fn evict_any(&mut self) {
        let Some(node) = self.pick(&self.running()) else { return };
        let of = self.below(KEYS);
        self.node(node).store.remove(&of);
    }

    // ---- removals

    fn remove_any(&mut self) {
        let Some(node) = self.pick(&self.running()) else { return };
        let of = self.below(KEYS + 1);
        self.remove(node, (of < KEYS).then_some(of));
    }

    fn remove(&mut self, node: usize, of: Option<usize>) {
        let (now, voids) = (self.now, self.bug != Some(Bug::FlightsAreNotVoided));
        let scope = of.map_or(Scope::Group, |of| Scope::Keys(vec![key(of)]));
        let caller = self.node(node);
        let record = caller.removals.issue(group(), scope);
        caller.apply(&record, voids);
        let span = record.span.clone();
        self.note(|| format!("n{node} removes {of:?} as number {}", span.last));
        let outside = BTreeSet::new();
        self.removals.push(Called { span, by: node, key: of, at: now, complete: None, lost: false, outside });
        self.counts.called += 1;
        let dialled = self.connections.iter().filter(|(id, c)| c.nodes[0] == node && self.has_end(**id, 0));
        let dialled: Vec<u64> = dialled.map(|(id, _)| *id).collect();
        for id in dialled {
            let peer = self.connections[&id].ends[1].clone();
            let removals = &mut self.node(node).removals;
            let (known, asked) = (removals.version_of(&peer), removals.tick());
            self.send(id, 0, Message::Remove(Arc::clone(&record), known, asked));
        }
    }

    fn look_at_receipts(&mut self) {
        for index in 0..self.removals.len() {
            if !self.removals[index].is_open() {
                continue;
            }
            let everybody = self.everybody(self.removals[index].by);
            let outside = (0..self.nodes.len()).filter(|node| !everybody.contains(node));
            self.removals[index].outside.extend(outside);
            let Called { by, span, .. } = self.removals[index].clone();
            let caller = self.nodes[by].as_ref().expect("it would be lost");
            let is_complete = match self.bug {
                Some(Bug::OnlyTheCallersList) => caller
                    .list
                    .iter()
                    .filter(|other| **other != by)
                    .all(|other| !caller.removals.known.pending(&span).contains_key(&name(*other))),
                Some(Bug::AcknowledgementsSurvive) => {
                    let pending = caller.removals.known.pending(&span);
                    pending.values().all(|why| *why == super::super::Why::Restarted)
                }
                _ => caller.removals.is_complete(&span),
            };
            if is_complete {
                self.removals[index].complete = Some(self.now);
                self.counts.completed += 1;
                self.note(|| format!("number {} of n{by} is complete", span.last));
            }
        }
    }

    /// Everybody, as it is: whom `from` lists or has a stream with, and so on.
    fn everybody(&self, from: usize) -> BTreeSet<usize> {
        let (mut everybody, mut to_follow) = (BTreeSet::from([from]), vec![from]);
        while let Some(node) = to_follow.pop() {
            let listed = self.nodes[node].iter().flat_map(|of| of.list.iter().copied());
            let is_linked = |id: u64, c: &Connection, end: usize| {
                c.nodes[end] == node && c.is_counted[end] && self.has_end(id, end)
            };
            let ends = self.connections.iter().flat_map(|(id, c)| [(*id, c, 0), (*id, c, 1)]);
            let linked = ends.filter(|(id, c, end)| is_linked(*id, c, *end)).map(|(_, c, end)| c.nodes[1 - end]);
            for other in listed.chain(linked) {
                if everybody.insert(other) {
                    to_follow.push(other);
                }
            }
        }
        everybody
    }

    fn is_outside(&self, node: usize, called: usize) -> bool {
        let called = &self.removals[called];
        let has_seen = self.nodes[node].as_ref().is_some_and(|node| node.removals.has_seen(&called.span));
        called.outside.contains(&node) && !has_seen
    }

    fn judge(&mut self, node: usize, of: usize, get: u64, value: &Value) -> Result<(), String> {
        let Started { at: started, outside, unseen } = self.gets.remove(&get).expect("each get is answered once");
        self.counts.answers += 1;
        for index in 0..self.removals.len() {
            let called = &self.removals[index];
            if !called.covers(of) || called.complete.is_none_or(|complete| complete >= started) {
                continue;
            }
            // Whoever has seen a removal takes no old copy from those who are excused.
            let is_excused = value.excused.contains(&index) && unseen.contains(&index);
            if is_excused || outside.contains(&index) {
                self.counts.excused += 1;
                continue;
            }
            self.counts.judged += 1;
            if value.began < called.at {
                let called = called.clone();
                let trace = self.trace.join("\n");
                return Err(format!(
                    "n{node} returned k{of} of a load that began at {} to a get of {started}; {called:?}\n{trace}",
                    value.began
                ));
            }
        }
        Ok(())
    }

    // ---- the end

    /// All links are mended, all nodes run and list each other: then everything is complete and drains.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        self.cut.clear();
        let all: BTreeSet<usize> = (0..self.nodes.len()).collect();
        for node in all.clone() {
            if self.nodes[node].is_none() {
                self.start(node);
            }
            self.set_list(node, all.clone());
        }
        for _ in 0..100 {
            self.now += 1;
            let ids: Vec<u64> = self.connections.keys().copied().collect();
            for id in ids {
                for end in 0..2 {
                    if self.connections.get(&id).is_some_and(|c| c.is_broken) {
                        self.notice(id, end);
                    }
                }
            }
            for (node, other) in all.iter().flat_map(|node| all.iter().map(move |other| (*node, *other))) {
                if node != other {
                    self.connect(node, other);
                }
            }
            let ids: Vec<u64> = self.connections.keys().copied().collect();
            for id in ids.into_iter().filter(|id| self.has_end(*id, 0)).collect::<Vec<_>>() {
                self.hello(id);
                while self.connections[&id].queues.iter().any(|queue| !queue.is_empty()) {
                    self.deliver(id, 1)?;
                    self.deliver(id, 0)?;
                }
            }
            for node in all.clone() {
                self.drain(node);
            }
            self.look_at_receipts();
            if self.has_settled().is_ok() {
                break;
            }
        }
        self.has_settled()
    }

    fn has_settled(&self) -> Result<(), String> {
        let open = self.removals.iter().filter(|called| called.is_open()).count();
        let live = self.nodes.iter().flatten().filter(|node| !node.removals.is_quiet()).count();
        let apart = self.connections.values().filter(|c| !c.is_up).count();
        if open + live + apart == 0
            && self.nodes.iter().flatten().all(|node| node.removals.log.len() <= self.limits.log.recent)
        {
            return Ok(());
        }
        let logs: Vec<usize> = self.nodes.iter().flatten().map(|node| node.removals.log.len()).collect();
        let trace = self.trace.last().cloned().unwrap_or_default();
        Err(format!("{open} pending, {live} with tombstones, {apart} not up, logs {logs:?}\n{trace}"))
    }
}

fn brief(message: &Message) -> String {
    match message {
        Message::Hello(news, _) => format!("hello with {}", brief_news(news)),
        Message::HelloReply(news, _) => format!("reply with {}", brief_news(news)),
        Message::Remove(record, ..) => format!("remove {} {:?}", record.span.last, record.what),
        Message::Acknowledged(version, report, span, _) => {
            format!("acknowledged {} at version {version}, report: {}", span.last, report.is_some())
        }
        Message::Get(id, of, spans) => format!("get {id} of k{of} with {} removals", spans.len()),
        Message::Answer(id, value) => format!("answer {id} (began {})", value.began),
    }
}

fn brief_news(news: &News) -> String {
    match &news.lacking {
        Lacking::Nothing => String::from("nothing"),
        Lacking::Records(records) => {
            let spans = records
                .iter()
                .map(|record| format!("{}:{}..={}", record.span.origin.name, record.span.first, record.span.last));
            spans.collect::<Vec<_>>().join(", ")
        }
        Lacking::BehindReach(reaches) => format!("behind {reaches:?}"),
    }
}
