//! The in-process network: a second transport, with links that can be made to fail.
//!
//! Nodes on a [`MemoryNetwork`] talk as they do over gRPC: requests and replies are encoded and decoded by the same
//! code, under the same limit on size. Here is what tests do to a network and what nodes do with it; beneath are
//! `connection.rs`, which carries messages, `recoding.rs`, their bytes, `state.rs`, who listens and who is connected,
//! and `links.rs`, the faults and the counts. What must hold:
//!
//! - faults can be set and healed at any moment, whether the nodes exist yet or not;
//! - time is tokio's, and dice have seeds: a test on a paused clock is quick, and what fails once fails again.
//!
//! It knows nothing of nodes but their addresses, and nothing of groups.

mod connection;
mod links;
mod recoding;
mod state;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::transport::{Handler, Transport};
use crate::wire::message_limit;

use connection::MemoryTransport;
#[cfg(feature = "test-util")]
pub(crate) use links::Condition;
pub use links::MessageCounts;
use links::{Link, Loss, Way};
pub(crate) use state::ListenGuard;
use state::Shared;

/// A network inside of this process, for tests.
///
/// Clones are the same network. A link is named by the addresses of its two nodes; one that was never mentioned is
/// perfect and takes no time. Faults can be set and healed at any moment, whether the nodes exist yet or not.
///
/// | fault | on open connections | on new ones |
/// | --- | --- | --- |
/// | [`cut`](Self::cut) | they are reset: calls fail at once | refused at once |
/// | [`black_hole`](Self::black_hole) | calls wait, and fail when the connection closes after two seconds of silence | fail after one second |
/// | [`reset`](Self::reset) | they are reset, once | none |
/// | [`drop_messages`](Self::drop_messages) | a lost message resets its connection | none |
/// | [`delay`](Self::delay) | every message takes longer | they take a round trip |
///
/// A service's test starts its nodes, has each build the groups as the service does, and breaks a link:
///
/// ```
/// use peerage::{BoxError, Group, Key, MemoryNetwork, Node};
///
/// fn users(node: &Node) -> Result<Group<String>, peerage::ConfigError> {
///     node.group("users").loader(|key: Key| async move { Ok::<_, BoxError>(format!("the user of {key}")) }).build()
/// }
///
/// #[tokio::main(flavor = "current_thread", start_paused = true)] // in a test: #[tokio::test(start_paused = true)]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let network = MemoryNetwork::new();
///     let nodes = network.start(3).await?; // node-1:1, node-2:1, node-3:1
///     let groups = nodes.iter().map(users).collect::<Result<Vec<_>, _>>()?;
///
///     // Two keys that the second node owns, asked for at the first.
///     let placement = nodes[0].placement();
///     let mut keys = (0..).map(|n| format!("user:{n}")).filter(|key| *placement.owner_of(key) == "node-2:1");
///     let (ada, eve) = (keys.next().unwrap(), keys.next().unwrap());
///     groups[0].get(&ada).await?;
///     assert_eq!(network.messages("node-1:1", "node-2:1").get, 1);
///
///     // Without the way to the owner, the get still answers: another node loads it.
///     network.cut("node-1:1", "node-2:1");
///     assert_eq!(groups[0].get(&eve).await?, format!("the user of {eve}"));
///     assert_eq!(network.messages("node-1:1", "node-2:1").get, 1);
///
///     // Nodes find each other again by themselves, within about a second.
///     network.heal("node-1:1", "node-2:1");
///     tokio::time::sleep(std::time::Duration::from_secs(2)).await;
///     assert!(network.connections().contains(&("node-1:1".into(), "node-2:1".into())));
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct MemoryNetwork {
    shared: Arc<Shared>,
}

impl Default for MemoryNetwork {
    fn default() -> Self {
        Self::new()
    }
}

