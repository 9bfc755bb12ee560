//! The answering end of the gRPC transport.
//!
//! [`PeerService`] turns gRPC calls into calls of a [`Handler`]; [`serve`] puts it behind a listener of the node's own.
//! An application that runs a tonic server already mounts the service there instead. The exchange is not among the
//! generated methods: its messages have a codec of their own.
//!
//! What must hold: no bytes from outside reach the handler unchecked, a reply larger than the limit is refused in words
//! (gRPC would break the stream), and an error on accept never ends the server.

use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{self, BoxStream, Stream};
use futures::{StreamExt as _, TryStreamExt as _};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codec::Streaming;
use tonic::codegen::http;
use tonic::server::{NamedService, StreamingService};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Response, Status};
use tower_service::Service;

use super::answering::Answers;
use super::lingering::Lingering;
use super::{CONCURRENT_STREAMS, CONNECTION_WINDOW, EXCHANGE_PATH, HTTP2_FRAME, STREAM_WINDOW, codec, status_of};
use crate::batch::Part;
use crate::clock;
use crate::config::NodeConfig;
use crate::message::{Refusal, Reply, Request};
use crate::transport::Handler;
use crate::wire::frames::{AnswerItem, AskFrame};
use crate::wire::proto::peerage_server::{Peerage, PeerageServer};
use crate::wire::{self, check_size, insert_reply, proto, remove_reply};

/// How long to wait after an accept that failed. The usual reason is too many open files: trying at once would spin.
const PAUSE_AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(50);

/// A node's gRPC service, to be mounted into a tonic server of the application's own.
///
/// The node of a mounted service has no listener, and its peers reach it by the application's port. The service brings
/// its own limits on messages. What the server should bring:
///
/// | setting | value | why |
/// | --- | --- | --- |
/// | `tcp_nodelay` | `true` | a get is a small message, and somebody waits for it |
/// | `http2_keepalive_interval`, `http2_keepalive_timeout` | 1 s each | peers that vanished are noticed in about two seconds |
/// | `initial_stream_window_size` | 8 MiB | all that a peer asks travels on one stream |
/// | `initial_connection_window_size` | 16 MiB | the same, and room beside it |
/// | `max_frame_size` | 512 KiB | a frame of the exchange crosses in one piece |
/// | `max_concurrent_streams` | 16,384 | what a peer asks at once; the rest waits on its side, behind whatever is slow |
/// | `timeout`, `concurrency_limit_per_connection` | unset | loads have limits of their own, and a slow load should not block hits |
#[derive(Clone)]
pub struct PeerService {
    server: PeerageServer<Methods>,
    exchanging: Exchanging,
}

impl PeerService {
    /// `stopping` fires when the node stops: exchanges end then.
    pub(crate) fn new(handler: Arc<dyn Handler>, config: &NodeConfig, stopping: CancellationToken) -> Self {
        let limit = wire::message_limit(config.max_value_bytes);
        let exchanging = Exchanging { handler: Arc::clone(&handler), limit, stopping };
        let server = PeerageServer::new(Methods { handler, limit }).max_decoding_message_size(limit);
        Self { server, exchanging }
    }
}

impl fmt::Debug for PeerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerService").finish_non_exhaustive()
    }
}

impl Service<http::Request<Body>> for PeerService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = tonic::codegen::BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<http::Request<Body>>::poll_ready(&mut self.server, cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != EXCHANGE_PATH {
            return self.server.call(request);
        }
        let exchanging = self.exchanging.clone();
        Box::pin(async move {
            let grpc = tonic::server::Grpc::new(codec::Answering);
            let mut grpc = grpc.apply_max_message_size_config(Some(exchanging.limit), None);
            Ok(grpc.streaming(exchanging, request).await)
        })
    }
}

/// The method that answers exchanges.
#[derive(Clone)]
struct Exchanging {
    handler: Arc<dyn Handler>,
    limit: usize,
    stopping: CancellationToken,
}

impl StreamingService<AskFrame> for Exchanging {
    type Response = Vec<Part<AnswerItem>>;
    type ResponseStream = Answers;
    type Future = Ready<Result<Response<Answers>, Status>>;

    fn call(&mut self, asked: tonic::Request<Streaming<AskFrame>>) -> Self::Future {
        let (handler, stopping) = (Arc::clone(&self.handler), self.stopping.clone());
        ready(Ok(Response::new(Answers::new(asked.into_inner(), handler, self.limit, stopping))))
    }
}

impl NamedService for PeerService {
    const NAME: &'static str = <PeerageServer<Methods> as NamedService>::NAME;
}

