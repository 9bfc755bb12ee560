//! What a run tells, in numbers. As JSON it is for programs; `tables.rs` makes it readable for people.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::driver::VICTIM;
use crate::fleet::Fleet;
use crate::journal::Queries;
use crate::options::Options;
use crate::tally::{Phase, PhaseCounts, Tally};
use crate::way::Way;

/// A moment between two phases: when it was, and what the database had been asked by then.
#[derive(Debug)]
pub(crate) struct Mark {
    at: Instant,
    queries: Queries,
}

impl Mark {
    pub(crate) fn now(fleet: &Fleet) -> Result<Self> {
        Ok(Self { at: Instant::now(), queries: Queries::read(&fleet.journals())? })
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) wrong: u64,
    /// Requests that the killed process left unanswered, and that were sent to another service.
    pub(crate) resent: u64,
    pub(crate) from_own_cache: u64,
    /// Those among `from_own_cache` that were copies of another node's entries.
    pub(crate) from_hot_copy: u64,
    pub(crate) from_peer: u64,
    pub(crate) from_database: u64,
    /// Requests for keys that do not exist.
    pub(crate) not_found: u64,
    pub(crate) distinct_keys: usize,
    pub(crate) database_queries: u64,
    pub(crate) queries_per_distinct_key: f64,
    /// Queries beyond the first for each key, from the kill to the end.
    pub(crate) queries_around_kill: u64,
    pub(crate) seconds: f64,
    pub(crate) requests_per_second: f64,
    #[serde(flatten)]
    pub(crate) options: Options,
    pub(crate) ways: Vec<WayReport>,
    pub(crate) nodes: Vec<NodeReport>,
    pub(crate) phases: Vec<PhaseReport>,
    /// What the first few failures and wrong answers were.
    pub(crate) complaints: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct WayReport {
    pub(crate) way: &'static str,
    pub(crate) requests: u64,
    pub(crate) share: f64,
    pub(crate) latency_us: Latency,
}

/// Microseconds until the driver had the answer, with HTTP on the way.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct NodeReport {
    pub(crate) node: usize,
    pub(crate) address: SocketAddr,
    pub(crate) requests: u64,
    pub(crate) from_own_cache: u64,
    pub(crate) from_peer: u64,
    pub(crate) from_database: u64,
    pub(crate) not_found: u64,
    pub(crate) database_queries: usize,
    /// Its share of the keys that were asked for before the kill: of those, it asked the database.
    pub(crate) share_of_keys: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct PhaseReport {
    pub(crate) phase: String,
    pub(crate) seconds: f64,
    #[serde(flatten)]
    pub(crate) counts: PhaseCounts,
    pub(crate) database_queries: u64,
    /// Queries for keys that nobody had asked for before.
    pub(crate) first_queries: u64,
    pub(crate) extra_queries: u64,
}

const OWN_CACHE: &[Way] = &[Way::Main, Way::Hot];

/// The rows of the first table: their name for programs, their name for people, the ways that count.
pub(crate) const ROWS: [(&str, &str, &[Way]); 6] = [
    ("own_cache", "own cache", OWN_CACHE),
    ("hot_copy", "  of these, hot copies", &[Way::Hot]),
    ("peer", "a peer", &[Way::Peer]),
    ("database", "the database", &[Way::Loader]),
    ("not_found", "there is no such airport", &[Way::Absent]),
    ("all", "all", &Way::ALL),
];

impl Report {
    /// `marks` are the start, the kill, the return and the end.
    pub(crate) fn new(
        options: Options,
        distinct_keys: usize,
        services: &[SocketAddr],
        tally: &Tally,
        marks: &[Mark],
    ) -> Self {
        let phases = phase_reports(tally, marks);
        let total = |count: fn(&PhaseReport) -> u64| phases.iter().map(count).sum::<u64>();
        let requests = total(|phase| phase.counts.requests);
        let database_queries = total(|phase| phase.database_queries);
        let seconds = phases.iter().map(|phase| phase.seconds).sum();
        Self {
            requests,
            failed: total(|phase| phase.counts.failed),
            wrong: total(|phase| phase.counts.wrong),
            resent: total(|phase| phase.counts.resent),
            from_own_cache: tally.answered(OWN_CACHE),
            from_hot_copy: tally.answered(&[Way::Hot]),
            from_peer: tally.answered(&[Way::Peer]),
            from_database: tally.answered(&[Way::Loader]),
            not_found: tally.answered(&[Way::Absent]),
            distinct_keys,
            database_queries,
            queries_per_distinct_key: ratio(database_queries, distinct_keys as u64),
            queries_around_kill: phases[Phase::Down as usize..].iter().map(|phase| phase.extra_queries).sum(),
            seconds,
            requests_per_second: requests as f64 / seconds,
            options,
            ways: ROWS.iter().map(|(way, _, ways)| WayReport::new(way, ways, tally)).collect(),
            nodes: (1..)
                .zip(services)
                .map(|(number, &service)| NodeReport::new(number, service, tally, marks))
                .collect(),
            phases,
            complaints: tally.complaints().to_vec(),
        }
    }

