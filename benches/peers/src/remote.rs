//! Remote gets: every contender in turn, at each number in flight and each size, round after round.

use std::time::Duration;

use anyhow::Result;

use crate::contenders::{Contender, Kind};
use crate::load::{Load, Measured};
use crate::numbers::{Summary, percentile};
use crate::report::{Ratio, Report};
use crate::table::{Table, bytes, micros, thousands};

/// How much to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Sizes of values, and numbers in flight, of each table.
    pub cells: Vec<(usize, usize)>,
    /// Who takes part.
    pub kinds: Vec<Kind>,
    /// How many rounds.
    pub rounds: usize,
    /// How long each measurement counts.
    pub window: Duration,
    /// How long each task rests after a get.
    pub gap: Duration,
    /// The core that both sides share, if they do.
    pub core: Option<usize>,
}

/// The rounds of all contenders in one cell.
#[derive(Debug)]
pub struct Cell {
    /// Bytes of each value.
    pub size: usize,
    /// Gets under way.
    pub in_flight: usize,
    rounds: Vec<(Kind, Vec<Measured>)>,
}

impl Cell {
    fn numbers(&self, kind: Kind, number: impl Fn(&Measured) -> f64) -> Vec<f64> {
        let rounds = self.rounds.iter().find(|(of, _)| *of == kind).map(|(_, rounds)| rounds);
        rounds.into_iter().flatten().map(number).collect()
    }

    fn ratio(&self, ours: Kind, theirs: Kind, number: impl Fn(&Measured) -> f64 + Copy) -> Option<Ratio> {
        Ratio::of(&self.numbers(ours, number), &self.numbers(theirs, number))
    }

    /// The median of each round, in nanoseconds.
    pub fn p50s(&self) -> impl Iterator<Item = (Kind, Vec<f64>)> {
        self.rounds.iter().map(|(kind, _)| (*kind, self.numbers(*kind, p50)))
    }

    fn summary(&self, kind: Kind, number: impl Fn(&Measured) -> f64) -> Option<Summary> {
        Summary::of(self.numbers(kind, number))
    }

    /// Gets a second, and the two percentiles.
    fn brief(&self, kind: Kind) -> Option<String> {
        let of = |number: fn(&Measured) -> f64| self.summary(kind, number).map(|summary| summary.median);
        let (rate, p50, p99) = (of(Measured::rate)?, of(p50)?, of(p99)?);
        Some(format!("{} ({:.0} / {:.0})", thousands(rate), p50 / 1_000.0, p99 / 1_000.0))
    }

    fn table(&self) -> Table {
        let title = format!("remote gets, {} B, {} in flight", self.size, self.in_flight);
        let columns = ["", "gets/s", "spread", "p50", "p99", "CPU s / million", "peerage / it"];
        let mut table = Table::new(title, columns);
        for (kind, _) in &self.rounds {
            let of = |number: fn(&Measured) -> f64| self.summary(*kind, number);
            let (Some(rate), Some(p50), Some(p99), Some(cpu)) =
                (of(Measured::rate), of(p50), of(p99), of(Measured::cpu_of_a_million))
            else {
                continue;
            };
            let ratio = self.ratio(Kind::Peerage, *kind, Measured::rate);
            table.row([
                kind.name().into(),
                thousands(rate.median),
                format!("{:.0} %", rate.spread()),
                micros(p50.median),
                micros(p99.median),
                format!("{:.2}", cpu.median),
                ratio.map_or(String::new(), |ratio| format!("{:.2}", ratio.of_medians)),
            ]);
        }
        table
    }
}

