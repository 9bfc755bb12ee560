//! tonic as it comes: one channel, a call for each get, a server that answers from a map.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::data;
use crate::load::Remote;
use crate::servers::Orders;

use generated::unary_client::UnaryClient;
use generated::unary_server::{Unary, UnaryServer};
use generated::{GetRequest, GetResponse};

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/peers.v1.rs"));
}

impl Remote for UnaryClient<Channel> {
    async fn get(&self, key: &str) -> Result<Bytes> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        Ok(UnaryClient::get(&mut self.clone(), GetRequest { key }).await?.into_inner().value)
    }
}

pub(super) async fn connect(address: &str) -> Result<UnaryClient<Channel>> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect().await?;
    Ok(UnaryClient::new(channel))
}

struct Map(Arc<HashMap<Box<[u8]>, Bytes>>);

#[async_trait::async_trait]
impl Unary for Map {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let value = self.0.get(&request.get_ref().key[..]).cloned();
        value.map(|value| Response::new(GetResponse { value })).ok_or_else(|| Status::not_found("no such key"))
    }
}

/// The other process.
pub(crate) async fn serve(orders: Orders) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let service = UnaryServer::new(Map(Arc::new(data::map())));
    let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming(listener));
    tokio::select! {
        end = server => Ok(end?),
        () = orders.ready(address) => Ok(()),
    }
}

/// Connections that send what they have at once; all gRPC servers here accept in this way.
pub(super) fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}
