//! What happened in a run, in order: loads, removals, the weather. The judge reads it.
//!
//! All of a run is on one thread, so that there is one order of all that happens: a number that counts up. The time is
//! that of the simulation, and many things happen at the same time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use peerage::Token;
use peerage::simulation::{Fault, Trace};

use super::coverage::{Coverage, Met};
use super::judge::Violation;

/// A moment, and its place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) order: u64,
    pub(crate) at: Duration,
}

/// A value that came to be: by a load, or by an insert.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) key: usize,
    pub(crate) node: usize,
    /// Which run of the node.
    pub(crate) run: u64,
    pub(crate) is_insert: bool,
    /// The value is not older than this. An insert's is as new as the end of its call, as the order of inserts is the
    /// owner's; `None` until then.
    pub(crate) began: Option<Stamp>,
    pub(crate) ended: Option<Stamp>,
    /// How long the value may live, from the end of the load.
    pub(crate) life: Duration,
    /// Whether there is a value, or "there is none".
    pub(crate) is_found: bool,
    pub(crate) version: u64,
}

/// A removal, or an insert as what it is to all that was there before.
#[derive(Clone, Debug)]
pub(crate) struct Removal {
    pub(crate) node: usize,
    /// `None`: all.
    pub(crate) keys: Option<Vec<usize>>,
    /// Whether it is the keys of a tag: nodes do not know which these are.
    pub(crate) is_of_tag: bool,
    pub(crate) began: Stamp,
    pub(crate) ended: Option<Stamp>,
    /// When its receipt was there, and the nodes that it says are done: these are held to it although others are not.
    pub(crate) returned: Option<Stamp>,
    pub(crate) done: Vec<usize>,
    pub(crate) is_everywhere: bool,
    /// Nodes that were no part of everybody at its beginning or its end.
    pub(crate) beyond: Vec<usize>,
}

impl Removal {
    pub(crate) fn covers(&self, key: usize) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.contains(&key))
    }
}

/// Everything that is known of a run.
#[derive(Default)]
pub(crate) struct Books {
    now: Stamp,
    pub(crate) trace: Trace,
    pub(crate) loads: Vec<Load>,
    /// The loads that are under way, by their numbers.
    pub(crate) running: Vec<usize>,
    pub(crate) removals: Vec<Removal>,
    /// When each run of each node began.
    pub(crate) starts: BTreeMap<(usize, u64), Stamp>,
    /// Faults, and from when to when each was there.
    pub(crate) weather: Vec<(Fault, Duration, Duration)>,
    pub(crate) violations: Vec<Violation>,
    /// How long a value is served after its life if its source fails.
    pub(crate) grace: Duration,
    /// When tokens were used, for which keys.
    pub(crate) token_gets: Vec<(usize, Stamp)>,
    /// By key: the latest removal whose token is known, and the token.
    pub(crate) tokens: BTreeMap<usize, (usize, Token)>,
    pub(crate) coverage: Coverage,
}

impl Default for Stamp {
    fn default() -> Self {
        Self { order: 0, at: Duration::ZERO }
    }
}

/// The books, as all who write them share them.
#[derive(Clone)]
pub(crate) struct Shared {
    books: Arc<Mutex<Books>>,
    started: tokio::time::Instant,
}

impl Shared {
    /// New books, from now on.
    #[expect(clippy::disallowed_methods, reason = "the time is the simulation's")]
    pub(crate) fn open(keeps_story: bool) -> Self {
        let books = Books { trace: if keeps_story { Trace::keeping() } else { Trace::new() }, ..Books::default() };
        Self { books: Arc::new(Mutex::new(books)), started: tokio::time::Instant::now() }
    }

    /// The books, at the time that it is.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Books> {
        let mut books = self.books.lock().unwrap();
        books.now.at = self.started.elapsed();
        books
    }
}

impl Books {
    /// Now, after everything else.
    pub(crate) fn stamp(&mut self) -> Stamp {
        self.now.order += 1;
        self.now
    }

    pub(crate) fn now(&self) -> Duration {
        self.now.at
    }

    pub(crate) fn note(&mut self, what: std::fmt::Arguments<'_>) {
        let at = self.now.at;
        self.trace.note(format_args!("{:>9.3} ms  {what}", at.as_secs_f64() * 1000.0));
    }

    /// A load begins; its number.
    pub(crate) fn load_begins(&mut self, mut load: Load) -> usize {
        load.began = Some(self.stamp());
        let number = self.loads.len();
        self.coverage.loads += 1;
        self.note(format_args!("  load #{number} of k{} begins on {}", load.key, load.node));
        self.loads.push(load);
        self.judge_load(number);
        self.running.push(number);
        number
    }

