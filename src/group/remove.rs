//! Removals and inserts: one numbered round to all listed nodes, and a receipt.
//!
//! A round runs in a task that the node owns: a caller that goes away does not leave it half done. Who does not answer
//! in time is pending in the receipt; the message to it stays under way for a while.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::oneshot;

use crate::entry::Value;
use crate::error::Error;
use crate::key::{HashedKey, KeyHash};
use crate::loader::Loaded;
use crate::member::Member;
use crate::message::{Ask, Insert, RemovalId, Remove, Reply, Scope};
use crate::peers::{Peer, View};
use crate::removals::{Receipt, Round, Told};
use crate::store::{Entry, Place};
use crate::tasks::Work;
use crate::transport::CallError;
use crate::wire;

use super::inner::Inner;

/// Why a message of a round did not do what it should.
enum Unsent {
    /// The peer is there, and does not take it.
    Refused(String),
    /// The peer cannot be reached, or has not answered in time.
    Pending(String),
}

impl From<CallError> for Unsent {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(refusal) => Self::Refused(refusal.message),
            error => Self::Pending(error.to_string()),
        }
    }
}

impl<V: Value> Inner<V> {
    /// Takes keys, or everything, out of every cache of the cluster.
    pub(super) async fn remove(self: &Arc<Self>, scope: Scope) -> Result<Receipt, Error> {
        self.removals.removals.one();
        let group = Arc::clone(self);
        self.in_a_task(async move { Ok(group.removal_round(scope).await) }).await
    }

    /// Puts a value in its owner's cache, and takes the key out of all others. If the owner does not take it, it is a
    /// removal.
    pub(super) async fn insert(self: &Arc<Self>, key: HashedKey, loaded: Loaded<V>) -> Result<Receipt, Error> {
        let Loaded { value: Some(value), time_to_live } = loaded else {
            return self.remove(Scope::Keys(vec![key.key])).await;
        };
        self.removals.inserts.one();
        // Encoded here, whoever owns the key: what could not be sent is refused by every node alike.
        let bytes = self.encode(&value)?;
        let group = Arc::clone(self);
        let loaded = Loaded { value: Some(value), time_to_live };
        self.in_a_task(async move { group.insert_round(key, loaded, bytes).await }).await
    }

    /// Runs a round in a task of the node's, to its end, whatever becomes of the caller.
    async fn in_a_task(
        &self,
        round: impl Future<Output = Result<Receipt, Error>> + Send + 'static,
    ) -> Result<Receipt, Error> {
        self.context.check_open()?;
        self.context.check_runtime()?;
        let (done, receipt) = oneshot::channel();
        self.context.tasks.work(Work::Removal, async move {
            // A caller that has left does not want the receipt.
            let _ = done.send(round.await);
        });
        receipt.await.unwrap_or(Err(Error::Closed))
    }

    async fn removal_round(&self, scope: Scope) -> Receipt {
        let view = self.context.peers.view_owned();
        let nodes = view.members().len();
        let round = match &scope {
            Scope::Keys(keys) => Round::of_keys(keys, nodes, |key| view.owner(KeyHash::of(key))),
            Scope::Group => Round::of_group(nodes),
        };
        let id = self.context.numbers.next();
        let mut told = BTreeMap::new();
        self.tell_all(&view, &id, round.owners, &mut told).await;
        self.tell_all(&view, &id, round.others, &mut told).await;
        self.receipt(&view, &id, false, told)
    }

    async fn insert_round(&self, key: HashedKey, loaded: Loaded<V>, bytes: Bytes) -> Result<Receipt, Error> {
        let view = self.context.peers.view_owned();
        let id = self.context.numbers.next();
        let owner = view.owner(key.hash);
        let mut round = Round::of_keys(std::slice::from_ref(&key.key), view.members().len(), |_| owner);
        let mut told = BTreeMap::new();
        let stored = match view.peer(owner) {
            None => self.install(&key, loaded)?,
            Some(peer) => match self.send_insert(peer, &id, key, bytes, loaded.time_to_live).await {
                Ok(stored) => stored,
                Err(Unsent::Pending(why)) => {
                    told.insert(owner, Told::Pending { why });
                    // Should it get the value after all, a drop follows: a value that was not stored in time is not
                    // stored later.
                    round.others.append(&mut round.owners);
                    false
                }
                // The owner does not take the value: then it has to drop what it has.
                Err(Unsent::Refused(_)) => {
                    self.tell_all(&view, &id, round.owners, &mut told).await;
                    false
                }
            },
        };
        self.tell_all(&view, &id, round.others, &mut told).await;
        Ok(self.receipt(&view, &id, stored, told))
    }

