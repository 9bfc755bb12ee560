//! The cluster: nodes, connections, and what a seed makes of them.
//!
//! What can happen is in a file for each subject: `cluster/weather.rs` (nodes and links come and go), `cluster/talk.rs`
//! (messages), `cluster/gets.rs` and `cluster/calls.rs` (removals). Here is what it all happens to, in which proportion
//! it does, and the end, when everything is mended.

mod calls;
mod gets;
mod talk;
mod weather;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::super::{
    Lacking, Limits, LogLimits, Noted, Origin, Record, Removals, Report, Seen, Span, Tick, TombstoneLimits, What,
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
    /// With what the one had seen who said hello.
    HelloReply(News, Tick, Seen),
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
