//! Removals: applied here, told to everybody at once, and a receipt.
//!
//! Who is told, and in which order, is a matter of cost: until everybody has applied a removal it travels with the
//! questions of those who have. The telling runs in tasks that the node owns: a caller that goes away does not leave it
//! half done. Who does not answer in time is pending in the receipt, and is told again when it says hello, by this node
//! or by another.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use tokio::sync::oneshot;

use crate::entry::Value;
use crate::error::Error;
use crate::member::NodeName;
use crate::message::{Ask, RemovalId, Remove, Reply, Scope};
use crate::peers::Peer;
use crate::planted::{Bug, is_planted};
use crate::receipt::Receipt;
use crate::removals::{Record, Span, Standing, Tick, What};
use crate::tasks::Work;
use crate::time::Moment;
use crate::transport::CallError;
use crate::wire;

use super::inner::Inner;

/// Why a peer was told in vain, in words.
pub(super) type WhyNot = BTreeMap<NodeName, String>;

/// Whom a removal is for, and whether it is there because of lists.
pub(super) type ToldWhom = BTreeMap<NodeName, bool>;

impl<V: Value> Inner<V> {
    /// Takes keys, or everything, out of every cache of the cluster.
    pub(super) async fn remove(self: &Arc<Self>, scope: Scope) -> Result<Receipt, Error> {
        if is_planted(Bug::RemovalsMerged) {
            return self.removed_together(scope).await;
        }
        self.remove_alone(scope).await
    }

    pub(super) async fn remove_alone(self: &Arc<Self>, scope: Scope) -> Result<Receipt, Error> {
        self.check_removal()?;
        self.removals.removals.one();
        let until = self.removal_ends();
        // It begins here and now, and is applied here before anything else.
        let coherence = &self.context.coherence;
        let told = coherence.told();
        let records: Vec<_> = parts(scope).into_iter().map(|scope| coherence.remove(&self.name, scope)).collect();
        let group = Arc::clone(self);
        self.in_a_task(async move { Ok(group.removal_round(&records, told, until).await) }).await
    }

    /// Until when a removal that is called now waits for other nodes, whatever it waits for.
    pub(super) fn removal_ends(&self) -> Moment {
        self.now() + self.config.removal_timeout
    }

    /// Passes where a removal can begin.
    pub(super) fn check_removal(&self) -> Result<(), Error> {
        self.context.check_open()?;
        self.context.check_runtime()
    }

    /// Runs a round in a task of the node's, to its end, whatever becomes of the caller.
    pub(super) async fn in_a_task(
        &self,
        round: impl Future<Output = Result<Receipt, Error>> + Send + 'static,
    ) -> Result<Receipt, Error> {
        let (done, receipt) = oneshot::channel();
        self.context.tasks.work(Work::Removal, async move {
            // A caller that has left does not want the receipt.
            let _ = done.send(round.await);
        });
        receipt.await.unwrap_or(Err(Error::Closed))
    }

    async fn removal_round(self: &Arc<Self>, records: &[Arc<Record>], told: ToldWhom, until: Moment) -> Receipt {
        let view = self.context.peers.view_owned();
        let why_not = self.tell(view.peers(), records, until).await;
        self.receipt(records, told, &why_not, until).await
    }

    /// Tells peers of removals, all at once: those that can be reached, and waits for their word until then.
    pub(super) async fn tell(
        self: &Arc<Self>,
        peers: impl Iterator<Item = &Arc<Peer>>,
        records: &[Arc<Record>],
        until: Moment,
    ) -> WhyNot {
        let telling = peers.map(async |peer| {
            let told = records.iter().map(|record| self.tell_one(peer, record, until));
            let why = join_all(told).await.into_iter().find_map(Result::err)?;
            Some((peer.name().clone(), why))
        });
        join_all(telling).await.into_iter().flatten().collect()
    }

