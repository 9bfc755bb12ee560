//! Hits in the own process: `Group::get` beside the cache crates.
//!
//! Times are wall time × threads / gets. Everybody is asked for the same keys in the same order, and everything that is
//! asked for is there.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::runtime::Handle;

use crate::numbers::Summary;
use crate::options::Options;
use crate::report::{Ratio, Report};
use crate::table::Table;

pub mod caches;
pub mod zipf;

use caches::{Cache, CacheKey, Turns};

const THREADS: [usize; 3] = [1, 2, 8];

/// One way of asking, with this many threads: nanoseconds per get of each cache and round.
struct Cell {
    name: &'static str,
    threads: usize,
    rounds: Vec<(&'static str, Vec<f64>)>,
}

/// All rounds; prints the table and takes down the ratios.
pub fn measure(options: &Options, runtime: &Handle, report: &mut Report) -> Result<()> {
    let caches = filled(options.caches(), options.entries(), runtime)?;
    let sequences = [("hot", vec![caches::key(7)]), ("zipf", zipf::requests(options.entries()))];
    let mut cells = Vec::new();
    for (name, _) in &sequences {
        for threads in THREADS {
            let rounds = caches.iter().map(|cache| (cache.name(), Vec::new())).collect();
            cells.push(Cell { name, threads, rounds });
        }
    }
    for round in 0..options.rounds() {
        for cell in &mut cells {
            let requests = sequences.iter().find(|(name, _)| *name == cell.name).map_or(&[][..], |(_, keys)| keys);
            for turn in 0..caches.len() {
                let turn = (turn + round) % caches.len();
                let nanos = time(&*caches[turn], requests, cell.threads, options.hits_window());
                cell.rounds[turn].1.push(nanos);
            }
        }
    }
    tell(options.caches(), &cells, report);
    Ok(())
}

/// All caches with all entries; two are filled at a time.
fn filled(names: &[&str], entries: u32, runtime: &Handle) -> Result<Vec<Box<dyn Cache>>> {
    let caches = names.iter().map(|name| caches::open(name, entries, runtime)).collect::<Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        for half in 0..2 {
            let caches = &caches;
            scope.spawn(move || caches.iter().skip(half).step_by(2).for_each(|cache| cache.fill(entries)));
        }
    });
    Ok(caches)
}

/// Nanoseconds per get: wall time × threads / gets.
fn time(cache: &dyn Cache, requests: &[CacheKey], threads: usize, window: Duration) -> f64 {
    let (stop, ready) = (AtomicBool::new(false), Barrier::new(threads + 1));
    let (gets, wall) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (stop, ready) = (&stop, &ready);
                scope.spawn(move || {
                    ready.wait();
                    cache.ask(Turns::until(stop, requests, requests.len() / threads * thread))
                })
            })
            .collect();
        ready.wait();
        let began = Instant::now();
        std::thread::sleep(window);
        stop.store(true, Ordering::Relaxed);
        let wall = began.elapsed();
        let gets: u64 = workers.into_iter().map(|worker| worker.join().unwrap_or(0)).sum();
        (gets, wall)
    });
    wall.as_nanos() as f64 * threads as f64 / gets as f64
}

fn tell(names: &[&str], cells: &[Cell], report: &mut Report) {
    let columns = cells.iter().map(|cell| format!("{} {}", cell.name, cell.threads));
    let title = "hits in the own process, 100 B, ns per get (wall time x threads / gets), by threads; (spread)";
    let mut table = Table::new(title, std::iter::once(String::new()).chain(columns));
    for (index, name) in names.iter().enumerate() {
        let numbers = cells.iter().filter_map(|cell| Summary::of(cell.rounds[index].1.iter().copied()));
        let cells = numbers.map(|summary| format!("{:.0} ({:.0} %)", summary.median, summary.spread()));
        table.row(std::iter::once((*name).to_string()).chain(cells));
    }
    print!("{table}");
    for (ours, what) in [("peerage", "hit"), ("peerage, an hour", "hit_hour")] {
        for theirs in ["quick_cache", "groupcache"] {
            for cell in cells {
                let of = |name| cell.rounds.iter().find(|(of, _)| *of == name).map_or(&[][..], |(_, nanos)| nanos);
                // Throughput over throughput: the inverse of the times.
                let ratio = Ratio::of(of(theirs), of(ours));
                report.ratio(format!("{what}_{}_{}_vs_{theirs}", cell.name, cell.threads), ratio);
            }
        }
    }
}
