//! What will happen in a run: the set-up and the events, all from the seed.
//!
//! Bad weather comes in spells, with calm between them, in which loads are counted strictly: what is promised while the
//! nodes agree and reach each other is judged there. One run in sixteen has one long partition instead, and is judged in
//! its parts.

use std::fmt;
use std::time::Duration;

use peerage::simulation::{Dice, Fault};

use super::stories;
use super::world::SETTLES_WITHIN;

/// A run, as it is to be played.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// The seed of what the library leaves to chance.
    pub(crate) chance: u64,
    pub(crate) setup: Setup,
    /// By their time.
    pub(crate) events: Vec<Timed>,
}

#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) nodes: usize,
    pub(crate) keys: usize,
    pub(crate) capacity: usize,
    pub(crate) hot_share: f64,
    pub(crate) time_to_live: Duration,
    pub(crate) refresh_after: Option<Duration>,
    pub(crate) grace: Duration,
    pub(crate) loads_at_a_time: usize,
    /// Keys to a call of the loader; 1 for a loader of one key.
    pub(crate) keys_per_load: usize,
    /// How long messages take, at most, in milliseconds; each link has a time of its own.
    pub(crate) latency: u64,
    /// The longest padding of a value.
    pub(crate) padding: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Timed {
    pub(crate) at: Duration,
    pub(crate) event: Event,
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    Get {
        node: usize,
        key: usize,
        how: How,
    },
    GetMany {
        node: usize,
        keys: Vec<usize>,
    },
    /// The source changes, and then the keys are removed.
    Remove {
        node: usize,
        keys: Vec<usize>,
    },
    /// The source changes what bears the tag, and then the tag is removed.
    RemoveTag {
        node: usize,
        tag: usize,
    },
    Clear {
        node: usize,
    },
    Insert {
        node: usize,
        key: usize,
    },
    /// The source changes, and nobody is told.
    Change {
        key: usize,
    },
    Mood(Mood, Duration),
    Fault(Fault, Duration),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    Get,
    Opt,
    /// With the entry, and a limit of its own.
    With(Duration),
    Peek,
    /// With the token of the latest removal of the key that has one, wherever that was called.
    Token,
    /// No older than that.
    MaxAge(Duration),
    /// From the node that owns the key.
    Fresh,
}

/// How the source is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mood {
    Slow,
    Failing,
    /// It tells what was so a while ago.
    Lagging(Duration),
}

/// How many tags there are.
pub(super) const TAGS: usize = 2;
const EVENTS: usize = 340;
/// When things go wrong, from and to, in milliseconds. The end leaves time for another calm spell.
pub(super) const SPELLS: [(u64, u64); 2] = [(500, 6_500), (11_500, 15_500)];
/// From when to when a cluster is in parts, where it is for long.
const PARTED: (u64, u64) = (1_500, 13_500);
pub(crate) const END: u64 = 20_500;
/// A value that lives for longer than a run.
const LONG: u64 = 60_000;

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut setup = Setup::roll(&mut dice);
        if seed % 16 == 3 {
            return Self::of_parts(seed, setup, &mut dice);
        }
        let mut events: Vec<Timed> = (0..EVENTS).map(|_| setup.event(&mut dice)).collect();
        // Every other run is of single events alone.
        if seed.is_multiple_of(2) {
            setup.roll_lives(&mut dice);
            let stories = stories::tell(&setup, &mut dice);
            events.extend(stories);
            Setup::ask_for_more(&mut events, &mut dice);
        }
        if seed % 8 == 6 {
            events.extend(stories::tell_of_a_pause(&setup, seed));
        }
        events.sort_by_key(|event| event.at);
        Self { seed, chance: seed, setup, events }
    }
}

impl Plan {
    /// A run in which the cluster is in parts for a long time, and nothing else is wrong with it: each part is a cluster
    /// of its own, and is held to as much.
    fn of_parts(seed: u64, mut setup: Setup, dice: &mut Dice) -> Self {
        setup.nodes = 4 + dice.below(2);
        let (from, to) = PARTED;
        // Less those that are faults.
        let mut events: Vec<Timed> = (0..EVENTS + EVENTS / 8).map(|_| setup.event(dice)).collect();
        events.retain(|timed| !matches!(timed.event, Event::Fault(..)));
        // The first node is in one part, the second in the other.
        let part: Vec<bool> = (0..setup.nodes).map(|node| node == 0 || (node > 1 && dice.chance(0.5))).collect();
        let pairs = (0..setup.nodes).flat_map(|a| (0..a).map(move |b| (a, b)));
        for (a, b) in pairs.filter(|(a, b)| part[*a] != part[*b]) {
            let since = dice.between(from, from + 100);
            let (at, lasting) = (Duration::from_millis(since), Duration::from_millis(to - since));
            events.push(Timed { at, event: Event::Fault(Fault::Cut { from: a, to: b, both_ways: true }, lasting) });
        }
        events.sort_by_key(|event| event.at);
        Self { seed, chance: seed, setup, events }
    }

