//! One of the three services: airports over HTTP, behind a peerage cache.
//!
//! - `GET /airports/{code}` answers with the airport, or 404. The header [`Way::HEADER`] says where the answer came
//!   from.
//! - `GET /stats` shows what peerage counts.
//! - `GET /ready` succeeds once the service has reached all its peers.
//!
//! A service lives as long as its standard input stays open. The driver holds the other end, so that no service
//! outlives it, however it ends.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use peerage::{Error, GetOptions, Group, Key, Node, PeerState};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal;
use tokio::sync::oneshot;

use crate::database::Database;
use crate::way::Way;

/// Airports do not move: what is known of one, or that there is none, outlasts the run.
const KEPT_FOR: Duration = Duration::from_secs(300);

/// How long a service that is told to end may take to finish what it does.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// What the driver tells a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    /// Where it serves HTTP.
    pub(crate) http: SocketAddr,
    /// Where its node serves the other nodes.
    pub(crate) address: String,
    /// The addresses of all nodes.
    pub(crate) peers: Vec<String>,
    pub(crate) database: PathBuf,
    pub(crate) journal: PathBuf,
    /// How much longer than SQLite needs each query takes.
    pub(crate) query_ms: u64,
}

#[derive(Clone)]
struct Service {
    node: Node,
    airports: Group<String>,
}

/// Serves until standard input ends.
pub(crate) async fn run(config: Config) -> Result<()> {
    let driver_is_gone = watch_driver();
    let database = Database::open(&config.database, &config.journal, Duration::from_millis(config.query_ms))?;
    let node = Node::builder(&config.address).cluster("airports-demo").peers(&config.peers).start().await?;
    let airports = node
        .group("airports")
        .capacity(64 << 20)
        .time_to_live(KEPT_FOR)
        .not_found_time_to_live(KEPT_FOR)
        .loader(move |code: Key| Arc::clone(&database).find(code.to_string()))
        .build()?;

    let listener = TcpListener::bind(config.http).await.with_context(|| format!("cannot listen on {}", config.http))?;
    let serving = axum::serve(listener, routes(Service { node: node.clone(), airports }));
    serving.with_graceful_shutdown(driver_is_gone).await?;
    node.shutdown(SHUTDOWN_LIMIT).await;
    Ok(())
}

fn routes(service: Service) -> Router {
    Router::new()
        .route("/airports/{code}", get(airport))
        .route("/stats", get(stats))
        .route("/ready", get(ready))
        .with_state(service)
}

async fn airport(State(service): State<Service>, Path(code): Path<String>) -> Response {
    match service.airports.get_with(&code, GetOptions::new()).await {
        Ok(entry) => {
            let headers =
                [(header::CONTENT_TYPE.as_str(), "application/json"), (Way::HEADER, Way::of(entry.source()).as_str())];
            (headers, entry.into_value()).into_response()
        }
        Err(Error::NotFound) => {
            let headers = [(Way::HEADER, Way::Absent.as_str())];
            (StatusCode::NOT_FOUND, headers, "there is no such airport\n").into_response()
        }
        Err(error) => (status(&error), format!("{error}\n")).into_response(),
    }
}

/// Errors keep their kind on the way through peerage, so that a service can answer each with what its callers should
/// do.
fn status(error: &Error) -> StatusCode {
    match error {
        Error::Busy | Error::Closed => StatusCode::SERVICE_UNAVAILABLE,
        Error::Timeout { .. } | Error::LoadTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn stats(State(service): State<Service>) -> String {
    format!("{:#?}\n{:#?}\n", service.airports.stats(), service.node.stats())
}

/// A node that has not reached its peers yet serves all the same, and loads what it cannot fetch. The driver starts
/// three at once, and its count of queries should not begin with that.
async fn ready(State(service): State<Service>) -> StatusCode {
    let peers = service.node.stats().peers;
    let ready = peers.iter().filter(|peer| peer.listed).all(|peer| peer.state == PeerState::Up);
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// Ends when the driver closes this process's standard input, or is no more.
///
/// The watch is a thread of its own, so that a service ends even if its runtime is stuck.
fn watch_driver() -> impl Future<Output = ()> + Send + 'static {
    let (tell, told) = oneshot::channel();
    thread::spawn(move || {
        // What is read is of no interest, and neither is how it ended.
        _ = io::copy(&mut io::stdin(), &mut io::sink());
        _ = tell.send(());
        thread::sleep(2 * SHUTDOWN_LIMIT);
        eprintln!("the service did not end by itself");
        process::exit(1);
    });
    // A terminal sends Ctrl-C to all processes at once. When a service ends is the driver's to say.
    tokio::spawn(async { while signal::ctrl_c().await.is_ok() {} });
    async { _ = told.await }
}
