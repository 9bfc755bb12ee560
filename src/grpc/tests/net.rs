//! The networks that the suites run over, and what is between a caller and a node on them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::NamedService;
use tower_service::Service;

use super::super::{EXCHANGE_PATH, GrpcTransport, PeerService, serve};
use crate::config::NodeConfig;
use crate::memory::{ListenGuard, MemoryNetwork};
use crate::transport::{Connection, Handler, Opened, Transport};

pub(super) enum Net {
    Grpc(NodeConfig),
    /// Nodes that know no exchange.
    Unary(NodeConfig),
    Memory(MemoryNetwork),
}

/// A node that answers, and what is between it and us.
pub(super) struct Node {
    pub(super) running: Running,
    transport: Arc<dyn Transport>,
}

pub(super) enum Running {
    Grpc { own: SocketAddr, proxy: Proxy, shutdown: CancellationToken, task: JoinHandle<()> },
    Memory { network: MemoryNetwork, guard: ListenGuard },
}

const CALLER: &str = "caller:1";

impl Net {
    pub(super) fn grpc() -> Self {
        Self::Grpc(without_limits())
    }

    pub(super) fn unary() -> Self {
        Self::Unary(without_limits())
    }

    pub(super) fn memory() -> Self {
        Self::Memory(MemoryNetwork::new())
    }

    pub(super) fn with_max_value_bytes(self, max_value_bytes: usize) -> Self {
        match self {
            Self::Grpc(options) => Self::Grpc(NodeConfig { max_value_bytes, ..options }),
            Self::Unary(options) => Self::Unary(NodeConfig { max_value_bytes, ..options }),
            Self::Memory(_) => Self::Memory(MemoryNetwork::with_max_value_bytes(max_value_bytes)),
        }
    }

    /// Over gRPC the test pays for the limits in real time.
    pub(super) fn with_short_limits(self) -> Self {
        let (keep_alive_interval, keep_alive_timeout) = (Duration::from_millis(100), Duration::from_millis(300));
        match self {
            Self::Grpc(options) => Self::Grpc(NodeConfig { keep_alive_interval, keep_alive_timeout, ..options }),
            Self::Unary(options) => Self::Unary(NodeConfig { keep_alive_interval, keep_alive_timeout, ..options }),
            memory @ Self::Memory(_) => memory,
        }
    }

    pub(super) fn longer_than_silence(&self) -> Duration {
        match self {
            Self::Grpc(options) | Self::Unary(options) => {
                2 * (options.keep_alive_interval + options.keep_alive_timeout)
            }
            Self::Memory(_) => Duration::from_secs(3600),
        }
    }

    pub(super) fn transport(&self) -> Arc<dyn Transport> {
        match self {
            Self::Grpc(options) | Self::Unary(options) => Arc::new(GrpcTransport::new(options.clone())),
            Self::Memory(network) => network.transport(CALLER),
        }
    }

    pub(super) async fn serve(&self, handler: Arc<dyn Handler>) -> Node {
        let running = match self {
            Self::Grpc(options) => serve_grpc(handler, options).await,
            Self::Unary(options) => serve_unary(handler, options).await,
            Self::Memory(network) => {
                let guard = network.listen("node:0", handler).expect("a free address");
                Running::Memory { network: network.clone(), guard }
            }
        };
        Node { running, transport: self.transport() }
    }
}

/// Nobody is taken for silent. Both ends and the test share one thread here: where that gets its turn late, an end that
/// is only busy would be.
fn without_limits() -> NodeConfig {
    let long = Duration::from_secs(3600);
    NodeConfig { keep_alive_interval: long, keep_alive_timeout: long, ..NodeConfig::default() }
}

pub(super) async fn serve_grpc(handler: Arc<dyn Handler>, options: &NodeConfig) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let own = listener.local_addr().expect("bound");
    let (shutdown, options) = (CancellationToken::new(), options.clone());
    let until = shutdown.clone();
    let task = tokio::spawn(async move {
        let service = PeerService::new(handler, &options, until.clone());
        serve(listener, service, options, until).await.expect("it serves");
    });
    Running::Grpc { own, proxy: Proxy::to(own).await, shutdown, task }
}

