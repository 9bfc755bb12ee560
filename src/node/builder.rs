//! Starting a node: its name, its options, its peers, its listener.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::config::NodeConfig;
use crate::error::{ConfigError, StartError};
use crate::grpc::{self, GrpcTransport, PeerService};
use crate::member::Member;
use crate::membership::{Members, check_member};
#[cfg(feature = "test-util")]
use crate::memory::MemoryNetwork;
use crate::transport::Transport;

use super::Node;
use super::core::Core;
use super::front::Front;

/// Starts a [`Node`]; made by [`Node::builder`]. All checks happen in [`start`](Self::start) or [`mount`](Self::mount).
#[must_use = "a builder does nothing until `start` is called"]
pub struct NodeBuilder {
    address: String,
    name: Option<String>,
    weight: u32,
    bind: Option<String>,
    listed: Listed,
    config: NodeConfig,
    #[cfg(feature = "test-util")]
    network: Option<MemoryNetwork>,
}

impl fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuilder")
            .field("address", &self.address)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// What was said about peers.
enum Listed {
    Nothing,
    Alone,
    Peers(Vec<Member>),
}

impl NodeBuilder {
    pub(super) fn new(address: &str) -> Self {
        Self {
            address: address.to_string(),
            name: None,
            weight: 1,
            bind: None,
            listed: Listed::Nothing,
            config: NodeConfig::default(),
            #[cfg(feature = "test-util")]
            network: None,
        }
    }

    /// The nodes of the cluster: the same list on every node. Whether this node is in it, in which order, and how often
    /// makes no difference. [`Node::set_peers`] changes it later.
    pub fn peers<M: Into<Member>>(mut self, peers: impl IntoIterator<Item = M>) -> Self {
        self.listed = Listed::Peers(peers.into_iter().map(Into::into).collect());
        self
    }

    /// Starts without peers, until [`Node::set_peers`] brings some. (An empty list of peers is refused: it usually
    /// means that discovery failed.)
    pub fn alone(mut self) -> Self {
        self.listed = Listed::Alone;
        self
    }

    /// The node's name, which its peers list it by ([`Member::named`]). Default: its address. With a name of its own, a
    /// node keeps its slice of the keyspace when its address changes.
    pub fn name(mut self, name: impl AsRef<str>) -> Self {
        self.name = Some(name.as_ref().to_string());
        self
    }

    /// How much of the keyspace the node takes, relative to the others, which list it with the same
    /// ([`Member::weight`]). Default: 1; at most [`Member::MAX_WEIGHT`].
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// The cluster's name. Default: `"default"`. Nodes of another cluster are refused, so that two clusters that meet
    /// by a mistake in an address do not mix.
    pub fn cluster(mut self, name: impl AsRef<str>) -> Self {
        self.config.cluster = name.as_ref().to_string();
        self
    }

    /// Where to listen, if not at the address by which peers reach this node, such as `"0.0.0.0:7400"`.
    pub fn bind(mut self, address: impl AsRef<str>) -> Self {
        self.bind = Some(address.as_ref().to_string());
        self
    }

