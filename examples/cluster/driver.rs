//! The play: set the stage, send the requests, kill a service and bring it back, tell what happened.

use std::io::{IsTerminal, Write, stderr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tempfile::TempDir;
use tokio::signal;
use tokio::time::sleep;

use crate::database;
use crate::fleet::{Fleet, NODES};
use crate::options::Options;
use crate::report::{Mark, Report};
use crate::tally::Tally;
use crate::traffic::Traffic;
use crate::web::Web;
use crate::workload::Workload;

/// The node that is killed, and at which shares of the requests it is killed and started again.
pub(crate) const VICTIM: usize = 1;
const KILL_AT: f64 = 0.5;
const RESTART_AT: f64 = 0.65;

/// Everything together may take this long, and so much longer for each request.
const RUN_LIMIT: Duration = Duration::from_secs(60);
const RUN_LIMIT_PER_REQUEST: Duration = Duration::from_micros(500);

/// Runs the whole play.
pub(crate) async fn run(options: Options) -> Result<Report> {
    let limit = RUN_LIMIT + RUN_LIMIT_PER_REQUEST * u32::try_from(options.requests)?;
    // Whichever way this ends, dropping the play ends the services and removes the directory.
    tokio::select! {
        report = play(options) => report,
        () = stop_is_asked_for() => bail!("interrupted"),
        () = sleep(limit) => bail!("not done within {limit:?}: something hangs"),
    }
}

/// Keeps the services up until Ctrl-C.
pub(crate) async fn serve(options: &Options) -> Result<()> {
    tokio::select! {
        result = keep_serving(options) => result,
        () = stop_is_asked_for() => Ok(()),
    }
}

async fn keep_serving(options: &Options) -> Result<()> {
    let mut stage = Stage::set(&Web::new(), options).await?;
    let addresses = stage.fleet.addresses();
    println!("{NODES} services share one cache. Ask any of them, twice, and look at the header x-cache:\n");
    for address in &addresses {
        println!("    curl -i http://{address}/airports/LHR");
    }
    println!("\nWhat a service has counted: curl http://{}/stats\nCtrl-C ends them all.", addresses[0]);
    stage.fleet.watch().await
}

async fn play(options: Options) -> Result<Report> {
    let web = Web::new();
    let mut stage = Stage::set(&web, &options).await?;
    let truth = database::read_all(&stage.database)?;
    let workload = Workload::draw(truth.keys().cloned().collect(), &options);
    let traffic = Arc::new(Traffic::new(web, workload, truth, stage.fleet.addresses()));
    let (tally, marks) = tokio::select! {
        done = perform(&traffic, &mut stage.fleet, options.workers) => done?,
        never = show_progress(&traffic) => never,
    };
    let distinct_keys = traffic.workload().distinct_keys(traffic.done());
    let mut report = Report::new(options, distinct_keys, &stage.fleet.addresses(), &tally, &marks);
    if traffic.has_given_up() {
        report.complain("after so many failures, the other requests were not sent".into());
    }
    if let Err(error) = stage.fleet.stop().await {
        report.complain(format!("{error:#}"));
    }
    Ok(report)
}

/// The services, and the database behind them.
struct Stage {
    // The order matters: the directory is removed after the services that use it have ended.
    fleet: Fleet,
    database: PathBuf,
    _directory: TempDir,
}

impl Stage {
    async fn set(web: &Web, options: &Options) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("peerage-cluster-").tempdir()?;
        let database = directory.path().join("airports.sqlite");
        database::create(&database)?;
        let fleet = Fleet::start(web.clone(), directory.path(), &database, options.query_ms).await?;
        Ok(Self { fleet, database, _directory: directory })
    }
}

async fn perform(traffic: &Arc<Traffic>, fleet: &mut Fleet, workers: usize) -> Result<(Tally, Vec<Mark>)> {
    let start = Mark::now(fleet)?;
    let sending = Arc::clone(traffic).send_all(workers);
    let (tally, (kill, back)) = tokio::try_join!(sending, kill_and_bring_back(traffic, fleet))?;
    Ok((tally, vec![start, kill, back, Mark::now(fleet)?]))
}

/// Marks the moment of the kill and that of the return.
async fn kill_and_bring_back(traffic: &Traffic, fleet: &mut Fleet) -> Result<(Mark, Mark)> {
    reached(traffic, KILL_AT).await;
    let kill = Mark::now(fleet)?;
    traffic.lose(VICTIM);
    fleet.kill(VICTIM);
    announce(&format!("node {} is killed", VICTIM + 1));

    reached(traffic, RESTART_AT).await;
    announce(&format!("node {} is started again", VICTIM + 1));
    fleet.start_again(VICTIM).await?;
    let back = Mark::now(fleet)?;
    traffic.welcome_back(VICTIM);
    announce(&format!("node {} serves again", VICTIM + 1));
    Ok((kill, back))
}

/// Waits until this share of the requests is done. How long that may take is the run's limit.
async fn reached(traffic: &Traffic, share: f64) {
    while !traffic.has_reached(share) {
        sleep(Duration::from_millis(5)).await;
    }
}

/// Prints a line that stays.
fn announce(event: &str) {
    let clear = if stderr().is_terminal() { "\r\x1b[K" } else { "" };
    eprintln!("{clear}{event}");
}

/// Prints how far the traffic is, once a second: on a terminal always in the same line.
async fn show_progress<T>(traffic: &Traffic) -> T {
    let (before, after) = if stderr().is_terminal() { ("\r\x1b[K", "") } else { ("", "\n") };
    let mut shown = 0;
    loop {
        sleep(Duration::from_secs(1)).await;
        let done = traffic.done();
        eprint!("{before}{done} of {} requests, {} in the last second{after}", traffic.workload().len(), done - shown);
        _ = stderr().flush();
        shown = done;
    }
}

/// Ctrl-C, or what `kill` and `timeout` send.
async fn stop_is_asked_for() {
    #[cfg(unix)]
    if let Ok(mut terminate) = signal::unix::signal(signal::unix::SignalKind::terminate()) {
        tokio::select! {
            _ = terminate.recv() => return,
            _ = signal::ctrl_c() => return,
        }
    }
    _ = signal::ctrl_c().await;
}
