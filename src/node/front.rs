//! The front door: checks who asks and what for, and passes the request to its group.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
#[cfg(feature = "test-util")]
use tokio::sync::SetOnce;

use crate::coherence::{Holders, Presence};
use crate::group::{Serve, stores_unasked};
use crate::key::Key;
use crate::member::NodeName;
use crate::message::{
    Ack, After, Answer, Ask, GetTerms, Hello, Insert, News, Refusal, RefusalKind, Remove, Reply, Request, Sender,
};
use crate::planted::{Bug, is_planted};
use crate::removals::{Origin, Record, Span};
use crate::transport::{Handler, Room, Served, Wanted};

use super::core::Core;

/// So many different complaints are logged as warnings; more are not, so that a peer cannot flood the log.
const MOST_COMPLAINTS: usize = 256;

/// Answers peers for one node.
pub(super) struct Front {
    core: Arc<Core>,
    /// What has been complained about already: by whom it was asked, and the complaint.
    complaints: Mutex<HashSet<(Option<NodeName>, String)>>,
}

impl Handler for Front {
    fn handle(&self, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
        async move {
            let sender = request.sender.clone();
            let outcome = self.answer(request).await;
            if let Err(refusal) = &outcome {
                self.complain(sender.as_deref(), refusal);
            }
            outcome
        }
        .boxed()
    }

    fn meet(&self, sender: &Sender) -> Option<Presence> {
        let context = &self.core.context;
        let is_peer = self.check_sender(sender).is_ok() && sender.name != *context.peers.own().name();
        is_peer.then(|| context.coherence.meet(Origin::new(sender.name.clone(), sender.incarnation)))
    }

    fn serve(
        self: Arc<Self>,
        sender: Option<&Arc<Sender>>,
        terms: &GetTerms,
        wanted: &[Wanted],
        room: Room,
        served: &mut dyn FnMut(usize, Served),
    ) -> usize {
        match self.let_in(sender.map(Arc::as_ref), terms) {
            // A client that is no node is not waited for by a load of this cluster: it stands in line as others do.
            Ok(group) => group.serve(wanted, terms.nested && sender.is_some(), room, served),
            Err(refusal) => {
                self.complain(sender.map(Arc::as_ref), &refusal);
                (0..wanted.len()).for_each(|at| served(at, Served::Now(Err(refusal.clone()))));
                wanted.len()
            }
        }
    }
}

