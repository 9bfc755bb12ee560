//! Catching up with all peers at once, for a node that has stood still: it does not know how long ago what it knows was
//! so.
//!
//! The keepers say the hellos, as ever; here is what they are asked to do, and how long that is waited for.

use std::pin::pin;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::membership::PeerState;
use crate::time::{Latest, Moment};

use super::{Peer, Peers};

/// How long a connection of before may take to bring an answer. It can be dead without either side's having been told.
const ON_THE_OLD_CONNECTION: Duration = Duration::from_millis(250);
/// And how long a new one, from then on: whom it does not reach, this node is cut off from.
const ON_A_NEW_ONE: Duration = Duration::from_secs(1);

/// Since when each of two nodes has the removals that the other had.
#[derive(Debug, Default)]
pub(super) struct Level {
    /// When the last hello left by whose answer that was so.
    since: Latest,
    /// Wakes who waits for another.
    news: Notify,
}

impl Level {
    pub(super) fn note(&self, sent: Moment) {
        self.since.raise(sent);
    }

    /// Something has changed that who waits may wait for.
    pub(super) fn tell(&self) {
        self.news.notify_waiters();
    }
}

impl Peers {
    /// Says hello to all peers that may answer. Resolves when this node has what they had, and the other way round, by
    /// a hello that left from now on; or when those who have not answered have had their time.
    pub(crate) async fn catch_up(&self) {
        let (now, view) = (self.clock.now(), self.view_owned());
        for peer in view.peers() {
            peer.greet();
            // Who was down has had time to come back.
            peer.inbound();
        }
        let mut all_level = pin!(join_all(view.peers().map(|peer| peer.until_level(now))));
        if timeout(ON_THE_OLD_CONNECTION, all_level.as_mut()).await.is_ok() {
            return;
        }
        for peer in view.peers().filter(|peer| peer.is_up() && !peer.is_level(now)) {
            peer.begin_anew("this process has stood still, and nothing comes from there since");
        }
        // Who does not answer is not waited for any longer.
        let _ = timeout(ON_A_NEW_ONE, all_level).await;
    }
}

impl Peer {
    /// Whether no more is to be waited for: it is level since that moment, or will not be.
    fn is_level(&self, since: Moment) -> bool {
        match self.state() {
            PeerState::Up => self.level.since.get() >= since,
            PeerState::Connecting | PeerState::Down { .. } => self.left().is_cancelled(),
            PeerState::Draining | PeerState::Refused { .. } => true,
        }
    }

    async fn until_level(&self, since: Moment) {
        loop {
            // Listened for before it is looked at: what changes in between is not missed.
            let mut news = pin!(self.level.news.notified());
            news.as_mut().enable();
            if self.is_level(since) {
                return;
            }
            news.await;
        }
    }
}
