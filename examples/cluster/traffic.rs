//! The workers: they send the requests, check the answers, and act as a load balancer would when a service is killed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use anyhow::{Error, Result};
use axum::http::StatusCode;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::database::Airport;
use crate::tally::{Outcome, Phase, Tally};
use crate::web::{Answer, Web};
use crate::workload::{Request, Workload};

/// After so many failures it is clear that something is broken, and the rest of the requests are not sent.
const FAILURES_LIMIT: usize = 50;

/// The last requests wait until the killed service has returned, so that on any machine there is something to tell of
/// it.
const SHARE_BEFORE_RETURN: f64 = 0.8;

#[derive(Debug)]
pub(crate) struct Traffic {
    web: Web,
    workload: Workload,
    truth: HashMap<String, Airport>,
    targets: Vec<Target>,
    phase: watch::Sender<Phase>,
    next: AtomicUsize,
    done: AtomicUsize,
    failed: AtomicUsize,
}

/// One service, as a load balancer sees it.
#[derive(Debug)]
struct Target {
    address: SocketAddr,
    /// Whether requests are sent to it.
    in_rotation: AtomicBool,
    /// Whether it was killed on purpose, and does not serve again yet.
    killed: AtomicBool,
}

/// What became of a request that was sent to one service.
enum Attempt {
    Answered(Answer),
    /// The service was killed: another one shall answer.
    Lost,
    Failed(Error),
}

impl Traffic {
    pub(crate) fn new(
        web: Web,
        workload: Workload,
        truth: HashMap<String, Airport>,
        services: Vec<SocketAddr>,
    ) -> Self {
        Self {
            web,
            workload,
            truth,
            targets: services.into_iter().map(Target::new).collect(),
            phase: watch::Sender::new(Phase::BeforeKill),
            next: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
        }
    }

    pub(crate) fn workload(&self) -> &Workload {
        &self.workload
    }

    pub(crate) fn done(&self) -> usize {
        self.done.load(Relaxed)
    }

    /// Whether this share of the requests is done, or no more will be.
    pub(crate) fn has_reached(&self, share: f64) -> bool {
        self.done() >= self.number_at(share) || self.has_given_up()
    }

    /// To be called before a service is killed: from now on it is no failure if it does not answer.
    ///
    /// It stays in rotation until a request finds out, as a load balancer cannot know either.
    pub(crate) fn lose(&self, node: usize) {
        self.targets[node].killed.store(true, Relaxed);
        self.phase.send_replace(Phase::Down);
    }

    /// To be called when the killed service serves again.
    pub(crate) fn welcome_back(&self, node: usize) {
        self.targets[node].killed.store(false, Relaxed);
        self.targets[node].in_rotation.store(true, Relaxed);
        self.phase.send_replace(Phase::AfterReturn);
    }

    /// Sends all requests, `workers` at a time.
    pub(crate) async fn send_all(self: Arc<Self>, workers: usize) -> Result<Tally> {
        let mut tasks: JoinSet<_> = (0..workers).map(|_| Arc::clone(&self).work()).collect();
        let mut tally = Tally::default();
        while let Some(worker) = tasks.join_next().await {
            tally.add(worker??);
        }
        Ok(tally)
    }

    async fn work(self: Arc<Self>) -> Result<Tally> {
        let mut phase = self.phase.subscribe();
        let mut tally = Tally::default();
        while let Some(request) = self.next_request(&mut phase).await? {
            let start = Instant::now();
            let (node, resent, outcome) = self.send(request).await;
            if matches!(outcome, Outcome::Failed(_)) {
                self.failed.fetch_add(1, Relaxed);
            }
            // The phase in which it ended: what the kill did to requests under way belongs to the time after it.
            let phase = *phase.borrow_and_update();
            tally.count(phase, node, resent, start.elapsed(), outcome);
            self.done.fetch_add(1, Relaxed);
        }
        Ok(tally)
    }

    async fn next_request(&self, phase: &mut watch::Receiver<Phase>) -> Result<Option<Request>> {
        if self.has_given_up() {
            return Ok(None);
        }
        let number = self.next.fetch_add(1, Relaxed);
        if number >= self.number_at(SHARE_BEFORE_RETURN) {
            phase.wait_for(|&phase| phase == Phase::AfterReturn).await?;
        }
        Ok(self.workload.request(number))
    }

    /// Sends a request to its node, and to the next ones in rotation as long as it is lost. Says who had it in the end,
    /// and how often it was sent again.
    async fn send(&self, request: Request) -> (usize, u64, Outcome) {
        let key = self.workload.key(request);
        let mut node = self.in_rotation(usize::from(request.node));
        let mut resent = 0;
        loop {
            let outcome = match self.attempt(node, key).await {
                Attempt::Answered(answer) => self.judge(key, &answer),
                Attempt::Lost if resent < self.targets.len() as u64 => {
                    resent += 1;
                    node = self.in_rotation(node + 1);
                    continue;
                }
                Attempt::Lost => Outcome::Failed(format!("{key}: lost again and again")),
                Attempt::Failed(error) => Outcome::Failed(format!("{key} from node {}: {error:#}", node + 1)),
            };
            return (node, resent, outcome);
        }
    }

    async fn attempt(&self, node: usize, key: &str) -> Attempt {
        let target = &self.targets[node];
        // Looked at before and after: the kill, or the return, may fall in between.
        let was_killed = target.killed.load(Relaxed);
        match self.web.get(target.address, &format!("/airports/{key}")).await {
            Ok(answer) => Attempt::Answered(answer),
            Err(_) if target.killed.load(Relaxed) => {
                target.in_rotation.store(false, Relaxed);
                Attempt::Lost
            }
            Err(_) if was_killed => Attempt::Lost,
            Err(error) => Attempt::Failed(error),
        }
    }

    /// This node, or if it is out of rotation the next one that is not.
    fn in_rotation(&self, node: usize) -> usize {
        let nodes = (node..node + self.targets.len()).map(|node| node % self.targets.len());
        nodes.clone().find(|&node| self.targets[node].in_rotation.load(Relaxed)).unwrap_or(node % self.targets.len())
    }

    /// Holds an answer against what the database said to the driver itself.
    fn judge(&self, key: &str, answer: &Answer) -> Outcome {
        let airport = match answer.status {
            StatusCode::OK => serde_json::from_slice(&answer.body).map(Some),
            StatusCode::NOT_FOUND => Ok(None),
            status => return Outcome::Failed(format!("{key}: {status}: {}", answer.text())),
        };
        match (airport, answer.way) {
            (Ok(airport), Some(way)) if airport.as_ref() == self.truth.get(key) => Outcome::Right(way),
            (Ok(airport), way) => Outcome::Wrong(format!("{key}: answered ({way:?}) with {airport:?}")),
            (Err(error), _) => Outcome::Wrong(format!("{key}: the answer is no airport: {error}")),
        }
    }

    /// Whether there were so many failures that the rest of the requests is not sent.
    pub(crate) fn has_given_up(&self) -> bool {
        self.failed.load(Relaxed) >= FAILURES_LIMIT
    }

    fn number_at(&self, share: f64) -> usize {
        (self.workload.len() as f64 * share) as usize
    }
}

impl Target {
    fn new(address: SocketAddr) -> Self {
        Self { address, in_rotation: AtomicBool::new(true), killed: AtomicBool::new(false) }
    }
}