impl Front {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core, complaints: Mutex::default() }
    }

    async fn answer(&self, request: Request) -> Result<Reply, Refusal> {
        if let Some(sender) = &request.sender {
            self.check_sender(sender)?;
            self.core.context.peers.inbound(&sender.name);
        }
        let sender = request.sender.as_deref();
        match request.ask {
            Ask::Hello(hello) => self.hello(&hello).map(Reply::Hello),
            Ask::Get(get) => {
                let answers = self.get(sender, &get.terms, vec![(get.key, get.after)]).await?;
                let answer = answers.into_iter().next();
                answer.map(Reply::Get).ok_or_else(|| Refusal::new(RefusalKind::Invalid, "there is no answer"))
            }
            Ask::GetMany(get) => {
                let keys = get.keys.into_iter().map(|key| (key, After::default())).collect();
                self.get(sender, &get.terms, keys).await.map(Reply::GetMany)
            }
            Ask::Remove(remove) => Ok(Reply::Remove(self.remove(sender, remove))),
            Ask::Insert(insert) => self.insert(sender, insert).await,
        }
    }

    fn check_sender(&self, theirs: &Sender) -> Result<(), Refusal> {
        let own = self.core.context.peers.sender();
        if theirs.cluster != own.cluster {
            let message =
                format!("this node belongs to the cluster {:?}, the sender to {:?}", own.cluster, theirs.cluster);
            return Err(Refusal::new(RefusalKind::WrongCluster, message));
        }
        if !theirs.versions.overlaps(own.versions) {
            let message = format!(
                "this node speaks the protocol versions {} to {}, the sender {} to {}",
                own.versions.min, own.versions.max, theirs.versions.min, theirs.versions.max
            );
            return Err(Refusal::new(RefusalKind::Version, message));
        }
        Ok(())
    }

    fn hello(&self, hello: &Hello) -> Result<Hello, Refusal> {
        self.check_sender(&hello.sender)?;
        let peers = &self.core.context.peers;
        let own = peers.sender();
        let from = Origin::new(hello.sender.name.clone(), hello.sender.incarnation);
        let is_mute = is_planted(Bug::HellosOfNoRemovals);
        if hello.sender.name != own.name {
            peers.heard(hello);
            if !is_mute {
                peers.take_news(&from, &hello.news, None);
            }
        } else if hello.sender.incarnation != own.incarnation {
            let message = format!("two nodes call themselves {}: each needs a name of its own", own.name);
            return Err(Refusal::new(RefusalKind::Invalid, message));
        }
        // Who tells nothing of removals is told nothing.
        let is_told = !is_mute && hello.sender.name != own.name && !hello.news.reports.is_empty();
        let coherence = &self.core.context.coherence;
        Ok(peers.hello(if is_told { coherence.news_for(Some(&from)) } else { News::default() }))
    }

    /// The group that a request of these terms is for, if it is let in.
    fn let_in(&self, sender: Option<&Sender>, terms: &GetTerms) -> Result<Arc<dyn Serve>, Refusal> {
        if let Some(sender) = sender {
            self.check_sender(sender)?;
            self.core.context.peers.inbound(&sender.name);
        }
        self.check_open()?;
        self.group(&terms.group, terms.schema)
    }

    /// Keys of one request, answered together.
    async fn get(
        &self,
        sender: Option<&Sender>,
        terms: &GetTerms,
        keys: Vec<(Key, After)>,
    ) -> Result<Vec<Answer>, Refusal> {
        let group = self.let_in(sender, terms)?;
        let mut distinct = HashSet::with_capacity(keys.len());
        if !keys.iter().all(|(key, _)| distinct.insert(key)) {
            return Err(Refusal::new(RefusalKind::Invalid, "a key is asked for twice in one request"));
        }
        let wanted = |(key, after): &(Key, After)| {
            let (key, after) = (Bytes::copy_from_slice(key), after.clone());
            Wanted { key, time_limit: terms.time_limit, max_age: terms.max_age, after }
        };
        let wanted: Vec<_> = keys.iter().map(wanted).collect();
        let mut all: Vec<_> = wanted.iter().map(|_| None).collect();
        let nested = terms.nested && sender.is_some();
        group.serve(&wanted, nested, Room::UNLIMITED, &mut |at, served| all[at] = Some(served));
        let answers = all.into_iter().flatten().map(async |served| match served {
            Served::Now(answer) => answer,
            Served::Later(answer) => answer.await,
        });
        join_all(answers).await.into_iter().collect()
    }

    /// A removal of another node is applied, and said to be. A group that this node does not have (yet) has nothing to
    /// drop here: acknowledged all the same. A client's has no number, and is over with that.
    fn remove(&self, sender: Option<&Sender>, remove: Remove) -> Option<Ack> {
        let Remove { id, group, scope, version } = remove;
        if sender.is_none() {
            self.core.registry.take_out(&group, &scope);
            return None;
        }
        let coherence = &self.core.context.coherence;
        let record = Record::one(Span::from(&id), group, scope);
        coherence.apply(&Arc::new(record)).then(|| coherence.ack(version))
    }

    async fn insert(&self, sender: Option<&Sender>, insert: Insert) -> Result<Reply, Refusal> {
        self.check_open()?;
        let group = self.group(&insert.group, insert.schema)?;
        match (sender, insert.value.clone().filter(|_| !stores_unasked())) {
            (Some(sender), None) => {
                let from = Origin::new(sender.name.clone(), sender.incarnation);
                let version = insert.version;
                let (stored, is_applied) = group.take_offer(from, insert).await;
                Ok(Reply::Insert { stored, ack: is_applied.then(|| self.core.context.coherence.ack(version)) })
            }
            (None, Some(value)) => {
                let terms = ((insert.time_to_live, insert.refresh_after), insert.tags);
                let stored = group.install(insert.key, value, terms)?;
                Ok(Reply::Insert { stored, ack: None })
            }
            (Some(_), Some(_)) => {
                Err(Refusal::new(RefusalKind::Invalid, "a node offers its values, and is asked for them"))
            }
            (None, None) => Err(Refusal::new(RefusalKind::Invalid, "an offer of a client's cannot be asked for")),
        }
    }

    fn check_open(&self) -> Result<(), Refusal> {
        if self.core.tasks().is_closed() {
            return Err(Refusal::new(RefusalKind::Draining, "the node is shutting down"));
        }
        Ok(())
    }

    fn group(&self, name: &str, schema: u32) -> Result<Arc<dyn Serve>, Refusal> {
        let group = self.core.registry.find(name).ok_or_else(|| {
            let message = format!("node {} has no group {name:?}", self.core.context.peers.own().name());
            Refusal::new(RefusalKind::UnknownGroup, message)
        })?;
        if group.schema() != schema {
            let message = format!("group {name:?} has schema {} here, the sender has {schema}", group.schema());
            return Err(Refusal::new(RefusalKind::Schema, message));
        }
        Ok(group)
    }

    /// Logs a refusal, each different one once: what is wrong with a peer or a group stays wrong for every request.
    fn complain(&self, sender: Option<&Sender>, refusal: &Refusal) {
        let from = sender.map(|sender| sender.name.clone());
        if refusal.kind == RefusalKind::Draining {
            return;
        }
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.len() < MOST_COMPLAINTS && complaints.insert((from.clone(), refusal.message.clone())) {
            drop(complaints);
            let from = from.as_ref().map_or("a client", NodeName::as_str);
            tracing::warn!(from, kind = ?refusal.kind, why = %refusal.message, "a request was refused");
        }
    }
}

/// A front door that opens when its node is there: who comes before waits.
#[cfg(feature = "test-util")]
#[derive(Default)]
pub(super) struct Late(SetOnce<Front>);

#[cfg(feature = "test-util")]
impl Late {
    pub(super) fn set(&self, front: Front) {
        // It is set once, by the builder that made it.
        let _ = self.0.set(front);
    }
}

#[cfg(feature = "test-util")]
impl Handler for Late {
    fn handle(&self, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
        async move { self.0.wait().await.handle(request).await }.boxed()
    }

    fn meet(&self, sender: &Sender) -> Option<Presence> {
        self.0.get().and_then(|front| front.meet(sender))
    }
}