/// The unary methods of the service, in terms of the handler.
struct Methods {
    handler: Arc<dyn Handler>,
    limit: usize,
}

impl Methods {
    /// Has the handler answer a request, if the message is one.
    async fn reply<M>(&self, message: tonic::Request<M>) -> Result<Reply, Status>
    where
        Request: TryFrom<M, Error = Refusal>,
    {
        let request = Request::try_from(message.into_inner()).map_err(refused)?;
        self.handler.handle(request).await.map_err(refused)
    }

    fn fitting<M: Message>(&self, message: M) -> Result<Response<M>, Status> {
        check_size("reply", message.encoded_len(), self.limit).map_err(refused)?;
        Ok(Response::new(message))
    }
}

#[tonic::async_trait]
impl Peerage for Methods {
    type GetManyStream = BoxStream<'static, Result<proto::GetManyReply, Status>>;

    async fn hello(&self, message: tonic::Request<proto::Hello>) -> Result<Response<proto::Hello>, Status> {
        match self.reply(message).await? {
            Reply::Hello(hello) => self.fitting(hello.into()),
            _ => Err(mismatch()),
        }
    }

    async fn get(&self, message: tonic::Request<proto::GetRequest>) -> Result<Response<proto::Answer>, Status> {
        match self.reply(message).await? {
            Reply::Get(answer) => self.fitting(answer.into()),
            _ => Err(mismatch()),
        }
    }

    async fn get_many(
        &self,
        message: tonic::Request<proto::GetManyRequest>,
    ) -> Result<Response<Self::GetManyStream>, Status> {
        let Reply::GetMany(answers) = self.reply(message).await? else { return Err(mismatch()) };
        let limit = self.limit;
        let checked = move |chunk: proto::GetManyReply| {
            check_size("reply", chunk.encoded_len(), limit).map_err(refused)?;
            Ok(chunk)
        };
        Ok(Response::new(stream::iter(wire::chunks(answers).map(checked)).boxed()))
    }

    async fn remove(
        &self,
        message: tonic::Request<proto::RemoveRequest>,
    ) -> Result<Response<proto::RemoveReply>, Status> {
        match self.reply(message).await? {
            Reply::Remove(ack) => self.fitting(remove_reply(ack.as_ref())),
            _ => Err(mismatch()),
        }
    }

    async fn insert(
        &self,
        message: tonic::Request<proto::InsertRequest>,
    ) -> Result<Response<proto::InsertReply>, Status> {
        match self.reply(message).await? {
            Reply::Insert { stored, ack } => self.fitting(insert_reply(stored, ack.as_ref())),
            _ => Err(mismatch()),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` takes")]
fn refused(refusal: Refusal) -> Status {
    status_of(&refusal)
}

/// The handler replied to another question than it was asked: a mistake in this library.
fn mismatch() -> Status {
    Status::internal("the handler's reply is not of the request's kind")
}

/// Serves until `shutdown` fires; then takes no more connections and requests, lets those in flight end, and returns.
///
/// How long that takes is up to the handler and the peers: whoever calls sets the limit. Dropping the future instead
/// closes the listener, and leaves the connections to end by themselves.
pub(crate) async fn serve(
    listener: TcpListener,
    service: PeerService,
    config: NodeConfig,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    // As long as a peer may be silent in any case.
    let silence = config.keep_alive_interval + config.keep_alive_timeout;
    let incoming = accepted(listener).map_ok(move |tcp| Lingering::new(tcp, silence));
    serve_on(incoming, service, config, shutdown).await
}

/// The same on whatever connections come in.
pub(crate) async fn serve_on<S>(
    incoming: impl Stream<Item = Result<S, Infallible>>,
    service: PeerService,
    config: NodeConfig,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Connected + Send + Unpin + 'static,
{
    Server::builder()
        .http2_keepalive_interval(Some(config.keep_alive_interval))
        .http2_keepalive_timeout(Some(config.keep_alive_timeout))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(HTTP2_FRAME)
        .max_concurrent_streams(CONCURRENT_STREAMS)
        .serve_with_incoming_shutdown(service, incoming, shutdown.cancelled_owned())
        .await
}

/// The connections that come in. The stream has no errors and no end.
fn accepted(listener: TcpListener) -> impl Stream<Item = Result<TcpStream, Infallible>> {
    stream::unfold(listener, |listener| async {
        loop {
            match accept(&listener).await {
                Ok(tcp) => return Some((Ok(tcp), listener)),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    clock::sleep(PAUSE_AFTER_ACCEPT_ERROR).await;
                }
            }
        }
    })
}

async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (tcp, _) = listener.accept().await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}