/// What tests do to it.
impl MemoryNetwork {
    /// A network without faults, for values of up to 16 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_value_bytes(16 << 20)
    }

    /// The same for values of up to so many bytes. As over gRPC, a larger message is refused.
    #[must_use]
    pub fn with_max_value_bytes(max_value_bytes: usize) -> Self {
        Self { shared: Arc::new(Shared::new(message_limit(max_value_bytes))) }
    }

    /// Cuts the link: connections between the two are reset, and new ones refused, until it is [healed](Self::heal).
    pub fn cut(&self, a: &str, b: &str) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Resets the connections that `from` opened to `to`, and refuses new ones. Those that `to` opened to `from` are
    /// not touched: it is as if a firewall stood in front of `to`.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        let way = Way::new(from, to);
        self.change(&way, |link| link.refusing = true);
        self.shared.reset("the link was cut", |line| line.way == way);
    }

    /// Swallows all that the two send to each other, without a word, until it is [healed](Self::heal). What was on its
    /// way is delivered late if that happens before the connection notices the silence.
    pub fn black_hole(&self, a: &str, b: &str) {
        self.black_hole_one_way(a, b);
        self.black_hole_one_way(b, a);
    }

    /// Swallows what `from` sends to `to`: its requests, and its replies to the other's requests. Since pings are
    /// swallowed too, connections of either side notice the silence.
    pub fn black_hole_one_way(&self, from: &str, to: &str) {
        self.change(&Way::new(from, to), |link| link.silent = true);
    }

    /// Makes every message between the two take so long. A connect takes one there and one back, and fails after a
    /// second.
    pub fn delay(&self, a: &str, b: &str, delay: Duration) {
        for way in Way::both(a, b) {
            self.change(&way, |link| link.delay = delay);
        }
    }

    /// Loses messages between the two with this probability, between 0 and 1. A stream cannot go on without a message,
    /// so a lost one resets its connection; whether a request was served before its reply was lost, the caller cannot
    /// know. The same seed and the same messages lose the same ones.
    pub fn drop_messages(&self, a: &str, b: &str, probability: f64, seed: u64) {
        for (way, seed) in Way::both(a, b).into_iter().zip([seed, !seed]) {
            self.change(&way, |link| link.loss = Some(Loss::new(probability, seed)));
        }
    }

    /// Makes the link between the two perfect again.
    pub fn heal(&self, a: &str, b: &str) {
        for way in Way::both(a, b) {
            self.change(&way, Link::heal);
        }
    }

    /// Makes all links perfect again.
    pub fn heal_all(&self) {
        self.shared.change(|state| state.links.values_mut().for_each(Link::heal));
    }

    /// The open connections: who opened each, and to whom.
    #[must_use]
    pub fn connections(&self) -> Vec<(String, String)> {
        let state = self.shared.state();
        state.connections.values().map(|line| (line.way.from.to_string(), line.way.to.to_string())).collect()
    }

    /// What `from` has sent to `to` since the network was made.
    #[must_use]
    pub fn messages(&self, from: &str, to: &str) -> MessageCounts {
        self.shared.state().links.get(&Way::new(from, to)).map(|link| link.sent).unwrap_or_default()
    }

    /// Resets the connections between the two, and lets them open new ones.
    pub fn reset(&self, a: &str, b: &str) {
        let ways = Way::both(a, b);
        self.shared.reset("the connection was reset", |line| ways.contains(&line.way));
    }

    /// Makes the link in one direction just so, whatever it was like.
    #[cfg(feature = "test-util")]
    pub(crate) fn make(&self, from: &str, to: &str, condition: &Condition) {
        let way = Way::new(from, to);
        self.change(&way, |link| link.become_so(condition));
        if condition.refusing {
            self.shared.reset("the link was cut", |line| line.way == way);
        }
    }

    /// Takes the machine at this address off the network: nobody hears of it any more, as if it had lost its power.
    #[cfg(feature = "test-util")]
    pub(crate) fn unplug(&self, address: &str) {
        self.shared.unplug(address);
    }

    /// Puts it back.
    #[cfg(feature = "test-util")]
    pub(crate) fn plug_in(&self, address: &str) {
        self.shared.plug_in(address);
    }

    fn change(&self, way: &Way, change: impl FnOnce(&mut Link)) {
        self.shared.change(|state| change(state.link(way)));
    }
}

/// What nodes do with it.
impl MemoryNetwork {
    /// The transport of the node at this address.
    pub(crate) fn transport(&self, own_address: impl Into<Arc<str>>) -> Arc<dyn Transport> {
        Arc::new(MemoryTransport { shared: Arc::clone(&self.shared), address: own_address.into() })
    }

    /// Lets `handler` answer what is sent to `address`. A port of 0 stands for a free one. Fails if somebody listens
    /// there.
    pub(crate) fn listen(&self, address: &str, handler: Arc<dyn Handler>) -> io::Result<ListenGuard> {
        ListenGuard::new(Arc::clone(&self.shared), address, handler)
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryNetwork").field("connections", &self.connections()).finish_non_exhaustive()
    }
}
