//! The command line.

use std::ffi::OsString;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use lexopt::{Arg, Parser, ValueExt};
use serde::Serialize;

use crate::service;

pub(crate) const HELP: &str = "\
Starts three services as three processes that share one cache in front of one database, sends them requests, checks every
answer, kills one of them half-way, starts it again, and reports. Exits with 1 if a request failed or an answer was wrong.

Usage: cargo run --release --example cluster -- [OPTIONS]

      --requests N   how many requests to send, 100 to 10000000 (default: 400000)
      --workers N    how many of them are under way at once, 1 to 512 (default: 16)
      --seed N       what decides which keys are asked for, and in which order (default: 1)
      --skew X       the Zipf exponent: how much more popular the popular keys are, 0 to 4 (default: 1)
      --query-ms N   lets each database query take N ms longer, as a database across a network does, 0 to 1000 (default: 0)
      --json         prints the report once more as one JSON object, on the last line
      --serve        only starts the three services, and keeps them up until Ctrl-C
  -h, --help         prints this

How to read the report:
  own cache          the service that was asked had the answer, as the key's owner or as a hot copy
  a peer             it fetched the answer from the key's owner, over gRPC
  the database       it owns the key (or stands in for its owner), and its loader asked the database
  extra queries      database queries beyond the first for each key: what the kill has cost
  sent elsewhere     requests that the killed process left unanswered and another service answered; they are not failures
";

/// What the program was asked to be.
pub(crate) enum Command {
    Help,
    Run(Options),
    Serve(Options),
    /// One of the three services. Only the driver gives this command: `service <its configuration>`.
    Service(Box<service::Config>),
}

/// What decides how a run goes. The report repeats it, so that the same can be run again.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Options {
    /// How many to send. The report says how many were sent.
    #[serde(skip)]
    pub(crate) requests: usize,
    pub(crate) workers: usize,
    pub(crate) seed: u64,
    pub(crate) skew: f64,
    pub(crate) query_ms: u64,
    #[serde(skip)]
    pub(crate) json: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { requests: 400_000, workers: 16, seed: 1, skew: 1.0, query_ms: 0, json: false }
    }
}

pub(crate) fn parse() -> Result<Command> {
    parse_from(Parser::from_env()).context("see --help")
}

fn parse_from(mut arguments: Parser) -> Result<Command> {
    let mut options = Options::default();
    let mut serve = false;
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Long("requests") => options.requests = number(&mut arguments, "--requests", 100..=10_000_000)?,
            Arg::Long("workers") => options.workers = number(&mut arguments, "--workers", 1..=512)?,
            Arg::Long("seed") => options.seed = number(&mut arguments, "--seed", 0..=u64::MAX)?,
            Arg::Long("skew") => options.skew = number(&mut arguments, "--skew", 0.0..=4.0)?,
            Arg::Long("query-ms") => options.query_ms = number(&mut arguments, "--query-ms", 0..=1_000)?,
            Arg::Long("json") => options.json = true,
            Arg::Long("serve") => serve = true,
            Arg::Long("help") | Arg::Short('h') => return Ok(Command::Help),
            Arg::Value(word) if word == "service" => return service_config(arguments.value()?),
            other => bail!(other.unexpected()),
        }
    }
    Ok(if serve { Command::Serve(options) } else { Command::Run(options) })
}

fn number<T>(arguments: &mut Parser, option: &str, range: RangeInclusive<T>) -> Result<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static> + PartialOrd + Display,
{
    let number: T = arguments.value()?.parse().with_context(|| format!("{option} needs a number"))?;
    ensure!(range.contains(&number), "{option} must be {} to {}, not {number}", range.start(), range.end());
    Ok(number)
}

fn service_config(config: OsString) -> Result<Command> {
    let config = serde_json::from_str(&config.string()?).context("`service` needs a configuration")?;
    Ok(Command::Service(Box::new(config)))
}
