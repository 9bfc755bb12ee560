//! The asking end of the gRPC transport.
//!
//! A [`GrpcConnection`] is one TCP connection, from its first byte to its last. A gRPC channel would like to mend
//! itself, by connecting anew whenever it has to; here it must not, because what the node knows of a peer (its
//! incarnation, what it has been told) it knows of a connection. So the channel gets a connector that has one stream to
//! give.
//!
//! That stream also tells what a channel keeps to itself: when the peer has begun to speak HTTP/2, and, by being
//! dropped, that the connection is over, even if nobody has asked anything on it.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use super::{CONNECTION_WINDOW, STREAM_WINDOW, call_error_of};
use crate::config::NodeConfig;
use crate::message::{Reply, Request};
use crate::transport::{CallError, Connection, Transport, Unreachable};
use crate::wire::proto::GetManyRequest;
use crate::wire::proto::peerage_client::PeerageClient;
use crate::wire::{self, Gathering, WireRequest, check_size};

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
    fn connect(&self, address: Arc<str>) -> BoxFuture<'static, Result<Arc<dyn Connection>, Unreachable>> {
        let config = self.config.clone();
        Box::pin(async move {
            let limit = config.connect_timeout;
            match tokio::time::timeout(limit, GrpcConnection::open(&address, &config)).await {
                Ok(Ok(connection)) => Ok(Arc::new(connection) as Arc<dyn Connection>),
                Ok(Err(error)) => Err(Unreachable::new(format!("cannot connect to {address}: {error}"))),
                Err(_) => Err(Unreachable::new(format!("no connection to {address} within {limit:?}"))),
            }
        })
    }
}

/// A connection to a peer. Dropping it closes it, once the calls on it have ended.
struct GrpcConnection {
    client: PeerageClient<Channel>,
    message_limit: usize,
    signs: Signs,
}

/// What a stream tells of the connection.
#[derive(Clone, Debug, Default)]
struct Signs {
    /// The peer has sent something.
    greeted: CancellationToken,
    /// The stream is gone.
    closed: CancellationToken,
}

impl GrpcConnection {
    async fn open(address: &str, config: &NodeConfig) -> Result<Self, tonic::codegen::StdError> {
        let endpoint = endpoint(address, config)?;
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let signs = Signs::default();
        let stream = Stream { tcp, signs: signs.clone() };
        let channel = endpoint.connect_with_connector(OneStream(Some(stream))).await?;
        signs.wait_for_greeting().await?;
        let message_limit = wire::message_limit(config.max_value_bytes);
        let client = PeerageClient::new(channel).max_decoding_message_size(message_limit);
        Ok(Self { client, message_limit, signs })
    }
}

fn endpoint(address: &str, config: &NodeConfig) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(config.keep_alive_interval)
        .keep_alive_timeout(config.keep_alive_timeout)
        .keep_alive_while_idle(true))
}

impl Signs {
    /// The channel believes itself connected when it has sent its greeting. A listener whose process hangs gets that
    /// far: only the peer's own greeting says that somebody is there.
    async fn wait_for_greeting(&self) -> io::Result<()> {
        tokio::select! {
            biased;
            () = self.greeted.cancelled() => Ok(()),
            () = self.closed.cancelled() => Err(closed()),
        }
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the connection is closed")
}

impl Connection for GrpcConnection {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Reply, CallError>> {
        let (client, limit, closed) = (self.client.clone(), self.message_limit, self.signs.closed.clone());
        Box::pin(async move {
            let request = WireRequest::from(request);
            check_size("request", request.encoded_len(), limit)?;
            tokio::select! {
                biased; // a reply that has come before the end counts
                reply = ask(client, request) => reply,
                () = closed.cancelled() => Err(Unreachable::new("the connection was closed").into()),
            }
        })
    }

    fn closed(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.signs.closed.clone().cancelled_owned())
    }
}

async fn ask(mut client: PeerageClient<Channel>, request: WireRequest) -> Result<Reply, CallError> {
    match request {
        WireRequest::Hello(message) => {
            let hello = client.hello(message).await.map_err(failed)?;
            Ok(Reply::Hello(hello.into_inner().try_into()?))
        }
        WireRequest::Get(message) => {
            let answer = client.get(message).await.map_err(failed)?;
            Ok(Reply::Get(answer.into_inner().try_into()?))
        }
        WireRequest::GetMany(message) => ask_many(client, message).await,
        WireRequest::Remove(message) => {
            client.remove(message).await.map_err(failed)?;
            Ok(Reply::Remove)
        }
        WireRequest::Insert(message) => {
            let reply = client.insert(message).await.map_err(failed)?;
            Ok(Reply::Insert { stored: reply.into_inner().stored })
        }
    }
}

async fn ask_many(mut client: PeerageClient<Channel>, message: GetManyRequest) -> Result<Reply, CallError> {
    let mut answers = Gathering::of(message.keys.len());
    let mut chunks = client.get_many(message).await.map_err(failed)?.into_inner();
    while let Some(chunk) = chunks.message().await.map_err(failed)? {
        answers.add(chunk)?;
    }
    Ok(Reply::GetMany(answers.finish()?))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` takes")]
fn failed(status: Status) -> CallError {
    call_error_of(&status)
}

/// A connector that hands out the stream it was made with, once.
struct OneStream(Option<Stream>);

impl Service<Uri> for OneStream {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<Stream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().map(TokioIo::new).ok_or_else(closed))
    }
}

/// A TCP stream that gives [`Signs`] of what happens to it.
struct Stream {
    tcp: TcpStream,
    signs: Signs,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.signs.closed.cancel();
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.tcp).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.signs.greeted.cancel();
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