    /// Adds something that went wrong besides the requests.
    pub(crate) fn complain(&mut self, complaint: String) {
        self.complaints.push(complaint);
    }

    /// Whether each request was answered, and rightly, and nothing else went wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.failed == 0 && self.wrong == 0 && self.complaints.is_empty()
    }
}

impl WayReport {
    fn new(way: &'static str, ways: &[Way], tally: &Tally) -> Self {
        let requests = tally.answered(ways);
        Self {
            way,
            requests,
            share: ratio(requests, tally.answered(&Way::ALL)),
            latency_us: Latency::new(&tally.latency(ways)),
        }
    }
}

impl Latency {
    fn new(histogram: &Histogram<u64>) -> Self {
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|quantile| histogram.value_at_quantile(quantile));
        Self { p50, p90, p99, max: histogram.max() }
    }
}

impl NodeReport {
    fn new(number: usize, address: SocketAddr, tally: &Tally, marks: &[Mark]) -> Self {
        let node = number - 1;
        let asked = |mark: usize| marks[mark].queries.of_node(node).len();
        let asked_by_all = marks[1].queries.since(&marks[0].queries).count();
        Self {
            node: number,
            address,
            requests: tally.answered_by(node, &Way::ALL),
            from_own_cache: tally.answered_by(node, OWN_CACHE),
            from_peer: tally.answered_by(node, &[Way::Peer]),
            from_database: tally.answered_by(node, &[Way::Loader]),
            not_found: tally.answered_by(node, &[Way::Absent]),
            database_queries: asked(marks.len() - 1),
            share_of_keys: ratio(asked(1) as u64, asked_by_all as u64),
        }
    }
}

fn phase_reports(tally: &Tally, marks: &[Mark]) -> Vec<PhaseReport> {
    let mut known = HashSet::new();
    let report = |(phase, between): (Phase, &[Mark])| {
        let queries: Vec<_> = between[1].queries.since(&between[0].queries).collect();
        let first = queries.iter().filter(|&&key| known.insert(key.to_owned())).count();
        PhaseReport {
            phase: phase_name(phase),
            seconds: (between[1].at - between[0].at).as_secs_f64(),
            counts: tally.phase(phase),
            database_queries: queries.len() as u64,
            first_queries: first as u64,
            extra_queries: (queries.len() - first) as u64,
        }
    };
    Phase::ALL.into_iter().zip(marks.windows(2)).map(report).collect()
}

fn phase_name(phase: Phase) -> String {
    let node = VICTIM + 1;
    match phase {
        Phase::BeforeKill => "before the kill".into(),
        Phase::Down => format!("while node {node} was down"),
        Phase::AfterReturn => format!("after node {node} came back"),
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