    /// Puts a value in this node's cache, if this node owns the key; says whether it was kept. To anybody else it is a
    /// removal.
    pub(super) fn install(&self, key: &HashedKey, loaded: Loaded<V>) -> Result<bool, Error> {
        let place = self.context.peers.view().place(key.hash);
        let (landed, keep) = self.settle(loaded, self.now(), place)?;
        let Some(keep) = keep.filter(|_| place == Place::Main) else {
            self.shards.remove(key.as_ref());
            return Ok(false);
        };
        let entry = Entry { value: landed.value, weight: keep.weight, born: landed.born, expires: landed.expires };
        Ok(self.shards.insert(key, entry, keep.place))
    }

    async fn send_insert(
        &self,
        owner: &Arc<Peer>,
        id: &RemovalId,
        key: HashedKey,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> Result<bool, Unsent> {
        let ask = Ask::Insert(Insert {
            id: id.clone(),
            group: Arc::clone(&self.name),
            schema: self.config.schema,
            key: key.key,
            value,
            time_to_live,
        });
        // Given up when its time is over. Only drops are sent late: a late value could take the place of a newer one.
        let wait = self.config.removal_timeout;
        let call = owner.call(self.context.peers.request(ask));
        match tokio::time::timeout(wait, call).await.map(|outcome| outcome.map_err(Unsent::from)) {
            Ok(Ok(Reply::Insert { stored })) => Ok(stored),
            Ok(Ok(_)) => Err(Unsent::Refused(String::from("the reply does not fit the request"))),
            Ok(Err(unsent)) => Err(unsent),
            Err(_) => Err(Unsent::Pending(format!("no answer within {wait:?}"))),
        }
    }

    /// Tells nodes what to drop, all at once, and notes what became of each. A node that is pending stays so.
    async fn tell_all(
        &self,
        view: &View,
        id: &RemovalId,
        stage: BTreeMap<usize, Scope>,
        told: &mut BTreeMap<usize, Told>,
    ) {
        let telling = stage.into_iter().map(async |(node, scope)| (node, self.tell(view, id, node, scope).await));
        for (node, outcome) in join_all(telling).await {
            let told = told.entry(node).or_insert(Told::Done);
            if *told == Told::Done {
                *told = outcome;
            }
        }
    }

    async fn tell(&self, view: &View, id: &RemovalId, node: usize, scope: Scope) -> Told {
        let Some(peer) = view.peer(node) else {
            self.apply(&scope);
            return Told::Done;
        };
        let parts = match scope {
            Scope::Keys(keys) => wire::split_keys(keys, |key| key).into_iter().map(Scope::Keys).collect(),
            Scope::Group => vec![Scope::Group],
        };
        let messages = parts
            .into_iter()
            .map(|scope| self.send(peer, Ask::Remove(Remove { id: id.clone(), group: Arc::clone(&self.name), scope })));
        let unsent = join_all(messages).await.into_iter().find_map(|reply| match reply {
            Ok(Reply::Remove) => None,
            Ok(_) => Some(String::from("the reply does not fit the request")),
            Err(Unsent::Refused(why) | Unsent::Pending(why)) => Some(why),
        });
        unsent.map_or(Told::Done, |why| Told::Pending { why })
    }

    /// Sends a drop, and waits for its reply for as long as a removal may. The message itself stays under way for
    /// longer than that, so that a peer that is slow, or a round that was given up, still gets it.
    async fn send(&self, peer: &Arc<Peer>, ask: Ask) -> Result<Reply, Unsent> {
        let request = self.context.peers.request(ask);
        let (peer, limit) = (Arc::clone(peer), self.config.timeout);
        let (done, outcome) = oneshot::channel();
        self.context.tasks.work(Work::Removal, async move {
            if let Ok(outcome) = tokio::time::timeout(limit, peer.call(request)).await {
                // Nobody waits for it any more: it was late.
                let _ = done.send(outcome);
            }
        });
        let wait = self.config.removal_timeout;
        match tokio::time::timeout(wait, outcome).await {
            Ok(Ok(outcome)) => outcome.map_err(Unsent::from),
            Ok(Err(_)) => Err(Unsent::Pending(String::from("the node is shutting down"))),
            Err(_) => Err(Unsent::Pending(format!("no answer within {wait:?}"))),
        }
    }

    fn receipt(&self, view: &View, id: &RemovalId, stored: bool, mut told: BTreeMap<usize, Told>) -> Receipt {
        let names = view.members().iter().map(Member::name).enumerate();
        let nodes: BTreeMap<_, _> =
            names.map(|(node, name)| (name.clone(), told.remove(&node).unwrap_or(Told::Done))).collect();
        let receipt = Receipt { number: id.number, stored, nodes };
        self.removals.pending.add(receipt.pending().count() as u64);
        receipt
    }
}
