//! What became of the requests, counted. Each worker counts for itself; the counts are added up at the end.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::fleet::NODES;
use crate::way::Way;

/// How many complaints are kept to be shown.
const COMPLAINTS: usize = 5;

/// The parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    BeforeKill,
    Down,
    AfterReturn,
}

impl Phase {
    pub(crate) const ALL: [Self; 3] = [Self::BeforeKill, Self::Down, Self::AfterReturn];
}

/// How one request ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The answer was right.
    Right(Way),
    /// The answer was not what the database says.
    Wrong(String),
    /// There was no answer, or an error.
    Failed(String),
}

/// Requests that ended in one phase.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct PhaseCounts {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) wrong: u64,
    pub(crate) resent: u64,
}

#[derive(Debug)]
pub(crate) struct Tally {
    phases: [PhaseCounts; Phase::ALL.len()],
    /// Right answers of each node, by way.
    nodes: [[u64; Way::ALL.len()]; NODES],
    /// Microseconds until the right answer, by way.
    latencies: [Histogram<u64>; Way::ALL.len()],
    complaints: Vec<String>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            phases: Default::default(),
            nodes: Default::default(),
            latencies: Way::ALL.map(|_| histogram()),
            complaints: vec![],
        }
    }
}

/// Up to a minute, in microseconds, to three digits.
fn histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new_with_max(60_000_000, 3).expect("these bounds are within the crate's");
    histogram.auto(false);
    histogram
}

impl Tally {
    /// Counts a request that ended in `phase`, at `node`, after it was sent again `resent` times.
    pub(crate) fn count(&mut self, phase: Phase, node: usize, resent: u64, took: Duration, outcome: Outcome) {
        let counts = &mut self.phases[phase as usize];
        counts.requests += 1;
        counts.resent += resent;
        match outcome {
            Outcome::Right(way) => {
                self.nodes[node][way as usize] += 1;
                self.latencies[way as usize].saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
            Outcome::Wrong(complaint) => {
                counts.wrong += 1;
                self.complain(complaint);
            }
            Outcome::Failed(complaint) => {
                counts.failed += 1;
                self.complain(complaint);
            }
        }
    }

    fn complain(&mut self, complaint: String) {
        if self.complaints.len() < COMPLAINTS {
            self.complaints.push(complaint);
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        for (mine, theirs) in self.phases.iter_mut().zip(other.phases) {
            mine.requests += theirs.requests;
            mine.failed += theirs.failed;
            mine.wrong += theirs.wrong;
            mine.resent += theirs.resent;
        }
        for (mine, theirs) in self.nodes.iter_mut().flatten().zip(other.nodes.into_iter().flatten()) {
            *mine += theirs;
        }
        for (mine, theirs) in self.latencies.iter_mut().zip(other.latencies) {
            *mine += theirs;
        }
        other.complaints.into_iter().for_each(|complaint| self.complain(complaint));
    }

    pub(crate) fn phase(&self, phase: Phase) -> PhaseCounts {
        self.phases[phase as usize]
    }

    /// How many right answers `node` gave in one of these ways.
    pub(crate) fn answered_by(&self, node: usize, ways: &[Way]) -> u64 {
        ways.iter().map(|&way| self.nodes[node][way as usize]).sum()
    }

    /// How many right answers came in one of these ways.
    pub(crate) fn answered(&self, ways: &[Way]) -> u64 {
        (0..NODES).map(|node| self.answered_by(node, ways)).sum()
    }

    /// How long right answers took that came in one of these ways.
    pub(crate) fn latency(&self, ways: &[Way]) -> Histogram<u64> {
        ways.iter().fold(histogram(), |sum, &way| sum + &self.latencies[way as usize])
    }

    /// What the first few requests that failed or were answered wrongly ran into.
    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }
}