    /// The largest encoded value, in bytes; the same on every node. Default: 16 MiB; at most 1 GiB. A larger one is
    /// [`Error::ValueTooLarge`](crate::Error::ValueTooLarge).
    pub fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.config.max_value_bytes = bytes;
        self
    }

    /// How long it may take to reach a peer, up to its first answer. Default: 1 s. A get waits for it only if the peer
    /// has never been tried.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.config.connect_timeout = limit;
        self
    }

    /// How often a connection is pinged, also while it is idle. Default: 1 s.
    pub fn keep_alive_interval(mut self, interval: Duration) -> Self {
        self.config.keep_alive_interval = interval;
        self
    }

    /// How long a ping may stay unanswered until the connection counts as lost. Default: 1 s. With the interval, this
    /// is how fast a silent peer is noticed.
    pub fn keep_alive_timeout(mut self, limit: Duration) -> Self {
        self.config.keep_alive_timeout = limit;
        self
    }

    /// Puts the node on an in-process network instead of TCP: for tests.
    #[cfg(feature = "test-util")]
    pub fn network(mut self, network: &MemoryNetwork) -> Self {
        self.network = Some(network.clone());
        self
    }

    /// Listens, and starts to serve and to connect. Peers that cannot be reached delay nothing. Port 0 takes a free
    /// port: [`Node::address`] tells which.
    ///
    /// # Errors
    /// If an option cannot be, no peers are given and [`alone`](Self::alone) was not said, or the address cannot be
    /// listened at. Nothing is left running then.
    pub async fn start(self) -> Result<Node, StartError> {
        #[cfg(feature = "test-util")]
        if let Some(network) = self.network.clone() {
            return self.start_in(&network).await;
        }
        self.check()?;
        let bind = self.bind.as_deref().unwrap_or(&self.address);
        let failed = |source| StartError::Bind { address: bind.to_string(), source: Arc::new(source) };
        let listener = TcpListener::bind(bind).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let own = self.own(Some(port))?;
        let config = self.config.clone();
        let core = self.core(own, Arc::new(GrpcTransport::new(config.clone())))?;
        let members = self.members(&core)?;
        let service =
            PeerService::new(Arc::new(Front::new(Arc::clone(&core))), &config, core.tasks().stopping().clone());
        let node = Self::join(core, members).await?;
        // Peers that called since the bind are answered from here on: by a node that knows its members.
        let stopping = node.core.tasks().stopping().clone();
        node.core.tasks().service(async move {
            if let Err(error) = grpc::serve(listener, service, config, stopping).await {
                tracing::error!(%error, "the listener ended");
            }
        });
        Ok(node)
    }

    /// Starts to connect, and hands out the service that answers peers, for the application to mount in a tonic server
    /// that it runs anyway, at the node's address. See [`PeerService`] for what that server should set. Stop the server
    /// after the node has been shut down.
    ///
    /// # Errors
    /// As [`start`](Self::start), but that nothing is listened at.
    pub async fn mount(self) -> Result<(Node, PeerService), StartError> {
        let transport = Arc::new(GrpcTransport::new(self.config.clone()));
        self.mount_on(transport).await
    }

    /// The same with other ways to connect.
    pub(super) async fn mount_on(self, transport: Arc<dyn Transport>) -> Result<(Node, PeerService), StartError> {
        self.check()?;
        if self.address.ends_with(":0") {
            let advice = "name the port that the application's server listens at";
            let value = self.address;
            return Err(ConfigError::InvalidOption { option: "the address of a mounted node", value, advice }.into());
        }
        let own = self.own(None)?;
        let config = self.config.clone();
        let core = self.core(own, transport)?;
        let members = self.members(&core)?;
        let service =
            PeerService::new(Arc::new(Front::new(Arc::clone(&core))), &config, core.tasks().stopping().clone());
        Ok((Self::join(core, members).await?, service))
    }

    #[cfg(feature = "test-util")]
    async fn start_in(self, network: &MemoryNetwork) -> Result<Node, StartError> {
        use super::front::Late;

        self.check()?;
        let failed = |source| StartError::Bind { address: self.address.clone(), source: Arc::new(source) };
        // The address may become known only by listening, and what answers needs to know it.
        let late = Arc::new(Late::default());
        let guard = network.listen(&self.address, Arc::clone(&late) as _).map_err(failed)?;
        let port = guard.address().rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let own = self.own(port)?;
        let core = self.core(own, network.transport(Arc::clone(guard.address())))?;
        let members = self.members(&core)?;
        let node = Self::join(Arc::clone(&core), members).await?;
        late.set(Front::new(core));
        let stopping = node.core.tasks().stopping().clone();
        node.core.tasks().service(async move {
            stopping.cancelled().await;
            drop(guard);
        });
        Ok(node)
    }

    async fn join(core: Arc<Core>, members: Members) -> Result<Node, StartError> {
        // From here on the node's life has a handle: whatever fails, dropping it ends the tasks.
        let node = Node::of(core);
        node.core.context.peers.set(members).await?;
        node.core.tend_removals();
        node.core.mind_pulse();
        node.core.check_itself();
        Ok(node)
    }

    fn check(&self) -> Result<(), StartError> {
        self.config.check()?;
        // With any port, if it is to be a free one: so that what is wrong is told before there is a listener.
        self.own(Some(1))?;
        if matches!(self.listed, Listed::Nothing) {
            return Err(ConfigError::NoPeers.into());
        }
        tokio::runtime::Handle::try_current().map(drop).map_err(|_| StartError::NoRuntime)
    }

    /// This node as a member, with the port that was free if any was asked for.
    fn own(&self, port: Option<u16>) -> Result<Member, ConfigError> {
        let address = match (self.address.strip_suffix(":0"), port) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            _ => self.address.clone(),
        };
        let mut own = Member::new(address).weight(self.weight);
        if let Some(name) = &self.name {
            own = own.named(name);
        }
        check_member(&own)?;
        Ok(own)
    }

    fn members(&self, core: &Core) -> Result<Members, ConfigError> {
        let own = core.context.peers.own();
        match &self.listed {
            Listed::Peers(listed) => Members::new(listed.iter().cloned(), own),
            Listed::Alone | Listed::Nothing => Ok(Members::alone(own)),
        }
    }

    fn core(&self, own: Member, transport: Arc<dyn Transport>) -> Result<Arc<Core>, StartError> {
        let core = Core::new(own, self.config.clone(), Some(transport));
        core.tasks().runtime().map_err(|_| StartError::NoRuntime)?;
        Ok(core)
    }
}
