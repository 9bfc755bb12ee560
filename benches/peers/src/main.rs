//! Runs the benchmarks; see the README.

use std::time::Instant;

use anyhow::{Context, Result};
use peers::beside::{self, Company};
use peers::contenders::Kind;
use peers::options::{Effort, HELP, Options, Part};
use peers::ratios::taste;
use peers::remote::{self, Plan};
use peers::report::Report;
use peers::{bytes_per_entry, hits, pinned, servers, soak};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (name, rest) = args.split_first().map_or(("", &[][..]), |(name, rest)| (name.as_str(), rest));
    match name {
        // The other processes of a run: this binary again.
        "serve" => serve(rest),
        "pinned-client" => pinned::client(rest),
        "soak-process" => soak::process(rest),
        "count" => bytes_per_entry::count(rest),
        _ => match Options::parse(lexopt::Parser::from_args(&args))? {
            Some(options) => run(&options),
            None => {
                println!("{HELP}");
                Ok(())
            }
        },
    }
}

fn serve(args: &[String]) -> Result<()> {
    let kind = args.first().and_then(|name| Kind::of(name)).context("serve needs a contender")?;
    servers::serve(kind, args.get(1).map(|core| core.parse()).transpose()?)
}

/// What the numbers were measured on.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!("{cores} cores, {}, load {load} before the start", model.trim_start_matches([':', '\t', ' ']))
}

fn run(options: &Options) -> Result<()> {
    let (began, mut report) = (Instant::now(), Report::default());
    let runtime = servers::runtime(None)?;
    println!("{}", machine());
    let wants = |part| options.part == Part::Report || options.part == part;
    if wants(Part::Remote) {
        let plan = Plan {
            cells: options.cells(),
            kinds: options.kinds.clone(),
            rounds: options.rounds(),
            window: options.window(),
            gap: options.gap,
            core: None,
        };
        let cells = runtime.block_on(remote::measure(&plan))?;
        remote::tell(&cells, &mut report);
    }
    if wants(Part::Pinned) {
        pinned::measure(options, &mut report)?;
    }
    if wants(Part::Hits) {
        hits::measure(options, runtime.handle(), &mut report)?;
    }
    if wants(Part::Bytes) {
        bytes_per_entry::measure(options, &mut report)?;
    }
    if wants(Part::Ratios) {
        taste::measure(options, &mut report);
    }
    // What takes long is on request, and part of a look at everything.
    let asks = |part| options.part == part || wants(part) && options.effort != Effort::Quick;
    if asks(Part::Slow) {
        runtime.block_on(beside::measure(Company::SlowLoads, options, &mut report))?;
    }
    if asks(Part::Large) {
        runtime.block_on(beside::measure(Company::LargeValues, options, &mut report))?;
    }
    if options.part == Part::Soak || wants(Part::Soak) && options.effort == Effort::Moment {
        runtime.block_on(soak::measure(options, &mut report))?;
    }
    report.number("seconds", Some(began.elapsed().as_secs_f64()));
    println!("\n{}", report.json());
    Ok(())
}