    /// Tells one peer, and waits for its word until then. The message itself stays under way for longer than that.
    async fn tell_one(self: &Arc<Self>, peer: &Arc<Peer>, record: &Arc<Record>, until: Moment) -> Result<(), String> {
        let What::One { group, scope } = &record.what else { return Ok(()) };
        let (version, asked) = self.before_telling(peer);
        let remove = Remove { id: id_of(&record.span), group: Arc::clone(group), scope: scope.clone(), version };
        let request = self.context.peers.request(Ask::Remove(remove));
        let (teller, peer, limit) = (Arc::clone(self), Arc::clone(peer), self.config.timeout);
        let (done, outcome) = oneshot::channel();
        let record = Arc::clone(record);
        self.context.tasks.work(Work::Removal, async move {
            if let Ok(outcome) = tokio::time::timeout(limit, peer.call(request)).await {
                let told = teller.told(&peer, &record.span, asked, outcome);
                // Nobody waits for it any more: it was late.
                let _ = done.send(told);
            }
        });
        match tokio::time::timeout(until.since(self.now()), outcome).await {
            Ok(Ok(told)) => told,
            Ok(Err(_)) => Err(String::from("the node is shutting down")),
            Err(_) => Err(self.no_answer()),
        }
    }

    /// Why a peer is pending that has said nothing, in words.
    pub(super) fn no_answer(&self) -> String {
        format!("no answer within {:?}", self.config.removal_timeout)
    }

    /// What a message says that asks for an acknowledgement, and the moment at which it leaves.
    pub(super) fn before_telling(&self, peer: &Peer) -> (u64, Tick) {
        let coherence = &self.context.coherence;
        (coherence.version_of(&peer.run()), coherence.tick())
    }

    /// Takes in what a peer says to a removal that left at `asked`.
    pub(super) fn told(
        &self,
        peer: &Peer,
        span: &Span,
        asked: Tick,
        outcome: Result<Reply, CallError>,
    ) -> Result<(), String> {
        let ack = match outcome {
            Ok(Reply::Remove(ack) | Reply::Insert { ack, .. }) => ack,
            Ok(_) => return Err(String::from("the reply does not fit the request")),
            Err(error) => return Err(error.to_string()),
        };
        let Some(ack) = ack else { return Err(String::from("it has not applied the removal")) };
        if !self.context.coherence.acknowledged(&ack, span, asked) {
            // It has streams, or lists nodes, of which this node does not know, and does not say so by itself.
            peer.greet();
        }
        Ok(())
    }

    /// The receipt of a round that waits until then, also for whom this node has not told itself, but not for who is
    /// known to be down.
    pub(super) async fn receipt(
        self: &Arc<Self>,
        records: &[Arc<Record>],
        told: ToldWhom,
        why_not: &WhyNot,
        until: Moment,
    ) -> Receipt {
        let coherence = &self.context.coherence;
        let spans: Vec<Span> = records.iter().map(|record| record.span.clone()).collect();
        let is_waited_for = |(name, standing): (NodeName, Standing)| {
            matches!(standing, Standing::Pending(_)) && !why_not.contains_key(&name)
        };
        let settling = coherence.until(|| !coherence.standing(&spans, &told).into_iter().any(is_waited_for));
        // A time-out is no failure here: it is what the limit is for.
        let _ = tokio::time::timeout(until.since(self.now()), settling).await;
        let receipt = Receipt::new(Arc::clone(coherence), spans, told, why_not);
        self.removals.pending.add(receipt.pending().count() as u64);
        receipt
    }
}

/// What one call removes, in parts that each fit in one message. No keys are a removal too, if of nothing.
fn parts(scope: Scope) -> Vec<Scope> {
    match scope {
        Scope::Keys(keys) if !keys.is_empty() => {
            wire::split_keys(keys, |key| key).into_iter().map(Scope::Keys).collect()
        }
        whole => vec![whole],
    }
}

/// The identity of a removal that is one.
pub(super) fn id_of(span: &Span) -> RemovalId {
    RemovalId { origin: span.origin.name.clone(), incarnation: span.origin.incarnation, number: span.last }
}