    /// The same up to the end of the parts, with no removal whose receipt could ever say that it is everywhere.
    pub(crate) fn of_parts_alone(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let setup = Setup::roll(&mut dice);
        let mut plan = Self::of_parts(seed, setup, &mut dice);
        let end = Duration::from_millis(PARTED.1);
        let parted =
            Duration::from_millis(PARTED.0 + 100)..end.saturating_sub(SETTLES_WITHIN + Duration::from_millis(500));
        plan.events.retain(|Timed { at, event }| match event {
            Event::Remove { .. } | Event::RemoveTag { .. } | Event::Clear { .. } | Event::Insert { .. } => {
                parted.contains(at)
            }
            _ => *at < end,
        });
        plan
    }

    /// A run in which a node that has applied a removal is started anew before all have, and nothing else happens: the
    /// rest of a usual run soon takes out what is old, whoever has it.
    pub(crate) fn of_a_start(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let (capacity, time_to_live) = (256 << 10, Duration::from_millis(LONG));
        let setup = Setup { capacity, time_to_live, hot_share: 0.5, ..Setup::roll(&mut dice) };
        let mut events = stories::tell_of_a_start(&setup, &mut dice);
        events.sort_by_key(|event| event.at);
        Self { seed, chance: seed, setup, events }
    }
}

impl Setup {
    fn roll(dice: &mut Dice) -> Self {
        Self {
            nodes: 3 + dice.below(3),
            keys: 3 + dice.below(6),
            capacity: if dice.chance(0.25) { 4 << 10 } else { 256 << 10 },
            hot_share: if dice.chance(0.2) { 0.0 } else { 0.5 },
            time_to_live: Duration::from_millis(if dice.chance(0.3) { dice.between(500, 4_000) } else { LONG }),
            refresh_after: None,
            grace: Duration::ZERO,
            loads_at_a_time: 1 + dice.below(4),
            keys_per_load: if dice.chance(0.25) { 4 } else { 1 },
            latency: if dice.chance(0.5) { 0 } else { dice.between(1, 40) },
            padding: if dice.chance(0.5) { 0 } else { 2_000 },
        }
    }

    /// Values that are refreshed, and that are served for a while if their source fails.
    fn roll_lives(&mut self, dice: &mut Dice) {
        if dice.chance(0.2) {
            // What is over early, and served after that, with loads that wait for each other.
            self.time_to_live = Duration::from_millis(dice.between(500, 1_500));
            self.grace = Duration::from_millis(dice.between(1_500, 3_000));
            self.loads_at_a_time = 1;
            return;
        }
        if dice.chance(0.4) {
            let longest = u64::try_from(self.time_to_live.as_millis()).unwrap_or(LONG).min(3_000);
            let soft = Duration::from_millis(dice.between(100, longest));
            self.refresh_after = Some(soft).filter(|soft| *soft < self.time_to_live);
        }
        if dice.chance(0.5) {
            self.grace = Duration::from_millis(dice.between(200, 3_000));
        }
    }

    /// Some gets wish for more than a value.
    fn ask_for_more(events: &mut [Timed], dice: &mut Dice) {
        for Timed { event, .. } in events {
            if let Event::Get { how: how @ How::Get, .. } = event {
                *how = match dice.below(20) {
                    0 | 1 => How::Token,
                    2 => How::MaxAge(Duration::from_millis(dice.between(0, 1_500))),
                    3 => How::Fresh,
                    _ => continue,
                };
            }
        }
    }

    /// Whether values are over soon, and served for a while if their source fails.
    pub(super) fn has_short_lives(&self) -> bool {
        self.time_to_live < Duration::from_millis(LONG) && !self.grace.is_zero()
    }

    /// Every key on every node.
    pub(crate) fn places(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let keys = self.keys;
        (0..self.nodes).flat_map(move |node| (0..keys).map(move |key| (node, key)))
    }

