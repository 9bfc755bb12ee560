//! An embeddable peer-to-peer cache: every process of a service links it in, and together they are one cache.
//!
//! Each process is a *node*: it lists its peers, and owns a slice of the keyspace by consistent hashing. A *group* is a
//! named keyspace with a *loader*, the callback that fills a miss from the source of truth. A get looks here, asks the
//! node that owns the key, and there runs the loader: concurrent loads of a key are one load in the whole cluster.
//! There is no cache server to run.
//!
//! ```no_run
//! use std::time::Duration;
//! use peerage::{Group, Key, Node};
//!
//! # struct Db; impl Db { async fn user(&self, _: &str) -> Result<Option<String>, std::io::Error> { Ok(None) } }
//! # static DB: Db = Db;
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::builder("10.0.0.1:7400")                       // how peers reach this node
//!     .peers(["10.0.0.1:7400", "10.0.0.2:7400", "10.0.0.3:7400"]) // the same list on every node
//!     .start()
//!     .await?;
//!
//! let users: Group<String> = node
//!     .group("users")
//!     .capacity(64 << 20)
//!     .time_to_live(Duration::from_secs(300))
//!     .loader(|key: Key| async move { DB.user(key.as_str().unwrap_or_default()).await })
//!     .build()?;
//!
//! let user = users.get("user:42").await?;       // local hit, owner's hit, or one load in the whole cluster
//! users.remove("user:42").await?.everywhere()?; // gone everywhere, or told where not yet
//! # Ok(()) }
//! ```
//!
//! [`Node::local`] is the same without a port: a good cache for one process, which grows into a cluster by changing one
//! line.
//!
//! # The way of a get
//!
//! ```text
//! Group::get ── in this node's cache ─────────────────────────────────▶ value
//!     │ not there
//!     ▼
//!  who owns the key?
//!     ├─ this node ── one load for all who ask ── main cache ─────────▶ value
//!     └─ a peer ───── one fetch for all who ask ── the peer's own way ▶ value ── now and then kept as a hot copy
//!                        └─ cannot be reached: one stand-in, the same for all nodes; at last a load here
//! ```
//!
//! # What it guarantees
//!
//! - **One load.** While the nodes list the same members and reach each other, a key is loaded once at a time in the
//!   whole cluster, on its owner; when the owner cannot be reached, once on the stand-in that all nodes turn to.
//! - **No stampede by impatience.** A load runs to its end or its own limit even if every caller has left.
//! - **An answer in time.** Every get ends within its limit. A dead peer is noticed in about two seconds, by all gets
//!   together, and no get pays for it again.
//! - **Errors are answers.** What a loader fails with reaches every caller, on every node, with its kind; nobody runs
//!   it again elsewhere.
//! - **Never more bytes than given.** A group's capacity counts keys, values (as their [`Codec`] weighs them) and
//!   bookkeeping, and is never exceeded.
//! - **Removals are kept promises.** When every node is done by a [`Receipt`], no get that starts later, on any node,
//!   returns a value whose load began before the removal was called. A node that is not done yet is named, and the
//!   receipt [settles](Receipt::settled) when it is. A [`Token`] lets a single get ask for nothing older at once, on
//!   whichever node.
//!
//! # What it is not
//!
//! No database and no message bus: what is in it can be gone at any moment, and comes back from the source. No
//! replication of writes, no locks, no queries. A source that lags, or a writer that dies before it has removed what it
//! has changed, is beyond any cache: remove after the commit, and set a time to live. Peers trust each other: put them
//! on a network of their own.
//!
//! # Features
//!
//! None is on by default. `postcard` and `json`: codecs for serde types. `test-util`: the in-process network, for tests
//! of services that embed this crate.

mod batch;
mod calls;
mod clock;
mod codec;
mod coherence;
mod config;
mod encoded;
mod entry;
mod error;
mod flight;
mod group;
pub mod grpc;
mod hits;
mod key;
mod lifespan;
mod loader;
mod member;
mod membership;
#[cfg(any(test, feature = "test-util"))]
#[cfg_attr(not(feature = "test-util"), allow(unreachable_pub, reason = "public with the feature alone"))]
mod memory;
mod message;
mod node;
mod peers;
mod placement;
#[cfg_attr(not(feature = "test-util"), allow(unreachable_pub, reason = "public with the feature alone"))]
mod planted;
mod pulse;
mod queue;
mod receipt;
mod removal;
mod removals;
mod route;
mod scatter;
mod shards;
#[cfg(feature = "test-util")]
pub mod simulation;
mod spin;
mod stats;
mod store;
mod sync;
mod tags;
mod tasks;
#[cfg(all(test, shuttle))]
mod threads;
mod time;
mod token;
mod transport;
#[cfg(feature = "test-util")]
mod turns;
mod wakes;
mod wire;

#[cfg(feature = "json")]
pub use codec::Json;
#[cfg(feature = "postcard")]
pub use codec::Postcard;
pub use codec::{Codec, Prost, Raw, Shared, Weighed};
pub use entry::{Entry, Source, Value};
pub use error::{BoxError, CodecError, ConfigError, Error, LoadError, StartError};
pub use group::{GetOptions, Group, GroupBuilder, InBatches, LoadsInto, OneByOne, WeakGroup};
pub use key::{AsKey, Key};
pub use loader::{BatchLoader, Loaded, Loader};
pub use member::{Member, NodeName};
pub use membership::{Differences, PeerState};
#[cfg(feature = "test-util")]
pub use memory::{MemoryNetwork, MessageCounts};
pub use node::{Node, NodeBuilder, NodeStats, SelfCheck, WeakNode};
pub use peers::PeerStats;
pub use placement::Placement;
pub use receipt::{NotEverywhere, Receipt, Told};
pub use stats::{CacheUsage, Fetches, Gets, GroupStats, Loads, Removals};
pub use tasks::ShutdownReport;
pub use token::{InvalidToken, Token};

/// Compiles the README's examples with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
