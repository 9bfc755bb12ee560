//! An embeddable peer-to-peer cache.
#![cfg_attr(not(test), warn(missing_docs))]

mod clock;
mod codec;
mod config;
mod entry;
mod error;
mod flight;
mod group;
mod grpc;
mod key;
mod loader;
mod member;
mod membership;
#[cfg(any(test, feature = "test-util"))]
mod memory;
mod message;
mod node;
mod peers;
mod placement;
mod queue;
mod removals;
mod route;
mod shards;
mod stats;
mod store;
mod tasks;
mod time;
mod transport;
mod wire;

#[cfg(feature = "json")]
pub use codec::Json;
#[cfg(feature = "postcard")]
pub use codec::Postcard;
pub use codec::{Codec, Prost, Raw, Shared};
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
pub use removals::{NotEverywhere, Receipt, Told};
pub use stats::{CacheUsage, Fetches, Gets, GroupStats, Loads, Removals};
pub use tasks::ShutdownReport;

/// What belongs to tonic.
pub mod tonic {
    pub use crate::grpc::PeerService;
}
