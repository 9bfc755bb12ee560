//! One other node: its health, its connection, and what it said of itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::FutureExt;
use tokio::sync::{Notify, SetOnce};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::{self, Clock};
use crate::member::{Member, NodeName};
use crate::membership::{Differences, Health, Members, PeerState};
use crate::message::{GetTerms, Hello, Incarnation, Refusal, RefusalKind, Reply, Request, Sender};
use crate::removals::Origin;
use crate::stats::Counter;
use crate::time::Moment;
use crate::transport::{CallError, Connection, Question, Unreachable};
use crate::wakes::Wakes;

use super::beliefs::Belief;
use super::wake::Level;

/// How much a new measurement counts in the moving average of the latency: one part in so many.
const LATENCY_WEIGHT: u64 = 8;

/// A snapshot of one other node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerStats {
    /// Its name.
    pub name: NodeName,
    /// How it is reached; empty if it is not listed here.
    pub address: String,
    /// Whether it is listed here. A node that is not, and yet takes this one for a peer, lists other members than we
    /// do.
    pub listed: bool,
    /// Whether it can be reached. For a node that is not listed: [`PeerState::Connecting`], since it is not tried.
    pub state: PeerState,
    /// For how long it has been down, if it is.
    pub down_for: Option<Duration>,
    /// How long a request is on its way, there and back, without the time that the peer held it: a moving average.
    pub latency: Option<Duration>,
    /// Requests that were sent to it.
    pub requests: u64,
    /// How often a connection to it was lost.
    pub failures: u64,
    /// The fingerprint of the membership that it goes by, as it last said.
    pub fingerprint: Option<u64>,
    /// How its membership differs from ours, if it does.
    pub differs: Option<Differences>,
}

/// One other node. All its state is behind one short lock of its own.
pub(crate) struct Peer {
    member: Member,
    clock: Clock,
    line: Mutex<Line>,
    /// The connection, while there is one that requests may be sent on: for the way of a get, which takes no lock for it.
    /// What `line` says, and changed with it.
    live: ArcSwapOption<Live>,
    /// Whether requests should be sent to it; likewise.
    usable: AtomicBool,
    /// Requests that were sent, questions included.
    questions: Counter,
    /// The moving average of the way there and back in nanoseconds; 0 if it has not been measured.
    latency: AtomicU64,
    /// Set once the first try to reach it has ended, well or badly: until then requests wait for that.
    tried: SetOnce<()>,
    /// Wakes the keeper: something has changed.
    news: Notify,
    /// Since when each has what the other had.
    pub(super) level: Level,
    /// Whether it should be told hello soon.
    wants_hello: AtomicBool,
    /// Fires when the node is no longer a peer.
    left: CancellationToken,
}

/// A connection that requests may be sent on.
struct Live(Arc<dyn Connection>);

#[derive(Default)]
struct Line {
    health: Health,
    connection: Option<Arc<dyn Connection>>,
    /// Whether a hello on this connection was answered, and left both even. Before that nobody but the keeper uses it,
    /// whatever the peer's health is.
    is_greeted: bool,
    /// Tells the keeper, when it is dropped, that this connection is not in use any more. It goes with it.
    in_use: Option<DropGuard>,
    /// Which run of it answered our hello last.
    run: Option<Incarnation>,
    belief: Option<Belief>,
    failures: u64,
}

impl Line {
    fn give_up(&mut self) {
        self.connection = None;
        self.is_greeted = false;
        self.in_use = None;
    }

    fn uses(&self, connection: &Arc<dyn Connection>) -> bool {
        self.connection.as_ref().is_some_and(|own| Arc::ptr_eq(own, connection))
    }

    /// The connection, if requests may be sent on it.
    fn live(&self) -> Option<&Arc<dyn Connection>> {
        self.connection.as_ref().filter(|_| self.is_greeted && self.health.usable())
    }
}

impl Peer {
    pub(crate) fn new(member: Member, clock: Clock) -> Self {
        Self {
            member,
            clock,
            line: Mutex::default(),
            live: ArcSwapOption::empty(),
            usable: AtomicBool::new(Health::default().usable()),
            questions: Counter::default(),
            latency: AtomicU64::new(0),
            tried: SetOnce::new(),
            news: Notify::new(),
            level: Level::default(),
            wants_hello: AtomicBool::new(false),
            left: CancellationToken::new(),
        }
    }

