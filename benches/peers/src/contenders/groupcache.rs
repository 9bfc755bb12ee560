//! The crate groupcache 0.3: a get of a key that the other process owns and has.
//!
//! Its copies of other nodes' values are turned off by a cache without room, as its documentation suggests; else it
//! would not ask at all. Values are `Bytes`, which `MessagePack` carries as they are: a `Vec<u8>` would go number by
//! number.

use std::collections::HashSet;
use std::error::Error;
use std::future::ready;
use std::net::SocketAddr;

use ::groupcache::{Groupcache, GroupcachePeer, ValueLoader};
use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use moka::future::Cache;
use tokio::net::TcpListener;

use super::unary::incoming;
use super::{Contender, Kind, Pair};
use crate::data;
use crate::load::Remote;
use crate::servers::{Orders, Server};

/// Loads what is ours on the server, and nothing on the client.
struct Loader {
    serves: bool,
}

#[async_trait]
impl ValueLoader for Loader {
    type Value = Bytes;

    async fn load(&self, key: &str) -> Result<Bytes, Box<dyn Error + Send + Sync>> {
        let value = self.serves.then(|| data::value(key)).flatten();
        value.ok_or_else(|| "the other process should have been asked".into())
    }
}

fn node(address: SocketAddr, serves: bool) -> Groupcache<Bytes> {
    let no_copies = Cache::builder().max_capacity(0).build();
    Groupcache::builder(GroupcachePeer::from_socket(address), Loader { serves }).hot_cache(no_copies).build()
}

impl Remote for Groupcache<Bytes> {
    async fn get(&self, key: &str) -> Result<Bytes> {
        Ok(Groupcache::get(self, key).await?)
    }
}

/// Connects, and finds out which keys the server owns by asking: the crate does not tell.
pub(super) async fn connect(server: Server) -> Result<Box<dyn Contender>> {
    // Where nobody listens: the server never asks back.
    let client = node(([127, 0, 0, 1], 1).into(), false);
    client.set_peers(HashSet::from([GroupcachePeer::from_socket(server.address.parse()?)])).await?;
    let asking = client.clone();
    let keys_of = move |size| owned_there(asking.clone(), size).boxed();
    Ok(Pair::with_keys(Kind::Groupcache, client, server, Box::new(keys_of)))
}

/// The client's own keys fail, as its loader does; the others bring a value.
async fn owned_there(client: Groupcache<Bytes>, size: usize) -> Vec<String> {
    let client = &client;
    let tried = futures::stream::iter(0..).map(|number| async move {
        let key = data::key(size, number);
        Groupcache::get(client, &key).await.is_ok().then_some(key)
    });
    tried.buffered(32).filter_map(ready).take(data::count(size) as usize).collect().await
}

/// The other process.
pub(crate) async fn serve(orders: Orders) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let service = node(address, true).grpc_service();
    let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming(listener));
    tokio::select! {
        end = server => Ok(end?),
        () = orders.ready(address) => Ok(()),
    }
}
