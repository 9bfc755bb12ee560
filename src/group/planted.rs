//! What planted bugs make of removals and inserts: see `planted.rs` of the crate.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::oneshot;
use tokio::time::error::Elapsed;

use crate::clock;
use crate::entry::Value;
use crate::error::Error;
use crate::key::HashedKey;
use crate::message::{Ask, Insert, Reply, Scope};
use crate::peers::Peer;
use crate::planted::{Bug, is_planted};
use crate::receipt::Receipt;
use crate::tasks::Work;
use crate::transport::CallError;

use super::inner::Inner;
use super::registry::Limits;

/// How often, and after which time, what was queued is sent again.
const TRIES: usize = 10;
const TRIED_AFTER: Duration = Duration::from_millis(400);

/// Whether an owner stores what it did not ask for.
pub(crate) fn stores_unasked() -> bool {
    is_planted(Bug::PushedUnasked) || is_planted(Bug::InsertsQueued)
}

/// A removal that is under way.
type Alone = BoxFuture<'static, Result<Receipt, Error>>;

thread_local! {
    /// The removals that are under way: whose, and what each takes out.
    static ROUNDS: RefCell<Vec<(u64, Scope, WeakShared<Alone>)>> = const { RefCell::new(Vec::new()) };
}

impl<V: Value> Inner<V> {
    /// Offers a value in the way of a planted bug: it comes with the offer, or is sent again until it gets there. `None`
    /// if no such bug is planted.
    pub(super) async fn offer_planted(
        self: &Arc<Self>,
        owner: &Arc<Peer>,
        insert: &Insert,
        wait: Duration,
    ) -> Option<Result<Result<Reply, CallError>, Elapsed>> {
        if !stores_unasked() {
            return None;
        }
        let value = self.offers.with(insert.id.number, insert.key.as_bytes(), |offer| offer.bytes.clone());
        let pushed = Insert { value, ..insert.clone() };
        if is_planted(Bug::PushedUnasked) {
            return Some(tokio::time::timeout(wait, self.push(owner, Ask::Insert(pushed))).await);
        }
        let offer = self.context.peers.request(Ask::Insert(insert.clone()));
        let outcome = tokio::time::timeout(wait, owner.call(offer)).await;
        if !matches!(outcome, Ok(Ok(_))) {
            self.queue(owner, pushed);
        }
        Some(outcome)
    }

    /// A removal, or the same one if it is under way on this node.
    pub(super) fn removed_together(self: &Arc<Self>, scope: Scope) -> Shared<Alone> {
        ROUNDS.with_borrow_mut(|rounds| {
            rounds.retain(|(.., round)| round.upgrade().is_some_and(|round| round.peek().is_none()));
            let same = rounds.iter().find(|(group, other, _)| (*group, other) == (self.id, &scope));
            if let Some(round) = same.and_then(|(.., round)| round.upgrade()) {
                return round;
            }
            let (group, what) = (Arc::clone(self), scope.clone());
            let round = async move { group.remove_alone(what).await }.boxed().shared();
            rounds.extend(round.downgrade().map(|weak| (self.id, scope, weak)));
            round
        })
    }

    /// Sends an insert with its value, which stays under way when nobody waits for it any more.
    async fn push(self: &Arc<Self>, owner: &Arc<Peer>, ask: Ask) -> Result<Reply, CallError> {
        let (request, owner, limit) = (self.context.peers.request(ask), Arc::clone(owner), self.config.timeout);
        let (done, outcome) = oneshot::channel();
        self.context.tasks.work(Work::Removal, async move {
            if let Ok(outcome) = tokio::time::timeout(limit, owner.call(request)).await {
                let _ = done.send(outcome);
            }
        });
        outcome.await.unwrap_or(Err(CallError::GivenUp))
    }

    /// Sends an insert again until it gets there.
    fn queue(self: &Arc<Self>, owner: &Arc<Peer>, insert: Insert) {
        let (group, owner) = (Arc::clone(self), Arc::clone(owner));
        self.context.tasks.service(async move {
            let trying = async {
                for _ in 0..TRIES {
                    clock::sleep(TRIED_AFTER).await;
                    if owner.call(group.context.peers.request(Ask::Insert(insert.clone()))).await.is_ok() {
                        return;
                    }
                }
            };
            group.context.tasks.stopping().run_until_cancelled(trying).await;
        });
    }

    /// Stores what came, whatever has been removed since it was sent.
    pub(super) fn store_unasked(self: &Arc<Self>, key: &HashedKey, value: &Bytes, limits: Limits) -> bool {
        self.install_from_client(key, value, (limits, Vec::new())).unwrap_or(false)
    }
}