    fn event(&self, dice: &mut Dice) -> Timed {
        let kind = dice.below(100);
        if kind < 8 {
            let (from, to) = SPELLS[dice.below(SPELLS.len())];
            let at = dice.between(from, to - 50);
            let lasting = Duration::from_millis(lasting(dice).min(to - at));
            return Timed { at: Duration::from_millis(at), event: Event::Fault(self.fault(dice), lasting) };
        }
        // Callers come in bursts, too.
        let at = dice.between(0, END);
        let at = Duration::from_millis(if dice.chance(0.4) { at - at % 500 } else { at });
        let (node, key) = (dice.below(self.nodes), dice.below(self.keys));
        let event = match kind {
            8..34 => Event::Get { node, key, how: How::Get },
            34..42 => Event::Get { node, key, how: How::Opt },
            42..50 => Event::Get { node, key, how: How::With(Duration::from_millis(dice.between(20, 1_500))) },
            50..58 => Event::Get { node, key, how: How::Peek },
            58..66 => Event::GetMany { node, keys: self.some_keys(dice) },
            66..82 => Event::Remove { node, keys: vec![key] },
            82..86 => Event::Remove { node, keys: self.some_keys(dice) },
            86..88 => Event::RemoveTag { node, tag: dice.below(TAGS) },
            88..90 => Event::Clear { node },
            90..94 => Event::Insert { node, key },
            94..96 => Event::Change { key },
            _ => Event::Mood(mood(dice), Duration::from_millis(dice.between(100, 1_500))),
        };
        Timed { at, event }
    }

    /// Some of them twice.
    fn some_keys(&self, dice: &mut Dice) -> Vec<usize> {
        (0..2 + dice.below(4)).map(|_| dice.below(self.keys)).collect()
    }

    fn fault(&self, dice: &mut Dice) -> Fault {
        let node = dice.below(self.nodes);
        let other = (node + 1 + dice.below(self.nodes - 1)) % self.nodes;
        let both_ways = dice.chance(0.5);
        match dice.below(100) {
            0..18 => Fault::Cut { from: node, to: other, both_ways },
            18..32 => Fault::Silence { from: node, to: other, both_ways },
            32..42 => Fault::Delay { a: node, b: other, delay: Duration::from_millis(dice.between(1, 400)) },
            42..50 => {
                Fault::Loss { a: node, b: other, percent: [2, 5, 10, 25, 50][dice.below(5)], seed: dice.number() }
            }
            50..58 => Fault::Reset { a: node, b: other },
            58..66 => Fault::Pause { node },
            66..76 => Fault::Crash { node },
            76..82 => Fault::Restart { node, limit: Duration::from_millis(dice.between(0, 500)) },
            82..90 => Fault::List { node, without: vec![other] },
            _ => Fault::List { node, without: (0..self.nodes).filter(|_| dice.chance(0.5)).collect() },
        }
    }
}

/// The tags of whatever a key has: of four keys one has none, two have one, and one has both.
pub(crate) fn tags_of(key: usize) -> impl Iterator<Item = usize> {
    (0..TAGS).filter(move |tag| key >> tag & 1 == 1)
}

/// Most faults are short; some are long enough for silence to be noticed.
fn lasting(dice: &mut Dice) -> u64 {
    match dice.below(10) {
        0..4 => dice.between(1, 100),
        4..8 => dice.between(100, 800),
        _ => dice.between(800, 3_500),
    }
}

fn mood(dice: &mut Dice) -> Mood {
    match dice.below(3) {
        0 => Mood::Slow,
        1 => Mood::Failing,
        _ => Mood::Lagging(Duration::from_millis(dice.between(20, 500))),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {:?}", self.seed, self.setup)?;
        self.events.iter().try_for_each(|Timed { at, event }| writeln!(f, "{:>7} ms  {event}", at.as_millis()))
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get { node, key, how } => write!(f, "{node}: {how:?} k{key}"),
            Self::GetMany { node, keys } => write!(f, "{node}: get_many {keys:?}"),
            Self::Remove { node, keys } => write!(f, "{node}: remove {keys:?}"),
            Self::RemoveTag { node, tag } => write!(f, "{node}: remove the tag t{tag}"),
            Self::Clear { node } => write!(f, "{node}: clear"),
            Self::Insert { node, key } => write!(f, "{node}: insert k{key}"),
            Self::Change { key } => write!(f, "source: k{key} changes"),
            Self::Mood(mood, lasting) => write!(f, "source: {mood:?} for {lasting:?}"),
            Self::Fault(fault, lasting) => write!(f, "{fault} for {lasting:?}"),
        }
    }
}
