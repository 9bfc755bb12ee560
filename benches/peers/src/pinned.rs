//! One get at a time, both sides on one core: what a single call costs when nobody else is about.
//!
//! In a client process of its own, which pins itself before it starts a thread; on one runtime thread a side.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::contenders::Kind;
use crate::numbers::Summary;
use crate::options::Options;
use crate::remote::{self, Plan};
use crate::report::{Ratio, Report};
use crate::servers;
use crate::table::{Table, micros};

/// The core that both sides share. The first one serves more interrupts than the others.
fn core() -> usize {
    std::thread::available_parallelism().map_or(0, |cores| cores.get() - 1)
}

/// Runs the client process, prints its table and takes down the ratios.
pub fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let (rounds, window) = (options.rounds().to_string(), options.window().as_millis().to_string());
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["pinned-client", &rounds, &window])
        .args(options.kinds.iter().filter(|kind| options.pins(**kind)).map(|kind| kind.name()));
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
    let mut medians = Vec::new();
    for line in lines {
        medians.extend(read(&line?));
    }
    ensure!(child.wait()?.success(), "the pinned client failed");
    tell(&medians, report);
    Ok(())
}

fn tell(medians: &[(Kind, Vec<f64>)], report: &mut Report) {
    let mut table =
        Table::new("one get in flight, 1 KiB, both sides on one core", ["", "p50", "spread", "peerage / it"]);
    let of = |kind: Kind| medians.iter().find(|(of, _)| *of == kind).map_or(&[][..], |(_, rounds)| rounds);
    for (kind, rounds) in medians {
        let ratio = Ratio::of(of(Kind::Peerage), rounds);
        let Some(summary) = Summary::of(rounds.iter().copied()) else { continue };
        table.row([
            kind.name().into(),
            micros(summary.median),
            format!("{:.0} %", summary.spread()),
            ratio.map_or(String::new(), |ratio| format!("{:.2}", ratio.of_medians)),
        ]);
    }
    print!("{table}");
    for kind in [Kind::Unary, Kind::Exchange, Kind::Redis, Kind::Tcp] {
        report.ratio(format!("p50_pinned_vs_{}", kind.name()), Ratio::of(of(Kind::Peerage), of(kind)));
    }
}

/// `peerage 20100 20340`: the medians of the rounds, in nanoseconds.
fn read(line: &str) -> Option<(Kind, Vec<f64>)> {
    let (name, rounds) = line.split_once(' ')?;
    Some((Kind::of(name)?, rounds.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?))
}

/// The client process: `pinned-client <rounds> <window in ms> <contenders>`.
pub fn client(args: &[String]) -> Result<()> {
    let [rounds, window, kinds @ ..] = args else { anyhow::bail!("pinned-client needs its arguments") };
    let core = Some(core());
    let plan = Plan {
        cells: vec![(1 << 10, 1)],
        kinds: kinds.iter().filter_map(|name| Kind::of(name)).collect(),
        rounds: rounds.parse()?,
        window: Duration::from_millis(window.parse()?),
        gap: Duration::ZERO,
        core,
    };
    let cells = servers::runtime(core)?.block_on(remote::measure(&plan))?;
    for (kind, rounds) in cells.iter().flat_map(remote::Cell::p50s) {
        let rounds: Vec<_> = rounds.iter().map(|nanos| format!("{nanos:.0}")).collect();
        println!("{} {}", kind.name(), rounds.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_lines_are_passed_over() {
        assert_eq!(read("tcp 15 16"), Some((Kind::Tcp, vec![15.0, 16.0])));
        assert_eq!(read("redis is not installed: skipped"), None);
    }
}
