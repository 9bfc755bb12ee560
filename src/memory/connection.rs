//! Connections: how a request gets to the other node, and its reply back.
//!
//! What must hold:
//!
//! - messages of one connection cross in the order in which they were sent, and none is lost while the connection
//!   lives;
//! - two seconds of silence close a connection, and nothing else that is slow does;
//! - the handler runs inside of the caller's future, so that dropping a call gives the request up on both sides.
//!
//! It does not know who sets the faults of a link, nor what a message says.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Semaphore;

use crate::calls::Calls;
use crate::clock::{Clock, sleep};
use crate::coherence::Presence;
use crate::message::{GetTerms, Reply, Request, Sender};
use crate::transport::{CallError, Connection, Opened, Question, Transport, Unreachable};
use crate::wire::{WireRequest, check_size};

use super::links::{Kind, Way};
use super::recoding::{read, recoded_refusal, send_back, write};
use super::state::{Line, Shared, State};

/// How long a connection whose pings get no answer stays open: what keep-alive comes to over gRPC.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(2);

/// How long a connect may take.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// So many bytes of questions and calls may be under way: whatever there is, as all is within one process.
const BOUNDLESS_BYTES: usize = Semaphore::MAX_PERMITS;

/// One node's view of the network.
pub(super) struct MemoryTransport {
    pub(super) shared: Arc<Shared>,
    pub(super) address: Arc<str>,
}

impl Transport for MemoryTransport {
    fn connect(&self, address: Arc<str>) -> BoxFuture<'static, Result<Opened, Unreachable>> {
        let way = Way { from: Arc::clone(&self.address), to: address };
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let wire = tokio::select! {
                biased;
                wire = Wire::open(shared, way.clone()) => wire?,
                () = sleep(CONNECT_LIMIT) => {
                    return Err(Unreachable::new(format!("no connection to {} within {CONNECT_LIMIT:?}", way.to)));
                }
            };
            let (calls, running) = Calls::new(BOUNDLESS_BYTES);
            Ok(Opened {
                connection: Arc::new(MemoryConnection { held: Arc::new(Held(wire)), calls }),
                driver: Box::pin(running.run()),
            })
        })
    }
}

/// The end of a connection that its opener holds.
struct MemoryConnection {
    held: Arc<Held>,
    calls: Calls,
}

/// A connection is closed when its opener has dropped it and the calls on it have ended.
struct Held(Arc<Wire>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.close("the connection was dropped");
    }
}

impl Connection for MemoryConnection {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Reply, CallError>> {
        let held = Arc::clone(&self.held);
        Box::pin(async move {
            let wire = &held.0;
            tokio::select! {
                biased; // a closed connection carries nothing any more
                () = wire.line.closed.cancelled() => Err(wire.line.unreachable().into()),
                reply = wire.exchange(request) => reply,
            }
        })
    }

    fn ask(&self, sender: &Arc<Sender>, terms: GetTerms, questions: &mut dyn Iterator<Item = Question>) {
        self.calls.ask(|request| self.call(request), sender, &terms, questions.collect());
    }

    fn closed(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.held.0.line.closed.clone().cancelled_owned())
    }
}

/// A connection: two lanes on which messages cross in turn.
struct Wire {
    shared: Arc<Shared>,
    line: Arc<Line>,
    /// That the opener is there, as the other end sees it.
    presence: Mutex<Option<Presence>>,
    there: Lane,
    back: Lane,
    clock: Clock,
}

struct Lane {
    way: Way,
    /// Whoever crosses holds it. Tokio's mutex is fair: who comes first crosses first.
    turn: tokio::sync::Mutex<()>,
}

impl Lane {
    fn new(way: Way) -> Self {
        Self { way, turn: tokio::sync::Mutex::default() }
    }
}

impl Wire {
    async fn open(shared: Arc<Shared>, way: Way) -> Result<Arc<Self>, Unreachable> {
        let (there, back) = (Lane::new(way.clone()), Lane::new(way.back()));
        for lane in [&there, &back] {
            let delay = shared.state().link(&lane.way).delay;
            pass(delay).await;
            shared.until_audible(&lane.way).await;
        }
        let line = shared.state().open(way)?;
        let wire = Arc::new(Self { shared, line, presence: Mutex::default(), there, back, clock: Clock::start() });
        tokio::spawn(Arc::clone(&wire).close_on_silence());
        Ok(wire)
    }

    fn close(&self, why: &'static str) {
        self.shared.close(&self.line, why);
    }

    /// What pings are for.
    async fn close_on_silence(self: Arc<Self>) {
        let silent = |state: &mut State| [&self.there, &self.back].into_iter().any(|lane| state.link(&lane.way).silent);
        let silence = async {
            loop {
                self.shared.until(silent).await;
                tokio::select! {
                    biased; // as all here, so that a simulation runs the same way twice
                    () = self.shared.until(|state| !silent(state)) => {}
                    () = sleep(SILENCE_LIMIT) => break,
                }
            }
        };
        tokio::select! {
            biased;
            () = silence => self.close("pings were not answered"),
            () = self.line.closed.cancelled() => {}
        }
    }

    /// A request there, and the reply back.
    async fn exchange(&self, request: Request) -> Result<Reply, CallError> {
        let limit = self.shared.message_limit;
        let kind = Kind::from(&request.ask);
        let message = WireRequest::from(request);
        let bytes = write(&message);
        check_size("request", bytes.len(), limit)?;
        self.cross(&self.there, kind).await?;
        let reply = match read(&message, bytes) {
            Ok((request, keys)) => {
                let handler = self.shared.state().handler(&self.line)?;
                if let Some(sender) = &request.sender {
                    let mut presence = self.presence.lock().unwrap_or_else(PoisonError::into_inner);
                    *presence = presence.take().or_else(|| handler.meet(sender));
                }
                handler.handle(request).await.map(|reply| (reply, keys))
            }
            Err(refusal) => Err(refusal),
        };
        let reply = reply.and_then(|(reply, keys)| send_back(reply, keys, limit));
        self.cross(&self.back, Kind::Reply).await?;
        reply.map_err(|refusal| recoded_refusal(&refusal).into())
    }

    /// Waits until a message has crossed. Its time counts from now, but it leaves the lane after those before it.
    async fn cross(&self, lane: &Lane, kind: Kind) -> Result<(), Unreachable> {
        let sent = self.shared.state().link(&lane.way).send(kind);
        let Some(delay) = sent else {
            self.close("a message was lost");
            return Err(self.line.unreachable());
        };
        let arrival = self.clock.now() + delay;
        let _turn = lane.turn.lock().await;
        pass(arrival.since(self.clock.now())).await;
        self.shared.until_audible(&lane.way).await;
        Ok(())
    }
}

/// Sleeps, unless there is nothing to wait for: a link without a delay costs no tick of the timer.
async fn pass(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}
