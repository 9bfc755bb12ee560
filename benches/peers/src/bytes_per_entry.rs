//! What an entry costs: a cache is filled in a process of its own, which counts what it asks the allocator for.
//!
//! Every key is read once before that. The first clone of a `Bytes` makes a block of counts, which stays with the value
//! from then on; who hands out a clone of what is loaded has it at once, and others only when a key is asked for.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::counting;
use crate::hits::caches::{self, Turns};
use crate::options::Options;
use crate::report::Report;
use crate::servers;
use crate::table::Table;

/// Fills every cache, each in its process, two at a time: counts do not mind company.
pub fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let entries = options.entries();
    let title = format!("bytes per entry: keys of 16 B, values of 100 B, {entries} entries");
    let mut table = Table::new(title, ["", "taken", "asked for", "as it says", "says / taken"]);
    for pair in options.weighed().chunks(2) {
        let children = pair.iter().map(|name| start(name, entries)).collect::<Result<Vec<_>>>()?;
        for (name, child) in pair.iter().zip(children) {
            let Weight { taken, asked, says } = finish(child)?;
            let (whole, ratio) = (|bytes: f64| format!("{bytes:.0}"), says.map(|says| says / taken));
            let mut cells = vec![(*name).to_string(), whole(taken), whole(asked)];
            cells.extend(says.map(whole).into_iter().chain(ratio.map(|ratio| format!("{ratio:.3}"))));
            table.row(cells);
            match *name {
                "peerage, an hour" => {
                    report.number("bytes_per_entry", Some(taken));
                    report.number("bytes_per_entry_asked", Some(asked));
                    report.number("bytes_stats_vs_taken", ratio);
                }
                "quick_cache" => report.number("bytes_per_entry_quick_cache", Some(taken)),
                _ => {}
            }
        }
    }
    print!("{table}");
    Ok(())
}

/// Bytes per entry.
struct Weight {
    taken: f64,
    asked: f64,
    says: Option<f64>,
}

fn start(name: &str, entries: u32) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    Ok(command.args(["count", name, &entries.to_string()]).stdout(Stdio::piped()).spawn()?)
}

fn finish(mut child: Child) -> Result<Weight> {
    let mut text = String::new();
    child.stdout.take().context("no standard output")?.read_to_string(&mut text)?;
    ensure!(child.wait()?.success(), "a counting process failed");
    let mut numbers = text.split_whitespace().map(str::parse::<f64>);
    let mut next = || numbers.next().transpose();
    Ok(Weight { taken: next()?.context("no count")?, asked: next()?.context("no count")?, says: next()? })
}

/// The counting process: `count <cache> <entries>`. Prints bytes per entry, and what the cache itself says they are.
pub fn count(args: &[String]) -> Result<()> {
    let [name, entries] = args else { bail!("count needs a cache and a number") };
    let entries = entries.parse()?;
    let runtime = servers::runtime(None)?;
    let keys: Vec<_> = (0..entries).map(caches::key).collect();
    counting::begin();
    let before = counting::live();
    let cache = caches::open(name, entries, runtime.handle())?;
    cache.fill(entries);
    cache.ask(Turns::once(&keys));
    let (held, says) = cache.says();
    // groupcache does not tell; it was given more than enough room.
    let held = if held == 0 { f64::from(entries) } else { held as f64 };
    let live = counting::live();
    println!("{:.1} {:.1}", (live.taken - before.taken) as f64 / held, (live.asked - before.asked) as f64 / held);
    if let Some(says) = says {
        println!("{:.1}", says as f64 / held);
    }
    Ok(())
}
