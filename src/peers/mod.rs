//! The other nodes, as seen from here: who belongs to the cluster, who owns what, how each is reached.
//!
//! What a get needs is in one immutable [`View`], swapped as a whole when the membership changes: reading it takes no
//! lock. Each peer has a keeper (`keeper.rs`), a task that connects, says hello, and tries again: no get does that.
//! What peers believe about the membership is compared with ours (`beliefs.rs`) and shown.
//!
//! Nothing here knows groups, keys' values, or tonic.

mod beliefs;
mod keeper;
mod peer;
mod share;
#[cfg(feature = "test-util")]
mod simulated;
#[cfg(test)]
mod tests;
mod wake;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use crate::clock::{self, Clock};
use crate::coherence::Coherence;
use crate::error::ConfigError;
use crate::key::{KeyHash, Slot};
use crate::member::{Member, NodeName};
use crate::membership::Members;
use crate::message::{Ask, Hello, News, Request, Sender};
use crate::placement::Placement;
use crate::removals::{Origin, Tick};
use crate::route::{self, Route};
use crate::store::Place;
use crate::tasks::Tasks;
use crate::transport::Transport;

use beliefs::Strangers;
pub(crate) use peer::Peer;
pub use peer::PeerStats;
use share::Share;

/// One membership, and what follows from it.
pub(crate) struct View {
    members: Members,
    placement: Arc<Placement>,
    /// By the members' order, like the placement's indices; `None` where this node stands.
    peers: Vec<Option<Arc<Peer>>>,
}

impl View {
    fn me(&self) -> usize {
        self.members.own_index()
    }

    pub(crate) fn members(&self) -> &Members {
        &self.members
    }

    pub(crate) fn placement(&self) -> &Arc<Placement> {
        &self.placement
    }

    /// Which node owns a key, by its index.
    pub(crate) fn owner(&self, hash: KeyHash) -> usize {
        self.placement.owner(hash.slot())
    }

    /// The part of the cache that a key belongs to here.
    pub(crate) fn place(&self, hash: KeyHash) -> Place {
        if self.is_own(hash.slot()) { Place::Main } else { Place::Hot }
    }

    fn is_own(&self, slot: Slot) -> bool {
        self.placement.owner(slot) == self.me()
    }

    /// A bit for each slot, set for this node's own.
    fn own_bits(&self) -> Arc<[u64]> {
        let (placement, me) = (&self.placement, self.me());
        let bits = || share::bits(|slot| placement.owner(slot) == me);
        #[cfg(feature = "test-util")]
        if clock::is_simulated() {
            return simulated::own_bits(self.members.names_and_weights(), me, bits);
        }
        bits()
    }

    /// Where a caller's request for a key goes.
    pub(crate) fn route(&self, hash: KeyHash) -> Route {
        let slot = hash.slot();
        let owner = self.placement.owner(slot);
        route::first(self.me(), owner, || self.placement.ranked(slot), |node| self.is_usable(node))
    }

    /// Where it goes when the owner could not be reached.
    pub(crate) fn stand_in(&self, hash: KeyHash) -> Route {
        let ranks = self.placement.ranked(hash.slot());
        route::stand_in(self.me(), &ranks, |node| self.is_usable(node))
    }

    /// The peer with that index; `None` for this node itself.
    pub(crate) fn peer(&self, index: usize) -> Option<&Arc<Peer>> {
        self.peers[index].as_ref()
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.iter().flatten()
    }

    fn peer_named(&self, name: &NodeName) -> Option<&Arc<Peer>> {
        self.members.index_of(name).and_then(|index| self.peer(index))
    }

    fn is_usable(&self, node: usize) -> bool {
        self.peer(node).is_some_and(|peer| peer.is_usable())
    }
}

