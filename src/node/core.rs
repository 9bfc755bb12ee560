//! A node's inside: what its handles share, and how it ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{self, Clock};
use crate::coherence::Coherence;
use crate::config::NodeConfig;
use crate::group::{Context, Registry};
use crate::member::Member;
use crate::message::{Ask, Incarnation, News, Reply, Sender, Versions};
use crate::peers::Peers;
use crate::planted::{Bug, is_planted};
use crate::pulse::Pulse;
use crate::removals::Origin;
use crate::tasks::{ShutdownReport, Tasks};
use crate::transport::Transport;

use super::stats::SelfCheck;

/// How long the work in flight gets when the last handle is dropped.
const DROP_LIMIT: Duration = Duration::from_secs(10);
/// How long peers get to hear that this node is going.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);
/// How often a node tries to reach itself after its start, and how long it waits in between: a mounted service may be
/// up a little later than its node.
const SELF_CHECKS: u32 = 5;
const SELF_CHECK_EVERY: Duration = Duration::from_secs(1);

/// How often what is over is looked for among removals, while there are any that are not complete.
const TEND_EVERY: Duration = Duration::from_secs(1);
/// Where a planted bug ends them.
const TEND_OFTEN: Duration = Duration::from_millis(50);

/// What all handles of one node share.
pub(crate) struct Core {
    pub(super) context: Arc<Context>,
    pub(super) registry: Arc<Registry>,
    transport: Option<Arc<dyn Transport>>,
    connect_timeout: Duration,
    self_check: Mutex<SelfCheck>,
}

impl Core {
    pub(super) fn new(own: Member, config: NodeConfig, transport: Option<Arc<dyn Transport>>) -> Arc<Self> {
        let (clock, tasks) = (Clock::start(), Arc::new(Tasks::default()));
        let incarnation = Incarnation(clock::random());
        let name = own.name().clone();
        let cluster = Arc::from(config.cluster);
        let sender = Arc::new(Sender { cluster, name: name.clone(), incarnation, versions: Versions::SPOKEN });
        let connect_timeout = config.connect_timeout;
        let registry = Arc::new(Registry::default());
        let coherence = Arc::new(Coherence::new(Origin::new(name, incarnation), Arc::downgrade(&registry) as _));
        let heard = Arc::clone(&coherence);
        let peers = Peers::new(own, sender, clock, Arc::clone(&tasks), heard, transport.clone(), connect_timeout);
        let (peers, pulse, max_value_bytes) = (Arc::new(peers), Pulse::of_nobody(), config.max_value_bytes);
        let context = Context { peers, tasks, clock, coherence, pulse, max_value_bytes };
        Arc::new(Self {
            context: Arc::new(context),
            registry,
            self_check: Mutex::new(if transport.is_some() { SelfCheck::Running } else { SelfCheck::NotNeeded }),
            transport,
            connect_timeout,
        })
    }

    /// Whether peers can reach this node at all.
    pub(super) fn has_port(&self) -> bool {
        self.transport.is_some()
    }

    pub(super) fn tasks(&self) -> &Arc<Tasks> {
        &self.context.tasks
    }

    pub(super) fn self_check(&self) -> SelfCheck {
        self.self_check.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Finds out, aside, whether the address that peers are told leads here, and says so if it does not. A node whose
    /// address is wrong works, but all that it owns is loaded elsewhere.
    pub(super) fn check_itself(self: &Arc<Self>) {
        let core = Arc::clone(self);
        self.tasks().service(async move {
            let stopping = core.tasks().stopping().clone();
            let check = async {
                let mut outcome = core.reach_itself().await;
                for _ in 1..SELF_CHECKS {
                    if outcome.is_ok() {
                        break;
                    }
                    clock::sleep(SELF_CHECK_EVERY).await;
                    outcome = core.reach_itself().await;
                }
                core.note_self_check(outcome);
            };
            stopping.run_until_cancelled(check).await;
        });
    }

    /// Sees to it that nothing of a removal stays when it is over.
    pub(super) fn tend_removals(&self) {
        let (coherence, clock) = (Arc::clone(&self.context.coherence), self.context.clock);
        let stopping = self.tasks().stopping().clone();
        self.tasks().service(async move {
            let tending = async {
                loop {
                    coherence.until_loud().await;
                    clock::sleep(if is_planted(Bug::TombstonesExpire) { TEND_OFTEN } else { TEND_EVERY }).await;
                    coherence.tend(clock.now());
                }
            };
            stopping.run_until_cancelled(tending).await;
        });
    }

    fn note_self_check(&self, outcome: Result<(), String>) {
        let address = self.context.peers.own().address();
        let noted = match outcome {
            Ok(()) => SelfCheck::Passed,
            Err(why) => {
                tracing::warn!(address, why, "this node's address does not lead to it: peers cannot reach it");
                SelfCheck::Failed { why }
            }
        };
        *self.self_check.lock().unwrap_or_else(PoisonError::into_inner) = noted;
    }

    async fn reach_itself(&self) -> Result<(), String> {
        let Some(transport) = &self.transport else { return Ok(()) };
        let peers = &self.context.peers;
        let attempt = async {
            let opened = transport.connect(Arc::clone(&peers.own().address)).await.map_err(|why| why.to_string())?;
            let hello = opened.connection.call(peers.request(Ask::Hello(peers.hello(News::default()))));
            tokio::select! {
                biased;
                reply = hello => reply.map_err(|why| why.to_string()),
                () = opened.driver => Err(String::from("the connection was closed")),
            }
        };
        let limit = self.connect_timeout;
        match tokio::time::timeout(limit, attempt).await {
            Ok(Ok(Reply::Hello(hello))) if hello.sender.incarnation == peers.sender().incarnation => Ok(()),
            Ok(Ok(Reply::Hello(hello))) => Err(format!("another node answers there, {}", hello.sender.name)),
            Ok(Ok(_)) => Err(String::from("what answers there is not a node")),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(format!("no answer within {limit:?}")),
        }
    }

    /// Takes no more calls, tells the peers, gives what is in flight `limit` to end, cuts short the rest, and joins
    /// the tasks.
    pub(super) async fn shutdown(&self, limit: Duration) -> ShutdownReport {
        if self.tasks().close() {
            tracing::info!(node = %self.context.peers.own().name(), "shutting down");
        }
        let goodbye = self.context.peers.say_goodbye(GOODBYE_LIMIT.min(limit));
        let (report, ()) = futures::future::join(self.tasks().join(limit), goodbye).await;
        report
    }

    /// The same without waiting: for when the last handle is dropped.
    pub(super) fn shutdown_aside(self: &Arc<Self>) {
        // From here on, and not only once the task below has begun. A shutdown that has been begun may have been
        // dropped half-way: it is carried on here, and if it was not, joining what has ended costs nothing. Without a
        // runtime there are no tasks to end.
        self.tasks().close();
        if let Ok(runtime) = self.tasks().runtime() {
            let core = Arc::clone(self);
            runtime.spawn(async move { core.shutdown(DROP_LIMIT).await });
        }
    }
}
