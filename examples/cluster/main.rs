//! One cache out of three processes, at work: `cargo run --release --example cluster`.
//!
//! The program starts itself three more times. Each of the three is a small HTTP service that finds airports: it asks
//! its peerage group, and the group's loader asks an SQLite database. The program itself then is the driver: it sends
//! requests to all three, checks each answer, kills one of them half-way, starts it again, and tells what happened.
//!
//! ```text
//!                 driver ── HTTP ──▶ service 1 ◀─┐
//!                    ├───── HTTP ──▶ service 2 ◀─┤ gRPC: one cache
//!                    └───── HTTP ──▶ service 3 ◀─┘
//!                                        └── loader ──▶ the database
//! ```
//!
//! For a first look at peerage, read `service.rs`: it is all that a service needs. The other files put it to the test.

#![expect(clippy::disallowed_methods, reason = "an example measures: it reads the clock and rolls dice where it likes")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts here are small, and shares of them are for people"
)]

mod database;
mod driver;
mod fleet;
mod journal;
mod options;
mod report;
mod service;
mod tables;
mod tally;
mod traffic;
mod way;
mod web;
mod workload;

use std::process::ExitCode;

use options::{Command, Options};

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match options::parse() {
        Ok(Command::Help) => {
            print!("{}", options::HELP);
            Ok(true)
        }
        Ok(Command::Service(config)) => service::run(*config).await.map(|()| true),
        Ok(Command::Serve(options)) => driver::serve(&options).await.map(|()| true),
        Ok(Command::Run(options)) => run(options).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Puts the cluster to the test and prints the report. The answer is whether everything was right.
async fn run(options: Options) -> anyhow::Result<bool> {
    let json = options.json;
    let report = driver::run(options).await?;
    print!("{report}");
    if json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(report.is_clean())
}
