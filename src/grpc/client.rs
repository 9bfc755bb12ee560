//! The asking end of the gRPC transport: how a connection comes about.
//!
//! A connection is one TCP connection, from its first byte to its last. It opens an exchange (`asking.rs`); with a peer
//! that knows none, it makes do with unary calls (`unary.rs`).

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::codegen::StdError;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::asking::{Exchange, Frames, Line, drive};
use super::codec::Asking;
use super::stream::{OneStream, Signs};
use super::unary::{Unary, UnaryConnection};
use super::{CONNECTION_WINDOW, EXCHANGE_PATH, HTTP2_FRAME, STREAM_WINDOW};
use crate::calls::{Calls, MOST_BYTES};
use crate::config::NodeConfig;
use crate::transport::{Opened, Transport, Unreachable};
use crate::wire;

/// Connects to peers over TCP.
#[derive(Clone, Debug)]
pub(crate) struct GrpcTransport {
    config: NodeConfig,
}

impl GrpcTransport {
    pub(crate) fn new(config: NodeConfig) -> Self {
        Self { config }
    }
}

impl Transport for GrpcTransport {
    fn connect(&self, address: Arc<str>) -> BoxFuture<'static, Result<Opened, Unreachable>> {
        let config = self.config.clone();
        Box::pin(async move {
            let limit = config.connect_timeout;
            match tokio::time::timeout(limit, open(&address, &config)).await {
                Ok(Ok(opened)) => Ok(opened),
                Ok(Err(error)) => Err(Unreachable::new(format!("cannot connect to {address}: {error}"))),
                Err(_) => Err(Unreachable::new(format!("no connection to {address} within {limit:?}"))),
            }
        })
    }
}

async fn open(address: &str, config: &NodeConfig) -> Result<Opened, StdError> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    open_on(tcp, address, config).await
}

/// The same on a stream that is there.
pub(crate) async fn open_on<S>(stream: S, address: &str, config: &NodeConfig) -> Result<Opened, StdError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let endpoint = endpoint(address, config)?;
    let signs = Signs::default();
    let channel = endpoint.connect_with_connector(OneStream::new(stream, &signs)).await?;
    signs.wait_for_greeting().await?;
    let limit = wire::message_limit(config.max_value_bytes);
    let unary = Unary::new(channel.clone(), limit, signs.clone());
    match open_exchange(channel, unary.clone(), signs, limit).await {
        Ok(opened) => Ok(opened),
        Err(status) if status.code() == Code::Unimplemented => {
            tracing::debug!(address, "the peer knows no exchange: it is asked by unary calls");
            let (calls, running) = Calls::new(MOST_BYTES);
            let connection = Arc::new(UnaryConnection { unary, calls });
            Ok(Opened { connection, driver: Box::pin(running.run()) })
        }
        Err(status) => Err(super::in_words(&status).into()),
    }
}

async fn open_exchange(channel: Channel, unary: Unary, signs: Signs, limit: usize) -> Result<Opened, Status> {
    let line = Arc::new(Line::new(signs));
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(limit);
    client.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let request = Request::new(Frames(Arc::clone(&line)));
    let answers = client.streaming(request, PathAndQuery::from_static(EXCHANGE_PATH), Asking).await?.into_inner();
    let driver = Box::pin(drive(Arc::clone(&line), answers, limit));
    Ok(Opened { connection: Arc::new(Exchange::new(line, unary, limit)), driver })
}

fn endpoint(address: &str, config: &NodeConfig) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(HTTP2_FRAME)
        .http2_keep_alive_interval(config.keep_alive_interval)
        .keep_alive_timeout(config.keep_alive_timeout)
        .keep_alive_while_idle(true))
}
