//! Small gets beside something that takes long, on the same connection: loads of a second, or values of 16 MiB.
//!
//! Each round measures the same gets with and without the company; what counts is the 99th percentile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use crate::contenders::peerage::{self, Asking};
use crate::contenders::{Kind, get_all};
use crate::load::{self, Load, Remote};
use crate::numbers::{Summary, percentile};
use crate::options::{Effort, Options};
use crate::report::{Ratio, Report};
use crate::servers::Server;
use crate::table::{Table, micros, thousands};

const SMALL: usize = 1 << 10;
const IN_FLIGHT: usize = 16;

/// What else is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Company {
    /// A hundred loads of a second each.
    SlowLoads,
    /// Ten values of 16 MiB.
    LargeValues,
}

impl Company {
    fn text(self) -> &'static str {
        match self {
            Self::SlowLoads => "a hundred loads of one second in flight",
            Self::LargeValues => "ten values of 16 MiB in flight",
        }
    }

    fn field(self) -> &'static str {
        match self {
            Self::SlowLoads => "p99_beside_slow_loads",
            Self::LargeValues => "p99_beside_large_values",
        }
    }

    /// Starts it. It comes to its end soon after the flag is set.
    fn start(self, asking: &Asking, large: &Arc<[String]>, stop: &Arc<AtomicBool>) -> JoinSet<Result<()>> {
        let mut tasks = JoinSet::new();
        let tasks_of = match self {
            Self::SlowLoads => 100,
            Self::LargeValues => large.len().min(10),
        };
        for task in 0..tasks_of {
            let (asking, stop, key) = (asking.clone(), Arc::clone(stop), large[task % large.len()].clone());
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    match self {
                        Self::SlowLoads => drop(asking.get(&new_slow_key(&asking)).await?),
                        Self::LargeValues => drop(asking.get(&key).await?),
                    }
                }
                Ok(())
            });
        }
        tasks
    }
}

/// A key that nobody has asked for yet, and that the other process owns.
fn new_slow_key(asking: &Asking) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let key = peerage::slow_key(NEXT.fetch_add(1, Ordering::Relaxed));
        if asking.is_remote(&key) {
            return key;
        }
    }
}

/// All rounds; prints the table and takes down the ratio of the percentiles.
pub async fn measure(company: Company, options: &Options, report: &mut Report) -> Result<()> {
    let mut server = Server::start(Kind::Peerage, None)?.context("this binary is there")?;
    let asking = peerage::ask(&mut server).await?;
    let small: Arc<[String]> = asking.remote_keys(SMALL).into();
    let large: Arc<[String]> = asking.remote_keys(16 << 20).into();
    get_all(&asking, &small).await?;
    if company == Company::LargeValues {
        get_all(&asking, &large).await?;
    }
    let window = if options.effort == Effort::Moment { options.window() } else { Duration::from_secs(1) };
    let load = Load { in_flight: IN_FLIGHT, size: SMALL, warm: window / 4, window, gap: Duration::ZERO };
    let processes = [std::process::id(), server.process];
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for round in 0..options.rounds() {
        for turn in 0..2 {
            if (turn + round) % 2 == 0 {
                alone.push(load::run(&asking, &small, load, &processes).await?);
                continue;
            }
            let stop = Arc::new(AtomicBool::new(false));
            let mut tasks = company.start(&asking, &large, &stop);
            beside.push(load::run(&asking, &small, load, &processes).await?);
            stop.store(true, Ordering::Relaxed);
            while let Some(task) = tasks.join_next().await {
                task??;
            }
        }
    }
    tell(company, &alone, &beside, report);
    Ok(())
}

fn tell(company: Company, alone: &[load::Measured], beside: &[load::Measured], report: &mut Report) {
    let title = format!("peerage, {SMALL} B, {IN_FLIGHT} in flight, beside {}", company.text());
    let mut table = Table::new(title, ["", "gets/s", "p50", "p99", "spread of p99"]);
    let of = |rounds: &[load::Measured], part| -> Vec<f64> {
        rounds.iter().map(|round| percentile(&round.times, part)).collect()
    };
    for (name, rounds) in [("without", alone), ("with", beside)] {
        let rate = Summary::of(rounds.iter().map(load::Measured::rate));
        let (Some(rate), Some(p50), Some(p99)) = (rate, Summary::of(of(rounds, 0.5)), Summary::of(of(rounds, 0.99)))
        else {
            continue;
        };
        let spread = format!("{:.0} %", p99.spread());
        table.row([name.into(), thousands(rate.median), micros(p50.median), micros(p99.median), spread]);
    }
    print!("{table}");
    report.ratio(company.field(), Ratio::of(&of(beside, 0.99), &of(alone, 0.99)));
}
