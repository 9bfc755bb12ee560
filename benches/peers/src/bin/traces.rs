//! Hit ratios of peerage, other caches, plain LRU and the offline optimum, on traces that are made up and on one that
//! is given.
//!
//! `cargo run --release --bin traces -- [--requests N] [--room SIZE] [--caches a,b] [FILE]`
//!
//! A file has a key in each line, and its size after a blank if there is one; `--room` is what the caches may hold of
//! it, a tenth of all its keys if it is not given.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;

use anyhow::{Result, bail};
use lexopt::prelude::*;
use peers::ratios::caches::{ALL, Make, Room};
use peers::ratios::{Ratio, Request, optimum, run, traces};

const SEED: u64 = 1;

/// With room for fewer entries, how a cache cuts its room into shards says more than its policy.
const LEAST: usize = 100;

struct Options {
    requests: usize,
    room: Option<usize>,
    caches: Vec<(&'static str, Make)>,
    file: Option<String>,
}

impl Options {
    fn parse() -> Result<Self> {
        let mut options = Self { requests: 8_000_000, room: None, caches: ALL.to_vec(), file: None };
        let mut args = lexopt::Parser::from_env();
        while let Some(arg) = args.next()? {
            match arg {
                Long("requests") => options.requests = args.value()?.parse()?,
                Long("room") => options.room = Some(args.value()?.parse()?),
                Long("caches") => {
                    let names = args.value()?.string()?;
                    options.caches.retain(|(name, _)| names.split(',').any(|wanted| wanted == *name));
                    if options.caches.is_empty() {
                        bail!("caches are {}", ALL.map(|(name, _)| name).join(","));
                    }
                }
                Value(file) => options.file = Some(file.string()?),
                other => bail!(other.unexpected()),
            }
        }
        Ok(options)
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

fn print_row(name: &str, cells: impl IntoIterator<Item = String>) {
    println!("| {name} | {} |", cells.into_iter().collect::<Vec<_>>().join(" | "));
}

fn print_head(options: &Options, what: &str, best: &str) {
    let names: Vec<_> = options.caches.iter().map(|(name, _)| String::from(*name)).collect();
    print_row(what, names.iter().cloned().chain([String::from(best)]));
    print_row("---", names.iter().map(|_| String::from("---")).chain([String::from("---")]));
}

/// Equal sizes: one row for each room.
fn print_equal(options: &Options, name: &str, trace: &[Request], rooms: &[usize]) {
    for room in rooms {
        let of = |make: &Make| run(&mut *make(Room { size: *room, entries: *room }), trace).by_count;
        let best = optimum::belady(trace, *room).by_count;
        let cells = options.caches.iter().map(|(_, make)| percent(of(make)));
        print_row(&format!("{name}, room for {room}"), cells.chain([percent(best)]));
    }
}

/// Sizes that differ: hits by count, and by byte.
fn print_sized(options: &Options, name: &str, trace: &[Request], room: Room) {
    let ratios: Vec<Ratio> = options.caches.iter().map(|(_, make)| run(&mut *make(room), trace)).collect();
    let bound = optimum::bound(trace, room.size);
    let row = |what: &str, share: fn(&Ratio) -> f64| {
        let cells = ratios.iter().chain([&bound]).map(|ratio| percent(share(ratio)));
        print_row(&format!("{name}, room for {} bytes, {what}", room.size), cells);
    };
    row("by count", |ratio| ratio.by_count);
    row("by byte", |ratio| ratio.by_byte);
}

/// The sizes of all keys of a trace.
fn sizes(trace: &[Request]) -> HashMap<u32, u32> {
    trace.iter().map(|request| (request.key, request.size)).collect()
}

fn print_file(options: &Options, file: &str) -> Result<()> {
    let trace = traces::read(BufReader::new(File::open(file)?))?;
    let sizes = sizes(&trace);
    let all: usize = sizes.values().map(|size| *size as usize).sum();
    let size = options.room.unwrap_or((all / 10).max(1));
    let entries = size * sizes.len() / all.max(1);
    if entries < LEAST {
        bail!("{entries} of {} keys fit: ask for more with --room, of {all} in all", sizes.len());
    }
    if sizes.values().all(|size| *size == 1) {
        print_head(options, "hits, %", "optimum");
        print_equal(options, file, &trace, &[size]);
    } else {
        print_head(options, "hits, %", "bound");
        print_sized(options, file, &trace, Room { size, entries });
    }
    Ok(())
}

fn print_all(options: &Options) {
    const ROOMS: [usize; 2] = [10_000, 100_000];
    let requests = options.requests;
    print_head(options, "hits, % after the first quarter", "optimum");
    for exponent in [0.7, 0.9, 1.1] {
        print_equal(options, &format!("Zipf {exponent}"), &traces::zipf(exponent, requests, SEED), &ROOMS);
    }
    print_equal(options, "Zipf 0.9 with scans", &traces::polluted(0.9, requests, SEED), &ROOMS);
    print_equal(options, "Zipf 0.9, drifting", &traces::drifting(0.9, requests, SEED), &ROOMS);
    print_equal(options, "a loop over 120000", &traces::looping(120_000, requests), &[100_000]);
    println!();
    print_head(options, "log-normal sizes, Zipf 0.9", "bound");
    let trace = traces::sized(0.9, requests, SEED);
    let sizes = sizes(&trace);
    let mean = sizes.values().map(|size| *size as usize).sum::<usize>() / sizes.len();
    for entries in ROOMS {
        print_sized(options, "sized", &trace, Room { size: entries * mean, entries });
    }
}

fn main() -> Result<()> {
    let options = Options::parse()?;
    if let Some(file) = &options.file {
        return print_file(&options, file);
    }
    print_all(&options);
    Ok(())
}
