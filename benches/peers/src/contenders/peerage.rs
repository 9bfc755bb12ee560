//! The whole library: `Group::get` of a key that the other process owns and has, with copies off.

use std::convert::Infallible;
use std::future::ready;
use std::time::Duration;

use ::peerage::{Group, Key, Node, PeerState};
use anyhow::{Context, Result};
use bytes::Bytes;
use futures::FutureExt;

use super::{Contender, Kind, Pair};
use crate::data;
use crate::load::Remote;
use crate::servers::{Orders, Server, say};

/// Room for every value, so that each get is an owner's hit.
const CAPACITY: usize = 1 << 30;

/// A node and its group, beside another node.
#[derive(Clone, Debug)]
pub struct Asking {
    group: Group<Bytes>,
    node: Node,
    owner: String,
}

impl Asking {
    /// Makes a cluster of this node and another, which was told of this one.
    pub async fn beside(node: Node, owner: &str, group: Group<Bytes>) -> Result<Self> {
        node.set_peers([node.address(), owner]).await?;
        let met = async {
            while !node.stats().peers.iter().all(|peer| peer.state == PeerState::Up) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), met).await.context("the nodes did not meet")?;
        Ok(Self { group, node, owner: owner.to_string() })
    }

    /// Whether the other node owns a key.
    pub fn is_remote(&self, key: &str) -> bool {
        self.node.placement().owner_of(key).as_str() == self.owner
    }

    /// The first keys of a size that the other node owns.
    pub fn remote_keys(&self, size: usize) -> Vec<String> {
        let keys = (0..).map(|number| data::key(size, number));
        keys.filter(|key| self.is_remote(key)).take(data::count(size) as usize).collect()
    }
}

impl Remote for Asking {
    async fn get(&self, key: &str) -> Result<Bytes> {
        Ok(self.group.get(key).await?)
    }
}

/// A node by itself, on a free port.
pub async fn alone() -> Result<Node> {
    Ok(Node::builder("127.0.0.1:0").alone().start().await?)
}

/// Starts the asking node and makes both a cluster.
pub async fn ask(server: &mut Server) -> Result<Asking> {
    let node = alone().await?;
    let not_here = |_: Key| async { Err::<Bytes, _>("the other process should have been asked") };
    let group = node.group("peers").hot_share(0.0).loader(not_here).build()?;
    server.order(node.address())?;
    Asking::beside(node, &server.address.clone(), group).await
}

pub(super) async fn connect(mut server: Server) -> Result<Box<dyn Contender>> {
    let asking = ask(&mut server).await?;
    let of = asking.clone();
    let keys_of = move |size| ready(of.remote_keys(size)).boxed();
    Ok(Pair::with_keys(Kind::Peerage, asking, server, Box::new(keys_of)))
}

/// A key of its own, which takes its loader a second.
pub fn slow_key(number: u64) -> String {
    format!("slow{number:012}")
}

async fn load(key: Key) -> Result<Option<Bytes>, Infallible> {
    let Some(key) = key.as_str() else { return Ok(None) };
    if key.starts_with("slow") {
        tokio::time::sleep(Duration::from_secs(1)).await;
        return Ok(Some(Bytes::from_static(b"at last")));
    }
    Ok(data::value(key))
}

/// The other process: owns its part of the keys and loads them when they are first asked for.
pub(crate) async fn serve(mut orders: Orders) -> Result<()> {
    let node = alone().await?;
    let group = node.group("peers").hot_share(0.0).capacity(CAPACITY).max_concurrent_loads(256);
    let _group: Group<Bytes> = group.loader(load).build()?;
    say(&format!("ready {} {}", node.address(), std::process::id()));
    while let Some(asking) = orders.next().await {
        node.set_peers([node.address(), &asking]).await?;
        say("met");
    }
    Ok(())
}
