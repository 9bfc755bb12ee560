//! Hunts for the run that breaks a promise: any number of seeds, each a cluster through bad weather.
//!
//! ```console
//! $ cargo run --release --example simulate -- --first-seed 1 --seeds 100000 --json   # last line: one JSON object
//! $ cargo run --release --example simulate -- --first-seed 17 --seeds 1 --shrink     # the shortest story of a failure
//! ```
//!
//! It fails if a promise is broken. `--only removed` shows one kind of violation and no other, `--plant NoTombstone`
//! that a mistake of the library's is caught, `--without "lists all"` leaves out the events that say so.

#[path = "../tests/simulation/mod.rs"]
mod harness;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use harness::{Coverage, Outcome, Plan, Planted, Promise, play, play_aloud, shrink};
use peerage::simulation::Bug;
use serde_json::json;

/// How many violations are shown in words.
const SHOWN: usize = 20;
/// With fewer seeds than this, that something was seldom met says nothing.
const ENOUGH_SEEDS: u64 = 100;

struct Options {
    first_seed: u64,
    seeds: u64,
    threads: usize,
    json: bool,
    shrink: bool,
    only: Option<String>,
    without: Vec<String>,
    /// A bug of the library's, to see it caught.
    plant: Option<Planted>,
}

impl Options {
    fn parse() -> Result<Self, lexopt::Error> {
        use lexopt::prelude::{Long, ValueExt};

        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let (first_seed, seeds, only, without, plant) = (1, 1_000, None, Vec::new(), None);
        let mut options = Self { first_seed, seeds, threads, json: false, shrink: false, only, without, plant };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("first-seed") => options.first_seed = arguments.value()?.parse()?,
                Long("seeds") => options.seeds = arguments.value()?.parse()?,
                Long("threads") => options.threads = arguments.value()?.parse()?,
                Long("json") => options.json = true,
                Long("shrink") => options.shrink = true,
                Long("without") => options.without.push(arguments.value()?.string()?),
                Long("plant") => options.plant = Some(bug(&arguments.value()?.string()?)?),
                Long("only") => options.only = Some(arguments.value()?.string()?),
                Long("help") => {
                    println!(
                        "simulate [--first-seed N] [--seeds N] [--threads N] [--json] [--shrink] [--only PROMISE] [--without WORDS] [--plant BUG]"
                    );
                    std::process::exit(0);
                }
                other => return Err(other.unexpected()),
            }
        }
        Ok(options)
    }

    /// The plan of a seed, without the events that are not wanted.
    fn plan(&self, seed: u64) -> Plan {
        let mut plan = Plan::of(seed);
        plan.events.retain(|timed| {
            let words = timed.event.to_string();
            !self.without.iter().any(|unwanted| words.contains(unwanted))
        });
        plan
    }
}

/// The bug of the library's that has this name.
fn bug(name: &str) -> Result<Planted, lexopt::Error> {
    let known = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
    known.map(Planted::Library).ok_or_else(|| format!("the bugs are {:?}", Bug::ALL).into())
}

/// What all threads found together.
#[derive(Default)]
struct Found {
    coverage: Coverage,
    violations: BTreeMap<Promise, u64>,
    failing_seeds: Vec<u64>,
    shown: usize,
}

impl Found {
    fn note(&mut self, seed: u64, outcome: &Outcome, only: Option<&str>) {
        self.coverage += &outcome.coverage;
        for violation in &outcome.violations {
            *self.violations.entry(violation.promise).or_default() += 1;
            let is_asked_for = only.is_none_or(|only| only == kind(violation.promise));
            if is_asked_for && self.shown < SHOWN {
                self.shown += 1;
                println!("seed {seed}: {violation}");
            }
            if is_asked_for && self.failing_seeds.last() != Some(&seed) {
                self.failing_seeds.push(seed);
            }
        }
    }
}

fn kind(promise: Promise) -> String {
    format!("{promise:?}").to_lowercase()
}

fn main() -> Result<(), lexopt::Error> {
    let options = Options::parse()?;
    let (next, end) = (AtomicU64::new(options.first_seed), options.first_seed + options.seeds);
    let found = Mutex::new(Found::default());
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let outcome = play(&options.plan(seed), options.plant);
                    found.lock().expect("no thread panics with it").note(seed, &outcome, options.only.as_deref());
                }
            });
        }
    });
    let found = found.into_inner().expect("no thread panics with it");
    if options.shrink
        && let Some(seed) = found.failing_seeds.iter().min()
    {
        tell_shortest_story(&options.plan(*seed), options.plant, options.only.as_deref());
    }
    let kinds: BTreeMap<String, u64> =
        found.violations.iter().map(|(promise, count)| (kind(*promise), *count)).collect();
    let mut report = found.coverage.json(&json!(found.violations.values().sum::<u64>()));
    report["violations_by_promise"] = json!(kinds);
    report["failing_seeds"] = json!(found.failing_seeds.len());
    if options.json {
        println!("{report}");
    } else {
        println!("{report:#}");
    }
    if options.seeds >= ENOUGH_SEEDS
        && let Err(why) = found.coverage.check()
    {
        eprintln!("the weather was too good: {why}");
        std::process::exit(1);
    }
    std::process::exit(i32::from(!found.violations.is_empty()));
}

/// Shrinks the first failure of a seed, and shows what is left of it.
fn tell_shortest_story(plan: &Plan, planted: Option<Planted>, only: Option<&str>) {
    let is_asked_for = |violation: &&harness::Violation| only.is_none_or(|only| only == kind(violation.promise));
    let Some(first) = play(plan, planted).violations.iter().find(is_asked_for).cloned() else { return };
    let short = shrink(plan, planted, |outcome| outcome.breaks(first.promise));
    println!("\n{short}\n{}\n", play_aloud(&short, planted).story.join("\n"));
}