    pub(crate) fn name(&self) -> &NodeName {
        self.member.name()
    }

    pub(crate) fn member(&self) -> &Member {
        &self.member
    }

    /// Whether requests should be sent to it.
    pub(crate) fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Acquire)
    }

    /// Whether it is known to answer.
    pub(crate) fn is_up(&self) -> bool {
        self.state() == PeerState::Up
    }

    pub(super) fn state(&self) -> PeerState {
        self.line().health.state()
    }

    /// Sends a request over the connection that the keeper made. A peer that is known to be unreachable fails at once;
    /// one that has never been tried is waited for, which ends within the connect limit.
    ///
    /// Cancel safety: dropping the future gives the request up.
    pub(crate) async fn call(&self, request: Request) -> Result<Reply, CallError> {
        self.until_tried().await;
        let connection = self.connection()?;
        self.questions.one();
        let sent = self.clock.now();
        let outcome = connection.call(request).await;
        match &outcome {
            Ok(reply) => self.answered(reply, self.clock.now().since(sent)),
            // A single request can be lost on a connection that lives (a stream that was reset): that says nothing of
            // the next.
            Err(CallError::Unreachable(why)) if is_closed(&connection) => self.lost(&connection, &why.0),
            Err(CallError::Unreachable(_) | CallError::Busy | CallError::GivenUp) => {}
            Err(CallError::Refused(refusal)) => self.note_refusal(refusal),
        }
        outcome
    }

    /// Asks for keys over the connection that the keeper made, as [`call`](Self::call) does for the rest. Each question
    /// gets its outcome by itself, maybe before this returns.
    pub(crate) fn ask(
        &self,
        sender: &Arc<Sender>,
        terms: GetTerms,
        questions: &mut dyn ExactSizeIterator<Item = Question>,
    ) {
        self.questions.add(questions.len() as u64);
        if let Some(live) = &*self.live.load() {
            return live.0.ask(sender, terms, &mut questions.into_iter());
        }
        let why = match self.connection() {
            // It came up in between.
            Ok(connection) => return connection.ask(sender, terms, &mut questions.into_iter()),
            Err(why) => why,
        };
        let mut wakes = Wakes::default();
        questions.for_each(|question| question.asker.take(Err(why.clone().into()), &mut wakes));
    }

    /// Whether it has been tried, or waiting for that is of no use any more. If not, [`until_tried`](Self::until_tried)
    /// should be waited for before it is asked.
    pub(crate) fn has_an_outcome(&self) -> bool {
        self.tried.initialized() || self.left.is_cancelled()
    }

    /// Waits until the first try to reach it has ended: at most for the connect limit.
    pub(crate) async fn until_tried(&self) {
        tokio::select! {
            biased;
            () = self.left.cancelled() => {}
            () = self.tried.wait() => {}
        }
    }

    /// A question was not answered: if that is because the connection is lost, the peer is down from now on.
    pub(crate) fn was_not_reached(&self, why: &Unreachable) {
        let connection = self.line().connection.clone();
        if let Some(connection) = connection.filter(is_closed) {
            self.lost(&connection, &why.0);
        }
    }

    /// What a refusal says of the node, rather than of what was asked.
    pub(crate) fn note_refusal(&self, refusal: &Refusal) {
        match refusal.kind {
            RefusalKind::Draining => self.change(Health::on_draining),
            RefusalKind::WrongCluster | RefusalKind::Version => {
                self.change(|health, now| health.on_refused(now, refusal.message.as_str()));
            }
            _ => {}
        }
    }

    fn connection(&self) -> Result<Arc<dyn Connection>, Unreachable> {
        let line = self.line();
        if self.left.is_cancelled() {
            return Err(Unreachable::new("it is no longer a peer"));
        }
        if !line.health.usable() {
            return Err(Unreachable::new(describe(&line.health.state())));
        }
        line.live().cloned().ok_or_else(|| Unreachable::new("there is no connection"))
    }

    /// Measures the way to the peer and back.
    pub(super) fn answered(&self, reply: &Reply, took: Duration) {
        let held = match reply {
            Reply::Get(answer) => answer.held,
            // Many keys are held for different times; a hello for none.
            Reply::GetMany(_) => return,
            Reply::Hello(_) | Reply::Remove(_) | Reply::Insert { .. } => Duration::ZERO,
        };
        self.note_way(took.saturating_sub(held));
    }

    /// How long something was on its way there and back.
    pub(crate) fn note_way(&self, way: Duration) {
        let way = u64::try_from(way.as_nanos()).unwrap_or(u64::MAX).max(1);
        // Two at once may lose one of the two: it is an average.
        let average = match self.latency.load(Ordering::Relaxed) {
            0 => way,
            average => average - average / LATENCY_WEIGHT + way / LATENCY_WEIGHT,
        };
        self.latency.store(average.max(1), Ordering::Relaxed);
    }

    /// The connection was lost; if it is still the one in use, the peer is down from now on, and nobody else pays for
    /// finding that out.
    pub(super) fn lost(&self, connection: &Arc<dyn Connection>, why: &str) {
        let is_ours = self.alter(|line| {
            let is_ours = line.uses(connection);
            if is_ours {
                line.failures += 1;
                line.give_up();
            }
            is_ours
        });
        if is_ours {
            self.unreachable(why);
        }
    }

    /// The peer could not be reached.
    pub(super) fn unreachable(&self, why: &str) {
        let was_usable = self.is_usable();
        self.change(|health, now| health.on_failure(now, clock::dice(), why));
        // The first failure is a change of state; those that follow, until it is back, are none.
        if was_usable {
            tracing::info!(peer = %self.name(), why, "peer is down");
        }
        self.has_been_tried();
    }

    /// The connection to use from now on; whether the peer is up shows when it answers. What this returns fires when
    /// the connection is not in use any more.
    pub(super) fn connected(&self, connection: Arc<dyn Connection>) -> CancellationToken {
        let given_up = CancellationToken::new();
        let in_use = given_up.clone().drop_guard();
        self.alter(|line| {
            line.give_up();
            line.connection = Some(connection);
            line.in_use = Some(in_use);
        });
        given_up
    }

    /// The connection came to nothing.
    pub(super) fn disconnect(&self) {
        self.alter(Line::give_up);
    }

    /// The peer, in this run of it, answered the hello that was `sent` then on this connection.
    pub(super) fn up(&self, connection: &Arc<dyn Connection>, run: Incarnation, sent: Moment) {
        // Somebody may have lost the connection since: then what it once answered counts for nothing. So this is looked
        // at and done under one lock.
        let was_up = self.alter(|line| {
            if !line.uses(connection) {
                return None;
            }
            let was_up = line.health.state() == PeerState::Up;
            line.run = Some(run);
            line.is_greeted = true;
            line.health.on_up();
            Some(was_up)
        });
        if let Some(was_up) = was_up {
            self.level.note(sent);
            self.has_changed();
            if !was_up {
                tracing::info!(peer = %self.name(), "peer is up");
            }
        }
        self.has_been_tried();
    }

    /// It said goodbye.
    fn draining(&self) {
        self.change(Health::on_draining);
        self.has_been_tried();
    }

    /// It answered that it is shutting down.
    pub(super) fn found_draining(&self) {
        self.change(Health::on_found_draining);
        self.has_been_tried();
    }

    pub(super) fn refused(&self, why: &str) {
        let was_usable = self.is_usable();
        self.change(|health, now| health.on_refused(now, why));
        if was_usable {
            tracing::warn!(peer = %self.name(), why, "peer is none of ours");
        }
        self.has_been_tried();
    }

    /// It said hello, or answered ours.
    pub(super) fn heard(&self, hello: &Hello, ours: &Members) {
        {
            let mut line = self.line();
            let is_other_run = line.run.is_some_and(|run| run != hello.sender.incarnation);
            if hello.draining && is_other_run && line.health.state() == PeerState::Up {
                // The goodbye of an earlier run, overtaken by the return.
                return;
            }
            let now = self.clock.now();
            let since = line.belief.take().and_then(|belief| belief.differs_since);
            let mut belief = Belief::new(hello, now);
            belief.compare(ours, since, now, self.name());
            line.belief = Some(belief);
        }
        if hello.draining {
            self.draining();
        } else if self.line().health.state() == PeerState::Draining {
            // It is back, or another run of it: our own hello on a new connection will tell.
            self.change(|health, now| health.on_failure(now, 0.0, "it was shutting down, and is back"));
        }
    }

    /// A message came in from it: if it is held for unreachable, that may be over.
    pub(super) fn inbound(&self) {
        if self.is_usable() {
            return;
        }
        let now = self.clock.now();
        self.alter(|line| line.health.on_inbound(now));
        self.poke();
    }

    /// Wakes the keeper.
    pub(super) fn poke(&self) {
        self.news.notify_one();
    }

    /// Has the keeper say hello soon.
    pub(crate) fn greet(&self) {
        self.wants_hello.store(true, Ordering::SeqCst);
        self.poke();
    }

    /// Whether it is to say hello, because that was wanted since this was asked last.
    pub(super) fn is_to_be_greeted(&self) -> bool {
        self.wants_hello.swap(false, Ordering::SeqCst)
    }

    /// Which run of it answered our hello last; one of which nobody knows anything, if none has yet.
    pub(crate) fn run(&self) -> Origin {
        Origin::new(self.name().clone(), self.line().run.unwrap_or(Incarnation(0)))
    }

    /// Gives the connection up, if there is one: the next begins with hellos.
    pub(super) fn begin_anew(&self, why: &str) {
        let connection = self.line().connection.clone();
        if let Some(connection) = connection {
            self.lost(&connection, why);
        }
    }

    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// Whether its membership is known to differ from ours.
    pub(super) fn differs(&self, ours: &Members) -> bool {
        self.line().belief.as_ref().is_some_and(|belief| belief.fingerprint != ours.fingerprint())
    }

    /// When to try it again, if it has to be tried.
    pub(super) fn retry_at(&self) -> Option<Moment> {
        self.line().health.retry_at()
    }

    /// Whether the connection is the one in use.
    pub(super) fn uses(&self, connection: &Arc<dyn Connection>) -> bool {
        self.line().uses(connection)
    }

    /// The node is no longer a peer: its connection is closed, once what is on it has ended.
    pub(super) fn leave(&self) {
        self.left.cancel();
        self.alter(Line::give_up);
    }

    pub(super) fn left(&self) -> &CancellationToken {
        &self.left
    }

    pub(super) fn stats(&self, ours: &Members) -> PeerStats {
        let line = self.line();
        PeerStats {
            name: self.name().clone(),
            address: self.member.address().to_string(),
            listed: true,
            state: line.health.state(),
            down_for: line.health.down_for(self.clock.now()),
            latency: Some(self.latency.load(Ordering::Relaxed)).filter(|way| *way > 0).map(Duration::from_nanos),
            requests: self.questions.get(),
            failures: line.failures,
            fingerprint: line.belief.as_ref().map(|belief| belief.fingerprint),
            differs: line.belief.as_ref().and_then(|belief| belief.differences(ours)),
        }
    }

    fn has_been_tried(&self) {
        // An error means that it had been tried before.
        let _ = self.tried.set(());
    }

    fn change(&self, change: impl FnOnce(&mut Health, Moment)) {
        let now = self.clock.now();
        self.alter(|line| change(&mut line.health, now));
        self.has_changed();
    }

    /// Tells those who wait for a change.
    fn has_changed(&self) {
        self.level.tell();
        self.poke();
    }

    /// Changes what is known of the peer, and with it whether requests are sent to it, and on which connection.
    fn alter<T>(&self, alter: impl FnOnce(&mut Line) -> T) -> T {
        let mut line = self.line();
        let altered = alter(&mut line);
        let is_usable = line.health.usable();
        let connection = line.live().cloned();
        let is_same = match (&*self.live.load(), &connection) {
            (Some(known), Some(connection)) => Arc::ptr_eq(&known.0, connection),
            (None, None) => true,
            _ => false,
        };
        if !is_same {
            self.live.store(connection.map(|connection| Arc::new(Live(connection))));
        }
        self.usable.store(is_usable, Ordering::Release);
        altered
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Nothing that can panic runs under this lock.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_closed(connection: &Arc<dyn Connection>) -> bool {
    connection.closed().now_or_never().is_some()
}

fn describe(state: &PeerState) -> String {
    match state {
        PeerState::Connecting => String::from("it is not connected yet"),
        PeerState::Up => String::from("it is up"),
        PeerState::Draining => String::from("it is shutting down"),
        PeerState::Down { why } | PeerState::Refused { why } => why.to_string(),
    }
}