/// All numbers in flight of one size, at a glance.
fn glance(cells: &[Cell]) -> Option<Table> {
    let last = cells.last()?;
    let cpu_at = cells.iter().find(|cell| cell.in_flight == 256).unwrap_or(last);
    let title = format!("remote gets of {}: a second (p50 / p99 in µs), by gets in flight", bytes(last.size));
    let columns = cells.iter().map(|cell| cell.in_flight.to_string());
    let rest = [String::from("spread, at most"), format!("CPU s / million, at {}", cpu_at.in_flight)];
    let mut table = Table::new(title, std::iter::once(String::new()).chain(columns).chain(rest));
    for (kind, _) in &last.rounds {
        let rates = cells.iter().filter_map(|cell| cell.summary(*kind, Measured::rate));
        let spread = rates.map(|rate| rate.spread()).fold(0.0, f64::max);
        let cpu = cpu_at.summary(*kind, Measured::cpu_of_a_million).map(|cpu| format!("{:.2}", cpu.median));
        let rest = [format!("{spread:.0} %"), cpu.unwrap_or_default()];
        let cells = cells.iter().map(|cell| cell.brief(*kind).unwrap_or_default());
        table.row(std::iter::once(String::from(kind.name())).chain(cells).chain(rest));
    }
    Some(table)
}

fn p50(measured: &Measured) -> f64 {
    percentile(&measured.times, 0.5)
}

fn p99(measured: &Measured) -> f64 {
    percentile(&measured.times, 0.99)
}

/// Starts those who can; says who cannot.
pub async fn start(kinds: &[Kind], core: Option<usize>) -> Result<Vec<Box<dyn Contender>>> {
    let mut contenders = Vec::new();
    for kind in kinds {
        match kind.start(core).await? {
            Some(contender) => contenders.push(contender),
            None => println!("{} is not installed: skipped (benches/peers/install.sh installs it)", kind.name()),
        }
    }
    Ok(contenders)
}

/// All rounds. Within each, everybody has a turn at a cell before the next cell begins, and who begins changes.
pub async fn measure(plan: &Plan) -> Result<Vec<Cell>> {
    let mut contenders = start(&plan.kinds, plan.core).await?;
    let mut cells: Vec<_> = plan
        .cells
        .iter()
        .map(|&(size, in_flight)| {
            let rounds = contenders.iter().map(|contender| (contender.kind(), Vec::new())).collect();
            Cell { size, in_flight, rounds }
        })
        .collect();
    for round in 0..plan.rounds {
        for cell in &mut cells {
            let (warm, window, gap) = (plan.window / 8, plan.window, plan.gap);
            let load = Load { in_flight: cell.in_flight, size: cell.size, warm, window, gap };
            for turn in 0..contenders.len() {
                let turn = (turn + round) % contenders.len();
                contenders[turn].fill(cell.size).await?;
                cell.rounds[turn].1.push(contenders[turn].run(load).await?);
            }
        }
    }
    Ok(cells)
}

/// Prints the tables and takes down the ratios.
pub fn tell(cells: &[Cell], report: &mut Report) {
    for cells in cells.chunk_by(|one, next| one.size == next.size) {
        if let Some(table) = glance(cells) {
            print!("{table}");
        }
    }
    for cell in cells {
        print!("{}", cell.table());
        let at = |theirs| cell.ratio(Kind::Peerage, theirs, Measured::rate);
        let size = match cell.size {
            size if size % 1024 == 0 => format!("{}k", size / 1024),
            size => format!("{size}b"),
        };
        for kind in Kind::ALL.into_iter().skip(1) {
            report.ratio(format!("remote_{size}_{}_vs_{}", cell.in_flight, kind.name()), at(kind));
        }
        if (cell.size, cell.in_flight) == (1024, 256) {
            for kind in [Kind::Groupcache, Kind::Redis] {
                let ratio = cell.ratio(Kind::Peerage, kind, Measured::cpu_of_a_million);
                report.ratio(format!("cpu_256_vs_{}", kind.name()), ratio);
            }
        }
        if (cell.size, cell.in_flight) == (1024, 64) {
            report.ratio("p99_64_vs_groupcache", cell.ratio(Kind::Peerage, Kind::Groupcache, p99));
        }
    }
}
