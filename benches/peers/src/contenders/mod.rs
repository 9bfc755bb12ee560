//! Who is measured against whom: the same gets, by seven ways, from a process of their own.

use std::collections::HashMap;
use std::future::ready;
use std::sync::Arc;

use anyhow::Result;
use futures::future::BoxFuture;

use crate::data;
use crate::load::{self, Load, Measured, Remote};
use crate::servers::Server;

mod desk;
pub mod exchange;
pub mod groupcache;
pub mod memcached;
pub mod peerage;
pub mod redis;
pub mod tcp;
pub mod unary;

/// The contenders, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The whole library: `Group::get` of keys that the other process owns, copies off.
    Peerage,
    /// One bidirectional tonic stream with a codec of its own, without the library.
    Exchange,
    /// tonic, a call for each get.
    Unary,
    /// The crate groupcache, an owner's hit.
    Groupcache,
    /// Redis through a multiplexed connection.
    Redis,
    /// memcached, pipelined.
    Memcached,
    /// Frames with their length in front on a bare TCP connection, batched as the exchange does it.
    Tcp,
}

impl Kind {
    /// All, ours first.
    pub const ALL: [Self; 7] =
        [Self::Peerage, Self::Exchange, Self::Tcp, Self::Redis, Self::Memcached, Self::Unary, Self::Groupcache];

    /// As in the names of the ratios.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peerage => "peerage",
            Self::Exchange => "exchange",
            Self::Unary => "unary",
            Self::Groupcache => "groupcache",
            Self::Redis => "redis",
            Self::Memcached => "memcached",
            Self::Tcp => "tcp",
        }
    }

    /// By its name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Starts the server and connects to it; none if what it needs is not installed.
    pub async fn start(self, core: Option<usize>) -> Result<Option<Box<dyn Contender>>> {
        let Some(server) = Server::start(self, core)? else { return Ok(None) };
        Ok(Some(match self {
            Self::Peerage => peerage::connect(server).await?,
            Self::Exchange => Pair::boxed(self, exchange::connect(&server.address).await?, server),
            Self::Unary => Pair::boxed(self, unary::connect(&server.address).await?, server),
            Self::Groupcache => groupcache::connect(server).await?,
            Self::Redis => Pair::boxed(self, redis::connect(&server.address).await?, server),
            Self::Memcached => Pair::boxed(self, memcached::connect(&server.address).await?, server),
            Self::Tcp => Pair::boxed(self, tcp::connect(&server.address).await?, server),
        }))
    }
}

/// A client and its server, under way.
pub trait Contender: Send {
    /// Which one.
    fn kind(&self) -> Kind;

    /// Gets every key of this size once and looks at the value. Fills what fills itself on demand.
    fn fill(&mut self, size: usize) -> BoxFuture<'_, Result<()>>;

    /// Runs a load of a size that was filled.
    fn run(&mut self, load: Load) -> BoxFuture<'_, Result<Measured>>;
}

/// Finds keys of a size that a contender's server owns.
type KeysOf = Box<dyn Fn(usize) -> BoxFuture<'static, Vec<String>> + Send>;

struct Pair<R> {
    kind: Kind,
    remote: R,
    server: Server,
    keys_of: KeysOf,
    keys: HashMap<usize, Arc<[String]>>,
}

impl<R: Remote> Pair<R> {
    /// A contender whose server has all keys.
    fn boxed(kind: Kind, remote: R, server: Server) -> Box<dyn Contender> {
        Self::with_keys(kind, remote, server, Box::new(|size| Box::pin(ready(data::keys(size)))))
    }

    /// A contender whose server has some keys, told by their size.
    fn with_keys(kind: Kind, remote: R, server: Server, keys_of: KeysOf) -> Box<dyn Contender> {
        Box::new(Self { kind, remote, server, keys_of, keys: HashMap::new() })
    }
}

impl<R: Remote> Contender for Pair<R> {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn fill(&mut self, size: usize) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if !self.keys.contains_key(&size) {
                let keys: Arc<[String]> = (self.keys_of)(size).await.into();
                get_all(&self.remote, &keys).await?;
                self.keys.insert(size, keys);
            }
            Ok(())
        })
    }

    fn run(&mut self, load: Load) -> BoxFuture<'_, Result<Measured>> {
        Box::pin(async move {
            self.fill(load.size).await?;
            load::run(&self.remote, &self.keys[&load.size], load, &[std::process::id(), self.server.process]).await
        })
    }
}

/// Gets each key once, a few at a time.
pub async fn get_all<R: Remote>(remote: &R, keys: &Arc<[String]>) -> Result<()> {
    const AT_ONCE: usize = 32;
    let mut tasks = tokio::task::JoinSet::new();
    for first in 0..AT_ONCE {
        let (remote, keys) = (remote.clone(), Arc::clone(keys));
        tasks.spawn(async move {
            for key in keys.iter().skip(first).step_by(AT_ONCE) {
                data::check(key, &remote.get(key).await?)?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}