/// This node's place among the others.
pub(crate) struct Peers {
    own: Member,
    sender: Arc<Sender>,
    clock: Clock,
    tasks: Arc<Tasks>,
    coherence: Arc<Coherence>,
    /// `None` for a node without a port.
    transport: Option<Arc<dyn Transport>>,
    /// How long a connection may take to come about, its first hello included.
    connect_timeout: std::time::Duration,
    view: ArcSwap<View>,
    /// What of the view a hit asks for.
    share: Share,
    /// Changes of the membership, one at a time; whoever waits gets its turn in order, so that the last list set is the
    /// one that stays.
    changing: Mutex<()>,
    strangers: Strangers,
}

impl Peers {
    /// A node alone. [`set`](Self::set) brings the others.
    pub(crate) fn new(
        own: Member,
        sender: Arc<Sender>,
        clock: Clock,
        tasks: Arc<Tasks>,
        coherence: Arc<Coherence>,
        transport: Option<Arc<dyn Transport>>,
        connect_timeout: std::time::Duration,
    ) -> Self {
        let members = Members::alone(&own);
        let placement = place(&members.names_and_weights());
        let view = View { members, placement, peers: vec![None] };
        Self {
            own,
            sender,
            clock,
            tasks,
            coherence,
            transport,
            connect_timeout,
            share: Share::new(&view.own_bits()),
            view: ArcSwap::from_pointee(view),
            changing: Mutex::default(),
            strangers: Strangers::default(),
        }
    }

    /// Whether there can be other nodes at all.
    pub(crate) fn has_transport(&self) -> bool {
        self.transport.is_some()
    }

    pub(crate) fn own(&self) -> &Member {
        &self.own
    }

    pub(crate) fn sender(&self) -> &Arc<Sender> {
        &self.sender
    }