async fn serve_unary(handler: Arc<dyn Handler>, options: &NodeConfig) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let own = listener.local_addr().expect("bound");
    let shutdown = CancellationToken::new();
    let service = WithoutExchange(PeerService::new(handler, options, shutdown.clone()));
    let until = shutdown.clone().cancelled_owned();
    let task = tokio::spawn(async move {
        let server = tonic::transport::Server::builder();
        server.serve_with_incoming_shutdown(service, accepted(listener), until).await.expect("it serves");
    });
    Running::Grpc { own, proxy: Proxy::to(own).await, shutdown, task }
}

/// The connections that come in.
pub(super) fn accepted(listener: TcpListener) -> impl stream::Stream<Item = Result<TcpStream, Infallible>> {
    stream::unfold(listener, |listener| async {
        let (tcp, _) = listener.accept().await.expect("no error on loopback");
        tcp.set_nodelay(true).expect("a fresh socket");
        Some((Ok(tcp), listener))
    })
}

/// A node's service as it was before there were exchanges.
#[derive(Clone)]
struct WithoutExchange(PeerService);

impl Service<http::Request<Body>> for WithoutExchange {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = tonic::codegen::BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != EXCHANGE_PATH {
            return self.0.call(request);
        }
        Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) })
    }
}

impl NamedService for WithoutExchange {
    const NAME: &'static str = PeerService::NAME;
}

/// The connection, its driver on its way.
pub(super) fn driven(opened: Opened) -> Arc<dyn Connection> {
    tokio::spawn(opened.driver);
    opened.connection
}

impl Node {
    pub(super) async fn connect(&self) -> Arc<dyn Connection> {
        driven(self.open().await)
    }

    /// A connection whose driver the caller runs.
    pub(super) async fn open(&self) -> Opened {
        soon(self.transport.connect(self.address())).await.expect("it listens")
    }

    /// Where to reach it.
    pub(super) fn address(&self) -> Arc<str> {
        match &self.running {
            Running::Grpc { proxy, .. } => proxy.address.to_string().into(),
            Running::Memory { guard, .. } => Arc::clone(guard.address()),
        }
    }

    /// The same without a proxy between.
    pub(super) fn own_address(&self) -> Arc<str> {
        match &self.running {
            Running::Grpc { own, .. } => own.to_string().into(),
            Running::Memory { guard, .. } => Arc::clone(guard.address()),
        }
    }

    pub(super) fn silence(&self) {
        match &self.running {
            Running::Grpc { proxy, .. } => drop(proxy.mood.send_replace(Mood::Silent)),
            Running::Memory { network, guard } => network.black_hole(CALLER, guard.address()),
        }
    }

    pub(super) fn reset(&self) {
        match &self.running {
            Running::Grpc { proxy, .. } => drop(proxy.mood.send_replace(Mood::Resetting)),
            Running::Memory { network, guard } => network.cut(CALLER, guard.address()),
        }
    }

    pub(super) async fn stop(self) {
        match self.running {
            Running::Grpc { shutdown, task, .. } => {
                shutdown.cancel();
                soon(task).await.expect("no panic");
            }
            Running::Memory { guard, .. } => drop(guard),
        }
    }
}

/// Carries bytes between a caller and a server, as long as it is in the mood.
pub(super) struct Proxy {
    address: SocketAddr,
    mood: Arc<watch::Sender<Mood>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Carrying,
    Silent,
    Resetting,
}

impl Proxy {
    pub(super) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mood = Arc::new(watch::Sender::new(Mood::Carrying));
        let moods = Arc::clone(&mood);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(carry(tcp, server, moods.subscribe()));
            }
        });
        Self { address, mood }
    }
}

async fn carry(mut caller: TcpStream, server: SocketAddr, mut mood: watch::Receiver<Mood>) {
    let mut server = TcpStream::connect(server).await.expect("the server listens");
    for tcp in [&caller, &server] {
        tcp.set_nodelay(true).expect("a fresh socket");
    }
    tokio::select! {
        biased;
        _ = mood.wait_for(|mood| *mood != Mood::Carrying) => {}
        _ = tokio::io::copy_bidirectional(&mut caller, &mut server) => return,
    }
    // Both streams stay open until then, and nothing moves.
    let _ = mood.wait_for(|mood| *mood == Mood::Resetting).await;
}

/// Waits for what has to happen: far longer than it takes, also on a slow machine under load.
pub(super) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(120), future).await.expect("it should have happened by now")
}