    pub(crate) fn load_ends(&mut self, number: usize) {
        let ended = self.stamp();
        self.note(format_args!("  load #{number} ends"));
        self.loads[number].ended = Some(ended);
        self.running.retain(|running| *running != number);
    }

    pub(crate) fn removal_begins(&mut self, node: usize, keys: Option<Vec<usize>>) -> usize {
        let began = self.stamp();
        self.coverage.removals += 1;
        self.note(format_args!("{node}: removal of {keys:?} begins"));
        let (is_of_tag, is_everywhere) = (false, false);
        let (ended, returned, done, beyond) = (None, None, Vec::new(), Vec::new());
        self.removals.push(Removal { node, keys, is_of_tag, began, ended, returned, done, is_everywhere, beyond });
        self.removals.len() - 1
    }

    /// A removal has returned, or its caller is gone.
    pub(crate) fn removal_ends(&mut self, number: usize, is_everywhere: bool) {
        let ended = self.stamp();
        let node = self.removals[number].node;
        self.note(format_args!("{node}: removal is everywhere: {is_everywhere}"));
        let removal = &mut self.removals[number];
        (removal.ended, removal.is_everywhere) = (Some(ended), is_everywhere);
        if is_everywhere {
            self.removal_counts(number, ended);
        }
    }

    /// A removal has returned, and says that these are done.
    pub(crate) fn removal_returns(&mut self, number: usize, done: Vec<usize>) {
        let returned = self.stamp();
        let removal = &mut self.removals[number];
        (removal.returned, removal.done) = (Some(returned), done);
    }

    /// A removal that was pending somewhere when it returned is everywhere by now: from here on it counts.
    pub(crate) fn removal_settles(&mut self, number: usize, beyond: Vec<usize>) {
        let ended = self.stamp();
        let node = self.removals[number].node;
        self.note(format_args!("{node}: removal {number} is everywhere by now"));
        let removal = &mut self.removals[number];
        removal.beyond.extend(beyond);
        (removal.ended, removal.is_everywhere) = (Some(ended), true);
        self.coverage.removals_settled += 1;
        self.removal_counts(number, ended);
    }

    /// Its receipt is there, and with it a token.
    pub(crate) fn removal_has_token(&mut self, number: usize, keys: usize, token: &Token) {
        let removal = &self.removals[number];
        for key in (0..keys).filter(|key| removal.covers(*key)) {
            let known = self.tokens.entry(key).or_insert_with(|| (number, token.clone()));
            if known.0 < number {
                *known = (number, token.clone());
            }
        }
    }

    /// From here on it is held against every get.
    fn removal_counts(&mut self, number: usize, ended: Stamp) {
        self.coverage.removals_checked += 1;
        self.coverage.met += self.met(&self.removals[number], ended);
    }

    /// What a removal met, once each.
    fn met(&self, removal: &Removal, ended: Stamp) -> Met {
        let is_met = |fault: &dyn Fn(&Fault) -> bool, after: Duration| {
            let during = |from: &Duration, to: &Duration| *from <= ended.at && *to + after >= removal.began.at;
            self.weather.iter().any(|(it, from, to)| fault(it) && during(from, to))
        };
        let cuts = |fault: &Fault| matches!(fault, Fault::Cut { .. } | Fault::Silence { .. } | Fault::Loss { .. });
        let restarts = |fault: &Fault| matches!(fault, Fault::Crash { .. } | Fault::Restart { .. });
        let is_flight = |load: &Load| {
            !load.is_insert && removal.covers(load.key) && load.ended.is_none_or(|end| end.order > removal.began.order)
        };
        Met {
            flight: u64::from(self.loads.iter().any(is_flight)),
            cut: u64::from(is_met(&cuts, Duration::ZERO)),
            lists: u64::from(is_met(&|fault| matches!(fault, Fault::List { .. }), Duration::ZERO)),
            restart: u64::from(is_met(&restarts, Duration::from_secs(1))),
            pause: u64::from(is_met(&|fault| matches!(fault, Fault::Pause { .. }), Duration::ZERO)),
        }
    }

    /// Whether the last fault was over so long ago.
    pub(crate) fn was_calm_for(&self, time: Duration) -> bool {
        self.now() >= self.calm_since() + time
    }

    /// When the last fault was over.
    pub(crate) fn calm_since(&self) -> Duration {
        self.weather.iter().map(|(_, _, until)| *until).max().unwrap_or_default()
    }
}