    /// The membership as it is now.
    pub(crate) fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }

    /// The part of the cache that the keys of a slot belong to here, as the membership says now; cheaper than asking the
    /// view.
    #[inline]
    pub(crate) fn place(&self, slot: Slot) -> Place {
        self.share.place(slot)
    }

    /// The membership as it is now, to be held on to.
    pub(crate) fn view_owned(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// A request of this node's.
    pub(crate) fn request(&self, ask: Ask) -> Request {
        Request { sender: Some(Arc::clone(&self.sender)), ask }
    }

    /// Goes by another membership from now on. Peers that stay keep their connections, those that left lose theirs, and
    /// no peer is waited for. The placement is worked out aside; gets go on by the old one until it is there.
    ///
    /// Cancel safety: dropped, the future has changed the membership as a whole or not at all.
    pub(crate) async fn set(self: &Arc<Self>, members: Members) -> Result<(), ConfigError> {
        let _turn = self.changing.lock().await;
        if self.tasks.is_closed() {
            return Err(ConfigError::Closed);
        }
        let old = self.view_owned();
        if old.members == members {
            return Ok(());
        }
        let placement = self.placement_for(&old, &members).await?;
        let kept = |member: &Member| {
            old.peer_named(member.name()).filter(|peer| peer.member().address() == member.address()).cloned()
        };
        let peers: Vec<_> = members
            .iter()
            .map(|member| {
                (member.name() != self.own.name())
                    .then(|| kept(member).unwrap_or_else(|| Arc::new(Peer::new(member.clone(), self.clock))))
            })
            .collect();
        let view = Arc::new(View { members, placement, peers });
        // Whoever can be asked for a key is one of everybody.
        self.coherence.list(old.peers().chain(view.peers()).map(|peer| peer.name().clone()));
        self.view.store(Arc::clone(&view));
        self.coherence.list(view.peers().map(|peer| peer.name().clone()));
        self.share.set(&view.own_bits());
        self.strangers.forget(&view.members);
        self.change_connections(&old, &view);
        Ok(())
    }

    async fn placement_for(&self, old: &View, members: &Members) -> Result<Arc<Placement>, ConfigError> {
        let names = members.names_and_weights();
        if old.members.names_and_weights() == names {
            return Ok(Arc::clone(&old.placement));
        }
        if clock::is_simulated() {
            return Ok(place(&names));
        }
        let runtime = self.tasks.runtime().map_err(|_| ConfigError::Closed)?;
        let placing = runtime.spawn_blocking(move || place(&names));
        // It fails only if the runtime is shutting down.
        placing.await.map_err(|_| ConfigError::Closed)
    }

    /// Ends what the new view no longer has, starts what it has newly, and lets the rest know that the membership has
    /// changed.
    fn change_connections(self: &Arc<Self>, old: &View, new: &View) {
        let is_in =
            |view: &View, peer: &Arc<Peer>| view.peer_named(peer.name()).is_some_and(|it| Arc::ptr_eq(it, peer));
        for gone in old.peers().filter(|peer| !is_in(new, peer)) {
            gone.leave();
        }
        for peer in new.peers() {
            if is_in(old, peer) {
                peer.poke();
            } else {
                self.tasks.service(keeper::keep(Arc::clone(self), Arc::clone(peer)));
            }
        }
        let fingerprint = new.members.fingerprint();
        tracing::info!(members = new.members.len(), fingerprint = format_args!("{fingerprint:016x}"), "membership set");
    }

    /// What this node says of itself.
    pub(crate) fn hello(&self, news: News) -> Hello {
        let view = self.view();
        Hello {
            sender: Arc::clone(&self.sender),
            fingerprint: view.members.fingerprint(),
            members: view.members.names_and_weights(),
            draining: self.tasks.is_closed(),
            news,
        }
    }

    /// A peer, or somebody who takes us for one, says hello.
    pub(crate) fn heard(&self, hello: &Hello) {
        let view = self.view();
        match view.peer_named(&hello.sender.name) {
            Some(peer) => peer.heard(hello, &view.members),
            None => self.strangers.heard(hello, &view.members, self.clock.now()),
        }
    }

    /// Takes in what another node tells of removals; `asked` as [`Coherence::take`] has it.
    pub(crate) fn take_news(&self, from: &Origin, news: &News, asked: Option<Tick>) {
        self.coherence.take(from, news, asked, || {
            // What is dropped next must not come back from who does not know yet why.
            let lags = |peer: &&Arc<Peer>| !self.coherence.is_level(&peer.run());
            for peer in self.view().peers().filter(|peer| *peer.name() != from.name).filter(lags) {
                peer.begin_anew("this node has learnt of removals that the peer may lack");
            }
        });
    }

    /// A message came in from a node of that name: if we hold it for unreachable, that may be over.
    pub(crate) fn inbound(&self, name: &NodeName) {
        if let Some(peer) = self.view().peer_named(name) {
            peer.inbound();
        }
    }

    /// Tells all peers that are up that this node is shutting down, so that they turn elsewhere by themselves.
    pub(crate) async fn say_goodbye(&self, limit: std::time::Duration) {
        let view = self.view_owned();
        let told = view.peers().filter(|peer| peer.is_up()).map(|peer| {
            let goodbye = self.request(Ask::Hello(self.hello(News::default())));
            async move { peer.call(goodbye).await }
        });
        // Who does not hear it will find out by being refused.
        let _ = tokio::time::timeout(limit, futures::future::join_all(told)).await;
    }

    /// How each peer is doing, in the order of their names; those that take this node for a peer without being listed
    /// come last.
    pub(crate) fn stats(&self) -> Vec<PeerStats> {
        let view = self.view();
        let mut stats: Vec<_> = view.peers().map(|peer| peer.stats(&view.members)).collect();
        stats.extend(self.strangers.stats(&view.members, self.clock.now()));
        stats
    }
}

/// Who owns what among these.
fn place(members: &[(NodeName, u32)]) -> Arc<Placement> {
    let place = |members: &[(NodeName, u32)]| Arc::new(Placement::new(members));
    #[cfg(feature = "test-util")]
    if clock::is_simulated() {
        return simulated::placement(members, place);
    }
    place(members)
}
