//! A taste of the hit ratios, for the report: two traces of the many that the `traces` binary has.

use super::caches::{ALL, Make, Room};
use super::{Request, optimum, run, traces};
use crate::options::{Effort, Options};
use crate::report::Report;
use crate::table::Table;

const SEED: u64 = 1;

/// Room for so many entries of equal size.
const ROOM: usize = 10_000;

/// Takes all caches through a Zipf trace and a loop, and tells how often each had what it was asked for.
pub fn measure(options: &Options, report: &mut Report) {
    let requests = match options.effort {
        Effort::Full => 4_000_000,
        Effort::Quick => 600_000,
        Effort::Moment => 20_000,
    };
    let columns = ALL.iter().map(|(name, _)| *name).chain(["optimum"]);
    let title = format!("hits, % after the first quarter, room for {ROOM}; `--bin traces` has more");
    let mut table = Table::new(title, std::iter::once("").chain(columns));
    let zipf = traces::zipf(0.9, requests, SEED);
    let looping = traces::looping(u32::try_from(ROOM * 12 / 10).unwrap_or(u32::MAX), requests);
    for (name, field, trace) in [("Zipf 0.9", "zipf", &zipf), ("a loop over 1.2 times that", "loop", &looping)] {
        let hits: Vec<f64> = ALL.iter().map(|(_, make)| hits_of(*make, trace)).collect();
        let best = optimum::belady(trace, ROOM).by_count;
        report.number(format!("hit_ratio_{field}"), hits.first().copied());
        report.number(format!("hit_ratio_{field}_best_other"), hits.iter().skip(1).copied().reduce(f64::max));
        let cells = hits.into_iter().chain([best]).map(|share| format!("{:.1}", 100.0 * share));
        table.row(std::iter::once(String::from(name)).chain(cells));
    }
    println!("{table}");
}

fn hits_of(make: Make, trace: &[Request]) -> f64 {
    run(&mut *make(Room { size: ROOM, entries: ROOM }), trace).by_count
}
