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
const CAPACITY: usize = 512 << 20;

/// A node and its group; the node lives as long as it is asked.
#[derive(Clone)]
struct Asking {
    group: Group<Bytes>,
    _node: Node,
}

impl Remote for Asking {
    async fn get(&self, key: &str) -> Result<Bytes> {
        Ok(self.group.get(key).await?)
    }
}

async fn alone() -> Result<Node> {
    Ok(Node::builder("127.0.0.1:0").alone().start().await?)
}

/// Starts the asking node and makes both a cluster.
pub(super) async fn connect(mut server: Server) -> Result<Box<dyn Contender>> {
    let node = alone().await?;
    let not_here = |_: Key| async { Err::<Bytes, _>("the other process should have been asked") };
    let group = node.group("peers").hot_share(0.0).loader(not_here).build()?;
    node.set_peers([node.address(), &server.address]).await?;
    server.order(node.address())?;
    meet(&node).await?;
    let (placement, owner) = (node.placement(), server.address.clone());
    let keys_of = move |size| {
        let keys = (0..).map(|number| data::key(size, number));
        let theirs = keys.filter(|key| placement.owner_of(key).as_str() == owner);
        ready(theirs.take(data::count(size) as usize).collect()).boxed()
    };
    Ok(Pair::with_keys(Kind::Peerage, Asking { group, _node: node }, server, Box::new(keys_of)))
}

/// Waits until every peer answers.
async fn meet(node: &Node) -> Result<()> {
    let met = async {
        while !node.stats().peers.iter().all(|peer| peer.state == PeerState::Up) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), met).await.context("the nodes did not meet")
}

/// The other process: owns its part of the keys and loads them when they are first asked for.
pub(crate) async fn serve(mut orders: Orders) -> Result<()> {
    let node = alone().await?;
    let load = |key: Key| async move { Ok::<_, Infallible>(key.as_str().and_then(data::value)) };
    let _group = node.group("peers").hot_share(0.0).capacity(CAPACITY).loader(load).build::<Bytes>()?;
    say(&format!("ready {} {}", node.address(), std::process::id()));
    while let Some(asking) = orders.next().await {
        node.set_peers([node.address(), &asking]).await?;
        say("met");
    }
    Ok(())
}
